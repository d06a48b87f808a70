"""Rows of any table are converted each exactly once, and all bad ones are in one error."""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, nullcontext
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlcipher3 import dbapi2 as sqlcipher

from credential_db import CredentialDBError
from credential_db.sqlite.row_conversion import BadRow, Conversion, convert_rows, read_rows

Conversions = Mapping[str, Conversion]
TABLE = """
    CREATE TABLE things (id INTEGER PRIMARY KEY, name TEXT NOT NULL, place INT UNIQUE, other);
    INSERT INTO things VALUES (1, 'one', 1, NULL), (2, 'two', 2, x'00ff'), (-3, 'three', 3, 1.5);
    BEGIN;
"""


class Refused(Exception):
    """Has all bad rows."""


@pytest.fixture(params=[sqlite3, sqlcipher], ids=["sqlite3", "sqlcipher3"])
def connection(request: pytest.FixtureRequest) -> Iterator[sqlite3.Connection]:
    with closing(request.param.connect(":memory:", isolation_level=None)) as connection:
        connection.executescript(TABLE)
        yield connection


def convert(
    connection: sqlite3.Connection, conversions: Conversions, **options: Any
) -> tuple[int, int]:
    options = {"table": "things", "key": "rowid", "on_conflict": "abort", **options}
    options = {"called": "things", "error": Refused, **options}
    return convert_rows(connection, conversions=conversions, **options)


def rows(connection: sqlite3.Connection) -> list[tuple[Any, ...]]:
    return connection.execute("SELECT * FROM things ORDER BY rowid").fetchall()


def refusing(*names: str, error: type[BaseException] = BadRow) -> Conversion:
    def function(name: str) -> str:
        if name in names:
            raise error("is wrong")
        return name.upper()

    return Conversion(function, ("name",))


UPPER = Conversion(str.upper, ("name",))
SEVEN = Conversion(lambda _: 7, ("id",))


def test_each_row_is_converted_once_in_the_order_of_the_rowids(
    connection: sqlite3.Connection,
) -> None:
    connection.execute("CREATE INDEX by_name ON things (name)")  # which SQLite may go through
    seen: list[tuple[object, ...]] = []
    before = rows(connection)
    every = Conversion(lambda *cells: seen.append(cells), ("id", "name", "place", "other"))
    assert convert(connection, {"other": every}) == (3, 0)
    assert seen == before


@pytest.mark.parametrize("order", [["id", "name", "other"], ["other", "name", "id"]], ids=str)
def test_a_conversion_sees_what_was_there_before(
    connection: sqlite3.Connection, order: list[str]
) -> None:
    conversions = {
        "id": Conversion(lambda key: key + 1000, ("id",)),
        "name": UPPER,
        "other": Conversion(lambda name: name, ("NAME",)),
    }
    assert convert(connection, {name: conversions[name] for name in order}) == (3, 0)
    assert rows(connection) == [
        (997, "THREE", 3, "three"),
        (1001, "ONE", 1, "one"),
        (1002, "TWO", 2, "two"),
    ]


BAD: dict[str, tuple[Conversions, list[int]]] = {
    "one": ({"name": refusing("two")}, [2]),
    "all": ({"name": refusing("one", "two", "three")}, [-3, 1, 2]),
    "one of two conversions": ({"other": SEVEN, "name": refusing("one")}, [1]),
    "NOT NULL": ({"name": Conversion(lambda n: None if "t" in n else n, ("name",))}, [-3, 2]),
    "UNIQUE": ({"place": SEVEN}, [1, 2]),
    "UNIQUE, exchanged": ({"place": Conversion(lambda p: p % 3 + 1, ("place",))}, [-3, 1, 2]),
    "one bad, one taken": ({"name": refusing("one"), "place": SEVEN}, [1, 2]),
}


@pytest.mark.parametrize("name", BAD)
def test_all_bad_rows_are_named(connection: sqlite3.Connection, name: str) -> None:
    conversions, bad = BAD[name]
    with pytest.raises(Refused) as caught:
        convert(connection, conversions)
    assert [row for row, _ in caught.value.args[0]] == bad
    with pytest.raises(CredentialDBError, match=f"row {abs(bad[-1])} "):
        convert(connection, conversions, error=None, key="place")


@pytest.mark.parametrize("text", ["\0", "a\0z", "na\u00efve \U0001f511", ""])
def test_text_comes_whole(connection: sqlite3.Connection, text: str) -> None:
    """sqlcipher3 would pass it up to a NUL, and store it up to a NUL."""
    connection.execute("UPDATE things SET name = CAST(? AS TEXT)", (text.encode(),))
    seen: list[str] = []
    convert(connection, {"other": Conversion(seen.append, ("name",))})
    assert seen == [text] * 3 == [name for (name,) in read_rows(connection, "things", ["name"])]
    with pytest.raises(Refused) if "\0" in text else nullcontext():
        convert(connection, {"name": Conversion(str, ("name",))})
    stored = connection.execute("SELECT typeof(name), CAST(name AS BLOB) FROM things").fetchall()
    assert set(stored) == {("text", text.encode())}


def test_text_that_is_not_utf_8_is_a_bad_row(connection: sqlite3.Connection) -> None:
    connection.execute("UPDATE things SET other = CAST(x'61ff' AS TEXT) WHERE id = 1")
    with pytest.raises(Refused) as caught:
        convert(connection, {"name": Conversion(lambda name, _: name, ("name", "other"))})
    assert [row for row, _ in caught.value.args[0]] == [1]
    assert convert(connection, {"name": UPPER}) == (3, 0), "nothing reads that cell"


def test_a_file_in_utf_16() -> None:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute("PRAGMA encoding = 'UTF-16le'")
        connection.executescript(TABLE)
        connection.execute("UPDATE things SET name = 'na\u00efve \U0001f511'")
        convert(connection, {"name": UPPER})
        assert {row[1] for row in rows(connection)} == {"NA\u00cfVE \U0001f511"}


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, SystemExit, TimeoutError])
def test_an_exception_that_is_no_bad_row_comes_through(
    connection: sqlite3.Connection, error: type[BaseException]
) -> None:
    with pytest.raises(error, match="is wrong"):
        convert(connection, {"name": refusing("one", error=error)})
    with pytest.raises(error, match="is wrong"):  # also row by row
        convert(connection, {"place": SEVEN, "name": refusing("two", error=error)})


def test_a_kept_row_stays_as_a_whole(connection: sqlite3.Connection) -> None:
    assert convert(connection, {"name": UPPER, "place": SEVEN}, on_conflict="keep") == (3, 2)
    assert [row[1:3] for row in rows(connection)] == [("THREE", 7), ("one", 1), ("two", 2)]
    taken = {"id": Conversion(lambda key: 1 if key == 2 else key, ("id",))}
    assert convert(connection, taken, on_conflict="keep") == (3, 1), "also of a PRIMARY KEY"


@pytest.mark.parametrize("name", ["one", "NOT NULL"])
def test_nothing_but_a_conflict_is_kept(connection: sqlite3.Connection, name: str) -> None:
    with pytest.raises(Refused):
        convert(connection, BAD[name][0], on_conflict="keep")


VALUES = st.lists(st.integers(0, 6), max_size=8, unique=True)


@settings(deadline=None, max_examples=200, derandomize=True)
@given(before=VALUES, change=st.lists(st.integers(0, 6), min_size=7, max_size=7))
def test_keep_does_what_one_update_after_the_other_would(
    before: list[int], change: list[int]
) -> None:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute("CREATE TABLE things (value INTEGER UNIQUE)")
        connection.executemany("INSERT INTO things VALUES (?)", [(value,) for value in before])
        expected, kept = list(before), 0
        for position, value in enumerate(before):
            taken = change[value] in expected[:position] + expected[position + 1 :]
            kept += taken
            expected[position] = value if taken else change[value]
        conversion = {"value": Conversion(change.__getitem__, ("value",))}
        assert convert(connection, conversion, on_conflict="keep") == (len(before), kept)
        assert [value for (value,) in rows(connection)] == expected


MISTAKES: list[tuple[Conversions, dict[str, Any]]] = [
    ({"name": Conversion(str, ("nmae",))}, {}),
    ({"nmae": UPPER}, {}),
    ({"name": UPPER}, {"key": "nmae"}),
    ({"name": UPPER}, {"table": "thngs"}),
    ({"name": UPPER}, {"on_conflict": "ignore"}),
]


@pytest.mark.parametrize(("conversions", "options"), MISTAKES, ids=str)
def test_a_mistake_is_refused(
    connection: sqlite3.Connection, conversions: Conversions, options: dict[str, Any]
) -> None:
    """SQLite takes an unknown name in double quotes for a string: every row would get it."""
    before = rows(connection)
    with pytest.raises(CredentialDBError):
        convert(connection, conversions, **options)
    assert rows(connection) == before


def test_no_cell_is_shown_to_a_trace_callback(connection: sqlite3.Connection) -> None:
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    with pytest.raises(Refused):
        convert(connection, {"place": SEVEN, "name": UPPER})
    connection.set_trace_callback(None)
    assert statements
    assert not [text for text in statements if "one" in text.lower() or "two" in text.lower()]


def test_rows_are_read_whatever_the_application_has_configured() -> None:
    sqlite3.register_converter("broken", lambda _: 1 / 0)
    with closing(sqlite3.connect(":memory:", detect_types=sqlite3.PARSE_DECLTYPES)) as connection:
        connection.execute("CREATE TABLE things (id INTEGER PRIMARY KEY, name BROKEN, other)")
        values = "(2, 'two', x'ff'), (1, NULL, 1.5), (3, CAST(x'61ff' AS TEXT), 0)"
        connection.execute(f"INSERT INTO things VALUES {values}")
        connection.execute("CREATE INDEX other_order ON things (name, id)")
        connection.row_factory, connection.text_factory = sqlite3.Row, bytes
        found = read_rows(connection, "things", ("id", "NAME", "other"))
        assert found == [(1, None, 1.5), (2, "two", b"\xff"), (3, "a\udcff", 0)]
        assert (connection.row_factory, connection.text_factory) == (sqlite3.Row, bytes)
        with pytest.raises(CredentialDBError):
            read_rows(connection, "things", ("nmae",))
