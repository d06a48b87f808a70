"""Promise 7: what this software creates is for its owner alone, whatever the umask."""

import os
import socket
import stat
import threading
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

import credential_db
from attacks import warm
from conftest import PASSPHRASE
from vaults import HEAD, STAMPS, Vault, keys

UMASKS = [0o000, 0o022, 0o777]
OWN_FILE, OWN_DIRECTORY = "0600", "0700"


def watched(directory: Path, umask: int, **call: object) -> tuple[Any, dict[str, list[str]]]:
    """What an upgrade says, and every mode that any file in the directory had meanwhile."""
    gate, theirs = warm.Pipe()
    process = warm.Process(target=_watched, args=(theirs, directory, umask, call))
    process.start()
    theirs.close()
    result, seen = gate.recv()
    process.join()
    return result, {name: sorted(modes) for name, modes in seen.items()}


def _watched(gate: Pipe, directory: Path, umask: int, call: dict[str, Any]) -> None:
    """Look at the directory as fast as can be while the upgrade runs, under a umask of its own."""
    seen: dict[str, set[str]] = {}
    done = threading.Event()

    def look(path: str) -> None:
        for entry in os.scandir(path):
            try:
                found = entry.stat(follow_symlinks=False).st_mode
            except FileNotFoundError:
                continue
            if not stat.S_ISLNK(found):
                name = os.path.relpath(entry.path, directory)
                seen.setdefault(name, set()).add(f"{stat.S_IMODE(found):04o}")
            if stat.S_ISDIR(found):
                look(entry.path)

    def watch() -> None:
        while not done.wait(0.0002):
            look(str(directory))

    os.umask(umask)
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        result = credential_db.upgrade(**call)
    finally:
        done.set()
        watcher.join()
    look(str(directory))
    gate.send(([result.before, result.after], seen))


def mode(path: Path) -> str:
    return f"{stat.S_IMODE(path.stat().st_mode):04o}"


@pytest.mark.parametrize("umask", UMASKS, ids="{:03o}".format)
def test_a_new_file_and_its_directories_are_for_the_owner_alone(tmp_path: Path, umask: int) -> None:
    path = tmp_path / "new" / "directories" / "credentials.db"
    result, seen = watched(tmp_path, umask, target=str(path))
    assert result == [None, HEAD]
    assert (mode(tmp_path / "new"), mode(path.parent)) == (OWN_DIRECTORY, OWN_DIRECTORY)
    assert mode(path) == OWN_FILE
    for name, modes in seen.items():
        if not (tmp_path / name).is_dir():
            readable = [found for found in modes if int(found, 8) & 0o077]
            assert not readable, f"{name} could be read by others for a while"


@pytest.mark.parametrize(
    ("umask", "journal_mode", "passphrase"),
    [
        *((umask, "wal", None) for umask in UMASKS),
        (0o000, "delete", None),
        (0o000, "persist", None),
        (0o000, "wal", PASSPHRASE),
    ],
)
def test_sidecars_and_backups_are_for_the_owner_alone(
    tmp_path: Path, umask: int, journal_mode: str, passphrase: str | None
) -> None:
    vault = Vault(tmp_path / "credentials.db", passphrase)
    vault.create(content=keys(200), journal_mode=journal_mode)
    for file in tmp_path.iterdir():
        file.chmod(0o600)
    backup = tmp_path / "backups of mine.db"

    result, seen = watched(
        tmp_path, umask, target=str(vault.path), backup=str(backup), **vault.options
    )

    assert result == [0, HEAD]
    assert mode(backup) == OWN_FILE
    for name, modes in seen.items():
        readable = [found for found in modes if int(found, 8) & 0o077]
        assert not readable, f"{name} could be read by others for a while"
    assert {"credentials.db", "backups of mine.db"} <= seen.keys()
    assert sorted(file.name for file in tmp_path.iterdir() if "backup" in file.name) == [
        "backups of mine.db"
    ], "nothing of the backup's making may be left"


@pytest.mark.parametrize("journal_mode", ["delete", "wal"])
@pytest.mark.parametrize("existing", [0o644, 0o660])
def test_an_existing_file_keeps_its_mode_and_its_sidecars_show_no_more(
    tmp_path: Path, existing: int, journal_mode: str
) -> None:
    vault = Vault(tmp_path / "credentials.db")
    vault.create(content=keys(200), journal_mode=journal_mode)
    vault.path.chmod(existing)
    tmp_path.chmod(0o755)
    backup = tmp_path / "backup.db"
    _, seen = watched(tmp_path, 0o000, target=str(vault.path), backup=str(backup))
    assert seen.pop("credentials.db") == [f"{existing:04o}"], "the mode of a file is its owner's"
    assert mode(tmp_path) == "0755"
    assert seen.pop("backup.db") == [OWN_FILE]
    for name, modes in seen.items():
        wider = [found for found in modes if int(found, 8) & ~existing]
        assert not wider, f"{name} could be read by more people than the database"


@pytest.mark.parametrize("existing", [0o750])
def test_an_existing_directory_keeps_its_mode(tmp_path: Path, existing: int) -> None:
    directory = tmp_path / "there"
    directory.mkdir()
    directory.chmod(existing)
    watched(tmp_path, 0o000, target=str(directory / "new" / "credentials.db"))
    assert mode(directory) == f"{existing:04o}"
    assert mode(directory / "new") == OWN_DIRECTORY


# Symbolic links


@pytest.mark.parametrize("journal_mode", ["delete", "wal"])
@pytest.mark.parametrize("links", [1, 3])
def test_a_symbolic_link_stands_for_the_file_that_it_names(
    tmp_path: Path, links: int, journal_mode: str
) -> None:
    real = tmp_path / "real"
    real.mkdir()
    vault = Vault(real / "credentials.db").create(content=keys(2), journal_mode=journal_mode)
    path = vault.path
    beside = tmp_path / "beside"
    beside.mkdir()
    for number in range(links):
        link = beside / f"link-{number}.db"
        link.symlink_to(path)
        path = link

    assert credential_db.status(path).state == "legacy"
    assert credential_db.upgrade(path) == (0, HEAD)

    assert vault.stamps() == STAMPS
    assert all(link.is_symlink() for link in beside.iterdir())
    assert len(list(beside.iterdir())) == links, "sidecars belong beside the real file"
    assert credential_db.status(path).state == "current"


@pytest.mark.parametrize("umask", [0o000, 0o777], ids="{:03o}".format)
@pytest.mark.parametrize("directory", ["there", "not there"])
def test_a_dangling_link_creates_the_file_that_it_names(
    tmp_path: Path, umask: int, directory: str
) -> None:
    (tmp_path / "there").mkdir()
    real = tmp_path / directory / "credentials.db"
    link = tmp_path / "link.db"
    link.symlink_to(real)
    assert credential_db.status(link).state == "empty"
    assert not real.exists()
    result, seen = watched(tmp_path, umask, target=str(link))
    assert result == [None, HEAD]
    assert link.is_symlink()
    assert mode(real) == OWN_FILE
    readable = [found for found in seen[f"{directory}/credentials.db"] if int(found, 8) & 0o077]
    assert not readable, "the file behind the link could be read by others for a while"
    if directory == "not there":
        assert mode(real.parent) == OWN_DIRECTORY


def test_a_link_to_itself_is_refused(tmp_path: Path) -> None:
    link = tmp_path / "link.db"
    link.symlink_to(link)
    for call in (credential_db.upgrade, credential_db.status):
        with pytest.raises(credential_db.CredentialDBError, match="link"):
            call(link)


# What is no file at all


def _refused(gate: Pipe, path: str) -> None:
    said = []
    for call in (credential_db.upgrade, credential_db.status):
        try:
            call(path)
        except credential_db.NotADatabase as error:
            said.append(f"{call.__name__}: {error}")
    gate.send(said)


@pytest.mark.parametrize("kind", ["directory", "FIFO", "device", "endless device", "socket"])
@pytest.mark.parametrize("linked", [False, True], ids=["itself", "behind a link"])
def test_what_is_no_regular_file_is_refused_at_once(
    tmp_path: Path, kind: str, linked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the name of a socket has to be short
    path = Path("thing.db")
    if kind == "directory":
        path.mkdir()
    elif kind == "FIFO":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(path))
    else:
        path = Path("/dev/null" if kind == "device" else "/dev/zero")
    if linked:
        link = Path("link.db")
        link.symlink_to(path)
        path = link
    before = sorted(tmp_path.iterdir())
    # In a process of its own, for opening a FIFO would wait for ever.
    gate, theirs = warm.Pipe()
    process = warm.Process(target=_refused, args=(theirs, str(tmp_path / path)))
    process.start()
    theirs.close()
    assert gate.poll(60), "it waits for something that is no file"
    lines = gate.recv()
    process.join()
    assert [line.partition(":")[0] for line in lines] == ["upgrade", "status"]
    assert all(f"{tmp_path / path} is not a regular file" in line for line in lines)
    assert sorted(tmp_path.iterdir()) == before


def test_an_engine_creates_a_file_for_its_owner_alone_or_none(tmp_path: Path) -> None:
    """SQLite itself would create it for everybody to read, and to answer status, too."""
    path = tmp_path / "of_an_engine.db"
    engine = sqlalchemy.create_engine(f"sqlite:///{path}")
    before = os.umask(0)
    try:
        assert credential_db.status(engine).state == "empty"
        assert credential_db.upgrade(engine, dry_run=True) == (None, HEAD)
        assert not path.exists(), "what only looks creates no file"
        assert credential_db.upgrade(engine) == (None, HEAD)
    finally:
        os.umask(before)
        engine.dispose()
    assert path.stat().st_mode & 0o777 == 0o600
