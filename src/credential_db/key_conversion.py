"""Re-encoding of stored SSH private keys, each proven before it is written.

PKCS#8: RFC 5958, and RFC 8410 for Ed25519. Public keys in SSH's wire format: RFC 4253, section
6.6, and RFC 8709. Fingerprints: as ``ssh-keygen -l`` prints them.
"""

import base64
import binascii
import hashlib
from collections.abc import Callable
from functools import partial
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPrivateNumbers
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)

from credential_db.openssh import blob, load_openssh, loaded
from credential_db.sqlite.row_conversion import BadRow

PrivateKey = Ed25519PrivateKey | RSAPrivateKey

# What stands before the 32 bytes of the key itself: RFC 8709, section 4
_ED25519_BLOB = b"\0\0\0\x0bssh-ed25519\0\0\0\x20"


def to_pkcs8(pem: object, key_type: object, public_blob: object) -> bytes:
    """Re-encode one private key from OpenSSH PEM to PKCS#8 DER.

    Args:
        pem: Exactly one unencrypted OpenSSH key, and nothing else but white space around it.
        key_type: ``ed25519`` or ``rsa``.
        public_blob: Its public half in SSH's wire format.

    Raises:
        BadRow: The three do not fit together, or are not what they should be.
    """
    key = _proven(load_openssh(pem), key_type, public_blob)
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def to_openssh(der: object, key_type: object, public_blob: object) -> bytes:
    """Re-encode one private key from PKCS#8 DER to OpenSSH PEM: ``to_pkcs8`` the other way round.

    Raises:
        BadRow: The three do not fit together, or are not what they should be.
    """
    key = _proven(_load_pkcs8(der), key_type, public_blob)
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())


def sha256_fingerprint(public_blob: bytes) -> str:
    """``SHA256:`` and the digest in base64 without padding, as ``ssh-keygen -l`` prints it."""
    digest = hashlib.sha256(public_blob).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def hex_fingerprint(public_blob: bytes) -> str:
    """The digest of version 0: SHA-256 in lower-case hex."""
    return hashlib.sha256(public_blob).hexdigest()


def _load_pkcs8(der: object) -> object:
    return loaded(
        partial(load_der_private_key, unsafe_skip_rsa_key_validation=True),
        blob(der, "private key"),
        None,
        damaged="holds no unencrypted private key in PKCS#8 DER",
    )


def _proven(key: object, key_type: object, public_blob: object) -> PrivateKey:
    if not isinstance(key_type, str) or key_type not in _KEY_TYPES:
        raise BadRow("has a key_type that is neither ed25519 nor rsa")
    private_key, derive = _KEY_TYPES[key_type]
    if not isinstance(key, private_key):
        raise BadRow(f"holds a private key that is not of its key_type, {key_type}")
    if derive(key) != blob(public_blob, "public_blob"):
        raise BadRow("holds a private key that does not belong to its public_blob")
    return key


def _ed25519_public_blob(key: Ed25519PrivateKey) -> bytes:
    # Five times faster than by way of OpenSSH's line of text, and it is most of what proving costs.
    return _ED25519_BLOB + key.public_key().public_bytes_raw()


def _rsa_public_blob(key: RSAPrivateKey) -> bytes:
    if not rsa_numbers_agree(key.private_numbers()):
        raise BadRow("holds an RSA private key whose numbers do not agree")
    line = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return binascii.a2b_base64(line.split(b" ")[1])


_KEY_TYPES: dict[str, tuple[type[PrivateKey], Callable[[Any], bytes]]] = {
    "ed25519": (Ed25519PrivateKey, _ed25519_public_blob),
    "rsa": (RSAPrivateKey, _rsa_public_blob),
}


def rsa_numbers_agree(numbers: RSAPrivateNumbers) -> bool:
    """Whether p, q, n, d, e, dP, dQ and qInv fit together (RFC 8017, section 3.2).

    The primality tests that cryptography's loader would run, over 99 % of its time, add nothing
    here: n is the modulus of the public key that the row already stands for, a product of two
    primes since the key was made. With p * q = n and both above 1, p and q are those primes.
    """
    p, q, d = numbers.p, numbers.q, numbers.d
    n, e = numbers.public_numbers.n, numbers.public_numbers.e
    return (
        1 < p < n
        and p * q == n
        and e > 1
        and 0 < d < n
        and d * e % (p - 1) == 1
        and d * e % (q - 1) == 1
        and numbers.dmp1 == d % (p - 1)
        and numbers.dmq1 == d % (q - 1)
        and 0 < numbers.iqmp < p
        and numbers.iqmp * q % p == 1
    )
