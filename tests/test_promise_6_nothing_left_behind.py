"""Promise 6: after the upgrade of a v0 file no byte of PEM is left in it or next to it.

Keys of before the upgrade stand in free space until the file is scrubbed. Whatever prevents that is
a warning with the actual cause; the next start that can complete it does so, and until then every
start costs the same.
"""

import logging
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from functools import cache
from typing import Any

import pytest
from sqlcipher3 import dbapi2 as sqlcipher

import credential_db
from credential_db import api
from faults import KINDS, SCRUB, Attack, another_process, warm
from vaults import HEAD, STAMPS, Key, Vault, ed25519_key, rsa_key, upgraded

PIECE = 12
KEPT = [rsa_key(0), ed25519_key(1), ed25519_key(2)]
DELETED = [rsa_key(1), *(ed25519_key(number) for number in range(50, 60))]

Connect = Callable[[Vault], Any]


def with_sqlcipher(vault: Vault) -> Any:
    """Without a key it reads plain files. Its own SQLite does not overwrite what is deleted."""
    connection = sqlcipher.connect(str(vault.path))
    assert connection.execute("PRAGMA secure_delete").fetchone() == (0,)
    return connection


def written_carelessly(
    vault: Vault, journal_mode: str = "delete", connect: Connect = Vault.connect
) -> Vault:
    """Keys came, changed and went, and nothing was ever overwritten."""
    vault.create(journal_mode=journal_mode)
    insert = (
        "INSERT INTO ssh_keys (key_type, private_pem, public_blob, fingerprint) VALUES (?, ?, ?, ?)"
    )
    with closing(connect(vault)) as connection:
        connection.execute(f"PRAGMA journal_mode = {journal_mode}").fetchall()
        connection.execute("PRAGMA secure_delete = OFF").fetchall()
        for key in (*DELETED, *KEPT):
            row = (key.key_type, pem(key), key.public_blob, key.fingerprint(0))
            connection.execute(insert, row)
        connection.commit()
        for key in DELETED:
            connection.execute("DELETE FROM ssh_keys WHERE public_blob = ?", (key.public_blob,))
        # Rows that move leave copies between the rows of a page.
        connection.execute("UPDATE ssh_keys SET comment = hex(zeroblob(800))")
        connection.execute("UPDATE ssh_keys SET comment = ''")
        connection.commit()
    assert left_behind(vault), "the test has to leave something to find"
    return vault


def as_version_1(vault: Vault) -> None:
    """What the programs of version 1 do to a file, without a scrub."""
    with closing(vault.connect()) as connection:
        connection.execute("PRAGMA secure_delete = OFF")
        for key in KEPT:
            connection.execute(
                "UPDATE ssh_keys SET private_pem = ?, fingerprint = ? WHERE public_blob = ?",
                (key.der, key.fingerprint(1), key.public_blob),
            )
        connection.execute("ALTER TABLE ssh_keys RENAME COLUMN private_pem TO private_der")
        connection.execute("PRAGMA user_version = 1")
        connection.commit()


@cache
def pem(key: Key) -> bytes:
    """Always the same, which the library's own is not."""
    return key.pem


@cache
def pieces() -> frozenset[bytes]:
    """Of each PEM, so that what is left of 23 bytes in a row contains one."""
    return frozenset(
        pem(key)[start : start + PIECE]
        for key in KEPT + DELETED
        for start in range(0, len(pem(key)) - PIECE, PIECE)
    )


def left_behind(vault: Vault) -> dict[str, int]:
    """How many pieces of the PEM of these keys stand in each file next to the database."""
    found = {
        name: sum(map(stored.__contains__, pieces())) for name, stored in vault.files().items()
    }
    return {name: hits for name, hits in found.items() if hits}


def is_pending(vault: Vault) -> bool:
    query = f"SELECT count(*) FROM sqlite_master WHERE type = 'view' AND name = '{SCRUB}'"
    return bool(vault.value(query))


def assert_scrubbed(vault: Vault) -> None:
    assert left_behind(vault) == {}, "scrub what the upgrade replaced"
    assert vault.value("PRAGMA freelist_count") == 0
    assert not is_pending(vault)
    assert vault.stamps() == STAMPS
    assert credential_db.status(vault.path).state == "current"


def warnings_of(log: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in log.records if each.levelno >= logging.WARNING]


# --- Nothing prevents the scrub ----------------------------------------------------------------


@pytest.mark.parametrize("journal_mode", ["delete", "wal", "truncate", "persist"])
@pytest.mark.parametrize("by", ["path", "connection", "sqlcipher3", "legacy functions"])
def test_no_pem_is_left_after_an_upgrade(
    plain_vault: Vault, by: str, journal_mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    connect = with_sqlcipher if by == "sqlcipher3" else Vault.connect
    written_carelessly(plain_vault, journal_mode, connect)
    if by == "path":
        assert credential_db.upgrade(plain_vault.path) == (0, HEAD)
    else:
        with closing(connect(plain_vault)) as connection:
            connection.execute(f"PRAGMA journal_mode = {journal_mode}").fetchall()
            connection.execute("PRAGMA secure_delete = OFF").fetchall()
            KINDS[by if by in KINDS else "connection"].call(connection)
            assert left_behind(plain_vault) == {}, "nor while it is still open"
            assert connection.execute("PRAGMA secure_delete").fetchone() == (0,)
            assert connection.execute("PRAGMA journal_mode").fetchone() == (journal_mode,)
    assert_scrubbed(plain_vault)
    assert warnings_of(caplog) == []


@pytest.mark.parametrize("check", [True, False], ids=["in place", "by a table copy"])
def test_no_pem_is_left_in_a_large_file(plain_vault: Vault, check: bool) -> None:
    """More than SQLite's cache holds, so that pages are on their way to the disk early."""
    content = [*KEPT, *(ed25519_key(2000 + number) for number in range(500))]
    plain_vault.create(check=check, content=content, secure_delete=False)
    plain_vault.execute("UPDATE ssh_keys SET comment = hex(zeroblob(2000))")
    with closing(with_sqlcipher(plain_vault)) as connection:
        credential_db.upgrade(connection)
    assert b"OPENSSH PRIVATE" not in b"".join(plain_vault.files().values())


def test_an_encrypted_file_has_no_free_pages_left_either(vault: Vault) -> None:
    vault.create(content=KEPT, secure_delete=False)
    vault.execute("DELETE FROM ssh_keys WHERE key_type = 'rsa'")
    credential_db.upgrade(vault.path, **vault.options)
    assert vault.value("PRAGMA freelist_count") == 0


def test_a_dry_run_leaves_no_pem_next_to_the_file(plain_vault: Vault) -> None:
    for journal_mode in ("delete", "wal", "persist"):
        written_carelessly(plain_vault, journal_mode)
        credential_db.upgrade(plain_vault.path, dry_run=True)
        assert set(left_behind(plain_vault)) == {"credentials.db"}
        plain_vault.path.unlink()


def converted_by_version_1(vault: Vault) -> None:
    as_version_1(vault)


def all_keys_were_deleted(vault: Vault) -> None:
    vault.execute("PRAGMA secure_delete = OFF", "DELETE FROM ssh_keys")


def downgraded_and_migrated_by_an_old_program(vault: Vault) -> None:
    """Stamp v0, number 2: the tables decide."""
    credential_db.upgrade(vault.path)
    api.change(vault.path, command="downgrade", to="0")
    with closing(vault.connect()) as connection:  # the keys as they were written first
        for key in KEPT:
            row = (pem(key), key.public_blob)
            connection.execute("UPDATE ssh_keys SET private_pem = ? WHERE public_blob = ?", row)
        connection.commit()
    as_version_1(vault)
    vault.execute(
        "ALTER TABLE proxy_tokens RENAME COLUMN task TO subject", "PRAGMA user_version = 2"
    )
    assert vault.stamps() == ("v0", 2)


def marked_by_release_1_1(vault: Vault) -> None:
    as_version_1(vault)
    vault.execute("ALTER TABLE proxy_tokens RENAME COLUMN task TO subject")
    mark = int.from_bytes(b"scrb", "big")
    vault.execute(
        "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL,"
        " CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num))",
        "INSERT INTO alembic_version VALUES ('v2')",
        "PRAGMA user_version = 2",
        f"PRAGMA application_id = {mark}",
    )


HISTORIES = (
    converted_by_version_1,
    all_keys_were_deleted,
    downgraded_and_migrated_by_an_old_program,
    marked_by_release_1_1,
)


@pytest.mark.parametrize("history", HISTORIES)
def test_what_other_software_left_is_scrubbed_too(
    plain_vault: Vault, history: Callable[[Vault], None]
) -> None:
    written_carelessly(plain_vault)
    history(plain_vault)
    assert left_behind(plain_vault), "the test has to leave something to find"
    expected = upgraded(plain_vault.content(), 0 if history is all_keys_were_deleted else 1)
    assert credential_db.upgrade(plain_vault.path).after == HEAD
    assert plain_vault.content() == expected
    assert_scrubbed(plain_vault)
    assert plain_vault.value("PRAGMA application_id") == 0


@pytest.mark.parametrize("samples", ["sqlite_stat3", "sqlite_stat4"])
def test_samples_that_analyze_took_of_keys_are_deleted(plain_vault: Vault, samples: str) -> None:
    """Some builds of SQLite keep whole cells of indexed columns; this one may not be one."""
    plain_vault.create(content=KEPT)
    with closing(plain_vault.connect()) as connection:
        # SQLite lets nobody create a table of that name.
        connection.execute("CREATE TABLE twin(tbl,idx,neq,nlt,ndlt,sample)")
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute(
            f"UPDATE sqlite_master SET name = '{samples}', tbl_name = '{samples}',"
            f" sql = replace(sql, 'twin', '{samples}') WHERE name = 'twin'"
        )
        connection.commit()
    insert = f"INSERT INTO {samples} VALUES (?, 'i', '1', '0', '0', ?)"
    plain_vault.execute(
        (insert, ("SSH_KEYS", pem(KEPT[0]))), (insert, ("theirs", b"of another table"))
    )
    credential_db.upgrade(plain_vault.path)
    assert plain_vault.query(f"SELECT tbl FROM {samples}") == [("theirs",)]
    assert left_behind(plain_vault) == {}


# --- Something prevents it ---------------------------------------------------------------------

START = (
    "import sys, credential_db; credential_db.upgrade(sys.argv[1]); print('alembic' in sys.modules)"
)


@pytest.mark.parametrize("journal_mode", ["delete", "wal"])
@pytest.mark.parametrize("application_id", [0, 77])
def test_a_reader_that_stays_costs_every_start_the_same(
    plain_vault: Vault,
    journal_mode: str,
    application_id: int,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In a rollback journal it cannot stay: it comes between the commit and the scrub."""
    written_carelessly(plain_vault, journal_mode)
    plain_vault.execute(f"PRAGMA application_id = {application_id}")
    path, costs = plain_vault.path, []
    with closing(plain_vault.connect()) as reader:
        attack = Attack(monkeypatch)
        reader.isolation_level = None

        def read(_: str = "") -> None:
            if not reader.in_transaction and (attack.committed or journal_mode == "wal"):
                reader.execute("BEGIN")
                reader.execute("SELECT count(*) FROM credentials").fetchall()

        read()
        attack.before = read
        assert KINDS["path"](plain_vault, attack) == (0, HEAD)
        attack.before = lambda _: None
        assert len(warnings_of(caplog)) == 1, "the first start warns"
        caplog.clear()
        assert left_behind(plain_vault), "the reader prevents the scrub"
        assert is_pending(plain_vault)
        found = credential_db.status(path)
        assert found.state == "current", "a pending scrub is no state"
        assert "old secrets" in found.detail
        for _ in range(3):
            assert KINDS["path"](plain_vault, attack.plan()) == (HEAD, HEAD)
            sizes = {name: len(content) for name, content in plain_vault.files().items()}
            costs.append((attack.statements, sizes))
            assert not attack.committed
        assert costs[0] == costs[1] == costs[2], "the log must not grow"
        assert warnings_of(caplog) == [], "no warning beyond the first"
        started = subprocess.check_output([sys.executable, "-c", START, path], text=True)
        assert started == "False\n", "no import"
    assert credential_db.upgrade(path) == (HEAD, HEAD)
    assert_scrubbed(plain_vault)
    assert plain_vault.value("PRAGMA application_id") == application_id


def by_query_only(connection: Any) -> Any:
    return connection.execute("PRAGMA query_only = ON")


def by_an_unfinished_query(connection: Any) -> Any:
    cursor = connection.execute("SELECT 1 FROM credentials UNION ALL SELECT 2 UNION ALL SELECT 3")
    cursor.fetchone()
    return cursor


@pytest.mark.parametrize("prevented", [by_query_only, by_an_unfinished_query])
def test_a_connection_that_cannot_scrub_takes_the_file_as_it_is(
    plain_vault: Vault, prevented: Callable[[Any], Any], caplog: pytest.LogCaptureFixture
) -> None:
    written_carelessly(plain_vault, "wal")
    with another_process(plain_vault, "BEGIN", "SELECT count(*) FROM ssh_keys"):
        credential_db.upgrade(plain_vault.path)
    caplog.clear()
    with closing(plain_vault.connect()) as connection:
        cursor = prevented(connection)
        assert credential_db.upgrade(connection) == (HEAD, HEAD)
        credential_db.migrate_credential_db_schema(connection)
        cursor.close()
    assert warnings_of(caplog) == []
    assert is_pending(plain_vault)
    with closing(plain_vault.connect()) as connection:
        credential_db.migrate_credential_db_schema(connection)
    assert_scrubbed(plain_vault)


def test_the_actual_cause_of_a_failure_is_reported(
    plain_vault: Vault, caplog: pytest.LogCaptureFixture
) -> None:
    written_carelessly(plain_vault)
    for before in (0, HEAD):  # the start that upgrades, and a later one
        caplog.clear()
        with closing(plain_vault.connect()) as connection:
            connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)  # VACUUM attaches a database
            assert credential_db.upgrade(connection) == (before, HEAD)
        (warning,) = warnings_of(caplog)
        assert "too many attached databases" in warning
        assert is_pending(plain_vault)
    credential_db.upgrade(plain_vault.path)
    assert_scrubbed(plain_vault)


def killed_after_the_commit(vault: Vault, number: int) -> None:
    attack = Attack(pytest.MonkeyPatch())
    to_come = iter(range(number, -1, -1))

    def kill(_: str) -> None:
        if attack.committed and next(to_come, None) == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    attack.before = kill
    KINDS["path"](vault, attack)


@pytest.mark.parametrize("journal_mode", ["delete", "wal"])
@pytest.mark.parametrize("end", ["kill", "error"])
def test_what_ends_the_scrub_early_is_made_up_for(
    plain_vault: Vault, journal_mode: str, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written_carelessly(plain_vault, journal_mode)
    raw, attack, pending = plain_vault.path.read_bytes(), Attack(monkeypatch), 0
    KINDS["path"](plain_vault, attack)
    of_scrub = range(attack.statements.index("COMMIT") + 1, len(attack.statements))
    for number in of_scrub[:: 4 if end == "kill" else 2]:
        for name in plain_vault.files():
            (plain_vault.path.parent / name).unlink()
        plain_vault.path.write_bytes(raw)
        if end == "error":
            KINDS["path"](plain_vault, attack.plan(number))
            assert attack.failed
        else:
            arguments = (plain_vault, number - of_scrub[0])
            process = warm.Process(target=killed_after_the_commit, args=arguments)
            process.start()
            process.join()
            assert process.exitcode == -signal.SIGKILL
        assert plain_vault.stamps() == STAMPS
        pending += is_pending(plain_vault)
        assert credential_db.upgrade(plain_vault.path) == (HEAD, HEAD)
        assert_scrubbed(plain_vault)
    assert pending, "this test has to leave something to make up for"


# --- Copies in the user's own tables -----------------------------------------------------------


@pytest.mark.parametrize("encoding", ["UTF-8", "UTF-16le"])
@pytest.mark.parametrize("kind", ["path", "connection"])
def test_copies_of_keys_in_tables_of_the_users_own_are_reported(
    plain_vault: Vault, kind: str, encoding: str, caplog: pytest.LogCaptureFixture
) -> None:
    plain_vault.execute(f"PRAGMA encoding = '{encoding}'")
    plain_vault.create(content=KEPT)
    plain_vault.execute(
        "CREATE TABLE backup_of_keys AS SELECT * FROM ssh_keys",
        'CREATE TABLE "it\'s a log" (number INTEGER, text)',
        "INSERT INTO \"it's a log\" SELECT CAST(private_pem AS TEXT), 'x' FROM ssh_keys",
        "CREATE TABLE numbers (id INTEGER PRIMARY KEY, text)",
        "INSERT INTO numbers VALUES (1, 'BEGIN OPENSSH PUBLIC KEY')",
    )
    before = plain_vault.query("SELECT * FROM backup_of_keys")
    assert KINDS[kind](plain_vault, dry_run=True) == (0, HEAD)
    assert warnings_of(caplog) == []
    KINDS[kind](plain_vault)
    (warning,) = warnings_of(caplog)
    assert "backup_of_keys" in warning
    assert "it's a log" in warning
    assert "numbers" not in warning
    assert "-----BEGIN" not in caplog.text
    assert plain_vault.query("SELECT * FROM backup_of_keys") == before, "they are left alone"
    caplog.clear()
    KINDS[kind](plain_vault)
    assert warnings_of(caplog) == [], "once"
