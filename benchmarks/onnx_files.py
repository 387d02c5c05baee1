"""Writes a network as ONNX in NCHW: in float32, or a classifier in int8 between quantising operators."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from peer_arrays import activations, folded

from mobilenetv2.architecture import Architecture
from mobilenetv2.checkpoint import Checkpoint
from mobilenetv2.graph import layers, network
from mobilenetv2.int8 import Activation, Int8Checkpoint
from mobilenetv2.layer import Layer

OPSET, IR_VERSION = 17, 8
# the nodes of an int8 file for layers that are not convolutions
NODES = {"add": "Add", "pool": "GlobalAveragePool", "linear": "Gemm"}


class OnnxGraph:
    """A graph under construction: its nodes and its constants."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Adds a node and returns the name of its output."""
        from onnx import helper

        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def constant(self, name: str, values: Any) -> str:
        """Adds a constant and returns its name."""
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def convolution(self, layer: Layer, inputs: list[str], output: str) -> None:
        """Adds a Conv node with the options of the layer."""
        top, bottom, left, right = layer.padding
        self.node(
            "Conv", inputs, output, kernel_shape=[layer.kernel] * 2, strides=[layer.stride] * 2,
            pads=[top, left, bottom, right], dilations=[layer.dilation] * 2, group=layer.groups,
        )  # fmt: skip

    def save(
        self, path: Path, architecture: Architecture, batch: int | None, input_type: str
    ) -> None:
        """Writes the file.

        Args:
            path: The file.
            architecture: The network whose layers the graph has.
            batch: Images per call; None leaves it open.
            input_type: Type of the input: "FLOAT" or "UINT8".
        """
        from onnx import TensorProto, helper, save

        net = network(architecture)
        count = "N" if batch is None else batch
        image_shape = [count, 3, *architecture.resolution]
        image_type = getattr(TensorProto, input_type)
        shapes = {
            name: [count, *net[name].out_shape[: 1 if net[name].kind == "linear" else 3]]
            for name in net.outputs
        }
        graph = helper.make_graph(
            self.nodes,
            "mobilenetv2",
            [helper.make_tensor_value_info("image", image_type, image_shape)],
            [
                helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
                for name, shape in shapes.items()
            ],
            self.constants,
        )
        opset = helper.make_opsetid("", OPSET)
        save(helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION), path)


def write_onnx(checkpoint: Checkpoint, path: Path, batch: int | None = 1) -> None:
    """Writes ONNX in float32, with Conv and Clip, which ONNX Runtime and OpenVINO fuse."""
    graph = OnnxGraph()
    limits = [graph.constant("low", np.float32(0)), graph.constant("high", np.float32(6))]
    for layer in layers(checkpoint.architecture):
        inputs = list(layer.sources)
        if layer.weight:
            weight, bias = folded(checkpoint, layer)
            inputs.append(graph.constant(layer.weight, weight))
            inputs.append(graph.constant(f"{layer.name}.b", bias))
        if layer.kind == "add":
            graph.node("Add", inputs, layer.name)
        elif layer.name == "pool":
            graph.node("Flatten", [graph.node("GlobalAveragePool", inputs, "pooled")], layer.name)
        elif layer.kind == "pool":
            graph.node("GlobalAveragePool", inputs, layer.name)
        elif layer.kind == "concat":
            graph.node("Concat", inputs, layer.name, axis=1)
        elif layer.kind == "resize":
            sizes = graph.constant(f"{layer.name}.size", np.array([1, *layer.out_shape]))
            graph.node(
                "Resize", [*inputs, "", "", sizes], layer.name, mode="linear",
                coordinate_transformation_mode="align_corners",
            )  # fmt: skip
        elif layer.kind == "linear":
            graph.node("Gemm", inputs, layer.name, transB=1)
        elif layer.activation == "relu":
            graph.convolution(layer, inputs, f"{layer.name}.c")
            graph.node("Relu", [f"{layer.name}.c"], layer.name)
        elif layer.activation == "relu6":
            graph.convolution(layer, inputs, f"{layer.name}.c")
            graph.node("Clip", [f"{layer.name}.c", *limits], layer.name)
        else:
            graph.convolution(layer, inputs, layer.name)
    graph.save(path, checkpoint.architecture, batch, "FLOAT")


def write_qdq(checkpoint: Int8Checkpoint, path: Path, batch: int | None = 1) -> None:
    """Writes ONNX in int8, from uint8 pixels to float32 logits.

    Conv, Add, GlobalAveragePool and Gemm stand between DequantizeLinear and QuantizeLinear, which
    ONNX Runtime and OpenVINO fuse.

    Raises:
        SystemExit: The output of a ReLU6 is stored with another range than 0 to 6.
    """
    stored = activations(checkpoint)
    graph = OnnxGraph()

    def dequantized(values: NDArray[Any], name: str, scale: NDArray[Any], axis: int = 0) -> str:
        inputs = [graph.constant(name, values), graph.constant(f"{name}.scale", np.float32(scale))]
        inputs.append(graph.constant(f"{name}.zero", np.zeros(len(scale), values.dtype)))
        return graph.node("DequantizeLinear", inputs, f"{name}.real", axis=axis)

    def weight_and_bias(layer: Layer) -> list[str]:
        quantized = checkpoint.layers[layer.name]
        linear = layer.kind == "linear"
        weight = np.ascontiguousarray(quantized.weight.T) if linear else quantized.weight
        bias_scale = np.float64(stored[layer.sources[0]].scale) * quantized.scale
        return [
            dequantized(weight, f"{layer.name}.weight", quantized.scale, axis=int(linear)),
            dequantized(quantized.bias, f"{layer.name}.bias", bias_scale),
        ]

    def scale_and_zero(name: str) -> list[str]:
        scale = graph.constant(f"{name}.scale", np.float32(stored[name].scale))
        return [scale, graph.constant(f"{name}.zero", np.uint8(stored[name].zero_point))]

    graph.node("DequantizeLinear", ["image", *scale_and_zero("image")], "image.real")
    network = layers(checkpoint.architecture)
    for layer in network:
        is_last = layer is network[-1]
        inputs = [f"{source}.real" for source in layer.sources]
        if layer.weight:
            inputs += weight_and_bias(layer)
        output = layer.name if is_last else f"{layer.name}.sum"
        if layer.kind in NODES:
            graph.node(NODES[layer.kind], inputs, output)
        else:
            check_relu6(layer, stored[layer.name])
            graph.convolution(layer, inputs, output)
        if is_last:
            break
        quantization = scale_and_zero(layer.name)
        if layer.kind == "pool":
            pooled = graph.node("QuantizeLinear", [output, *quantization], "pooled")
            graph.node("Flatten", [pooled], layer.name)
        else:
            graph.node("QuantizeLinear", [output, *quantization], layer.name)
        graph.node("DequantizeLinear", [layer.name, *quantization], f"{layer.name}.real")
    graph.save(path, checkpoint.architecture, batch, "UINT8")


def check_relu6(layer: Layer, stored: Activation) -> None:
    """Raises SystemExit if storing the output of a ReLU6 does not clip it at 0 and 6."""
    if layer.activation == "relu6" and (stored.zero_point, round(6 / stored.scale)) != (0, 255):
        raise SystemExit(f"{layer.name}: {stored} does not clip as ReLU6 does")
