"""From one definition of a table to another: the steps, tried out on SQLite itself."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from alembic.migration import MigrationContext
from alembic.operations import Operations, ops
from alembic.util import CommandError
from sqlalchemy import Column, Connection, MetaData, Table
from sqlalchemy.exc import SQLAlchemyError

from credential_db.sqlite import reflection
from credential_db.sqlite.alembic_internals import driver_connection_of, unobserved_engine
from credential_db.sqlite.ddl_text import normalized
from credential_db.sqlite.driver import quoted
from credential_db.sqlite.revising import CopyTable
from credential_db.sqlite.shape import Shape, read_shape
from credential_db.sqlite.steps import Code, InPlace, commented


@contextlib.contextmanager
def database_in_memory(script: str = "") -> Iterator[Connection]:
    """An empty database to try things on, or one that a script of SQL has made."""
    engine = unobserved_engine("sqlite://")
    try:
        with engine.connect() as connection:
            driver_connection_of(connection.connection).executescript(script)
            yield connection
    finally:
        engine.pool.dispose()  # the engine would make another one, and log that


def shape_of(connection: Connection) -> Shape:
    """The shape of such a database."""
    return read_shape(driver_connection_of(connection.connection))


def shape_of_metadata(metadata: MetaData) -> Shape:
    """The shape that the metadata would give an empty file.

    Raises:
        CommandError: It makes no tables, such as where a foreign key leads nowhere.
    """
    with database_in_memory() as connection:
        try:
            reflection.refuse_parameters(metadata)
            metadata.create_all(connection)
        except SQLAlchemyError as error:
            reason = getattr(error, "orig", error)
            raise CommandError(f"the metadata makes no tables: {reason}") from None
        return shape_of(connection)


def transition(old: Table, new: Table, *, back: bool = False) -> list[ops.MigrateOperation]:
    """From one definition to another: in place where SQLite can, else by a copy of the table."""
    before, after = reflection.indexes_by_name(old), reflection.indexes_by_name(new)
    changed = {
        name
        for name in before.keys() & after
        if reflection.statement_of(before[name]) != reflection.statement_of(after[name])
    }
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
    renamed = _renamed_columns(old.name, gone, added)
    gone = [column for column in gone if column.name not in renamed]
    added = [column for column in added if column.name not in renamed.values()]
    if not back:
        _refuse_exchange(old.name, gone, added)
    comments = [
        Code(
            commented(
                f"{name} becomes {to}, of the same definition: taken as a rename, which keeps the "
                "data. If it is none, write drop_column and add_column instead."
            ),
            ("rename_column", old.name, name, to),
        )
        for name, to in renamed.items()
    ]
    first: list[Any] = [
        *drop_indexes,
        *(ops.AlterColumnOp(old.name, name, modify_name=to) for name, to in renamed.items()),
    ]
    steps: list[Any] = [
        *first,
        *(ops.DropColumnOp.from_column_and_tablename(None, old.name, column) for column in gone),
        *(
            ops.AddColumnOp.from_column_and_tablename(None, old.name, _without_constraints(column))
            for column in added
        ),
        *create_indexes,
    ]
    if steps and _result_in_place(old, steps) == _definition(new):
        return [*comments, InPlace(old.name, steps)]
    not_exact, values = _values_for(new, added, back=back)
    return [
        *comments,
        *([InPlace(old.name, first)] if first else []),
        *not_exact,
        CopyTable(new, values),
        *([InPlace(old.name, create_indexes)] if create_indexes else []),
    ]


def _renamed_columns(
    table: str, gone: Sequence[Column[Any]], added: Sequence[Column[Any]]
) -> dict[str, str]:
    """Columns that are gone, each with a new one of the same definition.

    Raises:
        CommandError: Nobody can tell which of them became which.
    """
    renamed: dict[str, str] = {}
    promises = {column: _definition_without_name(column) for column in (*gone, *added)}
    for column in gone:
        old, new = (
            [str(each.name) for each in columns if promises[each] == promises[column]]
            for columns in (gone, added)
        )
        if new and (old[1:] or new[1:]):
            raise CommandError(
                f"table {table} loses {', '.join(old)} and gets {', '.join(new)}, all of one "
                "definition, and nobody can tell which is another's new name: make a revision for "
                "each rename, and one for what is dropped and added"
            )
        renamed.update(zip(old, new, strict=False))
    return renamed


def _refuse_exchange(table: str, gone: Sequence[Column[Any]], added: Sequence[Column[Any]]) -> None:
    lost, new = (
        ", ".join(column.name for column in columns if column.computed is None)
        for columns in (gone, added)
    )
    if lost and new:
        raise CommandError(
            f"table {table} loses {lost} and gets {new}, of another definition, and nobody can "
            "tell whether that is a rename, which keeps the data: make a revision that renames, or "
            "one that drops, and another for the rest"
        )


def _definition_without_name(column: Column[Any]) -> tuple[frozenset[str], str]:
    """The definition of a column without its name, as SQLite has it."""
    default = column.server_default if column.computed is None else None
    alone = Column("_", column.type, server_default=default, nullable=column.nullable)
    lines = _definition(Table("_", MetaData(), alone))
    expression = normalized(str(getattr(column.computed, "sqltext", "")))
    return frozenset(line for line in lines if line.startswith("_: column _ ")), expression


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
            "one that makes it NOT NULL; or where SQL can compute it, op.copy_table(..., values=)"
        )
    neutral = {"INTEGER": "0", "BLOB": "x''"}
    values = {column.name: neutral.get(str(column.type), "''") for column in needed}
    comment = f"Not exact: what was in {names} is gone, and every row gets the value below."
    return ([Code(commented(comment), ("fill", table.name, names))] if needed else []), values


def _without_constraints(column: Column[Any]) -> Column[Any]:
    """The column without any constraint on it: where it has one, a copy of the table adds that."""
    return Column(
        column.name, column.type, server_default=column.server_default, nullable=column.nullable
    )


def _definition(table: Table) -> frozenset[str]:
    """What a table promises once it is created."""
    with database_in_memory() as connection:
        table.create(connection)
        return shape_of(connection).of(table.name)


def _result_in_place(old: Table, steps: Sequence[ops.MigrateOperation]) -> frozenset[str] | None:
    """What SQLite makes of a table that has a row; None where it refuses to alter it in place."""
    with database_in_memory() as connection:
        stored = [column for column in old.columns if column.computed is None]
        names = ", ".join(quoted(column.name) for column in stored)
        values = ", ".join("1" for _ in stored)
        operations = Operations(MigrationContext.configure(connection))
        try:
            for step in reflection.creation(old):  # as a revision has made it
                operations.invoke(step)
            connection.exec_driver_sql("PRAGMA ignore_check_constraints = ON")
            connection.exec_driver_sql(
                f"INSERT INTO {quoted(old.name)} ({names}) VALUES ({values})"
            )
            for step in steps:
                operations.invoke(step)
        except (SQLAlchemyError, NotImplementedError):
            return None
        return shape_of(connection).of(old.name)
