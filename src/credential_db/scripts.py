"""Where the migration scripts are, and what each of them makes of an empty file."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, MetaData, create_engine

from credential_db.shim import version_of
from credential_db.sqlite.shape import Shape, read_shape


def config() -> Config:
    """Alembic's configuration over these scripts.

    ``alembic.ini`` and ``alembic/`` stand side by side: inside the installed package, or at the
    top of the checkout.
    """
    package = Path(__file__).parent
    home = package if (package / "alembic").is_dir() else package.parents[1]
    return Config(home / "alembic.ini")


def history(script: ScriptDirectory) -> Sequence[Shape]:
    """The shape of each version.

    Raises:
        CommandError: The revisions are not numbered v0, v1, v2 and so on, each one once.
    """
    with replayed(script) as (shapes, _):
        return shapes


@contextmanager
def replayed(script: ScriptDirectory) -> Iterator[tuple[Sequence[Shape], Connection]]:
    """Run the revisions on an empty database in memory.

    Yields:
        The shape of each version, and that database, at the last one.

    Raises:
        CommandError: The revisions are not numbered v0, v1, v2 and so on, each one once.
    """
    refuse_double_numbers(script)
    with empty_database() as connection:
        yield [shape(connection) for _ in _replay(script, connection)], connection


def _replay(script: ScriptDirectory, connection: Connection) -> Iterator[None]:
    migration = MigrationContext.configure(connection, opts={"transactional_ddl": True})
    with Operations.context(migration):
        for version, revision in enumerate(reversed(list(script.walk_revisions()))):
            if version_of(revision.revision) != version:
                raise CommandError(
                    f"revision {revision.revision} stands where v{version} was expected: "
                    "revisions are numbered in order, by 'alembic revision'"
                )
            revision.module.upgrade()
            yield


def shape_of(metadata: MetaData) -> Shape:
    """The shape that the metadata would give an empty file."""
    with empty_database() as connection:
        metadata.create_all(connection)
        return shape(connection)


@contextmanager
def empty_database() -> Iterator[Connection]:
    """One in memory, to try things on."""
    engine = create_engine("sqlite://")
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def shape(connection: Connection) -> Shape:
    """The shape of such a database."""
    driver_connection = connection.connection.driver_connection
    assert driver_connection is not None, "a connection in use has one"
    return read_shape(driver_connection)


def refuse_double_numbers(script: ScriptDirectory) -> None:
    """Two people may both have made the next revision, each in a branch of their own.

    Raises:
        CommandError: Two files have the same number; Alembic itself would take either.
    """
    files: dict[str, list[str]] = {}
    for file in sorted(Path(script.versions).glob("v*_*.py")):
        files.setdefault(file.name.partition("_")[0], []).append(file.name)
    for revision, names in files.items():
        if len(names) > 1:
            following = f"v{int(revision[1:]) + 1}"
            raise CommandError(
                f"{' and '.join(names)} are both revision {revision}: in the one that is not "
                f"released yet, set revision = '{following}' and down_revision = '{revision}', "
                f"and rename the file to {following}_..."
            )
