"""The Python interface: change a file, or tell what it is."""

from os import PathLike
from typing import TYPE_CHECKING, NamedTuple

from credential_db.current import is_current, is_current_file
from credential_db.head import SCHEMA_VERSION
from credential_db.opening import Opened, Outcome, Upgrade
from credential_db.opening import change as change_target
from credential_db.sqlite.driver import DBAPIConnection, is_locked, main_file
from credential_db.sqlite.errors import CredentialDBError, SchemaTooNew, UnrecognizedSchema
from credential_db.sqlite.files import foreign_sidecar, stat_if_exists
from credential_db.sqlite.obstacles import obstacles, warnings
from credential_db.sqlite.targets import Target, cleaned
from credential_db.sqlite.transaction import TIMEOUT, busy_timeout

if TYPE_CHECKING:
    from credential_db.sqlite.connections import Passphrase
    from credential_db.sqlite.targets import AnyTarget


class Status(NamedTuple):
    """What a file is.

    Attributes:
        state: ``missing``, ``empty``, ``legacy`` (recognised, not under Alembic yet), ``behind``,
            ``current``, ``ahead`` or ``unrecognized``.
        version: Its version; None if there is none, or none that can be trusted.
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


@cleaned
def upgrade(
    target: "AnyTarget",
    *,
    passphrase: str | bytes | None = None,
    timeout: float = TIMEOUT,
    backup: str | PathLike[str] | bool | None = None,
    dry_run: bool = False,
    repair: bool = False,
    create: bool = True,
) -> Upgrade:
    """Bring a database to the current version: all of it, or nothing.

    Any number of processes and threads may call this at the same time, on the same file too: one
    migrates, the others wait and find it done. On a current file it only reads, and imports no
    library; nor does it import one to create a new file.

    Args:
        target: A path, a database URL, an open ``sqlite3`` or ``sqlcipher3`` connection, or an
            SQLAlchemy ``Engine`` or ``Connection``. A connection stays open and is given back as
            it was.
        passphrase: Of an encrypted file: a ``str``, or ``bytes`` for a raw key.
        timeout: Seconds to wait for other programs' locks, in all.
        backup: Where to put a copy of the file first, if there is anything to change; True for a
            name of its own next to the file, which the log tells.
        dry_run: Do and check everything, then roll it back.
        repair: Restore what the tables of a current file have lost of their definitions, too.
        create: Create a missing file, for its owner alone.

    Returns:
        The versions before and after.

    Raises:
        SchemaTooNew: A newer release wrote the file.
        UnrecognizedSchema: Tables, number and stamp do not fit together.
        KeyConversionError: Stored SSH keys are not what their rows claim.
        DatabaseBusy: Another program held a lock for longer than the timeout.
        NotADatabase: Garbage; encrypted, and the passphrase is missing or wrong; or missing, with
            ``create=False``.
        ReadOnlyDatabase: The file needs a change and cannot be written.
        CredentialDBError: Anything else, such as a full disk. Whatever is raised, the file is as it
            was.
    """
    outcome = change(
        target,
        passphrase=passphrase,
        timeout=timeout,
        backup=backup,
        dry_run=dry_run,
        repair=repair,
        create=create,
    )
    return Upgrade(outcome.before, SCHEMA_VERSION)


@cleaned
def change(
    named: "AnyTarget",
    *,
    command: str = "upgrade",
    to: str = "head",
    passphrase: "str | bytes | Passphrase | None" = None,
    timeout: float = TIMEOUT,
    backup: str | PathLike[str] | bool | None = None,
    dry_run: bool = False,
    create: bool = True,
    **options: bool,
) -> Outcome:
    """Upgrade, downgrade or stamp; ``to`` is head, heads, base, N, vN, +N or -N."""
    target = Target(named, passphrase, timeout)
    if backup is not None and not isinstance(backup, bool):
        from credential_db.sqlite.backup import checked_backup_path  # not at process start

        backup = checked_backup_path(backup)
    is_upgrade = command == "upgrade"
    to_head = is_upgrade and to.removeprefix("v") in ("head", "heads", str(SCHEMA_VERSION))
    at_once = to_head and not options.get("repair")
    if at_once and _is_current(target):
        return Outcome(SCHEMA_VERSION, SCHEMA_VERSION)

    def migrate(opened: Opened) -> Outcome:
        from credential_db import migration, revisions  # Alembic and SQLAlchemy

        plan = revisions.plan(command, to, backup=backup, dry_run=dry_run, **options)
        outcome = migration.migrate(opened, plan)
        migration.logger.info("%s: %s", target.name, outcome)
        return outcome

    if is_upgrade and not to_head and target.is_missing():
        from credential_db.revisions import destination

        destination(to, None)  # before a file is created
    create = create and is_upgrade
    return change_target(target, migrate, at_once=at_once, create=create, dry_run=dry_run)


def _is_current(target: Target) -> bool:
    """Whether it is current, found out without waiting; False may also mean that it is locked."""
    connection = target.connection
    if target.passphrase or foreign_sidecar(target.file):
        return False
    if target.path:
        return is_current_file(target.path)
    if not connection or (target.timeout < TIMEOUT and busy_timeout(connection) > target.timeout):
        return False
    try:
        return is_current(connection)
    except Exception as error:
        if not is_locked(error):
            raise
        return False


@cleaned
def status(
    target: "AnyTarget", *, passphrase: str | bytes | None = None, timeout: float = TIMEOUT
) -> Status:
    """Tell what a database is, without changing or creating anything.

    Args:
        target: As for ``upgrade``.
        passphrase: As for ``upgrade``.
        timeout: Seconds to wait for a lock that keeps even readers out.

    Raises:
        DatabaseBusy: Another program keeps it locked even for readers.
        NotADatabase: Garbage, or encrypted and the passphrase is missing or wrong.
        CredentialDBError: It cannot be read for another reason.
    """
    return look(target, passphrase=passphrase, timeout=timeout)[0]


@cleaned
def look(
    named: "AnyTarget",
    *,
    passphrase: "str | bytes | Passphrase | None" = None,
    timeout: float = TIMEOUT,
) -> tuple[Status, tuple[str, ...]]:
    """What ``status`` tells, and what would block an upgrade, as sentences."""
    target = Target(named, passphrase, timeout)
    path = target.file
    found: tuple[CredentialDBError, ...] = ()
    if target.is_missing():
        status = Status("missing", None, SCHEMA_VERSION, "the file does not exist")
    elif foreign_sidecar(path):
        status = Status("empty", None, SCHEMA_VERSION, "the file is empty")
    else:
        with target.read() as connection:
            path = target.path or main_file(connection)
            status, found = _look(connection)
            if path and not target.path and not stat_if_exists(path):
                path = ""
    in_file = obstacles(path) if path else ()
    blockers = tuple(str(error) for error in (*found, *in_file))
    if status.state in ("current", "ahead", "unrecognized"):
        blockers = ()  # nothing is to be upgraded, or the detail already tells why it cannot be
    remarks = [status.detail, *blockers, *(warnings(path) if path else ())]
    return status._replace(detail="; ".join(remarks)), blockers


def _look(connection: DBAPIConnection) -> tuple[Status, tuple[CredentialDBError, ...]]:
    from credential_db import shim
    from credential_db.sqlite import scrub, table_copy

    head = SCHEMA_VERSION
    try:
        found = shim.identify(connection)
    except SchemaTooNew as error:
        return Status("ahead", error.version, head, str(error)), ()
    except UnrecognizedSchema as error:
        return Status("unrecognized", None, head, str(error)), ()
    version = found.version
    if version is None:
        return Status("empty", None, head, "the file has no schema yet"), ()
    remarks = [f"table {', '.join(found.missing)} is missing"] if found.missing else []
    state = "current"
    if not found.stamped:
        state = "legacy"
        remarks.append("not under Alembic yet")
    elif version < head or not found.agreed or found.missing:
        state = "behind"
    if found.stamped and not found.agreed:
        remarks.append("its stamps disagree (the next upgrade corrects them)")
    if scrub.is_marked(connection):
        remarks.append(
            "old secrets may remain in free space (the next start that can removes them)"
        )
    if lost := table_copy.differences(found.schema, found.snapshots):
        remarks.append(f"definitions that were lost: {'; '.join(lost)}")
    of_head = f" of {head}" if version < head and found.stamped else ""
    status = Status(state, version, head, "; ".join([f"version {version}{of_head}", *remarks]))
    if found.agreed:
        return status, ()  # definitions are repaired when a file is adopted
    return status, tuple(table_copy.obstacles(connection, found.schema, found.snapshots))
