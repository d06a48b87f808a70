"""SSH private keys in PKCS#8 DER, fingerprints as ssh-keygen prints them.

Revision ID: v1
Revises: v0

"""

from collections import Counter

from credential_db.errors import KeyConversionError
from credential_db.sqlite.operations import BadRow, Conversion, Operations

revision = "v1"
down_revision = "v0"

DUPLICATE = "is for the same public key as row"


def upgrade(op: Operations) -> None:
    convert(op, "private_pem", "private_der", "to_pkcs8", "sha256_fingerprint")


def downgrade(op: Operations) -> None:
    convert(op, "private_der", "private_pem", "to_openssh", "hex_fingerprint")


def convert(op: Operations, old: str, new: str, reencode: str, fingerprint: str) -> None:
    if not op.has_column("ssh_keys", old):
        return  # a newer program created the table, with its own columns
    public = dict(op.read_rows("ssh_keys", ("id", "public_blob")))
    count = Counter(public.values())
    if public:
        from credential_db import key_conversion  # it imports cryptography

    def private_key(private: object, key_type: object, public_blob: object) -> object:
        converted = getattr(key_conversion, reencode)(private, key_type, public_blob)
        if count[public_blob] > 1:
            raise BadRow(DUPLICATE)
        return converted

    def public_key(public_blob: object) -> object:
        return getattr(key_conversion, fingerprint)(public_blob)

    def error(problems: list[tuple[int, str]]) -> KeyConversionError:
        """A good key whose duplicates are all bad for another reason is not named."""
        named = []
        same = {row: public[row] for row, reason in problems if reason == DUPLICATE}
        for row, reason in problems:
            others = [other for other in same if other != row and same[other] == public[row]]
            if reason != DUPLICATE:
                named.append((row, reason))
            elif others:
                named.append((row, f"{reason} {others[0]}"))
        return KeyConversionError(named)

    conversions = {
        old: Conversion(private_key, (old, "key_type", "public_blob")),
        "fingerprint": Conversion(public_key, ("public_blob",)),
    }
    op.convert_rows("ssh_keys", conversions, called="SSH keys", key="id", error=error)
    op.alter_column("ssh_keys", old, new_column_name=new)
