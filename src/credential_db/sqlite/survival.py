"""What must survive every migration: the user's own objects, rows, references and constraints.

SQLite alters a table in place where it can. Where Alembic has to copy one instead, SQLite drops
its triggers and indexes with the old table, and forgets how far AUTOINCREMENT had counted. What
can be put back is put back; for the rest the upgrade stops before it commits.
"""

import logging
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from credential_db.sqlite.driver import DBAPIConnection, quoted
from credential_db.sqlite.errors import CredentialDBError, UnrecognizedSchema
from credential_db.sqlite.failures import is_driver_error
from credential_db.sqlite.shape import Shape, column_names, definition_of, is_autoincrement

logger = logging.getLogger(__name__)


class SchemaObject(NamedTuple):
    """A trigger or index, as ``sqlite_master`` has it."""

    schema: str  # main, or temp on a connection that was handed in
    type: str
    name: str
    table: str
    sql: str


class Dependants:
    """The triggers, indexes and counters that go down with a table that is copied.

    Args:
        connection: The driver's connection, inside the transaction of the upgrade.
        ours: Names of the indexes that the revisions themselves create and drop.
    """

    def __init__(self, connection: DBAPIConnection, ours: Container[str]) -> None:
        """Remember all there are."""
        self._connection = connection
        self._ours = ours
        self._remember()

    def _remember(self) -> None:
        self._objects = _triggers_and_indexes(self._connection)
        self._counters = _counters(self._connection)
        self._statistics = _statistics(self._connection)

    def restore(self) -> None:
        """Put back what a table copy took along, and remember all there are now.

        Raises:
            UnrecognizedSchema: The user's own trigger or index does not fit the table any more.
        """
        present = set(_triggers_and_indexes(self._connection))
        names = {(entry.schema, entry.type, entry.name) for entry in present}
        lost = [
            entry
            for entry in self._objects
            if (entry.schema, entry.type, entry.name) not in names and entry.name not in self._ours
        ]
        for entry in lost:
            try:
                self._connection.execute(entry.sql)
                if entry.type == "trigger":
                    _compile_triggers(self._connection, entry.table)
            except Exception as error:
                if not is_driver_error(error):
                    raise
                raise UnrecognizedSchema(
                    f"{entry.type} {entry.name} on table {entry.table} would be lost: {error}; "
                    "drop or adapt it, then run again"
                ) from None
        now = _counters(self._connection)
        for table, highest in self._counters.items():
            if now.get(table, -1) < highest:
                _restore_counter(self._connection, table, highest)
        _restore_statistics(self._connection, self._statistics)
        self._remember()


def _triggers_and_indexes(connection: DBAPIConnection) -> list[SchemaObject]:
    return [
        # SQLite keeps the statement without the word TEMP.
        SchemaObject(schema, kind, name, table, sql.replace("CREATE", create, 1))
        for schema, create in (("main", "CREATE"), ("temp", "CREATE TEMP"))
        for kind, name, table, sql in connection.execute(
            f"SELECT type, name, tbl_name, sql FROM {schema}.sqlite_master"
            " WHERE type IN ('trigger', 'index') AND sql IS NOT NULL ORDER BY rowid"
        ).fetchall()
    ]


def _counters(connection: DBAPIConnection) -> dict[str, int]:
    """How far each AUTOINCREMENT has counted: https://www.sqlite.org/autoinc.html."""
    if not column_names(connection, "sqlite_sequence"):
        return {}
    return dict(connection.execute("SELECT name, seq FROM main.sqlite_sequence").fetchall())


def _restore_counter(connection: DBAPIConnection, table: str, highest: int) -> None:
    row = connection.execute(
        "SELECT sql FROM main.sqlite_master WHERE type = 'table' AND name = ?", (table,)
    ).fetchone()
    if row is None or not is_autoincrement(row[0]):
        return
    connection.execute("DELETE FROM main.sqlite_sequence WHERE name = ?", (table,))
    connection.execute("INSERT INTO main.sqlite_sequence VALUES (?, ?)", (table, highest))


def _statistics(connection: DBAPIConnection) -> set[tuple[Any, ...]]:
    """What ANALYZE has found: https://www.sqlite.org/fileformat2.html#stat1tab."""
    if not column_names(connection, "sqlite_stat1"):
        return set()
    return set(connection.execute("SELECT tbl, idx, stat FROM main.sqlite_stat1").fetchall())


def _restore_statistics(connection: DBAPIConnection, before: set[tuple[Any, ...]]) -> None:
    names = {
        name for (name,) in connection.execute("SELECT name FROM main.sqlite_master").fetchall()
    }
    for table, index, statistics in before - _statistics(connection):
        if table in names and (index is None or index in names):
            connection.execute(
                "INSERT INTO main.sqlite_stat1 VALUES (?, ?, ?)", (table, index, statistics)
            )


def _compile_triggers(connection: DBAPIConnection, table: str) -> None:
    """SQLite looks into a trigger only when a statement would fire it; EXPLAIN is enough."""
    columns = [
        row[1] for row in connection.execute(f"PRAGMA main.table_info({quoted(table)})").fetchall()
    ]
    (schema_version,) = connection.execute("PRAGMA main.schema_version").fetchone()
    assignments = ", ".join(f"{quoted(column)} = {quoted(column)}" for column in columns)
    for statement in (
        f"INSERT INTO main.{quoted(table)} DEFAULT VALUES",
        f"UPDATE main.{quoted(table)} SET {assignments}",
        f"DELETE FROM main.{quoted(table)}",
    ):
        # The driver keeps prepared statements by their text, and an EXPLAIN does not notice that
        # the schema has changed since.
        connection.execute(f"EXPLAIN {statement} -- schema {schema_version}").fetchall()


@contextmanager
def triggers_suspended(connection: DBAPIConnection, table: str) -> Iterator[None]:
    """Keep the user's triggers from firing while a revision rewrites the rows of a table.

    They are for the user's own changes. An audit trigger, say, would copy old keys elsewhere.
    """
    triggers = [
        entry
        for entry in _triggers_and_indexes(connection)
        if entry.type == "trigger" and entry.table.lower() == table.lower()
    ]
    for trigger in triggers:
        connection.execute(f"DROP TRIGGER {trigger.schema}.{quoted(trigger.name)}")
    yield
    for trigger in triggers:
        connection.execute(trigger.sql)


class References:
    """Rows on both sides of every foreign key, and those that point nowhere."""

    def __init__(self, connection: DBAPIConnection) -> None:
        """Count them."""
        self.orphans: Counter[str] = Counter()
        self.rows: dict[str, int] = {}
        children = connection.execute(
            'SELECT t.name, f."table" FROM main.sqlite_master AS t,'
            " pragma_foreign_key_list(t.name) AS f WHERE t.type = 'table' AND t.rootpage > 0"
        ).fetchall()
        for child in sorted({child for child, _ in children}):
            try:
                orphans = connection.execute(f"PRAGMA main.foreign_key_check({quoted(child)})")
                self.orphans.update(f"{child} -> {parent}" for _, _, parent, _ in orphans)
            except Exception as error:
                if "foreign key mismatch" not in str(error):
                    raise
                self.orphans[f"{child} ({error})"] += 1  # the user's own key has a mistake in it
        for table in sorted({name for pair in children for name in pair}):
            if column_names(connection, table):
                self.rows[table.lower()] = connection.execute(
                    f"SELECT count(*) FROM main.{quoted(table)}"
                ).fetchone()[0]

    def refuse_losses(self, after: "References") -> None:
        """Compare with the same counts after the migration.

        Raises:
            CredentialDBError: Rows are gone, or point nowhere that did not before.
        """
        gone = [
            f"{table} had {count} rows and would have {after.rows[table]}"
            for table, count in self.rows.items()
            if after.rows.get(table, count) != count
        ]
        gone += [
            f"{count} rows of {reference} would point nowhere"
            for reference, count in (after.orphans - self.orphans).items()
        ]
        if gone:
            raise CredentialDBError(
                f"the migration would lose rows: {'; '.join(gone)}. Nothing was changed; this is "
                "a mistake in the revision"
            )


class Invariants:
    """All of these, over one upgrade or downgrade.

    Args:
        connection: The driver's connection.
    """

    def __init__(self, connection: DBAPIConnection) -> None:
        """Nothing is read yet: the transaction has not begun."""
        self._connection = connection

    def remember(self, shapes: Sequence[Shape]) -> None:
        """Look at the file once it is adopted.

        Args:
            shapes: Of all versions, and of the metadata.
        """
        self._tables = {table for shape in shapes for table in shape.columns}
        self._indexes = {index for shape in shapes for index in shape.indexes}
        self._dependants = Dependants(self._connection, self._indexes)
        self._references = References(self._connection)
        for reference, count in self._references.orphans.items():
            logger.warning(
                "%d rows of %s point nowhere. They did before this upgrade, and stay as they are",
                count,
                reference,
            )
        self._definition = self._defined()

    def after_revision(self) -> None:
        """Put back what the revision took along.

        Raises:
            UnrecognizedSchema: Something of the user's cannot be put back.
        """
        self._dependants.restore()

    def check(self, expected: Sequence[Shape]) -> None:
        """Refuse to commit a loss.

        Args:
            expected: What the file's definition is to be now: a constraint that was there before
                and is in one of these must be there still.

        Raises:
            CredentialDBError: Rows, references or constraints would be lost.
        """
        self._references.refuse_losses(References(self._connection))
        wanted = {line for shape in expected for line in shape.definition}
        lost = sorted(self._definition & wanted - self._defined())
        if lost:
            raise CredentialDBError(
                f"the migration would lose {'; '.join(lost)}. Nothing was changed; this is a "
                "mistake in the revision: a table copy has to name what it keeps"
            )

    def _defined(self) -> frozenset[str]:
        present = [table for table in self._tables if column_names(self._connection, table)]
        return definition_of(self._connection, present, self._indexes)
