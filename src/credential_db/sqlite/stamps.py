"""Both stamps of a file: Alembic's, and the number that older programs go by.

Revision ``v2`` is version 2, and ``PRAGMA user_version`` says 2 with it:
https://www.sqlite.org/pragma.html#pragma_user_version.
"""

import re

from credential_db.sqlite.driver import DBAPIConnection
from credential_db.sqlite.errors import UnrecognizedSchema

STAMP_TABLE = "alembic_version"  # the name and the definition that Alembic gives it
STAMP_DDL = (
    f"CREATE TABLE IF NOT EXISTS {STAMP_TABLE} (version_num VARCHAR(32) NOT NULL,"
    " CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num))"
)
_REVISION = re.compile(r"v(0|[1-9][0-9]*)")


def revision_of(version: int) -> str:
    """Version 2 is Alembic's revision ``v2``."""
    return f"v{version}"


def version_of(revision: str) -> int | None:
    """Revision ``v2`` is version 2; None where the revision is not one of that form."""
    match = _REVISION.fullmatch(revision)
    return int(match[1]) if match else None


def user_version(connection: DBAPIConnection) -> int:
    """The number that older programs go by."""
    return int(connection.execute("PRAGMA main.user_version").fetchone()[0])


def write_number(connection: DBAPIConnection, version: int) -> None:
    """Set it; it is transactional as everything else in the file is."""
    connection.execute(f"PRAGMA main.user_version = {version}")


def stamps(connection: DBAPIConnection) -> list[str] | None:
    """All that Alembic's table says; None where there is no such table.

    Raises:
        UnrecognizedSchema: It is not Alembic's.
    """
    try:
        rows = connection.execute(f"SELECT +version_num FROM main.{STAMP_TABLE}").fetchall()
    except Exception as error:
        if str(error).startswith("no such table"):
            return None
        if not str(error).startswith("no such column"):
            raise
    else:
        return [str(row[0]) for row in rows]
    raise UnrecognizedSchema(
        f"table {STAMP_TABLE} has no column version_num: it is not Alembic's, and stands "
        "where Alembic's belongs; rename it"
    )


def write_stamps(connection: DBAPIConnection, version: int) -> None:
    """Let both say this version."""
    connection.execute(STAMP_DDL.replace(STAMP_TABLE, f"main.{STAMP_TABLE}", 1))
    connection.execute(f"DELETE FROM main.{STAMP_TABLE}")
    connection.execute(
        f"INSERT INTO main.{STAMP_TABLE} (version_num) VALUES (?)", (revision_of(version),)
    )
    write_number(connection, version)


def drop_empty_stamp(connection: DBAPIConnection) -> None:
    """Below the first version a file is not under Alembic any more, and does not say so."""
    if stamps(connection) == []:
        connection.execute(f"DROP TABLE main.{STAMP_TABLE}")
        write_number(connection, 0)
