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
    """One statement that SQLite refuses to prepare unless the tables have exactly these columns.

    Naming each column asks for its presence; ``*`` in a UNION of a fixed width asks that there is
    no other.
    """
    width = max(len(columns) for columns in COLUMNS.values())
    stamp = (
        f"SELECT version_num = 'v{SCHEMA_VERSION}'{', 0' * (width - 1)} FROM main.alembic_version"
    )
    shapes = (
        f"SELECT *{', 0' * (width - len(columns))} FROM main.{table}"
        f" WHERE 0 AND {' AND '.join(columns)}"
        for table, columns in COLUMNS.items()
    )
    return " UNION ALL ".join((stamp, *shapes))


_SHAPE_CHECK = _shape_check()


def is_current(connection: "DBAPIConnection") -> bool:
    """Whether number, stamp, tables and columns are all those of the current version.

    Takes no lock but a reader's, and leaves the connection as it is.

    Raises:
        Exception: The driver's own error, where the file cannot be read at all.
    """
    cursor = connection.cursor()
    cursor.row_factory = None
    if cursor.execute("PRAGMA main.user_version").fetchone()[0] != SCHEMA_VERSION:
        return False
    try:
        stamps = cursor.execute(_SHAPE_CHECK).fetchall()
    except Exception as error:
        if "no such " in str(error) or "do not have the same number" in str(error):
            return False
        raise
    return len(stamps) == 1 and stamps[0][0] == 1
