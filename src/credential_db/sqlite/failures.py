"""Turn what drivers and libraries raise into one clean error of ours.

An exception of SQLAlchemy holds statement and parameters, a traceback holds the locals of every
frame, and ``raise ... from None`` still leaves ``__context__`` behind. So an error is made anew
here, to be raised outside of any ``except`` block.
"""

import errno
import sqlite3

from credential_db.sqlite.errors import (
    CredentialDBError,
    DatabaseBusy,
    NotADatabase,
    ReadOnlyDatabase,
    UnrecognizedSchema,
)

# Their text names code, never data.
_PROGRAMMING_ERRORS = (
    AttributeError,
    ImportError,
    NameError,
    NotImplementedError,
    RecursionError,
    SyntaxError,
    Warning,
)

# What SQLite says (sqlite3ErrStr in its main.c) -> the error, and what to do about it.
_MEANINGS: tuple[tuple[str, type[CredentialDBError], str], ...] = (
    (
        "table is locked",  # by the connection itself: https://www.sqlite.org/rescode.html#locked
        DatabaseBusy,
        "a query on this connection to {database}, or on one that shares its cache, is not "
        "finished: fetch all of its rows or close its cursor, then run again",
    ),
    (
        "is locked",
        DatabaseBusy,
        "{database} is locked{holders}: wait for that program or stop it, then run again",
    ),
    (
        "file is not a database",
        NotADatabase,
        "{database} is not a SQLite database, or it is encrypted and the passphrase is missing or "
        "wrong{extra}; the file was not touched",
    ),
    (
        "malformed",
        NotADatabase,
        "{database} is damaged ({message}): restore it from a backup, or save what is left with "
        "the sqlite3 shell's .recover command; the file was not touched",
    ),
    (
        "readonly database",
        ReadOnlyDatabase,
        "{database} needs a change and cannot be written: run again as a user who may write to the "
        "file and to its directory",
    ),
    (
        "unable to open database file",
        ReadOnlyDatabase,
        "{database} cannot be opened for writing: run again as a user who may write to the file "
        "and to its directory",
    ),
    (
        "Could not decode to UTF-8",  # the rest of that message is what the cell holds
        NotADatabase,
        "{database} holds text that is not UTF-8 where none was expected; nothing was changed",
    ),
    (
        "is full",
        CredentialDBError,
        "the disk is full while working on {database}: nothing was changed; make room and run "
        "again",
    ),
    (
        "disk I/O error",
        CredentialDBError,
        "the disk failed while working on {database}: nothing was changed; check the disk, then "
        "run again",
    ),
    (
        "error in ",  # "error in view v: no such table: main.gone", and the same for triggers
        UnrecognizedSchema,
        "SQLite refuses to alter a table of {database}: {message}; repair or drop that view or "
        "trigger, then run again",
    ),
)


def is_driver_error(error: BaseException) -> bool:
    """Whether sqlite3, or a module made after it such as sqlcipher3, raised this."""
    return isinstance(error, sqlite3.Error) or any(
        base.__name__ == "Error" and hasattr(base, "__module__") and ".dbapi2" in base.__module__
        for base in type(error).__mro__
    )


def clean(error: Exception, database: str, holders: str = "", extra: str = "") -> Exception:
    """The same failure as an error without cause, context, traceback or data.

    Args:
        error: What was caught.
        database: What to call the database in the message.
        holders: Who holds the lock, to stand behind "is locked".
        extra: What else to say where the file may be encrypted.

    Returns:
        A ``CredentialDBError``; or the error itself, bare, where it is one of ours, of Alembic's
        (whose text names revisions) or of a tool that ends a command by an exception of its own.
    """
    if not _may_hold_data(error):
        error.__cause__ = error.__context__ = None
        return error.with_traceback(None)
    original = getattr(error, "orig", error)
    if is_driver_error(original):
        message = str(original)
        for fragment, kind, text in _MEANINGS:
            if fragment in message:
                return kind(
                    text.format(database=database, message=message, holders=holders, extra=extra)
                )
        return CredentialDBError(
            f"SQLite refused a statement on {database}: {message}; nothing was changed"
        )
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return ReadOnlyDatabase(
            f"{error.strerror}: {error.filename or database}; run again as a user who may write "
            "to the file and to its directory"
        )
    if isinstance(error, OSError):
        return CredentialDBError(f"{error.strerror}: {error.filename or database}")
    detail = f": {error}" if isinstance(error, _PROGRAMMING_ERRORS) else ""
    return CredentialDBError(
        f"{type(error).__name__} at {_place(error)} while working on {database}{detail}; "
        "nothing was changed"
    )


def _may_hold_data(error: Exception) -> bool:
    """Recognised by name: naming the classes would import the libraries."""
    home = type(error).__module__.partition(".")[0]
    return is_driver_error(error) or home in ("builtins", "sqlalchemy", "cryptography")


def _place(error: BaseException) -> str:
    """File and line of the innermost frame."""
    traceback = error.__traceback__
    if traceback is None:
        return "an unknown place"
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    file = traceback.tb_frame.f_code.co_filename.rpartition("/")[2]
    return f"{file}:{traceback.tb_lineno}"
