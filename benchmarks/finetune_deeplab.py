"""A published DeepLab, fine-tuned on a few of its own images, keeps its mIoU on the others.

    python benchmarks/finetune_deeplab.py shared/data/voc-sample \\
        --weights shared/models/deeplabv3_mnv2_dm05_pascal_quant.tflite

The part train of a dataset in Pascal VOC's layout is trained with, the part val validated with, both
by `fit` with the recipe "deeplab-finetune". The exit code is 1 if mIoU falls by more than a point.
Minutes on two cores.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from pathlib import Path

from mobilenetv2 import Segmenter
from mobilenetv2.datasets import read_masks
from mobilenetv2.evaluation import evaluate_segmenter
from mobilenetv2.formats import open_checkpoint
from mobilenetv2.training import RECIPES, Machine, Start, fit

ALLOWED_LOSS = 0.01


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("source", type=Path)
    parser.add_argument("--weights", required=True, type=Path)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--lr", type=float, default=0.0005)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = open_checkpoint(options.weights, int8=False)
        data = read_masks(options.source, "val")
        weights = Path(folder) / "weights.safetensors"
        checkpoint.save(weights)
        before = evaluate_segmenter(Segmenter(checkpoint), data).scores.miou
        print(f"before: mIoU {before:.4f} on {len(data.samples)} images", flush=True)
        recipe = RECIPES["deeplab-finetune"].changed({"epochs": options.epochs, "lr": options.lr})
        trained = fit(
            options.source,
            Path(folder) / "run",
            recipe,
            Start(weights=weights),
            machine=Machine(workers=0, precision="32"),
        )
    after = trained.evaluation.scores.miou
    seconds = time.perf_counter() - started
    print(
        f"after: mIoU {after:.4f}, epoch {trained.best_epoch} of {trained.epochs}, {seconds:.0f} s"
    )
    return int(after < before - ALLOWED_LOSS)


if __name__ == "__main__":
    sys.exit(main())
