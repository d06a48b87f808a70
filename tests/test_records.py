"""The record: each version as it is on disk, written by a tool and never by hand."""

import shutil
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import pytest

import credential_db
from credential_db import head, records, schema
from credential_db.sqlite.alterations import shape_of_metadata
from credential_db.sqlite.driver import create
from credential_db.sqlite.shape import shape_of_script
from projects import CHECKOUT, Project
from steps import step
from vaults import HEAD, Vault, keys, upgraded

# What earlier releases wrote, as it stands in the files that are out there.

V2 = {
    "credentials": """CREATE TABLE credentials (
    credential_set TEXT NOT NULL,
    provider       TEXT NOT NULL,
    data           TEXT NOT NULL,              -- JSON, opaque here
    PRIMARY KEY (credential_set, provider)
)""",
    "ssh_keys": """CREATE TABLE ssh_keys (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    key_type     TEXT    NOT NULL CHECK (key_type IN ('ed25519','rsa')),
    private_der  BLOB    NOT NULL,             -- PKCS#8 DER, unencrypted
    public_blob  BLOB    NOT NULL,             -- SSH wire format
    comment      TEXT    NOT NULL DEFAULT '',
    fingerprint  TEXT    NOT NULL UNIQUE,      -- SHA256:<base64, no padding> of public_blob
    created_at   TEXT    NOT NULL DEFAULT (datetime('now'))
)""",
    "ssh_key_assignments": """CREATE TABLE ssh_key_assignments (
    scope        TEXT    NOT NULL,
    key_id       INTEGER NOT NULL REFERENCES ssh_keys(id) ON DELETE CASCADE,
    assigned_at  TEXT    NOT NULL DEFAULT (datetime('now')),
    PRIMARY KEY (scope, key_id)
)""",
    "proxy_tokens": """CREATE TABLE proxy_tokens (
    token          TEXT PRIMARY KEY,
    scope          TEXT NOT NULL,
    subject        TEXT NOT NULL,              -- opaque label
    credential_set TEXT NOT NULL,
    provider       TEXT NOT NULL
)""",
}
V1 = {**V2, "proxy_tokens": V2["proxy_tokens"].replace("subject", "task   ")}
V0 = {**V1, "ssh_keys": V1["ssh_keys"].replace("private_der", "private_pem")}
ON_DISK: list[Mapping[str, str]] = [V0, V1, V2]


@pytest.mark.parametrize("version", range(3))
def test_what_is_on_disk_is_what_is_on_record(version: int) -> None:
    written = shape_of_script(";\n".join(ON_DISK[version].values()))
    assert written.definition == records.record(version).definition, (
        f"records/v{version}.sql promises something else than the files that are out there: every "
        "one of them would be copied, or refused"
    )


@pytest.mark.parametrize("version", range(3))
def test_a_real_file_is_adopted_without_a_copy(vault: Vault, version: int) -> None:
    vault.create(version, content=keys(2))
    with closing(vault.connect()) as connection:  # the same rows, in tables as they were written
        connection.execute("PRAGMA writable_schema = ON")
        for table, sql in ON_DISK[version].items():
            connection.execute("UPDATE sqlite_master SET sql = ? WHERE name = ?", (sql, table))
        connection.commit()
    before = vault.content()
    step(vault, "v2")
    assert vault.content() == upgraded(before, version)
    texts = {table: sql for _, table, _, sql in vault.schema() if table in V2}
    assert all("-- " in texts[table] for table in ("credentials", "ssh_keys", "proxy_tokens")), (
        "a table copy has lost the comments: the upgrade has to take these files as they are"
    )


def test_the_newest_record_is_what_revisions_and_metadata_make() -> None:
    recorded = records.record(HEAD)
    in_head = shape_of_script(";\n".join(sql for table in head.DDL.values() for sql in table))
    assert in_head.definition == recorded.definition, "run python tools/record.py"
    made = shape_of_metadata(schema.metadata)
    assert recorded.definition == made.definition, (
        "schema.py says something else than the revisions make: alembic revision --autogenerate"
    )
    columns = {table: frozenset(names) for table, names in head.COLUMNS.items()}
    assert columns == dict(recorded.columns) == dict(made.columns)
    assert list(head.DDL) == list(head.COLUMNS)
    assert HEAD == head.SCHEMA_VERSION == credential_db.SCHEMA_VERSION
    files = {file.name for file in records.DIRECTORY.iterdir()}
    assert files == {f"v{version}.sql" for version in range(HEAD + 1)}


@pytest.mark.parametrize("version", range(HEAD + 1))
def test_a_record_is_a_script_of_its_own(version: int) -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(records.script(version))
        rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    assert {name for (name,) in rows} - {"sqlite_sequence"} == set(records.record(version).columns)


def test_a_new_file_in_one_shot_is_what_the_revisions_make(vault: Vault, tmp_path: Path) -> None:
    credential_db.upgrade(vault.path, **vault.options)
    long_way = Vault(tmp_path / "long way.db", vault.passphrase)
    step(long_way, "v0")
    for version in range(1, HEAD + 1):
        step(long_way, f"v{version}")
    names = [(kind, name, table) for kind, name, table, _ in vault.schema()]
    assert names == [(kind, name, table) for kind, name, table, _ in long_way.schema()]
    assert vault.stamps() == long_way.stamps() == (f"v{HEAD}", HEAD)
    assert vault.content() == long_way.content()
    for file in (vault, long_way):
        status = credential_db.status(file.path, **file.options)
        assert (status.state, status.detail) == ("current", f"version {HEAD}"), "see its detail"


def test_an_index_on_record_is_made_on_the_table_of_the_file() -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TEMP TABLE t (other)")
        create(connection, ("CREATE TABLE t (a)", "CREATE UNIQUE INDEX i ON t (a)"))
        assert connection.execute("SELECT name FROM main.sqlite_master").fetchall() == [
            ("t",),
            ("i",),
        ]


# The tool


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "project")


def record(project: Project, *arguments: str) -> str:
    (printed,) = project.run(("record", {"arguments": list(arguments)}))
    return printed


def test_running_it_twice_changes_nothing(project: Project) -> None:
    assert record(project) == "the record is up to date\nexit status 0\n"
    assert record(project, "--check") == "the record is up to date\nexit status 0\n"
    assert project.changed() == set()


def test_this_checkout_is_recorded() -> None:
    """What the gate asks, too; in a copy, for the tool would write."""
    code = [CHECKOUT / "src/credential_db" / name for name in ("head.py", "records")]
    assert all(path.exists() for path in code)
    (printed,) = Project.run(_Checkout(), ("record", {"arguments": ["--check"]}))
    assert printed == "the record is up to date\nexit status 0\n"


class _Checkout(Project):
    def __init__(self) -> None:
        self.path = CHECKOUT


def test_check_writes_nothing_and_says_what_is_out_of_date(project: Project) -> None:
    project.write("pass")
    before = project.changed()
    printed = record(project, "--check")
    assert printed == (
        "FAILED: out of date: src/credential_db/head.py, src/credential_db/records/v3.sql: run "
        "python tools/record.py\nexit status 1\n"
    )
    assert project.changed() == before
    assert "exit status 0" in record(project)
    assert "exit status 0" in record(project, "--check")


def test_an_argument_that_is_none_is_refused(project: Project) -> None:
    assert record(project, "--chekc").endswith("exit status 2\n")


@pytest.mark.parametrize("file", ["head.py", "records/v2.sql"])
def test_what_was_changed_by_hand_is_found(project: Project, file: str) -> None:
    path = project.path / "src" / "credential_db" / file
    text = path.read_text()
    path.write_text(text.replace("fingerprint TEXT NOT NULL", "fingerprint TEXT"))
    assert "exit status 1" in record(project, "--check")
    if file == "head.py":
        assert "exit status 0" in record(project)
        assert project.changed() == set(), "it is put right"


def test_a_released_version_does_not_change(project: Project) -> None:
    revision = project.versions / "v2_token_subject.py"
    code = revision.read_text()
    revision.write_text(code.replace('new_column_name="subject"', 'new_column_name="label"'))
    project.edit(('"subject"', '"label"'))
    before = project.changed()
    for arguments in ((), ("--check",)):
        printed = record(project, *arguments)
        assert "FAILED: v2.sql would change, and is on users' disks: put its revision" in printed
        assert "exit status 1" in printed
    assert project.changed() == before


def test_a_released_version_does_not_go_away(project: Project) -> None:
    (project.versions / "v2_token_subject.py").unlink()
    project.edit(('"subject"', '"task"'))
    assert "FAILED: v2.sql would change" in record(project)
    assert (project.path / "src/credential_db/records/v2.sql").exists()


def test_a_version_that_is_not_released_may_change_and_go(project: Project) -> None:
    index = 'op.create_index("ix", "credentials", ["{}"])'
    data = '    Column("data", Text, nullable=False),\n'
    project.edit((data, f'{data}    Index("ix", "data"),\n'))
    project.write(index.format("data"), back='op.drop_index("ix")')
    assert "records/v3.sql" in record(project)
    project.edit(('Index("ix", "data")', 'Index("ix", "provider")'))
    project.write(index.format("provider"), back='op.drop_index("ix")')
    assert "records/v3.sql" in record(project)
    recorded = project.path / "src/credential_db/records/v3.sql"
    assert "CREATE INDEX ix ON credentials (provider);" in recorded.read_text()
    project.new_revision.unlink()
    project.edit(('    Index("ix", "provider"),\n', ""))
    assert "records/v3.sql" in record(project)
    assert project.changed() == set()


def test_a_released_record_is_not_written_anew(project: Project) -> None:
    """Else a revision that was changed with it would be taken as it is."""
    (project.path / "src/credential_db/records/v1.sql").unlink()
    printed = record(project)
    assert "FAILED: v1.sql would change, and is on users' disks" in printed
    assert "or the file, back as it was" in printed


@pytest.mark.parametrize("content", [None, "<<<<<<< mine\n=======\n>>>>>>> theirs\n"])
@pytest.mark.parametrize("file", ["head.py", "records/v3.sql"])
def test_what_a_merge_has_spoilt_is_written_anew(
    project: Project, file: str, content: str | None
) -> None:
    """Two people who make version 3 both write these files."""
    project.write("pass")
    record(project)
    path = project.path / "src/credential_db" / file
    before = path.read_text()
    path.unlink()
    if content is not None:
        path.write_text(content + before)
    result = project.python("tools/record.py")
    assert (result.returncode, result.stderr) == (0, "")
    assert path.read_text() == before


def test_rows_are_refused(project: Project) -> None:
    project.write("op.execute(\"INSERT INTO credentials VALUES ('a', 'b', 'c')\")")
    printed = record(project)
    assert "FAILED: revision v3 puts rows into an empty file, in table credentials" in printed
    assert project.changed() == {"alembic/versions/v3.py"}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (
            "op.execute('ALTER TABLE credentials ADD COLUMN data TEXT')",
            "OperationalError: duplicate column name: data",
        ),
        ("from alembic import op; op.drop_table('credentials')", "NameError: Can't invoke"),
        ("op.execute(1 / 0)", "ZeroDivisionError"),
    ],
)
def test_a_revision_that_fails_is_named(project: Project, body: str, reason: str) -> None:
    project.write(body)
    assert f"FAILED: revision v3 fails on an empty file: {reason}" in record(project)


def test_a_number_that_is_left_out_is_refused(project: Project) -> None:
    project.write("pass")
    code = project.new_revision.read_text().replace('revision = "v3"', 'revision = "v4"', 1)
    project.new_revision.unlink()
    (project.versions / "v4.py").write_text(code)
    assert "FAILED: revision v4 stands where v3 was expected" in record(project)


def test_a_file_that_was_only_renamed_is_refused(project: Project) -> None:
    """Alembic keeps one of two revisions of the same number, and drops the other."""
    project.write("pass")
    shutil.copy(project.new_revision, project.versions / "v4.py")
    said = "FAILED: v4.py says that it is another revision: set revision = 'v4' in it"
    assert said in record(project)
    for printed in project.run(("upgrade", {"revision": "head"}), ("revision", {"message": "x"})):
        assert said in printed


def test_a_revision_without_its_record_is_refused(project: Project) -> None:
    """Such as one that came by a merge, or was taken away."""
    project.write("pass")
    (printed,) = project.run(("upgrade", {"revision": "head"}))
    assert printed == (
        "FAILED: the newest revision is v3 and the record says v2: run python tools/record.py"
    )
    record(project)
    project.new_revision.unlink()
    (printed,) = project.run(("upgrade", {"revision": "head"}))
    assert "FAILED: the newest revision is v2 and the record says v3" in printed
    assert not (project.path / "own.db").exists()


def test_records_do_not_depend_on_how_sqlalchemy_writes_them(project: Project) -> None:
    """A new release may lay a statement out otherwise: what it says is what counts."""
    file = project.path / "src/credential_db/records/v1.sql"
    text = file.read_text()
    shutil.copyfile(file, file.with_suffix(".before"))
    file.write_text(text.replace("    data TEXT NOT NULL", "    data    TEXT   NOT NULL"))
    assert record(project) == "the record is up to date\nexit status 0\n"
