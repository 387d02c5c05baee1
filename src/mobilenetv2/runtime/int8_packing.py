"""Hands an int8 checkpoint's weights to the extension, and what it takes to round their sums."""

from __future__ import annotations

import math
from itertools import chain
from typing import Any

from ..graph import network as described_network
from ..int8 import Activation, Int8Checkpoint, float_results
from ..int8_layers import int8_values, weight_zero_point
from ..layer import IMAGE, Layer
from . import _native
from ._native import BLOCK
from .int8_scales import (
    ADD_BITS,
    code_limits,
    fixed_point,
    halves_from,
    mean_fixed_point,
    tensor_scale,
    zero_points,
)
from .packing import Weights, filled_shape, matrix_weights, too_large, weighted_layers
from .steps import Steps

Mode = _native.RoundingMode
FEW_STEPS = 1 << 30  # results are within 32 bits


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
        added = sums.get(layer.name)
        outputs, inputs = filled_shape(layer, steps)
        kernel = _kernel(checkpoint, layer)
        unsigned, to_float = kernel[0].format == "B", layer.name in results
        mode, factors = _factors(checkpoint, layer, added, unsigned, to_float, outputs)
        bias = memoryview(bytearray(4 * outputs)).cast("i")
        least, greatest, largest = _native.int8_bias(
            *kernel,
            int8_values(checkpoint.layers, layer.name, "bias"),
            list(zero_points(checkpoint, layer.sources[0])),
            factors.get("factor"),
            bias,
        )
        rounding = _rounding(checkpoint, layer, added, mode, largest)
        within_bytes = least >= -128 and greatest <= 127
        if layer.kind == "depthwise":
            parts = 1 if within_bytes else max(-(-greatest // 127), -(least // 128))
            taps = _bytes(outputs // BLOCK, parts * layer.kernel * BLOCK * up_to_four(layer.kernel))
            _native.int8_taps(*kernel, parts, taps)
            handles[layer.name] = network.add_depthwise(
                taps, bias, parts, rounding=rounding, **factors
            )
            continue
        run = layer.kernel * inputs
        matrix = _bytes(outputs, layer.kernel * up_to_four(run))
        middle = 0 if within_bytes else 128 - kernel[1]
        _native.int8_matrix(*kernel, middle, inputs, matrix)
        handles[layer.name] = network.add_matrix(
            matrix, bias, middle, run % 4, rounding=rounding, **factors
        )
    network.set_pixel_padding([float(zero) for zero in checkpoint.image_zero_points])
    first = next(iter(handles.values()))
    return Weights(handles, first, network.panel_channels, 1)


def up_to_four(count: int) -> int:
    """The next multiple of 4."""
    return -(-count // 4) * 4


def _bytes(rows: int, columns: int) -> memoryview:
    return memoryview(bytearray(rows * columns)).cast("b", (rows, columns))


def _kernel(
    checkpoint: Int8Checkpoint, layer: Layer
) -> tuple[memoryview, int, tuple[int, int, int]]:
    """Its values, their zero point and its shape (outputs, inputs, size)."""
    values = int8_values(checkpoint.layers, layer.name, "weight")
    zero = weight_zero_point(checkpoint.layers, layer.name)
    return values, zero, (layer.weight_shape[0], layer.weight_shape[1], layer.kernel)


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
        from .rounding import rescaling

        tables = [rescaling(checkpoint, source, layer.name).tolist() for source in layer.sources]
        step.rescaling = list(chain.from_iterable(tables))
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
    checkpoint: Int8Checkpoint,
    layer: Layer,
    added: Layer | None,
    unsigned: bool,
    to_float: bool,
    outputs: int,
) -> tuple[Mode, dict[str, memoryview[Any]]]:
    """What turns a sum of each output channel into steps of the output, and how sums are rounded;
    ONCE may still turn out to be saturating.

    Args:
        checkpoint: The model.
        layer: Whose sums they are.
        added: The sum with a shortcut that the layer's result goes into.
        unsigned: Whether its weights are.
        to_float: Whether its results are float32.
        outputs: Channels with those that are not there.

    Raises:
        ModelFileError: They are too large for float32.
    """
    out, once = _output(checkpoint, layer, added), checkpoint.rounding == "nearest"
    scales = int8_values(checkpoint.layers, layer.name, "scale")
    # TensorFlow Lite multiplies those of unsigned weights in float32
    in_float = unsigned and not once
    scale = tensor_scale(checkpoint, layer.sources[0]), in_float, out.scale if out else 0.0
    if once:
        factor = memoryview(bytearray(4 * outputs)).cast("f")
        form = _native.int8_factors(scales, *scale, False, [], factor)
        mode, factors = Mode.ONCE_TO_FLOAT if to_float else Mode.ONCE, {"factor": factor}
    else:
        fraction, power = (memoryview(bytearray(8 * outputs)).cast("d") for _ in range(2))
        limits = code_limits(checkpoint.activations[layer.name], layer.activation)
        never_negative = added is None and limits == (0, 255) and layer.activation != "linear"
        may_collapse = never_negative and not to_float
        form = _native.int8_factors(scales, *scale, may_collapse, [fraction, power])
        mode = Mode.TWICE_TO_FLOAT if to_float else Mode.TWICE
        factors = {"fraction": fraction, "power": power}
    if form == _native.FactorForm.TOO_LARGE:
        raise too_large(layer)
    collapsed = form == _native.FactorForm.COLLAPSED
    return (Mode.TWICE_NON_NEGATIVE if collapsed else mode), factors


def _rounding(
    checkpoint: Int8Checkpoint, layer: Layer, added: Layer | None, mode: Mode, largest: float
) -> _native.Rounding:
    out = _output(checkpoint, layer, added)
    rounding = _native.Rounding()
    if layer.kernel > 1 and layer.sources[0] != IMAGE:
        rounding.input_zero = zero_points(checkpoint, layer.sources[0])[0]
    rounding.mode = mode
    if out is None:  # logits that stay floats
        rounding.low, rounding.high = -math.inf, math.inf
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
    left = max(power, 0)
    return _native.Twice(fixed / 2**31 * 2.0**left, 2.0 ** (power - left))


def _output(checkpoint: Int8Checkpoint, layer: Layer, added: Layer | None) -> Activation | None:
    """How the result is stored, before a sum that is rounded on its own; None for logits in
    float32.
    """
    if added is not None and checkpoint.rounding == "nearest":
        return checkpoint.activations[added.name]
    return checkpoint.activations.get(layer.name)
