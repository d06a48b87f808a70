"""The next version, in a copy of the project: edit schema.py, revision, snapshot, upgrade.

Every generated change is executed in memory; some go all the way, with files of every version.
What a careless revision would lose is refused before the commit.
"""

import contextlib
import importlib.util
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from sqlite3 import Connection
from typing import Any, NamedTuple

import pytest
from alembic.autogenerate import render_python_code
from alembic.util import CommandError
from sqlalchemy import (
    CheckConstraint,
    Column,
    Computed,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    text,
)
from sqlalchemy.schema import SchemaItem

from credential_db import snapshots
from credential_db.sqlite.alterations import database
from credential_db.sqlite.autogenerate import both_ways, run, script_of_metadata
from credential_db.sqlite.driver import quoted
from credential_db.sqlite.errors import UnrecognizedSchema
from credential_db.sqlite.schema import read_schema, schema_of_script
from projects import Project, Step
from vaults import TABLES, Vault, columns_of_2, keys, upgrade_to_2

Names = Mapping[str, str | None]
"""New names of tables, and of columns as ``table.column``; None for one that is dropped."""

# The code alone, in memory


class Mine(TypeDecorator[str]):
    """A type of schema.py's own."""

    impl = Text
    cache_ok = True


Tables = Callable[[], Mapping[str, Sequence[SchemaItem]]]


class Change(NamedTuple):
    """From one schema to another."""

    does: str  # which METHODS the upgrade uses
    before: str  # a script that creates the tables, and their rows
    after: str | Tables
    renamed: Names = {}  # noqa: RUF012  # nobody writes to it


def people(*more: SchemaItem, key: str = "id") -> dict[str, Sequence[SchemaItem]]:
    column = Column(key, Integer, primary_key=True, nullable=True)
    return {"people": [column, Column("name", Text), Column("born", Text), *more]}


METHODS = (
    "copy_table",
    "rename_table",
    "alter_column",
    "drop_column",
    "ADD COL",
    "DROP I",
    "CREATE I",
)
PEOPLE = (
    "CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT, born {});"
    "INSERT INTO people (id, name, born) VALUES (3, 'Ada', '1815'), (7, x'00', '');"
)
PLAIN = PEOPLE.format("TEXT")
REFERRED = f"{PLAIN} CREATE TABLE t (up INTEGER, FOREIGN KEY (up) REFERENCES people (id))"
ODD_TABLE = """CREATE TABLE "it's" ("a""b" TEXT PRIMARY KEY, "c d" TEXT,
    "order" TEXT REFERENCES "it's", ":x %s" TEXT)"""
ODD = f"""{ODD_TABLE}; INSERT INTO "it's" VALUES ('1', '2', NULL, '4');"""
V2 = snapshots.script(2)
CONVENTION = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
COMMENT_SQL = "    comment TEXT DEFAULT '' NOT NULL,\n"
CHANGES = {
    "a wider CHECK": Change("copy_table", V2, V2.replace("'rsa')", "'rsa','ecdsa')")),
    "a dropped column": Change(
        "drop_column", V2, V2.replace(COMMENT_SQL, ""), {"ssh_keys.comment": None}
    ),
    "a column with a default": Change(
        "ADD COL",
        V2,
        V2.replace("data TEXT NOT NULL", "data TEXT NOT NULL, uses INTEGER DEFAULT 0 NOT NULL"),
    ),
    "a column with the time as its default": Change(
        "copy_table", V2, V2.replace("key_id I", "at TEXT DEFAULT (datetime('now')), key_id I")
    ),
    "another expression in an index": Change(
        "DROP I CREATE I",
        f"{PLAIN} CREATE INDEX i ON people (lower(name), born DESC)",
        lambda: people(Index("i", text("upper(name)"), text("born DESC"))),
    ),
    "a copy, with an index of an expression": Change(
        "copy_table",
        f"{PLAIN} CREATE UNIQUE INDEX i ON people (lower(name)) WHERE id <> ':a'",
        lambda: people(
            CheckConstraint("id > 0"),
            Index("i", text("lower(name)"), unique=True, sqlite_where=text("id <> '\\:a'")),
        ),
    ),
    "a renamed column with indexes of it": Change(
        "alter_column",
        f"{PLAIN} CREATE INDEX i ON people (id) WHERE born > '1'",
        "CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT, birth TEXT);"
        "CREATE INDEX i ON people (id) WHERE birth > '1'",
        {"people.born": "birth"},
    ),
    "a renamed column of a table to be copied": Change(
        "copy_table alter_column",
        PEOPLE.format("TEXT NOT NULL DEFAULT 'it''s :x 5%'"),
        "CREATE TABLE people (id INTEGER PRIMARY KEY, name BLOB,"
        " birth TEXT NOT NULL DEFAULT 'it''s :x 5%')",
        {"people.born": "birth"},
    ),
    "a renamed key that others refer to": Change(
        "alter_column",
        REFERRED,
        lambda: {**people(key="no"), "t": [Column("up", Integer, ForeignKey("people.no"))]},
        {"people.id": "no"},
    ),
    "a column with a CHECK beside it, of a type of schema.py's own": Change(
        "ADD COL", PLAIN, lambda: people(Column("died", Mine, CheckConstraint("died > '1'")))
    ),
    "a new UNIQUE column": Change(
        "copy_table", PLAIN, lambda: people(Column("label", Text, unique=True))
    ),
    "another computed column": Change(
        "drop_column ADD COL",
        PEOPLE.format("TEXT, a INTEGER AS (length(name)), b TEXT AS (name || ', ' || a)"),
        lambda: people(
            Column("a", Integer, Computed("length(name)")),
            Column("c", Text, Computed("name || ', ' || a")),
        ),
        {"people.b": None},
    ),
    "a renamed table that refers to itself, and others to it": Change(
        "rename_table",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, up INTEGER REFERENCES t (id));"
        "CREATE TABLE u (id INTEGER PRIMARY KEY, t INTEGER REFERENCES t (id));"
        "INSERT INTO t VALUES (1, NULL), (5, 1); INSERT INTO u VALUES (2, 5)",
        'CREATE TABLE "T2" (id INTEGER PRIMARY KEY, up INTEGER REFERENCES "T2" (id));'
        'CREATE TABLE u (id INTEGER PRIMARY KEY, t INTEGER REFERENCES "T2" (id));',
        {"t": "T2"},
    ),
    "odd names: a renamed table": Change(
        "rename_table", ODD, ODD.replace("it's", 'a""b %s :x'), {"it's": 'a"b %s :x'}
    ),
    "odd names: a renamed column": Change(
        "alter_column", ODD, ODD.replace('"a""b"', '"it\'s"'), {"it's.a\"b": "it's"}
    ),
    "odd names: a copy": Change("copy_table", ODD, ODD.replace('":x %s" TEXT', '":x %s" BLOB')),
    "odd names: a column and an index": Change(
        "ADD COL CREATE I",
        ODD,
        ODD_TABLE[:-1] + ', "y ""z" TEXT DEFAULT \':a "b"\');'
        'CREATE INDEX "i""x" ON "it\'s" ("c d")',
    ),
    "strings of several lines": Change(
        "copy_table",
        PLAIN,
        PEOPLE.format("TEXT, z TEXT DEFAULT 'a\n  \t\\n\"\"\"', CHECK (name <> 'b\n    c')"),
    ),
}


def cells(connection: Connection, renamed: Names = {}) -> dict[str, set[tuple[Any, ...]]]:  # noqa: B006
    """Every cell, under the names that its table and its column will have."""
    found: dict[str, set[tuple[Any, ...]]] = {}
    for table in read_schema(connection).columns:
        rows = connection.execute(f"SELECT * FROM {quoted(table)}")
        for column in [column[0] for column in rows.description]:
            name = quoted(column)
            select = f"SELECT rowid, typeof({name}), CAST({name} AS BLOB) FROM {quoted(table)}"
            if (new := renamed.get(f"{table}.{column}", column)) is not None:
                found[f"{renamed.get(table, table)}.{new}"] = {*connection.execute(select)}
    return found


def wanted_of(after: str | Tables) -> str:
    if isinstance(after, str):
        with closing(database(after)) as connection:
            return ";\n".join(entry.sql for entry in read_schema(connection).objects if entry.sql)
    metadata = MetaData()
    for table, items in after().items():
        Table(table, metadata, *items)
    return script_of_metadata(metadata)


def called(code: str, connection: Connection) -> None:
    names: dict[str, Any] = {}
    exec(f"def step(op):\n    {code}", names)
    run(names["step"], connection)


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_keeps_every_cell_up_and_down(name: str) -> None:
    change = CHANGES[name]
    wanted = wanted_of(change.after)
    up, down = (render_python_code(way) for way in both_ways(change.before, wanted))
    assert " ".join(method for method in METHODS if method in up) == change.does
    with closing(database(change.before)) as connection:
        before, expected = cells(connection), cells(connection, change.renamed)
        called(up, connection)
        assert cells(connection).items() >= expected.items()
        assert read_schema(connection).lines == schema_of_script(wanted).lines
        called(down, connection)
        assert read_schema(connection).lines == schema_of_script(change.before).lines
        after = cells(connection)
        lost = {column for column, new in change.renamed.items() if new is None}
        assert {**after, **{column: before[column] for column in lost}} == before


def test_nothing_is_generated_if_only_the_spelling_differs() -> None:
    """Capitals, the order of columns, and names of constraints, as of a naming convention."""
    metadata = MetaData(naming_convention=CONVENTION)
    Table(
        "PEOPLE",
        metadata,
        Column("Born", Text, index=True),
        Column("id", Integer, primary_key=True, nullable=True),
        Column("up", Integer, ForeignKey("PEOPLE.id"), unique=True),
        CheckConstraint("born > ''", name="set"),
    )
    before = (
        "CREATE TABLE people (id INTEGER PRIMARY KEY, up INTEGER UNIQUE REFERENCES people (id),"
        " born TEXT CHECK (born>'')); CREATE INDEX {} ON people (born)"
    )
    script = script_of_metadata(metadata)
    for way in both_ways(before.format('"ix_PEOPLE_Born"'), script):
        assert way.ops == []
    assert "CONSTRAINT \"ck_PEOPLE_set\" CHECK (born > '')" in script
    upgrade, _ = both_ways(before.format("i"), script)
    assert "INDEX" in render_python_code(upgrade)


@pytest.mark.parametrize("size", [2, 5])
def test_a_column_that_is_computed_from_now_on_keeps_what_was_in_it(size: int) -> None:
    wanted = "CREATE TABLE t (a TEXT, size INTEGER AS (length(a)))"
    before = f"CREATE TABLE t (a TEXT, size INTEGER); INSERT INTO t VALUES ('yy', {size})"
    up, _ = both_ways(before.replace(str(size), "2"), wanted)
    fits = pytest.raises(UnrecognizedSchema) if size != 2 else contextlib.nullcontext()
    with closing(database(before)) as connection, fits:
        called(render_python_code(up), connection)
        assert read_schema(connection).lines == schema_of_script(wanted).lines


T = "CREATE TABLE t (x TEXT)"
REFUSED: dict[str, tuple[str, str | Tables, str]] = {
    "two tables for one": (f"{T}; CREATE TABLE b (x TEXT)", "CREATE TABLE c (x TEXT)", "ambiguous"),
    "a table of another definition": (T, "CREATE TABLE c (x BLOB)", "ambiguous"),
    "a renamed column and another": (
        T,
        "CREATE TABLE t (y TEXT, z TEXT)",
        "columns of t: x disappear and y, z appear, which is ambiguous",
    ),
    "two columns renamed": (f"{T[:-1]}, y INT)", "CREATE TABLE t (v TEXT, w INT)", "ambiguous"),
    "a column of another definition": (T, "CREATE TABLE t (y INT)", "one revision per rename"),
    "a column without a value": (
        T,
        "CREATE TABLE t (x TEXT, y TEXT NOT NULL)",
        "table t gets y, which is NOT NULL and has no default",
    ),
    "a CHECK of a column that does not exist": (
        T,
        lambda: {"t": [Column("x", Text), CheckConstraint("y > 1")]},
        "the tables of schema.py cannot be created: no such column: y",
    ),
    "a foreign key to a table that does not exist": (
        T,
        lambda: {"t": [Column("x", Text, ForeignKey("gone.x"))]},
        "the tables of schema.py cannot be created: .* could not find table 'gone'",
    ),
    **{
        f"a colon that would become NULL, {number}": (
            T,
            lambda item=item: {"t": [Column("x", Text), item()]},  # type: ignore[misc]
            "put a backslash before the colon",
        )
        for number, item in enumerate(
            [
                lambda: CheckConstraint("x <> ':memory'"),
                lambda: Column("a", Text, server_default=text("':memory'")),
                lambda: Column("a", Text, Computed("'x' || ':memory'")),
                lambda: Index("i", text("instr(x, ':memory')")),
                lambda: Index("i", "x", sqlite_where=text("x <> ':m'")),
            ]
        )
    },
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_ambiguous_or_impossible_is_refused(name: str) -> None:
    before, after, said = REFUSED[name]
    with pytest.raises(CommandError, match=said):
        both_ways(before, wanted_of(after))


# All the way, in a copy of the project

FILES = {
    "src/credential_db/schema.py",
    "src/credential_db/head.py",
    "src/credential_db/snapshots/v3.sql",
    "alembic/versions/v3.py",
}
COMMENT = '    Column("comment", Text, nullable=False, server_default=text("\'\'")),\n'
DATA = '    Column("data", Text, nullable=False),\n'
TOKENS = "proxy_tokens = Table(\n"
SEEN = 'Column("seen", Text, nullable=False, server_default=text("(datetime(\'now\'))")),\n'
PROVIDER = '    Column("provider", Text, nullable=False),\n'
FOREIGN = '["credential_set", "provider"], ["credentials.credential_set", "credentials.provider"]'
Edits = Sequence[tuple[str, str]]


class Version(NamedTuple):
    """One change of schema.py."""

    edits: Edits
    renamed: Names = {}  # noqa: RUF012  # nobody writes to it


VERSIONS = {
    "all kinds together": Version(
        [
            ("IN ('ed25519','rsa')", "IN ('ed25519','rsa','ecdsa')"),
            (COMMENT, ""),
            ('"credentials"', '"secrets"'),
            ('Column("subject"', 'Column("label"'),
            ('Column("assigned_at"', 'Column("uses", Integer), Column("assigned_at"'),
        ],
        {"credentials": "secrets", "ssh_keys.comment": None, "proxy_tokens.subject": "label"},
    ),
    "a table, and a column, that others refer to": Version(
        [
            ('"ssh_keys"', '"keys"'),
            ('"ssh_keys.id"', '"keys.id"'),
            ("key_id", "key"),
        ],
        {"ssh_keys": "keys", "ssh_key_assignments.key_id": "key"},
    ),
    "a new table, odd names, and columns that SQLite cannot add": Version(
        [
            (
                TOKENS,
                'uses = Table(\n    "it\'s",\n    metadata,\n'
                '    Column("a\\"b", Integer, primary_key=True, nullable=True),\n'
                '    Column("order", Integer, nullable=False),\n'
                '    ForeignKeyConstraint(["order"], ["ssh_keys.id"], ondelete="CASCADE"),\n'
                '    Index("ix it\'s", "order"),\n'
                f"    sqlite_autoincrement=True,\n)\n\n{TOKENS}",
            ),
            (DATA, f'{DATA}    Column("from", Integer, Computed("length(data)")),\n'),
            (
                'PrimaryKeyConstraint("scope", "key_id")',
                f'{SEEN}    PrimaryKeyConstraint("scope", "key_id")',
            ),
            (COMMENT, COMMENT + '    Column("label", Text, unique=True),\n'),
        ]
    ),
}


def write_user_objects(vault: Vault, version: int) -> None:
    """Objects that are not this project's, and have to survive every change."""
    token = "subject" if version == 2 else "task"
    vault.execute(
        "CREATE TABLE audit_log (what TEXT)",
        "CREATE TRIGGER audited AFTER UPDATE ON ssh_keys BEGIN"
        " INSERT INTO audit_log VALUES ('key ' || new.id); END",
        f"CREATE TRIGGER renamed AFTER UPDATE OF {token} ON proxy_tokens BEGIN"
        " INSERT INTO audit_log VALUES ('token ' || new.scope); END",
        "CREATE INDEX by_creation ON ssh_keys (created_at)",
        "CREATE INDEX by_provider ON credentials (provider)",
        "CREATE VIEW key_ids AS SELECT id, key_type FROM ssh_keys",
    )


def assert_user_objects_work(path: Path, renamed: Names = {}) -> None:  # noqa: B006
    vault = Vault(path)
    vault.check_integrity()
    names = {name for (name,) in vault.query("SELECT name FROM sqlite_master")}
    assert names >= {"audit_log", "audited", "renamed", "by_creation", "by_provider", "key_ids"}
    table, subject = renamed.get("ssh_keys"), renamed.get("proxy_tokens.subject", "subject")
    table = table or "ssh_keys"
    with closing(vault.connect()) as connection:
        assert connection.execute("SELECT * FROM audit_log").fetchall() == [], "a trigger fired"
        connection.execute(f'UPDATE "{table}" SET key_type = key_type WHERE id = 2')
        connection.execute(f"UPDATE proxy_tokens SET {subject} = 1 WHERE token = 'phantom-1'")
        found = connection.execute("SELECT * FROM audit_log").fetchall()
        assert found == [("key 2",), ("token scope",)], "a trigger does not fire any more"
        assert len(connection.execute("SELECT * FROM key_ids").fetchall()) == 4
        with pytest.raises(Exception, match="CHECK constraint failed"):
            connection.execute(f"UPDATE \"{table}\" SET key_type = 'dsa'")


def rows(path: Path, renamed: Names, dropped: Sequence[str]) -> list[Any]:
    """The rows of the tables of version 2, which may have new names, and the AUTOINCREMENT mark."""
    found = []
    with closing(Vault(path).connect()) as connection:
        for table in TABLES:
            columns = [
                quoted(renamed.get(f"{table}.{column}", column) or "")
                for column in columns_of_2(table)
                if f"{table}.{column}" not in dropped
            ]
            cells = ", ".join(f"typeof({name}), CAST({name} AS BLOB)" for name in columns)
            name = quoted(renamed.get(table) or table)
            found.append([*connection.execute(f"SELECT rowid, {cells} FROM {name} ORDER BY rowid")])
        found.append([*connection.execute("SELECT seq FROM sqlite_sequence WHERE seq")])
    return found


def upgrade(vault: Vault, to: str = "head") -> Step:
    return ("upgrade" if to == "head" else "downgrade", {"revision": to, "db": vault.path})


@pytest.mark.parametrize("name", VERSIONS)
def test_a_version_goes_all_the_way(tmp_path: Path, name: str) -> None:
    version = VERSIONS[name]
    project = Project(tmp_path / "project")
    project.edit(*version.edits)
    dropped = [column for column, new in version.renamed.items() if new is None]
    vaults = [Vault(tmp_path / f"v{number}.db") for number in range(3)]
    steps: list[Step] = []
    for number, vault in enumerate(vaults):
        vault.create(number, content=keys(4))
        write_user_objects(vault, number)
        shutil.copyfile(vault.path, tmp_path / f"v{number}.at2")
        upgrade_to_2(tmp_path / f"v{number}.at2")
        steps += [upgrade(vault), ("check", {"db": vault.path}), ("start", {"file": vault.path})]
        steps += [("keep", {"file": vault.path, "under": vault.path.with_suffix(".at3")})]
        steps += [upgrade(vault, "v2")]
        steps += [("keep", {"file": vault.path, "under": vault.path.with_suffix(".back")})]
        steps += [upgrade(vault, "v0"), upgrade(vault)]
    answers = project.generate(*steps)
    assert project.changed() == FILES
    assert not [line for line in answers if "FAILED" in line], answers
    for said in ("No new upgrade operations detected", "already at version 3"):
        assert sum(said in line for line in answers) == len(vaults), answers
    for vault in vaults:
        at_2, at_3, back = (vault.path.with_suffix(end) for end in (".at2", ".at3", ".back"))
        expected = rows(at_2, {}, dropped)
        assert expected[-1] == [(1000,)]
        assert rows(at_3, version.renamed, dropped) == expected, "the upgrade has lost something"
        assert rows(back, {}, dropped) == expected, "the downgrade has lost something"
        assert rows(vault.path, version.renamed, dropped) == expected
        assert vault.stamps() == Vault(at_3).stamps() == ("v3", 3)
        assert Vault(back).stamps() == ("v2", 2)
        for path in (at_3, vault.path):
            assert_user_objects_work(path, version.renamed)
        assert_user_objects_work(back)


def test_the_commands_of_the_document(tmp_path: Path) -> None:
    """A development file does not matter; ``alembic revision`` writes the snapshot itself."""
    project = Project(tmp_path / "project")
    (project.path / "credentials.db").write_bytes(b"garbage " * 999)
    project.edit(*VERSIONS["all kinds together"].edits)
    made = project.shell('alembic revision --autogenerate -m "the next one"')
    assert (made.returncode, made.stderr) == (0, "")
    assert "written: src/credential_db/head.py, src/credential_db/snapshots/v3.sql" in made.stdout
    assert project.changed() == FILES
    code = project.new_revision.read_text()
    assert code.startswith('"""The next one.\n\nRevision ID: v3\nRevises: v2\n')
    if importlib.util.find_spec("ruff"):  # else nothing formats the file
        files = "alembic src/credential_db/head.py"
        checked = project.shell(f"ruff check {files} && ruff format --check {files}")
        assert checked.returncode == 0, checked.stdout
    project.new_revision.unlink()
    by_hand = project.shell('alembic revision -m "by hand"')
    assert by_hand.returncode == 0, by_hand.stderr
    assert f"{project.new_revision} is written, but has no snapshot yet" in by_hand.stderr
    assert "FAILED" not in by_hand.stderr


def test_what_writes_nothing(tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    file = Vault(tmp_path / "v2.db").create(2, content=keys(1))
    autogenerate: Step = ("revision", {"message": "x", "autogenerate": True})
    branches: list[Step] = [
        ("merge", {"revisions": "heads", "message": "x"}),
        ("revision", {"message": "x", "head": "v1", "splice": True}),
        ("revision", {"message": "x", "head": "v0"}),
        ("revision", {"message": "x", "head": "base"}),
        ("revision", {"message": "x", "branch_label": "mine"}),
        ("revision", {"message": "x", "depends_on": "v1"}),
    ]
    nothing, _, *refused = project.run(autogenerate, upgrade(file), *branches)
    assert "Nothing to write" in nothing
    assert "alembic revision -m" in nothing, "how to write a version that changes only rows"
    for step, printed in zip(branches, refused, strict=True):
        assert "FAILED: " in printed, f"{step} has to be refused"
    assert project.changed() == set()
    schema = project.schema.read_text()
    without_rowid = ("    sqlite_autoincrement=True,\n", "    sqlite_with_rowid=False,\n")
    convention = ("MetaData()", f"MetaData(naming_convention={CONVENTION})")
    for edits, step, said in (
        ([without_rowid], autogenerate, "FAILED: table ssh_keys is WITHOUT ROWID"),
        ([convention], autogenerate, "requires that constraint is explicitly named"),
        (VERSIONS["all kinds together"].edits, ("check", {"db": file.path}), "FAILED: New upgrade"),
    ):
        project.schema.write_text(schema)
        project.edit(*edits)
        (printed,) = project.run(step)
        assert said in printed
        assert project.changed() == {"src/credential_db/schema.py"}
    for words in ("ecdsa", "secrets", "label", "uses"):
        assert words in printed


def test_another_version_on_top(tmp_path: Path) -> None:
    """A revision may be deleted and generated again; the next one finds what the first has left."""
    project = Project(tmp_path / "project")
    project.edit((DATA, f'{DATA}    Index("ix_length", text("length(data) DESC")),\n'))
    project.generate()
    project.new_revision.unlink()
    project.edit((DATA, f'{DATA}    Column("size", Integer, Computed("length(data)")),\n'))
    project.generate()
    code = project.new_revision.read_text()
    assert "ix_length" in code
    assert "size" in code
    project.edit(('Computed("length(data)")', 'Computed("length(provider)")'))
    project.edit(('"proxy_tokens"', '"phantom_tokens"'))
    vault = Vault(tmp_path / "v0.db").create(0, content=keys(2))
    check = ("check", {"db": vault.path})
    answers = project.generate(upgrade(vault), check, upgrade(vault, "v0"), upgrade(vault))
    assert "AS (length (provider))" in (project.versions / "v4.py").read_text()
    assert not [line for line in answers if "FAILED" in line], answers
    assert vault.stamps() == ("v4", 4)
    assert vault.query("SELECT DISTINCT size FROM credentials ORDER BY 1") == [(6,), (10,)]
    assert vault.value("SELECT count(*) FROM phantom_tokens") == 3


def test_three_revisions_for_a_column_that_python_computes(tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    project.edit((DATA, f'{DATA}    Column("label", Text),\n'))
    project.generate()
    body = (
        "def label_of(provider: str) -> str:\n"
        "        if provider == 'bad':\n            raise BadRow('has no such provider')\n"
        "        return provider.upper()\n\n"
        '    op.convert_rows("credentials", {"label": Conversion(label_of, ("provider",))})'
    )
    project.write(body, version=4)
    assert "exit status 0" in project.run(("snapshot", {}))[0]
    project.edit(('Column("label", Text)', 'Column("label", Text, nullable=False)'))
    vault = Vault(tmp_path / "vault.db").create(0, content=keys(2))
    vault.execute("INSERT INTO credentials VALUES ('a', 'bad', 'b'), ('b', 'bad', 'c')")
    before = vault.files()
    (printed,) = project.generate(upgrade(vault))
    assert "op.copy_table(" in (project.versions / "v5.py").read_text()
    assert "row 3 has no such provider; row 4 has no such provider" in printed
    assert vault.files() == before
    vault.execute("DELETE FROM credentials WHERE provider = 'bad'")
    printed = project.run(upgrade(vault), ("check", {"db": vault.path}))[-1]
    assert "No new upgrade operations detected" in printed
    labels = vault.query("SELECT provider, label FROM credentials")
    assert sorted(labels) == [("github", "GITHUB"), ("line\nbreak", "LINE\nBREAK")]


# What a careless revision would lose


class Careless(NamedTuple):
    """A revision that is wrong."""

    body: str  # of its upgrade
    said: Sequence[str]  # by the snapshot tool or by the upgrade
    edits: Edits = ()  # of schema.py, so that it fits
    user: Sequence[str] = ()  # what else is in the file
    declared: str = ""


def executed(*statements: str) -> str:
    return "\n    ".join(f"op.execute({statement!r})" for statement in statements)


NO_COMMENT = f'op.copy_table("ssh_keys", {V2.split(";")[1].replace(COMMENT_SQL, "")!r})'
CARELESS = {
    "a copy without a definition": Careless(
        'op.copy_table("ssh_keys", "CREATE TABLE k (id INTEGER PRIMARY KEY, key_type TEXT)")',
        ["the revisions and schema.py differ", "ssh_keys: AUTOINCREMENT", "ssh_keys: CHECK (key"],
    ),
    "Alembic's own copy": Careless(
        'with op.batch_alter_table("credentials") as batch_op:\n'
        '        batch_op.alter_column("data", nullable=True)',
        ["op.copy_table"],
        edits=[(DATA, '    Column("data", Text),\n')],
    ),
    "lost rows of one table, and others declared": Careless(
        executed("DELETE FROM ssh_key_assignments"),
        ["ssh_key_assignments (8 before, 0 after)"],
        declared='changes_rows_of = ("credentials",)',
    ),
    **{
        f"a wrong declaration: {value}": Careless(
            executed("DELETE FROM credentials"),
            [f"changes_rows_of = {value} is not a tuple of names"],
            declared=f"changes_rows_of = {value}",
        )
        for value in ("'credentials'", "('credential',)")
    },
    "as many rows, of other tables": Careless(
        executed(
            "DELETE FROM proxy_tokens WHERE token = 'phantom-1'",
            "INSERT INTO credentials SELECT 'a', 'b', 'c' FROM ssh_keys LIMIT 1",
        ),
        ["credentials (2 before, 3 after)", "proxy_tokens (3 before, 2 after)"],
    ),
    "children by cascade": Careless(
        executed("DELETE FROM ssh_keys WHERE id = 2"),
        ["rows would reference rows that do not exist", "ssh_key_assignments (ssh_keys)"],
        declared='changes_rows_of = ("ssh_keys",)',
    ),
    **{
        f"{each} of the user's is dropped": Careless(
            executed(f"DROP {each.replace(' ', ' IF EXISTS ')}"), [f"{each} would be lost"]
        )
        for each in ("trigger audited", "index by_creation", "table audit_log")
    },
    **{
        f"a {kind} needs a column that is dropped": Careless(
            NO_COMMENT, [name], edits=[(COMMENT, "")], user=[f"CREATE {kind} {name} {definition}"]
        )
        for kind, name, definition in (
            ("VIEW", "comments", "AS SELECT id, comment FROM ssh_keys"),
            ("INDEX", "by_comment", "ON ssh_keys (comment)"),
            ("TRIGGER", "changes", "AFTER UPDATE OF comment ON ssh_keys BEGIN SELECT 1; END"),
        )
    },
    "a mistake in Python": Careless(
        "if op.read_rows('ssh_keys', ('id',)):\n        undefined_name()",
        ["FAILED: NameError at v3.py:"],
    ),
}


@pytest.mark.parametrize("name", CARELESS)
def test_a_careless_revision_is_refused_before_the_commit(tmp_path: Path, name: str) -> None:
    careless = CARELESS[name]
    project = Project(tmp_path / "project")
    project.edit(*careless.edits)
    project.write(careless.body, above=careless.declared)
    vault = Vault(tmp_path / "vault.db").create(2, content=keys(4))
    write_user_objects(vault, 2)
    vault.execute(*careless.user)
    before = vault.files()
    answers = project.run(("snapshot", {}), upgrade(vault))
    for words in ("FAILED: ", *careless.said):
        assert words in "".join(answers), answers
    assert vault.files() == before


def test_a_generated_drop_of_a_table_requires_a_declaration(tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    _, _, rest = project.schema.read_text().partition(TOKENS)
    project.edit((TOKENS + rest, ""))
    vault = Vault(tmp_path / "vault.db").create(2, content=keys(2))
    before = vault.files()
    (printed,) = project.generate(upgrade(vault))
    assert "changes_rows_of = ('proxy_tokens',)" in printed
    assert vault.files() == before
    code = project.new_revision.read_text()
    declared = 'revision = "v3"\nchanges_rows_of = ("proxy_tokens",)\n'
    project.new_revision.write_text(code.replace('revision = "v3"\n', declared, 1))
    assert project.run(upgrade(vault), upgrade(vault, "v2")) == ["", ""]
    assert vault.value("SELECT count(*) FROM proxy_tokens") == 0
    assert vault.stamps() == ("v2", 2)


class Unfit(NamedTuple):
    """Rows or names of a file that a generated version does not fit."""

    edits: Edits
    user: str  # a statement that makes the file unfit
    said: Sequence[str]
    remedy: str  # a statement that makes it fit


UNFIT = {
    "a narrower CHECK": Unfit(
        [("IN ('ed25519','rsa')", "IN ('ed25519')")],
        "DELETE FROM ssh_key_assignments",
        ["FAILED: table ssh_keys needs another definition", "rows 2 "],
        "DELETE FROM ssh_keys",
    ),
    "a new foreign key": Unfit(
        [(f"{PROVIDER})\n", f"{PROVIDER}    ForeignKeyConstraint({FOREIGN}),\n)\n")],
        "INSERT INTO proxy_tokens SELECT 'more', 'a', 'b', 'default', 'github'",
        ["2 of proxy_tokens (credentials)"],
        "DELETE FROM proxy_tokens WHERE rowid IN (2, 3)",
    ),
    "a new unique index": Unfit(
        [(DATA, f'{DATA}    Index("ix_credentials_data", "data", unique=True),\n')],
        "UPDATE credentials SET data = '{}'",
        ["UNIQUE constraint failed: credentials.data"],
        "UPDATE credentials SET data = rowid",
    ),
    "the name of an index": Unfit(
        [(DATA, f'{DATA}    Index("ix_credentials_data", "data"),\n')],
        "CREATE INDEX ix_credentials_data ON ssh_keys (comment)",
        ["index ix_credentials_data", "rename or drop"],
        "DROP INDEX ix_credentials_data",
    ),
    "the name of a table": Unfit(
        VERSIONS["a new table, odd names, and columns that SQLite cannot add"].edits[:1],
        'CREATE TABLE "it\'s" (a)',
        ["it's", "rename or drop"],
        'DROP TABLE "it\'s"',
    ),
    "the new name of a table": Unfit(
        [('"proxy_tokens"', '"phantom_tokens"')],
        "CREATE TABLE phantom_tokens (a)",
        ["phantom_tokens", "rename or drop"],
        "DROP TABLE phantom_tokens",
    ),
}


@pytest.mark.parametrize("name", UNFIT)
def test_rows_and_names_that_do_not_fit_are_named(tmp_path: Path, name: str) -> None:
    unfit = UNFIT[name]
    project = Project(tmp_path / "project")
    project.edit(*unfit.edits)
    vault = Vault(tmp_path / "vault.db").create(2, content=keys(2))
    vault.execute(unfit.user)
    before = vault.files()
    (printed,) = project.generate(upgrade(vault))
    for words in ("FAILED: ", *unfit.said):
        assert words in printed
    assert vault.files() == before
    vault.execute(unfit.remedy)
    assert project.run(upgrade(vault)) == [""]
    assert vault.stamps() == ("v3", 3)


def test_scripts_of_sql(tmp_path: Path) -> None:
    """A table copy cannot be a script, except that an empty file needs none."""
    project = Project(tmp_path / "project")
    project.edit(("IN ('ed25519','rsa')", "IN ('ed25519','rsa','ecdsa')"))
    up, down, new = project.generate(
        ("upgrade", {"revision": "v2:v3", "sql": True}),
        ("downgrade", {"revision": "v3:v2", "sql": True}),
        ("upgrade", {"revision": "head", "sql": True}),
    )
    for script in (up, down):
        assert "without --sql" in script
        assert "DROP TABLE" not in script
    file = Vault(tmp_path / "new.db")
    with closing(file.connect()) as connection:
        connection.executescript(new)
    assert file.stamps() == ("v3", 3)
    (printed,) = project.run(("check", {"db": file.path}))
    assert "No new upgrade operations detected" in printed
