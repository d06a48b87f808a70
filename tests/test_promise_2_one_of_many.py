"""Promise 2: any number of processes and threads may start at once on the same file.

One of them migrates, the others wait and find it done. Readers see the old or the new version,
never a mixture. A vault that another program keeps busy does not block work on other vaults.
"""

import os
import random
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from itertools import repeat
from operator import methodcaller
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config

import credential_db
from conftest import PASSPHRASE
from credential_db import CredentialDBError, DatabaseBusy, NotADatabase, Upgrade
from faults import (
    KINDS,
    SCRUB,
    Attack,
    Kind,
    Upgrading,
    Victim,
    another_process,
    is_closed,
    on_demand,
    state_of,
    upgrade_together,
)
from vaults import HEAD, STAMPS, Vault, keys

MANY = 8

Write = Callable[[Vault], object]

# What the file is when all of them start, and the version of that.
STARTS: dict[str, tuple[Write, int | None]] = {
    "v0 in WAL": (lambda vault: vault.create(content=keys(20), journal_mode="wal"), 0),
    "v0": (lambda vault: vault.create(content=keys(20)), 0),
    "v1": (lambda vault: vault.create(1, content=keys(20)), 1),
    "missing": (lambda vault: None, None),
    "empty": (lambda vault: vault.path.touch(), None),
}
MATRIX = [
    *(("path", start) for start in STARTS),
    *(("connection", start) for start in ("v0 in WAL", "v0", "empty")),
    *(("legacy functions", start) for start in ("v0 in WAL", "v1", "missing")),
]


@pytest.fixture(params=["delete", "wal"])
def journal_mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def victim_of(kind: str, start: str, directory: Path) -> Victim:
    write, version = STARTS[start]
    vault = KINDS[kind].vault(directory)
    write(vault)
    return Victim(vault, version=2 if version is None else version, move=KINDS[kind])


def assert_one_did_it(outcomes: list[Any], before: int | None) -> None:
    """All succeeded; one found the old version, the others the new one."""
    if outcomes[0] == "done":
        assert set(outcomes) == {"done"}
        return
    others = [outcome for outcome in outcomes if outcome != (before, HEAD)]
    assert others == [(HEAD, HEAD)] * (len(outcomes) - 1), (
        f"exactly one of {len(outcomes)} has to do the work, and the others have to find it done: "
        "the first thing after BEGIN IMMEDIATE is to look at what the file is now"
    )


# --- Processes and threads ---------------------------------------------------------------------


def in_threads(vaults: list[Vault], kind: Kind) -> list[Any]:
    together = threading.Barrier(len(vaults))

    def run(vault: Vault) -> Any:
        together.wait()
        return kind(vault)

    with ThreadPoolExecutor(len(vaults)) as threads:
        return list(threads.map(run, vaults))


@pytest.mark.parametrize("how", [upgrade_together, in_threads])
@pytest.mark.parametrize(("kind", "start"), MATRIX)
def test_of_eight_one_does_the_work(
    tmp_path: Path, kind: str, start: str, how: Callable[[list[Vault], Kind], list[Any]]
) -> None:
    victim = victim_of(kind, start, tmp_path)
    assert_one_did_it(how([victim.vault] * MANY, KINDS[kind]), STARTS[start][1])
    assert victim.is_new()


def test_of_eight_processes_one_creates_the_directories_too(tmp_path: Path) -> None:
    for number in range(3):
        vault = Vault(tmp_path / f"{number}" / "not" / "there" / "credentials.db")
        assert_one_did_it(upgrade_together([vault] * MANY), None)
        assert vault.stamps() == STAMPS
        assert vault.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("rounds", [8, pytest.param(600, marks=on_demand)])
def test_a_vault_that_was_reported_created_stays_there(tmp_path: Path, rounds: int) -> None:
    """With ``timeout=0`` several lose the race, each at another point."""
    for number in range(rounds):
        vault = Vault(tmp_path / f"{number}" / "credentials.db")
        outcomes = upgrade_together([vault] * MANY, options=repeat({"timeout": 0}))
        done = [outcome for outcome in outcomes if isinstance(outcome, Upgrade)]
        assert {type(outcome) for outcome in outcomes} <= {Upgrade, DatabaseBusy}, outcomes
        assert done.count(Upgrade(None, HEAD)) <= 1
        if done:
            assert vault.path.exists(), "nobody may remove a file that another has begun to use"
            assert vault.stamps() == STAMPS
        assert credential_db.upgrade(vault.path).after == HEAD


def test_one_that_is_killed_stops_none_of_the_others(tmp_path: Path, journal_mode: str) -> None:
    victim = victim_of("path", "v0" if journal_mode == "delete" else "v0 in WAL", tmp_path)
    instants = random.Random(0)
    for _ in range(3):
        victim.restore()
        first, *others = [Upgrading(victim.vault) for _ in range(4)]
        first.go()
        time.sleep(instants.uniform(0, 0.05))
        for process in others:
            process.go()
        first.kill()
        first.outcome()
        outcomes = [process.outcome() for process in others]
        assert all(outcome in ((0, HEAD), (HEAD, HEAD)) for outcome in outcomes), outcomes
        assert victim.is_new()


def test_threads_on_files_of_their_own_do_not_mix_them_up(tmp_path: Path) -> None:
    victims = []
    for number, (kind, start) in enumerate(MATRIX):
        directory = tmp_path / str(number)
        directory.mkdir()
        victims.append((kind, start, victim_of(kind, start, directory)))
    with ThreadPoolExecutor(len(victims)) as threads:
        outcomes = list(threads.map(lambda each: KINDS[each[0]](each[2].vault), victims))
    for outcome, (_, start, victim) in zip(outcomes, victims, strict=True):
        assert_one_did_it([outcome], STARTS[start][1])
        assert victim.is_new()


ENVIRONMENT = """
import sqlalchemy
from alembic import context
engine = sqlalchemy.create_engine(context.config.get_main_option("sqlalchemy.url"))
with engine.connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
engine.dispose()
"""
REVISION = """
from alembic import context, op
revision = "one"
down_revision = None
def upgrade():
    op.execute("CREATE TABLE before (x)")
    context.config.attributes["meanwhile"]()
    op.execute("CREATE TABLE after (x)")
"""


@pytest.mark.parametrize("in_a_thread", [True, False])
def test_an_application_may_have_migrations_of_its_own(tmp_path: Path, in_a_thread: bool) -> None:
    """Alembic's own commands use module-level names; ``credential_db.upgrade`` does not."""
    vault = Vault(tmp_path / "credentials.db").create(content=keys(2))
    own, scripts = Vault(tmp_path / "own.db"), tmp_path / "scripts"
    (scripts / "versions").mkdir(parents=True)
    (scripts / "env.py").write_text(ENVIRONMENT)
    (scripts / "versions" / "one.py").write_text(REVISION)
    config = Config()
    config.set_main_option("script_location", str(scripts))
    config.set_main_option("sqlalchemy.url", f"sqlite:///{own.path}")

    def meanwhile() -> None:
        if in_a_thread:
            with ThreadPoolExecutor(1) as thread:
                thread.submit(credential_db.upgrade, vault.path).result()
        else:
            credential_db.upgrade(vault.path)

    config.attributes["meanwhile"] = meanwhile
    command.upgrade(config, "head")
    assert {name for _, name, *_ in own.schema()} >= {"before", "after"}
    assert vault.stamps() == STAMPS


def test_a_busy_vault_holds_up_nobody_on_another(tmp_path: Path) -> None:
    busy = [Vault(tmp_path / f"busy {number}.db").create(content=keys(2)) for number in range(2)]
    with ThreadPoolExecutor(2) as threads, ExitStack() as locks:
        for vault in busy:
            locks.enter_context(another_process(vault, "BEGIN EXCLUSIVE"))
        waiting: list[Future[Any]] = [
            threads.submit(credential_db.upgrade, busy[0].path, timeout=600),
            threads.submit(credential_db.status, busy[1].path, timeout=600),
        ]
        for number, kind in enumerate(KINDS.values()):
            other = Vault(tmp_path / f"{number}.db", PASSPHRASE if kind.encrypted else None)
            kind(other.create(content=keys(2)))
            assert other.stamps() == STAMPS
        assert not any(future.done() for future in waiting)
        locks.close()
        for future in waiting:
            future.result()


# --- Readers -----------------------------------------------------------------------------------

Seen = tuple[Any, ...]


def look(connection: Any) -> Seen:
    """Everything in a file, in one read transaction."""
    connection.execute("BEGIN")
    try:
        query = f"SELECT name, sql FROM sqlite_master WHERE name <> '{SCRUB}' ORDER BY name"
        schema = connection.execute(query).fetchall()
        number = connection.execute("PRAGMA user_version").fetchone()
        tables = [name for name, sql in schema if str(sql).startswith("CREATE TABLE")]
        rows = [
            sorted(connection.execute(f'SELECT * FROM "{table}"').fetchall(), key=repr)
            for table in tables
        ]
        return number, schema, rows
    finally:
        connection.execute("ROLLBACK")


def reading(vault: Vault, timeout: float) -> Any:
    connection = vault.connect()
    connection.isolation_level = None
    connection.execute(f"PRAGMA busy_timeout = {int(timeout * 1000)}")
    return closing(connection)


def old_and_new(victim: Victim, kind: str) -> tuple[Seen, Seen]:
    with reading(victim.vault, 0) as reader:
        old = look(reader)
    KINDS[kind](victim.vault)
    with reading(victim.vault, 0) as reader:
        new = look(reader)
    victim.restore()
    return old, new


@pytest.mark.parametrize(("kind", "start"), [pair for pair in MATRIX if pair[1].startswith("v0")])
def test_between_any_two_statements_a_reader_sees_the_old_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, start: str
) -> None:
    victim = victim_of(kind, start, tmp_path)
    old, new = old_and_new(victim, kind)
    seen = []
    with reading(victim.vault, 0) as reader:
        attack = Attack(monkeypatch)

        def read(statement: str) -> None:
            with suppress(Exception):  # locked, as it may be without WAL
                found = look(reader)
                seen.append((found, new if attack.committed else old, statement))

        attack.before = read
        KINDS[kind](victim.vault, attack)
    for found, expected, statement in seen:
        assert found == expected, f"a reader ahead of {statement!r} saw a mixture"
    assert {repr(found) for found, *_ in seen} == {repr(old), repr(new)}, "it never got to read"


@pytest.mark.parametrize("kind", KINDS)
def test_a_reader_that_polls_throughout_sees_the_old_or_the_new(tmp_path: Path, kind: str) -> None:
    victim = victim_of(kind, "v0 in WAL" if KINDS[kind].encrypted else "v0", tmp_path)
    old, new = old_and_new(victim, kind)
    for _ in range(3):
        victim.restore()
        process = Upgrading(victim.vault, KINDS[kind])
        states = []
        with reading(victim.vault, 60) as reader:
            seen = [look(reader)]
            process.go()
            while process.process.is_alive():
                seen.append(look(reader))
                states.append(credential_db.status(victim.vault.path, **victim.vault.options))
            seen.append(look(reader))
        assert process.outcome() in ((0, HEAD), "done")
        turn = seen.index(new)
        assert seen[:turn] == [old] * turn, "a reader saw a mixture"
        assert seen[turn:] == [new] * len(seen[turn:]), "a reader saw the old after the new"
        found = [(status.state, status.version) for status in states]
        assert set(found) <= {("legacy", 0), ("current", HEAD)}, "a pending scrub is no state"
        assert found == sorted(found, reverse=True)
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
    ("kind", "holder"),
    [
        *((kind, holder) for kind in ("path", "connection") for holder in HOLDERS),
        ("legacy functions", "a writer in WAL"),
    ],
)
def test_a_lock_held_for_longer_than_the_timeout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, holder: str
) -> None:
    """The timeout is that of the call; for the legacy functions, that of the connection."""
    journal_mode, statements = HOLDERS[holder]
    vault = KINDS[kind].vault(tmp_path).create(content=keys(3), journal_mode=journal_mode)
    before, file, attack = state_of(vault), vault.path.read_bytes(), Attack(monkeypatch)
    timeout = {"timeout": 0.2}
    if kind == "legacy functions":
        timeout = {}
        attack.first = methodcaller("execute", "PRAGMA busy_timeout = 200")
    with another_process(vault, *statements):
        for _ in range(2):
            begin = time.monotonic()
            with pytest.raises(DatabaseBusy) as busy:
                KINDS[kind](vault, attack.plan(), **timeout)
            assert time.monotonic() - begin < 2
            assert str(vault.path) in str(busy.value)
            assert isinstance(busy.value, sqlite3.OperationalError)
            assert not attack.in_transaction, "nobody else can write now: roll it back"
        assert vault.path.read_bytes() == file, "the file has to stay as it was"
    assert state_of(vault) == before
    KINDS[kind](vault)
    assert vault.stamps() == STAMPS


@pytest.mark.parametrize("statement", ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_lock_that_is_given_up_in_time_is_waited_for(
    tmp_path: Path, kind: str, statement: str
) -> None:
    victim = victim_of(kind, "v0 in WAL" if KINDS[kind].encrypted else "v0", tmp_path)
    with another_process(victim.vault, statement):
        processes = [Upgrading(victim.vault, KINDS[kind]) for _ in range(3)]
        for process in processes:
            process.go()
        time.sleep(0.2)  # for some of them to be waiting; right is the outcome whether or not
    assert_one_did_it([process.outcome() for process in processes], 0)
    assert victim.is_new()


def test_a_current_file_needs_no_lock(vault: Vault) -> None:
    vault.create(content=keys(3), journal_mode="wal")
    credential_db.upgrade(vault.path, **vault.options)
    with another_process(vault, "BEGIN IMMEDIATE"), closing(vault.connect()) as connection:
        assert credential_db.upgrade(vault.path, timeout=0, **vault.options) == (HEAD, HEAD)
        assert credential_db.upgrade(connection, timeout=0) == (HEAD, HEAD)
        assert credential_db.status(vault.path, **vault.options).state == "current"


@pytest.mark.parametrize("timeout", [0, True, 1e300, float("inf"), 10**30], ids=repr)
def test_a_number_of_seconds_is_a_timeout(plain_vault: Vault, timeout: Any) -> None:
    plain_vault.create(content=keys(1))
    assert credential_db.status(plain_vault.path, timeout=timeout).version == 0
    assert credential_db.upgrade(plain_vault.path, timeout=timeout) == (0, HEAD)


@pytest.mark.parametrize("timeout", [-1, float("nan"), float("-inf"), None, "soon"], ids=repr)
@pytest.mark.parametrize("state", ["old", "current", "missing"])
def test_anything_else_is_not(plain_vault: Vault, timeout: Any, state: str) -> None:
    if state != "missing":
        plain_vault.create(content=keys(1))
    if state == "current":
        credential_db.upgrade(plain_vault.path)
    before = plain_vault.files()
    for function in (credential_db.upgrade, credential_db.status):
        with pytest.raises(CredentialDBError, match="timeout"):
            function(plain_vault.path, timeout=timeout)
    assert plain_vault.files() == before


# --- The file is replaced meanwhile ------------------------------------------------------------


@pytest.mark.parametrize("moment", ["BEGIN IMMEDIATE", "RENAME", "foreign_key_check"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("by", ["another", "nothing"])
@pytest.mark.parametrize("start", ["v0", "v0 in WAL"])
def test_a_file_that_is_replaced_ahead_of_a_statement(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    kind: str,
    moment: str,
    by: str,
    start: str,
) -> None:
    """By path the new file is upgraded; a connection that is passed in has lost its file."""
    victim = victim_of(kind, start, tmp_path)
    vault, restored, backup = victim.vault, tmp_path / "restored", Vault(tmp_path / "backup.db")
    shutil.copy(vault.path, restored)
    attack = Attack(monkeypatch)
    replaced: list[str] = []

    def replace(sql: str) -> None:
        """As a restore does: the database goes with what is next to it, and another one comes."""
        if moment in sql and not replaced:
            replaced.append(sql)
            for file in vault.files():
                (tmp_path / file).unlink()
            if by == "another":
                restored.rename(vault.path)

    attack.before = replace
    try:
        outcome = KINDS[kind](vault, attack, **({"backup": backup.path} if kind == "path" else {}))
    except CredentialDBError as error:
        outcome = error
    assert replaced
    assert all(map(is_closed, attack.connections)) or kind != "path"
    if kind == "path" and by == "another":
        assert outcome == (0, HEAD), "it has to start again"
        assert victim.is_new(), "it reported an upgrade, and yet the file at the path is not new"
        assert state_of(backup) == victim.old
        return
    assert not backup.path.exists(), "that of an abandoned attempt is removed"
    if by == "another":
        assert isinstance(outcome, CredentialDBError), "the connection is to a file that is gone"
        assert not isinstance(outcome, DatabaseBusy | NotADatabase)
        assert not victim.is_new()
    elif kind == "path" and not isinstance(outcome, CredentialDBError):
        assert outcome == (None, HEAD), "started again, it is a missing file"
        assert vault.stamps() == STAMPS
    else:
        assert isinstance(outcome, CredentialDBError)
        assert not vault.path.exists()


def test_a_file_that_is_replaced_while_an_upgrade_waits(
    plain_vault: Vault, tmp_path: Path, journal_mode: str
) -> None:
    """``timeout`` is one budget for all attempts."""
    old = plain_vault.create(content=keys(1), journal_mode=journal_mode)
    new = Vault(tmp_path / "new.db").create(content=keys(3), journal_mode=journal_mode)
    is_locked_too = journal_mode == "delete"  # in WAL mode the lock would be on another -shm
    with ThreadPoolExecutor(1) as thread, ExitStack() as locks:
        if is_locked_too:
            locks.enter_context(another_process(new, "BEGIN IMMEDIATE"))
        with another_process(old, "BEGIN IMMEDIATE"):
            begin = time.monotonic()
            upgrade = thread.submit(credential_db.upgrade, old.path, timeout=1)
            time.sleep(0.5)
            os.rename(new.path, old.path)
        if is_locked_too:
            with pytest.raises(CredentialDBError):
                upgrade.result()
        else:
            assert upgrade.result() == (0, HEAD)
        assert time.monotonic() - begin < 1.5
    assert credential_db.upgrade(old.path).after == HEAD
    assert old.stamps() == STAMPS
    assert old.value("SELECT count(*) FROM ssh_keys") == 3
