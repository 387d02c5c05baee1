"""How long one call takes: our runtime and its peers, in turns, on the same weights and pictures.

    pip install '.[benchmark]'
    python benchmarks/latency.py                     # some minutes: the grid below
    python benchmarks/latency.py --widths 0.35 --resolutions 96 --threads 1 --peers litert

Every round, each runtime in turn waits until nobody's threads spin, is called once untimed and then
`--calls` times; the median of these is its time of that round. A ratio is a peer's time over ours of
the same round, so that what slows the machine down slows both; printed are the median over the rounds
and, in brackets, the 10th and 90th percentile. Above 1 we are faster.

Ours is called as a user calls it, `mobilenetv2.load(file, threads)(pixels)` on uint8 pixels, with
normalisation inside. A peer gets float32 in its own layout, normalised beforehand, which is not
counted. Before anything is timed, its logits must be ours within 1e-3; one that disagrees is left
out, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from measure import RESULTS, Watch, machine, markdown, ratio, report, settle, turn
from peer_files import random_checkpoint, write
from peers import PEERS, PRECISIONS

import mobilenetv2

WIDTHS = (0.35, 0.5, 0.75, 1.0, 1.4)
RESOLUTIONS = (96, 128, 160, 192, 224)
TOLERANCE = 1e-3
OURS = "mobilenetv2"


@dataclass(frozen=True)
class Case:
    """What is timed: a network, a size, pictures a call, threads."""

    width: float
    resolution: int
    batch: int
    threads: int

    def __str__(self) -> str:
        batch = f", {self.batch} pictures" if self.batch > 1 else ""
        return f"{self.width} / {self.resolution}{batch}"


def main() -> int:
    """Runs the cases, prints and writes the table; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--widths", type=float, nargs="+", help="default: 1.0, or all at 224")
    parser.add_argument("--resolutions", type=int, nargs="+", help="default: 224, or all at 1.0")
    parser.add_argument("--batches", type=int, nargs="+", help="default: 1, and 8 of two networks")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="default: 1 2")
    parser.add_argument("--peers", choices=PEERS, nargs="*", default=list(PEERS))
    parser.add_argument("--precision", choices=PRECISIONS, default=PRECISIONS[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--calls", type=int, default=5, help="timed calls a runtime a round")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args()
    about = machine([PEERS[name].package for name in options.peers])
    watch = Watch()
    results: list[dict[str, Any]] = []
    for case in cases(options):
        print(f"{case}, {case.threads} threads", file=sys.stderr)
        results += measured(case, options)
    report("latency", about, watch, results, table(results), options.output)
    return int(any(result["difference"] > TOLERANCE for result in results))


def cases(options: argparse.Namespace) -> list[Case]:
    """The product of the options; without any, every width and resolution on the two axes through
    1.0 / 224, the smallest network, and batches of 8 of the largest and the smallest of these.
    """
    if options.widths or options.resolutions or options.batches:
        grid = list(
            product(options.widths or [1.0], options.resolutions or [224], options.batches or [1])
        )
    else:
        grid = [(1.0, resolution, 1) for resolution in RESOLUTIONS]
        grid += [(width, 224, 1) for width in WIDTHS if width != 1.0]
        grid += [(0.35, 96, 1), (0.35, 96, 8), (1.0, 224, 8)]
    return [Case(*shape, threads) for shape in grid for threads in options.threads]


def measured(case: Case, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Times all runtimes on one case: a record of each."""
    checkpoint = random_checkpoint(case.width, case.resolution)
    shape = (case.batch, case.resolution, case.resolution, 3)
    pixels = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    normalised = checkpoint.preprocessing.normalize(pixels)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.safetensors")
        checkpoint.save(file)
        model = mobilenetv2.load(file, threads=case.threads)
        wanted = model(pixels)
        calls: dict[str, Callable[[], Any]] = {OURS: partial(model, pixels)}
        differences = {OURS: 0.0}
        for name in options.peers:
            peer = PEERS[name]
            path = write(checkpoint, name, Path(folder), case.batch)
            run, images = peer.load(path, case.threads, options.precision), peer.prepare(normalised)
            differences[name] = float(np.abs(run(images) - wanted).max())
            if differences[name] > TOLERANCE:
                print(f"{name} differs by {differences[name]:.2g}: not timed", file=sys.stderr)
            else:
                calls[name] = partial(run, images)
        rounds_ms = timed(calls, options.rounds, options.calls)
    return [
        {**vars(case), "runtime": name, "difference": difference, "rounds_ms": rounds_ms.get(name)}
        for name, difference in differences.items()
    ]


def timed(calls: dict[str, Callable[[], Any]], rounds: int, repeats: int) -> dict[str, list[float]]:
    """Milliseconds of each, one value a round: the median of its calls in that round."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    gc.collect()
    gc.disable()
    for round_ in range(rounds):
        for name in turn(list(calls), round_):
            call = calls[name]
            settle()
            call()
            seconds = []
            for _ in range(repeats):
                start = time.perf_counter()
                call()
                seconds.append(time.perf_counter() - start)
            found[name].append(1e3 * float(np.median(seconds)))
    gc.enable()
    return found


def table(results: list[dict[str, Any]]) -> str:
    """A row a case: our milliseconds, then each peer's and its ratio, at last the best peer's."""
    names = list(dict.fromkeys(result["runtime"] for result in results))
    columns = [
        "network",
        "threads",
        "ours, ms",
        *(f"{PEERS[name].title}, ms" for name in names[1:]),
    ]
    by_case: dict[Case, dict[str, list[float]]] = {}
    for result in results:
        case = Case(*(result[field] for field in ("width", "resolution", "batch", "threads")))
        by_case.setdefault(case, {})[result["runtime"]] = result["rounds_ms"]
    rows = []
    for case, times in by_case.items():
        row = [str(case), str(case.threads), f"{np.median(times[OURS]):.2f}"]
        ratios = {name: ratio(times[name], times[OURS]) for name in names[1:] if times[name]}
        for name in names[1:]:
            found = ratios.get(name)
            row.append(f"{np.median(times[name]):.2f}: {found}" if found else "disagrees")
        row.append(f"{min(ratios.values()).median:.2f}" if ratios else "")
        rows.append(row)
    return markdown([*columns, "best peer / ours"], rows)


if __name__ == "__main__":
    sys.exit(main())
