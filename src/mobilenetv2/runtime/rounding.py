"""How int8 networks round: the arithmetic behind every sum, in NumPy.

A layer's sum is a whole number of 32 bits. With rounding "nearest" it is multiplied by one float32
factor and rounded to the nearest even number. With "twice", as TensorFlow Lite's reference kernels
do it, it is multiplied by a fraction of 31 bits, rounded, multiplied by a power of two and rounded
again. `native/requantize.hpp` is the same in C++; tests hold both to the same bytes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..int8 import Activation, Int8Checkpoint
from ..layer import Layer
from .int8_scales import code_limits, tensor_scale

Values = NDArray[Any]


def sum_scale(checkpoint: Int8Checkpoint, layer: Layer) -> NDArray[np.float64]:
    """What 1 in the sum of each output channel stands for, (out,)."""
    scale, weights = tensor_scale(checkpoint, layer.sources[0]), checkpoint.layers[layer.name]
    if checkpoint.rounding == "twice" and weights.weight.dtype == np.uint8:
        # TensorFlow Lite multiplies these in float32
        return (np.float32(scale) * weights.scale).astype(np.float64)
    return scale * weights.scale.astype(np.float64)


def stored(values: Values, out: Activation, activation: str = "linear") -> NDArray[np.uint8]:
    """Values in steps of `out` as they are stored, floats rounded half to even."""
    lowest, highest = code_limits(out, activation)
    codes: NDArray[np.uint8] = (np.rint(np.clip(values, lowest, highest)) + out.zero_point).astype(
        np.uint8
    )
    return codes


def fixed_points(
    factor: NDArray[np.float64] | float,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """A factor as TensorFlow Lite stores it: 31 bits of a fraction in 0.5..1, and a power of two."""
    fraction, power = np.frexp(factor)
    fixed = np.floor(fraction * 2**31 + 0.5).astype(np.int64)
    full = fixed == 2**31
    fixed, power = np.where(full, 2**30, fixed), power + full.astype(np.int64)
    return np.where(power < -31, 0, fixed), np.maximum(power, -31)


def rescaled(
    values: Values, fixed: NDArray[np.int64], power: NDArray[np.int64]
) -> NDArray[np.int64]:
    """values * fixed * 2**(power - 31), rounded twice: at the fraction's last bit, halves up, then at
    the power of two, halves away from zero (gemmlowp's rule).
    """
    scaled = (values.astype(np.int64) << np.maximum(power, 0)) * fixed
    scaled += 1 << 30
    scaled >>= 31
    right = np.maximum(-power, 0)
    half = (1 << right) >> 1
    rounded: NDArray[np.int64] = np.sign(scaled) * ((np.abs(scaled) + half) >> right)
    return rounded


def average_pool(total: Values, count: int, origin: int = 0) -> NDArray[np.uint8]:
    """The average of `count` codes from their sum, halves away from `origin`, as AVERAGE_POOL_2D
    rounds it.
    """
    centred = total - count * origin
    average = np.sign(centred) * ((np.abs(centred) + count // 2) // count) + origin
    codes: NDArray[np.uint8] = average.astype(np.uint8)
    return codes


def rescaling(checkpoint: Int8Checkpoint, source: str, out: str) -> NDArray[np.uint8]:
    """What each code of one tensor is at the scale of another, (256,)."""
    have, need = checkpoint.activations[source], checkpoint.activations[out]
    centred = np.arange(256) - have.zero_point
    factor = have.scale / need.scale
    if checkpoint.rounding == "twice":
        return stored(rescaled(centred, *fixed_points(factor)), need)
    return stored(centred.astype(np.float32) * np.float32(factor), need)


def resize_codes(
    x: NDArray[np.uint8], height: int, width: int, signed: bool = False
) -> NDArray[np.uint8]:
    """Bilinear resize of codes (N, H, W, C) with the corner pixels' centres aligned, as TensorFlow
    Lite's reference RESIZE_BILINEAR.

    Args:
        x: The map.
        height: Rows of the result.
        width: Its columns.
        signed: As of int8: places and shares in steps of 2**-10, halves away from 128. Else as of
            uint8: in float32, halves up.
    """
    places = _integer_places if signed else _float_places
    (y0, y1, y), (x0, x1, across) = places(x.shape[1], height), places(x.shape[2], width)
    y, across = y[:, None, None], across[:, None]
    one = 1024 if signed else np.float32(1)
    corners = [np.take(np.take(x, i, 1), j, 2).astype(y.dtype) for j in (x0, x1) for i in (y0, y1)]
    total = corners[0] * (one - y) * (one - across) + corners[1] * y * (one - across)
    total = total + corners[2] * (one - y) * across + corners[3] * y * across
    if signed:
        total = (total + np.where(total > 128 << 20, 1 << 19, (1 << 19) - 1)) >> 20
    else:
        total = total + np.float32(0.5)
    codes: NDArray[np.uint8] = total.astype(np.uint8)
    return codes


def _float_places(have: int, size: int) -> tuple[Values, Values, Values]:
    """For each of `size` outputs the two inputs of `have` around it, and the share of the second."""
    scale = np.float32(have - 1) / np.float32(max(size - 1, 1))
    place = np.arange(size).astype(np.float32) * scale
    low = np.floor(place).astype(np.int64)
    return (
        low,
        np.minimum(np.ceil(place).astype(np.int64), have - 1),
        place - low.astype(np.float32),
    )


def _integer_places(have: int, size: int) -> tuple[Values, Values, Values]:
    """The same in steps of 2**-10."""
    step = ((have - 1 << 10) + (size - 1) // 2) // max(size - 1, 1)
    place = np.minimum(np.arange(size, dtype=np.int64) * step, have - 1 << 10)
    low = place >> 10
    return low, np.minimum(low + 1, have - 1), place & 1023
