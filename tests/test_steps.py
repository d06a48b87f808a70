"""Every migration has a test file of its own, which this asks for by name."""

from pathlib import Path

import pytest

from credential_db import SCHEMA_VERSION


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION + 1))
def test_every_step_has_a_test(version: int) -> None:
    name = f"test_step_v{version}.py"
    assert Path(__file__).with_name(name).exists(), (
        f"write tests/{name}: insert rows at version {version - 1}, step to v{version}, compare, "
        f"and back; tests/test_step_v2.py shows how"
    )
