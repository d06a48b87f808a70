"""The one transaction of an upgrade, and one that only reads. No library is imported for it."""

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from credential_db.sqlite.driver import DBAPIConnection, databases, is_driver_error, main_file
from credential_db.sqlite.errors import CredentialDBError
from credential_db.sqlite.lending import announcing_a_long_wait, insist

if TYPE_CHECKING:
    from credential_db.sqlite.target import Target


@contextlib.contextmanager
def write_transaction(
    connection: DBAPIConnection, target: "Target", *, to_commit: bool = True
) -> Iterator[None]:
    """All or nothing: begin with the write lock, end with a COMMIT or a ROLLBACK.

    A reader that wants to become a writer later fails at once, however long the timeout; so
    ``BEGIN IMMEDIATE`` (https://www.sqlite.org/lang_transaction.html).

    Args:
        connection: In autocommit mode.
        target: The same database: how long to wait for its lock, and where it is noted that the
            change is committed.
        to_commit: Whether it ends in a COMMIT, if nothing fails before.

    Raises:
        CredentialDBError: The file was removed while this waited for its lock.
    """
    path = main_file(connection)
    # IMMEDIATE locks attached databases as well, and nobody could read those during the COMMIT.
    alone = {name for _, name, _ in databases(connection)} <= {"main", "temp"}
    committing = False
    try:
        with announcing_a_long_wait(path, target.timeout):
            connection.execute("BEGIN IMMEDIATE" if alone else "BEGIN")
            if not alone:
                # It frees a page of a file that has any to free, and takes the write lock of each:
                # https://www.sqlite.org/pragma.html#pragma_incremental_vacuum
                connection.execute("PRAGMA main.incremental_vacuum(1)").fetchall()
        if not connection.in_transaction:
            raise CredentialDBError("the authorizer of this connection ignores a BEGIN")
        if path and not os.path.exists(path):
            raise CredentialDBError(f"{path} was removed meanwhile: run again")
        yield
        if to_commit:
            committing = True
            connection.commit()
            if connection.in_transaction:  # a class of the host's leaves that to somebody else
                connection.execute("COMMIT")
            target.committed = True
        else:
            roll_back(connection)
    except BaseException as error:
        # An interrupt is told once the COMMIT has returned, and it may well have succeeded.
        if committing and not connection.in_transaction and not is_driver_error(error):
            target.committed = True
        roll_back(connection)
        raise


def roll_back(connection: DBAPIConnection) -> None:
    """End a transaction that may have ended by itself, whatever its owner has set up against it."""
    if connection.in_transaction:
        with contextlib.suppress(Exception):
            connection.rollback()
    if connection.in_transaction:
        insist(connection, "ROLLBACK")


@contextlib.contextmanager
def read_transaction(connection: DBAPIConnection) -> Iterator[None]:
    """Whatever is read meanwhile is one state of the file."""
    if connection.in_transaction:
        yield
        return
    connection.execute("BEGIN")
    try:
        yield
    finally:
        roll_back(connection)
