"""Writes the network of 1.0 / 224 with random weights for latency.mjs: float32 and int8, in the formats
of our runtime, LiteRT.js and onnxruntime-web, and in float32 as layers and weights for tfjs; with the
pixels of one image and our engine's logits.

    pip install '.[benchmark,export]'
    python benchmarks/web/make.py FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from peer_arrays import folded
from peer_files import random_checkpoint

from mobilenetv2.checkpoint import Checkpoint
from mobilenetv2.exporting import export
from mobilenetv2.graph import layers
from mobilenetv2.runtime import Engine
from mobilenetv2.runtime.quantize import to_int8


def write_tfjs(checkpoint: Checkpoint, folder: Path) -> None:
    """Writes the layers that latency.mjs calls in tfjs, with their weights as tfjs has them."""
    steps, arrays, length = [], [], 0
    for layer in layers(checkpoint.architecture):
        step = {"kind": layer.kind, "name": layer.name, "sources": layer.sources}
        if layer.weight:
            kernel, bias = folded(checkpoint, layer)
            if kernel.ndim == 4:  # (out, in, height, width)
                kernel = (
                    kernel.transpose(2, 3, 0, 1)
                    if layer.kind == "depthwise"
                    else kernel.transpose(2, 3, 1, 0)
                )
            else:
                kernel = kernel.T
            step |= {"stride": layer.stride, "relu6": layer.activation == "relu6"}
            for name, array in (("kernel", kernel), ("bias", bias)):
                step[name] = {"shape": array.shape, "begin": length}
                arrays.append(np.ascontiguousarray(array, "<f4"))
                length += array.size
        steps.append(step)
    (folder / "tfjs.json").write_text(json.dumps(steps))
    (folder / "tfjs.bin").write_bytes(b"".join(array.tobytes() for array in arrays))


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
    write_tfjs(floats, folder)
    (folder / "image.rgb").write_bytes(pixels[0].tobytes())
    values = floats.preprocessing.normalize(pixels[0]).astype("<f4")
    (folder / "image.f32").write_bytes(values.tobytes())
    (folder / "logits.json").write_text(json.dumps(logits))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
