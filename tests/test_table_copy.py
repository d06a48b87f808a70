"""A table copy: what its new columns are to hold."""

import sqlite3
from contextlib import closing

import pytest

from credential_db.sqlite.table_copy import copy_table


@pytest.mark.parametrize(
    ("values", "rows"),
    [
        ({}, [(1, "one", None)]),
        ({"owner": "name || '!'"}, [(1, "one", "one!")]),
        ({"OWNER": "upper(name)"}, [(1, "one", "ONE")]),
        ({"Name": "name || '?'"}, [(1, "one?", None)]),
    ],
)
def test_a_value_is_an_expression_over_the_old_columns(
    values: dict[str, str], rows: list[tuple[object, ...]]
) -> None:
    """Names are SQLite's, whatever their capitals."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.executescript(
            "CREATE TABLE things (id INTEGER PRIMARY KEY, name TEXT);"
            "INSERT INTO things VALUES (1, 'one'); BEGIN"
        )
        copy_table(
            connection,
            "things",
            "CREATE TABLE things (id INTEGER PRIMARY KEY, name TEXT, owner TEXT)",
            values,
        )
        assert connection.execute("SELECT * FROM things").fetchall() == rows
