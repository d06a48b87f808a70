"""The one door: every Alembic command passes here, and what makes it safe is said here, once."""

import contextlib
import importlib.util
import logging
import logging.config
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from alembic import context
from alembic.migration import MigrationContext
from alembic.script import write_hooks
from alembic.util import CommandError
from sqlalchemy import text

from credential_db import scripts, shim
from credential_db.current import SCHEMA_VERSION, is_current
from credential_db.options import Options, ask_for_passphrase, options_of
from credential_db.schema import metadata
from credential_db.sqlite import autogenerate
from credential_db.sqlite.backup import back_up, refuse_existing
from credential_db.sqlite.connection import borrowed, plain_rows
from credential_db.sqlite.driver import DBAPIConnection
from credential_db.sqlite.engine import sqlalchemy_connection
from credential_db.sqlite.failures import clean
from credential_db.sqlite.scrub import scrub
from credential_db.sqlite.shape import Shape, column_names
from credential_db.sqlite.survival import Invariants

logger = logging.getLogger("credential_db")
config = context.config
script = context.script

at_command_line = config.cmd_opts is not None
CURRENT = shim.revision_of(SCHEMA_VERSION)


@write_hooks.register("ruff_where_installed")
def format_revision(path: str, _: object) -> None:
    """Format a new revision as the others are, on a machine that has ruff."""
    if importlib.util.find_spec("ruff"):
        subprocess.run([sys.executable, "-m", "ruff", "format", "--quiet", path], check=False)


def run() -> None:
    """Run the command that this environment was made for."""
    if at_command_line and config.config_file_name:
        # Elsewhere, logging is the host application's own.
        logging.config.fileConfig(config.config_file_name, disable_existing_loggers=False)
    options = None
    try:
        if context.is_offline_mode():
            write_script()
        else:
            options = options_of(config, context.get_x_argument(as_dictionary=True))
            if at_command_line:
                ask_for_passphrase(options.target)
            run_online(options)
        return
    except Exception as error:
        failure = options.target.clean(error) if options else clean(error, "the database")
    # Outside of the except block, or the error would carry what it came from.
    raise CommandError(str(failure)) if at_command_line else failure


def configure(**options: Any) -> MigrationContext:
    """Tell Alembic what every command is to know."""
    context.configure(
        target_metadata=metadata,
        transactional_ddl=True,
        transaction_per_migration=False,
        **options,
    )
    return context.get_context()


def write_script() -> None:
    """Write SQL for the sqlite3 shell instead of changing a file."""
    scripts.refuse_double_numbers(script)
    configure(dialect_name="sqlite", literal_binds=True, on_version_apply=number_follows_stamp)
    start = context.get_starting_revision_argument()
    with context.begin_transaction():
        if start not in (None, "base"):
            # A legacy file has no stamp yet for the script to move.
            context.execute(
                f"CREATE TABLE IF NOT EXISTS {shim.VERSION_TABLE}"
                " (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"
            )
            context.execute(
                f"INSERT INTO {shim.VERSION_TABLE} SELECT '{start}'"
                f" WHERE NOT EXISTS (SELECT 1 FROM {shim.VERSION_TABLE})"
            )
        context.run_migrations()


def run_online(options: Options) -> None:
    """Leave a file that needs nothing alone; only look at it, or change it."""
    goal = destination()
    target = options.target
    opened = (
        target.opened_to_read()
        if goal is None
        else target.opened_to_write(create=not options.dry_run)
    )
    with opened as connection:
        at_head = goal == CURRENT == script.get_current_head() and is_current(connection)
        if goal is None or at_head:
            config.attributes.update(before=SCHEMA_VERSION, after=SCHEMA_VERSION)
            look(connection)
        else:
            change(connection, options)


def destination() -> object:
    """The revision to go to; None for a command that goes nowhere, and so must not write."""
    try:
        return context.get_revision_argument() or "base"
    except KeyError:
        return None
    except CommandError:
        return "relative"  # such as +1; what else it may be, Alembic says


def look(connection: DBAPIConnection) -> None:
    """Run a command that only reads, on a legacy file as if it were stamped."""
    with plain_rows(connection), scripts.replayed(script) as (history, head):
        found = shim.recognize(connection, history)
        with (
            stamped_for_now(connection, found),
            sqlalchemy_connection(connection, writing=False) as wrapper,
        ):
            configure(
                connection=wrapper,
                dont_mutate=True,
                **autogenerate.options(connection, metadata, history, head),
            )
            context.run_migrations()


@contextlib.contextmanager
def stamped_for_now(connection: DBAPIConnection, found: shim.Found) -> Iterator[None]:
    """Show Alembic the version that the shim sees, in a temporary table."""
    if found.version is None or found.stamped:
        yield
        return
    revision = shim.revision_of(found.version)
    (query_only,) = connection.execute("PRAGMA query_only").fetchone()
    connection.execute("PRAGMA query_only = OFF")
    connection.execute(f"CREATE TEMP TABLE {shim.VERSION_TABLE} AS SELECT '{revision}' version_num")
    connection.execute(f"PRAGMA query_only = {query_only}")
    try:
        yield
    finally:
        connection.execute("PRAGMA query_only = OFF")
        connection.execute(f"DROP TABLE temp.{shim.VERSION_TABLE}")
        connection.execute(f"PRAGMA query_only = {query_only}")


def change(connection: DBAPIConnection, options: Options) -> None:
    """Detection, adoption, every revision, both stamps and the final checks: one transaction."""
    history = scripts.history(script)
    model = scripts.shape_of(metadata)
    target = options.target
    if options.backup:
        refuse_existing(options.backup)
    invariants = Invariants(connection)
    with (
        borrowed(connection, target.timeout),
        sqlalchemy_connection(connection, writing=True) as wrapper,
        contextlib.ExitStack() as without_change,
    ):
        migration = configure(
            connection=wrapper,
            on_version_apply=(number_follows_stamp, lambda **_: invariants.after_revision()),
        )
        with context.begin_transaction() as transaction:
            before = shim.recognize(connection, history, ignore_stamp=migration.purge)
            if options.backup and not options.dry_run:
                back_up(
                    connection,
                    options.backup,
                    passphrase=target.passphrase,
                    cipher_settings=target.cipher_settings,
                )
                without_change.callback(os.unlink, options.backup)
            held_pem = holds_pem(connection)
            adopt(connection, before, history, migration)
            invariants.remember((*history, model))
            context.run_migrations()
            drop_empty_stamp(connection)
            after = shim.recognize(connection, history)
            expected = [] if after.version is None else [history[after.version]]
            invariants.check([*expected, model] if after.version == len(history) - 1 else expected)
            replaced_pem = held_pem and not holds_pem(connection)
            if options.dry_run:
                assert transaction is not None, "transactional_ddl makes it one"
                transaction.rollback()
        without_change.pop_all()
        if options.dry_run:
            logger.info("Dry run: all of this works. It was rolled back, nothing was changed")
        elif replaced_pem:
            scrub(connection)
    config.attributes.update(before=before.version, after=after.version)


def adopt(
    connection: DBAPIConnection,
    found: shim.Found,
    history: Sequence[Shape],
    migration: MigrationContext,
) -> None:
    """Complete a recognised file, as legacy software did at every open, and stamp it."""
    if found.version is None or migration.purge:
        return
    for table in found.missing:
        for statement in history[found.version].statements[table]:
            connection.execute(statement)
    if not found.stamped:
        logger.info("Adopting a file of schema version %d", found.version)
        migration.stamp(script, shim.revision_of(found.version))


def number_follows_stamp(*, ctx: MigrationContext, heads: set[str], **_: Any) -> None:
    """Legacy software goes by PRAGMA user_version, so it moves with every stamp."""
    versions = [shim.version_of(head) or 0 for head in heads]
    ctx.execute(text(f"PRAGMA user_version = {max(versions, default=0)}"))


def drop_empty_stamp(connection: DBAPIConnection) -> None:
    """Below v0 a file is not under Alembic any more, and does not say so."""
    if not connection.execute(f"SELECT 1 FROM main.{shim.VERSION_TABLE}").fetchone():
        connection.execute(f"DROP TABLE main.{shim.VERSION_TABLE}")
        connection.execute("PRAGMA main.user_version = 0")


def holds_pem(connection: DBAPIConnection) -> bool:
    """Whether private keys are, or may have been, in the format of version 0."""
    return "private_pem" in column_names(connection, "ssh_keys")


run()
