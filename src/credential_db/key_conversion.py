"""Re-encoding of stored SSH private keys, each proven before it is written. Frozen with version 1.

OpenSSH: https://github.com/openssh/openssh-portable/blob/master/PROTOCOL.key. PKCS#8: RFC 5958, and
RFC 8410 for Ed25519. Public keys in SSH's wire format: RFC 4253, section 6.6, and RFC 8709.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Callable
from typing import Any

from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPrivateNumbers
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_ssh_private_key,
)

from credential_db.sqlite.row_conversion import BadRow

# What the loaders raise for damage; a lack of memory, say, tells nothing about the key.
_DAMAGE = (ArithmeticError, InternalError, NotImplementedError, UnsupportedAlgorithm, ValueError)
# The loader would take the first of several blocks, and skip what is around it.
_BEGIN = b"-----BEGIN OPENSSH PRIVATE KEY-----"
_BLOCK = re.compile(rb"\s*%b\s([\w+/=\s]*)%b\s*" % (_BEGIN, _BEGIN.replace(b"BEGIN", b"END")))
_ED25519_BLOB = b"\0\0\0\x0bssh-ed25519\0\0\0\x20"  # before the key's 32 bytes: RFC 8709, section 4


def to_pkcs8(pem: object, key_type: object, public_blob: object) -> bytes:
    """From OpenSSH PEM to PKCS#8 DER; a ``BadRow`` if the three cells do not fit together."""
    key = _proven(_load_one_block, pem, key_type, public_blob)
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def to_openssh(der: object, key_type: object, public_blob: object) -> bytes:
    """The reverse of ``to_pkcs8``."""
    key = _proven(load_der_private_key, der, key_type, public_blob)
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())


def sha256_fingerprint(public_blob: object) -> str:
    """``SHA256:`` and the digest in base64 without padding, as ``ssh-keygen -l`` prints it."""
    digest = hashlib.sha256(_blob(public_blob, "public_blob")).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def hex_fingerprint(public_blob: object) -> str:
    """The digest of version 0: SHA-256 in lower-case hex."""
    return hashlib.sha256(_blob(public_blob, "public_blob")).hexdigest()


def _blob(cell: object, what: str) -> bytes:
    if isinstance(cell, bytes):
        return cell
    wrong = f"holds its {what} as TEXT or a number, and not as a BLOB (CAST it AS BLOB)"
    raise BadRow(f"holds no {what}" if cell is None else wrong)


def _load_one_block(pem: bytes, *args: Any, **options: Any) -> object:
    if _BEGIN not in pem:
        raise BadRow("holds no private key in OpenSSH's PEM format")
    if not (block := _BLOCK.fullmatch(pem)):
        raise BadRow("holds something other than one whole OpenSSH private key")
    binascii.a2b_base64(b"".join(block[1].split()), strict_mode=True)
    return load_ssh_private_key(pem, *args, **options)


def _proven(
    load: Callable[..., object], private: object, key_type: object, public_blob: object
) -> Ed25519PrivateKey | RSAPrivateKey:
    try:
        # The validation that is left out is that of rsa_numbers_agree().
        key = load(_blob(private, "private key"), None, unsafe_skip_rsa_key_validation=True)
    except TypeError:
        raise BadRow("holds a private key that is encrypted (ssh-keygen -p decrypts it)") from None
    except _DAMAGE:
        raise BadRow("holds a private key that is cut off, corrupt or not supported") from None
    if key_type == "ed25519" and isinstance(key, Ed25519PrivateKey):
        # Five times faster than through OpenSSH's line of text.
        derived = _ED25519_BLOB + key.public_key().public_bytes_raw()
    elif key_type == "rsa" and isinstance(key, RSAPrivateKey):
        if not rsa_numbers_agree(key.private_numbers()):
            raise BadRow("holds an RSA private key whose numbers do not agree")
        line = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        derived = binascii.a2b_base64(line.split(b" ")[1])
    else:
        known = key_type in ("ed25519", "rsa")  # else it may be anything, even a secret
        raise BadRow(
            f"holds a private key that is not of its key_type, {key_type}"
            if known
            else "has a key_type that is neither ed25519 nor rsa"
        )
    if derived != _blob(public_blob, "public_blob"):
        raise BadRow("holds a private key that does not belong to its public_blob")
    return key


def rsa_numbers_agree(numbers: RSAPrivateNumbers) -> bool:
    """Whether p, q, n, d, e, dP, dQ and qInv fit together (RFC 8017, section 3.2).

    The primality tests that cryptography's loader would run, over 99 % of its time, add nothing:
    n is the modulus of the public key that the row already stands for, a product of two primes
    since the key was made. With p * q = n and both above 1, p and q are those primes.
    """
    p, q, d = numbers.p, numbers.q, numbers.d
    n, e = numbers.public_numbers.n, numbers.public_numbers.e
    return (
        1 < p < n == p * q
        and e > 1
        and 0 < d < n
        and d * e % (p - 1) == d * e % (q - 1) == 1
        and (numbers.dmp1, numbers.dmq1) == (d % (p - 1), d % (q - 1))
        and 0 < numbers.iqmp < p
        and numbers.iqmp * q % p == 1
    )
