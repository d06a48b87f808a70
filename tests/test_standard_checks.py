"""The checks that every Alembic project should pass, from pytest-alembic."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from pytest_alembic import Config
from pytest_alembic.tests import (
    test_model_definitions_match_ddl,
    test_single_head_revision,
    test_up_down_consistency,
    test_upgrade,
)

from credential_db import revisions
from vaults import ed25519_key

__all__ = [
    "test_model_definitions_match_ddl",
    "test_single_head_revision",
    "test_up_down_consistency",
    "test_upgrade",
]

KEY = ed25519_key(0)
# Inserted before the revision that converts them; the downgrade to base refuses to drop rows.
ROWS: dict[str, Any] = {
    "before_revision_data": {
        "v1": {
            "__tablename__": "ssh_keys",
            "key_type": KEY.key_type,
            "private_pem": KEY.pem,
            "public_blob": KEY.public_blob,
            "fingerprint": KEY.fingerprint(0),
        }
    },
    "minimum_downgrade_revision": "v0",
}


@pytest.fixture(params=[{}, ROWS], ids=["empty", "with rows"])
def alembic_config(request: pytest.FixtureRequest) -> Config:
    return Config(alembic_config=revisions.config(), **request.param)


@pytest.fixture
def alembic_engine(tmp_path: Path) -> Iterator[sqlalchemy.Engine]:
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path / 'credentials.db'}")
    yield engine
    engine.dispose()
