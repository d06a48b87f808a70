"""After an upgrade nothing in the process leads to a passphrase, or to a host's connection."""

import gc
import sqlite3
import sys
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from alembic import command, context
from sqlcipher3 import dbapi2 as sqlcipher

import credential_db
from conftest import PASSPHRASE
from credential_db import CredentialDBError, scripts
from credential_db.sqlite.cipher import Cipher, Passphrase
from vaults import Vault, keys


class Connection(sqlite3.Connection):
    """One that can be looked for."""


class EncryptedConnection(sqlcipher.Connection):  # type: ignore[misc]  # it has no types
    """Likewise."""


def reachable(*kinds: type) -> list[object]:
    gc.collect()
    return [each for each in gc.get_objects() if isinstance(each, kinds)]


def raw_passphrases() -> list[str]:
    """Frames and globals of the package that hold the passphrase itself."""
    holders = []
    for name, module in list(sys.modules.items()):
        if name.startswith(("credential_db", "alembic", "sqlalchemy")):
            holders += [
                f"{name}.{attribute}"
                for attribute, value in list(vars(module).items())
                if isinstance(value, str) and PASSPHRASE in value
            ]
    return holders


def assert_nothing_is_left() -> None:
    left = reachable(Passphrase, Cipher)
    assert not left, f"{type(left[0]).__name__} is held by {gc.get_referrers(left[0])!r:.500}"
    assert not raw_passphrases()


def refused(function: Callable[[], object]) -> BaseException | None:
    """The error is kept, as a host's log or debugger does."""
    try:
        function()
    except CredentialDBError as error:
        return error
    return None


OUTCOMES = ("upgraded", "refused", "current", "dry run")


def prepared(vault: Vault, outcome: str) -> Vault:
    vault.create(content=keys(2))
    if outcome == "refused":
        vault.execute("UPDATE ssh_keys SET private_pem = x'00'")
    elif outcome == "current":
        credential_db.upgrade(vault.path, **vault.options)
    return vault


@pytest.mark.parametrize("vault", [PASSPHRASE], ids=["encrypted"], indirect=True)
@pytest.mark.parametrize("outcome", OUTCOMES)
def test_no_passphrase_stays_after_an_upgrade(vault: Vault, outcome: str) -> None:
    prepared(vault, outcome)
    error = refused(
        lambda: credential_db.upgrade(
            vault.path, dry_run=outcome == "dry run", passphrase=vault.passphrase
        )
    )
    assert (error is not None) == (outcome == "refused")
    credential_db.status(vault.path, **vault.options)
    assert refused(lambda: credential_db.status(vault.path, passphrase="wrong")) is not None
    assert_nothing_is_left()


@pytest.mark.parametrize("vault", [PASSPHRASE], ids=["encrypted"], indirect=True)
@pytest.mark.parametrize("outcome", OUTCOMES[:3])
def test_no_passphrase_stays_after_a_command(
    vault: Vault, outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared(vault, outcome)
    monkeypatch.setenv("CREDENTIAL_DB_PASSPHRASE", str(vault.passphrase))
    config = scripts.config()
    config.set_main_option("sqlalchemy.url", str(vault.path))
    errors = [refused(lambda: command.upgrade(config, "head"))]
    assert (errors[0] is not None) == (outcome == "refused")
    errors += [refused(lambda: command.current(config))]
    assert_nothing_is_left()
    assert not config.attributes.get("passphrase")
    assert getattr(context, "_proxy", None) is None


@pytest.mark.skipif(sys.version_info < (3, 13), reason="Python says so since 3.13")
@pytest.mark.filterwarnings("error:unclosed database:ResourceWarning")
@pytest.mark.parametrize("outcome", OUTCOMES)
def test_every_connection_is_closed(
    plain_vault: Vault, outcome: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared(plain_vault, outcome)
    gc.collect()
    unclosed: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda found: unclosed.append(found.exc_value))
    errors = [
        refused(
            lambda: credential_db.upgrade(
                plain_vault.path, dry_run=outcome == "dry run", backup=tmp_path / "backup.db"
            )
        ),
        refused(lambda: credential_db.status(plain_vault.path)),
        refused(lambda: credential_db.status(tmp_path / "missing.db")),
        refused(lambda: credential_db.upgrade(tmp_path)),
    ]
    assert [error is not None for error in errors] == [outcome == "refused", False, False, True]
    gc.collect()
    assert not unclosed


def engine_of(connection: Any) -> sqlalchemy.Engine:
    return sqlalchemy.create_engine(
        "sqlite://",
        creator=lambda: connection,
        poolclass=sqlalchemy.StaticPool,
        module=sqlite3 if isinstance(connection, sqlite3.Connection) else sqlcipher,
    )


def by_command(target: Any) -> None:
    config = scripts.config()
    config.attributes["connection"] = target
    command.upgrade(config, "head")


HANDED_IN: dict[str, Callable[[Any], object]] = {
    "upgrade": credential_db.upgrade,
    "status": credential_db.status,
    "engine": lambda connection: credential_db.upgrade(engine_of(connection)),
    "command": by_command,
    "command with an engine": lambda connection: by_command(engine_of(connection)),
    "ensure": credential_db.ensure_credentials_schema,
    "migrate": credential_db.migrate_credential_db_schema,
}


@pytest.fixture(params=["plain", "encrypted"])
def connect(request: pytest.FixtureRequest) -> Callable[[Path], Any]:
    def encrypted(path: Path) -> Any:
        connection = EncryptedConnection(str(path))
        connection.execute(f'PRAGMA key = "{PASSPHRASE}"')
        return connection

    return Connection if request.param == "plain" else encrypted


@pytest.mark.parametrize("way", HANDED_IN)
@pytest.mark.parametrize("outcome", OUTCOMES[:2])
def test_a_host_connection_is_let_go(
    tmp_path: Path, connect: Callable[[Path], Any], way: str, outcome: str
) -> None:
    encrypted = connect is not Connection
    vault = prepared(Vault(tmp_path / "v.db", PASSPHRASE if encrypted else None), outcome)
    connection = connect(vault.path)
    refused(partial(HANDED_IN[way], connection))  # the frames of an error would keep the host's own
    kind = type(connection)
    finalized = weakref.ref(connection, lambda _: None) if not encrypted else None
    connection.close()
    del connection
    left = reachable(kind)
    assert not left, f"the host's connection is held by {gc.get_referrers(left[0])!r:.500}"
    assert finalized is None or finalized() is None
