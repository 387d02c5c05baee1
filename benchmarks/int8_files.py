"""What peers want of a quantised classifier, and how ONNX has it."""

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
    integers: Int8Checkpoint, checkpoint: Checkpoint, pixels: NDArray[np.uint8]
) -> Int8Checkpoint:
    """The same integers with a scale for each tensor: peers store projections before a sum, too, and
    some the logits.

    Args:
        integers: A quantised classifier.
        checkpoint: The floats that it was made of.
        pixels: What the ranges are taken from, (N, H, W, 3).
    """
    names = set(stored_tensors(integers.architecture, "twice")) - integers.activations.keys()
    found = Reference(checkpoint).run(pixels, names)
    stored = dict(integers.activations)
    stored |= {name: best_activation(found[name].ravel()) for name in sorted(names)}
    rounded = {name: replace(a, scale=float(np.float32(a.scale))) for name, a in stored.items()}
    image_scale = float(np.float32(integers.image_scale))
    return replace(integers, rounding="twice", image_scale=image_scale, activations=rounded)


def activations(checkpoint: Int8Checkpoint) -> Mapping[str, Activation]:
    """How each tensor is stored, the image's pixels among them.

    Raises:
        SystemExit: Not all are stored, or the image has several zero points: peers know neither.
    """
    if checkpoint.rounding != "twice":
        raise SystemExit("peers want a model whose sums are all rounded, as TensorFlow Lite's are")
    zeros = set(checkpoint.image_zero_points)
    if len(zeros) > 1:
        raise SystemExit(f"peers know one zero point a tensor, not {sorted(zeros)} of the image")
    return {"image": Activation(checkpoint.image_scale, *zeros), **checkpoint.activations}


def write_qdq(checkpoint: Int8Checkpoint, path: Path, batch: int | None = 1) -> None:
    """ONNX, NCHW: Conv, Add, GlobalAveragePool and Gemm between DequantizeLinear and QuantizeLinear, which
    ONNX Runtime and OpenVINO fuse. The image is uint8, the logits are float32.

    Raises:
        SystemExit: A ReLU6 that is not the range of its output.
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
        found = stored[name]
        scale = constant(f"{name}.scale", np.float32(found.scale))
        return [name, scale, constant(f"{name}.zero", np.uint8(found.zero_point))]

    def real(values: NDArray[Any], name: str, scale: NDArray[Any], axis: int = 0) -> str:
        inputs = [constant(name, values), constant(f"{name}.scale", np.float32(scale))]
        inputs.append(constant(f"{name}.zero", np.zeros(len(scale), values.dtype)))
        return node("DequantizeLinear", inputs, f"{name}.real", axis=axis)

    node("DequantizeLinear", quantization("image"), "image.real")
    steps = layers(checkpoint.architecture)
    for layer in steps:
        inputs = [f"{source}.real" for source in layer.sources]
        output = layer.name if layer is steps[-1] else f"{layer.name}.sum"
        if layer.weight:
            found = checkpoint.layers[layer.name]
            linear = layer.kind == "linear"
            weight = np.ascontiguousarray(found.weight.T) if linear else found.weight
            inputs.append(real(weight, layer.weight, found.scale, axis=int(linear)))
            step = np.float64(stored[layer.sources[0]].scale) * found.scale
            inputs.append(real(found.bias, f"{layer.name}.bias", step))
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
        if layer is not steps[-1]:
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
