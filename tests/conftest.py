"""Fixtures that every test file may use."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from vaults import Vault

# A raw key, in SQLCipher's own spelling: deriving one from a passphrase costs 0.1 s at each open.
# Passphrases in words are tested in test_encrypted_vaults.py.
PASSPHRASE = f"x'{'5eed' * 16}'"

CommandLine = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(params=[None, PASSPHRASE], ids=["plain", "encrypted"])
def vault(request: pytest.FixtureRequest, tmp_path: Path) -> Vault:
    """A file that is still to be written, once plain and once encrypted."""
    return Vault(tmp_path / "credentials.db", request.param)


@pytest.fixture
def plain_vault(tmp_path: Path) -> Vault:
    """A plain file that is still to be written, where encryption makes no difference."""
    return Vault(tmp_path / "credentials.db")


@pytest.fixture
def command_line(tmp_path: Path) -> CommandLine:
    """Run ``credential-db`` in a process and an empty directory of its own."""
    directory = tmp_path / "somewhere else"
    directory.mkdir()

    def run(
        *arguments: str, environment: Mapping[str, str] | None = None, cwd: Path = directory
    ) -> subprocess.CompletedProcess[str]:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("CREDENTIAL_DB")}
        return subprocess.run(
            [sys.executable, "-m", "credential_db", *arguments],
            env={**inherited, **(environment or {})},
            cwd=cwd,
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    return run
