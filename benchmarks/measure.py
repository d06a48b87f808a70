"""Ways to measure: always all contenders in turn, so that other load hits them alike."""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks import files

ROOT = Path(__file__).resolve().parents[1]


def calls(
    contenders: Mapping[str, Callable[[], object]], *, rounds: int, repeat: int = 1
) -> dict[str, float]:
    """Seconds a call: for each contender the best of all rounds, the one least disturbed."""
    best = dict.fromkeys(contenders, float("inf"))
    for _ in range(rounds):
        for name, call in contenders.items():
            start = time.perf_counter()
            for _ in range(repeat):
                call()
            best[name] = min(best[name], (time.perf_counter() - start) / repeat)
    return best


def upgrades(
    contenders: Mapping[str, tuple[Path, Callable[[Path], object]]],
    *,
    rounds: int,
    of: Callable[[list[float]], float] = min,
) -> dict[str, float]:
    """Seconds to upgrade a file, the best ``of`` all rounds; each run has a fresh copy of it."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, (source, upgrade) in contenders.items():
            file = files.copy(source, source.with_name("copy.db"))
            start = time.perf_counter()
            upgrade(file)
            seconds[name].append(time.perf_counter() - start)
    return {name: of(found) for name, found in seconds.items()}


def child(code: str, *arguments: object) -> tuple[float, str]:
    """Run Python code in a fresh process: its CPU seconds (user and system), and its output."""
    search_path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    with subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        # An empty PYTHONDONTWRITEBYTECODE is as none: else each process would compile all anew.
        env={**os.environ, "PYTHONPATH": search_path, "PYTHONDONTWRITEBYTECODE": ""},
    ) as process:
        assert process.stdout is not None
        output = process.stdout.read().decode()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"a measured process failed with exit code {process.returncode}")
    return usage.ru_utime + usage.ru_stime, output


def peak_memory() -> float:
    """The most memory this process ever had resident, in MiB."""
    try:
        # Not ru_maxrss, which on Linux starts at what the parent process had.
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.split("VmHWM:")[1].split()[0]) / 1024
    except FileNotFoundError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # macOS: in bytes


WRITER = """
import json, select, sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None)
refusals, refused_since = [], None
print("ready", flush=True)
while not select.select([sys.stdin], [], [], 0.0005)[0]:
    now = time.perf_counter()
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")
    except sqlite3.OperationalError:
        refused_since = refused_since or now
    else:
        if refused_since:
            refusals.append(now - refused_since)
        refused_since = None
print(json.dumps(refusals))
"""


def writers_kept_out(file: Path, upgrade: Callable[[Path], object]) -> list[float]:
    """Each span of time, in seconds, in which another process cannot begin to write."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, file],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        upgrade(file)
        time.sleep(0.05)
        output, _ = process.communicate("")
    return [float(span) for span in json.loads(output)]
