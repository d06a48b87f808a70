"""A SQLAlchemy engine around one open DB-API connection, with real transactions."""

import contextlib
from collections.abc import Iterator
from typing import Any

from alembic.ddl.base import RenameTable
from sqlalchemy import Connection, create_engine, event
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.engine import URL
from sqlalchemy.pool import StaticPool

from credential_db.sqlite.driver import DBAPIConnection, driver, main_file


class BorrowedSQLite(SQLiteDialect_pysqlite):
    """SQLAlchemy's SQLite dialect, leaving the connection's SQL functions to its owner."""

    supports_statement_cache = True

    def on_connect(self) -> None:  # type: ignore[override]  # None is allowed: nothing to do
        """Do not install SQLAlchemy's ``regexp()`` and ``floor()`` over the owner's."""

    def do_close(self, dbapi_connection: Any) -> None:
        """Leave it open, even where its first statements failed: it is its owner's."""


registry.register("sqlite.borrowed", __name__, BorrowedSQLite.__name__)


@contextlib.contextmanager
def sqlalchemy_connection(connection: DBAPIConnection, *, writing: bool) -> Iterator[Connection]:
    """Wrap a DB-API connection in autocommit mode; closing the wrapper leaves it open.

    Args:
        connection: In autocommit mode, for SQLAlchemy's transactions to be SQLite's.
        writing: Begin each transaction with the write lock (``BEGIN IMMEDIATE``): a reader that
            wants to become a writer later fails at once, however long the timeout.
    """
    engine = create_engine(
        URL.create("sqlite+borrowed", database=main_file(connection)),
        module=driver(connection),
        creator=lambda: connection,
        poolclass=StaticPool,
        pool_reset_on_return=None,
        hide_parameters=True,
    )
    begin = "BEGIN IMMEDIATE" if writing else "BEGIN"

    @event.listens_for(engine, "begin")
    def _begin(wrapper: Connection) -> None:
        wrapper.exec_driver_sql(begin)

    # Batch mode copies a table under a temporary name and renames it. Where a view or trigger
    # names the table, only SQLite's older RENAME TABLE allows that moment without it.
    @event.listens_for(engine, "before_execute")
    def _allow_table_copy(wrapper: Connection, statement: Any, *_: Any) -> None:
        if _ends_table_copy(statement):
            wrapper.exec_driver_sql("PRAGMA legacy_alter_table = ON")

    @event.listens_for(engine, "after_execute")
    def _end_table_copy(wrapper: Connection, statement: Any, *_: Any) -> None:
        if _ends_table_copy(statement):
            wrapper.exec_driver_sql("PRAGMA legacy_alter_table = OFF")

    try:
        with engine.connect() as wrapper:
            yield wrapper
    finally:
        # SQLAlchemy does not, where the COMMIT itself failed: a reader may be in its way.
        if connection.in_transaction:
            with contextlib.suppress(driver(connection).Error):
                connection.rollback()


def _ends_table_copy(statement: object) -> bool:
    return isinstance(statement, RenameTable) and statement.table_name.startswith("_alembic_tmp_")
