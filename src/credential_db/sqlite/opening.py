"""SQLite files, opened without side effects. No library is imported until a file is encrypted."""

import contextlib
import sqlite3
from collections.abc import Iterator
from typing import Any

from credential_db.sqlite.cipher import INSTALL, Cipher
from credential_db.sqlite.cipher import module as installed_sqlcipher
from credential_db.sqlite.driver import DBAPIConnection, error_name, size_in_bytes
from credential_db.sqlite.errors import CredentialDBError, ReadOnlyDatabase
from credential_db.sqlite.files import has_journal_to_roll_back, log_size
from credential_db.sqlite.lending import IN_MEMORY, announcing_a_long_wait

TIMEOUT = 30.0  # seconds to wait for another program's lock, where nobody says otherwise


def connect(
    path: str,
    *,
    timeout: float = TIMEOUT,
    cipher: Cipher | None = None,
    mode: str = "rw",
    module: Any = None,
) -> DBAPIConnection:
    """Open an existing file in autocommit mode, and see that it can be read.

    Args:
        path: The file. It must exist: SQLite would create it for any user to read.
        timeout: Seconds to wait for another program's lock.
        cipher: Opens an encrypted file.
        mode: ``rw``, or ``ro`` (https://www.sqlite.org/uri.html).
        module: The DB-API module, where it has to be that of another connection to the file: two
            copies of SQLite in one process drop each other's locks
            (https://www.sqlite.org/howtocorrupt.html#multiple_copies_of_sqlite_linked_into_the_same_application).
    """
    if module is None:
        module = sqlcipher_module() if cipher else sqlite3
    connection: DBAPIConnection = module.connect(
        file_uri(path, mode), uri=True, timeout=timeout, isolation_level=None
    )
    try:
        if cipher:
            cipher.unlock(connection)
        with announcing_a_long_wait(path, timeout):
            size = size_in_bytes(connection)
        if cipher or size <= IN_MEMORY:
            connection.execute("PRAGMA temp_store = MEMORY")  # temporary files hold plain text
    except BaseException:
        connection.close()
        raise
    return connection


def sqlcipher_module() -> Any:
    """The DB-API module that can open an encrypted file.

    Raises:
        CredentialDBError: It is not installed.
    """
    module = installed_sqlcipher()
    if module is None:
        raise CredentialDBError(INSTALL)
    return module


def file_uri(path: str, mode: str) -> str:
    """A file name as SQLite's URI: https://www.sqlite.org/uri.html#the_uri_path."""
    if "%" in path or "?" in path or "#" in path:
        path = path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    host = "//" if path.startswith("/") else ""
    return f"file:{host}{path}?mode={mode}"


@contextlib.contextmanager
def empty_in_memory() -> Iterator[DBAPIConnection]:
    """What stands for a file that does not exist, and is not to be created."""
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        yield connection


def connect_to_read(
    path: str, *, timeout: float = TIMEOUT, cipher: Cipher | None = None
) -> DBAPIConnection:
    """Open an existing file without changing a byte of it or leaving a file beside it.

    In WAL mode a connection that may write folds a left-over log into the file when it closes, and
    one that may not leaves ``-wal`` and ``-shm`` behind where there was no log: so each is used
    where it does neither. In a directory that cannot be written, where there can be no log, SQLite
    reads a WAL file only as ``immutable`` (https://www.sqlite.org/wal.html#readonly).

    Raises:
        ReadOnlyDatabase: A crash has left the file to be recovered, and it cannot be written.
    """
    left_over = log_size(path) > 0
    unrecovered = False
    try:
        connection = connect(path, mode="ro" if left_over else "rw", timeout=timeout, cipher=cipher)
    except Exception as error:
        if not is_not_writable(error):
            raise
        unrecovered = left_over or has_journal_to_roll_back(path)
    else:
        connection.execute("PRAGMA query_only = ON")
        return connection
    if unrecovered:
        raise ReadOnlyDatabase(
            f"a program that wrote to {path} was interrupted, and what it left has to be recovered "
            "before anybody can read the file: run again as a user who may write to the file and "
            "to its directory"
        )
    connection = connect(path, mode="ro&immutable=1", timeout=timeout, cipher=cipher)
    connection.execute("PRAGMA query_only = ON")
    return connection


def is_not_writable(error: Exception) -> bool:
    """Whether SQLite would have to write, and cannot: a WAL file in a directory of others, say."""
    return error_name(error).startswith(
        # The last: a journal was rolled back, and stays where it cannot be deleted.
        ("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_IOERR_DELETE")
    )


def connect_to_write(
    path: str, *, timeout: float = TIMEOUT, cipher: Cipher | None = None
) -> DBAPIConnection:
    """Open an existing file for an upgrade, or only to read where no more is allowed."""
    try:
        return connect(path, timeout=timeout, cipher=cipher)
    except Exception as error:
        if not is_not_writable(error):
            raise
    connection = connect_to_read(path, timeout=timeout, cipher=cipher)
    connection.execute("PRAGMA query_only = OFF")  # what cannot be written says so by itself
    return connection
