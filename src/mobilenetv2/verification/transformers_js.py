"""Runs the ONNX file of a folder for transformers.js in ONNX Runtime."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..int8 import AnyCheckpoint
from ..writers.options import WriteOptions, result_names
from ..writers.transformers_js import file_name
from . import onnx


def run(
    path: Path, pixels: NDArray[np.uint8], checkpoint: AnyCheckpoint, options: WriteOptions
) -> dict[str, Any]:
    """A folder's results on pixels (N, H, W, C)."""
    file = path / "onnx" / file_name(checkpoint)
    results = onnx.run(file, pixels, checkpoint, replace(options, batch=None))
    # a segmenter's scores are called logits there
    return dict(zip(result_names(checkpoint, options), results.values(), strict=True))
