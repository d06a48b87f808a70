"""The Python interface: targets, options, results, errors, and the two legacy functions.

Connections that are passed in, and SQLAlchemy's, are tested in test_callers_connection.py, names
of files in test_files.py, backups in test_backups.py.
"""

import asyncio
import logging
import os
import pickle
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from alembic import command
from alembic.config import Config
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

import credential_db
from credential_db import (
    CredentialDBError,
    DatabaseBusy,
    KeyConversionError,
    KeyProblem,
    NotADatabase,
    ReadOnlyDatabase,
    SchemaTooNew,
    UnrecognizedSchema,
    Upgrade,
    api,
    revisions,
)
from faults import warm
from test_files import NOBODY, apart, as_root
from vaults import HEAD, STAMPS, TABLES, Vault, keys, upgraded

CALLS: list[Callable[..., Any]] = [credential_db.upgrade, credential_db.status]
LEGACY = ["ensure_credentials_schema", "migrate_credential_db_schema"]


def async_engine(path: Path) -> Any:
    reason = "run where aiosqlite and greenlet are installed: pip install -e '.[test]'"
    pytest.importorskip("aiosqlite", reason=reason)
    pytest.importorskip("greenlet", reason=reason)
    from sqlalchemy.ext.asyncio import create_async_engine

    return create_async_engine(f"sqlite+aiosqlite:///{path}")


def connected(path: Path) -> AbstractContextManager[sqlalchemy.Connection]:
    return sqlalchemy.create_engine(f"sqlite:///{path}", poolclass=sqlalchemy.NullPool).connect()


TARGETS: dict[str, Callable[[Path], Any]] = {
    "Path": lambda path: path,
    "str": str,
    "relative path": os.path.relpath,
    "URL": lambda path: f"sqlite:///{path}",
    "URL with a driver": lambda path: f"sqlite+aiosqlite:///{path}",
    "URL object": lambda path: sqlalchemy.make_url(f"sqlite:///{path}"),
    "connection": lambda path: closing(sqlite3.connect(path)),
    "Engine": lambda path: sqlalchemy.create_engine(f"sqlite:///{path}"),
    "Connection": connected,
    "AsyncEngine": async_engine,
    "its sync_engine": lambda path: async_engine(path).sync_engine,
}


def opened(path: Path, name: str) -> AbstractContextManager[Any]:
    target = TARGETS[name](path)
    return target if isinstance(target, closing | sqlalchemy.Connection) else nullcontext(target)


@pytest.mark.parametrize("name", TARGETS)
def test_every_target(plain_vault: Vault, name: str) -> None:
    plain_vault.create(content=keys(2))
    expected = upgraded(plain_vault.content(), 0)
    with opened(plain_vault.path, name) as target:
        assert credential_db.status(target)[:3] == ("legacy", 0, HEAD)
        assert credential_db.upgrade(target, dry_run=True) == (0, HEAD)
        assert credential_db.upgrade(target) == (0, HEAD)
        assert credential_db.status(target)[:3] == ("current", HEAD, HEAD)
        assert credential_db.upgrade(target) == (HEAD, HEAD)
    assert plain_vault.content() == expected


@pytest.mark.parametrize("name", TARGETS)
def test_a_missing_file(plain_vault: Vault, name: str) -> None:
    by_connection = name in ("connection", "Connection")
    with opened(plain_vault.path, name) as target:
        assert credential_db.status(target).state == ("empty" if by_connection else "missing")
        if not by_connection:
            assert credential_db.upgrade(target, dry_run=True) == (None, HEAD)
            with pytest.raises(NotADatabase):
                credential_db.upgrade(target, create=False)
            assert not list(plain_vault.path.parent.iterdir())
            plain_vault.path.touch()
            assert credential_db.status(target).state == "empty"
        assert credential_db.upgrade(target, create=False) == (None, HEAD)
    assert plain_vault.stamps() == STAMPS


class Refusing:
    """The module of a driver that is not installed: an attempt to connect fails the test."""

    paramstyle, __version__ = "qmark", "9.9"
    sqlite_version_info = sqlite3.sqlite_version_info
    Error = Exception

    @staticmethod
    def connect(*_: object, **__: object) -> None:
        pytest.fail("a driver that is of no use was asked to connect")


class LibSQL(SQLiteDialect_pysqlite):
    """As sqlalchemy-libsql has it."""

    supports_statement_cache = True

    def create_connect_args(self, url: sqlalchemy.URL) -> Any:
        return [], {}


registry.register("sqlite.libsql", __name__, LibSQL.__name__)
REMOTE = "sqlite+pysqlcipher://:secret@unreachable.invalid/vault.db"
NO_TARGETS: list[Any] = [
    lambda: 42,
    lambda: None,
    lambda: sqlite3,
    lambda: sqlalchemy.Engine,
    lambda: REMOTE,
    lambda: sqlalchemy.make_url(REMOTE),
    lambda: sqlalchemy.make_url("postgresql://me:secret@host/database"),
    lambda: sqlalchemy.create_engine("sqlite+libsql://secret@host/vault", module=Refusing),
    lambda: sqlalchemy.create_engine("sqlite+pysqlcipher://:secret@/vault.db", module=Refusing),
    lambda: sqlalchemy.create_engine("mysql+pymysql://me:secret@host/vault", module=Refusing),
]


@pytest.mark.parametrize("target", NO_TARGETS)
def test_what_is_no_target_is_refused_before_anything_connects(
    target: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for call in CALLS:
        with pytest.raises(CredentialDBError) as caught:
            call(target())
        assert "secret" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("file", ["vault.db", ":memory:"])
def test_what_an_asynchronous_driver_has_opened_is_refused(file: str, tmp_path: Path) -> None:
    path = tmp_path / "vault.db"
    engine = async_engine(path if file == "vault.db" else Path(file))

    async def attempt() -> None:
        async with engine.connect() as connection:
            for call in CALLS:
                with pytest.raises(CredentialDBError):
                    await connection.run_sync(call)
                if file == ":memory:":
                    with pytest.raises(CredentialDBError):
                        call(engine)
            # What the error recommends works next to an engine that is in use.
            await asyncio.to_thread(credential_db.upgrade, path)
        await engine.dispose()

    asyncio.run(attempt())
    assert Vault(path).stamps() == STAMPS


OPTIONS: list[dict[str, Any]] = [
    *({"timeout": timeout} for timeout in (-1, float("nan"), "30", None)),
    *({"backup": backup} for backup in ("", "no such directory/copy.db", ".")),
    {"backup": True, "passphrase": "of a plain file"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=repr)
def test_an_option_that_makes_no_sense_is_refused(
    plain_vault: Vault, options: dict[str, Any]
) -> None:
    before = plain_vault.create(content=keys(1)).files()
    with pytest.raises(CredentialDBError):
        credential_db.upgrade(plain_vault.path, **options)
    assert plain_vault.files() == before


def test_a_dry_run_finds_what_an_upgrade_would(vault: Vault) -> None:
    before = vault.create(content=keys(2)).files()
    assert credential_db.upgrade(vault.path, dry_run=True, **vault.options) == (0, HEAD)
    assert vault.files() == before
    vault.execute("UPDATE ssh_keys SET public_blob = x'00'")
    with pytest.raises(KeyConversionError):
        credential_db.upgrade(vault.path, dry_run=True, **vault.options)


# --- Alembic's own commands ---------------------------------------------------------------------


def config_for(path: Path) -> Config:
    config = Config()
    location = revisions.config().get_main_option("script_location")
    config.set_main_option("script_location", str(location))
    config.set_main_option("sqlalchemy.url", f"sqlite:///{path}")
    return config


@pytest.mark.parametrize("name", [None, "connection", "Engine", "Connection", "str", "URL object"])
def test_alembics_commands(
    plain_vault: Vault, name: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = upgraded(plain_vault.create(content=keys(2)).content(), 0)
    monkeypatch.delenv("CREDENTIAL_DB", raising=False)
    config = config_for(plain_vault.path)
    with opened(plain_vault.path, name) if name else nullcontext() as target:
        config.attributes["connection"] = target
        command.upgrade(config, "head")
        assert (config.attributes["before"], config.attributes["after"]) == (0, HEAD)
        assert plain_vault.content() == expected
        before = plain_vault.files()
        for read_only in (command.current, command.check, command.history, command.heads):
            read_only(config)
        assert plain_vault.files() == before
        command.downgrade(config, "-1")
        assert plain_vault.stamps() == (f"v{HEAD - 1}", HEAD - 1)
        command.stamp(config, "v1")
        command.upgrade(config, "+1")
    assert plain_vault.stamps() == ("v2", 2)


def test_alembics_commands_raise_the_same_errors(plain_vault: Vault) -> None:
    def garbage() -> None:
        plain_vault.path.write_bytes(b"no database, but long enough to be one" * 100)

    for spoil in (lambda: plain_vault.create(2, number=99), garbage):
        spoil()
        errors = []
        for call in (
            lambda: credential_db.upgrade(plain_vault.path),
            lambda: command.upgrade(config_for(plain_vault.path), "head"),
            lambda: command.current(config_for(plain_vault.path)),
        ):
            with pytest.raises(CredentialDBError) as caught:
                call()
            errors.append((type(caught.value), caught.value.args, caught.value.__context__))
        assert errors == [errors[0]] * 3


def test_the_applications_logging_is_left_alone(plain_vault: Vault) -> None:
    plain_vault.create(content=keys(1))
    root, other = logging.getLogger(), logging.getLogger("somebody.else")
    before = (root.level, list(root.handlers), other.disabled, other.level)
    credential_db.upgrade(plain_vault.path)
    command.current(config_for(plain_vault.path))
    assert (root.level, list(root.handlers), other.disabled, other.level) == before


# --- What is told -------------------------------------------------------------------------------


def current(vault: Vault) -> None:
    credential_db.upgrade(vault.create(content=keys(1)).path)


STATES: dict[str, tuple[Callable[[Vault], object], str, int | None]] = {
    "missing": (lambda _: None, "missing", None),
    "missing directory": (lambda vault: vault.path.parent.rmdir(), "missing", None),
    "empty": (lambda vault: vault.path.touch(), "empty", None),
    "another program's": (lambda vault: vault.execute("CREATE TABLE t (x)"), "empty", None),
    "v0": (lambda vault: vault.create(0), "legacy", 0),
    "v2": (lambda vault: vault.create(2), "legacy", 2),
    "v1 by Alembic": (lambda vault: api.change(vault.path, to="1"), "behind", 1),
    "current": (current, "current", HEAD),
    "ahead": (lambda vault: vault.create(2, number=99), "ahead", 99),
    "unrecognized": (lambda vault: vault.create(0, number=2), "unrecognized", None),
}


def times(directory: Path) -> list[int]:
    return [file.stat().st_mtime_ns for file in directory.rglob("*.db*")]


@pytest.mark.parametrize("mode", ["delete", "wal"])
@pytest.mark.parametrize("name", STATES)
def test_status_tells_the_state_and_writes_nothing(tmp_path: Path, name: str, mode: str) -> None:
    (tmp_path / "directory").mkdir()
    vault = Vault(tmp_path / "directory" / "credentials.db")
    make, state, version = STATES[name]
    make(vault)
    if vault.path.exists() and vault.path.stat().st_size:
        vault.execute(f"PRAGMA journal_mode = {mode}")
    before = vault.files(), times(tmp_path)
    found = credential_db.status(vault.path)
    assert found[:3] == (state, version, HEAD)
    assert found.detail
    assert "\n" not in str(found)
    assert (vault.files(), times(tmp_path)) == before


def _die(path: Path) -> None:
    """In WAL mode leave a log, otherwise a file that is half changed, and its journal."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA cache_size = 1")
    (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
    if mode == "delete":
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("CREATE TABLE theirs (a)")
        connection.executemany("INSERT INTO theirs VALUES (zeroblob(3000))", [()] * 300)
    connection.execute(f"PRAGMA user_version = {HEAD + 1}")
    os.kill(os.getpid(), signal.SIGKILL)


@as_root
@pytest.mark.parametrize("mode", ["delete", "wal"])
@pytest.mark.parametrize("version", [0, "current"])
def test_what_a_dead_program_left_counts(mode: str, version: int | str) -> None:
    """The file alone is not what it seems to be; who may not write it cannot find out."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        vault = Vault(Path(directory) / "credentials.db").create(journal_mode=mode)
        if version == "current":
            credential_db.upgrade(vault.path)
        process = warm.Process(target=_die, args=(vault.path,))
        process.start()
        process.join()
        vault.path.with_name("credentials.db-shm").unlink(missing_ok=True)
        for file in Path(directory).iterdir():
            file.chmod(0o644)
        before = vault.files()
        for call in CALLS:
            found = apart(call, str(vault.path), user=NOBODY)
            assert isinstance(found, ReadOnlyDatabase), found
            assert vault.files() == before
        state = credential_db.status(vault.path).state
        assert state == (
            "ahead" if mode == "wal" else version if version == "current" else "legacy"
        )
        if mode == "wal":
            after = {name: file for name, file in vault.files().items() if "-shm" not in name}
            assert after == before, "status() must not write the log into the file"


# --- Results and errors -------------------------------------------------------------------------

ERRORS: list[tuple[CredentialDBError, type[Exception]]] = [
    (CredentialDBError("text"), sqlite3.DatabaseError),
    (SchemaTooNew("text", 7), CredentialDBError),
    (UnrecognizedSchema("text"), CredentialDBError),
    (KeyConversionError([KeyProblem(5, "holds no key")]), CredentialDBError),
    (DatabaseBusy("text"), sqlite3.OperationalError),
    (NotADatabase("text"), sqlite3.DatabaseError),
    (ReadOnlyDatabase("text"), sqlite3.OperationalError),
]


@pytest.mark.parametrize(("error", "kind"), ERRORS)
def test_errors_are_those_of_sqlite3_and_survive_a_pickle(
    error: CredentialDBError, kind: type[Exception]
) -> None:
    assert isinstance(error, kind)
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))


def test_the_errors_of_an_upgrade_have_attributes(plain_vault: Vault) -> None:
    plain_vault.create(content=keys(3)).execute("UPDATE ssh_keys SET public_blob = x'00'")
    with pytest.raises(KeyConversionError) as caught:
        credential_db.upgrade(plain_vault.path)
    assert [problem.id for problem in caught.value.problems] == [2, 5, 8]
    assert all(str(problem.id) in str(caught.value) for problem in caught.value.problems)
    plain_vault.execute("PRAGMA user_version = 99")
    with pytest.raises(SchemaTooNew) as too_new:
        credential_db.upgrade(plain_vault.path)
    assert too_new.value.version == 99


def test_results(plain_vault: Vault, caplog: pytest.LogCaptureFixture) -> None:
    plain_vault.create(content=keys(3))
    with caplog.at_level(logging.INFO, "credential_db"):
        found = credential_db.upgrade(plain_vault.path)
        again = credential_db.upgrade(plain_vault.path)
    assert (found.before, found.after, found) == (0, HEAD, (0, HEAD))
    assert len(caplog.messages) == 1, "one line for a change, and none for nothing"
    assert str(plain_vault.path) in caplog.text
    assert len({str(found), str(again), str(Upgrade(None, HEAD))}) == 3


def test_names_are_imported_on_first_use() -> None:
    code = "import credential_db, sys; credential_db.{}; print('sqlalchemy' in sys.modules)"
    for name in credential_db.__all__:
        assert getattr(credential_db, name) is not None
    for name in ("Status", "metadata"):
        line = [sys.executable, "-c", code.format(name)]
        done = subprocess.run(line, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == str(name == "metadata")


# --- The two legacy functions -------------------------------------------------------------------

SOME = ("credentials", "proxy_tokens")
# A file, and the stamps after both functions.
STARTS: dict[str, tuple[Callable[[Vault], object], tuple[str | None, int]]] = {
    "empty": (lambda _: None, STAMPS),
    "v0": (lambda vault: vault.create(content=keys(2)), STAMPS),
    "v1": (lambda vault: vault.create(1, content=keys(2)), STAMPS),
    "oldest": (lambda vault: vault.create(tables=SOME, content=()), STAMPS),
    "current": (current, STAMPS),
    "legacy, at the head": (lambda vault: vault.create(HEAD, content=keys(2)), (None, HEAD)),
    "ahead by number": (lambda vault: vault.create(2, number=99, tables=SOME), (None, 99)),
    "ahead by stamp": (
        lambda vault: vault.create(2, tables=SOME).execute(
            "CREATE TABLE alembic_version (version_num TEXT)",
            "INSERT INTO alembic_version VALUES ('v99')",
        ),
        ("v99", 2),
    ),
    "torn, at the head": (lambda vault: vault.create(0, number=HEAD), (None, HEAD)),
}


@pytest.mark.parametrize("name", STARTS)
def test_the_legacy_functions(plain_vault: Vault, name: str) -> None:
    make, stamps = STARTS[name]
    make(plain_vault)
    before = plain_vault.content() if plain_vault.path.exists() else {}
    for _ in range(2):
        with closing(plain_vault.connect()) as connection:
            connection.row_factory = sqlite3.Row
            for function in LEGACY:
                getattr(credential_db, function)(connection)
                assert not connection.in_transaction
            assert connection.row_factory is sqlite3.Row
    assert plain_vault.stamps() == stamps
    if stamps == STAMPS:
        version = 0 if name in ("v0", "oldest") else 2
        assert plain_vault.content() == upgraded({"ssh_keys": [], **before}, version)
    else:
        assert plain_vault.content() == before, "nothing is added to what it does not know"


@pytest.mark.skipif(HEAD > 2, reason="newer tables do not fit an older file, which is upgraded")
def test_ensure_adds_what_is_missing_and_nothing_else(plain_vault: Vault) -> None:
    tokens = plain_vault.create(tables=SOME, content=()).content()["proxy_tokens"]
    with closing(plain_vault.connect()) as connection:
        credential_db.ensure_credentials_schema(connection)
    assert plain_vault.content()["proxy_tokens"] == tokens
    assert plain_vault.value("SELECT count(task) FROM proxy_tokens") == 3
    assert plain_vault.value("SELECT count(private_der) FROM ssh_keys") == 0
    assert plain_vault.stamps() == (None, 0)


@pytest.mark.parametrize("name", LEGACY)
@pytest.mark.parametrize("tables", [TABLES, SOME], ids=len)
def test_the_legacy_functions_commit(plain_vault: Vault, name: str, tables: Sequence[str]) -> None:
    plain_vault.create(1, tables=tables).execute("CREATE TABLE theirs (a)")
    raw = plain_vault.path.read_bytes()
    modes: list[dict[str, Any]] = [{}]
    if sys.version_info >= (3, 12):
        modes += [{"autocommit": True}, {"autocommit": False}]
    for options in modes:
        plain_vault.path.write_bytes(raw)
        with closing(sqlite3.connect(plain_vault.path, **options)) as connection:
            if options.get("autocommit"):
                connection.execute("BEGIN")
            connection.execute("INSERT INTO theirs VALUES (1)")
            getattr(credential_db, name)(connection)
            assert connection.in_transaction == (options == {"autocommit": False})
        assert plain_vault.value("SELECT count(*) FROM theirs") == 1


@pytest.mark.parametrize("name", LEGACY)
def test_the_legacy_functions_wait_as_long_as_the_connection_does(
    plain_vault: Vault, name: str
) -> None:
    plain_vault.create(1, tables=SOME)
    with (
        closing(sqlite3.connect(plain_vault.path)) as writer,
        closing(sqlite3.connect(plain_vault.path, timeout=0)) as connection,
    ):
        writer.execute("BEGIN IMMEDIATE")
        with pytest.raises(DatabaseBusy):
            getattr(credential_db, name)(connection)
    plain_vault.path.write_bytes(b"no database, but long enough to be one" * 100)
    with closing(sqlite3.connect(plain_vault.path)) as connection, pytest.raises(NotADatabase):
        getattr(credential_db, name)(connection)
