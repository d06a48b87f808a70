"""Every claim about speed and memory, measured: ``python benchmarks/run.py [--quick] [--bars]``.

Legacy code and stock Alembic run beside credential-db, in turn, on copies of the same files.
Times are the best of several rounds; CPU time, and time by size, are medians. With ``--bars``, for
contributors, each row also says how much it may be, and the exit status is 1 where one is more.
Needs ``credential-db[benchmark]``.
"""

import argparse
import os
import platform
import sqlite3
import statistics
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

from credential_db import upgrade

MICRO, MILLI = 1e6, 1e3
NOISE = 1.1
# What most programs have imported anyway when they open a database.
USUAL = "argparse, json, logging, os, re, sqlite3, subprocess, sys, threading, traceback, typing"
LIBRARIES = ("alembic", "sqlalchemy", "cryptography")


class Row(NamedTuple):
    """One line of the result.

    Attributes:
        work: What was done.
        measured: With credential-db.
        baseline: With what it is compared to.
        ratio: The first by the second, or what else the bar is for.
        bar: The most that it may be; None where there is no bar.
        also: Worth knowing besides.
    """

    work: str
    measured: str
    baseline: str
    ratio: float
    bar: float | None
    also: str = ""

    @property
    def passed(self) -> bool:
        return self.bar is None or self.ratio <= self.bar

    def line(self, *, bars: bool) -> str:
        cells = [self.work, self.measured, self.baseline, f"{self.ratio:.3g}", self.also]
        if bars:
            cells += [
                "-" if self.bar is None else f"{self.bar:g}",
                "pass" if self.passed else "FAIL",
            ]
        return f"| {' | '.join(cells)} |"


class Bench:
    """All rows of the table.

    Args:
        directory: An empty one, for files.
        quick: Smaller files and fewer rounds, to see that everything works.
    """

    def __init__(self, directory: Path, *, quick: bool) -> None:
        self.directory = directory
        self.rounds = 3 if quick else 9
        self.many = 10_000 if quick else 50_000
        self.tokens = 50_000 if quick else 1_000_000
        self.rsa_keys = files.rsa_keys(4 if quick else 20)
        self.keys = files.ed25519_keys(self.many)
        self.environment = directory / "stock"
        stock.create_environment(self.environment)
        self.stock = partial(stock.upgrade, self.environment)
        self.current = directory / "current.db"
        upgrade(self.current)
        with closing(sqlite3.connect(self.current)) as connection:
            connection.execute("PRAGMA journal_mode = wal")

    def rows(self) -> Iterator[Row]:
        yield self.open_connection()
        yield self.by_path()
        yield from self.new_process()
        yield from self.new_file()
        yield self.fixed_cost()
        yield from self.encrypted()
        yield self.rsa()
        yield self.ed25519("wal")
        yield self.ed25519("delete")
        yield self.rename()
        yield self.memory()
        yield self.linear()
        yield self.lock()

    def open_connection(self) -> Row:
        with (
            closing(sqlite3.connect(self.current)) as ours,
            closing(sqlite3.connect(self.current)) as theirs,
        ):
            best = measure.calls(
                {
                    "ours": lambda: upgrade(ours),
                    "legacy": lambda: legacy.upgrade_connection(theirs),
                },
                rounds=20 * self.rounds,
                repeat=50,
            )
        by_stock = measure.calls({"stock": lambda: self.stock(self.current)}, rounds=self.rounds)
        return Row(
            "current file, open connection",
            f"{best['ours'] * MICRO:.1f} µs",
            f"legacy {best['legacy'] * MICRO:.1f} µs",
            best["ours"] / best["legacy"],
            0.5,
            f"stock Alembic {by_stock['stock'] * MICRO:.0f} µs, once imported",
        )

    def by_path(self) -> Row:
        best = measure.calls(
            {
                "ours": lambda: upgrade(self.current),
                "legacy": lambda: legacy.upgrade(self.current),
                "open": lambda: _open(self.current),
            },
            rounds=200 * self.rounds,
        )
        return Row(
            "current file, by path (WAL): open, check, close",
            f"{best['ours'] * MICRO:.0f} µs",
            f"legacy {best['legacy'] * MICRO:.0f} µs",
            best["ours"] / best["legacy"],
            NOISE,
            f"sqlite3 alone, to open, read the number and close: {best['open'] * MICRO:.0f} µs",
        )

    def new_process(self) -> Iterator[Row]:
        programs = {
            "open": (
                "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]);"
                " c.execute('PRAGMA user_version').fetchone(); c.close()"
            ),
            "ours": "import credential_db, sys; credential_db.upgrade(sys.argv[1])",
            "usual": f"import {USUAL}; c = sqlite3.connect(sys.argv[1]); c.close()",
            "usual and ours": (
                f"import {USUAL}; import credential_db; credential_db.upgrade(sys.argv[1])"
            ),
            "stock": (
                "from benchmarks import stock; from pathlib import Path; import sys;"
                " stock.upgrade(Path(sys.argv[2]), Path(sys.argv[1]))"
            ),
        }
        cpu: dict[str, list[float]] = {name: [] for name in programs}
        for round_ in range(4 * self.rounds + 1):
            for name, code in programs.items():
                if name == "stock" and round_ % 4:
                    continue
                seconds, _ = measure.child(code, self.current, self.environment)
                if round_:  # the first one compiles
                    cpu[name].append(seconds)
        median = {name: statistics.median(seconds) for name, seconds in cpu.items()}
        added = median["ours"] - median["open"]
        added_by_stock = median["stock"] - median["open"]
        yield Row(
            "current file, CPU added to a new process",
            f"{added * MILLI:.1f} ms",
            f"stock {added_by_stock * MILLI:.0f} ms",
            added / added_by_stock,
            0.1,
            f"a process that only opens it with sqlite3: {median['open'] * MILLI:.1f} ms",
        )
        added = median["usual and ours"] - median["usual"]
        yield Row(
            "the same, where usual modules are imported already",
            f"{added * MILLI:.1f} ms",
            f"stock {added_by_stock * MILLI:.0f} ms",
            added / added_by_stock,
            0.05,
            f"such as {', '.join(USUAL.split(', ')[1:4])}",
        )
        yield _imports("libraries imported meanwhile", programs["ours"], self.current)

    def new_file(self) -> Iterator[Row]:
        """A missing file is made in one shot, from the record."""
        file = self.directory / "new.db"

        def anew(call: Callable[[Path], object]) -> None:
            file.unlink(missing_ok=True)
            call(file)

        best = measure.calls(
            {"ours": lambda: anew(upgrade), "legacy": lambda: anew(legacy.upgrade)},
            rounds=10 * self.rounds,
        )
        yield Row(
            "new file",
            f"{best['ours'] * MILLI:.1f} ms",
            f"legacy {best['legacy'] * MILLI:.1f} ms",
            best["ours"] / best["legacy"],
            3,
        )
        programs = {
            "ours": "import credential_db, sys; credential_db.upgrade(sys.argv[1])",
            "legacy": (
                "import sys, types; sys.modules['cryptography.hazmat.primitives.serialization'] ="
                " types.SimpleNamespace(Encoding=0, NoEncryption=0, PrivateFormat=0,"
                " load_ssh_private_key=0); from benchmarks import legacy;"
                " legacy.upgrade(sys.argv[1])"
            ),
        }
        cpu: dict[str, list[float]] = {name: [] for name in programs}
        for _ in range(4 * self.rounds + 1):
            for name, code in programs.items():
                file.unlink(missing_ok=True)
                cpu[name].append(measure.child(code, file)[0])
        ours, theirs = (statistics.median(cpu[name][1:]) for name in programs)
        yield Row(
            "new file, CPU of a new process",
            f"{ours * MILLI:.0f} ms",
            f"legacy {theirs * MILLI:.0f} ms",
            ours / theirs,
            2.5,
            "the legacy code without the library that it converts keys with",
        )

    def fixed_cost(self) -> Row:
        """One column renamed in a small file: what an upgrade costs whatever it does."""
        legacy_file = files.write_v1(self.directory / "small.db", 10)
        stamped = files.copy(legacy_file, self.directory / "small-stamped.db")
        stock.stamp(self.environment, stamped, "v1")
        with closing(sqlite3.connect(stamped)) as connection:
            connection.execute("PRAGMA user_version = 1")
        usual = measure.upgrades(
            {
                "ours": (stamped, upgrade),
                "stock": (stamped, self.stock),
                "adopted": (legacy_file, upgrade),
            },
            rounds=8 * self.rounds,
            of=statistics.median,
        )
        return Row(
            "v1 to v2, 10 tokens, in a warm process",
            f"{usual['ours'] * MILLI:.1f} ms",
            f"stock {usual['stock'] * MILLI:.1f} ms",
            usual["ours"] / usual["stock"],
            1.5,
            "of a file that never saw Alembic, with its clean-up:"
            f" {usual['adopted'] * MILLI:.1f} ms",
        )

    def encrypted(self) -> Iterator[Row]:
        """Every connection derives the key anew, which is the cost of opening such a file."""
        file, passphrase = self.directory / "encrypted.db", "correct horse battery staple"
        upgrade(file, passphrase=passphrase)

        def derive() -> None:
            with closing(sqlcipher.connect(str(file))) as connection:
                connection.execute(f"PRAGMA key = '{passphrase}'")
                connection.execute("PRAGMA user_version").fetchone()

        best = measure.calls(
            {"ours": lambda: upgrade(file, passphrase=passphrase), "sqlcipher3": derive},
            rounds=3 * self.rounds,
        )
        yield Row(
            "current encrypted file, by path",
            f"{best['ours'] * MILLI:.1f} ms",
            f"sqlcipher3 alone {best['sqlcipher3'] * MILLI:.1f} ms",
            best["ours"] / best["sqlcipher3"],
            NOISE,
            "the baseline opens, derives the key, reads the number and closes",
        )
        code = (
            "import credential_db, sys; credential_db.upgrade(sys.argv[1], passphrase=sys.argv[2])"
        )
        yield _imports("libraries imported meanwhile, encrypted file", code, file, passphrase)

    def rsa(self) -> Row:
        count = len(self.rsa_keys)
        full = files.write_v0(self.directory / "rsa.db", self.rsa_keys)
        empty = files.write_v0(self.directory / "no-keys.db", [])
        best = measure.upgrades(
            {"ours": (full, upgrade), "ours without": (empty, upgrade)}, rounds=2 * self.rounds
        )
        best |= measure.upgrades(
            {"legacy": (full, legacy.upgrade), "legacy without": (empty, legacy.upgrade)}, rounds=2
        )
        key = (best["ours"] - best["ours without"]) / count
        legacy_key = (best["legacy"] - best["legacy without"]) / count
        return Row(
            "v0 to v2, RSA-3072, a key",
            f"{key * MILLI:.2f} ms",
            f"legacy {legacy_key * MILLI:.0f} ms",
            key / legacy_key,
            0.01,
            f"{legacy_key / key:.0f} times faster; the whole file of {count} keys took"
            f" {best['ours'] * MILLI:.0f} ms, legacy {best['legacy'] * MILLI:.0f} ms",
        )

    def ed25519(self, journal_mode: str) -> Row:
        count = 5_000
        file = self.directory / "ed25519.db"
        file.unlink(missing_ok=True)
        files.write_v0(file, self.keys[:count], journal_mode=journal_mode)
        best = measure.upgrades(
            {"ours": (file, upgrade), "legacy": (file, legacy.upgrade)}, rounds=self.rounds
        )
        return Row(
            f"v0 to v2, {count} ed25519 keys, journal_mode={journal_mode}, a key",
            f"{best['ours'] / count * MICRO:.0f} µs",
            f"legacy {best['legacy'] / count * MICRO:.0f} µs",
            best["ours"] / best["legacy"],
            1.2,
            "fixed costs and the scrub included",
        )

    def rename(self) -> Row:
        few = files.write_v1(self.directory / "few-tokens.db", 1_000)
        many = files.write_v1(self.directory / "many-tokens.db", self.tokens)
        best = measure.upgrades(
            {"legacy": (many, legacy.upgrade), "adopted": (many, upgrade)}, rounds=2
        )
        stock.stamp(self.environment, few, "v1")
        stock.stamp(self.environment, many, "v1")
        best |= measure.upgrades(
            {"few": (few, upgrade), "many": (many, upgrade)}, rounds=self.rounds
        )
        best |= measure.upgrades(
            {"stock few": (few, self.stock), "stock many": (many, self.stock)}, rounds=2
        )
        many.unlink()
        return Row(
            f"v1 to v2, {self.tokens} tokens",
            f"{best['many'] * MILLI:.0f} ms",
            f"1000 tokens {best['few'] * MILLI:.0f} ms",
            best["many"] / best["few"],
            None,
            "every row is counted; of a file that never saw Alembic, which is rebuilt without its"
            f" space, {best['adopted'] * MILLI:.0f} ms; legacy {best['legacy'] * MILLI:.0f} ms;"
            f" stock {best['stock many'] * MILLI:.0f} ms, with 1000 tokens"
            f" {best['stock few'] * MILLI:.0f} ms",
        )

    def memory(self) -> Row:
        few = files.write_v0(self.directory / "few-keys.db", self.keys[:500])
        many = files.write_v0(self.directory / "many-keys.db", self.keys)

        def growth(module: str) -> float:
            code = (
                f"from benchmarks import measure; import {module} as contender; import sys;"
                " contender.upgrade(sys.argv[1]); print(measure.peak_memory())"
            )
            copy = self.directory / "copy.db"
            small, large = (
                float(measure.child(code, files.copy(file, copy))[1]) for file in (few, many)
            )
            return large - small

        ours, theirs = growth("credential_db"), growth("benchmarks.legacy")
        return Row(
            f"memory, 500 to {self.many} ed25519 keys",
            f"+{ours:.1f} MiB",
            f"legacy +{theirs:.1f} MiB",
            ours,
            20,
            "peak of a fresh process; the bar is for the growth in MiB",
        )

    def linear(self) -> Row:
        sizes = (500, self.many // 10, self.many)
        sources = {
            str(size): files.write_v0(self.directory / f"{size}.db", self.keys[:size])
            for size in sizes
        }
        usual = measure.upgrades(
            {name: (file, upgrade) for name, file in sources.items()},
            rounds=5,
            of=statistics.median,  # the best would be luckier the shorter it is
        )
        low, middle, high = (usual[str(size)] for size in sizes)
        early = (middle - low) / (sizes[1] - sizes[0])
        late = (high - middle) / (sizes[2] - sizes[1])
        return Row(
            f"time, 500 to {self.many} ed25519 keys",
            f"{late * MICRO:.0f} µs for each key over {sizes[1]}",
            f"{early * MICRO:.0f} µs for each key up to {sizes[1]}",
            late / early,
            1.25,
            "; ".join(f"{size} keys {usual[str(size)] * MILLI:.0f} ms" for size in sizes),
        )

    def lock(self) -> Row:
        source = files.write_v0(self.directory / "lock.db", self.keys[:1_000])
        spans: dict[str, list[float]] = {"ours": [], "legacy": []}
        for _ in range(self.rounds):
            for name, call in (("ours", upgrade), ("legacy", legacy.upgrade)):
                file = files.copy(source, self.directory / "copy.db")
                found = measure.writers_kept_out(file, call)
                if not spans[name] or sum(found) < sum(spans[name]):
                    spans[name] = found
        ours, theirs = sum(spans["ours"]), sum(spans["legacy"])
        listed = " + ".join(f"{span * MILLI:.0f}" for span in spans["ours"])
        return Row(
            "v0 to v2, 1000 ed25519 keys: other writers kept out",
            f"{ours * MILLI:.0f} ms",
            f"legacy {theirs * MILLI:.0f} ms",
            ours / theirs,
            None,
            f"in spans of {listed} ms, as another process sees it",
        )


def _open(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA user_version").fetchone()


def _imports(work: str, code: str, *arguments: object) -> Row:
    code += f"; print(*(name for name in {LIBRARIES} if name in sys.modules))"
    found = measure.child(code, *arguments)[1].split()
    return Row(work, ", ".join(found) or "none", ", ".join(LIBRARIES), len(found), 0)


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
    parser.add_argument("--bars", action="store_true", help="say how much each may be")
    arguments = parser.parse_args()
    quick, bars = arguments.quick, arguments.bars
    print(f"Taken on {machine()}{' (--quick: not to be quoted)' if quick else ''}\n")
    print(f"| work | credential-db | compared with | ratio | also |{' bar | |' if bars else ''}")
    print(f"|---|---|---|---|---|{'---|---|' if bars else ''}", flush=True)
    passed = True
    with tempfile.TemporaryDirectory() as directory:
        for row in Bench(Path(directory), quick=quick).rows():
            print(row.line(bars=bars), flush=True)
            passed = passed and row.passed
    return 0 if passed or not bars else 1


if __name__ == "__main__":
    sys.exit(main())
