"""What differs where a command was typed: how it logs, shows progress and fails."""

import logging.config
import sys
from collections.abc import Callable

from alembic.util import CommandError

from credential_db.remedies import end, with_remedy
from credential_db.sqlite import progress
from credential_db.sqlite.alembic_internals import context
from credential_db.sqlite.errors import CredentialDBError


def at_shell(run: Callable[[], None]) -> None:
    """Run a command of ``credential-db``, or of ``alembic`` in a checkout.

    Raises:
        SystemExit: It failed, and said so in one line on standard error: standard output, where
            Alembic says it, may be a file (``upgrade --sql > file``).
    """
    config = context.config
    if config.config_file_name:
        logging.config.fileConfig(config.config_file_name, disable_existing_loggers=False)
    if sys.stderr.isatty() and not getattr(config.cmd_opts, "quiet", False):
        progress.terminal = sys.stderr
    try:
        return run()
    except (CommandError, CredentialDBError, KeyboardInterrupt) as error:
        if getattr(config.cmd_opts, "raiseerr", False):
            raise
        file = config.attributes.get("database", "")
        failure = with_remedy(str(error), file) if isinstance(error, CommandError) else error
    sys.exit(end(failure, file))
