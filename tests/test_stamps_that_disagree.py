"""Alembic's stamp, the legacy number and the tables: the tables decide, if they can."""

import logging
import shutil
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from sqlcipher3 import dbapi2 as sqlcipher

import credential_db
from conftest import PASSPHRASE
from credential_db import SCHEMA_VERSION, CredentialDBError, SchemaTooNew, scripts
from projects import Project, Step
from vaults import STAMPS, TABLES, Vault, ddl, keys, upgraded

HEAD = SCHEMA_VERSION
LAST = 2  # that old software knows: it makes no other tables
VERSIONS = tuple(range(LAST + 1))


def stamped(vault: Vault, *revisions: str) -> Vault:
    vault.execute(
        "CREATE TABLE IF NOT EXISTS alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)",
        "DELETE FROM alembic_version",
        *(("INSERT INTO alembic_version VALUES (?)", (revision,)) for revision in revisions),
    )
    return vault


def config_of(vault: Vault) -> Config:
    config = scripts.config()
    config.set_main_option("sqlalchemy.url", str(vault.path))
    config.attributes["passphrase"] = vault.passphrase
    return config


def everything(vault: Vault) -> tuple[object, ...]:
    return vault.content(), vault.schema(), vault.stamps()


MIXED: dict[str, Mapping[str, int]] = {
    "private_pem beside subject": {**dict.fromkeys(TABLES, 0), "proxy_tokens": 2},
    "task beside private_der": {**dict.fromkeys(TABLES, 2), "proxy_tokens": 1},
    "two tables": {"credentials": 2, "proxy_tokens": 2},
}
SHAPES: dict[str, Mapping[str, int] | int] = {
    **{f"tables of v{version}": version for version in VERSIONS},
    **MIXED,
}


def created(vault: Vault, shape: Mapping[str, int] | int, stamp: int, number: int) -> Vault:
    tables = shape if isinstance(shape, Mapping) else dict.fromkeys(TABLES, shape)
    vault.create(tables=tables, number=number, content=keys(2))
    return stamped(vault, f"v{stamp}")


DISAGREEING = [pair for pair in product(VERSIONS, VERSIONS) if pair[0] != pair[1]]
DECIDED = [(stamp, number, max(stamp, number)) for stamp, number in DISAGREEING]
UNDECIDED = [
    (stamp, number, shape)
    for (stamp, number), shape in product(DISAGREEING, SHAPES)
    if SHAPES[shape] != max(stamp, number)
    # "task beside private_der" is all of version 1
    and not (shape == "task beside private_der" and max(stamp, number) == 1)
]


@pytest.mark.parametrize(("stamp", "number", "shape"), DECIDED)
def test_the_tables_decide_for_the_higher(
    plain_vault: Vault, stamp: int, number: int, shape: int, caplog: pytest.LogCaptureFixture
) -> None:
    created(plain_vault, shape, stamp, number)
    expected = upgraded(plain_vault.content(), shape)
    found = credential_db.status(plain_vault.path)
    assert found[:2] == ("behind", shape)
    assert "disagree" in found.detail
    with caplog.at_level(logging.WARNING, "credential_db"):
        assert credential_db.upgrade(plain_vault.path) == (shape, HEAD)
    assert "disagreed" in caplog.text, "what decided is said in the log"
    assert plain_vault.stamps() == STAMPS
    assert plain_vault.content() == expected
    assert credential_db.status(plain_vault.path).state == "current"


@pytest.mark.parametrize(("stamp", "number", "shape"), UNDECIDED)
def test_what_the_tables_cannot_decide_is_refused(
    plain_vault: Vault, stamp: int, number: int, shape: str
) -> None:
    created(plain_vault, SHAPES[shape], stamp, number)
    before = plain_vault.files()
    with pytest.raises(credential_db.UnrecognizedSchema, match=rf"v{stamp}\b.*\b{number}\b"):
        credential_db.upgrade(plain_vault.path)
    found = credential_db.status(plain_vault.path)
    assert found[:2] == ("unrecognized", None)
    assert plain_vault.files() == before


@pytest.mark.parametrize(("stamp", "number", "shape"), DECIDED[:3])
def test_every_other_command_sees_the_same(
    plain_vault: Vault, stamp: int, number: int, shape: int, capsys: pytest.CaptureFixture[str]
) -> None:
    created(plain_vault, shape, stamp, number)
    before = plain_vault.files()
    command.current(config_of(plain_vault))
    assert plain_vault.files() == before
    assert credential_db.upgrade(plain_vault.path, dry_run=True) == (shape, HEAD)
    assert plain_vault.files() == before
    command.downgrade(config_of(plain_vault), "v0")
    assert plain_vault.stamps() == ("v0", 0)
    assert credential_db.upgrade(plain_vault.path) == (0, HEAD)


def test_a_backup_is_made_before_the_stamps_are(plain_vault: Vault, tmp_path: Path) -> None:
    created(plain_vault, LAST, LAST, 0)
    before = everything(plain_vault)
    backup = Vault(tmp_path / "backup.db")
    credential_db.upgrade(plain_vault.path, backup=backup.path)
    assert everything(backup) == before


@pytest.mark.parametrize("version", VERSIONS)
def test_the_legacy_entry_points_go_by_the_number(plain_vault: Vault, version: int) -> None:
    """At or above its own version, old software does nothing; below, it migrates."""
    created(plain_vault, LAST, LAST if version < LAST else 1, version)
    before = plain_vault.stamps()
    with closing(plain_vault.connect()) as connection:
        credential_db.ensure_credentials_schema(connection)
        credential_db.migrate_credential_db_schema(connection)
    assert plain_vault.stamps() == (before if version == HEAD else STAMPS)
    credential_db.upgrade(plain_vault.path)
    assert plain_vault.stamps() == STAMPS


def test_a_definition_is_lost_and_the_columns_decide_alone(plain_vault: Vault) -> None:
    created(plain_vault, LAST, LAST, 0)
    assert credential_db.upgrade(plain_vault.path, repair=True) == (LAST, HEAD)
    assert plain_vault.stamps() == STAMPS


# --- What old software does in normal use ------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_a_vault_that_old_software_has_encrypted(tmp_path: Path, version: int) -> None:
    """https://www.zetetic.net/sqlcipher/sqlcipher-api/#sqlcipher_export: no user_version."""
    plain = Vault(tmp_path / "plain.db").create(version, content=keys(2))
    credential_db.upgrade(plain.path)
    command.downgrade(config_of(plain), f"v{version}")
    content = upgraded(plain.content(), version)
    encrypted = Vault(tmp_path / "encrypted.db", PASSPHRASE)
    with closing(sqlcipher.connect(str(plain.path))) as connection:
        connection.execute(f"ATTACH '{encrypted.path}' AS e KEY \"{PASSPHRASE}\"")
        connection.execute("SELECT sqlcipher_export('e')")
    assert encrypted.stamps() == (f"v{version}", 0)
    assert credential_db.status(encrypted.path, **encrypted.options).version == version
    assert credential_db.upgrade(encrypted.path, **encrypted.options) == (version, HEAD)
    assert encrypted.stamps() == STAMPS
    assert encrypted.content() == content


def test_a_vault_that_a_newer_program_has_migrated_after_a_downgrade(plain_vault: Vault) -> None:
    plain_vault.create(content=keys(2))
    credential_db.upgrade(plain_vault.path)
    command.downgrade(config_of(plain_vault), "v1")
    assert plain_vault.stamps() == ("v1", 1)
    plain_vault.execute(
        "ALTER TABLE proxy_tokens RENAME COLUMN task TO subject", "PRAGMA user_version = 2"
    )
    assert credential_db.upgrade(plain_vault.path)[1] == HEAD
    assert plain_vault.stamps() == STAMPS


def test_a_vault_whose_number_an_older_program_has_written_back(plain_vault: Vault) -> None:
    plain_vault.create(content=keys(2))
    credential_db.upgrade(plain_vault.path)
    plain_vault.execute("PRAGMA user_version = 1")
    assert credential_db.upgrade(plain_vault.path) == (HEAD, HEAD)
    assert plain_vault.stamps() == STAMPS


def test_versions_that_differ_by_an_index_alone(tmp_path: Path) -> None:
    """The columns are the same: what an index is made for tells them apart."""
    project = Project(tmp_path / "project")
    data = '    Column("data", Text, nullable=False),\n'
    project.edit((data, f'{data}    Index("ix_credentials_data", "data"),\n'))
    project.bump()
    old = Vault(tmp_path / "old.db").create(LAST, content=keys(1))
    new = tmp_path / "new.db"
    shutil.copyfile(old.path, new)
    upgrade: Step = ("shell", {"arguments": ["-x", f"db={new}", "upgrade", "head"]})
    project.run(upgrade)
    stamped(old, "v2").execute("PRAGMA user_version = 3")  # without the index of version 3
    Vault(new).execute("PRAGMA user_version = 2")
    refused, decided = project.run(
        ("shell", {"arguments": ["-x", f"db={old.path}", "upgrade", "head"]}), upgrade
    )
    assert "are not just those of version 3" in refused
    assert "FAILED" not in decided
    assert Vault(new).stamps() == ("v3", 3)


# --- Beyond the head ---------------------------------------------------------------------------

AHEAD: dict[str, tuple[str | None, int, int]] = {  # stamp, number, what is found
    "both": (f"v{HEAD + 1}", HEAD + 1, HEAD + 1),
    "the stamp": (f"v{HEAD + 1}", HEAD, HEAD + 1),
    "the stamp, far": (f"v{HEAD + 40}", 0, HEAD + 40),
    "the number": (f"v{HEAD}", HEAD + 1, HEAD + 1),
    "the number alone": (None, HEAD + 7, HEAD + 7),
    "the number, and the stamp behind": ("v0", HEAD + 2, HEAD + 2),
    "the stamp, and a negative number": (f"v{HEAD + 1}", -1, HEAD + 1),
}


@pytest.fixture(params=AHEAD)
def ahead(request: pytest.FixtureRequest, plain_vault: Vault) -> tuple[Vault, int]:
    stamp, number, version = AHEAD[request.param]
    plain_vault.create(LAST, number=number, content=keys(1))
    if stamp:
        stamped(plain_vault, stamp)
    return plain_vault, version


def test_what_is_ahead_is_too_new_for_every_command(
    ahead: tuple[Vault, int], tmp_path: Path
) -> None:
    vault, version = ahead
    before = vault.files()
    calls: list[Any] = [
        lambda: credential_db.upgrade(vault.path),
        lambda: credential_db.upgrade(vault.path, dry_run=True),
        lambda: credential_db.upgrade(vault.path, repair=True),
        lambda: credential_db.upgrade(vault.path, backup=tmp_path / "backup.db"),
        lambda: command.current(config_of(vault)),
        lambda: command.check(config_of(vault)),
        lambda: command.downgrade(config_of(vault), "v0"),
        *(
            lambda to=to, purge=purge: command.stamp(config_of(vault), to, purge=purge)
            for to, purge in product(("head", "v0", "base"), (False, True))
        ),
    ]
    for call in calls:
        with pytest.raises(SchemaTooNew) as caught:
            call()
        assert caught.value.version == version, "what was found, not what the number says"
    found = credential_db.status(vault.path)
    assert found[:3] == ("ahead", version, HEAD)
    assert str(version) in found.detail
    assert vault.files() == before
    assert not (tmp_path / "backup.db").exists()


# --- stamp, and stamp --purge ------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "to"), list(product(VERSIONS, VERSIONS)))
@pytest.mark.parametrize("purge", [True, False], ids=["purge", "stamp"])
@pytest.mark.parametrize("start", ["legacy", "stamped"])
def test_no_stamp_is_written_that_the_tables_do_not_bear_out(
    plain_vault: Vault, shape: int, to: int, purge: bool, start: str
) -> None:
    plain_vault.create(shape, content=keys(1))
    if start == "stamped":
        stamped(plain_vault, f"v{shape}")
    before = plain_vault.files()
    # The shape may be ahead of the number, as old software leaves it; --purge goes by it alone.
    if to == shape or (to < shape and not purge):
        command.stamp(config_of(plain_vault), f"v{to}", purge=purge)
        assert plain_vault.stamps() == (f"v{to}", to)
        return
    with pytest.raises(CredentialDBError, match=rf"v{to}\b"):
        command.stamp(config_of(plain_vault), f"v{to}", purge=purge)
    assert plain_vault.files() == before


@pytest.mark.parametrize("shape", MIXED)
@pytest.mark.parametrize("to", VERSIONS)
def test_no_version_is_written_over_a_mixture(plain_vault: Vault, shape: str, to: int) -> None:
    created(plain_vault, MIXED[shape], 0, LAST)
    before = plain_vault.files()
    try:
        command.stamp(config_of(plain_vault), f"v{to}", purge=True)
    except CredentialDBError:
        assert plain_vault.files() == before
    else:
        # Then the rest of the way is there to be gone.
        assert plain_vault.stamps() == (f"v{to}", to)
        assert credential_db.upgrade(plain_vault.path) == (to, HEAD)


REVISIONS: dict[str, tuple[str, ...]] = {
    "no row": (),
    "two rows": ("v1", "v2"),
    "somebody else's": ("ae1027a6acf",),
    "nearly ours": ("v02",),
    "empty": ("",),
}


@pytest.mark.parametrize("name", REVISIONS)
def test_a_stamp_that_is_none_is_put_right_by_a_purge(plain_vault: Vault, name: str) -> None:
    stamped(plain_vault.create(1, content=keys(1)), *REVISIONS[name])
    before = plain_vault.files()
    with pytest.raises(credential_db.UnrecognizedSchema, match="stamp --purge"):
        credential_db.upgrade(plain_vault.path)
    assert credential_db.status(plain_vault.path).state == "unrecognized"
    assert plain_vault.files() == before
    command.stamp(config_of(plain_vault), "v1", purge=True)
    assert plain_vault.stamps() == ("v1", 1)
    assert credential_db.upgrade(plain_vault.path) == (1, HEAD)


@pytest.mark.parametrize("purge", [True, False])
def test_a_stamp_on_a_file_of_another_program_is_refused(plain_vault: Vault, purge: bool) -> None:
    with closing(sqlite3.connect(plain_vault.path)) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    before = plain_vault.files()
    with pytest.raises(CredentialDBError):
        command.stamp(config_of(plain_vault), "head", purge=purge)
    assert plain_vault.files() == before


# --- Every combination, held against the rule written once more ---------------------------------

STAMP_TABLES: dict[str, tuple[str, ...] | None] = {  # the rows of alembic_version
    "none": None,
    "no row": (),
    **{f"v{version}": (f"v{version}",) for version in VERSIONS},
    "newer": (f"v{HEAD + 1}",),
    "two rows": ("v1", "v2"),
    "somebody else's": ("ae1027a6acf",),
}
NUMBERS = (-1, *VERSIONS, HEAD + 1, 2**31 - 1)
# What each table may look like: the version that it is made by, and all those that it fits.
LOOKS: dict[str, dict[int, range]] = {
    "credentials": {0: range(3)},
    "ssh_keys": {0: range(1), 1: range(1, 3)},
    "ssh_key_assignments": {0: range(3)},
    "proxy_tokens": {0: range(2), 2: range(2, 3)},
}
EVERY_SHAPE = [
    {table: look for table, look in zip(LOOKS, looks, strict=True) if look is not None}
    for looks in product(*((None, *fits) for fits in LOOKS.values()))
]


def expected(
    revisions: tuple[str, ...] | None, number: int, shape: Mapping[str, int]
) -> tuple[str, int | None]:
    """State and version: the shape may be ahead of the number, never behind it."""
    fits = [LOOKS[table][look] for table, look in shape.items()]
    stamp = None
    if revisions is not None and len(revisions) == 1 and revisions[0][1:].isdigit():
        stamp = int(revisions[0][1:])
    newest = max(number, number if stamp is None else stamp)
    if newest > HEAD:
        return "ahead", newest
    if not shape and (revisions, number) == (None, 0):
        return "empty", None
    complete = len(fits) == len(LOOKS)
    if number < 0 or not shape or (revisions is not None and stamp is None):
        recognized = False
    elif stamp not in (None, number):
        recognized = complete and all(newest in versions for versions in fits)
    else:
        recognized = all(versions[-1] >= number for versions in fits)
    if not recognized:
        return "unrecognized", None
    if stamp is None:
        return "legacy", number
    return ("current" if stamp == number == HEAD and complete else "behind"), newest


def outcome_of(connection: sqlite3.Connection) -> object:
    try:
        return credential_db.upgrade(connection)
    except SchemaTooNew:
        return "ahead"
    except credential_db.UnrecognizedSchema:
        return "unrecognized"


@pytest.mark.parametrize("stamp", STAMP_TABLES)
@pytest.mark.parametrize("number", NUMBERS)
def test_every_combination_of_stamp_number_and_tables(stamp: str, number: int) -> None:
    revisions = STAMP_TABLES[stamp]
    for shape in EVERY_SHAPE:
        state, version = expected(revisions, number, shape)
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
            for table, look in shape.items():
                connection.execute(ddl(look)[table])
            if revisions is not None:
                connection.execute("CREATE TABLE alembic_version (version_num TEXT PRIMARY KEY)")
                connection.executemany(
                    "INSERT INTO alembic_version VALUES (?)", [(row,) for row in revisions]
                )
            connection.execute(f"PRAGMA user_version = {number}")
            before = list(connection.iterdump())
            found = credential_db.status(connection)
            assert found[:2] == (state, version), (stamp, number, shape, found.detail)
            if state in ("ahead", "unrecognized"):
                assert outcome_of(connection) == state, (stamp, number, shape)
                assert list(connection.iterdump()) == before, "a refusal changes nothing"
                assert connection.execute("PRAGMA user_version").fetchone() == (number,)
            elif len(shape) == len(LOOKS):
                assert outcome_of(connection) == (version, HEAD), (stamp, number, shape)
                assert credential_db.status(connection)[:2] == ("current", HEAD)
