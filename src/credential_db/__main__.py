"""``python -m credential_db`` is ``credential-db``."""

from credential_db.command_line import main

main()
