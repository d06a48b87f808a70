"""What is used of the DB-API (PEP 249), of ``sqlite3``, and of modules with the same interface."""

import os
import sqlite3
import sys
from types import ModuleType
from typing import Any, TypeAlias, TypeGuard

from credential_db.sqlite.errors import CredentialDBError

# Of sqlite3, or of a module with the same methods, such as sqlcipher3.
DBAPIConnection: TypeAlias = sqlite3.Connection


def is_connection(target: object) -> TypeGuard[DBAPIConnection]:
    """Whether this is an open connection of ``sqlite3`` or of a module like it."""
    return _module(type(target)) is not None


def module_of(connection: DBAPIConnection) -> ModuleType:
    """The DB-API module that a connection, and therefore its errors, come from."""
    module = _module(type(connection))
    assert module is not None, "asked only about what is_connection() accepted"
    return module


def _module(kind: type) -> ModuleType | None:
    for base in kind.__mro__:
        module = sys.modules.get(base.__module__.partition(".")[0] + ".dbapi2")
        if module is not None and getattr(module, "Connection", None) is base:
            return module
    return None


def quoted(name: str) -> str:
    """A name in SQL. Nothing else in this project quotes one."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A string in SQL."""
    return "'" + text.replace("'", "''") + "'"


def folded(name: str) -> str:
    """A name as SQLite compares names: in lower case, ASCII letters only."""
    return name.encode(errors="surrogateescape").lower().decode(errors="surrogateescape")


def first_row(connection: DBAPIConnection, query: str) -> tuple[Any, ...]:
    """The first row as a tuple, whatever row factory the connection has."""
    cursor = connection.cursor()
    cursor.row_factory = None
    row: tuple[Any, ...] = cursor.execute(query).fetchone()
    cursor.close()
    return row


def main_file(connection: DBAPIConnection) -> str:
    """The absolute path of the main database as SQLite tells it; empty for one in memory."""
    file = first_row(connection, "PRAGMA database_list")[2] or ""  # main is the first
    if isinstance(file, str) and file.isascii():
        return file if file.startswith("/") else ""  # deserialize() gives it the name "x"
    # SQLite writes UTF-8 in any locale; a connection's text_factory may be bytes.
    return os.fsdecode(file.encode(errors="surrogateescape") if isinstance(file, str) else file)


def is_driver_error(error: BaseException) -> bool:
    """Whether ``sqlite3``, or a module like it, raised this."""
    return not isinstance(error, CredentialDBError) and any(
        base.__name__ == "Error" and base.__module__.rpartition(".")[2] in ("sqlite3", "dbapi2")
        for base in type(error).__mro__
    )


def error_name(error: BaseException) -> str:
    """SQLite's name of an error (https://www.sqlite.org/rescode.html), as far as it is known.

    ``sqlcipher3`` does not give it; the texts of the most important ones are fixed.
    """
    name = getattr(error, "sqlite_errorname", "")
    if name or not is_driver_error(error):
        return str(name)
    text = str(error)
    return next((name for start, name in _NAMES.items() if text.startswith(start)), "")


_NAMES = {
    "database is locked": "SQLITE_BUSY",
    "database table is locked": "SQLITE_LOCKED",
    "database schema is locked": "SQLITE_LOCKED",
    "file is not a database": "SQLITE_NOTADB",
    "file is encrypted": "SQLITE_NOTADB",
    "database disk image is malformed": "SQLITE_CORRUPT",
    "malformed database schema": "SQLITE_CORRUPT",
    "attempt to write a readonly database": "SQLITE_READONLY",
    "unable to open database file": "SQLITE_CANTOPEN",
    "database or disk is full": "SQLITE_FULL",
    "disk I/O error": "SQLITE_IOERR",
    "interrupted": "SQLITE_INTERRUPT",
    "not authorized": "SQLITE_AUTH",
    "out of memory": "SQLITE_NOMEM",
}


def is_locked(error: BaseException) -> bool:
    """Whether a lock of another connection caused this."""
    return error_name(error).startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))
