"""Every way in which an upgrade can fail, one class for each.

No message, argument or attribute holds a cell of the database or a passphrase: table, column and
row ids only.
"""

from typing import NamedTuple


class CredentialDBError(Exception):
    """Base of all errors raised on purpose. The file is as it was."""


class SchemaTooNew(CredentialDBError):
    """The file was written by a newer release than this one."""


class UnrecognizedSchema(CredentialDBError):
    """The file's tables, version number and Alembic stamp do not fit together."""


class KeyProblem(NamedTuple):
    """One row of ``ssh_keys`` that cannot be converted, and why."""

    id: int
    reason: str


class KeyConversionError(CredentialDBError):
    """At least one stored SSH key is not what its row says it is.

    Attributes:
        problems: One entry for each bad row, in the order of their ids.
    """

    def __init__(self, problems: tuple[KeyProblem, ...]) -> None:
        """Keep the problems as the only argument, so that the error survives a pickle."""
        super().__init__(problems)
        self.problems = problems

    def __str__(self) -> str:
        """All problems in one line."""
        rows = "; ".join(f"row {problem.id} {problem.reason}" for problem in self.problems)
        return (
            f"{len(self.problems)} of the rows in ssh_keys cannot be converted: {rows}. "
            "Nothing was changed; repair or delete these rows and run again"
        )


class DatabaseBusy(CredentialDBError):
    """Another program kept the database locked for longer than the timeout."""


class NotADatabase(CredentialDBError):
    """Not a SQLite file, a damaged one, or an encrypted one without its passphrase."""


class ReadOnlyDatabase(CredentialDBError):
    """The file needs a change and cannot be written."""
