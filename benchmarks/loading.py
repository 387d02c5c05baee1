"""How many images per second training could be given, without training: each way of augmenting, decoded
anew and remembered, by this process alone and by workers.

    pip install '.[train]'
    python benchmarks/loading.py --data cifar10/train.zip --size 32 --crop pad
    python benchmarks/loading.py --data photos/ --size 224 --batch 32

A figure is of a whole epoch, the start of the workers included; decoding what is remembered is not.
The last column is the processor time of an image, which other programs change little, by the fewest
workers.
The ways take turns; what they give must be the same for any number of workers, else the exit code is 1.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from measure import RESULTS, Watch, machine, markdown, report, turn

from mobilenetv2.images import Preprocessing
from mobilenetv2.training.augment import Augmentation
from mobilenetv2.training.data import Images, loader, read_split


def main() -> int:
    """Loads the epochs, prints and writes the table; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="a folder, .zip or .csv")
    parser.add_argument("--size", type=int, default=224, help="pixels; default: 224")
    parser.add_argument("--crop", choices=("resized", "pad"), default="resized")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--most", type=int, default=10000, help="images; default: 10000")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args()
    about, watch = machine(["torch", "pillow"]), Watch()
    fraction = 1.0 if options.crop == "pad" else 0.875
    preprocessing = Preprocessing(size=(options.size, options.size), crop_fraction=fraction)
    ways = {
        "crop, flip": Augmentation(crop=options.crop),
        "and colour": Augmentation(crop=options.crop, colour=True),
        "and TrivialAugment, erasing": Augmentation(
            crop=options.crop, colour=True, policy="trivial", erase=0.25
        ),
    }
    samples = read_split(options.data).train.samples
    samples = samples[:: -(-len(samples) // options.most)]  # of all classes
    loaded = {
        f"{name}; {'remembered' if remembered else 'decoded'}": Images(
            samples, way.transform(preprocessing.size, preprocessing), remember_bytes=remembered
        )
        for (name, way), remembered in product(ways.items(), (0, 1 << 33))
    }
    results = timed(loaded, options.workers, options.batch, options.rounds)
    same = all(len(set(result["checks"])) == 1 for result in results.values())
    text = f"{table(results, len(samples))}\n\n{len(samples)} images, batches of {options.batch}."
    stem = f"loading-{options.data.stem}-{options.size}"
    report(stem, about, watch, results, text, options.output)
    return int(not same)


def timed(
    loaded: dict[str, Images], workers: list[int], batch: int, rounds: int
) -> dict[str, dict[str, Any]]:
    """Of each way: seconds by number of workers, one value a round; processor seconds likewise, of
    the fewest workers; and the sum of some pixels of a first epoch by each.
    """
    results: dict[str, dict[str, Any]] = {
        name: {"checks": [], "processor_s": [], "s": {str(count): [] for count in workers}}
        for name in loaded
    }
    for round_ in range(-1, rounds):
        for name, count in turn(list(product(loaded, workers)), round_):
            start, busy, total = time.perf_counter(), sum(os.times()[:4]), 0
            epoch = max(round_, 0)
            for pixels, _ in loader(
                loaded[name], batch, epoch=epoch, seed=0, train=True, workers=count
            ):
                total += int(pixels[:, :, ::8, ::8].sum()) if round_ < 0 else 0
            if round_ < 0:
                results[name]["checks"].append(total)
                continue
            results[name]["s"][str(count)].append(time.perf_counter() - start)
            if count == min(workers):
                results[name]["processor_s"].append(sum(os.times()[:4]) - busy)
    return results


def table(results: dict[str, dict[str, Any]], images: int) -> str:
    """One row per way: images per second by the number of workers."""
    rows = [
        [
            name,
            *(f"{images / np.median(seconds):.0f}" for seconds in result["s"].values()),
            f"{1000 * np.median(result['processor_s']) / images:.2f}",
        ]
        for name, result in results.items()
    ]
    counts = next(iter(results.values()))["s"]
    return markdown(["images per second; workers:", *counts, "processor, ms per image"], rows)


if __name__ == "__main__":
    sys.exit(main())
