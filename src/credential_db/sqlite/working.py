"""The one guard around every connection that an upgrade reads or changes, and what it needs.

A connection of our own and one that was passed in are used in the same way; only opening differs.
"""

import contextlib
from collections.abc import Callable, Collection, Iterator
from typing import Any

from credential_db.sqlite.driver import DBAPIConnection, folded, main_file
from credential_db.sqlite.errors import CredentialDBError, ReadOnlyDatabase, UnrecognizedSchema
from credential_db.sqlite.files import identity
from credential_db.sqlite.transaction import (
    Deadline,
    busy_timeout,
    patiently,
    roll_back,
    set_busy_timeout,
)

_BY_ISOLATION_LEVEL = -1  # sqlite3.LEGACY_TRANSACTION_CONTROL, new in Python 3.12

# What an upgrade needs of a connection, set for its duration:
_PRAGMAS: dict[str, int] = {
    # Else a table copy deletes the rows of ON DELETE CASCADE children. Foreign keys are checked
    # before the commit instead: https://www.sqlite.org/lang_altertable.html#otheralter
    "foreign_keys": 0,
    "legacy_alter_table": 0,
    "ignore_check_constraints": 0,
    "count_changes": 0,
    "writable_schema": 0,  # it hides what ALTER TABLE would break
    "cache_spill": 0,  # a refused upgrade never writes to the file
    "main.secure_delete": 1,  # overwrite old keys with zeros; the default differs between builds
    "main.journal_size_limit": 0,  # else journal_mode=PERSIST keeps old keys in the journal
    "main.synchronous": 3,  # EXTRA: sync the directory too, after the journal is deleted
}


def text(stored: bytes) -> str:
    """TEXT that need not be UTF-8: the error of sqlite3 about that shows what the cell holds."""
    return stored.decode(errors="surrogateescape")


@contextlib.contextmanager
def plain_rows(connection: DBAPIConnection) -> Iterator[None]:
    """Rows as tuples and TEXT as ``str`` for a while, whatever the connection is set to."""
    before = connection.row_factory, connection.text_factory
    connection.row_factory, connection.text_factory = None, text
    try:
        yield
    finally:
        connection.row_factory, connection.text_factory = before


@contextlib.contextmanager
def reading(connection: DBAPIConnection, name: str, deadline: Deadline) -> Iterator[None]:
    """Whatever is read meanwhile is one state of the file; a transaction in progress stays."""
    before = busy_timeout(connection)
    with glancing(connection), plain_rows(connection):
        snapshot = connection.cursor()
        try:
            # Until its second row is fetched, this statement holds the reader's lock.
            look = "SELECT count(*) FROM main.sqlite_master UNION ALL SELECT 0"
            patiently(connection, name, deadline, lambda: snapshot.execute(look))
            yield
        finally:
            snapshot.close()
            set_busy_timeout(connection, before)


def unfinished(connection: DBAPIConnection) -> str:
    """What is unfinished on a connection, and how to end it; empty if nothing is.

    A deferred BEGIN that was not used yet, as ``autocommit=False`` keeps it, does not count.
    """
    try:
        if connection.in_transaction:
            connection.execute("PRAGMA main.wal_checkpoint").close()
        for _ in range(2):  # to replace a function fails while any statement is active
            connection.create_function("credential_db_probe", 0, int)
    except Exception:
        if connection.in_transaction:
            return "a transaction in progress: commit it or roll it back"
        return "an unfinished query: fetch all of its rows or close its cursor"
    connection.create_function("credential_db_probe", 0, None)
    return ""


@contextlib.contextmanager
def glancing(connection: DBAPIConnection) -> Iterator[None]:
    """Read, and leave a transaction of ``autocommit=False`` unused if it was."""
    unused = is_manual(connection) and not unfinished(connection)
    try:
        yield
    finally:
        if unused:
            connection.rollback()


def is_manual(connection: DBAPIConnection) -> bool:
    """Whether a transaction is always in progress, as with ``autocommit=False`` (Python 3.12)."""
    return getattr(connection, "autocommit", None) is False


@contextlib.contextmanager
def working(connection: DBAPIConnection, tables: Collection[str]) -> Iterator[Callable[[], None]]:
    """Use a connection for an upgrade, and give it back as it was.

    Yields a function that sets what an upgrade needs once more, before the transaction begins, for
    use after an application's listeners have run.

    Raises:
        CredentialDBError: A transaction or a query is unfinished, or the journal is unsafe.
        ReadOnlyDatabase: The connection may not write.
        UnrecognizedSchema: Temporary objects hide one of these tables, or are triggers on one.
    """
    if problem := unfinished(connection):
        raise CredentialDBError(f"this connection has {problem}, then run again")
    with contextlib.ExitStack() as restoring:  # each of its steps, even if another one fails
        for name in ("row_factory", "text_factory", "autocommit", "isolation_level"):
            if hasattr(connection, name):
                restoring.callback(_try, _set, connection, name, getattr(connection, name))
        restoring.callback(_try, set_busy_timeout, connection, busy_timeout(connection))
        if hasattr(connection, "autocommit"):  # with True, commit() and rollback() do nothing
            connection.autocommit = _BY_ISOLATION_LEVEL
        if connection.in_transaction:
            connection.execute("ROLLBACK").close()  # begun by autocommit=False, and unused
        connection.isolation_level = None
        connection.row_factory, connection.text_factory = None, text
        has_temporary = _refuse_unsafe(connection, tables)
        # Setting temp_store drops all temporary objects.
        wanted = _PRAGMAS if has_temporary else {**_PRAGMAS, "temp_store": 2}
        for pragma in wanted:
            before = connection.execute(f"PRAGMA {pragma}").fetchone()
            restoring.callback(_try, _give_back, connection, pragma, before)

        def settle() -> None:
            connection.row_factory, connection.text_factory = None, text
            for pragma, value in wanted.items():
                if connection.execute(f"PRAGMA {pragma}").fetchone() not in ((value,), None):
                    connection.execute(f"PRAGMA {pragma} = {value}").fetchall()

        restoring.callback(_try, roll_back, connection)
        settle()
        yield settle


def _try(restore: Callable[..., None], *arguments: object) -> None:
    """By now the upgrade is done or undone, and the connection may be closed."""
    with contextlib.suppress(Exception):
        restore(*arguments)


def _set(connection: DBAPIConnection, name: str, value: object) -> None:
    # If ROLLBACK has failed, to set one of these would commit.
    if name.endswith("factory") or not connection.in_transaction:
        setattr(connection, name, value)


def _give_back(connection: DBAPIConnection, pragma: str, before: tuple[Any] | None) -> None:
    if before is not None and connection.execute(f"PRAGMA {pragma}").fetchone() != before:
        # secure_delete reads 2 for FAST, and takes 2 for ON.
        value = "FAST" if (pragma, before) == ("main.secure_delete", (2,)) else before[0]
        connection.execute(f"PRAGMA {pragma} = {value}").fetchall()


def _refuse_unsafe(connection: DBAPIConnection, tables: Collection[str]) -> bool:
    """Raise if an upgrade would not be safe; whether the connection has temporary objects."""
    if connection.execute("PRAGMA query_only").fetchone()[0]:
        raise ReadOnlyDatabase(
            "this connection is set to PRAGMA query_only: set that to OFF, or pass another one"
        )
    (mode,) = connection.execute("PRAGMA main.journal_mode").fetchone()
    if mode in ("off", "memory") and identity(main_file(connection)):
        raise CredentialDBError(
            f"this connection has journal_mode {mode}, with which a crash destroys the file: set "
            "PRAGMA journal_mode = DELETE, then run again"
        )
    if all(row[1] != "temp" for row in connection.execute("PRAGMA database_list").fetchall()):
        return False
    temporary = connection.execute("SELECT type, name, tbl_name FROM temp.sqlite_master").fetchall()
    ours = set(map(folded, tables))
    shadows = [
        f"{kind} {name}"
        for kind, name, table in temporary
        if folded(table if kind == "trigger" else name) in ours
    ]
    if shadows:
        raise UnrecognizedSchema(
            f"this connection has the temporary {', '.join(shadows)}, which hides a table of the "
            "file or is a trigger on one: drop it, or pass another connection"
        )
    return bool(temporary)
