"""Promise 1: whatever interrupts an upgrade, the file is wholly the old version or the new one.

Detection, adoption, every revision, both stamps and the final checks are one transaction. After an
exception, a SIGKILL at any instant, a full disk or an I/O error the file is one of the two, and
running again completes. Every attack is made on each kind of target: see faults.py.
"""

import os
import random
import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import count, cycle
from operator import methodcaller
from pathlib import Path
from statistics import median
from typing import Any

import pytest

import credential_db
from credential_db import CredentialDBError
from faults import (
    BY_PATH,
    FAULTS,
    KINDS,
    Attack,
    Kind,
    Outcome,
    SystemCall,
    Upgrading,
    Victim,
    assert_bare,
    downgrade,
    is_closed,
    needs_strace,
    on_demand,
    state_of,
    under_strace,
    write_side_calls,
)
from vaults import Vault, keys

PAGE = 4096

FILES: dict[str, dict[str, Any]] = {
    "v0": {"content": keys(3)},
    "v0 in WAL": {"content": keys(3), "journal_mode": "wal"},
    "v0 without the check": {"content": keys(3), "check": False},  # its table is copied
    "v1": {"version": 1, "content": keys(3)},
    "v2": {"version": 2, "content": keys(3)},
    "oldest": {"tables": ("credentials", "proxy_tokens")},
    "empty": {"tables": ()},
    "missing": {},
}


def ensure(connection: Any) -> str:
    credential_db.ensure_credentials_schema(connection)
    return "done"


MOVES = {
    **KINDS,
    "ensure": replace(KINDS["legacy functions"], call=ensure),
    "downgrade": downgrade,
}


def victim_of(move: str, file: str, directory: Path) -> Victim:
    vault = MOVES[move].vault(directory)
    options = FILES[file]
    if options:
        vault.create(**options)
    version = 0 if file in ("v0", "v0 in WAL", "v0 without the check") else 2
    return Victim(vault, version=version, move=MOVES[move])


# --- A statement fails -------------------------------------------------------------------------

IMPORTANT = ("BEGIN", "COMMIT", "VACUUM", "PRAGMA main.user_version =", "PRAGMA main.wal_")

# The less a case has in common with the others, the smaller is its stride.
STATEMENTS = [
    ("path", "v0", "error", 3),
    ("path", "v0 in WAL", "full", 5),
    ("path", "v0 without the check", "interrupt", 7),
    ("path", "missing", "error", 1),
    ("path", "v0", "error for good", 17),
    ("connection", "v0", "interrupt", 5),
    ("connection", "v0 in WAL", "error for good", 7),
    ("connection", "v0 without the check", "error", 5),
    ("connection", "v1", "error after", 5),
    ("connection", "oldest", "full", 7),
    ("connection", "empty", "interrupt after", 1),
    ("legacy functions", "v0 in WAL", "error", 5),
    ("legacy functions", "v0 without the check", "interrupt after", 11),
    ("legacy functions", "v1", "full", 9),
    ("ensure", "empty", "error", 2),
    ("downgrade", "v2", "error", 13),
    ("downgrade", "v2", "interrupt after", 17),
]
ALL_STATEMENTS = [
    pytest.param(move, file, fault, 1, marks=on_demand)
    for move, file in sorted({case[:2] for case in STATEMENTS})
    for fault in FAULTS
]


@pytest.mark.parametrize(("move", "file", "fault", "stride"), [*STATEMENTS, *ALL_STATEMENTS])
def test_whichever_statement_fails(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    move: str,
    file: str,
    fault: str,
    stride: int,
) -> None:
    attack = Attack(monkeypatch)
    victim = victim_of(move, file, tmp_path)
    MOVES[move](victim.vault, attack)
    statements = attack.statements
    assert attack.committed, "no COMMIT was seen"
    assert len(statements) > 10, "too few statements: they were not all watched"
    for number, sql in enumerate(statements):
        if (number + len(fault)) % stride and not sql.startswith(IMPORTANT):
            continue
        victim.restore()
        try:
            fail_statement(victim, MOVES[move], attack.plan(number, fault))
        except AssertionError as error:
            error.add_note(f"{fault} at statement {number}: {sql}")
            raise
    victim.assert_completes()


def fail_statement(victim: Victim, move: Kind, attack: Attack) -> None:
    raised: BaseException | None = None
    try:
        move(victim.vault, attack)
    except (CredentialDBError, KeyboardInterrupt) as error:
        raised = error
    assert attack.failed, "no fault was injected"
    if attack.failed == attack.statements[-1:] or len(attack.failed) == 1:
        assert not attack.in_transaction, "the lock was kept"
    if move.connect is None:
        assert all(map(is_closed, attack.connections)), "a connection was left open"
    new = victim.is_new()
    assert new == attack.committed, "only what was committed may show in the file"
    if raised is not None:
        assert_bare(raised)
    if isinstance(raised, KeyboardInterrupt):
        return
    assert "interrupt" not in attack.fault, "an interrupt has to stay one"
    assert bool(raised) != new, (
        "an error means that nothing was changed, so one is due before the commit, and what fails "
        f"after it is for a warning; this was {raised!r}"
    )


def test_an_interrupt_at_the_commit_keeps_the_backup_of_what_it_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup = Vault(tmp_path / "backup.db")
    attack = Attack(monkeypatch)
    victim = victim_of("path", "v0", tmp_path)
    BY_PATH(victim.vault, attack, backup=backup.path)
    number = attack.statements.index("COMMIT")
    backup.path.unlink()
    for fault in ("interrupt", "interrupt after"):
        victim.restore()
        with pytest.raises(KeyboardInterrupt):
            BY_PATH(victim.vault, attack.plan(number, fault), backup=backup.path)
        if fault == "interrupt after":
            assert victim.is_new()
            assert backup.path.exists(), "the only copy of the old version has to stay"
            assert state_of(backup) == victim.old
        else:
            assert not victim.is_new()
            assert not backup.path.exists(), "nothing was changed, so no backup is left"


# --- The process is killed ---------------------------------------------------------------------


def kill_at_random_instants(victim: Victim, kind: Kind, kills: int) -> None:
    """Release an upgrade, kill it some time before it would be done; again and again."""
    usual = median(seconds_of_an_upgrade(victim, kind) for _ in range(3))
    instants = random.Random(kills)
    killed = 0
    for number in range(kills):
        process = Upgrading(victim.vault, kind)
        process.go()
        time.sleep(instants.uniform(0, usual))
        process.kill()
        try:
            outcome = process.outcome()
            killed += outcome is None
            assert victim.is_new() or outcome is None, "an upgrade that was reported has to stay"
            victim.assert_completes()
        except AssertionError as error:
            error.add_note(f"kill {number} of {kills}")
            raise
        victim.restore()
    assert killed, "no upgrade was killed"


def seconds_of_an_upgrade(victim: Victim, kind: Kind) -> float:
    process = Upgrading(victim.vault, kind)
    begin = time.perf_counter()
    process.go()
    assert not isinstance(process.outcome(), CredentialDBError)
    end = time.perf_counter()
    victim.restore()
    return end - begin


@pytest.mark.parametrize("kills", [6, pytest.param(300, marks=on_demand)])
@pytest.mark.parametrize(
    ("kind", "file"),
    [
        ("path", "v0"),
        ("path", "missing"),
        ("connection", "v0 without the check"),
        ("legacy functions", "v0 in WAL"),
    ],
)
def test_a_sigkill_at_any_instant(tmp_path: Path, kind: str, file: str, kills: int) -> None:
    kill_at_random_instants(victim_of(kind, file, tmp_path), KINDS[kind], kills)


# --- A system call is the last one, or fails ---------------------------------------------------

INJECTED = {"kill": "signal=SIGKILL", "EIO": "error=EIO", "ENOSPC": "error=ENOSPC"}


def some(calls: Sequence[SystemCall], stride: int) -> Iterator[tuple[SystemCall, str]]:
    """Each of the rarer calls and every so many of a kind that comes often, with a fault."""
    names = [call.name for call in calls]
    faults = cycle(INJECTED)
    for call in calls:
        if stride == 1:
            yield from ((call, fault) for fault in INJECTED)
        elif names.count(call.name) < 3 or call.number % stride == 0:
            yield call, next(faults)


def check_outcome(outcome: Outcome, new: bool) -> None:
    if isinstance(outcome, CredentialDBError):
        assert not new, f"it raised {outcome!r}, and yet the file is the new one"
    elif outcome is not None:
        assert new, "it reported an upgrade, and yet the file is the old one"


@needs_strace
@pytest.mark.parametrize("stride", [11, pytest.param(1, marks=on_demand)], ids=["some", "all"])
@pytest.mark.parametrize(
    ("kind", "file"),
    [
        ("path", "v0"),
        ("path", "v0 in WAL"),
        ("path", "missing"),
        ("connection", "v0"),
        ("legacy functions", "v0 in WAL"),
    ],
)
def test_a_fault_at_every_system_call_that_writes(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, kind: str, file: str, stride: int
) -> None:
    log = tmp_path_factory.mktemp("strace") / "log"
    victim = victim_of(kind, file, tmp_path)
    calls = write_side_calls(victim.vault, log, KINDS[kind])
    names = {call.name for call in calls}
    assert {"openat", "pwrite64", "unlink"} <= names
    assert names & {"fsync", "fdatasync"}
    attacked = 0
    for call, fault in some(calls, stride):
        victim.restore()
        inject = f"inject={call.name}:{INJECTED[fault]}:when={call.number}"
        try:
            outcome = under_strace(Upgrading(victim.vault, KINDS[kind]), log, "-e", inject)
            assert (outcome is None) == (fault == "kill"), "the fault was not where it should be"
            assert "(INJECTED)" in log.read_text() or fault == "kill", "no fault was injected"
            check_outcome(outcome, victim.is_new())
            victim.assert_completes()
        except AssertionError as error:
            error.add_note(f"{fault} at {call}")
            raise
        attacked += 1
    assert attacked > 3


@needs_strace
@pytest.mark.parametrize("stride", [4, pytest.param(1, marks=on_demand)], ids=["some", "all"])
def test_a_fault_while_the_backup_is_taken(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, stride: int
) -> None:
    """Under its own name there is a whole backup or none."""
    directory = tmp_path_factory.mktemp("backup")
    backup = Vault(directory / "backup.db")
    log = directory / "log"
    victim = victim_of("path", "v0", tmp_path)
    before = write_side_calls(victim.vault, log)
    victim.restore()
    options: dict[str, Any] = {"backup": backup.path}
    calls = write_side_calls(victim.vault, log, elsewhere=directory, **options)
    of_backup = [call for call in calls if call not in before]
    assert {"fsync", "openat"} <= {call.name for call in of_backup}
    for call, fault in some(of_backup, stride):
        victim.restore()
        backup.path.unlink(missing_ok=True)
        inject = f"inject={call.name}:{INJECTED[fault]}:when={call.number}"
        outcome = under_strace(Upgrading(victim.vault, **options), log, "-e", inject)
        check_outcome(outcome, victim.is_new())
        if backup.path.exists():
            assert state_of(backup) == victim.old, f"{fault} at {call}: the backup is not whole"
        else:
            assert not victim.is_new(), f"{fault} at {call}: it went on without a backup"
        victim.assert_completes()


# --- The disk is full --------------------------------------------------------------------------


@contextmanager
def limited(kind: int, number: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (number, hard))
    try:
        yield
    finally:
        resource.setrlimit(kind, (soft, hard))


LIMITS = [
    ("pages", "path", "v0 without the check"),
    ("pages", "path", "v0 in WAL"),
    ("pages", "path", "empty"),
    ("pages", "connection", "v0 without the check"),
    ("pages", "connection", "oldest"),
    ("pages", "legacy functions", "v0 in WAL"),
    ("pages", "downgrade", "v2"),
    ("file size", "path", "v0"),
    ("file size", "path", "missing"),
    ("file size", "connection", "v0"),
    ("file size", "legacy functions", "v0 in WAL"),
    ("open files", "path", "v0"),
    ("open files", "path", "missing"),
    ("open files", "connection", "v0"),
]


@pytest.mark.parametrize(("limit", "move", "file"), LIMITS)
def test_a_limit_that_is_too_low(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, move: str, file: str
) -> None:
    """From next to nothing up to what it takes: SQLITE_FULL, SQLITE_IOERR, SQLITE_CANTOPEN."""
    attack = Attack(monkeypatch)
    victim = victim_of(move, file, tmp_path)
    pages = victim.vault.path.stat().st_size // PAGE if limit == "pages" else 0
    refused = 0
    for number in count():
        victim.restore()
        raised: CredentialDBError | None = None
        with ExitStack() as stack:
            spare = [stack.enter_context(open(os.devnull)) for _ in range(50)][-1].fileno() + 1
            cause: Any = attack.plan()
            if limit == "pages":
                attack.first = methodcaller(
                    "execute", f"PRAGMA max_page_count = {max(1, pages + number)}"
                )
            elif limit == "file size":
                cause = limited(resource.RLIMIT_FSIZE, number * 3 * PAGE)
            else:
                cause = limited(resource.RLIMIT_NOFILE, spare + number)
            try:
                MOVES[move](victim.vault, cause)
            except CredentialDBError as error:
                raised = error
        assert victim.is_new() == (raised is None), f"{number}: {raised!r}"
        assert not attack.in_transaction
        refused += raised is not None
        victim.assert_completes()
        if raised is None:
            break
    assert refused, "it had all that it needs"
