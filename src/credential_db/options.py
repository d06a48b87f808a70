"""What a command was asked to do: ``-x`` arguments, environment variables, ``Config.attributes``.

The database comes from ``Config.attributes["connection"]``, ``-x db=``, ``CREDENTIAL_DB`` or
``sqlalchemy.url`` in the ini file, the first of them that is there.
"""

import contextlib
import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from credential_db import passphrase_sources
from credential_db.sqlite.backup import checked_backup_path
from credential_db.sqlite.cipher import Cipher
from credential_db.sqlite.errors import CredentialDBError, DatabaseBusy, NotADatabase
from credential_db.sqlite.files import exists, file_of_name
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
    """What a command is given besides its own arguments."""

    target: Target
    backup: str | None = None
    dry_run: bool = False
    repair: bool = False


def options_of(
    attributes: dict[Any, Any], x_arguments: Mapping[str, str], default: str | None, *, ask: bool
) -> Options:
    """Gather them.

    Args:
        attributes: Of Alembic's configuration. The file is noted in them, for a failure's message.
        x_arguments: Names and values.
        default: Names the database where nothing else does.
        ask: Whether to ask for a missing passphrase, if somebody sits at a terminal.

    Raises:
        CredentialDBError: One of them makes no sense, or none names a database.
    """
    given = attributes.get("options")
    if given is not None:
        return given  # type: ignore[no-any-return]  # of the Python interface
    for name, value in x_arguments.items():
        if name not in X_ARGUMENTS:
            # What is no name may be a URL with a password in it.
            said = f"{name}=..." if value and re.fullmatch(r"[\w-]+", name) else "NAME=VALUE"
            raise CredentialDBError(f"this -x {said} is unknown: {'; '.join(X_ARGUMENTS.values())}")
        if not value:
            raise CredentialDBError(f"-x {name}= is empty: {X_ARGUMENTS[name]}")
    backup = x_arguments.get("backup", attributes.get("backup"))
    return Options(
        _target(attributes, x_arguments, default, ask),
        None if backup is None else checked_backup_path(backup),
        _switch(x_arguments, "dry-run", default=bool(attributes.get("dry_run"))),
        _switch(x_arguments, "repair", default=bool(attributes.get("repair"))),
    )


def _switch(x_arguments: Mapping[str, str], name: str, *, default: bool) -> bool:
    value = x_arguments.get(name, str(default)).lower()
    if value not in ("true", "false"):
        raise CredentialDBError(f"-x {name} is either true or false")
    return value == "true"


def _target(
    attributes: dict[Any, Any], x_arguments: Mapping[str, str], default: str | None, ask: bool
) -> Target:
    passphrase, settings = attributes.get("passphrase"), attributes.get("cipher_settings")
    named, path = attributes.get("connection"), ""
    if named is None:
        named = x_arguments.get("db") or _named_by_environment(default)
        attributes["database"] = path = file_of_name(named)
        passphrase = passphrase_sources.of_environment() if passphrase is None else passphrase
        settings = settings or passphrase_sources.cipher_settings()
    timeout = _timeout(x_arguments, attributes)
    if ask and passphrase is None and path and (settings or _is_encrypted(path, timeout)):
        passphrase = passphrase_sources.of_terminal(path)
    return Target(named, cipher=Cipher.given(passphrase, settings), timeout=timeout)


def _named_by_environment(default: str | None) -> str:
    named = os.environ.get("CREDENTIAL_DB", default)
    if not named:
        raise CredentialDBError(
            "no database is named: use -x db=PATH, the environment variable CREDENTIAL_DB, or "
            "sqlalchemy.url in alembic.ini"
        )
    return named


def _is_encrypted(path: str, timeout: float) -> bool:
    """Or garbage: it cannot be read without a passphrase.

    Raises:
        DatabaseBusy: It was locked for the whole timeout, and nobody is to wait for that twice.
    """
    target = Target(path, timeout=timeout)
    try:
        if exists(path):
            connect_to_read(path, timeout=target.timeout).close()
        return False
    except Exception as error:
        failure = target.clean(error)
    if isinstance(failure, DatabaseBusy):
        raise failure
    return isinstance(failure, NotADatabase)


def _timeout(x_arguments: Mapping[str, str], attributes: Mapping[Any, Any]) -> float:
    with contextlib.suppress(OverflowError, TypeError, ValueError):
        return float(x_arguments.get("timeout", attributes.get("timeout", TIMEOUT)))
    raise CredentialDBError(f"{X_ARGUMENTS['timeout']}: it is a number")
