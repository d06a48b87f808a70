"""Promise 6: after the upgrade of a v0 file no byte of PEM is left in it or beside it."""

import logging
from collections.abc import Callable
from contextlib import closing
from functools import cache
from typing import Any

import pytest
from sqlcipher3 import dbapi2 as sqlcipher

import credential_db
from vaults import HEAD, Key, Vault, ed25519_key, rsa_key, upgrade_to_2

WINDOW = 20
KEPT = [rsa_key(0), ed25519_key(1), ed25519_key(2)]
DELETED = [rsa_key(1), *(ed25519_key(number) for number in range(50, 70))]

Connect = Callable[[Vault], Any]


def with_sqlcipher(vault: Vault) -> Any:
    """Without a key it reads plain files. Its own SQLite does not overwrite what is deleted."""
    connection = sqlcipher.connect(str(vault.path))
    assert connection.execute("PRAGMA secure_delete").fetchone() == (0,)
    return connection


MODULES: dict[str, Connect] = {"sqlite3": Vault.connect, "sqlcipher3": with_sqlcipher}


@pytest.fixture(params=MODULES)
def connect(request: pytest.FixtureRequest) -> Connect:
    return MODULES[request.param]


@pytest.fixture(params=["delete", "wal", "truncate", "persist"])
def journal_mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def written_carelessly(vault: Vault, connect: Connect, journal_mode: str) -> Vault:
    """Keys came, changed and went, and nothing was ever overwritten."""
    vault.create(journal_mode=journal_mode)
    insert = (
        "INSERT INTO ssh_keys (key_type, private_pem, public_blob, fingerprint) VALUES (?, ?, ?, ?)"
    )
    with closing(connect(vault)) as connection:
        connection.execute(f"PRAGMA journal_mode = {journal_mode}").fetchall()
        connection.execute("PRAGMA secure_delete = OFF").fetchall()
        for key in (*DELETED, *KEPT):
            row = (key.key_type, key.pem, key.public_blob, key.fingerprint(0))
            connection.execute(insert, row)
        connection.commit()
        for key in DELETED:
            connection.execute("DELETE FROM ssh_keys WHERE public_blob = ?", (key.public_blob,))
        # Rows that move leave copies between the rows of a page.
        connection.execute("UPDATE ssh_keys SET comment = hex(zeroblob(800))")
        connection.execute("UPDATE ssh_keys SET comment = ''")
        connection.commit()
    assert left_behind(vault, DELETED), "the test has to leave something to find"
    return vault


@cache
def windows_of(key: Key) -> frozenset[bytes]:
    pem = key.pem
    return frozenset(pem[start : start + WINDOW] for start in range(len(pem) - WINDOW))


def left_behind(vault: Vault, content: list[Key]) -> dict[str, int]:
    """How many windows of the PEM of these keys stand in each file beside the database."""
    windows = frozenset[bytes]().union(*map(windows_of, content))
    found = {}
    for name, stored in vault.files().items():
        present = {stored[start : start + WINDOW] for start in range(len(stored) - WINDOW + 1)}
        if hits := present & windows:
            found[name] = len(hits)
    return found


def test_no_pem_is_left_after_an_upgrade_by_path(plain_vault: Vault, journal_mode: str) -> None:
    written_carelessly(plain_vault, MODULES["sqlite3"], journal_mode)
    assert credential_db.upgrade(plain_vault.path) == (0, HEAD)
    assert left_behind(plain_vault, KEPT + DELETED) == {}, "scrub what the upgrade replaced"
    assert plain_vault.value("PRAGMA freelist_count") == 0


def test_no_pem_is_left_after_an_upgrade_by_connection(
    plain_vault: Vault, connect: Connect, journal_mode: str
) -> None:
    written_carelessly(plain_vault, connect, journal_mode)
    with closing(connect(plain_vault)) as connection:
        connection.execute(f"PRAGMA journal_mode = {journal_mode}").fetchall()
        connection.execute("PRAGMA secure_delete = OFF").fetchall()
        assert credential_db.upgrade(connection) == (0, HEAD)
        assert left_behind(plain_vault, KEPT + DELETED) == {}, "nor while it is still open"
        assert connection.execute("PRAGMA secure_delete").fetchone() == (0,), "it is theirs to set"
        assert connection.execute("PRAGMA journal_mode").fetchone() == (journal_mode,)
    assert left_behind(plain_vault, KEPT + DELETED) == {}


@pytest.mark.parametrize("check", [True, False], ids=["in place", "by a table copy"])
def test_no_pem_is_left_in_a_large_file(plain_vault: Vault, check: bool) -> None:
    """More than SQLite's cache holds, so that pages are on their way to the disk early."""
    content = [ed25519_key(2000 + number) for number in range(600)]
    plain_vault.create(check=check, content=content, secure_delete=False)
    plain_vault.execute("UPDATE ssh_keys SET comment = hex(zeroblob(2000))")
    with closing(with_sqlcipher(plain_vault)) as connection:
        credential_db.upgrade(connection)
    assert left_behind(plain_vault, content[::50]) == {}


def test_no_pem_is_left_of_a_file_that_died_before_its_number(plain_vault: Vault) -> None:
    """The tables are new, but what was deleted before is not."""
    written_carelessly(plain_vault, MODULES["sqlcipher3"], "delete")
    plain_vault.execute("DELETE FROM ssh_keys")
    credential_db.upgrade(plain_vault.path)
    assert left_behind(plain_vault, KEPT + DELETED) == {}


def test_a_dry_run_leaves_no_pem_beside_the_file(plain_vault: Vault, journal_mode: str) -> None:
    written_carelessly(plain_vault, MODULES["sqlite3"], journal_mode)
    credential_db.upgrade(plain_vault.path, dry_run=True)
    assert set(left_behind(plain_vault, KEPT + DELETED)) == {"credentials.db"}


def test_a_reader_in_the_way_of_the_scrub_is_a_warning_and_the_rest_goes_with_it(
    plain_vault: Vault, caplog: pytest.LogCaptureFixture
) -> None:
    written_carelessly(plain_vault, MODULES["sqlite3"], "wal")
    with closing(plain_vault.connect()) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM ssh_keys").fetchall()
        with caplog.at_level(logging.WARNING, "credential_db"):
            assert credential_db.upgrade(plain_vault.path) == (0, HEAD)
        assert left_behind(plain_vault, KEPT), "the reader still sees the old version"
        assert len(reader.execute("SELECT private_pem FROM ssh_keys").fetchall()) == len(KEPT)
        assert "old secrets remain" in caplog.text, "say so where the scrub is prevented"
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        reader.execute("COMMIT")
    plain_vault.query("SELECT count(*) FROM sqlite_master")
    assert left_behind(plain_vault, KEPT + DELETED) == {}, "the last one to close completes it"


def test_an_object_of_theirs_in_the_way_of_the_scrub_is_a_warning(
    plain_vault: Vault, caplog: pytest.LogCaptureFixture
) -> None:
    """VACUUM builds every index anew, and only its owner knows how to sort this one."""

    def backwards(one: str, other: str) -> int:
        return (one < other) - (one > other)

    written_carelessly(plain_vault, MODULES["sqlite3"], "delete")
    with closing(plain_vault.connect()) as connection:
        connection.create_collation("backwards", backwards)
        connection.execute("CREATE TABLE theirs (name TEXT COLLATE backwards PRIMARY KEY)")
        connection.execute("INSERT INTO theirs VALUES ('a'), ('b')")
        connection.commit()
        with caplog.at_level(logging.WARNING, "credential_db"):
            assert credential_db.upgrade(plain_vault.path) == (0, HEAD)
        assert "may remain in free pages" in caplog.text
        assert "backwards" in caplog.text, "say what prevents it"
        connection.execute("VACUUM")
    assert left_behind(plain_vault, KEPT + DELETED) == {}, "VACUUM completes it, as was said"


@pytest.mark.parametrize("journal_mode", ["delete", "wal"])
def test_an_unfinished_query_in_the_way_of_the_scrub_is_a_warning(
    plain_vault: Vault, journal_mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The upgrade is committed by then, so an error would say that it is not."""
    written_carelessly(plain_vault, MODULES["sqlite3"], journal_mode)
    with closing(plain_vault.connect()) as connection:
        connection.execute("CREATE TABLE theirs (id INTEGER PRIMARY KEY)")
        connection.execute("INSERT INTO theirs VALUES (1), (2), (3)")
        connection.commit()
        cursor = connection.execute("SELECT id FROM theirs")
        assert cursor.fetchone() == (1,)
        # A later step may have to copy a table, and says that the query is in its way.
        with caplog.at_level(logging.WARNING, "credential_db"):
            assert upgrade_to_2(connection) == (0, 2)
        assert cursor.fetchall() == [(2,), (3,)]
    assert "remain" in caplog.text
    plain_vault.execute("VACUUM")
    assert left_behind(plain_vault, KEPT + DELETED) == {}, "VACUUM completes it, as was said"


def test_where_nothing_prevents_the_scrub_there_is_no_warning(
    plain_vault: Vault, journal_mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    written_carelessly(plain_vault, MODULES["sqlite3"], journal_mode)
    with caplog.at_level(logging.WARNING):
        credential_db.upgrade(plain_vault.path)
    assert caplog.records == []


def test_an_encrypted_file_has_no_free_pages_left_either(vault: Vault) -> None:
    vault.create(content=KEPT, secure_delete=False)
    vault.execute("DELETE FROM ssh_keys WHERE key_type = 'rsa'")
    credential_db.upgrade(vault.path, **vault.options)
    assert vault.value("PRAGMA freelist_count") == 0
    assert left_behind(vault, KEPT) == {}
