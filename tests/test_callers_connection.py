"""A connection that is passed in: what is refused, and that it is given back as it was.

``working()`` refuses what is unsafe, sets what an upgrade needs, and restores it. All else that an
application has configured is its own business.
"""

import gc
import sqlite3
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import event
from sqlcipher3 import dbapi2 as sqlcipher

import credential_db
from conftest import PASSPHRASE
from credential_db import CredentialDBError, ReadOnlyDatabase, UnrecognizedSchema, api
from faults import KINDS, Attack, as_the_real_program
from vaults import HEAD, STAMPS, TABLES, Key, Vault, at_head, keys, upgraded


def passed_in(vault: Vault, *statements: str, **options: Any) -> Any:
    """A connection of the application's, in autocommit mode, that has executed something."""
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


# --- What is refused ---------------------------------------------------------------------------


def a_transaction(connection: Any) -> Any:
    connection.execute("UPDATE credentials SET data = 'uncommitted'")


def a_transaction_that_has_read(connection: Any) -> Any:
    connection.execute("BEGIN")
    return connection.execute("SELECT count(*) FROM credentials").fetchall()


def an_unfinished_query(connection: Any) -> Any:
    cursor = connection.execute("SELECT 1 FROM credentials")
    cursor.fetchone()
    return cursor


def query_only(connection: Any) -> Any:
    connection.execute("PRAGMA query_only = ON")


def journal_mode_off(connection: Any) -> Any:
    connection.execute("PRAGMA journal_mode = OFF")


def journal_mode_memory(connection: Any) -> Any:
    connection.execute("PRAGMA journal_mode = MEMORY")


def temporary_table(connection: Any) -> Any:
    connection.execute("CREATE TEMP TABLE SSH_Keys AS SELECT 1 AS id")


def temporary_view(connection: Any) -> Any:
    connection.execute("CREATE TEMP VIEW alembic_version AS SELECT 'v2' AS version_num")


def temporary_trigger(connection: Any) -> Any:
    connection.execute("CREATE TEMP TRIGGER mine AFTER UPDATE ON main.ssh_keys BEGIN SELECT 1; END")


Function = Callable[[Any], Any]

REFUSED: dict[Function, type[CredentialDBError]] = {
    a_transaction: CredentialDBError,
    a_transaction_that_has_read: CredentialDBError,
    an_unfinished_query: CredentialDBError,
    query_only: ReadOnlyDatabase,
    journal_mode_off: CredentialDBError,
    journal_mode_memory: CredentialDBError,
    temporary_table: UnrecognizedSchema,
    temporary_view: UnrecognizedSchema,
    temporary_trigger: UnrecognizedSchema,
}
COMMITTED_BY_THE_LEGACY_FUNCTIONS = (a_transaction, a_transaction_that_has_read)


@pytest.fixture(params=["sqlite3", "sqlcipher3"])
def vault(request: pytest.FixtureRequest, tmp_path: Path) -> Vault:
    return Vault(tmp_path / "vault.db", PASSPHRASE if request.param == "sqlcipher3" else None)


@pytest.mark.parametrize("prepare", REFUSED)
def test_what_is_unsafe_is_refused_before_anything_changes(
    vault: Vault, prepare: Callable[[Any], Any]
) -> None:
    vault.create(content=keys(2))
    before = vault.content()
    with closing(vault.connect()) as connection:
        unfinished = prepare(connection)
        in_transaction, settings = connection.in_transaction, settings_of(connection)
        calls: list[Function] = [credential_db.upgrade, credential_db.migrate_credential_db_schema]
        if prepare in COMMITTED_BY_THE_LEGACY_FUNCTIONS:
            calls.pop()
        for call in calls:
            with pytest.raises(REFUSED[prepare]) as caught:
                call(connection)
            assert type(caught.value) is REFUSED[prepare]
            assert connection.in_transaction == in_transaction
            assert settings_of(connection) == settings
        assert credential_db.status(connection).state == "legacy", "status is never refused"
        assert connection.in_transaction == in_transaction
        if prepare is an_unfinished_query:
            assert unfinished.fetchall() == [(1,)], "the query goes on where it was"
        connection.rollback()
    assert (vault.content(), vault.stamps()) == (before, (None, 0))


@pytest.mark.parametrize("prepare", REFUSED)
def test_a_current_file_is_recognised_whatever_is_unfinished(
    vault: Vault, prepare: Callable[[Any], Any]
) -> None:
    vault.create(content=keys(2))
    credential_db.upgrade(vault.path, **vault.options)
    with closing(vault.connect()) as connection:
        unfinished = prepare(connection)
        in_transaction = connection.in_transaction
        assert credential_db.upgrade(connection) == (HEAD, HEAD)
        assert credential_db.status(connection).state == "current"
        assert connection.in_transaction == in_transaction, unfinished


@pytest.mark.parametrize("prepare", COMMITTED_BY_THE_LEGACY_FUNCTIONS)
@pytest.mark.parametrize("tables", [TABLES, ("credentials", "ssh_keys")], ids=["all", "some"])
def test_the_legacy_functions_commit_an_open_transaction(
    vault: Vault, prepare: Callable[[Any], Any], tables: tuple[str, ...]
) -> None:
    vault.create(content=keys(2), tables=tables)
    with closing(as_the_real_program(vault)) as connection:
        prepare(connection)
        credential_db.ensure_credentials_schema(connection)
        assert not connection.in_transaction
        prepare(connection)
        credential_db.migrate_credential_db_schema(connection)
        assert not connection.in_transaction
    assert vault.stamps() == STAMPS
    if prepare is a_transaction:
        assert set(vault.query("SELECT data FROM credentials")) == {("uncommitted",)}


def test_what_is_temporary_and_harmless_stays(plain_vault: Vault) -> None:
    """Setting ``temp_store`` would drop it."""
    plain_vault.create(content=keys(3))
    with passed_in(plain_vault, "PRAGMA temp_store = FILE") as connection:
        connection.execute("CREATE TEMP TABLE mine AS SELECT 1 AS a")
        assert_upgraded(connection, plain_vault)
        assert connection.execute("SELECT a FROM mine").fetchall() == [(1,)]


@pytest.mark.parametrize("table", TABLES)
def test_a_temporary_table_hides_no_missing_one(plain_vault: Vault, table: str) -> None:
    name = at_head(f"{{{table}}}")
    credential_db.upgrade(plain_vault.path)
    plain_vault.execute(f"DROP TABLE {name}")
    with passed_in(plain_vault, f"CREATE TEMP TABLE {name} (x)") as connection:
        assert credential_db.status(connection).state == "behind"
        for call in (credential_db.ensure_credentials_schema, credential_db.upgrade):
            with pytest.raises(UnrecognizedSchema):
                call(connection)


# --- What is set, and given back ---------------------------------------------------------------

SETTINGS = """
automatic_index=0 busy_timeout=321 cache_size=3 cache_spill=0 cell_size_check=1 count_changes=1
foreign_keys=1 full_column_names=1 ignore_check_constraints=1 journal_mode=persist
journal_size_limit=5000 legacy_alter_table=1 locking_mode=EXCLUSIVE mmap_size=1048576
read_uncommitted=1 recursive_triggers=1 reverse_unordered_selects=1 secure_delete=FAST
synchronous=0 temp_store=1 threads=2 trusted_schema=0 writable_schema=1
"""
PRAGMAS = dict(pair.split("=") for pair in SETTINGS.split())


def settings_of(connection: Any) -> dict[str, object]:
    attributes = ("isolation_level", "row_factory", "text_factory", "autocommit")
    found = {name: getattr(connection, name, None) for name in attributes}
    cursor = connection.cursor()
    cursor.row_factory = None
    for name in PRAGMAS:
        found[name] = str(cursor.execute(f"PRAGMA {name}").fetchone()).replace("b'", "'")
    return found


@pytest.mark.parametrize("pragma", PRAGMAS)
def test_a_pragma_is_no_obstacle_and_is_given_back(plain_vault: Vault, pragma: str) -> None:
    plain_vault.create(content=keys(3), check=False)  # a table is copied
    plain_vault.execute(
        "CREATE TABLE log (text)",
        "CREATE TRIGGER ours AFTER UPDATE ON ssh_keys BEGIN INSERT INTO log VALUES ('!'); END",
        "CREATE VIEW mine AS SELECT key_id FROM ssh_key_assignments",
    )
    expected = upgraded(plain_vault.content(), 0)
    with passed_in(plain_vault, f"PRAGMA {pragma} = {PRAGMAS[pragma]}") as connection:
        before = settings_of(connection)
        assert credential_db.upgrade(connection) == (0, HEAD)
        assert settings_of(connection) == before
        journal = plain_vault.path.with_name(plain_vault.path.name + "-journal")
        assert not journal.exists() or b"OPENSSH" not in journal.read_bytes()
    assert plain_vault.content() == expected
    assert plain_vault.value("SELECT count(*) FROM ssh_key_assignments") == 6
    assert plain_vault.query("SELECT * FROM log") == []


@contextmanager
def configured(vault: Vault) -> Iterator[Any]:
    """A connection on which much is set that an upgrade has to set otherwise."""
    with closing(vault.connect()) as connection:
        for pragma in (
            *("foreign_keys = 1", "synchronous = 1", "secure_delete = FAST", "busy_timeout = 321"),
            *("legacy_alter_table = 1", "ignore_check_constraints = 1", "cache_spill = 5"),
        ):
            connection.execute(f"PRAGMA {pragma}").fetchall()
        connection.row_factory = sqlite3.Row
        connection.text_factory = bytes
        yield connection


@pytest.mark.parametrize("fault", ["error", "interrupt after"])
def test_whatever_fails_the_connection_is_given_back_as_it_was(
    plain_vault: Vault, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """Except for the one setting that cannot be restored."""
    plain_vault.create(content=keys(1), check=False)
    legacy, attack = plain_vault.path.read_bytes(), Attack(monkeypatch)
    for _ in range(2):  # the first one fills caches
        plain_vault.path.write_bytes(legacy)
        with configured(plain_vault) as connection, attack.plan():
            credential_db.upgrade(connection)
    statements = attack.statements
    assert len(statements) > 50
    for number, sql in enumerate(statements):
        if number % 9 != len(fault) % 9 and not sql.startswith("PRAGMA") and "RENAME" not in sql:
            continue
        plain_vault.path.write_bytes(legacy)
        with configured(plain_vault) as connection:
            before = settings_of(connection)
            with suppress(CredentialDBError, KeyboardInterrupt), attack.plan(number, fault):
                credential_db.upgrade(connection)
            assert attack.failed == [sql]
            assert not connection.in_transaction, f"{fault} at {sql}"
            after = settings_of(connection)
        changed = [name for name, value in before.items() if after[name] != value]
        assert len(changed) <= 1, f"{fault} at {sql}: {changed}"


OPTIONS: dict[str, dict[str, Any]] = {
    "detect_types": {"detect_types": sqlite3.PARSE_DECLTYPES | sqlite3.PARSE_COLNAMES},
    "no cached statements": {"cached_statements": 0},
    "isolation_level": {"isolation_level": "EXCLUSIVE"},
    **({"autocommit": {"autocommit": True}} if sys.version_info >= (3, 12) else {}),
    **({"no autocommit": {"autocommit": False}} if sys.version_info >= (3, 12) else {}),
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("kind", ["connection", "legacy functions"])
def test_how_a_connection_was_opened_is_no_obstacle(
    plain_vault: Vault, name: str, kind: str
) -> None:
    """One with ``autocommit=False`` always has a transaction; unused, it does not count."""
    plain_vault.create(content=keys(2))
    expected, converters = upgraded(plain_vault.content(), 0), dict(sqlite3.converters)
    for type_name in ("INTEGER", "TEXT", "BLOB", "VARCHAR"):
        sqlite3.register_converter(type_name, lambda cell: [cell])
    try:
        with closing(sqlite3.connect(plain_vault.path, **OPTIONS[name])) as connection:
            before = settings_of(connection)
            assert credential_db.status(connection).state == "legacy"
            KINDS[kind].call(connection)
            assert settings_of(connection) == before
            assert credential_db.upgrade(connection) == (HEAD, HEAD)
            assert credential_db.status(connection).state == "current"
            connection.execute("UPDATE credentials SET data = data")
            connection.commit()
    finally:
        sqlite3.converters.clear()
        sqlite3.converters.update(converters)
    assert plain_vault.content() == expected


@pytest.mark.skipif(sys.version_info < (3, 12), reason="autocommit=False is new in Python 3.12")
@pytest.mark.parametrize("used", ["SELECT * FROM credentials", "UPDATE credentials SET data = 1"])
def test_a_used_transaction_of_autocommit_false_is_refused(plain_vault: Vault, used: str) -> None:
    plain_vault.create(content=keys(2))
    options: dict[str, Any] = {"autocommit": False}
    with closing(sqlite3.connect(plain_vault.path, **options)) as connection:
        connection.execute(used).fetchall()
        with pytest.raises(CredentialDBError):
            credential_db.upgrade(connection)
        assert credential_db.status(connection).state == "legacy"
        connection.commit()
        assert credential_db.upgrade(connection) == (0, HEAD)


def test_an_attached_database_is_left_alone(plain_vault: Vault, tmp_path: Path) -> None:
    other = Vault(tmp_path / "other.db").create(1, content=keys(2))
    before = other.content(), other.schema(), other.stamps()
    plain_vault.create(content=keys(3))
    with passed_in(plain_vault, f"ATTACH '{other.path}' AS other") as connection:
        assert_upgraded(connection, plain_vault)
    assert (other.content(), other.schema(), other.stamps()) == before


# --- SQLAlchemy --------------------------------------------------------------------------------


def engines(path: Path) -> dict[str, sqlalchemy.Engine]:
    return {
        "a file": sqlalchemy.create_engine(f"sqlite:///{path}"),
        "a creator": sqlalchemy.create_engine(
            "sqlite://", creator=lambda: sqlite3.connect(path), poolclass=sqlalchemy.StaticPool
        ),
    }


@pytest.mark.parametrize("engine", ["a file", "a creator"])
@pytest.mark.parametrize("by", ["engine", "connection", "connection in autobegin"])
def test_an_engine_and_its_connections(plain_vault: Vault, engine: str, by: str) -> None:
    plain_vault.create(content=keys(2))
    expected, made = upgraded(plain_vault.content(), 0), engines(plain_vault.path)[engine]
    if by == "engine":
        assert credential_db.status(made).state == "legacy"
        assert credential_db.upgrade(made) == (0, HEAD)
        assert credential_db.upgrade(made) == (HEAD, HEAD)
    else:
        with made.connect() as connection:
            if "autobegin" in by:
                connection.begin()
            assert credential_db.status(connection).state == "legacy"
            assert credential_db.upgrade(connection) == (0, HEAD)
            count = connection.execute(sqlalchemy.text("SELECT count(*) FROM credentials"))
            assert count.scalar_one() == 2
            assert credential_db.upgrade(connection) == (HEAD, HEAD)
    made.dispose()
    assert plain_vault.content() == expected


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("this engine is not the application's")


def foreign_keys_on(connection: Any, _: object) -> None:
    connection.execute("PRAGMA foreign_keys = ON")


def own_transactions(connection: Any, _: object) -> None:
    connection.isolation_level = None


def rows_as_dicts(connection: Any, _: object) -> None:
    connection.row_factory = lambda cursor, row: {"row": row}


def begin(connection: sqlalchemy.Connection) -> None:
    connection.exec_driver_sql("BEGIN")


# (target, event, listener): the recipes for SQLite in SQLAlchemy's documentation.
LISTENERS: dict[str, tuple[Any, str, Callable[..., Any]]] = {
    "foreign keys": (sqlalchemy.Engine, "connect", foreign_keys_on),
    "foreign keys of a pool": (sqlalchemy.Pool, "connect", foreign_keys_on),
    "BEGIN": (sqlalchemy.Engine, "begin", begin),
    "isolation level": (sqlalchemy.Engine, "connect", own_transactions),
    "row factory": (sqlalchemy.Engine, "connect", rows_as_dicts),
}


@pytest.mark.parametrize("name", LISTENERS)
def test_listeners_on_all_engines_are_no_obstacle(plain_vault: Vault, name: str) -> None:
    plain_vault.create(content=keys(2), check=False)
    expected = upgraded(plain_vault.content(), 0)
    event.listen(*LISTENERS[name])
    try:
        assert credential_db.upgrade(plain_vault.path) == (0, HEAD)
        api.change(plain_vault.path, command="downgrade", to="1")
        with passed_in(plain_vault, "PRAGMA foreign_keys = OFF") as connection:
            assert credential_db.upgrade(connection) == (1, HEAD)
            assert connection.execute("PRAGMA foreign_keys").fetchone() == (0,)
    finally:
        event.remove(*LISTENERS[name])
    assert plain_vault.content() == expected


@pytest.mark.parametrize("url", ["postgresql://u:secret@h/d", "mysql://u:secret@h/d"])
def test_an_engine_of_another_database_is_refused_before_it_connects(url: str) -> None:
    engine = sqlalchemy.create_mock_engine(url, executor=refuse)
    targets: list[Any] = [url, sqlalchemy.make_url(url), engine]
    functions: list[Function] = [credential_db.upgrade, credential_db.status]
    for target in targets:
        for function in functions:
            with pytest.raises(CredentialDBError) as caught:
                function(target)
            assert "secret" not in str(caught.value)


# --- Who looks on, and what stays --------------------------------------------------------------

SECRETS = ("b3BlbnNzaC1rZXkt", "ghp_xxxx", "phantom-1")


def in_log(key: Key) -> tuple[str, ...]:
    pem, der = key.pem[60:100], key.der[20:40]
    return (repr(pem)[2:-1], pem.hex().upper(), repr(der)[2:-1], der.hex().upper())


@pytest.mark.parametrize("check", [True, False], ids=["rename", "table copy"])
@pytest.mark.parametrize("bad", [False, True], ids=["upgraded", "refused"])
def test_a_trace_callback_sees_no_key(plain_vault: Vault, bad: bool, check: bool) -> None:
    """It is shown bound parameters: https://www.sqlite.org/c3ref/expanded_sql.html."""
    plain_vault.create(content=keys(3), check=check)
    if bad:
        plain_vault.execute("UPDATE ssh_keys SET key_type = 'rsa'")
    log: list[str] = []
    with passed_in(plain_vault) as connection:
        connection.set_trace_callback(log.append)
        if bad:
            with pytest.raises(credential_db.KeyConversionError):
                credential_db.upgrade(connection)
        else:
            assert credential_db.upgrade(connection) == (0, HEAD)
            api.change(connection, command="downgrade", to="0")
            assert credential_db.upgrade(connection, repair=True) == (0, HEAD)
    seen = "\n".join(log)
    assert "BEGIN IMMEDIATE" in seen
    for secret in (*SECRETS, *(form for key in keys(3) for form in in_log(key))):
        assert secret not in seen, "a cell has to stay inside of SQLite: use a function of SQL"


class Connection(sqlite3.Connection):
    """One that can be looked for."""


class EncryptedConnection(sqlcipher.Connection):  # type: ignore[misc]  # it has no types
    """Likewise."""


@pytest.mark.parametrize("bad", [False, True], ids=["upgraded", "refused"])
@pytest.mark.parametrize("kind", ["connection", "legacy functions"])
def test_a_connection_is_let_go(vault: Vault, kind: str, bad: bool) -> None:
    vault.create(content=keys(1))
    if bad:
        vault.execute("UPDATE ssh_keys SET private_pem = x'00'")
    if vault.passphrase:
        connection: Any = EncryptedConnection(str(vault.path))
        connection.execute(f'PRAGMA key = "{vault.passphrase}"')
    else:
        connection = Connection(vault.path)
    error = None
    try:
        KINDS[kind].call(connection)
    except CredentialDBError as caught:
        error = caught.with_traceback(None)  # its frames are those of this test
    assert (error is not None) == bad
    gone = weakref.ref(connection) if not vault.passphrase else None
    connection.close()
    del connection
    gc.collect()
    left = [each for each in gc.get_objects() if isinstance(each, Connection | EncryptedConnection)]
    assert not left, f"the connection is held by {gc.get_referrers(left[0])!r:.500}"
    assert gone is None or gone() is None
