"""A SQLAlchemy connection that only looks through a DB-API connection and its transaction."""

import contextlib
from collections.abc import Iterator
from typing import Any

from sqlalchemy import URL, Connection
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

from credential_db.sqlite.alembic_internals import unobserved_engine
from credential_db.sqlite.driver import DBAPIConnection, driver, main_file


class BorrowedSQLite(SQLiteDialect_pysqlite):
    """SQLAlchemy's SQLite dialect, leaving functions and transactions to the connection's owner."""

    supports_statement_cache = True

    def on_connect(self) -> None:  # type: ignore[override]  # None is allowed: nothing to do
        """Do not install SQLAlchemy's ``regexp()`` and ``floor()`` over the owner's."""

    def do_commit(self, dbapi_connection: Any) -> None:
        """Leave the transaction open: it is ``write_transaction`` that ends it."""

    def do_rollback(self, dbapi_connection: Any) -> None:
        """Leave the transaction open, likewise."""

    def do_close(self, dbapi_connection: Any) -> None:
        """Leave it open, even where its first statements failed."""


registry.register("sqlite.borrowed", __name__, BorrowedSQLite.__name__)


@contextlib.contextmanager
def sqlalchemy_connection(connection: DBAPIConnection) -> Iterator[Connection]:
    """Wrap a DB-API connection inside of a transaction, which closing the wrapper leaves alone.

    What the host program listens to, on all of SQLAlchemy's engines, is not told of this one.
    """
    engine = unobserved_engine(
        URL.create("sqlite+borrowed", database=main_file(connection)),
        module=driver(connection),
        creator=lambda: connection,
        pool_reset_on_return=None,
        hide_parameters=True,
    )
    engine.url = engine.url.set(drivername="sqlite")  # as ``alembic current -v`` shows it
    with engine.connect() as wrapper, wrapper.begin():
        yield wrapper
