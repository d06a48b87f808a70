"""The checks that every Alembic project should pass, from pytest-alembic."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy
from pytest_alembic import Config
from pytest_alembic.tests import (
    test_model_definitions_match_ddl,
    test_single_head_revision,
    test_up_down_consistency,
    test_upgrade,
)

from credential_db import scripts

__all__ = [
    "test_model_definitions_match_ddl",
    "test_single_head_revision",
    "test_up_down_consistency",
    "test_upgrade",
]


@pytest.fixture
def alembic_config() -> Config:
    return Config(alembic_config=scripts.config())


@pytest.fixture
def alembic_engine(tmp_path: Path) -> Iterator[sqlalchemy.Engine]:
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path / 'credentials.db'}")
    yield engine
    engine.dispose()
