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
from collections.abc import Iterator
from functools import cache
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from attacks import warm
from credential_db import records

CHECKOUT = Path(__file__).parents[1]
RELEASED = "Schema version: 2\n"

Step = tuple[str, dict[str, Any]]
"""A function of ``alembic.command``, or ``record`` (tools/record.py), ``shell`` (credential-db),
``start`` (the check at process start) or ``keep``, with its arguments."""


class Project:
    """A copy.

    Args:
        path: Where it goes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        shutil.copytree(_at_version_2(), path)
        self._files = self._read()

    @property
    def schema(self) -> Path:
        return self.path / "src" / "credential_db" / "schema.py"

    @property
    def versions(self) -> Path:
        return self.path / "alembic" / "versions"

    @property
    def new_revision(self) -> Path:
        return self.versions / "v3.py"

    def edit(self, *replacements: tuple[str, str]) -> None:
        """What a maintainer does to schema.py."""
        text = self.schema.read_text()
        for old, new in replacements:
            assert old in text, f"adapt this test: a schema.py of version 2 does not say {old!r}"
            text = text.replace(old, new)
        self.schema.write_text(text)

    def write(self, body: str, *, above: str = "", back: str = "pass") -> None:
        """Write the next revision by hand."""
        self.new_revision.write_text(
            "import sqlalchemy as sa\n\n"
            "from credential_db.sqlite.revising import *\n\n"
            f'revision = "v3"\ndown_revision = "v2"\n{above}\n\n'
            f"def upgrade() -> None:\n    {body}\n\n\ndef downgrade() -> None:\n    {back}\n"
        )

    def changed(self) -> set[str]:
        """The files that are not as they were."""
        now = self._read()
        return {name for name in now | self._files if now.get(name) != self._files.get(name)}

    def _read(self) -> dict[str, bytes]:
        return {
            str(file.relative_to(self.path)): file.read_bytes()
            for file in self.path.rglob("*")
            if file.is_file() and file.suffix not in (".pyc", ".db") and ".ruff" not in str(file)
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

    def python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run Python in this folder, on this copy, as a maintainer does."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("CREDENTIAL_DB")}
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.path,
            env={**inherited, "PYTHONPATH": str(self.path / "src")},
            capture_output=True,
            text=True,
            check=False,
        )

    def bump(self) -> str:
        """What a maintainer does once schema.py is edited; what was printed."""
        (made,) = self.run(("revision", {"message": "the next one", "autogenerate": True}))
        (recorded,) = self.run(("record", {}))
        assert "FAILED" not in made + recorded, made + recorded
        return made + recorded


def _run(gate: Pipe, path: Path, steps: tuple[Step, ...]) -> None:
    """In a process from the fork server, which has imported everything: the copy takes over."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "credential_db"]:
        del sys.modules[name]
    sys.path.insert(0, str(path / "src"))
    os.chdir(path)
    os.environ.pop("CREDENTIAL_DB", None)
    from alembic.script import write_hooks

    import credential_db
    import credential_db.sqlite.autogenerate  # it registers hooks

    assert str(path) in str(credential_db.__file__)
    # As a process of its own, this would cost a second; the tests of the command do run it.
    write_hooks.register("python_script")(lambda *_: None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as that a careless copy loses a CHECK
        gate.send([_step(path, *step) for step in steps])
    gate.close()


def _step(path: Path, name: str, given: dict[str, Any]) -> str:
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    from credential_db import CredentialDBError

    output = io.StringIO()
    config = Config(path / "alembic.ini", stdout=output, output_buffer=output)
    config.set_main_option("sqlalchemy.url", f"sqlite:///{given.pop('db', path / 'own.db')}")
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            if name == "record":
                tool = runpy.run_path(str(path / "tools" / "record.py"), run_name="record")
                status = tool["main"](given.get("arguments", []))
                return f"{output.getvalue()}exit status {status}\n"
            if name == "keep":  # a file as it is at this moment
                shutil.copyfile(given["file"], given["under"])
            elif name == "start":
                from credential_db.current import is_current_file

                known = "" if is_current_file(str(given["file"]), 5) else "not "
                output.write(f"{given['file']} is {known}current at process start")
            elif name == "shell":
                from credential_db.command_line import main

                main(given["arguments"])
            else:
                getattr(command, name)(config, **given)
        except SystemExit as end:
            return f"{output.getvalue()}exit status {end.code}\n"
        except (CommandError, CredentialDBError) as error:
            return f"{output.getvalue()}FAILED: {error}"
    return output.getvalue()


@cache
def _at_version_2() -> Path:
    """The project as it was, or would have been, at version 2."""
    folder = mkdtemp(prefix="credential-db-")
    atexit.register(shutil.rmtree, folder)
    path = Path(folder) / "project"
    ignore = shutil.ignore_patterns("__pycache__", "*.db", "*.db-*")
    for folder in ("alembic", "src", "tools"):
        shutil.copytree(CHECKOUT / folder, path / folder, ignore=ignore)
    for name in ("alembic.ini", "pyproject.toml"):
        shutil.copy(CHECKOUT / name, path)
    (path / "CHANGELOG.md").write_text(RELEASED)
    for folder in ("alembic/versions", "src/credential_db/records"):
        for file in (path / folder).glob("v*"):
            if int(re.findall(r"\d+", file.name)[0]) > 2:
                file.unlink()
    (path / "src/credential_db/schema.py").write_text("\n".join(_schema_of_2()))
    (recorded,) = Project.run(_Bare(path), ("record", {}))
    assert "exit status 0" in recorded, recorded
    return path


class _Bare(Project):
    def __init__(self, path: Path) -> None:
        self.path = path


_TYPES = {"TEXT": "Text", "BLOB": "BLOB", "INTEGER": "Integer"}


def _schema_of_2() -> Iterator[str]:
    """A schema.py, from the record."""
    yield '"""The tables at version 2."""\n\nfrom sqlalchemy import *\n\nmetadata = MetaData()'
    for table, (statement, *_) in records.record(2).statements.items():
        yield f'\n{table} = Table(\n    "{table}",\n    metadata,'
        (alone,) = re.findall(r"PRIMARY KEY \((\w+)\)$", statement, re.M) or [None]
        for line in map(str.strip, statement.splitlines()[1:-1]):
            yield f"    {_of_schema(line.removesuffix(','), alone)},"
        if "AUTOINCREMENT" in statement:
            yield "    sqlite_autoincrement=True,"
        yield ")"
    yield ""


def _of_schema(line: str, key: str | None) -> str:
    """A line of a ``CREATE TABLE``, as the records have it, for schema.py."""
    if found := re.fullmatch(r"CHECK \((.*)\)", line):
        return f'CheckConstraint("{found[1]}")'
    if found := re.fullmatch(r"(PRIMARY KEY|UNIQUE) \((.*)\)", line):
        kind = {"PRIMARY KEY": "PrimaryKeyConstraint", "UNIQUE": "UniqueConstraint"}[found[1]]
        return f"{kind}({', '.join(map(repr, found[2].split(', ')))})".replace("'", '"')
    if found := re.fullmatch(
        r"FOREIGN KEY\((\w+)\) REFERENCES (\w+) \((\w+)\) ON DELETE (\w+)", line
    ):
        column, table, other, action = found.groups()
        return f'ForeignKeyConstraint(["{column}"], ["{table}.{other}"], ondelete="{action}")'
    name, kind, *_ = line.split()
    options = [f'"{name}"', _TYPES[kind]]
    options.append(f"nullable={'NOT NULL' not in line}")
    if "PRIMARY KEY" in line:
        options.append("primary_key=True")
    if found := re.search(r"DEFAULT (.*) NOT NULL", line):
        options.append(f'server_default=text("{found[1]}")')
    return f"Column({', '.join(options)})"
