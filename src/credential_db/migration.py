"""One change of one open file: adopt, run, check, commit. The same for every caller."""

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from alembic.migration import MigrationContext
from alembic.runtime.migration import MigrationInfo
from sqlalchemy import Connection

from credential_db.opening import Opened, Outcome
from credential_db.shim import Found, identify, refuse_other_tables, refuse_too_new
from credential_db.snapshots import indexes_ever, schema_of_file, snapshot, tables_ever
from credential_db.sqlite import preservation, scrub
from credential_db.sqlite.backup import Backup, checked_backup_path, default_backup
from credential_db.sqlite.engine import sqlalchemy_connection
from credential_db.sqlite.files import warn
from credential_db.sqlite.operations import Operations
from credential_db.sqlite.stamps import (
    STAMP_TABLE,
    revision_of,
    stamps,
    user_version,
    version_of,
    write_stamps,
)
from credential_db.sqlite.table_copy import create, make_exact, triggers_suspended
from credential_db.sqlite.working import working

logger = logging.getLogger("credential_db")

PEM = "-----BEGIN OPENSSH PRIVATE KEY-----"


class Plan(NamedTuple):
    """What a command wants."""

    # Makes the migration context of a run, with options of EnvironmentContext.configure().
    configure: Callable[..., MigrationContext]
    # Of an upgrade or downgrade: the steps from the current heads.
    steps: Callable[[Sequence[str]], Iterable[Any]] = lambda _: ()
    # Of a stamp: the version to write, from the current one.
    stamp: Callable[[int | None], int | None] | None = None
    purge: bool = False  # ignore the present stamps
    backup: str | bool | None = None  # where to copy the file first; True for a name of its own
    dry_run: bool = False  # roll everything back
    repair: bool = False  # restore what the tables' definitions have lost


def migrate(opened: Opened, plan: Plan) -> Outcome:
    """Change an open file: all of it, or nothing."""
    return _Migration(opened, plan).run()


class _Migration:
    def __init__(self, opened: Opened, plan: Plan) -> None:
        self._opened = opened
        self._connection = opened.connection
        self._plan = plan
        self._backup: Backup | None = None
        self._checked = False

    def run(self) -> Outcome:
        connection, plan, transaction = self._connection, self._plan, self._opened.transaction()
        self._opened.prepare()
        with (
            working(connection, (*tables_ever(), STAMP_TABLE)) as settle,
            sqlalchemy_connection(connection) as wrapper,
        ):
            settle()
            try:
                with transaction:
                    if plan.purge:
                        refuse_too_new(user_version(connection), stamps(connection))
                        found = Found(None, False, False, (), schema_of_file(connection))
                    else:
                        found = identify(connection)
                    outcome = self._change(found, wrapper)
                    if outcome is None:
                        return Outcome(found.version, found.version)
                    to_scrub = scrub.is_marked(connection)
                    if to_scrub and not self._checked:
                        scrub.refuse_damage(connection)
                    if not plan.dry_run:
                        transaction.commit()
            finally:
                if self._backup and not transaction.committed:
                    self._backup.remove()
            if transaction.committed:
                self._clean_up(found, to_scrub)
        backup = self._backup.path if self._backup else None
        return outcome._replace(backup=backup, dry_run=plan.dry_run)

    def _change(self, found: Found, wrapper: Connection) -> Outcome | None:
        """Change the file inside the transaction; None if there is nothing to change."""
        if self._plan.stamp:
            return self._stamp(found, self._plan.stamp(found.version))
        steps: list[Any] = []
        context = self._plan.configure(
            wrapper, fn=lambda *_: steps, on_version_apply=self._after_revision
        )
        steps += self._plan.steps([] if found.version is None else [revision_of(found.version)])
        to_adopt = found.version is not None and not found.agreed
        if not (steps or to_adopt or found.missing or self._plan.repair):
            return None
        self._back_up(found.version)
        before, repaired = self._adopt(found)
        operations = Operations(context)
        with triggers_suspended(self._connection, STAMP_TABLE):
            context.run_migrations(op=operations)
        if stamps(self._connection) == []:  # downgraded to base
            write_stamps(self._connection, None)
        now = identify(self._connection)
        preservation.check(before, self._preserved(now), snapshots=now.snapshots)
        return Outcome(
            found.version,
            now.version,
            created=self._opened.created,
            adopted=not found.stamped,
            repaired=(*(["stamps"] if found.stamped and to_adopt else []), *repaired),
            remarks=tuple(operations.remarks),
        )

    def _stamp(self, found: Found, version: int | None) -> Outcome:
        if refuse_other_tables(found.schema, version, self._opened.target.name):
            warn(
                f"{self._opened.target.name}: other versions have the same tables as version "
                f"{version}; the rows are taken to be those of version {version}"
            )
        self._back_up(found.version)
        self._write_stamps(version)
        return Outcome(found.version, version, stamped=True)

    def _back_up(self, version: int | None) -> None:
        """Copy the file, which nothing has changed yet; a dry run only checks the place."""
        backup, name = self._plan.backup, self._opened.path
        if not backup or (version is None and not self._plan.purge):
            return
        path = default_backup(name, version) if backup is True else checked_backup_path(backup)
        made = Backup(path, connection=self._connection, passphrase=self._opened.target.passphrase)
        if self._plan.dry_run:
            made.check()
        else:
            self._backup = made
            made.take()

    def _adopt(self, found: Found) -> tuple[preservation.Preserved, list[str]]:
        """Make the file exactly one version, under Alembic, before any revision runs."""
        connection = self._connection
        tables = preservation.existing(connection, tables_ever())
        self._rows = preservation.count_rows(connection, tables)
        self._changes = connection.total_changes
        if found.version is None:
            return self._preserved(found), []
        for table in found.missing:
            create(connection, snapshot(found.version).statements[table])
        if not found.agreed:
            if found.stamped:
                warn(
                    f"{self._opened.target.name}: Alembic's stamp and PRAGMA user_version disagreed"
                    f"; the tables are those of version {found.version}, and both name it now"
                )
            self._write_stamps(found.version)
        if not found.agreed or scrub.application_id(connection):
            # Other software has written to the file; or release 1.1 could not mark it.
            scrub.mark(connection)
        self._checked = not found.agreed or self._plan.repair
        if self._checked:
            scrub.refuse_damage(connection)
        before = self._preserved(found)
        if found.agreed and not self._plan.repair:
            return before, []
        if found.missing:
            found = found._replace(schema=schema_of_file(connection))
        return before, make_exact(connection, found.schema, found.snapshots)

    def _write_stamps(self, version: int | None) -> None:
        with triggers_suspended(self._connection, STAMP_TABLE):
            write_stamps(self._connection, version)

    def _preserved(self, found: Found) -> preservation.Preserved:
        return preservation.preserved(self._connection, found.schema, tables_ever(), indexes_ever())

    def _after_revision(self, ctx: Any, step: MigrationInfo, heads: Any, run_args: Any) -> None:
        """Older programs read the number, so it changes with every stamp; and count the rows."""
        number = max((version_of(head) or 0 for head in heads), default=0)
        self._connection.execute(f"PRAGMA main.user_version = {number}")
        declared = getattr(getattr(step.up_revision, "module", None), "changes_rows_of", ())
        tables = preservation.existing(self._connection, tables_ever())
        changes, self._changes = self._changes, self._connection.total_changes
        # The stamp is one change. To count would read the largest index once more.
        if self._changes - changes > 1 or self._rows.keys() != tables.keys() or declared:
            before, self._rows = self._rows, preservation.count_rows(self._connection, tables)
            preservation.check_rows(before, self._rows, declared, tables_ever())

    def _clean_up(self, found: Found, to_scrub: bool) -> None:
        """After the commit nothing is an error any more."""
        name = self._opened.target.name
        try:
            if to_scrub:
                scrub.scrub(self._connection, name)
            if "private_pem" in found.schema.columns.get("ssh_keys", ()):
                copies = preservation.tables_that_contain(self._connection, PEM, tables_ever())
                if copies:
                    what = "tables of your own still contain private keys in the old format"
                    warn(f"{name}: {what}: {', '.join(copies)}")
        except Exception as error:
            warn(f"{name}: {type(error).__name__} after the commit")
