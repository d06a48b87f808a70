"""The command ``credential-db``: its verbs, options, help and exit statuses, and ``main``.

``status``, ``--help``, ``--version``, and ``upgrade`` on a current file import neither Alembic nor
SQLAlchemy.
"""

import contextlib
import io
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from credential_db.errors import KeyConversionError
from credential_db.head import SCHEMA_VERSION
from credential_db.sqlite import errors
from credential_db.sqlite.errors import CredentialDBError

DEFAULT_FILE = "credentials.db"  # as in alembic.ini


class UsageError(CredentialDBError):
    """The command line is wrong, including a wrong ``-x``."""


class NotUpToDate(CredentialDBError):
    """The database is not at the head, and the command is not one that changes it."""


EXIT_STATUSES: tuple[tuple[int, type[BaseException] | tuple[()], str], ...] = (
    (0, (), "success (status: current)"),
    (1, (), "other failure"),
    (2, UsageError, "usage error"),
    (3, NotUpToDate, "not up to date"),
    (4, errors.SchemaTooNew, "written by a newer release"),
    (5, errors.UnrecognizedSchema, "schema not recognised"),
    (6, KeyConversionError, "keys cannot be converted"),
    (7, errors.DatabaseBusy, "locked by another program"),
    (8, errors.NotADatabase, "no database, damaged, encrypted"),
    (9, errors.ReadOnlyDatabase, "cannot be written"),
    (130, KeyboardInterrupt, "interrupted"),
    (141, BrokenPipeError, "output closed"),
)


class Verb(NamedTuple):
    """A verb of the command line."""

    files: str  # what follows it; ARGS... is for Alembic to read
    summary: str  # empty for a verb of Alembic's that the help does not show
    options: tuple[str, ...] = ()  # besides the common ones
    alembic: tuple[str, ...] = ()  # if one of these is used, Alembic runs it


# Each option with what follows it, and its help.
OPTIONS = {
    "--to": (" VERSION", "1, v1, head (the newest), base (no tables), +1 or -1"),
    "--backup": ("[=COPY]", "first copy the vault to COPY, or to FILE.v1.DATE.bak"),
    "--dry-run": ("", "do and check everything, then roll it back"),
    "--repair": ("", "restore constraints that the tables have lost"),
    "--no-create": ("", "fail (8) if FILE does not exist, instead of creating it"),
    "--purge": ("", "replace the version even if it is unreadable"),
    "--json": ("", "print one JSON object per file, each on one line"),
    "--db": (" FILE", "the same as FILE"),
    "--timeout": (" SECONDS", "wait that long for locks of other programs (30)"),
    "-x": (" NAME=VALUE", "an option as alembic takes it: -x db=FILE"),
    "--quiet": ("", "-q: print only warnings and failures"),
    "--version": ("", "-V: print the release"),
    "--help": ("", "-h: print the help; after a verb, that of the verb"),
}
SHORT = {"--quiet": "-q", "--version": "-V", "--help": "-h"}
COMMON = ("--db", "--timeout", "-x", "--quiet", "--version", "--help")
WITH_VALUE = ("--tag", "-r", "--rev-range")  # of Alembic's options
_CHANGE = ("--to", "--backup", "--dry-run")
_UPGRADE = (*_CHANGE, "--repair", "--no-create", "--json")
_STAMP = (*_CHANGE, "--purge")
_SCRIPT = ("--sql", "--tag")
_VERBOSE = ("-v", "--verbose")
_RANGE = ("-r", "--rev-range", "-i", "--indicate-current")
VERBS = {
    "status": Verb("[FILE]", "say what a vault is and what blocks its upgrade", ("--json",)),
    "upgrade": Verb(
        "[FILE...]", "bring vaults to the newest version; create a missing one", _UPGRADE, _SCRIPT
    ),
    "downgrade": Verb("[FILE]", "bring a vault to the older version --to", _CHANGE, _SCRIPT),
    "check": Verb("[FILE]", "exit with 3 if the vault is not up to date"),
    "history": Verb("[FILE]", "list the versions; mark that of the vault", (), _VERBOSE + _RANGE),
    "stamp": Verb("[FILE]", "correct the version that a vault names", _STAMP, _SCRIPT),
    "alembic": Verb("ARGS...", "Alembic's own command line with the packaged scripts"),
    "current": Verb("[FILE]", "", (), (*_VERBOSE, "-c", "--check-heads")),
    "heads": Verb("[FILE]", "", (), (*_VERBOSE, "--resolve-dependencies")),
    "branches": Verb("[FILE]", "", (), _VERBOSE),
    **dict.fromkeys(
        ("edit", "ensure_version", "init", "list_templates", "merge", "revision", "show"),
        Verb("ARGS...", ""),
    ),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; end the process with its exit status unless that is 0."""
    # Python has none if it is closed, and the next file to be opened would take its place.
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115  # until the process ends
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115  # likewise
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        exit_status = _run(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
    except (CredentialDBError, KeyboardInterrupt) as error:
        exit_status = fail(error)
    except OSError as error:
        # Python would try once more to write what is left, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        where = "standard output or working directory"
        is_closed = isinstance(error, BrokenPipeError)
        exit_status = fail(error if is_closed else CredentialDBError(f"{error.strerror}: {where}"))
    if exit_status:
        sys.exit(exit_status)


def _run(arguments: Sequence[str]) -> int:
    from credential_db.arguments import read

    try:
        line = read(arguments)
    except UsageError as error:
        verb = [word for word in arguments if word in VERBS][:1]
        raise UsageError(f"{error}; see: {typed(*verb, '--help')}") from None
    if "help" in line.options:
        sys.stdout.write(help_of(line.verb) if line.verb else help_of_all())
    elif "version" in line.options:
        from credential_db import __version__

        sys.stdout.write(f"credential-db {__version__}\n")
    else:
        from credential_db import commands

        return commands.run(line)
    return 0


def help_of(verb: str) -> str:
    """The help of one verb."""
    files, summary, options, _ = VERBS[verb]
    return (
        f"usage: credential-db {verb} {files} [OPTION...]\n\n"
        f"{summary[:1].upper()}{summary[1:]}.\n\n{_list(options + COMMON)}\n"
        "FILE is a path or a sqlite:/// URL; see: credential-db --help\n"
    )


def help_of_all() -> str:
    """The help of the command; it fits a screen of 40 lines of 80 columns."""
    from credential_db.snapshots import home

    verbs = [f"  {n:<9} {v.files:<9} {v.summary}\n" for n, v in VERBS.items() if v.summary]
    statuses = [f"{status:>3} {text:<33}" for status, _, text in EXIT_STATUSES]
    half = len(statuses) // 2
    rows = zip(statuses[:half], statuses[half:], strict=True)
    return (
        "usage: credential-db VERB [FILE] [OPTION...]\n\n"
        "Looks at credential vaults (SQLite files with API keys, tokens and SSH keys) and\n"
        f"brings them to the current version, {SCHEMA_VERSION}.\n\n"
        f"{''.join(verbs)}\n"
        "FILE is a path or a sqlite:/// URL. Without it, the environment variable\n"
        f"CREDENTIAL_DB names the vault; if it is not set, the vault is ./{DEFAULT_FILE}.\n\n"
        f"{_list(COMMON)}\n"
        "The passphrase of an encrypted vault is what CREDENTIAL_DB_PASSPHRASE contains,\n"
        "what the command CREDENTIAL_DB_PASSPHRASE_COMMAND prints, or the content of the\n"
        "file CREDENTIAL_DB_PASSPHRASE_FILE. Otherwise you are asked on a terminal.\n\n"
        "exit status:\n"
        f"{''.join(f'{left} {right.rstrip()}' + chr(10) for left, right in rows)}\n"
        "Guide: docs/operators.md; Ansible playbook: examples/fleet; both are in\n"
        f"{home()}\n"
    )


def _list(options: tuple[str, ...]) -> str:
    return "".join(f"  {each + OPTIONS[each][0]:<17} {OPTIONS[each][1]}\n" for each in options)


def message_of(error: BaseException, file: str = "") -> str:
    """An error on one line; it names the file, as it was typed or as a path."""
    message = " ".join(str(error).splitlines())
    return shown(message if os.path.basename(file) in message else f"{file}: {message}")


def fail(error: BaseException, file: str = "") -> int:
    """Print what ended a command as one line on standard error; return its exit status."""
    if type(error).__module__.startswith("alembic.") or "locate revision" in str(error):
        error = _of_alembic(str(error), file)
    if isinstance(error, KeyboardInterrupt):
        sys.stderr.write("interrupted\n")
    elif not isinstance(error, BrokenPipeError):
        sys.stderr.write(f"FAILED: {message_of(error, file)}\n")
    return next((status for status, kind, _ in EXIT_STATUSES if isinstance(error, kind)), 1)


@contextlib.contextmanager
def log_on_stderr(*names: str, quiet: bool, results: bool) -> Iterator[None]:
    """Show what these loggers log; without ``results``, of INFO only what is waited for."""
    import logging

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    handler.addFilter(lambda r: results or r.levelno > logging.INFO or r.module == "transaction")
    loggers = [logging.getLogger(name) for name in names]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.WARNING if quiet else logging.INFO)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)


def shown(text: str) -> str:
    """A text as one line, with escapes for what a terminal or a locale cannot show."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def typed(*words: str) -> str:
    """The command ``credential-db`` with these words, as a person can type it."""
    return shlex.join(["credential-db", *words])


def _of_alembic(message: str, file: str) -> CredentialDBError:
    # Alembic's errors name neither the file nor this command, and have no classes before 1.17.
    message = message.rstrip(".")
    if "not on all head" in message:
        upgrade = typed("upgrade", *filter(None, [file]))
        called = file or "the database"
        return NotUpToDate(f"{called} is not at version {SCHEMA_VERSION}; run: {upgrade}")
    if "New upgrade operations" in message:
        return NotUpToDate(
            f"schema.py differs from the snapshot of version {SCHEMA_VERSION} ({message}); to "
            "write the next version, run in a checkout: alembic revision --autogenerate -m MESSAGE"
        )
    if any(words in message for words in ("ocate revision", "elative revision", "ange ", "Walked")):
        message += f"; versions are v0 to v{SCHEMA_VERSION}, see: credential-db history"
    return CredentialDBError(message)
