"""The snapshots: the definition of each version, written by a tool and never by hand."""

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

import credential_db
from credential_db import head, schema, snapshots
from credential_db.sqlite.autogenerate import script_of_metadata
from credential_db.sqlite.schema import schema_of_script
from projects import CHECKOUT, Project, Step
from steps import step
from vaults import HEAD, Vault, keys, upgraded

# What earlier releases wrote, as in the files on users' disks.

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
def test_a_snapshot_defines_what_is_on_disk(version: int) -> None:
    on_disk = schema_of_script(";\n".join(ON_DISK[version].values()))
    assert on_disk.definitions == snapshots.snapshot(version).definitions, (
        f"snapshots/v{version}.sql differs from the files on users' disks: every one of them would "
        "be copied, or refused"
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
        "a table copy has lost the comments"
    )


def test_the_head_is_what_the_revisions_and_the_metadata_make() -> None:
    snapshot = snapshots.snapshot(HEAD)
    in_head = schema_of_script(";\n".join(sql for table in head.DDL.values() for sql in table))
    made = schema_of_script(script_of_metadata(schema.metadata))
    assert in_head.definitions == snapshot.definitions == made.definitions
    columns = {table: frozenset(names) for table, names in head.COLUMNS.items()}
    assert columns == dict(snapshot.columns)
    assert list(head.DDL) == list(head.COLUMNS)
    assert HEAD == head.SCHEMA_VERSION == credential_db.SCHEMA_VERSION
    files = {file.name for file in Path(snapshots.DIRECTORY).iterdir()}
    assert files == {f"v{version}.sql" for version in range(HEAD + 1)}
    assert set(range(HEAD + 1)) >= head.MAY_RUN_AGAIN


def test_a_new_file_in_one_shot_is_what_the_revisions_make(vault: Vault, tmp_path: Path) -> None:
    credential_db.upgrade(vault.path, **vault.options)
    long_way = Vault(tmp_path / "long way.db", vault.passphrase)
    for version in range(HEAD + 1):
        step(long_way, f"v{version}")
    assert [row[:3] for row in vault.schema()] == [row[:3] for row in long_way.schema()]
    assert vault.stamps() == long_way.stamps() == (f"v{HEAD}", HEAD)
    for file in (vault, long_way):
        assert credential_db.status(file.path, **file.options).state == "current"


@pytest.mark.parametrize("version", range(1, HEAD + 1))
def test_every_step_has_a_test(version: int) -> None:
    name = f"test_step_v{version}.py"
    assert Path(__file__).with_name(name).exists(), (
        f"tests/{name} is missing: insert rows at version {version - 1}, step to v{version}, "
        "compare, and back; docs/changing-the-schema.md and tests/test_step_v2.py show how"
    )


# The tool

UP_TO_DATE = "every snapshot is up to date\nexit status 0\n"
DATA = '    Column("data", Text, nullable=False),\n'
SNAPSHOT: Step = ("snapshot", {})
CHECK: Step = ("snapshot", {"arguments": ["--check"]})


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "project")


def test_this_checkout_has_its_snapshots() -> None:
    assert Project(CHECKOUT).run(CHECK) == [UP_TO_DATE]


def test_what_has_not_changed_is_not_written(project: Project) -> None:
    steps = (SNAPSHOT, CHECK, ("snapshot", {"arguments": ["--chekc"]}))
    *answers, wrong = project.run(*steps)
    assert answers == [UP_TO_DATE, UP_TO_DATE]
    assert wrong.endswith("exit status 2\n")
    assert project.changed() == set()
    # A new release of SQLAlchemy may lay out a statement differently; only its meaning counts.
    file = project.path / "src/credential_db/snapshots/v1.sql"
    file.write_text(file.read_text().replace("data TEXT NOT NULL", "data    TEXT   NOT NULL"))
    assert project.run(SNAPSHOT) == [UP_TO_DATE]


def test_check_writes_nothing(project: Project) -> None:
    """And the head knows which versions may run again."""
    project.write("pass", above="may_run_again = True")
    project.write("pass", above="may_run_again = False", version=4)
    before = project.changed()
    names = "src/credential_db/head.py, src/credential_db/snapshots/v3.sql"
    files = f"{names}, src/credential_db/snapshots/v4.sql"
    (refused,) = project.run(CHECK)
    assert f"out of date: {files}: run python tools/snapshot.py\nexit status 1\n" in refused
    assert project.changed() == before
    written = f"written: {files}\nexit status 0\n"
    assert project.run(SNAPSHOT, CHECK) == [written, UP_TO_DATE]
    head = project.path / "src/credential_db/head.py"
    assert "MAY_RUN_AGAIN: frozenset[int] = frozenset({3})\n" in head.read_text()
    project.write("pass")
    assert "head.py" in project.run(CHECK)[0]


class Broken(NamedTuple):
    """What a maintainer did, and what the tool answers."""

    answer: str
    files: Mapping[str, str | tuple[str, str] | None]  # a text, or what is replaced; None: no file


def revision_3(body: str, number: str = "v3") -> dict[str, str]:
    text = f'revision = "{number}"\ndown_revision = "v2"\ndef upgrade(op):\n    {body}\n'
    return {f"alembic/versions/{number}.py": f"{text}def downgrade(op): 0"}


V3 = "alembic/versions/v3.py"
SCHEMA = "src/credential_db/schema.py"
V2_REVISION = "alembic/versions/v2_token_subject.py"
PASS = revision_3("pass")[V3]
BROKEN = {
    "a released version changes": Broken(
        "v2.sql would change, but was released: restore its revision",
        {V2_REVISION: ('"subject"', '"label"'), SCHEMA: ('"subject"', '"label"')},
    ),
    "a released version is deleted": Broken(
        "v2.sql would change, but was released", {V2_REVISION: None, SCHEMA: ("subject", "task")}
    ),
    "a released snapshot is deleted": Broken(
        "v1.sql would change, but was released", {"src/credential_db/snapshots/v1.sql": None}
    ),
    "a released snapshot is edited": Broken(
        "v2.sql would change, but was released",
        {"src/credential_db/snapshots/v2.sql": ("fingerprint TEXT NOT NULL", "fingerprint TEXT")},
    ),
    "schema.py differs": Broken(
        "the revisions and schema.py differ: - credentials: column data TEXT NOT NULL. Change",
        {SCHEMA: (DATA, "")},
    ),
    "a revision inserts rows": Broken(
        "revision v3 inserts rows into table credentials of an empty file",
        revision_3("op.execute(\"INSERT INTO credentials VALUES ('a', 'b', 'c')\")"),
    ),
    "a revision fails": Broken(
        "revision v3 fails on an empty file: ZeroDivisionError", revision_3("1 / 0")
    ),
    "a revision uses Alembic's own op": Broken(
        "revision v3 fails on an empty file: NameError: Can't invoke",
        revision_3("import alembic; alembic.op.drop_table('credentials')"),
    ),
    "a revision cannot be loaded": Broken("cannot be loaded: SyntaxError", revision_3("1 1")),
    "a revision takes no op": Broken(
        "upgrade() of revision v3", {V3: PASS.replace("upgrade(op)", "upgrade()")}
    ),
    "a revision of release 1.1": Broken(
        "a revision is of release 1.1",
        {V3: f"from credential_db.sqlite.revising import op\n{PASS}"},
    ),
    "a number is left out": Broken(
        "the files v0_baseline.py, v1_keys_in_pkcs8.py, v2_token_subject.py, v4.py contain",
        revision_3("pass", "v4"),
    ),
    "two people wrote one version": Broken(
        "the one that is not released becomes v4: rename its file to v4.py, set revision",
        {V3: PASS, "alembic/versions/v3_mine.py": PASS},
    ),
    "a file was only renamed": Broken(
        "contain the revisions v0, v1, v2, v3, but v0, v1, v2 and so on were expected",
        {V3: PASS, "alembic/versions/v4.py": PASS},
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_mistake_is_named_and_nothing_is_written(project: Project, name: str) -> None:
    for file, text in BROKEN[name].files.items():
        path = project.path / file
        if text is None:
            path.unlink()
        else:
            known = text if isinstance(text, str) else path.read_text().replace(*text)
            path.write_text(known)
    before = project.changed()
    for printed in project.run(SNAPSHOT, CHECK):
        assert "FAILED: " in printed
        assert BROKEN[name].answer in printed
        assert printed.endswith("exit status 1\n")
    assert project.changed() == before


def test_a_version_that_is_not_released_may_change_and_go(project: Project) -> None:
    snapshot = project.path / "src/credential_db/snapshots/v3.sql"
    for column in ("data", "provider"):
        index = f'    Index("ix", "{column}"),\n'
        project.edit((DATA, DATA + index))
        project.write(f'op.execute("CREATE INDEX ix ON credentials ({column})")')
        assert "snapshots/v3.sql" in project.run(SNAPSHOT)[0]
        assert f"CREATE INDEX ix ON credentials ({column});" in snapshot.read_text()
        project.edit((index, ""))
    project.new_revision.unlink()
    assert "snapshots/v3.sql" in project.run(SNAPSHOT)[0]
    assert project.changed() == set()


@pytest.mark.parametrize("content", [None, "<<<<<<< mine\n=======\n>>>>>>> theirs\n"])
def test_a_file_that_a_merge_has_damaged_is_replaced(project: Project, content: str | None) -> None:
    """Two people who write version 3 both change these files."""
    project.write("pass")
    project.run(SNAPSHOT)
    folder = project.path / "src/credential_db"
    before = {path: path.read_text() for path in (folder / "head.py", folder / "snapshots/v3.sql")}
    for path, text in before.items():
        path.unlink()
        if content is not None:
            path.write_text(content + text)
    result = project.shell("python tools/snapshot.py")
    assert (result.returncode, result.stderr) == (0, "")
    assert {path: path.read_text() for path in before} == before


def test_a_revision_without_its_snapshot_is_not_overwritten(project: Project) -> None:
    project.write("pass  # hours of work")
    given = ({"autogenerate": True}, {"autogenerate": False})
    for printed in project.run(*(("revision", {"message": "x", **each}) for each in given)):
        assert "FAILED: " in printed
        assert "run python tools/snapshot.py" in printed
    assert "hours of work" in project.new_revision.read_text()
