"""Where the command line takes a passphrase from: never an argument, a URL or an ini file."""

import getpass
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping

from credential_db.sqlite.errors import CredentialDBError
from credential_db.sqlite.passphrase import Passphrase


def of_environment() -> Passphrase | None:
    """The passphrase that the environment variables name, None where they name none.

    ``CREDENTIAL_DB_PASSPHRASE`` is the passphrase itself, ``CREDENTIAL_DB_PASSPHRASE_FILE`` a file
    that holds it and ``CREDENTIAL_DB_PASSPHRASE_COMMAND`` a command that prints it; one trailing
    newline of either is dropped.

    Raises:
        CredentialDBError: Two of them are set, others may read the file, the command fails, or
            what comes out is empty.
    """
    sources = {name: read for name, read in _SOURCES.items() if os.environ.get(name) is not None}
    if not sources:
        return None
    if len(sources) > 1:
        raise CredentialDBError(f"{' and '.join(sources)} are both set: keep one of them")
    ((name, read),) = sources.items()
    return Passphrase(read(os.environ[name]))


def _of_file(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        mode = os.fstat(file.fileno()).st_mode
        if mode & 0o077:
            raise CredentialDBError(
                f"other users may read the passphrase file {path}: run chmod 600 on it"
            )
        return _without_newline(file.read())


def _of_command(command: str) -> str:
    # No shell: a command that needs one says so itself, as sh -c '...'.
    result = subprocess.run(shlex.split(command), stdout=subprocess.PIPE, check=False)
    if result.returncode != 0:
        raise CredentialDBError(
            f"CREDENTIAL_DB_PASSPHRASE_COMMAND failed with exit status {result.returncode}"
        )
    return _without_newline(result.stdout.decode())


def _without_newline(text: str) -> str:
    return text.removesuffix("\n").removesuffix("\r")


_SOURCES: dict[str, Callable[[str], str]] = {
    "CREDENTIAL_DB_PASSPHRASE": str,
    "CREDENTIAL_DB_PASSPHRASE_FILE": _of_file,
    "CREDENTIAL_DB_PASSPHRASE_COMMAND": _of_command,
}


def of_terminal(database: str) -> Passphrase | None:
    """Ask for the passphrase, where somebody sits at a terminal to be asked."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return None
    return Passphrase(getpass.getpass(f"Passphrase of {database}: ", stream=sys.stderr))


def cipher_settings() -> Mapping[str, int] | None:
    """``CREDENTIAL_DB_CIPHER_SETTINGS``, such as ``kdf_iter=64000,cipher_page_size=1024``.

    Raises:
        CredentialDBError: It is not a list of names and whole numbers.
    """
    text = os.environ.get("CREDENTIAL_DB_CIPHER_SETTINGS")
    if not text:
        return None
    try:
        return {
            name.strip(): int(value)
            for name, value in (item.split("=") for item in text.split(","))
        }
    except ValueError:
        raise CredentialDBError(
            "CREDENTIAL_DB_CIPHER_SETTINGS reads like kdf_iter=64000,cipher_page_size=1024"
        ) from None
