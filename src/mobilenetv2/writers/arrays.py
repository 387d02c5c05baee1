"""The arrays of a checkpoint as other formats hold them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ..checkpoint import Checkpoint
from ..folding import fold
from ..int8 import Activation, Int8Checkpoint, stored_tensors
from ..int8_layers import Int8Layer
from ..layer import BATCH_NORM_ARRAYS, Layer
from .options import WriterError


def folded(checkpoint: Checkpoint, layer: Layer) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Kernel and bias of a layer, with its batch norm folded in, float32."""
    weight, bias = fold(checkpoint, layer)
    return weight.astype(np.float32), bias.astype(np.float32)


def norm_arrays(
    checkpoint: Checkpoint, layer: Layer, epsilon: float
) -> dict[str, NDArray[np.float32]]:
    """The batch norm of a layer for a library with another epsilon: the same function.

    Args:
        checkpoint: The model.
        layer: One of its layers that has a batch norm.
        epsilon: The library's.

    Returns:
        weight, bias, running_mean and running_var, (out,) each.
    """
    arrays = {name: checkpoint.arrays[f"{layer.norm}.{name}"] for name in BATCH_NORM_ARRAYS}
    if layer.bn_epsilon == epsilon:
        return dict(arrays)
    needed = arrays["running_var"].astype(np.float64) + layer.bn_epsilon
    variance = np.maximum(needed - epsilon, 0)
    weight = arrays["weight"] * np.sqrt((variance + epsilon) / needed)
    changed = {"weight": weight, "running_var": variance}
    return {**arrays, **{name: array.astype(np.float32) for name, array in changed.items()}}


def check_float16(target: str, name: str, *weights: NDArray[np.float32]) -> None:
    """Refuses weights that float16 does not hold.

    Raises:
        WriterError: The message names the format and the weights.
    """
    largest = max((float(np.abs(array).max()) for array in weights), default=0.0)
    if largest > float(np.finfo(np.float16).max):
        raise WriterError(f"{target}: float16 does not hold the weights of {name}: leave it out")


def image_zero_points(checkpoint: Int8Checkpoint) -> tuple[int, ...]:
    """The zero points of the image's channels; one where all are equal."""
    zeros = checkpoint.image_zero_points
    return zeros[:1] if len(set(zeros)) == 1 else zeros


def bias_of_pixels(layer: Int8Layer, zeros: tuple[int, ...]) -> NDArray[np.int32]:
    """The bias of the first layer where it reads pixels as if their zero points were 0."""
    sums = (layer.weight.astype(np.int64) - layer.zero_point).sum((2, 3))  # (out, channels)
    bias: NDArray[np.int32] = (layer.bias - sums @ np.array(zeros)).astype(np.int32)
    return bias


def activations(checkpoint: Int8Checkpoint) -> Mapping[str, Activation]:
    """How each tensor is stored by a runtime that stores all of them, by the name of its layer.

    Raises:
        WriterError: The checkpoint does not say it of a tensor that our runtime does not store.
    """
    known = {**checkpoint.unstored, **checkpoint.activations}
    names = stored_tensors(checkpoint.architecture, "twice")
    if missing := [name for name in names if name not in known]:
        raise WriterError(
            f"the int8 model does not say which range {missing[0]} has, which other runtimes store "
            "and ours does not: quantise the float model again, with `mobilenetv2 quantize` or "
            "`mobilenetv2 convert --int8 --calibrate DIR`"
        )
    return {name: known[name] for name in names}
