"""Everything undocumented of Alembic's and SQLAlchemy's that is relied on, and why.

``tests/test_alembic_internals.py`` fails, and says which of these, when a release changes one.
"""

import contextlib
import traceback
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, cast

from alembic import command as alembic_command
from alembic import context as alembic_context
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import URL, Engine, create_engine
from sqlalchemy.event.base import Events
from sqlalchemy.pool import PoolProxiedConnection, StaticPool
from sqlalchemy.pool.events import PoolEvents

from credential_db.sqlite.driver import DBAPIConnection
from credential_db.sqlite.errors import CredentialDBError
from credential_db.sqlite.failures import bare, clean

if TYPE_CHECKING:
    from credential_db.sqlite.target import Target

# 1. Alembic's names ``alembic.context`` and ``alembic.op`` are one of each in a process, whichever
#    thread or program uses them. These two are one in each thread of control: a host's migrations
#    may run at the same time. A command of Alembic's makes one, and loads ``env.py`` by
#    ``ScriptDirectory.run_env``: by then, the one may be another thread's.

_environment: ContextVar[EnvironmentContext | None] = ContextVar("environment", default=None)
_operations: ContextVar[Operations] = ContextVar("operations")


def _current() -> EnvironmentContext:
    return _environment.get(None) or alembic_context._proxy  # type: ignore[attr-defined]  # not public


class _EnvironmentOfThread:
    def __getattr__(self, name: str) -> Any:
        return getattr(_current(), name)


class _OperationsOfThread:
    def __getattr__(self, name: str) -> Any:
        return getattr(_operations.get(), name)


context: EnvironmentContext = _EnvironmentOfThread()  # type: ignore[assignment]  # it has every name
op: Operations = _OperationsOfThread()  # type: ignore[assignment]  # likewise


@contextlib.contextmanager
def pinned() -> Iterator[None]:
    """Keep to the environment of the command that has loaded ``env.py``, whatever others do.

    Raises:
        CommandError: Alembic's one is another's by now: what this command is for cannot be told.
    """
    objects = (frame.f_locals.get("self") for frame, _ in traceback.walk_stack(None))
    script = next(found for found in objects if isinstance(found, ScriptDirectory))
    # Either may be missing, or left over from a command that was interrupted.
    environments = (_environment.get(None), getattr(alembic_context, "_proxy", None))
    environment = next((e for e in environments if getattr(e, "script", None) is script), None)
    if environment is None:
        raise CommandError(
            "another thread of this program runs a command of Alembic's at the same time, which "
            "Alembic is not made for: nothing was done; call credential_db.upgrade() instead, or "
            "run one command after the other"
        )
    token = _environment.set(environment)
    try:
        yield
    finally:
        _environment.reset(token)


@contextlib.contextmanager
def op_for(migration: MigrationContext, kind: type[Operations] = Operations) -> Iterator[None]:
    """Let ``op`` work on this migration for a while, as ``Operations.context`` does Alembic's."""
    token = _operations.set(kind(migration))
    try:
        yield
    finally:
        _operations.reset(token)


def take_heads_from(migration: MigrationContext, heads: Callable[[], tuple[str, ...]]) -> None:
    """Let a migration ask this for the file's revisions, instead of Alembic's own query."""
    migration.get_current_heads = heads  # type: ignore[method-assign]  # that is the point


def run_environment(environment: EnvironmentContext, command: str) -> None:
    """Run ``env.py`` for this environment without making it Alembic's one in the process.

    Args:
        environment: What Alembic's command would make.
        command: The name of that command.
    """
    environment.context_opts["command"] = command
    token = _environment.set(environment)
    try:
        environment.script.run_env()
    finally:
        _environment.reset(token)


# 2. What ``alembic.command.upgrade`` asks of the scripts, for a call that does not go through it.


def steps_to(script: ScriptDirectory, revision: str, current: Any) -> Any:
    """The steps from the current revisions up to another one."""
    return script._upgrade_revs(revision, current)


# 3. Which command an environment was made for is told nowhere, but the function that it hands to
#    ``EnvironmentContext(fn=…)`` is defined inside of the command's.


def command_name() -> str:
    """The name of the function of ``alembic.command`` that is being run.

    Of a program's own function, ``change`` where it goes to a revision, else ``read``.
    """
    options = _current().context_opts
    name = str(options["fn"].__qualname__).partition(".")[0]
    if "command" in options or not hasattr(alembic_command, name):
        return str(options.get("command", "change" if "destination_rev" in options else "read"))
    return name


def failure_of_command(error: BaseException, target: "Target | None") -> BaseException:
    """The error that a command is to end with, without anything that was in the database."""
    if isinstance(error, CommandError):
        return bare(error)  # it names revisions and files
    failure = clean(error, "the database") if target is None else target.clean(error)
    if target is not None:
        target.forget()  # the traceback of the new error will show it
    return failure


# 4. A program may listen to the events of all of SQLAlchemy's engines and pools: the recipes for
#    SQLite switch foreign keys on at each connect, and begin transactions. A pool with events of
#    its own class, and an engine that says it has none, are not reached by them.


class UnobservedPool(StaticPool):
    """A pool of one connection whose comings and goings nobody is told of."""


_names = PoolEvents.dispatch._event_names  # type: ignore[misc]  # it is one of the class
_events = {name: vars(PoolEvents)[name] for name in _names}
type("_NoEvents", (Events,), {**_events, "_dispatch_target": UnobservedPool})


def unobserved_engine(url: str | URL, **options: Any) -> Engine:
    """An engine of one connection, telling nobody what it does."""
    engine = create_engine(url, poolclass=UnobservedPool, **options)
    engine._has_events = False
    engine.dialect._has_events = False
    return engine


def driver_connection_of(pooled: PoolProxiedConnection) -> DBAPIConnection:
    """The driver's own connection behind SQLAlchemy's (documented, but of no type)."""
    return cast("DBAPIConnection", pooled.driver_connection)


# 5. What ``command.stamp`` and ``command.revision`` were called with. ``check`` compares, too.


def is_purge() -> bool:
    """Whether all stamps are to be deleted before one is written."""
    return bool(_current().context_opts.get("purge"))


def is_autogenerate() -> bool:
    """Whether the command compares the metadata with the database."""
    return bool(_current().context_opts["revision_context"].command_args["autogenerate"])


def refuse_branch(head: str) -> None:
    """Raise a ``CommandError`` where the new revision would not follow the head."""
    arguments = _current().context_opts["revision_context"].command_args
    if arguments["head"] not in (None, "head", head) or any(
        arguments[name] for name in ("splice", "branch_label", "version_path", "depends_on")
    ):
        raise CommandError(
            f"revisions are one line, and the next one follows {head}: leave out --head, --splice, "
            "--branch-label, --version-path and --depends-on"
        )


# 6. Whether batch mode copies a table is decided at the end of its block, by a method of its own.


class CarefulOperations(Operations):
    """Alembic's, on a file with rows, but for the copies of tables that Alembic makes itself."""

    @contextlib.contextmanager
    def batch_alter_table(self, table_name: str, *given: Any, **options: Any) -> Iterator[Any]:
        """Refuse to copy: it converts cells, and gives rows other rowids."""
        with super().batch_alter_table(table_name, *given, **options) as batch:
            yield batch
            if batch.impl._should_recreate():
                raise CredentialDBError(
                    f"op.batch_alter_table would copy table {table_name}, and change cells and "
                    "rowids. Nothing was changed; this is a mistake in the revision: op.copy_table "
                    "keeps them, and with recreate='never' SQLite alters in place what it can"
                )
