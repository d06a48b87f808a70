"""The shim: which version a file is, by both of its stamps and by its tables.

Releases before Alembic told versions 0, 1 and 2 apart by ``PRAGMA user_version`` alone, and ran
``CREATE TABLE IF NOT EXISTS`` with the newest schema that they knew before they migrated. So the
tables may be ahead of the number, never behind it. If number and stamp disagree, the tables decide
if they can. Whatever else a file contains is refused here.
"""

from typing import NamedTuple

from credential_db.head import MAY_RUN_AGAIN, SCHEMA_VERSION
from credential_db.snapshots import schema_of_file, snapshot, tables_ever
from credential_db.sqlite.driver import DBAPIConnection, first_row, folded
from credential_db.sqlite.errors import SchemaTooNew, UnrecognizedSchema
from credential_db.sqlite.schema import Schema
from credential_db.sqlite.scrub import refuse_damage
from credential_db.sqlite.stamps import STAMP_TABLE, revision_of, stamps, user_version, version_of

LAST_LEGACY_VERSION = 2  # the newest that releases before Alembic wrote
_PURGE = "find out which version the tables are, then run credential-db stamp --purge --to VERSION"


class Found(NamedTuple):
    """What a recognised file is."""

    version: int | None  # to migrate from; None if there is no schema yet
    stamped: bool  # the file is under Alembic
    agreed: bool  # stamp and number both name that version already
    missing: tuple[str, ...]  # tables of that version that the file lacks
    schema: Schema  # of the file's tables as they are

    @property
    def snapshots(self) -> dict[str, Schema]:
        """For each table the snapshot that it is compared with.

        It is that of the version, or of a later one that has the columns of a table ahead of it.
        """
        version = self.version or 0
        return {
            table: next(
                known
                for known in map(snapshot, range(version, SCHEMA_VERSION + 1))
                if known.columns.get(table) == columns
            )
            for table, columns in self.schema.columns.items()
            if table in snapshot(version).columns
        }


def identify(connection: DBAPIConnection) -> Found:
    """Tell which version a file is, without changing it; raise if that cannot be told."""
    number, found = user_version(connection), stamps(connection)
    refuse_too_new(number, found)
    schema = schema_of_file(connection)
    ours = {folded(name) for name in (*tables_ever(), STAMP_TABLE)}
    for entry in schema.objects:
        if entry.type == "view" and folded(entry.name) in ours:
            raise UnrecognizedSchema(
                f"{entry.name} is a view, and a table was expected: rename the view"
            )
    stamp = _version_of_stamp(found, number)
    if stamp is not None and stamp != number:
        return _by_tables(schema, stamp, number)
    if not any(table in schema.columns for table in snapshot(number).columns):
        if stamp is None and not number:
            # A file whose schema page was overwritten looks empty, and still has all of its pages.
            if not schema.objects and first_row(connection, "PRAGMA main.page_count")[0] > 1:
                refuse_damage(connection)
            return Found(None, stamped=False, agreed=True, missing=(), schema=schema)
        raise UnrecognizedSchema(
            f"{_claim(number, stamp)}, but the file has none of the tables "
            f"{', '.join(sorted(snapshot(number).columns))}: it belongs to another program, or is "
            "damaged",
            number,
        )
    versions = range(number, max(number, LAST_LEGACY_VERSION) + 1)
    for table in snapshot(number).columns:
        _check_columns(schema, table, versions, _claim(number, stamp))
    missing = tuple(table for table in snapshot(number).columns if table not in schema.columns)
    return Found(
        number, stamp is not None, agreed=stamp is not None, missing=missing, schema=schema
    )


def refuse_too_new(number: int, found: object) -> None:
    """Raise ``SchemaTooNew`` if the number, or a stamp, is of a later version than the head."""
    named = found if isinstance(found, list) else []
    newest = max([number, *(version_of(revision) or 0 for revision in named)])
    if newest > SCHEMA_VERSION:
        raise SchemaTooNew(
            f"the file is at schema version {newest}, and this release knows versions up to "
            f"{SCHEMA_VERSION}: upgrade credential-db",
            newest,
        )
    if number < 0:
        raise UnrecognizedSchema(
            f"PRAGMA user_version is {number}, and a version from 0 to {SCHEMA_VERSION} was "
            "expected: the file belongs to another program",
            number,
        )


def refuse_other_tables(schema: Schema, version: int | None, name: str) -> bool:
    """Raise if the tables are not those of a version that is to be stamped.

    Returns whether another version has the same tables, so that they do not tell the rows' version.
    """
    if version is None:
        return False  # any table may be ahead of no stamp
    wanted = snapshot(version).columns
    same = [v for v in range(SCHEMA_VERSION + 1) if snapshot(v).columns == schema.columns]
    if schema.columns == wanted:
        return len(same) > 1
    if same:
        raise UnrecognizedSchema(
            f"the tables are those of version {same[-1]}, not of version {version}, and a stamp "
            f"does not change them: run credential-db upgrade or downgrade on {name}",
            same[-1],
        )
    for table in wanted:
        _check_columns(schema, table, range(version, version + 1), f"version {version} was named")
    raise UnrecognizedSchema(
        f"the tables of version {version} are {', '.join(sorted(wanted))}; found "
        f"{', '.join(sorted(schema.columns)) or 'none'}: name another version"
    )


def _check_columns(schema: Schema, table: str, versions: range, claim: str) -> None:
    found = schema.columns.get(table)
    known = [snapshot(version).columns.get(table) for version in range(SCHEMA_VERSION + 1)]
    possible = [known[version] or frozenset() for version in versions if version < len(known)]
    if found is None or found in possible:
        return
    expected = min(possible, key=lambda columns: len(columns ^ found))  # the nearest
    same = [version for version, columns in enumerate(known) if columns == found]
    verdict = f"version {same[-1]} has these" if same else "no version has these"
    remedy = "restore a backup"
    if not same:
        remedy += ", or move what is not this application's into a table of its own"
    elif same[-1] < versions.start:
        remedy += (
            f", or run credential-db stamp --purge --to v{same[-1]} on a copy, then upgrade it"
        )
    extra, absent = (", ".join(sorted(names)) for names in (found - expected, expected - found))
    difference = [extra and f"{extra} in addition", absent and f"no {absent}"]
    raise UnrecognizedSchema(
        f"{claim}, so table {table} was expected to have the columns "
        f"{', '.join(sorted(expected))}; found {' and '.join(filter(None, difference))}; "
        f"{verdict}: {remedy}",
        same[-1] if same else None,
    )


def _claim(number: int, stamp: int | None) -> str:
    if stamp is None:
        return f"PRAGMA user_version is {number}"
    return f"the Alembic stamp is {revision_of(stamp)}"


def _by_tables(schema: Schema, stamp: int, number: int) -> Found:
    """The version of a file whose stamp and number disagree, as old software leaves it.

    It writes only the number when it migrates, and copies only the tables when it encrypts a file.
    """
    lower, higher = sorted((stamp, number))
    versions = range(lower, min(max(higher, LAST_LEGACY_VERSION), SCHEMA_VERSION) + 1)
    candidates = [v for v in versions if snapshot(v).columns == schema.columns]
    exact = [v for v in candidates if snapshot(v).definitions == schema.definitions]
    candidates = exact or candidates
    claim = f"the Alembic stamp is {revision_of(stamp)}, but PRAGMA user_version is {number}"
    if not candidates or candidates[-1] < higher:
        raise UnrecognizedSchema(
            f"{claim}, and the tables are not exactly those of version {higher}: {_PURGE}",
            higher,
        )
    if not MAY_RUN_AGAIN.issuperset(candidates[1:]):
        raise UnrecognizedSchema(
            f"{claim}, and the tables are those of the versions "
            f"{', '.join(map(str, candidates))}, which differ only in their rows: {_PURGE}"
        )
    return Found(candidates[0], stamped=True, agreed=False, missing=(), schema=schema)


def _version_of_stamp(found: object, number: int) -> int | None:
    if not isinstance(found, list):
        return None
    if len(found) != 1:
        raise UnrecognizedSchema(
            f"table {STAMP_TABLE} has {len(found) or 'no'} rows, and one was expected: {_PURGE}",
            number,
        )
    version = version_of(found[0])
    if version is None:
        raise UnrecognizedSchema(
            f"table {STAMP_TABLE} names the revision {found[0][:40]!r}, and one like "
            f"'{revision_of(LAST_LEGACY_VERSION)}' was expected: another project's migrations were "
            f"run on this file, or its stamp is damaged; {_PURGE}",
            number,
        )
    return version
