"""A token's task becomes its subject.

Revision ID: v2
Revises: v1

"""

from credential_db.sqlite.operations import Operations

revision = "v2"
down_revision = "v1"


def upgrade(op: Operations) -> None:
    if op.has_column("proxy_tokens", "task"):  # else a newer program created the table
        op.alter_column("proxy_tokens", "task", new_column_name="subject")


def downgrade(op: Operations) -> None:
    if op.has_column("proxy_tokens", "subject"):
        op.alter_column("proxy_tokens", "subject", new_column_name="task")
