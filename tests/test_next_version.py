"""What has to change together when the schema does. Each message says exactly what to do."""

import pprint
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import NoReturn

import pytest
from alembic.script import ScriptDirectory

import credential_db
from credential_db import current, scripts
from credential_db.shim import version_of
from credential_db.sqlite.shape import Shape, read_shape

SCHEMAS = Path(__file__).parent / "schemas"

script = ScriptDirectory.from_config(scripts.config())
history = scripts.history(script)
head = version_of(script.get_current_head() or "")


def ask(what: str) -> NoReturn:
    """Fail with a text to be copied, so without pytest's marks in the margin."""
    pytest.fail(what, pytrace=False)


def test_schema_version_is_the_head() -> None:
    if head != current.SCHEMA_VERSION:
        ask(f"in src/credential_db/current.py, set SCHEMA_VERSION = {head}")


def test_the_columns_checked_at_process_start_are_those_of_the_metadata() -> None:
    columns = {
        name: tuple(column.name for column in table.columns)
        for name, table in credential_db.metadata.tables.items()
    }
    known = {name: set(value) for name, value in current.COLUMNS.items()}
    if known != {name: set(value) for name, value in columns.items()}:
        literal = pprint.pformat(columns, width=90, sort_dicts=False)
        ask(f"in src/credential_db/current.py, set COLUMNS to\n{literal}")


def test_the_revisions_arrive_at_the_metadata() -> None:
    """CHECK, AUTOINCREMENT and primary keys too, which autogenerate does not compare."""
    found, wanted = history[-1].definition, scripts.shape_of(credential_db.metadata).definition
    if found != wanted:
        differences = [
            *(f"  only by the revisions: {line}" for line in sorted(found - wanted)),
            *(f"  only in the metadata:  {line}" for line in sorted(wanted - found)),
        ]
        ask(
            "the revisions and src/credential_db/schema.py differ; run 'alembic revision "
            "--autogenerate', or repair the newest revision while it is not released:\n"
            + "\n".join(differences)
        )


def schema_file(version: int) -> Shape:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript((SCHEMAS / f"v{version}.sql").read_text())
        return read_shape(connection)


@pytest.mark.parametrize("version", range(len(history)))
def test_each_version_is_on_record(version: int) -> None:
    """What is on users' disks does not change: neither may the revision that made it."""
    file = SCHEMAS / f"v{version}.sql"
    statements = [sql for table in history[version].statements.values() for sql in table]
    text = ";\n".join(statements) + ";\n"
    if not file.exists():
        ask(
            f"write tests/schemas/v{version}.sql, for files of this version to be tested with "
            f"when there is a newer one:\n{text}"
        )
    differences = history[version].definition ^ schema_file(version).definition
    if differences:
        ask(
            f"revision v{version} is on users' disks and must not change any more: "
            f"{sorted(differences)}. If it is not released yet, write tests/schemas/"
            f"v{version}.sql anew:\n{text}"
        )


def test_revisions_are_numbered_without_a_gap() -> None:
    assert [revision.revision for revision in reversed(list(script.walk_revisions()))] == [
        f"v{number}" for number in range(len(history))
    ]


def test_revisions_import_no_live_schema() -> None:
    for file in Path(script.versions).glob("*.py"):
        assert "credential_db.schema" not in file.read_text(), (
            f"{file.name} would change whenever the schema does: write the tables it needs into it"
        )
