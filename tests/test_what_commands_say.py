"""Every changing command says in one line what it did, and a mistyped path is not a success."""

import io
import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

import credential_db
from credential_db.command_line import main
from credential_db.sqlite import progress
from vaults import HEAD, Vault, at_head, keys, upgrade_to_2

Said = tuple[int, str]


@pytest.fixture
def say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Said]]:
    """Run a command in a directory of its own: its exit status, and its line on stderr."""
    loggers = [logging.getLogger(name) for name in (None, "alembic", "credential_db")]
    before = [(logger, logger.level, logger.handlers[:]) for logger in loggers]
    for name in [name for name in os.environ if name.startswith("CREDENTIAL_DB")]:
        monkeypatch.delenv(name)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def run(*arguments: str) -> Said:
        status = 0
        try:
            main(arguments)
        except SystemExit as end:
            status = int(end.code or 0)
        return status, capsys.readouterr().err

    yield run
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers


def test_a_new_file_is_said_to_be_new(say: Callable[..., Said]) -> None:
    status, said = say("-x", "db=vault.db", "upgrade", "head")
    assert (status, f"vault.db: new file: created at version {HEAD}" in said) == (0, True)


def test_a_new_directory_is_said_to_be_new(say: Callable[..., Said]) -> None:
    _, said = say("-x", "db=new/deep/vault.db", "upgrade", "head")
    assert f"new file, with the directory {Path.cwd() / 'new'}: created" in said


@pytest.mark.parametrize(
    ("version", "words"),
    [
        (0, f"upgraded from version 0 to version {HEAD}"),
        (1, f"upgraded from version 1 to version {HEAD}"),
        pytest.param(
            2,
            "adopted at version 2",
            marks=pytest.mark.skipif(HEAD > 2, reason="a newer head: version 2 is upgraded"),
        ),
    ],
)
def test_what_became_of_an_old_file(say: Callable[..., Said], version: int, words: str) -> None:
    Vault(Path("vault.db")).create(version, content=keys(2))
    _, said = say("-x", "db=vault.db", "-x", "backup=copy.db", "upgrade", "head")
    (line,) = [line for line in said.splitlines() if f"vault.db: {words}" in line]
    outcome, *remarks = line.partition("vault.db: ")[2].split("; ")
    assert outcome == words
    assert ("2 SSH keys converted" in remarks) == (version == 0)
    assert remarks[-1] == "it was copied to copy.db before"
    assert HEAD > 2 or len(remarks) == 2 - (version > 0), "a newer version may convert, too"
    _, said = say("-x", "db=vault.db", "-x", "backup=copy.db", "upgrade", "head")
    assert f"vault.db: already at version {HEAD}; nothing was changed, so no backup" in said


def test_a_way_back_and_a_dry_run_are_said(say: Callable[..., Said]) -> None:
    credential_db.upgrade("vault.db")
    _, said = say("-x", "db=vault.db", "-x", "dry-run=true", "downgrade", "v0")
    assert f"Dry run, nothing was changed: vault.db: downgraded from version {HEAD} to" in said
    _, said = say("-x", "db=vault.db", "downgrade", "v0")
    assert f"vault.db: downgraded from version {HEAD} to version 0" in said


def test_a_stamp_is_not_called_a_downgrade(say: Callable[..., Said]) -> None:
    upgrade_to_2("vault.db")
    _, said = say("-x", "db=vault.db", "stamp", "v1")
    assert "vault.db: stamped v1\n" in said
    assert "downgraded" not in said


def test_of_a_file_without_a_stamp_it_is_said_that_it_has_none(say: Callable[..., Said]) -> None:
    Vault(Path("vault.db")).create(0, content=keys(1))
    _, said = say("-x", "db=vault.db", "stamp", "base")
    assert "vault.db: stamped base\n" in said


def test_a_dry_run_says_that_the_file_would_be_new(say: Callable[..., Said]) -> None:
    _, said = say("-x", "db=vault.db", "-x", "dry-run=true", "upgrade", "head")
    assert "nothing was changed: vault.db: new file: created" in said
    assert os.listdir() == []


@pytest.mark.parametrize(
    "command", [["downgrade", "base"], ["downgrade", "v0"], ["stamp", "head"], ["stamp", "base"]]
)
def test_only_an_upgrade_makes_a_file(say: Callable[..., Said], command: list[str]) -> None:
    status, said = say("-x", "db=new/vault.db", *command)
    assert (status, "FAILED: new/vault.db does not exist" in said) == (8, True)
    assert os.listdir() == []


def test_a_backup_needs_its_directory(say: Callable[..., Said]) -> None:
    Vault(Path("vault.db")).create(1)
    status, said = say("-x", "db=vault.db", "-x", "backup=new/copy.db", "upgrade", "head")
    assert (status, "there is no directory for the backup new" in said) == (1, True)
    assert os.listdir() == ["vault.db"]


def test_progress_on_a_terminal_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(progress, "terminal", terminal)
    monkeypatch.setattr(progress, "_SHOW_EVERY", 0.0)
    assert list(progress.saying_how_far(range(600), 600, "SSH keys")) == list(range(600))
    shown = terminal.getvalue()
    assert "512 of 600 SSH keys converted, about 0 s left" in shown
    assert "\n" not in shown, "each line is written over the one before"
    assert shown.endswith("\r\x1b[K"), "and none is left"


def test_each_message_is_said_once(say: Callable[..., Said]) -> None:
    Vault(Path("vault.db")).create(0, content=keys(1))
    _, said = say("-x", "db=vault.db", "upgrade", "head")
    lines = said.splitlines()
    assert len(lines) == len(set(lines)), said
    _, said = say("-x", "db=vault.db", "check")
    assert "Detected" not in said


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("backup=", "-x backup= is empty"),
        ("db=", "-x db= is empty"),
        ("timeout=", "-x timeout= is empty"),
        ("timeout=soon", "it is a number"),
        ("timeout=-1", "0 or more"),
        ("timeout=nan", "0 or more"),
        ("dry-run=perhaps", "either true or false"),
        ("db=file:vault.db?mode=rw", "file: names are not taken"),
        ("backup=sqlite:///copy.db", "by its path, not by a URL"),
        ("beckup=copy.db", "-x beckup=... is unknown"),
        ("db=~nobody-of-this-name/vault.db", "called ./~nobody-of-this-name/vault.db"),
        ("db=sqlite:vault.db", "three slashes"),
    ],
)
def test_a_mistaken_argument_changes_and_creates_nothing(
    say: Callable[..., Said], argument: str, words: str
) -> None:
    status, said = say("-x", argument, "upgrade", "head")
    assert status == 1
    assert said.startswith("FAILED: ")
    assert words in said
    assert os.listdir() == []


@pytest.mark.parametrize("revision", ["v99", "nothing", "+9"])
def test_a_first_run_that_fails_leaves_nothing(say: Callable[..., Said], revision: str) -> None:
    status, said = say("-x", "db=new/vault.db", "upgrade", revision)
    assert status == 1, said
    assert os.listdir() == []


def test_the_home_directory_is_expanded(
    say: Callable[..., Said], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    say("-x", "db=~/vault.db", "upgrade", "head")
    assert credential_db.status("~/vault.db").state == "current"
    assert (tmp_path / "vault.db").exists()
    assert os.listdir() == []


def test_after_two_seconds_it_is_said_what_is_waited_for(say: Callable[..., Said]) -> None:
    Vault(Path("vault.db")).create(1)
    with closing(sqlite3.connect("vault.db", check_same_thread=False)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        end = threading.Timer(2.5, writer.rollback)
        end.start()
        status, said = say("-x", "db=vault.db", "-x", "timeout=9", "upgrade", "head")
        end.join()
    assert status == 0, said
    assert "vault.db is locked" in said
    assert "waiting for it, up to 9 s in all" in said


def test_repair_puts_right_what_status_names(say: Callable[..., Said]) -> None:
    vault = Vault(Path("vault.db")).create(content=keys(2))
    credential_db.upgrade(vault.path)
    assignments = at_head("{ssh_key_assignments}")
    vault.execute(
        f"CREATE TABLE rest AS SELECT * FROM {assignments}",
        f"DROP TABLE {assignments}",
        f"ALTER TABLE rest RENAME TO {assignments}",
    )
    lost = credential_db.status("vault.db").detail
    assert "FOREIGN KEY" in lost
    status, said = say("-x", "db=vault.db", "check")
    assert status == 3, said
    assert "-x repair=true upgrade head" in said
    status, said = say("-x", "db=vault.db", "-x", "repair=true", "upgrade", "head")
    assert status == 0, said
    assert f"Put right: {assignments}: FOREIGN KEY" in said
    assert "FOREIGN KEY" not in credential_db.status("vault.db").detail
    assert vault.value("SELECT count(*) FROM ssh_key_assignments") == 4
