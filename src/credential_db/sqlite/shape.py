"""The shape of a file: its tables, and what their definitions promise as lines to compare.

Autogenerate does not see CHECK, AUTOINCREMENT, COLLATE or a primary key; these lines do.
"""

import re
import sqlite3
from collections.abc import Collection, Container, Iterator, Mapping
from contextlib import closing
from functools import cache
from typing import Any, NamedTuple, cast

from credential_db.sqlite.ddl_text import (
    COLLATED_COLUMN,
    STRING,
    checks,
    is_autoincrement,
    normalized,
    without_comments,
)
from credential_db.sqlite.driver import DBAPIConnection, quoted


class SchemaObject(NamedTuple):
    """A table, index, view or trigger, as ``sqlite_schema`` has it."""

    schema: str  # main, or temp on a connection that was handed in
    type: str
    name: str
    table: str
    sql: str | None

    @property
    def full_name(self) -> str:
        """Its name, in its schema."""
        return f"{self.schema}.{quoted(self.name)}"


def objects(connection: DBAPIConnection, schema: str = "main") -> list[SchemaObject]:
    """Everything in a schema, in the order in which it was made, but for SQLite's own.

    https://www.sqlite.org/schematab.html. The operators keep a host's converters off.
    """
    return [
        SchemaObject(schema, *row)
        for row in connection.execute(
            "SELECT type || '', name || '', tbl_name || '', sql || ''"
            f" FROM {schema}.sqlite_master ORDER BY rowid"
        ).fetchall()
        if not row[1].startswith("sqlite_")
    ]


def table_sql(connection: DBAPIConnection, table: str) -> str | None:
    """The ``CREATE TABLE`` of a table of the file, whatever the case of its name; None for none."""
    row = connection.execute(
        "SELECT sql || '' FROM main.sqlite_master WHERE type = 'table' AND name = ? COLLATE NOCASE",
        (table,),
    ).fetchone()
    return None if row is None else str(row[0])


class Shape(NamedTuple):
    """What one version, or the metadata, makes of an empty file."""

    columns: Mapping[str, frozenset[str]]  # of each table
    statements: Mapping[str, tuple[str, ...]]  # that create each table and its indexes
    indexes: frozenset[str]  # the names of those made by CREATE INDEX
    definition: frozenset[str]

    def of(self, table: str) -> frozenset[str]:
        """What one table promises."""
        return frozenset(line for line in self.definition if line.startswith(f"{table}: "))


def read_shape(connection: DBAPIConnection) -> Shape:
    """The shape of a file that holds one program's tables and nothing else."""
    statements: dict[str, tuple[str, ...]] = {}
    found = objects(connection)
    for entry in sorted(found, key=lambda entry: entry.type != "table"):
        if entry.sql is not None:
            statements[entry.table] = (*statements.get(entry.table, ()), entry.sql)
    indexes = frozenset(entry.name for entry in found if entry.type == "index" and entry.sql)
    return Shape(
        {table: column_names(connection, table) for table in statements},
        statements,
        indexes,
        definition_of(connection, statements, indexes),
    )


@cache
def shape_of_script(script: str) -> Shape:
    """The shape that a script of ``CREATE`` statements makes."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(script)
        return read_shape(cast(DBAPIConnection, connection))


def column_names(connection: DBAPIConnection, table: str) -> frozenset[str]:
    """The names of a table's columns, in lower case; none where there is no such table."""
    return frozenset(str(column[1]).lower() for column in _columns(connection, table))


def _columns(connection: DBAPIConnection, table: str) -> list[tuple[Any, ...]]:
    return connection.execute(f"PRAGMA main.table_xinfo({quoted(table)})").fetchall()


def rowid_column(connection: DBAPIConnection, table: str) -> str | None:
    """The column that is another name of the rowid: https://www.sqlite.org/lang_createtable.html#rowid."""
    keys = [column for column in _columns(connection, table) if column[5]]
    indexed = any(row[3] == "pk" for row in _index_list(connection, table))
    if len(keys) == 1 and str(keys[0][2]).upper() == "INTEGER" and not indexed:
        return str(keys[0][1])
    return None


def definition_of(
    connection: DBAPIConnection, tables: Collection[str], indexes: Container[str]
) -> frozenset[str]:
    """Everything that the definitions of these tables promise, as lines that people can read.

    Independent of the order of columns, and of how the DDL was written.

    Args:
        connection: Rows come as tuples.
        tables: Their names; those that do not exist promise nothing.
        indexes: The names of those, made by CREATE INDEX, that belong to the definition.
    """
    lines = {
        f"{table}: {line}"
        for table in tables
        for lines_of in (_columns_of, _foreign_keys_of, _constraint_indexes_of, _written_in)
        for line in lines_of(connection, table)
    }
    names = {table.lower(): table for table in tables}
    for entry in objects(connection):
        if entry.name in indexes and entry.sql and entry.table.lower() in names:
            lines.add(f"{names[entry.table.lower()]}: {normalized(entry.sql)}")
    return frozenset(lines)


def _columns_of(connection: DBAPIConnection, table: str) -> Iterator[str]:
    for _, name, kind, not_null, default, key, hidden in _columns(connection, table):
        yield (
            f"column {name.lower()} {kind.upper()}"
            f"{' NOT NULL' if not_null else ''}"
            f"{'' if default is None else f' DEFAULT {normalized(str(default))}'}"
            f"{' (hidden)' if hidden else ''}"
        )
        if key:
            yield f"column {name.lower()} is number {key} of the PRIMARY KEY"
    rowid = rowid_column(connection, table)
    if rowid:
        yield f"column {rowid.lower()} is the rowid"


def _foreign_keys_of(connection: DBAPIConnection, table: str) -> Iterator[str]:
    keys: dict[int, list[tuple[Any, ...]]] = {}
    for key, *reference in connection.execute(
        f"PRAGMA main.foreign_key_list({quoted(table)})"
    ).fetchall():
        keys.setdefault(key, []).append(tuple(reference))
    for parts in keys.values():
        _, parent, _, _, on_update, on_delete, _ = parts[0]
        pairs = ", ".join(f"{part[2]} -> {part[3] or 'PRIMARY KEY'}" for part in parts).lower()
        yield (
            f"FOREIGN KEY to {parent.lower()} ({pairs}) ON UPDATE {on_update} ON DELETE {on_delete}"
        )


def _index_list(connection: DBAPIConnection, table: str) -> list[tuple[Any, ...]]:
    return connection.execute(f"PRAGMA main.index_list({quoted(table)})").fetchall()


def _constraint_indexes_of(connection: DBAPIConnection, table: str) -> Iterator[str]:
    for _, index, _, origin, _ in _index_list(connection, table):
        if origin == "c":
            continue  # made by CREATE INDEX, so no part of the table
        columns = ", ".join(
            f"{str(column).lower()} COLLATE {collation}{' DESC' if descending else ''}"
            for _, _, column, descending, collation, is_key in connection.execute(
                f"PRAGMA main.index_xinfo({quoted(index)})"
            ).fetchall()
            if is_key
        )
        yield f"{'PRIMARY KEY' if origin == 'pk' else 'UNIQUE'} ({columns})"


def _written_in(connection: DBAPIConnection, table: str) -> Iterator[str]:
    """What only the text of the CREATE TABLE tells."""
    sql = table_sql(connection, table)
    if sql is None:
        return
    if is_autoincrement(sql):
        yield "AUTOINCREMENT"
    for condition in checks(sql):
        yield f"CHECK ({condition})"
    bare = STRING.sub("''", without_comments(sql))
    for column, collation in COLLATED_COLUMN.findall(bare):
        yield f"column {column.lower()} COLLATE {collation.upper()}"
    for clause in re.findall(r"\bON\s+CONFLICT\s+(\w+)", bare, re.IGNORECASE):
        yield f"ON CONFLICT {clause.upper()}"
    for option in re.findall(
        r"\b(STRICT|WITHOUT\s+ROWID)\b", bare.rpartition(")")[2], re.IGNORECASE
    ):
        yield " ".join(option.upper().split())
