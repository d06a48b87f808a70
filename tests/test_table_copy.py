"""A table copy keeps every cell and whatever belongs to the table, or names what does not fit."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlcipher3 import dbapi2 as sqlcipher

from credential_db.sqlite.driver import quoted
from credential_db.sqlite.errors import UnrecognizedSchema
from credential_db.sqlite.table_copy import copy_table, create, triggers_suspended

SCHEMA = """
    CREATE TABLE things (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT, amount);
    CREATE TABLE log (line);
    CREATE INDEX  by_name ON things (name) WHERE name <> 'x';
    CREATE TRIGGER logged AFTER INSERT ON things BEGIN INSERT INTO log VALUES (new.name); END;
    CREATE TRIGGER renamed AFTER UPDATE OF name ON things BEGIN DELETE FROM log; END;
    CREATE TRIGGER "of others" AFTER INSERT ON log BEGIN UPDATE things SET amount = 1; END;
    CREATE VIEW names AS SELECT name FROM things;
    INSERT INTO things VALUES (7, 'seven', 1), (-2, CAST(x'61ff' AS TEXT), x'00'), (3, NULL, 1.5);
    INSERT INTO things VALUES (1000, 'gone', 0); DELETE FROM things WHERE id = 1000;
    DELETE FROM log; UPDATE things SET amount = max(id, 3);
    BEGIN;
"""
CELLS = "SELECT id, typeof(name), CAST(name AS BLOB), typeof(amount), amount FROM things"


@pytest.fixture(params=[sqlite3, sqlcipher], ids=["sqlite3", "sqlcipher3"])
def connection(request: pytest.FixtureRequest) -> Iterator[sqlite3.Connection]:
    with closing(request.param.connect(":memory:", isolation_level=None)) as connection:
        connection.executescript(SCHEMA)
        yield connection


def definition(*more: str, key: str = "INTEGER PRIMARY KEY AUTOINCREMENT") -> str:
    return f"CREATE TABLE things ({', '.join([f'id {key}', 'name TEXT', 'amount', *more])})"


def belongings(connection: sqlite3.Connection) -> list[tuple[Any, ...]]:
    query = "SELECT type, name, tbl_name, sql FROM sqlite_master WHERE name <> 'things' ORDER BY 2"
    rows = connection.execute(query).fetchall()
    return [row for row in rows if not row[1].startswith("sqlite_")]


@pytest.mark.parametrize(
    "new",
    [
        definition(),
        definition("CHECK (id <> 4)"),
        definition("extra TEXT DEFAULT ('x')").replace(
            "CREATE TABLE things", 'create table "things"'
        ),
        definition("UNIQUE (name) ON CONFLICT REPLACE").replace("things", "[another name]"),
    ],
)
def test_a_copy_keeps_cells_objects_and_counter(connection: sqlite3.Connection, new: str) -> None:
    before = connection.execute(CELLS).fetchall(), belongings(connection)
    copy_table(connection, "things", new)
    assert (connection.execute(CELLS).fetchall(), belongings(connection)) == before
    assert connection.execute("SELECT * FROM sqlite_sequence").fetchall() == [("things", 1000)]
    assert connection.execute("SELECT count(*) FROM log").fetchall() == [(0,)]
    assert connection.execute("SELECT count(*) FROM names").fetchall() == [(3,)]
    assert connection.execute("PRAGMA legacy_alter_table").fetchall() == [(0,)]
    connection.execute("INSERT INTO things (name) VALUES ('new')")
    assert connection.execute("SELECT line FROM log").fetchall() == [("new",)]


@pytest.mark.parametrize(
    ("counter", "after"),
    [("'things', 1000", 1001), ("'THINGS', '1000'", 1001), ("'things', NULL", 1), ("'x', 3", 1)],
)
def test_the_counter_is_kept_of_an_empty_table(
    connection: sqlite3.Connection, counter: str, after: int
) -> None:
    connection.execute("DELETE FROM things")
    connection.execute("DELETE FROM sqlite_sequence")
    connection.execute(f"INSERT INTO sqlite_sequence VALUES ({counter})")
    copy_table(connection, "things", definition())
    connection.execute("INSERT INTO things DEFAULT VALUES")
    assert connection.execute("SELECT id FROM things").fetchall() == [(after,)]
    copy_table(connection, "things", definition(key="INTEGER PRIMARY KEY"))
    found = connection.execute("SELECT * FROM sqlite_sequence WHERE name <> 'x'").fetchall()
    assert found == []


@pytest.mark.parametrize(
    ("values", "row"),
    [
        ({"owner": "name || '!'"}, ("seven", "seven!")),
        ({"OWNER": "upper(name)"}, ("seven", "SEVEN")),
        ({"Name": "name || '?'"}, ("seven?", None)),
    ],
)
def test_a_value_is_an_expression_over_the_old_columns(
    connection: sqlite3.Connection, values: dict[str, str], row: tuple[object, ...]
) -> None:
    """Names are compared as SQLite compares them."""
    copy_table(connection, "things", definition("owner TEXT"), values)
    found = connection.execute("SELECT name, owner FROM things WHERE id = 7")
    assert found.fetchall() == [row]


def test_rowids_of_a_table_without_a_key_survive(connection: sqlite3.Connection) -> None:
    connection.execute("INSERT INTO log (rowid, line) VALUES (5, 'x'), (-9, 'y')")
    copy_table(connection, "log", "CREATE TABLE log (line, b)")
    found = connection.execute("SELECT rowid, line, b FROM log ORDER BY rowid").fetchall()
    assert found == [(-9, "y", None), (5, "x", None)]


MISFITS: dict[str, tuple[str, str]] = {
    "CHECK": (definition("CHECK (amount < 5)"), " 7 "),
    "NOT NULL": (definition().replace("name TEXT", "name TEXT NOT NULL"), " 3 "),
    "UNIQUE": (definition("UNIQUE (amount)"), " 3 "),
    "another storage class": (definition().replace("amount", "amount TEXT"), " -2, 3, 7 "),
    "a computed column": (definition().replace("amount", "amount AS (id)"), " -2 "),
}


@pytest.mark.parametrize("name", MISFITS)
def test_rows_that_do_not_fit_are_named(connection: sqlite3.Connection, name: str) -> None:
    new, rows = MISFITS[name]
    with pytest.raises(UnrecognizedSchema, match=rows):
        copy_table(connection, "things", new)


@pytest.mark.parametrize("value", ["NULL", "'x'", "7.5"])
def test_a_row_whose_key_is_no_rowid_is_named(connection: sqlite3.Connection, value: str) -> None:
    """As ``CREATE TABLE ... AS SELECT`` makes it: SQLite would give such a row another key."""
    connection.execute("CREATE TABLE restored (id, name)")
    connection.execute(f"INSERT INTO restored VALUES (5, 'a'), ({value}, 'b'), (9, 'c')")
    new = "CREATE TABLE restored (id INTEGER PRIMARY KEY, name)"
    with pytest.raises(UnrecognizedSchema, match="rows 2 "):
        copy_table(connection, "restored", new)
    connection.execute("DROP TABLE _copy_of_restored")
    connection.execute("DELETE FROM restored WHERE name = 'b'")
    copy_table(connection, "restored", new)
    assert connection.execute("SELECT rowid, id FROM restored").fetchall() == [(5, 5), (9, 9)]


def test_many_rows_that_do_not_fit_are_counted(connection: sqlite3.Connection) -> None:
    connection.executemany("INSERT INTO things (name) VALUES (?)", [("x",)] * 50)
    with pytest.raises(UnrecognizedSchema, match="and 30 more"):
        copy_table(connection, "things", definition("CHECK (name IS NOT 'x')"))


def test_an_index_that_cannot_be_recreated_is_named(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE INDEX by_amount ON things (amount)")
    with pytest.raises(UnrecognizedSchema, match="by_amount"):
        copy_table(connection, "things", definition().replace(", amount", ""))


CELL = st.none() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.binary()
NAME = st.text(st.sampled_from("aB\"'[ .;("), min_size=1, max_size=4)


@settings(deadline=None, max_examples=150, derandomize=True)
@given(name=NAME, cells=st.dictionaries(st.integers(-5, 5), CELL))
def test_any_cells_of_a_table_of_any_name_survive(name: str, cells: dict[int, Any]) -> None:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute(f"CREATE TABLE {quoted(name)} (value, as_text)")
        connection.executemany(
            f"INSERT INTO {quoted(name)} (rowid, value, as_text) VALUES (?1, ?2, CAST(?2 AS TEXT))",
            cells.items(),
        )
        query = f"SELECT rowid, typeof(value), hex(value), hex(as_text) FROM {quoted(name)}"
        before = connection.execute(query).fetchall()
        copy_table(connection, name, f"CREATE TABLE {quoted(name)} (value, as_text, more)")
        assert connection.execute(query).fetchall() == before


@pytest.mark.parametrize("table", [None, "things", "THINGS"])
def test_suspended_triggers_do_not_fire_and_come_back_the_same(
    connection: sqlite3.Connection, table: str | None
) -> None:
    before = belongings(connection)
    with triggers_suspended(connection, table):
        connection.execute("INSERT INTO things (name) VALUES ('silent')")
        connection.execute("INSERT INTO log VALUES ('line')")
    assert belongings(connection) == before
    fired = connection.execute("SELECT amount FROM things WHERE name = 'silent'").fetchall()
    assert fired == [(None if table is None else 1,)], "others fire if only one table's are asked"


def test_statements_of_a_snapshot_run_in_the_main_schema(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE TEMP TABLE other (a)")
    statements = (
        "CREATE TABLE other (a, b)",
        "CREATE UNIQUE INDEX i ON other (b)",
        "CREATE TRIGGER t AFTER INSERT ON other BEGIN SELECT 1; END",
    )
    create(connection, statements)
    query = "SELECT sql FROM main.sqlite_master WHERE tbl_name = 'other'"
    assert [sql for (sql,) in connection.execute(query).fetchall()] == list(statements)
