"""One whole program: a folder of photos to labels as CSV, by Pillow in threads in front of a peer.
`folder.py` times it.

python onnx_folder.py MODEL FOLDER THREADS BATCH SPIN PRECISION

Beside the model lies `recipe.json`, what each photo is to go through. Photos are decoded and prepared
ahead of the network by a pool of THREADS; the network runs on THREADS too, on BATCH photos a call;
with SPIN 1 its pool spins while it waits, ONNX Runtime's default, with 0 it leaves the processors to
the decoding. PRECISION is "float32" or "int8", which wants pixels.
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

AHEAD = 16


def main(model: Path, folder: Path, threads: int, batch: int, spin: bool, precision: str) -> None:
    """Writes a line a photo: file, index, label, probability of the best class."""
    recipe = Recipe.read(model.with_name("recipe.json"))
    run = load_onnxruntime(model, threads, spin=spin)
    prepared = recipe.pixels if precision == "int8" else recipe.image
    writer = csv.writer(sys.stdout)
    writer.writerow(("file", "index", "label", "probability"))
    files = sorted(folder.glob("*.jpg"))
    with ThreadPoolExecutor(threads) as pool:
        rest = iter(files)
        ahead: deque[Future[Array]] = deque(
            pool.submit(prepared, file) for file in islice(rest, AHEAD)
        )
        for begin in range(0, len(files), batch):
            images = []
            for _ in files[begin : begin + batch]:
                images.append(ahead.popleft().result())
                ahead.extend(pool.submit(prepared, file) for file in islice(rest, 1))
            logits = run(nchw(np.stack(images)))
            powers = np.exp(logits - logits.max(axis=1, keepdims=True))
            chances = powers / powers.sum(axis=1, keepdims=True)
            for file, row in zip(files[begin : begin + batch], chances):
                best = int(row.argmax())
                writer.writerow((file, best, recipe.labels[best], f"{row[best]:.6f}"))


if __name__ == "__main__":
    model_, folder_, threads_, batch_, spin_, precision_ = sys.argv[1:]
    main(Path(model_), Path(folder_), int(threads_), int(batch_), spin_ == "1", precision_)
