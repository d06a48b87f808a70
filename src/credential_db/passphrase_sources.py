"""Where the command line takes a passphrase from: never an argument, a URL or an ini file."""

import getpass
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping

from credential_db.sqlite.cipher import Passphrase
from credential_db.sqlite.errors import CredentialDBError


def of_environment() -> Passphrase | None:
    """The passphrase that the environment variables name, None where they name none.

    ``CREDENTIAL_DB_PASSPHRASE`` is the passphrase itself, ``CREDENTIAL_DB_PASSPHRASE_FILE`` a file
    that holds it and ``CREDENTIAL_DB_PASSPHRASE_COMMAND`` a command that prints it; one trailing
    newline of either is dropped.

    Raises:
        CredentialDBError: Two of them are set, or the one that is set gives no passphrase. The
            message does not repeat the value, which may be the passphrase by mistake.
    """
    sources = {name: read for name, read in _SOURCES.items() if name in os.environ}
    if not sources:
        return None
    if len(sources) > 1:
        raise CredentialDBError(f"{' and '.join(sources)} are both set: keep one of them")
    ((name, read),) = sources.items()
    kind = name.rpartition("_")[2].lower()
    try:
        return Passphrase(read(os.environ[name]))
    except CredentialDBError as error:
        problem = str(error)
    except UnicodeError:
        problem = "the passphrase is not UTF-8"
    except FileNotFoundError:
        problem = f"it names no {kind} that exists"
    except IsADirectoryError:
        problem = "it names a directory"
    except PermissionError:
        problem = f"it names a {kind} that this user may not use: look at the mode"
    except OSError as error:
        problem = f"it names no {kind} that works ({error.strerror})"
    # Outside of the except block, or the error would carry what it came from.
    raise CredentialDBError(f"{name}: {problem}")


def _of_variable(value: str) -> str:
    value.encode()  # raises UnicodeError where Python made do with bytes that are not UTF-8
    return value


def _of_file(path: str) -> str:
    with open(path, "rb") as file:
        status = os.fstat(file.fileno())
        if status.st_uid != os.geteuid():
            raise CredentialDBError("the file belongs to another user: name one of your own")
        if status.st_mode & 0o077:
            raise CredentialDBError("other users may read the file: run chmod 600 on it")
        return _text(file.read())


def _of_command(command: str) -> str:
    try:
        words = shlex.split(command)
    except ValueError:
        raise CredentialDBError("a quotation mark in the command is not closed") from None
    if not words:
        raise CredentialDBError("the command is empty")
    # No shell: a command that needs one says so itself, as sh -c '...'.
    result = subprocess.run(words, stdout=subprocess.PIPE, check=False)
    if result.returncode != 0:
        raise CredentialDBError(f"the command failed with exit status {result.returncode}")
    return _text(result.stdout)


def _text(given: bytes) -> str:
    return given.removesuffix(b"\n").decode()


_SOURCES: dict[str, Callable[[str], str]] = {
    "CREDENTIAL_DB_PASSPHRASE": _of_variable,
    "CREDENTIAL_DB_PASSPHRASE_FILE": _of_file,
    "CREDENTIAL_DB_PASSPHRASE_COMMAND": _of_command,
}


def of_terminal(database: str) -> Passphrase | None:
    """Ask for the passphrase, where somebody sits at a terminal to be asked."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return None
    try:
        return Passphrase(getpass.getpass(f"Passphrase of {database}: ", stream=sys.stderr))
    except EOFError:  # Ctrl-D
        return None


def cipher_settings() -> Mapping[str, int] | None:
    """``CREDENTIAL_DB_CIPHER_SETTINGS``, such as ``kdf_iter=64000,cipher_page_size=1024``.

    Raises:
        CredentialDBError: It is not a list of names and whole numbers.
    """
    text = os.environ.get("CREDENTIAL_DB_CIPHER_SETTINGS")
    if not text:
        return None
    items = [item.partition("=") for item in text.split(",")]
    if not all(value.strip().isdecimal() for _, _, value in items):
        raise CredentialDBError(
            "CREDENTIAL_DB_CIPHER_SETTINGS is no list of names and whole numbers, such as "
            "kdf_iter=64000,cipher_page_size=1024"
        )
    return {name.strip(): int(value) for name, _, value in items}
