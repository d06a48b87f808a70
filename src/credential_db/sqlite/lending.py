"""Connections that are lent by their owner: used with care, and given back as they came."""

import contextlib
from collections.abc import Iterator
from typing import Any

from credential_db.sqlite.driver import (
    DBAPIConnection,
    driver,
    error_name,
    first_row,
    has_temporary,
    main_file,
    size_in_bytes,
)
from credential_db.sqlite.errors import CredentialDBError, ReadOnlyDatabase
from credential_db.sqlite.files import lock_holders

_BY_ISOLATION_LEVEL = -1  # sqlite3.LEGACY_TRANSACTION_CONTROL, new in Python 3.12
_LONGEST_TIMEOUT = 2**31 - 1  # milliseconds
_SILENT = 2.0  # seconds to wait before a line says for what
IN_MEMORY = 16 * 2**20  # bytes of a database whose changes may all be held in memory

# What an upgrade needs of a connection, set for its duration:
_PRAGMAS: dict[str, str | int] = {
    # Else a table copy deletes the rows of ON DELETE CASCADE children. Foreign keys are checked
    # before the commit instead: https://www.sqlite.org/lang_altertable.html#otheralter
    "foreign_keys": 0,
    "legacy_alter_table": 0,
    "ignore_check_constraints": 0,
    "count_changes": 0,
    "writable_schema": 0,  # which lets pass what ALTER TABLE would break
    "main.secure_delete": 1,  # overwrite old keys with zeros; the default differs between builds
    "main.journal_size_limit": 0,  # else journal_mode=PERSIST keeps old keys in the journal
    "main.synchronous": 2,
}


def _text(stored: bytes) -> str:
    """TEXT that need not be UTF-8: sqlite3's own error about that shows what the cell holds."""
    return stored.decode(errors="surrogateescape")


@contextlib.contextmanager
def _attributes(connection: DBAPIConnection, **values: Any) -> Iterator[None]:
    """Set attributes of a connection for a while: those that this version of Python has."""
    before = {name: getattr(connection, name) for name in values if hasattr(connection, name)}
    try:
        for name in before:
            setattr(connection, name, values[name])
        yield
    finally:
        with contextlib.suppress(driver(connection).ProgrammingError):  # closed meanwhile
            for name in reversed(before):
                setattr(connection, name, before[name])


def plain_rows(connection: DBAPIConnection) -> contextlib.AbstractContextManager[None]:
    """Rows as tuples and TEXT as ``str`` for a while, whatever the connection's owner prefers."""
    return _attributes(connection, row_factory=None, text_factory=_text)


@contextlib.contextmanager
def changed(connection: DBAPIConnection, pragma: str, value: str | int) -> Iterator[None]:
    """Set a pragma for a while."""
    (before,) = first_row(connection, f"PRAGMA {pragma}")
    if before == value:
        yield
        return
    # secure_delete reads 2 for FAST and takes 2 for ON
    written = "FAST" if (pragma, before) == ("main.secure_delete", 2) else before
    try:
        connection.execute(f"PRAGMA {pragma} = {value}").fetchall()
        yield
    finally:
        insist(connection, f"PRAGMA {pragma} = {written}")


def refuse_transaction(connection: DBAPIConnection) -> None:
    """Raise where a transaction is in progress: it is its owner's to end."""
    if connection.in_transaction:
        raise CredentialDBError(
            "this connection has a transaction in progress: commit it or roll it back first "
            "(one with autocommit=False always has: set autocommit=True for the call)"
        )


def checked_timeout(timeout: float) -> float:
    """The same number of seconds, no more than SQLite can wait.

    Raises:
        CredentialDBError: It is negative, or no number.
    """
    if not isinstance(timeout, int | float) or not timeout >= 0:
        raise CredentialDBError("a timeout is a number of seconds, 0 or more")
    return min(timeout, _LONGEST_TIMEOUT / 1000)


def waiting(connection: DBAPIConnection, timeout: float) -> contextlib.AbstractContextManager[None]:
    """Let a connection wait this many seconds for other programs' locks."""
    return changed(connection, "busy_timeout", int(checked_timeout(timeout) * 1000))


def busy_timeout(connection: DBAPIConnection) -> int:
    """Milliseconds that a connection waits for a lock."""
    return int(first_row(connection, "PRAGMA busy_timeout")[0])


@contextlib.contextmanager
def announcing_a_long_wait(path: str, timeout: float) -> Iterator[None]:
    """Around what may wait for a lock: after two seconds, say who holds it.

    Args:
        path: The file, to look its locks up.
        timeout: Seconds that it may wait in all.
    """
    if timeout <= _SILENT or not path:
        yield
        return
    import logging  # both cost a process that only looks
    import threading

    def say() -> None:
        logging.getLogger(__name__).info(
            "%s is locked%s: waiting for it, up to %g s in all",
            path or "the database",
            lock_holders(path),
            timeout,
        )

    timer = threading.Timer(_SILENT, say)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextlib.contextmanager
def borrowed(connection: DBAPIConnection) -> Iterator[None]:
    """Take a connection over for an upgrade, and give it back as it came.

    Raises:
        CredentialDBError: It has a transaction in progress, a rollback journal that is no base for
            one, or objects of its own in the way.
        ReadOnlyDatabase: Its owner has forbidden it to write.
    """
    refuse_transaction(connection)
    with contextlib.ExitStack() as stack:
        stack.enter_context(plain_rows(connection))
        # With autocommit=True, commit() and rollback() do nothing.
        own_transactions = {"autocommit": _BY_ISOLATION_LEVEL, "isolation_level": None}
        stack.enter_context(_attributes(connection, **own_transactions))
        _refuse_query_only(connection)
        for pragma, value in _wanted(connection).items():
            stack.enter_context(changed(connection, pragma, value))
        _refuse_unsafe_journal(connection)
        yield


def _wanted(connection: DBAPIConnection) -> dict[str, str | int]:
    wanted = dict(_PRAGMAS)
    if size_in_bytes(connection) <= IN_MEMORY:
        wanted["cache_spill"] = 0  # a refused upgrade then never writes to the file at all
        if not has_temporary(connection):  # which that would drop
            wanted["temp_store"] = 2  # in memory
    (journal_mode,) = connection.execute("PRAGMA main.journal_mode").fetchone()
    if journal_mode in ("off", "memory") and main_file(connection):
        # Without a journal on disk, a crash leaves neither the old version nor the new one.
        wanted["main.journal_mode"] = "delete"
    return wanted


def _refuse_query_only(connection: DBAPIConnection) -> None:
    if connection.execute("PRAGMA query_only").fetchone()[0]:
        raise ReadOnlyDatabase(
            "this connection is set to PRAGMA query_only: switch that off, or hand in another one"
        )


def _refuse_unsafe_journal(connection: DBAPIConnection) -> None:
    (journal_mode,) = connection.execute("PRAGMA main.journal_mode").fetchone()
    if journal_mode in ("off", "memory") and main_file(connection):
        raise CredentialDBError(
            f"this connection keeps its journal_mode {journal_mode}, under which a crash would "
            "destroy the file: set PRAGMA journal_mode = DELETE, then run again"
        )


def insist(connection: DBAPIConnection, statement: str) -> None:
    """Execute what gives a connection back to its owner, whatever stands against it.

    By now the upgrade is done or undone, so no error may say more.
    """
    try:
        connection.execute(statement).fetchall()
    except driver(connection).ProgrammingError:
        return  # closed meanwhile
    except BaseException as error:
        verdict = ""
        if error_name(error) == "SQLITE_INTERRUPT":
            connection.set_progress_handler(None, 0)  # it would go on to interrupt
            verdict = "its progress handler was removed"
        try:
            connection.execute(statement).fetchall()
        except Exception:
            verdict = "close this connection, it is not as it was"
        if verdict:
            import logging  # costs a process that only looks

            logging.getLogger(__name__).warning(
                "%s failed (%s): %s", statement, type(error).__name__, verdict
            )
        if not isinstance(error, Exception):
            raise
