"""The Python interface: change a file, or tell what it is."""

from os import PathLike
from typing import TYPE_CHECKING, Any, NamedTuple

from credential_db.current import is_current, is_current_file
from credential_db.head import SCHEMA_VERSION
from credential_db.opening import Opened
from credential_db.opening import change as change_target
from credential_db.outcome import Outcome, Upgrade
from credential_db.sqlite.driver import is_locked
from credential_db.sqlite.files import foreign_sidecar
from credential_db.sqlite.targets import Target, cleaned
from credential_db.sqlite.transaction import TIMEOUT, busy_timeout

if TYPE_CHECKING:
    from credential_db.sqlite.cipher import Passphrase
    from credential_db.sqlite.targets import AnyTarget

_HEAD = str(SCHEMA_VERSION)


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
    opened = Target(target, passphrase, timeout)
    options = {"dry_run": dry_run, "repair": repair, "create": create}
    outcome = _change(opened, "upgrade", "head", backup=backup, **options)
    return Upgrade(outcome.before, SCHEMA_VERSION)


@cleaned
def change(
    named: "AnyTarget",
    *,
    command: str = "upgrade",
    to: str = "head",
    passphrase: "str | bytes | Passphrase | None" = None,
    timeout: float = TIMEOUT,
    **options: Any,
) -> Outcome:
    """Upgrade, downgrade or stamp a database.

    Args:
        named: As for ``upgrade``.
        command: ``upgrade``, ``downgrade`` or ``stamp``.
        to: head, heads, base, N, vN, +N or -N.
        passphrase: As for ``upgrade``.
        timeout: As for ``upgrade``.
        options: As for ``upgrade``; and ``purge`` for a stamp that ignores the present ones.

    Raises:
        CredentialDBError: As for ``upgrade``; or there is no such version.
    """
    return _change(Target(named, passphrase, timeout), command, to, **options)


def _change(
    target: Target,
    command: str,
    to: str,
    *,
    backup: str | PathLike[str] | bool | None = None,
    create: bool = True,
    **options: bool,
) -> Outcome:
    copy = backup
    if backup is not None and not isinstance(backup, bool):
        from credential_db.sqlite.backup import checked_backup_path  # not at process start

        copy = checked_backup_path(backup)
    to_head = command == "upgrade" and to.removeprefix("v") in ("head", "heads", _HEAD)
    repair, dry_run = options.get("repair", False), options.get("dry_run", False)
    if to_head and not repair and _is_current(target):
        return Outcome(SCHEMA_VERSION, SCHEMA_VERSION)

    def migrate(opened: Opened) -> Outcome:
        from credential_db import migration, revisions  # Alembic and SQLAlchemy

        plan = revisions.plan(command, to, backup=copy, **options)
        outcome = migration.migrate(opened, plan)
        migration.logger.info("%s: %s", opened.name, outcome)
        return outcome

    if command == "upgrade" and not to_head and target.is_missing():
        from credential_db.revisions import destination

        destination(to, None)  # before a file is created
    create = create and command == "upgrade"
    return change_target(
        target, migrate, to_head=to_head, create=create, dry_run=dry_run, repair=repair
    )


def _is_current(target: Target) -> bool:
    """The shortest way, which does not wait. If not, look again and longer."""
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
    from credential_db.inspection import inspect

    return inspect(Target(target, passphrase, timeout))[0]


@cleaned
def look(
    named: "AnyTarget",
    *,
    passphrase: "str | bytes | Passphrase | None" = None,
    timeout: float = TIMEOUT,
) -> tuple[Status, tuple[str, ...]]:
    """What ``status`` tells, and what would block an upgrade, as sentences.

    Raises:
        CredentialDBError: As for ``status``.
    """
    from credential_db.inspection import inspect

    return inspect(Target(named, passphrase, timeout))
