"""A model with its weights as a file of float16 holds them, so that the file can be compared closely."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..checkpoint import Checkpoint
from ..folding import unfolded
from ..graph import layers
from ..writers.arrays import folded

if TYPE_CHECKING:
    from ..checkpoint import FloatArray


def as_float16(checkpoint: Checkpoint, rounded: str) -> Checkpoint:
    """The checkpoint with what a format rounds to float16 rounded, in float32.

    Args:
        checkpoint: The model.
        rounded: `writers.Format.float16`.
    """
    arrays: dict[str, FloatArray] = {}
    for layer in layers(checkpoint.architecture):
        if layer.weight is None:
            continue
        if rounded == "arrays":
            kernel = checkpoint.arrays[layer.weight]
            arrays[layer.weight] = kernel.astype(np.float16).astype(np.float32)
            continue
        kernel, bias = folded(checkpoint, layer)
        if rounded == "constants":
            bias = bias.astype(np.float16).astype(np.float32)
        arrays |= unfolded(layer, kernel.astype(np.float16), bias)
    return replace(checkpoint, arrays={**checkpoint.arrays, **arrays})
