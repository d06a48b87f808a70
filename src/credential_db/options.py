"""What a command was asked to do: ``-x`` arguments, environment variables, ``Config.attributes``.

The database comes from ``Config.attributes["connection"]``, ``-x db=``, ``CREDENTIAL_DB`` or
``sqlalchemy.url`` in the ini file, the first of them that is there.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from alembic.config import Config

from credential_db import passphrase_sources
from credential_db.sqlite.connection import connect_to_read, exists
from credential_db.sqlite.errors import CredentialDBError, NotADatabase
from credential_db.sqlite.passphrase import Passphrase
from credential_db.sqlite.target import Target

X_ARGUMENTS = {
    "db": "-x db=PATH_OR_URL names the database",
    "dry-run": "-x dry-run=true does and checks everything, then rolls it back",
    "backup": "-x backup=PATH copies the database first, into a new file",
}


@dataclass(frozen=True)
class Options:
    """Everything that one command of Alembic is to know besides its own arguments."""

    target: Target
    backup: str | None
    dry_run: bool


def options_of(config: Config, x_arguments: Mapping[str, str]) -> Options:
    """Gather them.

    Raises:
        CredentialDBError: One of them makes no sense, or none names a database.
    """
    for name in x_arguments:
        if name not in X_ARGUMENTS:
            raise CredentialDBError(f"-x {name}=... is unknown: {'; '.join(X_ARGUMENTS.values())}")
    attributes = config.attributes
    dry_run = x_arguments.get("dry-run", "true" if attributes.get("dry_run") else "false").lower()
    if dry_run not in ("true", "false"):
        raise CredentialDBError("-x dry-run is either true or false")
    backup = x_arguments.get("backup") or attributes.get("backup")
    return Options(
        _target(config, x_arguments.get("db")),
        os.fspath(backup) if backup else None,
        dry_run == "true",
    )


def _target(config: Config, db: str | None) -> Target:
    attributes = config.attributes
    timeout = attributes.get("timeout", 30.0)
    if attributes.get("connection") is not None:
        return Target(
            attributes["connection"],
            passphrase=attributes.get("passphrase"),
            cipher_settings=attributes.get("cipher_settings"),
            timeout=timeout,
        )
    named = db or os.environ.get("CREDENTIAL_DB") or config.get_main_option("sqlalchemy.url")
    if not named:
        raise CredentialDBError(
            "no database is named: use -x db=PATH, the environment variable CREDENTIAL_DB, or "
            "sqlalchemy.url in alembic.ini"
        )
    given = attributes.get("passphrase")
    return Target(
        named,
        passphrase=Passphrase(given) if given is not None else passphrase_sources.of_environment(),
        cipher_settings=attributes.get("cipher_settings") or passphrase_sources.cipher_settings(),
        timeout=timeout,
    )


def ask_for_passphrase(target: Target) -> None:
    """The last resort for an encrypted file, where somebody sits at a terminal."""
    if target.passphrase is not None or not target.path or not exists(target.path):
        return
    try:
        connect_to_read(target.path).close()
    except Exception as error:
        if isinstance(target.clean(error), NotADatabase):
            target.passphrase = passphrase_sources.of_terminal(target.path)
