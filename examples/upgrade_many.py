"""Upgrade many vaults of one host, on all of its cores.

    upgrade_many.py tenants/*/credentials.db
    find tenants -name credentials.db -print0 | upgrade_many.py -0

It prints a line for each vault that failed and one that sums up; the exit status is 0 where every
vault is current now, else 1. A vault that fails is as it was, and holds up no other: put it right
and run the same again. Encrypted vaults: hand in ``passphrase=`` where ``upgrade`` is called.
"""

import argparse
import multiprocessing
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing.synchronize import Event
from typing import NamedTuple

import credential_db

UPGRADED, CURRENT, FAILED = "upgraded", "already current", "failed"
BATCH = 32  # what a process is handed at once
STOP = (signal.SIGINT, signal.SIGTERM)
_STOPPING: list[Event] = []  # in each process: set where it is to end


class Outcome(NamedTuple):
    """What became of one vault."""

    path: str
    result: str
    reason: str = ""


def upgrade_one(path: str, *, timeout: float, backup_suffix: str | None) -> Outcome:
    """Upgrade a vault that exists: a mistyped path must not become a new vault."""
    try:
        if not os.path.exists(path):
            return Outcome(path, FAILED, "there is no such file")
        backup = path + backup_suffix if backup_suffix else None
        # What it needs is imported by the first vault of each process, and not at all where every
        # vault is current.
        before, after = credential_db.upgrade(path, timeout=timeout, backup=backup)
    except Exception as error:
        return Outcome(path, FAILED, str(error))
    return Outcome(path, CURRENT if before == after else UPGRADED)


def upgrade_all(
    paths: Iterable[str], upgrade: Callable[[str], Outcome], *, jobs: int | None = None
) -> Counter[str]:
    """Upgrade the vaults in ``jobs`` processes, as many as there are cores where it is None.

    Returns:
        How often there was which result.
    """
    totals: Counter[str] = Counter()
    # Not forked: what this process has open stays out of the others.
    context = multiprocessing.get_context("spawn")
    stopping = context.Event()
    pool = ProcessPoolExecutor(jobs, context, initializer=_begin, initargs=(stopping,))
    try:
        for outcome in pool.map(partial(_unless_stopping, upgrade), paths, chunksize=BATCH):
            totals[outcome.result] += 1
            if outcome.result == FAILED:
                line = f"{outcome.path}: {outcome.reason}"
                print(" ".join(line.splitlines()), file=sys.stderr)
    finally:
        # Each process ends with the vault at hand; one more interrupt would break that off.
        before = {number: signal.signal(number, signal.SIG_IGN) for number in STOP}
        stopping.set()
        pool.shutdown(cancel_futures=True)
        for number, handler in before.items():
            signal.signal(number, handler)
    return totals


def _begin(stopping: Event) -> None:
    """In each process, once. Ctrl-C reaches all of them, and the first tells the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _STOPPING.append(stopping)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Where that was killed, nobody else would ever end this process."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _unless_stopping(upgrade: Callable[[str], Outcome], path: str) -> Outcome:
    if _STOPPING[0].is_set():
        return Outcome(path, FAILED, "not tried")
    return upgrade(path)


def main() -> int:
    parser = argparse.ArgumentParser(description="Upgrade many vaults, on all cores.")
    parser.add_argument("paths", nargs="*", metavar="PATH", help="a vault")
    parser.add_argument(
        "-0", "--null", action="store_true", help="read the paths from find -print0, on stdin"
    )
    parser.add_argument(
        "-j", "--jobs", type=int, metavar="N", help="processes; one a core if unset"
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=30.0,
        metavar="SECONDS",
        help="how long to wait for a vault that another program has locked (30)",
    )
    parser.add_argument(
        "--backup",
        metavar="SUFFIX",
        help="copy a vault that needs a change to its path with this behind it first",
    )
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    if options.null == bool(options.paths):
        parser.error("name the vaults, or pipe their names in with -0")
    if options.backup == "":
        parser.error("the suffix of the backups is empty")
    if options.jobs is not None and options.jobs < 1:
        parser.error("it takes one process at least")
    paths: list[str] = options.paths
    if options.null:
        paths = [os.fsdecode(path) for path in sys.stdin.buffer.read().split(b"\0") if path]
    upgrade = partial(upgrade_one, timeout=options.timeout, backup_suffix=options.backup)
    try:
        totals = upgrade_all(paths, upgrade, jobs=options.jobs)
    except (BrokenProcessPool, KeyboardInterrupt) as error:
        reason = "a process was killed" if isinstance(error, BrokenProcessPool) else "interrupted"
        print(f"{reason}: no vault is half upgraded; run the same again", file=sys.stderr)
        return 1
    results = ", ".join(f"{totals[result]} {result}" for result in (UPGRADED, CURRENT, FAILED))
    print(f"{len(paths)} vaults: {results}")
    return 1 if totals[FAILED] else 0


if __name__ == "__main__":
    sys.exit(main())
