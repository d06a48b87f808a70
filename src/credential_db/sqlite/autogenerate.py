"""Autogenerate for SQLite: what differs, the next number, and code that alters without loss.

Alembic finds new and dropped tables. Within a table it reports differences that are none on
SQLite (an inline REFERENCES ... ON DELETE CASCADE) and misses real ones (CHECK, AUTOINCREMENT,
primary keys), so what a table is to be altered to is found by comparing definitions here.
"""

from collections.abc import Sequence
from typing import Any

from alembic.autogenerate import render_op_text, renderers
from alembic.autogenerate.api import AutogenContext
from alembic.migration import MigrationContext
from alembic.operations import Operations, ops
from alembic.util import CommandError
from sqlalchemy import Column, Connection, Index, MetaData, Table
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.schema import CreateIndex

from credential_db import scripts
from credential_db.shim import revision_of
from credential_db.sqlite.driver import DBAPIConnection, quoted
from credential_db.sqlite.shape import Shape, column_names, definition_of, is_autoincrement


class Difference(ops.MigrateOperation):
    """One line of a table's definition that is wanted (``+``) or not (``-``): a comment."""

    def __init__(self, sign: str, line: str) -> None:
        """Take the line."""
        self.sign = sign
        self.line = line

    def to_diff_tuple(self) -> tuple[str, str]:
        """What ``alembic check`` prints."""
        return ("add" if self.sign == "+" else "remove", self.line)


class RenameColumn(ops.MigrateOperation):
    """A column gets another name and keeps its rows' data; Alembic's own op cannot be rendered."""

    def __init__(self, table: str, old: str, new: str) -> None:
        """Take the names."""
        self.table = table
        self.old = old
        self.new = new

    def to_diff_tuple(self) -> tuple[str, str, str, str]:
        """What ``alembic check`` prints."""
        return ("rename_column", self.table, self.old, self.new)


@Operations.implementation_for(RenameColumn)
def _rename_column(operations: Operations, step: RenameColumn) -> None:
    operations.alter_column(step.table, step.old, new_column_name=step.new)


class NativeAlteration(ops.ModifyTableOps):
    """Steps that SQLite takes in place: add and drop columns and indexes."""


class TableCopy(ops.ModifyTableOps):
    """A table that SQLite can only alter by copying its rows into a new one.

    Args:
        table: The complete new table, without the columns that the steps add.
        steps: Columns to add and indexes to make on the way.
    """

    def __init__(self, table: Table, steps: Sequence[ops.MigrateOperation]) -> None:
        """Take the definition and the steps."""
        super().__init__(table.name, steps)
        self.table = table


@renderers.dispatch_for(Difference)
def _render_difference(_: AutogenContext, difference: Difference) -> str:
    return f"# {difference.sign} {difference.line}"


@renderers.dispatch_for(RenameColumn)
def _render_rename(_: AutogenContext, step: RenameColumn) -> list[str]:
    return [
        "# One column for another of the same definition: taken as a rename, which keeps the data.",
        "# If it is none, write drop_column and add_column instead.",
        f"batch_op.alter_column({step.old!r}, new_column_name={step.new!r})",
    ]


@renderers.dispatch_for(NativeAlteration)
def _render_native(context: AutogenContext, alteration: NativeAlteration) -> list[str]:
    opening = f"with op.batch_alter_table({alteration.table_name!r}, recreate='never') as batch_op:"
    return [opening, *_render_steps(context, alteration.ops, alteration.table_name)]


@renderers.dispatch_for(TableCopy)
def _render_copy(context: AutogenContext, copy: TableCopy) -> list[str]:
    creation = render_op_text(context, ops.CreateTableOp.from_table(copy.table))
    arguments = creation.partition(",\n")[2]
    opening = (
        f"with op.batch_alter_table({copy.table_name!r}, recreate='always',\n"
        f"copy_from=sa.Table({copy.table_name!r}, sa.MetaData(),\n{arguments}\n) as batch_op:"
    )
    steps = _render_steps(context, copy.ops, copy.table_name)
    return [opening, *steps] if steps else [opening.removesuffix(" as batch_op:") + ":", "pass", ""]


def _render_steps(
    context: AutogenContext, steps: Sequence[ops.MigrateOperation], table: str
) -> list[str]:
    """The lines inside of Alembic's own batch block."""
    return render_op_text(context, ops.ModifyTableOps(table, steps)).split("\n")[1:]


def options(
    connection: DBAPIConnection,
    metadata: MetaData,
    history: Sequence[Shape],
    head: Connection,
) -> dict[str, Any]:
    """What ``context.configure`` is to know for autogenerate.

    Args:
        connection: To the file at hand.
        metadata: What the tables are to be.
        history: The shape of each version; the next one's number is their number.
        head: To an empty database after all revisions.
    """
    model = scripts.shape_of(metadata)
    ours = {table for shape in (*history, model) for table in shape.columns}

    def include_name(name: str | None, kind: str, _: object) -> bool:
        return kind != "table" or name in ours

    def process(_: object, __: object, directives: list[ops.MigrationScript]) -> None:
        (directive,) = directives
        directive.rev_id = revision_of(len(history))
        if directive.upgrade_ops is None or directive.downgrade_ops is None:
            return
        created, dropped = _whole_tables(directive.upgrade_ops)
        altered = [
            (_reflect(head, name), metadata.tables[name], differences)
            for name in sorted(model.columns)
            if name in history[-1].columns
            and (differences := _differences(connection, name, model, history[-1]))
        ]
        directive.upgrade_ops.ops = [
            *(ops.CreateTableOp.from_table(metadata.tables[name]) for name in created),
            *(index for name in created for index in _indexes(metadata.tables[name])),
            *(step for old, new, found in altered for step in (*found, *_transition(old, new))),
            *(ops.DropTableOp.from_table(_reflect(head, name)) for name in dropped),
        ]
        directive.downgrade_ops.ops = [
            *(ops.CreateTableOp.from_table(_reflect(head, name)) for name in dropped),
            *(index for name in dropped for index in _indexes(_reflect(head, name))),
            *(step for old, new, _ in altered for step in _transition(new, old)),
            *(ops.DropTableOp.from_table(metadata.tables[name]) for name in reversed(created)),
        ]

    return {
        "include_name": include_name,
        "process_revision_directives": process,
        "render_as_batch": True,
    }


def _reflect(connection: Connection, name: str) -> Table:
    """A table as SQLAlchemy sees it, with the AUTOINCREMENT that it overlooks."""
    table = Table(
        name,
        MetaData(),
        autoload_with=connection,
        listeners=[
            ("column_reflect", MigrationContext.configure(connection).impl.autogen_column_reflect)
        ],
    )
    sql = "SELECT sql FROM sqlite_master WHERE type = 'table' AND name = ?"
    (statement,) = connection.exec_driver_sql(sql, (name,)).one()
    if is_autoincrement(statement):
        table.dialect_kwargs["sqlite_autoincrement"] = True
    return table


def _whole_tables(container: ops.OpContainer) -> tuple[list[str], list[str]]:
    """The names of the tables that Alembic found to be new and to be gone."""
    created = [step.table_name for step in container.ops if isinstance(step, ops.CreateTableOp)]
    dropped = [step.table_name for step in container.ops if isinstance(step, ops.DropTableOp)]
    return created, dropped


def _differences(
    connection: DBAPIConnection, table: str, model: Shape, head: Shape
) -> list[Difference]:
    """What stands between the file's table and the metadata's."""
    if not column_names(connection, table):
        return []  # missing altogether: Alembic sees that
    found = definition_of(connection, [table], model.indexes | head.indexes)
    wanted = model.of(table)
    return [
        *(Difference("-", line) for line in sorted(found - wanted)),
        *(Difference("+", line) for line in sorted(wanted - found)),
    ]


def _indexes(table: Table) -> list[ops.CreateIndexOp]:
    return [ops.CreateIndexOp.from_index(index) for index in _by_name(table).values()]


def _by_name(table: Table) -> dict[str, Index]:
    return {str(index.name): index for index in sorted(table.indexes, key=lambda i: str(i.name))}


def _transition(old: Table, new: Table) -> list[ops.ModifyTableOps]:
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
    drop_columns = [
        ops.DropColumnOp.from_column_and_tablename(None, old.name, column)
        for column in old.columns
        if column.name not in new.columns
    ]
    add_columns = [
        ops.AddColumnOp.from_column_and_tablename(None, old.name, _bare(column))
        for column in new.columns
        if column.name not in old.columns
    ]
    if len(drop_columns) == len(add_columns) == 1:
        (gone,), (added,) = drop_columns, add_columns
        rename = RenameColumn(old.name, gone.column_name, added.column.name)
        renamed = [*drop_indexes, rename, *create_indexes]
        if _result_in_place(old, renamed) == _definition(new):
            return [NativeAlteration(old.name, renamed)]
    steps = [*drop_indexes, *drop_columns, *add_columns, *create_indexes]
    if _result_in_place(old, steps) == _definition(new):
        return [NativeAlteration(old.name, steps)]
    in_place = [step for step in add_columns if _result_in_place(old, [step]) is not None]
    on_the_way = [step for step in add_columns if step not in in_place]
    copied = _without(new, {step.column.name for step in on_the_way})
    copy = TableCopy(copied, [*on_the_way, *_indexes(new)])
    return [NativeAlteration(old.name, in_place), copy] if in_place else [copy]


def _bare(column: Column[Any]) -> Column[Any]:
    """The column without any constraint on it: where it has one, a copy of the table adds that."""
    return Column(
        column.name, column.type, server_default=column.server_default, nullable=column.nullable
    )


def _without(table: Table, columns: set[str]) -> Table:
    """The same table without some of its columns.

    Raises:
        CommandError: One of them is part of a constraint.
    """
    if not columns:
        return table
    with scripts.empty_database() as connection:
        table.metadata.create_all(connection)
        operations = Operations(MigrationContext.configure(connection))
        try:
            for column in columns:
                operations.drop_column(table.name, column)
        except SQLAlchemyError:
            raise CommandError(
                f"table {table.name} gets {', '.join(sorted(columns))} and a constraint on it at "
                "once, and its rows have no value to put there: make two revisions of it, the "
                "first with a column that may be NULL"
            ) from None
        return _reflect(connection, table.name)


def _ddl(index: Index) -> str:
    return str(CreateIndex(index).compile(dialect=sqlite.dialect()))


def _definition(table: Table) -> frozenset[str]:
    """What a table promises once it is created."""
    with scripts.empty_database() as connection:
        table.metadata.create_all(connection)
        return scripts.shape(connection).of(table.name)


def _result_in_place(old: Table, steps: Sequence[ops.MigrateOperation]) -> frozenset[str] | None:
    """What SQLite makes of a table that has a row; None where it refuses to alter it in place."""
    with scripts.empty_database() as connection:
        old.metadata.create_all(connection)
        values = ", ".join("1" for _ in old.columns)
        connection.exec_driver_sql("PRAGMA ignore_check_constraints = ON")
        connection.exec_driver_sql(f"INSERT INTO {quoted(old.name)} VALUES ({values})")
        operations = Operations(MigrationContext.configure(connection))
        try:
            for step in steps:
                operations.invoke(step)
        except (SQLAlchemyError, NotImplementedError):
            return None
        return scripts.shape(connection).of(old.name)
