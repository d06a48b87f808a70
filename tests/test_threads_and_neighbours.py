"""Other threads, other vaults and the host's own Alembic: none of them is in another's way."""

import io
import re
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError

import credential_db
from attacks import Upgrading, Watched, another_process
from credential_db import CredentialDBError, scripts
from vaults import HEAD, STAMPS, TABLES, Vault, keys

# --- A host with migrations of its own ----------------------------------------------------------

ENVIRONMENT = """
import sqlalchemy
from alembic import context

context.config.attributes["meanwhile"]("in env.py")
engine = sqlalchemy.create_engine(context.config.get_main_option("sqlalchemy.url"))
with engine.connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
engine.dispose()
"""
REVISION = """
import sqlalchemy as sa
from alembic import context, op

revision = "{revision}"
down_revision = {before!r}


def upgrade():
    op.create_table("host_{revision}", sa.Column("id", sa.Integer, primary_key=True))
    context.config.attributes["meanwhile"]("in a migration")
    with op.batch_alter_table("host_{revision}") as batch:
        batch.add_column(sa.Column("name", sa.Text))
    op.execute("INSERT INTO host_{revision} (name) VALUES ('x')")


def downgrade():
    op.drop_table("host_{revision}")
"""


class Host:
    """A program whose own database, next to the vault, has migrations too.

    Args:
        path: A directory for it.
    """

    def __init__(self, path: Path) -> None:
        self.database = path / "host.db"
        self.meanwhile: Callable[[str], object] = lambda _: None
        (path / "versions").mkdir(parents=True)
        (path / "env.py").write_text(ENVIRONMENT)
        for revision, before in (("one", None), ("two", "one")):
            text = REVISION.format(revision=revision, before=before)
            (path / "versions" / f"{revision}.py").write_text(text)
        self.config = Config()
        self.config.set_main_option("script_location", str(path).replace("%", "%%"))
        self.config.set_main_option("sqlalchemy.url", f"sqlite:///{self.database}")

        def meanwhile(where: str) -> object:
            return self.meanwhile(where)

        self.config.attributes["meanwhile"] = meanwhile

    def upgrade(self) -> None:
        command.upgrade(self.config, "head")

    def assert_complete(self) -> None:
        host = Vault(self.database)
        assert tables_of(host) == {"alembic_version", "host_one", "host_two"}
        assert host.value("SELECT version_num FROM alembic_version") == "two"
        assert host.query("SELECT name FROM host_one") == [("x",)]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "host")


def tables_of(vault: Vault) -> set[str]:
    return {name for (name,) in vault.query("SELECT name FROM sqlite_master WHERE type = 'table'")}


def config_of(vault: Vault) -> Config:
    config = scripts.config()
    config.set_main_option("sqlalchemy.url", str(vault.path).replace("%", "%%"))
    return config


def through_a_connection(vault: Vault, *calls: Callable[[sqlite3.Connection], object]) -> None:
    with closing(vault.connect()) as connection:
        for call in calls:
            call(connection)


CALLS: dict[str, Callable[[Vault], object]] = {
    "upgrade": lambda vault: credential_db.upgrade(vault.path),
    "upgrade of a connection": lambda vault: through_a_connection(vault, credential_db.upgrade),
    "status first": lambda vault: [
        credential_db.status(vault.path),
        credential_db.upgrade(vault.path),
    ],
    "the legacy entry points": lambda vault: through_a_connection(
        vault, credential_db.ensure_credentials_schema, credential_db.migrate_credential_db_schema
    ),
}


def in_a_thread(call: Callable[..., object], *arguments: object) -> None:
    with ThreadPoolExecutor(1) as thread:
        thread.submit(call, *arguments).result()


def directly(call: Callable[..., object], *arguments: object) -> None:
    call(*arguments)


def assert_complete(vault: Vault) -> None:
    found = credential_db.status(vault.path)
    assert (found.state, vault.stamps()) == ("current", STAMPS)
    assert not [table for table in tables_of(vault) if table.startswith("host")]


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("place", ["in env.py", "in a migration"])
@pytest.mark.parametrize(
    "run", [in_a_thread, lambda call, vault: call(vault)], ids=["beside", "within"]
)
def test_a_vault_in_the_middle_of_a_hosts_migrations(
    plain_vault: Vault, host: Host, name: str, place: str, run: Callable[..., object]
) -> None:
    """In another thread, and called from the host's own env.py or revision."""
    plain_vault.create(content=keys(2))
    calls: list[str] = []

    def meanwhile(where: str) -> None:
        if where == place and not calls:
            calls.append(name)
            run(CALLS[name], plain_vault)

    host.meanwhile = meanwhile
    host.upgrade()
    assert calls
    host.assert_complete()
    assert_complete(plain_vault)


@contextmanager
def host_migrating_at_the_rename(vault: Vault, host: Host) -> Iterator[Watched]:
    """A connection to a new vault of version 0, in the middle of whose upgrade the host has its."""
    ran: list[str] = []
    vault.create(content=keys(2))
    with closing(sqlite3.connect(vault.path, factory=Watched)) as connection:

        def before(statement: str) -> None:
            if "RENAME" in statement and not ran:
                ran.append(statement)
                in_a_thread(host.upgrade)

        connection.before = before
        yield connection
    assert ran, "adapt this test: an upgrade from version 0 renames no column any more"


def test_a_host_migrates_in_the_middle_of_a_vaults_upgrade(plain_vault: Vault, host: Host) -> None:
    with host_migrating_at_the_rename(plain_vault, host) as connection:
        assert credential_db.upgrade(connection) == (0, HEAD)
    host.assert_complete()
    assert_complete(plain_vault)


def test_hosts_and_vaults_in_threads_of_their_own(tmp_path: Path) -> None:
    """Alembic's commands run one at a time here, as its own documentation has it."""
    vaults = [
        Vault(tmp_path / f"{number}.db").create(number % 3, content=keys(2)) for number in range(9)
    ]
    hosts = [Host(tmp_path / f"host {number}") for number in range(3)]

    def migrate() -> None:
        for host in hosts:
            host.upgrade()
            host.assert_complete()

    with ThreadPoolExecutor(3) as threads:
        migrating = threads.submit(migrate)
        calls = [CALLS[name] for name in CALLS]
        for done in [
            threads.submit(calls[number % len(calls)], vault) for number, vault in enumerate(vaults)
        ]:
            done.result()
        migrating.result()
    for vault in vaults:
        assert_complete(vault)


# --- Alembic's own commands, which are not made for threads -------------------------------------


@pytest.mark.parametrize("other", ["a host's", "one of ours", "nobody's any more"])
def test_a_command_never_takes_another_for_itself(
    plain_vault: Vault, host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    """Another thread's command has begun, or ended, just before our env.py runs."""
    plain_vault.create(content=keys(2))
    theirs = Vault(tmp_path / "theirs.db").create(1, content=keys(2))
    configs = {"a host's": host.config, "one of ours": config_of(theirs)}
    run_env = ScriptDirectory.run_env

    def meanwhile(script: ScriptDirectory) -> None:
        config = configs.get(other, host.config)
        environment = EnvironmentContext(config, ScriptDirectory.from_config(config))
        environment.__enter__()
        if other == "nobody's any more":
            environment.__exit__(None, None, None)
        run_env(script)

    before = plain_vault.files(), theirs.files()
    with monkeypatch.context() as patch:
        patch.setattr(ScriptDirectory, "run_env", meanwhile)
        with pytest.raises((CommandError, KeyError)) as caught:
            command.upgrade(config_of(plain_vault), "head")
    # Where Alembic's name is gone already, it stumbles over that itself when it ends.
    error = caught.value.__context__ if isinstance(caught.value, KeyError) else caught.value
    assert re.search(r"another thread .*credential_db\.upgrade", str(error))
    assert (plain_vault.files(), theirs.files()) == before
    assert not host.database.exists()
    command.upgrade(config_of(plain_vault), "head")
    assert_complete(plain_vault)


def test_a_command_goes_on_where_another_thread_takes_alembics_names(
    plain_vault: Vault, host: Host
) -> None:
    with host_migrating_at_the_rename(plain_vault, host) as connection:
        config = scripts.config()
        config.attributes["connection"] = connection
        with pytest.raises(KeyError):  # of Alembic's, which is done by then
            command.upgrade(config, "head")
    host.assert_complete()
    assert_complete(plain_vault)


# --- One vault that is busy ---------------------------------------------------------------------


def test_a_busy_vault_holds_up_nobody_on_another(tmp_path: Path) -> None:
    busy = [Vault(tmp_path / f"busy {number}.db").create(content=keys(2)) for number in range(4)]
    credential_db.upgrade(busy[3].path)
    waiting: dict[str, Callable[[], object]] = {
        "upgrade": lambda: credential_db.upgrade(busy[0].path, timeout=600),
        "command": lambda: command.upgrade(config_of(busy[1]), "head"),
        "legacy": lambda: migrate(busy[2]),
        "status": lambda: credential_db.status(busy[3].path, timeout=600),
    }

    def migrate(vault: Vault) -> None:
        with closing(sqlite3.connect(vault.path, timeout=600)) as connection:
            credential_db.migrate_credential_db_schema(connection)

    with ThreadPoolExecutor(len(waiting)) as threads, ExitStack() as locks:
        for vault in busy:
            locks.enter_context(another_process(vault, "BEGIN EXCLUSIVE"))
        started = {name: threads.submit(call) for name, call in waiting.items()}
        for number, call in enumerate(CALLS.values()):
            vault = Vault(tmp_path / f"{number}.db").create(content=keys(2))
            call(vault)
            assert_complete(vault)
        credential_db.upgrade(tmp_path / "new.db")
        assert not [name for name, future in started.items() if future.done()]
        locks.close()
        for future in started.values():
            future.result()
    assert all(vault.stamps() == STAMPS for vault in busy)


# --- Timeouts -----------------------------------------------------------------------------------


def with_a_command(vault: Vault, timeout: Any) -> None:
    config = config_of(vault)
    config.attributes["timeout"] = timeout
    command.upgrade(config, "head")


@pytest.mark.parametrize("timeout", [0, 0.0, True, 1, 1e300, float("inf"), 2**31, 10**30], ids=repr)
def test_a_number_of_seconds_is_a_timeout(plain_vault: Vault, timeout: Any) -> None:
    plain_vault.create(content=keys(1))
    assert credential_db.status(plain_vault.path, timeout=timeout).version == 0
    assert credential_db.upgrade(plain_vault.path, timeout=timeout, dry_run=True) == (0, HEAD)
    with_a_command(plain_vault, timeout)
    assert credential_db.upgrade(plain_vault.path, timeout=timeout) == (HEAD, HEAD)


@pytest.mark.parametrize(
    "timeout", [-1, -0.5, float("nan"), float("-inf"), None, [], "soon", "", 1j], ids=repr
)
@pytest.mark.parametrize("state", ["old", "current", "missing"])
def test_anything_else_is_refused(plain_vault: Vault, timeout: Any, state: str) -> None:
    if state != "missing":
        plain_vault.create(content=keys(1))
    if state == "current":
        credential_db.upgrade(plain_vault.path)
    calls: list[Callable[[], object]] = [
        lambda: credential_db.upgrade(plain_vault.path, timeout=timeout),
        lambda: credential_db.status(plain_vault.path, timeout=timeout),
        lambda: with_a_command(plain_vault, timeout),
    ]
    before = plain_vault.files()
    for call in calls:
        with pytest.raises(CredentialDBError, match=r"timeout.*number"):
            call()
    assert plain_vault.files() == before


LEGACY: dict[str, Callable[[sqlite3.Connection], object]] = {
    "ensure": credential_db.ensure_credentials_schema,
    "migrate": credential_db.migrate_credential_db_schema,
}


@pytest.mark.parametrize("name", LEGACY)
def test_the_legacy_entry_points_wait_as_the_connection_does(plain_vault: Vault, name: str) -> None:
    plain_vault.create(content=keys(1), tables=["credentials", "proxy_tokens"])
    statements = [("BEGIN EXCLUSIVE", 0), ("BEGIN IMMEDIATE", 0.1)]
    for statement, timeout in statements:
        with (
            another_process(plain_vault, statement),
            closing(sqlite3.connect(plain_vault.path, timeout=timeout)) as connection,
            pytest.raises(sqlite3.OperationalError) as busy,
        ):
            LEGACY[name](connection)
        assert isinstance(busy.value, credential_db.DatabaseBusy)
        assert str(plain_vault.path) in str(busy.value)
    with (
        closing(sqlite3.connect(plain_vault.path, check_same_thread=False)) as writer,
        closing(sqlite3.connect(plain_vault.path, timeout=60)) as connection,
    ):
        writer.execute("BEGIN EXCLUSIVE")
        release = threading.Timer(0.3, writer.rollback)
        release.start()
        LEGACY[name](connection)
        release.join()
        assert connection.execute("PRAGMA busy_timeout").fetchone() == (60000,)


def test_the_legacy_entry_points_raise_what_hosts_catch(plain_vault: Vault) -> None:
    plain_vault.execute("PRAGMA user_version = 1")
    with closing(plain_vault.connect()) as connection, pytest.raises(sqlite3.Error):
        credential_db.migrate_credential_db_schema(connection)
    plain_vault.path.write_bytes(b"\xff" * 4096)
    for call in LEGACY.values():
        with closing(plain_vault.connect()) as connection, pytest.raises(sqlite3.DatabaseError):
            call(connection)


# --- Looking while others upgrade ---------------------------------------------------------------


@pytest.mark.parametrize("journal_mode", ["delete", "wal"])
@pytest.mark.parametrize("start", ["legacy", "stamped"])
def test_whoever_looks_meanwhile_is_told_the_old_or_the_new(
    vault: Vault, journal_mode: str, start: str
) -> None:
    vault.create(1, content=keys(100), journal_mode=journal_mode)
    config = config_of(vault)
    config.attributes["passphrase"] = vault.passphrase
    if start == "stamped":
        command.upgrade(config, "head")
        command.downgrade(config, "v1")
    old = credential_db.status(vault.path, **vault.options)
    config.stdout = io.StringIO()
    seen = []
    process = Upgrading(vault)
    process.go()
    while process.process.is_alive():
        seen.append(credential_db.status(vault.path, **vault.options))
        command.current(config)
    assert process.outcome() == (1, HEAD)
    seen.append(credential_db.status(vault.path, **vault.options))
    turn = next(index for index, found in enumerate(seen) if found != old)
    for found in seen[turn:]:
        # The new version is there before what the old one left behind is gone.
        assert found.version == HEAD, found
        assert found.state == "current" or "old secrets" in found.detail, found
    assert seen[-1].state == "current"
    assert set(config.stdout.getvalue().splitlines()) <= {"v1", f"v{HEAD} (head)"}


@pytest.mark.parametrize("start", ["legacy", "stamped"])
def test_an_upgrade_between_any_two_statements_of_status(plain_vault: Vault, start: str) -> None:
    plain_vault.create(1, content=keys(1), journal_mode="wal")
    if start == "stamped":
        credential_db.upgrade(plain_vault.path)
        command.downgrade(config_of(plain_vault), "v1")
    with closing(sqlite3.connect(plain_vault.path, factory=Watched)) as connection:
        old, number, reached = credential_db.status(connection), 0, True
        while reached:
            number, seen, reached = number + 1, 0, False

            def upgrade_first(_: str, at: int = number) -> None:
                nonlocal seen, reached
                seen += 1
                if seen == at:
                    reached = True
                    credential_db.upgrade(plain_vault.path)

            connection.before = upgrade_first
            found = credential_db.status(connection)
            connection.before = Watched.before
            assert found[:2] in (old[:2], ("current", HEAD)) or "old secrets" in found.detail, found
            if reached:
                command.downgrade(config_of(plain_vault), "v1")
                if start == "legacy":
                    plain_vault.execute("DROP TABLE alembic_version")
    assert number > 3, "it has to come between the statements"


# --- Where nothing can be opened ----------------------------------------------------------------

# The limit is a process's own, and what has been imported once is not opened again.
CROWDED = """
import os, resource, sqlite3, sys
import credential_db

entry, path, spare = sys.argv[1], sys.argv[2], int(sys.argv[3])
connection = sqlite3.connect(path)
connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
call = {
    "upgrade": lambda: credential_db.upgrade(path),
    "status": lambda: credential_db.status(path),
    "upgrade of a connection": lambda: credential_db.upgrade(connection),
    "ensure": lambda: credential_db.ensure_credentials_schema(connection),
    "migrate": lambda: credential_db.migrate_credential_db_schema(connection),
}[entry]
highest = max(os.dup(0) for _ in range(20))
resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1 + spare,) * 2)
try:
    call()
except credential_db.CredentialDBError as error:
    print(error)
"""


@pytest.mark.parametrize(
    "entry", ["upgrade", "status", "upgrade of a connection", "ensure", "migrate"]
)
@pytest.mark.parametrize("tables", ["all", "some"])
def test_too_many_open_files_are_an_error_like_any_other(
    plain_vault: Vault, entry: str, tables: str
) -> None:
    plain_vault.create(content=keys(1), tables=["credentials"] if tables == "some" else TABLES)
    before = plain_vault.content()
    for spare in range(4):
        ended = subprocess.run(
            [sys.executable, "-c", CROWDED, entry, plain_vault.path, str(spare)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, f"with {spare} files to spare:\n{ended.stderr}"
        assert "None" not in ended.stdout
        if ended.stdout:
            assert plain_vault.content() == before
            assert "/" in ended.stdout, "name the file"
        elif entry != "status":
            break
    credential_db.upgrade(plain_vault.path)
    assert_complete(plain_vault)


PATHS: dict[str, Callable[[Path], Path | str]] = {
    "a file for a directory": lambda here: here / "file" / "credentials.db",
    "a file high up": lambda here: here / "file" / "deeper" / "credentials.db",
    "a link to itself": lambda here: here / "loop",
    "a directory that is one": lambda here: here / "loop" / "credentials.db",
    "a long name": lambda here: here / ("n" * 300),
    "a directory of a long name": lambda here: here / ("n" * 300) / "credentials.db",
    "a long path": lambda here: str(here) + "/n" * 5000,
    "a name without room for a journal's": lambda here: here / ("n" * 250),
    "a directory": lambda here: here,
}


@pytest.mark.parametrize("name", PATHS)
def test_a_path_that_leads_nowhere(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_bytes(b"x" * 100)
    (tmp_path / "loop").symlink_to("loop")
    path = PATHS[name](tmp_path)
    before = sorted(tmp_path.iterdir())

    def with_a_command() -> None:
        config = scripts.config()
        config.attributes["connection"] = path
        command.upgrade(config, "head")

    calls: list[Callable[[], object]] = [lambda: credential_db.upgrade(path), with_a_command]
    if "journal" not in name:
        calls.append(lambda: credential_db.status(path))
    for call in calls:
        with pytest.raises(CredentialDBError) as caught:
            call()
        assert str(path) in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before
