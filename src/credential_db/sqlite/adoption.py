"""Make the tables of a file exactly those of a snapshot, or name the rows that prevent it."""

from collections.abc import Iterator, Mapping

from credential_db.sqlite.driver import DBAPIConnection, folded, literal, quoted
from credential_db.sqlite.errors import CredentialDBError, UnrecognizedSchema
from credential_db.sqlite.schema import Schema
from credential_db.sqlite.sql import spelled
from credential_db.sqlite.table_copy import copy_table, create

# What a table may define beyond its snapshot, and a copy would take away.
_LOST_BY_A_COPY = ("UNIQUE", "CHECK", "FOREIGN KEY", "STRICT", "WITHOUT ROWID")
_NAMED_AT_MOST = 20  # rows in a message

Snapshots = Mapping[str, Schema]
"""For each table of a file the snapshot that it is compared with."""


def differences(found: Schema, snapshots: Snapshots) -> list[str]:
    """What the definitions of the file's tables lack, as lines for people."""
    return sorted(
        f"{table}: {line}" for table in snapshots for line in _lacking(found, snapshots, table)
    )


def _lacking(found: Schema, snapshots: Snapshots, table: str) -> frozenset[str]:
    lines = found.definitions[table]
    conflict = (f"{line} (not in the snapshot)" for line in lines if line.startswith("ON CONFLICT"))
    return (snapshots[table].definitions[table] - lines).union(conflict)


def _is_index(line: str) -> bool:
    return line.startswith(("create index ", "create unique index "))


def obstacles(
    connection: DBAPIConnection, found: Schema, snapshots: Snapshots
) -> Iterator[CredentialDBError]:
    """Everything that prevents the repair of a table, as far as it can be seen without trying."""
    existing = {folded(entry.name) for entry in found.objects if entry.type == "table"}
    for table, snapshot in snapshots.items():
        lacking = _lacking(found, snapshots, table)
        if all(_is_index(line) for line in lacking):
            continue
        restored = {line.partition(" ON ")[0] for line in lacking}  # with other actions
        added = sorted(
            line
            for line in found.definitions[table] - snapshot.definitions[table]
            if (line.startswith(_LOST_BY_A_COPY) or " COLLATE " in line)
            and line.partition(" ON ")[0] not in restored
            and not _is_dangling(line, existing)
        )
        if added:
            yield UnrecognizedSchema(
                f"table {table} lacks {', '.join(sorted(lacking))}, and a repair would remove what "
                f"you have added to it: {', '.join(added)}. Move your rows into a table with the "
                "expected definition, then run again"
            )
        for line in sorted(lacking):
            if line.startswith("FOREIGN KEY to "):
                yield from _orphans(connection, table, line)


def _is_dangling(line: str, existing: set[str]) -> bool:
    """Whether it is a foreign key to a table that was dropped."""
    parent = line.removeprefix("FOREIGN KEY to ").partition(" (")[0]
    return line.startswith("FOREIGN KEY to ") and parent not in existing


def _orphans(connection: DBAPIConnection, table: str, line: str) -> Iterator[CredentialDBError]:
    """The rows that do not satisfy a foreign key, as a snapshot's line defines it."""
    parent, _, rest = line.removeprefix("FOREIGN KEY to ").partition(" (")
    pairs = [pair.split(" -> ") for pair in rest.partition(")")[0].split(", ")]
    known = f"SELECT count(*) FROM main.sqlite_master WHERE name = {literal(parent)} COLLATE NOCASE"
    if not connection.execute(known).fetchone()[0]:
        return
    equal = " AND ".join(f"p.{quoted(there)} = c.{quoted(here)}" for here, there in pairs)
    set_ = " AND ".join(f"c.{quoted(here)} IS NOT NULL" for here, _ in pairs)
    condition = f"{set_} AND NOT EXISTS (SELECT 1 FROM main.{quoted(parent)} AS p WHERE {equal})"
    query = f"SELECT +c.rowid FROM main.{quoted(table)} AS c WHERE {condition} ORDER BY 1"
    rows = [str(row) for (row,) in connection.execute(query).fetchall()]
    if rows:
        yield UnrecognizedSchema(
            f"a foreign key of table {table} requires a row of {parent}, and there is none for its "
            f"rows {named(rows)}: insert the missing rows, or delete these and run again: "
            f"DELETE FROM {quoted(table)} WHERE rowid IN ({', '.join(rows[:_NAMED_AT_MOST])});"
        )


def named(rows: list[str]) -> str:
    """Rows by their rowids, or the first of them."""
    more = f" and {len(rows) - _NAMED_AT_MOST} more" if rows[_NAMED_AT_MOST:] else ""
    return ", ".join(rows[:_NAMED_AT_MOST]) + more


def make_exact(connection: DBAPIConnection, found: Schema, snapshots: Snapshots) -> list[str]:
    """Give each table the definition of its snapshot, by a copy if it lacks something.

    Returns what was repaired; raises if rows or constraints of the user's prevent it.
    """
    for obstacle in obstacles(connection, found, snapshots):
        raise obstacle
    for table, snapshot in snapshots.items():
        lacking = _lacking(found, snapshots, table)
        create_table, *create_indexes = snapshot.statements[table]
        if not all(_is_index(line) for line in lacking):
            copy_table(connection, table, create_table)
        create(connection, [sql for sql in create_indexes if spelled(sql) in lacking])
    return differences(found, snapshots)
