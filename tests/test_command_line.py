"""At the shell: ``credential-db``, and ``alembic`` from a checkout."""

import os
import pty
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

import credential_db
from conftest import CommandLine
from credential_db import SCHEMA_VERSION
from vaults import STAMPS, Vault, keys, upgraded

HEAD = f"v{SCHEMA_VERSION}"
CHECKOUT = Path(__file__).parents[1]


def named(vault: Vault) -> tuple[str, str]:
    return ("-x", f"db={vault.path}")


def test_upgrade_head(vault: Vault, command_line: CommandLine) -> None:
    vault.create(content=keys(3))
    expected = upgraded(vault.content(), 0)
    result = command_line(*named(vault), "upgrade", "head", environment=vault.environment)
    assert result.returncode == 0, result.stderr
    assert "Running upgrade v0 -> v1" in result.stderr
    assert "Running upgrade v1 -> v2" in result.stderr
    assert "3 SSH keys converted" in result.stderr
    assert vault.content() == expected


def test_the_whole_way_down_and_up_again(vault: Vault, command_line: CommandLine) -> None:
    vault.create(content=keys(3))
    before = vault.content()

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        result = command_line(*named(vault), *arguments, environment=vault.environment)
        assert result.returncode == 0, result.stdout
        return result

    run("upgrade", "head")
    at_head = vault.content()
    run("downgrade", "-1")
    assert vault.stamps() == (f"v{SCHEMA_VERSION - 1}", SCHEMA_VERSION - 1)
    run("downgrade", "v0")
    assert vault.stamps() == ("v0", 0)
    tables = vault.content()
    pem, other = 5, [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13]
    assert {table: rows for table, rows in tables.items() if table != "ssh_keys"} == {
        table: rows for table, rows in before.items() if table != "ssh_keys"
    }
    assert [[row[n] for n in other] for row in tables["ssh_keys"]] == [
        [row[n] for n in other] for row in before["ssh_keys"]
    ], "all but the PEM, whose check number is random, is as it was"
    assert all(row[pem].startswith(b"-----BEGIN OPENSSH") for row in tables["ssh_keys"])
    run("upgrade", "+1")
    assert vault.stamps() == ("v1", 1)
    run("upgrade", "head")
    assert vault.content() == at_head
    assert "No new upgrade operations detected" in run("check").stdout


READING = {
    "current": (["current"], "v0"),
    "current -v": (["current", "--verbose"], "Rev: v0"),
    "history": (["history"], "<base> -> v0"),
    "history -i": (["history", "--indicate-current"], "v0 (current)"),
    "heads": (["heads"], f"{HEAD} (head)"),
    "show": (["show", "v1"], "Rev: v1"),
    "show current": (["show", "current"], "Rev: v0"),
    "check": (["check"], "FAILED: Target database is not up to date"),
    "branches": (["branches"], ""),
}


@pytest.mark.parametrize("journal_mode", ["delete", "wal"])
@pytest.mark.parametrize("name", READING)
def test_a_command_that_reads_writes_nothing_to_a_legacy_file(
    plain_vault: Vault, command_line: CommandLine, name: str, journal_mode: str
) -> None:
    arguments, words = READING[name]
    plain_vault.create(content=keys(1), journal_mode=journal_mode)
    before, mtime = plain_vault.files(), plain_vault.path.stat().st_mtime_ns
    assert words in command_line(*named(plain_vault), *arguments).stdout
    assert plain_vault.files() == before
    assert plain_vault.path.stat().st_mtime_ns == mtime


@pytest.mark.parametrize("name", READING)
def test_a_command_that_reads_creates_no_file(
    tmp_path: Path, command_line: CommandLine, name: str
) -> None:
    command_line("-x", f"db={tmp_path}/new/missing.db", *READING[name][0])
    assert not (tmp_path / "new").exists()


def test_current_on_an_encrypted_legacy_file(command_line: CommandLine, tmp_path: Path) -> None:
    vault = Vault(tmp_path / "vault.db", "secret").create(1, content=keys(1))
    before = vault.files()
    result = command_line(*named(vault), "current", environment=vault.environment)
    assert result.stdout.strip() == "v1"
    assert vault.files() == before


def test_stamp_moves_both_stamps(plain_vault: Vault, command_line: CommandLine) -> None:
    plain_vault.create(2, number=0)
    assert command_line(*named(plain_vault), "stamp", "v1").returncode == 0
    assert plain_vault.stamps() == ("v1", 1)
    assert command_line(*named(plain_vault), "stamp", "v2").returncode == 0
    assert plain_vault.stamps() == ("v2", 2)
    assert command_line(*named(plain_vault), "stamp", "base").returncode == 0
    assert plain_vault.stamps() == (None, 0)
    assert command_line(*named(plain_vault), "stamp", "v2").returncode == 0
    assert command_line(*named(plain_vault), "stamp", "--purge", "base").returncode == 0
    assert plain_vault.stamps() == (None, 0)


def test_stamp_does_not_lie(plain_vault: Vault, command_line: CommandLine) -> None:
    plain_vault.create(0)
    before = plain_vault.files()
    result = command_line(*named(plain_vault), "stamp", "v2")
    assert "FAILED: the Alembic stamp says v2" in result.stdout
    assert plain_vault.files() == before


@pytest.mark.parametrize(
    "damage",
    [
        "PRAGMA user_version = 1",
        "DELETE FROM alembic_version",
        "INSERT INTO alembic_version VALUES ('v1')",
        "UPDATE alembic_version SET version_num = 'ae1027a6acf'",
    ],
)
def test_stamp_purge_repairs_a_stamp(
    plain_vault: Vault, command_line: CommandLine, damage: str
) -> None:
    credential_db.upgrade(plain_vault.path)
    plain_vault.execute(damage)
    result = command_line(*named(plain_vault), "upgrade", "head")
    assert "stamp --purge" in result.stdout, "the error names the way out"
    assert command_line(*named(plain_vault), "stamp", "--purge", HEAD).returncode == 0
    assert credential_db.status(plain_vault.path).state == "current"


def test_downgrade_to_base_takes_no_rows_along(
    plain_vault: Vault, command_line: CommandLine
) -> None:
    plain_vault.create(2)
    plain_vault.execute("INSERT INTO credentials VALUES ('a', 'b', 'c')")
    before = plain_vault.content()
    result = command_line(*named(plain_vault), "downgrade", "base")
    assert "FAILED: the way to base drops all tables, and credentials still hold" in result.stdout
    assert plain_vault.content() == before
    plain_vault.execute("DELETE FROM credentials")
    assert command_line(*named(plain_vault), "downgrade", "base").returncode == 0
    assert credential_db.status(plain_vault.path).state == "empty"
    assert command_line(*named(plain_vault), "upgrade", "head").returncode == 0
    assert credential_db.status(plain_vault.path).state == "current"


def test_x_dry_run(plain_vault: Vault, command_line: CommandLine) -> None:
    plain_vault.create(content=keys(2))
    before = plain_vault.files()
    result = command_line(*named(plain_vault), "-x", "dry-run=true", "upgrade", "head")
    assert "nothing was changed" in result.stderr
    assert result.returncode == 0
    assert plain_vault.files() == before


@pytest.mark.parametrize("direction", [("upgrade", "head"), ("downgrade", "v0")])
def test_x_backup(
    vault: Vault, command_line: CommandLine, tmp_path: Path, direction: tuple[str, str]
) -> None:
    vault.create(0 if direction[0] == "upgrade" else 2, content=keys(2))
    before = vault.content()
    backup = Vault(tmp_path / "backup.db", vault.passphrase)
    arguments = (*named(vault), "-x", f"backup={backup.path}", *direction)
    result = command_line(*arguments, environment=vault.environment)
    assert result.returncode == 0, result.stdout
    assert vault.content() != before
    assert backup.content() == before
    assert backup.path.stat().st_mode & 0o777 == 0o600
    other = "v0" if direction[0] == "upgrade" else "base"
    arguments = (*named(vault), "-x", f"backup={backup.path}", "downgrade", other)
    again = command_line(*arguments, environment=vault.environment)
    assert "exists already" in again.stdout


FAILURES = {
    "unknown -x": (["-x", "dryrun=true", "upgrade", "head"], "-x dryrun=... is unknown"),
    "-x dry-run=maybe": (["-x", "dry-run=maybe", "upgrade", "head"], "either true or false"),
    "unknown revision": (["upgrade", "v99"], "Can't locate revision identified by 'v99'"),
    "no such step": (["upgrade", "+9"], "Relative revision +9 didn't produce 9 migrations"),
    "keys in a script": (["upgrade", "v0:v2", "--sql"], "run this range without --sql"),
    "keys in a script, down": (["downgrade", "v2:v0", "--sql"], "run this range without --sql"),
    "base in a script": (["downgrade", "v0:base", "--sql"], "run this range without --sql"),
    "a URL of another kind": (["-x", "db=mysql://u:secret@h/d", "current"], "mysql URL"),
    "a directory": (["-x", "db=.", "current"], "not a regular file"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_an_expected_failure_is_one_line(
    plain_vault: Vault, command_line: CommandLine, name: str
) -> None:
    plain_vault.create(0)
    arguments, words = FAILURES[name]
    result = command_line(*(argument.format(vault=plain_vault.path) for argument in arguments))
    assert result.returncode not in (0, 1), "0 is success, 1 a traceback"
    failed = [line for line in result.stdout.splitlines() if line.startswith("FAILED: ")]
    assert len(failed) == 1
    assert words in failed[0]
    assert "secret" not in result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    assert "ERROR" not in result.stderr, "the failure is said once"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [([], "name a command"), (["-c", "other.ini", "current"], "packaged ones")],
)
def test_wrong_usage_is_explained(
    command_line: CommandLine, arguments: list[str], words: str
) -> None:
    result = command_line(*arguments)
    assert result.returncode == 2
    assert words in result.stderr


def test_help_says_how_to_name_a_database(command_line: CommandLine) -> None:
    text = command_line("--help").stdout
    for words in ("usage: credential-db", "-x db=PATH", "CREDENTIAL_DB", "dry-run", "backup"):
        assert words in text


def test_somebody_elses_ini_file_is_not_read(tmp_path: Path, command_line: CommandLine) -> None:
    (tmp_path / "alembic.ini").write_text("[alembic]\nscript_location = elsewhere\n")
    (tmp_path / "pyproject.toml").write_text('[tool.alembic]\nscript_location = "elsewhere"\n')
    assert HEAD in command_line("heads", cwd=tmp_path).stdout


class TestWhichDatabase:
    """``-x db=`` first, then ``CREDENTIAL_DB``, then the ini file."""

    def test_the_ini_file_names_one_in_the_working_directory(
        self, tmp_path: Path, command_line: CommandLine
    ) -> None:
        assert command_line("upgrade", "head", cwd=tmp_path).returncode == 0
        assert credential_db.status(tmp_path / "credentials.db").state == "current"

    def test_the_environment_goes_before_the_ini_file(
        self, tmp_path: Path, command_line: CommandLine
    ) -> None:
        environment = {"CREDENTIAL_DB": f"sqlite:///{tmp_path}/by_environment.db"}
        command_line("upgrade", "head", environment=environment, cwd=tmp_path)
        assert [file.name for file in tmp_path.glob("*.db")] == ["by_environment.db"]

    def test_x_db_goes_before_all(self, tmp_path: Path, command_line: CommandLine) -> None:
        environment = {"CREDENTIAL_DB": str(tmp_path / "by_environment.db")}
        command_line("-x", "db=by_x.db", "upgrade", "head", environment=environment, cwd=tmp_path)
        assert [file.name for file in tmp_path.glob("*.db")] == ["by_x.db"]

    def test_odd_names_are_names(self, tmp_path: Path, command_line: CommandLine) -> None:
        for name in ("100%.db", "a?b#c.db", "with space.db", "\u00fc\U0001f511.db", "-x.db"):
            command_line("-x", f"db={name}", "upgrade", "head", cwd=tmp_path)
            assert credential_db.status(tmp_path / name).state == "current"
            assert (tmp_path / name).stat().st_size > 0


class TestScripts:
    """``upgrade --sql`` writes for the sqlite3 shell."""

    @pytest.mark.parametrize("version", [None, 1])
    def test_a_script_makes_a_current_file(
        self, plain_vault: Vault, command_line: CommandLine, version: int | None
    ) -> None:
        sqlite3_shell = shutil.which("sqlite3")
        if sqlite3_shell is None:
            pytest.skip("the sqlite3 shell is not installed")
        if version is not None:
            plain_vault.create(version, content=keys(2))
        script = command_line(
            "upgrade", f"v{version}:{HEAD}" if version else "head", "--sql"
        ).stdout
        subprocess.run(
            [sqlite3_shell, "-bail", plain_vault.path], input=script, text=True, check=True
        )
        assert plain_vault.stamps() == STAMPS
        assert credential_db.upgrade(plain_vault.path) == (SCHEMA_VERSION, SCHEMA_VERSION)

    def test_a_script_moves_a_stamp_that_is_there(
        self, plain_vault: Vault, command_line: CommandLine
    ) -> None:
        command_line(*named(plain_vault), "upgrade", "v1")
        script = command_line("upgrade", "v1:v2", "--sql").stdout
        with closing(plain_vault.connect()) as connection:
            connection.executescript(script)
        assert plain_vault.stamps() == ("v2", 2)

    def test_the_way_back_to_v1_is_a_script_too(
        self, plain_vault: Vault, command_line: CommandLine
    ) -> None:
        script = command_line("downgrade", "v2:v1", "--sql").stdout
        assert "RENAME COLUMN subject TO task" in script
        assert "PRAGMA user_version = 1" in script


def test_alembic_from_a_checkout(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    shutil.copytree(CHECKOUT / "alembic", checkout / "alembic")
    shutil.copy(CHECKOUT / "alembic.ini", checkout)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CREDENTIAL_DB")}
    result = subprocess.run(
        [sys.executable, "-m", "alembic", "upgrade", "head"],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert f"-> {HEAD}" in result.stderr
    assert credential_db.status(checkout / "credentials.db").state == "current"


def test_a_prompt_is_the_last_resort(tmp_path: Path) -> None:
    vault = Vault(tmp_path / "vault.db", "typed at a terminal").create(1, content=keys(1))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CREDENTIAL_DB")}
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(tmp_path)
        command = [sys.executable, "-m", "credential_db", "-x", f"db={vault.path}", "current"]
        os.execve(sys.executable, command, environment)
    output = b""
    while b"Passphrase of" not in output:
        output += os.read(terminal, 1024)
    os.write(terminal, b"typed at a terminal\n")
    with open(terminal, "rb", closefd=True) as rest:
        try:
            while chunk := rest.read1():
                output += chunk
        except OSError:
            pass  # how Linux says that the other end was closed
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0, output
    assert b"v1" in output
    assert b"typed at a terminal" not in output
