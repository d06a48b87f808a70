"""Every Alembic command passes here, and what makes it safe is said here, once."""

from credential_db import scripts
from credential_db.at_shell import at_shell
from credential_db.current import done_at_once
from credential_db.migration import Migration, goes_to_head, may_create
from credential_db.options import Options, options_of
from credential_db.read_only import read, write_revision
from credential_db.sql_script import write_script
from credential_db.sqlite.alembic_internals import command_name, context, failure_of_command, pinned
from credential_db.sqlite.lending import borrowed


def change(options: Options) -> None:
    """Open, adopt, run, check, commit: one transaction, the file's lock before anything else."""
    target = options.target
    with target.opened(writing=True, create=may_create(options)) as connection:
        migration = Migration(connection, options)
        if goes_to_head():
            how = {"repair": options.repair, "dry_run": options.dry_run}
            if done := done_at_once(connection, target, **how):
                return migration.report(*done)
        with borrowed(connection):
            with migration.transaction():
                migration.adopt()
                migration.run()
                migration.check()
            migration.clean_up()


def run() -> None:
    """Run the command that this environment was made for."""
    config = context.config
    scripts.refuse_disorder(context.script)
    if command_name() in ("revision", "merge"):
        return write_revision()
    scripts.refuse_unrecorded(context.script)
    if context.is_offline_mode():
        return write_script()
    target = None
    try:
        options = options_of(
            config.attributes,
            context.get_x_argument(as_dictionary=True),
            config.get_main_option("sqlalchemy.url"),
            ask=config.cmd_opts is not None,
        )
        target = options.target
        writes = command_name() in ("upgrade", "downgrade", "stamp", "ensure_version", "change")
        return change(options) if writes else read(options)
    except BaseException as error:
        if target is not None and target.committed_despite(error):
            return
        failure = failure_of_command(error, target)
    raise failure  # outside of the except block, or it would carry what it came from


with pinned():
    at_shell(run) if hasattr(context.config.cmd_opts, "cmd") else run()
