"""Ways to measure: all contenders in turn, round after round, and the median of each."""

import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks import files

ROOT = Path(__file__).resolve().parents[1]
Medians = dict[str, float]
# A file, and what upgrades a copy of it.
Contenders = Mapping[str, tuple[Path, Callable[[str], object]]]


def seconds(
    contenders: Mapping[str, Callable[[], object]], *, rounds: int, repeat: int = 1
) -> Medians:
    """Seconds per call."""
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, call in contenders.items():
            start = time.perf_counter()
            for _ in range(repeat):
                call()
            found[name].append((time.perf_counter() - start) / repeat)
    return _medians(found)


def upgrades(contenders: Contenders, *, rounds: int) -> Medians:
    """Seconds to upgrade a file; each call gets a new copy of it."""
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, (source, upgrade) in contenders.items():
            file = files.copy(source, source.with_name("copy.db"))
            start = time.perf_counter()
            upgrade(str(file))
            found[name].append(time.perf_counter() - start)
    return _medians(found)


def cpu(
    commands: Mapping[str, Sequence[str]], *, rounds: int, before: Callable[[], object] = list
) -> Medians:
    """CPU seconds (user and system) of a new process."""
    found: dict[str, list[float]] = {name: [] for name in commands}
    for round_ in range(rounds + 1):
        for name, command in commands.items():
            before()
            used = child(command)[0]
            if round_:  # the first one compiles
                found[name].append(used)
    return _medians(found)


def child(command: Sequence[str]) -> tuple[float, str]:
    """The CPU seconds of a Python process with these arguments, and its output."""
    # An empty PYTHONDONTWRITEBYTECODE means none: otherwise each process would compile everything.
    path = os.pathsep.join((str(ROOT), str(ROOT / "benchmarks")))
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": ""}
    with subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout is not None
        output = process.stdout.read().decode()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"a measured process failed with exit status {process.returncode}")
    return usage.ru_utime + usage.ru_stime, output


def peak_memory() -> float:
    """The most memory that this process has had resident, in MiB."""
    try:
        # Not ru_maxrss, which on Linux starts at what the parent process had.
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.split("VmHWM:")[1].split()[0]) / 1024
    except FileNotFoundError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # macOS: in bytes


def _medians(found: Mapping[str, Sequence[float]]) -> Medians:
    return {name: statistics.median(each) for name, each in found.items()}
