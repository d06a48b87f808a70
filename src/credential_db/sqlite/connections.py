"""SQLite files, opened without side effects. Imports no library unless the file is encrypted."""

import sqlite3
from typing import Any

from credential_db.sqlite.cipher import Passphrase
from credential_db.sqlite.cipher import module as sqlcipher
from credential_db.sqlite.driver import DBAPIConnection, error_name
from credential_db.sqlite.errors import ReadOnlyDatabase
from credential_db.sqlite.files import has_journal_to_roll_back, log_size, uri
from credential_db.sqlite.transaction import TIMEOUT, Deadline, patiently
from credential_db.sqlite.working import text


def connect(
    path: str,
    deadline: Deadline | None = None,
    *,
    passphrase: Passphrase | None = None,
    mode: str = "rw",
    module: Any = None,
) -> DBAPIConnection:
    """Open an existing file in autocommit mode, and check that it can be read.

    The DB-API module must be that of another connection to the file, if the process has one: two
    copies of SQLite in one process drop each other's locks
    (https://www.sqlite.org/howtocorrupt.html#multiple_copies_of_sqlite_linked_into_the_same_application).
    """
    if module is None:
        module = sqlcipher() if passphrase else sqlite3
    connection: DBAPIConnection = module.connect(uri(path, mode), uri=True)
    try:
        connection.isolation_level = None
        connection.text_factory = text
        if passphrase:
            passphrase.unlock(connection)
        look = "SELECT count(*) FROM sqlite_master"
        patiently(
            connection,
            path,
            deadline or Deadline(TIMEOUT),
            lambda: connection.execute(look).fetchall(),
        )
    except BaseException:
        connection.close()
        raise
    return connection


def connect_to_read(
    path: str, deadline: Deadline, *, passphrase: Passphrase | None = None
) -> DBAPIConnection:
    """Open an existing file without changing a byte of it or leaving a file next to it.

    In WAL mode a connection that may write folds a left-over log into the file when it closes, and
    one that may not leaves ``-wal`` and ``-shm`` behind if there was no log: each is used where it
    does neither. In a directory that cannot be written, where there can be no log, SQLite reads a
    WAL file only as ``immutable`` (https://www.sqlite.org/wal.html#readonly).
    """
    left_over = log_size(path) > 0
    mode = "ro" if left_over else "rw"
    try:
        connection = connect(path, deadline, mode=mode, passphrase=passphrase)
    except Exception as error:
        if not _is_not_writable(error):
            raise
        unrecovered = left_over or has_journal_to_roll_back(path)
    else:
        connection.execute("PRAGMA query_only = ON")
        return connection
    if unrecovered:
        raise ReadOnlyDatabase(
            f"a program that wrote to {path} was interrupted, and SQLite has to recover the file "
            "before anyone can read it: run again as a user who may write to the file and to its "
            "directory"
        )
    connection = connect(path, deadline, mode="ro&immutable=1", passphrase=passphrase)
    connection.execute("PRAGMA query_only = ON")
    return connection


def connect_to_write(
    path: str, deadline: Deadline, *, passphrase: Passphrase | None = None
) -> DBAPIConnection:
    """Open an existing file for an upgrade, or to read it if no more is allowed."""
    try:
        return connect(path, deadline, passphrase=passphrase)
    except Exception as error:
        if not _is_not_writable(error):
            raise
    connection = connect_to_read(path, deadline, passphrase=passphrase)
    connection.execute("PRAGMA query_only = OFF")  # what cannot be written fails by itself
    return connection


def _is_not_writable(error: Exception) -> bool:
    """Whether SQLite would have to write, and cannot: a WAL file in another user's directory."""
    return error_name(error).startswith(
        # The last: a journal was rolled back, and cannot be deleted.
        ("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_IOERR_DELETE")
    )
