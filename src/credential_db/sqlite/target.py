"""What can be upgraded: a path, a URL, an open connection or an engine."""

import contextlib
import os
import sqlite3
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from credential_db.sqlite.connection import (
    connect_to_read,
    connect_to_write,
    create_private_file,
    exists,
    file_of_url,
    lock_holders,
    refuse_transaction,
    sqlcipher_hint,
)
from credential_db.sqlite.driver import DBAPIConnection, is_dbapi_connection, main_file
from credential_db.sqlite.errors import CredentialDBError
from credential_db.sqlite.failures import clean
from credential_db.sqlite.passphrase import Passphrase

if TYPE_CHECKING:
    import sqlalchemy

    AnyTarget: TypeAlias = (
        str | os.PathLike[str] | DBAPIConnection | sqlalchemy.Engine | sqlalchemy.Connection
    )


class Target:
    """A database that is to be opened, in one of the ways in which users name it.

    Args:
        named: A path, a database URL, an open DB-API connection, or a SQLAlchemy ``Engine`` or
            ``Connection``.
        passphrase: For an encrypted file that is named by path.
        cipher_settings: SQLCipher settings of that file other than the defaults.
        timeout: Seconds to wait for another program's lock.

    Raises:
        CredentialDBError: It is none of these.
    """

    def __init__(
        self,
        named: "AnyTarget",
        *,
        passphrase: Passphrase | None = None,
        cipher_settings: Mapping[str, int] | None = None,
        timeout: float = 30.0,
    ) -> None:
        """Look at what was named, without opening it."""
        self.passphrase = passphrase
        self.cipher_settings = cipher_settings
        self.timeout = timeout
        self.path = ""
        self.connection: DBAPIConnection | None = None
        self._engine: Any = None
        if isinstance(named, (str, os.PathLike)):
            self.path = _path(os.fspath(named))
        elif is_dbapi_connection(named):
            self.connection = named
        else:
            self._take_sqlalchemy(named)

    def _take_sqlalchemy(self, named: object) -> None:
        sqlalchemy = sys.modules.get("sqlalchemy")
        if sqlalchemy is not None and isinstance(named, sqlalchemy.Engine):
            self._engine = named
        elif sqlalchemy is not None and isinstance(named, sqlalchemy.Connection):
            self.connection = _driver_connection(named.connection)
        else:
            raise CredentialDBError(
                f"a {type(named).__name__} cannot be upgraded: name a path, a database URL, an "
                "open sqlite3 or sqlcipher3 connection, or a SQLAlchemy Engine or Connection"
            )

    @property
    def name(self) -> str:
        """What to call it in a message."""
        return self._file() or "the database"

    def _file(self) -> str:
        if self.path:
            return self.path
        if self.connection is not None:
            with contextlib.suppress(Exception):  # closed, or not readable: then it has no name
                return main_file(self.connection)
        return ""

    def clean(self, error: Exception) -> Exception:
        """An error about this database, without anything that was in it."""
        file = self._file()
        return clean(
            error,
            file or "the database",
            holders=lock_holders(file) if file else " by another connection",
            extra="" if self.passphrase else sqlcipher_hint(),
        )

    def opened_to_read(self) -> AbstractContextManager[DBAPIConnection]:
        """The open database; an empty one in memory where the file does not exist."""
        return self._opened(writing=False, create=False)

    def opened_to_write(self, *, create: bool) -> AbstractContextManager[DBAPIConnection]:
        """The open database.

        Args:
            create: Make the file where it does not exist; else work on one in memory instead.

        Raises:
            CredentialDBError: It was handed in with a transaction in progress.
        """
        return self._opened(writing=True, create=create)

    def _opened(self, *, writing: bool, create: bool) -> AbstractContextManager[DBAPIConnection]:
        if self._engine is not None:
            return self._checked_out()
        if self.connection is None:
            return contextlib.closing(self._open(writing=writing, create=create))
        if writing:
            refuse_transaction(self.connection)
        return contextlib.nullcontext(self.connection)

    @contextlib.contextmanager
    def _checked_out(self) -> Iterator[DBAPIConnection]:
        with self._engine.connect() as wrapper:
            yield _driver_connection(wrapper.connection)

    def _open(self, *, writing: bool, create: bool) -> DBAPIConnection:
        options: dict[str, Any] = {
            "passphrase": self.passphrase,
            "cipher_settings": self.cipher_settings,
        }
        if not exists(self.path):
            if not create:
                return cast(DBAPIConnection, sqlite3.connect(":memory:", isolation_level=None))
            create_private_file(self.path)
        if writing:
            return connect_to_write(self.path, timeout=self.timeout, **options)
        return connect_to_read(self.path, **options)


def _path(named: str | bytes) -> str:
    named = os.fsdecode(named)
    if "://" in named:
        return file_of_url(named)
    if named in ("", ":memory:"):
        raise CredentialDBError(
            "a database in memory has no name: hand in the open connection instead"
        )
    return named


def _driver_connection(pooled: Any) -> DBAPIConnection:
    """The DB-API connection behind SQLAlchemy's."""
    connection = pooled.driver_connection
    if not is_dbapi_connection(connection):
        raise CredentialDBError("this SQLAlchemy engine is not for SQLite: name a SQLite database")
    return connection
