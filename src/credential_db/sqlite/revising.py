"""What a revision may need besides ``alembic.op``: look at a table, rewrite its rows."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from alembic import op
from alembic.util import CommandError

from credential_db.sqlite.driver import DBAPIConnection, quoted
from credential_db.sqlite.errors import CredentialDBError
from credential_db.sqlite.shape import checks, column_names
from credential_db.sqlite.survival import Dependants, triggers_suspended


def driver_connection() -> DBAPIConnection:
    """The driver's own connection, inside the transaction of the upgrade.

    Rows with secrets are read and written through it: SQLAlchemy logs rows at DEBUG, and puts
    parameters into its exceptions.
    """
    connection = op.get_bind().connection.driver_connection
    assert connection is not None, "a connection in use has one"
    return connection  # type: ignore[no-any-return]  # SQLAlchemy knows no type of it


def has_column(table: str, column: str) -> bool:
    """Whether the file's table has this column; a script of SQL is for tidy files, which have."""
    if op.get_context().as_sql:
        return True
    return column in column_names(driver_connection(), table)


def has_check(table: str) -> bool:
    """Whether the file's table has a CHECK constraint at all."""
    if op.get_context().as_sql:
        return True
    (sql,) = (
        driver_connection()
        .execute("SELECT sql FROM main.sqlite_master WHERE type = 'table' AND name = ?", (table,))
        .fetchone()
    )
    return bool(checks(sql))


def rewrite_rows(table: str, rewrite: Callable[[DBAPIConnection], None]) -> None:
    """Let ``rewrite`` change rows of a table, the user's triggers looking away.

    Raises:
        CommandError: In ``--sql`` mode, for a range that does not begin with an empty file.
    """
    migration = op.get_context()
    if migration.as_sql:
        if migration.opts.get("starting_rev") in (None, "base"):
            return  # the tables have just been created
        raise CommandError(
            f"the rows of {table} have to be converted one by one, which a script of SQL cannot "
            "do: run this range without --sql"
        )
    connection = driver_connection()
    with triggers_suspended(connection, table):
        rewrite(connection)


@contextmanager
def dependants_kept() -> Iterator[None]:
    """Put the user's triggers and indexes back at once after a table copy.

    Before anything else is renamed, that is: then SQLite keeps them up to date itself.
    """
    dependants = Dependants(driver_connection(), ())
    yield
    dependants.restore()


def refuse_rows(*tables: str) -> None:
    """Raise where any of these tables has a row.

    Raises:
        CredentialDBError: One has.
    """
    if op.get_context().as_sql:
        raise CommandError(
            "whether the tables are empty cannot be seen from a script of SQL: run this range "
            "without --sql"
        )
    connection = driver_connection()
    full = [
        table
        for table in tables
        if connection.execute(f"SELECT 1 FROM main.{quoted(table)} LIMIT 1").fetchone()
    ]
    if full:
        raise CredentialDBError(
            f"the way to base drops all tables, and {', '.join(full)} still hold rows: delete "
            "them first if that is what you want"
        )
