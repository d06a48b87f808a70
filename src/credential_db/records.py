"""Each version as it is on disk: what ``tools/record.py`` has written down."""

from functools import cache
from pathlib import Path

from credential_db.head import SCHEMA_VERSION
from credential_db.sqlite.driver import DBAPIConnection
from credential_db.sqlite.shape import Shape, read_shape, shape_of_script

DIRECTORY = Path(__file__).parent / "records"


def script(version: int) -> str:
    """The statements that make an empty file one of this version, but for its stamps."""
    return (DIRECTORY / f"v{version}.sql").read_text(encoding="utf-8")


@cache
def record(version: int) -> Shape:
    """The shape of a version."""
    return shape_of_script(script(version))


def shape_of_file(connection: DBAPIConnection) -> Shape:
    """The shape of what a file has of this vault's, of whatever version each table is."""
    return read_shape(connection, tables_ever(), indexes_ever())


@cache
def tables_ever() -> frozenset[str]:
    """The names of this vault's tables, in any version."""
    return frozenset(
        table for version in range(SCHEMA_VERSION + 1) for table in record(version).columns
    )


@cache
def indexes_ever() -> frozenset[str]:
    """The names of the indexes that belong to any version."""
    return frozenset().union(*(record(version).indexes for version in range(SCHEMA_VERSION + 1)))
