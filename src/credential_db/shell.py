"""How a command ends at a shell: an exit status, and one line about a failure."""

import contextlib
import os
import shlex
import sys
from collections.abc import Iterator

from credential_db.errors import KeyConversionError
from credential_db.head import SCHEMA_VERSION
from credential_db.sqlite import errors
from credential_db.sqlite.errors import CredentialDBError


class UsageError(CredentialDBError):
    """The command line is wrong, including a wrong ``-x``."""


class NotUpToDate(CredentialDBError):
    """The database is not at the head, and the command is not one that changes it."""


EXIT_STATUSES: tuple[tuple[int, type[BaseException] | tuple[()], str], ...] = (
    (0, (), "success (status: current)"),
    (1, (), "other failure"),
    (2, UsageError, "usage error"),
    (3, NotUpToDate, "not up to date"),
    (4, errors.SchemaTooNew, "written by a newer release"),
    (5, errors.UnrecognizedSchema, "schema not recognised"),
    (6, KeyConversionError, "keys cannot be converted"),
    (7, errors.DatabaseBusy, "locked by another program"),
    (8, errors.NotADatabase, "no database, damaged, encrypted"),
    (9, errors.ReadOnlyDatabase, "cannot be written"),
    (130, KeyboardInterrupt, "interrupted"),
    (141, BrokenPipeError, "output closed"),
)


def message_of(error: BaseException, file: str = "") -> str:
    """An error on one line; it names the file, as it was typed or as a path."""
    message = " ".join(str(error).splitlines())
    return shown(message if os.path.basename(file) in message else f"{file}: {message}")


def fail(error: BaseException, file: str = "") -> int:
    """Print what ended a command as one line on standard error; return its exit status."""
    if type(error).__module__.startswith("alembic.") or "locate revision" in str(error):
        error = _of_alembic(str(error), file)
    if isinstance(error, KeyboardInterrupt):
        sys.stderr.write("interrupted\n")
    elif not isinstance(error, BrokenPipeError):
        sys.stderr.write(f"FAILED: {message_of(error, file)}\n")
    return next((status for status, kind, _ in EXIT_STATUSES if isinstance(error, kind)), 1)


@contextlib.contextmanager
def log_on_stderr(*names: str, quiet: bool, results: bool) -> Iterator[None]:
    """Show what these loggers log; without ``results``, of INFO only what is waited for."""
    import logging

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    handler.addFilter(lambda r: results or r.levelno > logging.INFO or r.module == "transaction")
    loggers = [logging.getLogger(name) for name in names]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.WARNING if quiet else logging.INFO)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)


def shown(text: str) -> str:
    """A text as one line, with escapes for what a terminal or a locale cannot show."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def typed(*words: str) -> str:
    """The command ``credential-db`` with these words, as a person can type it."""
    return shlex.join(["credential-db", *words])


def _of_alembic(message: str, file: str) -> CredentialDBError:
    # Alembic's errors name neither the file nor this command, and have no classes before 1.17.
    message = message.rstrip(".")
    if "not on all head" in message:
        upgrade = typed("upgrade", *filter(None, [file]))
        called = file or "the database"
        return NotUpToDate(f"{called} is not at version {SCHEMA_VERSION}; run: {upgrade}")
    if "New upgrade operations" in message:
        return NotUpToDate(
            f"schema.py differs from the snapshot of version {SCHEMA_VERSION} ({message}); to "
            "write the next version, run in a checkout: alembic revision --autogenerate -m MESSAGE"
        )
    if any(words in message for words in ("ocate revision", "elative revision", "ange ", "Walked")):
        message += f"; versions are v0 to v{SCHEMA_VERSION}, see: credential-db history"
    return CredentialDBError(message)
