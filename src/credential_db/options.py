"""What a command was asked to do: ``-x`` arguments, environment variables, ``Config.attributes``.

The database comes from ``Config.attributes["connection"]``, ``-x db=``, ``CREDENTIAL_DB`` or
``sqlalchemy.url`` in the ini file, the first of them that is there.
"""

import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from alembic.config import Config

from credential_db import passphrase_sources
from credential_db.sqlite.backup import checked_backup_path
from credential_db.sqlite.cipher import Cipher
from credential_db.sqlite.errors import CredentialDBError, NotADatabase
from credential_db.sqlite.files import exists
from credential_db.sqlite.opening import TIMEOUT, connect_to_read
from credential_db.sqlite.target import Target

X_ARGUMENTS = {
    "db": "-x db=PATH_OR_URL names the database",
    "dry-run": "-x dry-run=true does and checks everything, then rolls it back",
    "backup": "-x backup=PATH copies the database first, into a new file",
    "timeout": f"-x timeout=SECONDS waits that long for other programs' locks ({TIMEOUT:g})",
    "repair": "-x repair=true gives tables back what their definitions have lost",
}


class Options(NamedTuple):
    """Everything that one command of Alembic is to know besides its own arguments."""

    target: Target
    backup: str | None = None
    dry_run: bool = False
    repair: bool = False


def options_of(config: Config, x_arguments: Mapping[str, str]) -> Options:
    """Gather them.

    Raises:
        CredentialDBError: One of them makes no sense, or none names a database.
    """
    given = config.attributes.get("options")
    if given is not None:
        return given  # type: ignore[no-any-return]  # of the Python interface
    for name, value in x_arguments.items():
        if name not in X_ARGUMENTS:
            # What is no name may be a URL with a password in it.
            said = f"{name}=..." if value and re.fullmatch(r"[\w-]+", name) else "NAME=VALUE"
            raise CredentialDBError(f"this -x {said} is unknown: {'; '.join(X_ARGUMENTS.values())}")
        if not value:
            raise CredentialDBError(f"-x {name}= is empty: {X_ARGUMENTS[name]}")
    backup = x_arguments.get("backup", config.attributes.get("backup"))
    target = _target(config, x_arguments)
    config.attributes["database"] = target.path  # for the message of a failure
    return Options(
        target,
        None if backup is None else checked_backup_path(backup),
        _switch(x_arguments, "dry-run", default=bool(config.attributes.get("dry_run"))),
        _switch(x_arguments, "repair", default=bool(config.attributes.get("repair"))),
    )


def _switch(x_arguments: Mapping[str, str], name: str, *, default: bool) -> bool:
    value = x_arguments.get(name, str(default)).lower()
    if value not in ("true", "false"):
        raise CredentialDBError(f"-x {name} is either true or false")
    return value == "true"


def _target(config: Config, x_arguments: Mapping[str, str]) -> Target:
    attributes = config.attributes
    timeout = _timeout(x_arguments, attributes)
    passphrase, settings = attributes.get("passphrase"), attributes.get("cipher_settings")
    named = attributes.get("connection")
    if named is None:
        named = x_arguments.get("db") or named_by_environment(
            config.get_main_option("sqlalchemy.url")
        )
        passphrase = passphrase_sources.of_environment() if passphrase is None else passphrase
        settings = settings or passphrase_sources.cipher_settings()
    return Target(named, cipher=Cipher.given(passphrase, settings), timeout=timeout)


def named_by_environment(otherwise: str | None) -> str:
    """The database that ``CREDENTIAL_DB`` names.

    Args:
        otherwise: What names it where the variable is not set.

    Raises:
        CredentialDBError: None is named, or the variable is set and empty.
    """
    named = os.environ.get("CREDENTIAL_DB", otherwise)
    if not named:
        raise CredentialDBError(
            "no database is named: use -x db=PATH, the environment variable CREDENTIAL_DB, or "
            "sqlalchemy.url in alembic.ini"
        )
    return named


def _timeout(x_arguments: Mapping[str, str], attributes: Mapping[str, Any]) -> float:
    try:
        return float(x_arguments.get("timeout", attributes.get("timeout", TIMEOUT)))
    except (OverflowError, TypeError, ValueError):
        no_number = True
    assert no_number
    raise CredentialDBError(f"{X_ARGUMENTS['timeout']}: it is a number")


def ask_for_passphrase(target: Target) -> None:
    """The last resort for an encrypted file, where somebody sits at a terminal."""
    if target.cipher is not None or not target.path or not exists(target.path):
        return
    try:
        connect_to_read(target.path, timeout=target.timeout).close()
    except Exception as error:
        if isinstance(target.clean(error), NotADatabase):
            passphrase = passphrase_sources.of_terminal(target.path)
            settings = passphrase_sources.cipher_settings()
            target.cipher = Cipher.given(passphrase, settings)
