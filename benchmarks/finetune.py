"""Fine-tuning by default, beside the fitted head alone, on small sets of images.

    python benchmarks/finetune.py ants-and-bees/ cifar-60/ --weights model.tflite --resolution 128 \\
        --judge cifar-10-test.zip

Each DATA is what `mobilenetv2 train` takes. It is fine-tuned once per seed; the table has the means of
top-1, in percent, on the images to validate with, by which the result is chosen. With `--judge`, images
that have no part in the choice, also on these. The exit code is 1 if a result is worse than its head.
Minutes per set and seed on two cores.
"""

from __future__ import annotations

import argparse
import csv
import logging
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean

from measure import markdown

from mobilenetv2 import evaluate, load, read_dataset
from mobilenetv2.training import RECIPES, Machine, Start, fit


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="+")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--resolution", type=int, help="default: that of the weights")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--judge", help="other images of the same classes")
    options = parser.parse_args()
    logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
    side = options.resolution
    start = Start(weights=options.weights, resolution=(side, side) if side else None)
    worse, rows = 0, []
    for data in options.data:
        runs = [measured(data, start, seed, options.judge) for seed in range(options.seeds)]
        means = {name: mean(run[name] for run in runs) for name in runs[0]}
        worse += means["result"] < means["head alone"]
        rows.append([data, *(f"{value:.2f}" for value in means.values())])
    print(markdown(["set", *means], rows))
    return int(worse > 0)


def measured(data: str, start: Start, seed: int, judge: str | None) -> dict[str, float]:
    """Top-1 of one run in percent, and its seconds."""
    with tempfile.TemporaryDirectory() as folder:
        run, began = Path(folder) / "run", time.perf_counter()
        recipe = RECIPES["finetune"].changed({"seed": seed})
        trained = fit(data, run, recipe, start, machine=Machine())
        seconds = time.perf_counter() - began
        with (run / "log.csv").open(newline="") as file:
            epochs = [float(row["val_top1"]) for row in csv.DictReader(file)]
        numbers = {
            "head alone": epochs[0],
            "last epoch": epochs[-1],
            "result": trained.evaluation.scores.top1,
        }
        if judge is not None:
            judged = evaluate(load(trained.file), read_dataset(judge))
            numbers["result, judged"] = judged.scores.top1
        return numbers | {"seconds": seconds}


if __name__ == "__main__":
    sys.exit(main())
