"""Reads MobileNetV2 classifiers from TensorFlow Lite: float32, float16, uint8 or int8.

The converter has folded the batch norms, so ours become identities. The graph is compared with
`layers()`: a file is refused unless all kernels, strides, padding amounts, activations and
connections are those of the network.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..architecture import Architecture
from ..errors import ModelFileError, UserError
from ..files import read_member, require_memory
from ..folding import unfolded
from ..graph import Network, layers, network
from ..images import Preprocessing
from ..int8 import AnyCheckpoint
from ..layer import Layer, conv_padding
from .assemble import Rules, StoredArray, assemble, assumed, infer_architecture
from .tflite_graph import KERNEL_AXES, Graph, Op, Tensor, parse
from .tflite_int8 import is_quantized, quantized

MAX_LABEL_BYTES, MAX_LABEL_FILES = 1 << 20, 16
BN_EPSILON = 1e-3  # TF-slim and Keras
ACTIVATIONS = {0: "linear", 1: "relu", 3: "relu6"}
KERNEL_OPS = {"CONV_2D": "C", "DEPTHWISE_CONV_2D": "D", "FULLY_CONNECTED": "F"}
# Operators that change no value: their output counts as that of the layer before them.
TRANSPARENT = ("QUANTIZE", "DEQUANTIZE", "RESHAPE", "SQUEEZE", "SOFTMAX", "PAD")


@dataclass(frozen=True)
class _Match:
    """What a graph has in common with the layers of a network.

    Attributes:
        made: The name of the layer that makes each tensor; "image" for the input.
        ops: The operator of each layer.
    """

    made: dict[int, str]
    ops: dict[str, Op] = field(default_factory=dict)


def read_tflite(path: Path, int8: bool = True) -> AnyCheckpoint:
    """The checkpoint in a .tflite classifier, with the labels attached to the file if it has any.

    Args:
        path: The file.
        int8: Whether a network that computes in int8 or uint8 is read as an `Int8Checkpoint`;
            otherwise its weights become float32.

    Raises:
        ModelFileError: Damaged, or not a MobileNetV2 classifier; the message says which operator or
            tensor differs.
    """
    return checkpoint_from(path, path.read_bytes(), int8)


def checkpoint_from(path: Path, content: bytes, int8: bool = True) -> AnyCheckpoint:
    """As `read_tflite`, for a file in memory; `path` is for messages and provenance."""
    with _errors_of(path):
        graph = parse(content)
        _refuse_other_tasks(graph)
        arrays, order = _named_kernels(path, graph)
        architecture, match = _matched(graph, order, arrays)
        kinds = {np.dtype(graph.stored(op.inputs[1]).dtype).name for op in order.values()}
        rules = Rules(
            source=f"TensorFlow Lite ({', '.join(sorted(kinds))})",
            padding=architecture.padding,
            bn_epsilon=BN_EPSILON,
            preprocessing=_preprocessing(graph.tensors[graph.inputs[0]]),
            labels=_attached_labels(content, architecture.classes),
        )
    if not np.issubdtype(graph.tensors[graph.inputs[0]].dtype, np.integer):
        rules = replace(rules, notes=(assumed(rules),))
    floats = assemble(path, arrays, rules)
    if not (int8 and is_quantized(graph, match.ops)):
        return floats
    with _errors_of(path):
        return quantized(graph, match.ops, match.made, floats)


@contextmanager
def _errors_of(path: Path) -> Iterator[None]:
    """Puts the file's name into errors, and makes any other exception a `ModelFileError`."""
    try:
        yield
    except UserError as error:
        raise type(error)(f"{path}: {error}") from None
    except Exception as error:  # damaged offsets make the reader raise nearly anything
        reason = error or type(error).__name__
        raise ModelFileError(f"{path}: damaged or not a TensorFlow Lite model: {reason}") from None


def _refuse_other_tasks(graph: Graph) -> None:
    codes = {op.code for op in graph.ops}
    if len(graph.outputs) > 1:
        names = ", ".join(graph.tensors[index].name for index in graph.outputs[:3])
        raise ModelFileError(
            f"its outputs are {names}: it is a detector, or another model that is not a classifier"
        )
    if codes & {"RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"}:
        raise ModelFileError("it resizes maps: it is a segmenter, not a classifier")


def _named_kernels(path: Path, graph: Graph) -> tuple[dict[str, NDArray[Any]], dict[str, Op]]:
    """Arrays with torchvision's names, and the operator of each layer.

    Layers are recognised by the order of their operators in each block: expand, depthwise, project.
    """
    ops = [op for op in graph.ops if op.code in KERNEL_OPS]
    kinds = "".join(KERNEL_OPS[op.code] for op in ops)
    names, at, block = ["features.0.0"], 1, 0
    while "D" in kinds[at:]:
        block += 1
        at_block = f"features.{block}.conv"
        if kinds.startswith("DC", at):
            names += [f"{at_block}.0.0", f"{at_block}.1"]
        elif kinds.startswith("CDC", at):
            names += [f"{at_block}.0.0", f"{at_block}.1.0", f"{at_block}.2"]
        else:
            raise ModelFileError(
                f"not a MobileNetV2: after block {block - 1} its kernels are not expand, depthwise, project"
            )
        at = len(names)
    tail = kinds[at:]
    if not kinds.startswith("C") or block == 0 or tail not in ("CC", "CF", "C"):
        raise ModelFileError(
            f"not a MobileNetV2 classifier: after {block} blocks it has {len(tail)} more convolutions or dense layers, "
            "not a last convolution and a classifier"
        )
    names += [f"features.{block + 1}.0", "classifier.1"][: len(tail)]
    order = dict(zip(names, ops, strict=True))
    kernels = {f"{name}.weight": _kernel(graph, op, name) for name, op in order.items()}
    architecture = replace(
        infer_architecture({name: kernel.shape for name, kernel in kernels.items()}),
        bn_epsilon=BN_EPSILON,
    )
    weighted = [layer for layer in layers(architecture) if layer.weight and layer.name in order]
    for layer in weighted:
        shape = kernels[str(layer.weight)].shape
        if shape != layer.weight_shape:
            raise ModelFileError(
                f"not a MobileNetV2: {layer.weight} is {shape}, not {layer.weight_shape}"
            )
    require_memory(
        path, sum(4 * math.prod(layer.weight_shape) for layer in weighted), "its kernels"
    )
    arrays: dict[str, NDArray[Any]] = {}
    for layer in weighted:
        kernel = np.asarray(kernels[str(layer.weight)])
        arrays |= unfolded(layer, kernel, _bias(graph, order[layer.name], layer))
    return arrays, order


def _kernel(graph: Graph, op: Op, name: str) -> StoredArray:
    """The kernel in PyTorch's axes; that of a 1x1 convolution as classifier is (out, in)."""
    tensor = graph.stored(op.inputs[1])
    if len(tensor.shape) != len(KERNEL_AXES[op.code]):
        raise ModelFileError(f"the kernel of {name} has the shape {tensor.shape}")
    shape = tuple(tensor.shape[axis] for axis in KERNEL_AXES[op.code])
    shape = shape[:2] if name == "classifier.1" and shape[2:] == (1, 1) else shape
    return StoredArray(
        shape, np.dtype(np.float64), lambda: op.in_torch_axes(tensor.real()).reshape(shape)
    )


def _bias(graph: Graph, op: Op, layer: Layer) -> NDArray[np.float64]:
    if len(op.inputs) < 3 or op.inputs[2] < 0:
        return np.zeros(layer.out_shape[0])
    bias = graph.constant(op.inputs[2])
    if bias.shape != layer.out_shape[:1]:
        raise ModelFileError(f"the bias of {layer.name} is {bias.shape}, not {layer.out_shape[:1]}")
    return bias


def _matched(
    graph: Graph, order: dict[str, Op], arrays: dict[str, NDArray[Any]]
) -> tuple[Architecture, _Match]:
    """The architecture whose layers the operators are, with the padding rule that they follow."""
    base = infer_architecture({name: array.shape for name, array in arrays.items()})
    shape = graph.tensors[graph.inputs[0]].shape
    if len(graph.inputs) != 1 or len(shape) != 4:
        raise ModelFileError(f"the input must be one batch of images (N, H, W, C), not {shape}")
    differences: list[tuple[int, str]] = []  # after how many tensors, and what differs
    for padding in ("same", "symmetric"):
        architecture = replace(
            base, padding=padding, bn_epsilon=BN_EPSILON, resolution=(shape[1], shape[2])
        )
        match = _Match({graph.inputs[0]: "image"})
        difference = _compare(graph, order, network(architecture), match)
        if difference is None:
            return architecture, match
        differences.append((len(match.made), difference))
    _, last = max(differences, key=lambda difference: difference[0])
    raise ModelFileError(f"not the MobileNetV2 graph: {last}")


def _compare(graph: Graph, order: dict[str, Op], net: Network, match: _Match) -> str | None:
    """The first difference between the graph and this network, or None; fills `match`."""
    made, steps, outputs = match.made, net.layers, set(net.outputs)
    by_output = {id(op): layer for layer in steps if (op := order.get(layer.name))}
    adds = iter(layer for layer in steps if layer.kind == "add")
    flat = {layer.name for layer in steps if layer.kind in ("pool", "linear")}
    pool = next((layer for layer in steps if layer.kind == "pool"), None)
    padded: dict[int, tuple[int, ...]] = {}
    for op in graph.ops:
        sources = {made[i] for i in op.inputs if i in made}
        if any(i in padded for i in op.inputs) and op.code not in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            return f"a PAD before {op.code} has no place in it"
        if op.code in TRANSPARENT:
            if sources:
                (made[op.outputs[0]],) = sources
                if op.code == "PAD":
                    padded[op.outputs[0]] = graph.whole_numbers(op.inputs[1])
                elif sources - (outputs if op.code == "SOFTMAX" else flat) and not op.code.endswith(
                    "QUANTIZE"
                ):
                    return f"a {op.code} after {sources.pop()} has no place in it"
            continue
        is_pool = op.code in ("AVERAGE_POOL_2D", "MEAN")
        layer = pool if is_pool else next(adds, None) if op.code == "ADD" else by_output.get(id(op))
        if layer is None:
            return f"the operator {op.code} has no place in it"
        if sources != set(layer.sources):
            return f"{layer.name} ({op.code}) does not read what it should"
        difference = _compare_options(graph, op, layer, padded)
        if difference:
            return difference
        made[op.outputs[0]] = layer.name
        match.ops[layer.name] = op
    if {made.get(i) for i in graph.outputs} == outputs:
        return None
    return f"its output is not that of {', '.join(net.outputs)}"


def _compare_options(
    graph: Graph, op: Op, layer: Layer, padded: dict[int, tuple[int, ...]]
) -> str | None:
    """The first difference between an operator's options and its layer, or None."""
    options = op.options
    if "FusedActivationFunction" in options:
        activation = ACTIVATIONS.get(options["FusedActivationFunction"], "another activation")
        if activation != layer.activation:
            return f"{layer.name} has the activation {activation}, not {layer.activation}"
    if layer.kind == "pool":
        return _compare_pool(graph, op, layer)
    if "StrideH" not in options or layer.kind == "linear":
        return None
    if {options["StrideH"], options["StrideW"]} != {layer.stride}:
        return f"{layer.name} has stride {options['StrideH']}, not {layer.stride}"
    if layer.kernel > 1 and {options["DilationHFactor"], options["DilationWFactor"]} != {
        layer.dilation
    }:
        return f"{layer.name} has dilation {options['DilationHFactor']}, not {layer.dilation}"
    amounts = padded.get(op.inputs[0], (0,) * 8)  # before and after, of each axis of (N, H, W, C)
    if options["Padding"] == 0:  # SAME
        if any(amounts):
            return f"{layer.name} is padded twice"
        sides = (
            conv_padding("same", n, layer.kernel, layer.stride, layer.dilation)
            for n in layer.in_shape[1:]
        )
        amounts = (0, 0, *(amount for side in sides for amount in side), 0, 0)
    if amounts != (0, 0, *layer.padding, 0, 0):
        return (
            f"{layer.name} is padded {amounts[2:6]} (top, bottom, left, right), not {layer.padding}"
        )
    return None


def _compare_pool(graph: Graph, op: Op, layer: Layer) -> str | None:
    """The difference between an operator and global average pooling, or None."""
    if op.code == "MEAN":
        whole = sorted(axis % 4 for axis in graph.whole_numbers(op.inputs[1])) == [1, 2]
    else:
        whole = (op.options["FilterHeight"], op.options["FilterWidth"]) == layer.in_shape[1:]
    return None if whole else f"{op.code} does not average the whole map"


def _preprocessing(tensor: Tensor) -> Preprocessing:
    """The preprocessing of an input tensor: -1..1 for float, else as its scale and zero point say.

    A scale of 2/255 is -1..1 too, with its zero point rounded to a whole number.
    """
    size = (tensor.shape[1], tensor.shape[2])
    if tensor.scale.size != 1 or not np.issubdtype(tensor.dtype, np.integer):
        return Preprocessing(size=size)
    scale = float(tensor.scale[0])
    zero = float(int(tensor.zero_point[0]) - np.iinfo(tensor.dtype).min)
    if not 1e-6 < scale < 1:
        raise ModelFileError(f"the input has the scale {scale:g}: images cannot be that")
    if abs(scale - 2 / 255) < 1e-6 and zero in (127, 128):
        return Preprocessing(size=size)
    return Preprocessing(size=size, mean=(zero / 255,) * 3, std=(1 / (255 * scale),) * 3)


def _attached_labels(content: bytes, classes: int) -> tuple[str, ...]:
    """The labels in the file's metadata, a zip archive appended to the model; () if there are none."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for entry in archive.infolist()[:MAX_LABEL_FILES]:
                if entry.file_size < MAX_LABEL_BYTES:
                    text = read_member(archive, entry).decode("utf-8", "replace")
                    labels = tuple(text.replace("\r\n", "\n").rstrip("\n").split("\n"))
                    if len(labels) == classes:
                        return labels
            return ()
    except Exception:  # no archive, or a damaged one, which the model does not need
        return ()
