"""What is typed after ``credential-db``, read with the tables of ``command_line``."""

import argparse
import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, NoReturn

from credential_db.command_line import (
    COMMON,
    OPTIONS,
    SHORT,
    VERBS,
    WITH_VALUE,
    UsageError,
    Verb,
    typed,
)

X_ARGUMENTS = ("db", "timeout", "backup", "dry-run", "repair", "create")
_SWITCHES = X_ARGUMENTS[3:]
_ARGS = ("--db", "--timeout", "-x", "--quiet")  # ours before ARGS...
_VERSION = "heads?|base|[v+-]?[0-9]+"
_START = "heads?|base|v[0-9]+"
_RANGE = f"(?:{_START})?:(?:{_VERSION})?|(?:{_START})[+-][0-9]+"  # for Alembic to read
_MEANT = {"backup": "upgrade --backup", "--passphrase": "the variable CREDENTIAL_DB_PASSPHRASE"}


class Line(NamedTuple):
    """A command line."""

    verb: str  # empty if only the help or the release is asked for
    files: list[str]  # as they were typed, by FILE, --db or -x db=; each file once
    versions: list[str]  # where to go; one at most
    options: dict[str, Any]  # by their names without dashes; create: False for --no-create
    alembic: list[str]  # what only Alembic understands


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message.removeprefix("argument "))


def x_options(arguments: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """The values of Alembic's ``-x NAME=VALUE``: a float for timeout, bools for switches, strs."""
    for name, _, value in (argument.partition("=") for argument in arguments):
        if name not in X_ARGUMENTS:
            # What is no name may be a URL with a password in it.
            what = f"{name}=..." if value and name.replace("-", "").isalnum() else "NAME=VALUE"
            raise UsageError(f"-x {what} is unknown: the names are {', '.join(X_ARGUMENTS)}")
        if not value:
            raise UsageError(f"{name}= is empty: is a variable of your script not set?")
        if name in _SWITCHES and value.lower() not in ("true", "false"):
            raise UsageError(f"-x {name}= is either true or false")
        switch = value.lower() == "true" if name in _SWITCHES else value
        yield name, _seconds(value) if name == "timeout" else switch


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if float(text) >= 0:  # nor not-a-number
            return float(text)
    raise UsageError("a timeout is a number of seconds, 0 or more")


def _parse(options: Iterable[str], words: list[str]) -> tuple[dict[str, Any], list[str]]:
    """The values of these options, and the other words in their order."""
    kinds: dict[str, dict[str, Any]] = {
        "--timeout": {"type": _seconds},
        "--no-create": {"action": "store_const", "const": False, "dest": "create"},
    }
    kinds |= {option: {"action": "append"} for option in ("--to", "--db", "-x")}
    parser = _Parser(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    for option in options:
        kind = {"dest": option.lstrip("-"), **kinds.get(option, {"action": "store_true"})}
        parser.add_argument(*filter(None, (option, SHORT.get(option))), **kind)
    found, others = parser.parse_known_args(words)
    return vars(found), others


def read(arguments: Sequence[str]) -> Line:
    """Read a command line; raise a ``UsageError`` if it makes no sense."""
    end = [*arguments, "--"].index("--")
    after = arguments[end + 1 :]  # each of these is a FILE
    words = [f"-x{w[2:]}" if w.startswith("--backup=") else w for w in arguments[:end]]
    if words[:1] in (["help"], ["version"]):
        words[0] = f"--{words[0]}"
    options, others = _parse(OPTIONS, words)
    verb = others.pop(0) if others and others[0] in VERBS else ""
    known = VERBS.get(verb, Verb("", ""))
    if known.files == "ARGS...":
        options, others = _parse(_ARGS, words)
        others.remove(verb)
    elif "help" in options and verb and not known.summary:
        return Line(verb, [], [], {}, ["--help"])
    line = Line(verb, [*options.pop("db", []), *after], options.pop("to", []), options, [])
    if "version" in options and any(re.fullmatch(_VERSION, word) for word in others):
        raise UsageError("--version prints the release; to go to a VERSION, write --to")
    if "help" in options or "version" in options:
        return line
    _sort(line, others, known)
    for name, value in x_options(options.pop("x", [])):
        if name == "db":
            line.files.append(value)
        else:
            options[name] = value
    if "" in line.files or "" in line.versions:
        raise UsageError("an argument is empty: is a variable of your script not set?")
    if "--backup" in words and options.get("backup") is True:
        _read_copy(line, [*words, ""][words.index("--backup") + 1])
    line.files[:] = reversed({_path(file): file for file in reversed(line.files)}.values())
    _check(line, known)
    return line


def _sort(line: Line, words: list[str], known: Verb) -> None:
    """Tell versions, FILEs and what is Alembic's apart."""
    left = iter(words)
    is_change = "--to" in known.options
    for word in left:
        option = word.partition("=")[0]
        if is_change and re.fullmatch(_VERSION, word):
            line.versions.append(word)
        elif option in known.alembic or known.files == "ARGS...":
            line.alembic.append(word)
            if word in WITH_VALUE:
                line.alembic.append(next(left, ""))
        elif word.startswith("-"):
            raise UsageError(f"there is no option {option}{_suggestion(option, OPTIONS)}")
        elif is_change and re.fullmatch(_RANGE, word) and not os.path.lexists(word):
            line.alembic.append(word)
        else:
            line.files.append(word)


def _read_copy(line: Line, word: str) -> None:
    """The word after ``--backup`` is the copy if another one is the vault."""
    if word in line.files and len(line.files) > 1:
        line.files.remove(word)
        line.options["backup"] = word
    elif word in line.files and not os.path.lexists(word):
        command = typed(line.verb, "FILE", f"--backup={word}")
        raise UsageError(
            f"{word} does not exist; if it is to be the copy, name the vault as well: {command}"
        )


def _check(line: Line, known: Verb) -> None:
    verb, files, versions, options, alembic = line
    if not verb:
        word = files[0] if files else "."
        if os.path.lexists(word) or "://" in word:  # a URL may contain a password
            raise UsageError("name a verb first, such as: credential-db status FILE")
        raise UsageError(f"there is no verb {word}{_suggestion(word, VERBS)}")
    for option in ("--no-create" if name == "create" else f"--{name}" for name in options):
        if known.files != "ARGS..." and option not in known.options + COMMON:
            raise UsageError(f"{verb} has no option {option}")
    if len({version.removeprefix("v") for version in versions}) > 1:
        raise UsageError(f"two versions: {' and '.join(versions)}")
    if verb in ("downgrade", "stamp") and not versions and not alembic:
        raise UsageError(f"to which version? credential-db {verb} FILE --to 1")
    if len(files) > 1 and (verb != "upgrade" or alembic):
        raise UsageError(f"{verb} works on one FILE, and {len(files)} are named")
    if alembic and options.get("backup") is True:
        raise UsageError("here --backup needs the name of a COPY")
    if len(files) > 1 and isinstance(options.get("backup"), str):
        raise UsageError("--backup COPY is for one vault; for several, write --backup after them")


def _path(file: str) -> str:
    return os.path.realpath(os.path.expanduser(file.removeprefix("sqlite:///")))


def _suggestion(word: str, known: Iterable[str]) -> str:
    from difflib import get_close_matches

    alike = get_close_matches(word.lower(), known, n=1, cutoff=0.7)
    found = _MEANT.get(word, alike[0] if alike else "")
    return f"; did you mean {found}?" if found else ""
