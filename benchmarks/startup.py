"""How long a whole program takes that imports, loads a model, classifies one photo and ends, and the
memory it had resident at most: ours and its peers, in turns.

    pip install '.[benchmark]'
    python benchmarks/startup.py
    python benchmarks/startup.py --model mine.safetensors --photo rose.jpg --peers litert

Each is the process `python one_photo.py RUNTIME MODEL PHOTO THREADS`, which imports that runtime,
Pillow and what these import. The first round reads the files into the page cache and is not counted.
Peers prepare the photo by the same Pillow calls, and every program must name the same class. A bare
`import numpy` stands in the table for reference.

Two goals are checked: our time at most LiteRT's plus 20 ms, and our memory at most 1.2 times that of
a bare `import numpy` plus the weights. The exit code is 1 if the programs disagree.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from measure import RESULTS, Watch, machine, markdown, process, ratio, report, turn, usable_cpus
from peer_files import random_checkpoint, recipe, write
from peers import PEERS

from mobilenetv2.checkpoint import Checkpoint

OURS, BARE = "mobilenetv2", "numpy"
TITLES = {OURS: "ours", BARE: "import numpy alone"} | {n: p.title for n, p in PEERS.items()}
PROGRAM = Path(__file__).with_name("one_photo.py")
PHOTO = Path(__file__).parents[1] / "examples" / "cat.jpg"
MORE_THAN_LITERT_MS = 20
MEMORY_FACTOR = 1.2


def main() -> int:
    """Runs the programs, prints and writes the table; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="ours; default: 1.0 / 224, random weights")
    parser.add_argument("--photo", type=Path, default=PHOTO)
    parser.add_argument("--peers", choices=PEERS, nargs="*", default=list(PEERS))
    parser.add_argument("--threads", type=int, default=usable_cpus(), help="default: processors")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args()
    about, watch = machine([PEERS[name].package for name in options.peers]), Watch()
    checkpoint = Checkpoint.load(options.model) if options.model else random_checkpoint()
    with tempfile.TemporaryDirectory() as folder:
        models = write_models(checkpoint, options.peers, Path(folder))
        results = timed(models, options)
    weights = sum(array.nbytes for array in checkpoint.arrays.values())
    text = f"{table(results)}\n\n{goals(results, weights)}"
    report("startup", about, watch, results, text, options.output)
    answers = {result["answer"] for name, result in results.items() if name != BARE}
    if len(answers) > 1:
        print(f"the programs disagree: classes {', '.join(sorted(answers))}", file=sys.stderr)
    return int(len(answers) > 1)


def write_models(checkpoint: Checkpoint, peers: list[str], folder: Path) -> dict[str, Path]:
    """A file for each runtime."""
    recipe(checkpoint).save(folder / "recipe.json")
    checkpoint.save(folder / "model.safetensors")
    ours = folder / "model.safetensors"
    return {OURS: ours, BARE: ours} | {name: write(checkpoint, name, folder) for name in peers}


def timed(models: dict[str, Path], options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Milliseconds, resident bytes and the answer of each program, one value a round."""
    found: dict[str, dict[str, Any]] = {name: {"ms": [], "resident_bytes": []} for name in models}
    for round_ in range(-1, options.rounds):
        for name in turn(list(models), round_):
            arguments = PROGRAM, name, models[name], options.photo, options.threads
            ended = process(sys.executable, *arguments)
            found[name]["answer"] = ended.output.strip()
            if round_ >= 0:
                found[name]["ms"].append(1e3 * ended.seconds)
                found[name]["resident_bytes"].append(ended.resident_bytes)
    return found


def table(results: dict[str, dict[str, Any]]) -> str:
    """A row a program."""
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


def goals(results: dict[str, dict[str, Any]], weights_bytes: int) -> str:
    """The two goals and whether they were met."""
    lines = []
    if "litert" in results:
        more = float(np.median(np.subtract(results[OURS]["ms"], results["litert"]["ms"])))
        met = "met" if more <= MORE_THAN_LITERT_MS else "missed"
        lines.append(f"- time: LiteRT's {more:+.0f} ms; goal +{MORE_THAN_LITERT_MS} ms: {met}")
    bare, ours = (float(np.median(results[name]["resident_bytes"])) for name in (BARE, OURS))
    times = ours / (bare + weights_bytes)
    met = "met" if times <= MEMORY_FACTOR else "missed"
    lines.append(
        f"- memory: {times:.2f} times bare NumPy and {weights_bytes / 1e6:.1f} MB of weights; "
        f"goal {MEMORY_FACTOR}: {met}"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
