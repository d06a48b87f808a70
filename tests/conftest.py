"""Fixtures that every test file may use."""

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from vaults import Vault

# A raw key, in SQLCipher's own spelling: deriving one from a passphrase costs 0.1 s at each open.
# Passphrases in words are tested in test_promise_9_encrypted_files.py.
PASSPHRASE = f"x'{'5eed' * 16}'"

# A job in the background ignores Ctrl-C, and hands that down to every process of the tests.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

CommandLine = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(params=[None, PASSPHRASE], ids=["plain", "encrypted"])
def vault(request: pytest.FixtureRequest, tmp_path: Path) -> Vault:
    """A file that is still to be written, once plain and once encrypted."""
    return Vault(tmp_path / "credentials.db", request.param)


@pytest.fixture
def plain_vault(tmp_path: Path) -> Vault:
    """A plain file that is still to be written, if encryption makes no difference."""
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


@pytest.fixture
def shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[CommandLine]:
    """As ``command_line``, but in this process, which costs a tenth."""
    from credential_db import command_line as command_line_module

    directory = tmp_path / "elsewhere"
    directory.mkdir()
    loggers = [
        logging.getLogger(name)
        for name in (None, "alembic", "alembic.util.messaging", "credential_db")
    ]
    before = [(logger, logger.level, logger.handlers[:]) for logger in loggers]

    def run(
        *arguments: str, environment: Mapping[str, str] | None = None, cwd: Path = directory
    ) -> subprocess.CompletedProcess[str]:
        exit_status: Any = 0
        with monkeypatch.context() as patch:
            for name in [name for name in os.environ if name.startswith("CREDENTIAL_DB")]:
                patch.delenv(name)
            for name, value in (environment or {}).items():
                patch.setenv(name, value)
            patch.chdir(cwd)
            try:
                command_line_module.main(arguments)
            except SystemExit as end:
                exit_status = end.code
        return subprocess.CompletedProcess(arguments, exit_status, *capsys.readouterr())

    yield run
    logging.disable(logging.NOTSET)
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite-messages", action="store_true", help="write tests/messages.txt as it is now"
    )
