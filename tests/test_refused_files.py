"""What cannot be upgraded is refused: nothing changes, and the error says what was found."""

import ctypes
import os
import signal
import sqlite3
import struct
from collections.abc import Callable
from contextlib import closing
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import pytest
from alembic import command

import credential_db
from attacks import warm
from credential_db import scripts
from vaults import HEAD, STAMPS, TABLES, Vault, at_head, ed25519_key, keys

STAMP = "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"
V0, V1, V2 = (dict.fromkeys(TABLES, version) for version in range(3))

# A file: the shape of each table, PRAGMA user_version, what else is done to it; then the state
# that status() gives it, and words of what was found and of what was expected.
UNRECOGNIZED: dict[str, tuple[dict[str, int], int, tuple[str, ...], tuple[str, ...]]] = {
    "v0 tables at number 1": (V0, 1, (), ("version 1", "private_pem", "private_der")),
    "v0 tables at number 2": (
        V0,
        2,
        (),
        ("version 2", "private_pem", "private_der", "of version 0", "'PRAGMA user_version = 0'"),
    ),
    "v1 tables at number 2": (
        V1,
        2,
        (),
        ("version 2", "task", "subject", "the shape of version 1", "'PRAGMA user_version = 1'"),
    ),
    "v2 keys beside v1 tokens at number 2": (
        {**V2, "proxy_tokens": 1},
        2,
        (),
        ("version 2", "task", "subject"),
    ),
    "number 1 without any table": ({}, 1, (), ("version 1", "none of the tables", "credentials")),
    "number 2 without any table of ours": (
        {},
        2,
        ("CREATE TABLE theirs (a)",),
        ("version 2", "none of the tables", "ssh_keys"),
    ),
    "negative number": (V0, -1, (), ("-1", f"0 to {HEAD}")),
    "a column that no version had": (
        V0,
        0,
        ("ALTER TABLE credentials ADD COLUMN extra TEXT",),
        ("credentials", "extra", "credential_set", "which no version had"),
    ),
    "a generated column that no version had": (
        V2,
        2,
        ("ALTER TABLE proxy_tokens ADD COLUMN extra AS (scope || 'x')",),
        ("proxy_tokens", "extra", "subject"),
    ),
    "a column that is gone": (
        V1,
        1,
        ("ALTER TABLE proxy_tokens DROP COLUMN scope",),
        ("proxy_tokens", "no scope", "which no version had"),
    ),
    "both the old and the new key column": (
        V0,
        0,
        ("ALTER TABLE ssh_keys ADD COLUMN private_der BLOB",),
        ("ssh_keys", "private_der", "private_pem"),
    ),
    "both the old and the new token column": (
        V1,
        1,
        ("ALTER TABLE proxy_tokens ADD COLUMN subject TEXT",),
        ("proxy_tokens", "subject", "task"),
    ),
    "a stamp that the shape contradicts": (
        V0,
        2,
        (STAMP, "INSERT INTO alembic_version VALUES ('v2')"),
        ("v2", "private_pem", "private_der", "the shape of version 0", "stamp --purge v0'"),
    ),
    "a stamp that the shape of the keys alone contradicts": (
        {**V2, "ssh_keys": 0},
        2,
        (STAMP, "INSERT INTO alembic_version VALUES ('v2')"),
        ("v2", "private_pem", "private_der"),
    ),
    "a stamp that the shape of the tokens alone contradicts": (
        {**V2, "proxy_tokens": 1},
        2,
        (STAMP, "INSERT INTO alembic_version VALUES ('v2')"),
        ("v2", "task", "subject", "the shape of version 1", "stamp --purge v1'"),
    ),
    "a stamp behind the number, and tables of neither": (
        V1,
        2,
        (STAMP, "INSERT INTO alembic_version VALUES ('v0')"),
        ("v0", "user_version", "2"),
    ),
    "a stamp ahead of the number, and the tables": (
        V1,
        0,
        (STAMP, "INSERT INTO alembic_version VALUES ('v2')"),
        ("v2", "user_version", "0"),
    ),
    "a stamp without any table": (
        {},
        0,
        (STAMP, "INSERT INTO alembic_version VALUES ('v0')"),
        ("v0", "none of the tables"),
    ),
    "an empty stamp": (V2, 2, (STAMP,), ("alembic_version", "no rows", "exactly one")),
    "an empty stamp and nothing else": ({}, 0, (STAMP,), ("alembic_version", "no rows")),
    "two stamps": (
        V1,
        1,
        (STAMP, "INSERT INTO alembic_version VALUES ('v1'), ('v2')"),
        ("alembic_version", "2 rows", "exactly one"),
    ),
    "somebody else's revision": (
        V1,
        1,
        (STAMP, "INSERT INTO alembic_version VALUES ('ae1027a6acf')"),
        ("ae1027a6acf", "'v2'"),
    ),
    "a revision that only looks like ours": (
        V1,
        1,
        (STAMP, "INSERT INTO alembic_version VALUES ('v01')"),
        ("v01", "'v2'"),
    ),
    "a stamp that is no text": (
        V1,
        1,
        (STAMP, "INSERT INTO alembic_version VALUES (CAST('v1' AS BLOB))"),
        ("alembic_version", "'v2'", "stamp --purge"),
    ),
    "a table alembic_version that is not Alembic's": (
        V1,
        1,
        ("CREATE TABLE alembic_version (name)",),
        ("alembic_version", "version_num"),
    ),
    "a view in the place of the stamp": (
        V1,
        1,
        ("CREATE VIEW alembic_version AS SELECT 'v1' AS version_num",),
        ("alembic_version", "view", "table"),
    ),
    "a view in the place of a table": (
        {table: 2 for table in TABLES if table != "proxy_tokens"},
        2,
        (
            "CREATE VIEW proxy_tokens AS SELECT '' AS token, '' AS scope, '' AS subject,"
            " credential_set, provider FROM credentials",
        ),
        ("proxy_tokens", "view", "table"),
    ),
    "a virtual table in the place of a table": (
        {},
        0,
        ("CREATE VIRTUAL TABLE credentials USING fts5(body)",),
        ("credentials", "body", "credential_set"),
    ),
    "somebody else's table of one of our names": (
        {},
        0,
        ("CREATE TABLE credentials (id INTEGER PRIMARY KEY, secret)",),
        ("credentials", "secret", "credential_set"),
    ),
}
FROM_THE_FUTURE = (f"version {HEAD + 1}", f"version {HEAD}", "upgrade credential-db")
TOO_NEW: dict[str, tuple[dict[str, int], int, tuple[str, ...], tuple[str, ...]]] = {
    "by its number": (V2, HEAD + 1, (), FROM_THE_FUTURE),
    "by its number, of other tables": ({}, 999, ("CREATE TABLE t (a)",), ("version 999",)),
    "by its stamp": (
        V2,
        HEAD,
        (STAMP, f"INSERT INTO alembic_version VALUES ('v{HEAD + 1}')"),
        FROM_THE_FUTURE,
    ),
    "by both": (V2, 77, (STAMP, "INSERT INTO alembic_version VALUES ('v77')"), ("version 77",)),
}


def snapshot(vault: Vault) -> dict[str, Any]:
    """Everything in the directory, with its bytes and modification time."""
    return {
        str(file.relative_to(vault.path.parent)): (
            file.read_bytes() if file.is_file() and os.access(file, os.R_OK) else None,
            file.lstat().st_mtime_ns,
        )
        for file in sorted(vault.path.parent.rglob("*"))
    }


def every_way_in(vault: Vault) -> dict[str, Callable[[], object]]:
    def through_a_connection() -> None:
        with closing(vault.connect()) as connection:
            credential_db.upgrade(connection)

    def dry() -> None:
        credential_db.upgrade(vault.path, dry_run=True, **vault.options)

    def with_a_backup() -> None:
        backup = vault.path.with_suffix(".backup")
        credential_db.upgrade(vault.path, backup=backup, **vault.options)

    return {
        "by path": lambda: credential_db.upgrade(vault.path, **vault.options),
        "by connection": through_a_connection,
        "dry": dry,
        "with a backup": with_a_backup,
    }


def check_refusal(
    vault: Vault,
    error: type[credential_db.CredentialDBError],
    state: str,
    words: tuple[str, ...],
    *ways: str,
) -> None:
    before = snapshot(vault)
    for way, upgrade in every_way_in(vault).items():
        if ways and way not in ways:
            continue
        with pytest.raises(error) as caught:
            upgrade()
        assert type(caught.value) is error
        for word in words:
            assert word in str(caught.value), "say what was found, what was expected, what to do"
        assert snapshot(vault) == before, f"a refusal ({way}) must leave everything as it was"
    found = credential_db.status(vault.path, **vault.options)
    assert found.state == state
    assert all(word in found.detail for word in words)
    assert found.head == HEAD
    assert snapshot(vault) == before, "status() never writes"


@pytest.mark.parametrize("what", UNRECOGNIZED)
def test_an_unrecognized_file_is_refused(plain_vault: Vault, what: str) -> None:
    shapes, number, statements, words = UNRECOGNIZED[what]
    plain_vault.create(tables=shapes, number=number)
    plain_vault.execute(*statements)
    check_refusal(plain_vault, credential_db.UnrecognizedSchema, "unrecognized", words, "by path")


@pytest.mark.parametrize("journal_mode", ["delete", "wal"])
@pytest.mark.parametrize("what", ["v0 tables at number 2", "a stamp that the shape contradicts"])
def test_an_unrecognized_file_is_refused_in_every_way(
    plain_vault: Vault, what: str, journal_mode: str
) -> None:
    shapes, number, statements, words = UNRECOGNIZED[what]
    plain_vault.create(tables=shapes, number=number, journal_mode=journal_mode)
    plain_vault.execute(*statements)
    check_refusal(plain_vault, credential_db.UnrecognizedSchema, "unrecognized", words)


@pytest.mark.parametrize("what", TOO_NEW)
def test_a_file_from_the_future_is_refused(plain_vault: Vault, what: str) -> None:
    shapes, number, statements, words = TOO_NEW[what]
    plain_vault.create(tables=shapes, number=number)
    plain_vault.execute(*statements)
    check_refusal(plain_vault, credential_db.SchemaTooNew, "ahead", words)


@pytest.mark.parametrize("version", range(3))
def test_purging_a_stamp_goes_by_the_tables_alone(plain_vault: Vault, version: int) -> None:
    plain_vault.create(version, number=0, content=keys(1))
    plain_vault.execute(STAMP, "INSERT INTO alembic_version VALUES ('of another project')")
    config = scripts.config()
    config.set_main_option("sqlalchemy.url", f"sqlite:///{plain_vault.path}")
    for other in range(version + 1, 3):
        with pytest.raises(credential_db.UnrecognizedSchema, match=r"no private_der|no subject"):
            command.stamp(config, f"v{other}", purge=True)
    command.stamp(config, f"v{version}", purge=True)
    assert plain_vault.stamps() == (f"v{version}", version)
    assert credential_db.upgrade(plain_vault.path) == (version, HEAD)


def test_purging_a_stamp_says_what_is_wrong_with_the_tables(plain_vault: Vault) -> None:
    credential_db.upgrade(plain_vault.path)
    table = at_head("{ssh_keys}")
    plain_vault.execute(f"ALTER TABLE {table} ADD COLUMN extra")
    config = scripts.config()
    config.set_main_option("sqlalchemy.url", f"sqlite:///{plain_vault.path}")
    with pytest.raises(
        credential_db.UnrecognizedSchema,
        match=rf"going by the tables alone, where table {table} .*; found extra besides, which no",
    ):
        command.stamp(config, f"v{HEAD}", purge=True)


@pytest.mark.parametrize("what", ["v0 tables at number 2"])
def test_an_unrecognized_encrypted_file_is_refused(vault: Vault, what: str) -> None:
    shapes, number, statements, words = UNRECOGNIZED[what]
    vault.create(tables=shapes, number=number)
    vault.execute(*statements)
    check_refusal(vault, credential_db.UnrecognizedSchema, "unrecognized", words, "by path")


def test_a_bad_key_leaves_everything_as_it_was(plain_vault: Vault) -> None:
    plain_vault.create(content=keys(3))
    plain_vault.execute("UPDATE ssh_keys SET private_pem = x'' WHERE id = 5")
    before = snapshot(plain_vault)
    for way, upgrade in every_way_in(plain_vault).items():
        with pytest.raises(credential_db.KeyConversionError, match="row 5 holds"):
            upgrade()
        after = snapshot(plain_vault)
        after.pop("credentials.backup", None)  # it was made, and is good
        assert after == before, f"a refusal ({way}) must leave everything as it was"
    assert credential_db.status(plain_vault.path).state == "legacy"


# Not a database at all


def sqlite_file(path: Path) -> bytes:
    Vault(path).create(content=keys(3))
    content = path.read_bytes()
    path.unlink()
    return content


GARBAGE: dict[str, Callable[[bytes], bytes]] = {
    "one byte": lambda whole: whole[:1],
    "half of the first page": lambda whole: whole[:300],
    "text": lambda _: b"This is not a database. " * 400,
    "zeros": lambda whole: bytes(len(whole)),
    "random bytes": lambda _: bytes((n * 167 + n // 256) % 256 for n in range(9999)),
    "a database without its first byte": lambda whole: whole[1:],
    "a database whose header is damaged": lambda whole: whole[:16] + b"\xff" * 84 + whole[100:],
    "a database cut off in its tables": lambda whole: whole[:8192],
    "a database whose schema is damaged": lambda whole: whole[:100] + b"\xff" * 3000 + whole[3100:],
}


@pytest.mark.parametrize("what", GARBAGE)
def test_garbage_is_no_database(plain_vault: Vault, what: str) -> None:
    whole = sqlite_file(plain_vault.path)
    plain_vault.path.write_bytes(GARBAGE[what](whole))
    before = snapshot(plain_vault)
    for attempt in (credential_db.upgrade, credential_db.status):
        with pytest.raises(credential_db.NotADatabase, match="credentials") as caught:
            attempt(plain_vault.path)
        assert snapshot(plain_vault) == before, "what is no database must be left alone"
        assert "not a SQLite database" in str(caught.value) or "damaged" in str(caught.value)


@pytest.mark.parametrize("given", ["none", "wrong", "for a plain file"])
def test_a_passphrase_that_does_not_fit_is_refused(tmp_path: Path, given: str) -> None:
    right = None if given == "for a plain file" else "right"
    vault = Vault(tmp_path / "credentials.db", right).create(content=keys(1))
    before = snapshot(vault)
    for attempt in (credential_db.upgrade, credential_db.status):
        with pytest.raises(credential_db.NotADatabase, match="passphrase"):
            attempt(vault.path, passphrase=None if given == "none" else "wrong")
        assert snapshot(vault) == before


def test_a_file_of_no_bytes_is_empty_and_can_be_upgraded(plain_vault: Vault) -> None:
    plain_vault.path.touch(0o600)
    before = snapshot(plain_vault)
    assert credential_db.status(plain_vault.path) == ("empty", None, HEAD, "no schema yet")
    assert snapshot(plain_vault) == before
    assert credential_db.upgrade(plain_vault.path) == (None, HEAD)
    assert plain_vault.stamps() == STAMPS


@pytest.mark.parametrize("directory", ["", "not there/"])
def test_status_of_a_missing_file_creates_nothing(plain_vault: Vault, directory: str) -> None:
    path = plain_vault.path.parent / f"{directory}credentials.db"
    assert credential_db.status(path).state == "empty"
    assert list(plain_vault.path.parent.iterdir()) == []


# status() tells the state and writes nothing


def stamped_v1(vault: Vault) -> None:
    vault.create(1)
    vault.execute(STAMP, "INSERT INTO alembic_version VALUES ('v1')")


def upgraded_file(vault: Vault) -> None:
    vault.create(content=keys(1))
    credential_db.upgrade(vault.path, **vault.options)


STATES: dict[str, tuple[Callable[[Vault], object], str, int | None]] = {
    "empty": (lambda vault: vault.create(tables=()), "empty", None),
    "v0": (lambda vault: vault.create(content=keys(1)), "legacy", 0),
    "v1": (lambda vault: vault.create(1, content=keys(1)), "legacy", 1),
    "v2": (lambda vault: vault.create(2, content=keys(1)), "legacy", 2),
    "v1, stamped": (stamped_v1, "behind", 1),
    "current": (upgraded_file, "current", HEAD),
    "ahead": (lambda vault: vault.create(2, number=HEAD + 1), "ahead", HEAD + 1),
    "unrecognized": (lambda vault: vault.create(0, number=2), "unrecognized", None),
}


@pytest.mark.parametrize("what", STATES)
@pytest.mark.parametrize("journal_mode", ["delete", "wal"])
def test_status_tells_the_state_and_writes_nothing(
    plain_vault: Vault, what: str, journal_mode: str
) -> None:
    vault = plain_vault
    write, state, version = STATES[what]
    write(vault)
    vault.execute(f"PRAGMA journal_mode = {journal_mode}")
    before = snapshot(vault)
    found = credential_db.status(vault.path, **vault.options)
    assert (found.state, found.version, found.head) == (state, version, HEAD)
    assert found.detail
    assert "\n" not in found.detail
    assert snapshot(vault) == before, "status() must not write a byte or leave a file behind"


def test_status_leaves_a_left_over_log_where_it_is(vault: Vault, tmp_path: Path) -> None:
    """A writer died: what it committed stands in -wal alone."""
    original = Vault(tmp_path / "original" / "credentials.db", vault.passphrase)
    original.path.parent.mkdir()
    original.create(journal_mode="wal")
    vault = Vault(tmp_path / "copy" / "credentials.db", vault.passphrase)
    vault.path.parent.mkdir()
    with closing(original.connect()) as connection:
        connection.execute(f"PRAGMA user_version = {HEAD + 1}")
        connection.commit()
        for name, content in original.files().items():
            if not name.endswith("-shm"):
                (vault.path.parent / name).write_bytes(content)
    before = {path: was for path, was in snapshot(vault).items() if not path.endswith("-shm")}
    assert set(before) == {"credentials.db", "credentials.db-wal"}
    assert credential_db.status(vault.path, **vault.options).state == "ahead", "the log counts too"
    after = {path: was for path, was in snapshot(vault).items() if not path.endswith("-shm")}
    assert after == before, "status() must not fold the log into the file"


# A file or a directory that cannot be written, for a user who is not all-powerful


def as_an_ordinary_user(vault: Vault) -> Any:
    """What upgrade() and then status() come to."""
    gate, theirs = warm.Pipe()
    process = warm.Process(target=_try_both, args=(theirs, str(vault.path)))
    process.start()
    theirs.close()
    outcomes = gate.recv()
    process.join()
    if outcomes is None:
        pytest.skip("root cannot become an ordinary user here: run the tests as one")
    return outcomes


def _try_both(gate: Pipe, path: str) -> None:
    if not _give_up_the_powers_of_root():
        gate.send(None)
        return
    outcomes: list[tuple[str, object]] = []
    for call in (credential_db.upgrade, credential_db.status):
        try:
            outcomes.append(("ok", list(call(path))))
        except Exception as error:
            outcomes.append((type(error).__name__, str(error)))
    gate.send(outcomes)


def _give_up_the_powers_of_root() -> bool:
    """Root may write to anything. Two capabilities taken away, it is a user like any other."""
    if os.geteuid() != 0:
        return True
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "capset"):
        return False
    header = struct.pack("=Ii", 0x20080522, 0)  # version 3; this process
    powers = ctypes.create_string_buffer(24)  # effective, permitted, inheritable, and once more
    if libc.capget(header, powers) != 0:
        return False
    effective, *others = struct.unpack("=6I", powers.raw)
    effective &= ~(1 << 1 | 1 << 2)  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
    return bool(libc.capset(header, struct.pack("=6I", effective, *others)) == 0)


@pytest.mark.parametrize("journal_mode", ["delete", "wal"])
@pytest.mark.parametrize("read_only", ["file", "directory"])
@pytest.mark.parametrize("version", [0, 2, "current"])
def test_what_cannot_be_written_is_read_if_current_and_refused_if_older(
    plain_vault: Vault, version: int | str, read_only: str, journal_mode: str
) -> None:
    vault = Vault(plain_vault.path.parent / "directory" / "credentials.db")
    vault.path.parent.mkdir()
    vault.create(
        version if isinstance(version, int) else 0, content=keys(2), journal_mode=journal_mode
    )
    if version == "current":
        credential_db.upgrade(vault.path)
    before = snapshot(vault)
    if read_only == "file":
        vault.path.chmod(0o400)
    else:
        vault.path.parent.chmod(0o500)
    try:
        (outcome, value), state = as_an_ordinary_user(vault)
    finally:
        vault.path.parent.chmod(0o700)
        vault.path.chmod(0o600)
    if version == "current":
        assert (outcome, value) == ("ok", [HEAD, HEAD])
        assert state[1][0] == "current"
    else:
        assert outcome == "ReadOnlyDatabase", value
        assert str(vault.path) in value
        assert "run again as a user who may write" in value
        assert state[1][:2] == ["legacy", version]
    if read_only == "directory" or journal_mode == "delete":
        assert snapshot(vault) == before
    else:  # SQLite's own bookkeeping in WAL mode, by somebody who may write beside the file
        assert snapshot(vault)["credentials.db"] == before["credentials.db"]


def _die_in_a_transaction(path: Path) -> None:
    """A file that is half changed stays, and the journal that it is to be taken back by."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA cache_size = 1")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(f"PRAGMA user_version = {HEAD}")
    connection.execute("CREATE TABLE theirs (a)")
    connection.executemany("INSERT INTO theirs VALUES (zeroblob(3000))", [()] * 300)
    os.kill(os.getpid(), signal.SIGKILL)


def _die_with_a_log(path: Path) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute(f"PRAGMA user_version = {HEAD + 1}")
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("journal_mode", ["delete", "wal"])
@pytest.mark.parametrize("read_only", ["file", "directory", "both"])
@pytest.mark.parametrize("version", [0, 1, "current"])
def test_what_waits_to_be_recovered_is_not_taken_for_what_it_seems_to_be(
    plain_vault: Vault, version: int | str, read_only: str, journal_mode: str
) -> None:
    """The half-changed file says that it is current; what the log says is not in the file yet."""
    if (journal_mode, read_only) == ("wal", "file"):
        pytest.skip("SQLite recovers a log into a -shm of its own, and reads")
    vault = Vault(plain_vault.path.parent / "directory" / "credentials.db")
    vault.path.parent.mkdir()
    vault.create(
        version if isinstance(version, int) else 0, content=keys(2), journal_mode=journal_mode
    )
    if version == "current":
        credential_db.upgrade(vault.path)
    stamps = vault.stamps()
    die = _die_in_a_transaction if journal_mode == "delete" else _die_with_a_log
    process = warm.Process(target=die, args=(vault.path,))
    process.start()
    process.join()
    vault.path.with_name("credentials.db-shm").unlink(missing_ok=True)
    files = sorted(vault.path.parent.iterdir())
    assert len(files) == 2, "a file and what is to be done with it"
    if read_only != "directory":
        for file in files:
            file.chmod(0o400)
    if read_only != "file":
        vault.path.parent.chmod(0o500)
    try:
        outcomes = as_an_ordinary_user(vault)
    finally:
        vault.path.parent.chmod(0o700)
        for file in vault.path.parent.iterdir():
            file.chmod(0o600)
    for outcome, text in outcomes:
        assert outcome == "ReadOnlyDatabase", text
        assert "has to be recovered" in text
    assert vault.stamps() == (stamps if journal_mode == "delete" else (stamps[0], HEAD + 1))


def test_a_file_that_cannot_be_read_is_refused(plain_vault: Vault) -> None:
    plain_vault.create(2, content=[ed25519_key(1)])
    plain_vault.path.chmod(0)
    try:
        outcomes = [outcome for outcome, _ in as_an_ordinary_user(plain_vault)]
    finally:
        plain_vault.path.chmod(0o600)
    assert outcomes == ["ReadOnlyDatabase", "ReadOnlyDatabase"]


def test_a_missing_file_in_a_directory_that_cannot_be_written_is_refused(
    plain_vault: Vault,
) -> None:
    vault = Vault(plain_vault.path.parent / "directory" / "credentials.db")
    vault.path.parent.mkdir(0o500)
    try:
        (outcome, value), state = as_an_ordinary_user(vault)
    finally:
        vault.path.parent.chmod(0o700)
    assert outcome in ("ReadOnlyDatabase", "CredentialDBError")
    assert "Permission denied" in value or "may write" in value
    assert state[1][0] == "empty"
    assert list(vault.path.parent.iterdir()) == []
