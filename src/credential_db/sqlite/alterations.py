"""From one schema to another: code for a revision, tried on SQLite before it is written.

Both schemas are scripts of ``CREATE`` statements; an upgrade and its downgrade are found alike.
"""

import sqlite3
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import NamedTuple

from alembic.util import CommandError

from credential_db.sqlite.driver import folded, quoted
from credential_db.sqlite.schema import definitions, read_schema, spelled, tokens

Code = list[str]
"""Statements and comments of a revision."""


class _Column(NamedTuple):
    name: str
    anonymous: frozenset[str] | None  # its definition without its name; None if it is computed
    text: str  # as in CREATE TABLE
    empty_value: str  # if a row that exists already needs a value; else ""


class _Table(NamedTuple):
    name: str
    anonymous: frozenset[str] | None  # its definition without its name, and without its indexes
    lines: frozenset[str]  # its definition
    statement: str
    indexes: Mapping[str, str]  # statements and names
    columns: Mapping[str, _Column]  # by their folded names


def database(script: str) -> sqlite3.Connection:
    """A database in memory, in autocommit mode, made by a script."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.executescript(script)
    return connection


def differences(found: frozenset[str], wanted: frozenset[str]) -> list[str]:
    """What has to be removed (``-``) and added (``+``), as lines for people."""
    removed, added = sorted(found - wanted), sorted(wanted - found)
    return [*(f"- {line}" for line in removed), *(f"+ {line}" for line in added)]


def changes(before: str, after: str, *, down: bool = False) -> Iterator[Code]:
    """What makes a database of one script one of another; one item for each operation.

    In a downgrade, a new column may get an empty value. A ``CommandError`` tells what is ambiguous.
    """
    with closing(database(after)) as connection:
        wanted = _tables(connection)
    with closing(database(before)) as connection:
        for old, new, comment in _renamed("tables", _tables(connection), wanted):
            connection.execute(f"ALTER TABLE {quoted(old)} RENAME TO {quoted(new)}")
            yield [*comment, f"op.rename_table({old!r}, {new!r})"]
        for key, table in _tables(connection).items():
            columns = table.columns, wanted.get(key, table).columns
            for old, new, comment in _renamed(f"columns of {table.name}", *columns):
                names = f"{quoted(old)} TO {quoted(new)}"
                connection.execute(f"ALTER TABLE {quoted(table.name)} RENAME COLUMN {names}")
                call = f"alter_column({old!r}, new_column_name={new!r})"
                yield [*comment, *_batch(table.name, call)]
        tables = _tables(connection)
    for key, table in {**tables, **wanted}.items():
        if key not in tables:
            yield [f"# + table {table.name}", *_run(table.statement, *table.indexes)]
        elif key not in wanted:
            stops = f"- table {table.name}: if it has rows, this stops until the revision declares "
            comment = _comment(f"{stops}changes_rows_of = ({table.name!r},)")
            yield [*comment, f"op.drop_table({table.name!r})"]
        elif tables[key].lines != table.lines:
            yield _altered(tables[key], table, down=down)


def _tables(connection: sqlite3.Connection) -> dict[str, _Table]:
    """All tables, by their folded names."""
    schema = read_schema(connection)
    names = {entry.sql: entry.name for entry in schema.objects}
    tables = {}
    for name, (statement, *indexes) in schema.statements.items():
        lines, itself = schema.definitions[name], f"FOREIGN KEY to {folded(name)} ("
        columns = {}
        rows = connection.execute(f"PRAGMA main.table_xinfo({quoted(name)})").fetchall()
        for text, row in zip(definitions(statement), rows, strict=False):
            _, column, kind, not_null, default, _, hidden = row
            start = f"column {spelled(quoted(column))} "
            own = [f"{line} ".removeprefix(start) for line in lines if f"{line} ".startswith(start)]
            needs_value = not_null and default is None and not hidden
            empty = _EMPTY.get(kind, "''") if needs_value else ""
            anonymous = None if hidden else frozenset(own)
            columns[folded(column)] = _Column(column, anonymous, text, empty)
        tables[folded(name)] = _Table(
            name,
            frozenset(each.replace(itself, "itself") for each in lines if each[:7] != "create "),
            lines,
            statement,
            {index: names[index] for index in indexes},
            columns,
        )
    return tables


_EMPTY = {"INTEGER": "0", "REAL": "0.0", "BLOB": "x''"}
_Named = Mapping[str, _Table] | Mapping[str, _Column]


def _renamed(what: str, found: _Named, wanted: _Named) -> Iterator[tuple[str, str, Code]]:
    """The old and the new name, and a comment, if something was renamed."""
    gone, new = (
        [each for key, each in side.items() if key not in other and each.anonymous is not None]
        for side, other in ((found, wanted), (wanted, found))
    )
    if not gone or not new:
        return
    old_names, new_names = (", ".join(each.name for each in side) for side in (gone, new))
    if len(gone) > 1 or [each.anonymous for each in gone] != [each.anonymous for each in new]:
        raise CommandError(
            f"{what}: {old_names} disappear and {new_names} appear, which is ambiguous. Only one "
            "that disappears and one of the same definition that appears are a rename: write one "
            "revision per rename, and another for the remaining changes; if none is a rename, "
            "write one that drops and another that adds"
        )
    comment = _comment(
        f"{what}: {old_names} becomes {new_names}, of the same definition: taken as a rename, "
        "which keeps the data. If it is not one, write one revision that drops and another that "
        "adds."
    )
    yield old_names, new_names, comment


def _altered(table: _Table, new: _Table, *, down: bool) -> Code:
    """In place if SQLite can do that, else by a copy of the table."""
    code = [f"# {table.name}:"]
    for difference in differences(table.lines, new.lines):
        code += _comment(difference)
    gone = [name for sql, name in table.indexes.items() if spelled(sql) not in new.lines]
    first = [f"DROP INDEX {quoted(name)}" for name in gone]
    last = [sql for sql in new.indexes if spelled(sql) not in table.lines]
    code += _run(*first)
    alter = f"ALTER TABLE {quoted(table.name)}"
    drops = [column.name for key, column in table.columns.items() if key not in new.columns]
    added = [column for key, column in new.columns.items() if key not in table.columns]
    adds = [f"{alter} ADD COLUMN {column.text}" for column in added]
    in_place = [*first, *(f"{alter} DROP COLUMN {quoted(name)}" for name in drops), *adds, *last]
    if _result(table, in_place) == new.lines:
        code += [*_batch(table.name, *(f"drop_column({name!r})" for name in drops)), *_run(*adds)]
    else:
        more = ""
        if values := {column.name: column.empty_value for column in added if column.empty_value}:
            names, more = ", ".join(values), f", values={values!r}"
            lost = f"Not exact: what was in {names} is lost, and every row gets the value below."
            code += _comment(lost)
        if values and not down:
            raise CommandError(
                f"table {table.name} gets {names}, which is NOT NULL and has no default, and its "
                "rows have no value for it: give it a server_default; or write a revision with a "
                "column that may be NULL, one that fills it with op.convert_rows, and one that "
                "makes it NOT NULL; or, if SQL can compute it, one with op.copy_table(values=...)"
            )
        code.append(f"op.copy_table({table.name!r}, {_literal(new.statement)}{more})")
    return [*code, *_run(*last)]


def _result(table: _Table, statements: list[str]) -> frozenset[str] | None:
    """What SQLite makes of a table that has a row; None if it refuses a statement."""
    stored = [quoted(each.name) for each in table.columns.values() if each.anonymous is not None]
    cells = ", ".join("1" for _ in stored)
    row = f"INSERT INTO {quoted(table.name)} ({', '.join(stored)}) VALUES ({cells})"
    with closing(database(";\n".join([table.statement, *table.indexes]))) as connection:
        try:
            for statement in ("PRAGMA ignore_check_constraints = ON", row, *statements):
                connection.execute(statement)
        except sqlite3.Error:
            return None
        return read_schema(connection).definitions[table.name]


def _batch(table: str, *calls: str) -> Code:
    lines = [f"with op.batch_alter_table({table!r}) as batch_op:", *calls]
    return ["\n    batch_op.".join(lines)] if calls else []


def _run(*statements: str) -> Code:
    return [f"op.execute({_literal(statement)})" for statement in statements]


def _literal(statement: str) -> str:
    """A statement as Python code. Alembic indents it, so a string in it may not have two lines."""
    odd = any("\n" in token for token in tokens(statement)) or statement.endswith('"')
    if odd or "\n" not in statement or any(each in statement for each in ("\\", "\r", '"""')):
        return repr(statement)
    return f'"""{statement}"""'


def _comment(text: str) -> Code:
    return [f"# {line}" for line in textwrap.wrap(text, 92, subsequent_indent="  ")]
