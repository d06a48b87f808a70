"""Ways to break an upgrade, and how to tell whether one of them did.

Everything here works with three kinds of target (``KINDS``): a path, for which the code under test
opens its own connection; a connection that is passed in; and an encrypted connection passed to the
two legacy functions, as the real program does.

Processes come from a fork server that has imported everything already: an attack on one of them
hits the upgrade, not the interpreter's start.
"""

import ctypes
import logging
import multiprocessing
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial, partialmethod
from itertools import repeat
from multiprocessing.connection import Connection as Pipe
from multiprocessing.synchronize import Barrier
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pytest
from sqlcipher3 import dbapi2 as sqlcipher

import credential_db
from conftest import PASSPHRASE
from credential_db import CredentialDBError, Upgrade, api
from vaults import STAMPS, Content, Vault, upgraded

warm = multiprocessing.get_context("forkserver")
warm.set_forkserver_preload(
    [
        *("alembic.command", "alembic.autogenerate", "conftest", "logging.config", "pytest"),
        *("credential_db.api", "credential_db.commands", "credential_db.key_conversion"),
        *("credential_db.migration", "credential_db.revisions", "mako.template"),
        *("cryptography.hazmat.primitives.serialization", "sqlalchemy.dialects.sqlite"),
        "sqlcipher3.dbapi2",
    ]
)
on_demand = [
    pytest.mark.long,
    pytest.mark.skipif("'long' not in config.getoption('markexpr')", reason="pytest -m long"),
]


# --- Kinds of targets --------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """How an application upgrades its vault.

    Attributes:
        connect: How it opens the connection that it passes in; None if it passes a path.
        call: What it calls with one of them, and options of ``credential_db.upgrade``.
        encrypted: Whether the vault is.
    """

    connect: Callable[[Vault], Any] | None
    call: Callable[..., Any]
    encrypted: bool = False

    def vault(self, directory: Path) -> Vault:
        """A vault of this kind that is still to be written."""
        return Vault(directory / "credentials.db", PASSPHRASE if self.encrypted else None)

    def __call__(self, vault: Vault, attack: Any = None, **options: Any) -> Any:
        """Upgrade; ``attack`` is entered as late as possible."""
        with ExitStack() as stack:
            target: Any = vault.path
            if self.connect is None:
                options = {**vault.options, **options}
            else:
                target = stack.enter_context(closing(self.connect(vault)))
            if attack is not None:
                stack.enter_context(attack)
            return self.call(target, **options)


def as_the_real_program(vault: Vault) -> Any:
    """Its connection: SQLCipher, foreign keys, WAL, and Python's default isolation level."""
    connection = vault.connect()
    connection.execute("PRAGMA busy_timeout = 30000")
    connection.execute("PRAGMA foreign_keys = ON")
    with suppress(sqlcipher.OperationalError):  # locked: this ignores the busy timeout
        connection.execute("PRAGMA journal_mode = WAL").fetchall()
    return connection


def legacy_functions(connection: Any) -> str:
    credential_db.ensure_credentials_schema(connection)
    credential_db.migrate_credential_db_schema(connection)
    return "done"


def downgrade_to_0(target: Any, **options: Any) -> object:
    return api.change(target, command="downgrade", to="0", **options)


KINDS = {
    "path": Kind(None, credential_db.upgrade),
    "connection": Kind(Vault.connect, credential_db.upgrade),
    "legacy functions": Kind(as_the_real_program, legacy_functions, encrypted=True),
}
BY_PATH = KINDS["path"]
downgrade = Kind(None, downgrade_to_0)

Outcome = Upgrade | CredentialDBError | str | None
"""Of an upgrade in a process: "done" from the legacy functions; None if it was killed."""


# --- What a file is, before and after ----------------------------------------------------------


SCRUB = "credential_db_scrub"  # the view that stands for a pending scrub


class State(NamedTuple):
    """All that an upgrade may change in a file."""

    content: Content
    schema: list[tuple[Any, ...]]
    stamps: tuple[str | None, int]


def state_of(vault: Vault) -> State:
    vault.check_integrity()
    # A table copy may write the constraints in another order.
    schema = [
        (*names, sorted(re.split(r",? *\n\s*", sql or "")))
        for *names, sql in vault.schema()
        if names[1] != SCRUB
    ]
    return State(vault.content(), schema, vault.stamps())


class Victim:
    """A file to attack again and again: every attack begins with the same bytes.

    Args:
        vault: As it is before; it may be missing.
        version: Of the definition of ``ssh_keys`` in it.
        move: What will be attacked; it is run once without, to see what it does.
    """

    def __init__(
        self, vault: Vault, *, version: int = 0, move: Callable[..., object] = BY_PATH
    ) -> None:
        self.vault = vault
        self._move = move
        self._bytes = vault.path.read_bytes() if vault.path.exists() else None
        self.old = state_of(vault)
        self.restore()
        move(vault)
        self.new = state_of(vault)
        self._upgrades = move is not downgrade
        if self._upgrades:
            assert self.new.content == upgraded(self.old.content, version)
            assert self.new.stamps == STAMPS
        assert self.new != self.old
        assert self._equals_new(self.new)
        self.restore()

    def restore(self) -> None:
        """Put the bytes back, and nothing next to them."""
        for file in self.vault.path.parent.glob(self.vault.path.name + "*"):
            file.unlink()
        if self._bytes is not None:
            self.vault.path.write_bytes(self._bytes)

    def is_new(self) -> bool:
        """Whether the attacked file is the new one; it has to be that or the old one.

        This looks at a copy, so that the next start finds what the attack has left.
        """
        with TemporaryDirectory() as directory:
            for file in self.vault.path.parent.glob(self.vault.path.name + "*"):
                shutil.copy(file, directory)
            found = state_of(Vault(Path(directory) / self.vault.path.name, self.vault.passphrase))
        new = self._equals_new(found)
        assert new or found == self.old, f"neither the old nor the new version: {found.stamps}"
        return new

    def _equals_new(self, found: State) -> bool:
        if self._upgrades:
            return found == self.new
        # OpenSSH's format holds a random number: after a downgrade, compare what is in it.
        return found._replace(content={}) == self.new._replace(content={}) and (
            upgraded(found.content, 0) == self.old.content
        )

    def assert_completes(self) -> None:
        """Run it once more, without an attack."""
        self._move(self.vault)
        assert self.is_new(), "running again has to complete"
        assert SCRUB not in {name for _, name, *_ in self.vault.schema()}


def assert_bare(error: BaseException) -> None:
    """It was recreated: it leads to nothing that was in use when it was raised."""
    assert error.__cause__ is error.__context__ is None
    package = os.path.dirname(credential_db.__file__)
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    ours = [frame for frame in frames if frame.f_code.co_filename.startswith(package)]
    assert len(ours) <= 2, [frame.f_code.co_qualname for frame in ours]
    for frame in ours:
        assert not {"passphrase", "connection", "conn", "cell"} & set(frame.f_locals)


# --- Statements that fail ----------------------------------------------------------------------

FAULTS = ("error", "error after", "full", "interrupt", "interrupt after", "error for good")


class Attack:
    """Watches every statement of every connection that either driver opens, and fails one of them.

    It counts while it is entered, as a context manager. A COMMIT is seen however it is given:
    as ``commit()``, as ``execute("COMMIT")``, or as the end of ``with connection``.

    Args:
        monkeypatch: Replaces ``connect`` of both drivers.

    Attributes:
        first: Called with each connection ahead of its first statement.
        before: Called with the text of each statement ahead of it.
        statements, failed, connections: Those seen so far.
        committed: Whether a transaction has been committed.
        in_transaction: Whether any connection was in a transaction at the end.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.first: Callable[[Any], object] = lambda _: None
        self.before: Callable[[str], object] = lambda _: None
        self._armed = False
        self.plan()
        for driver in (sqlite3, sqlcipher):
            connect = partial(driver.connect, factory=_watched(driver, self))
            monkeypatch.setattr(driver, "connect", connect)
        monkeypatch.setattr(sqlite3.dbapi2, "connect", sqlite3.connect)

    def plan(self, number: int = -1, fault: str = "error") -> "Attack":
        """Let the ``number``-th statement, counted from 0, fail in this way."""
        self._number, self.fault = number, fault
        self.statements: list[str] = []
        self.failed: list[str] = []
        self.committed = self.in_transaction = False
        self.connections: list[Any] = []
        return self

    def __enter__(self) -> "Attack":
        self._armed = True
        return self

    def __exit__(self, *_: object) -> None:
        self._armed = False
        self.in_transaction = any(
            connection.in_transaction
            for connection in self.connections
            if not is_closed(connection)
        )

    def around(self, driver: Any, connection: Any, sql: str, execute: Callable[[], Any]) -> Any:
        """Execute a statement, or let it fail."""
        if not self._armed:
            return execute()
        if connection not in self.connections:
            self.connections.append(connection)
            self.first(connection)
        self.before(sql)
        number = len(self.statements)
        self.statements.append(sql)
        for_good = self.fault == "error for good" and number > self._number >= 0
        error = self._error(driver) if for_good or number == self._number else None
        if error is not None:
            self.failed.append(sql)
            if self.fault == "full" and connection.in_transaction:  # SQLite ends it by itself
                driver.Connection.cursor(connection).execute("ROLLBACK")
            if not self.fault.endswith("after"):
                raise error
        had_begun, result = connection.in_transaction, None
        try:
            result = execute()
        except driver.Error:
            if error is None:
                raise
        if had_begun and not connection.in_transaction and sql.upper().startswith(("COM", "END")):
            self.committed = True
        if error is not None:
            if result is not None:  # a cursor, which this frame would keep open
                result.close()
            raise error
        return result

    def _error(self, driver: Any) -> BaseException:
        if self.fault.startswith("interrupt"):
            return KeyboardInterrupt()
        full = self.fault == "full"
        error = driver.OperationalError("database or disk is full" if full else "disk I/O error")
        if driver is sqlite3:
            error.sqlite_errorname = "SQLITE_FULL" if full else "SQLITE_IOERR"
        return error  # type: ignore[no-any-return]


def is_closed(connection: Any) -> bool:
    try:
        return bool(connection.total_changes < 0)
    except (sqlite3.ProgrammingError, sqlcipher.ProgrammingError):
        return True


def _watched(driver: Any, attack: Attack) -> Any:
    """A class of connections that tell an attack of every statement."""

    class Cursor(driver.Cursor):  # type: ignore[misc]
        def _attacked(self, method: str, sql: str, *arguments: Any) -> Any:
            execute = partial(getattr(super(), method), sql, *arguments)
            return attack.around(driver, self.connection, sql, execute)

        execute = partialmethod(_attacked, "execute")
        executemany = partialmethod(_attacked, "executemany")
        executescript = partialmethod(_attacked, "executescript")

    class Connection(driver.Connection):  # type: ignore[misc]
        def cursor(self, *_: Any, **__: Any) -> Any:
            return super().cursor(Cursor)

        def _through_a_cursor(self, method: str, *arguments: Any) -> Any:
            return getattr(self.cursor(), method)(*arguments)

        execute = partialmethod(_through_a_cursor, "execute")
        executemany = partialmethod(_through_a_cursor, "executemany")
        executescript = partialmethod(_through_a_cursor, "executescript")

        def commit(self) -> None:
            if self.in_transaction:  # else it executes nothing
                attack.around(driver, self, "COMMIT", super().commit)

        def rollback(self) -> None:
            if self.in_transaction:
                attack.around(driver, self, "ROLLBACK", super().rollback)

        def __exit__(self, kind: Any, *_: object) -> None:
            return self.commit() if kind is None else self.rollback()

    return Connection


# --- Processes ---------------------------------------------------------------------------------


class Upgrading:
    """A process that upgrades a file as soon as it is told to, and then together with others."""

    def __init__(
        self, vault: Vault, kind: Kind = BY_PATH, *, together: Barrier | None = None, **options: Any
    ) -> None:
        self._gate, theirs = warm.Pipe()
        arguments = (theirs, vault, kind, options, together)
        self.process = warm.Process(target=_upgrade, args=arguments)
        self.process.start()
        theirs.close()
        assert self._gate.recv() == "ready"

    def go(self) -> None:
        self._gate.send("go")

    def kill(self) -> None:
        self.process.kill()

    def outcome(self) -> Outcome:
        """Wait for the end."""
        found: Outcome = None
        with suppress(EOFError, ConnectionResetError):
            found = self._gate.recv()
        self._gate.close()
        self.process.join()
        if found is None:
            assert self.process.exitcode == -signal.SIGKILL, "it failed: see its stderr"
        self.process.close()
        return found


def _upgrade(
    gate: Pipe, vault: Vault, kind: Kind, options: dict[str, Any], together: Barrier | None
) -> None:
    logging.lastResort = None  # warnings of the scrub are not for the terminal
    _let_strace_attach()
    gate.send("ready")
    gate.recv()
    if together is not None:
        together.wait(60)
    found: Outcome
    try:
        found = kind(vault, **options)
    except CredentialDBError as error:
        found = error
    gate.send(found)


def upgrade_together(
    vaults: Sequence[Vault],
    kind: Kind = BY_PATH,
    options: Iterable[Mapping[str, Any]] = repeat({}),
) -> list[Outcome]:
    """The outcomes of as many processes, released at the same time."""
    together = warm.Barrier(len(vaults))
    processes = [
        Upgrading(vault, kind, together=together, **each)
        for vault, each in zip(vaults, options, strict=False)
    ]
    for process in processes:
        process.go()
    return [process.outcome() for process in processes]


@contextmanager
def another_process(vault: Vault, *statements: str) -> Iterator[None]:
    """A process that has executed something and keeps the file open."""
    gate, theirs = warm.Pipe()
    process = warm.Process(target=_hold, args=(theirs, vault, statements))
    process.start()
    theirs.close()
    try:
        assert gate.recv() == "ready"
        yield
    finally:
        gate.close()
        process.join()


def _hold(gate: Pipe, vault: Vault, statements: Sequence[str]) -> None:
    with closing(vault.connect()) as connection:
        connection.isolation_level = None
        for statement in statements:
            connection.execute(statement).fetchall()
        gate.send("ready")
        gate.poll(None)  # until the other end is closed


# --- System calls ------------------------------------------------------------------------------

# What SQLite and this software change files with.
WRITE_SIDE = (
    *("fallocate", "fchmod", "fchown", "fdatasync", "fsync", "ftruncate", "link", "mkdir"),
    *("openat", "pwrite64", "rename", "unlink", "write"),
)


class SystemCall(NamedTuple):
    """The ``number``-th call of that name in a process, counted from 1."""

    name: str
    number: int


def _let_strace_attach() -> None:
    """Linux's Yama lets only ancestors trace a process; this one lets anybody."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):
        set_ptracer, anybody = 0x59616D61, ctypes.c_ulong(-1)
        libc.prctl(set_ptracer, anybody, 0, 0, 0)


needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


def under_strace(process: Upgrading, log: Path, *options: str) -> Outcome:
    """Let a waiting process go while strace does to it what the options say."""
    traced = ["-e", f"trace={','.join(WRITE_SIDE)}", "-p", str(process.process.pid)]
    command = ["strace", "-y", "-o", str(log), *traced, *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
        assert strace.stderr is not None
        greeting = strace.stderr.readline()
        if "attached" not in greeting:
            process.kill()
            process.outcome()
            pytest.skip(f"strace may not attach to a process here: {greeting.strip()}")
        process.go()
        return process.outcome()


def write_side_calls(
    vault: Vault, log: Path, kind: Kind = BY_PATH, *, elsewhere: Path | None = None, **options: Any
) -> list[SystemCall]:
    """Each call of an upgrade that may change something in the directory of the file.

    ``elsewhere`` is another directory that counts; ``log`` is where strace writes to.
    """
    places = (str(vault.path.parent), str(elsewhere or vault.path.parent), "/etilqs_")
    outcome = under_strace(Upgrading(vault, kind, **options), log)
    assert not isinstance(outcome, CredentialDBError | None), outcome
    counts = dict.fromkeys(WRITE_SIDE, 0)
    calls = []
    for line in log.read_text().splitlines():
        name, _, arguments = line.partition("(")
        if name not in counts:
            continue
        counts[name] += 1
        if name == "openat" and "O_CREAT" not in arguments:
            continue
        if any(place in arguments for place in places):
            calls.append(SystemCall(name, counts[name]))
    return calls
