"""The console script ``credential-db``: ``status``, and Alembic's commands over its own scripts.

``status`` and ``--version`` import neither Alembic nor SQLAlchemy.
"""

import json
import os
import sys
from argparse import SUPPRESS, ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import credential_db
from credential_db import SCHEMA_VERSION, CredentialDBError, Status
from credential_db.interface import status_of_target
from credential_db.options import X_ARGUMENTS, options_of
from credential_db.remedies import EXIT_STATUSES, end, run_on, with_remedy
from credential_db.sqlite.target import failure_of

DEFAULT_DATABASE = "credentials.db"  # as alembic.ini says

_OF_STATE = {"current": 0, "ahead": 4, "unrecognized": 5}  # any other: 3

_COMMANDS = (
    "upgrade",
    "downgrade",
    "current",
    "check",
    "history",
    "heads",
    "branches",
    "show",
    "stamp",
)
_REFUSED = {
    **dict.fromkeys(
        ("init", "list_templates", "edit", "revision"),
        "the migration scripts stay as they are; to change the schema, work in a checkout, as "
        "docs/changing-the-schema.md there says",
    ),
    "merge": "versions are one line (v0, v1, v2, ...); of two revisions with the same number, the "
    "one that is not released takes the next",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command.

    Args:
        arguments: As on a command line; those of the process where None.

    Raises:
        SystemExit: After a failure, which is said in one line on standard error. Its status says
            which kind of failure it was; ``--help`` lists them.
    """
    # Where one is closed, Python has none, and a file that is opened would take its place.
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115  # until the process ends
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115  # likewise
    try:
        # Alembic takes -x before the command only; here it may stand anywhere.
        options, words = _parser(add_help=False, allow_abbrev=False).parse_known_args(arguments)
        exit_status = _run(options, words)
        sys.stdout.flush()
    except (CredentialDBError, KeyboardInterrupt) as error:
        exit_status = end(error)
    except OSError as error:
        # Python would try once more to write what is left, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        exit_status = 141 if isinstance(error, BrokenPipeError) else 1  # 141: as shells say it
        if exit_status == 1:
            sys.stderr.write(f"FAILED: {error.strerror}: standard output or working directory\n")
    if exit_status:
        sys.exit(exit_status)


def _parser(**settings: Any) -> ArgumentParser:
    """Of what may stand before and behind every command."""
    parser = ArgumentParser("credential-db", **settings)
    parser.add_argument("-x", action="append", metavar="NAME=VALUE", default=[], help="see below")
    parser.add_argument("-q", "--quiet", action="store_true", help="warnings and failures only")
    parser.add_argument("--version", action="store_true", help="say which release this is")
    return parser


def _run(options: Namespace, words: Sequence[str]) -> int:
    if options.version:
        sys.stdout.write(f"credential-db {credential_db.__version__}\n")
        return 0
    command = words[0] if words else ""
    in_checkout = not (Path(__file__).parent / "alembic").exists()
    if command in _REFUSED and not (command == "revision" and in_checkout):
        raise CredentialDBError(f"no {command} here: {_REFUSED[command]}")
    parser = _parser(formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--config", "-n", "--name", dest="elsewhere", help=SUPPRESS)
    commands = parser.add_subparsers(metavar="COMMAND", title="commands")
    status = commands.add_parser("status", help="Say what a database is, and change nothing.")
    status.add_argument("--json", action="store_true", help="path, state, version, head and detail")
    status.set_defaults(cmd=None)
    if command != "status":
        _add_alembic(parser, commands, (*_COMMANDS, "revision") if in_checkout else _COMMANDS)
    parser.parse_args(words, options)
    if options.elsewhere:
        parser.error("the scripts are the packaged ones, so there is no configuration to name")
    if "cmd" not in options:
        parser.error("name a command, such as: upgrade head")
    if "" in words:
        parser.error("an argument is empty: is a variable of your script not set?")
    if len(getattr(options, "revisions", ())) > 1:
        parser.error("a database is at one version: name one revision")
    return _alembic(options) if options.cmd else _status(options)


def _status(options: Namespace) -> int:
    attributes: dict[Any, Any] = {}
    target = None
    try:
        x_arguments = dict(argument.partition("=")[::2] for argument in options.x)
        if not x_arguments.keys() <= {"db", "timeout"}:
            raise CredentialDBError("status takes -x db=PATH_OR_URL and -x timeout=SECONDS alone")
        target = options_of(attributes, x_arguments, DEFAULT_DATABASE, ask=True).target
        found = status_of_target(target)
        if found.state == "empty" and not os.path.exists(target.path):
            found = found._replace(detail="the file does not exist")
    except Exception as error:
        failure = failure_of(error, target, None)
        found = Status("error", None, SCHEMA_VERSION, str(failure))
    path = os.path.abspath(attributes["database"]) if "database" in attributes else ""
    if options.json:
        sys.stdout.write(json.dumps({"path": path or None, **found._asdict()}) + "\n")
    if found.state == "error":
        raise CredentialDBError(found.detail)
    if not options.json:
        version = "none" if found.version is None else f"v{found.version}"
        text = f"{path}: {found.state} (version {version}, head v{found.head})\n{found.detail}"
        if found.state not in _OF_STATE:
            text += f"; run: {run_on(path)} upgrade head"
        sys.stdout.write(text.encode(errors="backslashreplace").decode() + "\n")
    return _OF_STATE.get(found.state, 3)


def _add_alembic(parser: ArgumentParser, commands: Any, names: Iterable[str]) -> None:
    from alembic import command
    from alembic.config import CommandLine

    alembic = CommandLine()
    alembic.subparsers = commands
    for name in names:
        alembic.register_command(getattr(command, name))
    x_arguments = "".join(f"  {text}\n" for text in X_ARGUMENTS.values())
    exit_statuses = "".join(f"  {number:<3}  {text}\n" for number, _, text in EXIT_STATUSES)
    parser.epilog = (
        f"-x, before or after the command:\n{x_arguments}"
        "Without -x db the environment variable CREDENTIAL_DB names the database, and\n"
        f"without that it is ./{DEFAULT_DATABASE}. So: credential-db -x db=PATH upgrade head\n"
        "The passphrase of an encrypted one comes from CREDENTIAL_DB_PASSPHRASE_COMMAND,\n"
        "CREDENTIAL_DB_PASSPHRASE_FILE or CREDENTIAL_DB_PASSPHRASE, else you are asked.\n\n"
        f"exit status:\n{exit_statuses}"
    )


def _alembic(options: Namespace) -> int:
    import logging

    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    from credential_db import scripts

    config = scripts.config()
    config.cmd_opts = options
    config.stdout = sys.stdout  # else that of the moment when Alembic was imported
    if options.quiet:
        logging.disable(logging.INFO)
    function, positional, by_name = options.cmd
    try:
        scripts.refuse_disorder(ScriptDirectory.from_config(config))
        function(
            config,
            *(getattr(options, name, None) for name in positional),
            **{name: getattr(options, name, None) for name in by_name},
        )
        return 0
    except CommandError as error:
        message = str(error)
    file = config.attributes.get("database", "")
    return end(with_remedy(message, file), file)
