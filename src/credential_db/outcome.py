"""What a command did to one file, in words."""

from typing import NamedTuple


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
