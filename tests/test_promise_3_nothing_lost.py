"""Promise 3: every row, id, object and setting survives, whatever else the file holds.

To version 2, whose names stand here; later steps are for test_promise_10_the_next_version.py.
"""

import logging
import sqlite3
import tempfile
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import credential_db
from vaults import TABLES, Vault, ddl, ed25519_key, keys, rsa_key, upgrade_to_2, upgraded

# What users have put into their files besides the four tables. Names are not ours; some objects
# stand on our tables. Where a statement names a renamed column, it has its name for each version.

FOREIGN: dict[str, list[str]] = {
    "a table with odd names": [
        'CREATE TABLE "na\u00efve [table]" ("a b" TEXT COLLATE NOCASE UNIQUE, "select" BLOB)',
        "INSERT INTO \"na\u00efve [table]\" VALUES ('x', x'00ff'), (NULL, NULL)",
    ],
    "a table with an index and gaps": [
        "CREATE TABLE theirs (a, b DEFAULT (1 + 1))",
        "INSERT INTO theirs (rowid, a) VALUES (-3, 'x'), (7, 'y'), (9223372036854775807, 'z')",
        "CREATE INDEX theirs_index ON theirs (a DESC) WHERE a > 'a'",
    ],
    "a table without an index, with gaps": [
        "CREATE TABLE bare (a)",
        "INSERT INTO bare (rowid, a) VALUES (3, 'x'), (900, 'y')",
    ],
    "WITHOUT ROWID": [
        "CREATE TABLE rowless (k TEXT, v, PRIMARY KEY (k, v)) WITHOUT ROWID",
        "INSERT INTO rowless VALUES ('k', 1)",
    ],
    "generated columns": [
        "CREATE TABLE generated (a INTEGER, b AS (a * 2) VIRTUAL, c AS (a || 'x') STORED)",
        "INSERT INTO generated (a) VALUES (1), (2)",
        "CREATE INDEX generated_index ON generated (b)",
    ],
    "STRICT and AUTOINCREMENT": [
        "CREATE TABLE strict_one (id INTEGER PRIMARY KEY AUTOINCREMENT, v ANY) STRICT",
        "INSERT INTO strict_one VALUES (41, x'00')",
        "DELETE FROM strict_one",
    ],
    "a foreign key to our keys": [
        "CREATE TABLE pointing (id INTEGER PRIMARY KEY,"
        " key INTEGER REFERENCES ssh_keys ON DELETE CASCADE ON UPDATE CASCADE)",
        "INSERT INTO pointing (key) SELECT id FROM ssh_keys",
    ],
    "FTS5": [
        "CREATE VIRTUAL TABLE words USING fts5(body)",
        "INSERT INTO words (rowid, body) VALUES (5, 'some text'), (900, 'more text')",
    ],
    "FTS4": [
        "CREATE VIRTUAL TABLE old_words USING fts4(body)",
        "INSERT INTO old_words (docid, body) VALUES (5, 'some text')",
    ],
    "R-tree": [
        "CREATE VIRTUAL TABLE boxes USING rtree(id, x0, x1)",
        "INSERT INTO boxes VALUES (7, 0, 1)",
    ],
    "a view of ours": ["CREATE VIEW fine AS SELECT scope, count(*) n FROM ssh_key_assignments"],
    "indexes on ours": [
        "CREATE INDEX on_comment ON ssh_keys (lower(comment)) WHERE key_type = 'rsa'",
        "CREATE UNIQUE INDEX on_credentials ON credentials (provider, credential_set)",
    ],
    "triggers that copy or forbid": [
        "CREATE TABLE audit (id INTEGER PRIMARY KEY, what)",
        "CREATE TRIGGER copies AFTER UPDATE ON ssh_keys\n BEGIN -- odd\tlayout\n"
        "  INSERT INTO audit (what) VALUES (old.fingerprint); END",
        "CREATE TRIGGER forbids BEFORE UPDATE OF fingerprint ON ssh_keys WHEN old.id IS NOT NULL"
        " BEGIN SELECT RAISE(ABORT, 'a fingerprint never changes'); END",
        "CREATE TRIGGER removals AFTER DELETE ON ssh_key_assignments"
        " BEGIN INSERT INTO audit (what) VALUES (old.scope); END",
        "CREATE TRIGGER tokens AFTER UPDATE ON proxy_tokens"
        " BEGIN INSERT INTO audit (what) VALUES ('token'); END",
    ],
    "a trigger elsewhere": [
        "CREATE TABLE inbox (scope PRIMARY KEY)",
        "CREATE TRIGGER forwards AFTER INSERT ON inbox BEGIN"
        " DELETE FROM ssh_key_assignments WHERE scope = new.scope; END",
    ],
    "a view with an INSTEAD OF trigger": [
        "CREATE VIEW door AS SELECT credential_set, provider FROM credentials",
        "CREATE TRIGGER enters INSTEAD OF INSERT ON door BEGIN"
        " INSERT INTO credentials VALUES (new.credential_set, new.provider, '{}'); END",
    ],
    "statistics": ["ANALYZE"],
}


class Cells:
    """What may stand in a cell: SQLite keeps any type in any column."""

    text = st.text(max_size=12) | st.sampled_from(["", "\0", "a\0b", "'", '"', "\U0001f511", "42"])
    blob = st.binary(max_size=12) | st.builds(
        lambda piece, times: piece * times, st.binary(min_size=1, max_size=4), st.just(30_000)
    )
    number = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False)
    any = text | blob | number


IDS = st.integers(-(2**63), 2**63 - 1) | st.sampled_from([-(2**63), -1, 0, 1, 2**31, 2**63 - 1])


def rows(*columns: st.SearchStrategy[Any], unique: int) -> st.SearchStrategy[list[Any]]:
    """Rows of a table, different in their first columns as SQLite compares them."""

    def in_column_of_text(value: Any) -> Any:
        return value if isinstance(value, (bytes, str)) else format(value)

    return st.lists(
        st.tuples(*columns),
        max_size=4,
        unique_by=lambda row: tuple(in_column_of_text(cell) for cell in row[:unique]),
    )


class LegacyFile(NamedTuple):
    """All that differs between files."""

    number: int
    shapes: Mapping[str, int]
    check: bool
    key_rows: list[tuple[int, Any, Any]]
    scopes: list[Any]
    credentials: list[tuple[Any, ...]]
    tokens: list[tuple[Any, ...]]
    sequence: int
    foreign: list[str]
    pragmas: Mapping[str, object]


@st.composite
def legacy_files(draw: st.DrawFn) -> LegacyFile:
    number = draw(st.integers(0, 2))
    shapes = {table: draw(st.integers(number, 2)) for table in TABLES}
    return LegacyFile(
        number,
        shapes,
        check=shapes["ssh_keys"] > 0 or draw(st.booleans()),
        key_rows=draw(
            st.lists(
                st.tuples(IDS, Cells.text | Cells.blob, Cells.any),
                max_size=5,
                unique_by=lambda row: row[0],
            )
        ),
        scopes=draw(st.lists(Cells.text | Cells.blob, max_size=2, unique=True)),
        credentials=draw(rows(Cells.text, Cells.blob, Cells.any, unique=2)),
        tokens=draw(
            rows(Cells.text, Cells.any, Cells.any, Cells.blob | Cells.text, Cells.any, unique=1)
        ),
        sequence=draw(st.sampled_from([0, 7, 2**40, 2**63 - 1])),
        foreign=draw(st.lists(st.sampled_from(sorted(FOREIGN)), unique=True, max_size=6)),
        pragmas={
            "page_size": draw(st.sampled_from([512, 1024, 4096, 65536])),
            "encoding": draw(st.sampled_from(["'UTF-8'", "'UTF-8'", "'UTF-16le'", "'UTF-16be'"])),
            "auto_vacuum": draw(st.integers(0, 2)),
            "application_id": draw(st.sampled_from([0, 1, 2**31 - 1, -(2**31)])),
            "journal_mode": draw(st.sampled_from(["delete", "wal", "truncate", "persist"])),
        },
    )


def write(vault: Vault, file: LegacyFile) -> Vault:
    with closing(vault.connect()) as connection:
        for pragma, value in file.pragmas.items():
            connection.execute(f"PRAGMA {pragma} = {value}").fetchall()
        for table, shape in file.shapes.items():
            connection.execute(ddl(shape, check=file.check)[table])
        private = "private_pem" if file.shapes["ssh_keys"] == 0 else "private_der"
        for position, (row_id, comment, created_at) in enumerate(file.key_rows):
            key = rsa_key(0) if position == 3 else ed25519_key(position)
            secret, shape = (key.pem, 0) if private == "private_pem" else (key.der, 1)
            connection.execute(
                f"INSERT INTO ssh_keys (id, key_type, {private}, public_blob, comment, fingerprint,"
                " created_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    row_id,
                    key.key_type,
                    secret,
                    key.public_blob,
                    comment,
                    key.fingerprint(shape),
                    created_at,
                ),
            )
            for scope in file.scopes:
                connection.execute(
                    "INSERT INTO ssh_key_assignments VALUES (?, ?, ?)", (scope, row_id, created_at)
                )
        connection.executemany("INSERT INTO credentials VALUES (?, ?, ?)", file.credentials)
        connection.executemany("INSERT INTO proxy_tokens VALUES (?, ?, ?, ?, ?)", file.tokens)
        connection.execute("DELETE FROM sqlite_sequence WHERE name = 'ssh_keys'")
        # SQLite itself never lets the mark fall behind the ids.
        mark = max([file.sequence, *(row_id for row_id, _, _ in file.key_rows)])
        connection.execute("INSERT INTO sqlite_sequence VALUES ('ssh_keys', ?)", (mark,))
        for name in file.foreign:
            for statement in FOREIGN[name]:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {file.number}")
        connection.commit()
    return vault


def file_settings(vault: Vault) -> dict[str, Any]:
    names = ("page_size", "encoding", "auto_vacuum", "application_id", "journal_mode")
    return {name: vault.value(f"PRAGMA {name}") for name in names}


def numbered_rows(vault: Vault) -> dict[str, Any]:
    """The rowid of every row of every table that has one."""
    found = {}
    with closing(vault.connect()) as connection:
        for (table,) in connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT IN"
            " ('alembic_version', 'rowless', 'sqlite_stat1', 'sqlite_sequence')"
            " AND name NOT GLOB '*words_*' AND name NOT GLOB 'boxes_*'"
        ).fetchall():
            (column,) = connection.execute(
                "SELECT name FROM pragma_table_info(?) LIMIT 1", (table,)
            ).fetchone()
            found[table] = connection.execute(
                f'SELECT rowid, CAST("{column}" AS BLOB) FROM "{table}" ORDER BY rowid'
            ).fetchall()
    return found


def renamed(schema: list[tuple[Any, ...]], shapes: Mapping[str, int]) -> list[tuple[Any, ...]]:
    """The schema after the upgrade, told from the schema before."""
    after = []
    for kind, name, table, sql in schema:
        changed = sql
        if name == "ssh_keys" and shapes["ssh_keys"] == 0:
            changed = sql.replace("private_pem", "private_der")
        if name == "proxy_tokens" and shapes["proxy_tokens"] < 2:
            changed = sql.replace("task ", "subject ")
        after.append((kind, name, table, changed))
    return after


def without_spaces(schema: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return [(*row[:3], row[3] and "".join(row[3].split())) for row in schema]


def of_theirs(schema: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """All but our four tables, Alembic's, and the indexes that SQLite makes for them."""
    ours = (*TABLES, "alembic_version")
    return [
        row for row in schema if row[1] not in ours and not row[1].startswith("sqlite_autoindex_")
    ]


@settings(deadline=None, max_examples=50, derandomize=True)
@given(file=legacy_files())
def test_any_legacy_file_keeps_everything(file: LegacyFile) -> None:
    with tempfile.TemporaryDirectory() as directory:
        vault = write(Vault(Path(directory) / "credentials.db"), file)
        expected = upgraded(vault.content(), file.shapes["ssh_keys"])
        if file.shapes["ssh_keys"] == 0:  # its fingerprints are written anew, in its encoding
            codec = {"UTF-16le": "utf-16-le", "UTF-16be": "utf-16-be"}.get(
                vault.value("PRAGMA encoding"), "utf-8"
            )
            expected["ssh_keys"] = [
                (*row[:11], row[11].decode().encode(codec), *row[12:])
                for row in expected["ssh_keys"]
            ]
        before = file_settings(vault), numbered_rows(vault), vault.schema()

        assert upgrade_to_2(vault.path) == (file.number, 2)

        found = vault.content()
        for table in {*expected, *found}:
            assert sorted(found.get(table, []), key=repr) == sorted(
                expected.get(table, []), key=repr
            ), f"table {table} is not what it must be"
        assert file_settings(vault) == before[0]
        assert numbered_rows(vault) == before[1], "rows must keep their rowids"
        schema = vault.schema()
        assert of_theirs(schema) == of_theirs(before[2]), "their objects must stay byte-identical"
        if file.check:
            of_before = {row[1]: row for row in without_spaces(renamed(before[2], file.shapes))}
            of_after = {row[1]: row for row in without_spaces(schema)}
            assert {name: of_after[name] for name in of_before} == of_before
        assert vault.stamps() == ("v2", 2)
        vault.check_integrity()


@pytest.mark.parametrize(
    ("foreign", "check"),
    [
        *((foreign, True) for foreign in FOREIGN),
        # SQLite forgets the statistics of a table that is dropped; ANALYZE gathers them again.
        *((foreign, False) for foreign in FOREIGN if foreign != "statistics"),
    ],
)
def test_foreign_objects_stay_byte_identical(plain_vault: Vault, foreign: str, check: bool) -> None:
    plain_vault.create(check=check, content=keys(2))
    plain_vault.execute(*FOREIGN[foreign])
    expected = upgraded(plain_vault.content(), 0)
    before = of_theirs(plain_vault.schema()), numbered_rows(plain_vault)
    upgrade_to_2(plain_vault.path)
    assert plain_vault.content() == expected
    assert (of_theirs(plain_vault.schema()), numbered_rows(plain_vault)) == before
    plain_vault.check_integrity()


def test_foreign_objects_stay_in_an_encrypted_file_as_well(vault: Vault) -> None:
    vault.create(content=keys(2))
    vault.execute(*(sql for name in FOREIGN for sql in FOREIGN[name] if sql != "ANALYZE"))
    expected = upgraded(vault.content(), 0)
    before = of_theirs(vault.schema()), numbered_rows(vault)
    upgrade_to_2(vault.path, **vault.options)
    assert vault.content() == expected
    assert (of_theirs(vault.schema()), numbered_rows(vault)) == before


def test_a_huge_blob_stays(plain_vault: Vault) -> None:
    plain_vault.create(content=keys(2))
    plain_vault.execute(
        "CREATE TABLE files (name TEXT PRIMARY KEY, content BLOB)",
        "INSERT INTO files VALUES ('huge', randomblob(20000000))",
        "INSERT INTO credentials VALUES ('huge', 'blob', randomblob(5000000))",
    )
    expected = upgraded(plain_vault.content(), 0)
    upgrade_to_2(plain_vault.path)
    assert plain_vault.content() == expected


# Objects that name a renamed column


@pytest.mark.parametrize("check", [True, False], ids=["in place", "by a table copy"])
def test_what_names_a_renamed_column_keeps_working(plain_vault: Vault, check: bool) -> None:
    plain_vault.create(check=check, content=[ed25519_key(1)])
    plain_vault.execute(
        "CREATE TABLE audit (what)",
        "CREATE VIEW labels AS SELECT token, task FROM proxy_tokens",
        "CREATE VIEW sizes AS SELECT id, length(private_pem) > 0 AS held FROM ssh_keys AS k",
        "CREATE INDEX by_task ON proxy_tokens (task COLLATE NOCASE) WHERE task <> ''",
        "CREATE INDEX by_size ON ssh_keys (length(private_pem))",
        "CREATE TRIGGER tokens AFTER UPDATE OF task ON proxy_tokens"
        " BEGIN INSERT INTO audit VALUES (old.task || '>' || new.task); END",
        "CREATE TRIGGER rotation AFTER UPDATE OF private_pem ON ssh_keys"
        " BEGIN INSERT INTO audit VALUES ('rotated ' || (new.private_pem IS old.private_pem)); END",
    )
    labels, sizes = (
        plain_vault.query("SELECT * FROM labels"),
        plain_vault.query("SELECT * FROM sizes"),
    )

    upgrade_to_2(plain_vault.path)

    assert plain_vault.query("SELECT * FROM audit") == [], "their triggers are not for the upgrade"
    assert plain_vault.query("SELECT * FROM labels") == labels
    assert plain_vault.query("SELECT * FROM sizes") == sizes
    plain_vault.execute(
        "UPDATE proxy_tokens SET subject = 'new' WHERE token = 'phantom-1'",
        "UPDATE ssh_keys SET private_der = private_der",
    )
    assert plain_vault.query("SELECT what FROM audit") == [("a task>new",), ("rotated 1",)]
    plan = plain_vault.query(
        "EXPLAIN QUERY PLAN SELECT * FROM proxy_tokens"
        " WHERE subject COLLATE NOCASE = 'new' AND subject <> ''"
    )
    assert "by_task" in plan[0][3]
    plain_vault.check_integrity()


@pytest.mark.parametrize(
    "event", ["BEFORE UPDATE", "AFTER UPDATE", "AFTER UPDATE OF fingerprint", "AFTER INSERT"]
)
@pytest.mark.parametrize("check", [True, False], ids=["", "table is copied"])
def test_a_temporary_trigger_stays_and_does_not_fire(
    plain_vault: Vault, event: str, check: bool
) -> None:
    plain_vault.create(content=keys(2), check=check)
    with closing(plain_vault.connect()) as connection:
        connection.execute("CREATE TEMP TABLE seen (id)")
        connection.execute(
            f"CREATE TEMP TRIGGER spy {event} ON main.ssh_keys"
            " BEGIN INSERT INTO seen VALUES (new.id); END"
        )
        connection.commit()
        upgrade_to_2(connection)
        assert connection.execute("SELECT * FROM seen").fetchall() == []
        connection.execute("UPDATE ssh_keys SET fingerprint = fingerprint, comment = 'x'")
        if "UPDATE" in event:
            assert connection.execute("SELECT count(*) FROM seen").fetchone() == (2,)
        connection.rollback()


def test_a_temporary_table_of_the_same_name_is_not_mistaken_for_ours(plain_vault: Vault) -> None:
    plain_vault.create(content=keys(2))
    before = plain_vault.content()
    with closing(plain_vault.connect()) as connection:
        connection.execute("CREATE TEMP TABLE ssh_keys AS SELECT * FROM main.ssh_keys")
        connection.commit()
        try:
            upgrade_to_2(connection)
        except credential_db.CredentialDBError:
            expected = before
        else:
            expected = upgraded(before, 0)
        copy = connection.execute("SELECT count(private_pem) FROM temp.ssh_keys").fetchone()
        assert copy == (2,), "a temporary table is not ours to change"
    assert plain_vault.content() == expected


# What stands in the way


def test_rows_that_pointed_nowhere_before_are_reported_and_stay(
    vault: Vault, caplog: pytest.LogCaptureFixture
) -> None:
    vault.create(content=[ed25519_key(1)])
    vault.execute(
        "INSERT INTO ssh_key_assignments (scope, key_id) VALUES ('a', 404), ('b', 405)",
        "CREATE TABLE theirs (id INTEGER PRIMARY KEY, parent REFERENCES theirs)",
        "INSERT INTO theirs VALUES (1, 2)",
    )
    expected = upgraded(vault.content(), 0)
    with caplog.at_level(logging.WARNING, "credential_db"):
        assert upgrade_to_2(vault.path, **vault.options) == (0, 2)
    assert vault.content() == expected
    warnings = [record.getMessage() for record in caplog.records]
    assert any("2 rows of ssh_key_assignments -> ssh_keys" in text for text in warnings)
    assert any("1 rows of theirs -> theirs" in text for text in warnings)


BROKEN: dict[str, tuple[str, ...]] = {
    "a view of a table that is gone": ("CREATE VIEW broken AS SELECT * FROM gone",),
    "a view of a column that is gone": ("CREATE VIEW broken AS SELECT gone FROM credentials",),
    "a view of itself": ("CREATE VIEW broken AS SELECT * FROM broken",),
    "a trigger that writes to a table that is gone": (
        "CREATE TABLE theirs (id INTEGER PRIMARY KEY)",
        "CREATE TRIGGER broken AFTER INSERT ON theirs BEGIN INSERT INTO gone VALUES (1); END",
    ),
    "a trigger on a column that is gone": (
        "CREATE TRIGGER broken AFTER INSERT ON credentials WHEN new.gone BEGIN SELECT 1; END",
    ),
    "a trigger on our keys": (
        "CREATE TRIGGER broken AFTER UPDATE ON ssh_keys BEGIN DELETE FROM gone; END",
    ),
}


@pytest.mark.parametrize("check", [True, False], ids=["in place", "by a table copy"])
@pytest.mark.parametrize("what", BROKEN)
@pytest.mark.parametrize("number", [0, 1])
def test_something_broken_of_theirs_is_named(
    plain_vault: Vault, what: str, number: int, check: bool
) -> None:
    plain_vault.create(number, check=check, content=keys(2))
    plain_vault.execute(*BROKEN[what])
    before = plain_vault.files(), plain_vault.path.stat().st_mtime_ns
    with pytest.raises(credential_db.UnrecognizedSchema, match="broken"):
        upgrade_to_2(plain_vault.path)
    assert (plain_vault.files(), plain_vault.path.stat().st_mtime_ns) == before


def test_a_table_of_a_module_that_is_not_installed_stands_in_nobodys_way(
    plain_vault: Vault,
) -> None:
    plain_vault.create(content=keys(2))
    expected = upgraded(plain_vault.content(), 0)
    with closing(plain_vault.connect()) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute(
            "INSERT INTO sqlite_master VALUES"
            " ('table', 'strange', 'strange', 0, 'CREATE VIRTUAL TABLE strange USING missing(x)')"
        )
        connection.commit()
    upgrade_to_2(plain_vault.path)
    with closing(sqlite3.connect(plain_vault.path)) as connection:
        assert connection.execute(
            "SELECT sql FROM sqlite_master WHERE name = 'strange'"
        ).fetchall() == [("CREATE VIRTUAL TABLE strange USING missing(x)",)]
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("DELETE FROM sqlite_master WHERE name = 'strange'")
        connection.commit()
    assert plain_vault.content() == expected


def test_a_table_whose_rows_vacuum_would_renumber_is_left_alone_with_a_warning(
    plain_vault: Vault, caplog: pytest.LogCaptureFixture
) -> None:
    plain_vault.create(content=keys(2))
    plain_vault.execute(*FOREIGN["a table without an index, with gaps"])
    before = numbered_rows(plain_vault)
    with caplog.at_level(logging.WARNING, "credential_db"):
        upgrade_to_2(plain_vault.path)
    assert numbered_rows(plain_vault) == before
    assert "VACUUM would renumber the rows of table bare" in caplog.text


def test_a_full_text_index_over_such_a_table_still_finds_its_rows(plain_vault: Vault) -> None:
    plain_vault.create(content=keys(2))
    plain_vault.execute(
        "CREATE TABLE notes (body)",
        "INSERT INTO notes (rowid, body) VALUES (10, 'alpha'), (20, 'beta')",
        "CREATE VIRTUAL TABLE found USING fts5(body, content='notes', content_rowid='rowid')",
        "INSERT INTO found (found) VALUES ('rebuild')",
    )
    upgrade_to_2(plain_vault.path)
    assert plain_vault.query("SELECT rowid, body FROM found WHERE found MATCH 'beta'") == [
        (20, "beta")
    ]
