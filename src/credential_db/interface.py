"""The Python interface: bring a file to the current version, or say what it is."""

import threading
from collections.abc import Mapping
from os import PathLike, fsdecode
from typing import TYPE_CHECKING, Any, NamedTuple

from credential_db.current import COLUMNS, SCHEMA_VERSION, is_current, is_current_file
from credential_db.sqlite.connection import borrowed, lock_holders, plain_rows, waiting
from credential_db.sqlite.driver import DBAPIConnection, is_dbapi_connection
from credential_db.sqlite.errors import DatabaseBusy, SchemaTooNew, UnrecognizedSchema
from credential_db.sqlite.failures import clean
from credential_db.sqlite.passphrase import Passphrase
from credential_db.sqlite.target import Target

if TYPE_CHECKING:
    from credential_db.sqlite.target import AnyTarget

# Alembic's commands work through module-level proxies: two threads would run each other's.
_one_at_a_time = threading.Lock()


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
        return f"upgraded from version {self.before} to version {self.after}"


class Status(NamedTuple):
    """What a file is.

    Attributes:
        state: ``empty``, ``legacy`` (recognised, not under Alembic yet), ``behind``, ``current``,
            ``ahead`` or ``unrecognized``.
        version: Its version; None where there is none, or none that can be believed.
        head: The version of this release.
        detail: One line for a person.
    """

    state: str
    version: int | None
    head: int
    detail: str

    def __str__(self) -> str:
        """One line for a person."""
        return f"{self.state}: {self.detail}"


_TIMEOUT = 30.0  # seconds
_CURRENT = Upgrade(SCHEMA_VERSION, SCHEMA_VERSION)


def upgrade(
    target: "AnyTarget",
    *,
    passphrase: str | bytes | None = None,
    timeout: float = _TIMEOUT,
    backup: str | PathLike[str] | None = None,
    dry_run: bool = False,
    cipher_settings: Mapping[str, int] | None = None,
) -> Upgrade:
    """Bring a database to the current version: all of it, or nothing.

    Any number of processes may call this at the same time on the same file: one migrates, the
    others wait and find it done. On a current file it only reads, and imports no library.

    Args:
        target: A path, a database URL, an open ``sqlite3`` or ``sqlcipher3`` connection, or a
            SQLAlchemy ``Engine`` or ``Connection``. A missing file is created, for its owner alone
            to read. A connection stays open and is given back as it came.
        passphrase: Of an encrypted file: a ``str``, or ``bytes`` for a raw key.
        timeout: Seconds to wait for another program's lock.
        backup: Where to put a copy of the file first, if there is anything to change.
        dry_run: Do and check everything, then roll it back.
        cipher_settings: SQLCipher settings of the file other than the defaults:
            ``cipher_compatibility``, ``kdf_iter``, ``cipher_page_size``.

    Returns:
        The versions before and after.

    Raises:
        SchemaTooNew: A newer release wrote the file.
        UnrecognizedSchema: Tables, number and stamp do not fit together.
        KeyConversionError: Stored SSH keys are not what their rows say.
        DatabaseBusy: Another program held the lock for longer than the timeout.
        NotADatabase: Garbage, or encrypted and the passphrase is missing or wrong.
        ReadOnlyDatabase: The file needs a change and cannot be written.
        CredentialDBError: Anything else, such as a full disk. Whatever is raised, the file is as
            it was.
    """
    place = None
    try:
        # At every process start, so before anything is done for the sake of what follows.
        if isinstance(target, (str, PathLike)):
            if passphrase is None and is_current_file(fsdecode(target), timeout):
                return _CURRENT
        elif is_dbapi_connection(target) and not target.in_transaction and _is_current(target):
            return _CURRENT
        place = Target(
            target,
            passphrase=None if passphrase is None else Passphrase(passphrase),
            cipher_settings=cipher_settings,
            timeout=timeout,
        )
        with place.opened_to_write(create=not dry_run) as connection, waiting(connection, timeout):
            if is_current(connection):
                return _CURRENT
            return _upgrade_to_head(place, connection, backup, dry_run)
    except Exception as error:
        failure = place.clean(error) if place else _clean_unopened(error, target)
    passphrase = None  # a traceback may show the locals of this frame
    raise failure


def _is_current(connection: DBAPIConnection) -> bool:
    """``is_current``, but False where it is locked: the long way waits for as long as it may."""
    try:
        return is_current(connection)
    except Exception as error:
        if "is locked" not in str(error):
            raise
        return False


def _clean_unopened(error: Exception, target: object) -> Exception:
    name = fsdecode(target) if isinstance(target, (str, PathLike)) else "the database"
    return clean(error, name, lock_holders(name))


def _upgrade_to_head(
    place: Target,
    connection: DBAPIConnection,
    backup: str | PathLike[str] | None,
    dry_run: bool,
) -> Upgrade:
    if not _one_at_a_time.acquire(timeout=min(place.timeout, threading.TIMEOUT_MAX)):
        raise DatabaseBusy(
            f"another thread of this process is upgrading a database for longer than "
            f"{place.timeout:g} s: wait for it, then run again"
        )
    try:
        if is_current(connection):
            return _CURRENT  # another thread did it
        from alembic import command  # only where there is something to do

        from credential_db import scripts

        config = scripts.config()
        config.attributes.update(
            connection=connection,
            passphrase=place.passphrase,
            cipher_settings=place.cipher_settings,
            timeout=place.timeout,
            backup=backup,
            dry_run=dry_run,
        )
        command.upgrade(config, "head")
        return Upgrade(config.attributes["before"], config.attributes["after"])
    finally:
        _one_at_a_time.release()


def status(
    target: "AnyTarget",
    *,
    passphrase: str | bytes | None = None,
    cipher_settings: Mapping[str, int] | None = None,
) -> Status:
    """Say what a database is, without changing or creating anything.

    Args:
        target: As for ``upgrade``.
        passphrase: As for ``upgrade``.
        cipher_settings: As for ``upgrade``.

    Raises:
        DatabaseBusy: Another program keeps it locked even for readers.
        NotADatabase: Garbage, or encrypted and the passphrase is missing or wrong.
        CredentialDBError: It cannot be read for another reason.
    """
    place = None
    try:
        place = Target(
            target,
            passphrase=None if passphrase is None else Passphrase(passphrase),
            cipher_settings=cipher_settings,
        )
        with place.opened_to_read() as connection, plain_rows(connection):
            return _look(connection)
    except Exception as error:
        failure = place.clean(error) if place else _clean_unopened(error, target)
    passphrase = None
    raise failure


def _look(connection: DBAPIConnection) -> Status:
    if is_current(connection):
        return Status("current", SCHEMA_VERSION, SCHEMA_VERSION, f"version {SCHEMA_VERSION}")
    from alembic.script import ScriptDirectory  # only where it is not that simple

    from credential_db import scripts, shim

    with _one_at_a_time:
        history = scripts.history(ScriptDirectory.from_config(scripts.config()))
    head = len(history) - 1
    try:
        version, stamped, missing = shim.recognize(connection, history)
    except SchemaTooNew as error:
        return Status("ahead", shim.user_version(connection), head, str(error))
    except UnrecognizedSchema as error:
        return Status("unrecognized", None, head, str(error))
    lacks = f", without table {', '.join(missing)}" if missing else ""
    if version is None:
        return Status("empty", None, head, "no schema yet")
    if not stamped:
        return Status("legacy", version, head, f"version {version}{lacks}, not under Alembic yet")
    return Status("behind", version, head, f"version {version} of {head}{lacks}")


def ensure_credentials_schema(conn: DBAPIConnection) -> None:
    """Create whichever of the four tables are missing, in the current shape, and commit.

    A drop-in for the function of the same name in earlier releases: it looks at nothing else, and
    a transaction in progress is committed with it. From version 3 on, whose tables do not fit an
    older file, it upgrades such a file instead.

    Raises:
        CredentialDBError: As ``upgrade``.
    """
    try:
        _commit(conn)
        present = _rows(
            conn,
            "SELECT count(*) FROM sqlite_master WHERE type = 'table'"
            f" AND lower(name) IN ({', '.join(map(repr, COLUMNS))})",
        )
        if present == [(len(COLUMNS),)]:
            return
        from credential_db.shim import LAST_LEGACY_VERSION

        _end_transaction(conn)
        if LAST_LEGACY_VERSION < SCHEMA_VERSION > _rows(conn, "PRAGMA user_version")[0][0]:
            upgrade(conn)
        else:
            _create_missing_tables(conn)
        return
    except Exception as error:
        failure = Target(conn).clean(error)
    raise failure


def migrate_credential_db_schema(conn: DBAPIConnection) -> None:
    """Bring an older file to the current version; do nothing at all to any other.

    A drop-in for the function of the same name in earlier releases: it goes by
    ``PRAGMA user_version``, and a transaction in progress is committed with it.

    Raises:
        CredentialDBError: As ``upgrade``.
    """
    try:
        if _rows(conn, "PRAGMA user_version")[0][0] >= SCHEMA_VERSION:
            return
        _end_transaction(conn)
        upgrade(conn)
        return
    except Exception as error:
        failure = Target(conn).clean(error)
    raise failure


def _commit(connection: DBAPIConnection) -> None:
    connection.commit()
    if getattr(connection, "autocommit", None) is True:
        _end_transaction(connection)  # which commit() leaves alone then


def _end_transaction(connection: DBAPIConnection) -> None:
    """With ``autocommit=False``, new in Python 3.12, ``commit()`` begins the next one at once."""
    if connection.in_transaction:
        connection.execute("COMMIT")


def _rows(connection: DBAPIConnection, query: str) -> list[tuple[Any, ...]]:
    """Rows as tuples, whatever row factory the connection has."""
    cursor = connection.cursor()
    cursor.row_factory = None
    return cursor.execute(query).fetchall()


def _create_missing_tables(connection: DBAPIConnection) -> None:
    from credential_db.schema import metadata
    from credential_db.sqlite.engine import sqlalchemy_connection

    with (
        borrowed(connection, _TIMEOUT),
        sqlalchemy_connection(connection, writing=True) as wrapper,
        wrapper.begin(),
    ):
        metadata.create_all(wrapper)
