"""Writes the network of 1.0 / 224 with random weights for latency.mjs: float32 and int8, in the formats
of our runtime, LiteRT.js and onnxruntime-web, with the pixels of one image and our engine's logits.

    pip install '.[benchmark,export]'
    python benchmarks/web/make.py FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from peer_files import random_checkpoint

from mobilenetv2.exporting import export
from mobilenetv2.runtime import Engine
from mobilenetv2.runtime.quantize import to_int8


def main(folder: Path) -> None:
    """Writes all files into the folder."""
    folder.mkdir(exist_ok=True)
    floats = random_checkpoint()
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (8, 28, 28, 3), np.uint8)
    pixels = np.repeat(np.repeat(coarse, 8, 1), 8, 2)
    models = {"float32": floats, "int8": to_int8(floats, pixels)}
    logits = {}
    for numbers, checkpoint in models.items():
        logits[numbers] = Engine(checkpoint)(pixels[:1])[0].tolist()
        for format_ in ("mnv2", "tflite", "onnx"):
            # pixels go into all int8 files, normalised values into the others' float32 files
            export(checkpoint, folder / f"{numbers}.{format_}", images=pixels[:1])
    (folder / "image.rgb").write_bytes(pixels[0].tobytes())
    values = floats.preprocessing.normalize(pixels[0]).astype("<f4")
    (folder / "image.f32").write_bytes(values.tobytes())
    (folder / "logits.json").write_text(json.dumps(logits))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
