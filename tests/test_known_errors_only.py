"""What is not known to be free of data is not shown: of interrupts, hosts, drivers and triggers."""

import asyncio
import signal
import sqlite3
import traceback
import types
import warnings
from collections.abc import Callable
from contextlib import closing, suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.util import CommandError
from sqlcipher3 import dbapi2 as sqlcipher

import credential_db
from attacks import SignalAt, Watched, skip_under_coverage
from conftest import PASSPHRASE
from credential_db import SCHEMA_VERSION, CredentialDBError, key_conversion, scripts
from credential_db.sqlite.cipher import Cipher, Passphrase
from credential_db.sqlite.target import Target
from vaults import STAMPS, Vault, ed25519_key

SECRET = "canary-Yh5RbC1dGf7Ps9Ae"
KEY = ed25519_key(0)
FORMS = (
    SECRET,
    repr(KEY.pem[60:90])[2:-1],
    KEY.pem[60:90].decode(),
    repr(KEY.der[20:36])[2:-1],
    KEY.der[20:36].hex(),
    "5eed5eed",
)


def assert_shows_nothing(text: str) -> None:
    for form in FORMS:
        assert form not in text


def assert_error_shows_nothing(error: BaseException) -> None:
    """Neither by itself, nor by its traceback, nor by what it came from."""
    assert error.__cause__ is None
    assert error.__context__ is None
    assert_shows_nothing(f"{error} {error!r} {error.args!r} {vars(error)!r}")
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_filename == __file__:
            continue
        for name, value in frame.f_locals.items():
            assert not isinstance(value, Passphrase | Cipher), f"{name} of {frame.f_code.co_name}"
            assert_shows_nothing(f"{name} = {value!r}")
            if isinstance(value, Target):
                assert value.cipher is None, f"{name} of {frame.f_code.co_name} has the passphrase"


# --- Interrupts --------------------------------------------------------------------------------

INTERRUPTS: dict[str, Callable[[], BaseException]] = {
    "KeyboardInterrupt": KeyboardInterrupt,
    "SystemExit": lambda: SystemExit(3),
    "CancelledError": asyncio.CancelledError,
    "GeneratorExit": GeneratorExit,
    "MemoryError": MemoryError,
}


@pytest.fixture(params=INTERRUPTS)
def interrupt(request: pytest.FixtureRequest) -> BaseException:
    return INTERRUPTS[request.param]()


def by_path(vault: Vault) -> None:
    credential_db.upgrade(vault.path, **vault.options)


def by_command(vault: Vault) -> None:
    config = scripts.config()
    config.attributes["passphrase"] = vault.passphrase
    config.set_main_option("sqlalchemy.url", str(vault.path))
    command.upgrade(config, "head")


@pytest.mark.parametrize("way", [by_path, by_command])
@pytest.mark.parametrize("vault", [None, PASSPHRASE], ids=["plain", "encrypted"], indirect=True)
def test_an_interrupt_while_a_key_is_in_hand_shows_nothing(
    vault: Vault,
    way: Callable[[Vault], None],
    interrupt: BaseException,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vault.create(content=[KEY])

    def interrupted(*cells: object) -> None:
        raise interrupt

    monkeypatch.setattr(key_conversion, "_prove", interrupted, raising=False)
    monkeypatch.setattr("credential_db.openssh.load_openssh", interrupted, raising=False)
    monkeypatch.setattr(key_conversion, "load_openssh", interrupted, raising=False)
    expected = type(interrupt) if not isinstance(interrupt, Exception) else CredentialDBError
    with pytest.raises(expected) as caught:
        way(vault)
    assert not isinstance(caught.value, credential_db.KeyConversionError), "the keys are good"
    assert_error_shows_nothing(caught.value)
    assert vault.stamps() == (None, 0)


@pytest.mark.parametrize("number", range(1, 80, 7))
def test_an_interrupt_at_any_statement_shows_nothing(
    plain_vault: Vault, interrupt: BaseException, number: int
) -> None:
    plain_vault.create(content=[KEY])
    statements = iter(range(1, 1000))

    def before(_: str) -> None:
        if next(statements) == number:
            raise interrupt

    with closing(sqlite3.connect(plain_vault.path, factory=Watched)) as connection:
        connection.before = before
        expected = type(interrupt) if not isinstance(interrupt, Exception) else CredentialDBError
        try:
            credential_db.upgrade(connection)  # the scrub may go on
        except expected as caught:
            assert_error_shows_nothing(caught)
        assert not connection.in_transaction
    assert plain_vault.stamps() in ((None, 0), STAMPS)


def test_an_interrupt_at_any_call_of_a_conversion_stays_one(plain_vault: Vault) -> None:
    """Sqlite3 swallows what is raised as SQLite calls a function of Python's."""
    skip_under_coverage()
    plain_vault.create(content=[KEY])
    credential_db.upgrade(plain_vault.path, dry_run=True)  # imports what it needs
    conversion = ("/sqlite/row_conversion.py", "/key_conversion.py")
    for number in count():
        attack = SignalAt(
            KeyboardInterrupt(),
            number,
            lambda event, frame: event == "call" and frame.f_code.co_filename.endswith(conversion),
        )
        outcome = attack.outcome_of(lambda: credential_db.upgrade(plain_vault.path, dry_run=True))
        if not attack.where:
            break
        assert isinstance(outcome, KeyboardInterrupt), f"{outcome!r} came of one {attack.where}"
    assert number > 10, "this test has to hit something"
    assert outcome == (0, SCHEMA_VERSION)


class Alarm(BaseException):
    """As a host's deadline, from a signal handler."""


# One that rings in a callback of the garbage collector is nobody's to catch.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_at_any_moment_shows_nothing(tmp_path: Path) -> None:
    skip_under_coverage()

    def ring(*_: object) -> None:
        raise Alarm

    before = signal.signal(signal.SIGALRM, ring)
    rang = 0
    try:
        for number in range(24):
            vault = Vault(tmp_path / f"{number}.db", PASSPHRASE).create(content=[KEY])
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.001 + number * 0.0008)
                credential_db.upgrade(vault.path, **vault.options)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except (Alarm, credential_db.CredentialDBError) as error:  # in a lock of Python's own
                rang += 1
                # Where it rang in the host's own code it is the host's own.
                assert_error_shows_nothing(error)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            assert vault.stamps() in ((None, 0), STAMPS)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert rang


# --- Exceptions of others ----------------------------------------------------------------------


class HostError(Exception):
    pass


class HostWarning(UserWarning):
    pass


class HostOSError(OSError):
    pass


class HostLookup(AttributeError):
    pass


class HostDriverError(sqlite3.OperationalError):
    pass


class WithOrig(Exception):
    """Looks like SQLAlchemy's."""

    @property
    def orig(self) -> object:
        raise RuntimeError(SECRET)


def with_name(error: Exception, **attributes: object) -> Exception:
    for name, value in attributes.items():
        setattr(error, name, value)
    return error


OTHERS: dict[str, Callable[[], Exception]] = {
    "host": lambda: HostError(SECRET),
    "alembic by name": lambda: type("E", (Exception,), {"__module__": "alembic.mine"})(SECRET),
    "warning": lambda: HostWarning(SECRET),
    "user warning": lambda: UserWarning(SECRET),
    "OSError": lambda: HostOSError(SECRET),
    "OSError with errno": lambda: OSError(5, SECRET),
    "OSError with a text for errno": lambda: OSError(SECRET, SECRET),
    "attribute": lambda: HostLookup(SECRET),
    "key": lambda: KeyError(SECRET),
    "value": lambda: ValueError(SECRET),
    "runtime": lambda: RuntimeError(SECRET),
    "group": lambda: ExceptionGroup(SECRET, [ValueError(SECRET)]),
    "with a note": lambda: with_name(ValueError("x"), __notes__=[SECRET]),
    "orig": WithOrig,
    "driver": lambda: sqlite3.OperationalError(SECRET),
    "driver, quoting": lambda: sqlite3.OperationalError(f"cannot parse {SECRET}"),
    "driver, near": lambda: sqlite3.OperationalError(f"error in {SECRET}: x"),
    "driver, naming a table": lambda: sqlite3.OperationalError(f"no such table: {SECRET}"),
    "not implemented": lambda: NotImplementedError(SECRET),
    "syntax": lambda: SyntaxError(SECRET),
    "driver of the host": lambda: HostDriverError(f"error in view {SECRET}"),
    "driver, decoding": lambda: sqlite3.OperationalError(
        f"Could not decode to UTF-8 column 'data' with text '{SECRET}'"
    ),
    "integrity": lambda: with_name(
        sqlite3.IntegrityError(f"cannot take {SECRET}"), sqlite_errorname="SQLITE_CONSTRAINT"
    ),
    "trigger": lambda: with_name(
        sqlite3.IntegrityError(f"error in {SECRET}"), sqlite_errorname="SQLITE_CONSTRAINT_TRIGGER"
    ),
    "extension": lambda: with_name(
        sqlite3.OperationalError(f"cannot read {SECRET}"), sqlite_errorname="SQLITE_ERROR"
    ),
    "SQLCipher": lambda: sqlcipher.OperationalError(f"cannot open {SECRET}"),
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("statement", ["BEGIN", "ALTER TABLE"])
def test_what_others_raise_is_named_and_not_repeated(
    plain_vault: Vault, name: str, statement: str
) -> None:
    plain_vault.create(content=[KEY])

    def before(sql: str) -> None:
        if sql.startswith(statement):
            raise OTHERS[name]()

    with closing(sqlite3.connect(plain_vault.path, factory=Watched)) as connection:
        connection.before = before
        with pytest.raises(CredentialDBError) as caught:
            credential_db.upgrade(connection)
        assert_error_shows_nothing(caught.value)
        assert not connection.in_transaction
    assert plain_vault.stamps() == (None, 0)


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize(
    "function",
    [
        credential_db.status,
        credential_db.ensure_credentials_schema,
        credential_db.migrate_credential_db_schema,
    ],
)
def test_what_others_raise_is_not_repeated_by_the_other_functions(
    plain_vault: Vault, name: str, function: Callable[[Any], object]
) -> None:
    plain_vault.create(content=[KEY])

    def before(sql: str) -> None:
        if "user_version" in sql or "sqlite_master" in sql:
            raise OTHERS[name]()

    with closing(sqlite3.connect(plain_vault.path, factory=Watched)) as connection:
        connection.before = before
        with pytest.raises(CredentialDBError) as caught:
            function(connection)
        assert_error_shows_nothing(caught.value)


def test_what_names_only_code_and_schema_is_told() -> None:
    """Else nobody could put it right."""
    from credential_db.sqlite.failures import clean

    for error in (
        AttributeError("module 'x' has no attribute 'y'"),
        with_name(sqlite3.OperationalError("no such table: gone"), sqlite_errorname="SQLITE_ERROR"),
        with_name(
            sqlite3.IntegrityError("UNIQUE constraint failed: ssh_keys.fingerprint"),
            sqlite_errorname="SQLITE_CONSTRAINT_UNIQUE",
        ),
        sqlite3.ProgrammingError("Cannot operate on a closed database."),
        sqlite3.ProgrammingError(
            "SQLite objects created in a thread can only be used in that same thread. The object "
            "was created in thread id 1 and this is thread id 2."
        ),
    ):
        assert str(error) in str(clean(error, "it"))


# --- Triggers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("vault", [None, PASSPHRASE], ids=["plain", "encrypted"], indirect=True)
@pytest.mark.parametrize("stamped", [False, True], ids=["legacy", "stamped"])
def test_a_trigger_on_the_stamp_does_not_fire(vault: Vault, stamped: bool) -> None:
    vault.create(1, content=[KEY])
    vault.execute(
        "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)",
        *(["INSERT INTO alembic_version VALUES ('v1')"] if stamped else []),
        *(
            f"CREATE TRIGGER no_{event} {when} {event} ON alembic_version BEGIN"
            f" SELECT RAISE(ABORT, '{SECRET}'); END"
            for event, when in (("INSERT", "BEFORE"), ("UPDATE", "AFTER"), ("DELETE", "BEFORE"))
        ),
    )
    if not stamped:
        vault.execute("DROP TABLE alembic_version")
    before = [entry for entry in vault.schema() if entry[0] == "trigger"]
    assert credential_db.upgrade(vault.path, **vault.options) == (1, SCHEMA_VERSION)
    by_path(vault)
    config = scripts.config()
    config.attributes["passphrase"] = vault.passphrase
    config.set_main_option("sqlalchemy.url", str(vault.path))
    for step in (command.downgrade, command.stamp, command.upgrade):
        step(config, "v1" if step is not command.upgrade else "head")
    command.stamp(config, "head", purge=True)
    assert vault.stamps() == STAMPS
    assert [entry for entry in vault.schema() if entry[0] == "trigger"] == before


@pytest.mark.parametrize("vault", [None, PASSPHRASE], ids=["plain", "encrypted"], indirect=True)
@pytest.mark.parametrize("text", ["{}", "error in {}", "cannot {}", "no such table: {}"])
def test_what_a_trigger_says_is_not_repeated(vault: Vault, text: str) -> None:
    """One that fires in the legacy entry points' own transaction, say."""
    vault.create(content=[KEY])
    vault.execute(
        "CREATE TABLE mine (x)",
        "CREATE TRIGGER t BEFORE INSERT ON mine BEGIN"
        f" SELECT RAISE(ABORT, '{text.format(SECRET)}'); END",
    )
    from credential_db.sqlite.failures import clean, known_text

    with closing(vault.connect()) as connection:
        try:
            connection.execute("INSERT INTO mine VALUES (1)")
        except (sqlite3.Error, sqlcipher.Error) as error:
            assert_shows_nothing(str(clean(error, "it")))
            assert_shows_nothing(known_text(error))
        else:
            pytest.fail("the trigger fires")


# --- Arguments ---------------------------------------------------------------------------------

URL = f"sqlite+pysqlcipher://:{SECRET}@/vault.db"
ARGUMENTS: dict[str, dict[str, Any]] = {
    "timeout": {"timeout": "soon"},
    "timeout in words": {"timeout": SECRET},
    "passphrase": {"passphrase": 5},
    "passphrase in a list": {"passphrase": [SECRET]},
    "settings": {"passphrase": SECRET, "cipher_settings": SECRET},
    "settings by name": {"passphrase": SECRET, "cipher_settings": {SECRET: SECRET}},
    "settings by value": {"passphrase": SECRET, "cipher_settings": {"kdf_iter": SECRET}},
    "backup": {"backup": 5},
    "backup as a URL": {"backup": f"sqlite://:{SECRET}@/x"},
    "backup as a name of SQLite's": {"backup": f"file:x?key={SECRET}"},
    "backup in a list": {"backup": [SECRET]},
    "nothing": {},
}
NAMES: dict[str, Any] = {
    "URL": URL,
    "plain URL": f"sqlite://user:{SECRET}@host/vault.db",
    "query": f"sqlite:///vault.db?key={SECRET}",
    "another scheme": f"postgresql://user:{SECRET}@host/db",
    "no scheme": f"://{SECRET}@/x",
    "a name of SQLite's": f"file:vault.db?key={SECRET}",
    "bytes": URL.encode(),
    "a path that is a URL": Path(URL),
    "a list": [URL],
    "NUL": f"{URL}\0",
    "surrogates": f"{URL}\udcff",
}


@pytest.mark.parametrize("named", NAMES)
@pytest.mark.parametrize("arguments", ARGUMENTS)
def test_a_passphrase_in_an_argument_is_not_repeated(
    named: str, arguments: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if named == "a path that is a URL" and arguments == "nothing":
        pytest.skip("a path it is, and a file of that name would be made")
    monkeypatch.chdir(tmp_path)
    options = ARGUMENTS[arguments]
    functions: list[Any] = [lambda: credential_db.upgrade(NAMES[named], **options)]
    if "backup" not in options:
        functions.append(lambda: credential_db.status(NAMES[named], **options))
    for function in functions:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            if named == "a path that is a URL":  # a Path is a path
                with suppress(CredentialDBError):
                    function()
                continue
            with pytest.raises(CredentialDBError) as caught:
                function()
        assert caught.value.__context__ is None
        for shown in (str(caught.value), repr(caught.value), repr(caught.value.args)):
            assert_shows_nothing(shown)
        for frame, _ in traceback.walk_tb(caught.value.__traceback__):
            if frame.f_code.co_filename != __file__:
                locals_but_arguments = {
                    name: value
                    for name, value in frame.f_locals.items()
                    if name not in ("cipher_settings", "timeout")
                }
                assert_shows_nothing(repr(locals_but_arguments))
    assert not list(tmp_path.iterdir()) or named == "a path that is a URL"


@pytest.mark.parametrize("conn", [URL, 5, None, [SECRET]], ids=["URL", "int", "None", "list"])
def test_what_is_no_connection_is_refused_by_the_legacy_entry_points(conn: Any) -> None:
    for function in (
        credential_db.ensure_credentials_schema,
        credential_db.migrate_credential_db_schema,
    ):
        with pytest.raises(CredentialDBError) as caught:
            function(conn)
        assert caught.value.__context__ is None
        assert_shows_nothing(repr(caught.value.args))


@pytest.mark.parametrize("variable", ["-x backup", "-x timeout", "attributes"])
def test_a_command_does_not_repeat_an_argument(plain_vault: Vault, variable: str) -> None:
    plain_vault.create(content=[KEY])
    config = scripts.config()
    config.set_main_option("sqlalchemy.url", str(plain_vault.path))
    if variable == "attributes":
        config.attributes["timeout"] = SECRET
    else:
        value = f"sqlite://:{SECRET}@/x" if "backup" in variable else SECRET
        config.cmd_opts = types.SimpleNamespace(  # type: ignore[assignment]  # all that is asked of it
            x=[f"{variable[3:]}={value}"]
        )
        config.config_file_name = None
    with pytest.raises((CredentialDBError, CommandError)) as caught:
        command.upgrade(config, "head")
    assert caught.value.__context__ is None
    assert_shows_nothing(f"{caught.value} {caught.value.args!r}")
