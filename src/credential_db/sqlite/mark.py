"""The mark of a file that is still to be scrubbed: read at every process start."""

import os

from credential_db.sqlite.driver import DBAPIConnection, first_row

# ``PRAGMA application_id``, which nobody else uses in a file that has none:
# https://www.sqlite.org/pragma.html#pragma_application_id
MARK = int.from_bytes(b"scrb", "big")
NO_MARK = 0


def is_marked(connection: DBAPIConnection) -> bool:
    """Whether replaced secrets may still be in free space of the file."""
    return application_id(connection) == MARK


def is_to_be_scrubbed(connection: DBAPIConnection) -> bool:
    """Whether they may, and this connection could do something about it."""
    if not is_marked(connection):
        return False
    file = first_row(connection, "SELECT file FROM pragma_database_list WHERE name = 'main'")[0]
    read_only = first_row(connection, "PRAGMA query_only")[0]
    return not read_only and all(os.access(path, os.W_OK) for path in (file, os.path.dirname(file)))


def is_due(connection: DBAPIConnection) -> bool:
    """Whether to scrub after this commit: it is marked, or has a number of its user's instead."""
    return application_id(connection) != NO_MARK


def application_id(connection: DBAPIConnection) -> int:
    """The number in the file's header."""
    return int(first_row(connection, "PRAGMA main.application_id")[0])
