"""A connection that is lent: whatever its owner has set up, it is upgraded, and comes back so."""

import logging
import os
import re
import sqlite3
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from alembic import command
from sqlalchemy import event

import credential_db
from attacks import Upgrading, Victim, Watched, another_process
from credential_db import SCHEMA_VERSION, CredentialDBError, Upgrade, scripts
from vaults import STAMPS, TABLES, Key, Vault, at_head, keys, upgrade_to_2, upgraded

HEAD = SCHEMA_VERSION


def lent(vault: Vault, *statements: str, **options: Any) -> Any:
    """A connection of the host's, in autocommit mode, that has executed something."""
    connection = sqlite3.connect(vault.path, isolation_level=None, **options)
    for statement in statements:
        connection.execute(statement).fetchall()
    return closing(connection)


def assert_upgraded(connection: Any, vault: Vault) -> None:
    expected = upgraded(vault.content(), 0)
    assert credential_db.upgrade(connection) == (0, HEAD)
    assert not connection.in_transaction
    assert vault.content() == expected
    assert vault.stamps() == STAMPS
    vault.check_integrity()


# --- Journals ----------------------------------------------------------------------------------


def bytes_beside(vault: Vault) -> bytes:
    return b"".join(vault.files().values())


@pytest.mark.parametrize("left_over", ["delete", "persist", "truncate", "wal"])
@pytest.mark.parametrize("journal_mode", ["off", "memory", "persist", "truncate"])
def test_no_journal_keeps_a_key(plain_vault: Vault, journal_mode: str, left_over: str) -> None:
    """What an earlier program left beside the file is emptied, or gone, too."""
    plain_vault.create(content=keys(3), journal_mode=left_over)
    with lent(plain_vault, f"PRAGMA journal_mode = {left_over}") as earlier:
        earlier.execute("UPDATE ssh_keys SET comment = comment || '!', created_at = 'x'")
    with lent(plain_vault, f"PRAGMA journal_mode = {journal_mode}") as connection:
        (before,) = connection.execute("PRAGMA journal_mode").fetchone()
        assert_upgraded(connection, plain_vault)
        assert connection.execute("PRAGMA journal_mode").fetchone() == (before,)
        assert b"OPENSSH PRIVATE" not in bytes_beside(plain_vault)


def make_large(vault: Vault) -> Vault:
    """Above what SQLite may hold in memory of a transaction."""
    vault.create(content=keys(3))
    vault.execute(
        "PRAGMA page_size = 65536",
        "CREATE TABLE notes (note BLOB)",
        *("INSERT INTO notes VALUES (zeroblob(1000000))" for _ in range(17)),
    )
    return vault


@pytest.mark.parametrize("journal_mode", ["off", "memory"])
@pytest.mark.parametrize("end", ["a dry run", "a bad key"])
def test_a_large_file_without_a_journal_on_disk_is_taken_back(
    plain_vault: Vault, journal_mode: str, end: str
) -> None:
    """https://www.sqlite.org/pragma.html#pragma_journal_mode: with OFF, ROLLBACK is undefined."""
    make_large(plain_vault)
    if end == "a bad key":
        plain_vault.execute("UPDATE ssh_keys SET private_pem = x'00' WHERE id = 8")
    before = plain_vault.files()
    small_cache = "PRAGMA cache_size = 1"
    with lent(plain_vault, f"PRAGMA journal_mode = {journal_mode}", small_cache) as connection:
        if end == "a dry run":
            credential_db.upgrade(connection, dry_run=True)
        else:
            with pytest.raises(credential_db.KeyConversionError):
                credential_db.upgrade(connection)
        assert connection.execute("PRAGMA journal_mode").fetchone() == (journal_mode,)
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert plain_vault.files() == before, "an upgrade that is undone leaves the file as it was"


def test_a_left_over_journal_that_is_done_with_is_no_obstacle(plain_vault: Vault) -> None:
    plain_vault.create(content=keys(1))
    plain_vault.path.with_name(plain_vault.path.name + "-journal").write_bytes(bytes(512))
    with lent(plain_vault, "PRAGMA journal_mode = MEMORY") as connection:
        assert_upgraded(connection, plain_vault)


# --- Everything that a connection may be set to ------------------------------------------------

PRAGMAS = {
    "analysis_limit": 5,
    "automatic_index": 0,
    "busy_timeout": 321,
    "cache_size": 3,
    "cache_spill": 0,
    "cell_size_check": 1,
    "checkpoint_fullfsync": 1,
    "count_changes": 1,
    "empty_result_callbacks": 1,
    "foreign_keys": 1,
    "full_column_names": 1,
    "ignore_check_constraints": 1,
    "journal_size_limit": 5000,
    "legacy_alter_table": 1,
    "mmap_size": 1 << 20,
    "read_uncommitted": 1,
    "recursive_triggers": 1,
    "reverse_unordered_selects": 1,
    "secure_delete": 2,
    "short_column_names": 0,
    "synchronous": 0,
    "temp_store": 1,
    "threads": 2,
    "trusted_schema": 0,
    "writable_schema": 1,
}


@pytest.mark.parametrize("pragma", PRAGMAS)
@pytest.mark.parametrize("check", [True, False], ids=["rename", "table copy"])
def test_a_pragma_is_no_obstacle_and_is_given_back(
    plain_vault: Vault, pragma: str, check: bool
) -> None:
    plain_vault.create(content=keys(3), check=check)
    plain_vault.execute(
        "CREATE TABLE log (text)",
        "CREATE TRIGGER ours AFTER UPDATE ON ssh_keys BEGIN INSERT INTO log VALUES ('!'); END",
        "CREATE VIEW mine AS SELECT key_id FROM ssh_key_assignments",
    )
    value = "FAST" if pragma == "secure_delete" else PRAGMAS[pragma]
    with lent(plain_vault, f"PRAGMA {pragma} = {value}") as connection:
        before = connection.execute(f"PRAGMA {pragma}").fetchall()
        assert_upgraded(connection, plain_vault)
        assert connection.execute(f"PRAGMA {pragma}").fetchall() == before
    assert plain_vault.value("SELECT count(*) FROM ssh_key_assignments") == 6
    assert plain_vault.query("SELECT * FROM log") == []


UPGRADE_WITH_LITTLE_CACHE = """
import sqlite3, sys, credential_db
connection = sqlite3.connect(sys.argv[1])
for pragma in ("cache_size = 3", f"temp_store = {sys.argv[2]}"):
    connection.execute(f"PRAGMA {pragma}")
before = connection.execute("PRAGMA temp_store").fetchall()
credential_db.upgrade(connection)
assert connection.execute("PRAGMA temp_store").fetchall() == before
"""


@pytest.mark.parametrize("temp_store", ["DEFAULT", "FILE", "MEMORY"])
def test_no_temporary_file_is_made(plain_vault: Vault, tmp_path: Path, temp_store: str) -> None:
    """VACUUM builds the new file in one, if it may."""
    plain_vault.create(content=keys(3))
    plain_vault.execute(
        "CREATE TABLE much AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n"
        " WHERE x < 999) SELECT x, randomblob(2000) FROM n"
    )
    directory = tmp_path / "temporary"
    directory.mkdir()
    before = directory.stat().st_mtime_ns
    subprocess.run(
        [sys.executable, "-c", UPGRADE_WITH_LITTLE_CACHE, str(plain_vault.path), temp_store],
        env={**os.environ, "SQLITE_TMPDIR": str(directory)},
        check=True,
    )
    assert plain_vault.stamps() == STAMPS
    assert directory.stat().st_mtime_ns == before, "a file was made there, and removed again"


def test_what_an_unfinished_query_keeps_from_being_given_back_is_said(
    plain_vault: Vault, caplog: pytest.LogCaptureFixture
) -> None:
    """It holds on to the temporary storage that ALTER TABLE has opened meanwhile."""
    plain_vault.create(content=keys(3))
    with lent(plain_vault, "PRAGMA temp_store = FILE") as connection:
        cursor = connection.execute("SELECT * FROM credentials")
        upgrade_to_2(connection)
        (temp_store,) = connection.execute("PRAGMA temp_store").fetchone()
        cursor.close()
    assert temp_store == 1 or "PRAGMA temp_store = 1 failed" in caplog.text


def test_what_is_temporary_stays(plain_vault: Vault) -> None:
    plain_vault.create(content=keys(3))
    with lent(plain_vault, "PRAGMA temp_store = FILE") as connection:
        connection.execute("CREATE TEMP TABLE mine AS SELECT 1 AS a")
        assert_upgraded(connection, plain_vault)
        assert connection.execute("SELECT a FROM mine").fetchall() == [(1,)]


def test_a_broken_view_is_named_under_writable_schema_too(plain_vault: Vault) -> None:
    """https://www.sqlite.org/pragma.html#pragma_writable_schema: it lets errors pass."""
    plain_vault.create(content=keys(1))
    plain_vault.execute("CREATE VIEW mine AS SELECT task FROM proxy_tokens WHERE task = 'x'")
    plain_vault.execute("CREATE VIEW broken AS SELECT task, gone.* FROM proxy_tokens, gone")
    with lent(plain_vault, "PRAGMA writable_schema = ON") as connection:
        with pytest.raises(CredentialDBError, match="broken"):
            credential_db.upgrade(connection)
        assert not connection.in_transaction
    assert plain_vault.stamps() == (None, 0)


def test_a_connection_that_may_only_query_is_told_so(plain_vault: Vault) -> None:
    plain_vault.create(content=keys(1))
    before = plain_vault.files()
    with lent(plain_vault, "PRAGMA query_only = ON") as connection:
        for function in (credential_db.upgrade, credential_db.migrate_credential_db_schema):
            with pytest.raises(credential_db.ReadOnlyDatabase, match="query_only"):
                function(connection)
            assert connection.execute("PRAGMA query_only").fetchone() == (1,)
        assert credential_db.status(connection).state == "legacy"
    assert plain_vault.files() == before


def test_a_current_file_needs_no_more_than_query_only(plain_vault: Vault) -> None:
    plain_vault.create(content=keys(1))
    credential_db.upgrade(plain_vault.path)
    with lent(plain_vault, "PRAGMA query_only = ON") as connection:
        assert credential_db.upgrade(connection) == (HEAD, HEAD)


OPTIONS: dict[str, dict[str, Any]] = {
    "detect_types": {"detect_types": sqlite3.PARSE_DECLTYPES | sqlite3.PARSE_COLNAMES},
    "no cached statements": {"cached_statements": 0},
    "isolation_level": {"isolation_level": "EXCLUSIVE"},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_how_a_connection_was_opened_is_no_obstacle(plain_vault: Vault, name: str) -> None:
    plain_vault.create(content=keys(2))
    before = dict(sqlite3.converters)
    for kind in ("INTEGER", "TEXT", "BLOB"):
        sqlite3.register_converter(kind, lambda cell: [cell])
    try:
        with closing(sqlite3.connect(plain_vault.path, **OPTIONS[name])) as connection:
            expected = upgraded(plain_vault.content(), 0)
            assert credential_db.status(connection).state == "legacy"
            assert credential_db.upgrade(connection) == (0, HEAD)
            assert credential_db.upgrade(connection) == (HEAD, HEAD)
            assert credential_db.status(connection).state == "current"
        assert plain_vault.content() == expected
    finally:
        sqlite3.converters.clear()
        sqlite3.converters.update(before)


@pytest.mark.parametrize("locking_mode", ["EXCLUSIVE", "NORMAL"])
def test_a_locking_mode_is_the_owners(plain_vault: Vault, locking_mode: str) -> None:
    plain_vault.create(content=keys(2))
    with lent(plain_vault, f"PRAGMA locking_mode = {locking_mode}") as connection:
        assert credential_db.upgrade(connection) == (0, HEAD)
        assert connection.execute("PRAGMA locking_mode").fetchone() == (locking_mode.lower(),)
        assert b"OPENSSH PRIVATE" not in bytes_beside(plain_vault)
    assert plain_vault.stamps() == STAMPS


# --- Interrupts and handlers -------------------------------------------------------------------


@contextmanager
def host_set_up(vault: Vault) -> Iterator[Watched]:
    """A connection on which much is set that an upgrade has to set otherwise."""
    with closing(sqlite3.connect(vault.path, factory=Watched)) as connection:
        for pragma in (
            "foreign_keys = 1",
            "synchronous = 1",
            "secure_delete = FAST",
            "journal_mode = MEMORY",
            "busy_timeout = 321",
        ):
            connection.execute(f"PRAGMA {pragma}").fetchall()
        connection.row_factory = sqlite3.Row
        yield connection


def set_up_of(connection: Watched) -> list[object]:
    pragmas = (*(pragma for pragma in PRAGMAS if pragma != "writable_schema"), "journal_mode")
    settings = [[*row] for pragma in pragmas for row in connection.execute(f"PRAGMA {pragma}")]
    return [settings, connection.isolation_level, connection.row_factory, connection.text_factory]


class HostError(Exception):
    pass


@pytest.mark.parametrize("error", [KeyboardInterrupt, HostError])
def test_an_interrupt_at_any_setting_leaves_none_behind(
    plain_vault: Vault, error: type[BaseException]
) -> None:
    """Those of a table copy, and those that give the connection back, too."""
    plain_vault.create(content=keys(1), check=False)
    legacy = plain_vault.path.read_bytes()
    statements: list[str] = []
    with host_set_up(plain_vault) as connection:
        connection.before = statements.append
        credential_db.upgrade(connection)
    about_settings = [
        number
        for number, pair in enumerate(zip(["", *statements], statements, strict=False))
        if any(re.match("PRAGMA .* = |ALTER TABLE .* RENAME TO", sql) for sql in pair)
    ]
    assert len(about_settings) > 20
    for number in about_settings:
        plain_vault.path.write_bytes(legacy)
        with host_set_up(plain_vault) as connection:
            before = set_up_of(connection)
            to_come = iter(range(number, -1, -1))

            def interrupted(_: str, to_come: Iterator[int] = to_come) -> None:
                if next(to_come, None) == 0:
                    raise error

            connection.before = interrupted
            with suppress(error, CredentialDBError):
                credential_db.upgrade(connection)
            del connection.before
            assert not connection.in_transaction
            assert set_up_of(connection) == before, f"interrupted at: {statements[number]}"
    assert plain_vault.stamps() in ((None, 0), STAMPS)


def test_an_interrupt_just_after_a_table_copy_has_set_a_pragma(plain_vault: Vault) -> None:
    class Interrupted(sqlite3.Connection):
        def execute(self, sql: str, /, *parameters: Any) -> sqlite3.Cursor:
            cursor = super().execute(sql, *parameters)
            if sql == "PRAGMA legacy_alter_table = ON":
                raise KeyboardInterrupt
            return cursor

    plain_vault.create(check=False)
    with closing(sqlite3.connect(plain_vault.path, factory=Interrupted)) as connection:
        with pytest.raises(KeyboardInterrupt):
            credential_db.upgrade(connection)
        assert connection.execute("PRAGMA legacy_alter_table").fetchone() == (0,)


@pytest.mark.parametrize("after", [1, 2, 5, 20, 60, 200, 500])
def test_a_cancelling_progress_handler_leaves_no_transaction(
    plain_vault: Vault, after: int
) -> None:
    """It goes on to cancel, as a host's deadline does that has passed."""
    plain_vault.create(content=keys(4))
    victim = Victim(plain_vault)
    with host_set_up(plain_vault) as connection:
        before = set_up_of(connection)
        calls = iter(range(after))
        connection.set_progress_handler(lambda: next(calls, None) is None, 5)
        with suppress(CredentialDBError):
            credential_db.upgrade(connection)
        assert not connection.in_transaction, "a transaction of ours is ours to end"
        connection.set_progress_handler(None, 0)
        assert set_up_of(connection) == before
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")
    victim.is_new()
    victim.assert_completes()


def test_an_authorizer_that_denies_leaves_all_as_it_was(plain_vault: Vault) -> None:
    plain_vault.create(content=keys(2))
    before = plain_vault.content()
    with lent(plain_vault) as connection:
        deny_updates = {sqlite3.SQLITE_UPDATE}
        connection.set_authorizer(
            lambda action, *_: sqlite3.SQLITE_DENY if action in deny_updates else sqlite3.SQLITE_OK
        )
        with pytest.raises(CredentialDBError, match="authorizer"):
            credential_db.upgrade(connection)
        assert not connection.in_transaction
    assert plain_vault.content() == before


class CommitsElsewhere(sqlite3.Connection):
    """As test suites have them, which roll everything back in the end."""

    def commit(self) -> None: ...
    def rollback(self) -> None: ...


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize("isolation_level", [None, "DEFERRED"])
def test_a_class_that_does_not_commit_is_not_believed(
    plain_vault: Vault, isolation_level: str | None, dry_run: bool
) -> None:
    plain_vault.create(content=keys(1))
    with closing(
        sqlite3.connect(
            plain_vault.path,
            factory=CommitsElsewhere,
            isolation_level=isolation_level,  # type: ignore[arg-type]  # any text, for typeshed
        )
    ) as connection:
        assert credential_db.upgrade(connection, dry_run=dry_run) == (0, HEAD)
        assert not connection.in_transaction
    assert plain_vault.stamps() == ((None, 0) if dry_run else STAMPS)


def test_an_authorizer_that_ignores_a_begin_is_told_so(plain_vault: Vault) -> None:
    plain_vault.create(content=keys(1))
    with lent(plain_vault) as connection:
        ignored = sqlite3.SQLITE_TRANSACTION
        connection.set_authorizer(
            lambda action, *_: sqlite3.SQLITE_IGNORE if action == ignored else sqlite3.SQLITE_OK
        )
        with pytest.raises(CredentialDBError, match="authorizer"):
            credential_db.upgrade(connection)
    assert plain_vault.stamps() == (None, 0)


class Aggregate:
    def step(self, *_: object) -> None: ...
    def finalize(self) -> None: ...


@pytest.mark.parametrize("kind", ["function", "aggregate"])
@pytest.mark.parametrize("name", ["max", "min", "typeof", "like", "lower", "length", "datetime"])
def test_a_function_in_the_place_of_sqlites_is_no_obstacle(
    plain_vault: Vault, name: str, kind: str
) -> None:
    """A table copy compares cells, and looks for how far AUTOINCREMENT has counted."""
    plain_vault.create(content=keys(2), check=False)
    with lent(plain_vault) as connection:
        for arguments in (1, 2):
            if kind == "function":
                connection.create_function(name, arguments, lambda *_: None)
            else:
                connection.create_aggregate(name, arguments, Aggregate)
        assert_upgraded(connection, plain_vault)
        credential_db.ensure_credentials_schema(connection)


# --- Temporary objects and attached databases --------------------------------------------------


@pytest.mark.parametrize("kind", ["TABLE", "VIEW"])
@pytest.mark.parametrize("name", [*TABLES, "alembic_version", "SSH_Keys"])
@pytest.mark.parametrize("number", [0, HEAD])
def test_a_temporary_object_is_never_taken_for_the_files(
    plain_vault: Vault, name: str, kind: str, number: int
) -> None:
    if number:
        credential_db.upgrade(plain_vault.path)
    else:
        plain_vault.create(content=keys(1))
    before = plain_vault.content(), plain_vault.stamps()
    shadow = f"CREATE TEMP {kind} {name} AS SELECT 'v{HEAD}' AS version_num"
    with lent(plain_vault, shadow) as connection:
        if number:
            assert credential_db.upgrade(connection) == (HEAD, HEAD)
        else:
            with pytest.raises(credential_db.UnrecognizedSchema, match="temporary"):
                credential_db.upgrade(connection)
            assert credential_db.status(connection).version == number
    assert (plain_vault.content(), plain_vault.stamps()) == before


@pytest.mark.parametrize("table", TABLES)
def test_a_temporary_table_hides_no_missing_one(plain_vault: Vault, table: str) -> None:
    name = at_head(f"{{{table}}}")
    credential_db.upgrade(plain_vault.path)
    plain_vault.execute(f"DROP TABLE {name}")
    with lent(plain_vault, f"CREATE TEMP TABLE {name} (x)") as connection:
        credential_db.ensure_credentials_schema(connection)
        assert name in {row[1] for row in plain_vault.schema()}


def test_a_temporary_trigger_sees_no_key(plain_vault: Vault) -> None:
    plain_vault.create(content=keys(2))
    with lent(
        plain_vault,
        "CREATE TEMP TABLE seen (cell)",
        "CREATE TEMP TRIGGER mine AFTER UPDATE ON main.ssh_keys BEGIN"
        " INSERT INTO seen VALUES (OLD.id); END",
    ) as connection:
        assert_upgraded(connection, plain_vault)
        assert connection.execute("SELECT * FROM seen").fetchall() == []
        connection.execute(at_head("UPDATE {ssh_keys} SET {ssh_keys.key_type} = 'rsa'"))
        assert len(connection.execute("SELECT * FROM seen").fetchall()) == 2


@contextmanager
def with_attached(vault: Vault, other: Vault) -> Iterator[Any]:
    with lent(vault, f"ATTACH '{other.path}' AS other") as connection:
        yield connection


@pytest.mark.parametrize("journal_mode", ["delete", "wal"])
def test_an_attached_database_is_left_alone(
    plain_vault: Vault, tmp_path: Path, journal_mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    other = Vault(tmp_path / "other.db").create(1, content=keys(2), journal_mode=journal_mode)
    plain_vault.create(content=keys(3), journal_mode=journal_mode)
    before = other.content(), other.schema(), other.stamps()
    reader = ("BEGIN", "SELECT * FROM credentials")
    with with_attached(plain_vault, other) as connection, another_process(other, *reader):
        pragmas = ("secure_delete", "synchronous", "journal_size_limit", "journal_mode")
        settings = [connection.execute(f"PRAGMA other.{name}").fetchone() for name in pragmas]
        assert_upgraded(connection, plain_vault)
        assert settings == [
            connection.execute(f"PRAGMA other.{name}").fetchone() for name in pragmas
        ]
    assert (other.content(), other.schema(), other.stamps()) == before
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert not warnings, "a reader of the attached database is nothing to warn of"


def test_a_lock_on_an_attached_database_holds_up_nobody(plain_vault: Vault, tmp_path: Path) -> None:
    """BEGIN IMMEDIATE locks every attached database: https://www.sqlite.org/lang_attach.html."""
    plain_vault.create(content=keys(1))
    other = Vault(tmp_path / "other.db").create(1)
    with with_attached(plain_vault, other) as connection, another_process(other, "BEGIN IMMEDIATE"):
        assert_upgraded(connection, plain_vault)


# --- What the host listens to ------------------------------------------------------------------


def foreign_keys_on(connection: Any, _: object) -> None:
    connection.execute("PRAGMA foreign_keys = ON")


def begin(connection: sqlalchemy.Connection) -> None:
    connection.exec_driver_sql("BEGIN")


def rows_as_dicts(connection: Any, _: object) -> None:
    connection.row_factory = lambda cursor, row: {"row": row}


def own_transactions(connection: Any, _: object) -> None:
    connection.isolation_level = None


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("this engine is not the host's")


# (target, event, listener): SQLAlchemy's own recipes for SQLite first.
LISTENERS: dict[str, tuple[Any, str, Callable[..., Any]]] = {
    "foreign keys on connect": (sqlalchemy.Engine, "connect", foreign_keys_on),
    "foreign keys on connect of a pool": (sqlalchemy.Pool, "connect", foreign_keys_on),
    "BEGIN": (sqlalchemy.Engine, "begin", begin),
    "row factory": (sqlalchemy.Engine, "connect", rows_as_dicts),
    "isolation level": (sqlalchemy.Engine, "connect", own_transactions),
    **{
        f"{target.__name__} {name}": (target, name, refuse)
        for target in (sqlalchemy.Engine, sqlalchemy.Pool, sqlalchemy.StaticPool)
        for name in ("connect", "first_connect", "checkout", "checkin", "reset", "close")
    },
    **{
        f"Engine {name}": (sqlalchemy.Engine, name, refuse)
        for name in (
            "begin",
            "commit",
            "rollback",
            "engine_connect",
            "before_execute",
            "after_execute",
            "before_cursor_execute",
            "after_cursor_execute",
            "set_connection_execution_options",
            "set_engine_execution_options",
            "handle_error",
            "do_connect",
            "do_execute",
            "do_execute_no_params",
        )
    },
}


@pytest.fixture(params=LISTENERS)
def listening(request: pytest.FixtureRequest) -> Iterator[None]:
    target, name, listener = LISTENERS[request.param]
    options = {"retval": True} if name in ("before_execute", "before_cursor_execute") else {}
    event.listen(target, name, listener, **options)
    try:
        yield
    finally:
        event.remove(target, name, listener)


@pytest.mark.usefixtures("listening")
def test_what_the_host_listens_to_on_all_engines_is_no_obstacle(plain_vault: Vault) -> None:
    plain_vault.create(content=keys(2))
    expected = upgraded(plain_vault.content(), 0)
    assert credential_db.upgrade(plain_vault.path) == (0, HEAD)
    config = scripts.config()
    config.set_main_option("sqlalchemy.url", str(plain_vault.path))
    command.check(config)
    command.downgrade(config, "v1")
    with lent(plain_vault, "PRAGMA foreign_keys = OFF") as connection:
        assert credential_db.upgrade(connection) == (1, HEAD)
        assert connection.execute("PRAGMA foreign_keys").fetchone() == (0,)
    assert plain_vault.content() == expected


@pytest.mark.parametrize("name", ["checkin", "close"])
def test_a_listener_that_fails_after_the_commit_undoes_nothing(
    plain_vault: Vault, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    plain_vault.create(content=keys(1))
    engine = sqlalchemy.create_engine(
        f"sqlite:///{plain_vault.path}", poolclass=sqlalchemy.NullPool
    )
    event.listen(engine, name, refuse)
    assert credential_db.upgrade(engine) == (0, HEAD)
    assert plain_vault.stamps() == STAMPS
    assert "AssertionError" in caplog.text


def test_a_detached_connection_is_one_too(plain_vault: Vault) -> None:
    plain_vault.create(content=keys(1))
    engine = sqlalchemy.create_engine(f"sqlite:///{plain_vault.path}")
    with engine.connect() as connection:
        connection.detach()
        assert credential_db.upgrade(connection) == (0, HEAD)


@pytest.mark.parametrize("driver", ["aiosqlite", "libsql"])
def test_an_engine_of_another_driver_is_refused_before_it_connects(driver: str) -> None:
    connected: list[object] = []
    module = types.ModuleType(driver)
    vars(module).update(
        paramstyle="qmark",
        sqlite_version_info=(3, 45, 0),
        connect=lambda *arguments, **_: connected.append(arguments),
    )
    engine = sqlalchemy.create_engine("sqlite:///secret.db", module=module)
    engine.dialect.driver = driver
    for function in (credential_db.upgrade, credential_db.status):
        with pytest.raises(CredentialDBError, match=rf"\+{driver}|of {driver}"):
            function(engine)
    assert not connected


# --- Who looks on ------------------------------------------------------------------------------


class Logging(sqlite3.Connection):
    """As hosts write them to find slow queries: statement, parameters and rows."""

    log: list[str] = []  # noqa: RUF012 - sqlite3 makes the objects

    def cursor(self, *_: Any, **__: Any) -> Any:
        return super().cursor(LoggingCursor)

    def execute(self, sql: str, parameters: Any = (), /) -> Any:
        return self.cursor().execute(sql, parameters)

    def executemany(self, sql: str, parameters: Any, /) -> Any:
        return self.cursor().executemany(sql, parameters)


class LoggingCursor(sqlite3.Cursor):
    @property
    def log(self) -> list[str]:
        assert isinstance(self.connection, Logging)
        return self.connection.log

    def execute(self, sql: str, parameters: Any = (), /) -> Any:
        self.log.append(f"{sql} {parameters!r}")
        return super().execute(sql, parameters)

    def executemany(self, sql: str, parameters: Any, /) -> Any:
        parameters = list(parameters)
        self.log.append(f"{sql} {parameters!r}")
        return super().executemany(sql, parameters)

    def fetchone(self) -> Any:
        row = super().fetchone()
        self.log.append(repr(row))
        return row

    def fetchmany(self, size: int | None = 1) -> Any:
        rows = super().fetchmany(size)
        self.log.append(repr(rows))
        return rows

    def fetchall(self) -> Any:
        rows = super().fetchall()
        self.log.append(repr(rows))
        return rows

    def __next__(self) -> Any:
        row = super().__next__()
        self.log.append(repr(row))
        return row


SECRETS = ("OPENSSH PRIVATE", "ghp_xxxx", "phantom-1")


def in_log(key: Key) -> tuple[str, ...]:
    pem, der = key.pem[60:100], key.der[20:40]
    return (repr(pem)[2:-1], pem.hex().upper(), repr(der)[2:-1], der.hex().upper())


@pytest.mark.parametrize("check", [True, False], ids=["rename", "table copy"])
@pytest.mark.parametrize("bad", [False, True], ids=["upgraded", "refused"])
@pytest.mark.parametrize("by", ["trace callback", "subclass"])
def test_who_looks_on_sees_no_key(
    plain_vault: Vault, by: str, bad: bool, check: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trace callback is shown bound parameters: https://www.sqlite.org/c3ref/expanded_sql.html."""
    plain_vault.create(content=keys(3), check=check)
    if bad:
        plain_vault.execute("UPDATE ssh_keys SET key_type = 'rsa'")
    log: list[str] = []
    monkeypatch.setattr(Logging, "log", log)
    with lent(plain_vault, factory=Logging if by == "subclass" else sqlite3.Connection) as host:
        if by == "trace callback":
            host.set_trace_callback(log.append)
        if bad:
            with pytest.raises(credential_db.KeyConversionError):
                credential_db.upgrade(host)
        else:
            assert credential_db.upgrade(host) == (0, HEAD)
            config = scripts.config()
            config.attributes["connection"] = host
            command.downgrade(config, "v0")
            assert credential_db.upgrade(host) == (0, HEAD)
            assert credential_db.upgrade(host, repair=True) == (HEAD, HEAD)
    seen = "\n".join(log)
    assert "BEGIN IMMEDIATE" in seen
    for secret in (*SECRETS, *(form for key in keys(3) for form in in_log(key))):
        assert secret not in seen, "a cell has to stay inside of SQLite: use a function of SQL"


# --- Killed while it works on a caller's connection --------------------------------------------


def test_a_kill_during_the_work_on_a_large_file_leaves_it_whole(plain_vault: Vault) -> None:
    make_large(plain_vault)
    victim = Victim(plain_vault)
    for _ in range(2):
        process = Upgrading(plain_vault)
        process.go()
        process.kill()
        outcome = process.outcome()
        assert outcome is None or isinstance(outcome, Upgrade)
        victim.is_new()
        victim.assert_completes()
        victim.restore()
