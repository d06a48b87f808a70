"""Turn whatever drivers, libraries and hosts raise into one clean error of ours.

An exception of SQLAlchemy holds statement and parameters, a traceback holds the locals of every
frame, and ``raise ... from None`` still leaves ``__context__`` behind. So an error is made anew
here, to be raised outside of any ``except`` block; and of a text that is not known to be free of
data, only the kind is told.
"""

import errno
import os
import re

from credential_db.sqlite.driver import error_name, is_driver_error, is_drivers_own
from credential_db.sqlite.errors import (
    CredentialDBError,
    DatabaseBusy,
    NotADatabase,
    ReadOnlyDatabase,
    UnrecognizedSchema,
)

# Of these, and of no class made from them, the text names code, never data.
_PROGRAMMING_ERRORS = (
    AttributeError,
    ImportError,
    ModuleNotFoundError,
    NameError,
    RecursionError,
    UnboundLocalError,
)
_OF_ALEMBIC = ("alembic.util.exc", "alembic.script.revision")  # they name revisions and files


# What the names of SQLite's errors begin with (https://www.sqlite.org/rescode.html), what to raise
# and what to say.
_MEANINGS: dict[str, tuple[type[CredentialDBError], str]] = {
    "SQLITE_LOCKED": (
        DatabaseBusy,
        "a query on this connection to {database}, or on one that shares its cache, is not "
        "finished: fetch all of its rows or close its cursor, then run again",
    ),
    "SQLITE_BUSY": (
        DatabaseBusy,
        "{database} is locked{holders}: wait for that program or stop it, then run again",
    ),
    "SQLITE_NOTADB": (
        NotADatabase,
        "{database} is not a SQLite database, or it is encrypted and the passphrase is missing or "
        "wrong{extra}; the file was not touched",
    ),
    "SQLITE_CORRUPT": (
        NotADatabase,
        "{database} is damaged ({name}): restore it from a backup, or save what is left with "
        "the sqlite3 shell's .recover command; the file was not touched",
    ),
    "SQLITE_READONLY": (
        ReadOnlyDatabase,
        "{database} needs a change and cannot be written: run again as a user who may write to the "
        "file and to its directory",
    ),
    "SQLITE_CANTOPEN": (
        ReadOnlyDatabase,
        "{database} cannot be opened for writing: run again as a user who may write to the file "
        "and to its directory",
    ),
    "SQLITE_FULL": (
        CredentialDBError,
        "the disk is full while working on {database}: nothing was changed; make room and run "
        "again",
    ),
    "SQLITE_IOERR": (
        CredentialDBError,
        "the disk failed while working on {database}: nothing was changed; check the disk, then "
        "run again",
    ),
    "SQLITE_INTERRUPT": (
        CredentialDBError,
        "the work on {database} was interrupted by its own program: nothing was changed",
    ),
    "SQLITE_AUTH": (
        CredentialDBError,
        "the authorizer of this connection to {database} forbids what an upgrade does: nothing was "
        "changed; hand in a connection without one",
    ),
    "SQLITE_NOMEM": (
        CredentialDBError,
        "memory ran out while working on {database}: nothing was changed; run again",
    ),
}

# Text of SQLite's, or of its Python module, that names objects of the schema and nothing else. A
# trigger's RAISE, an extension, or a function or class of the host's may say anything.
_NAMES_OBJECTS = re.compile(
    r"error in (view|trigger|index|table) .+"
    r"|no such (table|column|function|module|index|view|trigger|collation sequence|savepoint): .+"
    r"|(table|index|view|trigger) \S+ (already exists|may not be \w+|has .+)"
    r"|there is already (an? \w+ named|another table or index with this name:?) .+"
    r"|duplicate column name: .+|foreign key mismatch - .+|unable to use function .+"
    r"|cannot (VACUUM|add|commit|drop|modify|rollback|start) .+"
    r"|cannot store \w+ value in \w+ column .+"
    r"|user-defined function raised exception|too many .+|sub-select returns .+"
    r"|near \".+\": syntax error"
)
_OF_THE_MODULE = re.compile(
    r"Cannot operate on a closed database\."
    r"|SQLite objects created in a thread can only be used in that same thread\..+"
)
_NAMES_CONSTRAINT = re.compile(
    r"(UNIQUE|NOT NULL|CHECK) constraint failed: .+|FOREIGN KEY constraint failed"
    r"|cannot store \w+ value in \w+ column .+"
)
_MAY_SAY_ANYTHING = ("SQLITE_CONSTRAINT_TRIGGER", "SQLITE_CONSTRAINT_FUNCTION")


def clean(error: BaseException, database: str, holders: str = "", extra: str = "") -> BaseException:
    """The same failure as an error without cause, context, traceback or data.

    Args:
        error: What was caught.
        database: What to call the database in the message.
        holders: Who holds the lock, to stand behind "is locked".
        extra: What else to say where the file may be encrypted.

    Returns:
        A ``CredentialDBError``; or the error itself, bare, where it is one of ours, or none that
        an ``except Exception`` would catch (an interrupt, say, or an exit).
    """
    if isinstance(error, CredentialDBError) or not isinstance(error, Exception):
        return bare(error)
    original = vars(error).get("orig", error)  # which SQLAlchemy has wrapped
    if isinstance(original, BaseException) and is_driver_error(original):
        return _of_driver(original, database, holders, extra)
    return _of_python(error, database)


def bare(error: BaseException) -> BaseException:
    """An error without what it came from; its traceback would show the locals of every frame."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def _of_python(error: Exception, database: str) -> CredentialDBError:
    if isinstance(error, UnicodeError):
        return NotADatabase(
            f"{database} holds a name or a definition that is not UTF-8, which cannot be passed "
            "on: rename or drop it, then run again; nothing was changed"
        )
    if isinstance(error, OSError):
        number = error.errno if isinstance(error.errno, int) else 0
        reason = os.strerror(number) if number else type(error).__name__
        message = f"{reason}: {error.filename or database}"
        if number in (errno.EACCES, errno.EPERM, errno.EROFS):
            return ReadOnlyDatabase(
                f"{message}; run again as a user who may write to the file and to its directory"
            )
        return CredentialDBError(message)
    if type(error).__module__ in _OF_ALEMBIC:
        return CredentialDBError(_one_line(str(error)))
    detail = f": {error}" if type(error) in _PROGRAMMING_ERRORS else ""
    return CredentialDBError(
        f"{type(error).__name__} at {_place(error)} while working on {database}"
        f"{_one_line(detail)}; nothing was changed"
    )


def _of_driver(error: BaseException, database: str, holders: str, extra: str) -> CredentialDBError:
    name, message = error_name(error), _one_line(str(error))
    if message.startswith("Could not decode to UTF-8"):  # the rest is what the cell holds
        return NotADatabase(
            f"{database} holds text that is not UTF-8 where none was expected; nothing was changed"
        )
    for beginning, (kind, text) in _MEANINGS.items():
        if name.startswith(beginning):
            return kind(text.format(database=database, name=name, holders=holders, extra=extra))
    known = known_text(error)
    if known.startswith("error in "):  # "error in view v: no such table: main.gone"
        return UnrecognizedSchema(
            f"SQLite refuses to alter a table of {database}: {known}; repair or drop that object, "
            "then run again"
        )
    remedy = "; rename or drop yours, then run again" if " already " in known else ""
    if known.startswith("UNIQUE constraint failed"):
        remedy = "; rows have the same values there: repair or delete them, then run again"
    return CredentialDBError(
        f"SQLite refused a statement on {database}: {known}{remedy}; nothing was changed"
    )


def known_text(error: BaseException) -> str:
    """What an error says, if that is known to hold no data; else what kind of error it is."""
    name = error_name(error)
    message = _one_line(str(error))
    known = _NAMES_OBJECTS if name else _OF_THE_MODULE
    if name.startswith("SQLITE_CONSTRAINT"):
        known = _NAMES_CONSTRAINT
    if is_drivers_own(error) and name not in _MAY_SAY_ANYTHING and known.fullmatch(message):
        return message
    return name or type(error).__name__


def _one_line(text: str) -> str:
    return " ".join(text.split("\n"))


def _place(error: BaseException) -> str:
    """File and line of the innermost frame."""
    traceback = error.__traceback__
    if traceback is None:
        return "an unknown place"
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    file = traceback.tb_frame.f_code.co_filename.rpartition("/")[2]
    return f"{file}:{traceback.tb_lineno}"
