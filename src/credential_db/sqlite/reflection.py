"""What SQLAlchemy and Alembic overlook of tables on SQLite."""

import re
import warnings

from alembic.migration import MigrationContext
from alembic.operations import ops
from alembic.util import CommandError
from sqlalchemy import (
    CheckConstraint,
    Connection,
    DefaultClause,
    Index,
    MetaData,
    String,
    Table,
    TextClause,
    literal_column,
    text,
)
from sqlalchemy.dialects import sqlite
from sqlalchemy.schema import CreateIndex

from credential_db.sqlite.alembic_internals import driver_connection_of
from credential_db.sqlite.ddl_text import NAME, behind, normalized, without_comments
from credential_db.sqlite.shape import SchemaObject, read_shape


def reflect(connection: Connection, name: str) -> Table:
    """A table as SQLAlchemy sees it, with what it overlooks."""
    column_reflect = MigrationContext.configure(connection).impl.autogen_column_reflect
    with warnings.catch_warnings():  # it says that it leaves out indexes, which are added below
        warnings.filterwarnings("ignore", "Skipped unsupported reflection of expression-based")
        table = Table(
            name,
            MetaData(),
            autoload_with=connection,
            resolve_fks=True,
            listeners=[("column_reflect", column_reflect)],
        )
    shape = read_shape(driver_connection_of(connection.connection))
    if f"{name}: AUTOINCREMENT" in shape.definition:
        table.dialect_kwargs["sqlite_autoincrement"] = True
    for column in table.columns:
        collated = f"{name}: column {column.name.lower()} COLLATE "
        for line in shape.definition:
            if line.startswith(collated) and isinstance(column.type, String):
                column.type.collation = line.removeprefix(collated)
    (statement,) = (
        each.sql for each in shape.objects if each.type == "table" and each.name == name
    )
    _read_expressions(table, str(statement))
    known = indexes_by_name(table)
    for entry in shape.objects:
        if entry.type == "index" and entry.table == name and entry.sql:
            index = known.get(entry.name)
            if index is None or statement_of(index) != normalized(entry.sql):
                table.indexes.discard(index)
                table.indexes.add(_index(entry))
    return table


def _read_expressions(table: Table, statement: str) -> None:
    """SQLAlchemy takes them line by line, and what ADD COLUMN appends stands in one line."""
    for column in table.columns:
        if column.computed is not None:
            name = rf'["`\[]?{re.escape(column.name)}["`\]]?'
            words = rf"[(,]\s*{name}\s(?:[^,(]|\([^)]*\))*?\bAS"
            _, expression = next(behind(words, statement))
            column.computed.sqltext = _expression(expression)
        elif isinstance(default := getattr(column.server_default, "arg", None), TextClause):
            column.server_default = DefaultClause(_expression(default.text))
    for constraint in [*table.constraints]:
        if isinstance(constraint, CheckConstraint):
            table.constraints.remove(constraint)
    for match, condition in behind(rf"(?:\bCONSTRAINT\s+({NAME})\s+)?\bCHECK", statement):
        name = match[1] and match[1].strip('"[]`')
        table.append_constraint(CheckConstraint(_expression(condition), name=name))


def _expression(sql: str) -> TextClause:
    """As it is: to SQLAlchemy, a colon and a word would be a parameter."""
    return text(sql.replace(":", "\\:"))


def _index(entry: SchemaObject) -> Index:
    """An index with expressions, say, as its statement has it."""
    statement = without_comments(str(entry.sql))
    match, columns = next(behind(rf"^CREATE\s+(UNIQUE\s+)?INDEX\s.*?\sON\s+{NAME}", statement))
    _, _, condition = statement[match.end() + len(columns) :].partition(")")
    condition = re.sub(r"^\s*WHERE\b\s*", "", condition, flags=re.IGNORECASE)
    return ops.CreateIndexOp(
        entry.name,
        entry.table,
        [literal_column(columns)],
        unique=bool(match[1]),
        sqlite_where=literal_column(condition) if condition else None,
    ).to_index()


def creation(table: Table) -> list[ops.MigrateOperation]:
    """A table with its indexes."""
    indexes = indexes_by_name(table).values()
    return [creation_of_table(table), *map(ops.CreateIndexOp.from_index, indexes)]


def creation_of_table(table: Table) -> ops.CreateTableOp:
    """What creates a table, with the CHECKs of its columns."""
    step = ops.CreateTableOp.from_table(table)
    checks = [
        CheckConstraint(constraint.sqltext, name=constraint.name)
        for column in table.columns
        for constraint in column.constraints
        if isinstance(constraint, CheckConstraint)
    ]
    step.columns = [*step.columns, *checks]
    return step


def refuse_parameters(metadata: MetaData) -> None:
    """Raise a ``CommandError`` where SQLAlchemy would write NULL for a colon and a word."""
    for table in metadata.tables.values():
        indexes = [
            part
            for index in table.indexes
            for part in (*index.expressions, index.dialect_options["sqlite"]["where"])
        ]
        columns = [
            getattr(column.server_default, attribute, None)
            for column in table.columns
            for attribute in ("arg", "sqltext")
        ]
        checks = [getattr(step, "sqltext", None) for step in creation_of_table(table).columns]
        for clause in (*indexes, *columns, *checks):
            if isinstance(clause, TextClause) and clause.compile().params:
                raise CommandError(
                    f"table {table.name}: to SQLAlchemy, a colon and a word are a parameter, and "
                    f"it would write NULL: put a backslash before the colon in {clause.text!r}"
                )


def indexes_by_name(table: Table) -> dict[str, Index]:
    """Those of a table, in the order of their names."""
    return {str(index.name): index for index in sorted(table.indexes, key=lambda i: str(i.name))}


def statement_of(index: Index) -> str:
    """What makes an index, in one spelling."""
    return normalized(str(CreateIndex(index).compile(dialect=sqlite.dialect())))
