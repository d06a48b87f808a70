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
from credential_db.sqlite.shape import SchemaObject, Shape, column_names, objects
from credential_db.sqlite.stamps import STAMP_TABLE

logger = logging.getLogger(__name__)

# What SQLite does not notice, of the user's objects that name a table with other columns now:
_WARNINGS = {
    r"\bNATURAL\b": "joins tables by whichever columns have the same name (NATURAL JOIN), and this "
    "upgrade renames columns: see whether it still says what it should",
    r"\bVIRTUAL\b.*\bcontent\b": "indexes a table whose rows this upgrade rewrites: run its "
    "'rebuild' command (https://www.sqlite.org/fts5.html#the_rebuild_command)",
}
_UPDATE_OF = re.compile(
    r"CREATE TRIGGER (?:(?!\sON\s).)*?\bUPDATE\s+OF\s(.*?)\sON\s", re.IGNORECASE | re.DOTALL
)
_AROUND_NAMES = ' "`[]\n\t\r'
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
        self._references = References(connection, shape, self._tables)
        self._broken = self._does_not_compile()
        self._unreadable = self._unreadable_virtual_tables()
        self._silent = self._silent_triggers()

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
        self._connection.execute("SAVEPOINT looking_into_views")
        try:
            self._connection.execute("CREATE TABLE main._looking_into_views (a)")
            self._connection.execute("ALTER TABLE main._looking_into_views RENAME COLUMN a TO a")
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
                f"{', '.join(gone)} would be lost: drop or adapt what needs it, then run again; "
                "nothing was changed. In a revision, op.copy_table keeps what belongs to a table"
            )
        broken = self._does_not_compile()
        if broken and broken != self._broken:
            raise UnrecognizedSchema(
                f"after the upgrade a view or trigger would not work any more: {broken}; drop or "
                "adapt it, then run again; nothing was changed"
            )
        self._references.check()
        self._check_triggers()
        self._check_virtual_tables(before, objects_before.values())

    def _silent_triggers(self) -> set[tuple[str, str]]:
        """Those on an update of a column that does not exist, with the column."""
        silent = set()
        for entry in () if self._broken else self._objects.values():  # a view may have no columns
            of = _UPDATE_OF.match(without_comments(entry.sql or ""))
            if entry.type == "trigger" and of:
                named = {name.strip(_AROUND_NAMES).lower() for name in of[1].split(",")}
                gone = named - column_names(self._connection, entry.table)
                silent |= {(f"{entry.name} on table {entry.table}", name) for name in gone}
        return silent

    def _check_triggers(self) -> None:
        for trigger, column in sorted(self._silent_triggers() - self._silent):
            raise UnrecognizedSchema(
                f"trigger {trigger} would never fire again for {column}: drop or adapt it, then "
                "run again; nothing was changed"
            )

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
