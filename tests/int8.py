"""int8 models with random weights, and TensorFlow Lite files of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mobilenetv2.checkpoint import Checkpoint
from mobilenetv2.folding import fold, unfolded
from mobilenetv2.graph import layers
from mobilenetv2.int8 import (
    Activation,
    Int8Checkpoint,
    Int8Layer,
    stored_tensors,
)
from mobilenetv2.layer import Layer
from mobilenetv2.runtime import Reference

from .conftest import random_checkpoint
from .writers import INT32, TFLiteWriter

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


class Int8TFLiteWriter(TFLiteWriter):
    """The graph of `TFLiteWriter` for an int8 model: its tensors are int8, or uint8 if its weights
    are.
    """

    def __init__(self, model: Int8Checkpoint, **options: object) -> None:
        steps = {step.name: step for step in layers(model.architecture)}
        arrays: dict[str, np.ndarray] = {}  # the stored weights as floats
        for name, layer in model.layers.items():
            arrays |= unfolded(steps[name], layer.weight, np.zeros(len(layer.bias)))
        super().__init__(Checkpoint(model.architecture, arrays), **options)
        unsigned = model.layers["features.0.0"].weight.dtype == np.uint8
        self.kind, self.lowest = (UINT8, 0) if unsigned else (INT8, -128)
        stored = {"image": Activation(model.image_scale, model.image_zero_points[0])}
        stored |= model.activations
        made = {index: name for name, index in self.made.items()}
        for operator in self.operators("PAD") + self.operators("RESHAPE"):
            made[operator.outputs[0]] = made[operator.inputs[0]]
        for index, name in made.items():
            self.quantize(index, [stored[name].scale], stored[name].zero_point + self.lowest)
        for operator in self.operators("QUANTIZE"):  # to the scale of the concatenation behind it
            out = stored["head.concat"]
            self.quantize(operator.outputs[0], [out.scale], out.zero_point + self.lowest)
        for operator in self.operators("SOFTMAX"):
            self.quantize(operator.outputs[0], [1 / 256], self.lowest)
        for index, tensor in enumerate(self.graph.tensors):
            name, _, what = tensor.name.decode().rpartition("/")
            if name not in model.layers:
                continue
            layer, step = model.layers[name], steps[name]
            scale = layer.scale[:1] if unsigned else layer.scale
            buffer = self.model.buffers[tensor.buffer]
            if what == "w":
                floats = np.frombuffer(buffer.data.tobytes(), np.float32)
                values = np.rint(floats).astype(layer.weight.dtype)
                self.quantize(index, scale, layer.zero_point, 3 if step.kind == "depthwise" else 0)
            else:
                values = layer.bias
                self.quantize(index, np.float32(stored[step.sources[0]].scale) * scale, 0)
                tensor.type = INT32
            buffer.data = np.frombuffer(values.tobytes(), np.uint8)

    def joined(self, layer: Layer, sources: list[int]) -> list[int]:
        """A QUANTIZE for each source, as TensorFlow Lite wants one scale."""
        options = self.schema.QuantizeOptionsT
        return [
            self.op("QUANTIZE", [index], tuple(self.graph.tensors[index].shape), options())
            for index in sources
        ]

    def quantize(self, index: int, scale: Sequence[float], zero: int, axis: int = 0) -> None:
        tensor, made = self.graph.tensors[index], self.schema.QuantizationParametersT()
        made.scale, made.zeroPoint = [float(s) for s in scale], [zero] * len(scale)
        made.quantizedDimension = axis
        tensor.type, tensor.quantization = self.kind, made
