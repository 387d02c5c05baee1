"""Hands a float checkpoint's weights to the extension for products of bfloat16, and what the plan of
such a network has to know.

The weights are rounded to bfloat16, those of products by the extension; biases stay float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..checkpoint import Checkpoint
from ..folding import fold
from ..graph import network as described_network
from ..int8 import float_results
from ..layer import IMAGE, Layer
from . import _native
from .packing import Weights, too_large, weighted_layers
from .placing import UnplacedStep
from .steps import Steps

Array = NDArray[Any]
ITEM_BYTES = 2
FLOAT_ITEMS = 4 // ITEM_BYTES


def pack_bf16(network: _native.BF16Network, checkpoint: Checkpoint, steps: Steps) -> Weights:
    """Packs float weights as `packing.pack` does, for products of bfloat16."""
    handles: dict[str, int] = {}
    pixels = -1
    net = described_network(checkpoint.architecture)
    results = float_results(net, "nearest")
    for layer in weighted_layers(net.layers, steps):
        with within_float32(layer):
            reads_image = IMAGE in layer.sources
            weight, bias = fold(checkpoint, layer, np.float64 if reads_image else np.float32)
            weight, bias = laid_out(layer, weight, steps), filled_channels(layer, bias, steps)
            if layer.kind == "depthwise":
                taps = rounded_taps(weight.reshape(len(weight), -1)).T  # (9, C)
                handles[layer.name] = network.add_depthwise(_floats(taps), _floats(bias))
                continue
            handles[layer.name] = _add_matrix(network, layer, weight, bias, layer.name in results)
            if reads_image:
                scale, offset = checkpoint.preprocessing.scale_offset()
                weight = rounded(weight * scale).astype(np.float64)
                # of the rounded weights: what stands for zero then gives exactly the bias
                bias = bias + (weight / scale * offset).sum(axis=(1, 2, 3))
                pixels = _add_matrix(network, layer, weight, bias, layer.name in results)
                network.set_pixel_padding((-offset / scale).tolist())
    return Weights(handles, pixels, network.panel_channels, ITEM_BYTES)


def finish_bf16(
    layers: Mapping[str, Layer], unplaced: Sequence[UnplacedStep], results: frozenset[str]
) -> None:
    """Puts into the steps which of their tensors are float32.

    Args:
        layers: By name.
        unplaced: The steps.
        results: The layers whose results are float32.
    """
    for todo in unplaced:
        if todo.output in results:
            todo.item_scale = FLOAT_ITEMS
            todo.step.reads_floats = layers[todo.output].kind == "resize"


def rounded(array: Array) -> NDArray[np.float32]:
    """The nearest bfloat16 of each number, halves to even, as float32; subnormal numbers become 0."""
    values = np.ascontiguousarray(array, np.float32)
    bits = values.view(np.uint32)
    nearest = (bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)
    kept = np.where(np.isfinite(values), nearest.view(np.float32), values)
    tiny = np.abs(values) < np.finfo(np.float32).tiny
    return np.where(tiny, np.copysign(np.float32(0), values), kept).astype(np.float32)


def rounded_taps(taps: Array) -> NDArray[np.float32]:
    """bfloat16 near the taps of depthwise kernels, (C, 9), so that each channel's sum stays.

    What a tap loses, the next smaller one gets. Neighbouring inputs are much alike and never
    negative: an error of the sum would be one of every output.
    """
    by_magnitude = np.argsort(-np.abs(taps), axis=1, kind="stable")
    channels = np.arange(len(taps))
    out = np.zeros(taps.shape, np.float32)
    error = np.zeros(len(taps))
    for tap in by_magnitude.T:
        exact = taps[channels, tap].astype(np.float64) + error
        out[channels, tap] = rounded(exact)
        error = exact - out[channels, tap]
    return out


def _add_matrix(
    network: _native.BF16Network, layer: Layer, weight: Array, bias: Array, to_float: bool
) -> int:
    """Adds rows of which each run of inputs that lie side by side is pairs, filled with zeros: a
    kernel row, of a dilated kernel a tap.
    """
    rounding = _native.Rounding()
    if to_float:
        rounding.mode = _native.RoundingMode.ONCE_TO_FLOAT
    runs = layer.kernel if layer.dilation == 1 else layer.kernel**2
    weight = weight.reshape(len(weight), runs, -1)
    tail = weight.shape[2] % 2
    matrix = _floats(rows(filled(weight, axis=2, unit=2)))
    return network.add_matrix(matrix, _floats(bias), tail=tail, rounding=rounding)


def _floats(array: Array) -> NDArray[np.float32]:
    return np.ascontiguousarray(array, np.float32)


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
