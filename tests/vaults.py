"""Real files as the historical software left them, and what an upgrade must make of them.

Nothing here uses the code under test, but for the number of its version. The DDL is that of its
day, the encodings are written out with cryptography and hashlib.
"""

import base64
import hashlib
import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_ssh_private_key,
)
from sqlcipher3 import dbapi2 as sqlcipher

from credential_db import SCHEMA_VERSION, records

HEAD = SCHEMA_VERSION
STAMPS = (f"v{HEAD}", HEAD)  # of a current file: Alembic's, and PRAGMA user_version

TABLES = ("credentials", "ssh_keys", "ssh_key_assignments", "proxy_tokens")
CHECK = "    CHECK (key_type IN ('ed25519','rsa')),\n"


def ddl(version: int, *, check: bool = True) -> dict[str, str]:
    """The statements that create each table in the shape of one version, by the record."""
    tables = dict(records.record(version).statements)
    statements = {table: statement for table, (statement, *_) in tables.items()}
    if not check:
        assert CHECK in statements["ssh_keys"]
        statements["ssh_keys"] = statements["ssh_keys"].replace(CHECK, "")
    return statements


RENAMED = {"private_pem": "private_der", "task": "subject"}  # since a file of version 0


def _known(table: str, names: list[str]) -> Collection[str]:
    """Of this project's tables, what version 2 and the head both have, and what it was before."""
    if table not in TABLES:
        return names
    both = records.record(2).columns[table] & records.record(HEAD).columns.get(table, frozenset())
    return [name for name in names if RENAMED.get(name, name) in both]


PrivateKey = ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


class Key(NamedTuple):
    """One throw-away key in every encoding that some version stores."""

    key_type: str
    private: PrivateKey

    @property
    def pem(self) -> bytes:
        return self.private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())

    @property
    def der(self) -> bytes:
        return self.private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())

    @property
    def public_line(self) -> bytes:
        return self.private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)

    @property
    def public_blob(self) -> bytes:
        return base64.b64decode(self.public_line.split(b" ")[1])

    def fingerprint(self, version: int) -> str:
        return fingerprint(self.public_blob, version)


def fingerprint(public_blob: bytes, version: int) -> str:
    digest = hashlib.sha256(public_blob)
    if version == 0:
        return digest.hexdigest()
    return "SHA256:" + base64.b64encode(digest.digest()).decode().rstrip("=")


@cache
def ed25519_key(number: int) -> Key:
    """The same key for the same number, in every run."""
    seed = hashlib.sha256(f"throw-away key {number}".encode()).digest()
    return Key("ed25519", ed25519.Ed25519PrivateKey.from_private_bytes(seed))


@cache
def rsa_key(number: int = 0, bits: int = 2048) -> Key:
    """A new RSA key for each number and size, once in a run: they take a while to make."""
    return Key("rsa", rsa.generate_private_key(public_exponent=65537, key_size=bits))


def keys(count: int, *, rsa_keys: int = 1) -> list[Key]:
    return [rsa_key(n) if n < rsa_keys else ed25519_key(n) for n in range(count)]


class Vault:
    """A file, plain or encrypted.

    Args:
        path: Where it is, or will be.
        passphrase: Of an encrypted one.
    """

    def __init__(self, path: Path, passphrase: str | None = None) -> None:
        self.path = path
        self.passphrase = passphrase

    @property
    def options(self) -> dict[str, Any]:
        """What to hand to ``credential_db.upgrade`` and ``status`` besides the path."""
        return {} if self.passphrase is None else {"passphrase": self.passphrase}

    @property
    def environment(self) -> dict[str, str]:
        """What to add to the environment of a command line."""
        return {} if self.passphrase is None else {"CREDENTIAL_DB_PASSPHRASE": self.passphrase}

    def connect(self) -> Any:
        """An ordinary connection, as a host application would open it (the caller closes it)."""
        if self.passphrase is None:
            return sqlite3.connect(self.path)
        connection = sqlcipher.connect(str(self.path))
        quoted = self.passphrase.replace("'", "''")
        connection.execute("PRAGMA cipher_log_level = NONE")
        connection.execute(f"PRAGMA key = '{quoted}'")
        return connection

    def execute(self, *statements: str | tuple[str, Sequence[Any]]) -> None:
        with closing(self.connect()) as connection:
            for statement in statements:
                sql, parameters = (statement, ()) if isinstance(statement, str) else statement
                connection.execute(sql, parameters)
            connection.commit()

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with closing(self.connect()) as connection:
            return list(connection.execute(sql, parameters).fetchall())

    def value(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        return self.query(sql, parameters)[0][0]

    def create(
        self,
        version: int = 0,
        *,
        number: int | None = None,
        tables: Mapping[str, int] | Collection[str] = TABLES,
        check: bool = True,
        content: Iterable[Key] | None = None,
        journal_mode: str = "delete",
        secure_delete: bool = True,
    ) -> "Vault":
        """Write the file.

        Args:
            version: The shape, unless ``tables`` gives one to each table.
            number: ``PRAGMA user_version``; that of the version where None.
            tables: Those that exist; as a mapping, each with the version of its shape.
            check: Whether ``ssh_keys`` has its CHECK.
            content: The keys to store, and rows to go with them; none at all where None.
            journal_mode: Which is kept by the file where it is ``wal``.
            secure_delete: Off, SQLite leaves copies of deleted rows behind.
        """
        shapes = tables if isinstance(tables, Mapping) else dict.fromkeys(tables, version)
        with closing(self.connect()) as connection:
            connection.execute(f"PRAGMA journal_mode = {journal_mode}")
            connection.execute(f"PRAGMA secure_delete = {'ON' if secure_delete else 'OFF'}")
            for table, shape in shapes.items():
                connection.execute(ddl(shape, check=check)[table])
            if content is not None:
                self._fill(connection, shapes, list(content))
            connection.execute(f"PRAGMA user_version = {version if number is None else number}")
            connection.commit()
        return self

    def _fill(self, connection: Any, shapes: Mapping[str, int], content: Sequence[Key]) -> None:
        """Rows with gaps in the ids, a high-water mark above them, and odd text."""
        if "credentials" in shapes:
            connection.executemany(
                "INSERT INTO credentials VALUES (?, ?, ?)",
                [
                    ("default", "github", '{"token": "ghp_' + "x" * 36 + '"}'),
                    ("d\u00e9faut \U0001f511", "line\nbreak", "{}"),
                ],
            )
        if "proxy_tokens" in shapes:
            connection.executemany(
                "INSERT INTO proxy_tokens VALUES (?, ?, ?, ?, ?)",
                [
                    ("phantom-1", "scope", "a task", "default", "github"),
                    ("phantom-2", "", "", "", ""),
                    (None, "SQLite allows NULL in a TEXT PRIMARY KEY", "t", "c", "p"),
                ],
            )
        if "ssh_keys" not in shapes:
            return
        shape = shapes["ssh_keys"]
        private = "private_pem" if shape == 0 else "private_der"
        for position, key in enumerate(content):
            row_id = 3 * position + 2
            connection.execute(
                f"INSERT INTO ssh_keys (id, key_type, {private}, public_blob, comment, fingerprint,"
                " created_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    row_id,
                    key.key_type,
                    key.pem if shape == 0 else key.der,
                    key.public_blob,
                    f"key {position} \u00fc",
                    key.fingerprint(min(shape, 1)),
                    f"2020-01-{position % 28 + 1:02} 00:00:00",
                ),
            )
            if "ssh_key_assignments" in shapes:
                connection.executemany(
                    "INSERT INTO ssh_key_assignments VALUES (?, ?, ?)",
                    [(f"scope {n}", row_id, "2021-02-03 04:05:06") for n in range(2)],
                )
        connection.execute("DELETE FROM sqlite_sequence WHERE name = 'ssh_keys'")
        connection.execute("INSERT INTO sqlite_sequence VALUES ('ssh_keys', 1000)")

    def content(self) -> "Content":
        """Every cell of every table with its storage class, but for Alembic's own table.

        Of this project's tables the columns that the old files know: others are of later versions.
        """
        with closing(self.connect()) as connection:
            tables = [
                name
                for (name,) in connection.execute(
                    "SELECT name FROM sqlite_master WHERE type = 'table'"
                    " AND name <> 'alembic_version' ORDER BY name"
                )
            ]
            found = {}
            for table in tables:
                names = [row[1] for row in connection.execute(f'PRAGMA table_info("{table}")')]
                names = [name for name in names if name in _known(table, names)]
                cells = ", ".join(f'typeof("{name}"), CAST("{name}" AS BLOB)' for name in names)
                rows = connection.execute(f'SELECT {cells} FROM "{table}"').fetchall()
                if table == "sqlite_sequence":  # to have counted to 0 is not to have counted
                    rows = [row for row in rows if row[-1] != b"0"]
                found[table] = sorted(rows, key=repr)
            return found

    def schema(self) -> list[tuple[Any, ...]]:
        return self.query("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY type, name")

    def stamps(self) -> tuple[str | None, int]:
        """Alembic's stamp and the legacy number."""
        under_alembic = self.value(
            "SELECT count(*) FROM sqlite_master WHERE name = 'alembic_version'"
        )
        stamp = self.value("SELECT version_num FROM alembic_version") if under_alembic else None
        return stamp, self.value("PRAGMA user_version")

    def files(self) -> dict[str, bytes]:
        """The bytes of the file and of whatever stands beside it."""
        return {
            file.name: file.read_bytes()
            for file in sorted(self.path.parent.glob(self.path.name + "*"))
        }

    def check_integrity(self) -> None:
        assert self.query("PRAGMA integrity_check") == [("ok",)]
        assert self.query("PRAGMA foreign_key_check") == []


Content = dict[str, list[tuple[Any, ...]]]


def upgraded(content: Content, shape: int) -> Content:
    """What ``content()`` must be after an upgrade, stated without the code under test.

    Args:
        content: Before.
        shape: The version of the shape of ``ssh_keys``, which is all that decides.
    """
    after = {table: list(rows) for table, rows in content.items()}
    for table in (*TABLES, "sqlite_sequence"):
        after.setdefault(table, [])
    if shape == 0:
        after["ssh_keys"] = sorted((_converted(row) for row in content["ssh_keys"]), key=repr)
    return after


def _converted(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """One row as ``content()`` gives it: the type and the bytes of each of seven columns."""
    cells = list(row)
    private = load_ssh_private_key(cells[5], password=None)
    cells[5] = private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    cells[11] = fingerprint(cells[7], 1).encode()
    return tuple(cells)


def loads(der: bytes, key: Key) -> bool:
    """Whether a stored DER is that key, by what it signs."""
    private = load_der_private_key(der, password=None)
    public = key.private.public_key()
    if isinstance(private, ed25519.Ed25519PrivateKey):
        assert isinstance(public, ed25519.Ed25519PublicKey)
        public.verify(private.sign(b"message"), b"message")
        return True
    assert isinstance(private, rsa.RSAPrivateKey)
    assert isinstance(public, rsa.RSAPublicKey)
    signature = private.sign(b"message", padding.PKCS1v15(), hashes.SHA256())
    public.verify(signature, b"message", padding.PKCS1v15(), hashes.SHA256())
    return True
