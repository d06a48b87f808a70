"""Encrypted files: passphrases, where they come from, and no plain text anywhere."""

import os
import pickle
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlcipher3 import dbapi2 as sqlcipher

import credential_db
from conftest import CommandLine
from credential_db import SCHEMA_VERSION, CredentialDBError, NotADatabase
from credential_db.sqlite.cipher import Passphrase
from credential_db.sqlite.driver import is_driver_error
from vaults import Vault, ed25519_key, keys, upgraded

HEADER = b"SQLite format 3"
SECRET = "correct horse battery staple"


@pytest.fixture
def encrypted(tmp_path: Path) -> Vault:
    return Vault(tmp_path / "credentials.db", SECRET)


ODD_PASSPHRASES = [
    "'",
    "it''s \"quoted\"",
    "\u00fcml\u00e4ut \U0001f511",
    " leading and trailing ",
    "line\nbreak",
    "%s?#;--",
    "x" * 2000,
]


@pytest.mark.parametrize("passphrase", ODD_PASSPHRASES, ids=range(len(ODD_PASSPHRASES)))
def test_odd_passphrases_are_passphrases(tmp_path: Path, passphrase: str) -> None:
    vault = Vault(tmp_path / "credentials.db", passphrase).create(1, content=keys(1))
    assert credential_db.upgrade(vault.path, passphrase=passphrase) == (1, SCHEMA_VERSION)
    assert vault.stamps() == (f"v{SCHEMA_VERSION}", SCHEMA_VERSION)


@pytest.mark.parametrize("size", [32, 48])
def test_bytes_are_a_raw_key(tmp_path: Path, size: int) -> None:
    path, key = tmp_path / "credentials.db", bytes(range(size))
    credential_db.upgrade(path, passphrase=key)
    with closing(sqlcipher.connect(str(path))) as connection:
        connection.execute(f"PRAGMA key = \"x'{key.hex()}'\"")
        assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
    assert credential_db.status(path, passphrase=key).state == "current"


@pytest.mark.parametrize("passphrase", ["", b"", b"x" * 31, "nul\0character"])
def test_what_is_no_passphrase_is_refused(tmp_path: Path, passphrase: str | bytes) -> None:
    for function in (credential_db.upgrade, credential_db.status):
        with pytest.raises(CredentialDBError, match=r"passphrase is empty|raw key|NUL") as caught:
            function(tmp_path / "new.db", passphrase=passphrase)
        assert "xxx" not in str(caught.value)
    assert not (tmp_path / "new.db").exists(), "a file without encryption was created"


@pytest.mark.parametrize("passphrase", [None, "wrong", b"w" * 32])
@pytest.mark.parametrize("version", [0, 2])
def test_a_missing_or_wrong_passphrase_touches_nothing(
    encrypted: Vault, passphrase: Any, version: int, capfd: pytest.CaptureFixture[str]
) -> None:
    encrypted.create(version, content=keys(1))
    before, mtime = encrypted.files(), encrypted.path.stat().st_mtime_ns
    for function in (credential_db.upgrade, credential_db.status):
        with pytest.raises(NotADatabase, match="passphrase is missing or wrong"):
            function(encrypted.path, passphrase=passphrase)
    assert encrypted.files() == before
    assert encrypted.path.stat().st_mtime_ns == mtime
    assert capfd.readouterr() == ("", ""), "SQLCipher's own log shows"


def test_a_passphrase_for_a_plain_file_is_not_right(plain_vault: Vault) -> None:
    plain_vault.create(0, content=keys(1))
    before = plain_vault.files()
    with pytest.raises(NotADatabase):
        credential_db.upgrade(plain_vault.path, passphrase=SECRET)
    assert plain_vault.files() == before


def test_a_new_file_is_encrypted_from_its_first_byte(encrypted: Vault) -> None:
    credential_db.upgrade(encrypted.path, passphrase=SECRET)
    content = encrypted.path.read_bytes()
    assert not content.startswith(HEADER)
    assert b"credentials" not in content
    assert stat.S_IMODE(encrypted.path.stat().st_mode) == 0o600
    assert encrypted.stamps() == (f"v{SCHEMA_VERSION}", SCHEMA_VERSION)


PLAIN_TEXT = (
    HEADER,
    b"CREATE TABLE",
    b"alembic_version",
    b"OPENSSH PRIVATE KEY",
    b"ssh-ed25519",
    b"phantom-1",
    b"ghp_",
)

# Every file that the upgrade opens, as Linux tells: a temporary one may be gone in an instant.
WATCH = """
import os, sys, threading
import credential_db
from alembic import command
path, passphrase, journal, found = sys.argv[1], sys.argv[2], sys.argv[3], set()
running = True
def watch():
    while running:
        for fd in os.listdir("/proc/self/fd"):
            try:
                name = os.readlink(f"/proc/self/fd/{fd}")
                size = os.path.getsize(f"/proc/self/fd/{fd}")
            except OSError:
                continue
            if size and name.startswith("/") and not name.startswith(("/dev", "/proc", sys.prefix)):
                found.add(name)
thread = threading.Thread(target=watch)
thread.start()
credential_db.upgrade(path, passphrase=passphrase, backup=path + ".backup")
running = False
thread.join()
print("\\n".join(sorted(found)))
"""


@pytest.mark.parametrize("journal_mode", ["wal", "delete", "persist"])
def test_no_plain_text_touches_the_disk(
    encrypted: Vault, tmp_path: Path, journal_mode: str
) -> None:
    encrypted.create(content=[ed25519_key(n) for n in range(200)], journal_mode=journal_mode)
    with closing(encrypted.connect()) as holder:  # keeps -wal and -shm for a look
        holder.execute(f"PRAGMA journal_mode = {journal_mode}")
        holder.execute("SELECT count(*) FROM ssh_keys").fetchone()
        opened = subprocess.run(
            [sys.executable, "-c", WATCH, str(encrypted.path), SECRET, journal_mode],
            env={**os.environ, "SQLITE_TMPDIR": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
        for file in tmp_path.iterdir():
            content = file.read_bytes()
            for words in PLAIN_TEXT:
                assert words not in content, f"{file.name} holds {words!r}"
    temporary = [name for name in opened if "etilqs" in name]
    assert temporary == [], "SQLite wrote temporary files, which are plain text"
    assert (
        Vault(tmp_path / "credentials.db.backup", SECRET).value(
            "SELECT count(private_pem) FROM ssh_keys"
        )
        == 200
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"kdf_iter": 4000},
        {"cipher_page_size": 8192},
        {"cipher_compatibility": 3},
        {"kdf_iter": 4000, "cipher_page_size": 1024},
    ],
)
def test_cipher_settings_other_than_the_defaults(
    tmp_path: Path, shell: CommandLine, settings: Mapping[str, int]
) -> None:
    path, backup = tmp_path / "credentials.db", tmp_path / "backup.db"
    with closing(sqlcipher.connect(str(path))) as connection:
        connection.execute("PRAGMA cipher_log_level = NONE")
        connection.execute(f"PRAGMA key = '{SECRET}'")
        for name, value in settings.items():
            connection.execute(f"PRAGMA {name} = {value}")
        connection.execute(
            "CREATE TABLE credentials (credential_set TEXT NOT NULL, provider TEXT"
            " NOT NULL, data TEXT NOT NULL, PRIMARY KEY (credential_set, provider))"
        )
        connection.commit()
    with pytest.raises(NotADatabase):
        credential_db.status(path, passphrase=SECRET)
    status = credential_db.status(path, passphrase=SECRET, cipher_settings=settings)
    assert status.state == "legacy"
    environment = {
        "CREDENTIAL_DB_PASSPHRASE": SECRET,
        "CREDENTIAL_DB_CIPHER_SETTINGS": ",".join(f"{k}={v}" for k, v in settings.items()),
    }
    result = shell(
        "-x", f"db={path}", "-x", f"backup={backup}", "upgrade", "head", environment=environment
    )
    assert result.returncode == 0, result.stdout
    options: Any = {"passphrase": SECRET, "cipher_settings": settings}
    assert credential_db.status(path, **options).state == "current"
    assert credential_db.status(backup, **options).state == "legacy"
    assert credential_db.upgrade(path, **options) == (SCHEMA_VERSION, SCHEMA_VERSION)


@pytest.mark.parametrize("settings", [{"kdf_iter; DROP TABLE x": 1}, {"kdf_iter": "4000"}])
def test_cipher_settings_are_names_and_numbers(encrypted: Vault, settings: Any) -> None:
    encrypted.create(0)
    with pytest.raises(CredentialDBError, match="cipher setting"):
        credential_db.upgrade(encrypted.path, passphrase=SECRET, cipher_settings=settings)


class TestOpenConnections:
    """A connection of ``sqlcipher3`` handed in works as one of ``sqlite3``."""

    def test_upgrade_and_status(self, encrypted: Vault) -> None:
        encrypted.create(content=keys(2), journal_mode="wal")
        expected = upgraded(encrypted.content(), 0)
        with closing(encrypted.connect()) as connection:
            connection.row_factory = sqlcipher.Row
            assert credential_db.status(connection).state == "legacy"
            assert credential_db.upgrade(connection) == (0, SCHEMA_VERSION)
            assert connection.row_factory is sqlcipher.Row
            assert connection.isolation_level == ""
        assert encrypted.content() == expected

    def test_the_legacy_entry_points(self, encrypted: Vault) -> None:
        encrypted.create(content=keys(2), tables=("credentials", "ssh_keys"))
        expected = upgraded(encrypted.content(), 0)
        with closing(encrypted.connect()) as connection:
            credential_db.ensure_credentials_schema(connection)
            credential_db.migrate_credential_db_schema(connection)
        assert encrypted.content() == expected

    def test_its_errors_are_ours(self, encrypted: Vault) -> None:
        encrypted.create(content=keys(1))
        with closing(sqlcipher.connect(str(encrypted.path))) as connection:
            connection.execute("PRAGMA cipher_log_level = NONE")
            connection.execute("PRAGMA key = 'wrong'")
            for function in (
                credential_db.upgrade,
                credential_db.status,
                credential_db.ensure_credentials_schema,
                credential_db.migrate_credential_db_schema,
            ):
                with pytest.raises(NotADatabase):
                    function(connection)

    def test_a_lock_is_busy(self, encrypted: Vault) -> None:
        encrypted.create(content=keys(1))
        with closing(encrypted.connect()) as other, closing(encrypted.connect()) as connection:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(credential_db.DatabaseBusy):
                credential_db.upgrade(connection, timeout=0.1)

    def test_a_backup_takes_the_passphrase_again(self, encrypted: Vault, tmp_path: Path) -> None:
        encrypted.create(content=keys(1))
        before = encrypted.content()
        with closing(encrypted.connect()) as connection:
            with pytest.raises(CredentialDBError, match="passphrase="):
                credential_db.upgrade(connection, backup=tmp_path / "backup")
            credential_db.upgrade(connection, backup=tmp_path / "backup", passphrase=SECRET)
        assert Vault(tmp_path / "backup", SECRET).content() == before
        assert sorted(file.name for file in tmp_path.iterdir()) == ["backup", "credentials.db"]

    def test_the_rows_of_a_plain_file_too(self, plain_vault: Vault) -> None:
        """``sqlcipher3`` without a key is SQLite."""
        plain_vault.create(content=keys(2))
        expected = upgraded(plain_vault.content(), 0)
        with closing(sqlcipher.connect(str(plain_vault.path))) as connection:
            credential_db.upgrade(connection)
        assert plain_vault.content() == expected


WITHOUT_EXTRA = "import sys; sys.modules['sqlcipher3'] = None; import credential_db\n"


@pytest.mark.parametrize("options", ["", ", passphrase='secret'"])
def test_without_the_extra_the_error_names_it(encrypted: Vault, options: str) -> None:
    encrypted.create(0)
    code = (
        f"{WITHOUT_EXTRA}"
        "try:\n"
        f"    credential_db.upgrade({str(encrypted.path)!r}{options})\n"
        "except credential_db.CredentialDBError as error:\n"
        "    print(error)\n"
    )
    output = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert "pip install 'credential-db[sqlcipher]'" in output


def test_a_plain_file_does_not_need_the_extra(plain_vault: Vault) -> None:
    plain_vault.create(content=keys(1))
    code = f"{WITHOUT_EXTRA}print(credential_db.upgrade({str(plain_vault.path)!r}))"
    output = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert output == f"upgraded from version 0 to version {SCHEMA_VERSION}\n"


def test_a_current_encrypted_file_costs_no_library(encrypted: Vault) -> None:
    credential_db.upgrade(encrypted.path, passphrase=SECRET)
    code = (
        "import credential_db, sys\n"
        f"credential_db.upgrade({str(encrypted.path)!r}, passphrase={SECRET!r})\n"
        "print(sorted({'alembic', 'sqlalchemy', 'cryptography'} & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"


def test_a_passphrase_does_not_show_itself() -> None:
    passphrase = Passphrase(SECRET)
    assert SECRET not in repr(passphrase) + str(passphrase)
    with pytest.raises(TypeError):
        pickle.dumps(passphrase)


def test_sqlite3_and_sqlcipher_tell_a_driver_error_alike() -> None:
    assert is_driver_error(sqlite3.OperationalError())
    assert is_driver_error(sqlcipher.OperationalError())
    assert not is_driver_error(ValueError())
