"""Names of files, what may stand at a path, and what in the file system stops a change."""

import os
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

import credential_db
from conftest import PASSPHRASE
from credential_db import CredentialDBError, NotADatabase, ReadOnlyDatabase
from credential_db.sqlite import files, obstacles
from faults import warm
from vaults import HEAD, Vault, keys

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount and be another user")
NOBODY = 65534


def apart(function: Callable[..., Any], *arguments: Any, user: int | None = None) -> Any:
    """What a function returns or raises in a process of its own, of another user if need be."""
    gate, theirs = warm.Pipe()
    process = warm.Process(target=_apart, args=(theirs, function, arguments, user))
    process.start()
    theirs.close()
    assert gate.poll(60), "it waits for something that is not a file"
    result = gate.recv()
    process.join()
    return result


def _apart(gate: Pipe, function: Callable[..., Any], arguments: Any, user: int | None) -> None:
    if user is not None:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    try:
        gate.send(function(*arguments))
    except CredentialDBError as error:
        gate.send(error)


@contextmanager
def mounted(where: Path, *how: str) -> Iterator[None]:
    if subprocess.run(["mount", *how, str(where)], capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(where)], check=True)


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that every user may enter and write to."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o777)
        yield Path(directory)


def beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


NAMES = {
    "/var/lib/a b.db": "/var/lib/a b.db",
    "~/vault.db": os.path.expanduser("~/vault.db"),
    "./~nobody-of-that-name": "./~nobody-of-that-name",
    "sqlite:///vault.db": "vault.db",
    "sqlite:////srv/50%.db": "/srv/50%.db",
    "sqlite+anything:///~/vault.db": os.path.expanduser("~/vault.db"),
}
REFUSED_NAMES = (
    *("", ":memory:", "sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite:vault.db"),
    *("sqlite://host/vault.db", "sqlite+pysqlcipher://:canary@/v.db", "sqlite:///v.db?key=canary"),
    *("file:v.db?key=canary", "~a\0", "postgresql://user:canary@host/db", "://canary@/x"),
    *("vault.db\0canary", "~no-such-user-here/vault.db"),
)


@pytest.mark.parametrize(("name", "path"), NAMES.items())
def test_a_name_of_a_file(name: str, path: str) -> None:
    assert files.file_of_name(name) == path


@pytest.mark.parametrize("name", REFUSED_NAMES, ids=range(len(REFUSED_NAMES)))
@pytest.mark.parametrize("function", [credential_db.upgrade, credential_db.status])
def test_a_name_that_is_refused(name: str, function: Callable[[str], object]) -> None:
    with pytest.raises(CredentialDBError) as error:
        function(name)
    assert "canary" not in str(error.value)


ODD = ["50%41.db", "a?b#c.db", "v\u00e4\U0001f511.db", os.fsdecode(b"\xff\xfe.db"), "'\" .db"]


@pytest.mark.parametrize("name", ODD, ids=ascii)
@pytest.mark.parametrize("directory", [".", "sub%20dir"])
def test_any_file_name_will_do(tmp_path: Path, name: str, directory: str) -> None:
    path = tmp_path / directory / name
    with pytest.raises(NotADatabase):
        credential_db.upgrade(path, create=False)
    assert credential_db.upgrade(path) == (None, HEAD)
    assert credential_db.status(path).state == "current"
    assert [file.name for file in path.parent.iterdir() if file.is_file()] == [name]


@pytest.mark.parametrize(("length", "accepted"), [(247, True), (248, False), (256, False)])
@pytest.mark.parametrize("deep", [0, 3], ids=["short path", "longer than SQLite's limit"])
def test_a_name_that_is_too_long(tmp_path: Path, length: int, accepted: bool, deep: int) -> None:
    path = tmp_path.joinpath(*["d" * 200] * deep, "v" * length)
    path.parent.mkdir(parents=True, exist_ok=True)
    if accepted and not deep:
        assert credential_db.upgrade(path) == (None, HEAD)
    else:
        with pytest.raises(CredentialDBError):
            credential_db.upgrade(path)
        assert list(path.parent.iterdir()) == []


THINGS: dict[str, Callable[[Path], object]] = {
    "directory": Path.mkdir,
    "FIFO": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "link to itself": lambda path: path.symlink_to(path),
    "one byte": lambda path: path.write_bytes(b"S"),
    "garbage": lambda path: path.write_bytes(b"SQLite format 4" * 999),
}


@pytest.mark.parametrize("thing", THINGS)
@pytest.mark.parametrize("function", [credential_db.upgrade, credential_db.status])
def test_what_is_not_a_database_is_refused_at_once(
    tmp_path: Path, thing: str, function: Callable[..., Any]
) -> None:
    path = tmp_path / "thing.db"
    THINGS[thing](path)
    error = apart(function, str(path))
    assert isinstance(error, CredentialDBError if "itself" in thing else NotADatabase)
    assert str(path) in str(error)
    assert list(tmp_path.iterdir()) == [path]


def left(path: Path, ending: str, *, pages: bool = True) -> Path:
    """What stays behind when a database is moved away after a kill, or while it is in use."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        if ending == "-wal":
            connection.execute("PRAGMA journal_mode = WAL")
        if pages:
            connection.execute("CREATE TABLE theirs (x)")
        connection.execute("PRAGMA cache_size = 1")  # so that the journal is written early
        connection.execute("BEGIN")
        connection.execute("CREATE TABLE more (x)")
        for _ in range(50):
            connection.execute("INSERT INTO more VALUES (zeroblob(2000))")
        shutil.copy(beside(path, ending), beside(path, ".kept"))
    path.rename(path.with_name("moved.db"))
    return beside(path, ".kept").rename(beside(path, ending))


ENDINGS = pytest.mark.parametrize("ending", ["-wal", "-journal"])
EMPTY = pytest.mark.parametrize("empty", [False, True], ids=["missing", "empty"])


@EMPTY
@pytest.mark.parametrize("passphrase", [None, PASSPHRASE], ids=["plain", "encrypted"])
@ENDINGS
def test_no_vault_is_created_next_to_a_sidecar_of_another(
    tmp_path: Path, ending: str, passphrase: str | None, empty: bool
) -> None:
    path = tmp_path / "credentials.db"
    content = left(path, ending).read_bytes()
    if empty:
        path.touch()
    before = sorted(tmp_path.iterdir())
    for target in (path, sqlalchemy.create_engine(f"sqlite:///{path}")):
        for dry_run in (False, True):
            with pytest.raises(CredentialDBError, match=f"{path} .* {path}{ending} ") as error:
                credential_db.upgrade(target, passphrase=passphrase, dry_run=dry_run)
            assert type(error.value) is CredentialDBError
        found = credential_db.status(target, passphrase=passphrase)
        assert found.state == ("empty" if empty else "missing")
        assert f"{path}{ending}" in found.detail
    assert beside(path, ending).read_bytes() == content
    assert sorted(tmp_path.iterdir()) == before


FUNCTIONS = ("ensure_credentials_schema", "migrate_credential_db_schema", "upgrade")


@pytest.mark.parametrize("function", FUNCTIONS)
@ENDINGS
def test_nor_by_a_connection_to_an_empty_file(tmp_path: Path, ending: str, function: str) -> None:
    path = tmp_path / "credentials.db"
    content = left(path, ending).read_bytes()
    path.touch()
    with closing(sqlite3.connect(path)) as connection:
        with pytest.raises(CredentialDBError):
            getattr(credential_db, function)(connection)
        assert beside(path, ending).read_bytes() == content
    assert path.stat().st_size == 0


HARMLESS: dict[str, Callable[[Path], object]] = {
    "of our own creation": lambda path: left(path, "-journal", pages=False),
    "finished journal": lambda path: beside(path, "-journal").write_bytes(bytes(512)),
    "truncated journal": lambda path: beside(path, "-journal").touch(),
    "log without frames": lambda path: beside(path, "-wal").write_bytes(bytes(32)),
    "shm": lambda path: beside(path, "-shm").write_bytes(bytes(32768)),
}


@EMPTY
@pytest.mark.parametrize("name", HARMLESS)
def test_sidecars_without_anything_to_lose_stop_nothing(
    tmp_path: Path, name: str, empty: bool
) -> None:
    path = tmp_path / "credentials.db"
    HARMLESS[name](path)
    if empty:
        path.touch()
    assert credential_db.upgrade(path) == (None, HEAD)
    Vault(path).check_integrity()


def sidecar_of(uid: int, ending: str) -> Callable[[Path], None]:
    def leave(path: Path) -> None:
        beside(path, ending).touch(0o644)
        os.chown(beside(path, ending), uid, uid)

    return leave


def of_nobody(path: Path, mode: int) -> None:
    os.chown(path, NOBODY, NOBODY)
    path.chmod(mode)


def wide_shm(path: Path) -> None:
    path.chmod(0o666)
    beside(path, "-shm").touch()
    beside(path, "-shm").chmod(0o777)


DB, NOT_DENIED = "credentials.db", ("hard link", "link", "log of a stranger", "wide shm")
OBSTACLES: dict[str, tuple[Callable[[Path], object], str]] = {
    "hard link": (lambda path: os.link(path, path.with_name("other.db")), DB),
    "link": (lambda path: beside(path, "-journal").symlink_to("nothing"), f"{DB}-journal"),
    "log of a stranger": (sidecar_of(12345, "-wal"), f"{DB}-wal"),
    "file of another": (lambda path: path.chmod(0o644), DB),
    "own file, write-protected": (lambda path: of_nobody(path, 0o444), DB),
    "unreadable file": (lambda path: path.chmod(0o600), DB),
    "directory of another": (lambda path: path.parent.chmod(0o755), "."),
    "closed directory": (lambda path: path.parent.chmod(0o700), "."),
    "log of another": (sidecar_of(0, "-wal"), f"{DB}-wal"),
    "journal of another": (sidecar_of(0, "-journal"), f"{DB}-journal"),
    "wide shm": (wide_shm, f"{DB}-shm"),
}


@as_root
@pytest.mark.parametrize("name", OBSTACLES)
def test_an_obstacle_is_named_by_upgrade_and_by_status(public: Path, name: str) -> None:
    vault = Vault(public / "directory" / DB)
    vault.path.parent.mkdir()
    vault.path.parent.chmod(0o777)
    vault.create(content=keys(1))
    vault.path.chmod(0o666)
    before = vault.path.read_bytes()
    arrange, culprit = OBSTACLES[name]
    arrange(vault.path)
    error = apart(credential_db.upgrade, str(vault.path), user=NOBODY)
    assert type(error) is (CredentialDBError if name in NOT_DENIED else ReadOnlyDatabase)
    assert f"{vault.path.parent / culprit} " in str(error)
    status = apart(credential_db.status, str(vault.path), user=NOBODY)
    if not isinstance(status, CredentialDBError):
        assert status.state == "legacy"
        assert str(error) in status.detail
    assert vault.path.read_bytes() == before


@as_root
@pytest.mark.parametrize("name", ["new.db", "new/directory/new.db"])
def test_a_vault_cannot_be_created_in_a_directory_of_another(public: Path, name: str) -> None:
    public.chmod(0o755)
    error = apart(credential_db.upgrade, str(public / name), user=NOBODY)
    assert isinstance(error, ReadOnlyDatabase)
    assert f"{public} " in str(error)
    assert apart(credential_db.status, str(public / name), user=NOBODY).state == "missing"
    assert list(public.iterdir()) == []


@as_root
def test_a_file_system_that_is_mounted_read_only(tmp_path: Path) -> None:
    vault = Vault(tmp_path / "mount" / "credentials.db")
    vault.path.parent.mkdir()
    vault.create(content=keys(1))
    with mounted(vault.path.parent, "-o", "bind,ro", str(vault.path.parent)):
        status = credential_db.status(vault.path)
        with pytest.raises(ReadOnlyDatabase) as error:
            credential_db.upgrade(vault.path)
    assert status.state == "legacy"
    assert str(error.value) in status.detail


@as_root
@pytest.mark.parametrize("name", ["credentials.db", "a b\\c.db"])
def test_a_file_that_is_itself_a_mount_point_is_warned_about(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    source = Vault(tmp_path / "source.db").create(content=keys(1))
    path = tmp_path / name
    path.touch()
    assert list(obstacles.warnings(str(path))) == []
    with mounted(path, "--bind", str(source.path)):
        [warning] = obstacles.warnings(str(path))
        assert warning in credential_db.status(path).detail
        assert credential_db.upgrade(path) == (0, HEAD)
        assert caplog.messages == [warning]
