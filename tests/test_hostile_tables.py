"""Tables that are not quite what they should be, and what their users have built around them.

Restores by ``CREATE TABLE ... AS SELECT``, ids that are no rowids, constraints and objects of the
user's own. Each file is upgraded in full, or refused by name and left as it was.
"""

import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command

import credential_db
from attacks import State, Victim, skip_under_coverage, state_of
from credential_db import (
    CredentialDBError,
    KeyConversionError,
    UnrecognizedSchema,
    records,
    scripts,
)
from credential_db.sqlite import table_copy
from credential_db.sqlite.driver import DBAPIConnection
from credential_db.sqlite.shape import read_shape
from credential_db.sqlite.survival import Survivors
from vaults import HEAD, STAMPS, Vault, at_head, ddl, ed25519_key, keys, upgrade_to_2, upgraded


def remake(vault: Vault, definition: str, table: str = "ssh_keys") -> None:
    """Give a table another definition, as a restore by hand does."""
    with closing(vault.connect()) as connection:
        connection.execute("PRAGMA legacy_alter_table = ON")
        connection.execute(f"ALTER TABLE {table} RENAME TO before")
        connection.execute(definition)
        if " AS " not in definition:
            connection.execute(f"INSERT INTO {table} SELECT * FROM before")
        connection.execute("DROP TABLE before")
        connection.commit()


def changed(*changes: tuple[str, str]) -> str:
    """The definition of a version 0 ``ssh_keys``, somewhat different."""
    definition = ddl(0)["ssh_keys"]
    for old, new in changes:
        assert old in definition, f"{old} is no more in the DDL: adapt this test to it"
        definition = definition.replace(old, new)
    return definition


KEY = "id INTEGER PRIMARY KEY AUTOINCREMENT"
NOT_THE_ROWID = {
    "CREATE TABLE AS SELECT": "CREATE TABLE ssh_keys AS SELECT * FROM before",
    "no PRIMARY KEY": changed((KEY, "id INTEGER")),
    "INT PRIMARY KEY": changed((KEY, "id INT PRIMARY KEY")),
    "INTEGER PRIMARY KEY DESC": changed((KEY, "id INTEGER PRIMARY KEY DESC")),
    "TEXT PRIMARY KEY": changed((KEY, "id PRIMARY KEY")),
}


def unchanged(vault: Vault, before: State) -> None:
    assert state_of(vault) == before, "what is refused is left as it was"


def refused(vault: Vault, kind: type[CredentialDBError], *said: str) -> CredentialDBError:
    """An upgrade that fails and changes nothing."""
    before = state_as_it_is(vault)
    with pytest.raises(kind) as caught:
        upgrade_to_2(vault.path)
    for words in said:
        assert words in str(caught.value), "the message has to name what is in the way"
    assert state_as_it_is(vault) == before, "what is refused is left as it was"
    return caught.value


def state_as_it_is(vault: Vault) -> tuple[object, ...]:
    """Also of tables whose foreign keys make no sense."""
    return (vault.content(), vault.schema(), vault.stamps())


def is_exact(vault: Vault) -> None:
    """Whether the file's definitions are those of its record."""
    with closing(vault.connect()) as connection:
        shape = records.record(HEAD)
        found = read_shape(connection, shape.columns, shape.indexes).definition
        assert found == shape.definition, "adoption makes a file exactly its recorded version"


# 1. Ids that are not the rowid


@pytest.mark.parametrize("definition", NOT_THE_ROWID)
def test_every_row_is_converted_whatever_its_id_is(plain_vault: Vault, definition: str) -> None:
    plain_vault.create(content=keys(3))
    expected = upgraded(plain_vault.content(), 0)
    remake(plain_vault, NOT_THE_ROWID[definition])
    assert credential_db.upgrade(plain_vault.path) == (0, HEAD)
    assert plain_vault.content() | {"sqlite_sequence": []} == expected | {"sqlite_sequence": []}
    plain_vault.check_integrity()
    is_exact(plain_vault)


ODD_IDS = {"NULL": "NULL", "twice the same": "2", "a word": "'five'", "a fraction": "2.5"}


@pytest.mark.parametrize("odd", ODD_IDS)
@pytest.mark.parametrize("definition", NOT_THE_ROWID)
def test_an_id_that_is_none_is_refused_by_its_row(
    plain_vault: Vault, definition: str, odd: str
) -> None:
    plain_vault.create(content=keys(3))
    plain_vault.execute("DROP TABLE ssh_key_assignments")
    remake(plain_vault, NOT_THE_ROWID[definition])
    row = plain_vault.value("SELECT rowid FROM ssh_keys WHERE id = 5")
    try:
        plain_vault.execute(f"UPDATE ssh_keys SET id = {ODD_IDS[odd]} WHERE id = 5")
    except sqlite3.IntegrityError:
        pytest.skip("this table cannot hold such an id")
    error = refused(plain_vault, UnrecognizedSchema, "table ssh_keys")
    assert f" {row} " in str(error), "a good row must not be named in the place of the bad one"


def test_a_null_id_does_not_take_the_id_of_another_row(plain_vault: Vault) -> None:
    plain_vault.create(content=keys(2))
    plain_vault.execute("DROP TABLE ssh_key_assignments")
    remake(plain_vault, NOT_THE_ROWID["CREATE TABLE AS SELECT"])
    plain_vault.execute(
        "UPDATE ssh_keys SET id = NULL WHERE id = 2", "UPDATE ssh_keys SET id = 1 WHERE id = 5"
    )
    error = refused(plain_vault, UnrecognizedSchema, "table ssh_keys")
    assert "rows 1 " in str(error), "the row without an id is in the way, not the row of id 1"


def test_a_bad_row_is_named_by_its_id_where_that_is_not_the_rowid(plain_vault: Vault) -> None:
    plain_vault.create(content=keys(3))
    remake(plain_vault, NOT_THE_ROWID["INT PRIMARY KEY"])
    row = plain_vault.value("SELECT rowid FROM ssh_keys WHERE id = 8")
    assert row != 8, "this test is of a row whose id is not its rowid"
    plain_vault.execute("UPDATE ssh_keys SET private_pem = x'00' WHERE id = 8")
    error = refused(plain_vault, KeyConversionError)
    assert isinstance(error, KeyConversionError)
    ((row_id, reason),) = error.problems
    assert row_id == 8, "who deletes the row that is named must not lose another one"
    assert reason.endswith(f"(its rowid is {row})")


def test_two_bad_rows_of_one_id_are_told_apart(plain_vault: Vault) -> None:
    plain_vault.create(content=keys(2, rsa_keys=0))
    remake(plain_vault, changed((KEY, "id INTEGER")))
    plain_vault.execute(
        "UPDATE ssh_keys SET id = 5",
        "UPDATE ssh_keys SET (private_pem, public_blob) ="
        " (SELECT private_pem, public_blob FROM ssh_keys LIMIT 1)",
    )
    error = refused(plain_vault, KeyConversionError)
    assert isinstance(error, KeyConversionError)
    assert [row_id for row_id, _ in error.problems] == [5, 5]
    rows = [row for (row,) in plain_vault.query("SELECT rowid FROM ssh_keys ORDER BY rowid")]
    for row, other, problem in zip(rows, reversed(rows), error.problems, strict=True):
        assert f"same public key as row 5, rowid {other}" in problem.reason
        assert f"its rowid is {row}" in problem.reason


CLAUSES = ["IGNORE", "REPLACE", "ROLLBACK", "FAIL", "ABORT"]


@pytest.mark.parametrize("clause", CLAUSES)
def test_a_conflict_clause_of_the_table_is_overruled(plain_vault: Vault, clause: str) -> None:
    plain_vault.create(content=keys(3))
    first, second = keys(2)
    expected = upgraded(plain_vault.content(), 0)
    remake(
        plain_vault, changed(("UNIQUE (fingerprint)", f"UNIQUE (fingerprint) ON CONFLICT {clause}"))
    )
    plain_vault.execute(  # each has the other's new value
        ("UPDATE ssh_keys SET fingerprint = ? WHERE id = 2", (second.fingerprint(1),)),
        ("UPDATE ssh_keys SET fingerprint = ? WHERE id = 5", (first.fingerprint(1),)),
    )
    assert credential_db.upgrade(plain_vault.path) == (0, HEAD)
    assert plain_vault.content() | {"sqlite_sequence": []} == expected | {"sqlite_sequence": []}
    is_exact(plain_vault)


@pytest.mark.parametrize("clause", CLAUSES)
def test_a_conflict_clause_hides_no_bad_row(plain_vault: Vault, clause: str) -> None:
    key = ed25519_key(1)
    plain_vault.create(content=[key])
    remake(
        plain_vault, changed(("UNIQUE (fingerprint)", f"UNIQUE (fingerprint) ON CONFLICT {clause}"))
    )
    plain_vault.execute(
        "INSERT INTO ssh_keys"
        " SELECT 7, key_type, private_pem, public_blob, comment, 'x', created_at FROM ssh_keys"
    )
    error = refused(plain_vault, KeyConversionError)
    assert isinstance(error, KeyConversionError)
    assert [row_id for row_id, _ in error.problems] == [2, 7]


@pytest.mark.parametrize("detect_types", [sqlite3.PARSE_DECLTYPES, sqlite3.PARSE_COLNAMES])
@pytest.mark.parametrize("check", [True, False])
def test_converters_of_the_host_do_not_reach_the_rows(
    plain_vault: Vault, monkeypatch: pytest.MonkeyPatch, check: bool, detect_types: int
) -> None:
    plain_vault.create(content=keys(3), check=check)
    expected = upgraded(plain_vault.content(), 0)
    for kind in ("INTEGER", "TEXT", "BLOB", "VARCHAR"):  # the last is of Alembic's own table
        monkeypatch.setitem(sqlite3.converters, kind, lambda _: "converted")
    with closing(sqlite3.connect(plain_vault.path, detect_types=detect_types)) as connection:
        assert credential_db.upgrade(connection) == (0, HEAD)
        assert credential_db.status(connection).state == "current"
    assert plain_vault.content() == expected
    assert plain_vault.stamps() == STAMPS


@pytest.mark.parametrize("count", [1, 3])
def test_a_constraint_of_the_user_in_the_way_is_named(plain_vault: Vault, count: int) -> None:
    plain_vault.create(content=keys(count))
    remake(
        plain_vault,
        changed(("UNIQUE (fingerprint)", "UNIQUE (fingerprint), CHECK (length(fingerprint) = 64)")),
    )
    rows = ", ".join(
        str(row) for (row,) in plain_vault.query("SELECT id FROM ssh_keys ORDER BY id")
    )
    error = refused(plain_vault, CredentialDBError, f"rows {rows} (CHECK constraint failed")
    assert not isinstance(error, KeyConversionError), "nothing is wrong with the keys"


NO_BLOBS = {
    "NULL": (None, "holds no private key"),
    "a number": (7, "holds a number as its private key"),
    "TEXT": ("-----BEGIN", "holds its private key as TEXT"),
}


@pytest.mark.parametrize("what", NO_BLOBS)
def test_a_cell_that_is_no_blob_is_called_what_it_is(plain_vault: Vault, what: str) -> None:
    cell, reason = NO_BLOBS[what]
    plain_vault.create(content=keys(2))
    remake(plain_vault, changed(("private_pem BLOB NOT NULL", "private_pem")))
    plain_vault.execute(("UPDATE ssh_keys SET private_pem = ? WHERE id = 5", (cell,)))
    error = refused(plain_vault, KeyConversionError)
    assert isinstance(error, KeyConversionError)
    ((row_id, found),) = error.problems
    assert (row_id, found[: len(reason)]) == (5, reason)


# 2. What a copy of a table would take from it, or change in it

ADDITIONS = {
    "UNIQUE": (
        ("UNIQUE (fingerprint)", "UNIQUE (fingerprint), UNIQUE (comment)"),
        "UNIQUE (comment",
    ),
    "UNIQUE of a column": (("comment TEXT", "comment TEXT UNIQUE"), "UNIQUE (comment"),
    "COLLATE": (("comment TEXT", "comment TEXT COLLATE NOCASE"), "COLLATE NOCASE"),
    "STRICT": (("\n)", "\n) STRICT"), "STRICT"),
    "CHECK": (("UNIQUE (fingerprint)", "UNIQUE (fingerprint), CHECK (id > 0)"), "CHECK (id>0)"),
    "FOREIGN KEY": (
        ("comment TEXT", "comment TEXT REFERENCES notes (note)"),
        "FOREIGN KEY to notes",
    ),
}


@pytest.mark.parametrize("addition", ADDITIONS)
@pytest.mark.parametrize("check", [True, False])
def test_a_copy_takes_nothing_of_the_users_with_it(
    plain_vault: Vault, addition: str, check: bool
) -> None:
    change, name = ADDITIONS[addition]
    plain_vault.create(content=keys(2))
    plain_vault.execute(
        "CREATE TABLE notes (note TEXT PRIMARY KEY)",
        "INSERT INTO notes SELECT comment FROM ssh_keys",
    )
    without = () if check else (("    CHECK (key_type IN ('ed25519','rsa')),\n", ""),)
    remake(plain_vault, changed(change, *without))
    if not check:
        refused(plain_vault, UnrecognizedSchema, "table ssh_keys", name)
        return
    upgrade_to_2(plain_vault.path)
    with closing(plain_vault.connect()) as connection:
        found = read_shape(connection, ["ssh_keys"], ()).definition
    assert any(name in line for line in found), "where no copy is needed, everything stays"


def test_a_table_without_rowid_is_refused(plain_vault: Vault) -> None:
    plain_vault.create(content=keys(1))
    remake(plain_vault, changed((KEY, "id INTEGER PRIMARY KEY"), ("\n)", "\n) WITHOUT ROWID")))
    refused(plain_vault, CredentialDBError, "ssh_keys", "WITHOUT ROWID")


def test_a_copy_changes_no_storage_class(plain_vault: Vault) -> None:
    plain_vault.create(content=keys(3))
    untyped = changed(("created_at TEXT", "created_at"), ("comment TEXT", "comment"))
    remake(plain_vault, untyped)
    plain_vault.execute("UPDATE ssh_keys SET created_at = 1700000000 WHERE id = 5")
    refused(plain_vault, UnrecognizedSchema, "table ssh_keys", "rows 5 would get other values")
    plain_vault.execute("UPDATE ssh_keys SET created_at = '1700000000' WHERE id = 5")
    upgrade_to_2(plain_vault.path)
    assert plain_vault.query("SELECT created_at FROM ssh_keys WHERE id = 5") == [("1700000000",)]


COUNTERS = {
    "two rows": (["INSERT INTO sqlite_sequence VALUES ('ssh_keys', 3)"], 1001),
    "two rows, the other way round": (
        [
            "UPDATE sqlite_sequence SET seq = 3",
            "INSERT INTO sqlite_sequence VALUES ('ssh_keys', 1000)",
        ],
        1001,
    ),
    "NULL": (["UPDATE sqlite_sequence SET seq = NULL"], 6),
    "a word": (["UPDATE sqlite_sequence SET seq = 'many'"], 6),
    "a number as TEXT": (["UPDATE sqlite_sequence SET seq = '1000'"], 1001),
    "none at all": (["DELETE FROM sqlite_sequence"], 6),
}


@pytest.mark.parametrize("counter", COUNTERS)
def test_the_highest_counter_survives_a_copy(plain_vault: Vault, counter: str) -> None:
    statements, following = COUNTERS[counter]
    plain_vault.create(content=keys(2), check=False).execute(*statements)
    upgrade_to_2(plain_vault.path)
    plain_vault.execute(
        "INSERT INTO ssh_keys (key_type, private_der, public_blob, fingerprint)"
        " VALUES ('rsa', x'', x'', '')"
    )
    assert plain_vault.value("SELECT max(id) FROM ssh_keys") == following
    assert plain_vault.value("SELECT count(*) FROM sqlite_sequence") == 1


@pytest.mark.parametrize("check", [True, False])
def test_rows_that_pointed_nowhere_unseen_are_no_mistake_of_a_revision(
    plain_vault: Vault, check: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """SQLite cannot check a reference to a table whose key is gone, until that is repaired."""
    plain_vault.create(content=keys(2))
    expected = upgraded(plain_vault.content(), 0)["ssh_keys"]
    remake(plain_vault, NOT_THE_ROWID["CREATE TABLE AS SELECT"])
    if not check:
        plain_vault.execute("INSERT INTO ssh_key_assignments VALUES ('x', 77, 'now')")
    assert credential_db.upgrade(plain_vault.path) == (0, HEAD)
    assert plain_vault.content()["ssh_keys"] == expected
    assert plain_vault.value("SELECT count(*) FROM ssh_key_assignments") == 4 + (not check)


@pytest.mark.parametrize("version", [0, 1, 2])
def test_rows_in_the_way_of_a_foreign_key_that_comes_back_are_named(
    plain_vault: Vault, version: int
) -> None:
    """A restore by CREATE TABLE AS SELECT has no foreign key, so nothing kept such rows out."""
    plain_vault.create(version, content=keys(2))
    remake(
        plain_vault,
        "CREATE TABLE ssh_key_assignments AS SELECT * FROM before",
        "ssh_key_assignments",
    )
    plain_vault.execute("INSERT INTO ssh_key_assignments VALUES ('x', 77, 'now')")
    refused(plain_vault, UnrecognizedSchema, "table ssh_key_assignments", "its rows 5: repair")
    plain_vault.execute("DELETE FROM ssh_key_assignments WHERE rowid = 5")
    expected = upgraded(plain_vault.content(), version)
    assert credential_db.upgrade(plain_vault.path) == (version, HEAD)
    assert plain_vault.content() == expected
    is_exact(plain_vault)


def test_a_row_that_does_not_fit_is_named_by_the_name_of_its_table(plain_vault: Vault) -> None:
    plain_vault.create(content=keys(2))
    remake(plain_vault, changed((KEY, "id INTEGER")))
    plain_vault.execute("UPDATE ssh_keys SET id = 2")
    error = refused(plain_vault, UnrecognizedSchema, "UNIQUE constraint failed: ssh_keys.id")
    assert "copy" not in str(error), "nobody but this code knows the name of the copy"


# 3. What stands before the tables of the file on a caller's connection

SHADOWS = {
    "TABLE ssh_keys": "CREATE TEMP TABLE ssh_keys AS SELECT * FROM main.ssh_keys",
    "TABLE SSH_KEYS": "CREATE TEMP TABLE SSH_KEYS (id)",
    "VIEW ssh_keys": "CREATE TEMP VIEW ssh_keys AS SELECT 1 AS id",
    "TABLE alembic_version": "CREATE TEMP TABLE alembic_version AS SELECT 'v2' AS version_num",
    "TABLE proxy_tokens": "CREATE TEMP TABLE proxy_tokens (token)",
}


@pytest.mark.parametrize("version", [0, 2])
@pytest.mark.parametrize("shadow", SHADOWS)
def test_a_temporary_object_is_never_taken_for_the_files(
    plain_vault: Vault, shadow: str, version: int
) -> None:
    plain_vault.create(version, content=keys(2))
    before = state_of(plain_vault)
    with closing(plain_vault.connect()) as connection:
        connection.execute(SHADOWS[shadow])
        connection.commit()
        with pytest.raises(UnrecognizedSchema, match="temporary"):
            credential_db.upgrade(connection)
        assert credential_db.status(connection).version == version
    unchanged(plain_vault, before)


def test_a_temporary_table_does_not_stand_for_a_missing_one(plain_vault: Vault) -> None:
    with closing(plain_vault.connect()) as connection:
        connection.execute(at_head("CREATE TEMP TABLE {credentials} (a)"))
        credential_db.ensure_credentials_schema(connection)
    assert set(records.record(HEAD).columns) <= {name for _, name, *_ in plain_vault.schema()}


def test_an_attached_file_with_tables_of_the_same_names_is_not_touched(
    plain_vault: Vault, tmp_path: Path
) -> None:
    other = Vault(tmp_path / "other.db").create(0, content=keys(2))
    before = state_of(other)
    plain_vault.create(0, content=keys(3), check=False)
    expected = upgraded(plain_vault.content(), 0)
    with closing(plain_vault.connect()) as connection:
        connection.execute("ATTACH ? AS aside", (str(other.path),))
        connection.execute("CREATE TABLE log (a)")
        for number, on in enumerate(("aside.ssh_keys", "main.ssh_keys", "ssh_keys")):
            connection.execute(
                f"CREATE TEMP TRIGGER t{number} AFTER UPDATE ON {on} BEGIN SELECT 1; END"
            )
        connection.execute("CREATE TRIGGER temp.t4 AFTER UPDATE ON ssh_keys BEGIN SELECT 1; END")
        triggers = connection.execute("SELECT * FROM temp.sqlite_master ORDER BY name").fetchall()
        assert upgrade_to_2(connection) == (0, 2)
        after = connection.execute("SELECT * FROM temp.sqlite_master ORDER BY name").fetchall()
        assert after == triggers, "a trigger on a table of another file is not this file's"
        for name in ("t0", "t1", "t2", "t4"):  # on which table each is: it goes with that
            assert connection.execute(
                "SELECT count(*) FROM temp.sqlite_master WHERE name = ?", (name,)
            ).fetchone() == (1,)
        connection.execute("DROP TABLE aside.ssh_keys")
        left = connection.execute("SELECT name FROM temp.sqlite_master ORDER BY name").fetchall()
        assert left == [("t1",), ("t2",), ("t4",)]
        connection.rollback()
    assert plain_vault.content() == expected | {"log": []}
    assert other.path.exists()
    assert before.stamps == other.stamps()


def test_a_table_whose_rows_vacuum_would_renumber_is_seen_behind_a_temporary_one(
    plain_vault: Vault, caplog: pytest.LogCaptureFixture
) -> None:
    plain_vault.create(0, content=keys(2))
    plain_vault.execute(
        "CREATE TABLE gaps (a)", "INSERT INTO gaps (rowid, a) VALUES (1, 1), (7, 7)"
    )
    with closing(plain_vault.connect()) as connection:
        connection.execute("CREATE TEMP TABLE gaps (a INTEGER PRIMARY KEY)")
        connection.commit()
        assert credential_db.upgrade(connection) == (0, HEAD)
    assert plain_vault.query("SELECT rowid FROM gaps") == [(1,), (7,)]
    assert "would renumber the rows of table gaps" in caplog.text


# 4. Names


@pytest.mark.parametrize("check", [True, False])
def test_names_in_upper_case_are_the_same_names(plain_vault: Vault, check: bool) -> None:
    plain_vault.create(content=keys(2))
    expected = upgraded(plain_vault.content(), 0)
    definition = changed(
        *(() if check else (("    CHECK (key_type IN ('ed25519','rsa')),\n", ""),))
    )
    upper = (
        definition.upper().replace("'ED25519','RSA'", "'ed25519','rsa'").replace("'NOW'", "'now'")
    )
    remake(plain_vault, upper)
    assert plain_vault.value("SELECT count(*) FROM sqlite_master WHERE name = 'SSH_KEYS'") == 1
    assert credential_db.status(plain_vault.path).state == "legacy"
    assert credential_db.upgrade(plain_vault.path) == (0, HEAD)
    with closing(plain_vault.connect()) as connection:
        kinds = at_head("SELECT {ssh_keys.key_type} FROM {ssh_keys}")
        cells = connection.execute(kinds).fetchall()
    assert len(cells) == 2
    assert credential_db.status(plain_vault.path).state == "current"
    assert {row[3] for row in expected["ssh_keys"]} == {cell[0].encode() for cell in cells}


LATIN_1 = {
    "a table": "CREATE TABLE caf\\xe9 (a)",
    "a table with a foreign key": "CREATE TABLE caf\\xe9 (a REFERENCES ssh_keys)",
    "a column": "CREATE TABLE coffee (caf\\xe9)",
    "a view": "CREATE VIEW caf\\xe9 AS SELECT 1",
    "an index": "CREATE INDEX caf\\xe9 ON ssh_keys (comment)",
    "a trigger": "CREATE TRIGGER caf\\xe9 AFTER UPDATE ON ssh_keys BEGIN SELECT 1; END",
    "the text of a trigger": (
        "CREATE TRIGGER coffee AFTER UPDATE ON ssh_keys BEGIN SELECT 'caf\\xe9'; END"
    ),
    "the text of a view": "CREATE VIEW coffee AS SELECT 'caf\\xe9' AS a",
}


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("what", LATIN_1)
def test_a_name_that_is_not_utf_8_is_kept_or_refused(
    plain_vault: Vault, what: str, check: bool
) -> None:
    plain_vault.create(content=keys(2), check=check)
    # The sqlite3 module passes on no such bytes, but SQLite itself takes them.
    plain_vault.execute(LATIN_1[what].replace("\\xe9", "e9e9"))
    raw = plain_vault.path.read_bytes()
    plain_vault.path.write_bytes(raw.replace(b"cafe9e9", b"caf\xe9\xe9\xe9\xe9"))
    before = plain_vault.files()
    said = ""
    try:
        assert credential_db.upgrade(plain_vault.path) == (0, HEAD)
    except CredentialDBError as error:
        said = str(error)
    if said:
        assert "not UTF-8" in said
        assert plain_vault.files() == before
    else:
        assert b"caf\xe9" in plain_vault.path.read_bytes()
    assert credential_db.status(plain_vault.path).state in ("legacy", "current")


# 7. What the user has built on a table


def test_a_foreign_key_to_a_fingerprint_is_refused_by_name(plain_vault: Vault) -> None:
    plain_vault.create(content=keys(2)).execute(
        "CREATE TABLE hosts (host TEXT, key TEXT REFERENCES ssh_keys (fingerprint))",
        "INSERT INTO hosts SELECT 'host', fingerprint FROM ssh_keys",
    )
    error = refused(plain_vault, CredentialDBError, "2 rows of hosts", "take that foreign key away")
    assert "mistake in the revision" not in str(error)


FULL_TEXT = {
    "fts5 of a renamed column": (
        0,
        "fts5 (comment, private_pem, content='ssh_keys', content_rowid='id')",
    ),
    "fts4 of a renamed column": (0, "fts4 (comment, private_pem, content='ssh_keys')"),
    "fts5 of a token's task": (1, "fts5 (scope, task, content=proxy_tokens)"),
}


@pytest.mark.parametrize("index", FULL_TEXT)
def test_a_full_text_index_of_a_renamed_column_is_refused_by_name(
    plain_vault: Vault, index: str
) -> None:
    version, definition = FULL_TEXT[index]
    plain_vault.create(version, content=keys(2))
    plain_vault.execute(f"CREATE VIRTUAL TABLE search USING {definition}")
    refused(plain_vault, UnrecognizedSchema, "virtual table search")


@pytest.mark.parametrize("version", [0, 2])
def test_a_full_text_index_of_other_columns_is_warned_of_where_rows_were_rewritten(
    plain_vault: Vault, version: int, caplog: pytest.LogCaptureFixture
) -> None:
    plain_vault.create(version, content=keys(2))
    plain_vault.execute(
        "CREATE VIRTUAL TABLE search USING fts5"
        " (comment, fingerprint, content='ssh_keys', content_rowid='id')",
        "INSERT INTO search (search) VALUES ('rebuild')",
    )
    upgrade_to_2(plain_vault.path)
    assert ("table search indexes a table" in caplog.text) == (version == 0)
    assert len(plain_vault.query("SELECT comment FROM search WHERE search MATCH 'key'")) == 2


@pytest.mark.parametrize("version", [0, 1, 2])
def test_a_natural_join_is_warned_of_by_name_where_columns_were_renamed(
    plain_vault: Vault, version: int, caplog: pytest.LogCaptureFixture
) -> None:
    plain_vault.create(version, content=keys(2))
    plain_vault.execute(
        "CREATE TABLE tasks (task)",
        "CREATE VIEW work AS SELECT * FROM proxy_tokens NATURAL JOIN tasks",
    )
    upgrade_to_2(plain_vault.path)
    assert ("view work joins tables by whichever columns" in caplog.text) == (version < 2)


THROUGH_A_VIEW = {
    "a join": (
        "CREATE TABLE tasks (task)",
        "CREATE VIEW work AS SELECT * FROM tasks NATURAL JOIN tokens",
    ),
    "a full-text index": ("CREATE VIRTUAL TABLE work USING fts5 (scope, content='tokens')",),
}


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("what", THROUGH_A_VIEW)
def test_what_reads_a_renamed_column_through_a_view_is_warned_of_by_name(
    plain_vault: Vault, what: str, version: int, caplog: pytest.LogCaptureFixture
) -> None:
    plain_vault.create(version, content=keys(1)).execute(
        "CREATE VIEW tokens AS SELECT * FROM proxy_tokens", *THROUGH_A_VIEW[what]
    )
    upgrade_to_2(plain_vault.path)
    assert (" work " in caplog.text) == (version < 2)


NO_UPDATES = {
    "a string": "AFTER INSERT ON proxy_tokens BEGIN SELECT 'no update of task on a token'; END",
    "a comment": (
        "AFTER INSERT ON proxy_tokens BEGIN SELECT 1; -- not for an update of task on it\nEND"
    ),
    "a column that stays": (
        "AFTER UPDATE OF scope ON proxy_tokens BEGIN SELECT 'an update of task on a token'; END"
    ),
}


@pytest.mark.parametrize("what", NO_UPDATES)
def test_a_trigger_that_only_talks_of_an_update_is_in_nobodys_way(
    plain_vault: Vault, what: str
) -> None:
    plain_vault.create(1).execute(f"CREATE TRIGGER talks {NO_UPDATES[what]}")
    assert upgrade_to_2(plain_vault.path) == (1, 2)


def test_a_trigger_on_a_renamed_column_of_a_view_is_refused_by_name(plain_vault: Vault) -> None:
    """SQLite follows a rename into the view, and not into the trigger's list of columns."""
    plain_vault.create(1).execute(
        "CREATE VIEW tokens AS SELECT * FROM proxy_tokens",
        "CREATE TRIGGER writes INSTEAD OF UPDATE OF task ON tokens BEGIN SELECT 1; END",
    )
    refused(plain_vault, UnrecognizedSchema, "trigger writes", "task")


def test_a_trigger_on_a_view_that_never_worked_is_in_nobodys_way(plain_vault: Vault) -> None:
    plain_vault.create(2, content=keys(1)).execute(
        "CREATE VIEW tokens AS SELECT * FROM gone",
        "CREATE TRIGGER writes INSTEAD OF UPDATE OF task ON tokens BEGIN SELECT 1; END",
    )
    assert upgrade_to_2(plain_vault.path).before == 2


ON_A_TABLE_THAT_GOES = {
    "a view": "CREATE VIEW names AS SELECT token FROM proxy_tokens",
    "a trigger elsewhere": (
        "CREATE TRIGGER names AFTER INSERT ON theirs BEGIN DELETE FROM proxy_tokens; END"
    ),
    "a trigger": "CREATE TRIGGER names AFTER INSERT ON proxy_tokens BEGIN SELECT 1; END",
    "an index": "CREATE INDEX names ON proxy_tokens (scope)",
}


@pytest.mark.parametrize("what", ON_A_TABLE_THAT_GOES)
def test_what_needs_a_table_keeps_the_way_to_base_closed(plain_vault: Vault, what: str) -> None:
    plain_vault.create(2).execute("CREATE TABLE theirs (a)", ON_A_TABLE_THAT_GOES[what])
    before = state_of(plain_vault)
    with pytest.raises(UnrecognizedSchema, match="names") as caught:
        move_to(plain_vault, "base")
    assert "mistake" not in str(caught.value), "this is no revision's fault"
    unchanged(plain_vault, before)


def test_a_trigger_on_renamed_columns_fires_for_them_afterwards(plain_vault: Vault) -> None:
    plain_vault.create(content=keys(2)).execute(
        "CREATE TABLE log (what)",
        "CREATE TRIGGER keys_changed AFTER UPDATE OF private_pem, fingerprint ON ssh_keys"
        " BEGIN INSERT INTO log VALUES ('key'); END",
        'CREATE TRIGGER never_fires AFTER UPDATE OF gone, "task of" ON ssh_keys'
        " BEGIN SELECT 1; END",
        "CREATE TRIGGER task_changed AFTER UPDATE OF task ON proxy_tokens"
        " BEGIN INSERT INTO log VALUES (new.task); END",
    )
    upgrade_to_2(plain_vault.path)
    assert plain_vault.query("SELECT * FROM log") == [], "the upgrade is no change of the user's"
    plain_vault.execute(
        "UPDATE ssh_keys SET private_der = x'00' WHERE id = 2",
        "UPDATE proxy_tokens SET subject = 'new' WHERE token = 'phantom-1'",
    )
    assert plain_vault.query("SELECT * FROM log") == [("key",), ("new",)]


DEPENDANTS = {
    "a view": "CREATE VIEW names AS SELECT token, subject FROM proxy_tokens",
    "an index": "CREATE INDEX by_subject ON proxy_tokens (subject)",
    "a trigger": ("CREATE TRIGGER t AFTER INSERT ON proxy_tokens BEGIN SELECT new.subject; END"),
    "a trigger on an update of it": (
        "CREATE TRIGGER t AFTER UPDATE OF subject ON proxy_tokens BEGIN SELECT 1; END"
    ),
    "a view over a view": "CREATE VIEW v2 AS SELECT subject FROM (SELECT * FROM proxy_tokens)",
}


@pytest.mark.parametrize("what", DEPENDANTS)
def test_what_names_a_dropped_column_is_refused_by_name(plain_vault: Vault, what: str) -> None:
    """As a later revision would drop it, by op.copy_table."""
    plain_vault.create(2, content=keys(1)).execute(DEPENDANTS[what])
    definition = ddl(2)["proxy_tokens"].replace("    subject TEXT NOT NULL,\n", "")
    with closing(plain_vault.connect()) as connection:
        connection.isolation_level = None
        connection.execute("BEGIN IMMEDIATE")
        shape = read_shape(connection, ["proxy_tokens"], ())
        survivors = Survivors(connection, shape, ["proxy_tokens"], ())
        with pytest.raises(UnrecognizedSchema, match=r"by_subject|view|trigger t "):
            copy_and_check(connection, survivors, definition)


def copy_and_check(connection: DBAPIConnection, survivors: Survivors, definition: str) -> None:
    table_copy.copy_table(connection, "proxy_tokens", definition)
    survivors.check(read_shape(connection, ["proxy_tokens"], ()), ())


# 5. What is no fault of a key


class Alarm(Exception):
    """What a host's own timeout raises."""


def alarm(*_: object) -> None:
    raise Alarm


# One that rings in a callback of the garbage collector is nobody's to catch.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_alarm_of_the_host_is_never_called_a_corrupt_key(plain_vault: Vault) -> None:
    skip_under_coverage()
    plain_vault.create(content=[ed25519_key(number) for number in range(150)])
    victim = Victim(plain_vault)
    seen: set[str] = set()
    before = signal.signal(signal.SIGALRM, alarm)
    try:
        for number in range(40):
            victim.restore()
            signal.setitimer(signal.ITIMER_REAL, 0.004 + 0.001 * number)
            try:
                credential_db.upgrade(plain_vault.path)
                signal.setitimer(signal.ITIMER_REAL, 0)
                seen.add("none")
            except Alarm:
                seen.add("itself")
            except CredentialDBError as error:
                seen.add(f"{type(error).__name__}: {error}")
            signal.setitimer(signal.ITIMER_REAL, 0)
            victim.is_new()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert not [said for said in seen if "repair or delete" in said], (
        "whoever follows that advice deletes good keys: catch only what damage raises"
    )
    assert seen - {"none"}, "no alarm has met an upgrade: let them come earlier"


LOADERS = {
    "an RSA key in PEM": (0, "credential_db.openssh.load_ssh_private_key"),
    "an Ed25519 key in PEM": (0, "credential_db.openssh._ed25519_seed"),
    "a key in DER": (2, "credential_db.key_conversion.load_der_private_key"),
}


class WrongValue(ValueError):
    """A class of the host's own."""


class WrongType(TypeError):
    """Likewise."""


NO_DAMAGE = [MemoryError, TimeoutError, KeyboardInterrupt, RecursionError, WrongValue, WrongType]


@pytest.mark.parametrize("kind", NO_DAMAGE)
@pytest.mark.parametrize("loader", LOADERS)
def test_what_is_no_damage_is_never_called_a_corrupt_key(
    plain_vault: Vault,
    monkeypatch: pytest.MonkeyPatch,
    loader: str,
    kind: type[BaseException],
) -> None:
    version, name = LOADERS[loader]
    plain_vault.create(version, content=keys(2))
    if version:
        upgrade_to_2(plain_vault.path)
    before = state_of(plain_vault)

    def fail(*_: object, **__: object) -> None:
        raise kind

    monkeypatch.setattr(name, fail)
    with pytest.raises((CredentialDBError, kind)) as caught:
        move_to(plain_vault, "v0" if version else "v2")
    assert not isinstance(caught.value, KeyConversionError), "nothing is known of the key"
    assert "corrupt" not in str(caught.value)
    assert isinstance(caught.value, kind) == (kind is KeyboardInterrupt)
    unchanged(plain_vault, before)


def move_to(vault: Vault, revision: str) -> None:
    config = scripts.config()
    config.attributes["connection"] = str(vault.path)
    move = command.downgrade if revision in ("v0", "base") else command.upgrade
    move(config, revision)
