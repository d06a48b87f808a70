"""The Python interface: bring a file to the current version, or say what it is."""

from collections.abc import Mapping
from os import PathLike, fsdecode
from typing import TYPE_CHECKING, NamedTuple

from credential_db.current import Upgrade, done_at_once, is_current, is_current_file
from credential_db.head import SCHEMA_VERSION
from credential_db.sqlite.cipher import Cipher
from credential_db.sqlite.driver import DBAPIConnection, is_dbapi_connection, is_locked
from credential_db.sqlite.files import file_of_name
from credential_db.sqlite.lending import busy_timeout, checked_timeout, plain_rows
from credential_db.sqlite.mark import is_marked
from credential_db.sqlite.opening import TIMEOUT
from credential_db.sqlite.target import Target, failure_of
from credential_db.sqlite.transaction import read_transaction

if TYPE_CHECKING:
    from credential_db.sqlite.target import AnyTarget


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


def upgrade(
    target: "AnyTarget",
    *,
    passphrase: str | bytes | None = None,
    timeout: float = TIMEOUT,
    backup: str | PathLike[str] | None = None,
    dry_run: bool = False,
    cipher_settings: Mapping[str, int] | None = None,
    repair: bool = False,
) -> Upgrade:
    """Bring a database to the current version: all of it, or nothing.

    Any number of processes and threads may call this at the same time, on the same file too: one
    migrates, the others wait and find it done. On a current file it only reads, and imports no
    library; nor does it where it makes a new one.

    Args:
        target: A path, a database URL, an open ``sqlite3`` or ``sqlcipher3`` connection, or a
            SQLAlchemy ``Engine`` or ``Connection``. A missing file is created, for its owner alone
            to read. A connection stays open and is given back as it came.
        passphrase: Of an encrypted file: a ``str``, or ``bytes`` for a raw key.
        timeout: Seconds to wait for another program's lock.
        backup: Where to put a copy of the file first, if there is anything to change.
        dry_run: Do and check everything, then roll it back.
        cipher_settings: SQLCipher settings of the file other than the defaults:
            ``cipher_compatibility``, ``cipher_page_size``, ``kdf_iter``.
        repair: Give the tables of a current file back what their definitions have lost, too.

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
    opened = None
    try:
        timeout = checked_timeout(timeout)
        if backup is not None:
            from credential_db.sqlite.backup import checked_backup_path  # not at process start

            backup = checked_backup_path(backup)
        # Asked first: most calls find a current file, and need nothing else.
        if not repair and cipher_settings is None and _is_current(target, passphrase, timeout):
            return Upgrade(SCHEMA_VERSION, SCHEMA_VERSION)
        opened = Target(target, cipher=Cipher.given(passphrase, cipher_settings), timeout=timeout)
        return upgrade_target(opened, backup, dry_run=dry_run, repair=repair)
    except BaseException as error:
        if opened is not None and opened.committed_despite(error):
            return Upgrade(opened.before, SCHEMA_VERSION)
        failure = failure_of(error, opened, target)
    del target, passphrase, backup, opened  # a traceback shows the locals of this frame
    raise failure


def _is_current(target: "AnyTarget", passphrase: str | bytes | None, timeout: float) -> bool:
    """The shortest way. False says nothing: the long way waits for as long as it may."""
    if isinstance(target, str | PathLike):
        return passphrase is None and is_current_file(file_of_name(fsdecode(target)), timeout)
    if not is_dbapi_connection(target) or target.in_transaction:
        return False
    try:
        return busy_timeout(target) <= timeout * 1000 and is_current(target)
    except Exception as error:
        if not is_locked(error):
            raise
        return False


def upgrade_target(
    target: Target, backup: str | None = None, *, dry_run: bool = False, repair: bool = False
) -> Upgrade:
    """Do what ``upgrade`` does, with errors as they come."""
    with target.opened(writing=True, create=not dry_run) as connection:
        done = done_at_once(connection, target, repair=repair, dry_run=dry_run)
        if done is None:
            _run_revisions(target, backup, dry_run, repair)
    return done or Upgrade(target.before, SCHEMA_VERSION)


def _run_revisions(target: Target, backup: str | None, dry_run: bool, repair: bool) -> None:
    """What ``alembic upgrade head`` does, without its globals."""
    from alembic.runtime.environment import EnvironmentContext

    from credential_db import scripts
    from credential_db.options import Options
    from credential_db.sqlite.alembic_internals import run_environment, steps_to

    script = scripts.directory()

    def upgrade(current: object, _: object) -> object:
        return steps_to(script, "head", current)

    config = scripts.config()
    config.attributes["options"] = Options(target, backup, dry_run, repair)
    environment = EnvironmentContext(
        config, script, fn=upgrade, as_sql=False, starting_rev=None, destination_rev="head"
    )
    try:
        run_environment(environment, "upgrade")
    finally:
        config.attributes.clear()


def status(
    target: "AnyTarget",
    *,
    passphrase: str | bytes | None = None,
    cipher_settings: Mapping[str, int] | None = None,
    timeout: float = TIMEOUT,
) -> Status:
    """Say what a database is, without changing or creating anything.

    Args:
        target: As for ``upgrade``.
        passphrase: As for ``upgrade``.
        cipher_settings: As for ``upgrade``.
        timeout: Seconds to wait for a lock that keeps even readers out.

    Raises:
        DatabaseBusy: Another program keeps it locked even for readers.
        NotADatabase: Garbage, or encrypted and the passphrase is missing or wrong.
        CredentialDBError: It cannot be read for another reason.
    """
    opened = None
    try:
        opened = Target(target, cipher=Cipher.given(passphrase, cipher_settings), timeout=timeout)
        return status_of_target(opened)
    except BaseException as error:
        failure = failure_of(error, opened, target)
    del target, passphrase, opened
    raise failure


def status_of_target(target: Target) -> Status:
    """Do what ``status`` does, with errors as they come."""
    with (
        target.opened(writing=False) as connection,
        plain_rows(connection),
        read_transaction(connection),
    ):
        return _status_of(connection)


def _status_of(connection: DBAPIConnection) -> Status:
    from credential_db import shim  # imported here, so that a process start does not pay for it
    from credential_db.sqlite import adoption
    from credential_db.sqlite.errors import SchemaTooNew, UnrecognizedSchema

    head = SCHEMA_VERSION
    try:
        version, stamped, agreed, missing, shape = shim.recognize(connection)
    except SchemaTooNew as error:
        return Status("ahead", error.version, head, str(error))
    except UnrecognizedSchema as error:
        return Status("unrecognized", None, head, str(error))
    if version is None:
        return Status("empty", None, head, "no schema yet")
    remarks = [f"without table {', '.join(missing)}"] if missing else []
    if not agreed:
        remarks.append("stamp and number disagree, and the next upgrade writes both anew")
    if is_marked(connection):
        remarks.append("old secrets may remain in free space, and the next upgrade removes them")
    state = "current"
    if not stamped:
        state = "legacy"
        remarks.append("not under Alembic yet")
    elif version < head or remarks:
        state = "behind"
    remarks += [
        f"lacks {line}"
        for line in adoption.differences(shape, shim.records_of_tables(shape, version))
    ]
    of_head = f" of {head}" if version < head and stamped else ""
    return Status(state, version, head, ", ".join([f"version {version}{of_head}", *remarks]))
