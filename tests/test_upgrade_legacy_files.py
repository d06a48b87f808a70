"""Every file that the historical software left behind upgrades to the current version."""

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import pytest

import credential_db
from conftest import PASSPHRASE
from vaults import (
    HEAD,
    STAMPS,
    TABLES,
    Vault,
    at_head,
    ed25519_key,
    keys,
    loads,
    rsa_key,
    upgrade_to_2,
    upgraded,
)

V0, V1, V2 = (dict.fromkeys(TABLES, version) for version in range(3))
OLDEST = {"credentials": 0, "proxy_tokens": 0}

# The shape of each table, and what PRAGMA user_version may say beside it.
FILES: dict[str, tuple[Mapping[str, int], int]] = {
    "v0": (V0, 0),
    "v1": (V1, 1),
    "v2": (V2, 2),
    "v2 whose creator died before the number": (V2, 0),
    "v1 whose creator died before the number": (V1, 0),
    "v2 tables at number 1": (V2, 1),
    "oldest": (OLDEST, 0),
    "oldest, opened by v1 software": ({**V1, **OLDEST}, 0),
    "oldest, opened by v2 software": ({**V2, **OLDEST}, 0),
    "v0 with a token table by v2 software": ({**V0, "proxy_tokens": 2}, 0),
    "v1 with a token table by v2 software": ({**V1, "proxy_tokens": 2}, 1),
    "v1 without assignments": ({k: v for k, v in V1.items() if k != "ssh_key_assignments"}, 1),
    "v2 without tokens": ({k: v for k, v in V2.items() if k != "proxy_tokens"}, 2),
    "v0 with keys alone": ({"ssh_keys": 0}, 0),
}


# What a file is kept in does not decide what becomes of its tables: two extremes stand for all.
KEPT = {"plain, delete": (None, "delete"), "encrypted, wal": (PASSPHRASE, "wal")}


@pytest.fixture(params=KEPT)
def kept(request: pytest.FixtureRequest) -> tuple[str | None, str]:
    return KEPT[request.param]


@pytest.fixture(params=FILES)
def legacy(request: pytest.FixtureRequest, tmp_path: Path, kept: tuple[str | None, str]) -> Vault:
    shapes, number = FILES[request.param]
    passphrase, journal_mode = kept
    vault = Vault(tmp_path / "credentials.db", passphrase)
    return vault.create(tables=shapes, number=number, content=keys(4), journal_mode=journal_mode)


INSERT_KEY = (
    "INSERT INTO ssh_keys (key_type, private_der, public_blob, fingerprint)"
    " VALUES ('ed25519', ?, ?, ?)"
)


@pytest.fixture
def file_name(request: pytest.FixtureRequest) -> str:
    return str(request.node.callspec.params["legacy"])


def test_every_cell_is_what_it_must_be(legacy: Vault, file_name: str) -> None:
    shapes, number = FILES[file_name]
    expected = upgraded(legacy.content(), shapes.get("ssh_keys", 2))

    result = credential_db.upgrade(legacy.path, **legacy.options)

    assert result == (number, HEAD)
    assert legacy.content() == expected
    assert legacy.stamps() == STAMPS
    legacy.check_integrity()


def test_it_stays_readable_and_writable(legacy: Vault, kept: tuple[str | None, str]) -> None:
    upgrade_to_2(legacy.path, **legacy.options)

    key = ed25519_key(99)
    with closing(legacy.connect()) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == (kept[1],)
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(INSERT_KEY, (key.der, key.public_blob, key.fingerprint(2)))
        (row_id, comment, created_at) = connection.execute(
            "SELECT id, comment, created_at FROM ssh_keys WHERE fingerprint = ?",
            (key.fingerprint(2),),
        ).fetchone()
        assert comment == ""
        assert created_at.startswith("20")
        connection.execute(
            "INSERT INTO ssh_key_assignments (scope, key_id) VALUES ('new', ?)", (row_id,)
        )
        connection.execute("DELETE FROM ssh_keys WHERE id = ?", (row_id,))
        assert connection.execute(
            "SELECT count(*) FROM ssh_key_assignments WHERE scope = 'new'"
        ).fetchone() == (0,), "ON DELETE CASCADE is lost"
        for broken in (
            "INSERT INTO ssh_keys (key_type, private_der, public_blob, fingerprint)"
            " VALUES ('dsa', x'00', x'00', 'unused')",
            "INSERT INTO ssh_key_assignments (scope, key_id) VALUES ('nowhere', 123456)",
        ):
            with pytest.raises(Exception, match="constraint failed"):
                connection.execute(broken)


def test_ids_go_on_where_they_were(vault: Vault) -> None:
    vault.create(content=keys(2))
    upgrade_to_2(vault.path, **vault.options)
    key = ed25519_key(98)
    vault.execute((INSERT_KEY, (key.der, key.public_blob, key.fingerprint(2))))
    assert vault.value("SELECT max(id) FROM ssh_keys") == 1001


def test_converted_keys_sign_what_their_public_half_verifies(vault: Vault) -> None:
    content = [rsa_key(0), rsa_key(1), ed25519_key(1), ed25519_key(2)]
    vault.create(content=content)
    credential_db.upgrade(vault.path, **vault.options)
    stored = vault.query(at_head("SELECT {ssh_keys.private_der} FROM {ssh_keys} ORDER BY rowid"))
    assert all(loads(der, key) for (der,), key in zip(stored, content, strict=True))


def test_a_v0_file_without_the_check_gets_it(vault: Vault) -> None:
    vault.create(check=False, content=keys(3))
    expected = upgraded(vault.content(), 0)
    upgrade_to_2(vault.path, **vault.options)
    assert vault.content() == expected
    assert vault.value("SELECT seq FROM sqlite_sequence WHERE name = 'ssh_keys'") == 1000
    with pytest.raises(Exception, match="CHECK constraint failed"):
        vault.execute("UPDATE ssh_keys SET key_type = 'dsa'")


def test_an_upgrade_to_an_upgraded_file_does_nothing(vault: Vault) -> None:
    vault.create(content=keys(2))
    credential_db.upgrade(vault.path, **vault.options)
    before = vault.files()
    assert credential_db.upgrade(vault.path, **vault.options) == (HEAD, HEAD)
    assert vault.files() == before


def test_a_table_that_goes_missing_later_is_created(vault: Vault) -> None:
    credential_db.upgrade(vault.path, **vault.options)
    vault.execute(at_head("DROP TABLE {proxy_tokens}"))
    assert credential_db.status(vault.path, **vault.options).state == "behind"
    assert credential_db.upgrade(vault.path, **vault.options) == (HEAD, HEAD)
    assert vault.value(at_head("SELECT count(*) FROM {proxy_tokens}")) == 0
