"""What each verb of the command line does."""

import json
import os
import sys
from typing import Any

from credential_db import api, passphrases, snapshots
from credential_db.arguments import X_ARGUMENTS, Line
from credential_db.command_line import (
    DEFAULT_FILE,
    UsageError,
    fail,
    log_on_stderr,
    message_of,
    shown,
    typed,
)
from credential_db.head import SCHEMA_VERSION
from credential_db.opening import Outcome
from credential_db.sqlite.errors import CredentialDBError, DatabaseBusy
from credential_db.sqlite.files import file_of_name
from credential_db.sqlite.transaction import TIMEOUT

_BEHIND = 3
_OF_STATE = {"current": 0, "ahead": 4, "unrecognized": 5}  # any other: 3
_OF_ERROR = (7, 8)  # any other: 1
_OF_CHANGE = ("backup", "dry-run", "repair", "create", "purge")
_GUIDE = "its docs/changing-the-schema.md tells how to change tables"
_IN_CHECKOUT = dict.fromkeys(("revision", "merge", "edit"), _GUIDE)
_IN_CHECKOUT["init"] = "credential-db upgrade FILE creates a vault"


def run(line: Line) -> int:
    """Run one command and return its exit status."""
    files = line.files or [os.environ.get("CREDENTIAL_DB", DEFAULT_FILE)]
    if not files[0]:
        raise CredentialDBError("CREDENTIAL_DB is set but empty: name a vault, or unset it")
    if line.alembic or line.verb not in ("status", "upgrade", "downgrade", "stamp"):
        return _alembic(line, files[0])
    with log_on_stderr("credential_db", quiet="quiet" in line.options, results=False):
        return _status(line, files[0]) if line.verb == "status" else _Changes(line, files).run()


def _status(line: Line, file: str) -> int:
    path, timeout, texts = "", line.options.get("timeout", TIMEOUT), []
    blockers: tuple[str, ...] = ()
    try:
        path = os.path.abspath(file_of_name(file))
        found, blockers = api.look(path, passphrase=passphrases.for_file(path), timeout=timeout)
        status = _OF_STATE.get(found.state, _BEHIND)
        version = "none" if found.version is None else f"v{found.version}"
        run = "" if blockers or status != _BEHIND else f"; run: {typed('upgrade', path)}"
        state = f"{path}: {found.state} (version {version}, head v{found.head})"
        texts = [state, found.detail + run]
    except CredentialDBError as error:
        status = fail(error, path)
        status = status if status in _OF_ERROR else 1
        found = api.Status("error", None, SCHEMA_VERSION, message_of(error, path))
    _print(line, *texts, path=path, **found._asdict(), blockers=blockers, exit_status=status)
    return status


class _Changes:
    """``upgrade`` of one or several files; ``downgrade`` and ``stamp`` of one."""

    def __init__(self, line: Line, files: list[str]) -> None:
        self.line, self.options, self.files = line, line.options, files
        self.several = len(files) > 1
        self.passphrase = passphrases.of_environment() if self.several else None
        self.results: list[str] = []
        self.status = 0

    def run(self) -> int:
        timeout = self.options.get("timeout", TIMEOUT)
        if not self.several:
            self.done(self.files[0], timeout)
            return self.status
        try:
            # Locked files are tried once more at the end, so that the others do not wait for them.
            locked = [file for file in self.files if not self.done(file, 0.0, is_last=False)]
            for file in locked:
                self.done(file, timeout)
        finally:
            if "quiet" not in self.options:
                results = self.results + ["not tried"] * (len(self.files) - len(self.results))
                counts = [f"{results.count(each)} {each}" for each in dict.fromkeys(results)]
                sys.stderr.write(f"{len(self.files)} vaults: {', '.join(counts)}\n")
        return self.status

    def done(self, file: str, timeout: float, *, is_last: bool = True) -> bool:
        path, status, texts, outcome = "", 0, [], Outcome(None, None)
        try:
            path = file_of_name(file)
            outcome = self.change(path, timeout)
            result, detail = _result(outcome), str(outcome)
            if result == "current" and self.options.get("backup"):
                detail += "; nothing to change, so no backup"
            texts = [f"{path}: {detail}"]
        except CredentialDBError as error:
            if isinstance(error, DatabaseBusy) and not is_last:
                return False
            status = fail(error, path)
            result, detail = "failed", message_of(error, path)
        self.results.append(result)
        self.status = max(self.status, status)
        fields = {"before": outcome.before, "after": outcome.after, "backup": outcome.backup}
        fields |= {"exit_status": status, "detail": detail}
        _print(self.line, *texts, path=path, result=result, **fields)
        return True

    def change(self, path: str, timeout: float) -> Outcome:
        is_plain = self.several and passphrases.is_plain(path)
        if not is_plain:
            self.passphrase = self.passphrase or passphrases.for_file(path)
        options = {name: self.options[name] for name in _OF_CHANGE if name in self.options}
        options |= {"create": False} if self.several else {}
        self.count(f"{len(self.results) + 1} of {len(self.files)}: {shown(path)}")
        try:
            return api.change(
                path,
                command=self.line.verb,
                to=(self.line.versions or ["head"])[0],
                passphrase=None if is_plain else self.passphrase,
                timeout=timeout,
                **{name.replace("-", "_"): value for name, value in options.items()},
            )
        finally:
            self.count()

    def count(self, text: str = "") -> None:
        """Show on a terminal how far it is, or remove that."""
        if self.several and "quiet" not in self.options and sys.stderr.isatty():
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()


def _result(outcome: Outcome) -> str:
    changed = outcome.before != outcome.after or outcome.adopted
    if not (changed or outcome.repaired):
        return "current"
    result = "created" if outcome.before is None else "upgraded" if changed else "repaired"
    return "would-upgrade" if outcome.dry_run else result


def _print(line: Line, *texts: str, **fields: Any) -> None:
    """Print a result: the fields as JSON if that is wanted, otherwise the texts, a line each."""
    if "json" in line.options:
        paths = {name: fields[name] for name in ("path", "backup") if name in fields}
        fields |= {name: os.path.abspath(path) if path else None for name, path in paths.items()}
        texts = (json.dumps(fields),)
    elif "quiet" in line.options:
        return
    sys.stdout.write("".join(f"{shown(text)}\n" for text in texts))
    sys.stdout.flush()


def _alembic(line: Line, file: str) -> int:
    """Run Alembic's own command line."""
    words = [*line.alembic]
    if line.verb != "alembic":
        to = line.versions[:1] or (["head"] if words == ["--sql"] else [])
        words = [line.verb, *words, *to, *(["--purge"] if "purge" in line.options else [])]
    if line.verb == "history":
        words.append("--indicate-current")
    in_checkout = next((word for word in words if word in _IN_CHECKOUT), "")
    if in_checkout and snapshots.home() == snapshots.PACKAGE:
        raise CredentialDBError(f"{in_checkout} works in a checkout: {_IN_CHECKOUT[in_checkout]}")
    from alembic.config import CommandLine, Config
    from alembic.util import CommandError

    from credential_db import revisions

    alembic = CommandLine("credential-db alembic" if line.verb == "alembic" else "credential-db")
    values = {"db": file} | {n: v for n, v in line.options.items() if n in X_ARGUMENTS}
    arguments = [f"-x{name}={value}" for name, value in values.items()]
    arguments += ["--quiet"] * ("quiet" in line.options)
    options = alembic.parser.parse_args([*arguments, *words])
    if "cmd" not in options:
        raise UsageError("name a command of Alembic; see: credential-db alembic --help")
    if options.config or options.name != "alembic":
        raise UsageError("the configuration is the packaged one: leave out -c and -n")
    options.raiseerr = True
    # Only alembic.ini tells how to write a revision.
    ini = os.path.join(snapshots.home(), "alembic.ini")
    config = Config(ini) if in_checkout else revisions.config()
    config.cmd_opts, config.stdout = options, sys.stdout
    loggers = ("credential_db", "alembic")[: 1 + (line.verb == "alembic")]
    with log_on_stderr(*loggers, quiet=options.quiet, results=True):
        try:
            alembic.run_cmd(config, options)
        except (CommandError, CredentialDBError) as error:
            return fail(error, *line.files)
    return 0
