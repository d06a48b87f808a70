"""Write a vault as the first releases did, with throw-away keys: make_v0_vault.py PATH."""

import base64
import hashlib
import sqlite3
import sys
from contextlib import closing

from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from credential_db.snapshots import script

# Both names of one provider, in one set and alone: a version that renames values has conflicts.
ROWS = """
INSERT INTO credentials VALUES
    ('default', 'github', '{"token": "not a real one"}'),
    ('default', 'claude', '{"token": "the old name"}'),
    ('default', 'anthropic', '{"token": "the new name"}'),
    ('work', 'claude', '{"token": "the old name alone"}');
INSERT INTO proxy_tokens VALUES
    ('phantom-1', 'demo', 'build', 'default', 'github'),
    ('phantom-2', 'demo', 'chat', 'work', 'claude');
"""


def main(path: str) -> None:
    keys: dict[str, ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey] = {
        "ed25519": ed25519.Ed25519PrivateKey.generate(),
        "rsa": rsa.generate_private_key(public_exponent=65537, key_size=3072),
    }
    with closing(sqlite3.connect(path)) as vault:
        vault.executescript(script(0) + ROWS)
        for key_type, key in keys.items():
            pem = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
            line = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
            blob = base64.b64decode(line.split()[1])
            vault.execute(
                "INSERT INTO ssh_keys (key_type, private_pem, public_blob, comment, fingerprint)"
                " VALUES (?, ?, ?, ?, ?)",
                (key_type, pem, blob, f"demo {key_type}", hashlib.sha256(blob).hexdigest()),
            )
            vault.execute(
                "INSERT INTO ssh_key_assignments (scope, key_id)"
                " SELECT 'demo', id FROM ssh_keys WHERE public_blob = ?",
                (blob,),
            )
        vault.commit()


if __name__ == "__main__":
    main(sys.argv[1])
