"""Reads a quantised TensorFlow Lite file as an int8 model, to the same arithmetic.

Activations of type int8 become uint8: every value and the zero point grow by 128. Weights stay as
they are stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ..checkpoint import Checkpoint
from ..errors import ModelFileError
from ..graph import layers
from ..int8 import Activation, Int8Checkpoint
from ..int8_layers import Int8Layer
from ..layer import Layer
from .tflite_graph import Graph, Op, Tensor

EIGHT_BIT = (np.int8, np.uint8)
PIXEL_SCALE = 2 / 255  # of float images, -1..1


def is_quantized(graph: Graph, ops: Mapping[str, Op]) -> bool:
    """Whether all layers compute in int8 or uint8, instead of only storing their weights so."""
    return all(graph.tensors[op.outputs[0]].dtype in EIGHT_BIT for op in ops.values())


def quantized(
    graph: Graph, ops: Mapping[str, Op], made: Mapping[int, str], checkpoint: Checkpoint
) -> Int8Checkpoint:
    """The int8 checkpoint of a file.

    Args:
        graph: The file.
        ops: The operator of each layer.
        made: The name of the layer that makes each tensor; "image" for the input.
        checkpoint: The same file read as float32.

    Raises:
        ModelFileError: A tensor is quantised in a way that is not supported; the message names it.
    """
    steps = layers(checkpoint.architecture)
    stored = {name: _activation(graph.tensors[op.outputs[0]]) for name, op in ops.items()}
    stored["image"] = image = _image(graph, ops[steps[0].name])
    for reader, op in ops.items():
        # a QUANTIZE may bring what is concatenated to the scale of the result
        expected = stored[reader] if op.code == "CONCATENATION" else None
        for index in op.inputs:
            name = made.get(index, "")
            if name and _activation(graph.tensors[index]) != (expected or stored[name]):
                raise ModelFileError(f"the output of {name} is requantised before it is read")
    weighted = {
        step.name: _layer(graph, ops[step.name], step, stored[step.sources[0]])
        for step in steps
        if step.weight
    }
    pooling = _pooling(ops, steps, stored)
    del stored["image"]
    return Int8Checkpoint(
        checkpoint.architecture,
        weighted,
        image.scale,
        (image.zero_point,) * checkpoint.architecture.in_channels,
        stored,
        "twice",
        pooling,
        checkpoint.labels,
        checkpoint.preprocessing,
        checkpoint.provenance,
        checkpoint.notes,
        any(graph.tensors[op.outputs[0]].dtype == np.int8 for op in ops.values()),
    )


def _pooling(
    ops: Mapping[str, Op], steps: Sequence[Layer], stored: Mapping[str, Activation]
) -> str:
    """Which of TensorFlow Lite's two averages the file has: AVERAGE_POOL_2D keeps the scale of what
    it reads, MEAN rescales even to the same one, which gives other values.
    """
    for step in steps:
        if step.kind == "pool" and ops[step.name].code == "AVERAGE_POOL_2D":
            if stored[step.name] != stored[step.sources[0]]:
                raise ModelFileError("its AVERAGE_POOL_2D changes the scale")
            return "average"
    return "mean"


def _activation(tensor: Tensor) -> Activation:
    if tensor.dtype not in EIGHT_BIT or tensor.scale.size != 1:
        raise ModelFileError(f"the tensor {tensor.name!r} is not int8 or uint8 with one scale")
    return Activation(float(tensor.scale[0]), _uint8_zero_point(tensor))


def _uint8_zero_point(tensor: Tensor) -> int:
    """The zero point after the values of the tensor are turned into uint8."""
    return int(tensor.zero_point[0]) - int(np.iinfo(tensor.dtype).min)


def _image(graph: Graph, stem: Op) -> Activation:
    """How the image is stored; the stored values must be the pixels themselves."""
    tensor = graph.tensors[graph.inputs[0]]
    if tensor.dtype in EIGHT_BIT:
        return _activation(tensor)
    image = _activation(graph.tensors[stem.inputs[0]])
    if abs(image.scale / PIXEL_SCALE - 1) > 0.01 or image.zero_point not in (127, 128):
        raise ModelFileError(
            f"float images are stored with scale {image.scale:g} and zero point {image.zero_point}: "
            f"not pixels of -1..1 ({PIXEL_SCALE:g} and 127 or 128)"
        )
    return image


def _layer(graph: Graph, op: Op, layer: Layer, source: Activation) -> Int8Layer:
    tensor = graph.stored(op.inputs[1])
    count, axis = layer.out_shape[0], 3 if op.code == "DEPTHWISE_CONV_2D" else 0
    per_channel = tensor.scale.size == count and tensor.axis == axis
    if tensor.dtype not in EIGHT_BIT or not (per_channel or tensor.scale.size == 1):
        raise ModelFileError(
            f"the weights of {layer.name} are not int8 or uint8 with one scale, or one per output channel"
        )
    if len(set(tensor.zero_point.tolist())) != 1:
        raise ModelFileError(f"the weights of {layer.name} have several zero points")
    weight, zero = tensor.values(), int(tensor.zero_point[0])
    if zero and tensor.dtype == np.int8:
        weight, zero = (weight.astype(np.int16) + 128).astype(np.uint8), _uint8_zero_point(tensor)
    scale = np.broadcast_to(tensor.scale, count).astype(np.float32)
    return Int8Layer(
        np.ascontiguousarray(op.in_torch_axes(weight)).reshape(layer.weight_shape),
        scale,
        _bias(graph, op, layer, source.scale * scale.astype(np.float64)),
        zero,
    )


def _bias(graph: Graph, op: Op, layer: Layer, unit: NDArray[np.float64]) -> NDArray[np.int32]:
    """The bias, which must be in units of a sum of products: input scale times weight scale."""
    if len(op.inputs) < 3 or op.inputs[2] < 0:
        return np.zeros(len(unit), np.int32)
    tensor = graph.stored(op.inputs[2])
    if tensor.dtype != np.int32 or not np.allclose(tensor.scale, unit, rtol=1e-4, atol=0):
        raise ModelFileError(f"the bias of {layer.name} is not int32 in units of its sums")
    return tensor.values().astype(np.int32)
