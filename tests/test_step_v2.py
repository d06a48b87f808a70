"""v1 to v2, and back: a token's task becomes its subject."""

from steps import step
from vaults import Vault

TOKENS = [
    ("phantom-1", "a scope", "a task", "default", "github"),
    ("phantom-2", "", "", "", ""),
    (None, "SQLite allows NULL in a TEXT PRIMARY KEY", "\u00fc\n\U0001f511", "c", "p"),
]


def test_step(vault: Vault) -> None:
    vault.create(1)
    for row in TOKENS:
        vault.execute(("INSERT INTO proxy_tokens VALUES (?, ?, ?, ?, ?)", row))

    step(vault, "v2")

    assert vault.stamps() == ("v2", 2)
    columns = "token, scope, subject, credential_set, provider"
    assert vault.query(f"SELECT {columns} FROM proxy_tokens ORDER BY rowid") == TOKENS

    step(vault, "v1")

    assert vault.stamps() == ("v1", 1)
    columns = "token, scope, task, credential_set, provider"
    assert vault.query(f"SELECT {columns} FROM proxy_tokens ORDER BY rowid") == TOKENS
