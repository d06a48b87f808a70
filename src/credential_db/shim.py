"""The shim: what an old file is, told from both of its stamps and its actual shape.

Releases before Alembic told versions 0, 1 and 2 apart by ``PRAGMA user_version`` alone, and ran
``CREATE TABLE IF NOT EXISTS`` in the newest shape they knew before they migrated. So the shape may
be ahead of the number, never behind it. Where number and stamp disagree, the tables decide, if they
can; whatever else a file says is refused here.
"""

from typing import NamedTuple

from credential_db.current import LAST_LEGACY_VERSION
from credential_db.head import SCHEMA_VERSION
from credential_db.records import record, shape_of_file, tables_ever
from credential_db.sqlite.driver import DBAPIConnection
from credential_db.sqlite.errors import SchemaTooNew, UnrecognizedSchema
from credential_db.sqlite.scrub import refuse_damage
from credential_db.sqlite.shape import Shape
from credential_db.sqlite.stamps import STAMP_TABLE, revision_of, stamps, user_version, version_of


class Found(NamedTuple):
    """What a recognised file is.

    Attributes:
        version: The version to migrate from; None where there is no schema yet.
        stamped: Whether Alembic's stamp says so already.
        agreed: Whether the number says so, too.
        missing: Tables of that version that the file lacks.
        shape: Of its tables, as they are.
    """

    version: int | None
    stamped: bool
    agreed: bool
    missing: tuple[str, ...]
    shape: Shape

    @property
    def is_tidy(self) -> bool:
        """Whether all of it is as the version says, but for definitions."""
        return self.stamped and self.agreed and not self.missing


def recognize(connection: DBAPIConnection, *, purging: bool = False) -> Found:
    """Tell which version a file is, without changing it.

    Args:
        connection: Rows come as tuples.
        purging: Go by the tables alone, since the stamps are about to be replaced.

    Raises:
        SchemaTooNew: A newer release wrote the file.
        UnrecognizedSchema: Number, stamp and shape do not fit together.
        NotADatabase: The file is damaged.
    """
    number = user_version(connection)
    found = stamps(connection)
    newest = max([number, *(version_of(revision) or 0 for revision in found or ())])
    if newest > SCHEMA_VERSION:
        raise SchemaTooNew(
            f"the file is at schema version {newest}, newer than this release's version "
            f"{SCHEMA_VERSION}: upgrade credential-db",
            newest,
        )
    if number < 0:
        raise UnrecognizedSchema(
            f"PRAGMA user_version is {number}, where a version from 0 to {SCHEMA_VERSION} was "
            "expected: this is another program's file",
            number,
        )
    shape = shape_of_file(connection)
    columns = shape.columns
    _refuse_views(shape)
    if purging:
        return _by_tables_alone(shape)
    stamp = _stamp(found, number)
    if stamp is not None and stamp != number:
        return _where_stamps_disagree(shape, stamp, number)
    if not any(table in columns for table in record(number).columns):
        if stamp is None and not number:
            _refuse_emptied(connection, shape)
            return Found(None, stamped=False, agreed=True, missing=(), shape=shape)
        raise UnrecognizedSchema(
            f"{_claim(number, stamp)}, but the file has none of the tables "
            f"{', '.join(sorted(record(number).columns))}: this is another program's file, or a "
            "damaged one",
            number,
        )
    versions = range(number, max(number, LAST_LEGACY_VERSION) + 1)
    for table in record(number).columns:
        if table in columns:
            _check_columns(table, columns[table], versions, _claim(number, stamp), stamp)
    missing = tuple(table for table in record(number).columns if table not in columns)
    return Found(number, stamp is not None, agreed=True, missing=missing, shape=shape)


def records_of_tables(shape: Shape, version: int) -> dict[str, Shape]:
    """For each table of the file the record that it is held against.

    It is that of the version, or of the next one that has the columns of a table ahead of it.
    """
    return {
        table: next(
            known
            for known in map(record, range(version, SCHEMA_VERSION + 1))
            if known.columns.get(table) == found
        )
        for table, found in shape.columns.items()
        if table in record(version).columns
    }


def refuse_inexact(shape: Shape, version: int) -> None:
    """Raise where the tables are not just those of a version that is written into the stamps.

    Raises:
        UnrecognizedSchema: They are those of another version.
    """
    for table, found in shape.columns.items():
        if table in record(version).columns:
            claim = f"the stamps would say {revision_of(version)}"
            _check_columns(table, found, range(version, version + 1), claim, version)


def _refuse_views(shape: Shape) -> None:
    names = {name.lower() for name in (*tables_ever(), STAMP_TABLE)}
    for entry in shape.objects:
        if entry.type == "view" and entry.name.lower() in names:
            raise UnrecognizedSchema(
                f"{entry.name} is a view, where a table was expected: rename it"
            )


def _check_columns(
    table: str, found: frozenset[str], versions: range, claim: str, stamp: int | None
) -> None:
    shapes = [record(version).columns.get(table) for version in range(SCHEMA_VERSION + 1)]
    possible = [shape for shape in (shapes[version] for version in versions) if shape is not None]
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
            f"set 'PRAGMA user_version = {known[-1]}' for the upgrade to go on from there"
            if stamp is None
            else f"run 'credential-db -x db=PATH stamp --purge {revision_of(known[-1])}'"
        )
    raise UnrecognizedSchema(
        f"{claim}, where table {table} was expected with the columns "
        f"{', '.join(sorted(expected))}; found {_difference(found, expected)}, {verdict}: {remedy}",
        known[-1] if known else None,
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


def _where_stamps_disagree(shape: Shape, stamp: int, number: int) -> Found:
    """Where stamp and number disagree, the tables decide for the higher, if they are just its.

    Old software makes such files in normal use: it writes only the number when it migrates, and
    copies only the tables when it encrypts a file.
    """
    lower, higher = sorted((stamp, number))
    versions = range(lower, higher + 1)
    alike = [version for version in versions if record(version).columns == shape.columns]
    if len(alike) > 1:
        alike = [version for version in alike if record(version).definition == shape.definition]
    if alike == [higher]:
        return Found(higher, stamped=True, agreed=False, missing=(), shape=shape)
    raise UnrecognizedSchema(
        f"the Alembic stamp says {revision_of(stamp)}, but PRAGMA user_version says {number}, and "
        f"the tables are not just those of version {higher}: find out which of them is right, "
        "then run 'credential-db -x db=PATH stamp --purge' with that revision",
        higher,
    )


def _by_tables_alone(shape: Shape) -> Found:
    """The newest version that the tables may be of."""
    for table, found in shape.columns.items():
        _check_columns(table, found, range(SCHEMA_VERSION + 1), "going by the tables alone", None)
    version = SCHEMA_VERSION if shape.columns else None
    return Found(version, stamped=True, agreed=True, missing=(), shape=shape)


def _stamp(found: list[str] | None, number: int) -> int | None:
    if found is None:
        return None
    remedy = (
        "find out which version the tables are, then run 'credential-db -x db=PATH stamp --purge' "
        "with its revision"
    )
    if len(found) != 1:
        raise UnrecognizedSchema(
            f"table {STAMP_TABLE} has {len(found) or 'no'} rows, where exactly one was expected: "
            f"{remedy}",
            number,
        )
    version = version_of(found[0])
    if version is None:
        raise UnrecognizedSchema(
            f"table {STAMP_TABLE} names the revision {found[0]!r}, where one such as "
            f"'{revision_of(LAST_LEGACY_VERSION)}' was expected: another project's migrations were "
            f"run on this file, or its stamp is damaged; {remedy}",
            number,
        )
    return version


def _refuse_emptied(connection: DBAPIConnection, shape: Shape) -> None:
    """A file whose schema page was overwritten looks empty, and still has all of its pages."""
    (pages,) = connection.execute("PRAGMA main.page_count").fetchone()
    if pages > 1 and not shape.objects:
        refuse_damage(connection)
