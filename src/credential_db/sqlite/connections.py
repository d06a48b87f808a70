"""SQLite files, opened without side effects. Imports no library unless the file is encrypted.

SQLCipher: https://www.zetetic.net/sqlcipher/sqlcipher-api/
"""

import sqlite3
from types import ModuleType
from typing import Any, NoReturn

from credential_db.sqlite.driver import DBAPIConnection, error_name, literal
from credential_db.sqlite.errors import CredentialDBError, ReadOnlyDatabase
from credential_db.sqlite.files import has_journal_to_roll_back, log_size, uri
from credential_db.sqlite.transaction import TIMEOUT, Deadline, patiently
from credential_db.sqlite.working import text


class Passphrase:
    """A passphrase (``str``) or a raw key (``bytes``) for SQLCipher's ``PRAGMA key``."""

    __slots__ = ("_sql_literal",)

    def __init__(self, value: "str | bytes | Passphrase") -> None:
        self._sql_literal: str
        if isinstance(value, Passphrase):
            self._sql_literal = value._sql_literal
        elif not isinstance(value, str | bytes):
            raise CredentialDBError(f"a passphrase is str or bytes, not {type(value).__name__}")
        elif not value:  # which SQLCipher would take for "no encryption"
            raise CredentialDBError("the passphrase is empty: for a plain file give none at all")
        elif isinstance(value, str):
            if "\0" in value:
                raise CredentialDBError("a passphrase cannot contain a NUL character")
            self._sql_literal = literal(value)
        elif len(value) in (32, 48):
            self._sql_literal = f"\"x'{value.hex()}'\""
        else:
            raise CredentialDBError("a raw key has 32 bytes, or 48 with its salt")

    def __repr__(self) -> str:
        return "Passphrase(...)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a passphrase cannot be pickled")

    def unlock(self, connection: DBAPIConnection) -> None:
        """Hand the key to a connection that has just been opened."""
        connection.execute("PRAGMA cipher_log_level = NONE")  # or it writes to stderr itself
        connection.execute(f"PRAGMA key = {self._sql_literal}")
        self.refuse_plain_text(connection)

    @staticmethod
    def refuse_plain_text(connection: DBAPIConnection) -> None:
        """Raise a ``CredentialDBError`` if the driver of a connection knows no encryption."""
        if not connection.execute("PRAGMA cipher_version").fetchone():
            raise CredentialDBError("this driver would write plain text: install sqlcipher3")


def sqlcipher() -> ModuleType:
    """The DB-API module that opens encrypted files; a ``CredentialDBError`` if there is none."""
    try:
        from sqlcipher3 import dbapi2  # an extra, for encrypted files only
    except ImportError:
        raise CredentialDBError(
            "encrypted files need SQLCipher: pip install 'credential-db[sqlcipher]'"
        ) from None
    found: ModuleType = dbapi2
    return found


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
