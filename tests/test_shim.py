"""The shim: legacy files of every kind upgrade; what cannot be recognised is refused unchanged.

Files whose versions differ only in rows are tested in test_snapshots.py and
test_changing_the_schema.py, in copies of the project that have such a version.
"""

import logging
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from sqlcipher3 import dbapi2 as sqlcipher

import credential_db
from conftest import PASSPHRASE
from credential_db import CredentialDBError, SchemaTooNew, UnrecognizedSchema, api
from vaults import (
    HEAD,
    STAMPS,
    TABLES,
    Vault,
    at_head,
    ddl,
    ed25519_key,
    keys,
    upgrade_to_2,
    upgraded,
)

LAST = 2  # the last version of software that knows no stamps: it makes no other tables
VERSIONS = tuple(range(LAST + 1))
V0, V1, V2 = (dict.fromkeys(TABLES, version) for version in VERSIONS)
OLDEST = {"credentials": 0, "proxy_tokens": 0}


def stamped(vault: Vault, *revisions: str) -> Vault:
    vault.execute(
        "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)",
        *(("INSERT INTO alembic_version VALUES (?)", (revision,)) for revision in revisions),
    )
    return vault


def without(table: str, tables: Mapping[str, int]) -> dict[str, int]:
    return {name: version for name, version in tables.items() if name != table}


# --- Legacy files of every kind -----------------------------------------------------------------

# The version of each table's definition, and what PRAGMA user_version says next to it.
FILES: dict[str, tuple[Mapping[str, int], int]] = {
    "v0": (V0, 0),
    "v1": (V1, 1),
    "v2": (V2, 2),
    "v2 whose creator died before it set the number": (V2, 0),
    "v1 whose creator died before it set the number": (V1, 0),
    "v2 tables at number 1": (V2, 1),
    "oldest": (OLDEST, 0),
    "oldest, opened by v1 software": ({**V1, **OLDEST}, 0),
    "oldest, opened by v2 software": ({**V2, **OLDEST}, 0),
    "v0 with a token table of v2 software": ({**V0, "proxy_tokens": 2}, 0),
    "v1 with a token table of v2 software": ({**V1, "proxy_tokens": 2}, 1),
    "v1 without assignments": (without("ssh_key_assignments", V1), 1),
    "v2 without tokens": (without("proxy_tokens", V2), 2),
    "v0 with nothing but keys": ({"ssh_keys": 0}, 0),
}
INSERT = (
    "INSERT INTO ssh_keys (key_type, private_der, public_blob, fingerprint) VALUES (?, ?, ?, ?)"
)


@pytest.mark.parametrize(("passphrase", "mode"), [(None, "delete"), (PASSPHRASE, "wal")])
@pytest.mark.parametrize("name", FILES)
def test_a_legacy_file_upgrades_and_works(
    tmp_path: Path, name: str, passphrase: str | None, mode: str
) -> None:
    tables, number = FILES[name]
    vault = Vault(tmp_path / "credentials.db", passphrase)
    vault.create(tables=tables, number=number, content=keys(3), journal_mode=mode)
    expected = upgraded(vault.content(), tables.get("ssh_keys", 2))
    assert credential_db.status(vault.path, **vault.options)[:2] == ("legacy", number)

    assert upgrade_to_2(vault.path, **vault.options) == (number, 2)

    assert vault.content() == expected
    assert vault.stamps() == ("v2", 2)
    vault.check_integrity()
    before = vault.files()
    assert upgrade_to_2(vault.path, **vault.options) == (2, 2)
    assert vault.files() == before
    with closing(vault.connect()) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == (mode,)
        connection.execute("PRAGMA foreign_keys = ON")
        key = ed25519_key(99)
        row = (key.der, key.public_blob, key.fingerprint(2))
        connection.execute(INSERT, (key.key_type, *row))
        id_of_it = "SELECT id FROM ssh_keys WHERE created_at LIKE '20%' AND comment = '' LIMIT 1"
        connection.execute(
            f"INSERT INTO ssh_key_assignments (scope, key_id) VALUES ('new', ({id_of_it}))"
        )
        connection.execute(f"DELETE FROM ssh_keys WHERE id = ({id_of_it})")
        cascaded = "SELECT count(*) FROM ssh_key_assignments WHERE scope = 'new'"
        assert connection.execute(cascaded).fetchone() == (0,), "ON DELETE CASCADE is lost"
        for broken in (("dsa", *row), ("rsa", None, None, "unused")):
            with pytest.raises(Exception, match="constraint failed"):
                connection.execute(INSERT, broken)


def test_a_table_that_goes_missing_later_is_created(plain_vault: Vault) -> None:
    credential_db.upgrade(plain_vault.path)
    plain_vault.execute(at_head("DROP TABLE {proxy_tokens}"))
    assert credential_db.status(plain_vault.path).state == "behind"
    assert credential_db.upgrade(plain_vault.path) == (HEAD, HEAD)
    assert plain_vault.value(at_head("SELECT count(*) FROM {proxy_tokens}")) == 0


# --- Every combination of stamps, number and tables, compared with the rule written once more ----

STAMP_TABLES: dict[str, tuple[str, ...] | None] = {  # the rows of alembic_version
    "none": None,
    "no row": (),
    **{f"v{version}": (f"v{version}",) for version in VERSIONS},
    "newer": (f"v{HEAD + 1}",),
    "two rows": ("v1", "v2"),
    "somebody else's": ("ae1027a6acf",),
}
NUMBERS = (-1, *VERSIONS, HEAD + 1)
# The version that a table is made by, and all versions that it fits.
FITS: dict[str, dict[int, range]] = {
    "credentials": {0: range(3)},
    "ssh_keys": {0: range(1), 1: range(1, 3)},
    "ssh_key_assignments": {0: range(3)},
    "proxy_tokens": {0: range(2), 2: range(2, 3)},
}
COMBINATIONS = [
    {table: version for table, version in zip(FITS, chosen, strict=True) if version is not None}
    for chosen in product(*((None, *versions) for versions in FITS.values()))
]


def expected_status(  # noqa: PLR0911
    revisions: Sequence[str] | None, number: int, tables: Mapping[str, int]
) -> tuple[str, int | None]:
    """The tables may be ahead of the number, never behind it."""
    fits = [FITS[table][version] for table, version in tables.items()]
    complete = len(fits) == len(FITS)
    known = [f"v{version}" for version in range(HEAD + 2)]
    one = revisions is not None and len(revisions) == 1 and revisions[0] in known
    stamp = known.index(revisions[0]) if revisions and one else None
    newest = max(number, number if stamp is None else stamp)
    if newest > HEAD:
        return "ahead", newest
    if not tables and revisions is None and number == 0:
        return "empty", None
    if number < 0 or not tables or (revisions is not None and stamp is None):
        return "unrecognized", None
    if stamp not in (None, number):
        candidates = [v for v in VERSIONS if complete and all(v in versions for versions in fits)]
        decided = [v for v in candidates if v >= newest]
        return ("behind", decided[0]) if decided else ("unrecognized", None)
    if any(versions[-1] < number for versions in fits):
        return "unrecognized", None
    if stamp is None:
        return "legacy", number
    return ("current" if number == HEAD and complete else "behind"), number


def outcome_of(connection: sqlite3.Connection) -> object:
    try:
        return credential_db.upgrade(connection)
    except SchemaTooNew:
        return "ahead"
    except UnrecognizedSchema:
        return "unrecognized"


@pytest.mark.parametrize("stamp", STAMP_TABLES)
def test_every_combination_of_stamp_number_and_tables(stamp: str) -> None:
    revisions = STAMP_TABLES[stamp]
    for number, (position, tables) in product(NUMBERS, enumerate(COMBINATIONS)):
        state, version = expected_status(revisions, number, tables)
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
            for table, of_table in tables.items():
                connection.execute(ddl(of_table)[table])
            if revisions is not None:
                connection.execute("CREATE TABLE alembic_version (version_num TEXT PRIMARY KEY)")
                rows = [(row,) for row in revisions]
                connection.executemany("INSERT INTO alembic_version VALUES (?)", rows)
            connection.execute(f"PRAGMA user_version = {number}")
            before = list(connection.iterdump())
            found = credential_db.status(connection)
            assert found[:3] == (state, version, HEAD), (stamp, number, tables, found.detail)
            if position % 5 and len(tables) < len(FITS):
                continue  # a sample of these will do, and takes a fifth of the time
            if state in ("ahead", "unrecognized"):
                assert outcome_of(connection) == state, (stamp, number, tables)
                assert list(connection.iterdump()) == before, "a refusal changes nothing"
                assert connection.execute("PRAGMA user_version").fetchone() == (number,)
            else:
                assert outcome_of(connection) == (version, HEAD), (stamp, number, tables)
                assert credential_db.status(connection)[:2] == ("current", HEAD)


# --- What is refused ----------------------------------------------------------------------------

STAMP = "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"
VIEW = "CREATE VIEW {} AS SELECT 'v1' AS version_num, '' AS token"
# Tables, number, what else is done; the version that the error names, and names in its message.
REFUSED: dict[str, tuple[Mapping[str, int], int, Sequence[str], int | None, Sequence[str]]] = {
    "v0 tables at number 2": (V0, 2, (), 0, ("2", "private_pem", "private_der")),
    "v1 tables at number 2": (V1, 2, (), 1, ("2", "task", "subject")),
    "v1 tokens next to v2 keys": ({**V2, "proxy_tokens": 1}, 2, (), 1, ("task", "subject")),
    "no table at all": ({}, 1, (), 1, ("credentials", "ssh_keys")),
    "another program's table": ({}, 2, ("CREATE TABLE theirs (a)",), 2, ("ssh_keys",)),
    "a negative number": (V0, -1, (), -1, ("-1",)),
    "a column that no version had": (
        *(V0, 0, ("ALTER TABLE credentials ADD COLUMN extra TEXT",), None),
        ("credentials", "extra"),
    ),
    "a computed column that no version had": (
        *(V2, 2, ("ALTER TABLE proxy_tokens ADD COLUMN extra AS (scope || 'x')",), None),
        ("proxy_tokens", "extra"),
    ),
    "a column that is gone": (
        *(V1, 1, ("ALTER TABLE proxy_tokens DROP COLUMN scope",), None),
        ("proxy_tokens", "scope"),
    ),
    "both key columns": (
        *(V0, 0, ("ALTER TABLE ssh_keys ADD COLUMN private_der BLOB",), None),
        ("ssh_keys", "private_der", "private_pem"),
    ),
    "a column that only Unicode takes for ours": (
        *(V1, 1, ("ALTER TABLE proxy_tokens RENAME COLUMN task TO tas\u212a",), None),
        ("proxy_tokens", "tas\u212a", "task"),
    ),
    "a stamp that is no text": (
        *(V1, 1, (STAMP, "INSERT INTO alembic_version VALUES (CAST('v1' AS BLOB))"), 1),
        ("alembic_version",),
    ),
    "a stamp with more digits than Python reads": (
        *(V1, 1, (STAMP, f"INSERT INTO alembic_version VALUES ('v{'9' * 5000}')"), 1),
        ("alembic_version", "v99999"),
    ),
    "a stamp table that is not Alembic's": (
        *(V1, 1, ("CREATE TABLE alembic_version (name)",), None),
        ("alembic_version", "version_num"),
    ),
    "a view as the stamp table": (V1, 1, (VIEW.format("alembic_version"),), None, ("view",)),
    "a view as a table": (
        *(without("proxy_tokens", V2), 2, (VIEW.format("Proxy_Tokens"),), None),
        ("Proxy_Tokens", "view"),
    ),
    "a virtual table as a table": (
        *({}, 0, ("CREATE VIRTUAL TABLE credentials USING fts5 (body)",), None),
        ("credentials", "body"),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_unrecognised_file_is_refused_by_name(plain_vault: Vault, name: str) -> None:
    tables, number, statements, version, names = REFUSED[name]
    plain_vault.create(tables=tables, number=number).execute(*statements)
    before = plain_vault.files()
    with pytest.raises(UnrecognizedSchema) as caught:
        credential_db.upgrade(plain_vault.path)
    assert caught.value.version == version
    status, blockers = api.look(plain_vault.path)
    assert (status.state, status.version, blockers) == ("unrecognized", None, ())
    for each in names:
        assert each in str(caught.value)
        assert each in status.detail
    assert plain_vault.files() == before


AHEAD: dict[str, tuple[str | None, int, int]] = {  # stamp, number, what is found
    "both": (f"v{HEAD + 1}", HEAD + 1, HEAD + 1),
    "the stamp, far": (f"v{HEAD + 40}", 0, HEAD + 40),
    "the number": (f"v{HEAD}", HEAD + 1, HEAD + 1),
    "the number alone": (None, HEAD + 7, HEAD + 7),
    "the stamp, and a negative number": (f"v{HEAD + 1}", -1, HEAD + 1),
}


@pytest.mark.parametrize("name", AHEAD)
def test_what_is_ahead_is_too_new_for_every_command(plain_vault: Vault, name: str) -> None:
    stamp, number, version = AHEAD[name]
    plain_vault.create(LAST, number=number, content=keys(1))
    if stamp:
        stamped(plain_vault, stamp)
    before = plain_vault.files()
    cases: list[dict[str, Any]] = [
        {},
        {"dry_run": True},
        {"repair": True},
        {"backup": True},
        {"to": "1"},
        {"command": "downgrade", "to": "v0"},
        *(
            {"command": "stamp", "to": to, "purge": purge}
            for to, purge in product(("head", "v0", "base"), (False, True))
        ),
    ]
    for options in cases:
        with pytest.raises(SchemaTooNew) as caught:
            api.change(plain_vault.path, **options)
        assert caught.value.version == version, "what was found, not what the number says"
    found = credential_db.status(plain_vault.path)
    assert found[:3] == ("ahead", version, HEAD)
    assert str(version) in found.detail
    assert plain_vault.files() == before


# --- Stamps that disagree, as old software leaves them ------------------------------------------

DECIDED = [
    (stamp, number, version)
    for stamp, number, version in product(VERSIONS, VERSIONS, VERSIONS)
    if stamp != number and version >= max(stamp, number)
]


@pytest.mark.parametrize(("stamp", "number", "version"), DECIDED)
def test_the_tables_decide(
    plain_vault: Vault, stamp: int, number: int, version: int, caplog: pytest.LogCaptureFixture
) -> None:
    stamped(plain_vault.create(version, number=number, content=keys(2)), f"v{stamp}")
    before, expected = plain_vault.content(), upgraded(plain_vault.content(), version)
    assert credential_db.status(plain_vault.path)[:2] == ("behind", version)
    backup = Vault(plain_vault.path.with_suffix(".backup"))
    with caplog.at_level(logging.WARNING, "credential_db"):
        assert credential_db.upgrade(plain_vault.path, backup=backup.path) == (version, HEAD)
    assert any(str(plain_vault.path) in message for message in caplog.messages)
    assert (backup.content(), backup.stamps()) == (before, (f"v{stamp}", number))
    assert (plain_vault.content(), plain_vault.stamps()) == (expected, STAMPS)


def test_a_definition_is_lost_as_well(plain_vault: Vault) -> None:
    stamped(plain_vault.create(LAST, number=0, check=False, content=keys(2)), f"v{LAST}")
    assert credential_db.upgrade(plain_vault.path) == (LAST, HEAD)
    assert plain_vault.stamps() == STAMPS
    assert api.look(plain_vault.path)[0].detail.count("lacks") == 0


@pytest.mark.parametrize("version", VERSIONS)
def test_a_vault_that_old_software_has_encrypted(tmp_path: Path, version: int) -> None:
    """https://www.zetetic.net/sqlcipher/sqlcipher-api/#sqlcipher_export copies no user_version."""
    plain = Vault(tmp_path / "plain.db").create(version, content=keys(2))
    api.change(plain.path, command="stamp", to=str(version))
    expected = upgraded(plain.content(), version)
    vault = Vault(tmp_path / "encrypted.db", PASSPHRASE)
    with closing(sqlcipher.connect(str(plain.path))) as connection:
        connection.execute(f"ATTACH '{vault.path}' AS e KEY \"{PASSPHRASE}\"")
        connection.execute("SELECT sqlcipher_export('e')")
    assert vault.stamps() == (f"v{version}", 0)
    assert credential_db.status(vault.path, **vault.options).version == version
    assert credential_db.upgrade(vault.path, **vault.options) == (version, HEAD)
    assert (vault.content(), vault.stamps()) == (expected, STAMPS)


USED = {
    "migrated after a downgrade": "UPDATE alembic_version SET version_num = 'v1'",
    "overwritten by v1 software": "PRAGMA user_version = 1",
}


@pytest.mark.parametrize("how", USED)
def test_a_vault_that_old_software_has_used(plain_vault: Vault, how: str) -> None:
    credential_db.upgrade(plain_vault.create(content=keys(2)).path)
    plain_vault.execute(USED[how])
    before = plain_vault.content()
    with closing(plain_vault.connect()) as connection:
        credential_db.ensure_credentials_schema(connection)
        credential_db.migrate_credential_db_schema(connection)
    assert (plain_vault.content(), plain_vault.stamps()) == (before, STAMPS)


# --- stamp, and stamp --purge -------------------------------------------------------------------

STARTS = {"legacy": None, "stamped": "v{}", "disagreeing": "v0", "odd": "v02", "two": "v1 v2"}


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("purge", [True, False], ids=["purge", ""])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_stamp_is_written_only_if_it_names_the_tables(
    plain_vault: Vault, version: int, purge: bool, start: str
) -> None:
    stamp = STARTS[start]
    plain_vault.create(version, content=keys(1))
    if stamp:
        stamped(plain_vault, *stamp.format(version).split())
    readable = start in ("legacy", "stamped", "disagreeing")
    for to in (*(other for other in VERSIONS if other != version), version, None):
        before = plain_vault.files()
        change: dict[str, Any] = {"command": "stamp", "to": "base" if to is None else f"v{to}"}
        if to in (version, None) and (readable or purge):  # base: the file gets no stamp
            outcome = api.change(plain_vault.path, purge=purge, **change)
            assert outcome.after == to
            assert plain_vault.stamps() == ((None, 0) if to is None else (f"v{to}", to))
            continue
        with pytest.raises(CredentialDBError):
            api.change(plain_vault.path, purge=purge, **change)
        assert plain_vault.files() == before


@pytest.mark.parametrize("purge", [True, False], ids=["purge", ""])
@pytest.mark.parametrize("tables", [OLDEST, {**V0, "proxy_tokens": 2}, {}], ids=len)
def test_no_stamp_is_written_over_a_mixture(
    plain_vault: Vault, tables: Mapping[str, int], purge: bool
) -> None:
    plain_vault.create(tables=tables, number=0).execute("CREATE TABLE theirs (a)")
    before = plain_vault.files()
    for to in (*(f"v{version}" for version in VERSIONS), "head"):
        with pytest.raises(CredentialDBError):
            api.change(plain_vault.path, command="stamp", to=to, purge=purge)
        assert plain_vault.files() == before
