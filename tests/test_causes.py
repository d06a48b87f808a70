"""Errors are recreated without data, and name the actual cause. Damaged files stay as they are."""

import asyncio
import errno
import os
import pickle
import random
import resource
import sqlite3
import traceback
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from typing import Any

import pytest
import sqlalchemy
from alembic.util import CommandError
from sqlcipher3 import dbapi2 as sqlcipher

import credential_db
from credential_db import CredentialDBError, DatabaseBusy, NotADatabase, ReadOnlyDatabase
from credential_db.sqlite.causes import clean, known_text
from credential_db.sqlite.connections import Passphrase
from credential_db.sqlite.driver import quoted
from test_files import apart
from vaults import HEAD, Vault, keys, upgrade_to_2

SECRET = "canary-Yh5RbC1dGf7Ps9Ae"


def raised(function: Callable[..., object], *arguments: Any, **options: Any) -> BaseException:
    """What a function raises, with its traceback and what it came from."""
    try:
        try:
            raise ValueError(SECRET)
        except ValueError:
            function(*arguments, **options)
    except BaseException as error:
        return error
    raise AssertionError("it did not fail")


def named(error: Exception, name: str) -> Exception:
    error.sqlite_errorname = name  # type: ignore[attr-defined]  # as sqlite3 itself sets it
    return error


def throw(error: BaseException) -> None:
    raise error


class ApplicationError(sqlite3.OperationalError):
    pass


SQL = ("INSERT INTO t VALUES (?)", (SECRET,))
HIDDEN: dict[str, Callable[[], BaseException]] = {
    "value": lambda: ValueError(SECRET),
    "key": lambda: KeyError(SECRET),
    "own class": lambda: ApplicationError(f"no such table: {SECRET}"),
    "own attribute error": lambda: type("Mine", (AttributeError,), {})(SECRET),
    "system": lambda: OSError(errno.EIO, SECRET),
    "trigger": lambda: named(
        sqlite3.IntegrityError(f"UNIQUE constraint failed: {SECRET}"), "SQLITE_CONSTRAINT_TRIGGER"
    ),
    "constraint": lambda: sqlite3.IntegrityError(SECRET),
    "decoding": lambda: sqlite3.OperationalError(
        f"Could not decode to UTF-8 column 'data' with text '{SECRET}'"
    ),
    "SQLAlchemy": lambda: sqlalchemy.exc.IntegrityError(*SQL, sqlite3.IntegrityError(SECRET)),
    "unicode": lambda: raised(SECRET.encode().decode, "utf-16"),
}


@pytest.mark.parametrize("kind", HIDDEN)
def test_data_in_an_error_is_not_shown(kind: str) -> None:
    error = clean(raised(throw, HIDDEN[kind]()), "vault.db")
    assert isinstance(error, CredentialDBError)
    assert "vault.db" in str(error)
    assert_shows_nothing(error)
    assert SECRET not in known_text(HIDDEN[kind]())


def assert_shows_nothing(error: BaseException) -> None:
    assert (error.__cause__, error.__context__, error.__traceback__) == (None, None, None)
    for shown in (str(error), repr(error.args), repr(vars(error)), repr(pickle.dumps(error))):
        assert SECRET not in shown
    assert "\n" not in str(error)


BARE = (KeyboardInterrupt(), SystemExit(3), asyncio.CancelledError(), GeneratorExit())


@pytest.mark.parametrize("error", [*BARE, credential_db.SchemaTooNew("newer", 7)], ids=repr)
def test_an_interrupt_and_an_error_of_ours_stay_what_they_are(error: BaseException) -> None:
    found = clean(raised(throw, error), "vault.db")
    assert found is error
    assert_shows_nothing(found)


CODE_AND_SCHEMA = (
    AttributeError("module 'x' has no attribute 'y'"),
    ModuleNotFoundError("No module named 'x'"),
    sqlite3.OperationalError("no such table: gone"),
    sqlite3.ProgrammingError("Cannot operate on a closed database."),
    sqlite3.IntegrityError("UNIQUE constraint failed: ssh_keys.fingerprint"),
    sqlcipher.IntegrityError("CHECK constraint failed: key_type"),
    CommandError("No such revision 'v9'"),
)


@pytest.mark.parametrize("error", CODE_AND_SCHEMA, ids=lambda error: type(error).__name__)
def test_a_text_about_code_and_schema_is_told(error: Exception) -> None:
    assert str(error) in str(clean(error, "vault.db"))


KINDS = {
    "SQLITE_BUSY_SNAPSHOT": DatabaseBusy,
    "SQLITE_LOCKED_SHAREDCACHE": DatabaseBusy,
    "SQLITE_PROTOCOL": DatabaseBusy,
    "SQLITE_NOTADB": NotADatabase,
    "SQLITE_CORRUPT_INDEX": NotADatabase,
    "SQLITE_READONLY_DBMOVED": ReadOnlyDatabase,
    "SQLITE_CANTOPEN_ISDIR": ReadOnlyDatabase,
    "SQLITE_FULL": CredentialDBError,
    "SQLITE_IOERR_WRITE": CredentialDBError,
    "SQLITE_ERROR": CredentialDBError,
}


@pytest.mark.parametrize(("name", "kind"), KINDS.items())
@pytest.mark.parametrize("with_path", [False, True])
def test_the_kind_of_each_error_of_sqlite(
    plain_vault: Vault, name: str, kind: type, with_path: bool
) -> None:
    path = str(plain_vault.create().path)
    error = named(sqlite3.OperationalError("a text of SQLite"), name)
    found = clean(error, path, path=path if with_path else "")
    assert type(found) is kind
    assert path in str(found)
    # What existing applications catch, they still catch.
    assert isinstance(found, sqlite3.DatabaseError)
    assert isinstance(found, sqlite3.OperationalError) == (kind in (DatabaseBusy, ReadOnlyDatabase))


# --- Damaged files: a rebuild would drop what can still be read --------------------------------

PAGE = 4096
THEIRS = (
    "CREATE TABLE theirs (a, b UNIQUE)",
    "INSERT INTO theirs VALUES (hex(zeroblob(3000)), 1), ('x', 2)",
    "CREATE INDEX by_comment ON ssh_keys (comment)",
)


def overwritten(raw: bytes, at: int, new: bytes) -> bytes:
    return raw[:at] + new + raw[at + len(new) :]


def page_of(vault: Vault, name: str) -> int:
    root = vault.value("SELECT rootpage FROM sqlite_master WHERE name = ?", (name,))
    return (int(root) - 1) * PAGE


EMPTY_SCHEMA = b"\x0d\x00\x00\x00\x00\x10\x00\x00" + bytes(PAGE - 108)
DAMAGE: dict[str, Callable[[Vault, bytes], bytes]] = {
    "cell that points into the header": lambda vault, raw: overwritten(
        raw, page_of(vault, "ssh_keys") + 8, b"\x00\x01"
    ),
    "page of no kind": lambda vault, raw: overwritten(raw, page_of(vault, "theirs"), b"\x07"),
    "index without its page": lambda vault, raw: overwritten(
        raw, page_of(vault, "by_comment"), bytes(PAGE)
    ),
    "wrong page count": lambda _, raw: overwritten(raw, 28, b"\x00\x00\x10\x00"),
    "free list outside of the file": lambda _, raw: overwritten(raw, 32, b"\0\0\x7f\0\0\0\0\5"),
    "cut off in the middle": lambda _, raw: raw[: len(raw) - 2 * PAGE],
    "empty schema page": lambda _, raw: overwritten(raw, 100, EMPTY_SCHEMA),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_refused_and_left_as_it_is(plain_vault: Vault, damage: str) -> None:
    plain_vault.create(content=keys(3)).execute(*THEIRS)
    damaged = DAMAGE[damage](plain_vault, plain_vault.path.read_bytes())
    plain_vault.path.write_bytes(damaged)
    with pytest.raises(NotADatabase, match="damaged"):
        credential_db.upgrade(plain_vault.path)
    if damage == "empty schema page":  # which is not an empty file
        with pytest.raises(NotADatabase):
            credential_db.status(plain_vault.path)
    assert plain_vault.path.read_bytes() == damaged


def readable(vault: Vault) -> dict[str, int]:
    """How many rows each table has, if all of them can be read."""
    found = {}
    with suppress(sqlite3.Error, UnicodeError):
        for (table,) in vault.query("SELECT name FROM sqlite_master WHERE type = 'table'"):
            with suppress(sqlite3.Error, UnicodeError):
                found[table] = len(vault.query(f"SELECT * FROM {quoted(table)}"))
    return found


def test_whatever_byte_is_flipped_what_could_be_read_still_can(plain_vault: Vault) -> None:
    plain_vault.create(content=keys(6, rsa_keys=0)).execute(*THEIRS)
    raw = plain_vault.path.read_bytes()
    chance = random.Random(6)
    upgraded = 0
    for _ in range(80):
        page = chance.randrange(0, len(raw), PAGE)
        position = page + chance.choice([chance.randrange(60), chance.randrange(PAGE)])
        damaged = overwritten(raw, position, bytes([raw[position] ^ (1 << chance.randrange(8))]))
        plain_vault.path.write_bytes(damaged)
        before = readable(plain_vault)
        plain_vault.path.write_bytes(damaged)
        try:
            upgrade_to_2(plain_vault.path)
        except CredentialDBError:
            assert plain_vault.path.read_bytes() == damaged, f"byte {position}: refused and changed"
        else:
            upgraded += 1
            assert before.items() - {("sqlite_sequence", 1)} <= readable(plain_vault).items()
    assert upgraded, "most bytes are of no structure"


@pytest.mark.parametrize("what", ["(a NOT NULL)", "(a CHECK (a > 0))", "(a INT) STRICT"])
def test_rows_that_break_a_constraint_are_no_damage(plain_vault: Vault, what: str) -> None:
    """A change of the schema table by hand leaves them; SQLite's own check lists them as well."""
    plain_vault.create(content=keys(2)).execute(
        "CREATE TABLE theirs (a)",
        "INSERT INTO theirs VALUES (NULL), ('word')",
        "PRAGMA writable_schema = ON",
        f"UPDATE sqlite_master SET sql = 'CREATE TABLE theirs {what}' WHERE name = 'theirs'",
    )
    assert credential_db.upgrade(plain_vault.path) == (0, HEAD)
    assert plain_vault.value("SELECT count(*) FROM theirs") == 2


def test_what_only_the_application_defines_needs_its_connection(plain_vault: Vault) -> None:
    plain_vault.create(content=keys(2))
    with closing(plain_vault.connect()) as connection:
        connection.create_collation("theirs", lambda left, right: (left > right) - (left < right))
        connection.execute("CREATE TABLE names (name TEXT COLLATE theirs UNIQUE)")
        connection.commit()
        with pytest.raises(CredentialDBError, match="pass the open connection"):
            credential_db.upgrade(plain_vault.path)
        assert credential_db.upgrade(connection) == (0, HEAD)


def test_to_ask_whether_a_file_is_plain_drops_no_lock(plain_vault: Vault) -> None:
    """A plain open() of the file would, when it is closed."""
    path = str(plain_vault.create().path)
    with closing(sqlcipher.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(NotADatabase, match="is not encrypted"):
            credential_db.upgrade(path, passphrase=SECRET)
        assert isinstance(apart(partial(credential_db.upgrade, timeout=0), path), DatabaseBusy)


def _without_files(path: str) -> object:
    number = os.dup(0)
    resource.setrlimit(resource.RLIMIT_NOFILE, (number, number))
    return credential_db.upgrade(path)


def test_too_many_open_files_is_an_error_of_ours(plain_vault: Vault) -> None:
    before = plain_vault.create(content=keys(1)).content()
    assert isinstance(apart(_without_files, str(plain_vault.path)), CredentialDBError)
    assert plain_vault.content() == before


def test_no_directory_for_temporary_files(
    plain_vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(plain_vault.create().path)
    places = ("/no/such", "/var/tmp", "/usr/tmp", "/tmp", ".")
    monkeypatch.setattr(os, "access", lambda file, _: file not in places)
    monkeypatch.setenv("TMPDIR", "/no/such")
    error = named(sqlite3.OperationalError("unable to open database file"), "SQLITE_CANTOPEN")
    assert "SQLITE_TMPDIR" in str(clean(error, path, path=path))
    monkeypatch.setenv("SQLITE_TMPDIR", str(plain_vault.path.parent))
    assert "SQLITE_TMPDIR" not in str(clean(error, path, path=path))


def test_the_traceback_of_a_public_function_shows_no_passphrase(plain_vault: Vault) -> None:
    plain_vault.create()
    error = raised(credential_db.upgrade, plain_vault.path, passphrase=SECRET)
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_filename != __file__:
            assert SECRET not in repr(frame.f_locals)
            assert not any(isinstance(each, Passphrase) for each in frame.f_locals.values())
