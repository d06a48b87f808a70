"""Convert the rows of a table one by one, each exactly once, and report every bad one."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from credential_db.sqlite.driver import DBAPIConnection, driver, quoted
from credential_db.sqlite.errors import CredentialDBError
from credential_db.sqlite.failures import bare
from credential_db.sqlite.shape import column_names, objects
from credential_db.sqlite.table_copy import create_again

logger = logging.getLogger(__name__)

_BATCH = 256  # row ids held in memory at a time
_PROGRESS_EVERY = 5.0  # seconds
_FUNCTION = "_convert_cell"


class BadRow(Exception):
    """A row cannot be converted; the text says why, and holds nothing that is in it."""


class Conversion(NamedTuple):
    """What one column is to hold: ``convert`` of the cells of these columns of the same row."""

    convert: Callable[..., object]
    arguments: tuple[str, ...]


class Double(NamedTuple):
    """A column of which no two rows may hold the same, and what to say of two that do."""

    column: str
    reason: str  # such as "is for the same key as row"; the other row's id is added


class _Function:
    """What SQLite calls for each cell.

    Cells are handed to it and taken from it inside of SQLite, so that they stand in no statement,
    no parameter and no traceback: a trace callback or a logging connection does not see them. It
    raises nothing, since sqlite3 would swallow even an interrupt.
    """

    def __init__(self, conversions: Mapping[str, Conversion]) -> None:
        self._conversions = list(conversions.values())
        self.forget()

    def forget(self) -> None:
        self.called = False
        self.problem: str | None = None
        self.interruption: BaseException | None = None

    def __call__(self, number: int, *cells: object) -> object:
        self.called = True
        if self.problem is not None or self.interruption is not None:
            return None
        try:
            return self._conversions[number].convert(*cells)
        except BadRow as error:
            self.problem = self.problem or str(error)
        except BaseException as error:  # an alarm of the host's, say: raised again outside
            self.interruption = bare(error)
        return None


class _Rows:
    """The rows of one table, on their way."""

    def __init__(
        self,
        connection: DBAPIConnection,
        table: str,
        conversions: Mapping[str, Conversion],
        double: Double | None,
        called: str,
    ) -> None:
        self._connection = connection
        self._table = f"main.{quoted(table)}"
        self._columns = list(conversions)
        self._double = double
        self._called = called
        self._uniques_freed = False
        self._function = _Function(conversions)
        widest = max(len(conversion.arguments) for conversion in conversions.values())
        self._arities = range(2, widest + 2)
        cells = (
            f"{quoted(column)} = {_FUNCTION}({number}, {', '.join(map(quoted, each.arguments))})"
            for number, (column, each) in enumerate(conversions.items())
        )
        # OR ABORT takes the place of an ON CONFLICT clause that would drop a row, or end it all.
        self._update = f"UPDATE OR ABORT {self._table} SET {', '.join(cells)} WHERE rowid = ?"
        self.problems: dict[int, str] = {}

    def convert_all(self) -> int:
        (total,) = self._connection.execute(f"SELECT count(*) FROM {self._table}").fetchone()
        progress = _Progress(self._called, total)
        for arity in self._arities:
            self._connection.create_function(_FUNCTION, arity, self._function)
        try:
            for row in self._rowids():
                self._convert(row)
                progress.one_more()
        finally:
            for arity in self._arities:
                with contextlib.suppress(Exception):  # nothing of the file needs it
                    self._connection.create_function(_FUNCTION, arity, None)
        if progress.done != total:
            raise CredentialDBError(
                f"{self._table} has {total} rows and {progress.done} were found: it is damaged; "
                "nothing was changed"
            )
        return int(total)

    def _rowids(self) -> Iterator[int]:
        """By rowid, whatever is called the key: each row has one, and no two have the same."""
        select = (
            f"SELECT +rowid FROM {self._table} WHERE rowid {{}} ? ORDER BY rowid LIMIT {_BATCH}"
        )
        batch = self._connection.execute(select.format(">="), (-(2**63),)).fetchall()
        while batch:
            yield from (row for (row,) in batch)
            batch = self._connection.execute(select.format(">"), batch[-1]).fetchall()

    def _convert(self, row: int) -> None:
        if not self._written(row) and self._function.problem is None:
            # A UNIQUE column of another row has this one's new value: by mistake, if that row's own
            # turn is still to come.
            if not self._uniques_freed:
                self._uniques_freed = True
                placeholders = ", ".join(
                    f"{quoted(column)} = hex(randomblob(16))" for column in self._columns[1:]
                )
                self._connection.execute(
                    f"UPDATE OR ABORT {self._table} SET {placeholders} WHERE rowid > ?", (row,)
                )
            if not self._written(row) and self._function.problem is None:
                self._function.problem = self._same_as_another(row)
        if self._function.problem is not None:
            self.problems.setdefault(row, self._function.problem)

    def _written(self, row: int) -> bool:
        """Write one row; False where it was refused, for a reason that may be known by then."""
        self._function.forget()
        refused: Exception | None = None
        count = 1
        try:
            count = self._connection.execute(self._update, (row,)).rowcount
        except driver(self._connection).Error as error:
            refused = error
        if self._function.interruption is not None:
            raise self._function.interruption
        if count != 1:
            raise CredentialDBError(
                f"row {row} of {self._table} was written {count} times: nothing was changed"
            )
        if refused is None:
            return True
        if not self._function.called:
            self._function.problem = "holds text that is not UTF-8"
        constraint = isinstance(refused, driver(self._connection).IntegrityError)
        if not self._connection.in_transaction or not (self._function.problem or constraint):
            raise refused
        return False

    def _same_as_another(self, row: int) -> str:
        assert self._double is not None, "no column of this table is UNIQUE, so none was refused"
        column = quoted(self._double.column)
        found = self._connection.execute(
            f"SELECT +rowid FROM {self._table} WHERE rowid <> ?1 AND {column} IS"
            f" (SELECT {column} FROM {self._table} WHERE rowid = ?1) ORDER BY rowid LIMIT 1",
            (row,),
        ).fetchone()
        if found is None:
            raise CredentialDBError(
                f"row {row} of {self._table} cannot be written: another row has the same in a "
                "UNIQUE column; nothing was changed"
            )
        (other,) = found
        self.problems.setdefault(other, f"{self._double.reason} {row}")
        return f"{self._double.reason} {other}"


class _Progress:
    """A line now and then, while there is much to do."""

    def __init__(self, called: str, total: int) -> None:
        self.done = 0
        self._called = called
        self._total = total
        self._begun = time.monotonic()
        self._next_line = self._begun + _PROGRESS_EVERY

    def one_more(self) -> None:
        self.done += 1
        now = time.monotonic() if self.done % _BATCH == 0 else 0.0
        if now >= self._next_line:
            self._next_line = now + _PROGRESS_EVERY
            left = (now - self._begun) / self.done * (self._total - self.done)
            logger.info(
                "%d of %d %s converted, about %.0f s left",
                self.done,
                self._total,
                self._called,
                left,
            )


def convert_rows(
    connection: DBAPIConnection,
    table: str,
    conversions: Mapping[str, Conversion],
    *,
    error: Callable[[list[tuple[int, str]]], Exception],
    called: str,
    double: Double | None = None,
) -> int:
    """Rewrite columns of every row of a table. The user's triggers do not fire meanwhile.

    Args:
        connection: Inside the transaction of an upgrade.
        table: Whose rows.
        conversions: What each column to be written is to hold, made of the row as it was.
        error: Makes the error that is raised of all bad rows, each with its id and the reason.
        called: What to call the rows in a log line.
        double: Where a written column but the first is UNIQUE: what it is made of.

    Returns:
        How many rows there are.

    Raises:
        CredentialDBError: A row was not written exactly once.
    """
    rows = _Rows(connection, table, conversions, double, called)
    with triggers_suspended(connection, table):
        total = rows.convert_all()
        _forget_samples(connection, table)
    if rows.problems:
        raise error(sorted(rows.problems.items()))
    return total


def _forget_samples(connection: DBAPIConnection, table: str) -> None:
    """ANALYZE may keep cells: https://www.sqlite.org/fileformat2.html#stat4tab."""
    if column_names(connection, "sqlite_stat4"):
        connection.execute("DELETE FROM main.sqlite_stat4 WHERE tbl = ? COLLATE NOCASE", (table,))


@contextlib.contextmanager
def triggers_suspended(connection: DBAPIConnection, table: str) -> Iterator[None]:
    """Keep the user's triggers from firing while the rows of a table are rewritten.

    They are for the user's own changes. An audit trigger, say, would copy old keys elsewhere.
    """
    triggers = [
        entry
        for schema in ("main", "temp")
        for entry in objects(connection, schema)
        if entry.type == "trigger" and entry.table.lower() == table.lower()
    ]
    for trigger in triggers:
        connection.execute(f"DROP TRIGGER {trigger.full_name}")
    yield
    for trigger in triggers:
        create_again(connection, trigger)
