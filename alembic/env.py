"""The adapter between Alembic's commands and the library.

``credential_db.upgrade()`` calls the same ``migrate`` with a migration context of its own, and
never loads this file.
"""

import logging.config
import sys

from alembic import context
from alembic.util import CommandError

from credential_db import alembic_commands
from credential_db.command_line import fail
from credential_db.sqlite.causes import bare, clean
from credential_db.sqlite.errors import CredentialDBError

config = context.config
options = config.cmd_opts  # None if a program calls alembic.command
is_typed = hasattr(options, "cmd")

if is_typed and config.config_file_name and config.file_config.has_section("loggers"):
    logging.config.fileConfig(config.config_file_name, disable_existing_loggers=False)


def run() -> BaseException | None:
    """Run the command; what it failed with, without any data of the database."""
    try:
        alembic_commands.run(context)
    except (CommandError, CredentialDBError) as error:
        return bare(error)
    except BaseException as error:  # such as from a program's own directives for revisions
        return clean(error, "the database") if is_typed else bare(error)
    return None


failure = run()
if failure is not None:
    if is_typed and not getattr(options, "raiseerr", False):
        sys.exit(fail(failure))
    raise failure  # outside of any except block, so that it carries no cause
