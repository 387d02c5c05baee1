"""int8 models with random weights, and TensorFlow Lite files of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mobilenetv2.folding import fold
from mobilenetv2.graph import layers
from mobilenetv2.int8 import (
    Activation,
    Int8Checkpoint,
    Int8Layer,
    stored_tensors,
)
from mobilenetv2.runtime import Reference
from mobilenetv2.writers import WriteOptions
from mobilenetv2.writers.tflite_graph import Graph
from mobilenetv2.writers.tflite_int8 import (
    Int8Layers,
    image_activation,
    quantization_of,
    stored_type,
)
from mobilenetv2.writers.tflite_layers import Layers

from .conftest import random_checkpoint
from .writers import Converted, TFLiteWriter

UINT8, INT8 = 3, 9  # TensorFlow Lite's numbers


def random_int8(
    rounding: str = "nearest", unsigned: bool = False, seed: int = 0, **changes: object
) -> Int8Checkpoint:
    """A random model with the activation ranges of one random image.

    Its weights are int8 with one scale per channel or, `unsigned`, uint8 with one scale and a zero
    point.
    """
    floats = random_checkpoint(seed=seed, **changes)
    steps = layers(floats.architecture)
    size = (1, *floats.architecture.resolution, floats.architecture.in_channels)
    image = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
    values = Reference(floats).run(image, [step.name for step in steps])
    made = {"image": Activation(float(np.float32(2 / 255)), 127)}
    for step in steps:
        made[step.name] = activation(values[step.name], step.activation)
        if step.kind == "resize" or (step.kind == "pool" and unsigned):
            made[step.name] = made[step.sources[0]]
    quantized = {}
    for step in steps:
        if step.weight:
            weight, bias = fold(floats, step)
            scale, zero, stored_weight = as_uint8(weight) if unsigned else as_int8(weight)
            unit = made[step.sources[0]].scale * scale.astype(np.float64)
            quantized[step.name] = Int8Layer(
                stored_weight, scale, np.rint(bias / unit).astype(np.int32), zero
            )
    stored = stored_tensors(floats.architecture, rounding)
    pools = any(step.kind == "pool" for step in steps)
    return Int8Checkpoint(
        floats.architecture,
        quantized,
        made["image"].scale,
        (127,) * floats.architecture.in_channels,
        {name: made[name] for name in stored},
        rounding,
        "average" if unsigned and rounding == "twice" and pools else "mean",
        preprocessing=floats.preprocessing,
        signed=rounding == "twice" and not unsigned,
    )


def activation(values: np.ndarray, kind: str = "linear") -> Activation:
    low, high = (0, 6) if kind == "relu6" else (min(0, values.min()), max(0.1, values.max()))
    scale = float(np.float32((high - low) / 255))
    return Activation(scale, int(np.rint(-low / scale)))


def as_int8(weight: np.ndarray) -> tuple[np.ndarray, int, np.ndarray]:
    per_channel = np.abs(weight.reshape(len(weight), -1)).max(axis=1) / 127
    scale = np.maximum(per_channel, 1e-6).astype(np.float32)
    shaped = scale.reshape(-1, *[1] * (weight.ndim - 1))
    return scale, 0, np.rint(weight / shaped).astype(np.int8)


def as_uint8(weight: np.ndarray) -> tuple[np.ndarray, int, np.ndarray]:
    scale = np.float32((max(weight.max(), 0) - min(weight.min(), 0)) / 255)
    zero = int(np.rint(-min(weight.min(), 0) / scale))
    stored = np.clip(np.rint(weight / scale) + zero, 0, 255).astype(np.uint8)
    return np.full(len(weight), scale), zero, stored


class Int8Converted(Converted, Int8Layers):
    """As `Converted`, of an int8 model."""


class Int8TFLiteWriter(TFLiteWriter):
    """The graph of `TFLiteWriter` for an int8 model: its tensors are int8, or uint8 if its weights
    are.
    """

    def __init__(self, model: Int8Checkpoint, **options: Any) -> None:
        unsigned = model.layers["features.0.0"].weight.dtype == np.uint8
        self.kind, self.lowest = (UINT8, 0) if unsigned else (INT8, -128)
        super().__init__(model, **options)
        for operator in self.operators("SOFTMAX"):
            self.quantize(operator.outputs[0], [1 / 256], self.lowest)

    def _layers(self, graph: Graph, options: WriteOptions, **choices: Any) -> Layers:
        model = self.checkpoint
        assert isinstance(model, Int8Checkpoint)
        shape, type_ = (1, *model.architecture.resolution, 3), stored_type(model)
        quantization = quantization_of(image_activation(model), type_)
        graph.inputs = [graph.tensor("image", shape, type_, quantization)]
        return Int8Converted(graph, model, graph.inputs[0], options, **choices)

    def quantize(self, index: int, scale: Sequence[float], zero: int, axis: int = 0) -> None:
        tensor, made = self.graph.tensors[index], self.schema.QuantizationParametersT()
        made.scale, made.zeroPoint = [float(s) for s in scale], [zero] * len(scale)
        made.quantizedDimension = axis
        tensor.type, tensor.quantization = self.kind, made
