"""The schema of a database as text to compare, without reflection.

Alembic's comparison does not see CHECK, AUTOINCREMENT, COLLATE or a primary key; this one does.
"""

import contextlib
import re
import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from itertools import accumulate, groupby
from operator import itemgetter
from typing import Any, NamedTuple

from credential_db.sqlite.driver import DBAPIConnection, folded, quoted

# https://www.sqlite.org/draft/tokenreq.html. Every character above U+007F belongs to a word.
_TOKEN = re.compile(
    r"(?:[ \t\n\f\r]+|--[^\n]*|/\*.*?(?:\*/|\Z))"
    r"|(?P<string>'(?:[^']|'')*')"
    r'|(?P<name>"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]]*\])'
    r"|(?P<word>[\w$\u0080-\U0010ffff]+)"
    r"|(?P<sign>\|\||<<|>>|<=|>=|==|!=|<>|->>|->|.)",
    re.DOTALL,
)
_PLAIN_NAME = re.compile(r'"[a-z_][a-z0-9_]*"')
_DEPTH = {"(": 1, ")": -1}


class SchemaObject(NamedTuple):
    """A table, index, view or trigger, as in ``sqlite_schema``."""

    type: str
    name: str
    table: str
    sql: str


class Schema(NamedTuple):
    """The tables of an application in a database, by their names as the caller spells them."""

    objects: tuple[SchemaObject, ...]  # all objects in the database, including those of users
    columns: Mapping[str, frozenset[str]]  # the names of each table's columns, folded
    rowids: Mapping[str, str]  # INTEGER PRIMARY KEY: www.sqlite.org/lang_createtable.html#rowid
    statements: Mapping[str, tuple[str, ...]]  # CREATE TABLE, then the CREATE INDEX statements
    # What each table and its indexes define, as lines that people can read, whatever the order of
    # the columns, the spelling of the statements, and the names of constraints.
    definitions: Mapping[str, frozenset[str]]

    @property
    def lines(self) -> frozenset[str]:
        """All definitions, each with the folded name of its table: ``t: AUTOINCREMENT``."""
        tables = self.definitions.items()
        return frozenset(f"{folded(table)}: {line}" for table, lines in tables for line in lines)


def objects(connection: DBAPIConnection) -> list[SchemaObject]:
    """All objects of the main schema, in the order of their creation, except SQLite's own.

    https://www.sqlite.org/schematab.html. The operators keep an application's converters off.
    """
    rows = connection.execute(
        "SELECT type || '', name || '', tbl_name || '', sql || ''"
        " FROM main.sqlite_master ORDER BY rowid"
    ).fetchall()
    return [SchemaObject(*row) for row in rows if not row[1].startswith("sqlite_")]


def column_names(connection: DBAPIConnection, table: str) -> frozenset[str]:
    """The names of a table's columns, folded; empty if there is no such table."""
    columns = connection.execute(f"PRAGMA main.table_xinfo({quoted(table)})").fetchall()
    return frozenset(folded(str(column[1])) for column in columns)


def read_schema(
    connection: DBAPIConnection,
    tables: Collection[str] | None = None,
    indexes: Collection[str] | None = None,
) -> Schema:
    """Read the main schema: these tables, if they exist, and these indexes of them, or all."""
    found = tuple(objects(connection))
    in_file = {entry.name: entry for entry in found if entry.type == "table"}
    wanted = {folded(name): name for name in (in_file if tables is None else tables)}
    names = {name: wanted[folded(name)] for name in in_file if folded(name) in wanted}
    read = {called: _table(connection, in_file[name]) for name, called in names.items()}
    statements = {called: [in_file[name].sql] for name, called in names.items()}
    ours = None if indexes is None else frozenset(map(folded, indexes))
    for entry in found:
        belongs = ours is None or folded(entry.name) in ours
        if entry.type == "index" and entry.table in names and belongs:
            statements[names[entry.table]].append(entry.sql)
    return Schema(
        found,
        {name: columns for name, (columns, _, _) in read.items()},
        {name: rowid for name, (_, rowid, _) in read.items() if rowid},
        {name: tuple(each) for name, each in statements.items()},
        {
            name: lines.union(map(spelled, statements[name][1:]))
            for name, (*_, lines) in read.items()
        },
    )


@cache
def schema_of_script(script: str) -> Schema:
    """The schema that ``CREATE`` statements make of an empty database."""
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(script)
        return read_schema(connection)


_Table = tuple[frozenset[str], str, frozenset[str]]  # columns, rowid and lines as in Schema
_Rows = list[tuple[Any, ...]]
_COMPUTED = {2: " VIRTUAL", 3: " STORED"}  # https://www.sqlite.org/pragma.html#pragma_table_xinfo
_CONSTRAINT_WORDS = ("constraint", "primary", "unique", "check", "foreign")
_tables: dict[str, _Table] = {}  # by the text of a CREATE TABLE, which decides everything


def _table(connection: DBAPIConnection, entry: SchemaObject) -> _Table:
    def pragma(name: str, of: str) -> _Rows:
        return connection.execute(f"PRAGMA main.{name}({quoted(of)})").fetchall()

    if entry.sql not in _tables:
        columns = pragma("table_xinfo", entry.name)
        indexes = [
            (origin, pragma("index_xinfo", index))
            for _, index, _, origin, _ in pragma("index_list", entry.name)
            if origin != "c"  # made by CREATE INDEX
        ]
        lines = [*map(_column, columns), *(_index(*index) for index in indexes)]
        for _, rows in groupby(pragma("foreign_key_list", entry.name), itemgetter(0)):
            lines.append(_foreign_key(list(rows)))
        *parts, options = definitions(entry.sql)
        for part in parts:
            lines += _only_in_text(tokens(part))
        lines += [spelled(option).upper() for option in options.split(",")]
        rowid = ""
        keys = [(name, kind) for _, name, kind, _, _, place, _ in columns if place]
        if [kind.upper() for _, kind in keys] == ["INTEGER"] and "pk" not in dict(indexes):
            rowid = keys[0][0]
            lines.append(f"INTEGER PRIMARY KEY {folded(rowid)}")
        names = frozenset(folded(column[1]) for column in columns)
        _tables[entry.sql] = (names, rowid, frozenset(filter(None, lines)))
    return _tables[entry.sql]


def _column(row: tuple[Any, ...]) -> str:
    _, name, kind, not_null, default, _, hidden = row
    value = "" if default is None else f" DEFAULT {spelled(str(default))}"
    words = f"column {spelled(quoted(name))} {kind.upper()}".rstrip()
    return f"{words}{' NOT NULL' if not_null else ''}{value}{_COMPUTED.get(hidden, '')}"


def _foreign_key(parts: _Rows) -> str:
    _, _, parent, _, _, on_update, on_delete, _ = parts[0]
    pairs = ", ".join(f"{part[3]} -> {part[4] or 'primary key'}" for part in parts)
    actions = f"ON UPDATE {on_update} ON DELETE {on_delete}"
    return f"FOREIGN KEY to {folded(parent)} ({folded(pairs)}) {actions}"


def _index(origin: str, columns: _Rows) -> str:
    names = ", ".join(
        folded(name)
        + ("" if collation.upper() == "BINARY" else f" COLLATE {collation.upper()}")
        + (" DESC" if descending else "")
        for _, _, name, descending, collation, is_key in columns
        if is_key
    )
    return f"{'PRIMARY KEY' if origin == 'pk' else 'UNIQUE'} ({names})"


def _only_in_text(parts: Sequence[str]) -> Iterator[str]:
    """What only the text tells of the definition of a column, or of a constraint of the table."""
    name = spelled(parts[0])
    position = 0 if parts[0] in _CONSTRAINT_WORDS else 1
    while position < len(parts):
        before, word, following = parts[position - 1], parts[position], parts[position + 1 :]
        if word == "autoincrement":
            yield "AUTOINCREMENT"
        elif word == "collate":
            yield f"column {name} COLLATE {name_of(following[0]).upper()}"
        elif word == "on" and following[0] == "conflict":
            yield f"ON CONFLICT {following[1].upper()}"
        elif word == "deferrable" and before != "not":
            initially = following[:2] if following[:1] == ["initially"] else []
            yield f"FOREIGN KEY {' '.join([word, *initially]).upper()}"
        elif word == "(":
            end = closing(parts, position)
            expression = spelled(" ".join(parts[position + 1 : end]))
            if before == "check":
                yield f"CHECK ({expression})"
            elif before == "as":
                yield f"column {name} AS ({expression})"
            position = end
        position += 1


def tokens(sql: str) -> list[str]:
    """The tokens, without white space and comments, folded as SQLite compares names.

    A word is in lower case (``check``), a quoted name has double quotes (``"check"``, however it
    was quoted), a string is as it was written (``'It''s'``).
    """
    return [token for token, _ in _scanned(sql)]


def _scanned(sql: str) -> Iterator[tuple[str, re.Match[str]]]:
    for match in _TOKEN.finditer(sql):
        text = match[0]
        if match.lastgroup == "word":
            text = folded(text)
        elif match.lastgroup == "name":
            text = quoted(folded(text[1:-1].replace(text[-1] * 2, text[-1])))
        if match.lastgroup:
            yield text, match


def definitions(create_table: str) -> list[str]:
    """The definitions of the columns and constraints of a CREATE TABLE; last, its options."""
    depth, start, found = 0, 0, []
    for token, match in _scanned(create_table):
        depth += _DEPTH.get(token, 0)
        if (depth, token) in ((1, "("), (1, ","), (0, ")")):
            found.append(create_table[start : match.start()].strip())
            start = match.end()
    return [*found[1:], create_table[start:]]


def name_of(token: str) -> str:
    """The name that a token is, without quotes."""
    return token[1:-1].replace('""', '"') if token[:1] == '"' else token


def closing(parts: Sequence[str], opening: int) -> int:
    """The position of the parenthesis that closes the one at ``opening``."""
    return opening + [*accumulate(_DEPTH.get(part, 0) for part in parts[opening:])].index(0)


def spelled(sql: str) -> str:
    """A text in one spelling: without comments, needless quotes or enclosing parentheses."""
    parts = tokens(sql)
    while parts and parts[0] == "(" and closing(parts, 0) == len(parts) - 1:
        parts = parts[1:-1]
    text = ""
    for part in parts:
        glued = part in (")", ",", ".") or text[-1:] in ("", "(", ".")
        text += ("" if glued else " ") + (part[1:-1] if _PLAIN_NAME.fullmatch(part) else part)
    return text
