"""Give a table another definition by copying its rows, and make it exactly that of a snapshot.

"Making Other Kinds Of Table Schema Changes", https://www.sqlite.org/lang_altertable.html#otheralter,
whose twelve steps are quoted below. Steps 1, 2, 11 and 12 (foreign keys off, one transaction), and
step 10 (foreign_key_check), are those of the upgrade around it.
"""

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping

from credential_db.sqlite.causes import known_text
from credential_db.sqlite.driver import DBAPIConnection, folded, literal, module_of, quoted
from credential_db.sqlite.errors import CredentialDBError, UnrecognizedSchema
from credential_db.sqlite.schema import (
    Schema,
    SchemaObject,
    column_names,
    objects,
    read_schema,
    spelled,
    tokens,
)

_CREATE = re.compile("^CREATE (TABLE|INDEX|UNIQUE INDEX|TRIGGER) ")  # as SQLite stores it
# What a table may define beyond its snapshot, and a copy would take away.
_LOST_BY_A_COPY = ("UNIQUE", "CHECK", "FOREIGN KEY", "STRICT", "WITHOUT ROWID")
_NAMED_AT_MOST = 20  # rows in a message

Snapshots = Mapping[str, Schema]
"""For each table of a file the snapshot that it is compared with."""


def copy_table(
    connection: DBAPIConnection,
    table: str,
    definition: str,
    values: Mapping[str, str] | None = None,
) -> None:
    """Do what ``Operations.copy_table`` says; the name in the definition does not matter.

    A cell of a column that both definitions have keeps its bytes and its storage class.
    """
    # 3. Remember the format of all indexes, triggers, and views associated with table X.
    dependants = _dependants(connection, table, "index", "trigger")
    # 4. Use CREATE TABLE to construct a new table "new_X".
    copy = f"_copy_of_{table}"
    _, _, body = definition.replace(quoted(table), "", 1).partition("(")
    connection.execute(f"CREATE TABLE main.{quoted(copy)} ({body}")
    if "autoincrement" in tokens(definition):
        # It goes on counting where X is: https://www.sqlite.org/autoinc.html.
        counter = f"main.sqlite_sequence WHERE name = {literal(table)} COLLATE NOCASE"
        highest = f"{literal(copy)}, max(CAST(seq AS INTEGER)) FROM {counter} GROUP BY 1"
        connection.execute(f"INSERT INTO main.sqlite_sequence SELECT {highest}")
        connection.execute(f"DELETE FROM {counter}")
    # 5. Transfer content from X into new_X.
    _transfer(connection, table, copy, {folded(n): value for n, value in (values or {}).items()})
    # 6. Drop the old table X.
    connection.execute(f"DROP TABLE main.{quoted(table)}")
    # 7. Change the name of new_X to X. If a view or trigger names X, which does not exist right
    # now, only the legacy RENAME TABLE works.
    connection.execute("PRAGMA legacy_alter_table = ON")
    connection.execute(f"ALTER TABLE main.{quoted(copy)} RENAME TO {quoted(table)}")
    connection.execute("PRAGMA legacy_alter_table = OFF")
    # 8. Use CREATE INDEX, CREATE TRIGGER to reconstruct indexes and triggers.
    _recreate(connection, dependants)
    # 9. If any views refer to table X in a way that is affected by the schema change: the upgrade
    # checks all views once, before the commit.


def create(connection: DBAPIConnection, statements: Iterable[str]) -> None:
    """Run ``CREATE`` statements, spelled as in ``sqlite_schema``, in the main schema."""
    for statement in statements:
        connection.execute(_CREATE.sub(r"\g<0>main.", statement))


@contextlib.contextmanager
def triggers_suspended(connection: DBAPIConnection, table: str | None = None) -> Iterator[None]:
    """Drop the user's triggers on this table, or on all, and recreate them with the same text.

    They are for the user's own changes: an audit trigger, say, would copy old keys elsewhere.
    """
    triggers = _dependants(connection, table, "trigger")
    for trigger in triggers:
        connection.execute(f"DROP TRIGGER main.{quoted(trigger.name)}")
    yield
    _recreate(connection, triggers)


def forget_samples(connection: DBAPIConnection, table: str | None) -> None:
    """Delete the cells that ANALYZE has kept: https://www.sqlite.org/fileformat2.html#stat4tab."""
    condition = f"WHERE tbl = {literal(table)} COLLATE NOCASE" if table else ""
    for samples in ("sqlite_stat3", "sqlite_stat4"):
        if column_names(connection, samples):
            connection.execute(f"DELETE FROM main.{samples} {condition}")


def _transfer(connection: DBAPIConnection, table: str, copy: str, values: dict[str, str]) -> None:
    schema = read_schema(connection, (table, copy), ())
    kept = sorted(_stored(connection, copy) & schema.columns[table] - values.keys())
    # A column that is computed from now on must have computed what was stored in it.
    computed = _stored(connection, table) & schema.columns[copy] - values.keys()
    cells = {**{name: f"o.{quoted(name)}" for name in kept}, **values}
    key = schema.rowids.get(copy, "rowid")
    if folded(key) not in kept:
        key = cells["rowid"] = "rowid"
    insert = (
        f"INSERT OR ABORT INTO main.{quoted(copy)} ({', '.join(map(quoted, cells))})"
        f" SELECT {', '.join(cells.values())} FROM main.{quoted(table)} AS o"
        f" WHERE o.{quoted(key)} IS NOT NULL"  # which SQLite would replace by a new rowid
    )
    refused, reason = module_of(connection).IntegrityError, "would get other values"
    try:
        connection.execute(insert)
    except refused as error:
        reason = f"do not fit ({known_text(error).replace(copy, table)})"
        for row in connection.execute(f"SELECT +rowid FROM main.{quoted(table)}").fetchall():
            with contextlib.suppress(refused):
                connection.execute(f"{insert} AND o.rowid = ?", row)
    same = " AND ".join(
        f"+n.{name} IS +o.{name} AND CAST(n.{name} AS BLOB) IS CAST(o.{name} AS BLOB)"
        for name in map(quoted, {*kept, *computed})
    )
    found = connection.execute(
        f"SELECT +o.rowid FROM main.{quoted(table)} AS o WHERE NOT EXISTS (SELECT 1 FROM"
        f" main.{quoted(copy)} AS n WHERE n.rowid = o.{quoted(key)} AND {same or 'TRUE'})"
        " ORDER BY o.rowid"
    ).fetchall()
    if rows := [str(row) for (row,) in found]:
        raise UnrecognizedSchema(
            f"table {table} needs another definition, and its rows {named(rows)} {reason}: "
            "repair or delete them (WHERE rowid = ...), then run again; nothing was changed"
        )


def _stored(connection: DBAPIConnection, table: str) -> frozenset[str]:
    """The names of a table's columns, folded, except computed ones."""
    columns = connection.execute(f"PRAGMA main.table_info({quoted(table)})").fetchall()
    return frozenset(folded(column[1]) for column in columns)


def _dependants(connection: DBAPIConnection, table: str | None, *types: str) -> list[SchemaObject]:
    return [
        each
        for each in objects(connection)
        if each.type in types and folded(table or each.table) == folded(each.table)
    ]


def _recreate(connection: DBAPIConnection, dependants: Iterable[SchemaObject]) -> None:
    for each in dependants:
        try:
            create(connection, [each.sql])
        except module_of(connection).Error as error:
            raise UnrecognizedSchema(
                f"{each.type} {each.name} on table {each.table} would be lost "
                f"({known_text(error)}): drop or adapt it, then run again; nothing was changed"
            ) from None


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
    if not column_names(connection, parent):
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
