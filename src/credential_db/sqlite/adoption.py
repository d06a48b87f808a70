"""Make a file exactly its recorded version, or say which rows are in the way."""

import re
from collections.abc import Iterable, Mapping

from credential_db.sqlite.ddl_text import normalized
from credential_db.sqlite.driver import DBAPIConnection, create
from credential_db.sqlite.errors import UnrecognizedSchema
from credential_db.sqlite.scrub import refuse_damage
from credential_db.sqlite.shape import Shape, objects
from credential_db.sqlite.stamps import STAMP_TABLE
from credential_db.sqlite.table_copy import copy_table

# What a table may promise beyond its record, and a copy by the record would take from it.
_LOST_BY_A_COPY = re.compile(r"UNIQUE|CHECK|FOREIGN KEY|STRICT|WITHOUT ROWID|column \w+ COLLATE")


def refuse_shadows(connection: DBAPIConnection, tables: Iterable[str]) -> None:
    """Raise where temporary objects of a connection stand before tables of the file.

    Raises:
        UnrecognizedSchema: They do; SQLite looks into the temporary schema first.
    """
    names = {name.lower() for name in (*tables, STAMP_TABLE)}
    shadows = sorted(
        f"{entry.type} {entry.name}"
        for entry in objects(connection, "temp")
        if entry.type in ("table", "view") and entry.name.lower() in names
    )
    if shadows:
        raise UnrecognizedSchema(
            f"this connection has the temporary {', '.join(shadows)}, which would be taken for the "
            "file's: drop it, or hand in another connection; nothing was changed"
        )


def create_missing(connection: DBAPIConnection, record: Shape, tables: Iterable[str]) -> None:
    """Create tables that a recognised file lacks, as older programs did at every open."""
    for table in tables:
        create(connection, record.statements[table])


def differences(shape: Shape, records: Mapping[str, Shape]) -> list[str]:
    """What the definitions of the file's tables lack of their records, as lines for people."""
    return sorted(
        line for table, record in records.items() for line in _lacks(shape, record, table)
    )


def _lacks(shape: Shape, record: Shape, table: str) -> frozenset[str]:
    found = shape.of(table)
    clauses = {f"{line} (not recorded)" for line in found if ": ON CONFLICT" in line}
    return (record.of(table) - found) | clauses


def make_exact(
    connection: DBAPIConnection, shape: Shape, records: Mapping[str, Shape]
) -> list[str]:
    """Give each table the definition of its record, by a copy where it lacks something.

    Args:
        connection: Inside the transaction of an upgrade.
        shape: Of the file.
        records: Of each table that the file has, one with the same columns.

    Returns:
        What was put right.

    Raises:
        UnrecognizedSchema: Rows do not fit, or the table has constraints of its user's that a copy
            would take from it. The message names them.
        NotADatabase: The file is damaged.
    """
    repaired: list[str] = []
    for table, record in records.items():
        lacking = _lacks(shape, record, table)
        if not lacking:
            continue
        if not repaired:
            refuse_damage(connection)
        create_table, *create_indexes = record.statements[table]
        in_place = [sql for sql in create_indexes if f"{table}: {normalized(sql)}" in lacking]
        if len(in_place) < len(lacking):
            _refuse_additions(shape, record, table)
            copy_table(connection, table, create_table)
        create(connection, in_place)
        repaired += sorted(lacking)
    return repaired


def _refuse_additions(shape: Shape, record: Shape, table: str) -> None:
    lines = (line.removeprefix(f"{table}: ") for line in shape.of(table) - record.of(table))
    added = sorted(line for line in lines if _LOST_BY_A_COPY.match(line))
    if added:
        raise UnrecognizedSchema(
            f"table {table} lacks {', '.join(sorted(_lacks(shape, record, table)))}, and has "
            f"of its own {', '.join(added)}, which putting that right would take from it: move "
            "your rows into a table with the definition of record, then run again; nothing was "
            "changed"
        )
