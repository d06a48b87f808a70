"""The error that only this vault has; those of any SQLite file are in ``sqlite/errors.py``."""

from collections.abc import Sequence
from typing import NamedTuple

from credential_db.sqlite.errors import CredentialDBError


class KeyProblem(NamedTuple):
    """One row of ``ssh_keys`` that cannot be converted, and why."""

    id: int
    reason: str


class KeyConversionError(CredentialDBError):
    """At least one stored SSH key is not what its row says it is.

    Attributes:
        problems: One entry for each bad row, in the order of their ids.
    """

    def __init__(self, problems: Sequence[tuple[int, str]]) -> None:
        """Keep the problems as the only argument, so that the error survives a pickle."""
        self.problems = tuple(KeyProblem(*problem) for problem in problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        """All problems in one line."""
        rows = "; ".join(f"row {problem.id} {problem.reason}" for problem in self.problems)
        return (
            f"{len(self.problems)} of the rows in ssh_keys cannot be converted: {rows}. "
            "Nothing was changed; repair or delete these rows and run again"
        )
