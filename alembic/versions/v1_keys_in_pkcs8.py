"""SSH private keys in PKCS#8 DER, fingerprints as ssh-keygen prints them.

Revision ID: v1
Revises: v0

"""

import sqlalchemy as sa
from alembic import op

from credential_db.key_conversion import convert_keys
from credential_db.sqlite.revising import dependants_kept, has_check, has_column, rewrite_rows

revision = "v1"
down_revision = "v0"
branch_labels = None
depends_on = None

# As in v0, to copy the table of an old release that left out the CHECK on key_type.
SSH_KEYS = sa.Table(
    "ssh_keys",
    sa.MetaData(),
    sa.Column("id", sa.Integer, primary_key=True, nullable=True),
    sa.Column("key_type", sa.Text, nullable=False),
    sa.Column("private_pem", sa.BLOB, nullable=False),
    sa.Column("public_blob", sa.BLOB, nullable=False),
    sa.Column("comment", sa.Text, nullable=False, server_default=sa.text("''")),
    sa.Column("fingerprint", sa.Text, nullable=False),
    sa.Column("created_at", sa.Text, nullable=False, server_default=sa.text("(datetime('now'))")),
    sa.CheckConstraint("key_type IN ('ed25519','rsa')"),
    sa.UniqueConstraint("fingerprint"),
    sqlite_autoincrement=True,
)


def upgrade() -> None:
    if not has_column("ssh_keys", "private_pem"):
        return  # a newer program made the table, in its own shape
    rewrite_rows("ssh_keys", lambda connection: convert_keys(connection, "v0 -> v1"))
    if not has_check("ssh_keys"):
        with (
            dependants_kept(),
            op.batch_alter_table("ssh_keys", recreate="always", copy_from=SSH_KEYS),
        ):
            pass
    with op.batch_alter_table("ssh_keys", recreate="never") as batch_op:
        batch_op.alter_column("private_pem", new_column_name="private_der")


def downgrade() -> None:
    if not has_column("ssh_keys", "private_der"):
        return
    rewrite_rows("ssh_keys", lambda connection: convert_keys(connection, "v1 -> v0"))
    with op.batch_alter_table("ssh_keys", recreate="never") as batch_op:
        batch_op.alter_column("private_der", new_column_name="private_pem")
