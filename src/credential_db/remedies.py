"""What a user can make Alembic say, and what to do about it."""

import re

from credential_db.head import SCHEMA_VERSION
from credential_db.sqlite.errors import CredentialDBError


class NotUpToDate(CredentialDBError):
    """The database is not as the command wants it, and the command is not one that changes it."""


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


def with_remedy(message: str, file: str, run: str) -> CredentialDBError:
    """The error of a failure of Alembic's, with what to do about it.

    Args:
        message: What Alembic says.
        file: The database.
        run: The command line up to the name of a command.
    """
    names = {"file": file, "run": run, "head": SCHEMA_VERSION}
    for kind, remedies in ((NotUpToDate, _NOT_UP_TO_DATE), (CredentialDBError, _REMEDIES)):
        for pattern, remedy in remedies.items():
            if re.search(pattern, message):
                return kind(f"{message.rstrip('.')}: {remedy.format_map(names)}")
    return CredentialDBError(message)
