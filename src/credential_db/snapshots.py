"""The schema of each version, as ``tools/snapshot.py`` wrote it."""

import os
from functools import cache

from credential_db.head import SCHEMA_VERSION
from credential_db.sqlite.driver import DBAPIConnection
from credential_db.sqlite.errors import CredentialDBError
from credential_db.sqlite.schema import Schema, read_schema, schema_of_script

MISSING = (
    "the migration scripts are not installed as files: install the wheel with pip, unpacked, or "
    "package the program with PyInstaller's --collect-all credential_db"
)
PACKAGE = os.path.dirname(os.path.abspath(__file__))
DIRECTORY = os.path.join(PACKAGE, "snapshots")


def home() -> str:
    """The folder of ``alembic/`` and ``docs/``: the installed package, or the top of a checkout."""
    inside = os.path.isdir(os.path.join(PACKAGE, "alembic"))
    return PACKAGE if inside else os.path.dirname(os.path.dirname(PACKAGE))


def script(version: int) -> str:
    """The statements that make an empty file one of this version, except for its stamps."""
    try:
        with open(os.path.join(DIRECTORY, f"v{version}.sql"), encoding="utf-8") as file:
            return file.read()
    except OSError:
        raise CredentialDBError(MISSING) from None


@cache
def snapshot(version: int) -> Schema:
    """The schema of a version."""
    return schema_of_script(script(version))


def schema_of_file(connection: DBAPIConnection) -> Schema:
    """The schema of this vault's tables in a file, whatever version each table has."""
    return read_schema(connection, tables_ever(), indexes_ever())


@cache
def tables_ever() -> frozenset[str]:
    """The names of this vault's tables in all versions."""
    return frozenset(name for schema in _all() for name in schema.columns)


@cache
def indexes_ever() -> frozenset[str]:
    """The names of the indexes that belong to any version."""
    entries = (entry for schema in _all() for entry in schema.objects)
    return frozenset(entry.name for entry in entries if entry.type == "index")


def _all() -> list[Schema]:
    return [snapshot(version) for version in range(SCHEMA_VERSION + 1)]
