"""Leave nothing of replaced secrets in the file, even where a kill comes between.

A mark is committed together with the upgrade, and goes once the clean-up is done: a number in the
file's header, which older programs do not look at, and which costs next to nothing to read.
"""

import logging
from collections.abc import Iterable

from credential_db.sqlite.driver import DBAPIConnection, error_name, is_driver_error, quoted
from credential_db.sqlite.errors import NotADatabase
from credential_db.sqlite.failures import known_text
from credential_db.sqlite.lending import plain_rows, waiting
from credential_db.sqlite.mark import MARK, NO_MARK, application_id, is_marked
from credential_db.sqlite.shape import column_names, objects

logger = logging.getLogger(__name__)

_FOR_READERS = 1.0  # seconds to wait: the upgrade itself is done


def mark(connection: DBAPIConnection, tables: Iterable[str]) -> None:
    """Say so in the transaction that replaces them, and forget what ANALYZE has kept of them.

    https://www.sqlite.org/fileformat2.html#stat4tab
    """
    if application_id(connection) == NO_MARK:
        connection.execute(f"PRAGMA main.application_id = {MARK}")
    for samples in ("sqlite_stat3", "sqlite_stat4"):
        for table in tables if column_names(connection, samples) else ():
            connection.execute(f"DELETE FROM main.{samples} WHERE tbl = ? COLLATE NOCASE", (table,))


def refuse_damage(connection: DBAPIConnection) -> None:
    """Raise where a file is damaged that is to be rebuilt: what can still be read would be lost.

    Rows that break a constraint are no damage.

    Raises:
        NotADatabase: SQLite finds it malformed: https://www.sqlite.org/pragma.html#pragma_quick_check.
    """
    no_damage = ("ok", "CHECK constraint failed in ", "non-")
    damaged = False
    try:
        found = connection.execute("PRAGMA main.quick_check").fetchall()
        damaged = any(
            not str(row).startswith(no_damage) and " value in " not in row for (row,) in found
        )
    except Exception as error:
        if not is_driver_error(error):
            raise
        # Else the check needs what only the host has, such as a collation: VACUUM does, too.
        damaged = error_name(error).startswith("SQLITE_CORRUPT")
        if not damaged and not _wants_the_host(error):
            raise
    if damaged:
        raise NotADatabase(
            "the file is damaged, and a rebuild would lose what can still be read of it: restore "
            "it from a backup, or save what is left with the sqlite3 shell's .recover command; "
            "the file was not touched"
        )


def scrub(connection: DBAPIConnection) -> None:
    """Rebuild the file without its free space, and empty the write-ahead log.

    The upgrade ran with secure_delete, but the software that wrote the file before may have left
    copies of secrets in free pages, or between the rows of any page. Logs a warning where another
    connection or the user's own tables prevent it: the upgrade is committed by now, and an error
    would say that it is not.

    Args:
        connection: In autocommit mode, after the commit.
    """
    try:
        with plain_rows(connection), waiting(connection, _FOR_READERS):
            _rebuild(connection)
            _empty_log(connection)
    except Exception as error:
        logger.warning(
            "the file is upgraded, and old secrets remain in it (%s): the next upgrade tries again "
            "to remove them, when no other program has the file open",
            known_text(error),
        )


def _rebuild(connection: DBAPIConnection) -> None:
    renumbered = [
        entry.name
        for entry in objects(connection)
        if entry.type == "table" and _would_be_renumbered(connection, entry.name)
    ]
    if renumbered:
        logger.warning(
            "old secrets may remain in free pages: VACUUM would renumber the rows of table %s, so "
            "it was left out",
            ", ".join(renumbered),
        )
        return
    try:
        connection.execute("VACUUM main")
    except Exception as error:
        if not _wants_the_host(error):
            raise
        # It needs what only the host has, such as a collation: so would the next try.
        logger.warning(
            "old secrets may remain in free pages (%s): run VACUUM when no other program has the "
            "file open",
            known_text(error),
        )


def _wants_the_host(error: Exception) -> bool:
    return error_name(error).startswith("SQLITE_ERROR")


def _empty_log(connection: DBAPIConnection) -> None:
    busy, *_ = connection.execute("PRAGMA main.wal_checkpoint(TRUNCATE)").fetchone()
    if busy:
        logger.warning(
            "old secrets remain in the file until another program, which is reading it now, "
            "closes it: the next upgrade after that completes the clean-up"
        )
    elif is_marked(connection):
        connection.execute(f"PRAGMA main.application_id = {NO_MARK}")
        connection.execute("PRAGMA main.wal_checkpoint(TRUNCATE)").fetchone()


def _would_be_renumbered(connection: DBAPIConnection, table: str) -> bool:
    """Whether VACUUM gives the rows new rowids, which a full-text index, say, would not notice.

    https://www.sqlite.org/lang_vacuum.html: those of tables without an INTEGER PRIMARY KEY. In
    practice, those without any index: for one, the rows are copied with their rowids.
    """
    name = quoted(table)
    if connection.execute(f"PRAGMA main.index_list({name})").fetchall() or any(
        column[5] and str(column[2]).upper() == "INTEGER"
        for column in connection.execute(f"PRAGMA main.table_info({name})").fetchall()
    ):
        return False
    if not connection.execute(
        "SELECT 1 FROM main.sqlite_master WHERE name = ? AND rootpage > 0", (table,)
    ).fetchone():
        return False  # a virtual table
    smallest, largest, count = connection.execute(
        f"SELECT min(rowid), max(rowid), count(*) FROM main.{name}"
    ).fetchone()
    return bool(count and (smallest, largest) != (1, count))
