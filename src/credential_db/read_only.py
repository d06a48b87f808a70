"""Commands that change no database: those that read one, and those that write a new revision."""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from alembic.util import CommandError
from sqlalchemy import Connection

from credential_db import records, scripts, shim
from credential_db.head import SCHEMA_VERSION
from credential_db.options import Options
from credential_db.remedies import run_on
from credential_db.schema import metadata
from credential_db.sqlite import adoption, alterations, autogenerate
from credential_db.sqlite.alembic_internals import (
    command_name,
    context,
    refuse_branch,
    take_heads_from,
)
from credential_db.sqlite.engine import sqlalchemy_connection
from credential_db.sqlite.files import exists
from credential_db.sqlite.lending import plain_rows
from credential_db.sqlite.stamps import revision_of, version_of
from credential_db.sqlite.transaction import read_transaction

logger = logging.getLogger("credential_db")


def read(options: Options) -> None:
    """Run a command that only reads, on a legacy file as if it were stamped."""
    with (
        options.target.opened(writing=False) as connection,
        plain_rows(connection),
        read_transaction(connection),
    ):
        found = shim.recognize(connection)
        path = options.target.path
        if command_name() == "current" and path and not exists(path):
            logger.warning("%s does not exist yet; run: %s upgrade head", path, run_on(path))
        if command_name() != "check":
            with sqlalchemy_connection(connection) as wrapper:
                _run(found.version, connection=wrapper)
            return
        lost = []
        if found.version == SCHEMA_VERSION and not found.missing:
            tables = shim.records_of_tables(found.shape, SCHEMA_VERSION)
            lost = adoption.differences(found.shape, tables)
    with _recorded(SCHEMA_VERSION) as head:
        _run(found.version, **autogenerate.options(metadata, head, ""))
    if found.missing:
        raise CommandError("Target database is not up to date.")
    if lost:
        raise CommandError(
            f"{options.target.name} lacks {'; '.join(lost)}: "
            "'credential-db -x db=PATH -x repair=true upgrade head' puts that right"
        )


def write_revision() -> None:
    """Write the next revision: the metadata, compared with the record of the head.

    Raises:
        CommandError: It would branch, or the newest one is not on record.
    """
    if command_name() == "merge":
        raise CommandError(
            "revisions are one line, v0, v1, v2 and so on, so there is nothing to merge: of two "
            "with the same number, the one that is not released yet takes the next"
        )
    newest = version_of(str(context.script.get_current_head())) or 0
    if newest > SCHEMA_VERSION:
        scripts.refuse_unrecorded(context.script)
    refuse_branch(revision_of(newest))
    with _recorded(newest) as head:  # the one before that on record, where it is to be made anew
        _run(newest, **autogenerate.options(metadata, head, revision_of(newest + 1)))


@contextlib.contextmanager
def _recorded(version: int) -> Iterator[Connection]:
    """A database in memory that is just what the record of a version says."""
    # Without Alembic's lines about a database: it is the record, and not the user's file.
    logger = logging.getLogger("alembic.runtime.migration")
    before, logger.disabled = logger.disabled, True
    try:
        with alterations.database_in_memory(records.script(version)) as database:
            yield database
    finally:
        logger.disabled = before


def _run(version: int | None, **configuration: Any) -> None:
    context.configure(dont_mutate=True, transactional_ddl=True, **configuration)
    migration = context.get_context()
    heads = () if version is None else (revision_of(version),)
    # What the shim sees, whether or not Alembic's table says so.
    take_heads_from(migration, lambda: heads)
    migration.run_migrations()
