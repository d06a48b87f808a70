"""Every command and example of the documentation runs as printed."""

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
APPLICATIONS = (CHECKOUT / "docs" / "applications.md").read_text()
DOCUMENTS = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"]
DOCUMENTS += [f"docs/{file.name}" for file in sorted((CHECKOUT / "docs").iterdir())]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROGRAMS = {
    "python": "",
    "alembic": "-m alembic",
    "pytest": "-m pytest",
    "credential-db": "-m credential_db",
}


def blocks(text: str, language: str) -> list[str]:
    return [block for found, block in BLOCK.findall(text) if found == language]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """As after the README's first command, which .ci/run itself runs as printed."""
    copy = tmp_path / "checkout"
    ignore = shutil.ignore_patterns("__pycache__", "*.db", "*.db-*", ".*")
    shutil.copytree(CHECKOUT, copy, ignore=ignore)
    (copy / ".venv" / "bin").mkdir(parents=True)
    for program, arguments in PROGRAMS.items():
        script = copy / ".venv" / "bin" / program
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        script.chmod(0o755)
    return copy


def run(command: list[str], directory: Path, text: str = "") -> str:
    """The standard output of a command, with this as its input; it must succeed."""
    not_for_users = ("CREDENTIAL_DB", "COVERAGE")  # the copy is not measured
    environment = {k: v for k, v in os.environ.items() if not k.startswith(not_for_users)}
    result = subprocess.run(
        command,
        input=text,
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, f"{command} {text}\n{result.stdout}{result.stderr}"
    return result.stdout


def test_the_readme(checkout: Path) -> None:
    commands = [text for text in blocks(README, "sh") if "pip install" not in text]
    assert len(commands) == 4
    output = "".join(run(["sh", "-eu"], checkout, text) for text in commands)

    def alike(text: str) -> str:
        return re.sub(r"[0-9a-f]{64}|SHA256:\S+|\b\d+ bytes", "...", text)

    before, after = blocks(README, "text")[:2]
    assert alike(before) in alike(output)
    if f"current: version {SCHEMA_VERSION}\n" in after:  # otherwise it shows an earlier version
        assert alike(after) in alike(output)
    for program in blocks(README, "python"):
        run([sys.executable, "-"], checkout, program)


def test_the_set_up_commands_are_two() -> None:
    commands = [text for text in blocks(README, "sh") if "pip install" in text]
    assert [text.count("\n") for text in commands] == [1, 1]
    ci = (CHECKOUT / ".ci" / "run").read_text()
    for mark in ("set up", "test"):
        assert f"<!-- {mark} -->\n```sh" in README
        assert f"$(block '{mark}')" in ci, "the gate runs the command as the README prints it"


def test_the_readme_lists_the_promises() -> None:
    promises = re.findall(r"^(\d+)\. \*\*", README, re.MULTILINE)
    files = {file.name.split("_")[2] for file in Path(__file__).parent.glob("test_promise_*.py")}
    assert {*promises} == files == {str(number) for number in range(1, 11)}


def test_the_examples_for_applications(tmp_path: Path) -> None:
    programs = blocks(APPLICATIONS, "python")
    assert len(programs) >= 7
    for program in programs:
        run([sys.executable, "-W", "error", "-"], tmp_path, program)


def test_the_fixture_for_applications(tmp_path: Path) -> None:
    fixture = re.search(r"<!-- fixture -->\n```python\n(.*?)^```$", APPLICATIONS, re.M | re.S)
    assert fixture
    tests = """
@pytest.mark.parametrize("number", range(2))
def test_it(vault, number):
    vault.execute("CREATE TABLE of_this_test (a)")
    assert vault.execute("SELECT version_num FROM alembic_version").fetchone()
"""
    (tmp_path / "test_application.py").write_text(fixture[1] + tests)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q"]
    assert "2 passed" in run(command, tmp_path)


@pytest.mark.parametrize("file", ["CONTRIBUTING.md", "docs/maintainers.md"])
def test_the_commands_for_contributors(checkout: Path, file: str) -> None:
    """Those that take long are only started."""
    for line in "".join(blocks((CHECKOUT / file).read_text(), "sh")).splitlines():
        program, *arguments = line.split()
        if program == "pytest" and arguments != ["-n", "auto"]:
            run([sys.executable, "-m", "pytest", "--collect-only", "-q", *arguments], checkout)
        elif program == "python":
            run([sys.executable, *arguments], checkout)
        elif program == ".ci/run":
            assert os.access(CHECKOUT / program, os.X_OK)
        else:
            assert program in ("pytest", "python3", ".", ".venv/bin/pip"), f"nobody runs {line}"


def test_the_extras_exist() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    for file in DOCUMENTS:
        for extras in re.findall(
            r"install (?:-e )?'[\w.-]+\[(.*?)\]'", (CHECKOUT / file).read_text()
        ):
            assert {*extras.split(",")} <= {*project["optional-dependencies"]}, file


@pytest.mark.parametrize("file", DOCUMENTS)
def test_links_and_names(file: str) -> None:
    text = (CHECKOUT / file).read_text()
    directory = (CHECKOUT / file).parent
    for link, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", text):
        target = directory / link if link else CHECKOUT / file
        assert target.exists(), f"{file} links to {link}"
        headings = re.findall(r"^#+ (.*)$", target.read_text(), re.M) if anchor else []
        anchors = [re.sub(r"[^\w -]", "", each).lower().replace(" ", "-") for each in headings]
        assert not anchor or anchor in anchors, f"{file} links to {link}#{anchor}"
    if file != "CHANGELOG.md":
        for name in re.findall(r"`((?:src|alembic|tools|examples|tests|docs)/[\w./-]+)`", text):
            assert (CHECKOUT / name).exists() or re.search("v(3|N)", name), f"{file} names {name}"
