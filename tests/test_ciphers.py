"""A file that is to be encrypted is encrypted, with settings under which it can be read again."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy
from sqlcipher3 import dbapi2 as sqlcipher

import credential_db
from conftest import CommandLine
from credential_db import SCHEMA_VERSION, CredentialDBError
from credential_db.sqlite import cipher, opening, target
from vaults import STAMPS, Vault, at_head, ed25519_key, keys

KEY = bytes(range(32))
IN_WORDS = "pass phrase"
HEAD = SCHEMA_VERSION

Settings = dict[str, int]


def opened(path: Path, settings: Settings, literal: str = f"\"x'{KEY.hex()}'\"") -> Any:
    """By hand, as SQLCipher's documentation says it."""
    connection = sqlcipher.connect(str(path))
    connection.execute("PRAGMA cipher_log_level = NONE")
    connection.execute(f"PRAGMA key = {literal}")
    for name in ("cipher_compatibility", "cipher_page_size", "kdf_iter"):
        if name in settings:
            connection.execute(f"PRAGMA {name} = {settings[name]}")
    return closing(connection)


def nothing_at(path: Path) -> bool:
    return not list(path.parent.glob(f"{path.name}*"))


# --- Not SQLCipher -----------------------------------------------------------------------------

CALLS: dict[str, Callable[[Path], object]] = {
    "upgrade": lambda path: credential_db.upgrade(path, passphrase=KEY),
    "a dry run": lambda path: credential_db.upgrade(path, passphrase=KEY, dry_run=True),
    "status": lambda path: credential_db.status(path, passphrase=KEY),
    "with settings": lambda path: credential_db.upgrade(
        path, passphrase=KEY, cipher_settings={"kdf_iter": 4000}
    ),
}


@pytest.fixture
def no_sqlcipher(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of that name that is built on SQLite's own library, as some distributions do."""
    for module in (opening, target):
        monkeypatch.setattr(module, "installed_sqlcipher", lambda: sqlite3)


@pytest.mark.usefixtures("no_sqlcipher")
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("there", ["missing", "empty", "v0"])
def test_nothing_is_written_in_plain_text(tmp_path: Path, call: str, there: str) -> None:
    vault = Vault(tmp_path / "vault.db")
    if there == "empty":
        vault.path.touch()
    elif there == "v0":
        vault.create(content=keys(1))
    before = vault.files()
    if there == "missing" and call in ("a dry run", "status"):
        return  # there is nothing to open
    with pytest.raises(CredentialDBError, match="without SQLCipher"):
        CALLS[call](vault.path)
    assert vault.files() == before


@pytest.mark.parametrize("by", ["connection", "engine"])
def test_a_plain_connection_is_not_made_an_encrypted_vault(tmp_path: Path, by: str) -> None:
    path = tmp_path / "vault.db"
    with closing(sqlite3.connect(path)) as connection:
        named = connection if by == "connection" else sqlalchemy.create_engine(f"sqlite:///{path}")
        for dry_run in (True, False):
            with pytest.raises(CredentialDBError, match="plain text"):
                credential_db.upgrade(named, passphrase=IN_WORDS, dry_run=dry_run)
    assert not path.exists() or not path.read_bytes()


# --- Settings ----------------------------------------------------------------------------------

BAD: dict[str, dict[str, Any]] = {
    "cipher_compatibility=99": {"cipher_compatibility": 99},
    "cipher_compatibility=0": {"cipher_compatibility": 0},
    "cipher_page_size=512": {"cipher_page_size": 512},
    "cipher_page_size=1000": {"cipher_page_size": 1000},
    "cipher_page_size=131072": {"cipher_page_size": 131072},
    "kdf_iter=0": {"kdf_iter": 0},
    "kdf_iter=-1": {"kdf_iter": -1},
    "kdf_iter=2^31": {"kdf_iter": 2**31},
    "a bool": {"kdf_iter": True},
    "a float": {"kdf_iter": 4000.0},
    "a text": {"kdf_iter": "4000"},
    "None": {"kdf_iter": None},
    "SQL": {"kdf_iter = 1; PRAGMA kdf_iter": 4000},
    "upper case": {"KDF_ITER": 4000},
    "a key": {"key": 5},
    "the good one first": {"kdf_iter": 4000, "cipher_page_size": 3},
}


@pytest.mark.parametrize("there", ["missing", "v0"])
@pytest.mark.parametrize("name", BAD)
def test_a_setting_that_would_make_an_unreadable_file_is_refused_before(
    tmp_path: Path, name: str, there: str
) -> None:
    vault = Vault(tmp_path / "vault.db", f"x'{KEY.hex()}'")
    if there == "v0":
        vault.create(content=keys(1))
    before = vault.files()
    for function in (credential_db.upgrade, credential_db.status):
        with pytest.raises(CredentialDBError, match="cipher setting"):
            function(vault.path, passphrase=KEY, cipher_settings=BAD[name])
    assert vault.files() == before


GOOD: dict[str, Settings] = {
    **{f"compatible with {n}": {"cipher_compatibility": n} for n in (1, 2, 3, 4)},
    **{f"pages of {n}": {"cipher_page_size": n} for n in (1024, 8192, 65536)},
    "rounds": {"kdf_iter": 10},
    "rounds named first": {"kdf_iter": 10, "cipher_compatibility": 3},
    "all, in no order": {"kdf_iter": 10, "cipher_page_size": 2048, "cipher_compatibility": 2},
    "none": {},
}


@pytest.mark.parametrize("literal", ["raw key", "in words"])
@pytest.mark.parametrize("name", GOOD)
def test_a_new_file_can_be_read_by_hand_with_the_same_settings(
    tmp_path: Path, name: str, literal: str
) -> None:
    settings = GOOD[name]
    if literal == "in words" and "kdf_iter" not in settings:
        settings = {**settings, "kdf_iter": 10}  # else it takes its time
    path = tmp_path / "vault.db"
    passphrase: Any = KEY if literal == "raw key" else IN_WORDS
    options: dict[str, Any] = {"passphrase": passphrase, "cipher_settings": settings}
    assert credential_db.upgrade(path, **options) == (None, HEAD)
    assert credential_db.upgrade(path, **options) == (HEAD, HEAD)
    assert credential_db.status(path, **options).state == "current"
    by_hand = (path, settings) if literal == "raw key" else (path, settings, f"'{IN_WORDS}'")
    with opened(*by_hand) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (HEAD,)
        assert connection.execute(at_head("SELECT count(*) FROM {ssh_keys}")).fetchone() == (0,)
    with pytest.raises(sqlite3.DatabaseError), closing(sqlite3.connect(path)) as connection:
        connection.execute("SELECT * FROM sqlite_master")


@pytest.mark.parametrize("name", GOOD)
def test_an_old_file_is_upgraded_with_its_settings_and_copied_with_them(
    tmp_path: Path, name: str
) -> None:
    settings = GOOD[name]
    vault = Vault(tmp_path / "vault.db")
    vault.connect = lambda: opened(vault.path, settings).thing  # type: ignore[method-assign]  # to write the file with them
    vault.create(content=[ed25519_key(0)])
    backup = tmp_path / "backup.db"
    options: dict[str, Any] = {"passphrase": KEY, "cipher_settings": settings}
    assert credential_db.upgrade(vault.path, backup=backup, **options) == (0, HEAD)
    assert vault.stamps() == STAMPS
    assert credential_db.status(backup, **options)[:2] == ("legacy", 0)
    with opened(backup, settings) as connection:
        assert connection.execute("SELECT count(*) FROM ssh_keys").fetchone() == (1,)


@pytest.mark.parametrize("passphrase", [None, ""], ids=["none", "empty"])
@pytest.mark.parametrize("there", ["missing", "current"])
def test_settings_without_a_passphrase_make_no_plain_vault(
    tmp_path: Path, there: str, passphrase: str | None
) -> None:
    path = tmp_path / "vault.db"
    if there == "current":
        credential_db.upgrade(path)
    options: dict[str, Any] = {"passphrase": passphrase, "cipher_settings": {"kdf_iter": 10}}
    for function in (credential_db.upgrade, credential_db.status):
        with pytest.raises(CredentialDBError, match="encrypt"):
            function(path, **options)
    assert there == "current" or nothing_at(path)


def test_the_other_settings_are_not_the_files(tmp_path: Path) -> None:
    path = tmp_path / "vault.db"
    credential_db.upgrade(path, passphrase=IN_WORDS, cipher_settings={"kdf_iter": 10})
    before = path.read_bytes()
    for settings in ({"kdf_iter": 11}, {"cipher_page_size": 1024, "kdf_iter": 10}):
        with pytest.raises(credential_db.NotADatabase):
            credential_db.upgrade(path, passphrase=IN_WORDS, cipher_settings=settings)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("cipher_page_size=512", "power of two"),
        ("kdf_iter=many", "no list"),
    ],
)
def test_the_shell_refuses_settings_before_it_makes_a_file(
    command_line: CommandLine, tmp_path: Path, given: str, words: str
) -> None:
    path = tmp_path / "vault.db"
    found = command_line(
        "-x",
        f"db={path}",
        "upgrade",
        "head",
        environment={
            "CREDENTIAL_DB_PASSPHRASE": IN_WORDS,
            "CREDENTIAL_DB_CIPHER_SETTINGS": given,
        },
    )
    assert found.returncode == 1
    assert words in found.stderr
    assert nothing_at(path)


def test_a_cipher_shows_nothing() -> None:
    shown = SimpleNamespace(cipher=cipher.Cipher("canary", {"kdf_iter": 10}))
    assert "canary" not in repr(shown) + repr(vars(shown.cipher))
