"""What ``env.py`` lets Alembic's commands do: change a file, read a stand-in, print a script."""

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from typing import Any

from alembic.migration import MigrationContext
from alembic.util import CommandError
from sqlalchemy import URL, Connection, MetaData, create_engine, text
from sqlalchemy.pool import StaticPool

from credential_db import passphrases, revisions, shim
from credential_db.arguments import x_options
from credential_db.command_line import DEFAULT_FILE, NotUpToDate, UsageError, shown, typed
from credential_db.head import SCHEMA_VERSION
from credential_db.migration import Plan, migrate
from credential_db.opening import change
from credential_db.snapshots import script, snapshot
from credential_db.sqlite import autogenerate, table_copy
from credential_db.sqlite.driver import literal
from credential_db.sqlite.files import file_of_name
from credential_db.sqlite.operations import Operations
from credential_db.sqlite.stamps import (
    STAMP_DDL,
    STAMP_TABLE,
    revision_of,
    version_of,
    write_stamps,
)
from credential_db.sqlite.targets import Target, cleaned
from credential_db.sqlite.transaction import TIMEOUT

logger = logging.getLogger("credential_db")


class Given:
    """What a command is given besides its arguments: ``Config.attributes``, ``-x``, environment."""

    def __init__(self, context: Any) -> None:
        config = context.config
        given = {name.replace("_", "-"): value for name, value in config.attributes.items()}
        given |= x_options(context.get_x_argument(as_dictionary=False))
        self.file = ""
        named, passphrase = given.get("connection"), given.get("passphrase")
        if named is None:
            default = config.get_main_option("sqlalchemy.url") or DEFAULT_FILE
            named = given.get("db") or os.environ.get("CREDENTIAL_DB", default)
            if not named:
                raise UsageError("CREDENTIAL_DB is set but empty: name a database, or unset it")
            self.file = named = file_of_name(named)
            passphrase = passphrases.for_file(named) if passphrase is None else passphrase
        self.target = Target(named, passphrase, given.get("timeout", TIMEOUT))
        self.remedy = typed("upgrade", self.file) if self.file else "credential_db.upgrade()"
        self.create = given.get("create", True)
        self.options = {
            "backup": given.get("backup"),
            "dry_run": given.get("dry-run", False),
            "repair": given.get("repair", False),
        }


def run(context: Any) -> None:
    """Run the command that an environment was made for (``context`` is ``alembic.context``)."""
    with _without_log():
        context.configure(dialect_name="sqlite")  # only to be asked for its options
    options = dict(context.get_context().opts)
    command = options["fn"].__qualname__.partition(".")[0]  # defined in alembic.command's function
    revisions.refuse_unusable(context.script)
    if command == "check":
        _check(context)
    elif command == "revision":
        _write_revision(context, options)
    elif command == "merge":
        raise CommandError(
            "there is nothing to merge: versions are one line (v0, v1, v2, ...); of two revisions "
            "with the same number, the one that is not released takes the next"
        )
    elif context.is_offline_mode():
        _print_script(context, options)
    elif "destination_rev" in options:
        _change(context, options, is_upgrade=command == "upgrade")
    else:
        given, version = Given(context), None
        if given.target.is_missing():
            logger.warning("%s does not exist; run: %s", given.target.name, given.remedy)
        else:
            version = _identified(given.target).version
        with _stand_in(version, given.file) as connection:
            _run_on(context, connection)


def _change(context: Any, options: Mapping[str, Any], *, is_upgrade: bool) -> None:
    """Upgrade, downgrade or stamp."""
    given, steps = Given(context), options["fn"]
    destination = context.get_revision_argument()
    head = revision_of(SCHEMA_VERSION)

    def configure(connection: Connection, **more: Any) -> Any:
        context.configure(connection=connection, transactional_ddl=True, **more)
        return context.get_context()

    if "purge" in options:  # of stamp alone
        word = str((destination[0] if isinstance(destination, tuple) else destination) or "base")
        given.options["purge"] = options["purge"]
        plan = Plan(configure, stamp=lambda now: revisions.destination(word, now), **given.options)
    else:
        plan = Plan(configure, steps=lambda heads: steps(heads, None), **given.options)
    if create := is_upgrade and given.create and given.target.is_missing():
        create = bool(steps((), None))  # raises for a mistyped revision, before a file is created
    outcome = change(
        given.target,
        lambda opened: migrate(opened, plan),
        at_once=is_upgrade and not plan.repair and destination in (head, (head,)),
        create=create,
        dry_run=plan.dry_run,
    )
    logger.info("%s: %s", given.target.name, outcome)
    context.config.attributes.update(before=outcome.before, after=outcome.after)


@cleaned
def _identified(target: Target) -> shim.Found:
    with target.read() as connection:
        return shim.identify(connection)


@contextlib.contextmanager
def _without_log() -> Iterator[None]:
    """Without Alembic's lines about a database that is not the user's."""
    log = logging.getLogger("alembic.runtime.migration")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


@contextlib.contextmanager
def _stand_in(version: int | None, file: str = "") -> Iterator[Connection]:
    """A database in memory that has a version's tables and its stamps."""
    engine = create_engine("sqlite://", poolclass=StaticPool)
    engine.url = URL.create("sqlite", database=shown(file) or None)  # as ``current -v`` shows it
    with engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None, "the pool has just connected"
        if version is not None:
            driver.executescript(script(version))
            write_stamps(driver, version)
            driver.commit()
        yield connection
    engine.dispose()


def _run_on(context: Any, connection: Connection, **options: Any) -> None:
    options = {"connection": connection, "dont_mutate": True, **options}
    with _without_log():
        context.configure(transactional_ddl=True, **options)
        context.get_context().run_migrations()


def _metadata() -> MetaData:
    try:
        from credential_db.schema import metadata
    except Exception as error:  # such as of a naming convention that requires names
        raise CommandError(f"schema.py: {error}") from None
    return metadata


def _check(context: Any) -> None:
    """Compare schema.py with the snapshot of the head, and a file with both."""
    given = Given(context)
    name, remedy = given.target.name, given.remedy
    if given.target.is_missing():
        raise NotUpToDate(f"{name} does not exist; run: {remedy}")
    found = _identified(given.target)
    lost = table_copy.differences(found.schema, found.snapshots)
    if found.version != SCHEMA_VERSION or found.missing:
        raise NotUpToDate(f"{name} is not at version {SCHEMA_VERSION}; run: {remedy}")
    if lost:
        raise NotUpToDate(f"{name} lacks {'; '.join(lost)}; run: {remedy} --repair")
    with _stand_in(SCHEMA_VERSION) as head:
        compared = autogenerate.options(_metadata(), script(SCHEMA_VERSION), head, "")
        _run_on(context, **compared)


def _write_revision(context: Any, options: Mapping[str, Any]) -> None:
    """Write the next revision: schema.py compared with the snapshot of the newest version."""
    newest = version_of(str(context.script.get_current_head())) or 0
    arguments = options["revision_context"].command_args
    branches = ("splice", "branch_label", "version_path", "depends_on")
    if arguments["head"] not in (None, "head", "heads", revision_of(newest)) or any(
        arguments[name] for name in branches
    ):
        raise CommandError(
            f"revisions are one line, and the next one follows {revision_of(newest)}: leave out "
            "--head, --splice, --branch-label, --version-path and --depends-on"
        )
    if newest > SCHEMA_VERSION:  # a lower one: the newest was deleted, to be generated again
        raise CommandError(
            f"the newest revision is {revision_of(newest)}, and the newest snapshot is of version "
            f"{SCHEMA_VERSION}: run python tools/snapshot.py"
        )
    with _stand_in(newest) as head:
        following = revision_of(newest + 1)
        metadata = _metadata() if arguments["autogenerate"] else None
        _run_on(context, **autogenerate.options(metadata, script(newest), head, following))


def _print_script(context: Any, options: Mapping[str, Any]) -> None:
    """Print SQL for the sqlite3 shell instead of changing a file."""

    def number_follows(ctx: MigrationContext, step: Any, heads: Any, run_args: Any) -> None:
        number = max((version_of(head) or 0 for head in heads), default=0)
        ctx.execute(text(f"PRAGMA user_version = {number}"))

    context.configure(
        dialect_name="sqlite",
        literal_binds=True,
        transactional_ddl=True,
        on_version_apply=number_follows,
    )
    migration = context.get_context()
    start, end = context.get_starting_revision_argument(), context.get_revision_argument()
    last = version_of(str(end))
    with context.begin_transaction():
        if start not in (None, "base"):
            # A legacy file has no stamp yet for the script to change.
            context.execute(STAMP_DDL)
            context.execute(
                f"INSERT INTO {STAMP_TABLE} SELECT {literal(str(start))}"
                f" WHERE NOT EXISTS (SELECT 1 FROM {STAMP_TABLE})"
            )
        elif last is not None and "purge" not in options:
            # An empty file, in one shot: revisions that copy or convert rows find none.
            statements = [sql for each in snapshot(last).statements.values() for sql in each]
            stamp = f"INSERT INTO {STAMP_TABLE} VALUES ({literal(revision_of(last))})"
            for statement in (*statements, STAMP_DDL, stamp, f"PRAGMA user_version = {last}"):
                context.static_output(f"{statement};\n")
            return
        migration.run_migrations(op=Operations(migration))
