"""SSH private keys in PKCS#8 DER, fingerprints as ssh-keygen prints them.

Revision ID: v1
Revises: v0

"""

from credential_db.errors import KeyConversionError
from credential_db.key_conversion import (
    hex_fingerprint,
    sha256_fingerprint,
    to_openssh,
    to_pkcs8,
)
from credential_db.sqlite.revising import Conversion, Double, convert_rows, has_column, op

revision = "v1"
down_revision = "v0"
branch_labels = None
depends_on = None

ONE_KEY_A_ROW = Double("public_blob", "is for the same public key as row")


def upgrade() -> None:
    if not has_column("ssh_keys", "private_pem"):
        return  # a newer program made the table, in its own shape
    convert_rows(
        "ssh_keys",
        {
            "private_pem": Conversion(to_pkcs8, ("private_pem", "key_type", "public_blob")),
            "fingerprint": Conversion(sha256_fingerprint, ("public_blob",)),
        },
        called="SSH keys",
        key="id",
        double=ONE_KEY_A_ROW,
        error=KeyConversionError,
    )
    with op.batch_alter_table("ssh_keys", recreate="never") as batch_op:
        batch_op.alter_column("private_pem", new_column_name="private_der")


def downgrade() -> None:
    if not has_column("ssh_keys", "private_der"):
        return
    convert_rows(
        "ssh_keys",
        {
            "private_der": Conversion(to_openssh, ("private_der", "key_type", "public_blob")),
            "fingerprint": Conversion(hex_fingerprint, ("public_blob",)),
        },
        called="SSH keys",
        key="id",
        double=ONE_KEY_A_ROW,
        error=KeyConversionError,
    )
    with op.batch_alter_table("ssh_keys", recreate="never") as batch_op:
        batch_op.alter_column("private_der", new_column_name="private_pem")
