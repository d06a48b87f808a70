"""The files to measure with, as older releases left them."""

import base64
import hashlib
import os
import shutil
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from credential_db.snapshots import script


class StoredKey(NamedTuple):
    """The columns of a key in version 0."""

    key_type: str
    private_pem: bytes
    public_blob: bytes
    fingerprint: str


def ed25519_keys(count: int) -> list[StoredKey]:
    """Throw-away keys, the same in every run."""
    seeds = (hashlib.sha256(f"throw-away key {n}".encode()).digest() for n in range(count))
    return [_stored("ed25519", Ed25519PrivateKey.from_private_bytes(seed)) for seed in seeds]


def rsa_keys(count: int) -> list[StoredKey]:
    """Throw-away keys of 3072 bits, new ones in every run."""
    return [_stored("rsa", generate_private_key(65537, 3072)) for _ in range(count)]


def _stored(key_type: str, key: Ed25519PrivateKey | RSAPrivateKey) -> StoredKey:
    line = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    public_blob = base64.b64decode(line.split(b" ")[1])
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    return StoredKey(key_type, pem, public_blob, hashlib.sha256(public_blob).hexdigest())


def write_v0(path: Path, keys: Iterable[StoredKey]) -> Path:
    """A file of version 0 with these keys, each assigned to one scope."""
    with closing(_new_file(path, 0)) as connection:
        connection.executemany(
            "INSERT INTO ssh_keys (key_type, private_pem, public_blob, fingerprint)"
            " VALUES (?, ?, ?, ?)",
            keys,
        )
        connection.execute(
            "INSERT INTO ssh_key_assignments (scope, key_id) SELECT 'scope', id FROM ssh_keys"
        )
        connection.commit()
    return path


def write_v1(path: Path, tokens: int) -> Path:
    """A file of version 1 with this many tokens."""
    rows = (
        (f"phantom-{number:032}", "scope", f"task {number}", "default", "github")
        for number in range(tokens)
    )
    with closing(_new_file(path, 1)) as connection:
        connection.executemany("INSERT INTO proxy_tokens VALUES (?, ?, ?, ?, ?)", rows)
        connection.commit()
    return path


def _new_file(path: Path, version: int) -> sqlite3.Connection:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = wal")  # as the programs do that write vaults
    connection.executescript(script(version))
    connection.execute(f"PRAGMA user_version = {version}")
    return connection


def copy(source: Path, target: Path) -> Path:
    """A new copy, synced: otherwise the first commit to it would pay for that."""
    for suffix in ("-wal", "-shm", "-journal"):
        target.with_name(target.name + suffix).unlink(missing_ok=True)
    shutil.copyfile(source, target)
    descriptor = os.open(target, os.O_RDWR)
    os.fsync(descriptor)
    os.close(descriptor)
    return target
