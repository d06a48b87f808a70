"""What can be upgraded: a file, or an open connection. Imports no library to tell."""

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ParamSpec, TypeAlias, TypeVar

from credential_db.sqlite.connections import (
    Passphrase,
    connect_to_read,
    connect_to_write,
    sqlcipher,
)
from credential_db.sqlite.driver import DBAPIConnection, is_connection, main_file
from credential_db.sqlite.errors import CredentialDBError, NotADatabase
from credential_db.sqlite.files import create_private_file, exists, file_of_name, foreign_sidecar
from credential_db.sqlite.transaction import (
    TIMEOUT,
    Deadline,
    busy_timeout,
    checked_timeout,
    set_busy_timeout,
)
from credential_db.sqlite.working import reading

if TYPE_CHECKING:
    import sqlalchemy
    from sqlalchemy.ext.asyncio import AsyncEngine

    AnyTarget: TypeAlias = (
        str
        | os.PathLike[str]
        | sqlalchemy.URL
        | DBAPIConnection
        | sqlalchemy.Engine
        | AsyncEngine
        | sqlalchemy.Connection
    )

P = ParamSpec("P")
T = TypeVar("T")


class Target:
    """A database, named in one of the ways that users have. Nothing is connected yet.

    The messages of its errors do not repeat a URL, which may contain a passphrase.
    """

    def __init__(
        self,
        named: "AnyTarget",
        passphrase: str | bytes | Passphrase | None = None,
        timeout: float = TIMEOUT,
    ) -> None:
        self.passphrase = None if passphrase is None else Passphrase(passphrase)
        self.timeout = checked_timeout(timeout)
        self.deadline = Deadline(self.timeout)
        self.path = ""  # empty if a connection stands for the database
        self.connection: DBAPIConnection | None = None  # that was passed in
        self._engine: Any = None
        if is_connection(named):
            self.connection = named
        elif isinstance(named, str | bytes | os.PathLike):
            self.path = file_of_name(os.fsdecode(named))
        else:
            self._take_sqlalchemy(named)

    def _take_sqlalchemy(self, named: Any) -> None:
        sqlalchemy: Any = sys.modules.get("sqlalchemy")
        asynchronous: Any = sys.modules.get("sqlalchemy.ext.asyncio")
        is_async = asynchronous is not None and isinstance(named, asynchronous.AsyncEngine)
        if sqlalchemy is None or not isinstance(
            named.sync_engine if is_async else named,
            sqlalchemy.URL | sqlalchemy.Engine | sqlalchemy.Connection,
        ):
            raise CredentialDBError(
                f"a {type(named).__name__} cannot be upgraded: pass a path, a database URL, an "
                "open sqlite3 or sqlcipher3 connection, or an SQLAlchemy Engine or Connection"
            )
        if isinstance(named, sqlalchemy.URL):
            self.path = file_of_name(named.render_as_string(hide_password=False))
            return
        if named.dialect.name != "sqlite":
            raise CredentialDBError(
                f"an engine of {named.dialect.name} cannot be upgraded: pass an SQLite database, "
                "for example its path"
            )
        if isinstance(named, sqlalchemy.Connection):
            self.connection = _driver_connection(named.connection)
            return
        if named.url.host or named.url.password:
            raise CredentialDBError(
                "the URL of this engine names a host or a passphrase: pass the path of the file, "
                "and passphrase=, or an open connection"
            )
        file = named.url.database or ":memory:"
        if not file.startswith((":memory:", "file:")):
            self.path = file
        elif is_async:
            raise CredentialDBError(
                "an AsyncEngine without a file cannot be upgraded: use a file and "
                "await asyncio.to_thread(credential_db.upgrade, PATH)"
            )
        else:
            self._engine = named

    @property
    def name(self) -> str:
        """What to call it in a message."""
        if not self.path and self.connection is not None:
            with contextlib.suppress(Exception):  # closed: then it has no name
                return self.file or "the database"
        return self.path or "the database"

    @contextlib.contextmanager
    def opened(self, *, create: bool = False, read_only: bool = False) -> Iterator[DBAPIConnection]:
        """The open database; read-only, no byte of it changes, and no file appears next to it."""
        if obstacle := foreign_sidecar(self.file):  # which SQLite's first look would remove
            raise obstacle
        if self.connection is not None:
            if self.passphrase:
                self.passphrase.refuse_plain_text(self.connection)
            before = busy_timeout(self.connection)
            try:
                yield self.connection
            finally:
                with contextlib.suppress(Exception):  # closed meanwhile
                    set_busy_timeout(self.connection, before)
        elif not self.path:
            pooled = self._engine.raw_connection()
            try:
                with Target(_driver_connection(pooled), self.passphrase).opened() as connection:
                    yield connection
            finally:
                pooled.close()
        else:
            if not exists(self.path):
                if not create:
                    raise NotADatabase(f"{self.path} does not exist: check the path")
                if self.passphrase:
                    sqlcipher()  # before creating a file that nothing here can open
                create_private_file(self.path)
            connect = connect_to_read if read_only else connect_to_write
            with contextlib.closing(
                connect(self.path, self.deadline, passphrase=self.passphrase)
            ) as connection:
                yield connection

    @contextlib.contextmanager
    def read(self) -> Iterator[DBAPIConnection]:
        """The database, to be read only, at one moment."""
        with (
            self.opened(read_only=True) as connection,
            reading(connection, self.name, self.deadline),
        ):
            yield connection

    @property
    def file(self) -> str:
        """Its file, which SQLite may not have looked at yet; empty if there is none."""
        return self.path or (main_file(self.connection) if self.connection else "")

    def is_missing(self) -> bool:
        """Whether it is a file that does not exist."""
        return bool(self.path) and not exists(self.path)


def _driver_connection(pooled: Any) -> DBAPIConnection:
    """The DB-API connection behind SQLAlchemy's."""
    connection = pooled.dbapi_connection
    if not is_connection(connection):
        raise CredentialDBError(
            "this driver's connections cannot be upgraded: pass the path of the file, with asyncio "
            "as await asyncio.to_thread(credential_db.upgrade, PATH)"
        )
    return connection


def cleaned(function: Callable[P, T]) -> Callable[P, T]:
    """Let a function of a target raise only errors without data: recreated, with no other frame."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except BaseException as error:
            failure = _clean(error, args[0] if args else None, bool(kwargs.get("passphrase")))
        del args, kwargs  # a traceback shows the locals of this frame
        raise failure

    return wrapper


def _clean(error: BaseException, named: Any, passphrase: bool) -> BaseException:
    name, path = "the database", ""
    with contextlib.suppress(Exception):
        target = named if isinstance(named, Target) else Target(named)
        name, path = target.name, target.path
        passphrase = passphrase or target.passphrase is not None
    try:
        from credential_db.sqlite.causes import clean  # not needed if nothing fails
    except OSError as unread:  # too many open files
        return CredentialDBError(f"{unread.strerror}: {name}")
    return clean(error, name, path=path, passphrase=passphrase)
