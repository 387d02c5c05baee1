"""How fast the files of `mobilenetv2 convert` are, beside those of other exporters in the same runtime.

    pip install '.[benchmark,train]'
    python benchmarks/export_speed.py

The same network, width 1.0 at 224 pixels with random weights, on one thread. PyTorch's exporter is the
newer one where onnxscript is installed. In every round each file
is called once untimed and then `--calls` times; the median is its time in that round. A ratio is the
other file's time over ours in the same round: above 1 ours is faster. Before anything is timed, the
results must be the same within 1e-3.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from measure import markdown, ratio, settle, turn
from numpy.typing import NDArray
from peer_files import random_checkpoint, write_onnx
from peers import load_onnxruntime, nchw

from mobilenetv2 import nn
from mobilenetv2.checkpoint import Checkpoint
from mobilenetv2.errors import missing_modules

TOLERANCE = 1e-3  # of logits
Call = Callable[[], NDArray[np.float32]]


def main() -> int:
    """Times the files, prints the table, and returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15, help="default: 15")
    parser.add_argument("--calls", type=int, default=10, help="per round; default: 10")
    options = parser.parse_args()
    checkpoint = random_checkpoint()
    # PyTorch's own padding; of the other its older exporter knows nothing
    symmetric = replace(checkpoint.architecture, padding="symmetric")
    checkpoint = replace(checkpoint, architecture=symmetric)
    pixels = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), np.uint8)
    images = checkpoint.preprocessing.normalize(pixels)
    rows = []
    for runtime, exporter, files in EXPORTERS:
        with tempfile.TemporaryDirectory() as folder:
            calls = dict(zip(("ours", exporter), files(checkpoint, Path(folder), images)))
            difference = float(np.abs(calls["ours"]() - calls[exporter]()).max())
            if difference > TOLERANCE:
                raise SystemExit(f"{exporter}: differs by {difference:g}")
            times = timed(calls, options.rounds, options.calls)
        ours, theirs = times["ours"], times[exporter]
        middle = (f"{1e3 * np.median(values):.2f}" for values in (ours, theirs))
        rows.append([runtime, exporter, *middle, str(ratio(theirs, ours))])
    columns = ["runtime", "other exporter", "ours, ms", "other, ms", "ratio"]
    print(markdown(columns, rows))
    return 0


def timed(calls: dict[str, Call], rounds: int, count: int) -> dict[str, list[float]]:
    """Seconds of each call in each round."""
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


def onnx_files(
    checkpoint: Checkpoint, folder: Path, images: NDArray[np.float32]
) -> tuple[Call, Call]:
    """Our ONNX file and PyTorch's, in ONNX Runtime."""
    import torch

    write_onnx(checkpoint, folder / "ours.onnx")
    module = nn.mobilenet_v2(weights=checkpoint).eval()
    given = nchw(images)
    with warnings.catch_warnings():
        # that the older exporter, which needs no further package, is older
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (torch.from_numpy(given),),
            str(folder / "torch.onnx"),
            input_names=["image"],
            dynamo=not missing_modules("onnxscript"),
        )

    def call(name: str) -> Call:
        run = load_onnxruntime(folder / name, 1)
        return lambda: run(given)

    return call("ours.onnx"), call("torch.onnx")


# runtime, the other exporter, both files
EXPORTERS = [("ONNX Runtime", "torch.onnx", onnx_files)]


if __name__ == "__main__":
    sys.exit(main())
