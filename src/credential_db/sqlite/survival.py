"""What must survive every migration: rows, references, constraints, and the user's own objects.

Where SQLite alters a table in place it keeps all of them, and ``table_copy`` sees to its own. Here
they are compared before the commit, whatever a revision did; a loss is refused by name.
"""

import logging
import re
from collections import Counter
from collections.abc import Collection, Iterable

from credential_db.sqlite.ddl_text import without_comments
from credential_db.sqlite.driver import DBAPIConnection, is_driver_error, quoted
from credential_db.sqlite.errors import CredentialDBError, UnrecognizedSchema
from credential_db.sqlite.failures import known_text
from credential_db.sqlite.references import References
from credential_db.sqlite.shape import SchemaObject, Shape, objects
from credential_db.sqlite.stamps import STAMP_TABLE

logger = logging.getLogger(__name__)

# What SQLite does not notice, of the user's objects that name a table with other columns now:
_WARNINGS = {
    r"\bNATURAL\b": "joins tables by whichever columns have the same name (NATURAL JOIN), and this "
    "upgrade renames columns: see whether it still says what it should",
    r"\bVIRTUAL\b.*\bcontent\b": "indexes a table whose rows this upgrade rewrites: run its "
    "'rebuild' command (https://www.sqlite.org/fts5.html#the_rebuild_command)",
}
_CHANGE = re.compile(
    r"\b(DELETE|INSERT|UPDATE)\b(?:\s+OF\b(.*?))?\s+ON\b", re.IGNORECASE | re.DOTALL
)
_MISTAKE = "Nothing was changed; this is a mistake in the revision"


class Survivors:
    """All of these, remembered once a file is recognised.

    Args:
        connection: The driver's connection, inside the transaction of the upgrade.
        shape: Of the file, as it is.
        tables: The names of the program's own tables, of any version.
        indexes: The names of the indexes that the revisions themselves create and drop.
    """

    def __init__(
        self,
        connection: DBAPIConnection,
        shape: Shape,
        tables: Collection[str],
        indexes: Collection[str],
    ) -> None:
        """Look at the file."""
        self._connection = connection
        self._tables = frozenset(tables)
        self._indexes = indexes
        self._shape = shape
        self._objects = self._of_the_user()
        for _, kind, name in self._objects:
            if kind == "table":
                name.encode()  # raises UnicodeError now: the clean-up could not name it either
        self._rows = self._count_rows()
        self._references = References(connection, self._tables)
        self._looks = 0
        self._broken = self._not_working()
        self._unreadable = self._unreadable_virtual_tables()

    def _count_rows(self) -> dict[str, int]:
        """Of each table, in one statement, since it is asked after every revision."""
        ours = {table.lower(): table for table in self._tables}
        counts = [
            f"SELECT '{ours[entry.name.lower()]}', count(*) FROM main.{quoted(entry.name)}"
            for entry in objects(self._connection)
            if entry.type == "table" and entry.name.lower() in ours
        ]
        return dict(self._connection.execute(" UNION ALL ".join(counts) or "SELECT 1 WHERE 0"))

    def _of_the_user(self) -> dict[tuple[str, str, str], SchemaObject]:
        ours = {table.lower() for table in self._tables}
        return {
            (entry.schema, entry.type, entry.name): entry
            for entry in (*self._shape.objects, *objects(self._connection, "temp"))
            if entry.sql is not None
            and not (entry.type == "table" and entry.name.lower() in ours | {STAMP_TABLE})
            and not (entry.type == "index" and entry.name in self._indexes)
        }

    def _not_working(self) -> dict[str, str]:
        """Which of the user's views and triggers do not work, and why; nothing of them is run."""
        self._looks += 1  # makes the text new: the driver would use a statement again
        broken = {}
        for entry in self._objects.values():
            if entry.type in ("view", "trigger"):
                try:
                    use = self._use_of(entry)
                    self._connection.execute(f"EXPLAIN /* {self._looks} */ {use}").close()
                except Exception as error:
                    if not is_driver_error(error):
                        raise
                    broken[f"{entry.type} {entry.name}"] = known_text(error)
        return broken

    def _use_of(self, entry: SchemaObject) -> str:
        """A statement for which SQLite looks into a view, or a trigger."""
        table = quoted(entry.table)
        change = _CHANGE.search(without_comments(entry.sql or ""))
        if entry.type == "view" or change is None:
            return f"SELECT * FROM {table}"
        if change[1].upper() == "DELETE":
            return f"DELETE FROM {table}"
        if change[1].upper() == "INSERT":
            return f"INSERT INTO {table} DEFAULT VALUES"
        first = self._connection.execute(f"SELECT * FROM {table} LIMIT 0").description[0][0]
        columns = (change[2] or quoted(first)).replace(",", " = NULL,")
        return f"UPDATE {table} SET {columns} = NULL"

    def _unreadable_virtual_tables(self) -> set[str]:
        """Those over a table of ours (full-text search with external content) that fail."""
        unreadable = set()
        for entry in self._objects.values():
            if entry.type == "table" and re.match(r"\s*CREATE\s+VIRTUAL", entry.sql or "", re.I):
                try:
                    self._connection.execute(f"SELECT * FROM {entry.full_name} LIMIT 1").fetchall()
                except Exception as error:
                    if not is_driver_error(error):
                        raise
                    unreadable.add(entry.name)
        return unreadable

    def check_rows(self, changed: Collection[str]) -> None:
        """Account for every row after one revision.

        Args:
            changed: The tables whose rows the revision says that it adds or deletes.

        Raises:
            CredentialDBError: Rows of another table came or went.
        """
        if not isinstance(changed, tuple) or not set(changed) <= self._tables:
            raise CredentialDBError(
                f"changes_rows_of is a tuple of names of this program's tables, and {changed!r} is "
                "none: this is a mistake in the revision"
            )
        before, self._rows = self._rows, self._count_rows()
        lost = {
            table: count
            for table, count in before.items()
            if table not in changed and self._rows.get(table, 0) != count
        }
        renamed = Counter(
            count for table, count in self._rows.items() if table not in before and count
        )
        gone = {}
        for table, count in lost.items():
            if table not in self._rows and renamed[count]:
                renamed[count] -= 1  # under another name
            else:
                now = self._rows.get(table, "be dropped with them")
                gone[table] = f"table {table} had {count} rows and would " + (
                    f"have {now}" if isinstance(now, int) else str(now)
                )
        if gone:
            raise CredentialDBError(
                f"the migration would lose or add rows: {'; '.join(gone.values())}. Nothing was "
                "changed. A revision that means to says so in a line of its own, such as "
                f"changes_rows_of = ({next(iter(gone))!r},)"
            )

    def check(self, shape: Shape, wanted: Collection[str]) -> None:
        """Refuse to commit a loss.

        Args:
            shape: Of the file, as it is now.
            wanted: What the definition of the file's tables is to be now: a line that was there
                before and is in it must be there still.

        Raises:
            CredentialDBError: References or constraints would be lost.
            UnrecognizedSchema: Something of the user's would be lost, or not work any more.
        """
        before, self._shape = self._shape, shape
        lost = sorted(line for line in before.definition - shape.definition if line in wanted)
        if lost:
            raise CredentialDBError(
                f"the migration would lose {'; '.join(lost)}. {_MISTAKE}: op.copy_table takes the "
                "complete new definition, and keeps what belongs to the table"
            )
        objects_before, self._objects = self._objects, self._of_the_user()
        gone = [
            f"{kind} {name} on table {entry.table}" if kind != "table" else f"table {name}"
            for (schema, kind, name), entry in objects_before.items()
            if (schema, kind, name) not in self._objects
        ]
        if gone:
            raise UnrecognizedSchema(
                f"{', '.join(gone)} would be lost: drop or adapt what needs it, then run again; "
                "nothing was changed. In a revision, op.copy_table keeps what belongs to a table"
            )
        broken = self._not_working()
        reasons = [f"{name} ({broken[name]})" for name in broken.keys() - self._broken]
        if reasons:
            raise UnrecognizedSchema(
                f"after the upgrade {', '.join(sorted(reasons))} would not work any more: drop or "
                "adapt it, then run again; nothing was changed"
            )
        self._references.check(shape.definition - before.definition)
        self._check_virtual_tables(before, objects_before.values())

    def _check_virtual_tables(self, before: Shape, objects: Iterable[SchemaObject]) -> None:
        broken = sorted(self._unreadable_virtual_tables() - self._unreadable)
        if broken:
            raise UnrecognizedSchema(
                f"the virtual table {', '.join(broken)} reads a column that this upgrade renames: "
                "drop it, upgrade, and make it anew; nothing was changed"
            )
        altered = {line.partition(":")[0] for line in before.definition - self._shape.definition}
        for entry in objects:
            if any(re.search(rf"\b{re.escape(each)}\b", str(entry.sql), re.I) for each in altered):
                if entry.type == "view":
                    altered = {*altered, entry.name}
                for pattern, warning in _WARNINGS.items():
                    if re.search(pattern, str(entry.sql), re.IGNORECASE):
                        logger.warning("%s %s %s", entry.type, entry.name, warning)
