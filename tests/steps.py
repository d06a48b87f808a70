"""One step of the history, on a file: what tests/test_step_vN.py are written with."""

from alembic import command

from credential_db import scripts
from credential_db.sqlite.stamps import version_of
from vaults import Vault


def step(vault: Vault, revision: str) -> None:
    """Upgrade or downgrade a file to a revision."""
    config = scripts.config()
    config.attributes["passphrase"] = vault.passphrase
    config.set_main_option("sqlalchemy.url", str(vault.path).replace("%", "%%"))
    target = version_of(revision)
    assert target is not None, f"{revision} is no revision"
    up = vault.value("PRAGMA user_version") <= target  # as from none to v0
    (command.upgrade if up else command.downgrade)(config, revision)
