"""Is this file at the current version? Answered at every process start, so without any library.

If there is no schema in it yet: create it, in one shot.
"""

import contextlib
import sqlite3

from credential_db.head import COLUMNS, DDL, SCHEMA_VERSION
from credential_db.sqlite.driver import DBAPIConnection, first_row, quoted
from credential_db.sqlite.files import uri
from credential_db.sqlite.scrub import MARK, MARK_OF_1_1, finish
from credential_db.sqlite.stamps import STAMP_TABLE, revision_of, write_stamps
from credential_db.sqlite.transaction import Transaction
from credential_db.sqlite.working import glancing, is_manual, working

_REVISION = revision_of(SCHEMA_VERSION)
_STAMP = f"SELECT version_num = '{_REVISION}' FROM main.{STAMP_TABLE}"
_MARKED = f"EXISTS (SELECT 1 FROM main.sqlite_master WHERE name = '{MARK}')"
_STATEMENTS = dict.fromkeys(sql for statements in DDL.values() for sql in statements)


def _columns() -> str:
    """A condition that SQLite prepares only if the tables have just the columns of the head.

    Naming the columns requires the presence of each; ``IN table`` requires that there is no other
    (https://www.sqlite.org/rowvalue.html). Neither is executed: the condition is true before. With
    its table before it, a name in double quotes is never taken for a string.
    """
    rows = ["1"]
    for table, names in COLUMNS.items():
        row = ", ".join(f"t.{quoted(name)}" for name in names)
        rows.append(f"(SELECT {row} FROM main.{quoted(table)} AS t) IN main.{quoted(table)}")
    return " OR ".join(rows)


_EVERYTHING = _STAMP.replace(" FROM", f", {_MARKED} FROM", 1) + f" WHERE {_columns()}"
# What SQLite says about a missing table or column, and about one too many.
_OTHER_SCHEMA = ("no such ", "sub-select returns")


def is_current(connection: DBAPIConnection, *, is_new: bool = False) -> bool:
    """Whether number, stamp, tables and columns are all those of the current version.

    Takes only a reader's lock, and leaves the connection as it is; if a scrub is pending, and
    nobody else uses the file, completes it. On a new connection, to prepare the condition costs
    more than to compare the statements that created the tables; if they are ours, that is enough.
    """
    with glancing(connection) if is_manual(connection) else contextlib.nullcontext():
        found, marked = _is_current(connection, is_new)
    if marked:  # in a transaction of autocommit=False nothing could be rebuilt
        finish(connection)
    return found


def _is_current(connection: DBAPIConnection, is_new: bool) -> tuple[bool, bool]:
    first, others = connection.cursor(), connection.cursor()
    first.row_factory = others.row_factory = None
    try:
        # Until it is finished, all read one state of the file, under one lock.
        first.execute(_STAMP if is_new else _EVERYTHING)
        marked = False
        if is_new:
            found = dict(others.execute("SELECT sql, name FROM main.sqlite_master"))
            marked = MARK in found.values()
            if not found.keys() >= _STATEMENTS.keys():
                others.execute(_EVERYTHING)
    except Exception as error:
        if str(error).startswith(_OTHER_SCHEMA):
            return False, False
        raise
    (version,) = others.execute("PRAGMA main.user_version").fetchone()
    (application_id,) = others.execute("PRAGMA main.application_id").fetchone()
    rows = first.fetchall()
    if version != SCHEMA_VERSION or len(rows) != 1 or rows[0][0] != 1:
        return False, False
    return True, marked or rows[0][1:] == (1,) or application_id == MARK_OF_1_1


def is_current_file(path: str) -> bool:
    """Whether a plain file is current, found out without waiting. If not, look again and longer."""
    try:
        connection = sqlite3.connect(uri(path, "rw"), uri=True, timeout=0)
    except (ValueError, sqlite3.Error):
        return False  # nothing is there, or no file: mode=rw creates none
    try:
        return is_current(connection, is_new=True)
    except sqlite3.Error:
        return False
    finally:
        connection.close()


def is_empty(connection: DBAPIConnection) -> bool:
    """Nothing was ever in it, as far as one page can tell."""
    if first_row(connection, "PRAGMA main.page_count")[0] > 1:
        return False
    if first_row(connection, "PRAGMA main.user_version")[0]:
        return False
    return not first_row(connection, "SELECT count(*) FROM main.sqlite_master")[0]


def create(connection: DBAPIConnection, transaction: Transaction) -> bool:
    """Create the current version in an empty file; False if another process was faster."""
    with working(connection, (*DDL, STAMP_TABLE)), transaction:
        if not is_empty(connection):
            return False
        for statement in _STATEMENTS:
            connection.execute(statement)
        write_stamps(connection, SCHEMA_VERSION)
        transaction.commit()
    return True
