"""What the benchmarks share: the order of a round, ratios of paired times, processes, tables, results."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from mobilenetv2.processors import usable_processors

RESULTS = Path(__file__).parent / "results"
FLAGS = "avx2 fma avx_vnni avx512f avx512_vnni avx512_bf16 amx_bf16 amx_int8 asimd asimddp i8mm sve"
# longer than the tick by which Linux counts the time of other threads
SLICE_SECONDS = 0.01
Item = TypeVar("Item")


class Ratio(NamedTuple):
    """Median, 10th and 90th percentile of the ratios of all rounds."""

    median: float
    p10: float
    p90: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.p10:.2f}-{self.p90:.2f})"


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> Ratio:
    """The peer's time over ours, pair by pair: above 1 we are faster.

    Args:
        theirs: The peer's times, one per round.
        ours: Our times in the same rounds.

    Raises:
        ValueError: The lengths differ.
    """
    if len(theirs) != len(ours):
        raise ValueError(f"pairs need equally many values, not {len(theirs)} and {len(ours)}")
    median, low, high = np.percentile(np.divide(theirs, ours), (50, 10, 90))
    return Ratio(float(median), float(low), float(high))


def turn(items: Sequence[Item], round_: int) -> list[Item]:
    """The items in the order of a round: each round begins with the next item."""
    first = round_ % len(items)
    return [*items[first:], *items[:first]]


def settle(most_seconds: float = 1.0) -> None:
    """Sleeps until no thread of this process computes, so that pools which spin after work are idle."""
    end = time.perf_counter() + most_seconds
    while time.perf_counter() < end:
        wall, busy = time.perf_counter(), time.process_time()
        time.sleep(SLICE_SECONDS)
        if time.process_time() - busy < 0.2 * (time.perf_counter() - wall):
            return


def timed(
    calls: Mapping[str, Callable[[], Any]], rounds: int, count: int
) -> dict[str, list[float]]:
    """Seconds of each call in each round, in turns: the median of `count`, after one that is not timed."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(rounds):
        for name in turn(list(calls), round_):
            settle()
            calls[name]()
            measured = []
            for _ in range(count):
                begin = time.perf_counter()
                calls[name]()
                measured.append(time.perf_counter() - begin)
            times[name].append(float(np.median(measured)))
    return times


class Process(NamedTuple):
    """Time, peak resident memory and output of a process that has ended."""

    seconds: float
    resident_bytes: int
    output: str


def process(program: str, *arguments: object) -> Process:
    """Runs a program to its end.

    A bare interpreter starts it: the memory of a child includes what is resident before its exec,
    and this process is large. What it imports from a checkout keeps its bytecode, as what pip installs
    does.

    Args:
        program: Path of the executable.
        arguments: Its arguments, as strings or anything with a string form.

    Raises:
        SystemExit: The program failed; the message has its stderr.
    """
    launcher = Path(__file__).with_name("launcher.py")
    command = [program, *map(str, arguments)]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [sys.executable, "-I", "-S", launcher, *command],
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    seconds, resident = done.stderr.splitlines()[-1].split()
    return Process(float(seconds), int(resident), done.stdout)


class Watch:
    """Measures the share of the processors that other programs take from now on."""

    def __init__(self) -> None:
        self.start = time.monotonic()
        self.busy, self.own = _busy_seconds(), sum(os.times()[:4])

    def others_percent(self) -> float:
        """Percent of all processors since the start; 0 where the system does not tell."""
        busy, own = _busy_seconds() - self.busy, sum(os.times()[:4]) - self.own
        elapsed = (time.monotonic() - self.start) * (os.cpu_count() or 1)
        return max(0.0, 100 * (busy - own) / elapsed) if busy else 0.0


def _busy_seconds() -> float:
    """Seconds of work of all processors since the machine started; 0 outside Linux."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    user, nice, system, _, _, irq, softirq, steal, *_ = map(
        int, stat.read_text().split("\n")[0].split()[1:]
    )
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def machine(packages: Sequence[str]) -> dict[str, Any]:
    """Describes this machine: processor, instruction sets, caches, versions of the packages."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    model = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*: (.*)$", text, re.MULTILINE)
    available = set(flags[1].split() if flags else ())
    return {
        "cpu": model[1] if model else platform.processor() or platform.machine(),
        "cpus": usable_processors(),
        "isa": [flag for flag in FLAGS.split() if flag in available],
        "caches": _caches(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in ("mobilenetv2", *packages)},
    }


def _caches() -> dict[str, str]:
    """Size of each cache of the first processor, by names such as "L1d"."""
    sizes = {}
    for cache in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = (
            (cache / name).read_text().strip() for name in ("level", "type", "size")
        )
        sizes[f"L{level}{'' if kind == 'Unified' else kind[0].lower()}"] = size
    return sizes


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns are also aligned as plain text."""
    widths = [max(map(len, cells)) for cells in zip(columns, *rows)]
    rule = ["-" * width for width in widths]
    lines = (map(str.ljust, row, widths) for row in (columns, rule, *rows))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def report(
    name: str, about: dict[str, Any], watch: Watch, results: Any, text: str, folder: Path
) -> None:
    """Prints the text; writes text and numbers to `<name>-<date>-<cpu>.md` and `.json`.

    Args:
        name: Name of the benchmark.
        about: The result of `machine`.
        watch: Started when the measurement started.
        results: The numbers, fit for JSON.
        text: Markdown.
        folder: Where the files go; made if absent.
    """
    about["others_percent"] = round(watch.others_percent(), 1)
    cpu = re.sub(r"\((r|tm)\)|@.*", "", about["cpu"].lower())
    stem = f"{name}-{date.today()}-{re.sub('[^a-z0-9]+', '-', cpu).strip('-')}"
    command = " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items() if number)
    caches = ", ".join(f"{name} {size}" for name, size in about["caches"].items())
    text += (
        f"\n\n{date.today()}, {about['cpu']}, {about['cpus']} processors, {' '.join(about['isa'])}; {caches}; "
        f"other programs took {about['others_percent']} % of the processors meanwhile. Python {about['python']}, {versions}.\n\n    {command}"
    )
    print(text)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stem}.json"
    path.with_suffix(".md").write_text(text + "\n", encoding="utf-8")
    content = {"date": str(date.today()), "command": command, "machine": about, "results": results}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"\nwritten: {path} and .md", file=sys.stderr)
