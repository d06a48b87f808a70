"""docs/changing-the-schema.md: its worked example, executed as printed in a copy of the project."""

import re
import shutil
from pathlib import Path

import pytest

from credential_db.sqlite.stamps import STAMP_DDL
from projects import CHECKOUT, Project, Step
from vaults import Vault

TEXT = (CHECKOUT / "docs" / "changing-the-schema.md").read_text()
EXAMPLE = TEXT.partition("## A version that changes only rows")[2].partition("\n## ")[0]
COMMANDS, (REVISION, TEST) = (
    re.findall(f"```{kind}\n(.*?)```", EXAMPLE, re.S) for kind in ("sh", "python")
)
ROWS = "SELECT credential_set, provider FROM credentials ORDER BY rowid"


def test_the_example_works_as_printed(tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    for folder in ("tests", "examples"):
        ignore = shutil.ignore_patterns("__pycache__", "test_*")
        shutil.copytree(CHECKOUT / folder, project.path / folder, ignore=ignore)

    def typed(commands: str) -> str:
        result = project.shell(f"set -e\n{commands}")
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout + result.stderr

    typed(COMMANDS[0])
    empty = project.new_revision.read_text()
    assert empty.count("    pass\n") == 2
    assert "generated" not in empty
    head, _, _ = empty.partition("Create Date")
    assert REVISION.startswith(head.rstrip()), "the docstring is as the tool writes it"
    project.new_revision.write_text(REVISION)
    (project.path / "tests" / "test_step_v3.py").write_text(TEST)
    printed = typed(COMMANDS[1])
    assert "2 passed" in printed
    assert "kept" in printed
    assert typed("python tools/snapshot.py --check") == "every snapshot is up to date\n"
    assert typed("ruff check alembic && ruff format --check alembic tests/test_step_v3.py")
    assert Vault(project.path / "copy.db").stamps() == ("v3", 3)


@pytest.mark.parametrize("may_run_again", [True, False])
def test_stamp_and_number_disagree(tmp_path: Path, may_run_again: bool) -> None:
    """At a head that is data-only, so that the tables do not tell the version."""
    project = Project(tmp_path / "project")
    code = REVISION if may_run_again else REVISION.replace("may_run_again = True\n", "")
    project.new_revision.write_text(code)
    disagreeing = {("v3", 0): Vault(tmp_path / "a.db"), ("v2", 3): Vault(tmp_path / "b.db")}
    steps: list[Step] = [("snapshot", {})]
    for (stamp, number), vault in disagreeing.items():
        vault.create(2)
        vault.execute(
            STAMP_DDL,
            f"INSERT INTO alembic_version VALUES ('{stamp}')",
            f"PRAGMA user_version = {number}",
            # One that version 3 has changed already, and one by a program of version 2.
            "INSERT INTO credentials VALUES ('a', 'anthropic', 'x'), ('b', 'claude', 'x')",
        )
        steps.append(("shell", {"arguments": ["status", str(vault.path)]}))
        steps.append(("upgrade", {"revision": "head", "db": vault.path}))
    _, *answers = project.run(*steps)
    for printed, upgraded in zip(answers[::2], answers[1::2], strict=True):
        assert ("behind" if may_run_again else "unrecognized") in printed
        assert ("FAILED" not in upgraded) == may_run_again, upgraded
    for stamps, vault in disagreeing.items():
        assert vault.stamps() == (("v3", 3) if may_run_again else stamps)
        newest = "anthropic" if may_run_again else "claude"
        assert vault.query(ROWS) == [("a", "anthropic"), ("b", newest)]
