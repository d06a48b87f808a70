"""v0 to v1, and back: keys from OpenSSH's PEM to PKCS#8, fingerprints as ssh-keygen prints them."""

from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_ssh_private_key,
)

from steps import step
from vaults import Vault, ed25519_key, rsa_key

COLUMNS = "id, key_type, public_blob, comment, created_at"
KEYS = {4: ed25519_key(1), 5: rsa_key(0), 900: ed25519_key(2)}


def test_step(vault: Vault) -> None:
    vault.create(0)
    for row_id, key in KEYS.items():
        vault.execute(
            (
                "INSERT INTO ssh_keys (id, key_type, private_pem, public_blob, comment,"
                " fingerprint, created_at) VALUES (?, ?, ?, ?, 'a comment', ?, '2020-01-02')",
                (row_id, key.key_type, key.pem, key.public_blob, key.fingerprint(0)),
            )
        )
    others = vault.query(f"SELECT {COLUMNS} FROM ssh_keys")

    step(vault, "v1")

    assert vault.stamps() == ("v1", 1)
    assert vault.query(f"SELECT {COLUMNS} FROM ssh_keys") == others
    assert vault.query("SELECT private_der, fingerprint FROM ssh_keys ORDER BY id") == [
        (key.der, key.fingerprint(1)) for key in KEYS.values()
    ]

    step(vault, "v0")

    assert vault.stamps() == ("v0", 0)
    assert vault.query(f"SELECT {COLUMNS} FROM ssh_keys") == others
    rows = vault.query("SELECT private_pem, fingerprint FROM ssh_keys ORDER BY id")
    for (pem, fingerprint), key in zip(rows, KEYS.values(), strict=True):
        # A PEM holds a random number, so the keys inside are compared.
        private = load_ssh_private_key(pem, password=None)
        der = private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        assert (der, fingerprint) == (key.der, key.fingerprint(0))
