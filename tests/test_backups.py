"""``backup=``: under its own name a complete copy of the old version, or nothing."""

import os
import re
import resource
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlcipher3 import dbapi2 as sqlcipher

import credential_db
from credential_db import CredentialDBError, ReadOnlyDatabase, Upgrade
from credential_db.sqlite import backup as backups
from faults import Upgrading, another_process, needs_strace, under_strace, upgrade_together
from test_files import NOBODY, apart, as_root, public
from vaults import HEAD, Vault, keys

__all__ = ["public"]  # a fixture


def names(directory: Path) -> list[str]:
    return sorted(file.name for file in directory.iterdir())


def is_the_old_version(vault: Vault, content: object) -> None:
    assert vault.stamps() == (None, 0)
    assert vault.content() == content
    vault.check_integrity()


@pytest.mark.parametrize("journal_mode", ["delete", "wal", "persist"])
def test_a_backup_is_a_complete_copy_of_the_old_version(vault: Vault, journal_mode: str) -> None:
    old = vault.create(content=keys(3), journal_mode=journal_mode).content()
    copy = Vault(vault.path.with_name("backup.db"), vault.passphrase)
    with another_process(vault, "SELECT count(*) FROM credentials"):
        assert credential_db.upgrade(vault.path, backup=copy.path, **vault.options) == (0, HEAD)
    is_the_old_version(copy, old)
    assert (b"SQLite format 3" in copy.path.read_bytes()) == (vault.passphrase is None)
    assert [name for name in names(vault.path.parent) if "backup" in name] == ["backup.db"]
    credential_db.upgrade(copy.path, **vault.options)
    assert copy.content() == vault.content(), "a backup can be upgraded, too"


@pytest.mark.parametrize("driver", [sqlite3, sqlcipher])
def test_a_backup_of_a_connection(plain_vault: Vault, driver: Any) -> None:
    old = plain_vault.create(content=keys(2)).content()
    with closing(driver.connect(str(plain_vault.path))) as connection:
        backup = plain_vault.path.with_name("backup.db")
        assert credential_db.upgrade(connection, backup=backup) == (0, HEAD)
    is_the_old_version(Vault(backup), old)


@pytest.mark.parametrize("version", [0, 1])
def test_the_default_name(
    plain_vault: Vault, version: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "credential_db")
    link = plain_vault.path.parent / "links" / "link.db"
    link.parent.mkdir()
    link.symlink_to(plain_vault.create(version).path)
    for before in (version, HEAD):
        assert credential_db.upgrade(link, backup=True) == (before, HEAD)
        [copy] = plain_vault.path.parent.glob("*.bak")
        assert re.fullmatch(rf"credentials\.db\.v{version}\.\d{{8}}T\d{{6}}Z\.bak", copy.name)
    assert copy.name in caplog.text
    assert Vault(copy).stamps() == (None, version)


def test_a_default_name_that_is_taken_gets_a_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.gmtime", lambda: (2026, 11, 26, 10, 45, 0, 3, 330, 0))
    start = tmp_path / "credentials.db.v1.20261126T104500Z"
    for ending in (".bak", "-2.bak", "-3.bak"):
        found = backups.default_backup(str(tmp_path / "credentials.db"), 1)
        assert found == f"{start}{ending}"
        Path(found).touch()


@pytest.mark.parametrize("paths", ["one path", "a path each", "default"])
def test_of_several_starters_one_writes_one_backup(plain_vault: Vault, paths: str) -> None:
    old = plain_vault.create(content=keys(3), journal_mode="wal").content()
    directory = plain_vault.path.parent / "backups"
    directory.mkdir()
    given: dict[str, list[Any]] = {
        "one path": [directory / "one"] * 4,
        "a path each": [directory / str(number) for number in range(4)],
        "default": [True] * 4,
    }
    options = [{"backup": path} for path in given[paths]]
    outcomes = upgrade_together([plain_vault] * 4, options=options)
    assert sorted(map(str, outcomes)) == sorted(
        map(str, [Upgrade(0, HEAD), *[Upgrade(HEAD, HEAD)] * 3])
    )
    [backup] = [*directory.iterdir(), *plain_vault.path.parent.glob("*.bak")]
    is_the_old_version(Vault(backup), old)


def test_a_refused_upgrade_leaves_no_backup(plain_vault: Vault) -> None:
    plain_vault.create(content=keys(1))
    plain_vault.execute("UPDATE ssh_keys SET private_pem = x'00'")
    for backup in (plain_vault.path.with_name("backup.db"), True):
        with pytest.raises(credential_db.KeyConversionError):
            credential_db.upgrade(plain_vault.path, backup=backup)
        assert names(plain_vault.path.parent) == ["credentials.db"]


def beside(vault: Vault, name: str, make: Callable[[Path], object]) -> Path:
    make(vault.path.with_name(name))
    return vault.path.with_name(name)


PLACES: dict[str, Callable[[Vault], Path | str]] = {
    "the database": lambda vault: vault.path,
    "its log": lambda vault: f"{vault.path}-wal",
    "its journal, by another name": lambda vault: (
        beside(vault, "there", Path.mkdir) / ".." / "credentials.db-journal"
    ),
    "a link to nothing": lambda vault: beside(vault, "link", lambda path: path.symlink_to("no")),
    "a directory": lambda vault: beside(vault, "there", Path.mkdir),
    "next to a log": lambda vault: beside(vault, "b.db-wal", Path.touch).with_name("b.db"),
    "no directory": lambda vault: vault.path.with_name("no") / "b.db",
    "below a file": lambda vault: vault.path / "b.db",
    "a name that is too long for a journal": lambda vault: vault.path.with_name("b" * 250),
    "nothing": lambda _: "",
    "a URL": lambda vault: f"sqlite:///{vault.path}.bak",
    "a name of SQLite's": lambda vault: f"file:{vault.path}.bak",
    "no user's home": lambda _: "~no-such-user-here/b.db",
}


@pytest.mark.parametrize("journal_mode", ["delete", "wal"])
@pytest.mark.parametrize("place", PLACES)
def test_a_place_that_cannot_take_a_backup(
    plain_vault: Vault, place: str, journal_mode: str
) -> None:
    old = plain_vault.create(content=keys(1), journal_mode=journal_mode).content()
    path = PLACES[place](plain_vault)
    before = names(plain_vault.path.parent)
    for dry_run in (True, False):
        with pytest.raises(CredentialDBError) as error:
            credential_db.upgrade(plain_vault.path, backup=path, dry_run=dry_run)
        assert Path(path).name in str(error.value) or "://" in str(path) or "file:" in str(path)
    is_the_old_version(plain_vault, old)
    assert names(plain_vault.path.parent) == before


@as_root
def test_a_closed_directory_is_told_with_the_name_that_was_typed(public: Path) -> None:
    vault = Vault(public / "credentials.db").create(content=keys(1))
    os.chown(vault.path, NOBODY, NOBODY)
    backup = public / "backups" / "backup.db"
    backup.parent.mkdir(0o755)
    error = apart(partial(credential_db.upgrade, backup=backup), str(vault.path), user=NOBODY)
    assert isinstance(error, ReadOnlyDatabase)
    assert str(backup) in str(error)
    assert ".partial" not in str(error)
    assert names(backup.parent) == []


def deserialized(vault: Vault) -> Any:
    """``PRAGMA database_list`` may name a file that is not the database."""
    connection = sqlite3.connect(":memory:")
    connection.deserialize(vault.path.read_bytes())
    return connection


def exclusive(vault: Vault) -> Any:
    connection = sqlite3.connect(vault.path)
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("DELETE FROM credentials WHERE 0")
    connection.commit()
    return connection


@pytest.mark.parametrize("connect", [deserialized, exclusive])
def test_a_connection_that_nothing_can_copy_from(
    plain_vault: Vault, connect: Callable[[Vault], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain_vault.create(content=keys(1))
    other = Vault(plain_vault.path.with_name("x")).create(1)  # what database_list may name
    monkeypatch.chdir(plain_vault.path.parent)
    before = other.path.read_bytes()
    with closing(connect(plain_vault)) as connection, pytest.raises(CredentialDBError):
        credential_db.upgrade(connection, backup=plain_vault.path.with_name("backup.db"))
    assert names(plain_vault.path.parent) == ["credentials.db", "x"]
    assert other.path.read_bytes() == before


def _without_room(path: str, backup: str) -> object:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
    return credential_db.upgrade(path, backup=backup)


def test_a_backup_that_may_not_grow(plain_vault: Vault) -> None:
    old = plain_vault.create(content=keys(50)).content()
    backup = plain_vault.path.with_name("backup.db")
    error = apart(_without_room, str(plain_vault.path), str(backup))
    assert isinstance(error, CredentialDBError)
    assert str(backup) in str(error), "the operator has to look at the right disk"
    is_the_old_version(plain_vault, old)
    assert names(backup.parent) == ["credentials.db"]


@needs_strace
@pytest.mark.parametrize("kill", ["", "rename:when=1", "fsync:when=1", "pwrite64:when=3"])
def test_a_file_system_without_hard_links(
    plain_vault: Vault, tmp_path_factory: pytest.TempPathFactory, kill: str
) -> None:
    """The name appears once the backup is complete, and the run after a kill succeeds."""
    old = plain_vault.create(content=keys(2)).content()
    backup = Vault(tmp_path_factory.mktemp("backup") / "backup.db")
    log = tmp_path_factory.mktemp("strace") / "log"
    no_links = ("-e", "inject=link:error=EPERM")
    if kill:
        killed = ("-e", "inject={}:signal=SIGKILL:{}".format(*kill.split(":")))
        outcome = under_strace(Upgrading(plain_vault, backup=backup.path), log, *no_links, *killed)
        assert outcome is None
        is_the_old_version(plain_vault, old)
        left = names(backup.path.parent)
        assert len(left) == 1, "one partial copy"
        assert left != ["backup.db"] or backup.path.stat().st_size > 0
        backup.path.unlink(missing_ok=True)
    outcome = under_strace(Upgrading(plain_vault, backup=backup.path), log, *no_links)
    assert outcome == (0, HEAD)
    is_the_old_version(backup, old)
    assert names(backup.path.parent) == ["backup.db"]
