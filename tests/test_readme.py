"""Every command of the README and of the chapter runs as printed."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from credential_db import SCHEMA_VERSION

CHECKOUT = Path(__file__).parents[1]
README = (CHECKOUT / "README.md").read_text()
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[str]:
    return [text for found, text in BLOCK.findall(README) if found == language]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """As after the README's two commands, which .ci/run itself runs as printed."""
    copy = tmp_path / "checkout"
    ignore = shutil.ignore_patterns("__pycache__", "*.db", "*.db-*", ".*")
    shutil.copytree(CHECKOUT, copy, ignore=ignore)
    (copy / ".venv" / "bin").mkdir(parents=True)
    for program in ("python", "alembic", "pytest"):
        module = "" if program == "python" else f"-m {program} "
        script = copy / ".venv" / "bin" / program
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {module}"$@"\n')
        script.chmod(0o755)
    script = copy / ".venv" / "bin" / "credential-db"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m credential_db "$@"\n')
    script.chmod(0o755)
    return copy


def run(command: list[str], checkout: Path, text: str) -> subprocess.CompletedProcess[str]:
    not_for_users = ("CREDENTIAL_DB", "COVERAGE")  # of a copy, coverage has nothing to say
    environment = {k: v for k, v in os.environ.items() if not k.startswith(not_for_users)}
    return subprocess.run(
        command,
        input=text,
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_commands_run_as_printed(checkout: Path) -> None:
    commands = [text for text in blocks("sh") if "pip install" not in text]
    assert len(commands) >= 4
    output = ""
    for text in commands:
        result = run(["sh", "-eu"], checkout, text)
        assert result.returncode == 0, f"{text}\n{result.stdout}{result.stderr}"
        output += result.stdout

    def alike(text: str) -> str:
        return re.sub(r"[0-9a-f]{64}|SHA256:\S+|\b\d+ bytes", "...", text)

    before, after = blocks("text")[:2]  # the third is a command
    assert alike(before) in alike(output), "the README shows what is printed no longer"
    if f"current: version {SCHEMA_VERSION}\n" in after:  # else it is of an earlier version
        assert alike(after) in alike(output), "the README shows what is printed no longer"
    for program in blocks("python"):
        result = run([sys.executable, "-"], checkout, program)
        assert result.returncode == 0, result.stderr


def test_the_fixture_gives_each_test_a_vault_of_its_own(tmp_path: Path) -> None:
    fixture = re.search(r"<!-- fixture -->\n```python\n(.*?)^```$", README, re.M | re.S)
    assert fixture, "the README shows no pytest fixture behind <!-- fixture -->"
    tests = """
@pytest.mark.parametrize("number", range(2))
def test_it(vault, number):
    vault.execute("CREATE TABLE of_this_test (a)")
    assert vault.execute("SELECT version_num FROM alembic_version").fetchone()
"""
    (tmp_path / "test_host.py").write_text(fixture[1] + tests)
    result = run([sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q"], tmp_path, "")
    assert result.returncode == 0, result.stdout
    assert "2 passed" in result.stdout, result.stdout


def test_the_commands_for_contributors_name_what_is_there(checkout: Path) -> None:
    """Those that take long are shown to be able to start."""
    text = (CHECKOUT / "CONTRIBUTING.md").read_text()
    commands = [
        line.partition("#")[0].split()
        for language, block in BLOCK.findall(text)
        if language == "sh"
        for line in block.splitlines()
    ]
    assert len(commands) >= 8, "CONTRIBUTING.md shows other commands now: see that they are tried"
    for program, *arguments in commands:
        if program == "pytest":
            collect = [sys.executable, "-m", "pytest", "--collect-only", "-q", *arguments]
            result = run(collect, checkout, "")
            assert result.returncode == 0, result.stdout[-2000:]
        elif program == "python":
            result = run([sys.executable, *arguments], checkout, "")
            assert result.returncode == 0, result.stderr
        elif program == ".ci/run":
            assert os.access(CHECKOUT / program, os.X_OK)
        else:
            assert program in ("python3", ".", ".venv/bin/pip"), f"{program} is tried by nobody"


def test_what_is_to_be_installed_is_there_to_install() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    for file in (CHECKOUT / "README.md", CHECKOUT / "CONTRIBUTING.md"):
        for extras in re.findall(r"pip install (?:-e )?'[\w.-]+\[(.*?)\]'", file.read_text()):
            missing = {*extras.split(",")} - {*project["optional-dependencies"]}
            assert not missing, f"{file.name} names extras that pyproject.toml does not: {missing}"


def test_the_set_up_commands_are_two() -> None:
    commands = [text for text in blocks("sh") if "pip install" in text]
    assert len(commands) == 2
    assert all(text.count("\n") == 1 for text in commands)
    ci = (CHECKOUT / ".ci" / "run").read_text()
    assert "<!-- set up -->" in README
    assert "<!-- test -->" in README
    assert "set up" in ci
    assert "README.md" in ci, ".ci/run calls them as the README prints them"


@pytest.mark.parametrize(
    "file",
    [
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "docs/changing-the-schema.md",
        "docs/more-than-one-machine.md",
    ],
)
def test_links_lead_somewhere(file: str) -> None:
    text = (CHECKOUT / file).read_text()
    for link in re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", text):
        assert (CHECKOUT / file).parent.joinpath(link).exists(), f"{file} links to {link}"


def test_the_chapter_names_what_is_there() -> None:
    text = (CHECKOUT / "docs" / "changing-the-schema.md").read_text()
    for name in re.findall(r"`((?:src|alembic|tools)/[\w./-]+)`", text):
        assert (CHECKOUT / name).exists() or "v3." in name, f"the chapter names {name}"
    code = (CHECKOUT / "alembic" / "versions" / "v1_keys_in_pkcs8.py").read_text()
    (example,) = [text for language, text in BLOCK.findall(text) if "def upgrade" in text]
    for line in example.splitlines():
        assert line in code, f"v1 does not say: {line}"
