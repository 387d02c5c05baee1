"""How long one call takes: our runtime and its peers, in turns, on the same weights and images.

    pip install '.[benchmark]'
    python benchmarks/latency.py                     # some minutes: the grid below
    python benchmarks/latency.py --widths 0.35 --resolutions 96 --threads 1 --peers litert
    python benchmarks/latency.py --precision int8
    python benchmarks/latency.py --precision bf16

In every round, each runtime waits until no thread of the process spins, is called once untimed and
then `--calls` times; the median of these calls is its time in that round. A ratio is a peer's time
over ours in the same round, so whatever slows the machine down slows both. The table shows the median
over the rounds and, in brackets, the 10th and 90th percentile. Above 1 we are faster.

Ours is called as a user calls it, `mobilenetv2.load(file, threads)(pixels)` on uint8 pixels, with
normalisation inside. A peer gets float32 in its own layout, normalised beforehand; that time is not
counted. Before anything is timed, a peer's logits must be ours within 1e-3. A peer that disagrees is
left out, and the exit code is 1.

With `--precision int8` all runtimes run the same int8 weights, quantised from the same float weights,
and peers get pixels in their own layout. Since each runtime rounds in its own way, logits only need to
correlate with our float32 logits by 0.97. Ours in float32 is timed with them.

With `--precision bf16`, on a processor that has instructions for it, both sides compute in bfloat16
from the same float weights. Logits need to correlate by 0.99.
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
from numpy.typing import NDArray
from peer_arrays import with_all_stored
from peer_files import random_checkpoint, write
from peers import PEERS, PRECISIONS

import mobilenetv2
from mobilenetv2.int8 import AnyCheckpoint
from mobilenetv2.runtime.quantize import to_int8

WIDTHS = (0.35, 0.5, 0.75, 1.0, 1.4)
RESOLUTIONS = (96, 128, 160, 192, 224)
RESULT_NAMES = {"float32": "latency", "int8": "latency-int8", "bf16": "latency-bf16"}
CALIBRATION_IMAGES = 4
OURS, OURS_FLOAT32 = "mobilenetv2", "mobilenetv2, float32"
TITLES = {OURS_FLOAT32: "ours in float32"} | {name: peer.title for name, peer in PEERS.items()}


@dataclass(frozen=True)
class Case:
    """One row of the table: a network, images per call, and a number of threads."""

    width: float
    resolution: int
    batch: int
    threads: int

    def __str__(self) -> str:
        batch = f", {self.batch} images" if self.batch > 1 else ""
        return f"{self.width} / {self.resolution}{batch}"


def main() -> int:
    """Times all cases, prints and writes the table, and returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--widths", type=float, nargs="+", help="default: 1.0, or all at 224")
    parser.add_argument("--resolutions", type=int, nargs="+", help="default: 224, or all at 1.0")
    parser.add_argument("--batches", type=int, nargs="+", help="default: 1, and 8 of two networks")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="default: 1 2")
    parser.add_argument(
        "--peers", choices=PEERS, nargs="*", help="default: all with this precision"
    )
    parser.add_argument("--precision", choices=RESULT_NAMES, default=PRECISIONS[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--calls", type=int, default=5, help="timed calls per runtime and round")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args()
    supported = [name for name, peer in PEERS.items() if options.precision in peer.prepare]
    options.peers = supported if options.peers is None else options.peers
    if unsupported := set(options.peers) - set(supported):
        parser.error(f"{', '.join(sorted(unsupported))}: not measured in {options.precision}")
    about = machine([PEERS[name].package for name in options.peers])
    watch = Watch()
    results: list[dict[str, Any]] = []
    for case in cases(options):
        print(f"{case}, {case.threads} threads", file=sys.stderr)
        results += measure_case(case, options)
    name = RESULT_NAMES[options.precision]
    report(name, about, watch, results, table(results), options.output)
    return int(any(result["rounds_ms"] is None for result in results))


def cases(options: argparse.Namespace) -> list[Case]:
    """The product of the options. Without any, all widths at resolution 224, all resolutions at width
    1.0, the smallest network 0.35 / 96, and batches of 8 of 1.0 / 224 and 0.35 / 96.
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


def measure_case(case: Case, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Times all runtimes on one case and returns one record per runtime.

    Raises:
        SystemExit: Our int8 logits are too far from our float32 ones.
    """
    checkpoint = random_checkpoint(case.width, case.resolution)
    size = (case.resolution, case.resolution, 3)
    pixels = random_pixels(1, (case.batch, *size))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        float_model = save_and_load(checkpoint, folder / "float32.safetensors", case.threads)
        peer_checkpoint: AnyCheckpoint = checkpoint
        peer_inputs: NDArray[Any] = checkpoint.preprocessing.normalize(pixels)
        calls: dict[str, Callable[[], Any]] = {OURS: partial(float_model, pixels)}
        if options.precision == "int8":
            calibration = random_pixels(2, (CALIBRATION_IMAGES, *size))
            quantized = to_int8(checkpoint, calibration)
            peer_checkpoint = with_all_stored(quantized, checkpoint, calibration)
            peer_inputs = pixels
            int8_model = save_and_load(quantized, folder / "int8.safetensors", case.threads)
            calls = {OURS: partial(int8_model, pixels), OURS_FLOAT32: calls[OURS]}
        if options.precision == "bf16":
            bf16_model = mobilenetv2.load(
                folder / "float32.safetensors", case.threads, precision="bf16"
            )
            calls = {OURS: partial(bf16_model, pixels), OURS_FLOAT32: calls[OURS]}
        for peer in options.peers:
            file = write(peer_checkpoint, peer, folder, case.batch)
            load = PEERS[peer].load_bf16 if options.precision == "bf16" else PEERS[peer].load
            assert load is not None
            run = load(file, case.threads)
            calls[peer] = partial(run, PEERS[peer].prepare[options.precision](peer_inputs))
        difference, tolerance = CHECKS[options.precision]
        expected = float_model(pixels)
        differences = {runtime: difference(call(), expected) for runtime, call in calls.items()}
        for runtime, value in differences.items():
            if value > tolerance:
                print(f"{runtime} differs by {value:.2g}: not timed", file=sys.stderr)
                del calls[runtime]
        if OURS not in calls:
            raise SystemExit("our own logits are wrong")
        rounds_ms = time_calls(calls, options.rounds, options.calls)
    return [
        {**vars(case), "runtime": runtime, "difference": value, "rounds_ms": rounds_ms.get(runtime)}
        for runtime, value in differences.items()
    ]


def random_pixels(seed: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Images of noise."""
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save_and_load(checkpoint: AnyCheckpoint, file: Path, threads: int) -> mobilenetv2.Model:
    """Writes the checkpoint and loads it as a user would."""
    checkpoint.save(file)
    return mobilenetv2.load(file, threads)


def largest_difference(logits: NDArray[Any], expected: NDArray[Any]) -> float:
    """The largest absolute difference."""
    return float(np.abs(logits - expected).max())


def correlation_loss(logits: NDArray[Any], expected: NDArray[Any]) -> float:
    """1 less the correlation: 0 where both are equal up to scale and offset."""
    return 1 - float(np.corrcoef(logits.ravel(), expected.ravel())[0, 1])


# how logits are compared with ours in float32, and the largest value that is accepted
CHECKS = {
    "float32": (largest_difference, 1e-3),
    "int8": (correlation_loss, 0.03),
    "bf16": (correlation_loss, 0.01),
}


def time_calls(
    calls: dict[str, Callable[[], Any]], rounds: int, repeats: int
) -> dict[str, list[float]]:
    """Milliseconds of each runtime, one value per round: the median of its calls in that round."""
    rounds_ms: dict[str, list[float]] = {name: [] for name in calls}
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
            rounds_ms[name].append(1e3 * float(np.median(seconds)))
    gc.enable()
    return rounds_ms


def table(results: list[dict[str, Any]]) -> str:
    """One row per case: our milliseconds, the other runtimes' and their ratios, the best peer's ratio."""
    # ours comes first
    names = list(dict.fromkeys(result["runtime"] for result in results))
    columns = ["network", "threads", "ours, ms", *(f"{TITLES[name]}, ms" for name in names[1:])]
    by_case: dict[Case, dict[str, list[float]]] = {}
    for result in results:
        case = Case(*(result[field] for field in ("width", "resolution", "batch", "threads")))
        by_case.setdefault(case, {})[result["runtime"]] = result["rounds_ms"]
    rows = []
    for case, times in by_case.items():
        row = [str(case), str(case.threads), f"{np.median(times[OURS]):.2f}"]
        ratios = {name: ratio(times[name], times[OURS]) for name in names[1:] if times[name]}
        for name in names[1:]:
            timed = name in ratios
            row.append(f"{np.median(times[name]):.2f}: {ratios[name]}" if timed else "disagrees")
        peer_ratios = [value for name, value in ratios.items() if name in PEERS]
        row.append(f"{min(peer_ratios).median:.2f}" if peer_ratios else "")
        rows.append(row)
    return markdown([*columns, "best peer / ours"], rows)


if __name__ == "__main__":
    sys.exit(main())
