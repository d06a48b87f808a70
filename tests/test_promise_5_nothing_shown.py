"""Promise 5: no secret in an exception, whatever it drags along, in a log line or in the shell."""

import base64
import logging
import pickle
import sqlite3
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import cache
from typing import Any

import pytest
import sqlalchemy
from alembic import command
from cryptography.hazmat.primitives.asymmetric import rsa
from sqlcipher3 import dbapi2 as sqlcipher

import credential_db
from conftest import CommandLine
from credential_db import scripts
from vaults import STAMPS, Key, Vault, ed25519_key, rsa_key, upgrade_to_2

WINDOW = 20
DATA = '{"token": "canary-data-8Jq2vXw0ZkLm4Tn6"}'
TOKEN = "canary-token-Yh5RbC1dGf7Ps9Ae"
PASSPHRASE = "canary-passphrase-'Wu3Mi8No2Kx'"
KEY_COMMENT = "canary-comment-Bv4Tz6Qe1Lr0Hj"
KEYS = [rsa_key(0), ed25519_key(1)]


# What would be a leak


def forms(secret: bytes) -> Iterator[bytes]:
    """One secret in every spelling in which it could turn up."""
    yield secret
    yield secret.hex().encode()
    yield secret.hex().upper().encode()
    yield repr(secret)[2:-1].encode()
    yield repr(secret.decode("latin-1"))[1:-1].encode()
    for start in range(3):
        yield base64.b64encode(secret[start:])[:-4]


def windows(content: bytes) -> set[bytes]:
    return {content[start : start + WINDOW] for start in range(len(content) - WINDOW + 1)}


def windows_of_key(key: Key) -> set[bytes]:
    pem = key.pem
    content = base64.b64decode(b"".join(pem.split(b"\n")[1:-2]))
    parts = [pem, content, key.der, key.public_blob]
    if isinstance(key.private, rsa.RSAPrivateKey):
        numbers = key.private.private_numbers()
        parts += [str(number).encode() for number in (numbers.d, numbers.p, numbers.q)]
    return {window for part in parts for form in forms(part) for window in windows(form)}


@cache
def leaks() -> frozenset[bytes]:
    """Every run of bytes that must not be seen: those of the keys that are not of any key."""
    found = set[bytes]()
    for key, other in zip(KEYS, (rsa_key(9), ed25519_key(9)), strict=True):
        found |= windows_of_key(key) - windows_of_key(other)
    for canary in (DATA, TOKEN, PASSPHRASE, KEY_COMMENT):
        for form in forms(canary.encode()):
            found |= windows(form)
    return frozenset(found)


def assert_shows_nothing(where: str, content: str | bytes) -> None:
    if isinstance(content, str):
        content = content.encode(errors="surrogateescape")
    found = windows(content) & leaks()
    assert not found, f"{where} shows {sorted(found)[:3]}"


def test_the_check_finds_what_it_looks_for() -> None:
    for leak in (
        f"detail: {TOKEN}",
        repr(KEYS[0].pem),
        KEYS[1].der.hex(),
        base64.b64encode(b"x" + KEYS[1].der).decode(),
        repr(ValueError(("UPDATE", KEYS[0].der))),
        f"INFO {DATA}",
        repr([TOKEN]),
    ):
        with pytest.raises(AssertionError, match="shows"):
            assert_shows_nothing("it", leak)
    assert_shows_nothing("it", "row 5 holds something other than one whole OpenSSH private key")
    assert_shows_nothing("it", ed25519_key(9).der)


def errors_within(error: BaseException | None) -> Iterator[BaseException]:
    if error is not None:
        yield error
        yield from errors_within(error.__cause__)
        yield from errors_within(error.__context__)


def assert_error_shows_nothing(error: BaseException) -> None:
    for part in errors_within(error):
        assert_shows_nothing("str()", str(part))
        assert_shows_nothing("repr()", repr(part))
        assert_shows_nothing("args", repr(part.args))
        assert_shows_nothing("vars()", repr(vars(part)))
        frames = [
            (frame, line)
            for frame, line in traceback.walk_tb(part.__traceback__)
            if frame.f_code.co_filename != __file__
        ]
        summary = traceback.StackSummary.extract(iter(frames), capture_locals=True)
        for entry in summary:
            assert_shows_nothing(f"the locals of {entry.name}", repr(entry.locals))
        assert_shows_nothing("the traceback", "".join(traceback.format_exception(part)))
    assert error.__cause__ is None, "an error comes alone"
    assert error.__context__ is None, "an error comes alone"
    pickled = pickle.dumps(error)
    assert_shows_nothing("the pickle", pickled)
    again = pickle.loads(pickled)
    assert (type(again), str(again)) == (type(error), str(error))


# The file, and every way to fail on it


def with_comment(key: Key) -> bytes:
    """The PEM of a key, with a comment inside that is nobody's business either."""
    content = base64.b64decode(b"".join(key.pem.split(b"\n")[1:-2]))
    head = content.index(key.public_blob) + len(key.public_blob)
    fields = content[head + 4 :]
    padding = 0
    while fields[: len(fields) - padding][-4:] != bytes(4) and padding < 8:
        padding += 1
    fields = fields[: len(fields) - padding - 4]
    fields += len(KEY_COMMENT).to_bytes(4, "big") + KEY_COMMENT.encode()
    fields += bytes(range(1, 1 + -len(fields) % 8))
    text = base64.encodebytes(content[:head] + len(fields).to_bytes(4, "big") + fields)
    armor = b"-----%s OPENSSH PRIVATE KEY-----\n"
    return armor % b"BEGIN" + text + armor % b"END"


def filled(vault: Vault) -> Vault:
    vault.create(content=KEYS)
    vault.execute(
        *(
            (
                "UPDATE ssh_keys SET private_pem = ? WHERE public_blob = ?",
                (with_comment(key), key.public_blob),
            )
            for key in KEYS
        ),
        ("INSERT INTO credentials VALUES ('canary', 'canary', ?)", (DATA,)),
        ("INSERT INTO proxy_tokens VALUES (?, 's', 't', 'c', 'p')", (TOKEN,)),
    )
    return vault


SPOILED: dict[str, str] = {
    "two blocks": "UPDATE ssh_keys SET private_pem = CAST(private_pem || private_pem AS BLOB)",
    "junk behind": "UPDATE ssh_keys SET private_pem = CAST(private_pem || 'junk' AS BLOB)",
    "truncated": "UPDATE ssh_keys SET private_pem = substr(private_pem, 1, 300)",
    "without its first line": "UPDATE ssh_keys SET private_pem = substr(private_pem, 37)",
    "TEXT": "UPDATE ssh_keys SET private_pem = CAST(private_pem AS TEXT)",
    "TEXT that is not UTF-8": (
        "UPDATE ssh_keys SET private_pem = CAST(substr(private_pem, 200) || x'ff' AS TEXT)"
    ),
    "a public half that is not UTF-8": (
        "UPDATE ssh_keys SET public_blob = CAST(public_blob || x'ff' AS TEXT)"
    ),
    "a public half cut short": "UPDATE ssh_keys SET public_blob = substr(public_blob, 1, 30)",
    "the other key_type": (
        "UPDATE ssh_keys SET key_type = iif(key_type = 'rsa', 'ed25519', 'rsa')"
    ),
    "a corrupt number": (
        "UPDATE ssh_keys SET private_pem = CAST(replace(CAST(private_pem AS TEXT),"
        " substr(CAST(private_pem AS TEXT), 330, 4), 'AAAA') AS BLOB)"
    ),
    "the same twice": (
        "INSERT INTO ssh_keys (key_type, private_pem, public_blob, fingerprint)"
        " SELECT key_type, private_pem, public_blob, 'another ' || id FROM ssh_keys"
    ),
    "a view that is broken": "CREATE VIEW broken AS SELECT * FROM gone",
    "a column too many": "ALTER TABLE proxy_tokens ADD COLUMN extra",
    "a number too high": "PRAGMA user_version = 99",
    "garbage": "PRAGMA user_version = 0",
}


@pytest.fixture(autouse=True)
def everything_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    for name in ("", "sqlalchemy", "alembic", "credential_db"):
        caplog.set_level(logging.DEBUG, name)
    yield
    # Where echo put a handler that writes to what was sys.stdout during the test.
    logging.getLogger("sqlalchemy.engine.Engine").handlers.clear()


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Callable[[], None]:
    """Look through everything that was logged or printed."""

    def look() -> None:
        assert_shows_nothing("the log", caplog.text)
        for record in caplog.records:
            assert_shows_nothing("a log record", repr(vars(record)))
        printed = capfd.readouterr()
        assert_shows_nothing("stdout", printed.out)
        assert_shows_nothing("stderr", printed.err)

    return look


Ways = dict[str, Callable[[Vault, ExitStack], object]]


def by_engine(vault: Vault, _: ExitStack) -> object:
    engine = sqlalchemy.create_engine(
        "sqlite://",
        creator=vault.connect,
        module=sqlite3 if vault.passphrase is None else sqlcipher,
        poolclass=sqlalchemy.NullPool,
        echo="debug",
    )
    return credential_db.upgrade(engine)


def by_command(vault: Vault, _: ExitStack) -> None:
    config = scripts.config()
    config.attributes["passphrase"] = vault.passphrase
    config.set_main_option("sqlalchemy.url", str(vault.path))
    command.upgrade(config, "head")


WAYS: Ways = {
    "by path": lambda vault, _: credential_db.upgrade(vault.path, **vault.options),
    "by connection": lambda vault, stack: credential_db.upgrade(
        stack.enter_context(closing(vault.connect()))
    ),
    "by engine": by_engine,
    "by command": by_command,
    "as legacy software does": lambda vault, stack: credential_db.migrate_credential_db_schema(
        stack.enter_context(closing(vault.connect()))
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_success_shows_nothing(
    plain_vault: Vault, way: str, said: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    filled(plain_vault)
    with ExitStack() as stack:
        WAYS[way](plain_vault, stack)
    assert plain_vault.stamps() == STAMPS
    assert any(record.levelno == logging.DEBUG for record in caplog.records), "or it proves nothing"
    said()


@pytest.mark.parametrize("spoiled", SPOILED)
@pytest.mark.parametrize("way", ["by path", "by engine", "by command"])
def test_a_bad_file_shows_nothing(
    plain_vault: Vault, spoiled: str, way: str, said: Callable[[], None]
) -> None:
    filled(plain_vault)
    plain_vault.execute(SPOILED[spoiled])
    if spoiled == "garbage":
        whole = plain_vault.path.read_bytes()
        plain_vault.path.write_bytes(whole[:100] + b"\xff" * 1000 + whole[1100:])
    with ExitStack() as stack, pytest.raises(credential_db.CredentialDBError) as caught:
        WAYS[way](plain_vault, stack)
    assert_error_shows_nothing(caught.value)
    said()


@pytest.mark.parametrize("way", ["by path", "by connection", "by engine", "by command"])
def test_a_bad_key_in_an_encrypted_file_shows_nothing(
    plain_vault: Vault, way: str, said: Callable[[], None]
) -> None:
    vault = filled(Vault(plain_vault.path, PASSPHRASE))
    vault.execute(SPOILED["junk behind"])
    with ExitStack() as stack, pytest.raises(credential_db.KeyConversionError) as caught:
        WAYS[way](vault, stack)
    assert_error_shows_nothing(caught.value)
    said()


@pytest.mark.parametrize("call", [credential_db.upgrade, credential_db.status])
@pytest.mark.parametrize(
    "passphrase",
    [PASSPHRASE, PASSPHRASE.encode(), PASSPHRASE + "\0", "", b"x" * 32, 3],
    ids=["wrong", "bytes of a wrong size", "with a NUL", "empty", "a wrong raw key", "a number"],
)
def test_a_passphrase_that_does_not_fit_shows_nothing(
    plain_vault: Vault, passphrase: Any, call: Callable[..., object], said: Callable[[], None]
) -> None:
    Vault(plain_vault.path, "another passphrase").create(content=KEYS)
    with pytest.raises(credential_db.CredentialDBError) as caught:
        call(plain_vault.path, passphrase=passphrase)
    assert_error_shows_nothing(caught.value)
    said()


@pytest.mark.parametrize(
    "url",
    [
        "sqlite+pysqlcipher://:{}@/credentials.db",
        "postgresql://user:{}@host/database",
        "sqlite:///credentials.db?key={}",
        "sqlite://{}",
    ],
)
def test_a_passphrase_in_a_url_is_not_repeated(url: str, said: Callable[[], None]) -> None:
    for call in (credential_db.upgrade, credential_db.status):
        with pytest.raises(credential_db.CredentialDBError) as caught:
            call(url.format(PASSPHRASE))
        assert_error_shows_nothing(caught.value)
    said()


def test_a_cipher_setting_that_is_none_shows_nothing(
    plain_vault: Vault, said: Callable[[], None]
) -> None:
    Vault(plain_vault.path, PASSPHRASE).create()
    with pytest.raises(credential_db.CredentialDBError) as caught:
        credential_db.upgrade(
            plain_vault.path, passphrase=PASSPHRASE, cipher_settings={PASSPHRASE: 1}
        )
    assert_error_shows_nothing(caught.value)
    said()


# Failures in the middle of the work


def busy(vault: Vault, stack: ExitStack) -> object:
    other = stack.enter_context(closing(vault.connect()))
    other.execute("BEGIN EXCLUSIVE")
    return credential_db.upgrade(vault.path, timeout=0, **vault.options)


def disk_full(vault: Vault, stack: ExitStack) -> object:
    connection = stack.enter_context(closing(vault.connect()))
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages}").fetchall()
    return credential_db.upgrade(connection)


def read_only(vault: Vault, stack: ExitStack) -> object:
    uri = f"{vault.path.as_uri()}?mode=ro"
    connection = stack.enter_context(closing(sqlite3.connect(uri, uri=True)))
    return credential_db.upgrade(connection)


def read_only_by_pragma(vault: Vault, stack: ExitStack) -> object:
    connection = stack.enter_context(closing(vault.connect()))
    connection.execute("PRAGMA query_only = ON")
    return credential_db.upgrade(connection)


def interrupted(vault: Vault, stack: ExitStack) -> object:
    connection = stack.enter_context(closing(vault.connect()))
    connection.set_progress_handler(lambda: connection.in_transaction, 50)
    return credential_db.upgrade(connection)


def denied(action: int, name: str) -> Callable[[Vault, ExitStack], object]:
    """SQLite itself refuses one kind of statement, wherever it comes from."""

    def run(vault: Vault, stack: ExitStack) -> object:
        connection = stack.enter_context(closing(vault.connect()))
        connection.set_authorizer(
            lambda asked, first, second, *_: (
                sqlite3.SQLITE_DENY
                if asked == action and name in (first, second)
                else sqlite3.SQLITE_OK
            )
        )
        return credential_db.upgrade(connection)

    return run


def spoiled_factory(vault: Vault, stack: ExitStack) -> object:
    """Rows of a host application's own kind; ours come as they are."""
    connection = stack.enter_context(closing(vault.connect()))

    def refuse(_: object, row: object) -> None:
        raise RuntimeError(row)

    connection.row_factory = refuse
    connection.set_authorizer(lambda *_: sqlite3.SQLITE_DENY)
    return credential_db.upgrade(connection)


FAILURES: dict[str, Callable[[Vault, ExitStack], object]] = {
    "busy": busy,
    "disk full": disk_full,
    "read-only file": read_only,
    "read-only connection": read_only_by_pragma,
    "interrupted": interrupted,
    "denied in our own update": denied(sqlite3.SQLITE_UPDATE, "ssh_keys"),
    "denied in our own query": denied(sqlite3.SQLITE_READ, "private_pem"),
    "denied in SQLAlchemy's ALTER TABLE": denied(sqlite3.SQLITE_ALTER_TABLE, "ssh_keys"),
    "denied in Alembic's stamp": denied(sqlite3.SQLITE_INSERT, "alembic_version"),
    "denied in Alembic's own table": denied(sqlite3.SQLITE_CREATE_TABLE, "alembic_version"),
    "denied in a pragma": denied(sqlite3.SQLITE_PRAGMA, "user_version"),
    "denied altogether": spoiled_factory,
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_in_the_middle_shows_nothing(
    plain_vault: Vault, failure: str, said: Callable[[], None]
) -> None:
    filled(plain_vault)
    before = plain_vault.files()
    with ExitStack() as stack:
        with pytest.raises(credential_db.CredentialDBError) as caught:
            FAILURES[failure](plain_vault, stack)
        assert_error_shows_nothing(caught.value)
    assert plain_vault.files() == before
    said()


class Failing(sqlite3.Connection):
    """Fails on the statement that holds a key, with an error that holds all it knows."""

    failure: type[Exception]

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        if sql.startswith("UPDATE OR ABORT"):
            raise self.error(sql, parameters) from KeyError(parameters)
        return super().execute(sql, parameters)

    def error(self, sql: str, parameters: Any) -> Exception:
        if self.failure is UnicodeDecodeError:
            return UnicodeDecodeError("utf-8", KEYS[0].pem, 0, 1, "invalid")
        if issubclass(self.failure, sqlite3.Error):
            error = self.failure("refused")
            error.parameters = parameters  # type: ignore[attr-defined]  # as libraries do
            error.add_note(f"while running {sql} with {parameters}")
            return error
        if issubclass(self.failure, sqlalchemy.exc.DBAPIError):
            return self.failure(sql, parameters, sqlite3.OperationalError("refused"))
        return self.failure(sql, parameters)


@pytest.mark.parametrize(
    "failure",
    [
        sqlite3.OperationalError,
        sqlite3.IntegrityError,
        sqlite3.DatabaseError,
        sqlalchemy.exc.OperationalError,
        sqlalchemy.exc.SQLAlchemyError,
        RuntimeError,
        ValueError,
        KeyError,
        MemoryError,
        UnicodeDecodeError,
    ],
)
def test_an_error_that_carries_parameters_does_not_get_out(
    plain_vault: Vault, failure: type[Exception], said: Callable[[], None]
) -> None:
    filled(plain_vault)
    before = plain_vault.files()
    factory: type[Failing] = type("FailingConnection", (Failing,), {"failure": failure})
    with closing(sqlite3.connect(plain_vault.path, factory=factory)) as connection:
        with pytest.raises(credential_db.CredentialDBError) as caught:
            credential_db.upgrade(connection)
        assert_error_shows_nothing(caught.value)
    assert plain_vault.files() == before
    said()


@pytest.mark.parametrize(
    "spoil",
    [
        "UPDATE ssh_keys SET private_der = CAST(private_der || 'junk' AS BLOB)",
        "UPDATE ssh_keys SET private_der = CAST(private_der || x'ff' AS TEXT)",
        "UPDATE ssh_keys SET private_der = substr(private_der, 1, 40)",
        "CREATE VIEW broken AS SELECT * FROM gone",
    ],
)
def test_a_failure_on_the_way_back_shows_nothing(
    plain_vault: Vault, spoil: str, said: Callable[[], None]
) -> None:
    filled(plain_vault)
    upgrade_to_2(plain_vault.path)
    plain_vault.execute(spoil)
    config = scripts.config()
    config.set_main_option("sqlalchemy.url", str(plain_vault.path))
    with pytest.raises(credential_db.CredentialDBError) as caught:
        command.downgrade(config, "v0")
    assert_error_shows_nothing(caught.value)
    with pytest.raises(credential_db.CredentialDBError) as caught:
        command.downgrade(config, "base")
    assert_error_shows_nothing(caught.value)
    said()


# The shell


@pytest.mark.parametrize(
    "spoiled",
    [None, "junk behind", "TEXT that is not UTF-8", "the same twice", "a view that is broken"],
)
def test_the_shell_shows_nothing(
    plain_vault: Vault, shell: CommandLine, spoiled: str | None
) -> None:
    filled(plain_vault)
    if spoiled:
        plain_vault.execute(SPOILED[spoiled])
    for arguments in (["current", "-v"], ["check"], ["upgrade", "head"]):
        done = shell("-x", f"db={plain_vault.path}", *arguments)
        assert_shows_nothing("stdout", done.stdout)
        assert_shows_nothing("stderr", done.stderr)
        assert "Traceback" not in done.stderr
    assert (done.returncode == 0) == (spoiled is None)


@pytest.mark.parametrize("right", [True, False])
def test_a_real_shell_shows_neither_the_passphrase_nor_a_key(
    plain_vault: Vault, command_line: CommandLine, right: bool
) -> None:
    vault = filled(Vault(plain_vault.path, PASSPHRASE if right else "another passphrase"))
    vault.execute(SPOILED["junk behind"])
    done = command_line(
        "-x",
        f"db={vault.path}",
        "upgrade",
        "head",
        environment={"CREDENTIAL_DB_PASSPHRASE": PASSPHRASE},
    )
    assert done.returncode != 0
    assert "FAILED" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert_shows_nothing("stdout", done.stdout)
    assert_shows_nothing("stderr", done.stderr)
