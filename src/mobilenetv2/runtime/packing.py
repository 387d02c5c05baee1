"""Hands a checkpoint's weights to the extension, laid out for the steps that read them, in the
order in which they are used.

Blocked tensors have whole blocks of channels: kernels that read or write them are filled up with
zeros.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..checkpoint import Checkpoint, FloatArray
from ..errors import ModelFileError
from ..folding import fold, scale_and_bias
from ..graph import layers
from ..layer import IMAGE, Layer
from ..stored import StoredArrays
from . import _native
from .steps import Steps

Array = NDArray[Any]
SPARE_WEIGHTS = 128  # of a matrix: the last vectors of its panels, two lines of int8


class Weights(msgspec.Struct, frozen=True):
    """Handles of the weights inside the extension.

    Attributes:
        handles: By layer name.
        pixels: Of the first layer's weights for uint8 pixels, normalisation folded in.
        panel_channels: Channels in the widest panel of a packed matrix.
        item_bytes: Bytes of one activation: 4 in float32, 2 in bfloat16, 1 in int8.
    """

    handles: Mapping[str, int]
    pixels: int
    panel_channels: int
    item_bytes: int


def weighted_layers(checkpoint_layers: tuple[Layer, ...], steps: Steps) -> list[Layer]:
    """The layers of the steps that have weights, in the order in which they are used."""
    named = {layer.name: layer for layer in checkpoint_layers}
    ordered = [named[name] for step in steps.steps for name in step.layers]
    return [layer for layer in ordered if layer.weight is not None]


def matrix_weights(weighted: Sequence[Layer]) -> int:
    """Weights of all matrices once they are packed, at most: in whole blocks, with spare lines."""
    total = 0
    for layer in weighted:
        if layer.kind != "depthwise":
            outputs, inputs = (
                -(-n // _native.BLOCK) * _native.BLOCK for n in layer.weight_shape[:2]
            )
            twice = 2 if IMAGE in layer.sources else 1
            total += twice * (outputs * inputs * layer.kernel**2 + SPARE_WEIGHTS)
    return total


def pack(network: _native.Network, checkpoint: Checkpoint, steps: Steps) -> Weights:
    """Packs float weights, batch norms folded in; those of the first layer twice, for normalised
    values and for pixels.
    """
    handles: dict[str, int] = {}
    pixels = -1
    weighted = weighted_layers(layers(checkpoint.architecture), steps)
    rooms = np.empty((2, max(math.prod(layer.weight_shape) for layer in weighted)), np.float32)
    network.reserve(matrix_weights(weighted))
    for layer in weighted:
        with within_float32(layer):
            reads_image = IMAGE in layer.sources
            if reads_image:
                weight, bias = fold(checkpoint, layer)
            else:
                weight, bias = _folded(checkpoint, layer, *rooms)
            weight, bias = laid_out(layer, weight, steps), filled_channels(layer, bias, steps)
            if layer.kind == "depthwise":
                taps = weight.reshape(-1, layer.kernel**2).T  # (9, C)
                handles[layer.name] = network.add_depthwise(_floats(taps), _floats(bias))
                continue
            handles[layer.name] = network.add_matrix(_floats(rows(weight)), _floats(bias))
            if reads_image:
                scale, offset = checkpoint.preprocessing.scale_offset()
                bias = bias + (weight * offset).sum(axis=(1, 2, 3))
                pixels = network.add_matrix(_floats(rows(weight * scale)), _floats(bias))
                network.set_pixel_padding((-offset / scale).tolist())
    return Weights(handles, pixels, network.panel_channels, 4)


def _folded(
    checkpoint: Checkpoint, layer: Layer, read: FloatArray, scaled: FloatArray
) -> tuple[Array, Array]:
    """What `fold` gives in float32, in memory that is used for one layer after another.

    Args:
        checkpoint: The model.
        layer: One of its layers.
        read: Room for the kernel as it is in the file.
        scaled: Room for the kernel with the batch norm.

    Raises:
        FloatingPointError: A weight is too large for float32.
    """
    assert layer.weight is not None
    arrays = checkpoint.arrays
    if isinstance(arrays, StoredArrays):
        weight = arrays.read(layer.weight, read)
    else:
        weight = arrays[layer.weight]
    scale, bias = scale_and_bias(checkpoint, layer)
    if scale is None:
        return weight, bias
    folded = scaled[: weight.size].reshape(weight.shape)
    if not _native.scale_rows(_floats(rows(weight)), scale, rows(folded)):
        raise FloatingPointError
    return folded, bias


@contextmanager
def within_float32(layer: Layer) -> Iterator[None]:
    """Turns numbers too large for float32 into an error that names the layer.

    Raises:
        ModelFileError: NumPy has met such numbers in the block.
    """
    try:
        with np.errstate(over="raise"):
            yield
    except FloatingPointError:
        raise ModelFileError(
            f"layer {layer.name}: its weights are too large for float32 once batch norm, "
            "normalisation and scales are folded in; the file is damaged"
        ) from None


def laid_out(layer: Layer, weight: Array, steps: Steps) -> Array:
    """(out, in / groups, k, k) as (out, k, k, in / groups), with whole blocks of channels where the
    tensors are blocked; a depthwise kernel stays (C, 1, k, k).
    """
    weight = weight.reshape(*weight.shape[:2], layer.kernel, layer.kernel)
    weight = filled_channels(layer, weight, steps)
    if layer.kind == "depthwise":
        return weight
    weight = weight.transpose(0, 2, 3, 1)
    return filled(weight, 3) if layer.sources[0] in steps.blocked else weight


def filled_channels(layer: Layer, array: Array, steps: Steps) -> Array:
    """An array of one row per output channel, with whole blocks of them where the layer's output is
    blocked. A depthwise kernel always writes whole blocks.
    """
    blocked = layer.name in steps.blocked or layer.kind == "depthwise"
    return filled(array) if blocked else array


def filled(array: Array, axis: int = 0, unit: int = _native.BLOCK) -> Array:
    """Zeros behind an axis up to a multiple of `unit`."""
    missing = -array.shape[axis] % unit
    if not missing:
        return array
    room = [(0, 0)] * array.ndim
    room[axis] = (0, missing)
    return np.pad(array, room)


def rows(weight: Array) -> Array:
    """One row per output channel."""
    return weight.reshape(len(weight), -1)


def _floats(array: Array) -> NDArray[np.float32]:
    return np.ascontiguousarray(array, np.float32)
