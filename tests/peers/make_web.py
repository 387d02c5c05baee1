"""Writes models for web_onnx.mjs and web_litert.mjs, and what our engine makes of an image.

    python tests/peers/make_web.py FOLDER [MODEL...]

Each MODEL, a classifier or a segmenter in float32, becomes an ONNX file, a folder for
transformers.js and, if it is a classifier, a .tflite file, all in float32 and in int8, quantised with
the photos of examples/. The image is of the size of the pixels, so that no program resizes it.
"""

from __future__ import annotations

import base64
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

import mobilenetv2 as mnv2
from mobilenetv2.checkpoint import Checkpoint
from mobilenetv2.images import decode
from mobilenetv2.int8 import AnyCheckpoint, Int8Checkpoint
from mobilenetv2.model import Model
from mobilenetv2.runtime import Engine
from mobilenetv2.runtime.quantize import to_int8
from mobilenetv2.writers import WriteOptions, onnx, tflite, transformers_js

PHOTOS = sorted((Path(__file__).parents[2] / "examples").glob("*.jpg"))
# of logits, in parts of their range; int8 runtimes round otherwise than ours
TOLERANCE = {"float32": 1e-4, "int8": 0.1}


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    cases = []
    for name in sys.argv[2:] or ["cifar10"]:
        checkpoint = mnv2.load(name, int8=False).checkpoint
        assert isinstance(checkpoint, Checkpoint)
        stretched = replace(checkpoint.preprocessing, resize="stretch")
        checkpoint = replace(checkpoint, preprocessing=stretched)
        pixels = np.stack([stretched(decode(photo)) for photo in PHOTOS])
        for model in (checkpoint, to_int8(checkpoint, pixels)):
            cases.append(case_of(model, pixels[:1], folder, Path(name).stem))
    (folder / "cases.json").write_text(json.dumps(cases), encoding="utf-8")


def case_of(
    checkpoint: AnyCheckpoint, pixels: np.ndarray, folder: Path, name: str
) -> dict[str, object]:
    """Writes a model and says what its results are to be."""
    numbers = "int8" if isinstance(checkpoint, Int8Checkpoint) else "float32"
    title = f"{name}-{numbers}"
    Image.fromarray(pixels[0]).save(folder / f"{title}.png")
    options = WriteOptions(input="uint8", layout="nhwc")
    onnx.write(checkpoint, folder / f"{title}.onnx", options)
    if not (folder / title).exists():
        transformers_js.write(checkpoint, folder / title, WriteOptions())
    task, engine = checkpoint.architecture.head.task, Engine(checkpoint)
    case = {
        "title": title,
        "task": task,
        "shape": list(pixels.shape),
        "pixels": base64.b64encode(pixels.tobytes()).decode(),
        "labels": list(Model(checkpoint).class_names()),
        "tolerance": TOLERANCE[numbers],
    }
    if task == "segmentation":
        return {**case, "mask": engine.mask(pixels).ravel().tolist()}
    tflite.write(checkpoint, folder / f"{title}.tflite", WriteOptions(input="uint8"))
    return {**case, "logits": engine(pixels).ravel().tolist()}


if __name__ == "__main__":
    main()
