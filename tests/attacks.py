"""Ways to break an upgrade, and how to tell whether one of them did.

Processes come from a fork server that has imported everything already: an attack on one of them
hits the upgrade, not the interpreter's start.
"""

import ctypes
import gc
import logging
import multiprocessing
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from contextvars import copy_context
from itertools import repeat
from multiprocessing.connection import Connection as Pipe
from multiprocessing.synchronize import Barrier
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import pytest

import credential_db
from credential_db import CredentialDBError, Upgrade
from vaults import STAMPS, Vault, upgraded

warm = multiprocessing.get_context("forkserver")
warm.set_forkserver_preload(
    [
        "alembic.command",
        "alembic.autogenerate",
        "cryptography.hazmat.primitives.serialization",
        "credential_db.key_conversion",
        "credential_db.read_only",
        "credential_db.migration",
        "credential_db.scripts",
        "logging.config",
        "mako.template",
        "pytest",
        "sqlalchemy.dialects.sqlite",
        "sqlcipher3.dbapi2",
    ]
)

Outcome = Upgrade | CredentialDBError | None
"""What an upgrade in a process came to; None where the process was killed."""


def skip_under_coverage() -> None:
    """Before a signal handler raises at any moment: in a lock of coverage's, it is never released.

    The gate runs the tests without coverage as well.
    """
    coverage = sys.modules.get("coverage")
    if coverage is not None and coverage.Coverage.current() is not None:
        pytest.skip("a signal would leave a lock of coverage's taken: run it without --cov")


class State(NamedTuple):
    """All that an upgrade may change in a file."""

    content: dict[str, list[tuple[Any, ...]]]
    schema: list[tuple[Any, ...]]
    stamps: tuple[str | None, int]


class _KeptOpen:
    def __init__(self, connection: Any) -> None:
        self.execute = connection.execute

    def close(self) -> None:
        """Leave it open."""


class _ThroughOneConnection(Vault):
    """The same file, opened once: SQLCipher takes its time for that."""

    def __init__(self, vault: Vault, connection: Any) -> None:
        super().__init__(vault.path, vault.passphrase)
        self._connection = connection

    def connect(self) -> Any:
        return _KeptOpen(self._connection)


def state_of(vault: Vault) -> State:
    with closing(vault.connect()) as connection:
        opened = _ThroughOneConnection(vault, connection)
        opened.check_integrity()
        # A table copy writes the constraints in any order.
        schema = [
            (*names, sorted(re.split(r",? *\n\s*", sql or ""))) for *names, sql in opened.schema()
        ]
        return State(opened.content(), schema, opened.stamps())


def plain_upgrade(vault: Vault) -> None:
    credential_db.upgrade(vault.path, **vault.options)


class Victim:
    """A file to attack again and again: every attack begins with the same bytes.

    Args:
        vault: As it is before; it may be missing.
        shape: The version of the shape of ``ssh_keys`` in it.
        move: What is going to be attacked; it is run once without, to see what it does.
    """

    def __init__(
        self,
        vault: Vault,
        *,
        shape: int = 0,
        move: Callable[[Vault], None] = plain_upgrade,
    ) -> None:
        self.vault = vault
        self._move = move
        self._bytes = vault.path.read_bytes() if vault.path.exists() else None
        self.old = state_of(vault)
        self.restore()
        move(vault)
        self.new = state_of(vault)
        if move is plain_upgrade:
            assert self.new.content == upgraded(self.old.content, shape)
            assert self.new.stamps == STAMPS
        assert self._equals_new(self.new)
        self.restore()

    def restore(self) -> None:
        """Put the bytes back, and nothing beside them."""
        for file in self.vault.path.parent.glob(self.vault.path.name + "*"):
            file.unlink()
        if self._bytes is not None:
            self.vault.path.write_bytes(self._bytes)

    def is_new(self) -> bool:
        """Whether the attacked file is the new one; it has to be that or the old one."""
        found = state_of(self.vault)
        new = self._equals_new(found)
        assert new or found == self.old, (
            f"stamps {found.stamps}: this is neither the old version nor the new one, but a "
            "mixture; whatever is done to the file belongs into the one transaction of env.py"
        )
        return new

    def _equals_new(self, found: State) -> bool:
        if self._move is plain_upgrade:
            return found == self.new
        # OpenSSH's format holds a random number: after a downgrade, compare what is in it.
        return found._replace(content={}) == self.new._replace(content={}) and (
            upgraded(found.content, 0) == self.old.content
        )

    def assert_completes(self) -> None:
        """Run it once more, without an attack."""
        self._move(self.vault)
        assert self.is_new(), "running again has to complete"


class Watched(sqlite3.Connection):
    """A connection that calls ``before`` ahead of every statement, and may fail there.

    Attributes:
        before: Called with the statement.
        committed: Whether there was a COMMIT that succeeded.
    """

    before: Callable[[str], None] = staticmethod(lambda _: None)
    committed = False

    def cursor(self, *_: Any, **__: Any) -> Any:
        return super().cursor(_WatchedCursor)

    def execute(self, sql: str, parameters: Any = (), /) -> Any:
        return self.cursor().execute(sql, parameters)

    def executemany(self, sql: str, parameters: Any, /) -> Any:
        return self.cursor().executemany(sql, parameters)

    def commit(self) -> None:
        self.before("COMMIT")
        super().commit()
        self.committed = True

    def rollback(self) -> None:
        self.before("ROLLBACK")
        super().rollback()


class _WatchedCursor(sqlite3.Cursor):
    def execute(self, sql: str, parameters: Any = (), /) -> Any:
        assert isinstance(self.connection, Watched)
        self.connection.before(sql)
        return super().execute(sql, parameters)

    def executemany(self, sql: str, parameters: Any, /) -> Any:
        assert isinstance(self.connection, Watched)
        self.connection.before(sql)
        return super().executemany(sql, parameters)


class FailingStatement:
    """The n-th statement of a connection fails, or all from there on do.

    Attributes:
        failed: Which did.
        too_late: Whether the first of them came after the commit.
    """

    def __init__(self, connection: Watched, number: int, *, for_good: bool) -> None:
        self._connection = connection
        self._number = number
        self._for_good = for_good
        self._seen = 0
        self.failed: list[str] = []
        self.too_late = False
        connection.before = self

    def __call__(self, sql: str) -> None:
        self._seen += 1
        if self._seen == self._number or (self._for_good and self._seen > self._number):
            if not self.failed:
                self.too_late = self._connection.committed
            self.failed.append(sql)
            raise sqlite3.OperationalError("disk I/O error")


class Upgrading:
    """A process that upgrades a file as soon as it is told to.

    Args:
        vault: The file.
        together: What the process waits for with others, once it is told to go.
        options: Of ``credential_db.upgrade``.
    """

    def __init__(self, vault: Vault, *, together: Barrier | None = None, **options: Any) -> None:
        self._gate, theirs = warm.Pipe()
        self.process = warm.Process(
            target=_upgrade, args=(theirs, vault.path, {**vault.options, **options}, together)
        )
        self.process.start()
        theirs.close()
        assert self._gate.recv() == "ready"

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def go(self) -> None:
        self._gate.send("go")

    def kill(self) -> None:
        with suppress(ProcessLookupError):  # it was done
            os.kill(self.pid, signal.SIGKILL)

    def outcome(self) -> Outcome:
        """Wait for the end."""
        found: Outcome = None
        with suppress(EOFError, ConnectionResetError):
            found = self._gate.recv()
        self._gate.close()
        self.process.join()
        if found is None:
            assert self.process.exitcode == -signal.SIGKILL, (
                "it ended by neither an upgrade, an error of ours nor the kill: see its stderr"
            )
        self.process.close()
        return found


def _upgrade(gate: Pipe, path: Path, options: dict[str, Any], together: Barrier | None) -> None:
    logging.lastResort = None  # what a scrub has to say is not for the terminal
    _let_strace_attach()
    gate.send("ready")
    gate.recv()
    if together is not None:
        together.wait(60)
    found: Outcome
    try:
        found = credential_db.upgrade(path, **options)
    except CredentialDBError as error:
        found = error
    gate.send(found)


def upgrade_together(
    vaults: Sequence[Vault], options: Iterable[Mapping[str, Any]] = repeat({})
) -> list[Outcome]:
    """What as many processes come to that are released at the same time."""
    together = warm.Barrier(len(vaults))
    processes = [
        Upgrading(vault, together=together, **each)
        for vault, each in zip(vaults, options, strict=False)
    ]
    for process in processes:
        process.go()
    return [process.outcome() for process in processes]


@contextmanager
def another_process(vault: Vault, *statements: str) -> Iterator[int]:
    """A process that has executed something and keeps the file open; its id."""
    gate, theirs = warm.Pipe()
    process = warm.Process(target=_hold, args=(theirs, vault, statements))
    process.start()
    theirs.close()
    try:
        assert gate.recv() == "ready"
        assert process.pid is not None
        yield process.pid
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


# What SQLite and this software change files with.
WRITE_SIDE = (
    "fallocate",
    "fchmod",
    "fchown",
    "fdatasync",
    "fsync",
    "ftruncate",
    "link",
    "mkdir",
    "openat",
    "pwrite64",
    "rename",
    "unlink",
    "write",
)


class SystemCall(NamedTuple):
    """The ``number``-th call of that name in a process, counted from 1."""

    name: str
    number: int


def _let_strace_attach() -> None:
    """Where Linux's Yama lets only ancestors trace a process, this one lets anybody."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):
        set_ptracer, anybody = 0x59616D61, ctypes.c_ulong(-1)
        libc.prctl(set_ptracer, anybody, 0, 0, 0)


def strace_is_missing() -> bool:
    return shutil.which("strace") is None


def under_strace(process: Upgrading, log: Path, *options: str) -> Outcome:
    """Let a waiting process go while strace does to it what the options say."""
    traced = ["-e", f"trace={','.join(WRITE_SIDE)}", "-p", str(process.pid)]
    strace = subprocess.Popen(
        ["strace", "-y", "-o", str(log), *traced, *options],
        stderr=subprocess.PIPE,
        text=True,
    )
    with strace:
        assert strace.stderr is not None
        greeting = strace.stderr.readline()
        if "attached" not in greeting:
            process.kill()
            process.outcome()
            pytest.skip(f"strace may not attach to a process here: {greeting.strip()}")
        process.go()
        outcome = process.outcome()
    return outcome


def write_side_calls(
    vault: Vault, log: Path, *, elsewhere: Path | None = None, **options: Any
) -> list[SystemCall]:
    """Each call of an upgrade that may change something in the directory of the file.

    Args:
        vault: The file.
        log: Where strace writes to.
        elsewhere: Another directory that counts.
        options: Of ``credential_db.upgrade``.
    """
    directories = (str(vault.path.parent), str(elsewhere or vault.path.parent))
    assert isinstance(under_strace(Upgrading(vault, **options), log), Upgrade)
    counts = dict.fromkeys(WRITE_SIDE, 0)
    calls = []
    for line in log.read_text().splitlines():
        name, _, arguments = line.partition("(")
        if name not in counts:
            continue
        counts[name] += 1
        if name == "openat" and "O_CREAT" not in arguments:
            continue
        # SQLite's temporary files are nameless, and somewhere else.
        if any(place in arguments for place in (*directories, "/etilqs_")):
            calls.append(SystemCall(name, counts[name]))
    return calls


class SignalAt:
    """A real signal at the n-th step of this process that counts; its handler raises.

    Args:
        error: What the handler raises.
        number: Which step, from 0.
        counts: Whether a step does: it is told the event (``line`` or ``call``), and the frame.
        after_commit: Whether steps count only once a COMMIT has returned.

    Attributes:
        where: The step, once it has been reached.
    """

    def __init__(
        self,
        error: BaseException,
        number: int,
        counts: Callable[[str, FrameType], bool],
        *,
        after_commit: bool = False,
    ) -> None:
        self._error = error
        self._number = number
        self._counts = counts
        self._after_commit = after_commit
        self.where = ""

    def outcome_of(self, function: Callable[[], Any]) -> Any:
        """What a function returns or raises, attacked."""
        before = signal.signal(signal.SIGALRM, self._raise)
        gc.disable()  # which may warn of an unclosed connection, and the attack meet the warning
        try:
            if self._after_commit:
                sys.setprofile(self._wait_for_commit)
            else:
                sys.settrace(self._trace)
            # What the error cuts off may leave a variable of the context as it is, or an exception
            # that is being handled: both end with this copy, and with this generator.
            return copy_context().run(next, (function() for _ in range(1)))
        except BaseException as error:
            return error
        finally:
            sys.setprofile(None)
            sys.settrace(None)
            gc.enable()
            signal.signal(signal.SIGALRM, before)

    def _raise(self, *_: object) -> None:
        raise self._error

    def _wait_for_commit(self, frame: FrameType, event: str, function: Any) -> None:
        if event == "c_return" and function.__name__ == "commit":
            sys.setprofile(None)
            above: FrameType | None = frame
            while above is not None:
                above.f_trace = self._trace
                above = above.f_back
            sys.settrace(self._trace)

    def _trace(self, frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_filename != __file__ and self._counts(event, frame):
            if self._number == 0:
                self.where = f"{event} at {frame.f_code.co_filename}:{frame.f_lineno}"
                sys.settrace(None)
                signal.raise_signal(signal.SIGALRM)
            self._number -= 1
        return self._trace
