"""The steps of the recipe in ``env.py``: one upgrade, downgrade or stamp of one file."""

import contextlib
import logging
from collections.abc import Collection, Iterator

from alembic.migration import MigrationContext
from alembic.runtime.migration import MigrationInfo
from alembic.util import CommandError

from credential_db import records, shim
from credential_db.current import Upgrade, create_head
from credential_db.options import Options
from credential_db.scripts import HEAD
from credential_db.sql_script import number_follows_stamp
from credential_db.sqlite import adoption, scrub
from credential_db.sqlite.alembic_internals import (
    CarefulOperations,
    command_name,
    context,
    is_purge,
    op_for,
    take_heads_from,
)
from credential_db.sqlite.backup import Backup
from credential_db.sqlite.driver import DBAPIConnection, main_file
from credential_db.sqlite.engine import sqlalchemy_connection
from credential_db.sqlite.errors import NotADatabase
from credential_db.sqlite.files import exists, guard_before_change
from credential_db.sqlite.mark import is_due
from credential_db.sqlite.stamps import (
    STAMP_TABLE,
    drop_empty_stamp,
    revision_of,
    stamps,
    write_stamps,
)
from credential_db.sqlite.survival import Survivors
from credential_db.sqlite.table_copy import triggers_suspended
from credential_db.sqlite.transaction import write_transaction

logger = logging.getLogger("credential_db")


def destination() -> object:
    """The revision that the command goes to; None where it is relative, such as +1, or none."""
    try:
        revision = context.get_revision_argument()
    except (CommandError, KeyError):  # ``ensure_version`` has none
        return None
    return revision[0] if isinstance(revision, tuple) else revision  # ``heads``: there is one


def goes_to_head() -> bool:
    """Whether the command is an upgrade to the newest revision."""
    return command_name() == "upgrade" and destination() == HEAD


def may_create(options: Options) -> bool:
    """Whether a missing file is to be made: only to be upgraded.

    Raises:
        NotADatabase: It is missing, and there is nothing to downgrade or to stamp.
    """
    path = options.target.path
    if command_name() in ("upgrade", "change"):
        return not options.dry_run
    if path and not exists(path):
        raise NotADatabase(f"{path} does not exist: look at its name; 'upgrade head' makes it")
    return False


class Migration:
    """One change of one file.

    Args:
        connection: Lent for it.
        options: What was asked for.
    """

    def __init__(self, connection: DBAPIConnection, options: Options) -> None:
        """Nothing is read yet: the transaction has not begun."""
        self._connection = connection
        self._options = options
        self._backup: Backup | None = None
        self._adopted = self._purging = self._to_scrub = self._stamped = False
        self._repaired: list[str] = []
        self._converted: Collection[str] = ()
        self._after: int | None = None

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All of it or nothing; and a backup only of what was changed."""
        target = self._options.target
        file = main_file(self._connection)
        if file:
            guard_before_change(file)
        try:
            with write_transaction(self._connection, target, to_commit=not self._options.dry_run):
                yield
        except BaseException:
            if self._backup and not target.committed:
                self._backup.take_back()
            raise

    def adopt(self) -> None:
        """Tell what the file is, copy it if there is anything to do, and put it under Alembic.

        Raises:
            CredentialDBError: It is not one of ours, or the backup cannot be made.
        """
        connection = self._connection
        adoption.refuse_shadows(connection, records.tables_ever())
        self._purging = is_purge()
        found = shim.recognize(connection, purging=self._purging)
        self._options.target.before = found.version
        self._back_up(found)
        if found.version is None:
            if goes_to_head():
                create_head(connection)
        elif not self._purging:
            self._adopted = not found.stamped
            record = records.record(found.version)
            adoption.create_missing(connection, record, found.missing)
            if self._adopted or not found.agreed:
                self._stamp(found.version)
        shape = found.shape
        if found.version is None or found.missing:
            shape = records.shape_of_file(connection)  # with the tables that have been created
        self._survivors = Survivors(
            connection, shape, records.tables_ever(), records.indexes_ever()
        )

    def _back_up(self, found: shim.Found) -> None:
        path, target = self._options.backup, self._options.target
        if path is None or self._options.dry_run or found.version is None:
            return
        is_there = found.is_tidy and destination() == revision_of(found.version)
        # To clean up changes no content, and several starters of one upgrade may come to that.
        if is_there and not self._options.repair and not self._purging:
            return
        self._backup = Backup(path, self._connection)
        self._backup.take(target)

    def _stamp(self, version: int) -> None:
        if self._adopted:
            logger.info("Adopting a file of schema version %d", version)
        else:
            logger.warning(
                "Alembic's stamp and PRAGMA user_version disagreed: the tables are those of "
                "version %d, and both say so now",
                version,
            )
        with triggers_suspended(self._connection, STAMP_TABLE):
            write_stamps(self._connection, version)

    def run(self) -> None:
        """Let Alembic run the command's revisions."""
        with (
            sqlalchemy_connection(self._connection) as wrapper,
            triggers_suspended(self._connection, STAMP_TABLE),
        ):
            context.configure(
                connection=wrapper,
                transactional_ddl=True,
                on_version_apply=self._after_revision,
            )
            migration = context.get_context()
            # Past the converters of the connection's owner, who may have one for VARCHAR.
            take_heads_from(migration, self._heads)
            with op_for(migration, CarefulOperations):
                migration.run_migrations()
            self._converted = migration.opts.get("converted", ())
        drop_empty_stamp(self._connection)

    def _heads(self) -> tuple[str, ...]:
        return tuple(stamps(self._connection) or ())

    def _after_revision(
        self, ctx: MigrationContext, step: MigrationInfo, heads: Collection[str], run_args: object
    ) -> None:
        number_follows_stamp(ctx, step, heads, run_args)
        revision = None if step.is_stamp else step.up_revision
        declared = getattr(getattr(revision, "module", None), "changes_rows_of", ())
        self._survivors.check_rows(declared)

    def check(self) -> None:
        """Refuse to commit a loss, and make an adopted file exactly its recorded version.

        Raises:
            CredentialDBError: Something would be lost, or rows stand in the way.
        """
        connection = self._connection
        found = shim.recognize(connection)
        self._after, self._stamped = found.version, found.stamped
        record = None if self._after is None else records.record(self._after)
        if self._purging and found.stamped:
            shim.refuse_inexact(found.shape, self._after or 0)
        if self._after is not None and command_name() != "stamp":
            if self._adopted or self._options.repair:
                tables = shim.records_of_tables(found.shape, self._after)
                self._repaired = adoption.make_exact(connection, found.shape, tables)
            if self._adopted:
                scrub.mark(connection, records.tables_ever())
        shape = records.shape_of_file(connection) if self._repaired else found.shape
        self._survivors.check(shape, record.definition if record else ())
        self._to_scrub = is_due(connection)
        if self._to_scrub:
            scrub.refuse_damage(connection)

    def clean_up(self) -> None:
        """After the commit: leave nothing of replaced secrets, and say what was done."""
        if self._to_scrub and not self._options.dry_run:
            scrub.scrub(self._connection)
        self.report(self._options.target.before, self._after)

    def report(self, before: int | None, after: int | None) -> None:
        """Say in one line what was done, to a person and to whoever called.

        Args:
            before: The version that was found; None where there was no schema.
            after: The version now, likewise.
        """
        target, dry_run = self._options.target, self._options.dry_run
        outcome = "no schema" if after is None else str(Upgrade(before, after))
        if command_name() == "stamp":
            outcome = f"stamped {revision_of(after or 0) if self._stamped else 'base'}"
        elif before == after and self._adopted:
            outcome = f"adopted at version {after}"
        elif before is None and after is not None:
            outcome += f" (base -> {revision_of(after)})"
        if target.created or (target.path and not main_file(self._connection)):
            directory = f", with the directory {target.created[0]}" if target.created[1:] else ""
            outcome = f"new file{directory}: {outcome}"
        context.config.attributes.update(before=before, after=after)
        for line in self._repaired:
            logger.info("Put right: %s", line)
        remarks = [outcome, *self._converted]
        if self._backup:
            remarks.append(f"it was copied to {self._backup.path} before")
        elif self._options.backup and not dry_run:
            remarks.append("nothing was changed, so no backup was written")
        prefix = "Dry run, nothing was changed: " if dry_run else ""
        logger.info("%s%s: %s", prefix, target.name, "; ".join(remarks))
