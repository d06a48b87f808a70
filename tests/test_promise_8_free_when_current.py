"""The check at process start gives up nothing: whatever is not exactly current is seen."""

from contextlib import closing

import pytest

import credential_db
from credential_db.current import is_current
from credential_db.head import COLUMNS, SCHEMA_VERSION
from vaults import Vault, keys, upgrade_to_2

HEAD = f"v{SCHEMA_VERSION}"
CHANGES = {
    **{f"without {table}": f"DROP TABLE {table}" for table in COLUMNS},
    **{
        f"{table}.{column} under another name": f"ALTER TABLE {table} RENAME COLUMN {column} TO x"
        for table, columns in COLUMNS.items()
        for column in columns
    },
    **{f"{table} with one more column": f"ALTER TABLE {table} ADD COLUMN x" for table in COLUMNS},
    "without a stamp table": "DROP TABLE alembic_version",
    "without a stamp": "DELETE FROM alembic_version",
    "two stamps": "INSERT INTO alembic_version VALUES ('v1')",
    "an older stamp": "UPDATE alembic_version SET version_num = 'v1'",
    "a newer stamp": f"UPDATE alembic_version SET version_num = 'v{SCHEMA_VERSION + 1}'",
    "somebody else's stamp": "UPDATE alembic_version SET version_num = 'ae1027a6acf'",
    "a stamp without a value": "UPDATE alembic_version SET version_num = ''",
    "an older number": "PRAGMA user_version = 1",
    "no number": "PRAGMA user_version = 0",
    "a newer number": f"PRAGMA user_version = {SCHEMA_VERSION + 1}",
}


def check(vault: Vault) -> bool:
    with closing(vault.connect()) as connection:
        connection.row_factory = lambda *_: pytest.fail("the host's row factory was called")
        return is_current(connection)


def test_a_current_file_is_current(vault: Vault) -> None:
    credential_db.upgrade(vault.path, **vault.options)
    assert check(vault)


@pytest.mark.parametrize("change", CHANGES)
def test_anything_else_is_seen(vault: Vault, change: str) -> None:
    credential_db.upgrade(vault.path, **vault.options)
    vault.execute(CHANGES[change])
    assert not check(vault)


@pytest.mark.parametrize("table", COLUMNS)
def test_a_table_of_another_kind_of_content_is_still_current(vault: Vault, table: str) -> None:
    """Rows are never read."""
    credential_db.upgrade(vault.path, **vault.options)
    columns = ", ".join("1" for _ in COLUMNS[table])
    with closing(vault.connect()) as connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute(f"INSERT INTO {table} VALUES ({columns})")
        connection.commit()
    assert check(vault)


def test_an_upgrade_asks_everything_once(plain_vault: Vault) -> None:
    """The definitions are read at once and handed on, not asked for table by table."""
    sent: list[str] = []
    plain_vault.create(1, content=keys(2))
    with closing(plain_vault.connect()) as connection:
        connection.set_trace_callback(sent.append)
        upgrade_to_2(connection)
        connection.set_trace_callback(None)
    own = [statement for statement in sent if not statement.startswith("--")]  # SQLite's own
    assert any("RENAME COLUMN" in statement for statement in own)
    assert len(own) <= 100, f"who asks again? These were 210 once:\n{chr(10).join(own)}"
