"""The errors of everything that is raised on purpose about a SQLite file.

No message, argument or attribute contains a cell of the database or a passphrase: only names of
tables, columns, objects and files, and row ids. What existing applications catch as an error of
``sqlite3`` (PEP 249), they still catch.
"""

import sqlite3


class CredentialDBError(sqlite3.DatabaseError):
    """Base class of all errors raised on purpose. Unless it says otherwise, nothing changed."""


class _WithVersion(CredentialDBError):
    """An error about the version of a file.

    Attributes:
        version: The version that was found; None if none can be trusted.
    """

    def __init__(self, message: str, version: int | None = None) -> None:
        """Keep both as arguments, so that the error survives a pickle."""
        super().__init__(message, version)
        self.version = version

    def __str__(self) -> str:
        return str(self.args[0])


class SchemaTooNew(_WithVersion):
    """The file was written by a newer release than this one."""


class UnrecognizedSchema(_WithVersion):
    """The file's tables, ``PRAGMA user_version`` and Alembic stamp do not fit together."""


class DatabaseBusy(CredentialDBError, sqlite3.OperationalError):
    """Another program held a lock for longer than the timeout."""


class NotADatabase(CredentialDBError):
    """No SQLite file, a damaged one, or an encrypted one without its passphrase."""


class ReadOnlyDatabase(CredentialDBError, sqlite3.OperationalError):
    """The file needs a change and cannot be written."""
