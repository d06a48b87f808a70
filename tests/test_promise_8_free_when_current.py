"""Promise 8: at process start a current file costs a read, and a new file one transaction.

Whatever is not exactly current is seen. Current encrypted files: test_promise_9_encrypted_files.py.
"""

import logging
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

import credential_db
from credential_db.current import is_current
from credential_db.head import COLUMNS, SCHEMA_VERSION
from faults import SCRUB, Attack, another_process, warm
from vaults import HEAD, STAMPS, Vault, keys, upgrade_to_2

CHANGES = {
    **{f"without {table}": f"DROP TABLE {table}" for table in COLUMNS},
    **{
        f"{table}.{columns[-1]} renamed": f"ALTER TABLE {table} RENAME COLUMN {columns[-1]} TO x"
        for table, columns in COLUMNS.items()
    },
    **{f"{table} with one more column": f"ALTER TABLE {table} ADD COLUMN x" for table in COLUMNS},
    "without a stamp table": "DROP TABLE alembic_version",
    "without a stamp": "DELETE FROM alembic_version",
    "two stamps": "INSERT INTO alembic_version VALUES ('v1')",
    "an older stamp": "UPDATE alembic_version SET version_num = 'v1'",
    "a newer stamp": f"UPDATE alembic_version SET version_num = 'v{SCHEMA_VERSION + 1}'",
    "somebody else's stamp": "UPDATE alembic_version SET version_num = 'ae1027a6acf'",
    "an older number": "PRAGMA user_version = 1",
}


@pytest.mark.parametrize("is_new", [True, False], ids=["own connection", "passed in"])
@pytest.mark.parametrize("change", [None, *CHANGES])
def test_whatever_is_not_current_is_seen(
    plain_vault: Vault, change: str | None, is_new: bool
) -> None:
    credential_db.upgrade(plain_vault.path)
    plain_vault.execute(*(CHANGES[change].split(";") if change else ()))
    with closing(plain_vault.connect()) as connection:
        connection.row_factory = lambda *_: pytest.fail("the application's factory was called")
        assert is_current(connection, is_new=is_new) == (change is None)
        assert not connection.in_transaction


START = """
import sqlite3, sys, credential_db
path = sys.argv[1]
{}
print(*{{"alembic", "sqlalchemy", "cryptography", "threading"}} & {{*sys.modules}})
"""
STARTS = [
    "credential_db.SchemaTooNew, credential_db.KeyConversionError, credential_db.upgrade(path)",
    "credential_db.upgrade('sqlite:///' + path, timeout=0)",
    "c = sqlite3.connect(path); credential_db.upgrade(c); c.close()",
    "c = sqlite3.connect(path); credential_db.ensure_credentials_schema(c);"
    "credential_db.migrate_credential_db_schema(c); c.close()",
]


@pytest.mark.parametrize("exists", [True, False], ids=["current", "missing"])
@pytest.mark.parametrize("code", STARTS)
def test_a_start_imports_no_library(plain_vault: Vault, code: str, exists: bool) -> None:
    if exists:
        credential_db.upgrade(plain_vault.path)
    before = plain_vault.files()
    command = [sys.executable, "-c", START.format(code), str(plain_vault.path)]
    # Coverage imports libraries of its own into each process.
    plain = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=plain)
    assert done.stdout.split() == []
    assert not exists or plain_vault.files() == before
    assert plain_vault.stamps() == STAMPS


@pytest.mark.parametrize("mode", ["delete", "wal"])
@pytest.mark.parametrize("pending", [False, True], ids=["", "scrub pending"])
def test_a_current_file_needs_no_write_lock(
    plain_vault: Vault, mode: str, pending: bool, caplog: pytest.LogCaptureFixture
) -> None:
    credential_db.upgrade(plain_vault.path)
    plain_vault.execute(f"PRAGMA journal_mode = {mode}")
    if pending:
        plain_vault.execute(f"CREATE VIEW {SCRUB} AS SELECT 1 AS note")
    with another_process(plain_vault, "BEGIN IMMEDIATE"), caplog.at_level(logging.WARNING):
        before = plain_vault.files()
        for _ in range(3):
            assert credential_db.upgrade(plain_vault.path, timeout=0) == (HEAD, HEAD)
            with closing(plain_vault.connect()) as connection:
                assert credential_db.upgrade(connection) == (HEAD, HEAD)
        assert plain_vault.files() == before
    assert not caplog.records
    assert credential_db.upgrade(plain_vault.path) == (HEAD, HEAD)
    assert SCRUB not in {name for _, name, *_ in plain_vault.schema()}


def _leave_a_log(path: Path) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute("CREATE TABLE theirs (a)")
    os.kill(os.getpid(), signal.SIGKILL)


def test_the_log_of_a_dead_program_is_lost_by_no_start(plain_vault: Vault) -> None:
    """SQLite's last close may write it into the file."""
    credential_db.upgrade(plain_vault.path)
    plain_vault.execute("PRAGMA journal_mode = wal")
    process = warm.Process(target=_leave_a_log, args=(plain_vault.path,))
    process.start()
    process.join()
    assert credential_db.upgrade(plain_vault.path) == (HEAD, HEAD)
    assert plain_vault.query("SELECT * FROM theirs") == []


@pytest.mark.parametrize("start", ["missing", "empty", "current", "v1"])
def test_statements_are_few(
    plain_vault: Vault, monkeypatch: pytest.MonkeyPatch, start: str
) -> None:
    """The schema is read at once, and not asked for table by table."""
    if start == "empty":
        plain_vault.path.touch()
    elif start == "current":
        credential_db.upgrade(plain_vault.path)
    elif start == "v1":
        plain_vault.create(1, content=keys(2))
    with Attack(monkeypatch) as attack:
        upgrade_to_2(plain_vault.path) if start == "v1" else credential_db.upgrade(plain_vault.path)
    sent = attack.statements
    most = {"missing": 70, "empty": 70, "current": 4, "v1": 140}[start]
    assert len(sent) <= most, f"{len(sent)} statements: {sent}"
    begun = sum(sql.startswith("BEGIN") for sql in sent)
    assert begun == {"current": 0, "v1": 2}.get(start, 1), "one more for the scrub"
    assert plain_vault.stamps() == STAMPS


THREADLESS = """
import _thread
import sys

def refuse(*_, **__):
    raise RuntimeError("can't start new thread")

_thread.start_new_thread = _thread.start_joinable_thread = refuse
import threading
threading._start_new_thread = threading._start_joinable_thread = refuse
import credential_db
print(credential_db.upgrade(sys.argv[1]), credential_db.upgrade(sys.argv[1] + ".new"))
"""


def test_a_limit_on_threads_stops_nothing(plain_vault: Vault) -> None:
    plain_vault.create(content=keys(1))
    command = [sys.executable, "-c", THREADLESS, str(plain_vault.path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert plain_vault.stamps() == Vault(plain_vault.path.with_suffix(".db.new")).stamps() == STAMPS
