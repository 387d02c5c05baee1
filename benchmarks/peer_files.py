"""Writes a classifier in the formats of the peers, with one loop over `layers()` per format.

Batch norms are folded, and ReLU6 is fused where the format can. All formats hold float32, some int8
too (see `int8_files.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from int8_files import ONNX_IR, ONNX_OPSET, activations, write_qdq
from numpy.typing import NDArray
from peers import PEERS, Recipe

from mobilenetv2.architecture import Architecture
from mobilenetv2.checkpoint import Checkpoint
from mobilenetv2.folding import fold
from mobilenetv2.graph import Layer, array_shapes, layers
from mobilenetv2.images import Preprocessing
from mobilenetv2.int8 import AnyCheckpoint, Int8Checkpoint

Array = NDArray[Any]


def random_checkpoint(width_mult: float = 1.0, resolution: int = 224, seed: int = 0) -> Checkpoint:
    """A classifier with random weights and TensorFlow's padding.

    He's deviation and batch-norm statistics near 0 and 1 keep its activations in the range of a
    trained network's.
    """
    size = (resolution, resolution)
    architecture = Architecture(width_mult=width_mult, resolution=size, padding="same")
    rng = np.random.default_rng(seed)
    arrays = {}
    for name, shape in array_shapes(architecture).items():
        if name.endswith("running_var"):
            array = rng.uniform(0.5, 2, shape)
        elif name.endswith(("running_mean", "bias")):
            array = rng.normal(0, 0.2, shape)
        elif len(shape) == 1:
            array = rng.uniform(0.5, 1.5, shape)
        else:
            array = rng.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape)
        arrays[name] = array.astype(np.float32)
    return Checkpoint(architecture, arrays, (), Preprocessing(size=size), {"source": "random"})


def write(checkpoint: AnyCheckpoint, peer: str, folder: Path, batch: int | None = 1) -> Path:
    """Writes the model file of a peer, unless another peer with the same format has written it.

    Args:
        checkpoint: A classifier; an int8 one must store all tensors.
        peer: A key of `PEERS`.
        folder: The folder for the file.
        batch: Images per call; None leaves it open (ONNX only).

    Returns:
        The path of the file.
    """
    path = folder / f"model{PEERS[peer].suffix}"
    if not path.exists():
        if isinstance(checkpoint, Int8Checkpoint):
            INT8_WRITERS[path.suffix](checkpoint, path, batch)
        else:
            WRITERS[path.suffix](checkpoint, path, batch)
    return path


def recipe(checkpoint: AnyCheckpoint) -> Recipe:
    """The checkpoint's preprocessing and labels, as a user of a peer would write them.

    Raises:
        SystemExit: The preprocessing is not a square RGB crop after resizing the short side.
    """
    p = checkpoint.preprocessing
    if p.resize != "short_side" or p.size[0] != p.size[1] or p.channels != 3:
        raise SystemExit("the peers' programs know square RGB crops of the short side only")
    labels = checkpoint.labels or tuple(
        f"class {i}" for i in range(checkpoint.architecture.classes)
    )
    short_side = round(p.size[0] / p.crop_fraction)
    return Recipe(short_side, p.size[0], p.interpolation, p.mean, p.std, labels)


def folded(checkpoint: Checkpoint, layer: Layer) -> tuple[Array, Array]:
    """Kernel and bias of a layer in float32, with its batch norm folded in."""
    weight, bias = fold(checkpoint, layer)
    return weight.astype(np.float32), bias.astype(np.float32)


def write_onnx(checkpoint: Checkpoint, path: Path, batch: int | None = 1) -> None:
    """Writes ONNX in NCHW, with Conv and Clip, which ONNX Runtime and OpenVINO fuse."""
    from onnx import TensorProto, helper, numpy_helper, save

    limits = {"low": np.float32(0), "high": np.float32(6)}
    constants = [numpy_helper.from_array(np.array(value), name) for name, value in limits.items()]
    nodes = []
    for layer in layers(checkpoint.architecture):
        inputs = list(layer.sources)
        if layer.weight:
            names = [layer.weight, f"{layer.name}.b"]
            constants += map(numpy_helper.from_array, folded(checkpoint, layer), names)
            inputs += names
        if layer.kind == "add":
            nodes.append(helper.make_node("Add", inputs, [layer.name]))
        elif layer.kind == "pool":
            nodes.append(helper.make_node("GlobalAveragePool", inputs, ["pooled"]))
            nodes.append(helper.make_node("Flatten", ["pooled"], [layer.name]))
        elif layer.kind == "linear":
            nodes.append(helper.make_node("Gemm", inputs, [layer.name], transB=1))
        else:
            clipped = layer.activation == "relu6"
            output = f"{layer.name}.c" if clipped else layer.name
            top, bottom, left, right = layer.padding
            nodes.append(
                helper.make_node(
                    "Conv", inputs, [output], kernel_shape=[layer.kernel] * 2, strides=[layer.stride] * 2,
                    pads=[top, left, bottom, right], dilations=[layer.dilation] * 2, group=layer.groups,
                )
            )  # fmt: skip
            if clipped:
                nodes.append(helper.make_node("Clip", [output, "low", "high"], [layer.name]))
    count = "N" if batch is None else batch
    image = [count, 3, *checkpoint.architecture.resolution]
    graph = helper.make_graph(
        nodes,
        "mobilenetv2",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, image)],
        [helper.make_tensor_value_info(layer.name, TensorProto.FLOAT, [count, layer.out_shape[0]])],
        constants,
    )
    opset = helper.make_opsetid("", ONNX_OPSET)
    save(helper.make_model(graph, opset_imports=[opset], ir_version=ONNX_IR), path)


def write_tflite(checkpoint: AnyCheckpoint, path: Path, batch: int | None = 1) -> None:
    """Writes TensorFlow Lite in NHWC with ReLU6 fused, for networks with TensorFlow's padding.

    In an int8 model everything is int8, from the image (pixels less 128) to the logits, which a last
    operator converts to float32.
    """
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    assert checkpoint.architecture.padding == "same", "the format has the padding SAME only"
    stored = activations(checkpoint) if isinstance(checkpoint, Int8Checkpoint) else {}
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.subgraphs = 3, [graph]
    model.buffers, model.operatorCodes = [schema.BufferT()], []
    graph.tensors, graph.operators = [], []

    def tensor(shape: tuple[int, ...], kind: str = "float32", **quantization: Any) -> int:
        entry = schema.TensorT()
        entry.shape, entry.type = list(shape), getattr(schema.TensorType, kind.upper())
        if quantization:
            entry.quantization = schema.QuantizationParametersT()
            vars(entry.quantization).update(quantization)
        graph.tensors.append(entry)
        return len(graph.tensors) - 1

    def constant(values: Array, scale: Array | None = None, axis: int = 0) -> int:
        quantization: dict[str, Any] = {}
        if scale is not None:
            zeros = np.zeros(len(scale), np.int64)
            scale = scale.astype(np.float32)
            quantization = {"scale": scale, "zeroPoint": zeros, "quantizedDimension": axis}
        index = tensor(values.shape, values.dtype.name, **quantization)
        graph.tensors[index].buffer = len(model.buffers)
        model.buffers.append(schema.BufferT())
        model.buffers[-1].data = np.frombuffer(values.tobytes(), np.uint8)
        return index

    def activation(name: str, shape: tuple[int, ...]) -> int:
        if not stored:
            return tensor(shape)
        scale, zero = np.float32(stored[name].scale), stored[name].zero_point - 128
        return tensor(shape, "int8", scale=np.array([scale]), zeroPoint=np.array([zero]))

    def operator(name: str, inputs: list[int], output: int, options: Any) -> int:
        entry, code = schema.OperatorT(), schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, name)
        entry.opcodeIndex, entry.inputs, entry.outputs = len(model.operatorCodes), inputs, [output]
        kind = type(options).__name__.removesuffix("T")
        entry.builtinOptions = options
        entry.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
        model.operatorCodes.append(code)
        graph.operators.append(entry)
        return output

    def kernel_and_bias(layer: Layer) -> list[int]:
        axes, axis = {  # (out, in, k, k) -> (out, k, k, in); (1, k, k, out)
            "conv": ((0, 2, 3, 1), 0),
            "depthwise": ((1, 2, 3, 0), 3),
            "linear": ((0, 1), 0),
        }[layer.kind]
        if isinstance(checkpoint, Checkpoint):
            weight, bias = folded(checkpoint, layer)
            return [constant(weight.transpose(axes)), constant(bias)]
        quantized = checkpoint.layers[layer.name]
        bias_scale = stored[layer.sources[0]].scale * quantized.scale.astype(np.float64)
        return [
            constant(quantized.weight.transpose(axes), quantized.scale, axis),
            constant(quantized.bias, bias_scale),
        ]

    def convolution(layer: Layer, inputs: list[int], output: int) -> int:
        depthwise = layer.kind == "depthwise"
        options = schema.DepthwiseConv2DOptionsT() if depthwise else schema.Conv2DOptionsT()
        options.strideH = options.strideW = layer.stride
        options.dilationHFactor = options.dilationWFactor = layer.dilation
        options.padding = schema.Padding.SAME
        if layer.activation == "relu6":
            options.fusedActivationFunction = schema.ActivationFunctionType.RELU6
        if depthwise:
            options.depthMultiplier = 1
        return operator("DEPTHWISE_CONV_2D" if depthwise else "CONV_2D", inputs, output, options)

    image_shape = (batch or 1, *checkpoint.architecture.resolution, 3)
    tensors = {"image": activation("image", image_shape)}
    graph.inputs = [tensors["image"]]
    for layer in layers(checkpoint.architecture):
        channels, height, width = layer.out_shape
        shape: tuple[int, ...] = (batch or 1, height, width, channels)
        flat = layer.kind in ("pool", "linear")
        output = activation(layer.name, shape[::3] if flat else shape)
        inputs = [tensors[source] for source in layer.sources]
        if layer.weight:
            inputs += kernel_and_bias(layer)
        if layer.kind == "add":
            operator("ADD", inputs, output, schema.AddOptionsT())
        elif layer.kind == "pool":
            inputs.append(constant(np.array([1, 2], np.int32)))
            operator("MEAN", inputs, output, schema.ReducerOptionsT())
        elif layer.kind == "linear":
            operator("FULLY_CONNECTED", inputs, output, schema.FullyConnectedOptionsT())
        else:
            convolution(layer, inputs, output)
        tensors[layer.name] = output
    if stored:
        output = operator("DEQUANTIZE", [output], tensor(shape[::3]), schema.DequantizeOptionsT())
    graph.outputs = [output]
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))


def write_ncnn(checkpoint: Checkpoint, path: Path, batch: int | None = 1) -> None:
    """Writes ncnn: a `.param` file of layers and a `.bin` file of float32 weights, with ReLU6 fused."""
    network = layers(checkpoint.architecture)
    reads = [source for layer in network for source in layer.sources]
    lines, blobs, arrays = ["Input image 0 1 image"], 1, []
    copies_read: dict[str, int] = {}

    def next_copy(source: str) -> str:
        """The tensor itself, or, where several layers read it, its next copy."""
        if reads.count(source) == 1:
            return source
        copies_read[source] = copies_read.get(source, -1) + 1
        return f"{source}/{copies_read[source]}"

    for layer in network:
        inputs = " ".join(next_copy(source) for source in layer.sources)
        output = "logits" if layer is network[-1] else layer.name
        if layer.weight:
            weight, bias = folded(checkpoint, layer)
            arrays += [np.zeros(1, np.int32), weight, bias]  # 0: the weights are float32
        if layer.kind == "add":
            kind, settings = "BinaryOp", "0=0"
        elif layer.kind == "pool":
            kind, settings = "Pooling", "0=1 4=1"  # average, global
        elif layer.kind == "linear":
            kind, settings = "InnerProduct", f"0={len(bias)} 1=1 2={weight.size}"
        else:
            kind = "ConvolutionDepthWise" if layer.kind == "depthwise" else "Convolution"
            top, bottom, left, right = layer.padding
            settings = (
                f"0={len(bias)} 1={layer.kernel} 2={layer.dilation} 3={layer.stride} 4={left} 14={top} "
                f"15={right} 16={bottom} 5=1 6={weight.size}"
            )
            settings += f" 7={layer.groups}" if layer.kind == "depthwise" else ""
            settings += " 9=3 -23310=2,0.0,6.0" if layer.activation == "relu6" else ""
        lines.append(f"{kind} {layer.name} {len(layer.sources)} 1 {inputs} {output} {settings}")
        blobs += 1
        if (copies := reads.count(layer.name)) > 1:
            names = " ".join(f"{layer.name}/{i}" for i in range(copies))
            lines.append(f"Split {layer.name}/split 1 {copies} {layer.name} {names}")
            blobs += copies
    path.write_text("\n".join(["7767517", f"{len(lines)} {blobs}", *lines]) + "\n")
    path.with_suffix(".bin").write_bytes(b"".join(array.tobytes() for array in arrays))


def write_torch(checkpoint: Checkpoint, path: Path, batch: int | None = 1) -> None:
    """Writes the calls that PyTorch makes, with their tensors, for `load_torch`."""
    import torch

    steps = []
    for layer in layers(checkpoint.architecture):
        step: dict[str, Any] = {"kind": layer.kind, "name": layer.name, "sources": layer.sources}
        if layer.weight:
            step["weight"], step["bias"] = map(torch.from_numpy, folded(checkpoint, layer))
        if layer.kind in ("conv", "depthwise"):
            top, bottom, left, right = layer.padding
            symmetric = top == bottom and left == right
            step["pad"] = None if symmetric else (left, right, top, bottom)
            step["padding"] = (top, left) if symmetric else 0
            step["stride"], step["groups"] = layer.stride, layer.groups
            step["relu6"] = layer.activation == "relu6"
        steps.append(step)
    torch.save(steps, path)


WRITERS: dict[str, Callable[[Checkpoint, Path, int | None], None]] = {
    ".onnx": write_onnx,
    ".tflite": write_tflite,
    ".param": write_ncnn,
    ".pt": write_torch,
}
INT8_WRITERS: dict[str, Callable[[Int8Checkpoint, Path, int | None], None]] = {
    ".onnx": write_qdq,
    ".tflite": write_tflite,
}
