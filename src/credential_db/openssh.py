"""OpenSSH's private key format, read strictly: one whole key, unencrypted, and nothing beside it.

https://github.com/openssh/openssh-portable/blob/master/PROTOCOL.key
"""

import binascii
import re
from collections.abc import Callable
from functools import partial

from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from credential_db.sqlite.row_conversion import BadRow

# What cryptography's loaders raise for damage of one kind or another. Whatever else comes out of
# them, a host's alarm or a want of memory, says nothing about the key.
_DAMAGE = (
    ValueError,
    TypeError,
    ArithmeticError,
    NotImplementedError,
    UnsupportedAlgorithm,
    InternalError,
)
_WHOSE = ("builtins", "binascii", "cryptography")  # and not a class that a host has made of one

# cryptography would take the first of several blocks, and skip what stands around it.
_ONE_PEM_BLOCK = re.compile(
    rb"\s*-----BEGIN OPENSSH PRIVATE KEY-----\s([A-Za-z0-9+/=\s]*)"
    rb"-----END OPENSSH PRIVATE KEY-----\s*"
)
_MAGIC = b"openssh-key-v1\0"
_NO_CIPHER = b"\0\0\0\x04none"  # the cipher's name, as a string of SSH
# The layout that ssh-keygen writes, up to the comment. Public half and check number are repeated.
_ED25519 = re.compile(
    _MAGIC + _NO_CIPHER + rb"\0\0\0\x04none\0\0\0\0"  # no key derivation
    rb"\0\0\0\x01"  # one key
    rb"\0\0\0\x33(?P<blob>\0\0\0\x0bssh-ed25519\0\0\0\x20(?P<public>.{32}))"
    rb"(?P<size>.{4})(?P<check>.{4})(?P=check)"
    rb"(?P=blob)\0\0\0\x40(?P<seed>.{32})(?P=public)"
    rb"(?P<comment_size>.{4})(?P<comment_and_padding>.*)",
    re.DOTALL,
)
_BEFORE_SIZE = 98  # bytes, the size among them
_PADDING = bytes(range(1, 8))  # to a multiple of 8


def blob(cell: object, what: str) -> bytes:
    """A cell that has to be a BLOB; SQLite takes anything.

    Raises:
        BadRow: It is not.
    """
    if isinstance(cell, bytes):
        return cell
    if isinstance(cell, str):
        raise BadRow(f"holds its {what} as TEXT, not BLOB (CAST it AS BLOB)")
    raise BadRow(f"holds {'no' if cell is None else 'a number as its'} {what}")


def loaded(load: Callable[..., object], *arguments: object, damaged: str) -> object:
    """The private key that a loader makes of these arguments.

    Raises:
        BadRow: It is damaged.
    """
    try:
        return load(*arguments)
    except _DAMAGE as error:
        if type(error).__module__.partition(".")[0] not in _WHOSE:
            raise
    raise BadRow(damaged)


def load_openssh(pem: object) -> object:
    """Load the private key of one PEM block, its RSA numbers unchecked.

    Raises:
        BadRow: It is not exactly one whole and unencrypted key.
    """
    pem = blob(pem, "private key")
    block = _ONE_PEM_BLOCK.fullmatch(pem)
    if block is None:
        if pem.count(b"-----BEGIN OPENSSH PRIVATE KEY-----") > 1:
            raise BadRow("holds more than one private key")
        if b"-----BEGIN OPENSSH PRIVATE KEY-----" not in pem:
            raise BadRow("holds no private key in OpenSSH's PEM format")
        raise BadRow("holds something other than one whole OpenSSH private key")
    damaged = "holds a private key that is cut off or corrupt"
    try:
        content = binascii.a2b_base64(b"".join(block[1].split()), strict_mode=True)
    except binascii.Error:
        raise BadRow(damaged) from None
    if not content.startswith(_MAGIC):
        raise BadRow(damaged)
    if not content.startswith(_MAGIC + _NO_CIPHER):
        raise BadRow("holds a private key that is encrypted (ssh-keygen -p takes that off)")
    # Reading the container is a third of what the loader costs, while the vault is locked.
    seed = _ed25519_seed(content)
    if seed is not None:
        return loaded(Ed25519PrivateKey.from_private_bytes, seed, damaged=damaged)
    load = partial(load_ssh_private_key, unsafe_skip_rsa_key_validation=True)
    return loaded(load, pem, None, damaged=damaged)


def _ed25519_seed(content: bytes) -> bytes | None:
    """The 32 bytes of an Ed25519 key (RFC 8032), None where this is anything else or damaged."""
    found = _ED25519.fullmatch(content)
    if found is None:
        return None
    size, comment_size = (
        int.from_bytes(length, "big") for length in found.group("size", "comment_size")
    )
    comment_and_padding = found["comment_and_padding"]
    padding = len(comment_and_padding) - comment_size
    if (
        size != len(content) - _BEFORE_SIZE
        or size % 8
        or not 0 <= padding <= len(_PADDING)
        or not comment_and_padding.endswith(_PADDING[:padding])
    ):
        return None
    return found["seed"]
