"""The Python interface: every kind of target, and a host application left as it was."""

import asyncio
import logging
import pickle
import re
import sqlite3
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from alembic import command
from alembic.config import Config
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

import credential_db
from credential_db import SCHEMA_VERSION, CredentialDBError, Status, Upgrade, records, scripts
from vaults import STAMPS, TABLES, Vault, ed25519_key, keys, upgraded

Opened = Callable[[Path], Any]


@contextmanager
def as_it_is(target: Any) -> Iterator[Any]:
    yield target


@contextmanager
def engine_for(path: Path) -> Iterator[sqlalchemy.Engine]:
    engine = sqlalchemy.create_engine(f"sqlite:///{path}")
    yield engine
    engine.dispose()


@contextmanager
def sqlalchemy_connection(path: Path) -> Iterator[sqlalchemy.Connection]:
    with engine_for(path) as engine, engine.connect() as connection:
        yield connection


@contextmanager
def begun_sqlalchemy_connection(path: Path) -> Iterator[sqlalchemy.Connection]:
    """As in the recipe of Alembic's documentation: nothing is executed in it yet."""
    with engine_for(path) as engine, engine.begin() as connection:
        yield connection


TARGETS: dict[str, Opened] = {
    "path": as_it_is,
    "str": lambda path: as_it_is(str(path)),
    "URL": lambda path: as_it_is(f"sqlite:///{path}"),
    "URL with a driver": lambda path: as_it_is(f"sqlite+pysqlite:///{path}"),
    "URL object": lambda path: as_it_is(sqlalchemy.make_url(f"sqlite:///{path}")),
    "sqlite3 connection": lambda path: closing(sqlite3.connect(path)),
    "Engine": engine_for,
    "Connection": sqlalchemy_connection,
    "Connection that has begun": begun_sqlalchemy_connection,
}


@pytest.fixture(params=TARGETS)
def opened(request: pytest.FixtureRequest) -> Opened:
    return TARGETS[request.param]


def test_any_target_is_upgraded(plain_vault: Vault, opened: Opened) -> None:
    plain_vault.create(content=keys(2))
    expected = upgraded(plain_vault.content(), 0)
    with opened(plain_vault.path) as target:
        assert credential_db.status(target)[:3] == ("legacy", 0, SCHEMA_VERSION)
        assert credential_db.upgrade(target) == (0, SCHEMA_VERSION)
        assert credential_db.status(target)[:3] == ("current", SCHEMA_VERSION, SCHEMA_VERSION)
        assert credential_db.upgrade(target) == (SCHEMA_VERSION, SCHEMA_VERSION)
    assert plain_vault.content() == expected


@pytest.mark.parametrize("name", list(TARGETS)[4:])
def test_alembics_own_command_upgrades_what_is_handed_in(plain_vault: Vault, name: str) -> None:
    plain_vault.create(content=keys(2))
    expected = upgraded(plain_vault.content(), 0)
    config = scripts.config()
    with TARGETS[name](plain_vault.path) as target:
        config.attributes["connection"] = target
        command.upgrade(config, "head")
    assert plain_vault.content() == expected
    assert plain_vault.stamps() == (f"v{SCHEMA_VERSION}", SCHEMA_VERSION)


def test_alembics_own_command_goes_by_the_ini_file(
    plain_vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain_vault.create(content=keys(1))
    monkeypatch.delenv("CREDENTIAL_DB", raising=False)
    config = Config()
    location = scripts.config().get_main_option("script_location")
    config.set_main_option("script_location", str(location))
    config.set_main_option("sqlalchemy.url", f"sqlite:///{plain_vault.path}")
    command.upgrade(config, "head")
    assert plain_vault.stamps() == (f"v{SCHEMA_VERSION}", SCHEMA_VERSION)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("postgresql://user:secret@host/db", "postgresql URL"),
        ("sqlite+pysqlcipher://:secret@/file.db", "no passphrase"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("sqlite:///file.db?mode=ro", "not supported"),
        (":memory:", "open connection"),
        ("", "open connection"),
        (42, "a int cannot be upgraded"),
        (None, "a NoneType cannot be upgraded"),
    ],
)
def test_what_is_no_target_is_refused(target: Any, words: str) -> None:
    for function in (credential_db.upgrade, credential_db.status):
        with pytest.raises(CredentialDBError, match=words) as caught:
            function(target)
        assert "secret" not in str(caught.value)


class NobodyConnects:
    """The module of a driver that is not installed: an attempt to connect fails the test."""

    paramstyle, __version__ = "qmark", "9.9"
    sqlite_version_info = sqlite3.sqlite_version_info
    Error = Exception

    class Connection:
        pass

    @staticmethod
    def connect(*_: object, **__: object) -> None:
        pytest.fail("a driver that is of no use was asked to connect")


class LibSQL(SQLiteDialect_pysqlite):
    """As sqlalchemy-libsql has it."""

    driver = "libsql"
    supports_statement_cache = True

    def create_connect_args(self, url: sqlalchemy.URL) -> Any:
        return [], {}


@pytest.mark.parametrize(
    "url",
    [
        "mysql+pymysql://me:secret@unreachable.invalid/vault",
        "sqlite+libsql://me:secret@unreachable.invalid/vault",
        "sqlite+libsql:///vault.db",
    ],
)
@pytest.mark.parametrize("function", ["upgrade", "status"])
def test_an_engine_of_another_driver_is_refused_before_it_connects(
    url: str, function: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    registry.register("sqlite.libsql", __name__, LibSQL.__name__)
    name = url.partition(":")[0]
    engine = sqlalchemy.create_engine(url, module=NobodyConnects)
    for target in (engine, engine.url, url):
        with pytest.raises(CredentialDBError, match=re.escape(name)) as caught:
            getattr(credential_db, function)(target)
        assert "secret" not in "".join(traceback.format_exception(caught.value))
        assert "PATH" in str(caught.value), "it does not say what to name instead"
    assert not list(tmp_path.iterdir())


def test_no_url_is_tried_as_the_name_of_a_file(tmp_path: Path) -> None:
    """Who watches what a process opens (an audit hook, strace) must not read a password there."""
    program = """
import sys, credential_db
opened = []
sys.addaudithook(lambda event, args: opened.append(args) if event == "sqlite3.connect" else None)
for url in ("postgresql://me:secret@host/db", "sqlite+pysqlcipher://:secret@/x.db", "file:x.db"):
    try:
        credential_db.upgrade(url)
    except credential_db.CredentialDBError:
        assert not opened, opened
    else:
        raise SystemExit(f"{url} was upgraded")
credential_db.upgrade("sqlite:///vault.db")
del opened[:]
credential_db.upgrade("sqlite:///vault.db")
assert opened == [("file:vault.db?mode=rw",)], opened
"""
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)


def test_what_an_engine_connects_to_is_looked_at() -> None:
    class Elsewhere:
        def cursor(self) -> None: ...
        def rollback(self) -> None: ...
        def close(self) -> None: ...

    engine = sqlalchemy.create_engine("sqlite://", creator=Elsewhere, _initialize=False)
    with pytest.raises(CredentialDBError, match="not for SQLite"):
        credential_db.upgrade(engine)


@pytest.mark.parametrize("target", ["engine", "connection in run_sync", "session in run_sync"])
@pytest.mark.parametrize("function", ["upgrade", "status"])
def test_aiosqlite_is_told_what_to_do_instead(function: str, target: str, tmp_path: Path) -> None:
    reason = "run where aiosqlite and greenlet are installed: pip install -e '.[test]'"
    pytest.importorskip("aiosqlite", reason=reason)
    pytest.importorskip("greenlet", reason=reason)
    from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

    path = tmp_path / "vault.db"
    call = getattr(credential_db, function)

    async def attempt(engine: AsyncEngine) -> None:
        if target == "engine":
            call(engine.sync_engine)
        elif target == "connection in run_sync":
            async with engine.connect() as connection:
                await connection.run_sync(call)
        else:
            async with AsyncSession(engine) as session:
                await session.run_sync(lambda sync: call(sync.connection()))

    async def host() -> None:
        engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
        try:
            with pytest.raises(CredentialDBError, match=r"await asyncio\.to_thread\("):
                await attempt(engine)
            async with engine.connect():  # what it says works beside an engine that is in use
                await asyncio.to_thread(credential_db.upgrade, path)
        finally:
            await engine.dispose()

    asyncio.run(host())
    assert Vault(path).stamps() == STAMPS


@pytest.mark.parametrize("isolation_level", ["", None, "IMMEDIATE", "EXCLUSIVE"])
@pytest.mark.parametrize("outcome", ["upgraded", "refused", "current"])
def test_a_connection_is_given_back_as_it_came(
    plain_vault: Vault, isolation_level: Any, outcome: str
) -> None:
    plain_vault.create(content=keys(2), number=2 if outcome == "refused" else 0)
    if outcome == "current":
        credential_db.upgrade(plain_vault.path)

    def regexp(pattern: str, text: str) -> str:
        return "the host's"

    def row_factory(cursor: Any, row: Any) -> dict[str, Any]:
        return {column[0]: value for column, value in zip(cursor.description, row, strict=True)}

    pragmas = {
        "foreign_keys": 1,
        "secure_delete": 2,
        "busy_timeout": 1234,
        "synchronous": 1,
        "journal_size_limit": 4321,
        "legacy_alter_table": 1,
        "ignore_check_constraints": 1,
    }
    with closing(sqlite3.connect(plain_vault.path, isolation_level=isolation_level)) as connection:
        connection.create_function("regexp", 2, regexp)
        connection.text_factory = bytes
        for name, value in pragmas.items():
            written = "FAST" if name == "secure_delete" else value
            connection.execute(f"PRAGMA {name} = {written}")
        connection.row_factory = row_factory

        if outcome == "refused":
            with pytest.raises(credential_db.UnrecognizedSchema):
                credential_db.upgrade(connection)
        else:
            credential_db.upgrade(connection)
        credential_db.status(connection)

        assert connection.isolation_level == isolation_level
        assert connection.row_factory is row_factory
        assert connection.text_factory is bytes
        assert not connection.in_transaction
        connection.row_factory = None
        for name, value in pragmas.items():
            column = "timeout" if name == "busy_timeout" else name
            assert connection.execute(f"PRAGMA {name}").fetchone() == (value,), column
        assert connection.execute("SELECT 'a' REGEXP 'b'").fetchone() == (b"the host's",)
        assert connection.execute("SELECT name FROM sqlite_temp_master").fetchall() == []


@pytest.mark.parametrize("version", [0, 2])
def test_a_transaction_in_progress_is_its_owners(plain_vault: Vault, version: int) -> None:
    plain_vault.create(version)
    if version == 2:
        credential_db.upgrade(plain_vault.path)
    plain_vault.execute("CREATE TABLE theirs (a)")
    with closing(sqlite3.connect(plain_vault.path)) as connection:
        connection.execute("INSERT INTO theirs VALUES ('a')")
        with pytest.raises(CredentialDBError, match="transaction in progress"):
            credential_db.upgrade(connection)
        assert connection.in_transaction, "the transaction was ended for its owner"
        connection.commit()
    assert plain_vault.query("SELECT a FROM theirs") == [("a",)]


def test_an_unfinished_query_in_the_way_of_a_table_copy_is_named(plain_vault: Vault) -> None:
    plain_vault.create(content=keys(2), check=False)
    with closing(plain_vault.connect()) as connection:
        cursor = connection.execute("SELECT * FROM credentials")
        with pytest.raises(credential_db.DatabaseBusy, match="fetch all of its rows or close"):
            credential_db.upgrade(connection)
        cursor.close()
        assert credential_db.upgrade(connection) == (0, SCHEMA_VERSION)


has_autocommit = pytest.mark.skipif(
    sys.version_info < (3, 12), reason="sqlite3 has autocommit since Python 3.12"
)


@has_autocommit
def test_an_autocommit_connection_is_given_back_as_it_came(plain_vault: Vault) -> None:
    plain_vault.create(content=keys(1))
    connect: Any = sqlite3.connect
    with closing(connect(plain_vault.path, autocommit=True)) as connection:
        assert credential_db.upgrade(connection) == (0, SCHEMA_VERSION)
        assert connection.autocommit is True
    with closing(connect(plain_vault.path, autocommit=False)) as connection:
        with pytest.raises(CredentialDBError, match="set autocommit=True"):
            credential_db.upgrade(connection)
        credential_db.ensure_credentials_schema(connection)
        credential_db.migrate_credential_db_schema(connection)
        assert connection.autocommit is False


def test_the_hosts_logging_is_left_alone(plain_vault: Vault) -> None:
    plain_vault.create(content=keys(1))
    root, other = logging.getLogger(), logging.getLogger("somebody.else")
    before = (root.level, list(root.handlers), other.disabled, other.level)
    credential_db.upgrade(plain_vault.path)
    command.current(_config(plain_vault))
    assert (root.level, list(root.handlers), other.disabled, other.level) == before


def _config(vault: Vault) -> Config:
    config = scripts.config()
    config.set_main_option("sqlalchemy.url", f"sqlite:///{vault.path}")
    return config


def test_progress_is_logged(plain_vault: Vault, caplog: pytest.LogCaptureFixture) -> None:
    plain_vault.create(content=keys(3))
    with caplog.at_level(logging.INFO):
        credential_db.upgrade(plain_vault.path)
    messages = [record.getMessage() for record in caplog.records]
    assert "Adopting a file of schema version 0" in messages
    assert "3 SSH keys converted" in messages[-1].split("; ")
    assert [message[:24] for message in messages if message.startswith("Running")][:2] == [
        "Running upgrade v0 -> v1",
        "Running upgrade v1 -> v2",
    ]


def test_a_long_conversion_says_how_far_it_is(
    plain_vault: Vault, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain_vault.create(content=[ed25519_key(number) for number in range(300)])
    monkeypatch.setattr("credential_db.sqlite.progress._SAY_EVERY", 0.0)
    with caplog.at_level(logging.INFO):
        credential_db.upgrade(plain_vault.path)
    assert [message for message in caplog.messages if " of 300 SSH keys " in message] == [
        "256 of 300 SSH keys converted, about 0 s left",
    ]


@pytest.mark.parametrize("bad_rows", [0, 1])
def test_where_no_key_was_converted_no_line_says_so(
    plain_vault: Vault, caplog: pytest.LogCaptureFixture, bad_rows: int
) -> None:
    plain_vault.create(content=[ed25519_key(number) for number in range(bad_rows)])
    plain_vault.execute("UPDATE ssh_keys SET public_blob = x'00'")
    with caplog.at_level(logging.INFO), suppress(credential_db.KeyConversionError):
        credential_db.upgrade(plain_vault.path)
    assert "converted" not in caplog.text


def test_threads_upgrade_the_files_they_name(tmp_path: Path) -> None:
    vaults = [Vault(tmp_path / f"{n}.db").create(content=keys(2)) for n in range(6)]
    results: list[Upgrade] = []
    threads = [
        threading.Thread(target=lambda v=vault: results.append(credential_db.upgrade(v.path)))
        for vault in vaults
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [(0, SCHEMA_VERSION)] * 6
    assert [vault.stamps()[1] for vault in vaults] == [SCHEMA_VERSION] * 6


def test_results_print_well(plain_vault: Vault) -> None:
    head = SCHEMA_VERSION
    assert str(credential_db.status(plain_vault.path)) == "empty: no schema yet"
    assert str(credential_db.upgrade(plain_vault.path)) == f"created at version {head}"
    assert str(credential_db.upgrade(plain_vault.path)) == f"already at version {head}"
    assert str(Upgrade(0, head)) == f"upgraded from version 0 to version {head}"
    assert str(credential_db.status(plain_vault.path)) == f"current: version {head}"
    assert repr(Upgrade(0, 2)) == "Upgrade(before=0, after=2)"
    assert Status("legacy", 0, 2, "version 0").state == "legacy"


STATES: dict[str, tuple[Callable[[Vault], object], str, int | None]] = {
    "no file": (lambda vault: None, "empty", None),
    "an empty file": (lambda vault: vault.path.touch(), "empty", None),
    "another program's table": (lambda vault: vault.execute("CREATE TABLE t (x)"), "empty", None),
    "version 0": (lambda vault: vault.create(0), "legacy", 0),
    "version 2": (lambda vault: vault.create(2), "legacy", 2),
    "version 1 by Alembic": (
        lambda vault: command.upgrade(_config(vault), "v1"),
        "behind",
        1,
    ),
    "current": (lambda vault: credential_db.upgrade(vault.path), "current", SCHEMA_VERSION),
    "from the future": (lambda vault: vault.create(2, number=99), "ahead", 99),
    "torn": (lambda vault: vault.create(0, number=2), "unrecognized", None),
}


@pytest.mark.parametrize("name", STATES)
def test_status_tells_the_state(plain_vault: Vault, name: str) -> None:
    make, state, version = STATES[name]
    make(plain_vault)
    before = plain_vault.files()
    status = credential_db.status(plain_vault.path)
    assert (status.state, status.version, status.head) == (state, version, SCHEMA_VERSION)
    assert plain_vault.files() == before, "status() wrote or created a file"


class TestLegacyEntryPoints:
    """Drop-ins for two functions of earlier releases, which hosts call on their own connection."""

    def test_a_new_file_gets_the_current_schema(self, plain_vault: Vault) -> None:
        with closing(sqlite3.connect(plain_vault.path)) as connection:
            for _ in range(2):
                credential_db.ensure_credentials_schema(connection)
                credential_db.migrate_credential_db_schema(connection)
                assert not connection.in_transaction
        assert credential_db.status(plain_vault.path).state == "current"

    @pytest.mark.skipif(SCHEMA_VERSION > 2, reason="newer tables do not fit an older file")
    def test_ensure_adds_what_is_missing_and_touches_nothing_else(self, plain_vault: Vault) -> None:
        plain_vault.create(tables={"credentials": 0, "proxy_tokens": 0}, content=())
        tokens = plain_vault.content()["proxy_tokens"]
        with closing(sqlite3.connect(plain_vault.path)) as connection:
            connection.row_factory = sqlite3.Row
            credential_db.ensure_credentials_schema(connection)
        assert plain_vault.content()["proxy_tokens"] == tokens
        assert plain_vault.value("SELECT count(task) FROM proxy_tokens") == 3
        assert plain_vault.value("SELECT count(private_der) FROM ssh_keys") == 0
        assert plain_vault.stamps() == (None, 0)

    @pytest.mark.parametrize("version", [0, 1])
    def test_migrate_brings_an_older_file_up(self, plain_vault: Vault, version: int) -> None:
        plain_vault.create(version, content=keys(2))
        expected = upgraded(plain_vault.content(), version)
        with closing(sqlite3.connect(plain_vault.path)) as connection:
            connection.row_factory = sqlite3.Row
            credential_db.ensure_credentials_schema(connection)
            credential_db.migrate_credential_db_schema(connection)
            assert connection.row_factory is sqlite3.Row
        assert plain_vault.content() == expected

    @pytest.mark.parametrize("number", [SCHEMA_VERSION, 99])
    def test_migrate_does_nothing_to_a_file_at_or_above_the_version(
        self, plain_vault: Vault, number: int
    ) -> None:
        plain_vault.create(2, number=number, content=keys(1))
        before = plain_vault.files()
        with closing(sqlite3.connect(plain_vault.path)) as connection:
            credential_db.migrate_credential_db_schema(connection)
        assert plain_vault.files() == before

    @pytest.mark.parametrize("name", ["ensure_credentials_schema", "migrate_credential_db_schema"])
    def test_they_commit_as_they_always_did(self, plain_vault: Vault, name: str) -> None:
        plain_vault.create(1)
        plain_vault.execute("CREATE TABLE theirs (a)")
        with closing(sqlite3.connect(plain_vault.path)) as connection:
            connection.execute("INSERT INTO theirs VALUES (1)")
            getattr(credential_db, name)(connection)
            assert not connection.in_transaction
        assert plain_vault.value("SELECT count(*) FROM theirs") == 1

    @has_autocommit
    @pytest.mark.parametrize("tables", [TABLES, ("credentials", "proxy_tokens"), ()], ids=len)
    @pytest.mark.parametrize("autocommit", [True, False])
    def test_they_commit_whatever_autocommit_says(
        self, plain_vault: Vault, autocommit: bool, tables: Sequence[str]
    ) -> None:
        plain_vault.create(content=keys(2), tables=tables)
        plain_vault.execute("CREATE TABLE theirs (a)")
        connect: Any = sqlite3.connect
        with closing(connect(plain_vault.path, autocommit=autocommit)) as connection:
            for function in (
                credential_db.ensure_credentials_schema,
                credential_db.migrate_credential_db_schema,
            ):
                if autocommit:
                    connection.execute("BEGIN")
                connection.execute("INSERT INTO theirs VALUES (1)")
                function(connection)
                assert connection.autocommit is autocommit
                if not autocommit:
                    assert connection.in_transaction, "with autocommit=False there always is one"
        assert plain_vault.value("SELECT count(*) FROM theirs") == 2
        assert plain_vault.stamps() == STAMPS

    def test_ensure_waits_for_no_upgrade_of_another_file(
        self, plain_vault: Vault, tmp_path: Path
    ) -> None:
        plain_vault.create(content=keys(1))
        with (
            closing(sqlite3.connect(plain_vault.path)) as writer,
            closing(sqlite3.connect(tmp_path / "new.db")) as connection,
        ):
            writer.execute("BEGIN IMMEDIATE")
            busy = threading.Thread(target=credential_db.upgrade, args=(plain_vault.path,))
            busy.start()
            credential_db.ensure_credentials_schema(connection)
            assert busy.is_alive(), "the upgrade of the other file waits for its lock"
            writer.rollback()
            busy.join()
        assert plain_vault.stamps() == STAMPS

    def test_ensure_takes_no_lock_where_nothing_is_missing(self, plain_vault: Vault) -> None:
        plain_vault.create(content=keys(1))
        if SCHEMA_VERSION > 2:  # whose tables may have other names
            credential_db.upgrade(plain_vault.path)
        with (
            closing(sqlite3.connect(plain_vault.path)) as writer,
            closing(sqlite3.connect(plain_vault.path, timeout=0)) as connection,
        ):
            connection.text_factory = bytes
            writer.execute("BEGIN IMMEDIATE")
            credential_db.ensure_credentials_schema(connection)

    def test_their_errors_are_typed(self, plain_vault: Vault) -> None:
        plain_vault.path.write_bytes(b"no database, but long enough to be one" * 100)
        with closing(sqlite3.connect(plain_vault.path)) as connection:
            for function in (
                credential_db.ensure_credentials_schema,
                credential_db.migrate_credential_db_schema,
            ):
                with pytest.raises(credential_db.NotADatabase):
                    function(connection)


def run_python(code: str, *arguments: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


HEAVY = """
import sys
print(sorted({"alembic", "sqlalchemy", "cryptography"} & set(sys.modules)))
"""


@pytest.mark.parametrize(
    "code",
    [
        "from credential_db import KeyConversionError, SchemaTooNew, UnrecognizedSchema",
        "import credential_db, sys; credential_db.upgrade(sys.argv[1])",
        "import credential_db, sys; print(credential_db.status(sys.argv[1]).state, end='')",
        "import credential_db, sqlite3, sys; credential_db.upgrade(sqlite3.connect(sys.argv[1]))",
        "import credential_db, sqlite3, sys; c = sqlite3.connect(sys.argv[1]);"
        "credential_db.ensure_credentials_schema(c); credential_db.migrate_credential_db_schema(c)",
    ],
)
def test_a_current_file_costs_no_library(plain_vault: Vault, code: str) -> None:
    credential_db.upgrade(plain_vault.path)
    assert run_python(code + HEAVY, str(plain_vault.path)).endswith("[]")


def test_no_write_lock_is_taken_on_a_current_file(plain_vault: Vault) -> None:
    credential_db.upgrade(plain_vault.path)
    with closing(sqlite3.connect(plain_vault.path)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        assert credential_db.upgrade(plain_vault.path, timeout=0) == (SCHEMA_VERSION,) * 2


def test_the_metadata_is_imported_on_first_use() -> None:
    names = "sorted(credential_db.metadata.tables)"
    assert "sqlalchemy" in run_python(f"import credential_db; print({names})" + HEAVY)
    with pytest.raises(AttributeError, match="nothing_of_that_name"):
        _ = credential_db.nothing_of_that_name


def test_errors_survive_a_pickle(plain_vault: Vault) -> None:
    plain_vault.create(content=keys(2))
    plain_vault.execute("UPDATE ssh_keys SET public_blob = x'00' WHERE id = 2")
    with pytest.raises(credential_db.KeyConversionError) as caught:
        credential_db.upgrade(plain_vault.path)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert copy.problems == caught.value.problems
    assert str(copy) == str(caught.value)
    assert [problem.id for problem in copy.problems] == [2]


@pytest.mark.parametrize("journal_mode", ["delete", "wal"])
def test_a_backup_is_the_file_before(vault: Vault, tmp_path: Path, journal_mode: str) -> None:
    vault.create(content=keys(3), journal_mode=journal_mode)
    before, backup = vault.content(), tmp_path / "backup.db"
    credential_db.upgrade(vault.path, backup=backup, **vault.options)
    copy = Vault(backup, vault.passphrase)
    assert copy.content() == before
    assert copy.stamps() == (None, 0)
    assert backup.stat().st_mode & 0o777 == 0o600
    copy.check_integrity()
    if vault.passphrase:
        assert not backup.read_bytes().startswith(b"SQLite format 3")


def test_a_backup_never_replaces_a_file(plain_vault: Vault, tmp_path: Path) -> None:
    plain_vault.create(content=keys(1))
    before, backup = plain_vault.files(), tmp_path / "backup"
    backup.write_text("precious")
    with pytest.raises(CredentialDBError, match="exists already"):
        credential_db.upgrade(plain_vault.path, backup=backup)
    assert backup.read_text() == "precious"
    assert plain_vault.files() == before


def test_a_backup_of_a_file_in_memory_is_refused() -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(records.script(1) + "PRAGMA user_version = 1")
        with pytest.raises(CredentialDBError, match="in memory"):
            credential_db.upgrade(connection, backup="nowhere.db")


def test_a_backup_of_an_open_connection(plain_vault: Vault, tmp_path: Path) -> None:
    plain_vault.create(content=keys(2), journal_mode="wal")
    before = plain_vault.content()
    with closing(sqlite3.connect(plain_vault.path)) as connection:
        credential_db.upgrade(connection, backup=tmp_path / "backup.db")
    assert Vault(tmp_path / "backup.db").content() == before


def test_a_dry_run_changes_nothing(vault: Vault) -> None:
    vault.create(content=keys(3))
    before = vault.files()
    assert credential_db.upgrade(vault.path, dry_run=True, **vault.options) == (0, SCHEMA_VERSION)
    assert vault.files() == before


def test_a_dry_run_creates_nothing(plain_vault: Vault) -> None:
    assert credential_db.upgrade(plain_vault.path, dry_run=True) == (None, SCHEMA_VERSION)
    assert not plain_vault.path.exists()


def test_a_dry_run_finds_what_an_upgrade_would(plain_vault: Vault) -> None:
    plain_vault.create(content=keys(1))
    plain_vault.execute("UPDATE ssh_keys SET public_blob = x'00'")
    with pytest.raises(credential_db.KeyConversionError):
        credential_db.upgrade(plain_vault.path, dry_run=True)
