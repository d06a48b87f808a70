"""The four tables as the first releases made them.

Revision ID: v0
Revises:

"""

from credential_db.sqlite.operations import Operations

revision = "v0"
down_revision = None

TABLES = {
    "credentials": """
CREATE TABLE credentials (
    credential_set TEXT NOT NULL,
    provider TEXT NOT NULL,
    data TEXT NOT NULL,
    PRIMARY KEY (credential_set, provider)
)""",
    "ssh_keys": """
CREATE TABLE ssh_keys (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    key_type TEXT NOT NULL,
    private_pem BLOB NOT NULL,
    public_blob BLOB NOT NULL,
    comment TEXT DEFAULT '' NOT NULL,
    fingerprint TEXT NOT NULL,
    created_at TEXT DEFAULT (datetime('now')) NOT NULL,
    CHECK (key_type IN ('ed25519','rsa')),
    UNIQUE (fingerprint)
)""",
    "ssh_key_assignments": """
CREATE TABLE ssh_key_assignments (
    scope TEXT NOT NULL,
    key_id INTEGER NOT NULL,
    assigned_at TEXT DEFAULT (datetime('now')) NOT NULL,
    PRIMARY KEY (scope, key_id),
    FOREIGN KEY(key_id) REFERENCES ssh_keys (id) ON DELETE CASCADE
)""",
    "proxy_tokens": """
CREATE TABLE proxy_tokens (
    token TEXT,
    scope TEXT NOT NULL,
    task TEXT NOT NULL,
    credential_set TEXT NOT NULL,
    provider TEXT NOT NULL,
    PRIMARY KEY (token)
)""",
}


def upgrade(op: Operations) -> None:
    for definition in TABLES.values():
        op.execute(definition)


def downgrade(op: Operations) -> None:
    op.refuse_rows(*TABLES)
    for table in reversed(TABLES):
        op.drop_table(table)
