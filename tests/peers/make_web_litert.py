"""Writes models for web_litert.mjs, and what our engine makes of an image.

    python tests/peers/make_web_litert.py FOLDER [MODEL...]

Each MODEL, a classifier in float32, becomes a .tflite file of pixels in float32 and in int8,
quantised with the photos of examples/.
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path

import numpy as np

import mobilenetv2 as mnv2
from mobilenetv2.checkpoint import Checkpoint
from mobilenetv2.images import decode
from mobilenetv2.runtime import Engine
from mobilenetv2.runtime.quantize import to_int8
from mobilenetv2.writers import WriteOptions, tflite

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
        pixels = np.stack([checkpoint.preprocessing(decode(photo)) for photo in PHOTOS])
        for numbers, model in (("float32", checkpoint), ("int8", to_int8(checkpoint, pixels))):
            title = f"{Path(name).stem}-{numbers}"
            tflite.write(model, folder / f"{title}.tflite", WriteOptions(input="uint8"))
            case = {
                "title": title,
                "shape": list(pixels[:1].shape),
                "pixels": base64.b64encode(pixels[:1].tobytes()).decode(),
                "tolerance": TOLERANCE[numbers],
                "logits": Engine(model)(pixels[:1]).ravel().tolist(),
            }
            cases.append(case)
    (folder / "cases.json").write_text(json.dumps(cases), encoding="utf-8")


if __name__ == "__main__":
    main()
