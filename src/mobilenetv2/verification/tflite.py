"""Runs .tflite files in LiteRT."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..int8 import AnyCheckpoint
from ..writers.options import WriteOptions

Results = dict[str, Any]


def run(
    path: Path, pixels: NDArray[np.uint8], checkpoint: AnyCheckpoint, options: WriteOptions
) -> Results:
    """A file's results on pixels (N, H, W, C)."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    images: NDArray[Any] = pixels
    if options.input == "float32":
        images = checkpoint.preprocessing.normalize(pixels)
    (image,) = interpreter.get_input_details()
    size = options.batch or len(images)
    if tuple(image["shape"]) != (size, *images.shape[1:]):
        interpreter.resize_tensor_input(image["index"], (size, *images.shape[1:]))
    interpreter.allocate_tensors()
    parts = []
    for begin in range(0, len(images), size):
        group = images[begin : begin + size]
        # a file for more images than are left runs the last of them again
        full = np.concatenate([group, *[group[-1:]] * (size - len(group))])
        interpreter.set_tensor(image["index"], full)
        interpreter.invoke()
        outputs = {
            each["name"]: interpreter.get_tensor(each["index"])
            for each in interpreter.get_output_details()
        }
        parts.append(_by_image(outputs, len(group)))
    return {name: _joined([part[name] for part in parts]) for name in parts[0]}


def _by_image(outputs: Mapping[str, NDArray[Any]], count: int) -> Results:
    """The results of the first images of a call; of detections, a list per image."""
    if "count" not in outputs:
        return {name: values[:count] for name, values in outputs.items()}
    kept = int(outputs["count"][0])
    corners = outputs["boxes"][0, :kept][:, [1, 0, 3, 2]]
    return {
        "boxes": [corners],
        "scores": [outputs["scores"][0, :kept]],
        "classes": [outputs["classes"][0, :kept].astype(np.int64)],
    }


def _joined(parts: list[Any]) -> Any:
    """The results of all calls."""
    if isinstance(parts[0], list):
        return [each for part in parts for each in part]
    return np.concatenate(parts)
