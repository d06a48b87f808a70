"""Is this file at the current version? Answered at every process start, so without any library.

A test holds these constants against Alembic's head and the metadata, and says what to change.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from credential_db.dbapi import DBAPIConnection

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

    Naming the columns asks for the presence of each. Comparing them, as a row, with ``*`` asks
    that there is no other: https://www.sqlite.org/rowvalue.html. It is never executed, since the
    condition is true without it. A view could pass for a table in all of this.
    """
    comparisons = (
        f"(SELECT {', '.join(columns)} FROM main.{table}) = (SELECT * FROM main.{table})"
        for table, columns in COLUMNS.items()
    )
    names = ", ".join(f"'{table}'" for table in ("alembic_version", *COLUMNS))
    return (
        f"SELECT version_num = 'v{SCHEMA_VERSION}' AND NOT EXISTS"
        f" (SELECT 1 FROM main.sqlite_master WHERE type = 'view' AND name IN ({names}))"
        f" FROM main.alembic_version WHERE 1 OR {' OR '.join(comparisons)}"
    )


_SHAPE_CHECK = _shape_check()
# What SQLite says of a missing table or column, and of one too many.
_OTHER_SHAPE = ("no such ", "row value misused", "sub-select returns")


def is_current(connection: "DBAPIConnection") -> bool:
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
    found = stamps.fetchall()
    return bool(version == SCHEMA_VERSION and found == [(1,)])
