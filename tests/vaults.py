"""Real files as the historical software left them, and what an upgrade must make of them.

The code under test is used for two things: the snapshots of the versions, which are compared with
their DDL elsewhere, and to follow names beyond version 2. The encodings are written out with
cryptography and hashlib.

Tests name tables and columns as version 2 does. If a later version has renamed or dropped one:

* ``Vault.content`` uses the names of version 2, whatever the file calls them;
* ``at_head("SELECT {ssh_keys.comment} FROM {ssh_keys}")`` inserts the names at the head;
* ``upgrade_to_2`` stops at version 2, for tests to which the head does not matter.
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
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)
from sqlcipher3 import dbapi2 as sqlcipher

import credential_db
from credential_db import SCHEMA_VERSION, Upgrade, api, snapshots
from credential_db.sqlite.driver import quoted

HEAD = SCHEMA_VERSION
STAMPS = (f"v{HEAD}", HEAD)  # of a current file: Alembic's, and PRAGMA user_version

TABLES = ("credentials", "ssh_keys", "ssh_key_assignments", "proxy_tokens")
CHECK = "    CHECK (key_type IN ('ed25519','rsa')),\n"


def ddl(version: int, *, check: bool = True) -> dict[str, str]:
    """The statement that creates each table of one version, as in its snapshot."""
    tables = snapshots.snapshot(version).statements
    statements = {table: statement for table, (statement, *_) in tables.items()}
    if not check:
        assert CHECK in statements["ssh_keys"]
        statements["ssh_keys"] = statements["ssh_keys"].replace(CHECK, "")
    return statements


BEFORE_2 = {"private_pem": "private_der", "task": "subject"}  # names of versions 0 and 1

Names = Mapping[str, tuple[str | None, Mapping[str, str]]]


@cache
def columns_of_2(table: str) -> tuple[str, ...]:
    """In their order."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute(ddl(2)[table])
        rows = connection.execute("SELECT name FROM pragma_table_info(?)", (table,)).fetchall()
    return tuple(name for (name,) in rows)


class TableAtHead:
    """The names at the head of a table of version 2 and its columns; skips the test if gone."""

    def __init__(self, table: str) -> None:
        self._name, self._columns = names_at_head()[table]

    def __str__(self) -> str:
        return self._name or pytest.skip(f"a table of version 2 is gone at version {HEAD}")

    def __getattr__(self, column: str) -> str:
        if column not in self._columns:
            pytest.skip(f"column {column} is gone at version {HEAD}")
        return self._columns[column]


def at_head(sql: str) -> str:
    """A statement with the names that tables and columns of version 2 have at the head."""
    return sql.format_map({table: TableAtHead(table) for table in TABLES})


def _only_row(vault: "Vault", table: str) -> dict[str, Any]:
    with closing(vault.connect()) as connection:
        cursor = connection.execute(f'SELECT * FROM "{table}"')
        names = (column[0] for column in cursor.description)
        return dict(zip(names, cursor.fetchone() or (), strict=False))


@cache
def names_at_head() -> Names:
    """For each table of version 2 its name at the head, and those of its remaining columns.

    A renamed one is found by its content: a row of each table is upgraded.
    """
    head = snapshots.snapshot(HEAD).columns
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
        before = {table: _only_row(vault, table) for table in TABLES}
        credential_db.upgrade(vault.path)
        after = {table: _only_row(vault, table) for table in head}
    found: dict[str, tuple[str | None, Mapping[str, str]]] = {}
    for table, row in before.items():
        alike = {
            name: len({*row.values()} & {*other.values()})
            for name, other in after.items()
            if name == table or name not in TABLES
        }
        name = table if table in head else max(alike, key=lambda name: alike[name], default=None)
        if name is None or alike[name] * 2 <= len(row):
            found[table] = (table, {}) if table in head else (None, {})
            continue
        new = [column for column in after[name] if column not in row]
        columns = {
            column: [column] * (column in after[name])
            or [other for other in new if after[name][other] == value]
            for column, value in row.items()
        }
        found[table] = (name, {column: names[0] for column, names in columns.items() if names})
    return found


def upgrade_to_2(target: Any, *, passphrase: str | None = None) -> Upgrade:
    """``credential_db.upgrade``, but no further than version 2, whose names tests may use."""
    if HEAD == 2:
        return credential_db.upgrade(target, passphrase=passphrase)
    outcome = api.change(target, to="2", passphrase=passphrase)
    assert outcome.after == 2
    return Upgrade(outcome.before, 2)


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
        """What to add to the environment of a command."""
        return {} if self.passphrase is None else {"CREDENTIAL_DB_PASSPHRASE": self.passphrase}

    def connect(self) -> Any:
        """A connection as an application opens it; the caller closes it."""
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
            version: Of the tables, unless ``tables`` gives one to each.
            number: ``PRAGMA user_version``; None for that of the version.
            tables: Those that exist; as a mapping, each with the version of its definition.
            check: Whether ``ssh_keys`` has its CHECK.
            content: The keys to store, and rows to go with them; None for no rows at all.
            journal_mode: The file keeps it if it is ``wal``.
            secure_delete: Off, SQLite leaves copies of deleted rows behind.
        """
        versions = tables if isinstance(tables, Mapping) else dict.fromkeys(tables, version)
        with closing(self.connect()) as connection:
            connection.execute(f"PRAGMA journal_mode = {journal_mode}")
            connection.execute(f"PRAGMA secure_delete = {'ON' if secure_delete else 'OFF'}")
            for table, of_table in versions.items():
                connection.execute(ddl(of_table, check=check)[table])
            if content is not None:
                self._fill(connection, versions, list(content))
            connection.execute(f"PRAGMA user_version = {version if number is None else number}")
            connection.commit()
        return self

    def _fill(self, connection: Any, versions: Mapping[str, int], content: list[Key]) -> None:
        """Rows with gaps in the ids, a high-water mark above them, and odd text."""
        rows: dict[str, list[tuple[Any, ...]]] = {
            "credentials": [
                ("default", "github", '{"token": "ghp_' + "x" * 36 + '"}'),
                ("d\u00e9faut \U0001f511", "line\nbreak", "{}"),
            ],
            "proxy_tokens": [
                ("phantom-1", "scope", "a task", "default", "github"),
                ("phantom-2", "", "", "", ""),
                (None, "SQLite allows NULL in a TEXT PRIMARY KEY", "t", "c", "p"),
            ],
            "ssh_keys": [
                (
                    3 * position + 2,
                    key.key_type,
                    key.pem if versions.get("ssh_keys") == 0 else key.der,
                    key.public_blob,
                    f"key {position} \u00fc",
                    key.fingerprint(min(versions.get("ssh_keys", 0), 1)),
                    f"2020-01-{position % 28 + 1:02} 00:00:00",
                )
                for position, key in enumerate(content)
            ],
            "ssh_key_assignments": [
                (f"scope {n}", 3 * position + 2, "2021-02-03 04:05:06")
                for position in range(len(content) if "ssh_keys" in versions else 0)
                for n in range(2)
            ],
        }
        for table in versions:
            for row in rows[table]:
                marks = ", ".join("?" * len(row))
                connection.execute(f"INSERT INTO {table} VALUES ({marks})", row)
        if "ssh_keys" in versions:
            connection.execute("DELETE FROM sqlite_sequence WHERE name = 'ssh_keys'")
            connection.execute("INSERT INTO sqlite_sequence VALUES ('ssh_keys', 1000)")

    def content(self) -> "Content":
        """Every cell of every table with its storage class, except Alembic's own table.

        This project's tables and columns come in the order and by the names of version 2; those
        that are gone at the head, and those that came later, are left out.
        """
        found = {}
        with closing(self.connect()) as connection:
            query = "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"
            for (table,) in connection.execute(query).fetchall():
                names = [
                    row[1] for row in connection.execute(f"PRAGMA table_info({quoted(table)})")
                ]
                name, columns = _by_names_of_2(table, names)
                if name is None or table == "alembic_version":
                    continue
                cells = ", ".join(
                    f"typeof({column}), CAST({column} AS BLOB)" if column else "NULL, NULL"
                    for column in columns
                )
                rows = connection.execute(f"SELECT {cells} FROM {quoted(table)}").fetchall()
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
        stamp = (
            self.value("SELECT max(version_num) FROM alembic_version") if under_alembic else None
        )
        return stamp, self.value("PRAGMA user_version")

    def files(self) -> dict[str, bytes]:
        """The bytes of the file and of everything next to it whose name begins with its own."""
        files = sorted(self.path.parent.glob(self.path.name + "*"))
        return {file.name: file.read_bytes() for file in files}

    def check_integrity(self) -> None:
        assert self.query("PRAGMA integrity_check") == [("ok",)]
        assert self.query("PRAGMA foreign_key_check") == []


Content = dict[str, list[tuple[Any, ...]]]


def _by_names_of_2(table: str, names: Sequence[str]) -> tuple[str | None, list[str | None]]:
    """A table of a file, by its name at version 2, and what to select; None if it is gone."""
    known, head = names_at_head(), snapshots.snapshot(HEAD).columns
    originals = {name: old for old, (name, _) in known.items() if name is not None}
    if table == "sqlite_sequence":
        cases = " ".join(f"WHEN '{name}' THEN '{old}'" for name, old in originals.items())
        return table, [f"CASE name {cases} ELSE name END", "seq"]
    original = table if table in TABLES else originals.get(table)
    if original is None:
        return (None if table in head else table), [quoted(name) for name in names]
    at_head, columns = known[original]
    if at_head is None:
        return None, []
    old_names = {**BEFORE_2, **{new: old for old, new in columns.items()}}
    by_old_name = {old_names.get(name, name): name for name in names}
    cells = [
        quoted(by_old_name[column]) if column in columns and column in by_old_name else None
        for column in columns_of_2(original)
    ]
    known_columns = {*columns_of_2(original), *head[at_head]}
    return original, [
        *cells,
        *(quoted(name) for old, name in by_old_name.items() if not {old, name} & known_columns),
    ]


def upgraded(content: Content, version: int) -> Content:
    """What ``content()`` must be after an upgrade, stated without the code under test.

    Args:
        content: Before.
        version: Of the definition of ``ssh_keys``; nothing else matters.
    """
    after = {table: list(rows) for table, rows in content.items()}
    for table in (*(table for table in TABLES if names_at_head()[table][0]), "sqlite_sequence"):
        after.setdefault(table, [])
    if version == 0:
        after["ssh_keys"] = sorted((_converted(row) for row in content["ssh_keys"]), key=repr)
    return after


def _converted(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """One row as ``content()`` gives it: the type and the bytes of each of seven columns."""
    cells = list(row)
    private = load_ssh_private_key(cells[5], password=None)
    cells[5] = private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    cells[11] = fingerprint(cells[7], 1).encode()
    return tuple(cells)
