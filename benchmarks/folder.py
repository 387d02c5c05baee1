"""How long a folder of JPEGs takes from the command to the labels: ours, and Pillow in a pool of
threads in front of ONNX Runtime, in turns.

    pip install '.[benchmark]'
    python benchmarks/folder.py --images photos/ --model mine.safetensors
    python benchmarks/folder.py --images photos/ --model mine.safetensors --precision int8

In int8, a model of floats is quantised first, calibrated with every tenth photo.

Ours is the process `mobilenetv2 classify FOLDER --model MODEL --format csv --top 1`; the peer's is
`onnx_folder.py`, which prepares by the same Pillow calls; with a photo a call and with eight, and with
its threads spinning between calls, the default of ONNX Runtime, and not, which leaves the processors to
the decoding. The best of the four counts. All may use all processors. The first round reads the files into the page cache
and is not counted. The best class must be the same on all but 1 % of the photos, which rounding may
tip over, and in int8, where rounding differs, on all but 5 %; else the exit code is 1.
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
from int8_files import with_all_stored
from measure import RESULTS, Watch, machine, markdown, process, ratio, report, turn, usable_cpus
from peer_files import recipe, write
from peers import PEERS, PRECISIONS

from mobilenetv2.checkpoint import Checkpoint
from mobilenetv2.formats import read
from mobilenetv2.images import decode
from mobilenetv2.int8 import Int8Checkpoint
from mobilenetv2.runtime.quantize import quantize

OURS = "mobilenetv2"
PROGRAM = Path(__file__).with_name("onnx_folder.py")
MOST_DIFFERENT = {"float32": 0.01, "int8": 0.05}
NAMES = {"float32": "folder", "int8": "folder-int8"}  # of the results


def main() -> int:
    """Runs the commands, prints and writes the table; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, required=True, help="a folder of .jpg files")
    parser.add_argument("--model", type=Path, required=True, help="any model file")
    parser.add_argument("--precision", choices=PRECISIONS, default=PRECISIONS[0])
    parser.add_argument("--most", type=int, default=1000, help="photos to take; default: 1000")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8], help="the peer's")
    parser.add_argument("--threads", type=int, default=usable_cpus(), help="the peer's")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args()
    about, watch = machine([PEERS["onnxruntime"].package, "pillow"]), Watch()
    checkpoint = read(options.model, int8=options.precision == "int8")
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        (work / "photos").mkdir()
        files = sorted(options.images.glob("*.jpg"))[: options.most]
        if not files:
            raise SystemExit(f"{options.images}: no .jpg files")
        for file in files:
            (work / "photos" / file.name).symlink_to(file.resolve())
        theirs = checkpoint
        if options.precision == "int8" and isinstance(checkpoint, Checkpoint):
            checkpoint, theirs = quantized(checkpoint, files)
        recipe(theirs).save(work / "recipe.json")
        model = write(theirs, "onnxruntime", work, batch=None)
        checkpoint.save(work / "model.safetensors")
        ours = [
            "-m",
            "mobilenetv2",
            "classify",
            work / "photos",
            "--model",
            work / "model.safetensors",
        ]
        commands = {OURS: [*ours, "--format", "csv", "--top", "1"]}
        for batch, spin in product(options.batches, (1, 0)):
            peer = [PROGRAM, model, work / "photos", options.threads, batch, spin]
            title = f"ONNX Runtime, batches of {batch}{', spinning' * spin}"
            commands[title] = [*peer, options.precision]
        results = timed(commands, options.rounds)
    answers = {name: result.pop("answers") for name, result in results.items()}
    different = max(disagreements(answers[OURS], found) for found in answers.values())
    photos = len(answers[OURS])
    best = min(
        ratio(result["s"], results[OURS]["s"]) for name, result in results.items() if name != OURS
    )
    text = (
        f"{table(results, photos)}\n\nThe best peer takes {best} times ours. "
        f"The best class is another one on {different} of {photos} photos."
    )
    report(NAMES[options.precision], about, watch, results, text, options.output)
    return int(different > MOST_DIFFERENT[options.precision] * photos)


def quantized(floats: Checkpoint, files: list[Path]) -> tuple[Int8Checkpoint, Int8Checkpoint]:
    """Integers for us and the same ones for the peer, calibrated with every tenth photo."""
    some = files[::10] or files
    integers = quantize(floats, some)
    pixels = np.stack([floats.preprocessing(decode(file)) for file in some[:16]])
    return integers, with_all_stored(integers, floats, pixels)


def timed(commands: dict[str, list[Any]], rounds: int) -> dict[str, dict[str, Any]]:
    """Seconds and resident bytes of each command, one value a round, and its answers."""
    found: dict[str, dict[str, Any]] = {name: {"s": [], "resident_bytes": []} for name in commands}
    for round_ in range(-1, rounds):
        for name in turn(list(commands), round_):
            ended = process(sys.executable, *commands[name])
            found[name]["answers"] = classes(ended.output)
            if round_ >= 0:
                found[name]["s"].append(ended.seconds)
                found[name]["resident_bytes"].append(ended.resident_bytes)
    return found


def classes(text: str) -> dict[str, int]:
    """File name -> index of the best class, of a CSV with these columns."""
    rows = csv.DictReader(io.StringIO(text))
    return {Path(row["file"]).name: int(row["index"]) for row in rows}


def disagreements(ours: dict[str, int], theirs: dict[str, int]) -> int:
    """Files with another class, or with none on one side."""
    return sum(ours.get(file) != theirs.get(file) for file in ours.keys() | theirs.keys())


def table(results: dict[str, dict[str, Any]], photos: int) -> str:
    """A row a command."""
    rows = [
        [
            "ours" if name == OURS else name,
            f"{np.median(result['s']):.2f}",
            f"{photos / np.median(result['s']):.0f}",
            str(ratio(result["s"], results[OURS]["s"])),
            f"{np.median(result['resident_bytes']) / 1e6:.0f}",
        ]
        for name, result in results.items()
    ]
    return markdown(["command", "s", "photos/s", "time / ours", "resident, MB"], rows)


if __name__ == "__main__":
    sys.exit(main())
