"""A `.param` file, run by ncnn in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..int8 import AnyCheckpoint
from ..writers.options import WriteOptions, WriterError, result_names

REDUCED = ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_packed", "bf16_storage")


def run(
    path: Path, pixels: NDArray[np.uint8], checkpoint: AnyCheckpoint, options: WriteOptions
) -> dict[str, Any]:
    """The file's results on pixels (N, H, W, C), as this package's docstring lists them.

    ncnn's arithmetic in float16, its default, is switched off.

    Raises:
        WriterError: ncnn does not load the file.
    """
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = 1
    for option in REDUCED:
        setattr(net.opt, f"use_{option}", False)
    if net.load_param(str(path)) or net.load_model(str(path.with_suffix(".bin"))):
        raise WriterError(f"{path}: ncnn does not load it")
    images = pixels.astype(np.float32)
    if options.input == "float32":
        images = checkpoint.preprocessing.normalize(pixels).astype(np.float32)
    names = result_names(checkpoint, options)
    results: dict[str, list[NDArray[np.float32]]] = {name: [] for name in names}
    for image in np.ascontiguousarray(images.transpose(0, 3, 1, 2)):
        extractor = net.create_extractor()
        extractor.input("image", ncnn.Mat(image).clone())
        for name in names:
            failed, values = extractor.extract(name)
            if failed:
                raise WriterError(f"{path}: ncnn does not compute {name}")
            results[name].append(_channels_last(np.array(values)))
    return {name: np.stack(values) for name, values in results.items()}


def _channels_last(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return values.transpose(1, 2, 0) if values.ndim == 3 else values
