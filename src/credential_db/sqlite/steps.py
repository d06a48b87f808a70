"""Steps of a revision that Alembic has no operation for, and how they are written."""

import textwrap
from collections.abc import Sequence

from alembic.autogenerate import render_op_text, renderers
from alembic.autogenerate.api import AutogenContext
from alembic.operations import ops

from credential_db.sqlite.reflection import creation_of_table
from credential_db.sqlite.revising import CopyTable


class Code(ops.MigrateOperation):
    """Lines of a revision that Alembic has no renderer for, and what ``alembic check`` prints."""

    def __init__(self, lines: Sequence[str], difference: tuple[str, ...]) -> None:
        """Take both."""
        self.lines = list(lines)
        self.difference = difference

    def to_diff_tuple(self) -> tuple[str, ...]:
        """What ``alembic check`` prints."""
        return self.difference


def commented(text: str) -> list[str]:
    """Lines of a comment, however long the text is."""
    return [f"# {line}" for line in textwrap.wrap(text, 92, subsequent_indent="  ")]


class InPlace(ops.ModifyTableOps):
    """Steps that SQLite takes in place: columns added, dropped and renamed, and indexes."""


@renderers.dispatch_for(Code)
def _render_code(_: AutogenContext, code: Code) -> list[str]:
    return code.lines


@renderers.dispatch_for(InPlace)
def _render_in_place(context: AutogenContext, alteration: InPlace) -> list[str]:
    block = render_op_text(context, ops.ModifyTableOps(alteration.table_name, alteration.ops))
    return block.replace("schema=None", "recreate='never'", 1).split("\n")


@renderers.dispatch_for(CopyTable)
def _render_copy(context: AutogenContext, copy: CopyTable) -> str:
    creation = render_op_text(context, creation_of_table(copy.table))
    call = creation.replace("create_table(", "copy_table(", 1)
    return call if not copy.values else f"{call.rstrip()[:-1]}, values={copy.values!r})"
