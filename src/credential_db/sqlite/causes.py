"""Turn whatever drivers, libraries and applications raise into one clean error of ours.

An exception of SQLAlchemy contains statement and parameters, a traceback the locals of each frame,
and ``raise ... from None`` leaves ``__context__`` behind. So an error is recreated here, to be
raised outside of any ``except`` block. Of a text that may contain data, only the kind is told.
"""

import contextlib
import errno
import os
import traceback

from credential_db.sqlite.connections import connect, sqlcipher
from credential_db.sqlite.driver import error_name, is_driver_error
from credential_db.sqlite.errors import (
    CredentialDBError,
    DatabaseBusy,
    NotADatabase,
    ReadOnlyDatabase,
    UnrecognizedSchema,
)
from credential_db.sqlite.files import size_of
from credential_db.sqlite.obstacles import cannot_write, word

# Of these, and of no class derived from them, the text names code, never data.
_PROGRAMMING = (AttributeError, ImportError, ModuleNotFoundError, NameError, RecursionError)
_OF_ALEMBIC = ("alembic.util.exc", "alembic.script.revision")  # they name revisions and files
_CONSTRAINTS = ("UNIQUE con", "CHECK con", "NOT NULL con", "FOREIGN KEY con", "cannot store")
_REMEDIES = {  # by a part of the name or text of an error without a class of its own
    "SQLITE_FULL": "; make room, then run again",
    "SQLITE_IOERR": "; check the disk, quotas and file size limits, then run again",
    "error in ": "; repair or drop that object, then run again",  # error in view v: no such table
    "UNIQUE constraint": "; rows have the same values there: repair or delete them, then run again",
    " already ": "; rename or drop yours, then run again",
    **dict.fromkeys(
        ("no such function", "no such collation", "no such module"),
        "; pass the open connection of the application that defines it",
    ),
}


def clean(
    error: BaseException, database: str, *, path: str = "", passphrase: bool = False
) -> BaseException:
    """The same failure as an error of ours without data; an interrupt stays one, but bare."""
    if isinstance(error, CredentialDBError) or not isinstance(error, Exception):
        return bare(error)
    original = vars(error).get("orig", error)  # wrapped by SQLAlchemy
    if isinstance(original, Exception) and is_driver_error(original):
        return _of_driver(original, database, path, passphrase)
    if isinstance(error, OSError):
        return _of_system(error, database)
    text = " ".join(str(error).split("\n"))
    if isinstance(error, UnicodeEncodeError):  # sqlite3 takes no such statement
        return UnrecognizedSchema(
            f"a table, index, view or trigger of {database} has a name or a text that is not "
            "UTF-8: drop or rename it, then run again; nothing was changed"
        )
    if type(error).__module__ in _OF_ALEMBIC:
        return CredentialDBError(text)
    detail = f": {text}" if type(error) in _PROGRAMMING else ""
    place = "an unknown place"
    for frame in traceback.extract_tb(error.__traceback__):  # the last is the innermost
        place = f"{os.path.basename(frame.filename)}:{frame.lineno}"
    return CredentialDBError(
        f"{type(error).__name__} at {place} while working on {database}{detail}; nothing was "
        "changed"
    )


def bare(error: BaseException) -> BaseException:
    """An error without what it came from; its traceback would show the locals of every frame."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def known_text(error: BaseException) -> str:
    """What an error of a driver says, if that can contain no data; otherwise its kind."""
    name, text = error_name(error), " ".join(str(error).split("\n"))
    is_drivers_own = type(error).__module__.rpartition(".")[2] in ("sqlite3", "dbapi2")
    has_data = text.startswith("Could not decode") or "JSON" in text or name.endswith("TRIGGER")
    if type(error).__name__ == "IntegrityError":  # a trigger's RAISE can say anything
        has_data = has_data or not text.startswith(_CONSTRAINTS)
    if is_drivers_own and not has_data:
        return text
    return name or type(error).__name__


def _of_driver(error: Exception, database: str, path: str, passphrase: bool) -> CredentialDBError:
    """The names of SQLite's errors: https://www.sqlite.org/rescode.html."""
    name, text = error_name(error), known_text(error)
    if name == "SQLITE_NOTADB":
        return NotADatabase(f"{database} {_not_a_database(path, passphrase)}")
    if name.startswith("SQLITE_CORRUPT"):
        return NotADatabase(
            f"{database} is damaged ({text}): restore it from a backup, or save what is left with "
            "the sqlite3 shell's .recover command"
        )
    if name.startswith(("SQLITE_BUSY", "SQLITE_PROTOCOL")):
        look = f" (to see which: lsof {word(path)}, or fuser -v)" if path else ""
        return DatabaseBusy(
            f"{database} is locked by another program{look}: wait for it or stop it, then run again"
        )
    if name.startswith("SQLITE_LOCKED"):
        return DatabaseBusy(
            f"a query on this connection to {database}, or on one that shares its cache, is "
            "unfinished: fetch all of its rows or close its cursor, then run again"
        )
    if name.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_IOERR_DELETE")):
        return (_not_opened(path) if path else None) or ReadOnlyDatabase(
            f"SQLite cannot write to {database} or to a file next to it ({text}), although their "
            "permissions allow it: was the file moved, or is this connection read-only? Otherwise "
            "check file attributes (lsattr), ulimit -n and the log of the security module"
        )
    remedy = next((_REMEDIES[part] for part in _REMEDIES if part in f"{name} {text}"), "")
    kind = UnrecognizedSchema if text.startswith("error in ") else CredentialDBError
    return kind(f"SQLite could not work on {database}: {text}; nothing was changed{remedy}")


def _not_a_database(path: str, passphrase: bool) -> str:
    if path and size_of(path) % 512:  # bytes of the smallest page
        return "is not a SQLite database, or it is damaged: its size is not a multiple of 512 bytes"
    if passphrase:
        with contextlib.suppress(Exception):
            if path:  # asked of SQLCipher's own SQLite: open() would drop this process's locks
                connect(path, module=sqlcipher(), mode="ro&immutable=1").close()
                return "is not encrypted, and a passphrase was given: run again without it"
        return (
            "cannot be decrypted with this passphrase. If the passphrase is right, the file is "
            "damaged, not a SQLCipher database, or was created by an older SQLCipher: convert it "
            "once with PRAGMA cipher_migrate"
        )
    remedy = "give its passphrase, for example with CREDENTIAL_DB_PASSPHRASE_FILE or passphrase="
    try:
        sqlcipher()
    except CredentialDBError as missing:
        remedy = str(missing)
    return f"is not a SQLite database, or it is encrypted: {remedy}"


def _not_opened(path: str) -> CredentialDBError | None:
    if found := cannot_write(path, failed=True):
        return found
    if not os.path.exists(path):
        return NotADatabase(f"{path} does not exist: check the path")
    # https://www.sqlite.org/tempfiles.html#temporary_file_storage_locations
    named = [os.environ.get(name) for name in ("SQLITE_TMPDIR", "TMPDIR")]
    places = filter(None, (*named, "/var/tmp", "/usr/tmp", "/tmp", "."))  # noqa: S108
    if any(os.access(place, os.W_OK | os.X_OK) for place in places):
        return None
    return CredentialDBError(
        f"there is no directory for the temporary files that SQLite needs for {path}: set "
        "SQLITE_TMPDIR to a directory in which you may create files"
    )


def _of_system(error: OSError, database: str) -> CredentialDBError:
    file = error.filename if isinstance(error.filename, str) else database
    reason = os.strerror(error.errno) if error.errno else type(error).__name__
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        found = cannot_write(file)
        return found or ReadOnlyDatabase(f"{reason}: {file}; run as a user who may write there")
    no_room = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return CredentialDBError(f"{reason}: {file}{_REMEDIES['SQLITE_FULL'] if no_room else ''}")
