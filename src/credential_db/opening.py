"""Open a database for a command, and do at once what takes no migration. Imports no library."""

import contextlib
import sqlite3
from collections.abc import Callable
from typing import NamedTuple

from credential_db import current
from credential_db.head import SCHEMA_VERSION
from credential_db.outcome import Outcome
from credential_db.sqlite.driver import DBAPIConnection, main_file
from credential_db.sqlite.errors import DatabaseBusy
from credential_db.sqlite.files import identity, warn
from credential_db.sqlite.obstacles import obstacles, tighten_sidecars, warnings
from credential_db.sqlite.targets import Target, cleaned
from credential_db.sqlite.transaction import Replaced, Transaction, patiently
from credential_db.sqlite.working import glancing


class Opened(NamedTuple):
    """A database that is to be changed."""

    connection: DBAPIConnection
    target: Target
    path: str  # of its file; empty if there is none
    identity: tuple[int, int] | None  # of that file, before it was opened
    created: bool  # the file was missing

    @property
    def name(self) -> str:
        """What to call it in messages."""
        return self.target.name

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
        deadline = self.target.deadline
        return Transaction(self.connection, self.name, deadline, self.path, self.identity)


@cleaned
def change(
    target: Target,
    migrate: Callable[[Opened], Outcome],
    *,
    to_head: bool = False,
    create: bool = False,
    dry_run: bool = False,
    repair: bool = False,
) -> Outcome:
    """Open a database, and change it: a current or a missing file at once, others by ``migrate``.

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
                at_once = to_head and not repair
                return (at_once and _at_once(opened, may_create=not dry_run)) or migrate(opened)
        except Replaced as error:
            if not target.path:
                raise
            failure = str(error)
        if not target.deadline.left():
            raise DatabaseBusy(failure)


def _at_once(opened: Opened, *, may_create: bool) -> Outcome | None:
    """Nothing for a current file, and everything for an empty one; None for any other."""
    connection, name = opened.connection, opened.name

    def is_current() -> bool:
        return current.is_current(connection)

    if patiently(connection, name, opened.target.deadline, is_current):
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
