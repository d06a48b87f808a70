"""Measure every claim about speed and memory: ``python benchmarks/run.py [--quick] [--bars]``.

The baselines are a legacy script that imports only ``sqlite3``, and stock Alembic: its generic
template with ``batch_alter_table(…, recreate="never")``. Both keep SQLite's default ``synchronous``
(FULL), while credential-db uses EXTRA, which costs one more sync per commit. All run in turn, on
copies of the same file; figures are medians. With ``--bars`` each row also shows the most that its
ratio may be, and the exit status is 1 if one is higher. Needs ``credential-db[benchmark]``.
"""

import argparse
import os
import platform
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import files, legacy, measure, stock
from sqlcipher3 import dbapi2 as sqlcipher

from credential_db import ensure_credentials_schema, migrate_credential_db_schema, upgrade

LIBRARIES = ("alembic", "sqlalchemy", "cryptography")
OURS = "import credential_db, sys; credential_db.upgrade(sys.argv[1])"
LEGACY = "import legacy, sys; legacy.upgrade(sys.argv[1])"
PASSPHRASE = "correct horse battery staple"


class Row(NamedTuple):
    """One line of the result.

    Attributes:
        work: What was done.
        ours: With credential-db.
        baseline: With what it is compared with.
        ratio: The first divided by the second, or the value that the bar is for.
        bar: The most that it may be; None if there is no bar.
    """

    work: str
    ours: str
    baseline: str
    ratio: float
    bar: float | None

    @property
    def passed(self) -> bool:
        return self.bar is None or self.ratio <= self.bar

    def line(self, *, bars: bool) -> str:
        cells = [self.work, self.ours, self.baseline, f"{self.ratio:.3f}"]
        if bars:
            cells += ["-" if self.bar is None else f"{self.bar:g}", "" if self.passed else "FAIL"]
        return f"| {' | '.join(cells)} |"


def row(work: str, found: measure.Medians, bar: float | None, *, per: int = 1) -> Row:
    """The contender ``ours`` and the one other; ``per`` is the number of keys."""
    ours = found["ours"] / per
    ((name, other),) = ((name, each / per) for name, each in found.items() if name != "ours")
    return Row(work, shown(ours), f"{name} {shown(other)}", ours / other, bar)


def shown(seconds: float) -> str:
    if seconds < 1e-3:
        return f"{seconds * 1e6:.3g} µs"
    return f"{seconds * 1e3:.{1 if seconds < 10e-3 else 0}f} ms"


class Bench:
    """All rows of the table.

    Args:
        directory: An empty one, for files.
        quick: Smaller files and fewer rounds, to see that everything works.
    """

    def __init__(self, directory: Path, *, quick: bool) -> None:
        self.directory = directory
        self.rounds = 3 if quick else 11
        self.tokens = 50_000 if quick else 500_000
        self.keys = files.ed25519_keys(5_000)
        self.rsa_keys = files.rsa_keys(4 if quick else 20)
        self.environment = directory / "stock"
        stock.create_environment(self.environment)
        self.stock = partial(stock.upgrade, self.environment)
        self.current = directory / "current.db"
        upgrade(self.current)
        with closing(sqlite3.connect(self.current)) as connection:
            connection.execute("PRAGMA journal_mode = wal")

    def rows(self) -> Iterator[Row]:
        yield from self.current_file()
        yield from self.new_process()
        yield from self.new_file()
        yield from self.rename()
        yield from self.conversions()
        yield self.encrypted()
        yield self.memory()

    def current_file(self) -> Iterator[Row]:
        name = str(self.current)
        calls = {"ours": lambda: upgrade(name), "legacy": lambda: legacy.upgrade(name)}
        found = measure.seconds(calls, rounds=200 * self.rounds)
        yield row("current file, by path", found, 1.1)
        with (
            closing(sqlite3.connect(self.current)) as ours,
            closing(sqlite3.connect(self.current)) as theirs,
        ):

            def both_functions() -> None:
                ensure_credentials_schema(ours)
                migrate_credential_db_schema(ours)

            for name, call, bar in (
                ("", lambda: upgrade(ours), 0.5),
                (", the two legacy functions", both_functions, 1.0),
            ):
                calls = {"ours": call, "legacy": lambda: legacy.both_functions(theirs)}
                found = measure.seconds(calls, rounds=20 * self.rounds, repeat=50)
                yield row(f"current file, open connection{name}", found, bar)

    def new_process(self) -> Iterator[Row]:
        name = str(self.current)
        commands = {"ours": ("-c", OURS, name), "legacy": ("-c", LEGACY, name)}
        found = measure.cpu(commands, rounds=4 * self.rounds)
        yield row("current file, CPU of a new process", found, None)
        code = f"{OURS}; print(*(name for name in {LIBRARIES} if name in sys.modules))"
        imported = measure.child(("-c", code, name))[1].split()
        work = f"current file, imports of {', '.join(LIBRARIES)}"
        yield Row(work, ", ".join(imported) or "none", "none", len(imported), 0)
        verbs = {
            label: ("-m", "credential_db", verb, name)
            for label, verb in (("ours", "upgrade"), ("`credential-db status`", "status"))
        }
        found = measure.cpu(verbs, rounds=2 * self.rounds)
        yield row("current file, CPU of `credential-db upgrade`", found, 1.5)

    def new_file(self) -> Iterator[Row]:
        file = self.directory / "new.db"

        def created(call: Callable[[str], object]) -> None:
            file.unlink(missing_ok=True)
            call(str(file))

        calls = {"ours": lambda: created(upgrade), "legacy": lambda: created(legacy.upgrade)}
        yield row("new file", measure.seconds(calls, rounds=10 * self.rounds), None)
        commands = {"ours": ("-c", OURS, str(file)), "legacy": ("-c", LEGACY, str(file))}
        before = partial(file.unlink, missing_ok=True)
        found = measure.cpu(commands, rounds=4 * self.rounds, before=before)
        yield row("new file, CPU of a new process", found, 2.0)

    def rename(self) -> Iterator[Row]:
        never = {
            count: files.write_v1(self.directory / f"{count}-tokens.db", count)
            for count in (10, 1_000, self.tokens)
        }
        stamped = {
            count: files.copy(file, file.with_name(f"{count}-stamped.db"))
            for count, file in never.items()
        }
        for file in stamped.values():
            stock.stamp(self.environment, str(file), "v1")
        for state, source, bar, bar_of_many in (
            ("file already stamped", stamped, 1.2, 1.5),
            ("file never under Alembic", never, 1.5, None),
        ):
            contenders: measure.Contenders = {
                "ours": (source[10], upgrade),
                "stock Alembic": (stamped[10], self.stock),
            }
            found = measure.upgrades(contenders, rounds=10 * self.rounds)
            yield row(f"v1 to v2, 10 tokens, {state}", found, bar)
            contenders = {
                "ours": (source[self.tokens], upgrade),
                "1,000 tokens": (source[1_000], upgrade),
            }
            found = measure.upgrades(contenders, rounds=self.rounds)
            yield row(f"v1 to v2, {self.tokens:,} tokens, {state}", found, bar_of_many)

    def conversions(self) -> Iterator[Row]:
        for kind, keys, bar, rounds in (
            ("Ed25519", self.keys, 1.2, self.rounds),
            ("RSA-3072", self.rsa_keys, 0.1, 3),
        ):
            file = files.write_v0(self.directory / f"{kind}.db", keys)
            calls: measure.Contenders = {"ours": (file, upgrade), "legacy": (file, legacy.upgrade)}
            found = measure.upgrades(calls, rounds=rounds)
            yield row(f"v0 to v2, {len(keys):,} {kind} keys, per key", found, bar, per=len(keys))

    def encrypted(self) -> Row:
        """Most of the time derives the key, which every connection does."""
        file = str(self.directory / "encrypted.db")
        upgrade(file, passphrase=PASSPHRASE)

        def derive() -> None:
            with closing(sqlcipher.connect(file)) as connection:
                connection.execute(f"PRAGMA key = '{PASSPHRASE}'")
                connection.execute("PRAGMA user_version").fetchone()

        calls = {"ours": lambda: upgrade(file, passphrase=PASSPHRASE), "sqlcipher3": derive}
        found = measure.seconds(calls, rounds=3 * self.rounds)
        return row("current encrypted file, by path", found, 1.1)

    def memory(self) -> Row:
        few = files.write_v0(self.directory / "few-keys.db", self.keys[:500])
        many = self.directory / "Ed25519.db"

        def growth(module: str) -> float:
            code = (
                f"from benchmarks import measure; import {module} as contender; import sys;"
                " contender.upgrade(sys.argv[1]); print(measure.peak_memory())"
            )
            copy = self.directory / "copy.db"
            small, large = (
                float(measure.child(("-c", code, str(files.copy(file, copy))))[1])
                for file in (few, many)
            )
            return large - small

        ours, theirs = growth("credential_db"), growth("legacy")
        work = "memory, growth from 500 to 5,000 keys (MiB)"
        return Row(work, f"{ours:.1f} MiB", f"legacy {theirs:.1f} MiB", ours, 20)


def machine() -> str:
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.partition(": ")[2]
                break
    packages = ", ".join(
        f"{name} {version(name)}"
        for name in ("credential-db", "alembic", "sqlalchemy", "cryptography", "sqlcipher3")
    )
    return (
        f"{platform.system()} {platform.release()}, {os.cpu_count()} x {model};"
        f" {platform.python_implementation()} {platform.python_version()},"
        f" SQLite {sqlite3.sqlite_version}; {packages}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="smaller files and fewer rounds")
    parser.add_argument("--bars", action="store_true", help="show the most that each ratio may be")
    arguments = parser.parse_args()
    quick, bars = arguments.quick, arguments.bars
    print(f"Measured on {machine()}{' (--quick: do not quote)' if quick else ''}\n")
    print(f"| work | credential-db | compared with | ratio |{' bar | |' if bars else ''}")
    print(f"|---|---|---|---|{'---|---|' if bars else ''}", flush=True)
    passed = True
    with tempfile.TemporaryDirectory() as directory:
        for each in Bench(Path(directory), quick=quick).rows():
            print(each.line(bars=bars), flush=True)
            passed = passed and each.passed
    return 0 if passed or not bars else 1


if __name__ == "__main__":
    sys.exit(main())
