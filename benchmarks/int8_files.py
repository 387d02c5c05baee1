"""An int8 classifier as the peers need it, and its ONNX file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilenetv2.checkpoint import Checkpoint
from mobilenetv2.graph import layers
from mobilenetv2.int8 import Activation, Int8Checkpoint, stored_tensors
from mobilenetv2.runtime import Reference
from mobilenetv2.runtime.quantize import best_activation

ONNX_OPSET, ONNX_IR = 17, 8


def with_all_stored(
    quantized: Int8Checkpoint, checkpoint: Checkpoint, pixels: NDArray[np.uint8]
) -> Int8Checkpoint:
    """The same int8 weights, with a scale for every tensor.

    Peers also store projections before a sum, and some of them store the logits.

    Args:
        quantized: An int8 classifier.
        checkpoint: The float classifier that it was made from.
        pixels: The images that the new ranges are taken from, (N, H, W, 3).
    """
    names = set(stored_tensors(quantized.architecture, "twice")) - quantized.activations.keys()
    values = Reference(checkpoint).run(pixels, names)
    stored = dict(quantized.activations)
    stored |= {name: best_activation(values[name].ravel()) for name in sorted(names)}
    # the files of the peers hold scales as float32
    rounded = {name: replace(a, scale=float(np.float32(a.scale))) for name, a in stored.items()}
    image_scale = float(np.float32(quantized.image_scale))
    return replace(quantized, rounding="twice", image_scale=image_scale, activations=rounded)


def activations(checkpoint: Int8Checkpoint) -> Mapping[str, Activation]:
    """How each tensor is stored, by name; "image" is the network's input.

    Raises:
        SystemExit: Peers cannot run the model: a tensor is not stored, or the channels of the image
            have different zero points.
    """
    if checkpoint.rounding != "twice":
        raise SystemExit("peers need a model whose sums are all rounded, as TensorFlow Lite's are")
    zeros = set(checkpoint.image_zero_points)
    if len(zeros) > 1:
        raise SystemExit(f"peers have one zero point per tensor, not {sorted(zeros)} for the image")
    return {"image": Activation(checkpoint.image_scale, *zeros), **checkpoint.activations}


def write_qdq(checkpoint: Int8Checkpoint, path: Path, batch: int | None = 1) -> None:
    """Writes ONNX in NCHW, from uint8 pixels to float32 logits.

    Conv, Add, GlobalAveragePool and Gemm stand between DequantizeLinear and QuantizeLinear, which
    ONNX Runtime and OpenVINO fuse.

    Raises:
        SystemExit: The output of a ReLU6 is stored with another range than 0 to 6.
    """
    from onnx import TensorProto, helper, numpy_helper, save

    stored = activations(checkpoint)
    nodes, constants = [], []

    def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def constant(name: str, values: Any) -> str:
        constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def quantization(name: str) -> list[str]:
        scale = constant(f"{name}.scale", np.float32(stored[name].scale))
        return [name, scale, constant(f"{name}.zero", np.uint8(stored[name].zero_point))]

    def dequantized(values: NDArray[Any], name: str, scale: NDArray[Any], axis: int = 0) -> str:
        inputs = [constant(name, values), constant(f"{name}.scale", np.float32(scale))]
        inputs.append(constant(f"{name}.zero", np.zeros(len(scale), values.dtype)))
        return node("DequantizeLinear", inputs, f"{name}.real", axis=axis)

    node("DequantizeLinear", quantization("image"), "image.real")
    network = layers(checkpoint.architecture)
    for layer in network:
        inputs = [f"{source}.real" for source in layer.sources]
        output = layer.name if layer is network[-1] else f"{layer.name}.sum"
        if layer.weight:
            quantized = checkpoint.layers[layer.name]
            linear = layer.kind == "linear"
            weight = np.ascontiguousarray(quantized.weight.T) if linear else quantized.weight
            inputs.append(dequantized(weight, layer.weight, quantized.scale, axis=int(linear)))
            bias_scale = np.float64(stored[layer.sources[0]].scale) * quantized.scale
            inputs.append(dequantized(quantized.bias, f"{layer.name}.bias", bias_scale))
        if layer.kind == "add":
            node("Add", inputs, output)
        elif layer.kind == "pool":
            node("GlobalAveragePool", inputs, output)
        elif layer.kind == "linear":
            node("Gemm", inputs, output)
        else:
            top, bottom, left, right = layer.padding
            node(
                "Conv", inputs, output, kernel_shape=[layer.kernel] * 2, strides=[layer.stride] * 2,
                pads=[top, left, bottom, right], dilations=[layer.dilation] * 2, group=layer.groups,
            )  # fmt: skip
            out = stored[layer.name]
            if layer.activation == "relu6" and (out.zero_point, round(6 / out.scale)) != (0, 255):
                raise SystemExit(f"{layer.name}: {out} does not clip as ReLU6 does")
        if layer is not network[-1]:
            inputs = quantization(layer.name)
            if layer.kind == "pool":
                node(
                    "Flatten", [node("QuantizeLinear", [output, *inputs[1:]], "pooled")], layer.name
                )
            else:
                node("QuantizeLinear", [output, *inputs[1:]], layer.name)
            node("DequantizeLinear", inputs, f"{layer.name}.real")
    count = "N" if batch is None else batch
    image = [count, 3, *checkpoint.architecture.resolution]
    graph = helper.make_graph(
        nodes,
        "mobilenetv2",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, image)],
        [helper.make_tensor_value_info(layer.name, TensorProto.FLOAT, [count, layer.out_shape[0]])],
        constants,
    )
    opset = helper.make_opsetid("", ONNX_OPSET)
    save(helper.make_model(graph, opset_imports=[opset], ir_version=ONNX_IR), path)
