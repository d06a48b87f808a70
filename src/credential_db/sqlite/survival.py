"""What must survive every migration: rows, references, constraints, and the user's own objects.

Where SQLite alters a table in place it keeps all of them, and ``table_copy`` sees to its own. Here
they are compared before the commit, whatever a revision did; a loss is refused by name.
"""

import logging
import re
from collections import Counter
from collections.abc import Collection

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
_ANY = re.IGNORECASE | re.DOTALL
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
        self._broken = self._does_not_compile()
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

    def _does_not_compile(self) -> str:
        """What SQLite says of the first view or trigger that does not work; empty where all do.

        It looks into them only when they are used, and in a RENAME COLUMN: into all of them.
        """
        if not any(entry.type in ("view", "trigger") for entry in self._objects.values()):
            return ""
        table = next(iter(self._shape.columns), None)
        if table is None:
            return ""
        column = min(self._shape.columns[table])
        self._connection.execute("SAVEPOINT looking_into_views")
        try:
            self._connection.execute(
                f"ALTER TABLE main.{quoted(table)} RENAME COLUMN {quoted(column)} TO"
                f" {quoted(column)}"
            )
        except Exception as error:
            if not is_driver_error(error) or not str(error).startswith("error in "):
                raise
            return known_text(error)
        finally:
            self._connection.execute("ROLLBACK TO looking_into_views")
            self._connection.execute("RELEASE looking_into_views")
        return ""

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
        before, self._rows = self._rows, self._count_rows()
        lost = {
            table: count
            for table, count in before.items()
            if table not in changed and self._rows.get(table, 0) != count
        }
        renamed = Counter(
            count for table, count in self._rows.items() if table not in before and count
        )
        gone = []
        for table, count in lost.items():
            if table not in self._rows and renamed[count]:
                renamed[count] -= 1  # under another name
            else:
                now = self._rows.get(table, "be dropped with them")
                gone.append(
                    f"table {table} had {count} rows and would "
                    + (f"have {now}" if isinstance(now, int) else str(now))
                )
        if gone:
            raise CredentialDBError(
                f"the migration would lose or add rows: {'; '.join(gone)}. Nothing was changed. A "
                "revision that means to says so in a line of its own, such as "
                f"changes_rows_of = ({next(iter(lost))!r},)"
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
                f"{', '.join(gone)} would be lost: drop or adapt what needs it, then run again. "
                f"{_MISTAKE} unless it drops a table: op.copy_table keeps what belongs to a table"
            )
        broken = self._does_not_compile()
        if broken and broken != self._broken:
            raise UnrecognizedSchema(
                f"after the upgrade a view or trigger would not work any more: {broken}; drop or "
                "adapt it, then run again; nothing was changed"
            )
        self._references.check()
        self._check_triggers(before)
        self._check_virtual_tables(before)

    def _check_triggers(self, before: Shape) -> None:
        """SQLite takes a trigger on an update of a column that does not exist."""
        had, has = (
            {table.lower(): columns for table, columns in shape.columns.items()}
            for shape in (before, self._shape)
        )
        for (_, kind, name), entry in self._objects.items():
            of = re.match(r"CREATE TRIGGER .*?\bUPDATE\s+OF\s(.*?)\sON\s", entry.sql or "", _ANY)
            if kind == "trigger" and of:
                table = entry.table.lower()
                gone = had.get(table, frozenset()) - has.get(table, frozenset())
                gone &= set(re.findall(r"\w+", of[1].lower()))
                if gone:
                    raise UnrecognizedSchema(
                        f"trigger {name} on table {entry.table} would never fire again for "
                        f"{', '.join(sorted(gone))}: drop or adapt it, then run again; nothing was "
                        "changed"
                    )

    def _check_virtual_tables(self, before: Shape) -> None:
        broken = sorted(self._unreadable_virtual_tables() - self._unreadable)
        if broken:
            raise UnrecognizedSchema(
                f"the virtual table {', '.join(broken)} reads a column that this upgrade renames: "
                "drop it, upgrade, and make it anew; nothing was changed"
            )
        lines = before.definition - self._shape.definition
        altered = {line.partition(":")[0] for line in lines}
        for (_, kind, name), entry in self._objects.items():
            for pattern, warning in _WARNINGS.items():
                words = re.search(pattern, entry.sql or "", re.IGNORECASE)
                if words and any(
                    re.search(rf"\b{table}\b", str(entry.sql), re.IGNORECASE) for table in altered
                ):
                    logger.warning("%s %s %s", kind, name, warning)
