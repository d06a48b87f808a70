"""What a revision gets as ``op``: Alembic's operations, with what is safe on SQLite, and rows."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, cast

import alembic.operations
from alembic.operations import BatchOperations, MigrateOperation
from alembic.operations.ops import BulkInsertOp
from alembic.runtime.migration import MigrationContext
from sqlalchemy import DDL, ClauseElement, Executable
from sqlalchemy.exc import DBAPIError

from credential_db.sqlite import row_conversion, scrub, table_copy
from credential_db.sqlite.causes import known_text
from credential_db.sqlite.driver import DBAPIConnection, error_name, first_row, folded, quoted
from credential_db.sqlite.errors import CredentialDBError
from credential_db.sqlite.row_conversion import BadRow, BadRows, Conversion, counted
from credential_db.sqlite.schema import column_names, tokens

__all__ = ["BadRow", "Conversion", "Operations"]

_CHANGES_ROWS = ("insert", "update", "delete")
_VERBS = (*_CHANGES_ROWS, "replace", "alter", "create", "drop", "reindex", "select")
_COPY = "use op.copy_table with the complete new definition, which keeps what belongs to the table"


class Operations(alembic.operations.Operations):
    """Alembic's ``op`` (https://alembic.sqlalchemy.org/en/latest/ops.html), for SQLite."""

    def __init__(self, context: MigrationContext) -> None:
        super().__init__(context)
        self.remarks: list[str] = []  # what was done to rows: "5 SSH keys converted"
        self._as_sql = context.as_sql

    def has_column(self, table: str, column: str) -> bool:
        """Whether the file's table has this column; always True in ``--sql`` mode."""
        return self._as_sql or folded(column) in column_names(self._connection, table)

    def read_rows(self, table: str, columns: Sequence[str]) -> list[tuple[Any, ...]]:
        """These columns of all rows, in rowid order; no rows in ``--sql`` mode.

        Cells come as SQLite stores them; bytes of TEXT that are not UTF-8 as surrogates.

        Raises:
            CredentialDBError: There is no such column.
        """
        return [] if self._as_sql else row_conversion.read_rows(self._connection, table, columns)

    def convert_rows(
        self,
        table: str,
        conversions: Mapping[str, Conversion],
        *,
        on_conflict: str = "abort",
        called: str = "",
        key: str = "rowid",
        error: BadRows | None = None,
    ) -> int:
        """Rewrite columns of every row, in rowid order, and scrub the old cells after the commit.

        None of the user's triggers fires. Does nothing in ``--sql`` mode.

        Args:
            table: Whose rows.
            conversions: For each column to write, a function and the columns it is called with. It
                raises ``BadRow`` if it cannot convert a row, and may be called twice for a row.
            on_conflict: ``keep`` leaves a row as it is if, at its turn, another row has its new
                value in a PRIMARY KEY or UNIQUE; ``abort`` makes that a bad row.
            called: What to call the rows in messages: a plural such as ``SSH keys``.
            key: The INTEGER column by which people know a row.
            error: Makes the exception from the key and the reason of each bad row.

        Returns:
            The number of rows that were kept.

        Raises:
            CredentialDBError: Rows are bad, and all are named; or a script does not start at base.
        """
        called = called or f"rows of {table}"
        with self._changing_rows(table):
            if self._as_sql:
                return 0
            total, kept = row_conversion.convert_rows(
                self._connection,
                table,
                conversions,
                key,
                called,
                on_conflict=on_conflict,
                error=error,
            )
        for number, what in ((total - kept, "converted"), (kept, "kept")):
            if number:
                self.remarks.append(f"{counted(number, called)} {what}")
        return kept

    def copy_table(
        self, name: str, definition: str, *, values: Mapping[str, str] | None = None
    ) -> None:
        """Give a table another definition by copying its rows, and keep what belongs to it.

        Args:
            name: The table.
            definition: The complete new ``CREATE TABLE`` statement.
            values: For columns that need one, a SQL expression over the old columns.

        Raises:
            CredentialDBError: In ``--sql`` mode.
            UnrecognizedSchema: Rows or the user's objects do not fit, and are named.
        """
        table_copy.copy_table(self._connection, name, definition, values)

    def refuse_rows(self, *tables: str) -> None:
        """Raise a ``CredentialDBError`` if any of these tables has a row, or in ``--sql`` mode."""
        for table in tables:
            query = f"SELECT count(*) FROM main.{quoted(table)}"
            if column_names(self._connection, table) and first_row(self._connection, query)[0]:
                raise CredentialDBError(
                    f"table {table} would be dropped and has rows: delete them first"
                )

    def execute(self, sqltext: Executable | str, **options: Any) -> None:
        """Execute one statement that defines something or changes rows.

        INSERT, UPDATE and DELETE fire none of the user's triggers and no foreign-key actions. A
        string is taken literally: a colon in it needs no backslash.

        Raises:
            CredentialDBError: It is a PRAGMA or the like, or has REPLACE, which deletes rows that
                no check sees; or it changes rows in a script that does not start at base.
        """
        if isinstance(sqltext, str):
            sqltext = DDL(sqltext.replace("%", "%%"))  # type: ignore[no-untyped-call]
        sql = cast("ClauseElement", sqltext).compile(dialect=self.get_context().dialect)
        with self._changing_rows() if _changes_rows(str(sql)) else contextlib.nullcontext():
            super().execute(sqltext, **options)

    @contextlib.contextmanager
    def batch_alter_table(self, *args: Any, **options: Any) -> Iterator[BatchOperations]:
        """Alter the named table in place, as far as SQLite can; arguments as Alembic's.

        Raises:
            CredentialDBError: It cannot; or ``recreate`` is given, with which Alembic would lose
                the user's triggers and more. ``copy_table`` does not.
        """
        if options.setdefault("recreate", "never") != "never":
            raise CredentialDBError(f"recreate would lose triggers and more: {_COPY}")
        batch = super().batch_alter_table(*args, **options)
        with _in_place(), batch as batch_op:
            vars(batch_op)["execute"] = self.execute
            yield batch_op

    def invoke(self, operation: MigrateOperation) -> Any:
        """Run an operation of Alembic's, with the same care."""
        is_insert = isinstance(operation, BulkInsertOp)
        with _in_place(), self._changing_rows() if is_insert else contextlib.nullcontext():
            return super().invoke(operation)

    @property
    def _connection(self) -> DBAPIConnection:
        if self._as_sql:
            raise CredentialDBError(
                "a revision has to read or copy rows, which a script cannot: run this range "
                "without --sql"
            )
        return cast("DBAPIConnection", self.get_bind().connection.driver_connection)

    @contextlib.contextmanager
    def _changing_rows(self, table: str | None = None) -> Iterator[None]:
        if self._as_sql and self.get_context().opts.get("starting_rev") in (None, "base"):
            yield  # the tables of the script are empty
            return
        with table_copy.triggers_suspended(self._connection, table):
            yield
        table_copy.forget_samples(self._connection, table)
        scrub.mark(self._connection)


def _changes_rows(sql: str) -> bool:
    """Whether it is an INSERT, UPDATE or DELETE; raise if ``execute`` does not take it."""
    words = tokens(sql)
    if words[:1] == ["with"]:
        depths = accumulate({"(": 1, ")": -1}.get(word, 0) for word in words)
        verbs = [n for n, depth in enumerate(depths) if not depth and words[n] in _VERBS]
        words = words[verbs[0] :] if verbs else []
    verb = words[0] if words else ""
    if verb not in _VERBS or verb == "replace" or words[1:3] == ["or", "replace"]:
        raise CredentialDBError(
            "op.execute takes a statement that changes tables or rows: settings and the "
            "transaction belong to the upgrade, and REPLACE deletes rows that no check sees (use "
            "op.convert_rows with on_conflict='keep')"
        )
    return verb in _CHANGES_ROWS


@contextlib.contextmanager
def _in_place() -> Iterator[None]:
    try:
        yield
        return
    except NotImplementedError:
        reason = "no such ALTER TABLE"
    except DBAPIError as error:
        name, reason = error_name(error.orig or error), known_text(error.orig or error)
        # What belongs to the user is no reason for a copy.
        of_user = reason.startswith(("error in ", "there is already "))
        is_alter = tokens(error.statement or "")[:1] == ["alter"]
        if of_user or not is_alter or name not in ("SQLITE_ERROR", ""):
            raise
    raise CredentialDBError(f"SQLite cannot alter this in place ({reason}): {_COPY}")
