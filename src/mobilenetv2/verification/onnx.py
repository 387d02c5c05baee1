"""Runs ONNX files in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..int8 import AnyCheckpoint
from ..writers.options import WriteOptions

AT_ONCE = 4  # images, of files that take any number
Results = dict[str, Any]
Call = Callable[[NDArray[Any]], Mapping[str, NDArray[Any]]]


def run(
    path: Path, pixels: NDArray[np.uint8], checkpoint: AnyCheckpoint, options: WriteOptions
) -> Results:
    """A file's results on pixels (N, H, W, C)."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    (image,) = session.get_inputs()
    names = [output.name for output in session.get_outputs()]
    return results_of(
        lambda images: dict(zip(names, session.run(names, {image.name: images}), strict=True)),
        pixels,
        checkpoint,
        options,
    )


def results_of(
    call: Call, pixels: NDArray[np.uint8], checkpoint: AnyCheckpoint, options: WriteOptions
) -> Results:
    """The results of a file of ours on pixels (N, H, W, C), in the order that our runtime has.

    Args:
        call: Runs the file on the images that it takes, and gives its outputs by name.
        pixels: The images.
        checkpoint: The model.
        options: Those that the file was written with.
    """
    images: NDArray[Any] = pixels
    if options.input == "float32":
        images = checkpoint.preprocessing.normalize(pixels)
    if options.layout != "nhwc":
        images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    size = options.batch or min(len(images), AT_ONCE)
    parts = []
    for begin in range(0, len(images), size):
        group = images[begin : begin + size]
        # a file for more images than are left runs the last of them again
        missing = 0 if options.batch is None else size - len(group)
        full = np.concatenate([group, *[group[-1:]] * missing])
        parts.append(_by_image(call(full), len(group), options))
    return {name: _joined([part[name] for part in parts]) for name in parts[0]}


def _by_image(
    outputs: Mapping[str, NDArray[Any]], count: int, options: WriteOptions
) -> dict[str, Any]:
    """The results of the first images of a call; of detections, a list per image."""
    if "boxes" in outputs:
        of_image = outputs.get("images", np.zeros(len(outputs["boxes"]), np.int64))
        return {
            name: [outputs[name][of_image == index] for index in range(count)]
            for name in ("boxes", "scores", "classes")
        }
    turned = options.layout != "nhwc"
    return {
        name: np.moveaxis(values, 1, -1)[:count] if turned and values.ndim == 4 else values[:count]
        for name, values in outputs.items()
    }


def _joined(parts: list[Any]) -> Any:
    """The results of all calls."""
    if isinstance(parts[0], list):
        return [each for part in parts for each in part]
    return np.concatenate(parts)
