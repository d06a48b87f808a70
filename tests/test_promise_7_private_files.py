"""Promise 7: what this software creates is readable by its owner only, whatever the umask."""

import os
import stat
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import credential_db
from conftest import PASSPHRASE
from credential_db import CredentialDBError
from credential_db.sqlite import obstacles
from test_files import apart
from vaults import HEAD, STAMPS, Vault, keys

OWN_FILE, OWN_DIRECTORY = "0600", "0700"
UMASKS = (0o000, 0o022, 0o777)


def watched(directory: Path, umask: int, call: dict[str, Any]) -> object:
    """What an upgrade returns, and every mode that each file in the directory had meanwhile."""
    seen: dict[str, set[str]] = {}
    done = threading.Event()

    def look() -> None:
        for file in directory.rglob("*"):
            with suppress(FileNotFoundError):
                if not file.is_symlink():
                    seen.setdefault(str(file.relative_to(directory)), set()).add(mode(file))

    def watch() -> None:
        while not done.wait(0.0002):
            look()

    os.umask(umask)
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        result = credential_db.upgrade(**call)
    finally:
        done.set()
        watcher.join()
    look()
    return tuple(result), seen


def mode(path: Path) -> str:
    return f"{stat.S_IMODE(path.stat().st_mode):04o}"


def assert_no_wider(seen: dict[str, set[str]], allowed: int) -> None:
    for name, modes in seen.items():
        wider = [found for found in modes if int(found, 8) & ~allowed]
        assert not wider, f"{name} had mode {wider} for a while"


@pytest.mark.parametrize("umask", UMASKS, ids="{:03o}".format)
@pytest.mark.parametrize("passphrase", [None, PASSPHRASE], ids=["plain", "encrypted"])
@pytest.mark.parametrize("target", ["{real}", "sqlite:///{real}", "{link}"])
def test_a_new_file_and_its_directories(
    tmp_path: Path, umask: int, passphrase: str | None, target: str
) -> None:
    real, link = tmp_path / "new" / "directories" / "credentials.db", tmp_path / "link.db"
    link.symlink_to(real)
    call: dict[str, Any] = {"target": target.format(real=real, link=link), "passphrase": passphrase}
    assert credential_db.status(**call).state == "missing"
    result, seen = apart(watched, tmp_path, umask, call)
    assert result == (None, HEAD)
    assert link.is_symlink()
    assert [mode(tmp_path / "new"), mode(real.parent)] == [OWN_DIRECTORY] * 2
    assert mode(real) == OWN_FILE
    assert_no_wider({name: m for name, m in seen.items() if (tmp_path / name).is_file()}, 0o600)


@pytest.mark.parametrize(
    ("umask", "journal_mode", "passphrase", "existing"),
    [
        *((umask, "wal", None, 0o600) for umask in UMASKS),
        (0o000, "delete", None, 0o600),
        (0o000, "persist", None, 0o600),
        (0o000, "wal", PASSPHRASE, 0o600),
        *((0o000, mode, None, 0o644) for mode in ("delete", "wal")),
        (0o000, "wal", None, 0o660),
    ],
)
def test_an_existing_file_keeps_its_mode_and_nothing_next_to_it_is_wider(
    tmp_path: Path, umask: int, journal_mode: str, passphrase: str | None, existing: int
) -> None:
    vault = Vault(tmp_path / "credentials.db", passphrase)
    vault.create(content=keys(100), journal_mode=journal_mode)
    for file in tmp_path.iterdir():
        file.chmod(existing)
    tmp_path.chmod(0o750)
    backup, links = tmp_path / "backup of mine.db", tmp_path / "links"
    links.mkdir(0o700)
    (links / "first.db").symlink_to(vault.path)
    (links / "second.db").symlink_to("first.db")
    call = {"target": str(links / "second.db"), "backup": str(backup), **vault.options}
    result, seen = apart(watched, tmp_path, umask, call)
    assert result == (0, HEAD)
    assert vault.stamps() == STAMPS
    assert [link.is_symlink() for link in links.iterdir()] == [True, True]
    assert seen["credentials.db"] == {f"{existing:04o}"}
    assert mode(tmp_path) == "0750"
    assert mode(backup) == OWN_FILE
    assert_no_wider({n: m for n, m in seen.items() if "credentials.db" in n}, existing)
    others = {n: m for n, m in seen.items() if "credentials.db" not in n and n != "links"}
    assert_no_wider(others, 0o600)
    assert [file.name for file in tmp_path.iterdir() if "backup" in file.name] == [backup.name]


@pytest.mark.parametrize("ending", ["-wal", "-shm", "-journal"])
def test_a_sidecar_that_is_wider_than_its_database_gets_its_mode(
    plain_vault: Vault, ending: str, caplog: pytest.LogCaptureFixture
) -> None:
    plain_vault.create(content=keys(1), journal_mode="wal")
    plain_vault.path.chmod(0o640)
    sidecar = plain_vault.path.with_name(plain_vault.path.name + ending)
    sidecar.touch()
    sidecar.chmod(0o646)
    assert list(obstacles.obstacles(str(plain_vault.path))) == []
    obstacles.tighten_sidecars(str(plain_vault.path))
    assert mode(sidecar) == "0640"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    sidecar.chmod(0o600)
    obstacles.tighten_sidecars(str(plain_vault.path))
    assert mode(sidecar) == "0600"


@pytest.fixture(params=["chmod fails", "chmod does nothing"])
def no_modes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As FAT, CIFS and some mounts: every file and directory has mode 0755."""
    opened, made = os.open, os.mkdir

    def chmod(*_: object, **__: object) -> None:
        if request.param == "chmod fails":
            raise PermissionError(1, "Operation not permitted")

    def open_wide(path: Any, flags: int, *_: int, **options: Any) -> int:
        before = os.umask(0)
        try:
            return opened(path, flags, 0o755, **options)
        finally:
            os.umask(before)

    monkeypatch.setattr(os, "chmod", chmod)
    monkeypatch.setattr(os, "fchmod", chmod)
    monkeypatch.setattr(os, "open", open_wide)
    monkeypatch.setattr(os, "mkdir", lambda path, *_: made(path, 0o755))


@pytest.mark.usefixtures("no_modes")
def test_a_file_system_without_modes_is_a_warning_each_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "directory" / "credentials.db"
    for target in (path, path.with_name("second.db")):
        caplog.clear()
        assert credential_db.upgrade(target) == (None, HEAD)
        assert mode(target) == "0755"
        assert [record.levelname for record in caplog.records][:1] == ["WARNING"]
        assert all(words in caplog.text for words in (str(target), "0755", "umask="))
    vault = Vault(path.with_name("old.db")).create(content=keys(1))
    for number in range(2):
        caplog.clear()
        backup = path.with_name(f"backup {number}")
        assert credential_db.upgrade(vault.path, backup=backup) == (0, HEAD)
        assert ".partial" in caplog.text or str(backup) in caplog.text
        backup.rename(vault.path)


def test_nothing_is_changed_if_the_mode_is_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("chmod", "fchmod"):
        monkeypatch.delattr(os, name)
    assert credential_db.upgrade(tmp_path / "new" / "credentials.db") == (None, HEAD)


@pytest.mark.parametrize("empty", [False, True], ids=["missing", "empty"])
def test_a_failed_creation_removes_nothing(
    tmp_path: Path, empty: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty file may already be used by another process; the next start fills it."""
    path = tmp_path / "credentials.db"
    if empty:
        path.touch()
    with monkeypatch.context() as patch:
        patch.delattr("credential_db.current.create")
        with pytest.raises(CredentialDBError):
            credential_db.upgrade(path)
    assert path.read_bytes() == b""
    assert mode(path) == OWN_FILE or empty
    assert credential_db.upgrade(path) == (None, HEAD)
