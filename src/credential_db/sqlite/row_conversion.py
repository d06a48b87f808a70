"""Convert the rows of a table, each exactly once, and report every bad row.

One UPDATE calls a Python function, so no cell is ever in a statement or a parameter. If a row is
bad, the UPDATE is repeated row by row, so a function may be called twice.
"""

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from credential_db.sqlite.causes import known_text
from credential_db.sqlite.driver import DBAPIConnection, first_row, folded, module_of, quoted
from credential_db.sqlite.errors import CredentialDBError
from credential_db.sqlite.schema import column_names
from credential_db.sqlite.working import plain_rows

_FUNCTION = "credential_db_convert"  # one name: each conversion replaces the one before it

BadRows = Callable[[list[tuple[int, str]]], Exception]


class BadRow(Exception):
    """A row cannot be converted; the text says why, and contains nothing of the row."""


class _Conflict(BadRow):
    """Another row already has the new value of a PRIMARY KEY or UNIQUE."""


class Conversion(NamedTuple):
    """The new value of a column: the function, called with these columns of the same row."""

    function: Callable[..., object]
    columns: tuple[str, ...]


def counted(count: int, called: str) -> str:
    """``2 rows of credentials``, or ``1 row of credentials``: the first noun has an s to lose."""
    noun, *rest = called.split(" of ", 1)
    return " of ".join([f"{count} {noun.removesuffix('s') if count == 1 else noun}", *rest])


def convert_rows(
    connection: DBAPIConnection,
    table: str,
    conversions: Mapping[str, Conversion],
    key: str,
    called: str,
    *,
    on_conflict: str,
    error: BadRows | None,
) -> tuple[int, int]:
    """Do what ``Operations.convert_rows`` says: the number of all rows, and of those kept."""
    if on_conflict not in ("abort", "keep"):
        raise CredentialDBError(f"on_conflict is 'abort' or 'keep', and not {on_conflict!r}")
    arguments = (name for each in conversions.values() for name in each.columns)
    _check_columns(connection, table, [key, *conversions, *arguments])
    rows = _Rows(connection, table, conversions)
    connection.create_function(_FUNCTION, -1, rows.new_cell)
    try:
        kept, bad = rows.convert(key, keep=on_conflict == "keep")
    finally:
        with contextlib.suppress(Exception):  # the next conversion replaces it
            connection.create_function(_FUNCTION, -1, None)
    if bad and error:
        raise error(bad)
    if bad:
        reasons = "; ".join(f"row {row} {reason}" for row, reason in bad)
        raise CredentialDBError(
            f"{counted(len(bad), called)} cannot be converted: {reasons}. Nothing was changed; "
            "repair or delete these rows, then run again"
        )
    return len(rows.seen), kept


def read_rows(
    connection: DBAPIConnection, table: str, columns: Sequence[str]
) -> list[tuple[Any, ...]]:
    """Do what ``Operations.read_rows`` says."""
    cells = ", ".join(f"+{quoted(name)}" for name in columns)  # + keeps converters off
    with plain_rows(connection):
        _check_columns(connection, table, columns)
        return connection.execute(
            f"SELECT {cells} FROM main.{quoted(table)} NOT INDEXED ORDER BY rowid"
        ).fetchall()


class _Rows:
    """The rows of one table, each converted exactly once."""

    def __init__(
        self, connection: DBAPIConnection, table: str, conversions: Mapping[str, Conversion]
    ) -> None:
        self._connection, self._table = connection, f"main.{quoted(table)} NOT INDEXED"
        self._functions = [each.function for each in conversions.values()]
        self._encoding = str(first_row(connection, "PRAGMA encoding")[0])
        self._raised: BaseException | None = None
        self.seen: set[int] = set()
        calls = (
            f"{quoted(column)} = {_FUNCTION}({number}, rowid, {_arguments(each.columns)})"
            for number, (column, each) in enumerate(conversions.items())
        )
        # OR ABORT: an ON CONFLICT clause could drop rows. NOT INDEXED: in the order of the rowids.
        self._update = f"UPDATE OR ABORT {self._table} SET {', '.join(calls)}"

    def new_cell(self, number: int, row: int, texts: int, *cells: Any) -> Any:
        """What SQLite calls. An exception is stored, since SQLite forgets it."""
        try:
            self.seen.add(row)
            if texts:
                cells = tuple([self._decoded(cell, texts >> n) for n, cell in enumerate(cells)])
            new = self._functions[number](*cells)
            if isinstance(new, str) and "\0" in new:
                raise BadRow("would get text with a NUL, which not every driver can store")
            return new
        except BaseException as error:
            self._raised = error
        raise RuntimeError

    def _decoded(self, cell: Any, texts: int) -> Any:
        try:
            return cell.decode(self._encoding) if texts & 1 else cell
        except UnicodeDecodeError:
            raise BadRow("holds text that is not UTF-8") from None

    def convert(self, key: str, *, keep: bool) -> tuple[int, list[tuple[int, str]]]:
        """Convert all rows; the number kept, and the keys of bad rows with the reasons."""
        select = f"SELECT +rowid, +{quoted(key)} FROM {self._table} ORDER BY rowid"
        (total,) = first_row(self._connection, f"SELECT count(*) FROM {self._table}")
        kept, bad = 0, []
        try:
            written = self._write()
        except BadRow:
            written = 0
            self.seen.clear()
            for row, name in self._connection.execute(select).fetchall():
                try:
                    written += self._write(" WHERE rowid = ?", row)
                except BadRow as error:
                    if keep and isinstance(error, _Conflict):
                        kept += 1
                    else:
                        bad.append((name if isinstance(name, int) else row, str(error)))
        if not written + kept + len(bad) == len(self.seen) == total:
            raise CredentialDBError(
                f"{len(self.seen)} of {total} rows were converted in {written} writes of "
                f"{self._table}: the file may be damaged"
            )
        return kept, sorted(bad)

    def _write(self, where: str = "", *row: int) -> int:
        """Convert one row, or all of them; the number of rows that were written."""
        self._raised = None
        try:
            return self._connection.execute(self._update + where, row).rowcount
        except Exception as error:
            reason = self._raised or error
            if not self._raised and isinstance(error, module_of(self._connection).IntegrityError):
                text = known_text(error)
                kind = _Conflict if text.startswith("UNIQUE con") else BadRow
                reason = kind(f"cannot hold its new values ({text})")
        raise reason


def _check_columns(connection: DBAPIConnection, table: str, names: Iterable[str]) -> None:
    """SQLite takes an unknown name in double quotes for a string."""
    known = {"rowid", *column_names(connection, table)}
    if unknown := sorted({folded(name) for name in names} - known):
        raise CredentialDBError(
            f"table {table} has no column {', '.join(unknown)}: this is a mistake in the revision"
        )


def _arguments(columns: Sequence[str]) -> str:
    """Which of the cells are TEXT, as bits, and the cells, TEXT as a BLOB.

    sqlite3 fails on TEXT that is not UTF-8 without naming the row; sqlcipher3 passes None for it,
    and TEXT with a NUL only up to that.
    """
    names = [quoted(name) for name in columns]
    texts = [f"((typeof({name}) = 'text') << {bit})" for bit, name in enumerate(names)]
    cell = "CASE typeof({0}) WHEN 'text' THEN CAST({0} AS BLOB) ELSE {0} END"
    return ", ".join([" | ".join(texts) or "0", *map(cell.format, names)])
