"""All that a revision needs: Alembic's ``op``, with what is safe on SQLite, and rows to convert."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from alembic.operations import MigrateOperation, Operations, ops
from alembic.util import CommandError
from sqlalchemy import Table
from sqlalchemy.dialects import sqlite
from sqlalchemy.schema import CreateTable

from credential_db.sqlite import alembic_internals, row_conversion, scrub, table_copy
from credential_db.sqlite.alembic_internals import driver_connection_of
from credential_db.sqlite.driver import DBAPIConnection, quoted
from credential_db.sqlite.errors import CredentialDBError
from credential_db.sqlite.row_conversion import BadRow, Conversion, Double
from credential_db.sqlite.shape import column_names

__all__ = [
    "BadRow",
    "Conversion",
    "Double",
    "convert_rows",
    "has_column",
    "op",
    "refuse_rows",
]

if TYPE_CHECKING:

    class _Operations(Operations):
        def copy_table(
            self,
            name: str,
            *definition: Any,
            values: Mapping[str, str] | None = None,
            **options: Any,
        ) -> None: ...


op = cast("_Operations", alembic_internals.op)


@Operations.register_operation("copy_table")
class CopyTable(MigrateOperation):
    """``op.copy_table(name, *columns_and_constraints)``, in the form of ``op.create_table``.

    Args:
        table: The complete new definition.
        values: An expression of SQL, over the old columns, for new columns that need one.
    """

    def __init__(self, table: Table, values: Mapping[str, str] | None = None) -> None:
        """Take the definition."""
        self.table = table
        self.values = dict(values or {})

    def to_diff_tuple(self) -> tuple[str, ...]:
        """What ``alembic check`` prints."""
        return ("copy_table", self.table.name)

    @classmethod
    def copy_table(
        cls,
        operations: Operations,
        name: str,
        *definition: Any,
        values: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        """Give a table another definition by copying its rows, safe by itself.

        Args:
            operations: Alembic's.
            name: The table.
            definition: All columns and constraints that it is to have.
            values: An expression of SQL, over the old columns, for new columns that need one.
            options: As for ``op.create_table``, such as ``sqlite_autoincrement``.

        Raises:
            UnrecognizedSchema: Rows or the user's objects do not fit, and are named.
        """
        table = ops.CreateTableOp(name, list(definition), **options).to_table()
        operations.invoke(cls(table, values))


@Operations.implementation_for(CopyTable)
def _copy_table(operations: Operations, step: CopyTable) -> None:
    if operations.get_context().as_sql:
        raise CommandError(
            f"table {step.table.name} has to be copied with all that belongs to it, which a script "
            "of SQL cannot do: run this range without --sql"
        )
    definition = str(CreateTable(step.table).compile(dialect=sqlite.dialect()))
    table_copy.copy_table(_driver_connection(), step.table.name, definition, step.values)


def _driver_connection() -> DBAPIConnection:
    """The driver's own connection, inside the transaction of the upgrade."""
    return driver_connection_of(op.get_bind().connection)


def has_column(table: str, column: str) -> bool:
    """Whether the file's table has this column; a script of SQL is for tidy files, which have."""
    if op.get_context().as_sql:
        return True
    return column in column_names(_driver_connection(), table)


def convert_rows(
    table: str,
    conversions: Mapping[str, Conversion],
    *,
    error: Callable[[list[tuple[int, str]]], Exception] | None = None,
    key: str = "rowid",
    double: Double | None = None,
    called: str = "",
) -> None:
    """Rewrite columns of every row, one after the other: flat memory, all bad rows in one error.

    What was there before is scrubbed from the file's free space after the commit.

    Args:
        table: Whose rows.
        conversions: For each column to write, a function and the columns that it is called with.
        error: Makes the error that is raised of all bad rows, each with its id and the reason that
            its ``BadRow`` gave; a ``CredentialDBError`` where there is nothing else to make.
        key: The column by which people know a row.
        double: Where a written column is UNIQUE: what it is made of.
        called: What to call the rows where it is said what was done.

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
    connection, called = _driver_connection(), called or f"rows of {table}"

    def bad_rows(problems: list[tuple[int, str]]) -> CredentialDBError:
        rows = "; ".join(f"row {row} {reason}" for row, reason in problems)
        return CredentialDBError(
            f"{len(problems)} {called} cannot be converted: {rows}. Nothing was changed; repair or "
            "delete these rows and run again"
        )

    total = row_conversion.convert_rows(
        connection,
        table,
        conversions,
        error=error or bad_rows,
        key=key,
        double=double,
        called=called,
    )
    scrub.mark(connection, [table])
    if total:
        migration.opts.setdefault("converted", []).append(f"{total} {called} converted")


def refuse_rows(*tables: str) -> None:
    """Raise a ``CredentialDBError`` where any of these tables has a row."""
    if op.get_context().as_sql:
        raise CommandError(
            "whether the tables are empty cannot be seen from a script of SQL: run this range "
            "without --sql"
        )
    connection = _driver_connection()
    full = [
        table
        for table in tables
        if column_names(connection, table)
        and connection.execute(f"SELECT 1 FROM main.{quoted(table)} LIMIT 1").fetchone()
    ]
    if full:
        raise CredentialDBError(
            f"the way to base drops all tables, and {', '.join(full)} still hold rows: delete "
            "them first if that is what you want"
        )
