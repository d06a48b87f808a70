"""Promise 2: any number of processes and threads may start at once on the same file.

One of them migrates, the others wait and find it done. Readers see the old or the new, never a
mixture.
"""

import os
import random
import re
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import credential_db
from attacks import Upgrading, Victim, Watched, another_process, state_of, upgrade_together
from conftest import PASSPHRASE
from credential_db import DatabaseBusy, Upgrade
from vaults import HEAD, STAMPS, Vault, at_head, keys

MANY = 8

Write = Callable[[Vault], object]

# What the file is when all of them start, and the version that is.
STARTS: dict[str, tuple[Write, int | None]] = {
    "v0 in WAL": (lambda vault: vault.create(content=keys(20), journal_mode="wal"), 0),
    "v0 with a rollback journal": (lambda vault: vault.create(content=keys(20)), 0),
    "v1": (lambda vault: vault.create(1, content=keys(20)), 1),
    "missing path": (lambda vault: None, None),
    "empty file": (lambda vault: vault.path.touch(), None),
}
SHAPES = {0: 0, 1: 1, None: 2}


@pytest.fixture(params=["delete", "wal"])
def journal_mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def assert_one_did_it(outcomes: list[Any], before: int | None) -> None:
    """All succeeded; one found the old version, the others the new one."""
    assert len(outcomes) == MANY
    others = [outcome for outcome in outcomes if outcome != (before, HEAD)]
    assert others == [(HEAD, HEAD)] * (MANY - 1), (
        f"exactly one of {MANY} has to do the work, and the others have to find it done: the "
        "first thing after BEGIN IMMEDIATE is to look at what the file is now"
    )


# --- Processes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("start", STARTS)
def test_of_eight_processes_one_does_the_work(plain_vault: Vault, start: str) -> None:
    write, version = STARTS[start]
    write(plain_vault)
    victim = Victim(plain_vault, shape=SHAPES[version])
    for _ in range(2):
        victim.restore()
        assert_one_did_it(upgrade_together([plain_vault] * MANY), version)
        assert victim.is_new()


@pytest.mark.parametrize("vault", [PASSPHRASE], ids=["encrypted"], indirect=True)
@pytest.mark.parametrize("start", ["v0 in WAL", "missing path"])
def test_of_eight_processes_one_does_the_work_on_an_encrypted_file(
    vault: Vault, start: str
) -> None:
    write, version = STARTS[start]
    write(vault)
    victim = Victim(vault, shape=SHAPES[version])
    assert_one_did_it(upgrade_together([vault] * MANY), version)
    assert victim.is_new()


def test_of_eight_processes_one_creates_the_directories_too(tmp_path: Path) -> None:
    for number in range(5):
        vault = Vault(tmp_path / f"{number}" / "not" / "there" / "credentials.db")
        assert_one_did_it(upgrade_together([vault] * MANY), None)
        assert vault.stamps() == STAMPS
        assert vault.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("start", ["v0 in WAL", "missing path"])
def test_of_several_shells_all_succeed(plain_vault: Vault, start: str) -> None:
    """Each is slow to start: that several begin together is for the forks above."""
    write, version = STARTS[start]
    write(plain_vault)
    victim = Victim(plain_vault, shape=SHAPES[version])
    shell = [sys.executable, "-m", "credential_db", "-x", f"db={plain_vault.path}"]
    processes = [
        subprocess.Popen([*shell, "upgrade", "head"], stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for process in processes:
        _, stderr = process.communicate()
        assert process.returncode == 0, stderr
    assert victim.is_new()


def test_one_that_is_killed_stops_none_of_the_others(plain_vault: Vault, journal_mode: str) -> None:
    plain_vault.create(content=keys(50), journal_mode=journal_mode)
    victim = Victim(plain_vault)
    instants = random.Random(0)
    for _ in range(6):
        victim.restore()
        first, *others = [Upgrading(plain_vault) for _ in range(4)]
        first.go()
        time.sleep(instants.uniform(0, 0.1))
        for process in others:
            process.go()
        first.kill()
        first.outcome()
        outcomes = [process.outcome() for process in others]
        assert all(outcome in ((0, HEAD), (HEAD, HEAD)) for outcome in outcomes), outcomes
        assert victim.is_new()


# --- Threads -----------------------------------------------------------------------------------


def upgrade_in_threads(vaults: list[Vault]) -> list[Upgrade]:
    """Each thread on a file, all released at the same time."""
    together = threading.Barrier(len(vaults))

    def run(vault: Vault) -> Upgrade:
        together.wait()
        return credential_db.upgrade(vault.path, **vault.options)

    with ThreadPoolExecutor(len(vaults)) as threads:
        return list(threads.map(run, vaults))


@pytest.mark.parametrize("start", STARTS)
def test_of_eight_threads_one_does_the_work(plain_vault: Vault, start: str) -> None:
    write, version = STARTS[start]
    write(plain_vault)
    victim = Victim(plain_vault, shape=SHAPES[version])
    for _ in range(3):
        victim.restore()
        assert_one_did_it(upgrade_in_threads([plain_vault] * MANY), version)
        assert victim.is_new()


@pytest.mark.parametrize("passphrase", [None, PASSPHRASE], ids=["plain", "encrypted"])
def test_threads_on_files_of_their_own_do_not_mix_them_up(
    tmp_path: Path, passphrase: str | None
) -> None:
    """Alembic's commands work through module-level proxies: one lock for the process."""
    starts = list(STARTS.values()) * (4 if passphrase is None else 1)
    victims = []
    for number, (write, version) in enumerate(starts):
        vault = Vault(tmp_path / f"{number}.db", passphrase)
        write(vault)
        victims.append(Victim(vault, shape=SHAPES[version]))
    outcomes = upgrade_in_threads([victim.vault for victim in victims])
    assert outcomes == [(version, HEAD) for _, version in starts]
    assert all(victim.is_new() for victim in victims)


# --- Readers -----------------------------------------------------------------------------------


class Seen(NamedTuple):
    """What one read transaction finds."""

    number: int
    stamp: str | None
    keys: frozenset[str]
    tokens: frozenset[str]
    rows: int
    encodings: frozenset[bytes]


def look(connection: sqlite3.Connection) -> Seen:
    connection.execute("BEGIN")
    try:
        ssh_keys, keys_columns = table_of(connection, "ssh_keys")
        (private,) = keys_columns & {"private_pem", at_head("{ssh_keys.private_der}")}
        stamped = columns(connection, "alembic_version")
        encodings = f"SELECT DISTINCT CAST(substr({private}, 1, 1) AS BLOB) FROM {ssh_keys}"
        return Seen(
            connection.execute("PRAGMA user_version").fetchone()[0],
            connection.execute("SELECT * FROM alembic_version").fetchone()[0] if stamped else None,
            keys_columns,
            table_of(connection, "proxy_tokens")[1],
            connection.execute(f"SELECT count(*) FROM {ssh_keys}").fetchone()[0],
            frozenset(row[0] for row in connection.execute(encodings)),
        )
    finally:
        connection.execute("ROLLBACK")


def table_of(connection: sqlite3.Connection, table: str) -> tuple[str, frozenset[str]]:
    """What a table of version 2 is called here, and its columns."""
    names = (table, at_head(f"{{{table}}}"))
    return next((name, found) for name in names if (found := columns(connection, name)))


def columns(connection: sqlite3.Connection, table: str) -> frozenset[str]:
    return frozenset(row[1] for row in connection.execute(f"PRAGMA table_info({table})"))


def old_and_new(victim: Victim) -> tuple[Seen, Seen]:
    path = victim.vault.path
    with closing(sqlite3.connect(path)) as connection:
        old = look(connection)
    credential_db.upgrade(path)
    with closing(sqlite3.connect(path)) as connection:
        new = look(connection)
    victim.restore()
    assert old != new
    return old, new


def test_between_any_two_statements_a_reader_sees_the_old_or_the_new(
    plain_vault: Vault, journal_mode: str
) -> None:
    plain_vault.create(content=keys(10), journal_mode=journal_mode)
    old, new = old_and_new(Victim(plain_vault))
    seen = []
    with (
        closing(sqlite3.connect(plain_vault.path, factory=Watched)) as writer,
        closing(sqlite3.connect(plain_vault.path, timeout=0, isolation_level=None)) as reader,
    ):

        def read(statement: str) -> None:
            try:
                found = look(reader)
            except sqlite3.OperationalError as error:
                if str(error) != "database is locked":  # as it may be, without WAL
                    raise
            else:
                expected = new if writer.committed else old
                assert found == expected, f"a reader ahead of {statement!r} saw a mixture"
                seen.append(found)

        writer.before = read
        credential_db.upgrade(writer)
    assert {old, new} == set(seen), "it never got to read: nothing was tested"


def test_a_reader_that_polls_throughout_sees_the_old_or_the_new(
    plain_vault: Vault, journal_mode: str
) -> None:
    plain_vault.create(content=keys(100), journal_mode=journal_mode)
    victim = Victim(plain_vault)
    old, new = old_and_new(victim)
    for _ in range(5):
        victim.restore()
        process = Upgrading(plain_vault)
        with closing(sqlite3.connect(plain_vault.path, timeout=60, isolation_level=None)) as reader:
            seen = [look(reader)]
            process.go()
            while process.process.is_alive():
                seen.append(look(reader))
            seen.append(look(reader))
        assert process.outcome() == (0, HEAD)
        turn = seen.index(new)
        assert set(seen[:turn]) == {old}, "a reader saw a mixture"
        assert set(seen[turn:]) == {new}, "a reader saw the old version after the new one"
        assert victim.is_new()


def test_a_reader_that_began_before_sees_the_old_to_its_end(plain_vault: Vault) -> None:
    plain_vault.create(content=keys(10), journal_mode="wal")
    victim = Victim(plain_vault)
    with closing(sqlite3.connect(plain_vault.path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        before = reader.execute("SELECT * FROM ssh_keys").fetchall()
        process = Upgrading(plain_vault)
        process.go()
        assert process.outcome() == (0, HEAD)
        assert reader.execute("SELECT * FROM ssh_keys").fetchall() == before
        reader.execute("ROLLBACK")
        assert reader.execute("PRAGMA user_version").fetchone() == (HEAD,)
    assert victim.is_new()


# --- A lock that is not given up ---------------------------------------------------------------

# Who holds it: the journal mode, and what that program has done.
HOLDERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "a writer": ("delete", ("BEGIN IMMEDIATE",)),
    "a writer about to commit": ("delete", ("BEGIN EXCLUSIVE",)),
    "a reader": ("delete", ("BEGIN", "SELECT * FROM credentials")),
    "a writer in WAL": ("wal", ("BEGIN IMMEDIATE",)),
    "an exclusive user in WAL": (
        "wal",
        ("PRAGMA locking_mode = EXCLUSIVE", "BEGIN IMMEDIATE", "COMMIT"),
    ),
}


@pytest.mark.parametrize(
    ("vault", "holder"),
    [
        *((None, holder) for holder in HOLDERS),
        (PASSPHRASE, "a reader"),
        (PASSPHRASE, "a writer in WAL"),
    ],
    indirect=["vault"],
)
def test_a_lock_held_for_longer_than_the_timeout(vault: Vault, holder: str) -> None:
    journal_mode, statements = HOLDERS[holder]
    vault.create(content=keys(3), journal_mode=journal_mode)
    before, file = state_of(vault), vault.path.read_bytes()
    with another_process(vault, *statements) as process:
        with pytest.raises(DatabaseBusy) as busy:
            credential_db.upgrade(vault.path, timeout=0.2, **vault.options)
        assert vault.path.read_bytes() == file, "the file has to stay as it was"
    message = str(busy.value)
    assert str(vault.path) in message
    assert "wait for that program or stop it, then run again" in message
    if os.path.exists("/proc/locks"):
        assert f"by process {process} (" in message, "name who holds the lock"
    assert state_of(vault) == before
    assert credential_db.upgrade(vault.path, **vault.options) == (0, HEAD)


def test_a_lock_that_this_process_holds_itself(plain_vault: Vault, journal_mode: str) -> None:
    plain_vault.create(content=keys(3), journal_mode=journal_mode)
    before = state_of(plain_vault)
    with closing(sqlite3.connect(plain_vault.path)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        with pytest.raises(DatabaseBusy, match=r"is locked by another .*, then run again"):
            credential_db.upgrade(plain_vault.path, timeout=0.2)
    assert state_of(plain_vault) == before


def test_the_timeout_is_that_of_the_call_not_of_the_connection(plain_vault: Vault) -> None:
    """Against readers, too: a rollback journal locks them out while another commits."""
    plain_vault.create(content=keys(3))
    with (
        closing(sqlite3.connect(plain_vault.path, check_same_thread=False)) as writer,
        closing(sqlite3.connect(plain_vault.path, timeout=0)) as connection,
    ):
        writer.execute("BEGIN EXCLUSIVE")
        with pytest.raises(DatabaseBusy, match=re.escape(str(plain_vault.path))):
            credential_db.upgrade(connection, timeout=0.1)
        release = threading.Timer(0.5, writer.rollback)
        release.start()
        assert credential_db.upgrade(connection, timeout=60) == (0, HEAD)
        release.join()
        assert connection.execute("PRAGMA busy_timeout").fetchone() == (0,)


@pytest.mark.parametrize("holder", HOLDERS)
def test_a_connection_that_is_handed_in_keeps_no_lock_either(
    plain_vault: Vault, holder: str
) -> None:
    """A reader is in the way only of the commit: then all of it has to be rolled back."""
    journal_mode, statements = HOLDERS[holder]
    plain_vault.create(content=keys(3), journal_mode=journal_mode)
    with closing(sqlite3.connect(plain_vault.path, timeout=0)) as connection:
        with another_process(plain_vault, *statements):
            with pytest.raises(DatabaseBusy):
                credential_db.upgrade(connection, timeout=0)
            assert not connection.in_transaction, "nobody else can write now: roll it back"
        assert credential_db.upgrade(connection) == (0, HEAD)


@pytest.mark.parametrize("statement", ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"])
def test_a_lock_that_is_given_up_in_time_is_waited_for(
    plain_vault: Vault, journal_mode: str, statement: str
) -> None:
    plain_vault.create(content=keys(3), journal_mode=journal_mode)
    victim = Victim(plain_vault)
    with another_process(plain_vault, statement):
        processes = [Upgrading(plain_vault) for _ in range(3)]
        for process in processes:
            process.go()
        time.sleep(0.3)  # for some of them to be waiting; right is the outcome whether or not
    outcomes = [process.outcome() for process in processes]
    assert outcomes.count(Upgrade(0, HEAD)) == 1
    assert outcomes.count(Upgrade(HEAD, HEAD)) == 2
    assert victim.is_new()


def test_a_current_file_needs_no_lock(vault: Vault) -> None:
    vault.create(content=keys(3), journal_mode="wal")
    credential_db.upgrade(vault.path, **vault.options)
    with another_process(vault, "BEGIN IMMEDIATE"):
        assert credential_db.upgrade(vault.path, timeout=0, **vault.options) == (HEAD, HEAD)
        assert credential_db.status(vault.path, **vault.options).state == "current"
