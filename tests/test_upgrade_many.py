"""examples/upgrade_many.py: many vaults on one host."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pytest

import credential_db
from vaults import STAMPS, Vault, keys

CHECKOUT = Path(__file__).parents[1]
PROGRAM = [sys.executable, str(CHECKOUT / "examples" / "upgrade_many.py")]


def run(directory: Path, *arguments: str, names: bytes = b"") -> subprocess.CompletedProcess[str]:
    result = subprocess.run(
        [*PROGRAM, *arguments], cwd=directory, input=names, capture_output=True, check=False
    )
    output, errors = (os.fsdecode(text) for text in (result.stdout, result.stderr))
    return subprocess.CompletedProcess(result.args, result.returncode, output, errors)


@pytest.fixture
def tenants(tmp_path: Path) -> dict[str, Vault]:
    """Vaults of three versions, and what is none."""
    found = {name: Vault(tmp_path / f"{name}.db") for name in ("v0", "v1", "current", "garbage")}
    found["v0"].create(0, content=keys(2))
    found["v1"].create(1, content=keys(1))
    credential_db.upgrade(found["current"].path)
    found["garbage"].path.write_bytes(b"no database " * 100)
    return found


def test_a_failure_is_one_line_and_holds_up_no_other(
    tenants: dict[str, Vault], tmp_path: Path
) -> None:
    names = [*(f"{name}.db" for name in tenants), "missing.db"]
    first = run(tmp_path, *names)
    assert first.stdout == "5 vaults: 2 upgraded, 1 already current, 2 failed\n", first.stderr
    assert first.returncode == 1
    assert [line.split(":")[0] for line in first.stderr.splitlines()] == [
        "garbage.db",
        "missing.db",
    ]
    assert not (tmp_path / "missing.db").exists(), "a mistyped path has become a vault"
    assert {tenants[name].stamps() for name in ("v0", "v1", "current")} == {STAMPS}

    second = run(tmp_path, *names[:3])
    assert second.stdout == "3 vaults: 0 upgraded, 3 already current, 0 failed\n"
    assert (second.returncode, second.stderr) == (0, "")


def test_names_come_from_find(tmp_path: Path) -> None:
    names = [b"a space", b"a\nline", "\u00fc".encode()]
    if sys.platform == "linux":  # elsewhere a name has to be UTF-8
        names.append(b"\xff")
    for name in names:
        Vault(tmp_path / os.fsdecode(name)).create(1)
    (tmp_path / "gar\nbage").write_bytes(b"no database " * 100)
    result = run(tmp_path, "--null", names=b"\0".join([*names, b"gar\nbage", b""]))
    total = len(names) + 1
    assert result.stdout == f"{total} vaults: {len(names)} upgraded, 0 already current, 1 failed\n"
    assert len(result.stderr.splitlines()) == 1
    assert all(Vault(tmp_path / os.fsdecode(name)).stamps() == STAMPS for name in names)


def test_there_may_be_none(tmp_path: Path) -> None:
    result = run(tmp_path, "-0")
    assert result.stdout == "0 vaults: 0 upgraded, 0 already current, 0 failed\n"
    assert result.returncode == 0


def test_it_waits_for_a_locked_vault_as_long_as_it_is_told(
    tenants: dict[str, Vault], tmp_path: Path
) -> None:
    with closing(tenants["v1"].connect()) as other:
        other.execute("BEGIN IMMEDIATE")
        result = run(tmp_path, "--timeout", "0.2", "v1.db", "v0.db")
    assert result.stdout == "2 vaults: 1 upgraded, 0 already current, 1 failed\n"
    assert result.stderr.startswith("v1.db: ")
    assert "locked" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [[], ["-0", "a.db"], ["-j", "0", "a.db"], ["--backup", "", "a.db"]],
    ids=["nothing", "two-sources", "no-process", "empty-suffix"],
)
def test_a_mistake_in_the_arguments(arguments: list[str], tmp_path: Path) -> None:
    result = run(tmp_path, *arguments)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith("upgrade_many.py: error: ")


def copies(directory: Path, count: int) -> list[Vault]:
    source = Vault(directory / "0.db").create(1)
    found = [source, *(Vault(directory / f"{number}.db") for number in range(1, count))]
    for vault in found[1:]:
        shutil.copyfile(source.path, vault.path)
    return found


@contextmanager
def at_work(vaults: list[Vault], *options: str) -> Iterator[subprocess.Popen[str]]:
    """The program, in a session of its own, from when the first vault has been upgraded."""
    with subprocess.Popen(
        [*PROGRAM, *options, *(vault.path.name for vault in vaults)],
        cwd=vaults[0].path.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            while vaults[0].stamps() != STAMPS and process.poll() is None:
                time.sleep(0.05)
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("how", ["Ctrl-C", "Ctrl-C twice", "SIGTERM"])
def test_an_interrupt_leaves_no_vault_half_upgraded(how: str, tmp_path: Path) -> None:
    found = copies(tmp_path, 400)
    with at_work(found, "-j", "1") as process:
        if how == "SIGTERM":  # as timeout(1) and service managers do
            process.terminate()
        else:
            os.killpg(process.pid, signal.SIGINT)
        if how == "Ctrl-C twice":
            time.sleep(0.1)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (1, ""), errors
    assert errors == "interrupted: no vault is half upgraded; run the same again\n"
    assert {vault.stamps() for vault in found} == {STAMPS, (None, 1)}
    assert not [*tmp_path.glob("*-journal")]


def test_an_interrupt_waits_for_no_more_than_the_vault_at_hand(tmp_path: Path) -> None:
    """Those behind it in the same batch may be locked too, each of them for the whole timeout."""
    found = copies(tmp_path, 20)
    with ExitStack() as locks:
        for vault in found[1:]:
            other = locks.enter_context(closing(vault.connect()))
            other.execute("BEGIN IMMEDIATE")
        with at_work(found, "-j", "1", "--timeout", "5") as process:
            os.killpg(process.pid, signal.SIGINT)
            output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (1, ""), errors
    assert len([line for line in errors.splitlines() if "is locked" in line]) <= 1, errors


@pytest.mark.skipif(
    not Path("/proc/self/task").exists(), reason="it looks its processes up in /proc"
)
def test_where_one_of_its_processes_is_killed_it_says_so(tmp_path: Path) -> None:
    with at_work(copies(tmp_path, 400), "-j", "2") as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(children[-1]), signal.SIGKILL)
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (1, ""), errors
    assert errors == "a process was killed: no vault is half upgraded; run the same again\n"


def test_killed_it_leaves_no_process_behind(tmp_path: Path) -> None:
    with at_work(copies(tmp_path, 400), "-j", "2") as process:
        process.kill()
        process.communicate(timeout=60)  # which waits for whoever has its output still open


def test_the_command_of_the_chapter(tmp_path: Path) -> None:
    chapter = (CHECKOUT / "docs" / "more-than-one-machine.md").read_text()
    found = re.search(r"<!-- upgrade many -->\n```sh\n(.*?)```", chapter, re.DOTALL)
    assert found, "docs/more-than-one-machine.md prints no command for many vaults"
    for name in ("a", "b"):
        (tmp_path / "tenants" / name).mkdir(parents=True)
        Vault(tmp_path / "tenants" / name / "credentials.db").create(1)
    (tmp_path / "examples").symlink_to(CHECKOUT / "examples")
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    for expected in ("2 upgraded, 0 already current", "0 upgraded, 2 already current"):
        result = subprocess.run(
            ["sh", "-euc", found[1]], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert result.stdout == f"2 vaults: {expected}, 0 failed\n", result.stderr
    assert len([*tmp_path.glob("tenants/*/credentials.db.*.backup")]) == 2
