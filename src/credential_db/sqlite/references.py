"""Foreign keys: an upgrade runs with them off, and counts before its commit what points nowhere."""

import logging
from collections import Counter
from collections.abc import Collection

from credential_db.sqlite.driver import DBAPIConnection, quoted
from credential_db.sqlite.errors import CredentialDBError, UnrecognizedSchema
from credential_db.sqlite.failures import known_text
from credential_db.sqlite.shape import objects
from credential_db.sqlite.table_copy import REPAIR_ROWS, named

logger = logging.getLogger(__name__)

_MISMATCH = "foreign key mismatch"


class References:
    """Which rows point nowhere before an upgrade; those stay, and a line in the log says so.

    Args:
        connection: Inside the transaction of the upgrade.
        tables: The names of the program's own tables, of any version.
    """

    def __init__(self, connection: DBAPIConnection, tables: Collection[str]) -> None:
        """Look at the file."""
        self._connection = connection
        self._tables = tables
        self._orphans, self._unchecked = self._found()
        _warn_of(self._orphans)
        for table, reason in self._unchecked.items():
            logger.warning("the foreign keys of table %s cannot be checked: %s", table, reason)

    def _found(self) -> "tuple[Counter[tuple[str, str]], dict[str, str]]":
        """How many rows of which table point nowhere in which other, and which no one can tell."""
        orphans: Counter[tuple[str, str]] = Counter()
        unchecked: dict[str, str] = {}
        check = "PRAGMA main.foreign_key_check"
        try:
            self._count(check, orphans)
        except Exception as error:
            if _MISMATCH not in str(error):
                raise
        else:
            return orphans, unchecked
        orphans.clear()
        for entry in objects(self._connection):  # a mistake of the user's own: which table has it?
            try:
                if entry.type == "table":
                    self._count(f"{check}({quoted(entry.name)})", orphans)
            except Exception as error:
                if _MISMATCH not in str(error):
                    raise
                unchecked[entry.name] = known_text(error)
        return orphans, unchecked

    def _count(self, check: str, orphans: "Counter[tuple[str, str]]") -> None:
        rows = self._connection.execute(check)
        orphans.update((table, parent) for table, _, parent, _ in rows)

    def check(self, promises: Collection[str]) -> None:
        """Refuse to commit a reference that is lost.

        Args:
            promises: What the definition of the program's tables says now and did not before.

        Raises:
            UnrecognizedSchema: There is a new foreign key, and rows are in its way.
            CredentialDBError: Rows would point nowhere that did not before.
        """
        orphans, unchecked = self._found()
        new = orphans - self._orphans
        gone = self._orphans - orphans
        for table, parent in [*new]:  # which may have another name now, and the same rows
            for before in [(table, old) for child, old in gone if child == table] + [
                (child, parent) for child, old in gone if old == parent
            ]:
                if gone[before] == new[table, parent]:
                    del new[table, parent], gone[before]
                    break
        unseen = {key: new.pop(key) for key in [*new] if key[0] in self._unchecked}
        _warn_of(Counter(unseen))
        for table, parent in new:
            key = f"{table}: FOREIGN KEY to {parent} (".lower()
            if any(line.lower().startswith(key) for line in promises):
                check = self._connection.execute(f"PRAGMA main.foreign_key_check({quoted(table)})")
                rows = [row for _, row, other, _ in check if other == parent]
                raise UnrecognizedSchema(
                    f"a foreign key of table {table} asks for a row of {parent}, and there is none "
                    f"for its rows {named(rows)}: {REPAIR_ROWS}"
                )
        lost = [f"{count} rows of {table} -> {parent}" for (table, parent), count in new.items()]
        torn = [table for table in unchecked if table not in self._unchecked]
        lost += [f"the rows of {table}" for table in torn]
        if not lost:
            return
        foreign = {table for table, _ in new}.union(torn) - set(self._tables)
        raise CredentialDBError(
            f"{'; '.join(lost)} would point nowhere. Nothing was changed; "
            + (
                "this upgrade changes what they refer to: take that foreign key away, upgrade, and "
                "make it anew with the new values"
                if foreign
                else "this is a mistake in the revision"
            )
        )


def _warn_of(orphans: "Counter[tuple[str, str]]") -> None:
    for (table, parent), count in orphans.items():
        logger.warning(
            "%d rows of %s -> %s point nowhere. They did before this upgrade, and stay as they are",
            count,
            table,
            parent,
        )
