"""Autogenerate for SQLite: what differs, the next number, and code that alters without loss.

The metadata is compared with the record of the head, in memory, whatever file is around. Alembic
reports differences that are none on SQLite and misses real ones (CHECK, AUTOINCREMENT, primary
keys), so definitions are compared here, line by line, and tried out on SQLite itself.
"""

import contextlib
import importlib.util
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from alembic.autogenerate import render_op_text, renderers
from alembic.autogenerate.api import AutogenContext
from alembic.migration import MigrationContext
from alembic.operations import Operations, ops
from alembic.script import write_hooks
from alembic.util import CommandError
from sqlalchemy import Column, Connection, Index, MetaData, Table, create_engine
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.schema import CreateIndex

from credential_db.sqlite.alembic_internals import context, driver_connection_of, is_autogenerate
from credential_db.sqlite.driver import quoted
from credential_db.sqlite.revising import CopyTable
from credential_db.sqlite.shape import Shape, is_autoincrement, read_shape, table_sql


class Code(ops.MigrateOperation):
    """Lines of a revision that Alembic has no renderer for, and what ``alembic check`` prints."""

    def __init__(self, lines: Sequence[str], difference: tuple[str, ...]) -> None:
        """Take both."""
        self.lines = list(lines)
        self.difference = difference

    def to_diff_tuple(self) -> tuple[str, ...]:
        """What ``alembic check`` prints."""
        return self.difference


class InPlace(ops.ModifyTableOps):
    """Steps that SQLite takes in place: columns added, dropped and renamed, and indexes."""


@renderers.dispatch_for(Code)
def _render_code(_: AutogenContext, code: Code) -> list[str]:
    return code.lines


@renderers.dispatch_for(InPlace)
def _render_in_place(context: AutogenContext, alteration: InPlace) -> list[str]:
    block = render_op_text(context, ops.ModifyTableOps(alteration.table_name, alteration.ops))
    return block.replace("schema=None", "recreate='never'", 1).split("\n")


@renderers.dispatch_for(CopyTable)
def _render_copy(context: AutogenContext, copy: CopyTable) -> str:
    creation = render_op_text(context, ops.CreateTableOp.from_table(copy.table))
    call = creation.replace("create_table(", "copy_table(", 1)
    return call if not copy.values else f"{call.rstrip()[:-1]}, values={copy.values!r})"


@write_hooks.register("ruff_where_installed")
def format_revision(path: str, _: object) -> None:
    """Format a new revision as the others are, on a machine that has ruff."""
    if importlib.util.find_spec("ruff"):
        subprocess.run([sys.executable, "-m", "ruff", "format", "--quiet", path], check=False)


@write_hooks.register("python_script")
def run_script(_: str, options: dict[str, str]) -> None:
    """Run the script that the ini file names, with this Python."""
    subprocess.run([sys.executable, options["script"]], check=False)


@contextlib.contextmanager
def database_in_memory(script: str = "") -> Iterator[Connection]:
    """An empty database to try things on, or one that a script of SQL has made."""
    engine = create_engine("sqlite://")
    try:
        with engine.connect() as connection:
            driver_connection_of(connection.connection).executescript(script)
            yield connection
    finally:
        engine.dispose()


def shape_of(connection: Connection) -> Shape:
    """The shape of such a database."""
    return read_shape(driver_connection_of(connection.connection))


def shape_of_metadata(metadata: MetaData) -> Shape:
    """The shape that the metadata would give an empty file."""
    with database_in_memory() as connection:
        metadata.create_all(connection)
        return shape_of(connection)


def options(metadata: MetaData, head: Connection, next_revision: str) -> dict[str, Any]:
    """What ``context.configure`` is to know to compare, and to write a revision.

    Args:
        metadata: What the tables are to be.
        head: To a database in memory that the record of the head has made.
        next_revision: Given to the new revision, whatever was asked for; empty to compare alone.
    """

    def process(_: object, __: object, directives: list[ops.MigrationScript]) -> None:
        (directive,) = directives
        directive.rev_id = next_revision
        if not is_autogenerate():
            return
        upgrade, downgrade = _both_ways(metadata, head)
        if not upgrade and next_revision:
            directives.clear()
            context.config.print_stdout("The metadata is just what is on record: nothing to write")
        directive.upgrade_ops = ops.UpgradeOps(upgrade)
        directive.downgrade_ops = ops.DowngradeOps(downgrade)

    return {
        "connection": head,
        "target_metadata": metadata,
        # Tables are compared below; Alembic would reflect them, and report what is none.
        "include_name": lambda _name, kind, _parents: kind != "table",
        "include_object": lambda _object, _name, kind, *_: kind != "table",
        "process_revision_directives": process,
        "render_as_batch": True,
    }


def _both_ways(
    metadata: MetaData, head: Connection
) -> tuple[list[ops.MigrateOperation], list[ops.MigrateOperation]]:
    """The steps from the head to the metadata, and back."""
    model = shape_of_metadata(metadata)
    renamed = _renamed_tables(model, shape_of(head))
    for old, new in renamed:
        head.exec_driver_sql(f"ALTER TABLE {quoted(old)} RENAME TO {quoted(new)}")
    before = shape_of(head)
    created = [table for table in metadata.sorted_tables if table.name not in before.columns]
    dropped = [_reflect(head, name) for name in before.columns if name not in model.columns]
    upgrade: list[ops.MigrateOperation] = [_table_renamed(*pair) for pair in renamed]
    downgrade: list[ops.MigrateOperation] = []
    for name in sorted(model.columns.keys() & before.columns):
        differences = _differences(before.of(name), model.of(name))
        if differences:
            recorded, wanted = _reflect(head, name), metadata.tables[name]
            upgrade += [*differences, *_transition(recorded, wanted)]
            downgrade += _transition(wanted, recorded, back=True)
    for table in created:
        upgrade += _creation(table)
        downgrade.insert(0, ops.DropTableOp.from_table(table))
    for table in dropped:
        upgrade.append(ops.DropTableOp.from_table(table))
        downgrade += _creation(table)
    downgrade += [_table_renamed(new, old) for old, new in renamed]
    return upgrade, downgrade


def _renamed_tables(model: Shape, head: Shape) -> list[tuple[str, str]]:
    """Pairs of a table that is gone and a new one of the same definition."""
    new = [name for name in model.columns if name not in head.columns]
    pairs = []
    for old in (name for name in head.columns if name not in model.columns):
        alike = [name for name in new if _promises(model, name) == _promises(head, old)]
        if len(alike) == 1:
            new.remove(alike[0])
            pairs.append((old, alike[0]))
    return pairs


def _promises(shape: Shape, table: str) -> set[str]:
    """The definition of a table without its name."""
    lines = (line.removeprefix(f"{table}: ") for line in shape.of(table))
    return {line.replace(f" on {table}(", " on (") for line in lines}


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
        *(Code([f"# - {line}"], ("remove", line)) for line in sorted(before - after)),
        *(Code([f"# + {line}"], ("add", line)) for line in sorted(after - before)),
    ]


def _creation(table: Table) -> list[ops.MigrateOperation]:
    return [
        ops.CreateTableOp.from_table(table),
        *(ops.CreateIndexOp.from_index(index) for index in _by_name(table).values()),
    ]


def _reflect(connection: Connection, name: str) -> Table:
    """A table as SQLAlchemy sees it, with the AUTOINCREMENT that it overlooks."""
    table = Table(
        name,
        MetaData(),
        autoload_with=connection,
        resolve_fks=False,
        listeners=[
            ("column_reflect", MigrationContext.configure(connection).impl.autogen_column_reflect)
        ],
    )
    if is_autoincrement(table_sql(driver_connection_of(connection.connection), name) or ""):
        table.dialect_kwargs["sqlite_autoincrement"] = True
    return table


def _by_name(table: Table) -> dict[str, Index]:
    return {str(index.name): index for index in sorted(table.indexes, key=lambda i: str(i.name))}


def _transition(old: Table, new: Table, *, back: bool = False) -> list[ops.MigrateOperation]:
    """From one definition to another: in place where SQLite can, else by a copy of the table."""
    before, after = _by_name(old), _by_name(new)
    changed = {name for name in before.keys() & after if _ddl(before[name]) != _ddl(after[name])}
    drop_indexes = [
        ops.DropIndexOp.from_index(index)
        for name, index in before.items()
        if name not in after or name in changed
    ]
    create_indexes = [
        ops.CreateIndexOp.from_index(index)
        for name, index in after.items()
        if name not in before or name in changed
    ]
    gone = [column for column in old.columns if column.name not in new.columns]
    added = [column for column in new.columns if column.name not in old.columns]
    if len(gone) == len(added) == 1:
        rename = ops.AlterColumnOp(old.name, gone[0].name, modify_name=added[0].name)
        renamed = [*drop_indexes, rename, *create_indexes]
        if _result_in_place(old, renamed) == _definition(new):
            comment = [
                "# One column for another of the same definition: taken as a rename, which keeps",
                "# the data. If it is none, write drop_column and add_column instead.",
            ]
            names = ("rename_column", old.name, gone[0].name, added[0].name)
            return [Code(comment, names), InPlace(old.name, renamed)]
    steps: list[Any] = [
        *drop_indexes,
        *(ops.DropColumnOp.from_column_and_tablename(None, old.name, column) for column in gone),
        *(
            ops.AddColumnOp.from_column_and_tablename(None, old.name, _bare(column))
            for column in added
        ),
        *create_indexes,
    ]
    if _result_in_place(old, steps) == _definition(new):
        return [InPlace(old.name, steps)]
    comments, values = _values_for(new, added, back=back)
    return [
        *([InPlace(old.name, drop_indexes)] if drop_indexes else []),
        *comments,
        CopyTable(new, values),
        *([InPlace(old.name, create_indexes)] if create_indexes else []),
    ]


def _values_for(
    table: Table, added: Sequence[Column[Any]], *, back: bool
) -> tuple[list[Code], dict[str, str]]:
    """What the rows that are there get in new columns that take no NULL and have no default.

    Raises:
        CommandError: Nobody can tell, on the way up.
    """
    needed = [
        column
        for column in added
        if not column.nullable and column.server_default is None and column.computed is None
    ]
    names = ", ".join(column.name for column in needed)
    if needed and not back:
        raise CommandError(
            f"table {table.name} gets {names}, which may not be NULL and has no default, and its "
            "rows have no value to put there: give it a server_default; or make three steps of it, "
            "a revision with a column that may be NULL, one that fills it with convert_rows, and "
            "one that makes it NOT NULL"
        )
    neutral = {"INTEGER": "0", "BLOB": "x''"}
    values = {column.name: neutral.get(str(column.type), "''") for column in needed}
    comment = f"# Not exact: what was in {names} is gone, and every row gets the value below."
    return ([Code([comment], ("fill", table.name, names))] if needed else []), values


def _bare(column: Column[Any]) -> Column[Any]:
    """The column without any constraint on it: where it has one, a copy of the table adds that."""
    return Column(
        column.name, column.type, server_default=column.server_default, nullable=column.nullable
    )


def _ddl(index: Index) -> str:
    return str(CreateIndex(index).compile(dialect=sqlite.dialect()))


def _definition(table: Table) -> frozenset[str]:
    """What a table promises once it is created."""
    with database_in_memory() as connection:
        table.create(connection)
        return shape_of(connection).of(table.name)


def _result_in_place(old: Table, steps: Sequence[ops.MigrateOperation]) -> frozenset[str] | None:
    """What SQLite makes of a table that has a row; None where it refuses to alter it in place."""
    with database_in_memory() as connection:
        old.create(connection)
        stored = [column for column in old.columns if column.computed is None]
        names = ", ".join(quoted(column.name) for column in stored)
        values = ", ".join("1" for _ in stored)
        connection.exec_driver_sql("PRAGMA ignore_check_constraints = ON")
        connection.exec_driver_sql(f"INSERT INTO {quoted(old.name)} ({names}) VALUES ({values})")
        operations = Operations(MigrationContext.configure(connection))
        try:
            for step in steps:
                operations.invoke(step)
        except (SQLAlchemyError, NotImplementedError):
            return None
        return shape_of(connection).of(old.name)
