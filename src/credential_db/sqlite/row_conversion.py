"""Convert the rows of a table one by one, each exactly once, and report every bad one."""

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import chain, islice
from typing import Any, NamedTuple, NoReturn

from credential_db.sqlite.driver import DBAPIConnection, driver, quoted
from credential_db.sqlite.errors import CredentialDBError, UnrecognizedSchema
from credential_db.sqlite.failures import known_text
from credential_db.sqlite.progress import saying_how_far
from credential_db.sqlite.scrub import refuse_damage
from credential_db.sqlite.shape import read_shape
from credential_db.sqlite.table_copy import named, triggers_suspended

_BATCH = 256  # row ids held in memory at a time
_TAKE, _GIVE = "_take_cell", "_give_cell"  # what SQLite calls
_UNIQUE_COLUMNS = """
    SELECT DISTINCT lower(p.name) FROM pragma_index_list(?, 'main') AS l,
        pragma_index_info(l.name, 'main') AS p WHERE l."unique" AND p.name IS NOT NULL
"""
_NOT_UTF8 = re.compile("[\udc80-\udcff]")  # as ``plain_rows`` hands it over


class BadRow(Exception):
    """A row cannot be converted; the text says why, and holds nothing that is in it."""


class Conversion(NamedTuple):
    """What one column is to hold: ``convert`` of the cells of these columns of the same row."""

    convert: Callable[..., object]
    arguments: tuple[str, ...]


class Double(NamedTuple):
    """What to say where two rows hold the same in this column, so that one cannot be written."""

    column: str
    reason: str  # such as "is for the same key as row"; the other row's id is added


class _Rows:
    """The rows of one table, on their way.

    Cells are taken and given inside of SQLite, so that they stand in no statement, no parameter and
    no row: a trace callback or a logging connection does not see them. What SQLite calls for that
    is written in C: an interrupt in the moment of a call of Python's would be swallowed by sqlite3.
    """

    def __init__(
        self,
        connection: DBAPIConnection,
        table: str,
        conversions: Mapping[str, Conversion],
        *,
        key: str,
        double: Double | None,
    ) -> None:
        self._connection = connection
        self._key = quoted(key)
        self._name_of_table = table
        self._table = f"main.{quoted(table)}"
        self._conversions = list(conversions.values())
        self._double = double
        self._taken: list[Any] = []
        self._given: list[Any] = [None] * len(conversions)
        self._names = list(dict.fromkeys(n for each in self._conversions for n in each.arguments))
        read = {name.lower() for name in self._names}  # which has to stay until then
        self._only_written = {name.lower() for name in conversions} - read
        given = (f"{quoted(each)} = {_GIVE}({n})" for n, each in enumerate(conversions))
        taken = (f"{_TAKE}({quoted(name)})" for name in self._names)
        # OR ABORT takes the place of an ON CONFLICT clause that would drop a row, or end it all.
        self._update = f"UPDATE OR ABORT {self._table} SET {', '.join(given)} WHERE rowid = ?"
        self._take = f"SELECT {', '.join(taken)} FROM {self._table} WHERE rowid = ?"
        self._problems: dict[int, str] = {}
        self.refused: dict[str, list[int]] = {}  # for another reason, such as a CHECK of the user's

    def convert_all(self, called: str) -> int:
        (total,) = self._connection.execute(f"SELECT count(*) FROM {self._table}").fetchone()
        done = 0
        functions = {_TAKE: self._taken.append, _GIVE: self._given.__getitem__}
        try:
            for name, function in functions.items():
                self._connection.create_function(name, 1, function)
            rows = islice(self._rowids(), total + 1)  # which would not end if rowids are written
            for row in saying_how_far(rows, total, called):
                self._convert(row)
                done += 1
        finally:
            self._taken.clear()
            self._given.clear()
            for name in functions:
                with contextlib.suppress(Exception):  # nothing of the file needs it
                    self._connection.create_function(name, 1, None)
        if done != total:
            self._refuse(f"{self._table} has {total} rows and {done} were found")
        if self._double and self.refused:
            self._find_doubles(self._double)
        return int(total)

    def _rowids(self) -> Iterator[int]:
        """By rowid, whatever is called the key: each row has one, and no two have the same."""
        rows = f"SELECT +rowid FROM {self._table} WHERE rowid {{}} ? ORDER BY rowid LIMIT {_BATCH}"
        batch = self._connection.execute(rows.format(">="), (-(2**63),)).fetchall()
        while batch:
            yield from (row for (row,) in batch)
            batch = self._connection.execute(rows.format(">"), batch[-1]).fetchall()

    def _convert(self, row: int) -> None:
        if (problem := self._convert_cells(row)) is not None:
            self._problems[row] = problem
            return
        refused = self._write(row)
        if refused and self._only_written:
            self._free_uniques_after(row)
            refused = self._write(row)
        if refused:
            self.refused.setdefault(known_text(refused), []).append(row)

    def _free_uniques_after(self, row: int) -> None:
        """Rows whose turn is still to come may hold, by mistake, what this one is to hold."""
        uniques = self._connection.execute(_UNIQUE_COLUMNS, (self._name_of_table,)).fetchall()
        free = (quoted(column) for column in self._only_written if (column,) in uniques)
        freed = ", ".join(f"{column} = hex(randomblob(16))" for column in free)
        self._only_written.clear()  # once is enough
        with contextlib.suppress(driver(self._connection).IntegrityError):
            if freed:
                update = f"UPDATE OR ABORT {self._table} SET {freed} WHERE rowid > ?"
                self._connection.execute(update, (row,))

    def _convert_cells(self, row: int) -> str | None:
        """What the row is to hold is given next; or say what is wrong with it."""
        self._taken.clear()
        try:
            found = self._connection.execute(self._take, (row,)).fetchall()
        except driver(self._connection).Error:
            if not self._is_not_utf8(row):
                raise
            return "holds text that is not UTF-8"
        self._refuse_other_than_one(row, len(found))
        cells = dict(zip(self._names, self._taken, strict=True))
        try:
            for number, each in enumerate(self._conversions):
                self._given[number] = each.convert(*(cells[name] for name in each.arguments))
        except BadRow as error:
            return str(error)
        return None

    def _write(self, row: int) -> Exception | None:
        """Write one row, or say why its new cells are refused."""
        try:
            count = self._connection.execute(self._update, (row,)).rowcount
        except Exception as error:
            integrity = isinstance(error, driver(self._connection).IntegrityError)
            if not (integrity and self._connection.in_transaction):
                raise
            return error
        self._refuse_other_than_one(row, count)
        return None

    def _refuse_other_than_one(self, row: int, count: int) -> None:
        if count != 1:
            self._refuse(f"row {row} of {self._table} was found {count} times")

    def _refuse(self, found: str) -> NoReturn:
        refuse_damage(self._connection)
        raise CredentialDBError(f"{found}: nothing was changed")

    def _is_not_utf8(self, row: int) -> bool:
        select = f"SELECT +{', +'.join(map(quoted, self._names))} FROM {self._table}"
        (cells,) = self._connection.execute(f"{select} WHERE rowid = ?", (row,)).fetchall()
        return any(isinstance(cell, str) and _NOT_UTF8.search(cell) for cell in cells)

    def _find_doubles(self, double: Double) -> None:
        """Tell the refused rows that hold the same as another: in one query, they may be many."""
        column, refused = quoted(double.column), set(chain(*self.refused.values()))
        doubles = (
            f"SELECT +t.rowid, d.first FROM {self._table} AS t JOIN (SELECT {column} AS same,"
            f" min(rowid) AS first FROM {self._table} GROUP BY 1 HAVING count(*) > 1) AS d"
            f" ON t.{column} = d.same WHERE t.rowid > d.first ORDER BY 1"
        )
        for row, first in self._connection.execute(doubles).fetchall():
            if refused & {row, first}:
                self._problems.setdefault(row, f"{double.reason} {self._name(first)}")
                self._problems.setdefault(first, f"{double.reason} {self._name(row)}")

    def _id(self, row: int) -> int:
        select = f"SELECT +{self._key} FROM {self._table} WHERE rowid = ?"
        (found,) = self._connection.execute(select, (row,)).fetchone()
        return found if isinstance(found, int) else row

    def _name(self, row: int) -> str:
        found = self._id(row)
        return f"{found}" if found == row else f"{found}, rowid {row}"

    def named_problems(self) -> list[tuple[int, str]]:
        """By the ids that people know, with the rowids where these are something else."""
        rows = sorted((self._id(row), row) for row in self._problems)
        return [
            (key, self._problems[row] + ("" if key == row else f" (its rowid is {row})"))
            for key, row in rows
        ]


def convert_rows(
    connection: DBAPIConnection,
    table: str,
    conversions: Mapping[str, Conversion],
    *,
    error: Callable[[list[tuple[int, str]]], Exception],
    called: str,
    key: str = "rowid",
    double: Double | None = None,
) -> int:
    """Do what ``revising.convert_rows`` says; no trigger of the user's fires meanwhile.

    Returns:
        How many rows there are.

    Raises:
        CredentialDBError: A row was not written exactly once, or there is no such column.
    """
    # SQLite takes an unknown name between double quotes for a string.
    shape = read_shape(connection, [table], ())
    names = [key, double.column if double else key, *conversions]
    names += [name for each in conversions.values() for name in each.arguments]
    unknown = sorted({name.lower() for name in names} - {"rowid", *shape.columns.get(table, ())})
    if unknown:
        raise CredentialDBError(
            f"table {table} has no column {', '.join(unknown)}: this is a mistake in the revision"
        )
    if f"{table}: WITHOUT ROWID" in shape.definition:
        raise UnrecognizedSchema(
            f"table {table} is WITHOUT ROWID: move its rows into one that is not"
        )
    rows = _Rows(connection, table, conversions, key=key, double=double)
    with triggers_suspended(connection, table):
        total = rows.convert_all(called)
    if problems := rows.named_problems():
        refuse_damage(connection)  # else the advice would be to delete what can be recovered
        raise error(problems)
    if rows.refused:
        reasons = (f"{named(found)} ({reason})" for reason, found in rows.refused.items())
        raise CredentialDBError(
            f"table {table} refuses what its rows {', '.join(reasons)} are to hold: nothing was "
            "changed; drop a constraint of your own, or mend the revision"
        )
    return total
