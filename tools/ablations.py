r"""Trains the paper's network with its choices taken back one by one, from several seeds (Figure 6).

    python tools/ablations.py TRAIN.zip TEST.zip -o runs/ --results docs/ablations.json \
        --figure docs/images/ablations.png

Two networks at a time, each on one thread. A run that was interrupted is gone on with. The table is of
the test images, which nothing was chosen by.
"""

from __future__ import annotations

import argparse
import json
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from mobilenetv2 import read_dataset
from mobilenetv2.insight.ablations import Outcome, summarise, train_variant, variants


def one(variant: str, seed: int, options: argparse.Namespace) -> Outcome:
    """Trains one network; runs in a process of its own."""
    import torch

    torch.set_num_threads(1)
    folder = options.output / f"{list(variants()).index(variant)}-{seed}"
    test = read_dataset(options.test)
    top1 = train_variant(
        variants()[variant], options.train, test, folder, epochs=options.epochs, seed=seed
    )
    return Outcome(variant, seed, top1)


def draw(rows: list[dict[str, Any]], outcomes: list[Outcome], file: Path) -> None:
    """A line a variant: a dot for each network, a stroke for their mean."""
    from matplotlib.figure import Figure

    figure = Figure((7, 0.6 + 0.42 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for line, row in enumerate(rows):
        top1s = [outcome.top1 for outcome in outcomes if outcome.variant == row["variant"]]
        axes.plot(top1s, [line] * len(top1s), "o", color="#0b7285", alpha=0.6)
        axes.plot([row["top1"]] * 2, [line - 0.3, line + 0.3], color="#212529")
    axes.set_yticks(range(len(rows)), [row["variant"] for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("CIFAR-10 test images right, %")
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(file, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--results", type=Path, help="write what came out as JSON")
    parser.add_argument("--figure", type=Path, help="draw it as PNG")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="networks at a time")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    started, outcomes = time.time(), []
    with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
        runs = [
            pool.submit(one, variant, seed, options)
            for seed, variant in product(range(options.seeds), variants())
        ]
        for run in runs:
            outcomes.append(run.result())
            print(json.dumps(asdict(outcomes[-1])), flush=True)
    rows = [asdict(row) for row in summarise(outcomes)]
    for row in rows:
        print(
            f"{row['variant']:50} {row['macs'] / 1e6:6.2f} M  {row['regular_macs'] / 1e6:6.1f} M  "
            f"{row['parameters'] / 1e3:6.0f} K  "
            f"{row['top1']:6.2f} ± {row['deviation']:.2f}  "
            f"{row['difference']:+6.2f} ± {row['difference_error']:.2f}"
        )
    if options.figure:
        draw(rows, outcomes, options.figure)
    if options.results:
        facts = {"epochs": options.epochs, "seconds": round(time.time() - started)}
        outcome_rows = [asdict(outcome) for outcome in outcomes]
        options.results.write_text(
            json.dumps({**facts, "rows": rows, "outcomes": outcome_rows}, indent=1) + "\n",
            encoding="utf-8",
        )


if __name__ == "__main__":
    main()
