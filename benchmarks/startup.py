"""Time and peak resident memory of a whole program that imports a runtime, loads a model, classifies
one image and ends: ours and its peers, in turns.

    pip install '.[benchmark]'
    python benchmarks/startup.py
    python benchmarks/startup.py --precision int8 --peers litert
    python benchmarks/startup.py --model mine.safetensors --photo rose.jpg --peers litert

With `--precision int8` all programs run the same int8 weights, quantised with the photo alone. Each is
the process `python one_photo.py RUNTIME MODEL IMAGE THREADS PRECISION`, which imports that runtime,
Pillow and their dependencies. The first round reads the files into the page cache and is not counted.
Peers prepare the image with the same Pillow calls, and every program must name the same class. The
table also has a bare `import numpy`, for reference.

Two goals are checked: our time is at most LiteRT's plus 5 ms, and our memory at most 50 MB. The exit
code is 1 if the programs disagree.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from measure import RESULTS, Watch, machine, markdown, process, ratio, report, turn
from peer_arrays import with_all_stored
from peer_files import random_checkpoint, recipe, write
from peers import PEERS, PRECISIONS

from mobilenetv2.checkpoint import Checkpoint
from mobilenetv2.int8 import AnyCheckpoint
from mobilenetv2.processors import usable_processors
from mobilenetv2.runtime.quantize import to_int8

OURS, BARE_NUMPY = "mobilenetv2", "numpy"
TITLES = {OURS: "ours", BARE_NUMPY: "import numpy alone"}
TITLES |= {name: peer.title for name, peer in PEERS.items()}
PROGRAM = Path(__file__).with_name("one_photo.py")
PHOTO = Path(__file__).parents[1] / "examples" / "cat.jpg"
GOAL_OVER_LITERT_MS = 5
GOAL_MEMORY_MB = 50
RESULT_NAMES = {"float32": "startup", "int8": "startup-int8"}


def main() -> int:
    """Times the programs, prints and writes the table, and returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", type=Path, help="a float32 model file; default: 1.0 / 224, random weights"
    )
    parser.add_argument("--photo", type=Path, default=PHOTO)
    parser.add_argument("--precision", choices=PRECISIONS, default="float32")
    parser.add_argument("--peers", choices=PEERS, nargs="*", default=list(PEERS))
    parser.add_argument(
        "--threads", type=int, default=usable_processors(), help="default: processors"
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args()
    options.peers = [name for name in options.peers if options.precision in PEERS[name].prepare]
    about, watch = machine([PEERS[name].package for name in options.peers]), Watch()
    checkpoint = Checkpoint.load(options.model) if options.model else random_checkpoint()
    with tempfile.TemporaryDirectory() as folder:
        models = write_models(checkpoint, options, Path(folder))
        results = time_programs(models, options)
    text = f"{table(results)}\n\n{goals(results)}"
    report(RESULT_NAMES[options.precision], about, watch, results, text, options.output)
    classes = {result["class"] for name, result in results.items() if name != BARE_NUMPY}
    if len(classes) > 1:
        print(f"the programs disagree: classes {', '.join(sorted(classes))}", file=sys.stderr)
    return int(len(classes) > 1)


def write_models(
    checkpoint: Checkpoint, options: argparse.Namespace, folder: Path
) -> dict[str, Path]:
    """Writes one model file per runtime, and returns their paths."""
    recipe(checkpoint).save(folder / "recipe.json")
    of_ours: AnyCheckpoint = checkpoint
    of_peers: AnyCheckpoint = checkpoint
    if options.precision == "int8":
        pixels = checkpoint.preprocessing(options.photo)[None]
        of_ours = to_int8(checkpoint, pixels)
        of_peers = with_all_stored(of_ours, checkpoint, pixels)
    ours = folder / "model.safetensors"
    of_ours.save(ours)
    files = {name: write(of_peers, name, folder) for name in options.peers}
    return {OURS: ours, BARE_NUMPY: ours} | files


def time_programs(
    models: dict[str, Path], options: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    """Milliseconds and resident bytes of each program, one value per round, and its class."""
    results: dict[str, dict[str, Any]] = {name: {"ms": [], "resident_bytes": []} for name in models}
    for round_ in range(-1, options.rounds):
        for name in turn(list(models), round_):
            arguments = (
                PROGRAM,
                name,
                models[name],
                options.photo,
                options.threads,
                options.precision,
            )
            ended = process(sys.executable, *arguments)
            results[name]["class"] = ended.output.strip()
            if round_ >= 0:
                results[name]["ms"].append(1e3 * ended.seconds)
                results[name]["resident_bytes"].append(ended.resident_bytes)
    return results


def table(results: dict[str, dict[str, Any]]) -> str:
    """One row per program."""
    rows = [
        [
            TITLES[name],
            f"{np.median(result['ms']):.0f}",
            str(ratio(result["ms"], results[OURS]["ms"])),
            f"{np.median(result['resident_bytes']) / 1e6:.1f}",
        ]
        for name, result in results.items()
    ]
    return markdown(["program", "ms", "time / ours", "resident, MB"], rows)


def goals(results: dict[str, dict[str, Any]]) -> str:
    """The two goals as lines of text: measured, the goal, and whether it is met."""
    lines = []
    if "litert" in results:
        over_ms = float(np.median(np.subtract(results[OURS]["ms"], results["litert"]["ms"])))
        met = "met" if over_ms <= GOAL_OVER_LITERT_MS else "missed"
        lines.append(f"- time: LiteRT's {over_ms:+.0f} ms; goal +{GOAL_OVER_LITERT_MS} ms: {met}")
    resident_mb = float(np.median(results[OURS]["resident_bytes"])) / 1e6
    met = "met" if resident_mb <= GOAL_MEMORY_MB else "missed"
    lines.append(f"- memory: {resident_mb:.1f} MB; goal {GOAL_MEMORY_MB} MB: {met}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
