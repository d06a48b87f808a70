"""Is this file at the current version? Answered at every process start, so without any library.

A test holds these constants against Alembic's head and the metadata, and says what to change.
"""

import sqlite3
from collections.abc import Mapping

from credential_db.sqlite.connection import file_uri
from credential_db.sqlite.driver import DBAPIConnection

SCHEMA_VERSION = 2

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "credentials": ("credential_set", "provider", "data"),
    "ssh_keys": (
        "id",
        "key_type",
        "private_der",
        "public_blob",
        "comment",
        "fingerprint",
        "created_at",
    ),
    "ssh_key_assignments": ("scope", "key_id", "assigned_at"),
    "proxy_tokens": ("token", "scope", "subject", "credential_set", "provider"),
}


def _shape_check() -> str:
    """The stamps, in a statement that SQLite prepares only if the tables have just these columns.

    Naming the columns asks for the presence of each; ``IN table`` asks that there is no other
    (https://www.sqlite.org/rowvalue.html). None of it is executed: the condition is true before.
    """
    shapes = (
        f"(SELECT {', '.join(columns)} FROM main.{table}) IN main.{table}"
        for table, columns in COLUMNS.items()
    )
    return (
        f"SELECT version_num = 'v{SCHEMA_VERSION}' FROM main.alembic_version"
        f" WHERE 1 OR {' OR '.join(shapes)}"
    )


_SHAPE_CHECK = _shape_check()
# What SQLite says of a missing table or column, and of one too many.
_OTHER_SHAPE = ("no such ", "sub-select returns")


def is_current(connection: DBAPIConnection) -> bool:
    """Whether number, stamp, tables and columns are all those of the current version.

    Takes no lock but a reader's, and leaves the connection as it is.

    Raises:
        Exception: The driver's own error, where the file cannot be read at all.
    """
    stamps, number = connection.cursor(), connection.cursor()
    stamps.row_factory = number.row_factory = None
    try:
        stamps.execute(_SHAPE_CHECK)
    except Exception as error:
        if any(text in str(error) for text in _OTHER_SHAPE):
            return False
        raise
    # The first statement is not finished, so both read one state of the file, under one lock.
    version = number.execute("PRAGMA main.user_version").fetchone()[0]
    return bool(version == SCHEMA_VERSION and stamps.fetchall() == [(1,)])


def is_current_file(path: str, timeout: float) -> bool:
    """Whether a plain file is current. False says nothing: the long way tells what it is.

    Raises:
        sqlite3.OperationalError: It has been locked, even for readers, for the whole timeout.
    """
    try:
        connection = sqlite3.connect(
            file_uri(path, "rw"), uri=True, timeout=timeout, isolation_level=None
        )
    except (ValueError, sqlite3.Error):
        return False  # nothing is there, or no file: mode=rw creates none
    try:
        return is_current(connection)
    except sqlite3.Error as error:
        if "is locked" in str(error):
            raise
        return False
    finally:
        connection.close()
