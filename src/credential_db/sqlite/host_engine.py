"""A host's SQLAlchemy engine, which is not imported for it."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from credential_db.sqlite.driver import DBAPIConnection, is_connection_class, is_dbapi_connection
from credential_db.sqlite.errors import CredentialDBError
from credential_db.sqlite.files import create_private_file, exists
from credential_db.sqlite.opening import empty_in_memory

if TYPE_CHECKING:
    import sqlalchemy


def refuse_other_driver(engine: "sqlalchemy.Engine") -> None:
    """Raise before it connects: a server may be out of reach, and another driver makes files."""
    dialect, instead = engine.dialect, "name a SQLite database, such as by its PATH"
    if dialect.name == "sqlite":
        if is_connection_class(getattr(dialect.dbapi, "Connection", None)):
            return
        if dialect.is_async:
            instead = "call await asyncio.to_thread(credential_db.upgrade, PATH)"
    raise CredentialDBError(
        f"a SQLAlchemy engine of {dialect.name}+{dialect.driver} is of no use here: {instead}"
    )


@contextlib.contextmanager
def checked_out(engine: "sqlalchemy.Engine", *, create: bool) -> Iterator[DBAPIConnection]:
    """A driver's connection of its pool; where its file is missing, one in memory or a new one.

    Args:
        engine: Its driver is one of SQLite's.
        create: Make a missing file, for its owner alone: SQLite would make it for all to read.
    """
    file = engine.url.database or ":memory:"
    if not file.startswith((":memory:", "file:")) and not exists(file):
        if not create:
            with empty_in_memory() as empty:
                yield empty
            return
        create_private_file(file)
    connection = engine.connect()
    try:
        yield driver_connection(connection.connection)
    finally:
        _give_back(connection)


def driver_connection(pooled: Any) -> DBAPIConnection:
    """The DB-API connection behind SQLAlchemy's."""
    connection = pooled.dbapi_connection  # which a detached one has, too
    if not is_dbapi_connection(connection):
        raise CredentialDBError("this SQLAlchemy engine is not for SQLite: name a SQLite database")
    return connection


def _give_back(connection: "sqlalchemy.Connection") -> None:
    """To its pool; the work is done, so what the host makes of it is its."""
    try:
        connection.close()
    except Exception as error:
        import logging  # costs a process that only looks

        logging.getLogger(__name__).warning(
            "%s while a connection was given back to its pool", type(error).__name__
        )
