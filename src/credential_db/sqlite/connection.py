"""SQLite files and connections: opened without side effects, borrowed and given back as they were.

Nothing here knows what is in the file. No library is imported until a file is encrypted.
"""

import contextlib
import os
import sqlite3
import stat
from collections.abc import Iterator, Mapping
from typing import Any

from credential_db.sqlite.driver import DBAPIConnection, driver
from credential_db.sqlite.errors import CredentialDBError, NotADatabase
from credential_db.sqlite.passphrase import Passphrase

CIPHER_SETTINGS = ("cipher_compatibility", "kdf_iter", "cipher_page_size")

_BY_ISOLATION_LEVEL = -1  # sqlite3.LEGACY_TRANSACTION_CONTROL, new in Python 3.12
_LONGEST_TIMEOUT = 2**31 - 1  # milliseconds
_IN_MEMORY = 16 * 2**20  # bytes of a database whose changes may all be held in memory
_PRIVATE_FILE = 0o600
_PRIVATE_DIRECTORY = 0o700


def file_of_url(url: str) -> str:
    """The file that a database URL names: ``sqlite:///relative`` or ``sqlite:////absolute``.

    https://docs.sqlalchemy.org/en/20/dialects/sqlite.html#connect-strings

    Raises:
        CredentialDBError: It names another kind of database, a host, a passphrase, options or no
            file. The message does not repeat the URL, which may hold a passphrase.
    """
    scheme, _, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    if scheme.partition("+")[0] != "sqlite":
        raise CredentialDBError(
            f"a {scheme.partition('+')[0]} URL is of no use here: name a SQLite file by its path "
            "or as sqlite:///PATH"
        )
    if authority:
        raise CredentialDBError(
            "a SQLite URL has three slashes before a relative path and four before an absolute "
            "one, and no passphrase: that comes from CREDENTIAL_DB_PASSPHRASE or passphrase="
        )
    if not slash or not path or path == ":memory:":
        raise CredentialDBError("this URL names no file: use sqlite:///PATH")
    if "?" in path:
        raise CredentialDBError("options behind a ? in a SQLite URL are not supported here")
    return path


def create_private_file(path: str) -> bool:
    """Create an empty file that only its owner may read, and its directories likewise.

    Returns:
        False where another process was faster.
    """
    # O_EXCL does not follow a symbolic link, so name the file behind it.
    path = os.path.realpath(path)
    _create_private_directories(os.path.dirname(path))
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, _PRIVATE_FILE)
    except FileExistsError:
        return False
    try:
        os.fchmod(descriptor, _PRIVATE_FILE)  # the umask may have taken even the owner's bits
    finally:
        os.close(descriptor)
    return True


def _create_private_directories(path: str) -> None:
    if os.path.isdir(path):
        return
    _create_private_directories(os.path.dirname(path))
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, _PRIVATE_DIRECTORY)
        os.chmod(path, _PRIVATE_DIRECTORY)


def exists(path: str) -> bool:
    """Whether a regular file, or a symbolic link to one, stands at this path.

    Raises:
        NotADatabase: Something else does. (Opening a FIFO would wait for ever.)
    """
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(found.st_mode):
        raise NotADatabase(f"{path} is not a regular file: name the database file itself")
    if found.st_size == 1:  # which SQLite takes for an empty file, and would write over
        raise NotADatabase(f"{path} is not a SQLite database: it holds a single byte")
    return True


def connect(
    path: str,
    *,
    timeout: float = 30.0,
    passphrase: Passphrase | None = None,
    cipher_settings: Mapping[str, int] | None = None,
    mode: str = "rw",
    module: Any = None,
) -> DBAPIConnection:
    """Open an existing file in autocommit mode, and see that it can be read.

    Args:
        path: The file. It must exist: SQLite would create it for any user to read.
        timeout: Seconds to wait for another program's lock.
        passphrase: Opens an encrypted file, through SQLCipher.
        cipher_settings: SQLCipher settings other than its defaults, of ``CIPHER_SETTINGS``.
        mode: ``rw``, or ``ro`` (https://www.sqlite.org/uri.html).
        module: The DB-API module, where it has to be that of another connection to the file.
    """
    if module is None:
        module = sqlite3 if passphrase is None else _sqlcipher()
    connection: DBAPIConnection = module.connect(
        file_uri(path, mode),
        uri=True,
        timeout=timeout,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        if passphrase is not None:
            _unlock(connection, passphrase, cipher_settings or {})
        connection.execute("PRAGMA main.user_version").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


def _unlock(
    connection: DBAPIConnection, passphrase: Passphrase, cipher_settings: Mapping[str, int]
) -> None:
    # Else SQLCipher writes lines of its own to stderr about a wrong passphrase.
    connection.execute("PRAGMA cipher_log_level = NONE")
    connection.execute(f"PRAGMA key = {passphrase.sql_literal}")
    # Temporary files would hold plain text.
    connection.execute("PRAGMA temp_store = MEMORY")
    for name, value in cipher_settings.items():
        if name not in CIPHER_SETTINGS or not isinstance(value, int):
            raise CredentialDBError(
                f"a cipher setting is one of {', '.join(CIPHER_SETTINGS)} and a whole number"
            )
        connection.execute(f"PRAGMA {name} = {value}")


def file_uri(path: str, mode: str) -> str:
    """A file name as SQLite's URI: https://www.sqlite.org/uri.html#the_uri_path."""
    if "%" in path or "?" in path or "#" in path:
        path = path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    host = "//" if path.startswith("/") else ""
    return f"file:{host}{path}?mode={mode}"


def _sqlcipher() -> Any:
    try:
        from sqlcipher3 import dbapi2  # an extra, for encrypted files alone
    except ImportError:
        raise CredentialDBError(
            "encrypted files need SQLCipher: pip install 'credential-db[sqlcipher]'"
        ) from None
    return dbapi2


def sqlcipher_hint() -> str:
    """What to add where a file may be encrypted and SQLCipher is not installed."""
    try:
        _sqlcipher()
    except CredentialDBError as error:
        return f" ({error})"
    return ""


def connect_to_read(
    path: str,
    *,
    passphrase: Passphrase | None = None,
    cipher_settings: Mapping[str, int] | None = None,
) -> DBAPIConnection:
    """Open an existing file without changing a byte of it or leaving a file beside it.

    In WAL mode a connection that may write folds a left-over log into the file when it closes, and
    one that may not leaves ``-wal`` and ``-shm`` behind where there was no log: so each is used
    where it does neither. In a directory that cannot be written, where there can be no log, SQLite
    reads a WAL file only as ``immutable`` (https://www.sqlite.org/wal.html#readonly).
    """
    log = os.path.realpath(path) + "-wal"
    left_over = os.path.exists(log) and os.path.getsize(log) > 0
    options: dict[str, Any] = {"passphrase": passphrase, "cipher_settings": cipher_settings}
    try:
        connection = connect(path, mode="ro" if left_over else "rw", **options)
    except Exception as error:
        if left_over or not is_not_writable(error):
            raise
        connection = connect(path, mode="ro&immutable=1", **options)
    connection.execute("PRAGMA query_only = ON")
    return connection


def is_not_writable(error: Exception) -> bool:
    """Whether this is what SQLite says of a WAL file in a directory that cannot be written."""
    return "unable to open database file" in str(error) or "readonly database" in str(error)


def connect_to_write(
    path: str,
    *,
    timeout: float = 30.0,
    passphrase: Passphrase | None = None,
    cipher_settings: Mapping[str, int] | None = None,
) -> DBAPIConnection:
    """Open an existing file for an upgrade, or only to read where no more is allowed."""
    options: dict[str, Any] = {"passphrase": passphrase, "cipher_settings": cipher_settings}
    try:
        return connect(path, timeout=timeout, **options)
    except Exception as error:
        if not is_not_writable(error):
            raise
    return connect_to_read(path, **options)


# What an upgrade needs of a connection, set for its duration:
_PRAGMAS = {
    # Else a table copy deletes the rows of ON DELETE CASCADE children. Foreign keys are checked
    # before the commit instead: https://www.sqlite.org/lang_altertable.html#otheralter
    "foreign_keys": 0,
    "legacy_alter_table": 0,
    "ignore_check_constraints": 0,
    "secure_delete": 1,  # overwrite old keys with zeros; the default differs between builds
    "journal_size_limit": 0,  # else journal_mode=PERSIST keeps old keys in the journal
    "synchronous": 2,
}


def _text(stored: bytes) -> str:
    """TEXT that need not be UTF-8: sqlite3's own error about that shows what the cell holds."""
    return stored.decode(errors="surrogateescape")


@contextlib.contextmanager
def plain_rows(connection: DBAPIConnection) -> Iterator[None]:
    """Rows as tuples and TEXT as ``str`` for a while, whatever the connection's owner prefers."""
    row_factory, text_factory = connection.row_factory, connection.text_factory
    connection.row_factory, connection.text_factory = None, _text
    try:
        yield
    finally:
        connection.row_factory, connection.text_factory = row_factory, text_factory


def refuse_transaction(connection: DBAPIConnection) -> None:
    """Raise where a transaction is in progress: it is its owner's to end.

    Raises:
        CredentialDBError: One is.
    """
    if connection.in_transaction:
        raise CredentialDBError(
            "this connection has a transaction in progress: commit it or roll it back first "
            "(one with autocommit=False always has: set autocommit=True for the call)"
        )


@contextlib.contextmanager
def waiting(connection: DBAPIConnection, timeout: float) -> Iterator[None]:
    """Let a connection wait this many seconds for other programs' locks."""
    cursor = connection.cursor()
    cursor.row_factory = None
    (before,) = cursor.execute("PRAGMA busy_timeout").fetchone()
    milliseconds = int(min(timeout * 1000, _LONGEST_TIMEOUT))
    connection.execute(f"PRAGMA busy_timeout = {milliseconds}")
    try:
        yield
    finally:
        with contextlib.suppress(driver(connection).ProgrammingError):  # closed meanwhile
            _give_back(connection, f"PRAGMA busy_timeout = {before}")


@contextlib.contextmanager
def borrowed(connection: DBAPIConnection, timeout: float) -> Iterator[None]:
    """Take a connection over for an upgrade, and give it back as it came.

    Args:
        connection: One without a transaction in progress.
        timeout: Seconds to wait for another program's lock meanwhile.

    Raises:
        CredentialDBError: It has a transaction in progress.
    """
    refuse_transaction(connection)
    isolation_level = connection.isolation_level
    autocommit = getattr(connection, "autocommit", None)  # new in Python 3.12
    pragmas = dict(_PRAGMAS)
    with plain_rows(connection), waiting(connection, timeout):
        if _size(connection) <= _IN_MEMORY:
            pragmas["cache_spill"] = 0  # a refused upgrade then never writes to the file at all
        if autocommit is not None:
            # Where it is True, commit() and rollback() do nothing.
            connection.autocommit = _BY_ISOLATION_LEVEL  # type: ignore[attr-defined]  # until 3.12
        connection.isolation_level = None
        before = {name: connection.execute(f"PRAGMA {name}").fetchone()[0] for name in pragmas}
        try:
            for name, value in pragmas.items():
                connection.execute(f"PRAGMA {name} = {value}")
            yield
        finally:
            with contextlib.suppress(driver(connection).ProgrammingError):  # closed meanwhile
                for name, value in before.items():
                    # secure_delete reads 2 for FAST and takes 2 for ON
                    written = "FAST" if (name, value) == ("secure_delete", 2) else value
                    _give_back(connection, f"PRAGMA {name} = {written}")
                connection.isolation_level = isolation_level
                if autocommit is not None:
                    connection.autocommit = autocommit  # type: ignore[attr-defined]  # until 3.12


def _size(connection: DBAPIConnection) -> int:
    """Of the database, in bytes."""
    (pages,) = connection.execute("PRAGMA main.page_count").fetchone()
    (page_size,) = connection.execute("PRAGMA main.page_size").fetchone()
    return int(pages) * int(page_size)


def _give_back(connection: DBAPIConnection, pragma: str) -> None:
    """Set a pragma as it was; by now the upgrade is done or undone, so no error may say more."""
    try:
        connection.execute(pragma)
    except driver(connection).OperationalError as error:
        import logging  # costs a process that only looks

        logging.getLogger(__name__).warning(
            "%s failed (%s): close this connection, it is not as it was", pragma, error
        )


def lock_holders(path: str) -> str:
    """Which processes hold a lock on a file, as far as Linux tells: `` by process 12 (name)``."""
    with contextlib.suppress(OSError, ValueError):
        inodes = {os.stat(path).st_ino}
        with contextlib.suppress(OSError):
            inodes.add(os.stat(path + "-shm").st_ino)  # where WAL mode keeps its locks
        with open("/proc/locks", encoding="ascii") as locks:
            fields = [line.split() for line in locks]
        # https://man7.org/linux/man-pages/man5/proc_locks.5.html
        holders = {
            int(field[4])
            for field in fields
            if field[1] != "->" and int(field[5].rpartition(":")[2]) in inodes
        } - {os.getpid(), -1}
        names = []
        for holder in sorted(holders):
            with open(f"/proc/{holder}/comm", encoding="utf-8") as name:
                names.append(f"{holder} ({name.read().strip()})")
        if names:
            return f" by process {', '.join(names)}"
    return " by another program"
