"""The four tables at the current version. The one place to edit for the next one."""

from sqlalchemy import (
    BLOB,
    CheckConstraint,
    Column,
    ForeignKeyConstraint,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    text,
)

metadata = MetaData()

credentials = Table(
    "credentials",
    metadata,
    Column("credential_set", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("data", Text, nullable=False),  # JSON, opaque here
    PrimaryKeyConstraint("credential_set", "provider"),
)

ssh_keys = Table(
    "ssh_keys",
    metadata,
    Column("id", Integer, primary_key=True, nullable=True),  # never NULL: it is the rowid
    Column("key_type", Text, nullable=False),
    Column("private_der", BLOB, nullable=False),  # PKCS#8 DER, unencrypted
    Column("public_blob", BLOB, nullable=False),  # SSH wire format
    Column("comment", Text, nullable=False, server_default=text("''")),
    # SHA256:<base64 without padding> of public_blob, as ssh-keygen -l prints it
    Column("fingerprint", Text, nullable=False),
    Column("created_at", Text, nullable=False, server_default=text("(datetime('now'))")),
    CheckConstraint("key_type IN ('ed25519','rsa')"),
    UniqueConstraint("fingerprint"),
    sqlite_autoincrement=True,
)

ssh_key_assignments = Table(
    "ssh_key_assignments",
    metadata,
    Column("scope", Text, nullable=False),
    Column("key_id", Integer, nullable=False),
    Column("assigned_at", Text, nullable=False, server_default=text("(datetime('now'))")),
    PrimaryKeyConstraint("scope", "key_id"),
    ForeignKeyConstraint(["key_id"], ["ssh_keys.id"], ondelete="CASCADE"),
)

proxy_tokens = Table(
    "proxy_tokens",
    metadata,
    Column("token", Text, primary_key=True, nullable=True),
    Column("scope", Text, nullable=False),
    Column("subject", Text, nullable=False),  # opaque label
    Column("credential_set", Text, nullable=False),
    Column("provider", Text, nullable=False),
)
