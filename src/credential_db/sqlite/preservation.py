"""What every migration must preserve: compared before the commit, whatever a revision did."""

import contextlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from itertools import pairwise
from typing import NamedTuple

from credential_db.sqlite.causes import known_text
from credential_db.sqlite.driver import DBAPIConnection, folded, literal, quoted
from credential_db.sqlite.errors import CredentialDBError, UnrecognizedSchema
from credential_db.sqlite.schema import Schema, SchemaObject, column_names, name_of, objects, tokens
from credential_db.sqlite.scrub import MARK
from credential_db.sqlite.stamps import STAMP_DDL, STAMP_TABLE

_RENAME = f"ALTER TABLE main.{STAMP_TABLE} RENAME COLUMN version_num TO version_num"
_MISTAKE = "this is a mistake in the revision"


class Preserved(NamedTuple):
    """What a file has, at one moment."""

    objects: frozenset[str]  # the user's tables, indexes, triggers and views, as "view v"
    orphans: "Counter[tuple[str, str]]"  # rows of which table without a row in which other
    broken: frozenset[str]  # views and triggers that do not work, as far as SQLite tells
    definitions: frozenset[str]  # what this application's tables define


def preserved(
    connection: DBAPIConnection, found: Schema, tables: Collection[str], indexes: Collection[str]
) -> Preserved:
    """Look at a file inside the transaction; tables and indexes are the application's own."""
    own = {
        *(f"table {folded(table)}" for table in (*tables, STAMP_TABLE)),
        *(f"index {folded(index)}" for index in indexes),
        f"view {MARK}",
    }
    return Preserved(
        frozenset(
            f"{entry.type} {entry.name}"
            for entry in found.objects
            if entry.sql is not None and f"{entry.type} {folded(entry.name)}" not in own
        ),
        _orphans(connection, found.objects),
        frozenset((*_broken(connection, found.objects), *_never_firing(connection, found.objects))),
        frozenset(
            f"{table}: {line}" for table, lines in found.definitions.items() for line in lines
        ),
    )


def existing(connection: DBAPIConnection, tables: Collection[str]) -> dict[str, str]:
    """Those of these tables that a file has, each with its name there."""
    ours = {folded(table): table for table in tables}
    names = (entry.name for entry in objects(connection) if entry.type == "table")
    return {ours[folded(name)]: name for name in names if folded(name) in ours}


def count_rows(connection: DBAPIConnection, tables: Mapping[str, str]) -> dict[str, int]:
    """How many rows each of these tables has, in one statement."""
    counts = " UNION ALL ".join(
        # A count(*) that stands alone visits no row.
        f"SELECT {literal(table)}, (SELECT count(*) FROM main.{quoted(name)})"
        for table, name in tables.items()
    )
    return dict(connection.execute(counts or "SELECT 1 WHERE 0").fetchall())


def check_rows(
    before: Mapping[str, int], after: Mapping[str, int], declared: object, tables: Collection[str]
) -> None:
    """Refuse rows that a revision has added or deleted in other tables than it has declared.

    A table that has another name now, and as many rows, was renamed.
    """
    if not isinstance(declared, tuple) or not set(declared) <= set(tables):
        raise CredentialDBError(
            f"changes_rows_of = {declared!r} is not a tuple of names of this application's tables: "
            f"{_MISTAKE}"
        )
    renamed = Counter(count for table, count in after.items() if table not in before)
    lost = []
    for table, count in before.items():
        now = after.get(table)
        if table in declared or now == count:
            continue
        if now is None and renamed[count]:
            renamed[count] -= 1  # it has another name
        elif count or now:
            lost.append((table, f"{table} ({count} before, {now or 0} after)"))
    if lost:
        raise CredentialDBError(
            f"a revision adds or deletes rows without declaring it: "
            f"{', '.join(text for _, text in lost)}. Nothing was changed. If that is intended, add "
            f"this line to the revision: changes_rows_of = ({lost[0][0]!r},)"
        )


def _orphans(
    connection: DBAPIConnection, entries: Collection[SchemaObject]
) -> "Counter[tuple[str, str]]":
    found: Counter[tuple[str, str]] = Counter()
    for table in (entry.name for entry in entries if entry.type == "table"):
        try:
            rows = connection.execute(f"PRAGMA main.foreign_key_check({quoted(table)})").fetchall()
        except Exception as error:
            if not str(error).startswith("foreign key mismatch"):
                raise  # SQLite may have ended the transaction
            rows = [(table, None, known_text(error), 0)]
        found.update((table, parent) for _, _, parent, _ in rows)
    return found


def _broken(connection: DBAPIConnection, entries: Collection[SchemaObject]) -> Iterator[str]:
    """Let SQLite resolve every view and trigger, as a rename does, and roll that back.

    It tells the first that does not work; without that one, the next.
    """
    suspects = [
        entry for entry in entries if entry.type in ("view", "trigger") and entry.name != MARK
    ]
    if not suspects:
        return
    connection.execute("SAVEPOINT credential_db_preservation")
    try:
        connection.execute(STAMP_DDL)  # if it is missing: after a downgrade to base
        while True:
            try:
                connection.execute(_RENAME)
                break
            except Exception as error:
                text = known_text(error)
                if not str(error).startswith("error in "):
                    raise
            yield text
            named = [each for each in suspects if f"{each.type} {each.name}" in text]
            if not named:
                break
            worst = max(named, key=lambda each: len(each.name))
            suspects.remove(worst)
            connection.execute(f"DROP {worst.type} IF EXISTS main.{quoted(worst.name)}")
    finally:
        connection.execute("ROLLBACK TO credential_db_preservation")
        connection.execute("RELEASE credential_db_preservation")


def _never_firing(connection: DBAPIConnection, entries: Collection[SchemaObject]) -> Iterator[str]:
    """Triggers on columns that do not exist (UPDATE OF), which SQLite does not notice."""
    for entry in entries:
        if entry.type == "trigger":
            head = tokens(str(entry.sql))
            head = head[: head.index("on")]  # a reserved word, so no name before it
            pairs = list(pairwise(head))
            if ("update", "of") in pairs:
                start = pairs.index(("update", "of")) + 2
                names = head[start::2]
                missing = set(map(name_of, names)) - column_names(connection, entry.table)
                if missing:
                    yield f"trigger {entry.name} (no such column: {', '.join(sorted(missing))})"


def check(before: Preserved, after: Preserved, *, snapshots: Mapping[str, Schema]) -> None:
    """Refuse to commit a loss. Of a table's definition, a line of its snapshot has to stay."""
    wanted = (
        f"{table}: {line}" for table in snapshots for line in snapshots[table].definitions[table]
    )
    lost = sorted((before.definitions - after.definitions).intersection(wanted))
    if lost:
        raise CredentialDBError(
            f"the migration would lose {'; '.join(lost)}: {_MISTAKE}; op.copy_table takes the "
            "complete definition"
        )
    gone = sorted(before.objects - after.objects)
    if gone:
        raise UnrecognizedSchema(
            f"{', '.join(gone)} would be lost: drop or adapt what needs it, then run again"
        )
    broken = sorted(after.broken - before.broken)
    if broken:
        raise UnrecognizedSchema(
            f"after the upgrade this would not work any more: {'; '.join(broken)}. Drop or adapt "
            "it, then run again"
        )
    new, solved = after.orphans - before.orphans, before.orphans - after.orphans
    if new and sorted(new.values()) != sorted(solved.values()):  # else tables were renamed
        rows = ", ".join(f"{count} of {child} ({parent})" for (child, parent), count in new.items())
        raise CredentialDBError(
            f"rows would reference rows that do not exist: {rows}. Drop a foreign key of your own "
            f"and recreate it after the upgrade; if it is not yours, {_MISTAKE}"
        )


def tables_that_contain(connection: DBAPIConnection, text: str, own: Collection[str]) -> list[str]:
    """The user's tables in which a cell contains a text; one that cannot be read is skipped."""
    found = []
    ours = set(map(folded, own))
    for entry in objects(connection):
        if entry.type == "table" and folded(entry.name) not in ours:
            cells = " OR ".join(
                f"instr(CAST({quoted(column)} AS BLOB), CAST(:text AS BLOB))"
                f" OR instr(CAST({quoted(column)} AS BLOB), :bytes)"  # a BLOB in a UTF-16 database
                for column in column_names(connection, entry.name)
            )
            query = f"SELECT 1 FROM main.{quoted(entry.name)} WHERE {cells} LIMIT 1"
            with contextlib.suppress(Exception):
                if connection.execute(query, {"text": text, "bytes": text.encode()}).fetchone():
                    found.append(entry.name)
    return found
