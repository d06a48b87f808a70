"""Copies of the project at version 2, in which to make the next one.

Whatever version the project is at, these are at version 2: what is tried in them stays the same.
"""

import atexit
import contextlib
import io
import os
import re
import runpy
import shutil
import subprocess
import sys
import warnings
from functools import cache
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from tempfile import mkdtemp
from typing import Any
from unittest import mock

from faults import warm

CHECKOUT = Path(__file__).parents[1]

Step = tuple[str, dict[str, Any]]
"""A function of ``alembic.command``, or ``snapshot`` (tools/snapshot.py), ``shell``
(credential-db), ``start`` (the check at process start) or ``keep``, with its arguments."""
GENERATE: tuple[Step, Step] = (
    ("revision", {"message": "the next one", "autogenerate": True}),
    ("snapshot", {}),
)


class Project:
    """A copy, or the checkout itself, which only runs something that changes nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.schema = path / "src/credential_db/schema.py"
        self.versions = path / "alembic/versions"
        self.new_revision = self.versions / "v3.py"
        if not path.exists():
            shutil.copytree(_at_version_2(), path)
        self._files = self._read()

    def edit(self, *replacements: tuple[str, str]) -> None:
        """What a maintainer does to schema.py."""
        text = self.schema.read_text()
        for old, new in replacements:
            assert old in text, old
            text = text.replace(old, new)
        self.schema.write_text(text)

    def write(self, body: str, *, above: str = "", down: str = "pass", version: int = 3) -> None:
        """Write a revision by hand."""
        (self.versions / f"v{version}.py").write_text(
            "from credential_db.sqlite.operations import BadRow, Conversion, Operations\n\n"
            f'revision = "v{version}"\ndown_revision = "v{version - 1}"\n{above}\n\n'
            f"def upgrade(op: Operations) -> None:\n    {body}\n\n\n"
            f"def downgrade(op: Operations) -> None:\n    {down}\n"
        )

    def changed(self) -> set[str]:
        """The files that are not as they were."""
        now = self._read()
        return {name for name in now | self._files if now.get(name) != self._files.get(name)}

    def _read(self) -> dict[str, bytes]:
        return {
            str(file.relative_to(self.path)): file.read_bytes()
            for folder in ("alembic", "src")
            for file in (self.path / folder).rglob("*.*")
            if file.is_file() and file.suffix != ".pyc"
        }

    def run(self, *steps: Step) -> list[str]:
        """What the steps print, one after the other in a process that knows this copy alone."""
        gate, theirs = warm.Pipe()
        process = warm.Process(target=_run, args=(theirs, self.path, steps))
        process.start()
        theirs.close()
        with contextlib.suppress(EOFError):
            return list(gate.recv())
        process.join()
        raise AssertionError(f"the process with the copy ended by {process.exitcode}")

    def shell(self, command: str) -> subprocess.CompletedProcess[str]:
        """Type a command in this folder, as a maintainer does."""
        own = {
            "PYTHONPATH": str(self.path / "src"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        ours = ("CREDENTIAL_DB", "COVERAGE", "PYTEST")
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
        return subprocess.run(
            command,
            shell=True,
            cwd=self.path,
            env={**inherited, **own},
            capture_output=True,
            text=True,
            check=False,
        )

    def generate(self, *steps: Step) -> list[str]:
        """What a maintainer does after schema.py is edited; what the steps after it print."""
        made, written, *answers = self.run(*GENERATE, *steps)
        assert "FAILED" not in made + written, made + written
        return answers


def _run(gate: Pipe, path: Path, steps: tuple[Step, ...]) -> None:
    """In a process from the fork server, which has imported everything: the copy takes over."""
    sys.path.insert(0, str(path / "src"))
    sys.dont_write_bytecode = True  # a file may change twice in a second
    os.chdir(path)
    os.environ.pop("CREDENTIAL_DB", None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as that a careless copy loses a CHECK
        _import_again()
        gate.send([_step(path, *step) for step in steps])
    gate.close()


def _import_again() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "credential_db"]:
        del sys.modules[name]
    from alembic.script import write_hooks

    import credential_db.sqlite.autogenerate  # noqa: F401  # it registers hooks

    # It would cost a second, as a process of its own; the tests of the command do run it.
    write_hooks.register("python_script")(lambda *_: None)


def _step(path: Path, name: str, given: dict[str, Any]) -> str:
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    import credential_db

    output = io.StringIO()
    config = Config(path / "alembic.ini", stdout=output, output_buffer=output)
    config.set_main_option("sqlalchemy.url", f"sqlite:///{given.pop('db', path / 'own.db')}")
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            if name == "snapshot":
                tool = runpy.run_path(str(path / "tools" / "snapshot.py"), run_name="tool")
                status = tool["main"](given.get("arguments", []))
                _import_again()  # there may be another head
                return f"{output.getvalue()}exit status {status}\n"
            if name == "keep":  # a file as it is at this moment
                shutil.copyfile(given["file"], given["under"])
            elif name == "start":  # of a process, at which nothing of this may be imported
                with mock.patch.dict(sys.modules, {"credential_db.migration": None}):
                    output.write(f"{credential_db.upgrade(given['file'])}")
            elif name == "shell":
                from credential_db.command_line import main

                main(given["arguments"])
            else:
                getattr(command, name)(config, **given)
        except SystemExit as end:
            return f"{output.getvalue()}exit status {end.code}\n"
        except (CommandError, credential_db.CredentialDBError) as error:
            return f"{output.getvalue()}FAILED: {error}"
    return output.getvalue()


@cache
def _at_version_2() -> Path:
    """The project as it was, or would have been, at version 2."""
    temporary = mkdtemp(prefix="credential-db-")
    atexit.register(shutil.rmtree, temporary)
    path = Path(temporary) / "project"
    for folder in ("alembic", "src", "tools"):
        shutil.copytree(CHECKOUT / folder, path / folder)
    for name in ("alembic.ini", "pyproject.toml"):
        shutil.copy(CHECKOUT / name, path)
    (path / "CHANGELOG.md").write_text("Schema version: 2\n")
    for folder in ("alembic/versions", "src/credential_db/snapshots"):
        for file in (path / folder).glob("v*"):
            if int(re.findall(r"\d+", file.name)[0]) > 2:
                file.unlink()
    shutil.copy(CHECKOUT / "tests/schema_v2.txt", path / "src/credential_db/schema.py")
    (written,) = Project(path).run(("snapshot", {}))
    assert "exit status 0" in written, written
    return path
