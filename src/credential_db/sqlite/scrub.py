"""Leave nothing of the replaced private keys in the file."""

import logging

from credential_db.sqlite.driver import DBAPIConnection, quoted
from credential_db.sqlite.failures import is_driver_error

logger = logging.getLogger(__name__)

_PATIENCE = 1000  # milliseconds to wait for readers: the upgrade itself is done

# VACUUM numbers the rows of such a table anew, which a full-text index over it, say, would not
# notice: https://www.sqlite.org/lang_vacuum.html
_WITHOUT_OWN_ROWID = """
    SELECT name FROM sqlite_master AS t
    WHERE type = 'table' AND rootpage > 0 AND name NOT LIKE 'sqlite^_%' ESCAPE '^'
    AND NOT EXISTS (SELECT 1 FROM pragma_index_list(t.name))
    AND NOT EXISTS (
        SELECT 1 FROM pragma_table_info(t.name) WHERE pk AND upper(type) = 'INTEGER'
    )
"""


def scrub(connection: DBAPIConnection) -> None:
    """Rebuild the file without its free space, and empty the write-ahead log.

    The upgrade ran with secure_delete, but the software that wrote the file before may have left
    copies of keys in free pages, or between the rows of any page.

    Logs a warning where another connection or the user's own tables prevent it.

    Args:
        connection: In autocommit mode, after the commit; its busy_timeout is changed.
    """
    try:
        _scrub(connection)
    except Exception as error:
        if not is_driver_error(error):
            raise
        # The upgrade is committed: an error would say that it is not.
        logger.warning(
            "the file is upgraded, and old private keys remain in it (%s): run VACUUM, then "
            "PRAGMA wal_checkpoint(TRUNCATE), when no other program has the file open",
            error,
        )


def _scrub(connection: DBAPIConnection) -> None:
    connection.execute(f"PRAGMA busy_timeout = {_PATIENCE}")
    renumbered = _tables_that_vacuum_would_renumber(connection)
    if renumbered:
        logger.warning(
            "old key material that was deleted before this upgrade may remain in free pages: "
            "VACUUM would renumber the rows of table %s, so it was left out",
            ", ".join(renumbered),
        )
    else:
        try:
            connection.execute("VACUUM")
        except Exception as error:
            if not is_driver_error(error):
                raise
            logger.warning(
                "old key material may remain in free pages (%s): run VACUUM when no other program "
                "has the file open",
                error,
            )
    busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if busy:
        logger.warning(
            "old private keys remain in the file until another program, which is reading it now, "
            "closes it: the last one to close the file completes the clean-up"
        )


def _tables_that_vacuum_would_renumber(connection: DBAPIConnection) -> list[str]:
    tables = [row[0] for row in connection.execute(_WITHOUT_OWN_ROWID).fetchall()]
    return [table for table in tables if not _numbered_without_gaps(connection, table)]


def _numbered_without_gaps(connection: DBAPIConnection, table: str) -> bool:
    smallest, largest, count = connection.execute(
        f"SELECT min(rowid), max(rowid), count(*) FROM main.{quoted(table)}"
    ).fetchone()
    return bool(count == 0 or (smallest == 1 and largest == count))
