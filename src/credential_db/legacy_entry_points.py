"""Drop-ins for the two functions that hosts of earlier releases call on their own connection."""

from credential_db.current import LAST_LEGACY_VERSION, done_at_once
from credential_db.head import DDL, SCHEMA_VERSION
from credential_db.interface import upgrade_target
from credential_db.sqlite.driver import DBAPIConnection, create, first_row
from credential_db.sqlite.lending import borrowed, busy_timeout
from credential_db.sqlite.target import Target, failure_of
from credential_db.sqlite.transaction import write_transaction


def ensure_credentials_schema(conn: DBAPIConnection) -> None:
    """Create whichever of the four tables are missing, in the current shape, and commit.

    A drop-in for the function of the same name in earlier releases: it looks at nothing else, and
    a transaction in progress is committed with it. From version 3 on, whose tables do not fit an
    older file, it upgrades such a file instead. It waits for locks as the connection does.

    Raises:
        CredentialDBError: As ``upgrade``.
    """
    opened = None
    try:
        opened = Target(conn)
        _commit(conn)
        if not _missing(conn):
            return
        _end_transaction(conn)
        opened.timeout = busy_timeout(conn) / 1000
        if done_at_once(conn, opened):
            return
        if LAST_LEGACY_VERSION < SCHEMA_VERSION > first_row(conn, "PRAGMA main.user_version")[0]:
            upgrade_target(opened)
            return
        with borrowed(conn), write_transaction(conn, opened):
            for table in _missing(conn):
                create(conn, DDL[table])
        return
    except BaseException as error:
        if opened is not None and opened.committed_despite(error):
            return
        failure = failure_of(error, opened, conn)
    del conn, opened  # a traceback shows the locals of this frame
    raise failure


def migrate_credential_db_schema(conn: DBAPIConnection) -> None:
    """Bring an older file to the current version; do nothing at all to any other.

    A drop-in for the function of the same name in earlier releases: it goes by
    ``PRAGMA user_version``, and a transaction in progress is committed with it. It waits for locks
    as the connection does.

    Raises:
        CredentialDBError: As ``upgrade``.
    """
    opened = None
    try:
        opened = Target(conn)
        if first_row(conn, "PRAGMA main.user_version")[0] >= SCHEMA_VERSION:
            return
        _end_transaction(conn)
        opened.timeout = busy_timeout(conn) / 1000
        upgrade_target(opened)
        return
    except BaseException as error:
        if opened is not None and opened.committed_despite(error):
            return
        failure = failure_of(error, opened, conn)
    del conn, opened  # a traceback shows the locals of this frame
    raise failure


def _missing(connection: DBAPIConnection) -> list[str]:
    query = "SELECT 1 FROM main.sqlite_master WHERE type = 'table' AND name = '{}' COLLATE NOCASE"
    return [table for table in DDL if not first_row(connection, query.format(table))]


def _commit(connection: DBAPIConnection) -> None:
    connection.commit()
    if getattr(connection, "autocommit", None) is True:
        _end_transaction(connection)  # which commit() leaves alone then


def _end_transaction(connection: DBAPIConnection) -> None:
    """With ``autocommit=False``, new in Python 3.12, ``commit()`` begins the next one at once."""
    if connection.in_transaction:
        connection.execute("COMMIT")
