"""What can be upgraded: a path, a URL, an open connection or an engine."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

from credential_db.sqlite.cipher import INSTALL, Cipher, refuse_plain_text
from credential_db.sqlite.cipher import module as installed_sqlcipher
from credential_db.sqlite.driver import DBAPIConnection, is_dbapi_connection, main_file
from credential_db.sqlite.errors import CredentialDBError
from credential_db.sqlite.files import (
    create_private_file,
    exists,
    file_of_name,
    lock_holders,
    remove_created,
)
from credential_db.sqlite.host_engine import checked_out, driver_connection, refuse_other_driver
from credential_db.sqlite.lending import checked_timeout, refuse_transaction, waiting
from credential_db.sqlite.opening import (
    TIMEOUT,
    connect_to_read,
    connect_to_write,
    empty_in_memory,
    sqlcipher_module,
)

if TYPE_CHECKING:
    import sqlalchemy

    AnyTarget: TypeAlias = (
        str
        | os.PathLike[str]
        | sqlalchemy.URL
        | DBAPIConnection
        | sqlalchemy.Engine
        | sqlalchemy.Connection
    )


class Target:
    """A database that is to be opened, in one of the ways in which users name it.

    Args:
        named: A path, a database URL, an open DB-API connection, or a SQLAlchemy ``Engine`` or
            ``Connection``.
        cipher: Opens an encrypted file that is named by path.
        timeout: Seconds to wait for another program's lock.

    Attributes:
        created: The file, and directories before it, that were created when it was opened.
        before: The version that a change has found; None where there was no schema.
        committed: Whether the change is.

    Raises:
        CredentialDBError: It is none of these.
    """

    def __init__(
        self,
        named: "AnyTarget",
        *,
        cipher: Cipher | None = None,
        timeout: float = TIMEOUT,
    ) -> None:
        """Look at what was named, without opening it."""
        self.cipher = cipher
        self.timeout = checked_timeout(timeout)
        self.path = ""
        self.connection: DBAPIConnection | None = None
        self.created: list[str] = []
        self.before: int | None = None
        self.committed = False
        self._engine: Any = None
        if isinstance(named, str | bytes | os.PathLike):
            self.path = file_of_name(os.fsdecode(named))
        elif is_dbapi_connection(named):
            self.connection = named
        else:
            self._take_sqlalchemy(named)

    def _take_sqlalchemy(self, named: object) -> None:
        sqlalchemy = sys.modules.get("sqlalchemy")
        if sqlalchemy is not None and isinstance(named, sqlalchemy.URL):
            self.path = file_of_name(named.render_as_string(hide_password=False))
        elif sqlalchemy is not None and isinstance(named, sqlalchemy.Engine):
            refuse_other_driver(named)
            self._engine = named
        elif sqlalchemy is not None and isinstance(named, sqlalchemy.Connection):
            refuse_other_driver(named.engine)
            self.connection = driver_connection(named.connection)
        else:
            raise CredentialDBError(
                f"a {type(named).__name__} cannot be upgraded: name a path, a database URL, an "
                "open sqlite3 or sqlcipher3 connection, or a SQLAlchemy Engine or Connection"
            )

    @property
    def name(self) -> str:
        """What to call it in a message."""
        if self.path:
            return self.path
        if self.connection is not None:
            with contextlib.suppress(Exception):  # closed, or not readable: then it has no name
                return main_file(self.connection) or "the database"
        return "the database"

    def committed_despite(self, error: BaseException) -> bool:
        """Whether an error came after the commit: a warning says so, since it is not undone.

        An interrupt or an exit goes on to whoever asked for it.
        """
        if not self.committed or not isinstance(error, Exception):
            return False
        import logging  # costs a process that only looks

        logging.getLogger(__name__).warning(
            "%s: the change was committed, and %s came after it: the next upgrade completes the "
            "clean-up",
            self.name,
            type(error).__name__,
        )
        return True

    def clean(self, error: BaseException) -> BaseException:
        """An error about this database, without anything that was in it."""
        from credential_db.sqlite.failures import clean  # costs a process that only looks

        name = self.name
        extra = " (CREDENTIAL_DB_PASSPHRASE_FILE, say, or passphrase= gives it)"
        if self.cipher:
            extra = ", or it is not encrypted at all"
        elif not installed_sqlcipher():
            extra = f" ({INSTALL})"
        return clean(
            error,
            name,
            holders=lock_holders(name) if os.path.exists(name) else " by another connection",
            extra=extra,
        )

    def forget(self) -> None:
        """Keep neither the passphrase nor a connection of the host's alive."""
        self.cipher = self.connection = self._engine = None

    @contextlib.contextmanager
    def opened(self, *, writing: bool, create: bool = False) -> Iterator[DBAPIConnection]:
        """The open database.

        Args:
            writing: Whether it is to be changed; else not a byte is, nor a file left beside it.
            create: Make the file where it does not exist; else work on one in memory instead.

        Raises:
            CredentialDBError: It was handed in to be written, with a transaction in progress.
        """
        with contextlib.ExitStack() as stack:
            connection = self.connection
            if connection is None:
                connection = stack.enter_context(
                    self._file(writing=writing, create=create)
                    if self.path
                    else checked_out(self._engine, create=create)
                )
            if self.cipher and not self.path:
                refuse_plain_text(connection, "the driver of this connection")
            if writing:
                refuse_transaction(connection)
            stack.enter_context(waiting(connection, self.timeout))
            # Opened once more inside of this, it is the same connection.
            stack.callback(setattr, self, "connection", self.connection)
            self.connection = connection
            yield connection

    @contextlib.contextmanager
    def _file(self, *, writing: bool, create: bool) -> Iterator[DBAPIConnection]:
        if not exists(self.path):
            if not create:
                with empty_in_memory() as empty:
                    yield empty
                return
            if self.cipher:
                sqlcipher_module()  # before a file is made that nothing here can open
            self.created = create_private_file(self.path)
        try:
            connect = connect_to_write if writing else connect_to_read
            with contextlib.closing(
                connect(self.path, timeout=self.timeout, cipher=self.cipher)
            ) as connection:
                yield connection
        except BaseException:
            remove_created(self.created)
            raise


def failure_of(error: BaseException, opened: Target | None, named: object) -> BaseException:
    """What to raise instead of an error: it shows no data, and its traceback no passphrase.

    Args:
        error: What was caught.
        opened: The database, which is forgotten; None where it did not come to that.
        named: What was named then. A URL may hold a passphrase, and is not repeated.
    """
    name = "the database" if opened is None else opened.name
    with contextlib.suppress(Exception):
        if isinstance(named, str | os.PathLike) and "://" not in os.fsdecode(named):
            name = file_of_name(os.fsdecode(named))
    try:
        if opened is not None:
            return opened.clean(error)
        from credential_db.sqlite.failures import clean  # costs a process that only looks

        return clean(error, name, lock_holders(name))
    except OSError as unread:  # of a module, where too many files are open
        return CredentialDBError(f"{unread.strerror}: {name}")
    finally:
        if opened is not None:
            opened.forget()
