"""v0 to v1 and back: keys from OpenSSH's PEM to PKCS#8, fingerprints as ssh-keygen prints them."""

import subprocess
import sys

import pytest
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from credential_db.sqlite import scrub
from steps import step
from vaults import Key, Vault, ed25519_key, rsa_key

OTHERS = "SELECT id, key_type, public_blob, comment, created_at FROM ssh_keys"
KEYS = [ed25519_key(1), rsa_key(0), ed25519_key(2)]


def test_step(vault: Vault) -> None:
    vault.create(0, content=KEYS)
    others = vault.query(OTHERS)

    step(vault, "v1")

    assert (vault.stamps(), vault.query(OTHERS)) == (("v1", 1), others)
    rows = vault.query("SELECT private_der, fingerprint FROM ssh_keys ORDER BY id")
    assert rows == [(key.der, key.fingerprint(1)) for key in KEYS]

    step(vault, "v0")

    assert (vault.stamps(), vault.query(OTHERS)) == (("v0", 0), others)
    rows = vault.query("SELECT private_pem, fingerprint FROM ssh_keys ORDER BY id")
    for (pem, fingerprint), key in zip(rows, KEYS, strict=True):
        # A PEM contains a random number, so the keys inside are compared.
        found = Key(key.key_type, load_ssh_private_key(pem, None))  # type: ignore[arg-type]
        assert (found.der, fingerprint) == (key.der, key.fingerprint(0))


WITHOUT_CRYPTOGRAPHY = """
import sys
sys.modules["cryptography"] = None
import credential_db
print(*credential_db.upgrade(sys.argv[1]))
"""


@pytest.mark.parametrize(("version", "keys"), [(0, 0), (0, 1), (1, 1)])
def test_only_a_key_of_version_0_needs_cryptography(
    plain_vault: Vault, version: int, keys: int
) -> None:
    plain_vault.create(version, content=KEYS[:keys])
    command = [sys.executable, "-c", WITHOUT_CRYPTOGRAPHY, str(plain_vault.path)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    needed = version == 0 and keys > 0
    assert ("cryptography" in found.stderr, found.stdout == "") == (needed, needed)
    assert (plain_vault.stamps() == (None, version)) == needed


def test_a_conversion_is_scrubbed_even_without_keys(plain_vault: Vault) -> None:
    """Keys that were deleted may still be in free space."""
    plain_vault.create(0, content=KEYS, secure_delete=False)
    plain_vault.execute("DELETE FROM ssh_keys")
    step(plain_vault, "v1")
    assert scrub.MARK not in {row[1] for row in plain_vault.schema()}
    assert b"PRIVATE KEY" not in plain_vault.path.read_bytes()


def test_a_table_of_a_newer_program_is_left_alone(plain_vault: Vault) -> None:
    tables = {"ssh_keys": 2, "proxy_tokens": 0, "credentials": 0, "ssh_key_assignments": 0}
    plain_vault.create(0, tables=tables, number=0, content=KEYS[:1])
    before = plain_vault.query("SELECT * FROM ssh_keys")
    step(plain_vault, "v1")
    assert plain_vault.query("SELECT * FROM ssh_keys") == before
