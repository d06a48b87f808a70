"""The next version, end to end in a copy of the project: edit schema.py, revision, record, upgrade.

What a careless revision would lose is refused before the commit.
"""

import importlib.util
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from alembic.autogenerate import render_python_code
from alembic.migration import MigrationContext
from alembic.util import CommandError
from sqlalchemy import (
    CheckConstraint,
    Column,
    Computed,
    Connection,
    DateTime,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    func,
    text,
)
from sqlalchemy.schema import SchemaItem

from credential_db.sqlite.alterations import database_in_memory, shape_of, shape_of_metadata
from credential_db.sqlite.autogenerate import both_ways, run
from credential_db.sqlite.errors import UnrecognizedSchema
from projects import Project
from vaults import TABLES, Vault, columns_of_2, keys, upgrade_to_2

BUMPED = {
    "src/credential_db/schema.py",
    "src/credential_db/head.py",
    "src/credential_db/records/v3.sql",
    "alembic/versions/v3.py",
}


def write_user_objects(vault: Vault, version: int) -> None:
    """What is not this project's, and has to come through every change."""
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


OBJECTS = {"audit_log", "audited", "renamed", "by_creation", "by_provider", "key_ids"}

Edits = Sequence[tuple[str, str]]
Names = Mapping[str, str | None]


class Bump(NamedTuple):
    """One change of schema.py.

    Attributes:
        edits: Old and new text.
        says: What the generated upgrade must say.
        never: What it must not.
        renamed: Tables, and columns as ``table.column``, under their new names; None for a column
            that is dropped.
    """

    edits: Edits
    says: Sequence[str]
    never: Sequence[str] = ()
    renamed: Names = {}  # noqa: RUF012  # nobody writes to it


COMMENT = '    Column("comment", Text, nullable=False, server_default=text("\'\'")),\n'
DATA = '    Column("data", Text, nullable=False),\n'
ASSIGNED = (
    '    Column("assigned_at", Text, nullable=False, server_default=text("(datetime(\'now\'))")),\n'
)
TOKENS = "proxy_tokens = Table(\n"
SUBJECT = (
    '    Column("scope", Text, nullable=False),\n    Column("subject", Text, nullable=False),\n'
)
IN_PLACE = 'recreate="never"'
COPY = "op.copy_table("

NEW_TABLE = "a new table with a foreign key and an index"

BUMPS = {
    "a wider CHECK": Bump(
        [("IN ('ed25519','rsa')", "IN ('ed25519','rsa','ecdsa')")],
        [COPY, "sqlite_autoincrement=True", 'IN ("ed25519","rsa","ecdsa")'],
    ),
    NEW_TABLE: Bump(
        [
            (
                TOKENS,
                'uses = Table(\n    "uses",\n    metadata,\n'
                '    Column("id", Integer, primary_key=True, nullable=True),\n'
                '    Column("key_id", Integer, nullable=False),\n'
                '    ForeignKeyConstraint(["key_id"], ["ssh_keys.id"], ondelete="CASCADE"),\n'
                '    Index("ix_uses_key_id", "key_id"),\n'
                f"    sqlite_autoincrement=True,\n)\n\n{TOKENS}",
            )
        ],
        ["op.create_table(", "sqlite_autoincrement=True", 'ondelete="CASCADE"', "op.create_index("],
        ["batch_alter_table", COPY],
    ),
    "a dropped column": Bump(
        [(COMMENT, "")],
        [IN_PLACE, 'batch_op.drop_column("comment")'],
        [COPY],
        {"ssh_keys.comment": None},
    ),
    "a renamed table": Bump(
        [('"proxy_tokens"', '"phantom_tokens"')],
        ['op.rename_table("proxy_tokens", "phantom_tokens")', "# rows. If it is none"],
        ["create_table(", "drop_table("],
        {"proxy_tokens": "phantom_tokens"},
    ),
    "a renamed table that others refer to": Bump(
        [('"ssh_keys"', '"keys"'), ('"ssh_keys.id"', '"keys.id"')],
        ['op.rename_table("ssh_keys", "keys")'],
        ["create_table(", "drop_table(", COPY],
        {"ssh_keys": "keys"},
    ),
    "an index": Bump(
        [(DATA, f'{DATA}    Index("ix_credentials_data", "data"),\n')],
        [IN_PLACE, 'batch_op.create_index("ix_credentials_data", ["data"]'],
        [COPY],
    ),
    "a column with a default": Bump(
        [
            (
                DATA,
                '    Column("uses", Integer, nullable=False, server_default=text("0")),\n' + DATA,
            )
        ],
        [IN_PLACE, 'server_default=sa.text("0")'],
        [COPY],
    ),
    "a column with the time as its default": Bump(
        [(ASSIGNED, ASSIGNED + ASSIGNED.replace("assigned_at", "seen_at"))],
        [COPY, '"seen_at"', 'ondelete="CASCADE"'],
    ),
    "a renamed column": Bump(
        [('Column("subject"', 'Column("label"')],
        [IN_PLACE, 'batch_op.alter_column("subject", new_column_name="label")'],
        [COPY, "batch_op.drop_column"],
        {"proxy_tokens.subject": "label"},
    ),
    "a column of a table with a foreign key": Bump(
        [(ASSIGNED, ASSIGNED.replace("assigned_at", "given_at"))],
        [IN_PLACE, 'batch_op.alter_column("assigned_at", new_column_name="given_at")'],
        [COPY],
        {"ssh_key_assignments.assigned_at": "given_at"},
    ),
    "a column that may be NULL, and another": Bump(
        [(COMMENT, '    Column("comment", Text),\n    Column("expiry", Text),\n')],
        [COPY, "sqlite_autoincrement=True", "sa.CheckConstraint("],
    ),
    "a new UNIQUE column": Bump(
        [(COMMENT, COMMENT + '    Column("label", Text, unique=True),\n')],
        [COPY, 'sa.UniqueConstraint("label")', "sqlite_autoincrement=True"],
    ),
    "two renamed columns, and another": Bump(
        [
            ('Column("comment"', 'Column("note"'),
            ('Column("created_at"', 'Column("made_at"'),
            ('    Column("key_type"', '    Column("expiry", Text),\n    Column("key_type"'),
        ],
        [
            IN_PLACE,
            'batch_op.alter_column("comment", new_column_name="note")',
            'batch_op.alter_column("created_at", new_column_name="made_at")',
            "# comment becomes note, of the same definition: taken as a rename",
        ],
        [COPY, "batch_op.drop_column"],
        {"ssh_keys.comment": "note", "ssh_keys.created_at": "made_at"},
    ),
    "a renamed column, of a table to be copied": Bump(
        [
            ("IN ('ed25519','rsa')", "IN ('ed25519','rsa','ecdsa')"),
            ('Column("comment"', 'Column("note"'),
        ],
        [COPY, IN_PLACE, 'batch_op.alter_column("comment", new_column_name="note")'],
        renamed={"ssh_keys.comment": "note"},
    ),
    "a renamed key that others refer to": Bump(
        [('Column("id"', 'Column("number"'), ('"ssh_keys.id"', '"ssh_keys.number"')],
        [IN_PLACE, 'batch_op.alter_column("id", new_column_name="number")'],
        ["batch_op.drop_column"],
        {"ssh_keys.id": "number"},
    ),
    "a computed column": Bump(
        [(DATA, f'{DATA}    Column("size", Integer, Computed("length(data)")),\n')],
        [IN_PLACE, 'sa.Computed("length(data)"'],
        [COPY],
    ),
    "a longer primary key": Bump(
        [
            (
                'PrimaryKeyConstraint("scope", "key_id")',
                'PrimaryKeyConstraint("scope", "key_id", "assigned_at")',
            )
        ],
        [COPY, "# + ssh_key_assignments: PRIMARY KEY (scope COLLATE BINARY,"],
    ),
    "words of SQL as names": Bump(
        [
            (
                TOKENS,
                'group = Table(\n    "group",\n    metadata,\n    Column("order", Integer,'
                " primary_key=True, nullable=True),\n)\n\n" + TOKENS,
            ),
            (DATA, f'{DATA}    Column("from", Text),\n'),
        ],
        ["op.create_table(", IN_PLACE],
        [COPY],
    ),
    "all kinds together": Bump(
        [
            ("IN ('ed25519','rsa')", "IN ('ed25519','rsa','ecdsa')"),
            (COMMENT, ""),
            ('"credentials"', '"secrets"'),
            ('Column("subject"', 'Column("label"'),
            (ASSIGNED, f'    Column("uses", Integer, server_default=text("0")),\n{ASSIGNED}'),
        ],
        ['op.rename_table("credentials", "secrets")', COPY, IN_PLACE],
        ["create_table(", "drop_table("],
        {"credentials": "secrets", "ssh_keys.comment": None, "proxy_tokens.subject": "label"},
    ),
}


class Files(NamedTuple):
    """The same rows at version 2 and at version 3, by the names of version 2."""

    rows: dict[str, list[tuple[Any, ...]]]
    sequence: list[tuple[Any, ...]]


def read(path: Path, renamed: Names, dropped: Sequence[str]) -> Files:
    """What a file holds, for tables under their new names.

    Args:
        path: The file.
        renamed: As in ``Bump``.
        dropped: Columns that are left out, as ``table.column``.
    """
    rows = {}
    with closing(Vault(path).connect()) as connection:
        for table in TABLES:
            names = [
                renamed.get(f"{table}.{column}", column)
                for column in columns_of_2(table)
                if f"{table}.{column}" not in dropped
            ]
            cells = ", ".join(f'typeof("{name}"), CAST("{name}" AS BLOB)' for name in names)
            select = f'SELECT rowid, {cells} FROM "{renamed.get(table, table)}" ORDER BY rowid'
            rows[table] = connection.execute(select).fetchall()
        sequence = connection.execute("SELECT name, seq FROM sqlite_sequence").fetchall()
    back = {new: old for old, new in renamed.items()}
    return Files(rows, sorted((back.get(name, name), seq) for name, seq in sequence))


def schema(path: Path) -> list[list[str]]:
    """Every definition, without the quotes that SQLite puts around a name that it has renamed."""
    return [[str(cell).replace('"', "") for cell in row] for row in Vault(path).schema()]


def generated(project: Project, printed: str) -> str:
    """The upgrade of the revision that was written, in one line."""
    assert project.changed() == BUMPED, f"a bump is these four files\n{printed}"
    code = project.new_revision.read_text()
    assert code.startswith('"""The next one.\n\nRevision ID: v3\nRevises: v2\n')
    upgrade = code.partition("def upgrade")[2].partition("def downgrade")[0]
    return " ".join(upgrade.replace("'", '"').split()).replace("( ", "(")


def assert_well_formed(project: Project) -> None:
    if importlib.util.find_spec("ruff") is None:
        return  # where it is not installed, nothing formats the file
    for arguments in (["check"], ["format", "--check"]):
        result = project.python("-m", "ruff", *arguments, "alembic", "src/credential_db/head.py")
        assert result.returncode == 0, f"ruff would write it otherwise:\n{result.stdout}"


def assert_user_objects_work(path: Path, renamed: Names) -> None:
    vault = Vault(path)
    vault.check_integrity()
    assert {name for (name,) in vault.query("SELECT name FROM sqlite_master")} >= OBJECTS
    keys_table, tokens = (renamed.get(name, name) for name in ("ssh_keys", "proxy_tokens"))
    subject = renamed.get("proxy_tokens.subject", "subject")
    key = renamed.get("ssh_keys.id", "id")
    with closing(vault.connect()) as connection:
        assert connection.execute("SELECT * FROM audit_log").fetchall() == [], "a trigger fired"
        connection.execute(f'UPDATE "{keys_table}" SET key_type = key_type WHERE {key} = 2')
        connection.execute(f'UPDATE "{tokens}" SET "{subject}" = 1 WHERE token = \'phantom-1\'')
        found = connection.execute("SELECT * FROM audit_log").fetchall()
        assert found == [("key 2",), ("token scope",)], "a trigger of the user's fires no more"
        assert len(connection.execute("SELECT * FROM key_ids").fetchall()) == 4
        with pytest.raises(Exception, match="CHECK constraint failed"):
            connection.execute(f"UPDATE \"{keys_table}\" SET key_type = 'dsa'")


@pytest.mark.parametrize("name", BUMPS)
def test_a_bump_goes_all_the_way(tmp_path: Path, name: str) -> None:
    bump = BUMPS[name]
    project = Project(tmp_path / "project")
    project.edit(*bump.edits)
    upgrade = generated(project, project.bump())
    for words in bump.says:
        assert words in upgrade
    for words in bump.never:
        assert words not in upgrade
    assert_well_formed(project)

    dropped = [column for column, new in bump.renamed.items() if new is None]
    vaults = [Vault(tmp_path / f"v{version}.db") for version in range(3)]
    steps: list[Any] = []
    for version, vault in enumerate(vaults):
        vault.create(version, content=keys(4))
        write_user_objects(vault, version)
        shutil.copyfile(vault.path, tmp_path / f"v{version}.at2")
        upgrade_to_2(tmp_path / f"v{version}.at2")
        db = {"db": vault.path}
        steps += [("upgrade", {"revision": "head", **db}), ("check", dict(db))]
        steps += [("start", {"file": vault.path})]
        steps += [("keep", {"file": vault.path, "under": vault.path.with_suffix(".at3")})]
        steps += [("downgrade", {"revision": "v2", **db})]
        steps += [("keep", {"file": vault.path, "under": vault.path.with_suffix(".back")})]
        steps += [("downgrade", {"revision": "v0", **db}), ("upgrade", {"revision": "head", **db})]
    printed = project.run(*steps)
    assert not [line for line in printed if "FAILED" in line], printed
    for said in ("No new upgrade operations detected", "is current at process start"):
        assert sum(said in line for line in printed) == len(vaults), printed

    for vault in vaults:
        at_2, at_3, back = (vault.path.with_suffix(end) for end in (".at2", ".at3", ".back"))
        expected = read(at_2, {}, dropped)
        assert expected.sequence == [("ssh_keys", 1000)]
        assert read(at_3, bump.renamed, dropped) == expected, "the upgrade has lost something"
        assert read(back, {}, dropped) == expected, "the way back has lost something"
        assert read(vault.path, bump.renamed, dropped) == expected
        assert vault.stamps() == Vault(at_3).stamps() == ("v3", 3)
        assert Vault(back).stamps() == ("v2", 2)
        if COPY not in upgrade and not dropped:
            assert schema(back) == schema(at_2), "the way back has left something behind"
        for path in (at_3, vault.path):
            assert_user_objects_work(path, bump.renamed)
        assert_user_objects_work(back, {})


def test_a_bump_by_the_commands_of_the_chapter(tmp_path: Path) -> None:
    """With no development file; the record is written by ``alembic revision`` itself."""
    project = Project(tmp_path / "project")
    project.edit(*BUMPS["an index"].edits)

    def run(*arguments: str) -> str:
        result = project.python(*arguments)
        assert (result.returncode, result.stderr) == (0, ""), "a maintainer has to be told why"
        return result.stdout

    made = run("-m", "alembic", "revision", "--autogenerate", "-m", "the next one")
    assert "recorded: src/credential_db/head.py, src/credential_db/records/v3.sql" in made
    generated(project, made)
    assert run("tools/record.py", "--check") == "the record is up to date\n"


def test_a_revision_that_is_still_to_be_filled_in_is_not_called_a_failure(tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    project.edit(*BUMPS["a wider CHECK"].edits)
    result = project.python("-m", "alembic", "revision", "-m", "by hand")
    assert result.returncode == 0, result.stderr
    assert f"{project.new_revision} is written, and not on record yet" in result.stderr
    assert "FAILED" not in result.stderr


def test_what_is_generated_passes_mypy(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    project = Project(tmp_path / "project")
    project.edit(*BUMPS["a wider CHECK"].edits)
    project.bump()
    result = project.python("-m", "mypy", str(project.new_revision))
    assert "op.copy_table(" in project.new_revision.read_text()
    assert result.returncode == 0, result.stdout


def test_the_way_back_says_what_goes_with_it(tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    project.edit(*BUMPS[NEW_TABLE].edits, *BUMPS["a column with a default"].edits)
    project.bump()
    back = project.new_revision.read_text().partition("def downgrade")[2]
    assert "# Where it has rows, this stops until the revision says: changes_rows_of = (" in back
    assert "# - " in back, "a column that is dropped has a line of its own"


def test_a_change_that_is_not_made_yet_is_reported_by_check(tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    file = Vault(tmp_path / "v2.db").create(2, content=keys(1))
    for name in ("a wider CHECK", "a renamed table", "a renamed column", "an index"):
        project.edit(*BUMPS[name].edits)
    project.run(("upgrade", {"revision": "v2", "db": file.path}))
    (printed,) = project.run(("check", {"db": file.path}))
    for words in ("New upgrade operations detected", "ecdsa", "phantom_tokens", "label", "ix_cred"):
        assert words in printed


def test_nothing_to_do_writes_nothing(tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    printed = project.run(("revision", {"message": "nothing", "autogenerate": True}))
    assert printed == ["The metadata is just what is on record: nothing to write\n"]
    assert project.changed() == set()


AREA = '    Column("area", Text, nullable=False),\n'
REFUSED_EDITS: dict[str, tuple[Edits, Sequence[str]]] = {
    "NOT NULL without a default": (
        [(DATA, f'{DATA}    Column("uses", Integer, nullable=False),\n')],
        [
            "FAILED: table credentials gets uses, which may not be NULL and has no default",
            "a revision with a column that may be NULL, one that fills it with convert_rows",
        ],
    ),
    "two columns of one definition under other names": (
        [(SUBJECT, SUBJECT.replace("scope", "area").replace("subject", "label"))],
        ["FAILED: table proxy_tokens loses scope, subject and gets area, label, all of one def"],
    ),
    "one column for two of the same definition": (
        [(SUBJECT, SUBJECT.replace("subject", "label") + AREA)],
        ["FAILED: table proxy_tokens loses subject and gets label, area", "for each rename"],
    ),
    "a table without rowids": (
        [("    sqlite_autoincrement=True,\n", "    sqlite_with_rowid=False,\n")],
        ["FAILED: ssh_keys: WITHOUT ROWID: rows are copied and converted by rowid"],
    ),
    "a table in other capitals": (
        [('"proxy_tokens"', '"Proxy_Tokens"')],
        ["FAILED: to SQLite, table proxy_tokens is the same in capitals: leave its name"],
    ),
    "a foreign key to a table that is gone": (
        [('"ssh_keys.id"', '"keys.id"')],
        ["FAILED: the metadata makes no tables: ", "could not find table 'keys'"],
    ),
}


@pytest.mark.parametrize("name", REFUSED_EDITS)
def test_what_nobody_can_tell_is_refused(tmp_path: Path, name: str) -> None:
    edits, said = REFUSED_EDITS[name]
    project = Project(tmp_path / "project")
    project.edit(*edits)
    (printed,) = project.run(("revision", {"message": "x", "autogenerate": True}))
    for words in said:
        assert words in printed
    assert project.changed() == {"src/credential_db/schema.py"}


# The steps alone, in memory


class Change(NamedTuple):
    """From a record to other metadata.

    Attributes:
        record: What makes the tables, and their rows.
        tables: What they are to be.
        says: What the upgrade must say.
        renamed: As in ``Bump``.
    """

    record: str
    tables: Callable[[], Mapping[str, Sequence[SchemaItem]]]
    says: str = IN_PLACE
    renamed: Names = {}  # noqa: RUF012  # nobody writes to it


def key() -> Column[int]:
    return Column("id", Integer, primary_key=True, nullable=True)


def people(*more: SchemaItem) -> dict[str, Sequence[SchemaItem]]:
    return {"people": [key(), Column("name", Text), Column("born", Text), *more]}


PEOPLE = (
    "CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT, born {});"
    "INSERT INTO people VALUES (3, 'Ada', '1815'), (7, x'00', NULL);"
)
CHANGES = {
    "another expression in an index": Change(
        f"{PEOPLE.format('TEXT')} CREATE INDEX i ON people (lower(name), born DESC)",
        lambda: people(Index("i", text("upper(name)"), text("born DESC"))),
    ),
    "no more index of an expression": Change(
        f"{PEOPLE.format('TEXT')} CREATE INDEX i ON people (instr(name, ':a)')) WHERE id > 2",
        people,
    ),
    "a copy, with an index of an expression": Change(
        f"{PEOPLE.format('TEXT')} CREATE UNIQUE INDEX i ON people (lower(name)) WHERE id <> ':a'",
        lambda: {
            "people": [
                key(),
                Column("name", Text, nullable=False),
                Column("born", Text),
                Index("i", text("lower(name)"), unique=True, sqlite_where=text("id <> '\\:a'")),
            ]
        },
        COPY,
    ),
    "a renamed column with indexes of it": Change(
        f"{PEOPLE.format('TEXT')} CREATE INDEX i ON people (born DESC);"
        "CREATE INDEX j ON people (id) WHERE born > '1'",
        lambda: {
            "people": [
                key(),
                Column("name", Text),
                Column("birth", Text),
                Index("i", text("birth DESC")),
                Index("j", "id", sqlite_where=text("birth > '1'")),
            ]
        },
        renamed={"people.born": "birth"},
    ),
    "a column more": Change(
        PEOPLE.format("TEXT"),
        lambda: people(Column("uses", Integer, nullable=False, server_default=text("0"))),
    ),
    "a column that SQLite does not add in place": Change(
        PEOPLE.format("TEXT"),
        lambda: people(Column("seen", DateTime, nullable=False, server_default=func.now())),
        COPY,
    ),
    "a column more, with a CHECK beside it": Change(
        PEOPLE.format("TEXT"),
        lambda: people(Column("died", Text, CheckConstraint("died > '1'"))),
        COPY,
    ),
    "a collation less": Change(
        PEOPLE.format("TEXT COLLATE NOCASE"),
        people,
        COPY,
    ),
    "a renamed column with the time as its default": Change(
        PEOPLE.format("DATETIME DEFAULT CURRENT_TIMESTAMP"),
        lambda: {
            "people": [
                key(),
                Column("name", Text),
                Column("birth", DateTime, server_default=func.now()),
            ]
        },
        renamed={"people.born": "birth"},
    ),
    "a renamed column with signs in its default": Change(
        PEOPLE.format("TEXT DEFAULT 'it''s :x 5%'"),
        lambda: {
            "people": [
                key(),
                Column("name", Text),
                Column("birth", Text, server_default="it's :x 5%"),
            ]
        },
        renamed={"people.born": "birth"},
    ),
    "computed columns that were added in one line": Change(
        PEOPLE.format("TEXT, a INTEGER AS (length(name)), b TEXT AS (name || ', ' || a)").replace(
            "people VALUES", "people (id, name, born) VALUES"
        ),
        lambda: people(
            Column("a", Integer, Computed("length(name)")),
            Column("b", Text, Computed("name || ', ' || a")),
            CheckConstraint("id > 0"),
        ),
        COPY,
    ),
    "a CHECK of a column, beside others": Change(
        PEOPLE.format("TEXT CONSTRAINT c CHECK (born IN ('1815', ') CHECK (x)')), CHECK (id > 1)"),
        lambda: {
            "people": [
                key(),
                Column("name", Text, CheckConstraint("name <> 'a'")),
                Column("born", Text, CheckConstraint("born IN ('1815', ') CHECK (x)')", name="c")),
                CheckConstraint("id > 1"),
            ]
        },
        COPY,
    ),
    "a foreign key that waits": Change(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, up INTEGER, FOREIGN KEY (up) REFERENCES t (id));"
        "INSERT INTO t VALUES (1, NULL), (5, 1)",
        lambda: {
            "t": [
                key(),
                Column("up", Integer),
                ForeignKeyConstraint(["up"], ["t.id"], deferrable=True, initially="DEFERRED"),
            ]
        },
        COPY,
    ),
    "renamed tables that refer to each other and to themselves": Change(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, up INTEGER REFERENCES t (id));"
        "CREATE TABLE u (id INTEGER PRIMARY KEY, t INTEGER REFERENCES t (id));"
        "INSERT INTO t VALUES (1, NULL), (5, 1); INSERT INTO u VALUES (2, 5)",
        lambda: {
            "T2": [key(), Column("up", Integer, ForeignKey("T2.id"))],
            "u2": [key(), Column("t", Integer, ForeignKey("T2.id"))],
        },
        "op.rename_table(",
        {"t": "T2", "u": "u2"},
    ),
    "a renamed table whose index is named after it": Change(
        'CREATE TABLE "T" (a TEXT); CREATE INDEX "ix_T_a" ON "T" (a);INSERT INTO T VALUES (\'x\')',
        lambda: {"New": [Column("a", Text, index=True)]},
        "op.rename_table(",
        {"T": "New"},
    ),
}


def cells(connection: Connection, renamed: Names) -> dict[str, set[tuple[Any, ...]]]:
    """Every cell, under the names that its table and its column will have."""
    found: dict[str, set[tuple[Any, ...]]] = {}
    for table, columns in shape_of(connection).columns.items():
        for column in columns:
            rows = connection.exec_driver_sql(
                f'SELECT rowid, typeof("{column}"), CAST("{column}" AS BLOB) FROM "{table}"'
            )
            name = f"{renamed.get(table, table)}.{renamed.get(f'{table}.{column}', column)}"
            found[name] = {tuple(row) for row in rows}
    return found


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_keeps_every_cell_up_and_down(name: str) -> None:
    change = CHANGES[name]
    metadata = MetaData()
    for table, items in change.tables().items():
        Table(table, metadata, *items)
    with database_in_memory(change.record) as head, database_in_memory(change.record) as file:
        upgrade, downgrade = both_ways(metadata, head)
        before, recorded = cells(file, {}), shape_of(file).definition
        run(upgrade, file)
        assert shape_of(file).definition == shape_of_metadata(metadata).definition
        with database_in_memory(change.record) as untouched:
            assert cells(file, {}).items() >= cells(untouched, change.renamed).items()
        run(downgrade, file)
        assert (cells(file, {}), shape_of(file).definition) == (before, recorded)
        migration = MigrationContext.configure(file)
        code = render_python_code(upgrade, render_as_batch=True, migration_context=migration)
        assert change.says in code.replace("'", '"')


def test_a_column_that_is_computed_from_now_on_keeps_what_was_in_it() -> None:
    metadata = MetaData()
    Table("t", metadata, Column("a", Text), Column("size", Integer, Computed("length(a)")))
    record = "CREATE TABLE t (a TEXT, size INTEGER); INSERT INTO t VALUES ('x', 1), ('yy', {})"
    for size in (2, 5):
        with database_in_memory(record.format(size)) as head:
            upgrade, _ = both_ways(metadata, head)
            if size == 2:
                run(upgrade, head)
                continue
            with pytest.raises(UnrecognizedSchema, match="its rows 2 would get other values in it"):
                run(upgrade, head)


@pytest.mark.parametrize(
    "items",
    [
        lambda: [Column("a", Text), CheckConstraint("a <> ':memory'")],
        lambda: [Column("a", Text, CheckConstraint("a <> ':memory'"))],
        lambda: [Column("a", Text, server_default=text("':memory'"))],
        lambda: [Column("a", Text), Column("b", Text, Computed("a || ':memory'"))],
        lambda: [Column("a", Text), Index("i", text("instr(a, ':memory')"))],
        lambda: [Column("a", Text), Index("i", "a", sqlite_where=text("a <> ':memory'"))],
    ],
)
def test_a_colon_that_would_become_null_is_refused(items: Callable[[], list[SchemaItem]]) -> None:
    metadata = MetaData()
    Table("t", metadata, *items())
    with pytest.raises(CommandError, match=r"table t: .* put a backslash before the colon"):
        shape_of_metadata(metadata)


def test_a_table_that_is_renamed_and_altered_is_not_dropped_without_a_word() -> None:
    metadata = MetaData()
    Table("new", metadata, Column("x", Integer))
    with database_in_memory("CREATE TABLE old (x TEXT)") as head:
        upgrade, _ = both_ways(metadata, head)
        migration = MigrationContext.configure(head)
        code = render_python_code(upgrade, migration_context=migration).replace("\n    #  ", "")
    assert "If it is to become new, write another revision instead, that renames it alone" in code


class Mine(TypeDecorator[str]):
    """A type of schema.py's own, which a revision does not import."""

    impl = Text
    cache_ok = True


REFUSED: dict[str, tuple[str, Callable[[], Mapping[str, Sequence[SchemaItem]]], str]] = {
    "two tables of one definition": (
        "CREATE TABLE a (x TEXT); CREATE TABLE b (x TEXT)",
        lambda: {"c": [Column("x", Text)]},
        r"a, b would become c, tables of one definition, and nobody can tell",
    ),
    "a table in other capitals": (
        "CREATE TABLE t (x TEXT)",
        lambda: {"T": [Column("x", Text)]},
        r"to SQLite, table t is the same in capitals: leave its name",
    ),
    "two columns of one definition": (
        "CREATE TABLE t (id INTEGER PRIMARY KEY, x TEXT, y TEXT)",
        lambda: {"t": [key(), Column("v", Text), Column("w", Text)]},
        r"table t loses x, y and gets v, w, all of one definition, and nobody can tell",
    ),
    "a column for one of another definition": (
        "CREATE TABLE t (id INTEGER PRIMARY KEY, x TEXT)",
        lambda: {"t": [key(), Column("y", Integer)]},
        r"table t loses x and gets y, of another definition, and nobody can tell",
    ),
    "a column without a value": (
        "CREATE TABLE t (x TEXT)",
        lambda: {"t": [Column("x", Text), Column("y", Text, nullable=False)]},
        r"table t gets y, which may not be NULL and has no default",
    ),
    "a CHECK of no column": (
        "CREATE TABLE t (x TEXT)",
        lambda: {"t": [Column("x", Text), CheckConstraint("y > 1")]},
        r"the metadata makes no tables: no such column: y",
    ),
    "a foreign key to no table": (
        "CREATE TABLE t (x TEXT)",
        lambda: {"t": [Column("x", Text, ForeignKey("gone.x"))]},
        r"the metadata makes no tables: .* could not find table 'gone'",
    ),
    "a type that a revision does not know": (
        "CREATE TABLE t (x TEXT)",
        lambda: {"t": [Column("x", Text), Column("y", Mine)]},
        r"the way up cannot be generated \(NameError: .*\): write this revision by hand",
    ),
    "a clause that SQLAlchemy does not reflect": (
        "CREATE TABLE t (x TEXT, UNIQUE (x) ON CONFLICT IGNORE)",
        lambda: {"t": [Column("x", Text, unique=True)]},
        r"the way down cannot be generated \(- t: ON CONFLICT IGNORE\): write this revision",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_told_or_made_is_refused(name: str) -> None:
    record, tables, said = REFUSED[name]
    metadata = MetaData()
    for table, items in tables().items():
        Table(table, metadata, *items)
    with database_in_memory(record) as head, pytest.raises(CommandError, match=said):
        both_ways(metadata, head)


def test_three_steps_to_a_column_that_is_computed_in_python(tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    project.edit((DATA, f'{DATA}    Column("label", Text),\n'))
    project.bump()
    assert project.run(("revision", {"message": "fill label"}))
    fill = project.versions / "v4.py"
    code = fill.read_text().replace(
        'revision = "v4"',
        "from credential_db.sqlite.revising import BadRow, Conversion, convert_rows\n\n\n"
        "def label_of(provider: str) -> str:\n"
        "    if provider == 'bad':\n        raise BadRow('has no such provider')\n"
        '    return provider.upper()\n\n\nrevision = "v4"',
    )
    body = 'convert_rows("credentials", {"label": Conversion(label_of, ("provider",))})'
    fill.write_text(code.replace("    pass", f"    {body}", 1))
    assert "exit status 0" in project.run(("record", {}))[0]
    project.edit(('Column("label", Text)', 'Column("label", Text, nullable=False)'))
    project.bump()
    assert COPY.removeprefix("op.") in (project.versions / "v5.py").read_text()

    vault = Vault(tmp_path / "vault.db").create(0, content=keys(2))
    vault.execute("INSERT INTO credentials VALUES ('a', 'bad', 'b'), ('b', 'bad', 'c')")
    before, db = vault.files(), {"db": vault.path}
    (printed,) = project.run(("upgrade", {"revision": "head", **db}))
    assert "row 3 has no such provider; row 4 has no such provider" in printed
    assert vault.files() == before
    vault.execute("DELETE FROM credentials WHERE provider = 'bad'")
    printed = project.run(("upgrade", {"revision": "head", **db}), ("check", dict(db)))[-1]
    assert "No new upgrade operations detected" in printed
    labels = vault.query("SELECT provider, label FROM credentials")
    assert sorted(labels) == [("github", "GITHUB"), ("line\nbreak", "LINE\nBREAK")]


def test_a_revision_may_be_generated_anew(tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    project.edit(*BUMPS["an index"].edits)
    project.bump()
    project.new_revision.unlink()
    project.edit(*BUMPS["a renamed column"].edits)
    upgrade = generated(project, project.bump())
    assert "ix_credentials_data" in upgrade
    assert 'new_column_name="label"' in upgrade


def test_a_revision_that_is_not_on_record_is_not_overwritten(tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    project.write("pass  # hours of work")
    for autogenerate in (True, False):
        (printed,) = project.run(("revision", {"message": "x", "autogenerate": autogenerate}))
        assert "FAILED: the newest revision is v3 and the record says v2: run python" in printed
        assert "hours of work" in project.new_revision.read_text()


def test_another_bump_on_top(tmp_path: Path) -> None:
    """Whatever the first has left: a computed column and indexes of a table that is copied."""
    project = Project(tmp_path / "project")
    length = (DATA, f'{DATA}    Index("ix_length", text("length(data) DESC")),\n')
    project.edit(*BUMPS["a computed column"].edits, *BUMPS["an index"].edits, length)
    project.bump()
    project.edit(
        ('Computed("length(data)")', 'Computed("length(provider)")'),
        *BUMPS["a renamed table"].edits,
    )
    project.bump()
    code = (project.versions / "v4.py").read_text()
    assert code.startswith('"""The next one.\n\nRevision ID: v4\nRevises: v3\n')
    assert "computed AS (length(provider))" in code, "autogenerate does not see the expression"
    assert_well_formed(project)
    vaults = [Vault(tmp_path / f"v{version}.db") for version in range(3)]
    steps: list[Any] = []
    for version, vault in enumerate(vaults):
        vault.create(version, content=keys(4))
        write_user_objects(vault, version)
        db = {"db": vault.path}
        steps += [("upgrade", {"revision": "head", **db}), ("check", dict(db))]
        steps += [("start", {"file": vault.path}), ("downgrade", {"revision": "v3", **db})]
        steps += [("downgrade", {"revision": "v0", **db}), ("upgrade", {"revision": "head", **db})]
    printed = project.run(*steps)
    assert not [line for line in printed if "FAILED" in line], printed
    assert sum("is current at process start" in line for line in printed) == len(vaults)
    for vault in vaults:
        assert vault.stamps() == ("v4", 4)
        assert vault.query("SELECT DISTINCT size FROM credentials ORDER BY 1") == [(6,), (10,)]
        assert vault.value("SELECT count(*) FROM phantom_tokens") == 3
        assert_user_objects_work(vault.path, BUMPS["a renamed table"].renamed)


@pytest.mark.parametrize("development_file", ["none", "v0", "v1", "v2", "encrypted", "garbage"])
def test_a_plain_revision_is_empty_and_valid(tmp_path: Path, development_file: str) -> None:
    project = Project(tmp_path / "project")
    own = Vault(project.path / "own.db", "secret" if development_file == "encrypted" else None)
    if development_file == "garbage":
        own.path.write_bytes(b"garbage " * 999)
    elif development_file != "none":
        own.create(int(development_file[1:]) if development_file[0] == "v" else 0)
    before = own.files()
    project.run(("revision", {"message": "fill label"}))
    assert own.files() == before
    code = project.new_revision.read_text()
    assert '"""Fill label.' in code
    assert code.count("\n    pass\n") == 2
    assert_well_formed(project)
    file = Vault(tmp_path / "v2.db").create(2, content=keys(2))
    before_rows = file.content()
    db = {"db": file.path}
    printed = project.run(("record", {})) + project.run(
        ("upgrade", {"revision": "head", **db}), ("downgrade", {"revision": "-1", **db})
    )
    assert not [line for line in printed if "FAILED" in line], printed
    assert (file.content(), file.stamps()) == (before_rows, ("v2", 2))


def test_two_revisions_of_one_number_are_refused_by_every_command(tmp_path: Path) -> None:
    """A file is named by its number alone, so that version control says it first."""
    project = Project(tmp_path / "project")
    project.write("pass")
    project.run(("record", {}))
    shutil.copy(project.new_revision, project.versions / "v3_by_somebody_else.py")
    both = (
        "FAILED: v3.py and v3_by_somebody_else.py are both revision v3: in the one that is not "
        "released yet, set revision = 'v4' and down_revision = 'v3'"
    )
    commands: dict[str, dict[str, Any]] = {
        "upgrade": {"revision": "head"},
        "downgrade": {"revision": "v2"},
        "stamp": {"revision": "head"},
        "current": {},
        "check": {},
        "revision": {"message": "x"},
    }
    # Alembic asks no env.py about these: credential-db says it, and Alembic warns in its words.
    shell = ("heads", "branches", "history", "show head", "upgrade head", "upgrade head --sql")
    steps = [*commands.items(), *(("shell", {"arguments": line.split()}) for line in shell)]
    for step, printed in zip(steps, project.run(*steps), strict=True):
        assert both in printed, f"{step} has to say it: {printed}"
        assert "A development file that has seen either of them is to be made anew" in printed
    assert not (project.path / "own.db").exists()


def test_revisions_stay_one_line(tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    steps: list[tuple[str, dict[str, Any]]] = [
        ("merge", {"revisions": "heads", "message": "x"}),
        ("revision", {"message": "x", "head": "v1", "splice": True}),
        ("revision", {"message": "x", "head": "v0"}),
        ("revision", {"message": "x", "head": "base"}),
        ("revision", {"message": "x", "branch_label": "mine"}),
        ("revision", {"message": "x", "depends_on": "v1"}),
    ]
    for step, printed in zip(steps, project.run(*steps), strict=True):
        assert "FAILED: " in printed, f"{step} has to be refused"
    assert project.changed() == set()


# What a careless revision would lose

BATCH = "with op.batch_alter_table({}) as batch_op:\n        batch_op.alter_column({})"
WITHOUT_DEFINITION = "the revisions make something else than schema.py says"


class Careless(NamedTuple):
    """A revision that is not well thought through.

    Attributes:
        body: Of its upgrade.
        said: What is said about it, by the record or by the upgrade.
        edits: Of schema.py, where it is to fit.
        user: What else is in the file.
        declared: A line of the revision's own.
    """

    body: str
    said: Sequence[str]
    edits: Edits = ()
    user: Sequence[str] = ()
    declared: str = ""


NO_COMMENT = (
    "op.copy_table('ssh_keys', sa.Column('id', sa.Integer, primary_key=True, nullable=True),\n"
    "        sa.Column('key_type', sa.Text, nullable=False),\n"
    "        sa.Column('private_der', sa.BLOB, nullable=False),\n"
    "        sa.Column('public_blob', sa.BLOB, nullable=False),\n"
    "        sa.Column('fingerprint', sa.Text, nullable=False),\n"
    "        sa.Column('created_at', sa.Text, nullable=False,\n"
    "        server_default=sa.text(\"(datetime('now'))\")),\n"
    "        sa.CheckConstraint(\"key_type IN ('ed25519','rsa')\"),\n"
    "        sa.UniqueConstraint('fingerprint'), sqlite_autoincrement=True)"
)

CARELESS = {
    "a copy without a definition": Careless(
        BATCH.format("'ssh_keys'", "'comment', nullable=True"),
        [WITHOUT_DEFINITION, "ssh_keys: AUTOINCREMENT", "ssh_keys: CHECK (key_type in('ed25519',"],
    ),
    "a copy of Alembic's own": Careless(
        BATCH.format("'credentials'", "'data', nullable=True, type_=sa.Integer"),
        ["FAILED: op.batch_alter_table would copy table credentials", "op.copy_table keeps them"],
        edits=[(DATA, '    Column("data", Integer),\n')],
    ),
    "a lost cascade": Careless(
        "op.copy_table('ssh_key_assignments', sa.Column('scope', sa.Text, nullable=False),\n"
        "        sa.Column('key_id', sa.Integer, nullable=False),\n"
        "        sa.PrimaryKeyConstraint('scope', 'key_id'))",
        [WITHOUT_DEFINITION, "+ ssh_key_assignments: FOREIGN KEY to ssh_keys (key_id -> id)"],
    ),
    "a table too many": Careless(
        "op.create_table('more', sa.Column('a', sa.Text))",
        [WITHOUT_DEFINITION, "- more: column a TEXT"],
    ),
    "lost rows": Careless(
        "op.execute('DELETE FROM credentials')",
        ["table credentials had 2 rows and would have 0", "changes_rows_of = ('credentials',)"],
    ),
    "lost rows of one table, and others declared": Careless(
        "op.execute('DELETE FROM ssh_key_assignments')",
        ["table ssh_key_assignments had 8 rows and would have 0"],
        declared='changes_rows_of = ("credentials",)',
    ),
    "what is said to change is no tuple": Careless(
        "op.execute('DELETE FROM credentials')",
        ["changes_rows_of is a tuple", "'credentials' is none"],
        declared='changes_rows_of = ("credentials")',
    ),
    "what is said to change is no table": Careless(
        "op.execute('DELETE FROM credentials')",
        ["('credential',) is none"],
        declared='changes_rows_of = ("credential",)',
    ),
    "an added row": Careless(
        "op.execute(\"INSERT INTO credentials SELECT 'a', 'b', 'c' FROM ssh_keys LIMIT 1\")",
        ["table credentials had 2 rows and would have 3"],
    ),
    "as many rows, of other tables": Careless(
        "op.execute(\"DELETE FROM proxy_tokens WHERE token = 'phantom-1'\")\n"
        "    op.execute(\"INSERT INTO credentials SELECT 'a', 'b', 'c' FROM ssh_keys LIMIT 1\")",
        ["credentials had 2 rows and would have 3", "proxy_tokens had 3 rows and would have 2"],
    ),
    "children by cascade": Careless(
        "op.execute('DELETE FROM ssh_keys WHERE id = 2')",
        ["ssh_key_assignments -> ssh_keys would point nowhere"],
        declared='changes_rows_of = ("ssh_keys",)',
    ),
    "a dropped table with rows": Careless(
        "op.drop_table('credentials')",
        ["table credentials had 2 rows and would be dropped with them"],
        edits=[
            (
                'credentials = Table(\n    "credentials",\n    metadata,\n'
                '    Column("credential_set", Text, nullable=False),\n'
                '    Column("provider", Text, nullable=False),\n' + DATA + "    PrimaryKey"
                'Constraint("credential_set", "provider"),\n)\n',
                "",
            )
        ],
    ),
    "a trigger that is dropped": Careless(
        "op.execute('DROP TRIGGER IF EXISTS audited')",
        ["trigger audited on table ssh_keys would be lost"],
    ),
    "an index that is dropped": Careless(
        "op.execute('DROP INDEX IF EXISTS by_creation')",
        ["index by_creation on table ssh_keys would be lost"],
    ),
    "a table of the user's": Careless(
        "op.execute('DROP TABLE IF EXISTS audit_log')", ["table audit_log would be lost"]
    ),
    "a column that the user's trigger needs": Careless(
        NO_COMMENT,
        ["needs_comment", "new.comment"],
        edits=[(COMMENT, "")],
        user=[
            "CREATE TRIGGER needs_comment AFTER UPDATE ON ssh_keys BEGIN"
            " INSERT INTO audit_log VALUES (new.comment); END"
        ],
    ),
    "a trigger on a column that is gone": Careless(
        NO_COMMENT,
        ["trigger of_comment (no such column: comment) would not work"],
        edits=[(COMMENT, "")],
        user=[
            "CREATE TRIGGER of_comment AFTER UPDATE OF comment ON ssh_keys BEGIN"
            " INSERT INTO audit_log VALUES ('comment'); END"
        ],
    ),
    "a column that the user's trigger writes": Careless(
        NO_COMMENT,
        ["trigger writes (no such column: comment) would not work"],
        edits=[(COMMENT, "")],
        user=[
            "CREATE TRIGGER writes AFTER DELETE ON credentials BEGIN"
            " UPDATE ssh_keys SET comment = 'x'; END"
        ],
    ),
    "a view over a dropped column": Careless(
        NO_COMMENT,
        ["comments", "no such column: comment"],
        edits=[(COMMENT, "")],
        user=["CREATE VIEW comments AS SELECT id, comment FROM ssh_keys"],
    ),
    "an index on a dropped column": Careless(
        NO_COMMENT,
        ["index by_comment on table ssh_keys would be lost"],
        edits=[(COMMENT, "")],
        user=["CREATE INDEX by_comment ON ssh_keys (comment)"],
    ),
    "a mistake in Python": Careless(
        "if op.get_bind().exec_driver_sql('SELECT 1 FROM ssh_keys').first():\n"
        "        undefined_name()",
        ["FAILED: NameError at v3.py:", "name 'undefined_name' is not defined"],
    ),
}


@pytest.mark.parametrize("name", CARELESS)
def test_a_careless_revision_is_refused_before_the_commit(tmp_path: Path, name: str) -> None:
    careless = CARELESS[name]
    project = Project(tmp_path / "project")
    project.edit(*careless.edits)
    project.write(careless.body, above=careless.declared)
    vault = Vault(tmp_path / "vault.db").create(0, content=keys(4))
    write_user_objects(vault, 0)
    vault.execute(*careless.user)
    before = vault.files()
    said = [
        *project.run(("record", {})),
        *project.run(("upgrade", {"revision": "head", "db": vault.path})),
    ]
    assert "FAILED: " in said[-1], "it was committed"
    for words in careless.said:
        assert words in "".join(said)
    assert vault.files() == before


def test_a_revision_may_say_that_it_means_to_change_rows(tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    project.write(
        "op.execute('DELETE FROM proxy_tokens')",
        above='changes_rows_of = ("proxy_tokens",)',
        back="op.execute(\"INSERT INTO proxy_tokens VALUES ('a', 'b', 'c', 'd', 'e')\")",
    )
    vault = Vault(tmp_path / "vault.db").create(2, content=keys(2))
    db = {"db": vault.path}
    project.run(("record", {}))
    assert project.run(("upgrade", {"revision": "head", **db})) == [""]
    assert vault.value("SELECT count(*) FROM proxy_tokens") == 0
    assert project.run(("downgrade", {"revision": "v2", **db})) == [""]
    assert vault.value("SELECT count(*) FROM proxy_tokens") == 1


def test_a_generated_drop_of_a_table_waits_for_that_line(tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    _, _, rest = project.schema.read_text().partition(TOKENS)
    project.edit((TOKENS + rest, ""), ('"credentials"', '"secrets"'))  # nothing is said of a rename
    upgrade = generated(project, project.bump())
    assert 'this stops until the revision says: changes_rows_of = ("proxy_tokens",)' in upgrade
    vault = Vault(tmp_path / "vault.db").create(2, content=keys(2))
    before, db = vault.files(), {"db": vault.path}
    (printed,) = project.run(("upgrade", {"revision": "head", **db}))
    assert "FAILED: the migration would lose or add rows: table proxy_tokens had 3 rows" in printed
    assert "changes_rows_of = ('proxy_tokens',)" in printed
    assert vault.files() == before
    code = project.new_revision.read_text()
    declared = 'revision = "v3"\nchanges_rows_of = ("proxy_tokens",)\n'
    project.new_revision.write_text(code.replace('revision = "v3"\n', declared, 1))
    assert project.run(("upgrade", {"revision": "head", **db}), ("check", dict(db)))[0] == ""
    assert vault.stamps() == ("v3", 3)
    assert project.run(("downgrade", {"revision": "v2", **db})) == [""]
    assert vault.value("SELECT count(*) FROM proxy_tokens") == 0


def test_rows_that_a_narrower_check_would_refuse_are_named(tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    project.edit(*BUMPS["a wider CHECK"].edits)
    project.bump()
    vault = Vault(tmp_path / "vault.db").create(2, content=keys(4))
    db = {"db": vault.path}
    project.run(("upgrade", {"revision": "head", **db}))
    vault.execute("UPDATE ssh_keys SET key_type = 'ecdsa' WHERE id IN (5, 11)")
    before = vault.files()
    (printed,) = project.run(("downgrade", {"revision": "v2", **db}))
    assert "FAILED: table ssh_keys needs another definition, and its rows 5, 11 do not" in printed
    assert vault.files() == before


def test_rows_that_a_new_foreign_key_would_refuse_are_named(tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    key = (
        '    ForeignKeyConstraint(["credential_set", "provider"], '
        '["credentials.credential_set", "credentials.provider"]),\n'
    )
    text = project.schema.read_text().rstrip()
    project.schema.write_text(text.removesuffix(")") + key + ")\n")
    project.bump()
    vault = Vault(tmp_path / "vault.db").create(2, content=keys(2))
    db = {"db": vault.path}
    vault.execute("INSERT INTO proxy_tokens SELECT 'more', 'a', 'b', 'default', 'github'")
    before = vault.files()
    (printed,) = project.run(("upgrade", {"revision": "head", **db}))
    assert printed == (
        "FAILED: a foreign key of table proxy_tokens asks for a row of credentials, and there is "
        "none for its rows 2, 3: repair or delete them (WHERE rowid = ...), then run again; "
        "nothing was changed"
    )
    assert vault.files() == before
    vault.execute("DELETE FROM proxy_tokens WHERE rowid IN (2, 3)")
    printed = project.run(("upgrade", {"revision": "head", **db}), ("check", dict(db)))[-1]
    assert "No new upgrade operations detected" in printed


def test_a_new_unique_index_that_rows_break_says_what_to_do(tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    project.edit((DATA, f'{DATA}    Index("ix_credentials_data", "data", unique=True),\n'))
    project.bump()
    vault = Vault(tmp_path / "vault.db").create(2, content=keys(2))
    vault.execute("UPDATE credentials SET data = '{}'")
    before = vault.files()
    (printed,) = project.run(("upgrade", {"revision": "head", "db": vault.path}))
    assert "UNIQUE constraint failed: credentials.data; rows have the same values there" in printed
    assert vault.files() == before


@pytest.mark.parametrize(
    ("bump", "taken", "said"),
    [
        (
            "an index",
            "INDEX ix_credentials_data ON ssh_keys (comment)",
            "index ix_credentials_data",
        ),
        ("an index", "TABLE ix_credentials_data (a)", "a table named ix_credentials_data"),
        (NEW_TABLE, "TABLE uses (a)", "table uses already exists"),
        (NEW_TABLE, "INDEX uses ON ssh_keys (comment)", "an index named uses"),
        ("a renamed table", "TABLE phantom_tokens (a)", "phantom_tokens"),
    ],
)
def test_a_name_that_the_user_has_taken_is_said(
    tmp_path: Path, bump: str, taken: str, said: str
) -> None:
    project = Project(tmp_path / "project")
    project.edit(*BUMPS[bump].edits)
    project.bump()
    vault = Vault(tmp_path / "vault.db").create(2, content=keys(2))
    vault.execute(f"CREATE {taken}")
    before = vault.files()
    (printed,) = project.run(("upgrade", {"revision": "head", "db": vault.path}))
    assert said in printed
    assert "; rename or drop yours, then run again; nothing was changed" in printed
    assert vault.files() == before


def test_what_was_broken_before_hides_nothing(tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    project.edit((COMMENT, ""))
    project.write(NO_COMMENT)
    project.run(("record", {}))
    vault = Vault(tmp_path / "vault.db").create(2, content=keys(2))
    vault.execute("CREATE VIEW broken AS SELECT no_column FROM ssh_keys")
    vault.execute("CREATE VIEW comments AS SELECT comment FROM ssh_keys")
    before = vault.files()
    (printed,) = project.run(("upgrade", {"revision": "head", "db": vault.path}))
    assert "after the upgrade view comments (no such column: comment) would not work" in printed
    assert "broken" not in printed
    assert vault.files() == before
    vault.execute("DROP VIEW comments")
    assert project.run(("upgrade", {"revision": "head", "db": vault.path})) == [""]


def test_a_script_of_a_table_copy_is_refused(tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    project.edit(*BUMPS["a wider CHECK"].edits)
    project.bump()
    printed = project.run(
        ("upgrade", {"revision": "v2:v3", "sql": True}),
        ("downgrade", {"revision": "v3:v2", "sql": True}),
    )
    for script in printed:
        assert "FAILED: table ssh_keys has to be copied" in script
        assert "run this range without --sql" in script
        assert "DROP TABLE" not in script


def test_a_script_for_an_empty_file_needs_no_copy(tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    project.edit(*BUMPS["a wider CHECK"].edits)
    project.bump()
    (script,) = project.run(("upgrade", {"revision": "head", "sql": True}))
    file = Vault(tmp_path / "new.db")
    with closing(file.connect()) as connection:
        connection.executescript(script)
    assert file.stamps() == ("v3", 3)
    (printed,) = project.run(("check", {"db": file.path}))
    assert "No new upgrade operations detected" in printed
