"""Promise 1: whatever interrupts an upgrade, the file is wholly the old version or the new one.

Detection, adoption, every revision, both stamps and the final checks are one transaction. After an
exception, a SIGKILL at any instant, a full disk or an I/O error the file is one of the two, and
running again completes.
"""

import random
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from alembic import command

import credential_db
from attacks import (
    FailingStatement,
    Outcome,
    SystemCall,
    Upgrading,
    Victim,
    Watched,
    state_of,
    strace_is_missing,
    under_strace,
    write_side_calls,
)
from conftest import PASSPHRASE
from credential_db import CredentialDBError, Upgrade, scripts
from vaults import TABLES, Vault, keys

PAGE = 4096

on_demand = pytest.mark.skipif(
    "'long' not in config.getoption('markexpr')", reason="a longer run: pytest -m long"
)
needs_strace = pytest.mark.skipif(strace_is_missing(), reason="strace is not installed")


@pytest.fixture(params=["delete", "wal"])
def journal_mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def upgrade(connection: Any) -> None:
    credential_db.upgrade(connection)


def downgrade(connection: Any) -> None:
    config = scripts.config()
    config.attributes["connection"] = connection
    command.downgrade(config, "v0")


def downgrade_file(vault: Vault) -> None:
    with closing(vault.connect()) as connection:
        downgrade(connection)


def victim_at(version: int, vault: Vault, **options: Any) -> Victim:
    """Of an upgrade to v2, or of the way back where it is there already."""
    vault.create(version, **options)
    if version < 2:
        return Victim(vault, shape=version)
    return Victim(vault, move=downgrade_file)


# --- A statement fails -------------------------------------------------------------------------


def fail_each_statement(victim: Victim, move: Callable[[Any], None], *, for_good: bool) -> None:
    """Fail the first statement, then the second and so on, until there are no more."""
    for number in count(1):
        raised: Exception | None = None
        with closing(sqlite3.connect(victim.vault.path, factory=Watched)) as connection:
            fault = FailingStatement(connection, number, for_good=for_good)
            try:
                move(connection)
            except CredentialDBError as error:
                raised = error
            where = f"statement {number}, {fault.failed}, failed"
            assert for_good or not connection.in_transaction, f"{where}: the lock was kept"
        if not fault.failed:
            break
        assert connection.committed == fault.too_late, f"{where}, and yet it was committed"
        assert victim.is_new() == connection.committed, (
            f"{where}: only what was committed may show in the file"
        )
        assert bool(raised) != fault.too_late, (
            f"{where}: an error says that nothing was changed, so one is due before the commit, "
            f"and what fails after it is for a warning; this was {raised!r}"
        )
        if connection.committed:
            victim.restore()
    assert number > 100, "too few statements for an upgrade: they were not all watched"
    assert victim.is_new(), "running again has to complete"


# Each has nearly all of its statements in common with the ones that are left out: v1 to v2, files
# without rows, the other journal mode.
@pytest.mark.parametrize(
    ("version", "journal_mode", "check"),
    [(0, "delete", True), (0, "wal", False), (2, "delete", True)],
    ids=["v0 to v2, delete", "v0 to v2 with a table copy, wal", "v2 to v0, delete"],
)
def test_whichever_statement_fails(
    plain_vault: Vault, version: int, journal_mode: str, check: bool
) -> None:
    victim = victim_at(
        version, plain_vault, content=keys(2), journal_mode=journal_mode, check=check
    )
    fail_each_statement(victim, downgrade if version == 2 else upgrade, for_good=False)


@pytest.mark.parametrize(
    ("version", "journal_mode"),
    [(0, "wal"), (2, "delete")],
    ids=["v0 to v2, wal", "v2 to v0, delete"],
)
def test_whichever_statement_is_the_last_that_works(
    plain_vault: Vault, version: int, journal_mode: str
) -> None:
    """Not even ROLLBACK gets through any more: closing the connection is enough."""
    victim = victim_at(version, plain_vault, content=keys(2), journal_mode=journal_mode)
    fail_each_statement(victim, downgrade if version == 2 else upgrade, for_good=True)


def test_a_failure_leaves_a_connection_that_can_try_again(
    plain_vault: Vault, journal_mode: str
) -> None:
    victim = victim_at(0, plain_vault, content=keys(4), journal_mode=journal_mode)
    with closing(sqlite3.connect(plain_vault.path, factory=Watched)) as connection:
        for number in range(1, 200, 7):
            fault = FailingStatement(connection, number, for_good=False)
            with suppress(CredentialDBError):
                credential_db.upgrade(connection)
            if connection.committed:
                break
            assert fault.failed
        connection.before = lambda _: None
        credential_db.upgrade(connection)
    assert victim.is_new()


# --- The process is killed ---------------------------------------------------------------------


def kill_at_random_instants(victim: Victim, kills: int, seed: int) -> None:
    """Release an upgrade, kill it some time before it would be done; again and again."""
    usual = median(seconds_of_an_upgrade(victim) for _ in range(5))
    instants = random.Random(seed)
    for number in range(kills):
        process = Upgrading(victim.vault)
        process.go()
        time.sleep(instants.uniform(0, usual))
        process.kill()
        try:
            outcome = process.outcome()
            new = victim.is_new()
            assert new or outcome is None, "an upgrade that was reported has to stay"
        except AssertionError as error:
            error.add_note(f"kill {number} with the seed {seed}")
            raise
        victim.assert_completes()
        victim.restore()


def seconds_of_an_upgrade(victim: Victim) -> float:
    process = Upgrading(victim.vault)
    begin = time.perf_counter()
    process.go()
    process.outcome()
    end = time.perf_counter()
    victim.restore()
    return end - begin


KILLED = {
    "v0": {"version": 0},
    "v0 without the check": {"version": 0, "check": False},  # its table is copied
    "v1": {"version": 1},
}


@pytest.mark.parametrize(
    ("file", "journal_mode", "kills"),
    [
        ("v0", "delete", 20),
        ("v0", "wal", 20),
        ("v0 without the check", "delete", 8),
        ("v0 without the check", "wal", 8),
        ("v1", "delete", 4),
        ("v1", "wal", 4),
        pytest.param("v0", "delete", 500, marks=[pytest.mark.long, on_demand]),
        pytest.param("v0", "wal", 500, marks=[pytest.mark.long, on_demand]),
        pytest.param("v0 without the check", "wal", 200, marks=[pytest.mark.long, on_demand]),
    ],
)
def test_a_sigkill_at_any_instant(
    plain_vault: Vault, file: str, journal_mode: str, kills: int
) -> None:
    options: dict[str, Any] = KILLED[file]
    plain_vault.create(content=keys(100), journal_mode=journal_mode, **options)
    kill_at_random_instants(Victim(plain_vault, shape=options["version"]), kills, seed=kills)


@pytest.mark.parametrize("vault", [PASSPHRASE], ids=["encrypted"], indirect=True)
@pytest.mark.parametrize("kills", [6, pytest.param(60, marks=[pytest.mark.long, on_demand])])
def test_a_sigkill_at_any_instant_of_an_encrypted_upgrade(vault: Vault, kills: int) -> None:
    vault.create(content=keys(50), journal_mode="wal")
    kill_at_random_instants(Victim(vault), kills, seed=kills)


# --- A system call is the last one, or fails ---------------------------------------------------

FAULTS = {"kill": "signal=SIGKILL", "EIO": "error=EIO", "ENOSPC": "error=ENOSPC"}


def some(calls: list[SystemCall], stride: int, offset: int) -> Iterator[SystemCall]:
    """Each of the rarer calls, and every so many of a kind that comes often."""
    names = [call.name for call in calls]
    for call in calls:
        often = names.count(call.name) > stride
        if not often or call.number % stride == offset % stride:
            yield call


def check_outcome(outcome: Outcome, new: bool) -> None:
    if isinstance(outcome, Upgrade):
        assert new, "it said that it upgraded the file, which is still the old one"
    if isinstance(outcome, CredentialDBError) and "nothing was changed" in str(outcome):
        assert not new, f"it said {str(outcome)!r}, and yet the file is the new one"


@needs_strace
@pytest.mark.parametrize(
    "stride", [8, pytest.param(1, marks=[pytest.mark.long, on_demand])], ids=["some", "all"]
)
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("file", ["v0, delete", "v0, wal", "missing"])
def test_a_fault_at_every_system_call_that_writes(
    plain_vault: Vault, tmp_path_factory: pytest.TempPathFactory, file: str, fault: str, stride: int
) -> None:
    log = tmp_path_factory.mktemp("strace") / "log"
    if file != "missing":
        plain_vault.create(content=keys(3), journal_mode=file.removeprefix("v0, "))
    victim = Victim(plain_vault, shape=2 if file == "missing" else 0)
    calls = write_side_calls(plain_vault, log)
    assert {"openat", "pwrite64", "fdatasync", "unlink"} <= {call.name for call in calls}
    for call in some(calls, stride, list(FAULTS).index(fault)):
        victim.restore()
        try:
            outcome = under_strace(
                Upgrading(plain_vault),
                log,
                "-e",
                f"inject={call.name}:{FAULTS[fault]}:when={call.number}",
            )
            assert (outcome is None) == (fault == "kill"), "the fault was not where it should be"
            check_outcome(outcome, victim.is_new())
            victim.assert_completes()
        except AssertionError as error:
            error.add_note(f"{fault} at {call}")
            raise


@needs_strace
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_while_the_backup_is_taken(
    plain_vault: Vault, tmp_path_factory: pytest.TempPathFactory, fault: str
) -> None:
    """Under its own name there is a whole backup or none."""
    directory = tmp_path_factory.mktemp("backup")
    backup = Vault(directory / "backup.db")
    log = directory / "log"
    plain_vault.create(content=keys(3))
    victim = Victim(plain_vault)
    before = write_side_calls(plain_vault, log)
    victim.restore()
    calls = write_side_calls(plain_vault, log, elsewhere=directory, backup=backup.path)
    of_backup = [call for call in calls if call not in before]
    assert {"link", "unlink", "fsync"} <= {call.name for call in of_backup}
    for call in some(of_backup, 8, list(FAULTS).index(fault)):
        victim.restore()
        backup.path.unlink()
        under_strace(
            Upgrading(plain_vault, backup=backup.path),
            log,
            "-e",
            f"inject={call.name}:{FAULTS[fault]}:when={call.number}",
        )
        victim.is_new()
        if backup.path.exists():
            assert state_of(backup) == victim.old, f"{fault} at {call}: the backup is not whole"
        else:
            assert not victim.is_new(), f"{fault} at {call}: it went on without a backup"
            backup.path.touch()
        victim.assert_completes()


# --- The disk is full --------------------------------------------------------------------------

FULL: dict[str, dict[str, Any]] = {
    "v0": {"version": 0},
    "v0 without the check": {"version": 0, "check": False},  # its table is copied
    "v1": {"version": 1},
    "v2 to v0": {"version": 2},
    "oldest": {"version": 0, "tables": ("credentials", "proxy_tokens")},
    "empty": {"version": 0, "tables": ()},
}


@pytest.mark.parametrize("file", FULL)
def test_a_database_that_may_not_grow(plain_vault: Vault, journal_mode: str, file: str) -> None:
    refuse_to_grow(plain_vault, FULL[file], journal_mode)


@pytest.mark.parametrize("vault", [PASSPHRASE], ids=["encrypted"], indirect=True)
@pytest.mark.parametrize("file", ["v0", "v2 to v0"])
def test_an_encrypted_database_that_may_not_grow(vault: Vault, file: str) -> None:
    refuse_to_grow(vault, FULL[file], "wal")


def refuse_to_grow(vault: Vault, options: dict[str, Any], journal_mode: str) -> None:
    """``PRAGMA max_page_count`` from the pages that there are to those that it takes."""
    rows = keys(20) if options.get("tables", TABLES) == TABLES else None
    if options["version"] == 2:
        victim = victim_at(2, vault, content=rows, journal_mode=journal_mode)
    else:
        vault.create(content=rows, journal_mode=journal_mode, **options)
        shape = 2 if "tables" in options else options["version"]
        victim = Victim(vault, shape=shape)
    move = downgrade if options["version"] == 2 else upgrade
    refused = 0
    for pages in count(vault.value("PRAGMA page_count")):
        error = ""
        with closing(vault.connect()) as connection:
            connection.execute(f"PRAGMA max_page_count = {pages}")
            try:
                move(connection)
            except CredentialDBError as caught:
                error = str(caught)
        if not error:
            break
        assert "the disk is full" in error
        assert not victim.is_new(), f"with {pages} pages: the error said that nothing was changed"
        refused += 1
    assert refused, "there was room for all of it from the beginning"
    assert victim.is_new()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB; only root may make one."""
    directory = tmp_path / "small disk"
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={256 * PAGE}", "tmpfs", str(directory)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip(f"no tmpfs may be mounted here: {done.stderr.strip()}")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


@pytest.mark.parametrize(
    "stride", [3, pytest.param(1, marks=[pytest.mark.long, on_demand])], ids=["some", "all"]
)
@pytest.mark.parametrize("version", [0, 1])
def test_a_file_system_that_fills_up(
    small_disk: Path, journal_mode: str, version: int, stride: int
) -> None:
    """In a process of its own: a full disk below a memory-mapped file is a SIGBUS."""
    vault = Vault(small_disk / "credentials.db")
    vault.create(version, content=keys(30), journal_mode=journal_mode)
    victim = Victim(vault, shape=version)
    filler = small_disk / "filler"
    refused = 0
    for pages in count(0, stride):
        leave_free(small_disk, filler, pages)
        process = Upgrading(vault)
        process.go()
        outcome = process.outcome()
        filler.unlink()
        try:
            check_outcome(outcome, victim.is_new())
            victim.assert_completes()
        except AssertionError as error:
            error.add_note(f"with {pages} pages free")
            raise
        victim.restore()
        if isinstance(outcome, Upgrade):
            break
        refused += 1
    assert refused > 1, "there was room for all of it from the beginning"


def leave_free(disk: Path, filler: Path, pages: int) -> None:
    """Fill a file system up to so many pages."""
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(PAGE))
    with filler.open("r+b") as file:
        file.truncate(max(filler.stat().st_size - pages * PAGE, 0))
