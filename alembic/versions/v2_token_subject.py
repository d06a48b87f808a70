"""A token's task becomes its subject.

Revision ID: v2
Revises: v1

"""

from credential_db.sqlite.revising import has_column, op

revision = "v2"
down_revision = "v1"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if not has_column("proxy_tokens", "task"):
        return  # a newer program made the table, in its own shape
    with op.batch_alter_table("proxy_tokens", recreate="never") as batch_op:
        batch_op.alter_column("task", new_column_name="subject")


def downgrade() -> None:
    if not has_column("proxy_tokens", "subject"):
        return
    with op.batch_alter_table("proxy_tokens", recreate="never") as batch_op:
        batch_op.alter_column("subject", new_column_name="task")
