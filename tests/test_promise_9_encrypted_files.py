"""Promise 9: encrypted files work the same, through SQLCipher, and no plain text is anywhere.

That an upgrade of one is all or nothing, and one of many, is tested with the others: faults.py.
"""

import os
import pickle
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy
from sqlcipher3 import dbapi2 as sqlcipher

import credential_db
from conftest import PASSPHRASE, CommandLine
from credential_db import CredentialDBError, NotADatabase
from credential_db.sqlite.connections import Passphrase
from faults import KINDS, assert_bare
from vaults import HEAD, STAMPS, Vault, ed25519_key, keys, upgraded

HEADER = b"SQLite format 3"
SECRET = "correct horse battery staple"


@pytest.fixture
def encrypted(tmp_path: Path) -> Vault:
    return Vault(tmp_path / "credentials.db", PASSPHRASE)


# --- Passphrases -------------------------------------------------------------------------------

ODD_PASSPHRASES = [" it''s \"quoted\"' \u00fcml\u00e4ut \U0001f511\n", "%s?#;--", "x" * 2000]


@pytest.mark.parametrize("passphrase", ODD_PASSPHRASES, ids=range(len(ODD_PASSPHRASES)))
def test_odd_passphrases_are_passphrases(tmp_path: Path, passphrase: str) -> None:
    vault = Vault(tmp_path / "credentials.db", passphrase).create(1, content=keys(1))
    assert credential_db.upgrade(vault.path, passphrase=passphrase) == (1, HEAD)
    assert vault.stamps() == STAMPS


@pytest.mark.parametrize("size", [32, 48])
def test_bytes_are_a_raw_key(tmp_path: Path, size: int) -> None:
    path, key = tmp_path / "credentials.db", bytes(range(size))
    credential_db.upgrade(path, passphrase=key)
    with closing(sqlcipher.connect(str(path))) as connection:
        connection.execute(f"PRAGMA key = \"x'{key.hex()}'\"")
        assert connection.execute("PRAGMA user_version").fetchone() == (HEAD,)
    assert credential_db.status(path, passphrase=key).state == "current"


@pytest.mark.parametrize("passphrase", ["", b"", b"x" * 31, "nul\0character"])
def test_what_is_no_passphrase_is_refused(tmp_path: Path, passphrase: str | bytes) -> None:
    for function in (credential_db.upgrade, credential_db.status):
        with pytest.raises(CredentialDBError) as caught:
            function(tmp_path / "new.db", passphrase=passphrase)
        assert "xxx" not in str(caught.value)
    assert not (tmp_path / "new.db").exists(), "a file without encryption was created"


@pytest.mark.parametrize(("passphrase", "version"), [(None, 0), ("wrong", 2), (b"w" * 32, 0)])
def test_a_missing_or_wrong_passphrase_touches_nothing(
    encrypted: Vault, passphrase: Any, version: int, capfd: pytest.CaptureFixture[str]
) -> None:
    encrypted.create(version, content=keys(1))
    before, mtime = encrypted.files(), encrypted.path.stat().st_mtime_ns
    for function in (credential_db.upgrade, credential_db.status):
        with pytest.raises(NotADatabase) as caught:
            function(encrypted.path, passphrase=passphrase)
        assert_bare(caught.value)
    assert encrypted.files() == before
    assert encrypted.path.stat().st_mtime_ns == mtime
    assert capfd.readouterr() == ("", ""), "SQLCipher's own log shows"


def test_a_passphrase_for_a_plain_file_is_an_error(plain_vault: Vault) -> None:
    plain_vault.create(0, content=keys(1))
    before = plain_vault.files()
    for function in (credential_db.upgrade, credential_db.status):
        with pytest.raises(NotADatabase):
            function(plain_vault.path, passphrase=SECRET)
    assert plain_vault.files() == before


def test_a_file_of_an_older_sqlcipher_is_converted_once_by_its_owner(
    tmp_path: Path, shell: CommandLine
) -> None:
    encrypted = Vault(tmp_path / "credentials.db", SECRET)
    with closing(sqlcipher.connect(str(encrypted.path))) as connection:
        connection.execute("PRAGMA cipher_log_level = NONE")
        connection.execute(f"PRAGMA key = '{SECRET}'")
        connection.execute("PRAGMA cipher_compatibility = 3")
        connection.execute("CREATE TABLE credentials (credential_set, provider, data)")
    with pytest.raises(NotADatabase, match="cipher_migrate"):
        credential_db.status(encrypted.path, passphrase=SECRET)
    result = shell("upgrade", str(encrypted.path), environment={"CREDENTIAL_DB_PASSPHRASE": SECRET})
    assert result.returncode == 8
    with closing(encrypted.connect()) as connection:
        assert connection.execute("PRAGMA cipher_migrate").fetchone() == ("0",)
    assert credential_db.status(encrypted.path, passphrase=SECRET).version == 0


def test_a_passphrase_does_not_show_itself() -> None:
    passphrase = Passphrase(SECRET)
    assert SECRET not in repr(passphrase) + str(passphrase) + f"{passphrase}"
    with pytest.raises(TypeError):
        pickle.dumps(passphrase)


# --- No plain text on the disk -----------------------------------------------------------------


def test_a_new_file_is_encrypted_from_its_first_byte(encrypted: Vault) -> None:
    credential_db.upgrade(encrypted.path, passphrase=PASSPHRASE)
    content = encrypted.path.read_bytes()
    assert not content.startswith(HEADER)
    assert b"credentials" not in content
    assert stat.S_IMODE(encrypted.path.stat().st_mode) == 0o600
    assert encrypted.stamps() == STAMPS


PLAIN_TEXT = (
    *(HEADER, b"CREATE TABLE", b"alembic_version", b"OPENSSH PRIVATE KEY", b"ssh-ed25519"),
    *(b"phantom-1", b"ghp_"),
)

# Every file that the upgrade opens, as Linux tells: a temporary one may be gone in an instant.
WATCH = """
import os, sys, threading
import credential_db
from alembic import command
path, passphrase, found = sys.argv[1], sys.argv[2], set()
running = True
def watch():
    while running:
        for fd in os.listdir("/proc/self/fd"):
            try:
                name = os.readlink(f"/proc/self/fd/{fd}")
                size = os.path.getsize(f"/proc/self/fd/{fd}")
            except OSError:
                continue
            if size and "etilqs" in name:
                found.add(name)
thread = threading.Thread(target=watch, daemon=True)
thread.start()
credential_db.upgrade(path, passphrase=passphrase, backup=path + ".backup")
running = False
thread.join()
print(sorted(found))
"""


@pytest.mark.parametrize("journal_mode", ["wal", "persist"])
def test_no_plain_text_touches_the_disk(tmp_path: Path, journal_mode: str) -> None:
    vault = Vault(tmp_path / "credentials.db", PASSPHRASE)
    vault.create(content=[ed25519_key(n) for n in range(200)], journal_mode=journal_mode)
    with closing(vault.connect()) as holder:  # keeps -wal and -shm for a look
        holder.execute(f"PRAGMA journal_mode = {journal_mode}")
        holder.execute("SELECT count(*) FROM ssh_keys").fetchone()
        temporary = subprocess.run(
            [sys.executable, "-c", WATCH, str(vault.path), PASSPHRASE],
            env={**os.environ, "SQLITE_TMPDIR": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        for file in tmp_path.iterdir():
            content = file.read_bytes()
            for words in PLAIN_TEXT:
                assert words not in content, f"{file.name} holds {words!r}"
    assert temporary == "[]\n", "SQLite wrote temporary files, which are plain text"
    backup = Vault(tmp_path / "credentials.db.backup", PASSPHRASE)
    assert backup.value("SELECT count(private_pem) FROM ssh_keys") == 200


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize("there", ["missing", "empty", "v0"])
def test_a_driver_without_sqlcipher_writes_nothing_in_plain_text(
    plain_vault: Vault, monkeypatch: pytest.MonkeyPatch, there: str, dry_run: bool
) -> None:
    """Some distributions build a module of that name on SQLite's own library."""
    if there == "empty":
        plain_vault.path.touch()
    elif there == "v0":
        plain_vault.create(content=keys(1))
    before = plain_vault.files()
    for name in ("sqlcipher3", "sqlcipher3.dbapi2"):
        fake = SimpleNamespace(**{**vars(sqlite3), "dbapi2": sqlite3})
        monkeypatch.setitem(sys.modules, name, fake)
    if not (there == "missing" and dry_run):  # then there is nothing to open
        with pytest.raises(CredentialDBError):
            credential_db.upgrade(plain_vault.path, passphrase=SECRET, dry_run=dry_run)
    assert all(not content for content in plain_vault.files().values()) or there == "v0"
    assert there != "v0" or plain_vault.files() == before


@pytest.mark.parametrize("by", ["connection", "engine of it"])
def test_a_plain_connection_is_not_made_an_encrypted_vault(plain_vault: Vault, by: str) -> None:
    with closing(sqlite3.connect(plain_vault.path)) as connection:
        engine = sqlalchemy.create_engine(
            "sqlite://", creator=lambda: connection, poolclass=sqlalchemy.StaticPool
        )
        for dry_run in (True, False):
            with pytest.raises(CredentialDBError):
                credential_db.upgrade(
                    connection if by == "connection" else engine,
                    passphrase=SECRET,
                    dry_run=dry_run,
                )
    assert not plain_vault.path.exists() or not plain_vault.path.read_bytes()


# --- Connections that are passed in ------------------------------------------------------------


@pytest.mark.parametrize("kind", ["connection", "legacy functions"])
def test_an_encrypted_connection_works_as_a_plain_one(encrypted: Vault, kind: str) -> None:
    encrypted.create(content=keys(2), tables=("credentials", "ssh_keys"), journal_mode="wal")
    expected = upgraded(encrypted.content(), 0)
    with closing(encrypted.connect()) as connection:
        connection.row_factory = sqlcipher.Row
        assert credential_db.status(connection).state == "legacy"
        KINDS[kind].call(connection)
        assert connection.row_factory is sqlcipher.Row
        assert connection.isolation_level == ""
        assert credential_db.status(connection).state == "current"
    assert encrypted.content() == expected


def test_sqlcipher3_without_a_key_is_sqlite(plain_vault: Vault) -> None:
    plain_vault.create(content=keys(2))
    expected = upgraded(plain_vault.content(), 0)
    with closing(sqlcipher.connect(str(plain_vault.path))) as connection:
        assert credential_db.upgrade(connection) == (0, HEAD)
    assert plain_vault.content() == expected


FUNCTIONS: list[Callable[[Any], object]] = [
    credential_db.upgrade,
    credential_db.status,
    credential_db.ensure_credentials_schema,
    credential_db.migrate_credential_db_schema,
]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_wrong_key_of_a_connection_is_no_database(
    encrypted: Vault, function: Callable[[Any], object]
) -> None:
    encrypted.create(content=keys(1))
    with closing(sqlcipher.connect(str(encrypted.path))) as connection:
        connection.execute("PRAGMA cipher_log_level = NONE")
        connection.execute("PRAGMA key = 'wrong'")
        with pytest.raises(NotADatabase):
            function(connection)


def test_a_backup_takes_the_passphrase_again(encrypted: Vault, tmp_path: Path) -> None:
    before = encrypted.create(content=keys(1)).content()
    backup = Vault(tmp_path / "backup", PASSPHRASE)
    with closing(encrypted.connect()) as connection:
        for passphrase in (None, "wrong"):
            with pytest.raises(NotADatabase):
                credential_db.upgrade(connection, backup=backup.path, passphrase=passphrase)
        assert encrypted.stamps() == (None, 0)
        credential_db.upgrade(connection, backup=backup.path, passphrase=PASSPHRASE)
    assert backup.content() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["backup", "credentials.db"]


# --- The extra ---------------------------------------------------------------------------------

WITHOUT_EXTRA = "import sys; sys.modules['sqlcipher3'] = None; import credential_db\n"


def printed(code: str) -> str:
    return subprocess.check_output([sys.executable, "-c", code], text=True)


def test_without_the_extra_the_error_names_it(encrypted: Vault) -> None:
    encrypted.create(0)
    for options in ("", ", passphrase='secret'"):
        code = (
            "try:\n"
            f"    credential_db.upgrade({str(encrypted.path)!r}{options})\n"
            "except credential_db.CredentialDBError as error:\n"
            "    print(error)\n"
        )
        assert "pip install 'credential-db[sqlcipher]'" in printed(WITHOUT_EXTRA + code)


def test_a_plain_file_does_not_need_the_extra(plain_vault: Vault) -> None:
    plain_vault.create(content=keys(1))
    code = f"print(credential_db.upgrade({str(plain_vault.path)!r}).after)"
    assert printed(WITHOUT_EXTRA + code) == f"{HEAD}\n"


def test_a_current_encrypted_file_costs_no_library(encrypted: Vault) -> None:
    code = (
        "import credential_db, sys\n"
        f"credential_db.upgrade({str(encrypted.path)!r}, passphrase={PASSPHRASE!r})\n"
        "print(sorted({'alembic', 'sqlalchemy', 'cryptography'} & set(sys.modules)))"
    )
    assert [printed(code), printed(code)] == ["[]\n", "[]\n"], "new, and current"
