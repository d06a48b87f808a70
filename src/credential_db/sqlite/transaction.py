"""The one transaction of a change, and how long it waits for others. Imports no library."""

import functools
import time
from collections.abc import Callable
from typing import TypeVar

from credential_db.sqlite.driver import DBAPIConnection, first_row, is_locked
from credential_db.sqlite.errors import CredentialDBError
from credential_db.sqlite.files import identity

T = TypeVar("T")

TIMEOUT = 30.0  # seconds to wait for another program's lock, unless the caller gives a timeout
_LONGEST_TIMEOUT = 2**31 - 1  # milliseconds
_SILENT = 2.0  # seconds to wait before a line says for what


def checked_timeout(timeout: float) -> float:
    """The same number of seconds, at most what SQLite can wait."""
    if not isinstance(timeout, (int, float)) or not timeout >= 0:
        raise CredentialDBError("a timeout is a number of seconds, 0 or more")
    return min(timeout, _LONGEST_TIMEOUT / 1000)


class Deadline:
    """One budget of time, in seconds from now, for everything that a call waits for."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds, never below 0."""
        return max(0.0, self._end - time.monotonic())


def busy_timeout(connection: DBAPIConnection) -> float:
    """How many seconds a connection waits for other connections' locks."""
    return int(first_row(connection, "PRAGMA busy_timeout")[0]) / 1000


def set_busy_timeout(connection: DBAPIConnection, seconds: float) -> None:
    """Set how many seconds a connection waits for other connections' locks."""
    connection.execute(f"PRAGMA busy_timeout = {int(seconds * 1000)}").close()


def patiently(
    connection: DBAPIConnection, name: str, deadline: Deadline, action: Callable[[], T]
) -> T:
    """Do what may wait for a lock; after two seconds, one line of the log tells what it waits for.

    The action may be called twice.
    """
    left = deadline.left()
    set_busy_timeout(connection, min(left, _SILENT))
    try:
        return action()
    except Exception as error:
        if left <= _SILENT or not is_locked(error):
            raise
    import logging  # not needed by a process that does not wait

    logging.getLogger("credential_db").info(
        "%s is locked by another program: waiting for it, up to %.0f s more", name, deadline.left()
    )
    set_busy_timeout(connection, deadline.left())
    return action()


def roll_back(connection: DBAPIConnection) -> None:
    """End a transaction, unless SQLite has ended it itself."""
    if connection.in_transaction:
        connection.rollback()


class Replaced(CredentialDBError):
    """The file at the path is not the one that was opened."""


class Transaction:
    """Begin with the write lock; what is not committed is rolled back.

    A reader that wants to become a writer later fails at once, however long the timeout; so
    ``BEGIN IMMEDIATE`` (https://www.sqlite.org/lang_transaction.html). The file at the path, if
    there is one, must have the expected identity until the COMMIT.
    """

    def __init__(
        self,
        connection: DBAPIConnection,
        name: str,
        deadline: Deadline,
        path: str,
        expected: tuple[int, int] | None,
    ) -> None:
        self._connection = connection
        self._patiently = functools.partial(patiently, connection, name, deadline)
        self._path = path
        self._expected = expected
        self.committed = False

    def __enter__(self) -> "Transaction":
        try:
            self._patiently(lambda: self._connection.execute("BEGIN IMMEDIATE"))
            self._refuse_replaced()
            self._before = self._state()
        except BaseException:
            roll_back(self._connection)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        roll_back(self._connection)

    def commit(self) -> None:
        """Commit; if only syncing the directory fails after it, that is no error."""
        self._refuse_replaced()
        inside = self._state()
        try:
            self._patiently(self._connection.commit)
            self.committed = True
        except BaseException as error:
            # SQLITE_IOERR_DIR_FSYNC and Ctrl-C can come after the fact, and only the file tells.
            if not self._connection.in_transaction and inside != self._before:
                self.committed = self._state() == inside
            if not self.committed or not isinstance(error, Exception):
                raise

    def _state(self) -> list[int]:
        pragmas = ("PRAGMA main.schema_version", "PRAGMA main.user_version")
        return [self._connection.execute(pragma).fetchone()[0] for pragma in pragmas]

    def _refuse_replaced(self) -> None:
        if self._path and identity(self._path) != self._expected:
            raise Replaced(
                f"{self._path} was replaced or removed while this waited or worked, and the new "
                "file was not changed: open it again, then run again"
            )
