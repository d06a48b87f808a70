"""The next version, end to end in a copy of the project: edit the metadata, revision, upgrade."""

import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import closing
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import MetaData

from credential_db import SCHEMA_VERSION, CredentialDBError, schema
from vaults import Vault, keys

CHECKOUT = Path(__file__).parents[1]
SCHEMA = Path(schema.__file__)
NEXT = SCHEMA_VERSION + 1

# What is not this project's, and has to come through every change.
FOREIGN = (
    "CREATE TABLE audit_log (what TEXT)",
    "CREATE TRIGGER audited AFTER UPDATE ON ssh_keys BEGIN"
    " INSERT INTO audit_log VALUES ('key ' || new.id); END",
    "CREATE INDEX by_creation ON ssh_keys (created_at)",
    "CREATE INDEX by_provider ON credentials (provider)",
    "CREATE VIEW key_ids AS SELECT id, key_type FROM ssh_keys",
)


class Project:
    """A copy of the scripts, and metadata to change.

    Args:
        path: Where the copy goes.
        set_metadata: Puts other metadata in the place of the project's, for one test.
    """

    def __init__(self, path: Path, set_metadata: Callable[[MetaData], None]) -> None:
        self.path = path
        self._set_metadata = set_metadata
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(CHECKOUT / "alembic", path / "alembic", ignore=ignore)
        for file in ("alembic.ini", "pyproject.toml"):
            shutil.copy(CHECKOUT / file, path)

    @property
    def versions(self) -> Path:
        return self.path / "alembic" / "versions"

    @property
    def new_revision(self) -> Path:
        (file,) = self.versions.glob(f"v{NEXT}_*.py")
        return file

    def edit(self, *replacements: tuple[str, str]) -> None:
        text = SCHEMA.read_text()
        for old, new in replacements:
            assert old in text, f"this test edits schema.py where it says {old!r}: adapt the test"
            text = text.replace(old, new)
        edited: dict[str, Any] = {}
        exec(text, edited)
        self._set_metadata(edited["metadata"])

    def alembic(self, name: str, *arguments: str, db: Path | None = None, **options: Any) -> str:
        """Run one of Alembic's commands; what it printed, or how it failed."""
        output = StringIO()
        config = Config(self.path / "alembic.ini", stdout=output, output_buffer=output)
        config.set_main_option("sqlalchemy.url", f"sqlite:///{db or self.path / 'own.db'}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as that a careless copy loses a CHECK
            try:
                getattr(command, name)(config, *arguments, **options)
            except (CommandError, CredentialDBError) as error:
                return f"FAILED: {error}"
        return output.getvalue()

    def generate(self) -> str:
        """What a maintainer does; the generated code."""
        self.alembic("upgrade", f"v{SCHEMA_VERSION}")
        output = self.alembic("revision", message="the next one", autogenerate=True)
        assert self.new_revision.name == f"v{NEXT}_the_next_one.py", output
        return self.new_revision.read_text()

    def vault(self) -> Vault:
        """A v0 file with rows, and objects of its user's."""
        vault = Vault(self.path / "vault.db").create(0, content=keys(4))
        vault.execute(*FOREIGN)
        return vault


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.delenv("CREDENTIAL_DB", raising=False)

    def set_metadata(metadata: MetaData) -> None:
        monkeypatch.setattr("credential_db.schema.metadata", metadata)

    return Project(tmp_path, set_metadata)


COMMENT = '    Column("comment", Text, nullable=False, server_default=text("\'\'")),\n'
DATA = '    Column("data", Text, nullable=False),'
Edits = Sequence[tuple[str, str]]

# What is edited in the metadata; what the generated upgrade must say, and must not.
CHANGES: dict[str, tuple[Edits, Sequence[str], Sequence[str]]] = {
    "a new nullable column": (
        [(DATA, '    Column("expiry", Text),\n' + DATA)],
        ['recreate="never"', 'sa.Column("expiry", sa.Text(), nullable=True)'],
        ["copy_from"],
    ),
    "a new NOT NULL column with a default": (
        [(DATA, '    Column("uses", Integer, nullable=False, server_default=text("0")),\n' + DATA)],
        ['recreate="never"', 'server_default=sa.text("0")'],
        ["copy_from"],
    ),
    "a new NOT NULL column with the time as its default": (
        [
            (
                DATA,
                '    Column("made", Text, nullable=False,'
                " server_default=text(\"(datetime('now'))\")),\n" + DATA,
            )
        ],
        ["copy_from", "batch_op.add_column(", '"made", sa.Text(), server_default='],
        [],
    ),
    "a dropped column": (
        [(COMMENT, "")],
        ['recreate="never"', 'batch_op.drop_column("comment")'],
        [],
    ),
    "a renamed column": (
        [('Column("subject"', 'Column("label"')],
        ['recreate="never"', 'batch_op.alter_column("subject", new_column_name="label")'],
        ["copy_from", "\n        batch_op.drop_column"],
    ),
    "a new table": (
        [
            (
                "proxy_tokens = Table(",
                'uses = Table(\n    "uses",\n    metadata,\n'
                '    Column("id", Integer, primary_key=True, nullable=True),\n'
                '    Column("key_id", Integer, nullable=False),\n'
                '    ForeignKeyConstraint(["key_id"], ["ssh_keys.id"], ondelete="CASCADE"),\n'
                "    sqlite_autoincrement=True,\n)\n\nproxy_tokens = Table(",
            )
        ],
        ["op.create_table", "sqlite_autoincrement=True", 'ondelete="CASCADE"'],
        ["batch_alter_table"],
    ),
    "a new index": (
        [
            ("    Column,\n", "    Column,\n    Index,\n"),
            (DATA, DATA + '\n    Index("ix_credentials_data", "data"),'),
        ],
        ['recreate="never"', 'batch_op.create_index("ix_credentials_data", ["data"]'],
        ["copy_from"],
    ),
    "a changed CHECK on ssh_keys": (
        [("IN ('ed25519','rsa')", "IN ('ed25519','rsa','ecdsa')")],
        ["copy_from", "sqlite_autoincrement=True", "'ed25519','rsa','ecdsa'"],
        [],
    ),
    "a column of ssh_keys that may be NULL": (
        [(COMMENT, '    Column("comment", Text),\n')],
        ["copy_from", "sqlite_autoincrement=True", "sa.CheckConstraint("],
        [],
    ),
    "a new UNIQUE column of ssh_keys": (
        [(COMMENT, COMMENT + '    Column("label", Text, unique=True),\n')],
        ["copy_from", 'sa.UniqueConstraint("label")', "sqlite_autoincrement=True"],
        [],
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_goes_all_the_way(project: Project, change: str) -> None:
    edits, wanted, unwanted = CHANGES[change]
    project.edit(*edits)
    code = project.generate()
    upgrade = alike(code.partition("def upgrade")[2].partition("def downgrade")[0])
    for words in wanted:
        assert alike(words) in upgrade
    for words in unwanted:
        assert alike(words) not in upgrade
    assert alike(f'revision = "v{NEXT}"') in alike(code), "the number is given by the tool"

    vault = project.vault()
    before = vault.content()
    project.alembic("upgrade", "head", db=vault.path)
    assert vault.stamps() == (f"v{NEXT}", NEXT)
    assert "No new upgrade operations detected" in project.alembic("check", db=vault.path)
    at_head = vault.content()
    assert_nothing_lost(vault, before)

    project.alembic("downgrade", "v0", db=vault.path)
    assert vault.stamps() == ("v0", 0)
    assert_nothing_lost(vault, before)
    project.alembic("upgrade", "head", db=vault.path)
    assert vault.stamps() == (f"v{NEXT}", NEXT)
    if change != "a dropped column":
        assert ids_and_comments(at_head) == ids_and_comments(vault.content())


def alike(code: str) -> str:
    """Without what ruff makes of it, where ruff is installed."""
    return re.sub(r"\s+", " ", code.replace("'", '"')).replace("( ", "(")


def ids_and_comments(content: dict[str, list[tuple[object, ...]]]) -> list[tuple[object, ...]]:
    return [row[1:4] for row in content["ssh_keys"]]


def assert_nothing_lost(vault: Vault, before: dict[str, list[tuple[object, ...]]]) -> None:
    vault.check_integrity()
    after = vault.content()
    for table in ("credentials", "ssh_keys", "ssh_key_assignments", "proxy_tokens"):
        assert len(after[table]) == len(before[table]), f"rows of {table} are gone"
    assert after["sqlite_sequence"] == before["sqlite_sequence"]
    assert vault.query("SELECT * FROM audit_log") == [], "the user's trigger fired"
    present = {sql for (sql,) in vault.query("SELECT sql FROM sqlite_master")}
    assert set(FOREIGN) <= present
    with closing(vault.connect()) as connection:
        connection.execute("UPDATE ssh_keys SET key_type = key_type WHERE id = 2")
        assert connection.execute("SELECT * FROM audit_log").fetchall() == [("key 2",)]
        assert len(connection.execute("SELECT * FROM key_ids").fetchall()) == 4
        with pytest.raises(Exception, match="CHECK constraint failed"):
            connection.execute("UPDATE ssh_keys SET key_type = 'dsa'")


def test_what_a_bump_asks_for_is_asked_by_a_test(project: Project) -> None:
    project.edit(*CHANGES["a new nullable column"][0])
    code = project.generate()
    assert "Revises: v" in code
    ignore = shutil.ignore_patterns("__pycache__")
    for folder in ("src", "tests"):
        shutil.copytree(CHECKOUT / folder, project.path / folder, ignore=ignore)
    edited = project.path / "src" / "credential_db" / "schema.py"
    ((old, new),) = CHANGES["a new nullable column"][0]
    edited.write_text(edited.read_text().replace(old, new))

    def ask(*tests: str) -> str:
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "tests/test_next_version.py", *tests],
            cwd=project.path,
            env={**os.environ, "PYTHONPATH": str(project.path / "src")},
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        ).stdout

    def asked(pattern: str) -> str:
        found = re.search(pattern, answer, re.DOTALL | re.MULTILINE)
        assert found is not None, answer
        return found[1]

    # Do what is asked, to the letter.
    answer = ask()
    current = project.path / "src" / "credential_db" / "current.py"
    text = current.read_text().replace(
        f"SCHEMA_VERSION = {SCHEMA_VERSION}\n",
        asked(r"^in src/credential_db/current.py, set (SCHEMA_VERSION = \d+\n)"),
    )
    start, end = text.index(" = {\n") + 3, text.index("\n}\n") + 2
    columns = asked(r"^in src/credential_db/current.py, set COLUMNS to\n(\{.*?\})$")
    current.write_text(text[:start] + columns + text[end:])
    record = project.path / "tests" / "schemas" / f"v{NEXT}.sql"
    record.write_text(asked(rf"^write tests/schemas/v{NEXT}.sql[^\n]*\n(CREATE.*?;\n)\n?(?:_|=|F)"))
    # The rest of what a user relies on then works as it did.
    entry_points = "tests/test_python_interface.py::TestLegacyEntryPoints"
    again = ask(
        "tests/test_upgrade_legacy_files.py",
        f"{entry_points}::test_a_new_file_gets_the_current_schema",
        f"{entry_points}::test_migrate_brings_an_older_file_up",
        "tests/test_command_line.py::test_stamp_purge_repairs_a_stamp",
    )
    assert " passed" in again, again
    assert " failed" not in again, again


def test_two_revisions_of_one_number_are_refused(project: Project) -> None:
    project.edit(*CHANGES["a new nullable column"][0])
    project.generate()
    shutil.copy(project.new_revision, project.versions / f"v{NEXT}_by_somebody_else.py")
    for output in (
        project.alembic("upgrade", "head"),
        project.alembic("current"),
        project.alembic("check"),
        project.alembic("upgrade", "head", sql=True),
    ):
        assert (
            f"FAILED: v{NEXT}_by_somebody_else.py and v{NEXT}_the_next_one.py are both revision "
            f"v{NEXT}: in the one that is not released yet, set revision = 'v{NEXT + 1}'"
        ) in output


def test_a_plain_revision_is_numbered_too(project: Project) -> None:
    project.alembic("revision", message="convert something")
    assert project.new_revision.name == f"v{NEXT}_convert_something.py"
    assert "pass" in project.new_revision.read_text()


CARELESS = {
    "a copy without a definition": (
        "with op.batch_alter_table('ssh_keys') as batch_op:\n"
        "        batch_op.alter_column('comment', nullable=True)",
        ["ssh_keys: AUTOINCREMENT", "ssh_keys: CHECK (key_type in('ed25519','rsa'))"],
    ),
    "a lost cascade": (
        "with op.batch_alter_table('ssh_key_assignments') as batch_op:\n"
        "        batch_op.alter_column('scope', nullable=True)",
        ["ssh_key_assignments: FOREIGN KEY to ssh_keys (key_id -> id)"],
    ),
    "lost rows": (
        "op.execute('DELETE FROM ssh_key_assignments')",
        ["ssh_key_assignments had 8 rows and would have 0"],
    ),
    "a column that the user's trigger needs": (
        "with op.batch_alter_table('ssh_keys', recreate='always', copy_from=sa.Table(\n"
        "        'ssh_keys', sa.MetaData(), sa.Column('id', sa.Integer, primary_key=True,\n"
        "        nullable=True), sa.Column('created_at', sa.Text, nullable=False),\n"
        "        sqlite_autoincrement=True)):\n        pass",
        ["trigger needs_comment on table ssh_keys would be lost", "no such column: new.comment"],
    ),
    "an index of the user's on a dropped column": (
        "with op.batch_alter_table('ssh_keys', recreate='always', copy_from=sa.Table(\n"
        "        'ssh_keys', sa.MetaData(), sa.Column('id', sa.Integer, primary_key=True,\n"
        "        nullable=True), sa.Column('key_type', sa.Text, nullable=False),\n"
        "        sqlite_autoincrement=True)):\n        pass",
        ["index by_creation on table ssh_keys would be lost"],
    ),
}


@pytest.mark.parametrize("name", CARELESS)
def test_a_careless_revision_is_refused_before_the_commit(project: Project, name: str) -> None:
    body, losses = CARELESS[name]
    project.alembic("revision", message="careless")
    text = project.new_revision.read_text()
    project.new_revision.write_text(text.replace("    pass", f"    {body}", 1))
    vault = project.vault()
    vault.execute(
        "CREATE TRIGGER needs_comment AFTER UPDATE ON ssh_keys BEGIN"
        " INSERT INTO audit_log VALUES (new.comment); END"
        if "trigger" in name
        else "SELECT 1"
    )
    before = vault.files()
    output = project.alembic("upgrade", "head", db=vault.path)
    for loss in losses:
        assert loss in output
    assert output.count("FAILED: ") == 1
    assert vault.files() == before


def test_a_mistake_in_a_revision_is_told_with_its_place(project: Project) -> None:
    project.alembic("revision", message="mistaken")
    text = project.new_revision.read_text()
    project.new_revision.write_text(text.replace("    pass", "    undefined_name()", 1))
    output = project.alembic("upgrade", "head")
    assert f"FAILED: NameError at v{NEXT}_mistaken.py:" in output
    assert "name 'undefined_name' is not defined" in output
