"""How long a folder of JPEGs takes from the command to the labels: ours, and Pillow in a pool of
threads in front of ONNX Runtime. Both take turns.

    pip install '.[benchmark]'
    python benchmarks/folder.py --images photos/ --model mine.safetensors
    python benchmarks/folder.py --images photos/ --model mine.safetensors --precision int8

With `--precision int8`, a float model is quantised first, calibrated with every tenth image.

Ours is the process `mobilenetv2 classify FOLDER --model MODEL --format csv --top 1`. The peer is
`onnx_folder.py`, which prepares images with the same Pillow calls, in four variants: one image per call
or eight; threads that spin between calls (the default of ONNX Runtime) or that leave the processors to
the decoding. The best of the four counts. All may use all processors. The first round reads the files
into the page cache and is not counted.

The best class must be the same on all but 1 % of the images, because rounding decides between nearly
equal classes; in int8, where runtimes round differently, on all but 5 %. Otherwise the exit code is 1.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from measure import RESULTS, Watch, machine, markdown, process, ratio, report, turn
from peer_arrays import with_all_stored
from peer_files import recipe, write
from peers import PEERS, PRECISIONS

from mobilenetv2.checkpoint import Checkpoint
from mobilenetv2.formats import read
from mobilenetv2.images import decode
from mobilenetv2.int8 import Int8Checkpoint
from mobilenetv2.processors import usable_processors
from mobilenetv2.runtime.quantize import quantize

OURS = "mobilenetv2"
PROGRAM = Path(__file__).with_name("onnx_folder.py")
MAX_DISAGREEMENT = {"float32": 0.01, "int8": 0.05}
RESULT_NAMES = {"float32": "folder", "int8": "folder-int8"}


def main() -> int:
    """Times the commands, prints and writes the table, and returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, required=True, help="a folder of .jpg files")
    parser.add_argument("--model", type=Path, required=True, help="any model file")
    parser.add_argument("--precision", choices=PRECISIONS, default=PRECISIONS[0])
    parser.add_argument("--most", type=int, default=1000, help="number of images; default: 1000")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8], help="of the peer")
    parser.add_argument("--threads", type=int, default=usable_processors(), help="of the peer")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args()
    about, watch = machine([PEERS["onnxruntime"].package, "pillow"]), Watch()
    checkpoint = read(options.model, int8=options.precision == "int8")
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        images = work / "images"
        images.mkdir()
        files = sorted(options.images.glob("*.jpg"))[: options.most]
        if not files:
            raise SystemExit(f"{options.images}: no .jpg files")
        for file in files:
            (images / file.name).symlink_to(file.resolve())
        peer_checkpoint = checkpoint
        if options.precision == "int8" and isinstance(checkpoint, Checkpoint):
            checkpoint, peer_checkpoint = quantize_for_both(checkpoint, files)
        recipe(peer_checkpoint).save(work / "recipe.json")
        peer_model = write(peer_checkpoint, "onnxruntime", work, batch=None)
        model = work / "model.safetensors"
        checkpoint.save(model)
        ours = ["-m", "mobilenetv2", "classify", images, "--model", model]
        commands = {OURS: [*ours, "--format", "csv", "--top", "1"]}
        for batch, spin in product(options.batches, (1, 0)):
            peer = [PROGRAM, peer_model, images, options.threads, batch, spin]
            title = f"ONNX Runtime, batches of {batch}{', spinning' * spin}"
            commands[title] = [*peer, options.precision]
        results = time_commands(commands, options.rounds)
    predictions = {name: result.pop("predictions") for name, result in results.items()}
    different = max(disagreements(predictions[OURS], theirs) for theirs in predictions.values())
    count = len(predictions[OURS])
    best = min(
        ratio(result["s"], results[OURS]["s"]) for name, result in results.items() if name != OURS
    )
    text = (
        f"{table(results, count)}\n\nThe best peer takes {best} times ours. "
        f"The best class differs on {different} of {count} images."
    )
    report(RESULT_NAMES[options.precision], about, watch, results, text, options.output)
    return int(different > MAX_DISAGREEMENT[options.precision] * count)


def quantize_for_both(
    checkpoint: Checkpoint, files: list[Path]
) -> tuple[Int8Checkpoint, Int8Checkpoint]:
    """An int8 checkpoint for us, and the same with all tensors stored for the peer."""
    calibration = files[::10]
    quantized = quantize(checkpoint, calibration)
    pixels = np.stack([checkpoint.preprocessing(decode(file)) for file in calibration[:16]])
    return quantized, with_all_stored(quantized, checkpoint, pixels)


def time_commands(commands: dict[str, list[Any]], rounds: int) -> dict[str, dict[str, Any]]:
    """Seconds and resident bytes of each command, one value per round, and its predictions."""
    results: dict[str, dict[str, Any]] = {
        name: {"s": [], "resident_bytes": []} for name in commands
    }
    for round_ in range(-1, rounds):
        for name in turn(list(commands), round_):
            ended = process(sys.executable, *commands[name])
            results[name]["predictions"] = best_classes(ended.output)
            if round_ >= 0:
                results[name]["s"].append(ended.seconds)
                results[name]["resident_bytes"].append(ended.resident_bytes)
    return results


def best_classes(text: str) -> dict[str, int]:
    """Index of the best class by file name, read from a CSV with the columns file and index."""
    rows = csv.DictReader(io.StringIO(text))
    return {Path(row["file"]).name: int(row["index"]) for row in rows}


def disagreements(ours: dict[str, int], theirs: dict[str, int]) -> int:
    """Number of files whose class differs, or that only one side has."""
    return sum(ours.get(file) != theirs.get(file) for file in ours.keys() | theirs.keys())


def table(results: dict[str, dict[str, Any]], images: int) -> str:
    """One row per command, each over that many images."""
    rows = [
        [
            "ours" if name == OURS else name,
            f"{np.median(result['s']):.2f}",
            f"{images / np.median(result['s']):.0f}",
            str(ratio(result["s"], results[OURS]["s"])),
            f"{np.median(result['resident_bytes']) / 1e6:.0f}",
        ]
        for name, result in results.items()
    ]
    return markdown(["command", "s", "images/s", "time / ours", "resident, MB"], rows)


if __name__ == "__main__":
    sys.exit(main())
