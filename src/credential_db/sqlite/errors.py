"""Every way in which an upgrade can fail, one class for each.

No message, argument or attribute holds a cell of the database or a passphrase: names of tables,
columns and objects, and row ids only. What software of earlier days caught as an error of
``sqlite3`` (PEP 249) it still catches.
"""

import sqlite3


class CredentialDBError(sqlite3.Error):
    """Base of all errors raised on purpose. The file is as it was."""


class _OfVersion(CredentialDBError):
    """An error about what a file says of itself.

    Attributes:
        version: The version that was found; None where none can be believed.
    """

    def __init__(self, message: str, version: int | None = None) -> None:
        """Keep both as arguments, so that the error survives a pickle."""
        super().__init__(message, version)
        self.version = version

    def __str__(self) -> str:
        return str(self.args[0])


class SchemaTooNew(_OfVersion):
    """The file was written by a newer release than this one."""


class UnrecognizedSchema(_OfVersion):
    """The file's tables, version number and Alembic stamp do not fit together."""


class DatabaseBusy(CredentialDBError, sqlite3.OperationalError):
    """Another program kept the database locked for longer than the timeout."""


class NotADatabase(CredentialDBError, sqlite3.DatabaseError):
    """Not a SQLite file, a damaged one, or an encrypted one without its passphrase."""


class ReadOnlyDatabase(CredentialDBError, sqlite3.OperationalError):
    """The file needs a change and cannot be written."""
