"""Once an upgrade is committed: nothing says otherwise, and its clean-up comes to an end.

Keys of before the upgrade stand in free space until the file is scrubbed. Whatever comes in the
way of that is a warning, and the next start completes it.
"""

import os
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from sqlalchemy import NullPool, create_engine

import credential_db
from attacks import SignalAt, Watched, another_process, skip_under_coverage, warm
from credential_db import scripts
from credential_db.command_line import main
from test_promise_1_all_or_nothing import on_demand
from test_promise_6_nothing_left_behind import DELETED, KEPT, left_behind, written_carelessly
from test_refused_files import as_an_ordinary_user
from vaults import HEAD, STAMPS, Vault, keys, upgraded

NOT_AGAIN = "the next start has to complete what this one left"


def careless(vault: Vault, journal_mode: str = "delete") -> Vault:
    return written_carelessly(vault, Vault.connect, journal_mode)


def has_remnants(vault: Vault) -> bool:
    """As ``left_behind``, of a few places in each key: that takes its time."""
    pieces = [key.pem[at : at + 20] for key in KEPT + DELETED for at in (60, 150, 230)]
    return any(piece in stored for stored in vault.files().values() for piece in pieces)


def is_scrubbed(vault: Vault) -> None:
    assert not has_remnants(vault), NOT_AGAIN
    assert credential_db.status(vault.path).state == "current"
    assert vault.value("PRAGMA application_id") == 0, "the mark goes once the clean-up is done"
    assert vault.value("PRAGMA freelist_count") == 0


# 8. Whatever fails after the commit is a warning


class FailingAfterwards(Watched):
    """Something fails at one of the statements that follow the COMMIT."""

    error: BaseException
    fragment: str
    failed = 0

    def commit(self) -> None:
        super().commit()
        self.before = self.fail

    def fail(self, sql: str) -> None:
        if self.fragment in sql:
            self.failed += 1
            raise self.error


FAILURES: dict[str, BaseException] = {
    "no memory": MemoryError(),
    "no text": sqlite3.OperationalError("Could not decode to UTF-8 column 'a' with text 'x'"),
    "an error of the disk": sqlite3.OperationalError("disk I/O error"),
    "an alarm": TimeoutError("of the host"),
    "no Unicode": UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("where", ["VACUUM", "wal_checkpoint", "busy_timeout", "sqlite_master"])
def test_a_failure_of_the_scrub_is_a_warning(
    plain_vault: Vault, caplog: pytest.LogCaptureFixture, failure: str, where: str
) -> None:
    plain_vault.create(content=keys(2))
    with closing(sqlite3.connect(plain_vault.path, factory=FailingAfterwards)) as connection:
        connection.error, connection.fragment = FAILURES[failure], where
        assert credential_db.upgrade(connection, timeout=3.0) == (0, HEAD)
        assert connection.failed
    assert plain_vault.stamps() == STAMPS
    assert [record for record in caplog.records if record.levelname == "WARNING"]
    assert "nothing was changed" not in caplog.text
    assert credential_db.upgrade(plain_vault.path) == (HEAD, HEAD)
    is_scrubbed(plain_vault)


def test_an_authorizer_that_forbids_what_comes_after_the_commit_is_a_warning(
    plain_vault: Vault, caplog: pytest.LogCaptureFixture
) -> None:
    careless(plain_vault)
    over = False

    def authorize(action: int, first: str | None, *_: object) -> int:
        nonlocal over
        over = over or (action == sqlite3.SQLITE_TRANSACTION and first == "COMMIT")
        denied = over and action in (sqlite3.SQLITE_PRAGMA, sqlite3.SQLITE_ATTACH)
        return sqlite3.SQLITE_DENY if denied else sqlite3.SQLITE_OK

    with closing(plain_vault.connect()) as connection:
        connection.execute("PRAGMA secure_delete = OFF")
        connection.set_authorizer(authorize)
        assert credential_db.upgrade(connection) == (0, HEAD)
    assert plain_vault.stamps() == STAMPS
    assert "old secrets remain" in caplog.text
    assert "nothing was changed" not in caplog.text
    assert credential_db.upgrade(plain_vault.path) == (HEAD, HEAD)
    is_scrubbed(plain_vault)


class Interrupted(sqlite3.Connection):
    """A real signal in the COMMIT: Python tells of it once that has returned."""

    def commit(self) -> None:
        super().commit()
        signal.raise_signal(signal.SIGINT)


def handler(error: BaseException) -> Callable[..., None]:
    def handle(*_: object) -> None:
        raise error

    return handle


@pytest.mark.parametrize("error", [KeyboardInterrupt(), TimeoutError("of the host")])
def test_an_interrupt_in_the_commit_is_not_said_to_have_undone_it(
    plain_vault: Vault, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    plain_vault.create(content=keys(2))
    backup = Vault(plain_vault.path.parent / "backup.db")
    before = signal.signal(signal.SIGINT, handler(error))
    try:
        with closing(sqlite3.connect(plain_vault.path, factory=Interrupted)) as connection:
            if isinstance(error, Exception):
                assert credential_db.upgrade(connection, backup=backup.path) == (0, HEAD)
                assert "the change was committed" in caplog.text
            else:
                with pytest.raises(KeyboardInterrupt):
                    credential_db.upgrade(connection, backup=backup.path)
    finally:
        signal.signal(signal.SIGINT, before)
    assert plain_vault.stamps() == STAMPS
    assert backup.stamps() == (None, 0), "the only copy of the old version has to stay"
    assert credential_db.upgrade(plain_vault.path) == (HEAD, HEAD)
    is_scrubbed(plain_vault)


class Alarm(Exception):
    """As a host's handler of SIGALRM raises it."""


def by_path(vault: Vault) -> Any:
    return credential_db.upgrade(vault.path)


def by_connection(vault: Vault) -> Any:
    with closing(vault.connect()) as connection:
        return credential_db.upgrade(connection)


def by_engine(vault: Vault) -> Any:
    return credential_db.upgrade(create_engine(f"sqlite:///{vault.path}", poolclass=NullPool))


def by_alembics_command(vault: Vault) -> Any:
    config = scripts.config()
    config.set_main_option("sqlalchemy.url", f"sqlite:///{vault.path}")
    command.upgrade(config, "head")


def by_alembics_stamp(vault: Vault) -> Any:
    config = scripts.config()
    config.set_main_option("sqlalchemy.url", f"sqlite:///{vault.path}")
    command.stamp(config, "v0")


def at_the_command_line(vault: Vault) -> Any:
    main(["-x", f"db={vault.path}", "upgrade", "head"])


def in_one_shot(vault: Vault) -> Any:
    vault.path.write_bytes(b"")
    return credential_db.upgrade(vault.path)


def by_legacy_function(vault: Vault) -> Any:
    with closing(vault.connect()) as connection:
        credential_db.migrate_credential_db_schema(connection)


WAYS: dict[str, tuple[Callable[[Vault], Any], object]] = {
    "by path": (by_path, (0, HEAD)),
    "by connection": (by_connection, (0, HEAD)),
    "by engine": (by_engine, (0, HEAD)),
    "by Alembic's command": (by_alembics_command, None),
    "stamp": (by_alembics_stamp, None),
    "at the command line": (at_the_command_line, None),
    "in one shot": (in_one_shot, (None, HEAD)),
    "by a legacy function": (by_legacy_function, None),
}


@pytest.mark.parametrize(
    "stride", [23, pytest.param(1, marks=[pytest.mark.long, on_demand])], ids=["some", "all"]
)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # in a generator
def test_an_alarm_at_any_line_after_the_commit_is_not_said_to_have_undone_it(
    plain_vault: Vault, way: str, stride: int
) -> None:
    """A file may be closed, and a connection be given back, once the change is committed."""
    skip_under_coverage()
    function, expected = WAYS[way]
    raw = plain_vault.create(content=keys(1)).path.read_bytes()
    function(plain_vault)  # imports what it needs
    for number in count(0, stride):
        plain_vault.path.write_bytes(raw)
        attack = SignalAt(Alarm("of the host"), number, lambda *_: True, after_commit=True)
        outcome = attack.outcome_of(partial(function, plain_vault))
        if not attack.where:
            break
        assert plain_vault.stamps()[0] is not None, "it has to come after the commit"
        assert outcome == expected or isinstance(outcome, Alarm), (
            f"{outcome!r} came of an alarm at {attack.where}: an error says that the file is as it "
            "was, and it is not"
        )
    assert number > stride, "this test has to hit something"
    assert outcome == expected


# 9. A kill between the commit and the end of the clean-up


class KilledAfterwards(Watched):
    """The process is killed at the n-th statement after the COMMIT."""

    number = 0

    def commit(self) -> None:
        super().commit()
        self.before = self.count

    def count(self, _: str) -> None:
        if self.number == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.number -= 1


def upgrade_until(path: Path, number: int) -> None:
    with closing(sqlite3.connect(path, factory=KilledAfterwards)) as connection:
        connection.number = number
        credential_db.upgrade(connection)


@pytest.mark.parametrize("journal_mode", ["delete", "wal"])
def test_a_kill_before_the_end_of_the_scrub_is_made_up_for(
    plain_vault: Vault, journal_mode: str
) -> None:
    careless(plain_vault, journal_mode)
    raw = plain_vault.path.read_bytes()
    remnants = 0
    for number in range(journal_mode == "wal", 30, 2):  # each every other one
        for file in plain_vault.path.parent.glob("credentials.db*"):
            file.unlink()
        plain_vault.path.write_bytes(raw)
        process = warm.Process(target=upgrade_until, args=(plain_vault.path, number))
        process.start()
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        assert plain_vault.value("PRAGMA user_version") == HEAD, "it is killed after the commit"
        if has_remnants(plain_vault):
            remnants += 1
            status = credential_db.status(plain_vault.path)
            assert (status.state, status.version) == ("behind", HEAD)
            assert "old secrets may remain" in status.detail
        assert credential_db.upgrade(plain_vault.path) == (HEAD, HEAD)
        is_scrubbed(plain_vault)
    assert process.exitcode == 0, "this test has to end behind the last statement"
    # A later step may copy the table, and so overwrite what this one leaves.
    assert remnants or HEAD > 2, "this test has to leave something to make up for"


def test_what_a_reader_prevented_is_made_up_for(plain_vault: Vault) -> None:
    careless(plain_vault, "wal")
    with another_process(plain_vault, "BEGIN", "SELECT count(*) FROM ssh_keys"):
        assert credential_db.upgrade(plain_vault.path) == (0, HEAD)
        assert has_remnants(plain_vault), "the reader still sees the old version"
    assert credential_db.upgrade(plain_vault.path) == (HEAD, HEAD)
    is_scrubbed(plain_vault)


@pytest.mark.parametrize("read_only", ["file", "directory"])
def test_who_may_not_write_takes_a_file_that_waits_for_its_scrub_as_it_is(
    plain_vault: Vault, read_only: str
) -> None:
    vault = Vault(plain_vault.path.parent / "directory" / "credentials.db")
    vault.path.parent.mkdir()
    vault.create(content=keys(1))
    credential_db.upgrade(vault.path)
    vault.execute(f"PRAGMA application_id = {int.from_bytes(b'scrb', 'big')}")
    vault.path.chmod(0o400)
    vault.path.parent.chmod(0o500 if read_only == "directory" else 0o700)
    try:
        (outcome, value), _ = as_an_ordinary_user(vault)
    finally:
        vault.path.parent.chmod(0o700)
        vault.path.chmod(0o600)
    assert (outcome, value) == ("ok", [HEAD, HEAD]), "a daemon that only reads has to start"
    with closing(vault.connect()) as connection:
        connection.execute("PRAGMA query_only = ON")
        assert credential_db.upgrade(connection) == (HEAD, HEAD)
    assert credential_db.upgrade(vault.path) == (HEAD, HEAD)
    is_scrubbed(vault)


def test_a_mark_of_the_users_own_stays_and_the_file_is_scrubbed(plain_vault: Vault) -> None:
    careless(plain_vault)
    plain_vault.execute("PRAGMA application_id = 77")
    credential_db.upgrade(plain_vault.path)
    assert plain_vault.value("PRAGMA application_id") == 77
    assert left_behind(plain_vault, KEPT + DELETED) == {}


# 23. What is adopted is scrubbed, whichever software converted it


def test_a_file_that_older_software_converted_is_scrubbed(plain_vault: Vault) -> None:
    careless(plain_vault)
    expected = upgraded(plain_vault.content(), 0)
    # What version 1 did, without a scrub.
    with closing(plain_vault.connect()) as connection:
        connection.execute("PRAGMA secure_delete = OFF")
        for key in KEPT:
            connection.execute(
                "UPDATE ssh_keys SET private_pem = ?, fingerprint = ? WHERE public_blob = ?",
                (key.der, key.fingerprint(1), key.public_blob),
            )
        connection.execute("ALTER TABLE ssh_keys RENAME COLUMN private_pem TO private_der")
        connection.execute("PRAGMA user_version = 1")
        connection.commit()
    assert has_remnants(plain_vault)
    assert credential_db.upgrade(plain_vault.path) == (1, HEAD)
    assert plain_vault.content() == expected
    is_scrubbed(plain_vault)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_file_whose_shape_is_ahead_of_its_number_is_scrubbed(
    plain_vault: Vault, number: int
) -> None:
    careless(plain_vault)
    with closing(plain_vault.connect()) as connection:
        connection.execute("PRAGMA secure_delete = OFF")
        connection.execute("DROP TABLE ssh_keys")
        connection.commit()
    newer = Vault(plain_vault.path.parent / "newer.db").create(2)
    plain_vault.execute(
        *(str(sql) for _, name, _, sql in newer.schema() if name == "ssh_keys"),
        "ALTER TABLE proxy_tokens RENAME COLUMN task TO subject",
        f"PRAGMA user_version = {number}",
    )
    newer.path.unlink()
    assert has_remnants(plain_vault)
    assert credential_db.upgrade(plain_vault.path) == (number, HEAD)
    is_scrubbed(plain_vault)


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize("samples", ["sqlite_stat3", "sqlite_stat4"])
def test_what_analyze_has_kept_of_keys_is_forgotten(
    plain_vault: Vault, samples: str, version: int
) -> None:
    """Some builds of SQLite keep whole cells of indexed columns; this one may not be one."""
    plain_vault.create(version, content=KEPT).execute(
        "PRAGMA writable_schema = ON",
        f"INSERT INTO sqlite_master VALUES ('table', '{samples}', '{samples}', 0,"
        f" 'CREATE TABLE {samples}(tbl,idx,neq,nlt,ndlt,sample)')",
    )
    with closing(plain_vault.connect()) as connection:
        # A page for it: SQLite lets nobody create a table of that name.
        connection.execute("CREATE TABLE twin(tbl,idx,neq,nlt,ndlt,sample)")
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute(
            f"UPDATE sqlite_master SET name = '{samples}', tbl_name = '{samples}',"
            f" sql = replace(sql, 'twin', '{samples}') WHERE name = 'twin'"
        )
        connection.execute(f"DELETE FROM sqlite_master WHERE name = '{samples}' AND rootpage = 0")
        connection.commit()
    with closing(plain_vault.connect()) as connection:
        insert = partial(connection.execute, f"INSERT INTO {samples} VALUES (?,'i','1','0','0',?)")
        insert(("SSH_KEYS", KEPT[0].pem))
        insert(("theirs", b"of another table"))
        connection.commit()
    credential_db.upgrade(plain_vault.path)
    assert plain_vault.query(f"SELECT tbl FROM {samples}") == [("theirs",)]
    assert left_behind(plain_vault, KEPT) == {}
