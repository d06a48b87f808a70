"""The part of the DB-API (PEP 249) and of ``sqlite3`` that is relied on, whichever module it is."""

import sqlite3
import sys
from collections.abc import Iterable
from types import ModuleType
from typing import Any, TypeAlias, TypeGuard

from credential_db.sqlite.errors import CredentialDBError

# Or one of a module made after it, such as ``sqlcipher3``, which has the same methods.
DBAPIConnection: TypeAlias = sqlite3.Connection


def is_dbapi_connection(target: object) -> TypeGuard[DBAPIConnection]:
    """Whether this is an open connection of ``sqlite3`` or of a module made after it."""
    return _driver(type(target)) is not None


def is_connection_class(kind: object) -> bool:
    """Whether it is that of ``sqlite3`` or of a module made after it, or made from such a one."""
    return isinstance(kind, type) and _driver(kind) is not None


def driver(connection: DBAPIConnection) -> ModuleType:
    """The DB-API module that a connection comes from, which is where its errors come from too."""
    found = _driver(type(connection))
    assert found is not None, "asked only of what is_dbapi_connection() accepted"
    return found


def _driver(kind: type) -> ModuleType | None:
    for base in kind.__mro__:
        module = sys.modules.get(base.__module__.partition(".")[0] + ".dbapi2")
        if module is not None and getattr(module, "Connection", None) is base:
            return module
    return None


def first_row(connection: DBAPIConnection, query: str) -> tuple[Any, ...]:
    """The first row as a tuple, whatever row factory the connection has."""
    cursor = connection.cursor()
    cursor.row_factory = None
    row: tuple[Any, ...] = cursor.execute(query).fetchone()
    return row


def quoted(name: str) -> str:
    """A name of SQL, between double quotes."""
    return '"' + name.replace('"', '""') + '"'


def create(connection: DBAPIConnection, statements: Iterable[str]) -> None:
    """Run recorded ``CREATE`` statements: in the file, whatever temporary table hides a table."""
    for statement in statements:
        is_table = statement.startswith("CREATE TABLE")
        connection.execute(
            statement if is_table else statement.replace(" INDEX ", " INDEX main.", 1)
        )


def main_file(connection: DBAPIConnection) -> str:
    """The absolute path of the main database, empty for one in memory."""
    return next((file for _, name, file in databases(connection) if name == "main"), None) or ""


def databases(connection: DBAPIConnection) -> list[tuple[int, str, str | None]]:
    """Number, name and file of ``main``, ``temp`` and whatever is attached."""
    return connection.execute("PRAGMA database_list").fetchall()


def is_driver_error(error: BaseException) -> bool:
    """Whether ``sqlite3``, or a module made after it such as ``sqlcipher3``, raised this."""
    return any(
        base.__name__ == "Error" and base.__module__.rpartition(".")[2] in ("sqlite3", "dbapi2")
        for base in type(error).__mro__
    ) and not isinstance(error, CredentialDBError)


def is_drivers_own(error: BaseException) -> bool:
    """Whether its class is one of the driver's, not one that a host has made from it."""
    return is_driver_error(error) and type(error).__module__.endswith(("sqlite3", "dbapi2"))


def has_temporary(connection: DBAPIConnection) -> bool:
    """Whether a temporary schema was opened: to look into it would, and hold it for a while."""
    return any(name == "temp" for _, name, _ in databases(connection))


def error_name(error: BaseException) -> str:
    """SQLite's name of an error, empty for any other: https://www.sqlite.org/rescode.html."""
    return str(getattr(error, "sqlite_errorname", ""))


def is_locked(error: BaseException) -> bool:
    """Whether another connection's lock is in the way."""
    return error_name(error).startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))


def size_in_bytes(connection: DBAPIConnection) -> int:
    """Of the database, as this connection sees it."""
    query = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
    return int(first_row(connection, query)[0])
