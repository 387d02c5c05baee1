"""How long a segmenter takes: ours and its peers, in turns, on the same weights and image; and how good
its masks are in int8.

    pip install '.[benchmark]'
    python benchmarks/segmentation.py deeplabv3_mnv2_pascal_quant.tflite --photos JPEGImages
    python benchmarks/segmentation.py FILE --photos voc-sample/JPEGImages --masks voc-sample/SegmentationClass

FILE is a quantised TensorFlow Lite file, as Google publishes them. LiteRT runs the file itself and
gives a mask. Ours runs the file's integers, its weights in float32, and our own int8 of these float32
weights, and gives a mask too. ONNX Runtime runs the float32 weights and gives scores at the image's
size, with which our scores in float32 are compared. Rounds and ratios are those of `latency.py`.

With --masks, the mean IoU over the classes that occur is printed for all photos that have a mask: of
our three, and of LiteRT.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from latency import time_calls
from measure import machine, markdown, ratio
from numpy.typing import NDArray
from onnx_files import write_onnx
from peers import PEERS
from PIL import Image

import mobilenetv2
from mobilenetv2 import formats
from mobilenetv2.checkpoint import Checkpoint
from mobilenetv2.runtime.quantize import read_images, to_int8
from mobilenetv2.segmenter import Segmenter

IGNORED = 255  # in a mask of the photos
OWN, IMPORTED, FLOATS, SCORES = "int8", "the file's integers", "float32", "float32, scores"
LITERT, ONNX = "LiteRT", "ONNX Runtime, scores"


def main() -> int:
    """Times all runtimes, prints the tables, and returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, help="a quantised .tflite segmenter")
    parser.add_argument(
        "--photos", type=Path, required=True, help="folder; int8 is calibrated on it"
    )
    parser.add_argument("--masks", type=Path, help="folder of PNG masks with the photos' names")
    parser.add_argument("--calibration", type=int, default=32, help="photos to calibrate with")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--peers", nargs="*", choices=("litert", "onnxruntime"), default=("litert",)
    )
    options = parser.parse_args()
    photos = sorted(options.photos.iterdir())
    models = segmenters(options.file, photos[: options.calibration], options.threads)
    print(machine([PEERS[name].package for name in options.peers]), file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        calls = timed_calls(models, photos[0], options, Path(folder))
        times = time_calls(calls, options.rounds, 3)
    print(markdown(["runtime", "ms", "LiteRT / it", "ONNX Runtime / it"], rows(times)))
    side = models[FLOATS].checkpoint.preprocessing.size
    for name, model in models.items():
        print(f"activations, {name}: {model.engine.activation_bytes(*side) / 1e6:.2f} MB")
    if options.masks:
        truth = {photo: options.masks / f"{photo.stem}.png" for photo in photos}
        truth = {photo: mask for photo, mask in truth.items() if mask.exists()}
        for name, mean in mean_ious(models, calls.get(LITERT), truth).items():
            print(f"mean IoU, {name}: {100 * mean:.2f} % of {len(truth)} photos")
    return 0


def segmenters(file: Path, photos: list[Path], threads: int) -> dict[str, Segmenter]:
    """Ours: own int8, the file's integers, float32."""
    floats = formats.read(file, int8=False)
    assert isinstance(floats, Checkpoint)
    own = to_int8(floats, read_images(floats.preprocessing, photos)[0])
    checkpoints = {OWN: own, IMPORTED: formats.read(file), FLOATS: floats}
    return {name: Segmenter(checkpoint, threads) for name, checkpoint in checkpoints.items()}


def timed_calls(
    models: dict[str, Segmenter], photo: Path, options: argparse.Namespace, folder: Path
) -> dict[str, Callable[..., Any]]:
    """What is timed, by runtime. LiteRT's may be called with other pixels."""
    floats = models[FLOATS].checkpoint
    pixels = floats.preprocessing(mobilenetv2.decode(photo))[None]
    calls: dict[str, Callable[..., Any]] = {
        name: partial(model.masks, pixels) for name, model in models.items()
    }
    if "litert" in options.peers:
        run = PEERS["litert"].load(options.file, options.threads)
        calls[LITERT] = lambda image=pixels: run(image)
    if "onnxruntime" in options.peers:
        assert isinstance(floats, Checkpoint)
        write_onnx(floats, folder / "model.onnx")
        session = PEERS["onnxruntime"].load(folder / "model.onnx", options.threads)
        prepared = PEERS["onnxruntime"].prepare["float32"](floats.preprocessing.normalize(pixels))
        calls[ONNX] = partial(session, prepared)
        calls[SCORES] = partial(models[FLOATS].engine, pixels)
        difference = np.abs(calls[ONNX]().transpose(0, 2, 3, 1) - calls[SCORES]()).max()
        if difference > 1e-3:
            raise SystemExit(f"the scores of ONNX Runtime differ by {difference:.2g}")
    return calls


def rows(times: dict[str, list[float]]) -> list[list[str]]:
    """One per runtime: median, and the ratios of each peer's time to it."""
    return [
        [
            name,
            f"{np.median(own):.2f}",
            *(
                str(ratio(times[peer], own)) if peer in times and peer != name else ""
                for peer in (LITERT, ONNX)
            ),
        ]
        for name, own in times.items()
    ]


def mean_ious(
    models: dict[str, Segmenter], litert: Callable[..., Any] | None, truth: dict[Path, Path]
) -> dict[str, float]:
    """Mean IoU over the classes of the masks, by runtime."""
    classes = models[FLOATS].checkpoint.architecture.classes
    counts = {name: np.zeros((classes, classes), np.int64) for name in (*models, LITERT)}
    for photo, mask in truth.items():
        expected = np.asarray(Image.open(mask))
        for name, model in models.items():
            add_counts(counts[name], expected, model.segment(photo).mask)
        if litert is not None:
            image = mobilenetv2.decode(photo)
            model = models[FLOATS]
            found = litert(model.checkpoint.preprocessing(image)[None])[0].astype(np.uint8)
            add_counts(counts[LITERT], expected, model._at_size(found, expected.shape[:2]))
    return {name: mean_iou(count) for name, count in counts.items() if count.any()}


def add_counts(counts: NDArray[np.int64], expected: NDArray[Any], mask: NDArray[Any]) -> None:
    """Counts pixels by right class (rows) and predicted class."""
    use = expected != IGNORED
    pairs = expected[use].astype(np.int64) * len(counts) + mask[use]
    counts += np.bincount(pairs, minlength=counts.size).reshape(counts.shape)


def mean_iou(counts: NDArray[np.int64]) -> float:
    """Over the classes that occur."""
    both = np.diag(counts)
    present = counts.sum(1) > 0
    union = counts.sum(0) + counts.sum(1) - both
    return float((both[present] / union[present]).mean())


if __name__ == "__main__":
    sys.exit(main())
