"""Real files as the historical software left them, and what an upgrade must make of them.

The code under test is used for two things: the records of the versions, which test_records.py holds
against their DDL, and to follow names beyond version 2. The encodings are written out with
cryptography and hashlib.

Tests name tables and columns as version 2 does. Where a later version has renamed or dropped one:

* ``Vault.content`` goes by the names of version 2, whatever the file calls them;
* ``at_head("SELECT {ssh_keys.comment} FROM {ssh_keys}")`` puts in the names of today;
* ``upgrade_to_2`` stops at version 2, for tests to which the newest version does not matter.
"""

import base64
import hashlib
import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import closing
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pytest
from alembic import command
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

import credential_db
from credential_db import SCHEMA_VERSION, Upgrade, records, scripts

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


BEFORE_2 = {"private_der": "private_pem", "subject": "task"}  # what a column was called once


@cache
def columns_of_2(table: str) -> tuple[str, ...]:
    """In their order."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute(ddl(2)[table])
        rows = connection.execute("SELECT name FROM pragma_table_info(?)", (table,)).fetchall()
    return tuple(name for (name,) in rows)


class TableAtHead:
    """What a table of version 2 and its columns are called today; the test is skipped if nothing.

    Args:
        table: Its name at version 2.
    """

    def __init__(self, table: str) -> None:
        self._table = table

    def __str__(self) -> str:
        name, _ = names_at_head()[self._table]
        return name or pytest.skip(f"table {self._table} is gone at version {HEAD}")

    def __getattr__(self, column: str) -> str:
        _, columns = names_at_head()[self._table]
        if column not in columns:
            pytest.skip(f"column {column} of table {self._table} is gone at version {HEAD}")
        return columns[column]


def at_head(sql: str) -> str:
    """A statement with the names that tables and columns of version 2 have today."""
    return sql.format_map({table: TableAtHead(table) for table in TABLES})


@cache
def names_at_head() -> Mapping[str, tuple[str | None, Mapping[str, str]]]:
    """For each table of version 2 its name today, and those of the columns that are still there.

    What has gone by its old name is found by its content: a row of each table is upgraded.
    """
    head = records.record(HEAD).columns
    if all(set(columns_of_2(table)) <= head.get(table, set()) for table in TABLES):
        return {table: (table, {name: name for name in columns_of_2(table)}) for table in TABLES}
    with TemporaryDirectory() as directory:
        vault = Vault(Path(directory) / "traced.db").create(2, content=[ed25519_key(0)])
        vault.execute(
            "DELETE FROM credentials WHERE provider <> 'github'",
            "DELETE FROM proxy_tokens WHERE token IS NOT 'phantom-1'",
            "UPDATE proxy_tokens SET credential_set = 'set of a token', provider = 'its provider'",
            "DELETE FROM ssh_key_assignments WHERE scope <> 'scope 0'",
        )
        before = {table: vault.row(table) for table in TABLES}
        credential_db.upgrade(vault.path)
        after = {table: vault.row(table) for table in head}
    found: dict[str, tuple[str | None, Mapping[str, str]]] = {}
    for table, row in before.items():
        same = [name for name, other in after.items() if name not in TABLES and _alike(row, other)]
        name = table if table in head else next(iter(same), None)
        found[table] = (name, {} if name is None else _columns_at_head(row, after[name]))
    return found


def _alike(row: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return len(set(row.values()) & set(other.values())) > len(row) / 2


def _columns_at_head(row: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, str]:
    new = [column for column in after if column not in row]
    found = {}
    for column, value in row.items():
        names = [column] if column in after else [name for name in new if after[name] == value]
        if names:
            found[column] = names[0]
    return found


def upgrade_to_2(target: Any, *, passphrase: str | None = None) -> Upgrade:
    """``credential_db.upgrade``, but no further than to version 2, whose names tests may use."""
    if HEAD == 2:
        return credential_db.upgrade(target, passphrase=passphrase)
    config = scripts.config()
    config.attributes["passphrase"] = passphrase
    if isinstance(target, str | Path):
        config.set_main_option("sqlalchemy.url", str(target).replace("%", "%%"))
    else:
        config.attributes["connection"] = target
    command.upgrade(config, "v2")
    return Upgrade(config.attributes["before"], config.attributes["after"])


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

    def row(self, table: str) -> dict[str, Any]:
        """The only row of a table, by the names of its columns; an empty table has none."""
        with closing(self.connect()) as connection:
            cursor = connection.execute(f'SELECT * FROM "{table}"')
            row = cursor.fetchone() or ()
            return dict(zip((column[0] for column in cursor.description), row, strict=False))

    def content(self) -> "Content":
        """Every cell of every table with its storage class, but for Alembic's own table.

        This project's tables and columns come in the order and by the names of version 2; those
        that are gone at the head, and those that came later, are left out.
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
                name, columns = _by_names_of_2(table, names)
                if name is None:
                    continue
                cells = ", ".join(
                    f"typeof({column}), CAST({column} AS BLOB)" if column else "NULL, NULL"
                    for column in columns
                )
                rows = connection.execute(f'SELECT {cells} FROM "{table}"').fetchall()
                if table == "sqlite_sequence":  # to have counted to 0 is not to have counted
                    rows = [row for row in rows if row[-1] != b"0"]
                found[name] = sorted(rows, key=repr)
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


def _by_names_of_2(table: str, names: Sequence[str]) -> tuple[str | None, list[str | None]]:
    """What ``content`` is to call a table, and what to select; nothing for a column that is gone.

    Args:
        table: As the file calls it.
        names: Of its columns.
    """
    known = names_at_head()
    today = {name: old for old, (name, _) in known.items() if name is not None}
    if table == "sqlite_sequence":
        cases = " ".join(f"WHEN '{name}' THEN '{old}'" for name, old in today.items())
        return table, [f"CASE name {cases} ELSE name END", "seq"]
    original = table if table in TABLES else today.get(table)
    if original is None:
        of_later_versions = table in records.record(HEAD).columns
        return (None if of_later_versions else table), [f'"{name}"' for name in names]
    today_of, columns = known[original]
    if today_of is None:
        return None, []
    expected = columns_of_2(original)
    candidates = {name: {name, BEFORE_2.get(name), columns.get(name)} for name in expected}
    cells: list[str | None] = [
        next((f'"{name}"' for name in names if name in candidates[column]), None)
        if column in columns
        else None
        for column in expected
    ]
    later = records.record(HEAD).columns[today_of].union(*candidates.values())
    return original, [*cells, *(f'"{name}"' for name in names if name not in later)]


def upgraded(content: Content, shape: int) -> Content:
    """What ``content()`` must be after an upgrade, stated without the code under test.

    Args:
        content: Before.
        shape: The version of the shape of ``ssh_keys``, which is all that decides.
    """
    after = {table: list(rows) for table, rows in content.items()}
    for table in (*(table for table in TABLES if names_at_head()[table][0]), "sqlite_sequence"):
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
