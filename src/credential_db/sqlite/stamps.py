"""Both stamps of a file: Alembic's, and the number that older programs read.

Revision ``v2`` is version 2, and ``PRAGMA user_version``
(https://www.sqlite.org/pragma.html#pragma_user_version) is 2 with it.
"""

from collections.abc import Sequence

from credential_db.sqlite.driver import DBAPIConnection
from credential_db.sqlite.errors import UnrecognizedSchema

STAMP_TABLE = "alembic_version"  # the name and the definition that Alembic gives it
STAMP_DDL = (
    f"CREATE TABLE IF NOT EXISTS {STAMP_TABLE} (version_num VARCHAR(32) NOT NULL,"
    " CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num))"
)

_DIGITS = 9  # PRAGMA user_version has 32 bits


def revision_of(version: int) -> str:
    """Version 2 is Alembic's revision ``v2``."""
    return f"v{version}"


def version_of(revision: str) -> int | None:
    """Revision ``v2`` is version 2; None if the revision is not of that form."""
    digits = revision[1:]
    is_number = digits.isascii() and digits.isdecimal() and len(digits) <= _DIGITS
    if not is_number or revision != f"v{int(digits)}":
        return None
    return int(digits)


def user_version(connection: DBAPIConnection) -> int:
    """The number that older programs read."""
    return int(connection.execute("PRAGMA main.user_version").fetchone()[0])


def stamps(connection: DBAPIConnection) -> Sequence[str] | None:
    """Everything in Alembic's table; None if there is no such table.

    Raises:
        UnrecognizedSchema: The table is not Alembic's.
    """
    query = f"SELECT +version_num FROM main.{STAMP_TABLE}"  # + keeps converters off
    try:
        return [str(row[0]) for row in connection.execute(query).fetchall()]
    except Exception as error:
        if str(error).startswith("no such table"):
            return None
        if not str(error).startswith("no such column"):
            raise
    raise UnrecognizedSchema(
        f"table {STAMP_TABLE} has no column version_num, so it is not Alembic's: rename it, then "
        "run again"
    )


def write_stamps(connection: DBAPIConnection, version: int | None) -> None:
    """Let both name this version; None removes the stamp."""
    if version is None:
        connection.execute(f"DROP TABLE IF EXISTS main.{STAMP_TABLE}")
    else:
        connection.execute(STAMP_DDL.replace(STAMP_TABLE, f"main.{STAMP_TABLE}", 1))
        connection.execute(f"DELETE FROM main.{STAMP_TABLE}")
        connection.execute(
            f"INSERT INTO main.{STAMP_TABLE} (version_num) VALUES (?)", (revision_of(version),)
        )
    connection.execute(f"PRAGMA main.user_version = {version or 0}")
