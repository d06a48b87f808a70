"""Where a passphrase comes from at the shell: what is bad is said, and never shown."""

import getpass
import os
import sys
import traceback
from pathlib import Path

import pytest

from credential_db import CredentialDBError, passphrase_sources
from credential_db.passphrase_sources import cipher_settings, of_environment, of_terminal
from credential_db.sqlite.cipher import Passphrase

SECRET = "correct horse battery staple"
VARIABLE = "CREDENTIAL_DB_PASSPHRASE"
FILE = f"{VARIABLE}_FILE"
COMMAND = f"{VARIABLE}_COMMAND"
SETTINGS = "CREDENTIAL_DB_CIPHER_SETTINGS"


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (VARIABLE, FILE, COMMAND, SETTINGS):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every text that was taken for a passphrase: one does not show itself."""
    texts: list[str] = []

    def take(text: str) -> Passphrase:
        texts.append(text)
        return Passphrase(text)

    monkeypatch.setattr(passphrase_sources, "Passphrase", take)
    return texts


def file_with(path: Path, content: bytes, mode: int = 0o600) -> str:
    path.write_bytes(content)
    path.chmod(mode)
    return str(path)


# What a file or a command gives, and what is the passphrase then.
GIVEN = {
    "as it is": (SECRET.encode(), SECRET),
    "a newline": (SECRET.encode() + b"\n", SECRET),
    "two newlines": (SECRET.encode() + b"\n\n", SECRET + "\n"),
    "CR stays CR": (SECRET.encode() + b"\r\n", SECRET + "\r"),
    "CR alone": (SECRET.encode() + b"\r", SECRET + "\r"),
    "spaces": (b" a  b \n", " a  b "),
    "not ASCII": ("\u00fcml\u00e4ut \U0001f511\n".encode(), "\u00fcml\u00e4ut \U0001f511"),
}


@pytest.mark.parametrize("source", [FILE, COMMAND])
@pytest.mark.parametrize("name", GIVEN)
def test_one_newline_is_dropped_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: list[str], source: str, name: str
) -> None:
    given, expected = GIVEN[name]
    file = file_with(tmp_path / "passphrase", given)
    monkeypatch.setenv(source, file if source == FILE else f"cat '{file}'")
    assert of_environment() is not None
    assert taken == [expected], "only one trailing newline is not part of the passphrase"


def test_a_variable_is_the_passphrase_itself(
    monkeypatch: pytest.MonkeyPatch, taken: list[str]
) -> None:
    monkeypatch.setenv(VARIABLE, SECRET + "\n")
    assert of_environment() is not None
    assert taken == [SECRET + "\n"], "nothing is dropped of a variable"


def test_none_is_no_passphrase() -> None:
    assert of_environment() is None


BAD: dict[str, tuple[str, str, str]] = {
    "empty": (VARIABLE, "", "the passphrase is empty"),
    "not UTF-8": (VARIABLE, os.fsdecode(SECRET.encode() + b"\xff"), "not UTF-8"),
    "an empty file": (FILE, "{dir}/empty", "the passphrase is empty"),
    "a file with a newline alone": (FILE, "{dir}/newline", "the passphrase is empty"),
    "a file that is not UTF-8": (FILE, "{dir}/latin-1", "not UTF-8"),
    "a file with a NUL": (FILE, "{dir}/nul", "cannot hold a NUL"),
    "a file for the group": (FILE, "{dir}/group", "run chmod 600 on it"),
    "a file for the world": (FILE, "{dir}/world", "run chmod 600 on it"),
    "a file of somebody else": (FILE, "{dir}/other", "belongs to another user"),
    "a directory": (FILE, "{dir}", "names a directory"),
    "no file": (FILE, "{dir}/missing", "names no file that exists"),
    "the passphrase for a file": (FILE, SECRET, "names no file that exists"),
    "a long passphrase for a file": (FILE, SECRET * 200, "names no file that works"),
    "no name of a file": (FILE, "", "names no file that exists"),
    "an empty command": (COMMAND, "", "the command is empty"),
    "a blank command": (COMMAND, "  ", "the command is empty"),
    "an unbalanced quote": (COMMAND, f"echo '{SECRET}", "quotation mark in the command"),
    "no such command": (COMMAND, "no-such-command-anywhere", "names no command that exists"),
    "the passphrase for a command": (COMMAND, SECRET, "names no command that exists"),
    "a command that may not run": (COMMAND, "{dir}/newline", "may not use: look at the mode"),
    "a command without #!": (COMMAND, "{dir}/no-program", "no command that works (Exec format"),
    "a directory for a command": (COMMAND, "{dir}", "may not use: look at the mode"),
    "a command that fails": (COMMAND, f"sh -c 'echo {SECRET}; exit 7'", "exit status 7"),
    "a command that says nothing": (COMMAND, "true", "the passphrase is empty"),
    "a command that says no UTF-8": (COMMAND, "cat '{dir}/latin-1'", "not UTF-8"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_one_is_said_and_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    file_with(tmp_path / "empty", b"")
    file_with(tmp_path / "newline", b"\n")
    file_with(tmp_path / "latin-1", f"{SECRET} \u00fc".encode("latin-1"))
    file_with(tmp_path / "nul", SECRET.encode() + b"\0")
    file_with(tmp_path / "group", SECRET.encode(), 0o640)
    file_with(tmp_path / "world", SECRET.encode(), 0o604)
    other = tmp_path / "other"
    file_with(other, SECRET.encode())
    file_with(tmp_path / "no-program", SECRET.encode(), 0o700)
    variable, value, words = BAD[name]
    if "{dir}/other" in value:
        monkeypatch.setattr(os, "geteuid", lambda: other.stat().st_uid + 1)
    monkeypatch.setenv(variable, value.replace("{dir}", str(tmp_path)))
    with pytest.raises(CredentialDBError) as caught:
        of_environment()
    message = str(caught.value)
    assert message.startswith(f"{variable}: "), "the message names the variable to look at"
    assert words in message
    assert "\n" not in message
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value.args)
    for part in {SECRET, str(tmp_path), value} - {"", "  "}:
        assert part not in shown, "the value may be the passphrase: do not repeat it"
    assert caught.value.__cause__ is caught.value.__context__ is None, (
        "raise outside of the except block: what was caught may hold the value"
    )


def test_two_of_them_are_one_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FILE, SECRET)
    monkeypatch.setenv(COMMAND, SECRET)
    with pytest.raises(CredentialDBError, match=f"{FILE} and {COMMAND} are both set"):
        of_environment()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, None),
        ("", None),
        ("kdf_iter=64000", {"kdf_iter": 64000}),
        (
            " kdf_iter = 64000 , cipher_page_size = 1024",
            {"kdf_iter": 64000, "cipher_page_size": 1024},
        ),
    ],
)
def test_cipher_settings(
    monkeypatch: pytest.MonkeyPatch, text: str | None, expected: dict[str, int] | None
) -> None:
    if text is not None:
        monkeypatch.setenv(SETTINGS, text)
    assert cipher_settings() == expected


@pytest.mark.parametrize("text", ["kdf_iter", "kdf_iter=", "kdf_iter=many", "kdf_iter=1=2", ","])
def test_cipher_settings_without_numbers(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(SETTINGS, text)
    with pytest.raises(CredentialDBError, match="such as kdf_iter=64000") as caught:
        cipher_settings()
    assert str(caught.value).startswith(SETTINGS)
    assert caught.value.__context__ is None


class TestTerminal:
    """It is asked where standard input and standard error are one."""

    @pytest.mark.parametrize("missing", ["stdin", "stderr"])
    def test_nobody_is_asked_without_one(
        self, monkeypatch: pytest.MonkeyPatch, missing: str
    ) -> None:
        for name in ("stdin", "stderr"):
            monkeypatch.setattr(getattr(sys, name), "isatty", lambda name=name: name != missing)
        monkeypatch.setattr(getpass, "getpass", lambda *_, **__: pytest.fail("somebody was asked"))
        assert of_terminal("vault.db") is None

    def test_what_is_typed_is_the_passphrase(
        self, monkeypatch: pytest.MonkeyPatch, taken: list[str]
    ) -> None:
        for stream in (sys.stdin, sys.stderr):
            monkeypatch.setattr(stream, "isatty", lambda: True)
        monkeypatch.setattr(getpass, "getpass", lambda *_, **__: SECRET)
        assert of_terminal("vault.db") is not None
        assert taken == [SECRET]

    def test_the_end_of_input_is_no_passphrase(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def end(*_: object, **__: object) -> str:
            raise EOFError

        for stream in (sys.stdin, sys.stderr):
            monkeypatch.setattr(stream, "isatty", lambda: True)
        monkeypatch.setattr(getpass, "getpass", end)
        assert of_terminal("vault.db") is None
