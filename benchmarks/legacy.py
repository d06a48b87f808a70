"""What vaults were opened with before Alembic, written out to be measured against.

Create whatever table is missing, compare ``PRAGMA user_version``, and migrate in one transaction:
every key loaded with full validation, re-encoded and updated by itself.
"""

import base64
import hashlib
import sqlite3
from contextlib import closing
from pathlib import Path

from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_ssh_private_key,
)

SCHEMA_VERSION = 2


RECORDS = Path(__file__).resolve().parents[1] / "src" / "credential_db" / "records"


def tables(version: int) -> list[str]:
    """The four statements that a release of this schema version ran at every start."""
    script = (RECORDS / f"v{version}.sql").read_text(encoding="utf-8")
    return script.replace("CREATE TABLE", "CREATE TABLE IF NOT EXISTS").split(";\n")[:-1]


CURRENT_TABLES = tables(SCHEMA_VERSION)


def upgrade(path: Path) -> None:
    """Open, check or migrate, close."""
    with closing(sqlite3.connect(path)) as connection:
        upgrade_connection(connection)


def upgrade_connection(connection: sqlite3.Connection) -> None:
    for statement in CURRENT_TABLES:
        connection.execute(statement)
    connection.commit()
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version >= SCHEMA_VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    if version < 1 and _has_column(connection, "ssh_keys", "private_pem"):
        _convert_keys(connection)
        connection.execute("ALTER TABLE ssh_keys RENAME COLUMN private_pem TO private_der")
    if _has_column(connection, "proxy_tokens", "task"):
        connection.execute("ALTER TABLE proxy_tokens RENAME COLUMN task TO subject")
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    connection.commit()


def _has_column(connection: sqlite3.Connection, table: str, column: str) -> bool:
    return any(row[1] == column for row in connection.execute(f"PRAGMA table_info({table})"))


def _convert_keys(connection: sqlite3.Connection) -> None:
    rows = connection.execute("SELECT id, private_pem, public_blob FROM ssh_keys").fetchall()
    for row_id, pem, public_blob in rows:
        key = load_ssh_private_key(pem, password=None)
        der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        digest = base64.b64encode(hashlib.sha256(public_blob).digest()).decode()
        connection.execute(
            "UPDATE ssh_keys SET private_pem = ?, fingerprint = ? WHERE id = ?",
            (der, "SHA256:" + digest.rstrip("="), row_id),
        )
