"""What a revision may do with ``op``: rows without triggers, tables in place or by a copy."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from io import StringIO
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.runtime.migration import MigrationContext
from sqlcipher3 import dbapi2 as sqlcipher

from credential_db.sqlite import scrub
from credential_db.sqlite.causes import clean
from credential_db.sqlite.engine import sqlalchemy_connection
from credential_db.sqlite.errors import CredentialDBError, UnrecognizedSchema
from credential_db.sqlite.operations import Conversion, Operations
from credential_db.sqlite.working import working

SCHEMA = """
    CREATE TABLE tokens (name TEXT PRIMARY KEY, provider TEXT NOT NULL, at TEXT DEFAULT '10:20');
    CREATE TABLE log (line);
    CREATE INDEX by_provider ON tokens (provider);
    INSERT INTO tokens VALUES ('a', 'claude', '1:2'), ('b', 'github', '3:4');
    CREATE TRIGGER inserted AFTER INSERT ON tokens BEGIN INSERT INTO log VALUES (new.name); END;
    CREATE TRIGGER deleted AFTER DELETE ON tokens BEGIN INSERT INTO log VALUES (old.name); END;
    CREATE TRIGGER refused BEFORE UPDATE ON tokens BEGIN SELECT RAISE(ABORT, 'not by me'); END;
    CREATE VIEW all_tokens AS SELECT name FROM tokens;
"""
TOKENS = sa.table("tokens", *(sa.column(name, sa.Text) for name in ("name", "provider", "at")))
RENAME = Conversion(lambda name: {"claude": "anthropic"}.get(name, name), ("provider",))

Revision = Callable[[Operations], object]


@contextmanager
def inside(connection: sqlite3.Connection) -> Iterator[Operations]:
    """A transaction as an upgrade has it."""
    with working(connection, ["tokens"]), sqlalchemy_connection(connection) as wrapper:
        connection.execute("BEGIN IMMEDIATE")
        yield Operations(MigrationContext.configure(wrapper))


@pytest.fixture(params=[sqlite3, sqlcipher], ids=["sqlite3", "sqlcipher3"])
def connection(request: pytest.FixtureRequest) -> Iterator[sqlite3.Connection]:
    with closing(request.param.connect(":memory:")) as connection:
        connection.executescript(SCHEMA)
        yield connection


@pytest.fixture
def op(connection: sqlite3.Connection) -> Iterator[Operations]:
    with inside(connection) as op:
        yield op


def script(*, start: str | None = None) -> tuple[Operations, StringIO]:
    """In ``--sql`` mode, and what is printed."""
    options: dict[str, Any] = {"as_sql": True, "literal_binds": True, "starting_rev": start}
    options["output_buffer"] = StringIO()
    context = MigrationContext.configure(dialect_name="sqlite", opts=options)
    return Operations(context), options["output_buffer"]


def schema(connection: sqlite3.Connection) -> list[tuple[str, ...]]:
    query = "SELECT type, name, tbl_name, sql FROM sqlite_master WHERE sql NOT NULL ORDER BY 1, 2"
    return [row for row in connection.execute(query).fetchall() if row[1] != scrub.MARK]


def tokens(connection: sqlite3.Connection) -> list[tuple[Any, ...]]:
    return connection.execute("SELECT name, provider FROM tokens ORDER BY name").fetchall()


A, B, C, AX, BX = ("a", "claude"), ("b", "github"), ("c", "x"), ("a", "x"), ("b", "x")
INSERT = "INSERT INTO tokens (name, provider) "
STATEMENTS: dict[Any, list[tuple[str, str]]] = {
    "UPDATE tokens SET provider = 'x:y' WHERE name = 'a'": [("a", "x:y"), B],
    " -- c\n/* PRAGMA */ update tokens set provider = ':x';": [("a", ":x"), ("b", ":x")],
    "UPDATE OR IGNORE tokens SET name = 'b', provider = 'x'": [A, BX],
    "WITH n(x) AS (SELECT replace('y', 'y', 'x')) UPDATE tokens SET provider = (SELECT x FROM n)": [
        *(AX, BX)
    ],
    "UPDATE tokens SET provider = '%(x)s' RETURNING name": [("a", "%(x)s"), ("b", "%(x)s")],
    "DELETE FROM tokens WHERE name = 'a'": [B],
    INSERT + "SELECT 'c', 'x'": [A, B, C],
    INSERT + "VALUES ('a', '') ON CONFLICT (name) DO UPDATE SET provider = 'x'": [AX, B],
    sa.text("UPDATE tokens SET provider = :p").bindparams(p="x"): [AX, BX],
    TOKENS.update().where(TOKENS.c.name == "a").values(provider="x"): [AX, B],
}
CHANGES: dict[str, tuple[Revision, list[tuple[str, str]]]] = {
    str(statement): (partial(Operations.execute, sqltext=statement), expected)
    for statement, expected in STATEMENTS.items()
}
CHANGES["bulk_insert"] = (
    lambda op: op.bulk_insert(TOKENS, [{"name": "c", "provider": "x", "at": ""}]),
    [A, B, C],
)
CHANGES["convert_rows"] = (
    lambda op: op.convert_rows("tokens", {"provider": RENAME}),
    [("a", "anthropic"), B],
)


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_of_rows_fires_no_trigger_and_is_scrubbed(
    connection: sqlite3.Connection, name: str
) -> None:
    revision, expected = CHANGES[name]
    before = schema(connection)
    with inside(connection) as op:
        revision(op)
        if name == "convert_rows":
            revision(op)  # two conversions in one upgrade
        assert scrub.is_marked(connection)
        assert (tokens(connection), schema(connection)) == (expected, before)
        assert connection.execute("SELECT * FROM log").fetchall() == []


DEFINITIONS = (
    "CREATE TABLE more (a DEFAULT ':x')",
    "CREATE TRIGGER t AFTER INSERT ON log BEGIN DELETE FROM log; END",
    "ALTER TABLE tokens ADD COLUMN more",
    "DROP INDEX by_provider",
    "REINDEX tokens",
    "SELECT 1",
)


@pytest.mark.parametrize("statement", DEFINITIONS)
@pytest.mark.parametrize("make", [str, sa.DDL])
def test_a_definition_passes(
    op: Operations, connection: sqlite3.Connection, statement: str, make: Callable[[str], Any]
) -> None:
    before = schema(connection)
    op.execute(make(statement))
    assert (schema(connection) != before) == statement.startswith(("CREATE", "ALTER", "DROP"))
    assert not scrub.is_marked(connection)


REFUSED = (
    "REPLACE INTO tokens VALUES ('a', 'b', 'c')",
    "insert/**/or replace into tokens values ('a', 'b', 'c')",
    "WITH n AS (SELECT 1) UPDATE OR REPLACE tokens SET name = 'b'",
    "WITH n AS (SELECT 1) REPLACE INTO tokens SELECT 'a', 'b', 'c'",
    *("PRAGMA foreign_keys = ON", "ATTACH '' AS x", "DETACH x", "VACUUM", "ANALYZE", "BEGIN"),
    *("COMMIT", "END", "ROLLBACK", "SAVEPOINT x", "RELEASE x", "EXPLAIN DELETE FROM tokens"),
    *("", ";", "-- nothing", "nonsense", "WITH n AS ("),
)


@pytest.mark.parametrize("make", [str, sa.text])
@pytest.mark.parametrize("statement", REFUSED)
def test_what_execute_does_not_take(
    op: Operations, connection: sqlite3.Connection, statement: str, make: Callable[[str], Any]
) -> None:
    for each in (op, script()[0]):
        with pytest.raises(CredentialDBError, match=r"op\.execute"):
            each.execute(make(statement))
    with pytest.raises(CredentialDBError), op.batch_alter_table("tokens") as batch_op:
        batch_op.execute(make(statement))
    with pytest.raises(Exception, match="one statement"):
        op.execute("UPDATE tokens SET provider = 'x'; COMMIT")
    assert connection.in_transaction
    assert tokens(connection) == [A, B]


def test_a_conversion_is_remarked(op: Operations) -> None:
    assert op.convert_rows("tokens", {"provider": RENAME}, called="tokens") == 0
    taken = Conversion(lambda _: "b", ("name",))
    assert op.convert_rows("tokens", {"name": taken}, on_conflict="keep") == 1
    assert op.remarks == [
        "2 tokens converted",
        "1 row of tokens converted",
        "1 row of tokens kept",
    ]


def test_rows_and_columns_are_read(op: Operations) -> None:
    assert op.read_rows("tokens", ("provider", "NAME")) == [("claude", "a"), ("github", "b")]
    assert op.has_column("TOKENS", "Provider")
    assert not op.has_column("tokens", "providers")
    assert not op.has_column("tokenz", "provider")


def test_tables_with_rows_are_refused(op: Operations) -> None:
    op.refuse_rows("log", "no such table")
    with pytest.raises(CredentialDBError, match="tokens"):
        op.refuse_rows("log", "tokens")


# Tables: in place, or by a copy


def batch(change: Callable[[Any], object], **options: Any) -> Revision:
    def revision(op: Operations) -> None:
        with op.batch_alter_table("tokens", **options) as batch_op:
            change(batch_op)

    return revision


def test_a_table_is_altered_in_place(op: Operations, connection: sqlite3.Connection) -> None:
    batch(lambda op: op.alter_column("provider", new_column_name="source"))(op)
    batch(lambda op: op.add_column(sa.Column("more", sa.Text)), recreate="never")(op)
    batch(lambda op: op.drop_column("at"))(op)
    assert op.read_rows("tokens", ("source", "more")) == [("claude", None), ("github", None)]
    triggers = {name for kind, name, *_ in schema(connection) if kind == "trigger"}
    assert triggers == {"inserted", "deleted", "refused"}


NOT_IN_PLACE: dict[str, Revision] = {
    "a type": batch(lambda op: op.alter_column("provider", type_=sa.Integer())),
    "a CHECK": batch(lambda op: op.create_check_constraint("c", "name > ''")),
    "NOT NULL without a default": batch(
        lambda op: op.add_column(sa.Column("more", sa.Text, nullable=False))
    ),
    "a computed default": batch(
        lambda op: op.add_column(sa.Column("m", sa.Text, server_default=sa.text("(random())")))
    ),
    "a column of the key that goes": batch(lambda op: op.drop_column("name")),
    "recreate=always": batch(lambda op: op.drop_column("at"), recreate="always"),
    "without a batch": lambda op: op.alter_column("tokens", "provider", type_=sa.Integer()),
    "in SQL": lambda op: op.execute("ALTER TABLE tokens ADD COLUMN more UNIQUE"),
}


@pytest.mark.parametrize("name", NOT_IN_PLACE)
def test_what_sqlite_cannot_alter_in_place_names_the_copy(
    op: Operations, connection: sqlite3.Connection, name: str
) -> None:
    before = schema(connection)
    with pytest.raises(CredentialDBError, match=r"op\.copy_table"):
        NOT_IN_PLACE[name](op)
    assert schema(connection) == before


@pytest.mark.parametrize(
    ("name", "statement"),
    [
        ("index by_hour", "CREATE INDEX by_hour ON tokens (at)"),
        ("view by_hour", "CREATE VIEW by_hour AS SELECT missing FROM tokens"),
        ("trigger t", "CREATE TRIGGER t AFTER DELETE ON log BEGIN SELECT x FROM log; END"),
    ],
)
def test_an_object_of_the_user_that_prevents_it_is_named(
    op: Operations, connection: sqlite3.Connection, name: str, statement: str
) -> None:
    connection.execute(statement)
    with pytest.raises(sa.exc.OperationalError) as caught:
        batch(lambda op: op.drop_column("at"))(op)
    error = clean(caught.value, "vault.db")
    assert isinstance(error, UnrecognizedSchema)
    assert name in str(error)


def test_another_failure_is_not_blamed_on_sqlite(op: Operations) -> None:
    with pytest.raises(sa.exc.OperationalError, match="no such table"):
        op.drop_table("missing")
    with pytest.raises(ZeroDivisionError), op.batch_alter_table("tokens"):
        raise ZeroDivisionError


def test_a_table_is_copied(op: Operations, connection: sqlite3.Connection) -> None:
    new = "CREATE TABLE tokens (name TEXT PRIMARY KEY, provider TEXT NOT NULL, size INT)"
    op.copy_table("tokens", new, values={"size": "length(provider)"})
    assert connection.execute("SELECT * FROM tokens").fetchall() == [(*A, 6), (*B, 6)]
    assert ("trigger", "inserted") in {row[:2] for row in schema(connection)}


# --sql mode


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("start", [None, "base", "v1"])
def test_a_script_changes_rows_only_from_base_on(name: str, start: str | None) -> None:
    op, output = script(start=start)
    if start == "v1":
        with pytest.raises(CredentialDBError):
            CHANGES[name][0](op)
        assert output.getvalue() == ""
        return
    CHANGES[name][0](op)
    assert ("tokens" in output.getvalue()) == (name != "convert_rows")
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(SCHEMA.partition("CREATE INDEX")[0] + output.getvalue())


def test_a_script_of_definitions_is_printed_literally() -> None:
    op, output = script(start="v1")
    op.execute("CREATE TABLE t (a DEFAULT ':x')")
    batch(lambda op: op.alter_column("provider", new_column_name="source"))(op)
    assert [line.strip() for line in output.getvalue().split(";")] == [
        "CREATE TABLE t (a DEFAULT ':x')",
        "ALTER TABLE tokens RENAME COLUMN provider TO source",
        "",
    ]


def test_a_script_sees_no_file() -> None:
    op, _ = script()
    assert op.has_column("tokens", "whatever")
    assert op.read_rows("tokens", ("whatever",)) == []
    with pytest.raises(CredentialDBError, match="--sql"):
        op.copy_table("tokens", "CREATE TABLE tokens (a)")
    with pytest.raises(CredentialDBError, match="--sql"):
        op.refuse_rows("tokens")
