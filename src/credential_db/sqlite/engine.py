"""An SQLAlchemy connection over a DB-API connection, whose owner keeps it."""

import contextlib
import functools
from collections.abc import Iterator
from contextvars import ContextVar
from types import ModuleType
from typing import Any

from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.engine.interfaces import IsolationLevel
from sqlalchemy.pool import NullPool

from credential_db.sqlite.driver import DBAPIConnection, module_of
from credential_db.sqlite.stamps import STAMP_TABLE
from credential_db.sqlite.transaction import roll_back


class BorrowedSQLite(SQLiteDialect_pysqlite):
    """SQLAlchemy's SQLite dialect, for a connection that has another owner."""

    supports_statement_cache = True

    def on_connect(self) -> None:  # type: ignore[override]  # documented: None for nothing to do
        """Do not replace the owner's ``regexp()`` and ``floor()`` with SQLAlchemy's."""

    def get_default_isolation_level(self, dbapi_conn: Any) -> IsolationLevel:
        """Do not ask: an application's listener may have set a row factory."""
        return "SERIALIZABLE"

    def do_execute(self, cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        """Read Alembic's stamp without the converters (``detect_types``) of the owner."""
        stamp = f"SELECT {STAMP_TABLE}."
        statement = statement.replace(stamp, stamp.replace(" ", " +"))
        super().do_execute(cursor, statement, parameters, context)  # type: ignore[no-untyped-call]

    def do_commit(self, dbapi_connection: Any) -> None:
        """Leave the transaction to its owner, like the following."""

    do_rollback = do_close = do_commit


registry.register("sqlite.borrowed", __name__, BorrowedSQLite.__name__)


_borrowed: ContextVar[DBAPIConnection] = ContextVar("borrowed")


@functools.cache
def _engine(module: ModuleType) -> Engine:
    """An engine takes a millisecond to make, a tenth of an upgrade."""
    return create_engine(
        "sqlite+borrowed://",
        module=module,
        creator=_borrowed.get,
        poolclass=NullPool,
        hide_parameters=True,
    )


@contextlib.contextmanager
def sqlalchemy_connection(connection: DBAPIConnection) -> Iterator[Connection]:
    """SQLAlchemy's view of a connection that is in autocommit mode.

    Listeners that an application has registered on all engines run now, before the transaction of
    the upgrade: they may set pragmas, or begin a transaction of their own, which is rolled back.
    """
    token = _borrowed.set(connection)
    try:
        with _engine(module_of(connection)).connect() as wrapper, wrapper.begin():
            roll_back(connection)
            yield wrapper
    finally:
        _borrowed.reset(token)
