"""The migration scripts: where they are, and the steps from one version to another."""

import inspect
import os
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.runtime.migration import MigrationStep
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from credential_db.head import SCHEMA_VERSION
from credential_db.migration import Plan
from credential_db.snapshots import MISSING, home
from credential_db.sqlite.errors import CredentialDBError
from credential_db.sqlite.stamps import revision_of, version_of


def config() -> Config:
    """Alembic's configuration for these scripts, without the logging of ``alembic.ini``."""
    scripts = os.path.join(home(), "alembic")
    versions = os.path.join(scripts, "versions")
    if not os.path.isdir(versions):
        raise CredentialDBError(MISSING)
    found = Config()
    found.set_main_option("script_location", scripts.replace("%", "%%"))
    found.set_main_option("path_separator", "os")
    found.set_main_option("revision_environment", "true")  # history shows where the file is
    if not any(name.endswith(".py") for name in os.listdir(versions)):
        found.set_main_option("sourceless", "true")
    return found


@cache
def directory() -> ScriptDirectory:
    """The scripts, read once in a process."""
    script = ScriptDirectory.from_config(config())
    refuse_unusable(script)
    return script


def refuse_unusable(script: ScriptDirectory) -> None:
    """Raise a ``CommandError`` if a revision does not take ``op`` as its argument, as in 1.1."""
    remedy = (
        "a revision takes op as an argument: 'def upgrade(op: Operations) -> None:', with "
        "'from credential_db.sqlite.operations import Operations'"
    )
    try:
        revisions = list(script.walk_revisions())
    except ImportError as error:
        if "revising" not in str(error):
            raise
        raise CommandError(f"a revision is of release 1.1 ({error}): {remedy}") from None
    for revision in revisions:
        for function in ("upgrade", "downgrade"):
            if "op" not in inspect.signature(getattr(revision.module, function)).parameters:
                raise CommandError(f"{function}() of revision {revision.revision}: {remedy}")


def destination(word: str, current: int | None) -> int | None:
    """The version that a word names: head, heads, base, N, vN, +N or -N; None for base."""
    if word in ("head", "heads"):
        return SCHEMA_VERSION
    if word == "base":
        return None
    number = version_of(f"v{word.removeprefix('v').lstrip('+-')}")
    found = number
    if number is not None and word[0] in "+-":
        found = (-1 if current is None else current) + (number if word[0] == "+" else -number)
        if found == -1:
            return None
    if found is None or not 0 <= found <= SCHEMA_VERSION:
        raise CredentialDBError(
            f"there is no version {word}: versions are v0 to {revision_of(SCHEMA_VERSION)}, head, "
            "base, and +N or -N relative to the current one"
        )
    return found


def plan(command: str, to: str, **options: Any) -> Plan:
    """How to ``upgrade``, ``downgrade`` or ``stamp`` to what a word names, without ``env.py``."""
    if command == "stamp":
        return Plan(_configure, stamp=lambda current: destination(to, current), **options)
    return Plan(_configure, steps=lambda heads: _steps(command, to, heads), **options)


def _configure(connection: Any, fn: Any, on_version_apply: Any) -> MigrationContext:
    callbacks = (on_version_apply,)
    options = {"fn": fn, "on_version_apply": callbacks, "transactional_ddl": True}
    return MigrationContext.configure(connection, opts=options)


def _steps(command: str, to: str, heads: Sequence[str]) -> Iterable[MigrationStep]:
    script = directory()
    current = version_of(heads[0]) if heads else None
    first = -1 if current is None else current
    end = destination(to, current)
    last = -1 if end is None else end
    up = command == "upgrade"
    if (last < first) if up else (last > first):
        other = "downgrade" if up else "upgrade"
        raise CredentialDBError(
            f"the file is at version {current}, and {command} does not go to "
            f"{'base' if end is None else f'version {end}'}: use {other}"
        )
    versions = range(first + 1, last + 1) if up else range(first, last, -1)
    make = MigrationStep.upgrade_from_script if up else MigrationStep.downgrade_from_script
    for version in versions:
        revision = script.get_revision(revision_of(version))
        assert revision is not None, "tools/snapshot.py has numbered them"
        yield make(script.revision_map, revision)
