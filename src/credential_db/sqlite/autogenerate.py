"""Autogenerate for SQLite: two databases in memory are compared, the code is tried, then written.

The metadata is compared with the snapshot of the head, not with a file. Alembic's own comparison
reports false differences on SQLite and overlooks CHECK, AUTOINCREMENT and primary keys, so it is
given nothing to compare.
"""

import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from sqlite3 import Connection, Error
from typing import Any

from alembic.autogenerate import render_python_code, renderers
from alembic.autogenerate.api import AutogenContext
from alembic.migration import MigrationContext
from alembic.operations import ops
from alembic.script import write_hooks
from alembic.util import CommandError
from sqlalchemy import BindParameter, MetaData, create_mock_engine
from sqlalchemy.dialects.sqlite.base import SQLiteCompiler
from sqlalchemy.exc import SQLAlchemyError

from credential_db.sqlite.alterations import Code, changes, database, differences
from credential_db.sqlite.engine import sqlalchemy_connection
from credential_db.sqlite.operations import Operations
from credential_db.sqlite.schema import read_schema, schema_of_script, tokens


@write_hooks.register("ruff_if_installed")
def format_revision(path: str, _: object) -> None:
    """Format a new revision as the others are, if ruff is installed."""
    if importlib.util.find_spec("ruff"):
        subprocess.run([sys.executable, "-m", "ruff", "format", "--quiet", path], check=False)


@write_hooks.register("python_script")
def run_script(path: str, options: dict[str, str]) -> None:
    """Run the script that the ini file names, with this Python: tools/snapshot.py."""
    command = [sys.executable, options["script"]]
    result = subprocess.run(command, check=False, stderr=subprocess.PIPE, text=True)
    if result.returncode:  # as for an empty revision, which is still to be filled in
        reason = result.stderr.strip().removeprefix("FAILED: ")
        sys.stderr.write(f"{path} is written, but has no snapshot yet: {reason}\n")


def options(
    metadata: MetaData | None, snapshot_script: str, connection: object, next_revision: str
) -> dict[str, Any]:
    """What ``context.configure`` needs to compare the metadata with a snapshot, if it is given.

    Alembic finds its stamp in the connection. ``alembic check`` has no next revision.
    """

    def process(
        context: MigrationContext, _: object, directives: list[ops.MigrationScript]
    ) -> None:
        (directive,) = directives
        directive.rev_id = next_revision or directive.rev_id
        if metadata is not None:
            both = both_ways(snapshot_script, script_of_metadata(metadata))
            directive.upgrade_ops, directive.downgrade_ops = both
            if next_revision and not both[0].ops and context.config:
                directives.clear()
                context.config.print_stdout(
                    "Nothing to write: schema.py and the snapshot of the head are equal. For a "
                    'version that changes only rows, run: alembic revision -m "what it does"'
                )

    return {
        "connection": connection,
        "target_metadata": MetaData(),
        "include_name": lambda _name, kind, _parents: kind != "table",
        "process_revision_directives": process,
    }


class _Compiler(SQLiteCompiler):
    """Refuses a text with a parameter, for which SQLAlchemy would write NULL."""

    def visit_bindparam(self, bindparam: BindParameter[Any], *args: Any, **options: Any) -> str:
        if bindparam.required:
            raise CommandError(
                f"to SQLAlchemy, :{bindparam.key} in a text is a parameter, and it would write "
                "NULL: put a backslash before the colon in schema.py"
            )
        return str(super().visit_bindparam(bindparam, *args, **options))  # type: ignore[no-untyped-call]


def script_of_metadata(metadata: MetaData) -> str:
    """The statements that create the metadata's tables in an empty database."""
    statements: list[str] = []

    def collect(statement: Any, *_: object, **__: object) -> None:
        statements.append(laid_out(str(statement.compile(dialect=engine.dialect))))

    engine = create_mock_engine("sqlite://", collect)
    engine.dialect.statement_compiler = _Compiler
    try:
        metadata.create_all(engine, checkfirst=False)
        script = ";\n".join(statements)
        schema = schema_of_script(script)
    except (SQLAlchemyError, Error) as error:
        raise CommandError(f"the tables of schema.py cannot be created: {error}") from None
    for table, lines in schema.definitions.items():
        if "WITHOUT ROWID" in lines:
            raise CommandError(
                f"table {table} is WITHOUT ROWID, but rows are copied and converted by their "
                "rowid: remove sqlite_with_rowid=False"
            )
    return script


def laid_out(statement: str) -> str:
    """With four spaces for a tab, and indented as if its last line were not."""
    neat = re.sub(" *\n", "\n", statement.strip().expandtabs(4))
    *_, indentation = re.findall("^ *", neat, re.M)
    neat = neat.replace(f"\n{indentation}", "\n")
    return neat if tokens(neat) == tokens(statement) else statement  # a string would change


def both_ways(before: str, after: str) -> tuple[ops.UpgradeOps, ops.DowngradeOps]:
    """The operations from one script to another and back, executed once."""
    upgrade = ops.UpgradeOps(list(map(_Change, changes(before, after))))
    downgrade = ops.DowngradeOps(list(map(_Change, changes(after, before, down=True))))
    with closing(database(before)) as connection:
        for way, operations, script in (("up", upgrade, after), ("down", downgrade, before)):
            names: dict[str, Any] = {}
            try:
                exec(f"def step(op):\n    {render_python_code(operations)}", names)  # noqa: S102
                run(names["step"], connection)
                wrong = differences(read_schema(connection).lines, schema_of_script(script).lines)
            except Exception as error:
                wrong = [f"{type(error).__name__}: {getattr(error, 'orig', error)}"]
            if wrong:
                raise CommandError(
                    f"the {way}grade cannot be generated ({'; '.join(wrong)}): write this "
                    "revision by hand, starting with alembic revision -m, and run python "
                    "tools/snapshot.py"
                )
    return upgrade, downgrade


class _Change(ops.MigrateOperation):
    """Code of a revision, whose comments ``alembic check`` prints."""

    def __init__(self, code: Code) -> None:
        self.code = code

    def to_diff_tuple(self) -> tuple[str, ...]:
        return tuple(line for line in self.code if line.startswith("#"))


@renderers.dispatch_for(_Change)
def _render(_: AutogenContext, change: _Change) -> Code:
    return change.code


def run(step: Callable[..., None], connection: Connection) -> None:
    """Call the ``upgrade`` or ``downgrade`` of a revision on a database in memory."""
    with sqlalchemy_connection(connection) as wrapper:
        step(op=Operations(MigrationContext.configure(wrapper)))
