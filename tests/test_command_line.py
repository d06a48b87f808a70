"""``credential-db``: what is typed, and what is meant."""

import contextlib
import json
import os
import pty
import py_compile
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import pytest
from alembic.config import main as alembic_main

import credential_db
from conftest import PASSPHRASE, CommandLine
from credential_db import SCHEMA_VERSION, api, snapshots
from credential_db import command_line as module
from credential_db.arguments import read
from credential_db.command_line import EXIT_STATUSES
from credential_db.sqlite import transaction
from vaults import Vault, keys

HEAD = SCHEMA_VERSION
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith("CREDENTIAL_DB")}
CHECKOUT = Path(__file__).parents[1]

# In the directory: vault.db and other.db (version 1, never under Alembic), old.db (version 0, with
# keys), current.db, secret.db (encrypted, version 1), notes.txt, and a vault named 1.
# More guesses, most of them wrong, are in messages.txt.
# What is typed | exit status | what is different afterwards: FILE=VERSION (H is the head)
GUESSES = """
status vault.db                             | 3 |
status current.db                           | 0 |
status --db=vault.db                        | 3 |
status -x db=vault.db                       | 3 |
-xdb=vault.db status                        | 3 |
status sqlite:///vault.db                   | 3 |
status                                      | 3 |
status missing.db                           | 3 |
status --json vault.db                      | 3 |
status vault.db --db ./vault.db             | 3 |
status notes.txt                            | 8 |
status head                                 | 3 |
upgrade vault.db                            | 0 | vault.db=H
-x db=vault.db upgrade head                 | 0 | vault.db=H
upgrade head vault.db                       | 0 | vault.db=H
upgrade vault.db head                       | 0 | vault.db=H
upgrade heads vault.db                      | 0 | vault.db=H
upgrade 2 vault.db                          | 0 | vault.db=2
upgrade vault.db --to 2                     | 0 | vault.db=2
upgrade vault.db +1                         | 0 | vault.db=2
upgrade old.db --to v1                      | 0 | old.db=1
upgrade new/missing.db --to v99             | 1 |
upgrade current.db 1                        | 1 |
upgrade                                     | 0 | credentials.db=H
upgrade new/vault.db                        | 0 | new/vault.db=H
upgrade ./1                                 | 0 | 1=H
upgrade vault.bd -x create=false            | 8 |
upgrade missing.db --dry-run                | 0 |
upgrade vault.db --dry-run                  | 0 |
-x dry-run=true upgrade head -x db=vault.db | 0 |
upgrade vault.db --backup                   | 0 | vault.db=H vault.db.v1.DATE.bak=1
upgrade --backup vault.db                   | 0 | vault.db=H vault.db.v1.DATE.bak=1
--backup upgrade vault.db                   | 0 | vault.db=H vault.db.v1.DATE.bak=1
upgrade --backup head vault.db              | 0 | vault.db=H vault.db.v1.DATE.bak=1
upgrade --backup --db vault.db              | 0 | vault.db=H vault.db.v1.DATE.bak=1
upgrade vault.db --backup=copy.db           | 0 | vault.db=H copy.db=1
upgrade --backup copy.db vault.db           | 0 | vault.db=H copy.db=1
upgrade --backup copy.db --db vault.db      | 0 | vault.db=H copy.db=1
upgrade vault.db -x backup=copy.db          | 0 | vault.db=H copy.db=1
upgrade vault.db --backup=                  | 2 |
upgrade vault.db --backup=other.db          | 1 |
upgrade current.db --backup=other.db        | 0 |
upgrade current.db --backup                 | 0 |
upgrade missing.db --backup                 | 0 | missing.db=H
upgrade vault.db --db other.db              | 0 | vault.db=H other.db=H
upgrade current.db old.db --backup          | 0 | old.db=H current.db=H old.db.v0.DATE.bak=0
upgrade vault.db missing.db                 | 8 | vault.db=H
upgrade vault.db ./vault.db --backup        | 0 | vault.db=H vault.db.v1.DATE.bak=1
upgrade vault.db --json --quiet             | 0 | vault.db=H
upgrade --timeout 5 vault.db                | 0 | vault.db=H
upgrade vault.db --timeout=nan              | 2 |
upgrade vault.db -x backup=                 | 2 |
upgrade -x                                  | 2 |
upgrade --repair vault.db                   | 0 | vault.db=H
upgrade vault.db --purge                    | 2 |
upgrade mysql://user:hidden@host/db         | 1 |
upgrade -- vault.db                         | 0 | vault.db=H
vault.db upgrade                            | 2 |
downgrade current.db 1                      | 0 | current.db=1
downgrade -1 current.db                     | 0 | current.db=H-1
downgrade current.db --to -1                | 0 | current.db=H-1
downgrade current.db base                   | 0 | current.db=0
downgrade current.db 1 --dry-run            | 0 |
downgrade current.db 1 --backup=copy.db     | 0 | current.db=1 copy.db=H
downgrade vault.db 2                        | 1 |
stamp vault.db 1                            | 0 | vault.db=1
stamp vault.db head                         | 5 |
stamp --purge --to 1 vault.db               | 0 | vault.db=1
stamp current.db base                       | 0 | current.db=0
check vault.db                              | 3 |
check current.db                            | 0 |
history vault.db                            | 0 |
history -r v0:v1                            | 0 |
history -v vault.db                         | 0 |
current -v --db vault.db                    | 0 |
show v1                                     | 0 |
upgrade head --sql                          | 0 |
upgrade --sql                               | 0 |
upgrade v1:v2 --sql                         | 0 |
downgrade head-1 -x db=current.db           | 0 | current.db=H-1
alembic upgrade head -x db=vault.db         | 0 | vault.db=H
alembic --help                              | 0 |
alembic upgrade                             | 2 |
-V                                          | 0 |
version                                     | 0 |
upgrade --version                           | 0 |
help                                        | 0 |
help upgrade                                | 0 |
upgrade -h vault.db                         | 0 |
--quiet upgrade vault.db                    | 0 | vault.db=H
"""


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("template")
    for name in ("vault.db", "other.db", "1"):
        Vault(directory / name).create(1)
    Vault(directory / "old.db").create(0, content=keys(2, rsa_keys=0))
    Vault(directory / "secret.db", PASSPHRASE).create(1)
    for name in ("current.db", "lost.db", "disagree.db"):
        credential_db.upgrade(directory / name)
    Vault(directory / "disagree.db").execute("PRAGMA user_version = 1")
    Vault(directory / "lost.db").execute(
        "CREATE TABLE rest AS SELECT * FROM credentials",
        "DROP TABLE credentials",
        "ALTER TABLE rest RENAME TO credentials",
    )
    (directory / "notes.txt").write_text("no database\n" * 100)
    return directory


@pytest.fixture
def home(template: Path, tmp_path: Path) -> Path:
    return shutil.copytree(template, tmp_path / "home")


def versions(directory: Path) -> dict[str, int]:
    """The version of each file that is a plain database."""
    found = {}
    for path in sorted(directory.rglob("*")):
        if (path.name == "1" or path.suffix in (".db", ".bak")) and path.name != "secret.db":
            name = re.sub(r"\d{8}T\d{6}Z", "DATE", str(path.relative_to(directory)))
            with closing(sqlite3.connect(path)) as connection:
                found[name] = int(connection.execute("PRAGMA user_version").fetchone()[0])
    return found


@pytest.mark.parametrize(
    "guess", GUESSES.strip().splitlines(), ids=lambda g: g.split("|")[0].strip()
)
def test_a_guess(guess: str, home: Path, shell: CommandLine) -> None:
    typed, exit_status, effects = (part.strip() for part in guess.split("|"))
    expected = versions(home)
    for effect in effects.split():
        name, _, version = effect.rpartition("=")
        expected[name] = {"H": HEAD, "H-1": HEAD - 1}.get(version) or int(version)
    result = shell(*shlex.split(typed), cwd=home)
    assert result.returncode == int(exit_status), result.stdout + result.stderr
    assert versions(home) == expected, result.stdout + result.stderr
    assert "hidden" not in result.stdout + result.stderr, "a URL may contain a passphrase"
    assert "Traceback" not in result.stderr
    if result.returncode and "status" not in typed and not typed.startswith("alembic"):
        assert result.stderr.count("FAILED: ") == 1, result.stderr
        assert "FAILED" not in result.stdout


# The help, from the same table as the parser


SHOWN = [name for name, verb in module.VERBS.items() if verb.summary and name != "alembic"]


@pytest.mark.parametrize("verb", ["", *SHOWN])
def test_help(verb: str, shell: CommandLine) -> None:
    output = shell(*filter(None, [verb]), "--help").stdout
    lines = output.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines[:-1])) <= 80, "the last line of the first help is a directory"
    options = module.VERBS[verb].options if verb else ()
    for option in (*options, *module.COMMON):
        assert f"  {option}" in output
    if not verb:
        for number, _, text in EXIT_STATUSES:
            assert f"{number:>3} {text}" in output
        for name, known in module.VERBS.items():
            assert (f"  {name} " in output) == bool(known.summary)
        assert Path(lines[-1], "docs", "operators.md").exists()
        assert Path(lines[-1], "examples", "fleet", "upgrade.yml").exists()


def test_the_metadata_names_the_guide_and_the_wheel_contains_it() -> None:
    project = (CHECKOUT / "pyproject.toml").read_text()
    assert "blob/main/docs/operators.md" in project
    for path in ("docs/operators.md", "examples/fleet"):
        assert f'"{path}" = "credential_db/{path}"' in project


@pytest.mark.parametrize("verb", module.VERBS)
def test_every_option_of_the_table_is_read(verb: str) -> None:
    to = ["--to=1"] if "--to" in module.VERBS[verb].options else []
    for option in {*module.VERBS[verb].options} - {"--to"}:
        line = read([verb, "v.db", *to, option])
        name, value = ("create", False) if option == "--no-create" else (option[2:], True)
        assert (line.files, line.options) == (["v.db"], {name: value})


def test_the_default_file_is_that_of_the_ini_file() -> None:
    assert f"sqlite:///{module.DEFAULT_FILE}\n" in (CHECKOUT / "alembic.ini").read_text()


def test_the_version(shell: CommandLine) -> None:
    assert shell("-V").stdout == f"credential-db {installed('credential-db')}\n"


# Which database


@pytest.mark.parametrize(
    ("typed", "variable", "expected"),
    [
        ("status", "by environment.db", "by environment.db"),
        ("status", "sqlite:///by.db", "by.db"),
        ("status a.db", "by environment.db", "a.db"),
        ("status sqlite:///a.db", "", "a.db"),
        ("-x db=a.db status", "by environment.db", "a.db"),
        ("status ./head", None, "head"),
        ("status", None, "credentials.db"),
    ],
)
def test_which_database(
    shell: CommandLine, tmp_path: Path, typed: str, variable: str | None, expected: str
) -> None:
    environment = {} if variable is None else {"CREDENTIAL_DB": variable}
    result = shell(*shlex.split(typed), "--json", environment=environment, cwd=tmp_path)
    assert json.loads(result.stdout)["path"] == str(tmp_path / expected)


def test_somebody_elses_configuration_is_not_read(home: Path, shell: CommandLine) -> None:
    (home / "alembic.ini").write_text("[alembic]\nscript_location = elsewhere\n")
    (home / "pyproject.toml").write_text('[tool.alembic]\nscript_location = "elsewhere"\n')
    assert f"v{HEAD}" in shell("heads", cwd=home).stdout


# What a script reads

STATUS_FIELDS = ["path", "state", "version", "head", "detail", "blockers", "exit_status"]
UPGRADE_FIELDS = ["path", "result", "before", "after", "backup", "exit_status", "detail"]


@pytest.mark.parametrize("name", ["vault", "old", "current", "missing", "notes", "secret"])
def test_status_as_json(home: Path, shell: CommandLine, name: str) -> None:
    result = shell("status", "--json", f"{name}.db", cwd=home)
    found = json.loads(result.stdout)
    assert [*found] == STATUS_FIELDS
    assert found["path"] == str(home / f"{name}.db")
    assert found["exit_status"] == result.returncode
    assert isinstance(found["version"], int | None)
    assert isinstance(found["detail"], str)
    assert isinstance(found["blockers"], list)
    assert (found["state"] == "missing") == (name in ("missing", "notes"))
    assert bool(result.stderr) == (found["state"] == "error")


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("vault.db", [], ("upgraded", 1, HEAD, 0)),
        ("vault.db", ["--dry-run"], ("would-upgrade", 1, HEAD, 0)),
        ("old.db", ["--backup"], ("upgraded", 0, HEAD, 0)),
        ("current.db", ["--backup"], ("current", HEAD, HEAD, 0)),
        ("new.db", ["--backup"], ("created", None, HEAD, 0)),
        ("new.db", ["--no-create"], ("failed", None, None, 8)),
        ("lost.db", ["--repair"], ("repaired", HEAD, HEAD, 0)),
        ("disagree.db", [], ("repaired", HEAD, HEAD, 0)),
        ("secret.db", [], ("failed", None, None, 8)),
        ("mysql://user:hidden@host/db", [], ("failed", None, None, 1)),
    ],
)
def test_upgrade_as_json(
    home: Path, shell: CommandLine, name: str, options: list[str], expected: tuple[Any, ...]
) -> None:
    result = shell("upgrade", "--json", name, *options, cwd=home)
    found = json.loads(result.stdout)
    assert [*found] == UPGRADE_FIELDS
    assert (found["result"], found["before"], found["after"], found["exit_status"]) == expected
    assert found["path"] == (None if "://" in name else str(home / name))
    assert result.returncode == found["exit_status"]
    assert ("FAILED: " in result.stderr) == (found["result"] == "failed")
    assert bool(found["backup"]) == (name == "old.db")
    assert "hidden" not in result.stdout


# Several vaults


@pytest.mark.parametrize("released", [True, False])
def test_a_locked_vault_is_tried_once_more_at_the_end(
    home: Path, shell: CommandLine, monkeypatch: pytest.MonkeyPatch, released: bool
) -> None:
    change, tried = api.change, []
    with closing(sqlite3.connect(home / "vault.db", check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")

        def watched(path: str, **options: Any) -> Any:
            tried.append((path, options["timeout"]))
            if path == "old.db" and released:
                other.rollback()
            return change(path, **options)

        monkeypatch.setattr(api, "change", watched)
        names = ["vault.db", "other.db", "old.db"]
        result = shell("upgrade", "--timeout=0.2", *names, cwd=home)
    assert tried == [*((name, 0.0) for name in names), ("vault.db", 0.2)]
    assert result.returncode == (0 if released else 7)
    done = [line.split(":")[0] for line in result.stdout.splitlines()]
    assert done == ["other.db", "old.db", *["vault.db"] * released]
    summary = "3 vaults: 3 upgraded" if released else "3 vaults: 2 upgraded, 1 failed"
    assert result.stderr.splitlines()[-1] == summary


def test_an_interrupt_tells_how_many_were_not_tried(
    home: Path, shell: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = api.change

    def interrupted(path: str, **options: Any) -> Any:
        if path == "other.db":
            raise KeyboardInterrupt
        return change(path, **options)

    monkeypatch.setattr(api, "change", interrupted)
    result = shell("upgrade", "vault.db", "other.db", "old.db", cwd=home)
    assert result.returncode == 130
    assert result.stderr.splitlines() == ["3 vaults: 1 upgraded, 2 not tried", "interrupted"]


def test_the_largest_exit_status(home: Path, shell: CommandLine) -> None:
    Vault(home / "ahead.db").create(2, number=99)
    names = ["ahead.db", "missing.db", "vault.db"]
    result = shell("upgrade", "--json", *names, cwd=home)
    assert [json.loads(line)["exit_status"] for line in result.stdout.splitlines()] == [4, 8, 0]
    assert result.returncode == 8


def on_terminal(home: Path, typed: str, answer: bytes = b"") -> tuple[int, str]:
    """Run a command on a terminal of its own; the exit status and what is shown."""
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(home)
        command = [sys.executable, "-m", "credential_db", *typed.split()]
        os.execve(sys.executable, command, ENVIRONMENT)
    output = b""
    with contextlib.suppress(OSError):  # on Linux, the other end was closed
        while chunk := os.read(terminal, 1024):
            output += chunk
            if answer and b"Passphrase of" in output:
                os.write(terminal, answer)
                answer = b""
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), output.decode()


def test_a_terminal_shows_a_counter_and_asks_once(home: Path) -> None:
    Vault(home / "more.db", PASSPHRASE).create(1)
    typed = "upgrade vault.db secret.db more.db"
    status, output = on_terminal(home, typed, PASSPHRASE.encode() + b"\n")
    assert status == 0, output
    assert output.count("Passphrase of secret.db") == output.count("Passphrase") == 1
    assert PASSPHRASE not in output
    assert "\r\x1b[K2 of 3: secret.db\r\x1b[Ksecret.db: upgraded" in output
    assert output.endswith("3 vaults: 3 upgraded\r\n")


def test_a_wrong_answer(home: Path) -> None:
    status, output = on_terminal(home, "current secret.db", b"wrong\n")
    assert (status, output.count("FAILED: ")) == (8, 1), output


# How a command ends


@pytest.mark.parametrize(
    ("error", "exit_status"),
    [
        (credential_db.CredentialDBError("two\nlines"), 1),
        (credential_db.SchemaTooNew("v.db: two lines", 9), 4),
        (credential_db.UnrecognizedSchema("two lines"), 5),
        (credential_db.KeyConversionError([]), 6),
        (credential_db.DatabaseBusy("two lines"), 7),
        (credential_db.NotADatabase("two lines"), 8),
        (credential_db.ReadOnlyDatabase("two lines"), 9),
        (KeyboardInterrupt(), 130),
    ],
)
def test_each_kind_of_failure_has_an_exit_status(
    shell: CommandLine, monkeypatch: pytest.MonkeyPatch, error: BaseException, exit_status: int
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(api, "change", fail)
    monkeypatch.setattr(api, "look", fail)
    result = shell("upgrade", "v.db")
    assert (result.returncode, result.stdout) == (exit_status, "")
    special = {6: " cannot be converted", 130: "interrupted\n"}
    assert special.get(exit_status, "v.db: two lines\n") in result.stderr
    assert result.stderr.count("\n") == 1
    # For status, the other numbers are those of states.
    assert shell("status", "v.db").returncode == (exit_status if exit_status in (7, 8, 130) else 1)


def in_process(*arguments: str, **options: Any) -> subprocess.CompletedProcess[Any]:
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
    options["env"] = {**ENVIRONMENT, **options.get("env", {})}
    command = [sys.executable, "-m", "credential_db", *arguments]
    return subprocess.run(command, check=False, **options)


class TestStandardOutput:
    def test_a_reader_that_goes_away(self) -> None:
        reader, writer = os.pipe()
        os.close(reader)
        with open(writer, "wb") as file:
            result = in_process("--version", stdout=file)
        assert (result.returncode, result.stderr) == (141, "")

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
    def test_a_full_disk(self) -> None:
        with open("/dev/full", "wb") as file:
            result = in_process("--version", stdout=file)
        assert result.returncode == 1
        assert result.stderr.startswith("FAILED: No space left on device: standard output")
        assert result.stderr.count("\n") == 1

    @pytest.mark.parametrize(
        ("number", "command", "exit_status"), [(1, "upgrade", 0), (2, "downgrade 1", 8)]
    )
    def test_one_that_is_closed(
        self, tmp_path: Path, number: int, command: str, exit_status: int
    ) -> None:
        words = (*command.split(), "--db", f"{tmp_path}/a.db")
        result = in_process(*words, preexec_fn=lambda: os.close(number))
        assert (result.returncode, result.stderr) == (exit_status, "")
        if command == "upgrade":
            assert credential_db.status(tmp_path / "a.db").state == "current"

    @pytest.mark.parametrize(
        ("variables", "name"),
        [
            ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, "m\u00fcller \u20ac"),
            ({"PYTHONIOENCODING": "ascii:strict"}, "m\u00fcller"),
            ({"PYTHONIOENCODING": "latin-1"}, "\u20ac \x1b"),
            ({}, os.fsdecode(b"a\n\xff")),
        ],
        ids=["C locale", "ascii", "latin-1", "not UTF-8"],
    )
    def test_a_name_is_shown_with_escapes(
        self, tmp_path: Path, variables: dict[str, str], name: str
    ) -> None:
        if sys.platform == "darwin" and "\udcff" in name:
            pytest.skip("names are UTF-8 on macOS")
        for command in ("upgrade", "current -v"):
            words = (*command.split(), "--db", name)
            result = in_process(*words, env=variables, cwd=tmp_path, text=False)
            assert (result.returncode, result.stderr) == (0, b""), "no traceback"
            assert b"\x1b" not in result.stdout
            assert command != "upgrade" or result.stdout.count(b"\n") == 1
        assert (tmp_path / name).exists()


# What it costs


def test_no_library_is_imported(home: Path) -> None:
    code = (
        "import contextlib, io, sys\n"
        "from credential_db.command_line import main\n"
        "for command in sys.argv[1:]:\n"
        "    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
        "        main(command.split())\n"
        "    heavy = {'alembic', 'sqlalchemy', 'cryptography', 'subprocess'} & {*sys.modules}\n"
        "    assert not heavy, (command, heavy)\n"
    )
    typed = [f"status {name}" for name in ("missing.db", "vault.db", "old.db", "current.db")]
    typed += ["--version", "--help", "upgrade --help", "upgrade current.db", "upgrade new.db"]
    typed += ["upgrade current.db --backup --json", "upgrade head -x db=current.db"]
    subprocess.run([sys.executable, "-c", code, *typed], cwd=home, check=True)


# Where it is installed


@pytest.fixture
def installation(tmp_path: Path) -> Path:
    """As a wheel, in a directory with an odd name."""
    package = tmp_path / "100% odd" / "credential_db"
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(CHECKOUT / "src" / "credential_db", package, ignore=ignore)
    shutil.copytree(CHECKOUT / "alembic", package / "alembic", ignore=ignore)
    shutil.copy(CHECKOUT / "alembic.ini", package)
    return package


@pytest.mark.parametrize("compiled", [False, True])
def test_a_percent_sign_in_the_path(installation: Path, home: Path, compiled: bool) -> None:
    for path in [*installation.rglob("*.py")] if compiled else []:
        py_compile.compile(str(path), cfile=str(path.with_suffix(".pyc")), doraise=True)
        path.unlink()
    variables = {"PYTHONPATH": str(installation.parent)}
    result = in_process("alembic", "upgrade", "head", "-x", "db=old.db", env=variables, cwd=home)
    assert result.returncode == 0, result.stderr
    assert versions(home)["old.db"] == HEAD
    assert str(installation) in in_process("--help", env=variables).stdout


@pytest.mark.parametrize("how", ["a zip", "PyInstaller without its data"])
def test_without_its_scripts(installation: Path, home: Path, how: str) -> None:
    root = installation.parent
    if how == "a zip":
        root = Path(shutil.make_archive(str(root), "zip", root))
    else:
        for name in ("alembic", "snapshots"):
            shutil.rmtree(installation / name)
    commands = {"upgrade new.db": 0, "upgrade old.db": 1, "status old.db": 1}
    for command, exit_status in commands.items():
        result = in_process(*command.split(), env={"PYTHONPATH": str(root)}, cwd=home)
        assert (result.returncode, result.stderr.count("\n")) == (exit_status, exit_status)
        assert "--collect-all credential_db" in result.stderr or not exit_status
    assert versions(home)["old.db"] == 0


@pytest.mark.parametrize("command", ["revision -m x", "merge -m x v1 v2", "edit v1", "init"])
@pytest.mark.parametrize("before", [[], ["alembic"]])
def test_what_writes_scripts_needs_a_checkout(
    shell: CommandLine, monkeypatch: pytest.MonkeyPatch, command: str, before: list[str]
) -> None:
    monkeypatch.setattr(snapshots, "home", lambda: snapshots.PACKAGE)
    result = shell(*before, *command.split())
    assert result.returncode == 1
    assert result.stderr.startswith(f"FAILED: {command.split(maxsplit=1)[0]} works in a checkout: ")
    assert result.stderr.count("\n") == 1


# ``alembic`` in a checkout


@pytest.fixture
def alembic(
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    shell: CommandLine,  # restores the loggers that alembic.ini configures
) -> CommandLine:
    shutil.copytree(CHECKOUT / "alembic", home / "alembic")
    shutil.copy(CHECKOUT / "alembic.ini", home)
    monkeypatch.chdir(home)

    def run(typed: str) -> subprocess.CompletedProcess[str]:
        exit_status: Any = 0
        try:
            alembic_main(typed.split())
        except SystemExit as end:
            exit_status = end.code
        return subprocess.CompletedProcess(typed, exit_status, *capsys.readouterr())

    return run


def test_alembic_upgrade_head(alembic: CommandLine, home: Path) -> None:
    result = alembic("upgrade head")
    assert result.returncode == 0, result.stderr
    assert "created" in result.stderr
    assert credential_db.status(home / "credentials.db").state == "current"
    result = alembic("-x db=old.db -x backup=copy.db upgrade head")
    assert "Running upgrade v0 -> v1" in result.stderr, "Alembic's log is shown"
    assert versions(home)["copy.db"] == 0


@pytest.mark.parametrize(
    ("typed", "exit_status"),
    [
        ("-x db=vault.db check", 3),
        ("upgrade v99", 1),
        ("-x db=. current", 8),
        ("-x db=missing.db -x create=false upgrade head", 8),
        ("-x db=missing.db downgrade base", 8),
        ("-x dryrun=true upgrade head", 2),
    ],
)
def test_a_failure_of_alembic_is_that_of_credential_db(
    alembic: CommandLine, home: Path, typed: str, exit_status: int
) -> None:
    result = alembic(typed)
    assert result.returncode == exit_status, result.stderr
    assert "FAILED" not in result.stdout, "standard output may be a file: upgrade --sql > file"
    assert result.stderr.count("FAILED: ") == 1
    assert result.stderr.splitlines()[-1].startswith("FAILED: ")
    assert not (home / "credentials.db").exists()


def test_a_traceback_for_whoever_asks_for_it(alembic: CommandLine) -> None:
    with pytest.raises(credential_db.NotADatabase):
        alembic("--raiseerr -x db=. current")


def test_an_ini_file_without_logging(alembic: CommandLine, home: Path) -> None:
    (home / "alembic.ini").write_text("[alembic]\nscript_location = alembic\n")
    assert alembic("-x db=vault.db upgrade head").returncode == 0
    assert versions(home)["vault.db"] == HEAD


@pytest.mark.parametrize(
    ("command", "exit_status"), [("upgrade vault.db", 0), ("status vault.db", 3)]
)
def test_one_line_tells_what_it_waits_for(
    home: Path,
    shell: CommandLine,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    exit_status: int,
) -> None:
    assert transaction._SILENT == 2
    monkeypatch.setattr(transaction, "_SILENT", 0.1)
    with closing(sqlite3.connect(home / "vault.db", check_same_thread=False)) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        end = threading.Timer(0.3, writer.rollback)
        end.start()
        result = shell(*command.split(), "--timeout=9", cwd=home)
        end.join()
    assert (result.returncode, result.stderr.count("\n")) == (exit_status, 1), result.stderr
    assert "vault.db is locked by another program: waiting" in result.stderr
