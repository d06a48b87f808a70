"""What would stop a change of a file, as far as its file system can tell.

Each obstacle is a function that returns an error with its cause and remedy, or None.
"""

import contextlib
import os
import stat
from collections.abc import Iterator

from credential_db.sqlite.errors import CredentialDBError, ReadOnlyDatabase
from credential_db.sqlite.files import SIDECARS, foreign_sidecar, mode_of, stat_if_exists, warn

_LONGEST_PATH = 512 - len("-journal")  # bytes: MAX_PATHNAME in SQLite's os_unix.c


def obstacles(path: str) -> Iterator[CredentialDBError]:
    """Everything about a file, or about the place of a missing one, that would stop a change."""
    path = os.path.realpath(path)
    with contextlib.suppress(PermissionError):  # of a closed directory: cannot_write tells
        sidecars = (_sidecar(path, path + ending) for ending in SIDECARS)
        yield from filter(None, [foreign_sidecar(path), _hard_links(path), *sidecars])
    if denied := cannot_write(path):
        yield denied


def cannot_write(path: str, *, failed: bool = False) -> CredentialDBError | None:
    """What prevents this user from writing to a file, or to the place of a missing one.

    Unless SQLite has failed to write, it can do without the directory if it has its sidecars.
    """
    path = os.path.realpath(path)
    wanted, name = os.path.split(path)
    directory = _existing(wanted)
    if not os.access(directory, os.X_OK):
        return _denied(directory, f"reach {path}", "name another file")
    longest = os.pathconf(directory, "PC_NAME_MAX") - len("-journal")
    if len(os.fsencode(name)) > longest or len(os.fsencode(path)) > _LONGEST_PATH:
        return CredentialDBError(
            f"{path} is too long a name for SQLite, which adds -journal to it: use a name of at "
            f"most {longest} bytes, and a path of at most {_LONGEST_PATH}"
        )
    database = stat_if_exists(path)
    sidecars = [path + ending for ending in SIDECARS if os.path.lexists(path + ending)]
    for file in (path, *sidecars):
        if database and os.path.exists(file) and not os.access(file, os.R_OK | os.W_OK):
            owner = os.getuid() if file == path else database.st_uid
            verb = "write to it" if os.access(file, os.R_OK) else "read it"
            return _denied(file, verb, f"run: sudo chown {_user(owner)} {word(file)}")
    if os.access(directory, os.W_OK) or (sidecars and not failed):
        return None
    remedy = f"run: sudo chown {_user(os.getuid())} {word(directory)}"
    if directory != wanted:
        remedy = f"run: sudo install -d -m 700 -o {_user(os.getuid())} {word(wanted)}"
    return _denied(directory, f"create {path} or SQLite's files next to it", remedy)


def _existing(directory: str) -> str:
    return directory if os.path.isdir(directory) else _existing(os.path.dirname(directory))


def _denied(path: str, verb: str, remedy: str) -> CredentialDBError:
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        return ReadOnlyDatabase(f"{path} is on a file system that is mounted read-only")
    found, user = os.stat(path), os.getuid()
    remedy = f"run as {_user(found.st_uid)}, or {remedy}"
    if found.st_uid == user:
        remedy = f"run: chmod u+rwX {word(path)}"
    return ReadOnlyDatabase(
        f"{path} belongs to user {_user(found.st_uid)} (mode {mode_of(found):04o}), and user "
        f"{_user(user)} may not {verb}: {remedy}"
    )


def _user(uid: int) -> str:
    """The name of a user, or the number of one without a name."""
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def word(path: str) -> str:
    """A path as a word of a shell."""
    import shlex

    return shlex.quote(path)


def _hard_links(path: str) -> CredentialDBError | None:
    """https://www.sqlite.org/howtocorrupt.html#_multiple_links_to_the_same_file."""
    found = stat_if_exists(path)
    if not found or found.st_nlink == 1:
        return None
    return CredentialDBError(
        f"{path} has {found.st_nlink} names (hard links), and SQLite finds its journal under one "
        "of them only: find them with find -samefile, remove the others, then run again"
    )


def _sidecar(path: str, sidecar: str) -> CredentialDBError | None:
    database, found = stat_if_exists(path), stat_if_exists(sidecar, follow_symlinks=False)
    if not found:
        return None
    uid, kind = os.geteuid(), ""
    if stat.S_ISLNK(found.st_mode):
        kind = "is a symbolic link"
    elif found.st_uid not in (database.st_uid if database else uid, uid, 0):
        kind = f"belongs to user {_user(found.st_uid)}"
    elif database and _is_wider(found, database) and uid not in (0, found.st_uid):
        kind = f"has mode {mode_of(found):04o} and belongs to user {_user(found.st_uid)}"
    if not kind:
        return None
    return CredentialDBError(
        f"{sidecar} {kind}, so that others could read what SQLite writes to it: remove it if no "
        "program uses the database, then run again"
    )


def _is_wider(found: os.stat_result, database: os.stat_result) -> bool:
    return bool(mode_of(found) & ~mode_of(database))


def tighten_sidecars(path: str) -> None:
    """Take from each sidecar the permissions that its database does not give, with a warning."""
    path = os.path.realpath(path)
    database = os.stat(path)
    for sidecar in (path + ending for ending in SIDECARS):
        found = stat_if_exists(sidecar)
        if found and _is_wider(found, database):
            with contextlib.suppress(FileNotFoundError):
                os.chmod(sidecar, mode_of(found) & mode_of(database))
            warn(f"more users could read {sidecar} than its database: its mode was changed")


def warnings(path: str) -> Iterator[str]:
    """What blocks nothing, and can damage the file all the same."""
    path = os.path.realpath(path)
    # https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html: \040 is a space
    escapes = str.maketrans({character: f"\\{ord(character):03o}" for character in " \t\n\\"})
    points: list[str] = []
    with (
        contextlib.suppress(OSError),  # not on Linux
        open("/proc/self/mountinfo", errors="surrogateescape") as mounts,
    ):
        points = [line.split(" ")[4] for line in mounts]
    if path.translate(escapes) in points:
        yield (
            f"{path} is itself a mount point, so that its -journal and -wal are not on the same "
            "mount: if they are lost with their container, the file is damaged; mount the "
            "directory instead"
        )
