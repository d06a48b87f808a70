"""Is this file at the current version? Answered at every process start, so without any library.

And if there is no schema in it yet: create it, in one shot.
"""

import sqlite3
from typing import TYPE_CHECKING, NamedTuple

from credential_db.head import COLUMNS, DDL, SCHEMA_VERSION
from credential_db.sqlite.driver import DBAPIConnection, create, is_locked
from credential_db.sqlite.lending import borrowed, plain_rows
from credential_db.sqlite.mark import is_to_be_scrubbed
from credential_db.sqlite.opening import file_uri
from credential_db.sqlite.stamps import revision_of, user_version, write_stamps
from credential_db.sqlite.transaction import write_transaction

if TYPE_CHECKING:
    from credential_db.sqlite.target import Target


class Upgrade(NamedTuple):
    """What an upgrade did.

    Attributes:
        before: The version that was found; None where there was no schema.
        after: The version now.
    """

    before: int | None
    after: int

    def __str__(self) -> str:
        """One line for a person."""
        if self.before is None:
            return f"created at version {self.after}"
        if self.before == self.after:
            return f"already at version {self.after}"
        verb = "upgraded" if self.before < self.after else "downgraded"
        return f"{verb} from version {self.before} to version {self.after}"


def _shape_check() -> str:
    """The stamps, in a statement that SQLite prepares only if the tables have just these columns.

    Naming the columns asks for the presence of each; ``IN table`` asks that there is no other
    (https://www.sqlite.org/rowvalue.html). None of it is executed: the condition is true before.
    Between double quotes, a name that no column has would be taken for a string.
    """
    columns = {**COLUMNS, "alembic_version": ("version_num",)}
    shapes = (
        f"(SELECT [{'], ['.join(names)}] FROM main.[{table}]) IN main.[{table}]"
        for table, names in columns.items()
    )
    return (
        f"SELECT version_num = '{revision_of(SCHEMA_VERSION)}' FROM main.alembic_version"
        f" WHERE 1 OR {' OR '.join(shapes)}"
    )


LAST_LEGACY_VERSION = 2  # the newest that releases before Alembic wrote
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
    scrubbed = version == SCHEMA_VERSION and not is_to_be_scrubbed(connection)
    return bool(scrubbed and stamps.fetchall() == [(1,)])


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
        if is_locked(error):
            raise
        return False
    finally:
        connection.close()


def done_at_once(
    connection: DBAPIConnection, target: "Target", *, repair: bool = False, dry_run: bool = False
) -> Upgrade | None:
    """Do what takes no migration: nothing to a current file, and all to an empty one in one shot.

    Args:
        connection: Without a transaction in progress.
        target: The same database.
        repair: A current file is to be looked at, too.
        dry_run: Nothing may be created.

    Returns:
        None where there is more to do.
    """
    if not dry_run and _is_empty(connection):
        with borrowed(connection), write_transaction(connection, target):
            if _is_empty(connection):  # else another process was faster
                create_head(connection)
                return Upgrade(None, SCHEMA_VERSION)
    if not repair and is_current(connection):
        target.before = SCHEMA_VERSION
        return Upgrade(SCHEMA_VERSION, SCHEMA_VERSION)
    return None


def create_head(connection: DBAPIConnection) -> None:
    """Make all of the current version, inside of a transaction."""
    for statements in DDL.values():
        create(connection, statements)
    write_stamps(connection, SCHEMA_VERSION)


def _is_empty(connection: DBAPIConnection) -> bool:
    """Nothing was ever in it, as far as one page can tell."""
    with plain_rows(connection):
        (pages,) = connection.execute("PRAGMA main.page_count").fetchone()
        if pages > 1 or user_version(connection):
            return False
        return not connection.execute("SELECT 1 FROM main.sqlite_master LIMIT 1").fetchone()
