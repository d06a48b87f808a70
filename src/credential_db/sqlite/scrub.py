"""Leave nothing of replaced secrets in the file, even if a kill or a reader comes between.

A view is created in the transaction of the upgrade, and dropped when the file is scrubbed. It costs
no page, is copied with the tables, and nobody has to be able to write to read it.
"""

import os

from credential_db.sqlite.driver import (
    DBAPIConnection,
    error_name,
    first_row,
    is_driver_error,
    is_locked,
    main_file,
)
from credential_db.sqlite.errors import NotADatabase
from credential_db.sqlite.files import warn
from credential_db.sqlite.transaction import set_busy_timeout
from credential_db.sqlite.working import unfinished, working

MARK = "credential_db_scrub"
MARK_OF_1_1 = int.from_bytes(b"scrb", "big")  # PRAGMA application_id, as release 1.1 used it
_FOR_READERS = 1.0  # seconds to wait: the upgrade itself is done


def mark(connection: DBAPIConnection) -> None:
    """Remember, in the transaction that replaces secrets, that the file has to be scrubbed."""
    connection.execute(
        f"CREATE VIEW IF NOT EXISTS main.{MARK} AS SELECT 'old secrets may remain in free space"
        " until credential-db has removed them' AS note"
    )


def is_marked(connection: DBAPIConnection) -> bool:
    """Whether replaced secrets may still be in free space of the file."""
    query = f"SELECT count(*) FROM main.sqlite_master WHERE name = '{MARK}'"
    return bool(first_row(connection, query)[0]) or application_id(connection) == MARK_OF_1_1


def application_id(connection: DBAPIConnection) -> int:
    """The number in the file's header: https://www.sqlite.org/pragma.html#pragma_application_id."""
    return int(first_row(connection, "PRAGMA main.application_id")[0])


def refuse_damage(connection: DBAPIConnection) -> None:
    """Raise if a file that is to be rebuilt is damaged: what can still be read would be lost.

    Rows that break a constraint are no damage (https://www.sqlite.org/pragma.html#pragma_quick_check).
    """
    harmless = ("ok", "CHECK constraint failed in ", "non-")
    try:
        found = connection.execute("PRAGMA main.quick_check").fetchall()
        damaged = any(not row.startswith(harmless) and " value in " not in row for (row,) in found)
    except Exception as error:
        # SQLITE_ERROR: the check needs what only the application has, such as a collation.
        if not is_driver_error(error) or error_name(error) not in ("SQLITE_ERROR", ""):
            raise
        damaged = False
    if damaged:
        raise NotADatabase(
            "the file is damaged, and rebuilding it would lose what can still be read: restore it "
            "from a backup, or save what is left with the sqlite3 shell's .recover command"
        )


def scrub(connection: DBAPIConnection, name: str) -> None:
    """Rebuild the file without its free space, and empty the write-ahead log, after a commit.

    The software that wrote the file before may have left copies of secrets in free pages, or
    between the rows of any page. A failure is a warning: the upgrade is committed.
    """
    reason = ""
    try:
        set_busy_timeout(connection, _FOR_READERS)
        connection.execute("VACUUM main")
        if _empty_log(connection):
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(f"DROP VIEW IF EXISTS main.{MARK}")
            if application_id(connection) == MARK_OF_1_1:
                connection.execute("PRAGMA main.application_id = 0")
            connection.commit()
            _empty_log(connection)
            return
    except Exception as error:
        from credential_db.sqlite.causes import known_text

        if not is_driver_error(error):
            raise
        reason = "" if is_locked(error) else known_text(error)
    explanation = "another program is reading the file; the first start after it closes the file"
    when = f"{reason}; every start" if reason else explanation
    remark = "old secrets may remain in free space of the file"
    warn(f"{name}: {remark} ({when} tries again to remove them)")


def finish(connection: DBAPIConnection) -> None:
    """Scrub a file that an earlier upgrade left marked, if nobody else uses it right now.

    If anyone does, this costs one failed lock: no write, no import, no warning.
    """
    file = main_file(connection)
    places = (file, os.path.dirname(file)) if file else ()
    if unfinished(connection) or not all(os.access(place, os.W_OK) for place in places):
        return
    if not first_row(connection, "PRAGMA query_only")[0]:
        with working(connection, ()):
            if _is_alone(connection):
                scrub(connection, file or "the database")


def _is_alone(connection: DBAPIConnection) -> bool:
    set_busy_timeout(connection, 0)
    try:
        connection.execute("BEGIN EXCLUSIVE")
        connection.execute("ROLLBACK")
        return _empty_log(connection)
    except Exception as error:
        if not is_locked(error):
            raise
    return False


def _empty_log(connection: DBAPIConnection) -> bool:
    busy, *_ = connection.execute("PRAGMA main.wal_checkpoint(TRUNCATE)").fetchone()
    return not busy
