"""Runs OpenVINO files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..int8 import AnyCheckpoint
from ..writers.options import WriteOptions
from .onnx import results_of


def run(
    path: Path, pixels: NDArray[np.uint8], checkpoint: AnyCheckpoint, options: WriteOptions
) -> dict[str, Any]:
    """A file's results on pixels (N, H, W, C), computed in float32 where the file is float32."""
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    request = openvino.Core().compile_model(path, "CPU", settings).create_infer_request()

    def call(images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        outputs = request.infer([images])
        return {
            output.get_any_name(): np.array(values) for output, values in outputs.to_dict().items()
        }

    return results_of(call, pixels, checkpoint, options)
