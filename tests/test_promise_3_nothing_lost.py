"""Promise 3: every row, id, object and setting survives, whatever else the file contains.

Tables are rarely exactly what they should be, and users have built around them. Each file is
upgraded in full, or refused with the name of what prevents it, and left as it was. To version 2,
whose names the tests use; later versions are for test_promise_10_the_next_version.py.
"""

import tempfile
from contextlib import closing
from itertools import product
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import credential_db
from conftest import PASSPHRASE
from credential_db import (
    CredentialDBError,
    KeyConversionError,
    UnrecognizedSchema,
    api,
    snapshots,
)
from credential_db.sqlite import preservation, table_copy
from credential_db.sqlite.schema import read_schema
from projects import Project
from vaults import CHECK, TABLES, Vault, ddl, ed25519_key, keys, rsa_key, upgrade_to_2, upgraded

BOTH_WAYS = pytest.mark.parametrize("check", [True, False], ids=["in place", "by a table copy"])
ASSIGNMENTS = "ssh_key_assignments"

OBJECTS: dict[str, list[str]] = {  # what users have put into their files
    "names with quotes": [
        'CREATE TABLE "it\'s" ("a""b" INTEGER PRIMARY KEY, [it\'s] REFERENCES "it\'s")',
        'INSERT INTO "it\'s" VALUES (5, 6)',
        'CREATE INDEX "an ""index""" ON proxy_tokens (scope)',
        'CREATE VIEW "a ""view""" AS SELECT "a""b" FROM "it\'s"',
        'CREATE TRIGGER "it\'s ""one""" AFTER UPDATE OF fingerprint ON ssh_keys'
        ' BEGIN UPDATE "it\'s" SET "it\'s" = 7; END',
    ],
    "names that only Unicode takes for ours": [
        'CREATE TABLE "\u017fsh_keys" (id INTEGER PRIMARY KEY, private_pem BLOB)',
        "INSERT INTO \"\u017fsh_keys\" VALUES (7, 'theirs')",
        'CREATE TABLE "proxy_to\u212aens" (tas\u212a)',
        "INSERT INTO \"proxy_to\u212aens\" VALUES ('theirs')",
        'CREATE VIEW "credential\u017f" AS SELECT tas\u212a FROM "proxy_to\u212aens"',
    ],
    "tables of all kinds": [
        "CREATE TABLE gaps (a INTEGER PRIMARY KEY, b DEFAULT (1 + 1))",
        "INSERT INTO gaps (a) VALUES (-3), (7), (9223372036854775807)",
        "CREATE INDEX gaps_index ON gaps (b DESC) WHERE a > 0",
        "CREATE TABLE rowless (k TEXT, v, PRIMARY KEY (k, v)) WITHOUT ROWID",
        "INSERT INTO rowless VALUES ('k', 1)",
        "CREATE TABLE generated (a INTEGER, b AS (a * 2) VIRTUAL, c AS (a || 'x') STORED)",
        "INSERT INTO generated (a) VALUES (1), (2)",
        "CREATE INDEX generated_index ON generated (b)",
        "CREATE TABLE strict_one (id INTEGER PRIMARY KEY AUTOINCREMENT, v ANY) STRICT",
        "INSERT INTO strict_one VALUES (41, x'00')",
        "DELETE FROM strict_one",
        "CREATE VIRTUAL TABLE words USING fts5 (body)",
        "INSERT INTO words (rowid, body) VALUES (5, 'some text'), (900, 'more text')",
        "CREATE VIRTUAL TABLE boxes USING rtree (id, x0, x1)",
        "INSERT INTO boxes VALUES (7, 0, 1)",
    ],
    "foreign keys, some of which lead nowhere": [
        "CREATE TABLE pointing (id INTEGER PRIMARY KEY,"
        " key INTEGER REFERENCES ssh_keys ON DELETE CASCADE ON UPDATE CASCADE)",
        "INSERT INTO pointing (key) SELECT id FROM ssh_keys",
        "CREATE TABLE dangling (a REFERENCES gone, b REFERENCES ssh_keys (comment))",
        "INSERT INTO dangling VALUES (1, 2)",
        "INSERT INTO ssh_key_assignments (scope, key_id) VALUES ('nowhere', 404)",
    ],
    "indexes and triggers on ours": [
        "CREATE INDEX on_comment ON ssh_keys (lower(comment)) WHERE key_type = 'rsa'",
        "CREATE UNIQUE INDEX on_credentials ON credentials (provider, credential_set)",
        "CREATE TABLE audit (id INTEGER PRIMARY KEY, what)",
        "CREATE TRIGGER copies AFTER UPDATE ON ssh_keys\n BEGIN -- odd\tlayout\n"
        "  INSERT INTO audit (what) VALUES (old.fingerprint); END",
        "CREATE TRIGGER forbids BEFORE UPDATE OF fingerprint ON ssh_keys WHEN old.id IS NOT NULL"
        " BEGIN SELECT RAISE(ABORT, 'a fingerprint never changes'); END",
        "CREATE TRIGGER removals AFTER DELETE ON ssh_key_assignments"
        " BEGIN INSERT INTO audit (what) VALUES (old.scope); END",
        'CREATE TRIGGER never AFTER UPDATE OF gone, "task of" ON ssh_keys BEGIN SELECT 1; END',
        "CREATE TRIGGER talks AFTER INSERT ON proxy_tokens BEGIN SELECT 'no update of task'; END",
        "CREATE TABLE events (begin_at, on_at)",
        "CREATE TRIGGER begin_event AFTER UPDATE OF begin_at, /* BEGIN */ on_at ON events"
        " BEGIN SELECT 1; END",
    ],
    "views and triggers on them": [
        "CREATE VIEW door AS SELECT credential_set, provider FROM credentials",
        "CREATE TRIGGER enters INSTEAD OF INSERT ON door BEGIN"
        " INSERT INTO credentials VALUES (new.credential_set, new.provider, '{}'); END",
    ],
    "statistics": ["ANALYZE"],
}


def of_theirs(vault: Vault) -> list[tuple[Any, ...]]:
    """All objects except our tables, Alembic's, statistics, and what SQLite makes for them."""
    ours = (*TABLES, "alembic_version")
    return [
        row for row in vault.schema() if row[1] not in ours and not row[1].startswith("sqlite_")
    ]


def of_rows(content: dict[str, Any], *, counters: bool = True) -> dict[str, Any]:
    """Without statistics: SQLite drops them with a table. Not everybody restores a counter."""
    lost = {"sqlite_stat1", "sqlite_stat4", *(() if counters else ("sqlite_sequence",))}
    return {table: content[table] for table in content.keys() - lost}


def is_exact(vault: Vault) -> None:
    assert vault.query("PRAGMA integrity_check") == [("ok",)]
    with closing(vault.connect()) as connection:
        found = snapshots.schema_of_file(connection).definitions
    assert found == snapshots.snapshot(2).definitions, "adoption makes a file exactly its snapshot"


def restore(vault: Vault, definition: str, table: str = "ssh_keys") -> None:
    """Give a table another definition, as a restore by hand does."""
    with closing(vault.connect()) as connection:
        connection.execute("PRAGMA legacy_alter_table = ON")
        connection.execute(f"ALTER TABLE {table} RENAME TO before")
        connection.execute(definition)
        if " AS SELECT " not in definition:
            connection.execute(f"INSERT INTO {table} SELECT * FROM before")
        connection.execute("DROP TABLE before")
        connection.commit()


def refused(vault: Vault, error: type[CredentialDBError], *names: str) -> str:
    """What an upgrade says that fails and changes nothing."""
    before = vault.files()
    with pytest.raises(error) as caught:
        upgrade_to_2(vault.path)
    for name in names:
        assert name in str(caught.value), "the message has to name it"
    assert vault.files() == before, "what is refused is left as it was"
    return str(caught.value)


@BOTH_WAYS
@pytest.mark.parametrize("what", [*OBJECTS, "all of that, encrypted"])
def test_what_users_have_made_stays_byte_identical(tmp_path: Path, what: str, check: bool) -> None:
    vault = Vault(tmp_path / "credentials.db", None if what in OBJECTS else PASSPHRASE)
    vault.create(check=check, content=keys(2))
    vault.execute(*OBJECTS.get(what) or (sql for each in OBJECTS.values() for sql in each))
    expected, before = upgraded(vault.content(), 0), of_theirs(vault)
    assert upgrade_to_2(vault.path, **vault.options) == (0, 2)
    assert of_rows(vault.content()) == of_rows(expected)
    assert of_theirs(vault) == before
    is_exact(vault)


@BOTH_WAYS
@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE caf\xe9 (a REFERENCES ssh_keys)",
        "CREATE TABLE coffee (caf\xe9)",
        "CREATE INDEX caf\xe9 ON ssh_keys (comment)",
        "CREATE TRIGGER coffee AFTER UPDATE ON ssh_keys BEGIN SELECT 'caf\xe9'; END",
    ],
)
def test_what_is_not_utf_8_stays_or_is_refused(
    plain_vault: Vault, statement: str, check: bool
) -> None:
    plain_vault.create(content=keys(2), check=check)
    plain_vault.execute(statement.replace("\xe9", "e9e9"))  # sqlite3 does not pass on such bytes
    raw = plain_vault.path.read_bytes()
    plain_vault.path.write_bytes(raw.replace(b"cafe9e9", b"caf\xe9\xe9\xe9\xe9"))
    assert credential_db.status(plain_vault.path).state == "legacy"
    try:
        assert upgrade_to_2(plain_vault.path) == (0, 2)
    except UnrecognizedSchema:
        refused(plain_vault, UnrecognizedSchema, "UTF-8")
    assert b"caf\xe9" in plain_vault.path.read_bytes()


# --- Any file at all ----------------------------------------------------------------------------

TEXT = st.text(max_size=12) | st.sampled_from(["", "\0", "a\0b", "'", '"', "\U0001f511", "42"])
BLOB = st.binary(max_size=12) | st.just(b"\0\xff" * 30_000)
CELL = TEXT | BLOB | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False)
IDS = st.integers(-(2**63), 2**63 - 1) | st.sampled_from([-(2**63), -1, 0, 2**31, 2**63 - 1])
PRAGMAS: dict[str, list[Any]] = {
    "page_size": [512, 1024, 4096, 65536],
    "encoding": ["'UTF-8'", "'UTF-16le'", "'UTF-16be'"],
    "auto_vacuum": [0, 1, 2],
    "application_id": [0, 1, 2**31 - 1, -(2**31)],
    "journal_mode": ["delete", "wal", "truncate", "persist"],
}


ANY_FILE = st.fixed_dictionaries(
    {
        "number": st.integers(0, 2),
        "versions": st.tuples(*[st.integers(0, 2)] * 4),
        "keys": st.lists(st.tuples(IDS, TEXT | BLOB, CELL), max_size=4, unique_by=itemgetter(0)),
        "credentials": st.lists(
            st.tuples(TEXT, BLOB, CELL), max_size=4, unique_by=itemgetter(0, 1)
        ),
        "proxy_tokens": st.lists(st.tuples(TEXT, *[CELL] * 4), max_size=4, unique_by=itemgetter(0)),
        "counter": st.sampled_from([0, 7, 2**40, 2**63 - 1]),
        "pragmas": st.fixed_dictionaries(
            {name: st.sampled_from(PRAGMAS[name]) for name in PRAGMAS}
        ),
    }
)


@settings(deadline=None, max_examples=25, derandomize=True)
@given(file=ANY_FILE)
def test_any_file_keeps_everything(file: dict[str, Any]) -> None:
    number = file["number"]
    versions = dict(zip(TABLES, (max(number, each) for each in file["versions"]), strict=True))
    version = versions["ssh_keys"]
    with tempfile.TemporaryDirectory() as directory:
        vault = Vault(Path(directory) / "credentials.db")
        with closing(vault.connect()) as connection:
            for pragma, value in file["pragmas"].items():
                connection.execute(f"PRAGMA {pragma} = {value}").fetchall()
            for table in TABLES:
                connection.execute(ddl(versions[table])[table])
            for position, (row_id, comment, created_at) in enumerate(file["keys"]):
                key = rsa_key(0) if position == 3 else ed25519_key(position)
                cells = (key.der if version else key.pem, key.public_blob, comment)
                row = (row_id, key.key_type, *cells, key.fingerprint(version), created_at)
                connection.execute("INSERT INTO ssh_keys VALUES (?, ?, ?, ?, ?, ?, ?)", row)
                assigned = (comment, row_id, created_at)
                connection.execute(f"INSERT INTO {ASSIGNMENTS} VALUES (?, ?, ?)", assigned)
            for table in ("credentials", "proxy_tokens"):
                for row in file[table]:
                    marks = ", ".join("?" for _ in row)
                    connection.execute(f"INSERT INTO {table} VALUES ({marks})", row)
            # SQLite itself never lets the counter fall behind the ids.
            highest = max([file["counter"], *(row_id for row_id, *_ in file["keys"])])
            connection.execute("DELETE FROM sqlite_sequence")
            connection.execute("INSERT INTO sqlite_sequence VALUES ('ssh_keys', ?)", (highest,))
            connection.execute(f"PRAGMA user_version = {number}")
            connection.commit()
        expected = upgraded(vault.content(), version)
        before = {name: vault.value(f"PRAGMA {name}") for name in PRAGMAS}
        if version == 0:  # new fingerprints are in the encoding of the file
            for position, found in enumerate(expected["ssh_keys"]):
                fingerprint = found[11].decode().encode(before["encoding"].lower())
                expected["ssh_keys"][position] = (*found[:11], fingerprint, *found[12:])
            expected["ssh_keys"].sort(key=repr)
        assert upgrade_to_2(vault.path) == (number, 2)
        assert vault.content() == expected
        assert {name: vault.value(f"PRAGMA {name}") for name in PRAGMAS} == before
        assert vault.stamps() == ("v2", 2)
        is_exact(vault)


# --- Tables that are not what they should be ----------------------------------------------------

KEY = "id INTEGER PRIMARY KEY AUTOINCREMENT"
UNIQUE = "UNIQUE (fingerprint)"
NO_CHECK = (CHECK, "")
ROWLESS = ("id INTEGER PRIMARY KEY", ("\n)", "\n) WITHOUT ROWID"))
CLAUSES = ("IGNORE", "REPLACE", "ROLLBACK", "FAIL", "ABORT")


def changed(*changes: tuple[str, str]) -> str:
    """The definition of a version 0 ``ssh_keys``, somewhat different."""
    definition = ddl(0)["ssh_keys"]
    for old, new in changes:
        assert old in definition, f"{old} is no more in the DDL: adapt this test"
        definition = definition.replace(old, new)
    return definition


NO_ROWID = {
    "CREATE TABLE AS SELECT": "CREATE TABLE ssh_keys AS SELECT * FROM before",
    "no PRIMARY KEY": changed((KEY, "id INTEGER")),
    "INT PRIMARY KEY": changed((KEY, "id INT PRIMARY KEY")),
    "INTEGER PRIMARY KEY DESC": changed((KEY, "id INTEGER PRIMARY KEY DESC")),
    "PRIMARY KEY without a type": changed((KEY, "id PRIMARY KEY")),
}
IGNORING = {f"ON CONFLICT {x}": changed((UNIQUE, f"{UNIQUE} ON CONFLICT {x}")) for x in CLAUSES}
REPAIRED = {
    **NO_ROWID,
    **IGNORING,
    "upper case": ddl(0)["ssh_keys"].upper().replace("'ED25519','RSA'", "'ed25519','rsa'"),
    "upper case without CHECK": changed(NO_CHECK).upper(),
    "no UNIQUE": changed((f",\n    {UNIQUE}", "")),
    "no types": changed(("comment TEXT", "comment"), ("created_at TEXT", "created_at")),
    "other quotes": changed(("comment", "[comment]"), ("fingerprint", "`fingerprint`")),
}


@pytest.mark.parametrize("definition", REPAIRED)
def test_a_definition_is_repaired_before_rows_are_converted(
    plain_vault: Vault, definition: str
) -> None:
    expected = upgraded(plain_vault.create(content=keys(3)).content(), 0)
    restore(plain_vault, REPAIRED[definition])
    assert credential_db.status(plain_vault.path).state == "legacy"
    assert upgrade_to_2(plain_vault.path) == (0, 2)
    assert of_rows(plain_vault.content(), counters=False) == of_rows(expected, counters=False)
    assert plain_vault.query("PRAGMA foreign_key_check") == []
    is_exact(plain_vault)


TWICE = (
    "INSERT INTO ssh_keys SELECT 7, key_type, private_pem, public_blob, comment, 'x', created_at"
    " FROM ssh_keys WHERE id = 2"
)
NO_ID = {"NULL": "rows 2", "'five'": "rows 2", "2.5": "rows 2", "2": ".id"}
TYPELESS, PEM_OF_8 = ("created_at TEXT", "created_at"), "UPDATE ssh_keys SET private_pem = x'00'"
# A definition, what else is done, the error, and what its message names.
REFUSED: list[tuple[str, str, type[CredentialDBError], list[str]]] = [
    *(
        (NO_ROWID[name], f"UPDATE ssh_keys SET id = {odd} WHERE id = 5", UnrecognizedSchema, [row])
        for name, (odd, row) in product(NO_ROWID, NO_ID.items())
        if (odd != "2" or name.startswith(("CREATE", "no")))
        and (odd != "NULL" or "DESC" not in name)
    ),
    *((IGNORING[name], TWICE, KeyConversionError, ["row 2 ", "row 7 "]) for name in IGNORING),
    # A row without an id does not take that of another.
    (
        NO_ROWID["CREATE TABLE AS SELECT"],
        "UPDATE ssh_keys SET id = CASE id WHEN 2 THEN NULL WHEN 5 THEN 1 ELSE id END",
        *(UnrecognizedSchema, ["rows 1 "]),
    ),
    # A row that has an id of its own is known by it.
    (NO_ROWID["INT PRIMARY KEY"], f"{PEM_OF_8} WHERE id = 8", KeyConversionError, ["row 8 "]),
    # It would become TEXT.
    (changed(TYPELESS), "UPDATE ssh_keys SET created_at = 17", UnrecognizedSchema, ["2, 5, 8"]),
    # A constraint of the user's, on what is converted.
    (
        changed((UNIQUE, f"{UNIQUE}, CHECK (length(fingerprint) = 64)")),
        "",
        CredentialDBError,
        ["5"],
    ),
    (changed((KEY, ROWLESS[0]), ROWLESS[1]), "", UnrecognizedSchema, ["ssh_keys", "WITHOUT"]),
]


@pytest.mark.parametrize(("definition", "statement", "error", "names"), REFUSED)
def test_rows_and_definitions_that_do_not_fit_are_named(
    plain_vault: Vault,
    definition: str,
    statement: str,
    error: type[CredentialDBError],
    names: list[str],
) -> None:
    restore(plain_vault.create(content=keys(3)), definition)
    plain_vault.execute("DROP TABLE ssh_key_assignments", *filter(None, [statement]))
    refused(plain_vault, error, *names)


ADDED = {  # by the user, to one of our tables
    "UNIQUE (comment": (UNIQUE, UNIQUE + ", UNIQUE (comment)"),
    "COLLATE NOCASE": ("comment TEXT", "comment TEXT COLLATE NOCASE"),
    "STRICT": ("\n)", "\n) STRICT"),
    "CHECK (id > 0)": (UNIQUE, UNIQUE + ", CHECK (id > 0)"),
    "FOREIGN KEY to notes": ("comment TEXT", "comment TEXT REFERENCES notes (note)"),
}


@BOTH_WAYS
@pytest.mark.parametrize("line", ADDED)
def test_a_constraint_of_the_user_stays_or_is_named(
    plain_vault: Vault, line: str, check: bool
) -> None:
    plain_vault.create(content=keys(2)).execute(
        "CREATE TABLE notes (note TEXT PRIMARY KEY)",
        "INSERT INTO notes SELECT comment FROM ssh_keys",
    )
    restore(plain_vault, changed(ADDED[line], *() if check else (NO_CHECK,)))
    blockers = api.look(plain_vault.path)[1]
    if check:
        assert not blockers
        upgrade_to_2(plain_vault.path)
        with closing(plain_vault.connect()) as connection:
            lines = read_schema(connection, ["ssh_keys"], ()).definitions["ssh_keys"]
        assert any(line in found for found in lines)
    else:
        error = refused(plain_vault, UnrecognizedSchema, "table ssh_keys", line)
        assert blockers == (error,), "status tells in advance"


COUNTERS = {  # and the next id
    "INSERT INTO sqlite_sequence VALUES ('ssh_keys', 3)": 1001,
    "UPDATE sqlite_sequence SET seq = NULL": 6,
    "UPDATE sqlite_sequence SET seq = 'many'": 6,
    "UPDATE sqlite_sequence SET seq = '1000'": 1001,
    "DELETE FROM sqlite_sequence": 6,
}


@pytest.mark.parametrize("statement", COUNTERS)
def test_the_highest_counter_survives_a_copy(plain_vault: Vault, statement: str) -> None:
    plain_vault.create(content=keys(2), check=False).execute(statement)
    upgrade_to_2(plain_vault.path)
    plain_vault.execute("INSERT INTO ssh_keys VALUES (NULL, 'rsa', x'', x'', '', '', '')")
    assert plain_vault.value("SELECT max(id) FROM ssh_keys") == COUNTERS[statement]
    assert plain_vault.value("SELECT count(*) FROM sqlite_sequence") == 1


FOREIGN_KEYS = {
    "lost": f"CREATE TABLE {ASSIGNMENTS} AS SELECT * FROM before",
    "to a dropped table": ddl(2)[ASSIGNMENTS].replace("REFERENCES ssh_keys", "REFERENCES gone"),
    "and quotes": ddl(2)[ASSIGNMENTS].replace("REFERENCES ssh_keys", 'REFERENCES "it\'s ""old"""'),
}


@pytest.mark.parametrize("version", [0, 2])
@pytest.mark.parametrize("what", FOREIGN_KEYS)
def test_a_foreign_key_is_repaired_if_every_row_satisfies_it(
    plain_vault: Vault, what: str, version: int
) -> None:
    expected = upgraded(plain_vault.create(version, content=keys(2)).content(), version)
    restore(plain_vault, FOREIGN_KEYS[what], ASSIGNMENTS)
    plain_vault.execute(f"INSERT INTO {ASSIGNMENTS} VALUES ('a', 77, 'now'), ('b', 78, 'now')")
    error = refused(plain_vault, UnrecognizedSchema, ASSIGNMENTS, "5, 6")
    assert api.look(plain_vault.path)[1] == (error,), "status tells in advance"
    plain_vault.execute(error[error.index("DELETE FROM") :])
    assert api.look(plain_vault.path)[1] == ()
    assert upgrade_to_2(plain_vault.path) == (version, 2)
    assert plain_vault.content() == expected
    plain_vault.check_integrity()
    is_exact(plain_vault)


# --- What names a column that changes -----------------------------------------------------------


@BOTH_WAYS
def test_what_names_a_renamed_column_keeps_working(plain_vault: Vault, check: bool) -> None:
    plain_vault.create(check=check, content=[ed25519_key(1)]).execute(
        "CREATE TABLE audit (what)",
        "CREATE VIEW labels AS SELECT token, task FROM proxy_tokens",
        "CREATE VIEW sizes AS SELECT id, length(private_pem) > 0 AS held FROM ssh_keys AS k",
        "CREATE INDEX by_task ON proxy_tokens (task COLLATE NOCASE) WHERE task <> ''",
        "CREATE INDEX by_size ON ssh_keys (length(private_pem))",
        "CREATE TRIGGER tokens AFTER UPDATE OF task ON proxy_tokens"
        " BEGIN INSERT INTO audit VALUES (old.task || '>' || new.task); END",
        "CREATE TRIGGER rotation AFTER UPDATE OF private_pem, fingerprint ON ssh_keys"
        " BEGIN INSERT INTO audit VALUES ('rotated ' || (new.private_pem IS old.private_pem)); END",
    )
    views = [f"SELECT * FROM {view}" for view in ("labels", "sizes")]
    before = list(map(plain_vault.query, views))
    upgrade_to_2(plain_vault.path)
    assert plain_vault.query("SELECT * FROM audit") == [], "their triggers are not for the upgrade"
    assert list(map(plain_vault.query, views)) == before
    plain_vault.execute(
        "UPDATE proxy_tokens SET subject = 'new' WHERE token = 'phantom-1'",
        "UPDATE ssh_keys SET private_der = private_der",
    )
    assert plain_vault.query("SELECT what FROM audit") == [("a task>new",), ("rotated 1",)]
    using = "SELECT * FROM proxy_tokens WHERE subject COLLATE NOCASE = 'new' AND subject <> ''"
    assert "by_task" in plain_vault.query(f"EXPLAIN QUERY PLAN {using}")[0][3]


BROKEN = [
    "CREATE VIEW broken AS SELECT gone FROM credentials",
    "CREATE VIEW broken AS SELECT * FROM broken",
    "CREATE TRIGGER broken AFTER INSERT ON mine BEGIN INSERT INTO gone VALUES (1); END",
    "CREATE TRIGGER broken AFTER UPDATE ON ssh_keys WHEN new.gone BEGIN SELECT 1; END",
    # SQLite follows a rename into the view, and not into the trigger's list of columns.
    "CREATE TRIGGER broken INSTEAD OF UPDATE OF task ON mine_too BEGIN SELECT 1; END",
    "CREATE TABLE broken AS SELECT fingerprint FROM ssh_keys",  # see below
]


@pytest.mark.parametrize("version", range(3))
@pytest.mark.parametrize("statement", BROKEN)
def test_what_would_not_work_afterwards_is_named(
    plain_vault: Vault, statement: str, version: int
) -> None:
    plain_vault.create(version, content=keys(2)).execute(
        "CREATE TABLE mine (a)", "CREATE VIEW mine_too AS SELECT * FROM proxy_tokens", statement
    )
    is_table = "TABLE broken" in statement
    if is_table:
        foreign_key = "CREATE TABLE broken (a REFERENCES ssh_keys (fingerprint))"
        restore(plain_vault, foreign_key, "broken")
    if version < (1 if is_table else 2):
        refused(plain_vault, CredentialDBError, "broken")
    else:
        assert upgrade_to_2(plain_vault.path) == (version, 2)


DEPENDANTS = [
    "CREATE VIEW named AS SELECT subject FROM (SELECT * FROM proxy_tokens)",
    "CREATE INDEX named ON proxy_tokens (subject)",
    "CREATE TRIGGER named AFTER INSERT ON proxy_tokens BEGIN SELECT new.subject; END",
    "CREATE TRIGGER named AFTER UPDATE OF subject ON proxy_tokens BEGIN SELECT 1; END",
    "CREATE TRIGGER named AFTER INSERT ON mine BEGIN SELECT subject FROM proxy_tokens; END",
]


@pytest.mark.parametrize("statement", DEPENDANTS)
def test_what_needs_a_dropped_column_or_table_is_named(plain_vault: Vault, statement: str) -> None:
    plain_vault.create(2).execute("CREATE TABLE mine (a)", statement)
    before = plain_vault.files()
    with pytest.raises(UnrecognizedSchema, match="named"):
        api.change(plain_vault.path, command="downgrade", to="base")
    assert plain_vault.files() == before
    definition = ddl(2)["proxy_tokens"].replace("    subject TEXT NOT NULL,\n", "")
    with closing(plain_vault.connect()) as connection:
        connection.isolation_level = None
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("CREATE VIEW a_broken_one AS SELECT * FROM gone")  # hides nothing

        def look() -> preservation.Preserved:
            schema = read_schema(connection, TABLES, ())
            return preservation.preserved(connection, schema, TABLES, ())

        def drop_the_column() -> None:
            found = look()
            table_copy.copy_table(connection, "proxy_tokens", definition)
            preservation.check(found, look(), snapshots={})

        with pytest.raises(UnrecognizedSchema, match="named"):
            drop_the_column()


def test_a_table_of_the_next_version_may_have_any_name(tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    table = (
        """Table("it's", metadata, Column('a"b', Integer, primary_key=True), Column("c'", Text))"""
    )
    project.schema.write_text(f"{project.schema.read_text()}\nodd = {table}\n")
    project.generate()
    vault = Vault(tmp_path / "credentials.db").create(content=keys(1))
    start = ("start", {"file": vault.path})

    def shell(*words: str) -> None:
        (said,) = project.run(("shell", {"arguments": [*words, str(vault.path)]}))
        assert "FAILED" not in said, said

    shell("upgrade")
    assert project.run(start) == ["already at version 3"]
    vault.execute("""INSERT INTO "it's" VALUES (7, 'x')""")
    before = vault.content()
    restore(vault, """CREATE TABLE "it's" ("a""b" INTEGER PRIMARY KEY, "c'")""", '"it\'s"')
    shell("upgrade", "--repair")
    assert vault.query("SELECT type FROM pragma_table_info('it''s')") == [("INTEGER",), ("TEXT",)]
    assert vault.content() == before
    vault.execute("""DELETE FROM "it's" """)
    shell("downgrade", "--to", "2")
    assert vault.stamps() == ("v2", 2)
