"""Where a passphrase comes from at the shell: what is wrong is told, and never shown."""

import getpass
import os
import sys
import time
import traceback
from pathlib import Path

import pytest

from conftest import PASSPHRASE, CommandLine
from credential_db import CredentialDBError, passphrases
from credential_db.sqlite.connections import Passphrase
from vaults import Vault

SECRET = "correct horse battery staple"
VARIABLE = "CREDENTIAL_DB_PASSPHRASE"
FILE = f"{VARIABLE}_FILE"
COMMAND = f"{VARIABLE}_COMMAND"


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (VARIABLE, FILE, COMMAND):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every text that was taken for a passphrase: one does not show itself."""
    texts: list[str] = []

    def take(text: str) -> Passphrase:
        texts.append(text)
        return Passphrase(text)

    monkeypatch.setattr(passphrases, "Passphrase", take)
    return texts


def file_with(path: Path, content: bytes, mode: int = 0o600) -> str:
    path.write_bytes(content)
    path.chmod(mode)
    return str(path)


@pytest.mark.parametrize("source", [VARIABLE, FILE, COMMAND])
@pytest.mark.parametrize(
    "given", [SECRET, f"{SECRET}\n\n", f"{SECRET}\r\n", " a  b \n", "\u00fc\U0001f511\n"]
)
def test_one_newline_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: list[str], given: str, source: str
) -> None:
    file = file_with(tmp_path / "passphrase", given.encode())
    value = {VARIABLE: given, FILE: file, COMMAND: f"cat '{file}'"}[source]
    assert passphrases.of_environment() is None
    monkeypatch.setenv(source, value)
    assert passphrases.of_environment() is not None
    assert taken == [given if source == VARIABLE else given.removesuffix("\n")]


# The value of the variable, and what the message contains.
BAD: dict[str, tuple[str, str, str]] = {
    "empty": (VARIABLE, "", "the passphrase is empty"),
    "not UTF-8": (VARIABLE, os.fsdecode(SECRET.encode() + b"\xff"), "not UTF-8"),
    "a file with a newline alone": (FILE, "{dir}/newline", "the passphrase is empty"),
    "a file that is not UTF-8": (FILE, "{dir}/latin-1", "not UTF-8"),
    "a file with a NUL": (FILE, "{dir}/nul", "NUL"),
    "no file": (FILE, "{dir}/missing", "No such file"),
    "no name of a file": (FILE, "", "No such file"),
    "an empty command": (COMMAND, "  ", "the command is empty"),
    "an unbalanced quote": (COMMAND, f"echo '{SECRET}", "quotation mark"),
    "the passphrase for a command": (COMMAND, SECRET, "No such file"),
    "a command without #!": (COMMAND, "{dir}/no-program", "Exec format error"),
    "a command that fails": (COMMAND, f"sh -c 'echo {SECRET}; exit 7'", "exit status 7"),
    "a command that hangs": (COMMAND, "sleep 60", "without a terminal the command has 0.2 s"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_one_is_told_and_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    file_with(tmp_path / "newline", b"\n")
    file_with(tmp_path / "latin-1", f"{SECRET} \u00fc".encode("latin-1"))
    file_with(tmp_path / "nul", SECRET.encode() + b"\0")
    file_with(tmp_path / "no-program", SECRET.encode(), 0o700)
    monkeypatch.setattr(passphrases, "COMMAND_TIMEOUT", 0.2)
    variable, value, words = BAD[name]
    monkeypatch.setenv(variable, value.replace("{dir}", str(tmp_path)))
    start = time.monotonic()
    with pytest.raises(CredentialDBError) as caught:
        passphrases.of_environment()
    assert time.monotonic() - start < 10
    message = str(caught.value)
    assert message.startswith(f"{variable}: "), "the message names the variable to look at"
    assert words in message
    assert "\n" not in message
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value.args)
    for part in {SECRET, str(tmp_path), value} - {"", "  "}:
        assert part not in shown, "the value may be the passphrase: do not repeat it"
    assert caught.value.__cause__ is caught.value.__context__ is None


ME = os.geteuid()


@pytest.mark.parametrize(
    ("owner", "mode", "accepted"),
    [
        (ME or 1000, 0o400, True),
        (ME or 1000, 0o440, False),
        (ME or 1000, 0o604, False),
        (ME or 1000, 0o620, False),
        (0, 0o440, True),  # systemd's LoadCredential=
        (0, 0o444, True),  # secrets of Docker and Kubernetes
        (0, 0o664, False),
        (0, 0o646, False),
        (54321, 0o600, False),
    ],
)
def test_whose_file_and_which_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: int, mode: int, accepted: bool
) -> None:
    monkeypatch.setenv(FILE, file_with(tmp_path / "passphrase", SECRET.encode()))
    fstat = os.fstat

    def as_of(file: int) -> os.stat_result:
        found = list(fstat(file))
        found[0], found[4] = 0o100000 | mode, owner
        return os.stat_result(found)

    monkeypatch.setattr(os, "fstat", as_of)
    monkeypatch.setattr(os, "geteuid", lambda: ME or 1000)
    if accepted:
        assert passphrases.of_environment() is not None
        return
    with pytest.raises(CredentialDBError, match=f"^{FILE}: .* {COMMAND}$") as caught:
        passphrases.of_environment()
    assert str(tmp_path) not in str(caught.value)


def test_two_of_them_are_one_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FILE, SECRET)
    monkeypatch.setenv(COMMAND, SECRET)
    with pytest.raises(CredentialDBError, match=f"{FILE} and {COMMAND} are both set"):
        passphrases.of_environment()


@pytest.mark.parametrize("without", ["", "stdin", "stderr"])
@pytest.mark.parametrize("answer", [SECRET, None])
def test_a_terminal_is_asked(
    monkeypatch: pytest.MonkeyPatch, taken: list[str], without: str, answer: str | None
) -> None:
    def ask(*_: object, **__: object) -> str:
        assert not without, "nobody sits at a terminal"
        if answer is None:  # Ctrl-D
            raise EOFError
        return answer

    for name in ("stdin", "stderr"):
        monkeypatch.setattr(getattr(sys, name), "isatty", lambda name=name: name != without)
    monkeypatch.setattr(getpass, "getpass", ask)
    found = passphrases.of_terminal("vault.db")
    assert (found is None) == bool(without or answer is None)
    assert taken == [answer] * (found is not None)


def test_with_a_terminal_a_command_may_take_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(COMMAND, "sh -c 'sleep 0.3; echo x'")
    monkeypatch.setattr(passphrases, "COMMAND_TIMEOUT", 0.1)
    for stream in (sys.stdin, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    assert passphrases.of_environment() is not None


@pytest.mark.parametrize("kind", ["encrypted", "plain", "missing", "garbage", "directory"])
def test_only_an_encrypted_file_makes_it_ask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(passphrases, "of_terminal", asked.append)
    path = tmp_path / "vault.db"
    if kind in ("encrypted", "plain"):
        Vault(path, PASSPHRASE if kind == "encrypted" else None).create(0)
    elif kind == "directory":
        path.mkdir()
    elif kind == "garbage":
        path.write_bytes(b"no database\n" * 99)
    assert passphrases.for_file(str(path)) is None
    assert asked == [str(path)] * (kind == "encrypted")
    assert passphrases.is_plain(str(path)) is {"encrypted": False, "plain": True}.get(kind)


@pytest.mark.parametrize("several", [False, True])
def test_a_passphrase_and_what_becomes_of_each_file(
    tmp_path: Path, shell: CommandLine, several: bool
) -> None:
    Vault(tmp_path / "plain.db").create(1)
    secret = Vault(tmp_path / "secret.db", PASSPHRASE).create(1)
    (tmp_path / "empty.db").touch()
    environment = {VARIABLE: PASSPHRASE}
    names = ["plain.db", "secret.db", "empty.db"]
    for arguments in [names] if several else [[name] for name in names]:
        result = shell("upgrade", *arguments, environment=environment, cwd=tmp_path)
        plain_alone = arguments == ["plain.db"]
        assert result.returncode == (8 if plain_alone else 0), result.stderr
        assert ("is not encrypted" in result.stderr) == plain_alone
    assert secret.value("PRAGMA user_version") > 1
    assert Vault(tmp_path / "empty.db", PASSPHRASE).value("PRAGMA user_version") > 1
    assert b"SQLite format 3" not in (tmp_path / "empty.db").read_bytes()


def test_a_source_that_fails_is_told_once(tmp_path: Path, shell: CommandLine) -> None:
    for name in ("a.db", "b.db"):
        Vault(tmp_path / name, PASSPHRASE).create(1)
    result = shell("upgrade", "a.db", "b.db", environment={COMMAND: "false"}, cwd=tmp_path)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (1, "", 1)
