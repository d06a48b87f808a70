"""v1 to v2, and back: a token's task becomes its subject."""

from steps import step
from vaults import Vault


def test_step(vault: Vault) -> None:
    vault.create(1, content=[])
    tokens = vault.query("SELECT * FROM proxy_tokens ORDER BY rowid")
    for revision, column in (("v2", "subject"), ("v1", "task")):
        step(vault, revision)
        assert vault.stamps() == (revision, int(revision[1:]))
        columns = f"token, scope, {column}, credential_set, provider"
        assert vault.query(f"SELECT {columns} FROM proxy_tokens ORDER BY rowid") == tokens != []
