"""The shim: what an old file is, told from ``PRAGMA user_version`` and its actual shape.

Releases before Alembic told versions 0, 1 and 2 apart by ``PRAGMA user_version`` alone, and ran
``CREATE TABLE IF NOT EXISTS`` in the newest shape they knew before they migrated. So the shape may
be ahead of the number, never behind it; and whatever else a file says is refused here.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from credential_db.sqlite.driver import DBAPIConnection
from credential_db.sqlite.errors import SchemaTooNew, UnrecognizedSchema
from credential_db.sqlite.shape import Shape, column_names

LAST_LEGACY_VERSION = 2
VERSION_TABLE = "alembic_version"

_REVISION = re.compile(r"v(0|[1-9][0-9]*)")


class Found(NamedTuple):
    """What a recognised file is.

    Attributes:
        version: The version to migrate from; None where there is no schema yet.
        stamped: Whether Alembic's stamp says so already.
        missing: Tables of that version that the file lacks.
    """

    version: int | None
    stamped: bool
    missing: tuple[str, ...]


def revision_of(version: int) -> str:
    """Version 2 is Alembic's revision ``v2``."""
    return f"v{version}"


def version_of(revision: str) -> int | None:
    """Revision ``v2`` is version 2; None where the revision is not one of ours."""
    match = _REVISION.fullmatch(revision)
    return int(match[1]) if match else None


def recognize(
    connection: DBAPIConnection, history: Sequence[Shape], *, ignore_stamp: bool = False
) -> Found:
    """Tell which version a file is, without changing it.

    Args:
        connection: Rows come as tuples.
        history: The shape of each version, from 0 to the head.
        ignore_stamp: Go by the tables alone, as for a stamp that is about to be replaced.

    Raises:
        SchemaTooNew: A newer release wrote the file.
        UnrecognizedSchema: Number, stamp and shape do not fit together.
    """
    head = len(history) - 1
    number = user_version(connection)
    stamp = None if ignore_stamp else _stamp(connection)
    newest = number if stamp is None else max(number, stamp)
    if newest > head and not ignore_stamp:
        raise SchemaTooNew(
            f"the file is at schema version {newest}, newer than this release's version {head}: "
            "upgrade credential-db"
        )
    if number < 0:
        raise UnrecognizedSchema(
            f"PRAGMA user_version is {number}, where a version from 0 to {head} was expected: "
            "this is another program's file"
        )
    if stamp is not None and stamp != number:
        raise UnrecognizedSchema(
            f"the Alembic stamp says {revision_of(stamp)}, but PRAGMA user_version says {number}: "
            "find out which of them the tables agree with, then run "
            "'credential-db -x db=PATH stamp --purge' with that revision"
        )
    found = {
        table: columns
        for table in {table for shape in history for table in shape.columns}
        if (columns := _columns(connection, table))
    }
    claim = _claim(number, stamp)
    versions = range(number, max(number, LAST_LEGACY_VERSION) + 1)
    if ignore_stamp:
        claim, versions = "going by the tables alone", range(head + 1)
    number = versions.start
    expected = history[number].columns
    if not any(table in found for table in expected):
        if stamp is None and not number:
            return Found(None, False, ())
        raise UnrecognizedSchema(
            f"{claim}, but the file has none of the tables "
            f"{', '.join(sorted(expected))}: this is another program's file, or a damaged one"
        )
    for table in expected:
        if table in found:
            _check_columns(table, found[table], versions, claim, history, stamped=stamp is not None)
    missing = tuple(table for table in expected if table not in found)
    return Found(number, stamp is not None, missing)


def _check_columns(
    table: str,
    found: frozenset[str],
    versions: range,
    claim: str,
    history: Sequence[Shape],
    *,
    stamped: bool,
) -> None:
    shapes = [shape.columns.get(table, frozenset()) for shape in history]
    possible = [shapes[version] for version in versions]
    if found in possible:
        return
    expected = min(possible, key=lambda shape: len(shape ^ found))  # the one that is nearest
    known = [version for version, shape in enumerate(shapes) if shape == found]
    verdict = f"which is the shape of version {known[-1]}" if known else "which no version had"
    remedy = "restore a backup"
    if not known:
        remedy += ", or move what is not this project's into a table of its own"
    elif known[-1] < versions.start:
        remedy += ", or in a copy of the file " + (
            f"run 'credential-db -x db=PATH stamp --purge {revision_of(known[-1])}'"
            if stamped
            else f"set 'PRAGMA user_version = {known[-1]}' for the upgrade to go on from there"
        )
    raise UnrecognizedSchema(
        f"{claim}, where table {table} was expected with the columns "
        f"{', '.join(sorted(expected))}; found {_difference(found, expected)}, {verdict}: {remedy}"
    )


def _difference(found: frozenset[str], expected: frozenset[str]) -> str:
    parts = []
    if found - expected:
        parts.append(f"{', '.join(sorted(found - expected))} besides")
    if expected - found:
        parts.append(f"no {', '.join(sorted(expected - found))}")
    return " and ".join(parts)


def _claim(number: int, stamp: int | None) -> str:
    if stamp is None:
        return f"PRAGMA user_version says version {number}"
    return f"the Alembic stamp says {revision_of(stamp)}"


def user_version(connection: DBAPIConnection) -> int:
    """The number that legacy software goes by: https://www.sqlite.org/pragma.html#pragma_user_version."""
    return int(connection.execute("PRAGMA main.user_version").fetchone()[0])


def _stamp(connection: DBAPIConnection) -> int | None:
    columns = _columns(connection, VERSION_TABLE)
    if columns is None:
        return None
    if "version_num" not in columns:
        raise UnrecognizedSchema(
            f"table {VERSION_TABLE} has no column version_num: it is not Alembic's, and stands "
            "where Alembic's belongs; rename it"
        )
    rows = connection.execute(f"SELECT version_num FROM main.{VERSION_TABLE}").fetchall()
    remedy = (
        "find out which version the tables are, then run 'credential-db -x db=PATH stamp --purge' "
        "with its revision"
    )
    if len(rows) != 1:
        raise UnrecognizedSchema(
            f"table {VERSION_TABLE} has {len(rows) or 'no'} rows, where exactly one was "
            f"expected: {remedy}"
        )
    version = version_of(str(rows[0][0]))
    if version is None:
        raise UnrecognizedSchema(
            f"table {VERSION_TABLE} names the revision {rows[0][0]!r}, where one such as "
            f"'v{LAST_LEGACY_VERSION}' was expected: another project's migrations were run on "
            f"this file, or its stamp is damaged; {remedy}"
        )
    return version


def _columns(connection: DBAPIConnection, table: str) -> frozenset[str] | None:
    """The names of a table's columns in lower case, None where there is no such table.

    Raises:
        UnrecognizedSchema: The name is that of a view.
    """
    kinds = connection.execute(
        "SELECT type FROM main.sqlite_master WHERE name = ? COLLATE NOCASE AND type <> 'index'"
        " AND type <> 'trigger'",
        (table,),
    ).fetchall()
    if not kinds:
        return None
    if kinds != [("table",)]:
        raise UnrecognizedSchema(f"{table} is a view, where a table was expected: rename it")
    return column_names(connection, table)
