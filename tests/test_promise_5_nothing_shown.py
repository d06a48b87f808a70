"""Promise 5: no secret in an exception, whatever belongs to it, in a log record or in the shell.

Errors that other software raises are tested in test_causes.py, and that a trace callback sees no
cell in test_callers_connection.py.
"""

import base64
import logging
import pickle
import sqlite3
import traceback
from collections.abc import Callable, Iterator
from functools import cache
from itertools import product
from typing import Any

import pytest
import sqlalchemy
from cryptography.hazmat.primitives.asymmetric import rsa
from sqlcipher3 import dbapi2 as sqlcipher

import credential_db
from conftest import PASSPHRASE as RAW_KEY
from conftest import CommandLine
from credential_db import CredentialDBError, api
from faults import FAULTS, KINDS, Attack
from vaults import STAMPS, Key, Vault, ed25519_key, rsa_key, upgrade_to_2

WINDOW = 20
DATA = '{"token": "canary-data-8Jq2vXw0ZkLm4Tn6"}'
TOKEN = "canary-token-Yh5RbC1dGf7Ps9Ae"
PASSPHRASE = "canary-passphrase-'Wu3Mi8No2Kx'"
KEYS = [rsa_key(0), ed25519_key(1)]

Said = Callable[[], None]


# --- What would be a leak -----------------------------------------------------------------------


def forms(secret: bytes) -> Iterator[bytes]:
    """One secret in every spelling in which it could appear."""
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
    parts = [pem, base64.b64decode(b"".join(pem.split(b"\n")[1:-2])), key.der, key.public_blob]
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
    for canary in (DATA, TOKEN, PASSPHRASE):
        for form in forms(canary.encode()):
            found |= windows(form)
    return frozenset(found)


def assert_shows_nothing(place: str, content: str | bytes) -> None:
    if isinstance(content, str):
        content = content.encode(errors="surrogateescape")
    found = windows(content) & leaks()
    assert not found, f"{place} shows {sorted(found)[:3]}"


def test_the_check_finds_what_it_looks_for() -> None:
    for leak in (
        f"detail: {TOKEN}",
        repr(KEYS[0].pem),
        KEYS[1].der.hex(),
        base64.b64encode(b"x" + KEYS[1].der).decode(),
        repr(ValueError(("UPDATE", KEYS[0].der))),
    ):
        with pytest.raises(AssertionError, match="shows"):
            assert_shows_nothing("it", leak)
    assert_shows_nothing("it", ed25519_key(9).der)


def assert_error_shows_nothing(error: BaseException) -> None:
    for shown in (str(error), repr(error), repr(error.args), repr(vars(error))):
        assert_shows_nothing("the error", shown)
    frames = [
        (frame, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if frame.f_code.co_filename != __file__
    ]
    for entry in traceback.StackSummary.extract(iter(frames), capture_locals=True):
        assert_shows_nothing(f"the locals of {entry.name}", repr(entry.locals))
    assert error.__cause__ is None, "an error comes alone"
    assert error.__context__ is None, "an error comes alone"
    assert_shows_nothing("the pickle", pickle.dumps(error))
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (type(error), str(error))


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Iterator[Said]:
    """Look through everything that was logged, at any level, or printed."""
    for name in ("", "sqlalchemy", "alembic", "credential_db"):
        caplog.set_level(logging.DEBUG, name)

    def look() -> None:
        for record in caplog.records:
            assert_shows_nothing("a log record", f"{vars(record)!r} {record.getMessage()}")
        for printed in capfd.readouterr():
            assert_shows_nothing("a stream", printed)

    yield look
    # If echo has put a handler that writes to what was sys.stdout during the test.
    logging.getLogger("sqlalchemy.engine.Engine").handlers.clear()


# --- Files and ways to upgrade them -------------------------------------------------------------


def filled(vault: Vault) -> Vault:
    vault.create(content=KEYS)
    vault.execute(
        ("INSERT INTO credentials VALUES ('canary', 'canary', ?)", (DATA,)),
        ("INSERT INTO proxy_tokens VALUES (?, 's', 't', 'c', 'p')", (TOKEN,)),
    )
    return vault


def by_engine(vault: Vault) -> object:
    options: dict[str, Any] = {"creator": vault.connect, "module": sqlite3, "echo": "debug"}
    engine = sqlalchemy.create_engine("sqlite://", poolclass=sqlalchemy.NullPool, **options)
    return credential_db.upgrade(engine)


WAYS: dict[str, Callable[[Vault], object]] = {**KINDS, "engine": by_engine}


def vault_for(plain_vault: Vault, way: str) -> Vault:
    """A vault that the real program upgrades is encrypted; a raw key costs no time to derive."""
    return filled(Vault(plain_vault.path, RAW_KEY) if way == "legacy functions" else plain_vault)


@pytest.mark.parametrize("way", WAYS)
def test_a_success_shows_nothing(plain_vault: Vault, way: str, said: Said) -> None:
    vault = vault_for(plain_vault, way)
    WAYS[way](vault)
    assert vault.stamps() == STAMPS
    said()


EVERY_KEY = "UPDATE ssh_keys SET {}"
SPOILED = {
    "two blocks": EVERY_KEY.format("private_pem = CAST(private_pem || private_pem AS BLOB)"),
    "junk behind": EVERY_KEY.format("private_pem = CAST(private_pem || 'junk' AS BLOB)"),
    "truncated": EVERY_KEY.format("private_pem = substr(private_pem, 1, 300)"),
    "TEXT": EVERY_KEY.format("private_pem = CAST(private_pem AS TEXT)"),
    "not UTF-8": EVERY_KEY.format("private_pem = CAST(substr(private_pem, 9) || x'ff' AS TEXT)"),
    "public half": EVERY_KEY.format("public_blob = CAST(public_blob || x'ff' AS TEXT)"),
    "another key_type": EVERY_KEY.format("key_type = iif(key_type = 'rsa', 'ed25519', 'rsa')"),
    "the same twice": (
        "INSERT INTO ssh_keys (key_type, private_pem, public_blob, fingerprint)"
        " SELECT key_type, private_pem, public_blob, hex(private_pem) FROM ssh_keys"
    ),
    "a cell as a path in JSON": (  # SQLite repeats a path that it cannot read
        "CREATE INDEX by_path ON ssh_keys (json_extract('{}', iif("
        "substr(CAST(private_pem AS TEXT), 1, 5) = '-----', '$', hex(private_pem))))"
    ),
    "a broken view": "CREATE VIEW broken AS SELECT * FROM gone",
    "a column too many": "ALTER TABLE proxy_tokens ADD COLUMN extra",
    "a stamp": "CREATE TABLE alembic_version AS SELECT token AS version_num FROM proxy_tokens",
    "a number too high": "PRAGMA user_version = 99",
}


@pytest.mark.parametrize(
    ("way", "spoiled"),
    [
        *(("path", spoiled) for spoiled in SPOILED),
        *product(["engine", "legacy functions"], ["junk behind", "the same twice", "a stamp"]),
    ],
)
def test_a_bad_file_shows_nothing(plain_vault: Vault, spoiled: str, way: str, said: Said) -> None:
    vault = vault_for(plain_vault, way)
    vault.execute(SPOILED[spoiled])
    before = vault.content()
    with pytest.raises(CredentialDBError) as caught:
        WAYS[way](vault)
    assert_error_shows_nothing(caught.value)
    assert vault.content() == before
    said()


@pytest.mark.parametrize("event", ["INSERT ON alembic_version", "UPDATE ON ssh_keys"])
def test_what_a_trigger_would_say_is_not_said(plain_vault: Vault, event: str, said: Said) -> None:
    """From SQLite 3.47 on, which sqlcipher3 has, the text of RAISE may be any expression."""
    vault = filled(Vault(plain_vault.path, RAW_KEY))
    vault.execute(
        "CREATE TABLE alembic_version (version_num VARCHAR(32) PRIMARY KEY)",
        "INSERT INTO alembic_version VALUES ('v0')",
        f"CREATE TRIGGER says BEFORE {event} BEGIN"
        " SELECT RAISE(ABORT, (SELECT data FROM credentials WHERE provider = 'canary')); END",
    )
    with pytest.raises(sqlcipher.IntegrityError, match="canary"):
        vault.execute("UPDATE ssh_keys SET id = id", "INSERT INTO alembic_version VALUES ('v')")
    upgrade_to_2(vault.path, passphrase=RAW_KEY)
    api.change(vault.path, command="downgrade", to="0", passphrase=RAW_KEY)
    api.change(vault.path, command="stamp", to="0", passphrase=RAW_KEY)
    assert vault.stamps() == ("v0", 0)
    said()


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("beginning", ["UPDATE OR ABORT", "SELECT +", "ALTER", "COMMIT"])
def test_a_failure_in_the_middle_shows_nothing(
    plain_vault: Vault, monkeypatch: pytest.MonkeyPatch, beginning: str, fault: str, said: Said
) -> None:
    before = filled(plain_vault).path.read_bytes()
    attack = Attack(monkeypatch)
    with attack:
        credential_db.upgrade(plain_vault.path)
    statements = attack.statements
    number = next(n for n, sql in enumerate(statements) if sql.startswith(beginning))
    plain_vault.path.write_bytes(before)
    error: BaseException | None = None
    try:
        with attack.plan(number, fault):
            credential_db.upgrade(plain_vault.path)
    except (CredentialDBError, KeyboardInterrupt) as found:
        error = found
    assert attack.failed
    if (beginning, fault) != ("COMMIT", "error after"):  # that is a success
        assert error is not None
        assert_error_shows_nothing(error)
    said()


@pytest.mark.parametrize("to", ["v0", "base"])
@pytest.mark.parametrize(
    "change", ["CAST(private_der || 'junk' AS BLOB)", "CAST(private_der || x'ff' AS TEXT)"]
)
def test_a_failing_downgrade_shows_nothing(
    plain_vault: Vault, change: str, to: str, said: Said
) -> None:
    upgrade_to_2(filled(plain_vault).path)
    plain_vault.execute(f"UPDATE ssh_keys SET private_der = {change}")
    with pytest.raises(CredentialDBError) as caught:
        api.change(plain_vault.path, command="downgrade", to=to)
    assert_error_shows_nothing(caught.value)
    said()


# --- Passphrases --------------------------------------------------------------------------------

ARGUMENTS: dict[str, tuple[Any, Any]] = {  # a target, if not the vault; and a passphrase
    "wrong": (None, PASSPHRASE),
    "bytes of a wrong size": (None, PASSPHRASE.encode()),
    "with a NUL": (None, PASSPHRASE + "\0"),
    "a wrong raw key": (None, b"x" * 32),
    "a list": (None, [PASSPHRASE]),
    "SQLCipher URL": (f"sqlite+pysqlcipher://:{PASSPHRASE}@/credentials.db", None),
    "URL of another database": (f"postgresql://user:{PASSPHRASE}@host/database", None),
    "URL with options": (f"sqlite:///credentials.db?key={PASSPHRASE}", None),
    "SQLite's own URI": (f"file:credentials.db?key={PASSPHRASE}", None),
    "URL without a path": (f"sqlite://{PASSPHRASE}", None),
}


@pytest.mark.parametrize("call", [credential_db.upgrade, credential_db.status])
@pytest.mark.parametrize("name", ARGUMENTS)
def test_an_argument_that_is_refused_shows_nothing(
    plain_vault: Vault, name: str, call: Callable[..., object], said: Said
) -> None:
    target, passphrase = ARGUMENTS[name]
    vault = Vault(plain_vault.path, RAW_KEY).create(content=KEYS)
    with pytest.raises(CredentialDBError) as caught:
        call(target or vault.path, passphrase=passphrase)
    assert_error_shows_nothing(caught.value)
    said()


# --- The shell ----------------------------------------------------------------------------------


@pytest.mark.parametrize("spoiled", [None, "junk behind", "not UTF-8", "the same twice", "a stamp"])
def test_the_shell_shows_nothing(
    plain_vault: Vault, shell: CommandLine, spoiled: str | None
) -> None:
    filled(plain_vault)
    if spoiled:
        plain_vault.execute(SPOILED[spoiled])
    for arguments in (["status"], ["check"], ["alembic", "current", "-v"], ["upgrade"]):
        done = shell(*arguments, "--db", str(plain_vault.path))
        assert_shows_nothing(f"{arguments}", done.stdout + done.stderr)
        assert "Traceback" not in done.stderr
    assert (done.returncode == 0) == (spoiled is None)


@pytest.mark.parametrize("passphrase", [PASSPHRASE, "another passphrase"])
def test_a_real_shell_shows_neither_the_passphrase_nor_a_key(
    plain_vault: Vault, command_line: CommandLine, passphrase: str
) -> None:
    vault = filled(Vault(plain_vault.path, passphrase))
    vault.execute(SPOILED["junk behind"])
    environment = {"CREDENTIAL_DB_PASSPHRASE": PASSPHRASE}
    done = command_line("upgrade", str(vault.path), environment=environment)
    assert done.returncode == (6 if passphrase == PASSPHRASE else 8)
    assert_shows_nothing("a stream", done.stdout + done.stderr)
