"""``credential-db status``: what a person reads, and what scripts rely on."""

import configparser
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import credential_db
from conftest import PASSPHRASE
from credential_db import SCHEMA_VERSION, command_line, passphrase_sources
from credential_db.command_line import DEFAULT_DATABASE, main
from credential_db.sqlite import lending, opening, transaction
from credential_db.sqlite.cipher import Passphrase
from vaults import Vault

CHECKOUT = Path(__file__).parents[1]
KEYS = {"path", "state", "version", "head", "detail"}


class Result(NamedTuple):
    exit_status: int
    out: str
    err: str


Shell = Callable[..., Result]


@pytest.fixture
def shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Shell:
    """Run ``credential-db`` in this process, in a directory of its own."""
    for name in [name for name in os.environ if name.startswith("CREDENTIAL_DB")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, environment: Mapping[str, str] | None = None) -> Result:
        for name, value in (environment or {}).items():
            monkeypatch.setenv(name, value)
        exit_status: Any = 0
        try:
            main(arguments)
        except SystemExit as end:
            exit_status = end.code
        return Result(exit_status, *capsys.readouterr())

    return run


def missing(_: Vault) -> None:
    pass


def empty(vault: Vault) -> None:
    vault.create(tables=[])


def legacy(vault: Vault) -> None:
    vault.create(0)


def behind(vault: Vault) -> None:
    vault.create(1)
    vault.execute(
        "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)",
        "INSERT INTO alembic_version VALUES ('v1')",
    )


def current(vault: Vault) -> None:
    credential_db.upgrade(vault.path, **vault.options)


def ahead(vault: Vault) -> None:
    current(vault)
    vault.execute("PRAGMA user_version = 99", "UPDATE alembic_version SET version_num = 'v99'")


def unrecognized(vault: Vault) -> None:
    vault.create(0, number=2)


STATES: dict[str, tuple[Callable[[Vault], None], str, int | None, int]] = {
    "missing": (missing, "empty", None, 3),
    "empty": (empty, "empty", None, 3),
    "legacy": (legacy, "legacy", 0, 3),
    "behind": (behind, "behind", 1, 3),
    "current": (current, "current", SCHEMA_VERSION, 0),
    "ahead": (ahead, "ahead", 99, 4),
    "unrecognized": (unrecognized, "unrecognized", None, 5),
}


@pytest.mark.parametrize("name", STATES)
def test_json_is_one_object(vault: Vault, shell: Shell, name: str) -> None:
    write, state, version, exit_status = STATES[name]
    write(vault)
    before = vault.files()
    result = shell("-x", f"db={vault.path.name}", "status", "--json", environment=vault.environment)
    said = json.loads(result.out)
    assert set(said) >= KEYS, "scripts rely on these: add more, take none away"
    assert said["path"] == str(vault.path), "an absolute path, whatever was typed"
    assert (said["state"], said["version"], said["head"]) == (state, version, SCHEMA_VERSION)
    assert said["detail"]
    assert (result.exit_status, result.err) == (exit_status, "")
    assert result.out.count("\n") == 1
    assert vault.files() == before, "status writes nothing and creates nothing"


@pytest.mark.parametrize("name", STATES)
def test_a_person_reads_two_lines(plain_vault: Vault, shell: Shell, name: str) -> None:
    write, state, version, exit_status = STATES[name]
    write(plain_vault)
    result = shell("-x", f"db={plain_vault.path.name}", "status")
    first, second = result.out.splitlines()
    named = "none" if version is None else f"v{version}"
    assert first == f"{plain_vault.path}: {state} (version {named}, head v{SCHEMA_VERSION})"
    remedy = f"; run: credential-db -x db={plain_vault.path} upgrade head"
    assert second.endswith(remedy) == (exit_status == 3), "say what to do next, and only then"
    assert (result.exit_status, result.err) == (exit_status, "")


def test_a_missing_file_is_said_to_be_missing(plain_vault: Vault, shell: Shell) -> None:
    assert "the file does not exist" in shell("status").out, "or a mistyped path looks like a file"
    empty(plain_vault)
    assert "the file does not exist" not in shell("status").out


FAILURES: dict[str, tuple[str, dict[str, str], str]] = {
    "garbage": ("db=garbage", {}, "is not a SQLite database"),
    "a directory": ("db=.", {}, "not a regular file"),
    "encrypted, no passphrase": ("db=encrypted.db", {}, "missing or wrong"),
    "encrypted, a wrong one": (
        "db=encrypted.db",
        {"CREDENTIAL_DB_PASSPHRASE": "wrong"},
        "missing or wrong",
    ),
    "a bad source": (
        "db=encrypted.db",
        {"CREDENTIAL_DB_PASSPHRASE_FILE": "no such file"},
        "CREDENTIAL_DB_PASSPHRASE_FILE: it names no file that exists",
    ),
    "bad cipher settings": ("db=a.db", {"CREDENTIAL_DB_CIPHER_SETTINGS": "x"}, "whole numbers"),
    "a URL of another kind": ("db=mysql://u:secret@h/d", {}, "mysql URL"),
    "an empty name": ("db=", {}, "-x db= is empty"),
    "no name": ("db", {}, "-x db= is empty"),
    "no timeout": ("timeout=soon", {}, "it is a number"),
    "another -x": ("backup=b.db", {}, "status takes -x db=PATH_OR_URL"),
}

UNNAMED = ("a URL of another kind", "an empty name", "no name", "another -x")


@pytest.mark.parametrize("name", FAILURES)
@pytest.mark.parametrize("options", [[], ["--json"]], ids=["words", "json"])
def test_a_failure_is_1_and_a_line_on_standard_error(
    tmp_path: Path, shell: Shell, name: str, options: list[str]
) -> None:
    (tmp_path / "garbage").write_text("garbage\n" * 1000)
    Vault(tmp_path / "encrypted.db", PASSPHRASE).create(0)
    x_argument, environment, words = FAILURES[name]
    result = shell("-x", x_argument, "status", *options, environment=environment)
    assert result.exit_status == 1
    assert result.err.startswith("FAILED: ")
    assert result.err.count("\n") == 1
    assert words in result.err
    assert "secret" not in result.err + result.out
    if not options:
        assert result.out == ""
        return
    said = json.loads(result.out)
    assert set(said) >= KEYS
    assert (said["state"], said["version"], said["head"]) == ("error", None, SCHEMA_VERSION)
    assert result.err == f"FAILED: {said['detail']}\n"
    assert (said["path"] is None) == (name in UNNAMED), "whoever reads it asks of which file it is"


@pytest.mark.parametrize("kind", [credential_db.DatabaseBusy, credential_db.ReadOnlyDatabase])
def test_any_kind_of_failure_is_1(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise kind("in\ntwo lines")

    monkeypatch.setattr(command_line, "status_of_target", fail)
    assert shell("status") == (1, "", "FAILED: in two lines\n")


@pytest.mark.parametrize("command", [["status"], ["current"], ["upgrade", "head"]])
def test_a_lock_is_waited_for_once(
    plain_vault: Vault, shell: Shell, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    waited: list[float] = []
    announcing = lending.announcing_a_long_wait

    def noted(path: str, timeout: float) -> AbstractContextManager[None]:
        waited.append(timeout)
        return announcing(path, timeout)

    for module in (opening, transaction):
        monkeypatch.setattr(module, "announcing_a_long_wait", noted)
    plain_vault.create(0)
    with closing(plain_vault.connect()) as other:
        other.execute("BEGIN EXCLUSIVE")
        result = shell("-x", f"db={plain_vault.path}", "-x", "timeout=0.25", *command)
    assert "is locked" in result.err
    assert waited == [0.25], "not a second time, after the look whether a passphrase is needed"


class TestWhichDatabase:
    def test_the_default_is_that_of_the_ini_file(self, shell: Shell, tmp_path: Path) -> None:
        ini = configparser.RawConfigParser()
        ini.read(CHECKOUT / "alembic.ini")
        assert ini["alembic"]["sqlalchemy.url"] == f"sqlite:///{DEFAULT_DATABASE}", (
            "DEFAULT_DATABASE in command_line.py and sqlalchemy.url in alembic.ini are one name"
        )
        assert shell("status").out.startswith(f"{tmp_path / DEFAULT_DATABASE}: ")

    def test_a_variable_that_is_empty_names_none(self, shell: Shell) -> None:
        result = shell("status", environment={"CREDENTIAL_DB": ""})
        assert (result.exit_status, result.out) == (1, ""), "not ./credentials.db"

    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            (["status"], "by environment.db"),
            (["-x", "db=a.db", "status"], "a.db"),
            (["status", "-x", "db=a.db"], "a.db"),
            (["-x", "db=sqlite:///a.db", "status"], "a.db"),
            (["-x", "db=a.db", "-x", "db=b.db", "status"], "b.db"),
            (["-x", "db=100%.db", "status"], "100%.db"),
            (["-x", "db=" + os.fsdecode(b"\xff.db"), "status"], "\\udcff.db"),
        ],
    )
    def test_a_name_is_taken_as_of_every_command(
        self, shell: Shell, tmp_path: Path, arguments: list[str], expected: str
    ) -> None:
        result = shell(*arguments, environment={"CREDENTIAL_DB": "by environment.db"})
        assert result.out.startswith(f"{tmp_path / expected}: "), result.err


class TestPrompt:
    """A passphrase is asked for only where a file turns out to need one that nothing gives."""

    @pytest.fixture
    def asked(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        names: list[str] = []

        def ask(name: str) -> Passphrase:
            names.append(name)
            return Passphrase(PASSPHRASE)

        monkeypatch.setattr(passphrase_sources, "of_terminal", ask)
        return names

    @pytest.mark.parametrize("environment", [{}, {"CREDENTIAL_DB_CIPHER_SETTINGS": "kdf_iter=9"}])
    def test_an_encrypted_file(
        self, tmp_path: Path, shell: Shell, asked: list[str], environment: dict[str, str]
    ) -> None:
        vault = Vault(tmp_path / DEFAULT_DATABASE, PASSPHRASE).create(0)
        assert ": legacy " in shell("status", environment=environment).out
        assert shell("upgrade", "head", environment=environment).exit_status == 0
        assert ": current " in shell("status", environment=environment).out
        assert asked == [vault.path.name] * 3

    def test_a_new_file_with_cipher_settings_is_encrypted(
        self, shell: Shell, asked: list[str]
    ) -> None:
        settings = {"CREDENTIAL_DB_CIPHER_SETTINGS": "kdf_iter=9"}
        assert shell("upgrade", "head", environment=settings).exit_status == 0
        assert asked == [DEFAULT_DATABASE]
        passphrase = {"CREDENTIAL_DB_PASSPHRASE": PASSPHRASE}
        assert shell("status", environment={**settings, **passphrase}).exit_status == 0
        assert shell("status", environment={"CREDENTIAL_DB_PASSPHRASE": "wrong"}).exit_status == 1

    def test_not_where_a_variable_gives_one(
        self, tmp_path: Path, shell: Shell, asked: list[str]
    ) -> None:
        Vault(tmp_path / DEFAULT_DATABASE, PASSPHRASE).create(0)
        result = shell("status", environment={"CREDENTIAL_DB_PASSPHRASE": "wrong"})
        assert result.exit_status == 1
        assert asked == []

    def test_not_for_a_plain_file(self, plain_vault: Vault, shell: Shell, asked: list[str]) -> None:
        legacy(plain_vault)
        assert shell("status").exit_status == 3
        assert asked == []


def test_no_library_is_imported(tmp_path: Path) -> None:
    commands = [["--version"]]
    for name, (write, *_) in STATES.items():
        vault = Vault(tmp_path / f"{name}.db")
        write(vault)
        commands.append(["-x", f"db={vault.path}", "status"])
    code = (
        "import contextlib, sys\n"
        "from credential_db.command_line import main\n"
        f"for arguments in {commands}:\n"
        "    with contextlib.suppress(SystemExit):\n"
        "        main(arguments)\n"
        "    imported = {'alembic', 'sqlalchemy', 'cryptography'} & set(sys.modules)\n"
        "    assert not imported, f'{arguments} imports {imported}'\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
