"""SSDLite learns eight images by heart: a check that targets, loss and decoding belong together.

    python benchmarks/overfit_ssdlite.py shared/data/coco-sample --weights WEIGHTS.tflite

The first eight images of a dataset in COCO's layout whose objects are all of a tenth of the image's
side or more (at 160 pixels smaller ones are a few pixels) are both trained and validated with, by
`fit`, with the backbone of a classifier of width 1. AP50 must reach 0.9; the exit code is 1 if it does
not. Minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import sys
import tempfile
import time
from pathlib import Path

from mobilenetv2.datasets import BoxTarget, read_boxes
from mobilenetv2.training import RECIPES, Machine, Start, fit

GOAL = 0.9
SMALLEST = 0.1  # of an object, in parts of the image's side
RECIPE = {
    "optimizer": "adamw",
    "lr": 0.001,
    "batch": 8,
    "warmup_epochs": 5,
    "weight_decay": 0.0,
    "head_epochs": 0,
    "layer_decay": 1.0,
    "ema_decay": 0.9,
    "bn_decay": 0.9,
    "augmentation.crop": "none",
    "augmentation.expand": 1.0,
    "augmentation.flip": False,
    "augmentation.colour": False,
}


def is_large(target: BoxTarget) -> bool:
    """Whether there are objects, and none is small."""
    height, width = target.size
    return len(target) > 0 and bool((target.areas >= SMALLEST**2 * height * width).all())


def first_images(source: Path, count: int, folder: Path) -> Path:
    """A dataset of the first images, in COCO's layout, as its own parts train and val."""
    samples = [sample for sample in read_boxes(source).samples if is_large(sample.target)][:count]
    content = json.loads(next(source.glob("*.json")).read_text())
    names = {Path(sample.name).name for sample in samples}
    images = [each for each in content["images"] if Path(each["file_name"]).name in names]
    ids = {each["id"] for each in images}
    objects = [each for each in content["annotations"] if each["image_id"] in ids]
    used = {each["category_id"] for each in objects}
    chosen = {
        "images": images,
        "annotations": objects,
        "categories": [each for each in content["categories"] if each["id"] in used],
    }
    for part in ("train", "val"):
        (folder / part).mkdir()
        (folder / part / "_annotations.coco.json").write_text(json.dumps(chosen))
        for sample in samples:
            shutil.copy(sample.name, folder / part)
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("source", type=Path)
    parser.add_argument("--weights", required=True, help="a classifier or detector to start from")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--pixels", type=int, default=160)
    parser.add_argument("--epochs", type=int, default=120, help="steps: one is all images")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
    recipe = RECIPES["ssdlite-finetune"].changed(RECIPE | {"epochs": options.epochs})
    start = Start(weights=options.weights, resolution=(options.pixels, options.pixels))
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        data.mkdir()
        first_images(options.source, options.images, data)
        run = Path(folder) / "run"
        trained = fit(data, run, recipe, start, machine=Machine(workers=0, precision="32"))
    ap50 = trained.evaluation.scores.ap50
    seconds = time.perf_counter() - started
    print(f"AP50 {ap50:.4f}, AP {trained.evaluation.scores.ap:.4f} after {seconds:.0f} s")
    return int(ap50 < GOAL)


if __name__ == "__main__":
    sys.exit(main())
