"""``backup=``: under its own name a whole copy of the old version, or nothing at all.

It is decided while the lock is held, so of many starters one writes it, and only where there is
something to change.
"""

import os
import resource
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

import alembic.command
import pytest

import credential_db
from attacks import (
    Outcome,
    SignalAt,
    Upgrading,
    Victim,
    skip_under_coverage,
    under_strace,
    upgrade_together,
    warm,
    write_side_calls,
)
from conftest import CommandLine
from credential_db import CredentialDBError, Upgrade, scripts
from test_promise_1_all_or_nothing import needs_strace, small_disk, some
from vaults import HEAD, Vault, keys

__all__ = ["small_disk"]  # a fixture


def names(directory: Path) -> list[str]:
    return sorted(file.name for file in directory.iterdir())


def is_the_old_version(vault: Vault, content: object) -> None:
    assert vault.stamps() == (None, 0)
    assert vault.content() == content
    vault.check_integrity()


# Several at once


@pytest.mark.parametrize("journal_mode", ["delete", "wal"])
@pytest.mark.parametrize("paths", ["one path", "a path each"])
def test_of_several_starters_one_writes_one_backup(
    plain_vault: Vault, paths: str, journal_mode: str
) -> None:
    old = plain_vault.create(content=keys(3), journal_mode=journal_mode).content()
    directory = plain_vault.path.parent / "backups"
    directory.mkdir()
    outcomes = upgrade_together(
        [plain_vault] * 5,
        [{"backup": directory / (paths if paths == "one path" else str(n))} for n in range(5)],
    )
    assert sorted(map(str, outcomes)) == sorted(
        map(str, [Upgrade(0, HEAD), *[Upgrade(HEAD, HEAD)] * 4])
    ), "who comes second finds nothing to change, and so nothing to copy"
    (backup,) = directory.iterdir()
    is_the_old_version(Vault(backup), old)


def test_of_several_starters_none_copies_a_current_file(plain_vault: Vault) -> None:
    credential_db.upgrade(plain_vault.create().path)
    before = names(plain_vault.path.parent)
    backup = plain_vault.path.parent / "backup.db"
    outcomes = upgrade_together([plain_vault] * 4, [{"backup": backup}] * 4)
    assert outcomes == [Upgrade(HEAD, HEAD)] * 4
    assert names(plain_vault.path.parent) == before


@pytest.mark.parametrize(
    ("command", "is_written"),
    [
        ("upgrade head", False),
        ("upgrade heads", False),
        (f"upgrade v{HEAD}", False),
        (f"downgrade v{HEAD}", False),
        (f"stamp v{HEAD}", False),
        (f"stamp --purge v{HEAD}", True),
        ("-x repair=true upgrade head", True),
        ("downgrade v1", True),
    ],
)
def test_a_current_file_is_copied_where_a_command_may_change_it(
    plain_vault: Vault, shell: CommandLine, command: str, is_written: bool
) -> None:
    credential_db.upgrade(plain_vault.create().path)
    backup = plain_vault.path.with_name("backup.db")
    result = shell("-x", f"db={plain_vault.path}", "-x", f"backup={backup}", *command.split())
    assert result.returncode == 0, result.stderr
    assert backup.exists() == is_written
    assert ("so no backup was written" in result.stderr) == (not is_written)


def test_a_command_that_goes_nowhere_takes_a_backup_too(plain_vault: Vault) -> None:
    credential_db.upgrade(plain_vault.create().path)
    config = scripts.config()
    backup = plain_vault.path.with_name("backup.db")
    config.attributes.update(connection=str(plain_vault.path), backup=backup)
    alembic.command.ensure_version(config)
    assert backup.exists(), "it may write"


@pytest.mark.parametrize("_", range(4))
def test_of_two_databases_with_one_backup_path_one_gets_it(tmp_path: Path, _: int) -> None:
    vaults = [Vault(tmp_path / str(n) / "credentials.db") for n in range(3)]
    contents = []
    for number, vault in enumerate(vaults):
        vault.path.parent.mkdir()
        contents.append(vault.create(content=keys(2 + number)).content())
    backup = Vault(tmp_path / "backup.db")
    outcomes = upgrade_together(vaults, [{"backup": backup.path}] * 3)
    won = [number for number, outcome in enumerate(outcomes) if isinstance(outcome, Upgrade)]
    assert len(won) == 1, f"one of them has to get it: {[str(outcome) for outcome in outcomes]}"
    is_the_old_version(backup, contents[won[0]])
    for vault, outcome, content in zip(vaults, outcomes, contents, strict=True):
        if outcome is not outcomes[won[0]]:
            assert f"{backup.path} exists already" in str(outcome)
            is_the_old_version(vault, content)
    assert names(tmp_path) == ["0", "1", "2", "backup.db"], "nothing half-made may be left"


# Whatever interrupts it


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of such a one
def test_an_interrupt_at_any_line_of_the_backup_leaves_nothing_of_it(plain_vault: Vault) -> None:
    """Else the next run would say that the backup exists already."""
    skip_under_coverage()
    plain_vault.create(content=keys(1))
    credential_db.upgrade(plain_vault.path, dry_run=True)  # imports what it needs
    old = plain_vault.content()
    backup = plain_vault.path.parent / "backup.db"
    for number in count():
        attack = SignalAt(
            KeyboardInterrupt(),
            number,
            lambda event, frame: (
                event == "line" and frame.f_code.co_filename.endswith("/sqlite/backup.py")
            ),
        )
        outcome = attack.outcome_of(lambda: credential_db.upgrade(plain_vault.path, backup=backup))
        if not attack.where:
            break
        assert isinstance(outcome, KeyboardInterrupt)
        found = [file for file in plain_vault.path.parent.iterdir() if file.stat().st_size]
        assert found == [plain_vault.path], f"{found} after {attack.where}"
        assert not backup.exists()
        is_the_old_version(plain_vault, old)
    assert number > 10
    assert outcome == (0, HEAD)
    assert backup.exists()


@needs_strace
def test_the_next_run_completes_a_backup_that_was_killed(
    plain_vault: Vault, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("backup")
    log = tmp_path_factory.mktemp("strace") / "log"
    backup = Vault(directory / "backup.db")
    victim = Victim(plain_vault.create(content=keys(3)))
    before = write_side_calls(plain_vault, log)
    victim.restore()
    calls = write_side_calls(plain_vault, log, elsewhere=directory, backup=backup.path)
    partials = 0
    for call in some([call for call in calls if call not in before], 5, 0):
        victim.restore()
        for file in directory.iterdir():
            file.unlink()
        kill = ("-e", f"inject={call.name}:signal=SIGKILL:when={call.number}")
        under_strace(Upgrading(plain_vault, backup=backup.path), log, *kill)
        if backup.path.exists():
            is_the_old_version(backup, victim.old.content)
            backup.path.unlink()
        victim.restore()
        left = names(directory)
        assert len(left) <= 1, f"README names one file that a kill may leave: {left} after {call}"
        partials += len(left)
        assert credential_db.upgrade(plain_vault.path, backup=backup.path) == (0, HEAD)
        assert names(directory) == ["backup.db"], f"the next run takes {left} away, after {call}"
        is_the_old_version(backup, victim.old.content)
    assert partials, "this test has to hit the copy"


# Where it cannot be


def link_to(vault: Vault, path: Path) -> Path:
    path.symlink_to(vault.path)
    return path


def fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


def directory(path: Path) -> Path:
    path.mkdir()
    return path


def beside(vault: Vault, ending: str) -> Path:
    return vault.path.with_name(vault.path.name + ending)


PLACES: dict[str, tuple[Callable[[Vault], Path], str]] = {
    "the database": (lambda vault: vault.path, "exists already"),
    "its log": (lambda vault: beside(vault, "-wal"), "a file of its own|exists already"),
    "its journal": (lambda vault: beside(vault, "-journal"), "a file of its own"),
    "its index of the log": (lambda vault: beside(vault, "-shm"), "a file of its own|exists"),
    "its journal, by another name": (
        lambda vault: directory(vault.path.parent / "there") / ".." / "credentials.db-journal",
        "a file of its own",
    ),
    "a link to the database": (
        lambda vault: link_to(vault, vault.path.parent / "link"),
        "exists already",
    ),
    "a link to nothing": (
        lambda vault: link_to(Vault(Path("nothing")), vault.path.parent / "link"),
        "exists already",
    ),
    "a directory": (lambda vault: directory(vault.path.parent / "there"), "exists already"),
    "a FIFO": (lambda vault: fifo(vault.path.parent / "fifo"), "exists already"),
    "a device": (lambda _: Path("/dev/null"), "exists already"),
    "no directory": (
        lambda vault: vault.path.parent / "no" / "b.db",
        "no directory for the backup",
    ),
    "below a file": (lambda vault: vault.path / "b.db", "Not a directory"),
    "too long a name": (lambda vault: vault.path.parent / ("b" * 256), "name too long"),
}


@pytest.mark.parametrize("journal_mode", ["delete", "wal"])
@pytest.mark.parametrize("place", PLACES)
def test_a_place_that_cannot_take_a_backup(
    plain_vault: Vault, place: str, journal_mode: str
) -> None:
    old = plain_vault.create(content=keys(1), journal_mode=journal_mode).content()
    where, said = PLACES[place]
    path = where(plain_vault)
    before = names(plain_vault.path.parent)
    with pytest.raises(CredentialDBError, match=said) as error:
        credential_db.upgrade(plain_vault.path, backup=path)
    assert path.name in str(error.value)
    is_the_old_version(plain_vault, old)
    assert names(plain_vault.path.parent) == before


@pytest.mark.parametrize("ending", ["-wal", "-journal", "-shm"])
def test_a_file_that_sqlite_would_take_for_a_part_of_the_backup_is_in_the_way(
    plain_vault: Vault, ending: str
) -> None:
    """The log of a database that was there before would be played into the copy."""
    old = plain_vault.create(content=keys(1)).content()
    stale = plain_vault.path.parent / f"backup.db{ending}"
    stale.write_bytes(b"of another database")
    with pytest.raises(CredentialDBError, match=f"backup.db{ending} exists already"):
        credential_db.upgrade(plain_vault.path, backup=plain_vault.path.parent / "backup.db")
    is_the_old_version(plain_vault, old)
    assert stale.read_bytes() == b"of another database"


def test_no_file_of_anybody_elses_is_replaced(plain_vault: Vault) -> None:
    """Not even one that is named as a half-made backup might be."""
    vault = Vault(plain_vault.path.parent / "backup.partial")
    old = vault.create(content=keys(1)).content()
    others = plain_vault.path.parent / "backup.db.partial"
    others.write_text("a download of theirs")
    for path in (vault.path.with_suffix(""), others.with_suffix("")):
        assert Upgrade(0, HEAD) == credential_db.upgrade(vault.path, backup=path)
        is_the_old_version(Vault(path), old)
        Vault(path).path.replace(vault.path)
    assert others.read_text() == "a download of theirs"


def _without_room(gate: Any, path: Path, backup: Path) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
    try:
        gate.send(credential_db.upgrade(path, backup=backup))
    except CredentialDBError as error:
        gate.send(error)


def without_room(vault: Vault, backup: Path) -> Outcome:
    gate, theirs = warm.Pipe()
    process = warm.Process(target=_without_room, args=(theirs, vault.path, backup))
    process.start()
    outcome: Outcome = gate.recv()
    process.join()
    return outcome


def is_refused_for(vault: Vault, backup: Path, content: object, outcome: Outcome) -> None:
    assert isinstance(outcome, CredentialDBError)
    assert str(backup) in str(outcome), "the operator has to look at the right disk"
    assert "nothing was changed" in str(outcome)
    is_the_old_version(vault, content)
    assert [name for name in names(backup.parent) if name.startswith(backup.name)] == []


def test_a_backup_that_may_not_grow(plain_vault: Vault) -> None:
    old = plain_vault.create(content=keys(50)).content()
    backup = plain_vault.path.parent / "backup.db"
    is_refused_for(plain_vault, backup, old, without_room(plain_vault, backup))


@pytest.mark.parametrize("journal_mode", ["delete", "wal"])
def test_a_disk_that_a_backup_fills_up(
    plain_vault: Vault, small_disk: Path, journal_mode: str
) -> None:
    plain_vault.create(content=keys(3), journal_mode=journal_mode)
    plain_vault.execute("CREATE TABLE theirs (a)", "INSERT INTO theirs VALUES (zeroblob(2000000))")
    old = plain_vault.content()
    backup = small_disk / "backup.db"
    with pytest.raises(CredentialDBError) as error:
        credential_db.upgrade(plain_vault.path, backup=backup)
    is_refused_for(plain_vault, backup, old, error.value)


@needs_strace
def test_a_file_system_without_hard_links(
    plain_vault: Vault, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Some network mounts, say."""
    old = plain_vault.create(content=keys(2)).content()
    backup = Vault(tmp_path_factory.mktemp("backup") / "backup.db")
    log = tmp_path_factory.mktemp("strace") / "log"
    no_links = ("-e", "inject=link:error=EPERM")
    outcome = under_strace(Upgrading(plain_vault, backup=backup.path), log, *no_links)
    assert outcome == (0, HEAD)
    is_the_old_version(backup, old)
    assert names(backup.path.parent) == ["backup.db"]


@pytest.mark.parametrize("journal_mode", ["delete", "wal"])
def test_a_connection_that_locks_out_every_other_cannot_be_copied_from(
    plain_vault: Vault, journal_mode: str
) -> None:
    """It would wait for itself, and then blame another program."""
    old = plain_vault.create(content=keys(1), journal_mode=journal_mode).content()
    with closing(sqlite3.connect(plain_vault.path)) as connection:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("INSERT INTO credentials VALUES ('a', 'b', 'c')")
        connection.execute("DELETE FROM credentials WHERE credential_set = 'a'")
        connection.commit()
        with pytest.raises(CredentialDBError, match="locking_mode"):
            credential_db.upgrade(
                connection, backup=plain_vault.path.parent / "backup.db", timeout=3600
            )
    is_the_old_version(plain_vault, old)
