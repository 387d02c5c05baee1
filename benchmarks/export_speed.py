"""How fast the files of `mobilenetv2 convert` are, beside those of other exporters in the same runtime.

    pip install '.[benchmark,train]'
    python benchmarks/export_speed.py
    python benchmarks/export_speed.py --published tf2_mobilenet_v2_1.0_224_ptq.tflite

The same network, width 1.0 at 224 pixels with random weights, on one thread. PyTorch's exporter is the
newer one where onnxscript is installed. In every round each file
is called once untimed and then `--calls` times; the median is its time in that round. A ratio is the
other file's time over ours in the same round: above 1 ours is faster. Before anything is timed, the
results must be the same within 1e-3.

With `--published` our int8 file of the float weights of an int8 LiteRT file is timed against the file
itself, in LiteRT, on a photo for which both must have the same best class.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from measure import markdown, ratio, timed
from numpy.typing import NDArray
from peer_files import random_checkpoint, write_onnx, write_tflite
from peers import load_litert, load_onnxruntime, nchw

import mobilenetv2 as mnv2
from mobilenetv2 import nn
from mobilenetv2.checkpoint import Checkpoint
from mobilenetv2.errors import missing_modules
from mobilenetv2.exporting import PHOTO
from mobilenetv2.runtime.quantize import to_int8

TOLERANCE = 1e-3  # of logits
Call = Callable[[], NDArray[np.float32]]


def main() -> int:
    """Times the files, prints the table, and returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15, help="default: 15")
    parser.add_argument("--calls", type=int, default=10, help="per round; default: 10")
    parser.add_argument("--published", type=Path, help="an int8 classifier for LiteRT")
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
        rows.append([runtime, exporter, *cells(times)])
    if options.published:
        with tempfile.TemporaryDirectory() as folder:
            calls = litert_files(options.published, Path(folder))
            if calls["ours"]().argmax() != calls["published"]().argmax():
                raise SystemExit(f"{options.published}: has another best class than our file")
            times = timed(calls, options.rounds, options.calls)
        rows.append(["LiteRT, int8", options.published.stem, *cells(times)])
    columns = ["runtime", "other exporter", "ours, ms", "other, ms", "ratio"]
    print(markdown(columns, rows))
    return 0


def cells(times: dict[str, list[float]]) -> list[str]:
    """The medians of our file and of the other, in milliseconds, and their ratio."""
    ours, theirs = times.values()
    middle = [f"{1e3 * np.median(values):.2f}" for values in (ours, theirs)]
    return [*middle, str(ratio(theirs, ours))]


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


def litert_files(published: Path, folder: Path) -> dict[str, Call]:
    """Our int8 file of a published file's float weights, and the file, in LiteRT."""
    checkpoint = mnv2.load(published, int8=False).checkpoint
    assert isinstance(checkpoint, Checkpoint)
    pixels = checkpoint.preprocessing(PHOTO)[None]
    write_tflite(to_int8(checkpoint, pixels), folder / "ours.tflite")
    files = {"ours": folder / "ours.tflite", "published": published}
    return {name: partial(load_litert(path, 1), pixels) for name, path in files.items()}


# runtime, the other exporter, both files
EXPORTERS = [("ONNX Runtime", "torch.onnx", onnx_files)]


if __name__ == "__main__":
    sys.exit(main())
