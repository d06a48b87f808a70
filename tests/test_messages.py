"""Every message in one golden file, ``messages.txt``: command typed, output, exit status.

To add a command, write ``$ credential-db ...`` below its heading. ``pytest tests/test_messages.py
--rewrite-messages`` runs the commands and writes what they print. Read the difference like a page:
for every line, do I know what happened, and what to do next?
"""

import os
import re
import shlex
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

import credential_db
from conftest import PASSPHRASE, CommandLine
from credential_db import SCHEMA_VERSION
from vaults import Vault, keys

GOLDEN = Path(__file__).with_name("messages.txt")
CHECKOUT = Path(__file__).parents[1]
WRITTEN_AT = 2  # the head when the golden file was written: then change it
COMMAND = re.compile(r"\$ (\(locked\) )?((?:[A-Z_]+=\S* )*)credential-db ?(.*)")
LOSE_CONSTRAINTS = (
    "CREATE TABLE rest AS SELECT * FROM ssh_keys",
    "DROP TABLE ssh_keys",
    "ALTER TABLE rest RENAME TO ssh_keys",
)
CONFLICT = "UPDATE rest SET fingerprint = 'same', key_type = 'dsa'"

Prepare = Callable[[Vault], Any]


def vault(version: int, *statements: str, rows: int = 0, **options: Any) -> Prepare:
    content = keys(rows, rsa_keys=0) if rows else None

    def write(vault: Vault) -> None:
        vault.create(version, content=content, **options).execute(*statements)

    return write


def current(*statements: str) -> Prepare:
    def write(vault: Vault) -> None:
        credential_db.upgrade(vault.path)
        vault.execute(*statements)

    return write


def bytes_of(content: bytes, ending: str = "") -> Prepare:
    return lambda vault: Path(f"{vault.path}{ending}").write_bytes(content)


def damaged(vault: Vault) -> None:
    content = vault.create(1, content=keys(2, rsa_keys=0)).path.read_bytes()
    vault.path.write_bytes(content[:100] + b"\xff" * 8000)


def many(vault: Vault) -> None:
    for name, version, passphrase in (("a", 1, None), ("b", 0, None), ("secret", 1, PASSPHRASE)):
        Vault(vault.path.with_name(f"{name}.db"), passphrase).create(
            version, content=keys(2, rsa_keys=0)
        )
    credential_db.upgrade(vault.path.with_name("c.db"))
    vault.path.with_name("d.db").write_bytes(b"no database " * 100)


def nothing(vault: Vault) -> None:
    pass


# What is in the directory when the commands below a heading are run.
SCENES: dict[str, Prepare] = {
    "help": nothing,
    "no file": nothing,
    "an empty file": bytes_of(b""),
    "version 0, with keys": vault(0, rows=3),
    "one key": vault(0, rows=1),
    "version 1": vault(1),
    "version 2, never under Alembic": vault(2),
    "an encrypted vault": lambda vault: Vault(vault.path, PASSPHRASE).create(1),
    "a passphrase for a plain vault": vault(1),
    "JSON": many,
    "several vaults": many,
    "locked": vault(1),
    "written by a newer release": current("PRAGMA user_version = 99"),
    "tables behind the number": vault(0, number=2),
    "a column that no version had": vault(1, "ALTER TABLE proxy_tokens ADD COLUMN subject TEXT"),
    "tables of another application": lambda vault: vault.execute("CREATE TABLE credentials (a)"),
    "stamp and number disagree": current("PRAGMA user_version = 1"),
    "a damaged stamp": current("DELETE FROM alembic_version"),
    "a stamp that is not true": vault(1),
    "bad keys": vault(
        0,
        "UPDATE ssh_keys SET private_pem = x'00' WHERE id = 2",
        "UPDATE ssh_keys SET public_blob = x'00' WHERE id = 5",
        "UPDATE ssh_keys SET key_type = 'rsa' WHERE id = 8",
        rows=4,
    ),
    "lost constraints": current(*LOSE_CONSTRAINTS),
    "lost constraints of an old vault": vault(1, *LOSE_CONSTRAINTS),
    "conflicting rows": vault(1, LOSE_CONSTRAINTS[0], CONFLICT, *LOSE_CONSTRAINTS[1:], rows=2),
    "rows that a downgrade to base would drop": vault(1, rows=1),
    "no database": bytes_of(b"no database " * 100),
    "a damaged file": damaged,
    "moved away without its -wal": bytes_of(b"\x37\x7f\x06\x82" + bytes(5000), "-wal"),
    "a hard link": lambda vault: os.link(vault.create(1).path, f"{vault.path}.link"),
    "backups": vault(1),
    "odd names": nothing,
    "usage errors": vault(1),
    "versions": current(),
    "Alembic's own commands": vault(1),
}


@contextmanager
def locked(home: Path) -> Iterator[None]:
    """As another program that writes to the first of the vaults."""
    with closing(sqlite3.connect(min(home.glob("*.db")))) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield


def run(line: str, home: Path, shell: CommandLine) -> Iterator[str]:
    found = COMMAND.fullmatch(line.replace('"PASSPHRASE"', f'"{PASSPHRASE}"'))
    assert found, line
    environment = dict(word.split("=", 1) for word in shlex.split(found[2]))
    with locked(home) if found[1] else nullcontext():
        result = shell(*shlex.split(found[3]), environment=environment, cwd=home)
    yield line
    for text in (*result.stdout.splitlines(), *(f"2> {x}" for x in result.stderr.splitlines())):
        shown = text.replace(str(home), "HOME").replace(str(CHECKOUT), "CHECKOUT")
        yield re.sub(r"\d{8}T\d{6}Z", "DATE", shown).rstrip()
    yield f"[{result.returncode}]"


@pytest.mark.skipif(WRITTEN_AT < SCHEMA_VERSION, reason="rewrite tests/messages.txt for this head")
def test_messages(tmp_path: Path, shell: CommandLine, request: pytest.FixtureRequest) -> None:
    golden = GOLDEN.read_text()
    lines: list[str] = []
    home = tmp_path
    for line in golden.splitlines():
        if line.startswith("## "):
            home = tmp_path / line[3:]
            home.mkdir()
            SCENES[line[3:]](Vault(home / "vault.db"))
            lines += ["", line, ""]
        elif line.startswith("$ "):
            lines += run(line, home, shell)
    text = "\n".join(lines[1:]) + "\n"
    if request.config.getoption("--rewrite-messages"):
        GOLDEN.write_text(text)
        return
    assert text == golden, "read the difference, then: pytest --rewrite-messages"
