"""Tokens, and definitions: equal if they mean the same, however they are written."""

import re
import sqlite3
from collections.abc import Callable
from contextlib import closing

import pytest

from credential_db.sqlite.autogenerate import laid_out
from credential_db.sqlite.schema import (
    Schema,
    column_names,
    definitions,
    read_schema,
    schema_of_script,
    spelled,
    tokens,
)
from projects import CHECKOUT

TOKENS = {
    "SELECT  a,\t'It''s -- no' FROM T": ["select", "a", ",", "'It''s -- no'", "from", "t"],
    '"A b" [C]]d `E``f` "g""H"': ['"a b"', '"c"', "]", "d", '"e`f"', '"g""h"'],
    "a--b\n-c/*d*/e/*": ["a", "-", "c", "e"],
    "a||b<>c>=d->>e": ["a", "||", "b", "<>", "c", ">=", "d", "->>", "e"],
    "x'00' 1.5 :p": ["x", "'00'", "1", ".", "5", ":", "p"],
    # SQLite folds ASCII only, and U+00A0 is no white space
    "\u017fsh K\u212a \u00c4 a\u00a0b": ["\u017fsh", "k\u212a", "\u00c4", "a\u00a0b"],
    "": [],
}


SPELLED = {
    "( (\"A\"  <> '(B  ,)') )": "a <> '(B  ,)'",
    "(a = ')')or(b)": "(a = ')') or (b)",
    "lower([x y], `z`)": 'lower ("x y", z)',
    "'a \"b\" c'": "'a \"b\" c'",
    '"a""b"': '"a""b"',
    "(a--)\n)": "a",
}
DEFINITIONS = {
    "CREATE TABLE t (a, b CHECK (b IN (1, 2)), PRIMARY KEY (a, b))STRICT": [
        "a",
        "b CHECK (b IN (1, 2))",
        "PRIMARY KEY (a, b)",
        "STRICT",
    ],
    "CREATE TABLE [a(] (\n [b)] TEXT DEFAULT ',)', -- two\n c /* ( */ INT)": [
        "[b)] TEXT DEFAULT ',)'",
        "-- two\n c /* ( */ INT",
        "",
    ],
}
LAID_OUT = {
    "\nCREATE TABLE t (\n\ta TEXT, \n\tb\n)\n\n": "CREATE TABLE t (\n    a TEXT,\n    b\n)",
    "CREATE TABLE t (\n        a\n    )": "CREATE TABLE t (\n    a\n)",
    "CREATE TABLE t (\n  a DEFAULT ' \n'\n  )": "CREATE TABLE t (\n  a DEFAULT ' \n'\n  )",
}
TEXTS = ((tokens, TOKENS), (spelled, SPELLED), (definitions, DEFINITIONS), (laid_out, LAID_OUT))


@pytest.mark.parametrize(
    ("function", "text", "result"),
    [(function, text, table[text]) for function, table in TEXTS for text in table],
)
def test_texts(function: Callable[[str], object], text: str, result: object) -> None:
    assert function(text) == result


SAME = [
    ("(a TEXT, b INT)", "(B int, [a] text)"),
    ("(a TEXT PRIMARY KEY)", "(a TEXT, CONSTRAINT k PRIMARY KEY (a))"),
    ("(a TEXT UNIQUE)", "(a TEXT, CONSTRAINT u UNIQUE (A))"),
    ("(a TEXT CHECK (a>1))", "(a TEXT, -- no CHECK (b)\n CONSTRAINT c CHECK ( ([A] > 1) ))"),
    ("(a TEXT REFERENCES t (a))", "(a TEXT, FOREIGN KEY (A) REFERENCES T (A) ON UPDATE NO ACTION)"),
    ("(a TEXT DEFAULT (1))", "(a TEXT DEFAULT 1)"),
    ("(a TEXT COLLATE nocase)", '(a TEXT COLLATE "nocase")'),
    ("(a TEXT, b AS (a||1))", "(a TEXT, b GENERATED ALWAYS AS (A || 1) VIRTUAL)"),
    ("(a TEXT REFERENCES t)", "(a TEXT REFERENCES t NOT DEFERRABLE)"),
    ('(a TEXT, CONSTRAINT "collate" CHECK (a))', "(a TEXT CHECK (a))"),
]
DIFFERENT = [
    ("(a TEXT)", "(a BLOB)", "column a TEXT"),
    ("(a TEXT NOT NULL)", "(a TEXT)", "column a TEXT NOT NULL"),
    ("(a DEFAULT 'X')", "(a DEFAULT 'x')", "column a DEFAULT 'X'"),
    ("(a INTEGER PRIMARY KEY)", "(a INT PRIMARY KEY)", "INTEGER PRIMARY KEY a"),
    ("(a INTEGER PRIMARY KEY AUTOINCREMENT)", "(a INTEGER PRIMARY KEY)", "AUTOINCREMENT"),
    ("(a, b, PRIMARY KEY (a, b))", "(a, b, PRIMARY KEY (b, a))", "PRIMARY KEY (a, b)"),
    ("(a, b, UNIQUE (a, b DESC))", "(a, b, UNIQUE (a, b))", "UNIQUE (a, b DESC)"),
    ("(a COLLATE NOCASE)", "(a)", "column a COLLATE NOCASE"),
    ("(a UNIQUE COLLATE NOCASE)", "(a UNIQUE)", "UNIQUE (a COLLATE NOCASE)"),
    ("(a CHECK (a <> ')'))", "(a CHECK (a <> ' )'))", "CHECK (a <> ')')"),
    ("(a CHECK (a IN ('B')))", "(a CHECK (a IN ('b')))", "CHECK (a in ('B'))"),
    ("(a UNIQUE ON CONFLICT IGNORE)", "(a UNIQUE)", "ON CONFLICT IGNORE"),
    ("(a PRIMARY KEY) WITHOUT ROWID", "(a PRIMARY KEY)", "WITHOUT ROWID"),
    ("(a TEXT) STRICT", "(a TEXT)", "STRICT"),
    ("(a, b AS (a) STORED)", "(a, b AS (a))", "column b STORED"),
    ("(a, b AS (a + 1))", "(a, b AS (a + 2))", "column b AS (a + 1)"),
    (
        "(a REFERENCES t DEFERRABLE INITIALLY DEFERRED)",
        "(a REFERENCES t)",
        "FOREIGN KEY DEFERRABLE INITIALLY DEFERRED",
    ),
    (
        "(a REFERENCES u (x) ON DELETE CASCADE)",
        "(a REFERENCES u (x))",
        "FOREIGN KEY to u (a -> x) ON UPDATE NO ACTION ON DELETE CASCADE",
    ),
    (
        "(a, b, FOREIGN KEY (a, b) REFERENCES u (x, y))",
        "(a, b, FOREIGN KEY (a, b) REFERENCES u (y, x))",
        "FOREIGN KEY to u (a -> x, b -> y) ON UPDATE NO ACTION ON DELETE NO ACTION",
    ),
    ('("check" TEXT CHECK ("check" > 1))', '("check" TEXT)', "CHECK (check > 1)"),
    ("(a); CREATE INDEX i ON t (a)", "(a)", "create index i on t (a)"),
    (
        "(a); CREATE INDEX i ON t (a) WHERE a > 'X'",
        "(a); CREATE INDEX i ON t (a) WHERE a > 'x'",
        "create index i on t (a) where a > 'X'",
    ),
]


def schemas(*definitions: str) -> list[Schema]:
    return [schema_of_script(f"CREATE TABLE t {definition}") for definition in definitions]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_the_same_definition_in_other_words(one: str, other: str) -> None:
    first, second = schemas(one, other)
    for name in ("definitions", "columns", "rowids"):
        assert getattr(first, name) == getattr(second, name)


@pytest.mark.parametrize(("one", "other", "line"), DIFFERENT)
def test_another_definition(one: str, other: str, line: str) -> None:
    first, second = schemas(one, other)
    assert f"t: {line}" in first.lines - second.lines
    assert line in first.definitions["t"] - second.definitions["t"]


def test_names_are_spelled_as_the_caller_spells_them() -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(
            """
            CREATE TABLE "It's" (Id INTEGER PRIMARY KEY, B TEXT);
            CREATE INDEX "I""x" ON "It's" (B);
            CREATE INDEX users ON "It's" (B);
            CREATE TABLE \u017fsh (a); CREATE VIEW v AS SELECT 1;
            CREATE TEMP TABLE it (x); CREATE TABLE other (a);
            """
        )
        found = read_schema(connection, ["it's", "ssh", "missing"], ['i"X'])
        assert column_names(connection, "IT'S") == {"id", "b"}
        assert column_names(connection, "ssh") == column_names(connection, "it") == frozenset()
    assert found.columns == {"it's": {"id", "b"}}
    assert found.rowids == {"it's": "Id"}
    assert found.statements["it's"][1:] == ('CREATE INDEX "I""x" ON "It\'s" (B)',)
    assert found.definitions["it's"] == {
        "INTEGER PRIMARY KEY id",
        "column id INTEGER",
        "column b TEXT",
        'create index "i""x" on "it\'s" (b)',
    }
    names = [(entry.type, entry.name) for entry in found.objects]
    assert ("view", "v") in names, "objects lists everything, also of users"
    assert ("table", "it") not in names, "except temporary objects"


def test_neither_converters_nor_a_temporary_table_of_an_application_matter() -> None:
    script = "CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT REFERENCES t (a), UNIQUE (b))"
    with closing(sqlite3.connect(":memory:", detect_types=sqlite3.PARSE_DECLTYPES)) as connection:
        sqlite3.register_converter("TEXT", bytes)
        try:
            connection.executescript(f"{script}; CREATE TEMP TABLE t (b)")
            assert read_schema(connection) == schema_of_script(script)
            assert column_names(connection, "t") == {"a", "b"}
        finally:
            sqlite3.converters.pop("TEXT")


# In SQL, a value between quotes that are written by hand; a constant of ours needs no quoting.
QUOTED_BY_HAND = re.compile(
    r"""(=|FROM|TABLE|INTO|SELECT|VALUES \(|IN \(|main\.) ?\\?['"]\{(?![A-Z_]+\})"""
)


def test_names_and_strings_are_quoted_in_one_way() -> None:
    """By ``driver.quoted`` and ``driver.literal``: a table may be named it's, or a"b."""
    found = [
        f"{file.name}: {line.strip()}"
        for folder in ("src", "alembic", "tools")
        for file in (CHECKOUT / folder).rglob("*.py")
        for line in file.read_text().splitlines()
        if QUOTED_BY_HAND.search(line) or ".replace('\"', '\"\"')" in line
        if file.name != "driver.py"
    ]
    assert found == []
