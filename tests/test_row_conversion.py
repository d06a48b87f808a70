"""Rows converted one by one, in any table: each exactly once, and all bad ones in one error."""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any

import pytest

from credential_db import CredentialDBError
from credential_db.sqlite.row_conversion import BadRow, Conversion, Double, convert_rows


class Refused(Exception):
    """Has all the bad rows."""


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.executescript(
            "CREATE TABLE things (id INTEGER PRIMARY KEY, name TEXT NOT NULL, place INT UNIQUE);"
            "INSERT INTO things VALUES (1, 'one', 1), (2, 'two', 2), (3, 'three', 3);"
            "BEGIN;"
        )
        yield connection


def convert(
    connection: sqlite3.Connection, conversions: Mapping[str, Conversion], **options: Any
) -> list[tuple[Any, ...]]:
    options = {"error": Refused, "called": "things", **options}
    assert convert_rows(connection, "things", conversions, **options) == 3
    return connection.execute("SELECT id, name, place FROM things ORDER BY id").fetchall()


UPPER = Conversion(str.upper, ("name",))
NEXT = Conversion(lambda key: key % 3 + 1, ("id",))


@pytest.mark.parametrize(
    "conversions",
    [{"place": NEXT}, {"place": NEXT, "name": UPPER}, {"name": UPPER, "place": NEXT}],
    ids=["alone", "first", "last"],
)
def test_unique_values_may_go_round(
    connection: sqlite3.Connection, conversions: Mapping[str, Conversion]
) -> None:
    rows = convert(connection, conversions)
    assert [place for *_, place in rows] == [2, 3, 1]
    assert [name for _, name, _ in rows] == (
        ["ONE", "TWO", "THREE"] if "name" in conversions else ["one", "two", "three"]
    )


REFUSED = {
    "NOT NULL": (
        {"name": Conversion(lambda name: None if "t" in name else name, ("name",))},
        "its rows 2, 3 (NOT NULL constraint failed: things.name)",
    ),
    "UNIQUE": (
        {"place": Conversion(lambda _: 7, ("id",))},
        "its rows 2, 3 (UNIQUE constraint failed: things.place)",
    ),
    "UNIQUE, made of what was there": (
        {"place": Conversion(lambda place: place % 3 + 1, ("place",))},
        "its rows 1, 2, 3 (UNIQUE constraint failed: things.place)",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_all_rows_that_are_refused_are_named(connection: sqlite3.Connection, name: str) -> None:
    conversions, rows = REFUSED[name]
    with pytest.raises(CredentialDBError) as caught:
        convert(connection, conversions)
    assert rows in str(caught.value)


def test_bad_rows_come_before_those_that_are_refused(connection: sqlite3.Connection) -> None:
    """The advice is to repair or delete them, which is none for the others."""

    def none_of_two(name: str) -> str | None:
        if name == "three":
            raise BadRow("is the third")
        return None if name == "two" else name

    with pytest.raises(Refused) as caught:
        convert(connection, {"name": Conversion(none_of_two, ("name",))})
    assert caught.value.args == ([(3, "is the third")],)


@pytest.mark.parametrize(
    ("conversions", "options"),
    [
        ({"name": Conversion(str, ("nmae",))}, {}),
        ({"nmae": UPPER}, {}),
        ({"name": UPPER}, {"key": "nmae"}),
        ({"name": UPPER}, {"double": Double("nmae", "is the same as row")}),
    ],
    ids=["read", "written", "the key", "of no two the same"],
)
def test_a_column_that_does_not_exist_is_named(
    connection: sqlite3.Connection, conversions: Mapping[str, Conversion], options: dict[str, Any]
) -> None:
    """SQLite takes an unknown name between double quotes for a string: every row would get it."""
    before = connection.execute("SELECT * FROM things").fetchall()
    with pytest.raises(CredentialDBError, match="things has no column nmae"):
        convert(connection, conversions, **options)
    assert connection.execute("SELECT * FROM things").fetchall() == before


def test_a_column_that_is_read_is_never_freed(connection: sqlite3.Connection) -> None:
    """Names of columns are the same in capitals, and what stands there is the only copy."""
    seen = []

    def next_place(place: object) -> object:
        seen.append(place)
        return seen[0] if seen[1:] else 2  # which the second row has still

    with pytest.raises(CredentialDBError, match="rows 1"):
        convert(connection, {"place": Conversion(next_place, ("PLACE",))})
    assert seen == [1, 2, 3]


def test_many_rows_that_are_refused_cost_no_more_than_others(
    connection: sqlite3.Connection,
) -> None:
    """Each search for another row with the same would read the table, under the file's lock."""
    connection.execute("DELETE FROM things")
    connection.executemany(
        "INSERT INTO things VALUES (?, ?, ?)", [(key, str(key // 2), key) for key in range(5000)]
    )
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    with pytest.raises(Refused) as caught:
        convert(
            connection,
            {"place": Conversion(int, ("name",))},
            double=Double("name", "is the same as row"),
        )
    (problems,) = caught.value.args
    assert problems[:2] == [(0, "is the same as row 1"), (1, "is the same as row 0")]
    assert len(problems) == 5000
    assert sum("count(*)" in statement for statement in statements) == 2, "all, and doubles"


def test_rows_that_are_moved_on_are_not_met_for_ever(connection: sqlite3.Connection) -> None:
    further = Conversion(lambda key: key + 1000 if key < 10**6 else key, ("id",))
    with pytest.raises(CredentialDBError, match="has 3 rows and 4 were found"):
        convert(connection, {"id": further})
