"""Open a database for a command, and do at once what takes no migration. Imports no library."""

import contextlib
import functools
import sqlite3
from collections.abc import Callable
from typing import NamedTuple

from credential_db import current
from credential_db.head import SCHEMA_VERSION
from credential_db.sqlite.driver import DBAPIConnection, main_file
from credential_db.sqlite.errors import DatabaseBusy
from credential_db.sqlite.files import identity, warn
from credential_db.sqlite.obstacles import obstacles, tighten_sidecars, warnings
from credential_db.sqlite.targets import Target, cleaned
from credential_db.sqlite.transaction import Replaced, Transaction, patiently
from credential_db.sqlite.working import glancing


class Upgrade(NamedTuple):
    """What an upgrade did.

    Attributes:
        before: The version that was found; None if there was no schema.
        after: The version now.
    """

    before: int | None
    after: int

    def __str__(self) -> str:
        """One line for a person."""
        return str(Outcome(self.before, self.after))


class Outcome(NamedTuple):
    """What a command did to one file."""

    before: int | None  # the version that was found; None if there was no schema
    after: int | None  # the version now, likewise
    created: bool = False  # the file is new
    stamped: bool = False  # only the stamps were written
    adopted: bool = False  # the file came under Alembic
    repaired: tuple[str, ...] = ()  # lines of the tables' definitions that were restored
    remarks: tuple[str, ...] = ()  # what else was done, such as "5 SSH keys converted"
    backup: str | None = None  # the copy of the file as it was
    dry_run: bool = False  # everything was rolled back

    def __str__(self) -> str:
        """One line for a person."""
        backup = (f"backup: {self.backup}",) if self.backup else ()
        repaired = (f"repaired: {', '.join(self.repaired)}",) if self.repaired else ()
        prefix = "dry run, nothing was changed: " if self.dry_run else ""
        return prefix + "; ".join((self._what(), *self.remarks, *repaired, *backup))

    def _what(self) -> str:
        if self.stamped:
            return f"stamped as {'base' if self.after is None else f'version {self.after}'}"
        if self.after is None and self.before is None:
            return "no schema"
        if self.after is None:
            return f"downgraded from version {self.before} to base"
        if self.before is None:
            return f"created at version {self.after}"
        if self.before == self.after:
            return f"{'adopted' if self.adopted else 'already'} at version {self.after}"
        verb = "upgraded" if self.before < self.after else "downgraded"
        return f"{verb} from version {self.before} to version {self.after}"


class Opened(NamedTuple):
    """A database that is to be changed."""

    connection: DBAPIConnection
    target: Target
    path: str  # of its file; empty if there is none
    identity: tuple[int, int] | None  # of that file, before it was opened
    created: bool  # the file was missing

    def prepare(self) -> None:
        """Look at the file before it is changed; raise the first obstacle."""
        if self.path:
            for obstacle in obstacles(self.path):
                raise obstacle
            for warning in warnings(self.path):
                warn(warning)
            tighten_sidecars(self.path)

    def transaction(self) -> Transaction:
        """The one transaction of the change."""
        name, deadline = self.target.name, self.target.deadline
        return Transaction(self.connection, name, deadline, self.path, self.identity)


@cleaned
def change(
    target: Target,
    migrate: Callable[[Opened], Outcome],
    *,
    at_once: bool = False,
    create: bool = False,
    dry_run: bool = False,
) -> Outcome:
    """Open a database, and change it by ``migrate``; ``at_once`` if it is current or empty.

    If the file is replaced while this waits for its lock, it starts again with the new one.
    """
    while True:
        before = identity(target.path) if target.path else None
        missing = target.is_missing()
        if missing and create:
            for obstacle in obstacles(target.path):
                raise obstacle
            if dry_run:
                with contextlib.closing(sqlite3.connect(":memory:")) as empty:
                    done = change(Target(empty), migrate, dry_run=True)
                return done._replace(created=True)
        try:
            with target.opened(create=create) as connection:
                path = target.path or main_file(connection)
                file = before or (identity(path) if path else None)
                opened = Opened(connection, target, path if file else "", file, missing)
                return (at_once and _at_once(opened, may_create=not dry_run)) or migrate(opened)
        except Replaced as error:
            if not target.path:
                raise
            failure = str(error)
        if not target.deadline.left():
            raise DatabaseBusy(failure)


def _at_once(opened: Opened, *, may_create: bool) -> Outcome | None:
    """Nothing for a current file, and everything for an empty one; None for any other."""
    connection, target = opened.connection, opened.target
    is_current = functools.partial(current.is_current, connection)
    if patiently(connection, target.name, target.deadline, is_current):
        return Outcome(SCHEMA_VERSION, SCHEMA_VERSION)
    with glancing(connection):
        is_empty = may_create and current.is_empty(connection)
    if is_empty:
        opened.prepare()
        if current.create(connection, opened.transaction()):
            return Outcome(None, SCHEMA_VERSION, created=opened.created)
        if is_current():  # another process was faster
            return Outcome(SCHEMA_VERSION, SCHEMA_VERSION)
    return None
