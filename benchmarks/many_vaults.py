"""A host with many vaults: ``python benchmarks/many_vaults.py [--quick]``.

``examples/upgrade_many.py`` upgrades them on all cores, and in the same way, in turn, on copies of
the same file, the legacy code does. Times are the best of several rounds, and hold the start of
the processes. Needs ``credential-db[benchmark]``.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import files, legacy
from benchmarks.run import Row, machine
from examples.upgrade_many import CURRENT, UPGRADED, Outcome, upgrade_all, upgrade_one

TOKENS = 20
Work = Callable[[str], Outcome]
OURS = partial(upgrade_one, timeout=30.0, backup_suffix=None)


def by_legacy(path: str) -> Outcome:
    legacy.upgrade(Path(path))
    return Outcome(path, UPGRADED)


def rows(directory: Path, *, quick: bool) -> Iterator[Row]:
    """The lines of the result.

    Args:
        directory: An empty one, for files.
        quick: Fewer vaults and rounds, to see that everything works.
    """
    cores = os.cpu_count() or 1
    count, again, rounds = (64, 10, 1) if quick else (500, 20, 3)
    source = files.write_v1(directory / "v1.db", TOKENS)
    paths = [directory / f"{number}.db" for number in range(count)]
    contenders: dict[str, tuple[Work, int]] = {
        "ours": (OURS, cores),
        "legacy": (by_legacy, cores),
        "alone": (OURS, 1),
    }

    upgrades = dict.fromkeys(contenders, float("inf"))
    for _ in range(rounds):
        for name, (work, jobs) in contenders.items():
            for path in paths:
                files.copy(source, path)
            upgrades[name] = min(upgrades[name], _seconds(paths, work, UPGRADED, jobs))
    yield _row(f"v1 to v2, {count} vaults of {TOKENS} tokens", count, upgrades, cores)

    looks = dict.fromkeys(contenders, float("inf"))
    expected = {"ours": CURRENT, "legacy": UPGRADED, "alone": CURRENT}
    for _ in range(rounds):
        for name, (work, jobs) in contenders.items():
            looks[name] = min(looks[name], _seconds(paths * again, work, expected[name], jobs))
    yield _row(f"current, {count} vaults {again} times", count * again, looks, cores)


def _seconds(paths: list[Path], work: Work, expected: str, jobs: int) -> float:
    names = [str(path) for path in paths]
    start = time.perf_counter()
    totals = upgrade_all(names, work, jobs=jobs)
    seconds = time.perf_counter() - start
    if totals != {expected: len(paths)}:
        raise SystemExit(f"{len(paths)} vaults were to be {expected}, and were: {dict(totals)}")
    return seconds


def _row(work: str, count: int, seconds: dict[str, float], cores: int) -> Row:
    ours, theirs = (count / seconds[name] / cores for name in ("ours", "legacy"))
    return Row(
        work,
        f"{ours:.0f} vaults per second and core",
        f"legacy {theirs:.0f}",
        seconds["ours"] / seconds["legacy"],
        None,
        f"{cores} processes {seconds['ours']:.1f} s, one process {seconds['alone']:.1f} s",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="fewer vaults and rounds")
    quick = parser.parse_args().quick
    print(f"Taken on {machine()}{' (--quick: not to be quoted)' if quick else ''}\n")
    print("| work | credential-db | compared with | ratio of the times | also |")
    print("|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        for row in rows(Path(directory), quick=quick):
            print(row.line(bars=False), flush=True)


if __name__ == "__main__":
    main()
