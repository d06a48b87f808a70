"""Autogenerate for SQLite: what differs, the next number, and code that alters without loss.

The metadata is compared with the record of the head, in memory, whatever file is around. Alembic
reports differences that are none on SQLite and misses real ones (CHECK, AUTOINCREMENT, primary
keys), so definitions are compared here, line by line, and tried out on SQLite itself.
"""

import importlib.util
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import sqlalchemy
from alembic.autogenerate import render_python_code
from alembic.migration import MigrationContext
from alembic.operations import ops
from alembic.script import write_hooks
from alembic.util import CommandError
from sqlalchemy import Connection, MetaData, Table
from sqlalchemy.dialects import sqlite

from credential_db.sqlite.alembic_internals import context, is_autogenerate, op, op_for
from credential_db.sqlite.alterations import (
    database_in_memory,
    shape_of,
    shape_of_metadata,
    transition,
)
from credential_db.sqlite.driver import quoted
from credential_db.sqlite.reflection import creation, reflect
from credential_db.sqlite.shape import Shape
from credential_db.sqlite.steps import Code, commented


@write_hooks.register("ruff_where_installed")
def format_revision(path: str, _: object) -> None:
    """Format a new revision as the others are, on a machine that has ruff."""
    if importlib.util.find_spec("ruff"):
        subprocess.run([sys.executable, "-m", "ruff", "format", "--quiet", path], check=False)


@write_hooks.register("python_script")
def run_script(path: str, options: dict[str, str]) -> None:
    """Run the script that the ini file names, with this Python: tools/record.py."""
    command = [sys.executable, options["script"]]
    result = subprocess.run(command, check=False, stderr=subprocess.PIPE, text=True)
    if result.returncode:  # as of an empty revision, which is still to be filled in
        reason = result.stderr.strip().removeprefix("FAILED: ")
        sys.stderr.write(f"{path} is written, and not on record yet: {reason}\n")


def options(metadata: MetaData, head: Connection, next_revision: str) -> dict[str, Any]:
    """What ``context.configure`` is to know to compare, and to write a revision.

    Args:
        metadata: What the tables are to be.
        head: To a database in memory that the record of the head has made.
        next_revision: Given to the new revision, whatever was asked for; empty to compare alone.
    """
    shape_of_metadata(metadata)  # before Alembic looks at it, and fails in words of its own

    def process(_: object, __: object, directives: list[ops.MigrationScript]) -> None:
        (directive,) = directives
        directive.rev_id = next_revision
        if not is_autogenerate():
            return
        upgrade, downgrade = both_ways(metadata, head)
        if not upgrade.ops and next_revision:
            directives.clear()
            context.config.print_stdout("The metadata is just what is on record: nothing to write")
        directive.upgrade_ops = upgrade
        directive.downgrade_ops = downgrade

    return {
        "connection": head,
        "target_metadata": metadata,
        # Tables are compared below; Alembic would reflect them, and report what is none.
        "include_name": lambda _name, kind, _parents: kind != "table",
        "include_object": lambda _object, _name, kind, *_: kind != "table",
        "process_revision_directives": process,
        "render_as_batch": True,
    }


def both_ways(metadata: MetaData, head: Connection) -> tuple[ops.UpgradeOps, ops.DowngradeOps]:
    """The steps from the head to the metadata and back, tried out.

    Raises:
        CommandError: Nobody can tell what is meant, or the steps make something else.
    """
    recorded, wanted = shape_of(head), shape_of_metadata(metadata)
    steps, back = _steps(metadata, wanted, head)
    upgrade, downgrade = ops.UpgradeOps(steps), ops.DowngradeOps(back)
    script = ";\n".join(sql for statements in recorded.statements.values() for sql in statements)
    with database_in_memory(script) as database:
        for way, there, shape in (("up", upgrade, wanted), ("down", downgrade, recorded)):
            try:
                run(there, database)
                made = shape_of(database).definition
                wrong = [f"+ {line}" for line in sorted(made - shape.definition)]
                wrong += [f"- {line}" for line in sorted(shape.definition - made)]
            except Exception as error:
                wrong = [f"{type(error).__name__}: {getattr(error, 'orig', error)}"]
            if wrong:
                raise CommandError(
                    f"the way {way} cannot be generated ({'; '.join(wrong)}): write this revision "
                    "by hand, from alembic revision -m, and run tools/record.py"
                )
    return upgrade, downgrade


def run(steps: ops.UpgradeOps | ops.DowngradeOps, database: Connection) -> None:
    """Run steps as the code that a revision will say."""
    migration = MigrationContext.configure(database)
    code = render_python_code(steps, render_as_batch=True, migration_context=migration)
    names: dict[str, Any] = {"op": op, "sa": sqlalchemy, "sqlite": sqlite}
    exec(f"def step():\n    {code}", names)  # noqa: S102, it is what is to be tried
    with op_for(migration):
        names["step"]()


def _steps(
    metadata: MetaData, model: Shape, head: Connection
) -> tuple[list[ops.MigrateOperation], list[ops.MigrateOperation]]:
    """The steps from the head to the metadata, of that shape, and back."""
    for line in model.definition:
        if line.endswith(": WITHOUT ROWID"):
            raise CommandError(f"{line}: rows are copied and converted by rowid; leave that out")
    renamed = _rename_tables(model, head)
    before = shape_of(head)
    created = [table for table in metadata.sorted_tables if table.name not in before.columns]
    dropped = [reflect(head, name) for name in before.columns if name not in model.columns]
    upgrade: list[ops.MigrateOperation] = [_table_renamed(*pair) for pair in renamed]
    downgrade: list[ops.MigrateOperation] = []
    for name in sorted(model.columns.keys() & before.columns):
        differences = _differences(before.of(name), model.of(name))
        if differences:
            recorded, wanted = reflect(head, name), metadata.tables[name]
            upgrade += [*differences, *transition(recorded, wanted)]
            downgrade += [
                *_differences(model.of(name), before.of(name)),
                *transition(wanted, recorded, back=True),
            ]
    for table in created:
        upgrade += creation(table)
        downgrade[:0] = _dropped(table)
    names = ", ".join(each.name for each in created)
    becomes = f"If it is to become {names}, write another revision instead, that renames it alone, "
    for table in dropped:
        upgrade += _dropped(table, f"{becomes}and one for the rest." if created else "")
        downgrade += creation(table)
    downgrade += [_table_renamed(new, old) for old, new in renamed]
    return upgrade, downgrade


def _dropped(table: Table, remark: str = "") -> list[ops.MigrateOperation]:
    declared = f'changes_rows_of = ("{table.name}",)'
    stops = f"Where it has rows, this stops until the revision says: {declared} {remark}"
    return [
        Code(commented(stops.rstrip()), ("drop_table", table.name)),
        ops.DropTableOp.from_table(table),
    ]


def _rename_tables(model: Shape, head: Connection) -> list[tuple[str, str]]:
    """Rename each table that is gone to a new one of the same definition; which ones.

    Raises:
        CommandError: Nobody can tell, or a name differs in nothing but capitals.
    """
    before, pairs = shape_of(head), []
    new = [name for name in model.columns if name not in before.columns]
    gone = [name for name in before.columns if name not in model.columns]
    for old in gone:
        if old.lower() in map(str.lower, new):
            raise CommandError(f"to SQLite, table {old} is the same in capitals: leave its name")
    while pair := _renamed_table(model, shape_of(head), gone, new):
        old, name = pair
        head.exec_driver_sql(f"ALTER TABLE {quoted(old)} RENAME TO {quoted(name)}")
        gone.remove(old)
        new.remove(name)
        pairs.append(pair)  # and a table that refers to it may be known by that now
    return pairs


def _renamed_table(
    model: Shape, head: Shape, gone: Sequence[str], new: Sequence[str]
) -> tuple[str, str] | None:
    for old in gone:
        lost = [name for name in gone if _promises(head, name) == _promises(head, old)]
        found = [name for name in new if _promises(model, name) == _promises(head, old)]
        if found and (lost[1:] or found[1:]):
            raise CommandError(
                f"{', '.join(lost)} would become {', '.join(found)}, tables of one definition, and "
                "nobody can tell which is another's new name: make a revision for each rename, and "
                "one for what is dropped and added"
            )
        if found:
            return old, found[0]
    return None


def _promises(shape: Shape, table: str) -> set[str]:
    """The definition of a table without its name, and without indexes, which may be named so."""
    itself = f"FOREIGN KEY to {table.lower()} ("
    lines = (line.removeprefix(f"{table}: ") for line in shape.of(table))
    return {
        line.replace(itself, "FOREIGN KEY to (")
        for line in lines
        if not line.startswith(("create index ", "create unique index "))
    }


def _table_renamed(old: str, new: str) -> Code:
    return Code(
        [
            "# One table for another of the same definition: taken as a rename, which keeps the",
            "# rows. If it is none, write create_table and drop_table instead.",
            f"op.rename_table({old!r}, {new!r})",
        ],
        ("rename_table", old, new),
    )


def _differences(before: frozenset[str], after: frozenset[str]) -> list[Code]:
    return [
        *(Code(commented(f"- {line}"), ("remove", line)) for line in sorted(before - after)),
        *(Code(commented(f"+ {line}"), ("add", line)) for line in sorted(after - before)),
    ]
