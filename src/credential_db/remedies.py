"""How a command fails at a shell: one line that says what to do next, and an exit status."""

import re
import shlex
import sys

from credential_db.errors import KeyConversionError
from credential_db.head import SCHEMA_VERSION
from credential_db.sqlite.errors import (
    CredentialDBError,
    DatabaseBusy,
    NotADatabase,
    ReadOnlyDatabase,
    SchemaTooNew,
    UnrecognizedSchema,
)


class NotUpToDate(CredentialDBError):
    """The database is not as the command wants it, and the command is not one that changes it."""


EXIT_STATUSES: tuple[tuple[int, type[Exception] | tuple[()], str], ...] = (
    (0, (), "done; of status: current"),
    (1, (), "any other failure; of status: any failure at all"),
    (2, (), "wrong usage"),
    (3, NotUpToDate, "not up to date: something to upgrade or to create, or tables differ"),
    (4, SchemaTooNew, "a newer release wrote the database"),
    (5, UnrecognizedSchema, "its tables, number and stamp do not fit together"),
    (6, KeyConversionError, "stored keys cannot be converted"),
    (7, DatabaseBusy, "another program keeps it locked"),
    (8, NotADatabase, "no database, or its passphrase is missing or wrong"),
    (9, ReadOnlyDatabase, "it needs a change and cannot be written"),
    (130, (), "interrupted"),
    (141, (), "nobody reads its output any more"),
)

# Alembic knows neither the file's name nor this command's.
_NOT_UP_TO_DATE = {
    "not up to date|not on all head": "{file} is not at v{head}; run: {run} upgrade head",
    "puts that right": "{run} -x repair=true upgrade head",
    "New upgrade operations": "the tables of {file} are not those of schema.py; after a change "
    "there, run in a checkout: credential-db revision --autogenerate -m MESSAGE",
}
_REMEDIES = {
    "locate revision|No such rev": "there are v0 to v{head}; see: credential-db history",
    "Relative rev|too far": "there are v0 to v{head}; to see where {file} is, run: {run} current",
    "valid downgrade target": "a downgrade goes down; to see where {file} is, run: {run} current",
    "Range revision": "a range is for scripts, with --sql; name the one revision to go to",
    "requires <fromrev>|History range": "such as v{head}:v1 for a downgrade, else v1:v{head}",
    "Requested range": "a range starts at the older revision",
    "not a head revision|Multiple head": "versions are one line; leave out --head and --splice",
}


def run_on(file: str) -> str:
    """The command line up to the name of a command."""
    return f"credential-db -x {shlex.quote('db=' + file)}" if file else "credential-db"


def with_remedy(message: str, file: str) -> CredentialDBError:
    """The error of a failure of Alembic's, with what to do about it.

    Args:
        message: What Alembic says.
        file: The database, empty where the command did not come to that.
    """
    names = {"file": file or "the database", "run": run_on(file), "head": SCHEMA_VERSION}
    for kind, remedies in ((NotUpToDate, _NOT_UP_TO_DATE), (CredentialDBError, _REMEDIES)):
        for pattern, remedy in remedies.items():
            if re.search(pattern, message):
                return kind(f"{message.rstrip('.')}: {remedy.format_map(names)}")
    return CredentialDBError(message)


def end(failure: BaseException, file: str = "") -> int:
    """Say in one line on standard error what ended a command.

    Args:
        failure: One of this package's, or an interrupt.
        file: The database, to be named where the failure does not name it.

    Returns:
        The exit status.
    """
    if isinstance(failure, KeyboardInterrupt):
        sys.stderr.write("interrupted\n")
        return 130
    message = str(failure)
    if file not in message:
        message = f"{file}: {message}"
    line = " ".join(message.splitlines())
    sys.stderr.write(f"FAILED: {line.encode(errors='backslashreplace').decode()}\n")
    return next((status for status, kind, _ in EXIT_STATUSES if isinstance(failure, kind)), 1)
