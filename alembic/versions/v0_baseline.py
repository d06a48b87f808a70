"""The four tables as the first releases made them.

Revision ID: v0
Revises:

"""

import sqlalchemy as sa

from credential_db.sqlite.revising import op, refuse_rows

revision = "v0"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "credentials",
        sa.Column("credential_set", sa.Text, nullable=False),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("data", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("credential_set", "provider"),
    )
    op.create_table(
        "ssh_keys",
        sa.Column("id", sa.Integer, primary_key=True, nullable=True),
        sa.Column("key_type", sa.Text, nullable=False),
        sa.Column("private_pem", sa.BLOB, nullable=False),
        sa.Column("public_blob", sa.BLOB, nullable=False),
        sa.Column("comment", sa.Text, nullable=False, server_default=sa.text("''")),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column(
            "created_at", sa.Text, nullable=False, server_default=sa.text("(datetime('now'))")
        ),
        sa.CheckConstraint("key_type IN ('ed25519','rsa')"),
        sa.UniqueConstraint("fingerprint"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "ssh_key_assignments",
        sa.Column("scope", sa.Text, nullable=False),
        sa.Column("key_id", sa.Integer, nullable=False),
        sa.Column(
            "assigned_at", sa.Text, nullable=False, server_default=sa.text("(datetime('now'))")
        ),
        sa.PrimaryKeyConstraint("scope", "key_id"),
        sa.ForeignKeyConstraint(["key_id"], ["ssh_keys.id"], ondelete="CASCADE"),
    )
    op.create_table(
        "proxy_tokens",
        sa.Column("token", sa.Text, primary_key=True, nullable=True),
        sa.Column("scope", sa.Text, nullable=False),
        sa.Column("task", sa.Text, nullable=False),
        sa.Column("credential_set", sa.Text, nullable=False),
        sa.Column("provider", sa.Text, nullable=False),
    )


def downgrade() -> None:
    tables = ("proxy_tokens", "ssh_key_assignments", "ssh_keys", "credentials")
    refuse_rows(*tables)
    for table in tables:
        op.drop_table(table)
