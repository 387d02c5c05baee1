"""A whole program that classifies a folder of images with ONNX Runtime, and prints labels as CSV.
`folder.py` times it.

python onnx_folder.py MODEL FOLDER THREADS BATCH SPIN PRECISION

Next to the model lies `recipe.json`, which says how images are prepared. A pool of THREADS threads
decodes and prepares them with Pillow ahead of the network, which also runs on THREADS threads, with
BATCH images per call. With SPIN 1 the network's threads spin while they wait (the default of ONNX
Runtime); with SPIN 0 they leave the processors to the decoding. PRECISION is "float32" or "int8"; an
int8 model takes uint8 pixels.
"""

from __future__ import annotations

import csv
import sys
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
from peers import Array, Recipe, load_onnxruntime, nchw

AHEAD = 16  # images that are being prepared or wait for the network


def main(model: Path, folder: Path, threads: int, batch: int, spin: bool, precision: str) -> None:
    """Prints one line per image: file, and index, label and probability of the best class."""
    recipe = Recipe.read(model.with_name("recipe.json"))
    run = load_onnxruntime(model, threads, spin=spin)
    prepare = recipe.pixels if precision == "int8" else recipe.normalized
    writer = csv.writer(sys.stdout)
    writer.writerow(("file", "index", "label", "probability"))
    files = sorted(folder.glob("*.jpg"))
    with ThreadPoolExecutor(threads) as pool:
        rest = iter(files)
        ahead: deque[Future[Array]] = deque(
            pool.submit(prepare, file) for file in islice(rest, AHEAD)
        )
        for begin in range(0, len(files), batch):
            inputs = []
            for _ in files[begin : begin + batch]:
                inputs.append(ahead.popleft().result())
                ahead.extend(pool.submit(prepare, file) for file in islice(rest, 1))
            logits = run(nchw(np.stack(inputs)))
            exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
            probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
            for file, row in zip(files[begin : begin + batch], probabilities):
                best = int(row.argmax())
                writer.writerow((file, best, recipe.labels[best], f"{row[best]:.6f}"))


if __name__ == "__main__":
    model_, folder_, threads_, batch_, spin_, precision_ = sys.argv[1:]
    main(Path(model_), Path(folder_), int(threads_), int(batch_), spin_ == "1", precision_)
