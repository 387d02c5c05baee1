"""Writes a classifier as TensorFlow Lite in NHWC: in float32 or in int8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from peer_arrays import activations, folded

from mobilenetv2.checkpoint import Checkpoint
from mobilenetv2.graph import layers
from mobilenetv2.int8 import AnyCheckpoint, Int8Checkpoint
from mobilenetv2.layer import Layer

# how the axes of a kernel are ordered, and which of them is the output's
KERNEL_AXES = {
    "conv": ((0, 2, 3, 1), 0),  # (out, in, k, k) -> (out, k, k, in)
    "depthwise": ((1, 2, 3, 0), 3),  # (out, 1, k, k) -> (1, k, k, out)
    "linear": ((0, 1), 0),
}


class TFLiteGraph:
    """A model with one graph under construction. Tensors are known by their index."""

    def __init__(self) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self.schema = schema
        self.model, self.graph = schema.ModelT(), schema.SubGraphT()
        self.model.version, self.model.subgraphs = 3, [self.graph]
        # the first buffer is empty: that of all tensors without constant values
        self.model.buffers, self.model.operatorCodes = [schema.BufferT()], []
        self.graph.tensors, self.graph.operators = [], []

    def tensor(self, shape: tuple[int, ...], kind: str = "float32", **quantization: Any) -> int:
        """Adds a tensor; `quantization` has fields of the format's QuantizationParameters."""
        entry = self.schema.TensorT()
        entry.shape, entry.type = list(shape), getattr(self.schema.TensorType, kind.upper())
        if quantization:
            entry.quantization = self.schema.QuantizationParametersT()
            vars(entry.quantization).update(quantization)
        self.graph.tensors.append(entry)
        return len(self.graph.tensors) - 1

    def constant(
        self, values: NDArray[Any], scale: NDArray[Any] | None = None, axis: int = 0
    ) -> int:
        """Adds a tensor with values; `scale` has one entry per index of the axis."""
        quantization: dict[str, Any] = {}
        if scale is not None:
            zeros = np.zeros(len(scale), np.int64)
            scale = scale.astype(np.float32)
            quantization = {"scale": scale, "zeroPoint": zeros, "quantizedDimension": axis}
        index = self.tensor(values.shape, values.dtype.name, **quantization)
        self.graph.tensors[index].buffer = len(self.model.buffers)
        self.model.buffers.append(self.schema.BufferT())
        self.model.buffers[-1].data = np.frombuffer(values.tobytes(), np.uint8)
        return index

    def operator(self, name: str, inputs: list[int], output: int, options: Any) -> int:
        """Adds an operator with its options and returns its output."""
        entry, code = self.schema.OperatorT(), self.schema.OperatorCodeT()
        code.builtinCode = getattr(self.schema.BuiltinOperator, name)
        code.deprecatedBuiltinCode = code.builtinCode
        entry.opcodeIndex, entry.inputs = len(self.model.operatorCodes), inputs
        entry.outputs, entry.builtinOptions = [output], options
        kind = type(options).__name__.removesuffix("T")
        entry.builtinOptionsType = getattr(self.schema.BuiltinOptions, kind)
        self.model.operatorCodes.append(code)
        self.graph.operators.append(entry)
        return output

    def layer(self, layer: Layer, inputs: list[int], output: int) -> None:
        """Adds the operator of a layer; `inputs` hold its kernel and bias where it has them."""
        schema = self.schema
        if layer.kind == "add":
            self.operator("ADD", inputs, output, schema.AddOptionsT())
        elif layer.kind == "pool":
            axes = self.constant(np.array([1, 2], np.int32))
            self.operator("MEAN", [*inputs, axes], output, schema.ReducerOptionsT())
        elif layer.kind == "linear":
            self.operator("FULLY_CONNECTED", inputs, output, schema.FullyConnectedOptionsT())
        else:
            depthwise = layer.kind == "depthwise"
            options = schema.DepthwiseConv2DOptionsT() if depthwise else schema.Conv2DOptionsT()
            options.strideH = options.strideW = layer.stride
            options.dilationHFactor = options.dilationWFactor = layer.dilation
            options.padding = schema.Padding.SAME
            if layer.activation == "relu6":
                options.fusedActivationFunction = schema.ActivationFunctionType.RELU6
            if depthwise:
                options.depthMultiplier = 1
            self.operator("DEPTHWISE_CONV_2D" if depthwise else "CONV_2D", inputs, output, options)

    def save(self, path: Path, image: int, logits: int) -> None:
        """Writes the file of a graph from the tensor `image` to the tensor `logits`."""
        import flatbuffers

        self.graph.inputs, self.graph.outputs = [image], [logits]
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        path.write_bytes(bytes(builder.Output()))


def write_tflite(checkpoint: AnyCheckpoint, path: Path, batch: int | None = 1) -> None:
    """Writes TensorFlow Lite with ReLU6 fused, for networks with TensorFlow's padding.

    In an int8 model everything is int8, from the image (pixels less 128) to the logits, which a last
    operator converts to float32.
    """
    assert checkpoint.architecture.padding == "same", "the format has the padding SAME only"
    stored = activations(checkpoint) if isinstance(checkpoint, Int8Checkpoint) else {}
    graph = TFLiteGraph()

    def activation(name: str, shape: tuple[int, ...]) -> int:
        if not stored:
            return graph.tensor(shape)
        scale = np.array([np.float32(stored[name].scale)])
        zero = np.array([stored[name].zero_point - 128])
        return graph.tensor(shape, "int8", scale=scale, zeroPoint=zero)

    def kernel_and_bias(layer: Layer) -> list[int]:
        axes, axis = KERNEL_AXES[layer.kind]
        if isinstance(checkpoint, Checkpoint):
            weight, bias = folded(checkpoint, layer)
            return [graph.constant(weight.transpose(axes)), graph.constant(bias)]
        quantized = checkpoint.layers[layer.name]
        bias_scale = stored[layer.sources[0]].scale * quantized.scale.astype(np.float64)
        return [
            graph.constant(quantized.weight.transpose(axes), quantized.scale, axis),
            graph.constant(quantized.bias, bias_scale),
        ]

    image = activation("image", (batch or 1, *checkpoint.architecture.resolution, 3))
    tensors = {"image": image}
    for layer in layers(checkpoint.architecture):
        channels, height, width = layer.out_shape
        shape: tuple[int, ...] = (batch or 1, height, width, channels)
        if layer.kind in ("pool", "linear"):
            shape = (batch or 1, channels)
        output = activation(layer.name, shape)
        inputs = [tensors[source] for source in layer.sources]
        if layer.weight:
            inputs += kernel_and_bias(layer)
        graph.layer(layer, inputs, output)
        tensors[layer.name] = output
    if stored:
        options = graph.schema.DequantizeOptionsT()
        output = graph.operator("DEQUANTIZE", [output], graph.tensor(shape), options)
    graph.save(path, image, output)
