"""Drop-ins for the two functions that applications of earlier releases call."""

from credential_db.api import change
from credential_db.current import is_current
from credential_db.head import DDL, SCHEMA_VERSION
from credential_db.opening import Opened, Outcome
from credential_db.opening import change as change_target
from credential_db.shim import LAST_LEGACY_VERSION
from credential_db.sqlite.driver import DBAPIConnection, first_row, literal, main_file, quoted
from credential_db.sqlite.errors import CredentialDBError
from credential_db.sqlite.files import foreign_sidecar
from credential_db.sqlite.stamps import STAMP_TABLE, stamps, user_version, version_of
from credential_db.sqlite.targets import Target, cleaned
from credential_db.sqlite.transaction import busy_timeout
from credential_db.sqlite.working import plain_rows, working


@cleaned
def ensure_credentials_schema(conn: DBAPIConnection) -> None:
    """Create whichever of the four tables are missing, in the current schema, and commit.

    From version 3 on, whose tables do not fit an older file, it upgrades such a file instead. It
    does nothing to a file that a newer release wrote. A transaction in progress is committed. It
    waits for locks as long as the connection does.

    Raises:
        CredentialDBError: As ``upgrade``.
    """
    if obstacle := foreign_sidecar(main_file(conn)):
        raise obstacle
    _commit(conn)
    if not _missing(conn) or (newest := _newest(conn)) > SCHEMA_VERSION:
        return
    _commit(conn)  # with autocommit=False, what has been read
    target = Target(conn, timeout=busy_timeout(conn))
    if LAST_LEGACY_VERSION < SCHEMA_VERSION > newest:
        change(conn, timeout=target.timeout)
    else:
        change_target(target, _create_missing, at_once=True)


@cleaned
def migrate_credential_db_schema(conn: DBAPIConnection) -> None:
    """Bring an older file to the current version, by ``PRAGMA user_version``.

    On a current file it completes a pending scrub and corrects stamps that disagree, as far as it
    can, and never raises; a newer file it leaves alone. A transaction in progress is committed. It
    waits for locks as long as the connection does.

    Raises:
        CredentialDBError: As ``upgrade``.
    """
    if obstacle := foreign_sidecar(main_file(conn)):
        raise obstacle
    if is_current(conn):
        return
    with plain_rows(conn):
        number, stamped = user_version(conn), stamps(conn) is not None
    if number > SCHEMA_VERSION or (number == SCHEMA_VERSION and not stamped):
        return
    _commit(conn)
    try:
        change(conn, timeout=busy_timeout(conn))
    except CredentialDBError:
        if number < SCHEMA_VERSION:
            raise


def _create_missing(opened: Opened) -> Outcome:
    opened.prepare()
    with working(opened.connection, (*DDL, STAMP_TABLE)), opened.transaction() as transaction:
        for table in _missing(opened.connection):
            for statement in DDL[table]:
                opened.connection.execute(statement)
        transaction.commit()
    return Outcome(None, None)


_ALL = f"SELECT 1 FROM {', '.join(f'main.{quoted(table)}' for table in DDL)} LIMIT 0"


def _missing(connection: DBAPIConnection) -> list[str]:
    try:
        connection.execute(_ALL).close()  # SQLite prepares it only if all tables exist
    except Exception as error:
        if not str(error).startswith("no such table"):
            raise
    else:
        return []
    query = "SELECT count(*) FROM main.sqlite_master WHERE type = 'table' AND name = {}"
    return [
        table
        for table in DDL
        if not first_row(connection, f"{query.format(literal(table))} COLLATE NOCASE")[0]
    ]


def _newest(connection: DBAPIConnection) -> int:
    """The higher of number and stamp."""
    with plain_rows(connection):
        versions = [version_of(stamp) or 0 for stamp in stamps(connection) or ()]
        return max(user_version(connection), *versions, 0)


def _commit(connection: DBAPIConnection) -> None:
    connection.commit()
    if connection.in_transaction and getattr(connection, "autocommit", None) is True:
        connection.execute("COMMIT")  # commit() does nothing there
