"""What ``--sql`` prints: a script for the sqlite3 shell instead of a change of a file."""

from collections.abc import Collection
from itertools import chain

from alembic.migration import MigrationContext
from alembic.runtime.migration import MigrationInfo
from alembic.util import CommandError
from sqlalchemy import text

from credential_db import records
from credential_db.sqlite.alembic_internals import command_name, context, op_for
from credential_db.sqlite.stamps import STAMP_DDL, STAMP_TABLE, revision_of, version_of


def number_follows_stamp(
    ctx: MigrationContext, step: MigrationInfo, heads: Collection[str], run_args: object
) -> None:
    """Legacy software goes by PRAGMA user_version, so it moves with every stamp."""
    versions = [version_of(head) or 0 for head in heads]
    ctx.execute(text(f"PRAGMA user_version = {max(versions, default=0)}"))


def write_script() -> None:
    """Write SQL for the sqlite3 shell instead of changing a file."""
    context.configure(
        dialect_name="sqlite",
        literal_binds=True,
        transactional_ddl=True,
        on_version_apply=number_follows_stamp,
    )
    start = context.get_starting_revision_argument()
    migration = context.get_context()
    first, last = (version_of(str(end)) for end in (start, context.get_revision_argument()))
    if command_name() == "upgrade" and first is not None and last is not None and first > last:
        raise CommandError(f"Requested range {start}:{revision_of(last)} goes down")
    with context.begin_transaction(), op_for(migration):
        if command_name() == "upgrade" and start in (None, "base") and last is not None:
            # An empty file, in one shot: revisions that copy or convert rows have none to look at.
            stamp = f"INSERT INTO {STAMP_TABLE} VALUES ('{revision_of(last)}')"
            tables = [*records.record(last).statements.values(), (STAMP_DDL, stamp)]
            for statement in [*chain(*tables), f"PRAGMA user_version = {last}"]:
                migration.impl.static_output(f"{statement};")
            return
        if start not in (None, "base"):
            # A legacy file has no stamp yet for the script to move.
            context.execute(STAMP_DDL)
            context.execute(
                f"INSERT INTO {STAMP_TABLE} SELECT '{start}'"
                f" WHERE NOT EXISTS (SELECT 1 FROM {STAMP_TABLE})"
            )
        migration.run_migrations()
