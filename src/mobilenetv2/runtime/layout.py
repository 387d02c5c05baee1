"""How arrays of weights lie for the steps that read them, in NumPy.

Blocked tensors have whole blocks of channels: kernels that read or write them are filled up with
zeros.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..layer import Layer
from . import _native
from .packing import too_large
from .steps import Steps

Array = NDArray[Any]


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
        raise too_large(layer) from None


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
