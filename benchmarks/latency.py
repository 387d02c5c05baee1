"""How long one call takes: our runtime and its peers, in turns, on the same weights and images.

    pip install '.[benchmark]'
    python benchmarks/latency.py                     # some minutes: the grid below
    python benchmarks/latency.py --widths 0.35 --resolutions 96 --threads 1 --peers litert
    python benchmarks/latency.py --precision int8

Every round, each runtime in turn waits until nobody's threads spin, is called once untimed and then
`--calls` times; the median of these is its time of that round. A ratio is a peer's time over ours of
the same round, so that what slows the machine down slows both; printed are the median over the rounds
and, in brackets, the 10th and 90th percentile. Above 1 we are faster.

Ours is called as a user calls it, `mobilenetv2.load(file, threads)(pixels)` on uint8 pixels, with
normalisation inside. A peer gets float32 in its own layout, normalised beforehand, which is not
counted. Before anything is timed, its logits must be ours within 1e-3; one that disagrees is left
out, and the exit code is 1.

With `--precision int8` all run the same integers, quantised from the same floats, peers on pixels in
their own layout. Since everybody rounds in another way, logits must but correlate with our float32
ones by 0.97. Ours in float32 takes turns with them.
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
from int8_files import with_all_stored
from measure import RESULTS, Watch, machine, markdown, ratio, report, settle, turn
from numpy.typing import NDArray
from peer_files import random_checkpoint, write
from peers import PEERS, PRECISIONS

import mobilenetv2
from mobilenetv2.int8 import AnyCheckpoint
from mobilenetv2.runtime.quantize import to_int8

WIDTHS = (0.35, 0.5, 0.75, 1.0, 1.4)
RESOLUTIONS = (96, 128, 160, 192, 224)
NAMES = {"float32": "latency", "int8": "latency-int8"}  # of the results
CALIBRATION = 4  # images
OURS, FLOAT = "mobilenetv2", "mobilenetv2, float32"
TITLES = {FLOAT: "ours in float32"} | {name: peer.title for name, peer in PEERS.items()}


@dataclass(frozen=True)
class Case:
    """What is timed: a network, a size, images a call, threads."""

    width: float
    resolution: int
    batch: int
    threads: int

    def __str__(self) -> str:
        batch = f", {self.batch} images" if self.batch > 1 else ""
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
    parser.add_argument("--peers", choices=PEERS, nargs="*", help="default: all that can")
    parser.add_argument("--precision", choices=PRECISIONS, default=PRECISIONS[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--calls", type=int, default=5, help="timed calls a runtime a round")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args()
    able = [name for name, peer in PEERS.items() if options.precision in peer.prepare]
    options.peers = able if options.peers is None else options.peers
    if unable := set(options.peers) - set(able):
        parser.error(f"no {options.precision} of {', '.join(sorted(unable))} here")
    about = machine([PEERS[name].package for name in options.peers])
    watch = Watch()
    results: list[dict[str, Any]] = []
    for case in cases(options):
        print(f"{case}, {case.threads} threads", file=sys.stderr)
        results += measured(case, options)
    report(
        f"latency{'-int8' * (options.precision == 'int8')}",
        about,
        watch,
        results,
        table(results),
        options.output,
    )
    return int(any(result["rounds_ms"] is None for result in results))


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
    """Times all runtimes on one case: a record of each.

    Raises:
        SystemExit: Ours is not right.
    """
    checkpoint = random_checkpoint(case.width, case.resolution)
    size = (case.resolution, case.resolution, 3)
    pixels = random_pixels(1, (case.batch, *size))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = loaded(checkpoint, folder / "float32.safetensors", case.threads)
        given: AnyCheckpoint = checkpoint
        images: NDArray[Any] = checkpoint.preprocessing.normalize(pixels)
        calls: dict[str, Callable[[], Any]] = {OURS: partial(model, pixels)}
        if options.precision == "int8":
            calibration = random_pixels(2, (CALIBRATION, *size))
            integers = to_int8(checkpoint, calibration)
            given, images = with_all_stored(integers, checkpoint, calibration), pixels
            ours = loaded(integers, folder / "int8.safetensors", case.threads)
            calls = {OURS: partial(ours, pixels), FLOAT: calls[OURS]}
        for peer in options.peers:
            run = PEERS[peer].load(write(given, peer, folder, case.batch), case.threads)
            calls[peer] = partial(run, PEERS[peer].prepare[options.precision](images))
        difference, tolerance = CHECKS[options.precision]
        wanted = model(pixels)
        differences = {runtime: difference(call(), wanted) for runtime, call in calls.items()}
        for runtime, found in differences.items():
            if found > tolerance:
                print(f"{runtime} differs by {found:.2g}: not timed", file=sys.stderr)
                del calls[runtime]
        if OURS not in calls:
            raise SystemExit("ours is wrong")
        rounds_ms = timed(calls, options.rounds, options.calls)
    return [
        {**vars(case), "runtime": runtime, "difference": found, "rounds_ms": rounds_ms.get(runtime)}
        for runtime, found in differences.items()
    ]


def random_pixels(seed: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Images of noise."""
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def loaded(checkpoint: AnyCheckpoint, file: Path, threads: int) -> mobilenetv2.Model:
    """The model, by way of a file."""
    checkpoint.save(file)
    return mobilenetv2.load(file, threads)


def farthest(found: NDArray[Any], wanted: NDArray[Any]) -> float:
    """The largest difference."""
    return float(np.abs(found - wanted).max())


def uncorrelated(found: NDArray[Any], wanted: NDArray[Any]) -> float:
    """1 less the correlation."""
    return 1 - float(np.corrcoef(found.ravel(), wanted.ravel())[0, 1])


CHECKS = {"float32": (farthest, 1e-3), "int8": (uncorrelated, 0.03)}  # against ours in float32


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
    """A row a case: our milliseconds, then the others' and their ratios, at last the best peer's."""
    names = list(dict.fromkeys(result["runtime"] for result in results))
    columns = [
        "network",
        "threads",
        "ours, ms",
        *(f"{TITLES[name]}, ms" for name in names[1:]),
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
        peers = [found for name, found in ratios.items() if name in PEERS]
        row.append(f"{min(peers).median:.2f}" if peers else "")
        rows.append(row)
    return markdown([*columns, "best peer / ours"], rows)


if __name__ == "__main__":
    sys.exit(main())
