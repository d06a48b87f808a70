"""The shape of a file: its tables, and what their definitions promise as lines to compare.

Autogenerate does not see CHECK, AUTOINCREMENT, COLLATE or a primary key; these lines do.
"""

import re
from collections.abc import Collection, Container, Iterator, Mapping
from functools import cache
from typing import NamedTuple

from credential_db.sqlite.driver import DBAPIConnection, quoted


class Shape(NamedTuple):
    """What the revisions up to one version, or the metadata, make of an empty file."""

    columns: Mapping[str, frozenset[str]]  # of each table
    statements: Mapping[str, tuple[str, ...]]  # that create each table and its indexes
    indexes: frozenset[str]  # the names of those made by CREATE INDEX
    definition: frozenset[str]

    def of(self, table: str) -> frozenset[str]:
        """What one table promises."""
        return frozenset(line for line in self.definition if line.startswith(f"{table}: "))


def read_shape(connection: DBAPIConnection) -> Shape:
    """The shape of a file that holds this project's tables and nothing else."""
    rows = connection.execute(
        "SELECT type, name, tbl_name, sql FROM main.sqlite_master"
        " WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite%' ORDER BY type = 'table' DESC, rowid"
    ).fetchall()
    statements: dict[str, tuple[str, ...]] = {}
    for _, _, table, sql in rows:
        statements[table] = (*statements.get(table, ()), sql)
    indexes = frozenset(name for kind, name, _, _ in rows if kind == "index")
    return Shape(
        {table: column_names(connection, table) for table in statements},
        statements,
        indexes,
        definition_of(connection, statements, indexes),
    )


def column_names(connection: DBAPIConnection, table: str) -> frozenset[str]:
    """The names of a table's columns, in lower case; none where there is no such table."""
    return frozenset(str(column[1]).lower() for column in _columns(connection, table))


def _columns(connection: DBAPIConnection, table: str) -> list[tuple[object, ...]]:
    return connection.execute(f"PRAGMA main.table_xinfo({quoted(table)})").fetchall()


def definition_of(
    connection: DBAPIConnection, tables: Collection[str], indexes: Container[str]
) -> frozenset[str]:
    """Everything that the definitions of these tables promise, as lines that people can read.

    Independent of the order of columns, and of how the DDL was written.

    Args:
        connection: Rows come as tuples.
        tables: They exist.
        indexes: The names of those, made by CREATE INDEX, that belong to the definition.
    """
    lines = {
        f"{table}: {line}"
        for table in tables
        for lines_of in (_columns_of, _foreign_keys_of, _constraint_indexes_of, _written_in)
        for line in lines_of(connection, table)
    }
    for name, table, sql in connection.execute(
        "SELECT name, tbl_name, sql FROM main.sqlite_master WHERE type = 'index'"
    ).fetchall():
        if name in indexes and table in tables:
            lines.add(f"{table}: {_normalized(sql)}")
    return frozenset(lines)


def _columns_of(connection: DBAPIConnection, table: str) -> Iterator[str]:
    for _, name, kind, not_null, default, key, hidden in _columns(connection, table):
        yield (
            f"column {name} {kind}"
            f"{' NOT NULL' if not_null else ''}"
            f"{'' if default is None else f' DEFAULT {_normalized(str(default))}'}"
            f"{' (hidden)' if hidden else ''}"
        )
        if key:
            yield f"column {name} is number {key} of the PRIMARY KEY"


def _foreign_keys_of(connection: DBAPIConnection, table: str) -> Iterator[str]:
    keys: dict[int, list[tuple[object, ...]]] = {}
    for key, *reference in connection.execute(
        f"PRAGMA main.foreign_key_list({quoted(table)})"
    ).fetchall():
        keys.setdefault(key, []).append(tuple(reference))
    for parts in keys.values():
        _, parent, _, _, on_update, on_delete, _ = parts[0]
        pairs = ", ".join(f"{part[2]} -> {part[3] or 'PRIMARY KEY'}" for part in parts)
        yield f"FOREIGN KEY to {parent} ({pairs}) ON UPDATE {on_update} ON DELETE {on_delete}"


def _constraint_indexes_of(connection: DBAPIConnection, table: str) -> Iterator[str]:
    for _, index, _, origin, _ in connection.execute(
        f"PRAGMA main.index_list({quoted(table)})"
    ).fetchall():
        if origin == "c":
            continue  # made by CREATE INDEX, so no part of the table
        columns = ", ".join(
            f"{column} COLLATE {collation}{' DESC' if descending else ''}"
            for _, _, column, descending, collation, is_key in connection.execute(
                f"PRAGMA main.index_xinfo({quoted(index)})"
            ).fetchall()
            if is_key
        )
        yield f"{'PRIMARY KEY' if origin == 'pk' else 'UNIQUE'} ({columns})"


def _written_in(connection: DBAPIConnection, table: str) -> Iterator[str]:
    """What only the text of the CREATE TABLE tells."""
    (sql,) = connection.execute(
        "SELECT sql FROM main.sqlite_master WHERE type = 'table' AND name = ? COLLATE NOCASE",
        (table,),
    ).fetchone()
    if is_autoincrement(sql):
        yield "AUTOINCREMENT"
    for condition in checks(sql):
        yield f"CHECK ({condition})"
    for column, collation in _COLLATED_COLUMN.findall(_without_comments(sql)):
        yield f"column {column} COLLATE {collation}"


def is_autoincrement(sql: str) -> bool:
    """Whether a ``CREATE TABLE`` says AUTOINCREMENT."""
    return re.search(r"\bAUTOINCREMENT\b", _without_comments(sql), re.IGNORECASE) is not None


@cache
def checks(sql: str) -> tuple[str, ...]:
    """The conditions of all CHECK constraints in a ``CREATE TABLE``, in one spelling.

    No pragma tells them.
    """
    sql = _without_comments(sql)
    found = []
    for match in re.finditer(r"\bCHECK\s*\(", sql, re.IGNORECASE):
        depth, quote, end = 1, "", match.end()
        while depth:
            character = sql[end]
            if quote:
                quote = "" if character == quote else quote
            elif character in "'\"`":
                quote = character
            else:
                depth += {"(": 1, ")": -1}.get(character, 0)
            end += 1
        found.append(_normalized(sql[match.end() - 1 : end]))
    return tuple(sorted(found))


_COMMENT_OR_STRING = re.compile(r"('(?:[^']|'')*')|--[^\n]*|/\*.*?\*/", re.DOTALL)
_STRING = re.compile(r"('(?:[^']|'')*')")
_COLLATED_COLUMN = re.compile(
    r'[(,]\s*["`\[]?(\w+)["`\]]?\s[^,()]*?\bCOLLATE\s+["`\[]?(\w+)', re.IGNORECASE
)


def _without_comments(sql: str) -> str:
    return _COMMENT_OR_STRING.sub(lambda match: match[1] or " ", sql)


def _normalized(condition: str) -> str:
    """One spelling: no quotes around names, no needless white space or parentheses."""
    parts = _STRING.split(condition)
    for position in range(0, len(parts), 2):  # what is not a string
        bare = re.sub(r'["`\[\]]', "", parts[position]).lower()
        bare = re.sub(r"\s+", " ", bare)
        parts[position] = re.sub(r" ?([(),<>=!+*/|-]) ?", r"\1", bare)
    text = "".join(parts).strip()
    while _encloses_all(text):
        text = text[1:-1].strip()
    return text


def _encloses_all(text: str) -> bool:
    if not (text.startswith("(") and text.endswith(")")):
        return False
    depth = 0
    for position, character in enumerate(_STRING.sub(lambda m: "'" * len(m[0]), text)):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth == 0:
            return position == len(text) - 1
    return False
