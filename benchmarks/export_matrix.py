"""The files of `mobilenetv2 convert` in their own runtimes: answers, milliseconds, size.

    pip install '.[benchmark,export]'
    python benchmarks/export_matrix.py MODEL... --images photos/ [--boxes coco/] [--masks voc/]

Every model is written in float32 and in int8 (quantised with the first 100 images, unless the file is
quantised already) for each runtime that is installed, run on the images, and compared with ours:
  - float32: the largest difference, in parts of the largest value;
  - int8: on how many images the best class is ours;
  - detectors with --boxes: average precision, beside that of ours; segmenters with --masks: mIoU.
Milliseconds are per image, with as many threads as the runtime takes by itself, from the difference of
a call on nine images and one on a single image: they are for orientation. latency.py compares speed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from measure import markdown
from numpy.typing import NDArray

from mobilenetv2 import evaluation
from mobilenetv2.checkpoint import Checkpoint
from mobilenetv2.datasets import collect_images, read_boxes, read_masks
from mobilenetv2.detector import Detector
from mobilenetv2.errors import UserError, missing_modules
from mobilenetv2.exporting import export
from mobilenetv2.formats import open_checkpoint
from mobilenetv2.int8 import AnyCheckpoint, Int8Checkpoint
from mobilenetv2.runtime.quantize import read_images, to_int8
from mobilenetv2.segmenter import Segmenter
from mobilenetv2.verification.compare import expected_results
from mobilenetv2.writers import FORMATS, Format, WriteOptions

RUNTIMES = ("onnx", "openvino", "tflite", "ncnn", "coreml", "program")
AT_ONCE = 16  # images of segmenters and detectors
CALIBRATION = 100
Run = Callable[[NDArray[np.uint8]], dict[str, Any]]


class FileDetector(Detector):
    """A detector whose network is a written file."""

    def __init__(self, checkpoint: AnyCheckpoint, run: Run) -> None:
        super().__init__(checkpoint, threads=1)
        self._run_file = run

    def _map(
        self,
        sources: Iterable[Any],
        chosen: Any,
        open_source: Callable[[Any], Any] = lambda source: source,
        max_pixels: int | None = None,
    ) -> Any:
        def run(pixels: NDArray[np.uint8], alone: bool) -> Iterator[Any]:
            results = self._run_file(pixels)
            return zip(results["codes"], results["scores"], strict=True)

        def use(source: Any, size: tuple[int, int], output: Any) -> Any:
            return self._detections(*output, size, *chosen)

        return self.map_sized(sources, use, run, open_source, max_pixels=max_pixels)

    def _detections(self, codes: Any, scores: Any, *rest: Any) -> Any:
        # what the file gives are probabilities without the background: back to what sigmoid takes
        scores = np.clip(scores, 1e-7, 1 - 1e-7).astype(np.float64)
        logits = np.log(scores / (1 - scores))
        head = self._head
        self._head = replace(head, score="sigmoid")
        try:
            return super()._detections(codes, np.pad(logits, ((0, 0), (1, 0))), *rest)
        finally:
            self._head = head


class FileSegmenter(Segmenter):
    """A segmenter whose network is a written file."""

    def __init__(self, checkpoint: AnyCheckpoint, run: Run) -> None:
        super().__init__(checkpoint, threads=1)
        self._run_file = run

    def masks(self, images: NDArray[np.uint8], alone: bool = False) -> Any:
        return self._run_file(images)["mask"]


def main() -> int:
    """Prints the table and returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--images", required=True, help="a folder, .zip or .csv")
    parser.add_argument("--samples", type=int, default=1000, help="of them; default: 1000")
    parser.add_argument("--boxes", help="images with boxes, as for `evaluate`")
    parser.add_argument("--masks", help="images with masks, as for `evaluate`")
    parser.add_argument("--to", nargs="+", default=RUNTIMES, choices=RUNTIMES)
    options = parser.parse_args()
    rows = []
    for name in options.models:
        for numbers, checkpoint in variants(name, options.images):
            for target in options.to:
                rows.append([Path(name).stem, numbers, target, *cells(checkpoint, target, options)])
                print("\t".join(rows[-1]), flush=True)
    columns = ["model", "numbers", "runtime", "answers", "ms", "MB"]
    print(markdown(columns, rows))
    return 0


def variants(name: str, images: str) -> Iterator[tuple[str, AnyCheckpoint]]:
    """The model in float32 and in int8."""
    floats = open_checkpoint(name, int8=False)
    own = open_checkpoint(name)
    yield "float32", floats
    if isinstance(own, Int8Checkpoint):
        yield "int8 of the file", own
    else:
        pixels = sample(floats, images, CALIBRATION)
        yield "int8", to_int8(floats, pixels)


def sample(checkpoint: AnyCheckpoint, images: str, count: int) -> NDArray[np.uint8]:
    """Pixels of at most so many images, evenly spaced."""
    found = collect_images(images).samples
    count = min(count, len(found))
    chosen = [found[i * len(found) // count] for i in range(count)]
    return read_images(checkpoint.preprocessing, chosen)[0]


def cells(checkpoint: AnyCheckpoint, target: str, options: argparse.Namespace) -> list[str]:
    """Answers, milliseconds and size of one file."""
    form = FORMATS[target]
    if form.runs_with[1] and missing_modules(form.runs_with[1]):
        return ["not installed", "", ""]
    task = checkpoint.architecture.head.task
    final = "final" if task == "segmentation" else "raw"
    with tempfile.TemporaryDirectory() as folder:
        try:
            written = export(checkpoint, Path(folder, f"model{form.suffix}"), target, results=final)
        except UserError as error:
            return [f"refused: {str(error).split(': ', 1)[-1]:.80}", "", ""]
        run = runner(form, written.files[0], checkpoint, written.options)
        pixels = sample(checkpoint, options.images, 9)
        milliseconds = timed(run, pixels)
        answers = judged(checkpoint, written.options, run, target, options)
        size = sum(size_of(path) for path in written.files)
    return [answers, f"{milliseconds:.1f}", f"{size / 1e6:.1f}"]


def runner(form: Format, path: Path, checkpoint: AnyCheckpoint, options: WriteOptions) -> Run:
    """Runs a written file on pixels."""
    run = import_module(f"mobilenetv2.verification.{form.module}").run
    return lambda pixels: run(path, pixels, checkpoint, options)


def timed(run: Run, pixels: NDArray[np.uint8]) -> float:
    """Milliseconds per image."""
    seconds = []
    for count in (1, 1, len(pixels)):
        begin = time.perf_counter()
        run(pixels[:count])
        seconds.append(time.perf_counter() - begin)
    return 1e3 * (seconds[2] - seconds[1]) / (len(pixels) - 1)


def judged(
    checkpoint: AnyCheckpoint,
    written: WriteOptions,
    run: Run,
    target: str,
    options: argparse.Namespace,
) -> str:
    """How good the answers of a file are."""
    task = checkpoint.architecture.head.task
    slow = target == "coreml"  # NumPy
    if task == "detection" and options.boxes and not slow:
        dataset = read_boxes(options.boxes)
        theirs = evaluation.evaluate_detector(FileDetector(checkpoint, run), dataset)
        ours = evaluation.evaluate_detector(Detector(checkpoint), dataset)
        return f"AP {theirs.scores.ap:.4f}, ours {ours.scores.ap:.4f}"
    if task == "segmentation" and options.masks and not slow:
        masks = read_masks(options.masks)
        theirs_masks = evaluation.evaluate_segmenter(FileSegmenter(checkpoint, run), masks)
        ours_masks = evaluation.evaluate_segmenter(Segmenter(checkpoint), masks)
        return f"mIoU {theirs_masks.scores.miou:.4f}, ours {ours_masks.scores.miou:.4f}"
    count = options.samples if task == "classification" and not slow else 4
    pixels = sample(checkpoint, options.images, count)
    expected = expected_results(checkpoint, written, pixels)
    results = run(pixels)
    if isinstance(checkpoint, Checkpoint):
        largest = max(
            float(np.abs(results[name] - values).max() / max(1.0, np.abs(values).max()))
            for name, values in expected.items()
        )
        return f"within {largest:.1e}"
    (name,) = expected.keys() if len(expected) == 1 else ("scores",)
    same = (expected[name].argmax(-1) == results[name].argmax(-1)).mean()
    return f"{100 * same:.1f} % the same of {len(pixels)}"


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    if path.is_dir():
        return sum(each.stat().st_size for each in path.rglob("*") if each.is_file())
    return path.stat().st_size


if __name__ == "__main__":
    sys.exit(main())
