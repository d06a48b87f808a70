"""The console script ``credential-db``: Alembic's own command line over the packaged scripts."""

from collections.abc import Sequence

from alembic.config import CommandLine, Config

from credential_db import scripts
from credential_db.options import X_ARGUMENTS

DESCRIPTION = "Alembic's command line over the schema of a credential vault."
EPILOG = (
    f"{'. '.join(X_ARGUMENTS.values())}. Without -x db, the environment variable CREDENTIAL_DB "
    "names the database, and without that it is ./credentials.db. Put -x before the command: "
    "credential-db -x db=PATH upgrade head"
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one of Alembic's commands.

    Args:
        arguments: As on a command line; those of the process where None.

    Raises:
        SystemExit: With a status other than 0 after a failure, which is printed as one line.
    """
    command_line = CommandLine(prog="credential-db")
    parser = command_line.parser
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    options = parser.parse_args(arguments)
    if not hasattr(options, "cmd"):
        parser.error("name a command, such as: upgrade head")
    if options.config:
        parser.error("the scripts are the packaged ones, so there is no configuration to name")
    ini_file = scripts.config().config_file_name
    command_line.run_cmd(Config(ini_file, ini_section=options.name, cmd_opts=options), options)
