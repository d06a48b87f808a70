"""A table that SQLite can only alter by copying its rows into a new one, made safe by itself.

"Making Other Kinds Of Table Schema Changes", https://www.sqlite.org/lang_altertable.html#otheralter,
whose twelve steps are quoted below. Steps 1, 2, 11 and 12 (foreign keys off, one transaction) are
those of the upgrade around it, and so is step 10 (foreign_key_check).
"""

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from credential_db.sqlite.ddl_text import NAME
from credential_db.sqlite.driver import DBAPIConnection, driver, is_driver_error, quoted
from credential_db.sqlite.errors import UnrecognizedSchema
from credential_db.sqlite.failures import known_text
from credential_db.sqlite.lending import insist
from credential_db.sqlite.shape import (
    SchemaObject,
    column_names,
    objects,
    read_shape,
)

_CREATE = re.compile(
    rf"\s*CREATE\s+TABLE\s+(?:IF\s+NOT\s+EXISTS\s+)?{NAME}",
    re.IGNORECASE,
)
# A temporary trigger on a table of an attached file is none of the table of that name here.
_ON_ANOTHER_FILE = re.compile(rf'\bON\s+(?!["\[`]?main\b){NAME}\s*\.', re.IGNORECASE)
_NAMED_AT_MOST = 20  # rows in a message
REPAIR_ROWS = "repair or delete them (WHERE rowid = ...), then run again; nothing was changed"


def copy_table(
    connection: DBAPIConnection, table: str, definition: str, values: dict[str, str] | None = None
) -> None:
    """Give a table another definition, and keep its rows, and whatever belongs to it.

    Cells of columns that both definitions have are the same to the byte and in their storage
    class; a new column gets its default.

    Args:
        connection: Inside the transaction of an upgrade, with foreign keys off.
        table: Its name.
        definition: The new ``CREATE TABLE``; the name in it does not matter.
        values: An expression of SQL, over the old columns, for new columns that need one.

    Raises:
        UnrecognizedSchema: Rows do not fit the new definition, or a trigger or an index does not.
            The message names them.
    """
    # 3. Remember the format of all indexes, triggers, and views associated with table X.
    dependants = _triggers_and_indexes(connection, table)
    counter = _highest_counter(connection, table)
    statistics = _statistics(connection, table)
    # 4. Use CREATE TABLE to construct a new table "new_X".
    copy = f"_copy_of_{table}"
    connection.execute(_CREATE.sub(f"CREATE TABLE main.{quoted(copy)}", definition, count=1))
    # 5. Transfer content from X into new_X.
    _transfer(connection, table, copy, values or {})
    # 6. Drop the old table X.
    connection.execute(f"DROP TABLE main.{quoted(table)}")
    # 7. Change the name of new_X to X. Where a view or trigger names X, only SQLite's older
    # RENAME TABLE allows that moment without it.
    try:
        connection.execute("PRAGMA legacy_alter_table = ON")
        connection.execute(f"ALTER TABLE main.{quoted(copy)} RENAME TO {quoted(table)}")
        connection.execute("PRAGMA legacy_alter_table = OFF")
    except BaseException:
        insist(connection, "PRAGMA legacy_alter_table = OFF")
        raise
    # 8. Use CREATE INDEX, CREATE TRIGGER to reconstruct indexes and triggers.
    for entry in dependants:
        _restore(connection, entry)
    _restore_counter(connection, table, counter)
    for row in statistics:
        connection.execute("INSERT INTO main.sqlite_stat1 VALUES (?, ?, ?)", row)
    # 9. If any views refer to table X in a way that is affected by the schema change: whether all
    # of them still work is asked once, before the commit (survival.py).


def _transfer(connection: DBAPIConnection, table: str, copy: str, values: dict[str, str]) -> None:
    shape = read_shape(connection, (table, copy), ())
    values = {name.lower(): value for name, value in values.items()}
    kept = sorted(_stored(connection, copy) & shape.columns[table] - values.keys())
    compared = sorted({*kept, *_stored(connection, table) & shape.columns[copy] - values.keys()})
    cells = {**{name: f"o.{quoted(name)}" for name in kept}, **values}
    rowid = shape.rowids.get(copy)
    if rowid is None or rowid.lower() not in kept:
        cells["rowid"] = "o.rowid"
    key = "o.rowid" if "rowid" in cells else f"o.{quoted(str(rowid))}"
    insert = (
        f"INSERT OR ABORT INTO main.{quoted(copy)} ({', '.join(map(quoted, cells))})"
        f" SELECT {', '.join(cells.values())} FROM main.{quoted(table)} AS o"
        f" WHERE {key} IS NOT NULL"  # which SQLite would replace, by what may be another row's
    )
    try:
        connection.execute(insert)
        reason = "would get other values in it"
        misfits = _changed_rows(connection, table, copy, compared, key)
    except driver(connection).IntegrityError as error:
        reason = f"do not fit it ({known_text(error).replace(copy, table)})"
        misfits = _refused_rows(connection, table, insert)
    if misfits:
        raise UnrecognizedSchema(
            f"table {table} needs another definition, and its rows {named(misfits)} {reason}: "
            f"{REPAIR_ROWS}"
        )


def _stored(connection: DBAPIConnection, table: str) -> set[str]:
    """The names of a table's columns, in lower case, but for computed ones."""
    return {
        row[1].lower() for row in connection.execute(f"PRAGMA main.table_info({quoted(table)})")
    }


def named(rows: Sequence[Any]) -> str:
    """Rows by their rowids, or the first of them."""
    more = f" and {len(rows) - _NAMED_AT_MOST} more" if rows[_NAMED_AT_MOST:] else ""
    return ", ".join(map(str, rows[:_NAMED_AT_MOST])) + more


def _changed_rows(
    connection: DBAPIConnection, table: str, copy: str, compared: list[str], key: str
) -> list[Any]:
    """Rows that the copy lacks, or has with another value or storage class."""
    same = " AND ".join(
        f"+n.{name} IS +o.{name} AND CAST(n.{name} AS BLOB) IS CAST(o.{name} AS BLOB)"
        for name in map(quoted, compared)
    )
    return [
        row
        for (row,) in connection.execute(
            f"SELECT +o.rowid FROM main.{quoted(table)} AS o WHERE NOT EXISTS"
            f" (SELECT 1 FROM main.{quoted(copy)} AS n WHERE n.rowid = {key} AND {same or 'TRUE'})"
        ).fetchall()
    ]


def _refused_rows(connection: DBAPIConnection, table: str, insert: str) -> list[Any]:
    refused = []
    rows = f"SELECT +rowid FROM main.{quoted(table)} ORDER BY rowid"
    for (row,) in connection.execute(rows).fetchall():
        try:
            inserted = connection.execute(f"{insert} AND o.rowid = ?", (row,)).rowcount
        except driver(connection).IntegrityError:
            inserted = 0
        if not inserted:
            refused.append(row)
    return refused


def _triggers_and_indexes(connection: DBAPIConnection, table: str) -> list[SchemaObject]:
    return [
        entry
        for schema in ("main", "temp")
        for entry in objects(connection, schema)
        if entry.type in ("trigger", "index")
        and entry.sql is not None
        and entry.table.lower() == table.lower()
        and not (schema == "temp" and _ON_ANOTHER_FILE.search(entry.sql.partition("BEGIN")[0]))
    ]


def create_again(connection: DBAPIConnection, entry: SchemaObject) -> None:
    """Put a trigger or an index back as it was, in the schema where it was."""
    assert entry.sql is not None, "SQLite makes those without a text itself"
    # SQLite keeps the statement without the word TEMP, and without the schema.
    temporary = "CREATE TEMP" if entry.schema == "temp" else "CREATE"
    connection.execute(re.sub("CREATE", temporary, entry.sql, count=1, flags=re.IGNORECASE))


@contextlib.contextmanager
def triggers_suspended(connection: DBAPIConnection, table: str) -> Iterator[None]:
    """Keep the user's triggers from firing while the rows of a table are rewritten.

    They are for the user's own changes. An audit trigger, say, would copy old keys elsewhere.
    """
    triggers = [
        entry for entry in _triggers_and_indexes(connection, table) if entry.type == "trigger"
    ]
    for trigger in triggers:
        connection.execute(f"DROP TRIGGER {trigger.full_name}")
    yield
    for trigger in triggers:
        create_again(connection, trigger)


def _restore(connection: DBAPIConnection, entry: SchemaObject) -> None:
    try:
        create_again(connection, entry)
    except Exception as error:
        if not is_driver_error(error):
            raise
        reason = known_text(error)
    else:
        return
    raise UnrecognizedSchema(
        f"{entry.type} {entry.name} on table {entry.table} would be lost: {reason}; drop or adapt "
        "it, then run again"
    )


def _highest_counter(connection: DBAPIConnection, table: str) -> int | None:
    """How far AUTOINCREMENT has counted: https://www.sqlite.org/autoinc.html."""
    if not column_names(connection, "sqlite_sequence"):
        return None
    highest = connection.execute(
        "SELECT CAST(seq AS INTEGER) FROM main.sqlite_sequence WHERE name = ? COLLATE NOCASE"
        " ORDER BY 1 DESC LIMIT 1",
        (table,),
    ).fetchone()
    return None if highest is None else highest[0]


def _restore_counter(connection: DBAPIConnection, table: str, before: int | None) -> None:
    if (
        before is None
        or f"{table}: AUTOINCREMENT" not in read_shape(connection, [table]).definition
    ):
        return
    highest = max(before, _highest_counter(connection, table) or 0)
    connection.execute("DELETE FROM main.sqlite_sequence WHERE name = ? COLLATE NOCASE", (table,))
    connection.execute("INSERT INTO main.sqlite_sequence VALUES (?, ?)", (table, highest))


def _statistics(connection: DBAPIConnection, table: str) -> list[tuple[Any, ...]]:
    """What ANALYZE has found: https://www.sqlite.org/fileformat2.html#stat1tab."""
    if not column_names(connection, "sqlite_stat1"):
        return []
    return connection.execute(
        "SELECT tbl, idx, stat FROM main.sqlite_stat1 WHERE tbl = ? COLLATE NOCASE", (table,)
    ).fetchall()
