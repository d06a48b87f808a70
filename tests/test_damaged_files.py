"""Damaged files: what can still be read of them stays readable.

A rebuild copies what SQLite can make sense of, and drops the rest: so a file is looked over before.
"""

import random
import sqlite3
from collections.abc import Callable
from contextlib import closing

import pytest

import credential_db
from credential_db import CredentialDBError, NotADatabase
from vaults import HEAD, Vault, keys, upgrade_to_2

PAGE = 4096


def table_scans(vault: Vault) -> dict[str, int | None]:
    """How many rows of each table can be read to their end; None where not all can."""
    found: dict[str, int | None] = {}
    try:
        tables = vault.query("SELECT name FROM sqlite_master WHERE type = 'table'")
    except (sqlite3.Error, UnicodeError):
        return found
    for (table,) in tables:
        try:
            found[str(table)] = len(vault.query(f'SELECT * FROM "{table}"'))
        except (sqlite3.Error, UnicodeError):
            found[str(table)] = None
    return found


def page_of(vault: Vault, name: str) -> int:
    """Where the root page of a table or an index begins."""
    root = vault.value("SELECT rootpage FROM sqlite_master WHERE name = ?", (name,))
    return (int(root) - 1) * PAGE


def overwritten(raw: bytes, at: int, new: bytes) -> bytes:
    return raw[:at] + new + raw[at + len(new) :]


def cell_out_of_page(vault: Vault, raw: bytes) -> bytes:
    at = page_of(vault, "ssh_keys")
    return overwritten(raw, at + 8, b"\x00\x01")


def first_row_renumbered(vault: Vault, raw: bytes) -> bytes:
    """A rowid above those of the rows that follow: found by a scan, and not by its number."""
    root = page_of(vault, "ssh_keys")
    cells = [int.from_bytes(raw[at : at + 2], "big") + root for at in range(root + 8, root + 12, 2)]
    at = cells[0] if raw[root] == 13 else pytest.fail("the rows of ssh_keys fill several pages")
    while raw[at] > 127:  # the size of the row: https://www.sqlite.org/fileformat2.html#varint
        at += 1
    return overwritten(raw, at + 1, b"\x7f")


DAMAGE: dict[str, Callable[[Vault, bytes], bytes]] = {
    "a cell that points into the header": cell_out_of_page,
    "a row out of its order": first_row_renumbered,
    "a page of no kind": lambda vault, raw: overwritten(raw, page_of(vault, "theirs"), b"\x07"),
    "an index without its page": lambda vault, raw: overwritten(
        raw, page_of(vault, "by_comment"), bytes(PAGE)
    ),
    "a page count that is not right": lambda _, raw: overwritten(raw, 28, b"\x00\x00\x10\x00"),
    "a free list out of the file": lambda _, raw: overwritten(
        raw, 32, b"\x00\x00\x7f\x00\x00\x00\x00\x05"
    ),
    "cut off in the middle": lambda _, raw: raw[: len(raw) - 2 * PAGE],
    "an emptied schema": lambda _, raw: overwritten(raw, 100, b"\x0d" + bytes(PAGE - 101)),
    "an empty schema page": lambda _, raw: overwritten(
        raw, 100, b"\x0d\x00\x00\x00\x00\x10\x00\x00" + bytes(PAGE - 108)
    ),
}


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_refused_and_left_as_it_is(
    plain_vault: Vault, damage: str, check: bool
) -> None:
    plain_vault.create(content=keys(3), check=check).execute(
        "CREATE TABLE theirs (a)",
        "INSERT INTO theirs VALUES ('row')",
        "CREATE INDEX by_comment ON ssh_keys (comment)",
    )
    damaged = DAMAGE[damage](plain_vault, plain_vault.path.read_bytes())
    plain_vault.path.write_bytes(damaged)
    with pytest.raises(CredentialDBError) as caught:
        upgrade_to_2(plain_vault.path)
    assert isinstance(caught.value, NotADatabase), str(caught.value)
    assert "damaged" in str(caught.value)
    assert plain_vault.path.read_bytes() == damaged, "a rebuild would lose what can be read"


@pytest.mark.parametrize("emptied", ["an emptied schema", "an empty schema page"])
def test_a_file_that_has_lost_its_schema_is_not_called_empty(
    plain_vault: Vault, emptied: str
) -> None:
    plain_vault.create(content=keys(3))
    plain_vault.execute("PRAGMA user_version = 0")
    plain_vault.path.write_bytes(DAMAGE[emptied](plain_vault, plain_vault.path.read_bytes()))
    with pytest.raises(NotADatabase):
        credential_db.status(plain_vault.path)


def test_whatever_byte_is_flipped_what_could_be_read_still_can(plain_vault: Vault) -> None:
    """A file is upgraded in full, or it is refused and not a byte of it changes."""
    plain_vault.create(content=keys(6, rsa_keys=2)).execute(
        "CREATE TABLE theirs (a, b UNIQUE)",
        "INSERT INTO theirs VALUES (hex(zeroblob(3000)), 1), ('x', 2)",
        "CREATE INDEX by_comment ON ssh_keys (comment)",
    )
    raw = plain_vault.path.read_bytes()
    chance = random.Random(6)
    upgraded = 0
    for _ in range(150):
        position = chance.choice(
            [chance.randrange(len(raw)), chance.randrange(0, len(raw), PAGE) + chance.randrange(60)]
        )
        damaged = overwritten(raw, position, bytes([raw[position] ^ (1 << chance.randrange(8))]))
        plain_vault.path.write_bytes(damaged)
        before = table_scans(plain_vault)
        plain_vault.path.write_bytes(damaged)
        try:
            upgrade_to_2(plain_vault.path)
        except CredentialDBError:
            where = f"byte {position}"
            assert plain_vault.path.read_bytes() == damaged, f"{where}: refused, and yet changed"
            continue
        upgraded += 1
        after = table_scans(plain_vault)
        for table, rows in before.items():
            if rows is not None and table != "sqlite_sequence":
                assert after.get(table) == rows, f"byte {position}: {table} was read before"
    assert upgraded, "most bytes are of no structure"


NO_DAMAGE = {
    "a NULL in a NOT NULL column": (
        "CREATE TABLE theirs (a)",
        "INSERT INTO theirs VALUES (NULL)",
        "UPDATE sqlite_master SET sql = 'CREATE TABLE theirs (a NOT NULL)' WHERE name = 'theirs'",
    ),
    "a row that breaks a CHECK": (
        "CREATE TABLE theirs (a)",
        "INSERT INTO theirs VALUES (-1)",
        "UPDATE sqlite_master SET sql = 'CREATE TABLE theirs (a CHECK (a > 0))'"
        " WHERE name = 'theirs'",
    ),
    "a number in a column that is TEXT by now": (
        "CREATE TABLE theirs (a)",
        "INSERT INTO theirs VALUES (7)",
        "UPDATE sqlite_master SET sql = 'CREATE TABLE theirs (a TEXT)' WHERE name = 'theirs'",
    ),
    "a word in a column that is STRICT by now": (
        "CREATE TABLE theirs (a)",
        "INSERT INTO theirs VALUES ('word')",
        "UPDATE sqlite_master SET sql = 'CREATE TABLE theirs (a INT) STRICT' WHERE name = 'theirs'",
    ),
    "two rows alike under a UNIQUE index": (
        "CREATE TABLE theirs (a)",
        "CREATE INDEX once ON theirs (a)",
        "INSERT INTO theirs VALUES (1), (1)",
        "UPDATE sqlite_master SET sql = 'CREATE UNIQUE INDEX once ON theirs (a)'"
        " WHERE name = 'once'",
    ),
}


@pytest.mark.parametrize("what", NO_DAMAGE)
def test_rows_that_break_a_constraint_are_no_damage(plain_vault: Vault, what: str) -> None:
    """A change of the schema table by hand leaves them; SQLite's own check lists them as well."""
    plain_vault.create(content=keys(2)).execute("PRAGMA writable_schema = ON", *NO_DAMAGE[what])
    assert credential_db.upgrade(plain_vault.path) == (0, HEAD)
    with closing(plain_vault.connect()) as connection:
        rows = connection.execute("SELECT count(*) FROM theirs").fetchone()
    assert rows == (1 + ("two" in what),)


def test_a_collation_of_the_host_is_no_damage(plain_vault: Vault) -> None:
    def compare(left: str, right: str) -> int:
        return (left > right) - (left < right)

    plain_vault.create(content=keys(2))
    with closing(plain_vault.connect()) as connection:
        connection.create_collation("theirs", compare)
        connection.execute("CREATE TABLE names (name TEXT COLLATE theirs UNIQUE)")
        connection.execute("INSERT INTO names VALUES ('a')")
        connection.commit()
    assert credential_db.upgrade(plain_vault.path) == (0, HEAD)
