"""One step of the history, on a file: tests/test_step_vN.py are written with it."""

from credential_db import api
from credential_db.sqlite.stamps import version_of
from vaults import Vault


def step(vault: Vault, revision: str) -> None:
    """Upgrade or downgrade a file to a revision."""
    target = version_of(revision)
    assert target is not None, f"{revision} is not a revision"
    up = vault.value("PRAGMA user_version") <= target  # also from none to v0
    api.change(
        vault.path,
        command="upgrade" if up else "downgrade",
        to=revision,
        passphrase=vault.passphrase,
    )
