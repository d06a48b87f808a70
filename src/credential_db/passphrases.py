"""Where a command takes a passphrase from: never an argument, a URL or an ini file."""

import contextlib
import getpass
import os
import shlex
import sys
from collections.abc import Callable

from credential_db.sqlite.connections import Passphrase
from credential_db.sqlite.errors import CredentialDBError

COMMAND_TIMEOUT = 30  # seconds, if no terminal shows what the command waits for


def of_environment() -> Passphrase | None:
    """The passphrase that an environment variable names, None if none is set.

    Messages do not repeat the value of a variable, which may be the passphrase by mistake.
    """
    sources = [name for name in _SOURCES if name in os.environ]
    if len(sources) > 1:
        raise CredentialDBError(f"{' and '.join(sources)} are both set: keep one of them")
    for name in sources:
        try:
            return Passphrase(_SOURCES[name](os.environ[name]).decode())
        except CredentialDBError as error:
            problem = str(error)
        except UnicodeError:
            problem = "the passphrase is not UTF-8"
        except OSError as error:
            kind = name.rpartition("_")[2].lower()
            problem = f"this {kind} cannot be used ({error.strerror})"
        # Outside of the except block, otherwise the error would carry its cause.
        raise CredentialDBError(f"{name}: {problem}")
    return None


def of_terminal(database: str) -> Passphrase | None:
    """Ask for a passphrase; None without a terminal, or if the answer is Ctrl-D."""
    if not _has_terminal():
        return None
    try:
        return Passphrase(getpass.getpass(f"Passphrase of {database}: ", stream=sys.stderr))
    except EOFError:
        return None


def for_file(path: str) -> Passphrase | None:
    """The passphrase for one file: of the environment, else of a terminal if it is encrypted."""
    given = of_environment()
    return of_terminal(path) if given is None and is_plain(path) is False else given


def is_plain(path: str) -> bool | None:
    """Whether a file begins like a database; None if its size is not that of a database.

    It must not be open: https://www.sqlite.org/howtocorrupt.html#_posix_advisory_locks_canceled.
    """
    with contextlib.suppress(OSError):
        # A page has 512 bytes or more, and the pages of an encrypted file look random.
        if os.path.isfile(path) and os.path.getsize(path) and os.path.getsize(path) % 512 == 0:
            with open(path, "rb") as file:
                return file.read(16) == b"SQLite format 3\0"
    return None


def _has_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()


def _of_file(path: str) -> bytes:
    with open(path, "rb") as file:
        found = os.fstat(file.fileno())
        if found.st_uid not in (0, os.geteuid()) or found.st_mode & (
            0o066 if found.st_uid else 0o022
        ):
            raise CredentialDBError(
                f"the file belongs to user {found.st_uid} (mode {found.st_mode & 0o777:04o}): it "
                "must belong to you and have mode 0600, or belong to root and be writable by root "
                "alone; for any other file use CREDENTIAL_DB_PASSPHRASE_COMMAND"
            )
        return file.read().removesuffix(b"\n")


def _of_command(command: str) -> bytes:
    import subprocess

    timeout = None if _has_terminal() else COMMAND_TIMEOUT
    try:
        words = shlex.split(command)
        if not words:
            raise CredentialDBError("the command is empty")
        # No shell: a command that needs one begins with sh -c.
        run = subprocess.run(words, stdout=subprocess.PIPE, check=True, timeout=timeout)
        return run.stdout.removesuffix(b"\n")
    except ValueError:
        problem = "a quotation mark in the command is not closed"
    except subprocess.TimeoutExpired:
        problem = f"without a terminal the command has {timeout} s: does it ask a question?"
    except subprocess.CalledProcessError as error:
        problem = f"the command failed with exit status {error.returncode}"
    raise CredentialDBError(problem)


_SOURCES: dict[str, Callable[[str], bytes]] = {
    "CREDENTIAL_DB_PASSPHRASE": lambda value: value.encode(),  # or it is not UTF-8
    "CREDENTIAL_DB_PASSPHRASE_FILE": _of_file,
    "CREDENTIAL_DB_PASSPHRASE_COMMAND": _of_command,
}
