"""The shape of a file: its tables, and what their definitions promise as lines to compare.

Autogenerate does not see CHECK, AUTOINCREMENT, COLLATE or a primary key; these lines do.
"""

import re
import sqlite3
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing
from functools import cache
from typing import Any, NamedTuple

from credential_db.sqlite.ddl_text import (
    COLLATED_COLUMN,
    STRING,
    in_parentheses,
    is_autoincrement,
    normalized,
    without_comments,
)
from credential_db.sqlite.driver import DBAPIConnection, has_temporary, quoted


class SchemaObject(NamedTuple):
    """A table, index, view or trigger, as ``sqlite_schema`` has it."""

    schema: str  # main, or temp on a connection that was handed in
    type: str
    name: str
    table: str
    sql: str | None  # None for an index that a constraint has made

    @property
    def full_name(self) -> str:
        """Its name, in its schema."""
        return f"{self.schema}.{quoted(self.name)}"


def objects(connection: DBAPIConnection, schema: str = "main") -> list[SchemaObject]:
    """Everything in a schema, in the order in which it was made, but for SQLite's own.

    https://www.sqlite.org/schematab.html. The operators keep a host's converters off.
    """
    if schema == "temp" and not has_temporary(connection):
        return []
    return [
        SchemaObject(schema, *row)
        for row in connection.execute(
            "SELECT type || '', name || '', tbl_name || '', sql || ''"
            f" FROM {schema}.sqlite_master ORDER BY rowid"
        ).fetchall()
        if not row[1].startswith("sqlite_")
    ]


def column_names(connection: DBAPIConnection, table: str) -> frozenset[str]:
    """The names of a table's columns, in lower case; none where there is no such table."""
    columns = connection.execute(f"PRAGMA main.table_xinfo({quoted(table)})").fetchall()
    return frozenset(str(column[1]).lower() for column in columns)


class Shape(NamedTuple):
    """A program's tables in a file, at one moment.

    Attributes:
        objects: Everything in the file, whoever made it.
        columns: The names of each table's columns, in lower case.
        rowids: For each table that has one, the column that is another name of the rowid
            (https://www.sqlite.org/lang_createtable.html#rowid).
        statements: That create each table and its indexes.
        definition: Everything that the tables promise, as lines that people can read, independent
            of the order of columns and of how the statements were written.
    """

    objects: tuple[SchemaObject, ...]
    columns: Mapping[str, frozenset[str]]
    rowids: Mapping[str, str]
    statements: Mapping[str, tuple[str, ...]]
    definition: frozenset[str]

    @property
    def indexes(self) -> frozenset[str]:
        """The names of those made by CREATE INDEX, in a file that holds nothing else."""
        return frozenset(each.name for each in self.objects if each.type == "index" and each.sql)

    def of(self, table: str) -> frozenset[str]:
        """What one table promises."""
        return frozenset(line for line in self.definition if line.startswith(f"{table}: "))


def read_shape(
    connection: DBAPIConnection,
    tables: Collection[str] | None = None,
    indexes: Collection[str] | None = None,
) -> Shape:
    """Read it in four statements, however many tables there are.

    Args:
        connection: Rows come as tuples.
        tables: The names of the program's tables, whether or not they exist; None for all.
        indexes: The names of those, made by CREATE INDEX, that belong to them; None for all.
    """
    found = tuple(objects(connection))
    in_file = [entry.name for entry in found if entry.type == "table"]
    wanted = {name.lower(): name for name in (in_file if tables is None else tables)}
    names = {name: wanted[name.lower()] for name in in_file if name.lower() in wanted}
    columns = _rows_of(connection, names, _COLUMNS)
    references = _rows_of(connection, names, _FOREIGN_KEYS)
    constraints = _rows_of(connection, names, _CONSTRAINT_INDEXES)
    rowids = {name: _rowid_column(columns[name], constraints[name]) for name in names}
    statements: dict[str, tuple[str, ...]] = {}
    lines: set[str] = set()
    for entry in found:
        if entry.type == "table" and entry.name in names:
            statements[names[entry.name]] = (str(entry.sql),)
            promises = (
                *_column_lines(columns[entry.name], rowids[entry.name]),
                *_foreign_key_lines(references[entry.name]),
                *_constraint_index_lines(constraints[entry.name]),
                *_written_in(str(entry.sql)),
            )
            lines.update(f"{names[entry.name]}: {line}" for line in promises)
    for entry in found:
        belongs = indexes is None or entry.name in indexes
        if entry.type == "index" and entry.sql and entry.table in names and belongs:
            statements[names[entry.table]] += (entry.sql,)
            lines.add(f"{names[entry.table]}: {normalized(entry.sql)}")
    return Shape(
        found,
        {names[name]: frozenset(str(row[0]).lower() for row in columns[name]) for name in names},
        {names[name]: rowid for name, rowid in rowids.items() if rowid is not None},
        statements,
        frozenset(lines),
    )


@cache
def shape_of_script(script: str) -> Shape:
    """The shape that a script of ``CREATE`` statements makes."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(script)
        return read_shape(connection)


# https://www.sqlite.org/pragma.html#pragfunc. Without the name of the schema, a temporary table of
# the same name would be described.
_COLUMNS = """
    SELECT m.name || '', p.name, p.type, p."notnull", p.dflt_value, p.pk, p.hidden
    FROM main.sqlite_master AS m, pragma_table_xinfo(m.name, 'main') AS p
    WHERE m.type = 'table' AND m.name IN ({}) ORDER BY p.cid
"""
_FOREIGN_KEYS = """
    SELECT m.name || '', p.id, p."table", p."from", p."to", p.on_update, p.on_delete
    FROM main.sqlite_master AS m, pragma_foreign_key_list(m.name, 'main') AS p
    WHERE m.type = 'table' AND m.name IN ({}) ORDER BY p.id, p.seq
"""
_CONSTRAINT_INDEXES = """
    SELECT m.name || '', l.name, l.origin, p.name, p.desc, p.coll
    FROM main.sqlite_master AS m, pragma_index_list(m.name, 'main') AS l,
        pragma_index_xinfo(l.name, 'main') AS p
    WHERE m.type = 'table' AND m.name IN ({}) AND l.origin <> 'c' AND p.key
    ORDER BY l.seq, p.seqno
"""  # origin c: made by CREATE INDEX, so no part of the table

_Rows = list[tuple[Any, ...]]
_COMPUTED = {2: " VIRTUAL", 3: " STORED"}  # https://www.sqlite.org/pragma.html#pragma_table_xinfo


def _rows_of(
    connection: DBAPIConnection, tables: Collection[str], query: str
) -> defaultdict[str, _Rows]:
    rows: defaultdict[str, _Rows] = defaultdict(list)
    places = ", ".join("?" for _ in tables)
    for table, *row in connection.execute(query.format(places), tuple(tables)).fetchall():
        rows[table].append(tuple(row))
    return rows


def _rowid_column(columns: _Rows, constraints: _Rows) -> str | None:
    keys = [(name, kind) for name, kind, _, _, key, _ in columns if key]
    indexed = any(origin == "pk" for _, origin, *_ in constraints)
    if len(keys) == 1 and str(keys[0][1]).upper() == "INTEGER" and not indexed:
        return str(keys[0][0])
    return None


def _column_lines(columns: _Rows, rowid: str | None) -> Iterator[str]:
    for name, kind, not_null, default, key, hidden in columns:
        yield (
            f"column {name.lower()} {kind.upper()}"
            f"{' NOT NULL' if not_null else ''}"
            f"{'' if default is None else f' DEFAULT {normalized(str(default))}'}"
            f"{_COMPUTED.get(hidden, '')}"
        )
        if key:
            yield f"column {name.lower()} is number {key} of the PRIMARY KEY"
    if rowid:
        yield f"column {rowid.lower()} is the rowid"


def _foreign_key_lines(references: _Rows) -> Iterator[str]:
    keys: defaultdict[int, _Rows] = defaultdict(list)
    for key, *reference in references:
        keys[key].append(tuple(reference))
    for parts in keys.values():
        parent, _, _, on_update, on_delete = parts[0]
        pairs = ", ".join(f"{part[1]} -> {part[2] or 'PRIMARY KEY'}" for part in parts).lower()
        yield (
            f"FOREIGN KEY to {parent.lower()} ({pairs}) ON UPDATE {on_update} ON DELETE {on_delete}"
        )


def _constraint_index_lines(constraints: _Rows) -> Iterator[str]:
    indexes: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for index, origin, column, descending, collation in constraints:
        words = f"{str(column).lower()} COLLATE {collation}{' DESC' if descending else ''}"
        indexes[index, origin].append(words)
    for (_, origin), columns in indexes.items():
        yield f"{'PRIMARY KEY' if origin == 'pk' else 'UNIQUE'} ({', '.join(columns)})"


def _written_in(sql: str) -> Iterator[str]:
    """What only the text of a CREATE TABLE tells."""
    if is_autoincrement(sql):
        yield "AUTOINCREMENT"
    for condition in in_parentheses("CHECK", sql):
        yield f"CHECK ({condition})"
    for expression in in_parentheses("AS", sql):
        yield f"a column computed AS ({expression})"
    bare = STRING.sub("''", without_comments(sql))
    for column, collation in COLLATED_COLUMN.findall(bare):
        yield f"column {column.lower()} COLLATE {collation.upper()}"
    for clause in re.findall(r"\bON\s+CONFLICT\s+(\w+)", bare, re.IGNORECASE):
        yield f"ON CONFLICT {clause.upper()}"
    for clause in re.findall(r"(?<!NOT )\bDEFERRABLE(?:\s+INITIALLY\s+\w+)?", bare, re.IGNORECASE):
        yield f"FOREIGN KEY {' '.join(clause.upper().split())}"
    for option in re.findall(
        r"\b(STRICT|WITHOUT\s+ROWID)\b", bare.rpartition(")")[2], re.IGNORECASE
    ):
        yield " ".join(option.upper().split())
