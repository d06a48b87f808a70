"""At the shell: ``credential-db``, and ``alembic`` from a checkout."""

import os
import pty
import shutil
import subprocess
import sys
from contextlib import closing
from importlib.metadata import version
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.util import CommandError
from sqlalchemy import Column, MetaData, Text

import credential_db
from conftest import CommandLine
from credential_db import SCHEMA_VERSION, schema
from credential_db import command_line as module
from vaults import Vault, ed25519_key, keys, upgraded

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


def test_the_whole_way_down_and_up_again(vault: Vault, shell: CommandLine) -> None:
    vault.create(content=keys(3))
    before = vault.content()

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        result = shell(*named(vault), *arguments, environment=vault.environment)
        assert result.returncode == 0, result.stderr
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
}


@pytest.mark.parametrize("journal_mode", ["delete", "wal"])
@pytest.mark.parametrize("name", READING)
def test_a_command_that_reads_writes_nothing_to_a_legacy_file(
    plain_vault: Vault, shell: CommandLine, name: str, journal_mode: str
) -> None:
    arguments, words = READING[name]
    plain_vault.create(content=keys(1), journal_mode=journal_mode)
    before, mtime = plain_vault.files(), plain_vault.path.stat().st_mtime_ns
    result = shell(*named(plain_vault), *arguments)
    assert words in result.stdout + result.stderr
    assert plain_vault.files() == before
    assert plain_vault.path.stat().st_mtime_ns == mtime


@pytest.mark.parametrize("name", READING)
def test_a_command_that_reads_creates_no_file(
    tmp_path: Path, shell: CommandLine, name: str
) -> None:
    shell("-x", f"db={tmp_path}/new/missing.db", *READING[name][0])
    assert not (tmp_path / "new").exists()


def test_current_says_that_a_file_is_missing(tmp_path: Path, shell: CommandLine) -> None:
    path = tmp_path / "with space.db"
    result = shell("-x", f"db={path}", "current")
    assert (result.returncode, result.stdout) == (0, "")
    remedy = f"credential-db -x 'db={path}' upgrade head"
    assert f"{path} does not exist yet; run: {remedy}" in result.stderr


def test_current_verbose_names_the_file_as_it_can_be_named(
    plain_vault: Vault, shell: CommandLine
) -> None:
    plain_vault.create(1)
    result = shell(*named(plain_vault), "current", "-v")
    assert f"for sqlite:///{plain_vault.path}:" in result.stdout


def test_current_on_an_encrypted_legacy_file(shell: CommandLine, tmp_path: Path) -> None:
    vault = Vault(tmp_path / "vault.db", "secret").create(1, content=keys(1))
    before = vault.files()
    result = shell(*named(vault), "current", environment=vault.environment)
    assert result.stdout.strip() == "v1"
    assert vault.files() == before


def test_stamp_moves_both_stamps(plain_vault: Vault, shell: CommandLine) -> None:
    plain_vault.create(2, number=0)
    assert shell(*named(plain_vault), "stamp", "v1").returncode == 0
    assert plain_vault.stamps() == ("v1", 1)
    assert shell(*named(plain_vault), "stamp", "v2").returncode == 0
    assert plain_vault.stamps() == ("v2", 2)
    assert shell(*named(plain_vault), "stamp", "base").returncode == 0
    assert plain_vault.stamps() == (None, 0)
    assert shell(*named(plain_vault), "stamp", "v2").returncode == 0
    assert shell(*named(plain_vault), "stamp", "--purge", "base").returncode == 0
    assert plain_vault.stamps() == (None, 0)


def test_stamp_does_not_lie(plain_vault: Vault, shell: CommandLine) -> None:
    plain_vault.create(0)
    before = plain_vault.files()
    result = shell(*named(plain_vault), "stamp", "v2")
    assert f"FAILED: {plain_vault.path}: the Alembic stamp says v2" in result.stderr
    assert plain_vault.files() == before


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM alembic_version",
        "INSERT INTO alembic_version VALUES ('v1')",
        "UPDATE alembic_version SET version_num = 'ae1027a6acf'",
    ],
)
def test_stamp_purge_repairs_a_stamp(plain_vault: Vault, shell: CommandLine, damage: str) -> None:
    credential_db.upgrade(plain_vault.path)
    plain_vault.execute(damage)
    result = shell(*named(plain_vault), "upgrade", "head")
    assert "stamp --purge" in result.stderr, "the error names the way out"
    assert shell(*named(plain_vault), "stamp", "--purge", HEAD).returncode == 0
    assert credential_db.status(plain_vault.path).state == "current"


def test_downgrade_to_base_takes_no_rows_along(plain_vault: Vault, shell: CommandLine) -> None:
    plain_vault.create(2)
    plain_vault.execute("INSERT INTO credentials VALUES ('a', 'b', 'c')")
    before = plain_vault.content()
    result = shell(*named(plain_vault), "downgrade", "base")
    assert "the way to base drops all tables, and credentials still hold" in result.stderr
    assert plain_vault.content() == before
    plain_vault.execute("DELETE FROM credentials")
    assert shell(*named(plain_vault), "downgrade", "base").returncode == 0
    assert credential_db.status(plain_vault.path).state == "empty"
    assert shell(*named(plain_vault), "upgrade", "head").returncode == 0
    assert credential_db.status(plain_vault.path).state == "current"


def test_x_dry_run(plain_vault: Vault, shell: CommandLine) -> None:
    plain_vault.create(content=keys(2))
    before = plain_vault.files()
    result = shell(*named(plain_vault), "-x", "dry-run=true", "upgrade", "head")
    assert "nothing was changed" in result.stderr
    assert result.returncode == 0
    assert plain_vault.files() == before


@pytest.mark.parametrize("direction", [("upgrade", "head"), ("downgrade", "v0")])
def test_x_backup(
    vault: Vault, shell: CommandLine, tmp_path: Path, direction: tuple[str, str]
) -> None:
    vault.create(0 if direction[0] == "upgrade" else 2, content=keys(2))
    before = vault.content()
    backup = Vault(tmp_path / "backup.db", vault.passphrase)
    arguments = (*named(vault), "-x", f"backup={backup.path}", *direction)
    result = shell(*arguments, environment=vault.environment)
    assert result.returncode == 0, result.stderr
    assert vault.content() != before
    assert backup.content() == before
    assert backup.path.stat().st_mode & 0o777 == 0o600
    other = "v0" if direction[0] == "upgrade" else "base"
    arguments = (*named(vault), "-x", f"backup={backup.path}", "downgrade", other)
    again = shell(*arguments, environment=vault.environment)
    assert "exists already" in again.stderr


RUN = "credential-db -x db={file}"
VERSIONS = f"there are v0 to {HEAD}"

# What is typed, what is said, and the exit status.
FAILURES: dict[str, tuple[list[str], str, int]] = {
    "unknown -x": (["-x", "dryrun=true", "upgrade", "head"], "-x dryrun=... is unknown", 1),
    "-x dry-run=maybe": (["-x", "dry-run=maybe", "upgrade", "head"], "either true or false", 1),
    "keys in a script": (["upgrade", "v0:v2", "--sql"], "run this range without --sql", 1),
    "keys in a script, down": (["downgrade", "v2:v0", "--sql"], "run this range without --sql", 1),
    "base in a script": (["downgrade", "v0:base", "--sql"], "run this range without --sql", 1),
    "a URL of another kind": (["-x", "db=mysql://u:secret@h/d", "current"], "mysql URL", 1),
    "a directory": (["-x", "db=.", "current"], "not a regular file", 8),
    "-x without a name": (["-x", "mysql://u:secret@h/d", "current"], "-x NAME=VALUE is unknown", 1),
    # Alembic's own, each with a remedy:
    "behind": (["check"], f"{{file}} is not at {HEAD}; run: {RUN} upgrade head", 3),
    "unknown revision": (["upgrade", "v99"], f"identified by 'v99': {VERSIONS}", 1),
    "a number": (["upgrade", "2"], f"identified by '2': {VERSIONS}", 1),
    "unknown to show": (["show", "v99"], f"{VERSIONS}; see: credential-db history", 1),
    "unknown to stamp": (["stamp", "v99"], f"{VERSIONS}; see: credential-db history", 1),
    "too far up": (["upgrade", "+9"], f"{VERSIONS}; to see where {{file}} is, run: {RUN} cur", 1),
    "too far down": (["downgrade", "-9"], f"{VERSIONS}; to see where {{file}} is, run: {RUN}", 1),
    "from v1 too far": (["downgrade", "v1-7"], f"Walked too far: {VERSIONS}", 1),
    "up in a downgrade": (["downgrade", "v2"], "a downgrade goes down; to see where {file}", 1),
    "a range": (["upgrade", "v0:v1"], "a range is for scripts, with --sql", 1),
    "no range": (["downgrade", "v1", "--sql"], f"such as {HEAD}:v1 for a downgrade", 1),
    "no range of history": (["history", "-r", "v1"], f"such as {HEAD}:v1 for a downgrade", 1),
    "a range backwards": (["history", "-r", "v2:v0"], "starts at the older revision", 1),
    "another head": (["revision", "--head", "v0", "-m", "x", "--sql"], "leave out --head", 1),
    # What is not offered here:
    "init": (["init", "directory"], "no init here", 1),
    "edit": (["edit", "v1"], "no edit here", 1),
    "list_templates": (["list_templates"], "no list_templates here", 1),
    "merge": (["merge", "-m", "message", "v1", "v2"], "versions are one line", 1),
}

if "check_heads" in signature(command.current).parameters:  # new in Alembic 1.17.1
    FAILURES["not at the head"] = (["current", "-c"], f"{{file}} is not at {HEAD}; run: {RUN}", 3)


@pytest.mark.parametrize("name", FAILURES)
def test_an_expected_failure_is_one_line(plain_vault: Vault, shell: CommandLine, name: str) -> None:
    plain_vault.create(0)
    arguments, words, exit_status = FAILURES[name]
    result = shell(*named(plain_vault), *arguments)
    failed = [line for line in result.stderr.splitlines() if line.startswith("FAILED: ")]
    assert len(failed) == 1
    assert words.format(file=plain_vault.path) in failed[0]
    assert "Pool" not in result.stderr, "what SQLAlchemy does is of no use to anybody here"
    assert result.returncode == exit_status
    assert "FAILED" not in result.stdout, "standard output may be a file: upgrade --sql > file"
    assert "secret" not in result.stdout + result.stderr
    assert "ERROR" not in result.stderr, "the failure is said once"


def too_new(vault: Vault) -> None:
    credential_db.upgrade(vault.path)
    vault.execute("PRAGMA user_version = 99")


def unlike_its_number(vault: Vault) -> None:
    vault.create(0, number=2)


def with_a_bad_key(vault: Vault) -> None:
    vault.create(0, content=[ed25519_key(1)])
    vault.execute("UPDATE ssh_keys SET private_pem = x'00'")


def garbage(vault: Vault) -> None:
    vault.path.write_text("garbage\n" * 1000)


KINDS = {
    "SchemaTooNew": (too_new, 4),
    "UnrecognizedSchema": (unlike_its_number, 5),
    "KeyConversionError": (with_a_bad_key, 6),
    "NotADatabase": (garbage, 8),
}


@pytest.mark.parametrize("name", KINDS)
def test_each_kind_of_failure_has_an_exit_status(
    plain_vault: Vault, shell: CommandLine, name: str
) -> None:
    write, exit_status = KINDS[name]
    write(plain_vault)
    result = shell(*named(plain_vault), "upgrade", "head")
    assert result.returncode == exit_status, result.stderr
    assert result.stderr.count("FAILED: ") == 1
    assert str(plain_vault.path) in result.stderr.splitlines()[-1], "which of the files?"


def raising(error: BaseException) -> Any:
    def check(config: object) -> None:
        raise error

    return check


@pytest.mark.parametrize(
    ("error", "exit_status", "said"),
    [
        (credential_db.CredentialDBError("two\nlines"), 1, "FAILED: two lines\n"),
        (CommandError("a message that\nis new"), 1, "FAILED: a message that is new\n"),
        (
            CommandError("it lacks a CHECK: '-x repair=true upgrade head' puts that right"),
            3,
            "FAILED: it lacks a CHECK: '-x repair=true upgrade head' puts that right: "
            "credential-db -x repair=true upgrade head\n",
        ),
        (credential_db.DatabaseBusy("busy"), 7, "FAILED: busy\n"),
        (credential_db.ReadOnlyDatabase("read-only"), 9, "FAILED: read-only\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_whatever_ends_a_command_is_one_line(
    shell: CommandLine,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    exit_status: int,
    said: str,
) -> None:
    monkeypatch.setattr(command, "check", raising(error))
    result = shell("check")
    assert (result.returncode, result.stdout, result.stderr) == (exit_status, "", said)


def test_check_says_what_to_do_about_a_changed_schema(
    plain_vault: Vault, shell: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    credential_db.upgrade(plain_vault.path)
    changed = MetaData()
    for table in schema.metadata.sorted_tables:
        table.to_metadata(changed)
    next(iter(changed.tables.values())).append_column(Column("expires_at", Text))
    users = [used for used in sys.modules.values() if vars(used).get("metadata") is schema.metadata]
    for used in users:
        monkeypatch.setattr(used, "metadata", changed)
    result = shell(*named(plain_vault), "check")
    assert result.returncode == 3
    assert "New upgrade operations detected" in result.stderr
    assert "credential-db revision --autogenerate -m MESSAGE" in result.stderr.splitlines()[-1]


WRONG_USAGE: dict[str, tuple[list[str], str]] = {
    "nothing": ([], "name a command"),
    "an ini file": (["-c", "other.ini", "current"], "packaged ones"),
    "a section": (["-n", "other", "current"], "packaged ones"),
    "an empty revision": (["upgrade", ""], "an argument is empty"),
    "two revisions": (["stamp", "v0", "v1"], "name one revision"),
    "no revision": (["upgrade"], "revision"),
    "an unknown command": (["upgrad", "head"], "invalid choice: 'upgrad'"),
    "an unknown option": (["status", "--jsno"], "unrecognized arguments: --jsno"),
}


@pytest.mark.parametrize("name", WRONG_USAGE)
def test_wrong_usage_is_explained(shell: CommandLine, name: str) -> None:
    arguments, words = WRONG_USAGE[name]
    result = shell(*arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert words in result.stderr


@pytest.mark.parametrize("at", range(3))
def test_x_may_stand_anywhere(plain_vault: Vault, shell: CommandLine, at: int) -> None:
    credential_db.upgrade(plain_vault.path)
    arguments = ["current", "-v"]
    arguments[at:at] = named(plain_vault)
    assert f"Rev: {HEAD}" in shell(*arguments).stdout


def test_version_is_this_package_s(shell: CommandLine) -> None:
    result = shell("--version")
    assert (result.returncode, result.stdout) == (0, f"credential-db {version('credential-db')}\n")


def test_quiet_leaves_no_messages(plain_vault: Vault, shell: CommandLine) -> None:
    plain_vault.create(1, content=keys(1))
    result = shell(*named(plain_vault), "--quiet", "upgrade", "head")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


class TestHelp:
    @pytest.mark.parametrize(
        "words",
        ["usage: credential-db", "-x db=PATH", "CREDENTIAL_DB", "dry-run", "backup", "status"],
    )
    def test_it_says_how_to_name_a_database(self, shell: CommandLine, words: str) -> None:
        assert words in shell("--help").stdout

    def test_it_says_where_a_passphrase_comes_from(self, shell: CommandLine) -> None:
        assert "CREDENTIAL_DB_PASSPHRASE_FILE" in shell("--help").stdout

    def test_it_fits_a_terminal(self, shell: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COLUMNS", "80")
        assert max(map(len, shell("--help").stdout.splitlines())) <= 80

    @pytest.mark.parametrize("words", ["init", "list_templates", "edit", "merge", "-c", "-n,"])
    def test_it_does_not_offer_what_makes_no_sense(self, shell: CommandLine, words: str) -> None:
        assert words not in shell("--help").stdout.split()

    @pytest.mark.parametrize("exit_status", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 130, 141])
    def test_it_lists_every_exit_status(self, shell: CommandLine, exit_status: int) -> None:
        _, _, listed = shell("--help").stdout.partition("exit status:\n")
        assert f"  {exit_status:<3}  " in listed, "name it in EXIT_STATUSES of remedies.py"


class TestInstalled:
    """In a wheel ``alembic/`` stands inside the package, and nothing writes into it."""

    @pytest.fixture(autouse=True)
    def installed(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / "package" / "alembic").mkdir(parents=True)
        monkeypatch.setattr(module, "__file__", str(tmp_path / "package" / "command_line.py"))

    @pytest.mark.parametrize(
        "arguments", [["revision", "-m", "x"], ["init", "x"], ["edit", "v1"], ["merge", "v1", "v2"]]
    )
    def test_what_would_write_into_it_is_refused(
        self, shell: CommandLine, arguments: list[str]
    ) -> None:
        result = shell(*arguments)
        assert result.returncode == 1
        assert result.stderr.startswith(f"FAILED: no {arguments[0]} here: ")
        assert result.stderr.count("\n") == 1

    def test_revision_is_not_offered(self, shell: CommandLine) -> None:
        assert "revision" not in [line.split()[0] for line in shell("--help").stdout.split("\n  ")]


class TestStandardOutput:
    """What cannot be written is no reason for a traceback."""

    def test_a_reader_that_goes_away(self) -> None:
        reader, writer = os.pipe()
        os.close(reader)
        assert self.version(writer) == (141, "")

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
    def test_a_full_disk(self) -> None:
        full = os.open("/dev/full", os.O_WRONLY)
        assert self.version(full) == (
            1,
            "FAILED: No space left on device: standard output or working directory\n",
        )

    def version(self, stdout: int) -> tuple[int, str]:
        with open(stdout, "wb") as file:
            command = [sys.executable, "-m", "credential_db", "--version"]
            result = subprocess.run(
                command, stdout=file, stderr=subprocess.PIPE, text=True, check=False
            )
        return result.returncode, result.stderr

    @pytest.mark.parametrize(
        ("number", "arguments", "exit_status"),
        [(1, ["status"], 3), (1, ["upgrade", "head"], 0), (2, ["-x", "db=.", "current"], 8)],
    )
    def test_one_that_is_closed(
        self, tmp_path: Path, number: int, arguments: list[str], exit_status: int
    ) -> None:
        result = subprocess.run(
            [sys.executable, "-m", "credential_db", "-q", "-x", f"db={tmp_path}/a.db", *arguments],
            preexec_fn=lambda: os.close(number),
            capture_output=True,
            text=True,
            check=False,
        )
        assert (result.returncode, result.stderr) == (exit_status, "")

    def test_a_failed_script_does_not_end_in_its_error(self, command_line: CommandLine) -> None:
        result = command_line("upgrade", "v0:v2", "--sql")
        assert result.returncode == 1
        assert "FAILED" not in result.stdout
        assert "COMMIT" not in result.stdout, "sqlite3 would execute what there is of it"
        assert result.stderr.splitlines()[-1].startswith("FAILED: ")


def test_somebody_elses_ini_file_is_not_read(tmp_path: Path, shell: CommandLine) -> None:
    (tmp_path / "alembic.ini").write_text("[alembic]\nscript_location = elsewhere\n")
    (tmp_path / "pyproject.toml").write_text('[tool.alembic]\nscript_location = "elsewhere"\n')
    assert HEAD in shell("heads", cwd=tmp_path).stdout


class TestWhichDatabase:
    """``-x db=`` first, then ``CREDENTIAL_DB``, then the ini file."""

    def test_the_ini_file_names_one_in_the_working_directory(
        self, tmp_path: Path, shell: CommandLine
    ) -> None:
        assert shell("upgrade", "head", cwd=tmp_path).returncode == 0
        assert credential_db.status(tmp_path / "credentials.db").state == "current"

    def test_the_environment_goes_before_the_ini_file(
        self, tmp_path: Path, shell: CommandLine
    ) -> None:
        environment = {"CREDENTIAL_DB": f"sqlite:///{tmp_path}/by_environment.db"}
        shell("upgrade", "head", environment=environment, cwd=tmp_path)
        assert [file.name for file in tmp_path.glob("*.db")] == ["by_environment.db"]

    def test_x_db_goes_before_all(self, tmp_path: Path, shell: CommandLine) -> None:
        environment = {"CREDENTIAL_DB": str(tmp_path / "by_environment.db")}
        shell("-x", "db=by_x.db", "upgrade", "head", environment=environment, cwd=tmp_path)
        assert [file.name for file in tmp_path.glob("*.db")] == ["by_x.db"]

    def test_odd_names_are_names(self, tmp_path: Path, shell: CommandLine) -> None:
        for name in ("100%.db", "a?b#c.db", "with space.db", "\u00fc\U0001f511.db", "-x.db"):
            shell("-x", f"db={name}", "upgrade", "head", cwd=tmp_path)
            assert credential_db.status(tmp_path / name).state == "current"
            assert (tmp_path / name).stat().st_size > 0


class TestScripts:
    """``upgrade --sql`` writes for the sqlite3 shell."""

    @pytest.mark.parametrize("version", [None, 1])
    def test_a_script_makes_a_current_file(
        self, plain_vault: Vault, shell: CommandLine, version: int | None
    ) -> None:
        sqlite3_shell = shutil.which("sqlite3")
        if sqlite3_shell is None:
            pytest.skip("the sqlite3 shell is not installed")
        if version is not None:
            plain_vault.create(version, content=keys(2))
        # From version 2 on, a table may have to be copied, which no script can do of one with rows.
        end = 2 if version else SCHEMA_VERSION
        script = shell("upgrade", f"v{version}:v2" if version else "head", "--sql").stdout
        subprocess.run(
            [sqlite3_shell, "-bail", plain_vault.path], input=script, text=True, check=True
        )
        assert plain_vault.stamps() == (f"v{end}", end)
        assert credential_db.upgrade(plain_vault.path) == (end, SCHEMA_VERSION)

    def test_a_script_moves_a_stamp_that_is_there(
        self, plain_vault: Vault, shell: CommandLine
    ) -> None:
        shell(*named(plain_vault), "upgrade", "v1")
        script = shell("upgrade", "v1:v2", "--sql").stdout
        with closing(plain_vault.connect()) as connection:
            connection.executescript(script)
        assert plain_vault.stamps() == ("v2", 2)

    def test_the_way_back_to_v1_is_a_script_too(
        self, plain_vault: Vault, shell: CommandLine
    ) -> None:
        script = shell("downgrade", "v2:v1", "--sql").stdout
        assert "RENAME COLUMN subject TO task" in script
        assert "PRAGMA user_version = 1" in script


class TestAlembic:
    """``alembic`` in a checkout."""

    @pytest.fixture
    def checkout(self, tmp_path: Path) -> Path:
        checkout = tmp_path / "checkout"
        checkout.mkdir()
        shutil.copytree(CHECKOUT / "alembic", checkout / "alembic")
        shutil.copy(CHECKOUT / "alembic.ini", checkout)
        return checkout

    def run(self, checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "alembic", *arguments],
            cwd=checkout,
            env={k: v for k, v in os.environ.items() if not k.startswith("CREDENTIAL_DB")},
            capture_output=True,
            text=True,
            check=False,
        )

    def test_upgrade_head(self, checkout: Path) -> None:
        result = self.run(checkout, "upgrade", "head")
        assert result.returncode == 0, result.stderr
        assert f"-> {HEAD}" in result.stderr
        assert credential_db.status(checkout / "credentials.db").state == "current"

    @pytest.mark.parametrize(
        ("arguments", "exit_status", "words"),
        [
            (["check"], 3, f"is not at {HEAD}; run: credential-db -x db=credentials.db upgrade"),
            (["upgrade", "v99"], 1, "credentials.db: Can't locate revision"),
            (["upgrade", "v0:v1", "--sql"], 1, "run this range without --sql"),
            (["-x", "db=.", "current"], 8, "not a regular file"),
        ],
    )
    def test_a_failure_is_as_of_credential_db(
        self, checkout: Path, arguments: list[str], exit_status: int, words: str
    ) -> None:
        result = self.run(checkout, *arguments)
        assert result.returncode == exit_status, result.stderr
        assert "FAILED" not in result.stdout, "standard output may be a file: upgrade --sql > file"
        assert words in result.stderr.splitlines()[-1]
        assert result.stderr.count("FAILED: ") == 1
        assert not (checkout / "credentials.db").exists()

    def test_a_traceback_for_whoever_asks_for_it(self, checkout: Path) -> None:
        result = self.run(checkout, "--raiseerr", "-x", "db=.", "current")
        assert "NotADatabase" in result.stderr.splitlines()[-1]

    def test_current_says_that_a_file_is_missing(self, checkout: Path) -> None:
        result = self.run(checkout, "current")
        assert (result.returncode, result.stdout) == (0, "")
        assert "credentials.db does not exist yet; run: credential-db" in result.stderr


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
