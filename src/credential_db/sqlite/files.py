"""Files on disk: created for their owner alone, looked at without being opened.

A file that SQLite has open is never read from here: closing it again would drop the locks that
this process holds on it (https://www.sqlite.org/howtocorrupt.html#_posix_advisory_locks_canceled).
"""

import contextlib
import os
import stat

from credential_db.sqlite.errors import CredentialDBError, NotADatabase, ReadOnlyDatabase

PRIVATE_FILE = 0o600
_PRIVATE_DIRECTORY = 0o700
SIDECARS = ("-wal", "-shm", "-journal")
_DRIVERS = ("sqlite", "sqlite+pysqlite", "sqlite+aiosqlite", "sqlite+pysqlcipher")


def file_of_name(named: str) -> str:
    """The file that a path or a database URL names; ``~`` is the home directory, as in a shell.

    ``sqlite:///relative`` or ``sqlite:////absolute``:
    https://docs.sqlalchemy.org/en/20/dialects/sqlite.html#connect-strings

    Raises:
        CredentialDBError: It names another kind of database, a host, a passphrase, options or no
            file. The message does not repeat a URL, which may hold a passphrase.
    """
    if named in ("", ":memory:"):
        raise CredentialDBError(
            "a database in memory has no name: hand in the open connection instead"
        )
    if named.startswith("file:"):
        raise CredentialDBError(
            "SQLite's file: names are not taken here: name the file by its path, or as "
            "sqlite:///PATH"
        )
    if "\0" in named:
        raise CredentialDBError("a path cannot hold a NUL character")
    if named.startswith("sqlite:") and "://" not in named:
        raise CredentialDBError("a SQLite URL has three slashes at least: sqlite:///PATH")
    return expanded(_file_of_url(named) if "://" in named else named)


def expanded(path: str) -> str:
    """A path in which ``~`` is a home directory.

    Raises:
        CredentialDBError: There is no such user. A directory of that name would be made else.
    """
    found = os.path.expanduser(path)
    if found.startswith("~"):
        raise CredentialDBError(
            f"{path} is in no home directory: a file of that name is called ./{path}"
        )
    return found


def _file_of_url(url: str) -> str:
    scheme, _, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    if scheme not in _DRIVERS:
        kind = scheme if scheme.replace("+", "").isalnum() else "URL of another kind"
        raise CredentialDBError(
            f"a {kind} URL is of no use here: name a SQLite file by its path or as sqlite:///PATH"
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


def create_private_file(path: str) -> list[str]:
    """Create an empty file that only its owner may read, and its directories likewise.

    Returns:
        What was created, in that order; nothing where another process was faster.
    """
    # O_EXCL does not follow a symbolic link, so name the file behind it.
    path = os.path.realpath(path)
    created = _create_private_directories(os.path.dirname(path))
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, PRIVATE_FILE)
        try:
            os.fchmod(descriptor, PRIVATE_FILE)  # the umask may have taken even the owner's bits
        finally:
            os.close(descriptor)
        created.append(path)
    return created


def _create_private_directories(path: str) -> list[str]:
    if os.path.isdir(path):
        return []
    created = _create_private_directories(os.path.dirname(path))
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, _PRIVATE_DIRECTORY)
        os.chmod(path, _PRIVATE_DIRECTORY)
        created.append(path)
    return created


def remove_created(created: list[str]) -> None:
    """Take back what was created for a first run that failed, unless somebody uses it by now."""
    for path in reversed(created):
        with contextlib.suppress(OSError):
            if os.path.isdir(path):
                os.rmdir(path)
            elif os.path.getsize(path) == 0:
                os.unlink(path)


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


def has_journal_to_roll_back(path: str) -> bool:
    """Whether a rollback journal may hold what the file has to be taken back to.

    https://www.sqlite.org/fileformat2.html#the_rollback_journal: a journal that is done with has
    been deleted, cut to nothing, or its header has been overwritten with zeros.
    """
    journal = os.path.realpath(path) + "-journal"
    try:
        with open(journal, "rb") as file:  # no lock of SQLite's is on the journal itself
            return any(file.read(8))
    except FileNotFoundError:
        return False
    except PermissionError:
        return True


def log_size(path: str) -> int:
    """Bytes in the write-ahead log beside a file."""
    log = os.path.realpath(path) + "-wal"
    return os.path.getsize(log) if os.path.exists(log) else 0


def guard_before_change(path: str) -> None:
    """See to it that what SQLite writes beside a file is nobody else's to read.

    Raises:
        CredentialDBError: The file has a second name (a crash through the one would leave its
            journal unseen by the other:
            https://www.sqlite.org/howtocorrupt.html#_unlinking_or_renaming_a_database_file_while_in_use),
            or a stranger has put a sidecar beside it.
    """
    path = os.path.realpath(path)
    database = os.stat(path)
    if database.st_nlink > 1:
        raise CredentialDBError(
            f"{path} has {database.st_nlink} names (hard links), and SQLite is safe with one "
            "alone: remove the others, then run again"
        )
    for sidecar in (path + ending for ending in SIDECARS):
        try:
            found = os.lstat(sidecar)
        except FileNotFoundError:
            continue
        if found.st_uid not in (database.st_uid, os.geteuid(), 0) or stat.S_ISLNK(found.st_mode):
            raise CredentialDBError(
                f"{sidecar} belongs to another user than its database, who would read what is "
                "written to it: remove it if no program uses it, then run again"
            )
        wider = stat.S_IMODE(found.st_mode) & ~stat.S_IMODE(database.st_mode)
        if wider:
            with contextlib.suppress(PermissionError):
                os.chmod(sidecar, stat.S_IMODE(found.st_mode) & ~wider)
                import logging  # costs a process that only looks

                logging.getLogger(__name__).warning(
                    "%s could be read by more users than its database: its mode is now the same",
                    sidecar,
                )
                continue
            raise ReadOnlyDatabase(
                f"more users may read {sidecar} than its database: run chmod "
                f"{stat.S_IMODE(database.st_mode):o} on it, then run again"
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
