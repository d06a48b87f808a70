"""What older releases ran at every start: a script that imports nothing except ``sqlite3``.

Create missing tables, compare ``PRAGMA user_version``, and migrate in one transaction. Every key is
loaded with full validation, encoded again and updated in a statement of its own.
"""

import sqlite3

SCHEMA_VERSION = 2

TABLES = (
    """CREATE TABLE IF NOT EXISTS credentials (
    credential_set TEXT NOT NULL,
    provider TEXT NOT NULL,
    data TEXT NOT NULL,
    PRIMARY KEY (credential_set, provider)
)""",
    """CREATE TABLE IF NOT EXISTS ssh_keys (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    key_type TEXT NOT NULL CHECK (key_type IN ('ed25519','rsa')),
    private_der BLOB NOT NULL,
    public_blob BLOB NOT NULL,
    comment TEXT NOT NULL DEFAULT '',
    fingerprint TEXT NOT NULL UNIQUE,
    created_at TEXT NOT NULL DEFAULT (datetime('now'))
)""",
    """CREATE TABLE IF NOT EXISTS ssh_key_assignments (
    scope TEXT NOT NULL,
    key_id INTEGER NOT NULL REFERENCES ssh_keys(id) ON DELETE CASCADE,
    assigned_at TEXT NOT NULL DEFAULT (datetime('now')),
    PRIMARY KEY (scope, key_id)
)""",
    """CREATE TABLE IF NOT EXISTS proxy_tokens (
    token TEXT PRIMARY KEY,
    scope TEXT NOT NULL,
    subject TEXT NOT NULL,
    credential_set TEXT NOT NULL,
    provider TEXT NOT NULL
)""",
)


def upgrade(path: str) -> None:
    connection = sqlite3.connect(path)
    both_functions(connection)
    connection.close()


def both_functions(connection: sqlite3.Connection) -> None:
    ensure_credentials_schema(connection)
    migrate_credential_db_schema(connection)


def ensure_credentials_schema(connection: sqlite3.Connection) -> None:
    for statement in TABLES:
        connection.execute(statement)
    connection.commit()


def migrate_credential_db_schema(connection: sqlite3.Connection) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version >= SCHEMA_VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    if _has_column(connection, "ssh_keys", "private_pem"):
        _convert_keys(connection)
        connection.execute("ALTER TABLE ssh_keys RENAME COLUMN private_pem TO private_der")
    if _has_column(connection, "proxy_tokens", "task"):
        connection.execute("ALTER TABLE proxy_tokens RENAME COLUMN task TO subject")
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    connection.commit()


def _has_column(connection: sqlite3.Connection, table: str, column: str) -> bool:
    return any(row[1] == column for row in connection.execute(f"PRAGMA table_info({table})"))


def _convert_keys(connection: sqlite3.Connection) -> None:
    import base64
    import hashlib

    from cryptography.hazmat.primitives import serialization

    rows = connection.execute("SELECT id, private_pem, public_blob FROM ssh_keys").fetchall()
    for row_id, pem, public_blob in rows:
        key = serialization.load_ssh_private_key(pem, password=None)
        der = key.private_bytes(
            serialization.Encoding.DER,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        digest = base64.b64encode(hashlib.sha256(public_blob).digest()).decode()
        connection.execute(
            "UPDATE ssh_keys SET private_pem = ?, fingerprint = ? WHERE id = ?",
            (der, "SHA256:" + digest.rstrip("="), row_id),
        )
