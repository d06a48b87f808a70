"""Files on disk: created for their owner only, and looked at without being opened.

A plain ``open()`` of a database file drops the locks that this process holds on it as soon as it is
closed (https://www.sqlite.org/howtocorrupt.html#_posix_advisory_locks_canceled). So nothing here
reads a database; only a rollback journal, on which SQLite takes no lock, is read.
"""

import contextlib
import os
import stat

from credential_db.sqlite.errors import CredentialDBError, NotADatabase

SIDECARS = ("-wal", "-shm", "-journal")
_PRIVATE_FILE, _PRIVATE_DIRECTORY = 0o600, 0o700
_LOG_HEADER = 32  # bytes of a -wal: https://www.sqlite.org/fileformat2.html#wal_file_format
_PLAIN = frozenset(range(128)) - frozenset(b"%?#")  # bytes that a URI holds as they are


def file_of_name(named: str) -> str:
    """The file that a path or a URL names; messages repeat no URL, which may hold a passphrase."""
    # https://docs.sqlalchemy.org/en/20/dialects/sqlite.html#connect-strings
    scheme, is_url, rest = named.partition("://")
    authority, _, path = rest.partition("/") if is_url else ("", "", named)
    kind = f"{scheme} URL" if scheme.replace("+", "").isalnum() else "URL of this kind"
    found = path if "\0" in path else os.path.expanduser(path)
    refusals = {
        f"a {kind} is not supported: name a SQLite file by its path or as sqlite:///PATH": (
            is_url and scheme.partition("+")[0] != "sqlite"
        ),
        "a SQLite URL has three slashes before a relative path, four before an absolute one, and "
        "no passphrase: that comes from CREDENTIAL_DB_PASSPHRASE or passphrase=": authority,
        "this names no file: give a path, or in Python pass an open connection": path
        in ("", ":memory:"),
        "SQLite's file: names are not supported: give the path instead": path.startswith("file:"),
        "a SQLite URL has at least three slashes: sqlite:///PATH": path.startswith("sqlite:"),
        "options after a ? in a SQLite URL are not supported": is_url and "?" in path,
        "a path cannot contain a NUL character": "\0" in path,
        f"{path}: no such home directory; for a file of that name: ./{path}": found.startswith("~"),
    }
    for message, applies in refusals.items():
        if applies:
            raise CredentialDBError(message)
    return found


def uri(path: str, mode: str) -> str:
    """A path as SQLite's URI (https://www.sqlite.org/uri.html), in any locale's encoding."""
    raw = os.fsencode(path)
    encoded = "".join(chr(byte) if byte in _PLAIN else f"%{byte:02x}" for byte in raw)
    host = "//" if path.startswith("/") else ""
    return f"file:{host}{encoded}?mode={mode}"


def exists(path: str) -> bool:
    """Whether a regular file, or a link to one, is there; anything else is ``NotADatabase``."""
    found = stat_if_exists(path)
    if found is None:
        return False
    if not stat.S_ISREG(found.st_mode):  # to open a FIFO would wait for ever
        raise NotADatabase(f"{path} is not a regular file: name the database file itself")
    if found.st_size == 1:  # SQLite takes it for an empty file and would overwrite it
        raise NotADatabase(f"{path} is not a SQLite database: it contains a single byte")
    return True


def stat_if_exists(path: str, *, follow_symlinks: bool = True) -> os.stat_result | None:
    """What the file system says about the file behind a path; None if there is none."""
    try:
        return os.stat(path, follow_symlinks=follow_symlinks)
    except FileNotFoundError:
        return None


def identity(path: str) -> tuple[int, int] | None:
    """Device and inode of the file behind a path; None if there is none."""
    found = stat_if_exists(path)
    return found and (found.st_dev, found.st_ino)


def size_of(path: str) -> int:
    """Bytes in the file behind a path; 0 if there is none."""
    found = stat_if_exists(path)
    return found.st_size if found else 0


def mode_of(found: os.stat_result) -> int:
    """The nine permission bits."""
    return found.st_mode & 0o777


def create_private_file(path: str) -> None:
    """Create an empty file and its directories, for their owner alone, if they are missing."""
    path = os.path.realpath(path)  # O_EXCL does not follow a symbolic link
    _create_private_directories(os.path.dirname(path))
    with contextlib.suppress(FileExistsError):
        create_exclusively(path)


def create_exclusively(path: str) -> os.stat_result:
    """Create an empty file with mode 0600, or raise ``FileExistsError``."""
    with open(path, "xb", opener=lambda name, flags: os.open(name, flags, _PRIVATE_FILE)) as file:
        _make_private(file.fileno(), _PRIVATE_FILE, path)
        return os.fstat(file.fileno())


def _create_private_directories(path: str) -> None:
    if not os.path.isdir(path):
        _create_private_directories(os.path.dirname(path))
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, _PRIVATE_DIRECTORY)
            _make_private(path, _PRIVATE_DIRECTORY, path)


def _make_private(created: int | str, mode: int, path: str) -> None:
    """The umask may have taken the owner's own bits; a file system may keep no modes at all."""
    if mode_of(os.stat(created)) != mode:
        with contextlib.suppress(OSError):
            os.chmod(created, mode)
    found = mode_of(os.stat(created))
    if found & ~mode:
        warn(
            f"{path} has mode {found:04o}, not {mode:04o}: its file system does not keep modes; "
            "mount it with the option umask=0077 (or dmask= and fmask=), or other users may read it"
        )


def warn(message: str) -> None:
    """Log a warning."""
    import logging  # costs a process that only looks

    logging.getLogger("credential_db").warning("%s", message)


def log_size(path: str) -> int:
    """Bytes in the write-ahead log next to a file."""
    return size_of(os.path.realpath(path) + "-wal")


def has_journal_to_roll_back(path: str, *, of_content: bool = False) -> bool:
    """Whether a rollback journal may contain what has to be written back to the file.

    With ``of_content``: only if the database had pages before that transaction (bytes 16 to 19 of
    the journal: https://www.sqlite.org/fileformat2.html#the_rollback_journal).
    """
    try:
        with open(os.path.realpath(path) + "-journal", "rb") as file:
            header = file.read(20)
    except FileNotFoundError:
        return False
    except PermissionError:
        return True
    # That of a finished transaction is deleted, truncated, or overwritten with zeros.
    return any(header[:8]) and (any(header[16:]) or not of_content)


def foreign_sidecar(path: str) -> CredentialDBError | None:
    """SQLite would delete what a database that was moved away has left next to this path.

    What our own creation leaves when it is killed is the journal of a database without pages.
    """
    if not path or size_of(path):
        return None
    real = os.path.realpath(path)
    sidecar = f"{real}-wal" if log_size(real) > _LOG_HEADER else f"{real}-journal"
    if sidecar.endswith("-journal") and not has_journal_to_roll_back(real, of_content=True):
        return None
    if size_of(path):  # another process was creating it
        return None
    return CredentialDBError(
        f"{path} does not exist or is empty, but {sidecar} contains changes of a database that "
        "was here before, and SQLite would delete them: move it next to that database (same name, "
        "same ending), or remove it if that database is not needed, then run again"
    )
