"""Hands an int8 checkpoint's weights to the extension, and what it takes to round their sums."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..graph import network as described_network
from ..int8 import Activation, Int8Checkpoint, float_results
from ..layer import IMAGE, Layer
from . import _native
from .layout import Array, filled, filled_channels, laid_out, rows, within_float32
from .packing import Weights, matrix_weights, weighted_layers
from .rounding import (
    ADD_BITS,
    code_limits,
    fixed_point,
    halves_from,
    mean_fixed_point,
    rescaling,
    sum_scale,
    tensor_scale,
    zero_points,
)
from .steps import Steps

Mode = _native.RoundingMode
FEW_STEPS = 1 << 30  # results are within 32 bits
BIAS_LIMIT = 1 << 30  # leaves the other half of 32 bits to the products


def pack_int8(network: _native.ByteNetwork, checkpoint: Int8Checkpoint, steps: Steps) -> Weights:
    """Packs int8 weights: the input's zero point goes into the bias. Of weights beyond a signed byte,
    a matrix is stored less a number that is the factor of the sum of the inputs, and depthwise taps
    become several whose products are added.
    """
    handles: dict[str, int] = {}
    net = described_network(checkpoint.architecture)
    sums, results = shortcut_sums(net.layers, steps), float_results(net, checkpoint.rounding)
    weighted = weighted_layers(net.layers, steps)
    network.reserve(matrix_weights(weighted))
    for layer in weighted:
        stored, added = checkpoint.layers[layer.name], sums.get(layer.name)
        mode = _mode(checkpoint, layer, added, layer.name in results)
        weight: Array = stored.weight
        if weight.dtype != np.int8:
            weight = weight.astype(np.int16) - np.int16(stored.zero_point)
        weight = weight.reshape(*weight.shape[:2], layer.kernel, layer.kernel)
        zeros = zero_points(checkpoint, layer.sources[0])
        if len(zeros) == 1:
            zero_sums = zeros[0] * rows(weight).sum(axis=1, dtype=np.int64)
        else:
            zero_sums = (weight * np.array(zeros).reshape(-1, 1, 1)).sum(axis=(1, 2, 3))
        bias = stored.bias - zero_sums
        if np.abs(bias).max() >= BIAS_LIMIT:
            bias = np.clip(bias, -BIAS_LIMIT, BIAS_LIMIT)  # far beyond every code
        bias = filled_channels(layer, bias, steps)
        factors = {
            name: filled_channels(layer, array, steps)
            for name, array in _factors(checkpoint, layer, added, mode).items()
        }
        weight = laid_out(layer, weight, steps)
        rounding = _rounding(checkpoint, layer, added, mode, _largest(weight, bias, factors))
        factors = {name: np.ascontiguousarray(array) for name, array in factors.items()}
        bias = bias.astype(np.int32)
        if layer.kind == "depthwise":
            parts = _signed_bytes(weight)
            handles[layer.name] = network.add_depthwise(
                _taps(parts), bias, len(parts), rounding=rounding, **factors
            )
        else:
            matrix, input_factor, tail = _matrix(weight, layer, 128 - stored.zero_point)
            handles[layer.name] = network.add_matrix(
                matrix, bias, input_factor, tail, rounding=rounding, **factors
            )
    network.set_pixel_padding([float(zero) for zero in checkpoint.image_zero_points])
    first = next(iter(handles.values()))
    return Weights(handles, first, network.panel_channels, 1)


def shortcut_sums(described: tuple[Layer, ...], steps: Steps) -> dict[str, Layer]:
    """The sum that each projection before a shortcut goes into, by the projection's name."""
    named = {layer.name: layer for layer in described}
    return {
        stage.project: named[stage.add]
        for step in steps.steps
        for stage in step.stages
        if stage.project and stage.add
    }


def finish_step(
    step: _native.Step, layer: Layer, checkpoint: Int8Checkpoint, results: frozenset[str]
) -> None:
    """Puts into a step without weights what it takes to round bytes.

    Args:
        step: Of the layer.
        layer: An average, a concatenation or a resize; others have nothing to be put in.
        checkpoint: The model.
        results: The layers whose results are float32.
    """
    if layer.kind == "pool":
        step.rounding, step.mean_factor, step.mean_divisor = mean_rounding(checkpoint, layer)
    elif layer.kind == "concat":
        tables = [rescaling(checkpoint, source, layer.name) for source in layer.sources]
        step.rescaling = np.concatenate(tables).tolist()
    elif layer.kind == "resize":
        step.reads_floats = layer.name in results
        step.signed_codes = checkpoint.signed
        if not step.reads_floats:
            step.rounding = float_rounding(checkpoint, layer)


def mean_rounding(
    checkpoint: Int8Checkpoint, layer: Layer
) -> tuple[_native.Rounding, float, float]:
    """Of a global average over the layer's map: limits and zero points, factor, divisor."""
    source, out = checkpoint.activations[layer.sources[0]], checkpoint.activations[layer.name]
    count = layer.in_shape[1] * layer.in_shape[2]
    rounding = _native.Rounding()
    rounding.zero, rounding.input_zero = out.zero_point, source.zero_point
    rounding.low, rounding.high = code_limits(out, "linear")
    if checkpoint.rounding == "nearest":
        return rounding, source.scale / (count * out.scale), 1.0
    rounding.mode = Mode.TWICE
    if checkpoint.pooling == "average":
        rounding.zero = rounding.input_zero = origin = halves_from(checkpoint)
        rounding.low, rounding.high = -origin, 255 - origin
        return rounding, 1.0, float(count)
    fixed, power = mean_fixed_point(source, out, count)
    return rounding, fixed / 2**31 * 2.0 ** max(power, 0), 2.0 ** max(-power, 0)


def float_rounding(checkpoint: Int8Checkpoint, layer: Layer) -> _native.Rounding:
    """What turns the stored output of a layer into float32."""
    out = checkpoint.activations[layer.name]
    rounding = _native.Rounding()
    rounding.mode = Mode.ONCE_TO_FLOAT
    rounding.input_zero, rounding.float_scale = out.zero_point, out.scale
    return rounding


def _factors(
    checkpoint: Int8Checkpoint, layer: Layer, added: Layer | None, mode: Mode
) -> dict[str, Array]:
    """What turns a sum of each output channel into steps of the output.

    Args:
        checkpoint: The model.
        layer: Whose sums they are.
        added: The sum with a shortcut that the layer's result goes into.
        mode: How they are rounded.
    """
    out = _output(checkpoint, layer, added)
    with within_float32(layer):
        factor = sum_scale(checkpoint, layer)
        if out is not None:
            factor = factor / out.scale
        if checkpoint.rounding == "nearest":
            return {"factor": factor.astype(np.float32)}
        fixed, power = fixed_point(factor)
    left = np.maximum(power, 0)
    fraction, rest = fixed / 2**31 * 2.0**left, 2.0 ** (power - left)
    if mode == Mode.TWICE_NON_NEGATIVE:
        # one factor and what is added before rounding down, see native/rounding.hpp
        return {"fraction": fraction * rest, "power": np.where(rest < 1, (1 + rest) / 2, 0.5)}
    return {"fraction": fraction, "power": rest}


def _mode(checkpoint: Int8Checkpoint, layer: Layer, added: Layer | None, to_float: bool) -> Mode:
    """How the layer's sums are rounded; ONCE may still turn out to be saturating."""
    once = checkpoint.rounding == "nearest"
    if to_float:
        return Mode.ONCE_TO_FLOAT if once else Mode.TWICE_TO_FLOAT
    if once:
        return Mode.ONCE
    out = checkpoint.activations[layer.name]
    never_negative = added is None and code_limits(out, layer.activation) == (0, 255)
    largest = tensor_scale(checkpoint, layer.sources[0]) * checkpoint.layers[layer.name].scale.max()
    if never_negative and layer.activation != "linear" and largest < out.scale:
        return Mode.TWICE_NON_NEGATIVE
    return Mode.TWICE


def _largest(weight: Array, bias: Array, factors: dict[str, Array]) -> float:
    """No less than the largest result before limits, in steps of the output, that any input can
    give.
    """
    if "factor" not in factors:
        return np.inf
    factor = factors["factor"].astype(np.float64)
    sums = np.abs(bias) + 255.0 * 255 * weight[0].size
    if (sums * factor).max() >= FEW_STEPS:
        sums = np.abs(bias) + 255.0 * np.abs(rows(weight).astype(np.int64)).sum(axis=1)
    return float((sums * factor).max())


def _rounding(
    checkpoint: Int8Checkpoint, layer: Layer, added: Layer | None, mode: Mode, largest: float
) -> _native.Rounding:
    out = _output(checkpoint, layer, added)
    rounding = _native.Rounding()
    if layer.kernel > 1 and layer.sources[0] != IMAGE:
        rounding.input_zero = zero_points(checkpoint, layer.sources[0])[0]
    rounding.mode = mode
    if out is None:  # logits that stay floats
        rounding.low, rounding.high = -np.inf, np.inf
        return rounding
    rounding.zero = out.zero_point
    rounding.low, rounding.high = code_limits(out, layer.activation)
    bounds = rounding.low + out.zero_point, rounding.high + out.zero_point
    if rounding.mode == Mode.ONCE and added is None and largest < FEW_STEPS and bounds == (0, 255):
        rounding.mode = Mode.ONCE_SATURATING
    if rounding.mode == Mode.TWICE_TO_FLOAT:
        rounding.float_scale = out.scale
    if added is None:
        return rounding
    shortcut = added.sources[0]
    rounding.shortcut_zero = zero_points(checkpoint, shortcut)[0]
    scale, total = tensor_scale(checkpoint, shortcut), checkpoint.activations[added.name]
    if checkpoint.rounding == "nearest":
        rounding.shortcut_factor = scale / out.scale
        return rounding
    rounding.product_low, rounding.product_high = rounding.low, rounding.high
    rounding.zero = total.zero_point
    rounding.low, rounding.high = code_limits(total, "linear")
    largest = 2 * max(scale, out.scale)
    rounding.product = _twice(out.scale / largest)
    rounding.shortcut = _twice(scale / largest)
    rounding.total = _twice(largest / (total.scale * 2**ADD_BITS))
    return rounding


def _twice(factor: float) -> _native.Twice:
    fixed, power = fixed_point(factor)
    left = max(int(power), 0)
    return _native.Twice(int(fixed) / 2**31 * 2.0**left, 2.0 ** (int(power) - left))


def _output(checkpoint: Int8Checkpoint, layer: Layer, added: Layer | None) -> Activation | None:
    """How the result is stored, before a sum that is rounded on its own; None for logits in
    float32.
    """
    if added is not None and checkpoint.rounding == "nearest":
        return checkpoint.activations[added.name]
    return checkpoint.activations.get(layer.name)


def _signed_bytes(weight: Array) -> list[NDArray[np.int8]]:
    """The fewest arrays of signed bytes whose sum is `weight`: one, unless it is stored unsigned."""
    parts: list[NDArray[np.int8]] = []
    while not parts or weight.any():
        parts.append(np.clip(weight, -128, 127).astype(np.int8))
        weight = weight - parts[-1]
    return parts


def _matrix(weight: Array, layer: Layer, middle: int) -> tuple[NDArray[np.int8], int, int]:
    """Rows for a matrix: of each kernel row its pixels as one run of a multiple of 4, filled with
    zeros. Where a weight is beyond a signed byte, all of them are less `middle`.

    Returns:
        The rows; `middle`, or 0 where no weight is beyond a byte; and how many weights the last four
        of a run have, 0 for all four.
    """
    if weight.min() >= -128 and weight.max() <= 127:
        middle = 0
    runs = weight.reshape(len(weight), layer.kernel, -1)
    if middle:
        runs = runs - np.int16(middle)
    filled_up = rows(filled(runs, axis=2, unit=4))
    return np.ascontiguousarray(filled_up, np.int8), middle, runs.shape[2] % 4


def _taps(parts: list[NDArray[np.int8]]) -> NDArray[np.int8]:
    """Depthwise taps as (blocks, parts, rows, BLOCK, columns + a zero)."""
    stacked = np.stack([part[:, 0] for part in parts], axis=1)  # (C, parts, rows, columns)
    taps = filled(stacked, axis=3, unit=4)
    blocks = taps.reshape(-1, _native.BLOCK, *taps.shape[1:]).transpose(0, 2, 3, 1, 4)
    return np.ascontiguousarray(rows(blocks))
