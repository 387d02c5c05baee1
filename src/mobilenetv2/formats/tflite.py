"""Reads classifiers, detectors and segmenters from TensorFlow Lite: float32, float16, uint8 or int8.

The converter has folded the batch norms, so ours become identities. The graph is compared with
`layers()`: a file is refused unless all kernels, strides, padding amounts, activations and
connections are those of the network.
"""

from __future__ import annotations

import io
import itertools
import json
import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..architecture import Architecture, Padding
from ..errors import ModelFileError, UserError
from ..files import read_member, require_memory
from ..folding import unfolded
from ..graph import layers, network
from ..images import Preprocessing
from ..int8 import AnyCheckpoint
from ..labels import BACKGROUND_NAMES
from ..layer import IMAGE, Layer
from .assemble import OUTPUT_STRIDES, Rules, StoredArray, assemble, assumed, infer_architecture
from .own import ENTRY, own_labels, own_preprocessing
from .tflite_compare import Match, compare
from .tflite_graph import KERNEL_AXES, Graph, Op, Tensor, parse
from .tflite_heads import NamedKernels, named_kernels
from .tflite_int8 import is_quantized, quantized

MAX_LABEL_BYTES, MAX_LABEL_FILES = 1 << 20, 16
PADDINGS: tuple[Padding, ...] = ("same", "symmetric")
BN_EPSILON = 1e-3  # TF-slim and Keras
# how TF prepares images for each task
RESIZE: dict[str, Literal["fit", "stretch"]] = {"segmentation": "fit", "detection": "stretch"}


def read_tflite(path: Path, int8: bool = True) -> AnyCheckpoint:
    """The checkpoint in a .tflite file, with the labels attached to the file if it has any.

    Args:
        path: The file.
        int8: Whether a network that computes in int8 or uint8 is read as an `Int8Checkpoint`;
            otherwise its weights become float32.

    Raises:
        ModelFileError: Damaged, or not a MobileNetV2; the message says which operator or
            tensor differs.
    """
    return checkpoint_from(path, path.read_bytes(), int8)


def checkpoint_from(path: Path, content: bytes, int8: bool = True) -> AnyCheckpoint:
    """As `read_tflite`, for a file in memory; `path` is for messages and provenance."""
    with _errors_of(path):
        graph = parse(content)
        named = named_kernels(graph)
        only_described = int8 and is_quantized(graph, named.ops)
        arrays = _arrays_of(path, graph, named, with_kernels=not only_described)
        architecture, match = _matched(graph, named, arrays)
        to_int8 = int8 and is_quantized(graph, match.ops)
        if only_described and not to_int8:
            arrays = _arrays_of(path, graph, named)
        facts = _own_facts(content)
        preprocessing = own_preprocessing(facts, architecture)
        if preprocessing and preprocessing.size != architecture.resolution:
            preprocessing = None
        kinds = {np.dtype(graph.stored(op.inputs[1]).dtype).name for op in named.ops.values()}
        rules = Rules(
            source=f"TensorFlow Lite ({', '.join(sorted(kinds))})",
            padding=architecture.padding,
            bn_epsilon=BN_EPSILON,
            preprocessing=preprocessing
            or _preprocessing(graph.tensors[graph.inputs[0]], architecture.head.task),
            output_stride=architecture.output_stride,
            head=named.head,
            labels=own_labels(facts, architecture) or _attached_labels(content, architecture),
            notes=named.notes,
        )
    if not facts and not np.issubdtype(graph.tensors[graph.inputs[0]].dtype, np.integer):
        rules = replace(rules, notes=(*rules.notes, assumed(rules)))
    floats = assemble(path, arrays, rules)
    if not to_int8:
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


def _arrays_of(
    path: Path, graph: Graph, named: NamedKernels, with_kernels: bool = True
) -> dict[str, NDArray[Any]]:
    """Arrays with torchvision's names; the kernels are all zeros where only the description of the
    network is needed.
    """
    order = named.ops
    kernels = {f"{name}.weight": _kernel(graph, op, name) for name, op in order.items()}
    architecture = replace(
        infer_architecture({name: kernel.shape for name, kernel in kernels.items()}, named.head),
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
        stored = kernels[str(layer.weight)]
        kernel = np.asarray(stored) if with_kernels else np.zeros(stored.shape, np.float32)
        arrays |= unfolded(layer, kernel, _bias(graph, order[layer.name], layer))
    return arrays


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
    graph: Graph, named: NamedKernels, arrays: dict[str, NDArray[Any]]
) -> tuple[Architecture, Match]:
    """The architecture whose layers the operators are, with the padding rule and the output stride
    that they follow.
    """
    base = infer_architecture({name: array.shape for name, array in arrays.items()}, named.head)
    shape = graph.tensors[graph.inputs[0]].shape
    if len(graph.inputs) != 1 or len(shape) != 4:
        raise ModelFileError(f"the input must be one batch of images (N, H, W, C), not {shape}")
    differences: list[tuple[int, str]] = []  # after how many tensors, and what differs
    base = replace(base, bn_epsilon=BN_EPSILON, resolution=(shape[1], shape[2]))
    strides = [stride for stride in OUTPUT_STRIDES if stride in base.head.output_strides]
    for output_stride, padding in itertools.product(strides, PADDINGS):
        architecture = replace(base, padding=padding, output_stride=output_stride)
        match = Match({graph.inputs[0]: IMAGE})
        difference = compare(graph, named, network(architecture), match)
        if difference is None:
            return architecture, match
        differences.append((len(match.made), difference))
    _, last = max(differences, key=lambda difference: difference[0])
    raise ModelFileError(f"not the MobileNetV2 graph: {last}")


def _preprocessing(tensor: Tensor, task: str) -> Preprocessing:
    """The preprocessing of an input tensor: -1..1 for float, else as its scale and zero point say.

    A scale of 2/255 is -1..1 too, with its zero point rounded to a whole number.
    """
    size = (tensor.shape[1], tensor.shape[2])
    resize: Literal["short_side", "fit", "stretch"] = RESIZE.get(task, "short_side")
    if tensor.scale.size != 1 or not np.issubdtype(tensor.dtype, np.integer):
        return Preprocessing(size=size, resize=resize)
    scale = float(tensor.scale[0])
    zero = float(int(tensor.zero_point[0]) - np.iinfo(tensor.dtype).min)
    if not 1e-6 < scale < 1:
        raise ModelFileError(f"the input has the scale {scale:g}: images cannot be that")
    if abs(scale - 2 / 255) < 1e-6 and zero in (127, 128):
        return Preprocessing(size=size, resize=resize)
    return Preprocessing(
        size=size, resize=resize, mean=(zero / 255,) * 3, std=(1 / (255 * scale),) * 3
    )


def _own_facts(content: bytes) -> dict[str, Any]:
    """What a file that this package wrote says of itself; {} of others."""
    import tflite

    try:
        model: Any = tflite.Model.GetRootAs(content, 0)
        for index in range(model.MetadataLength()):
            entry = model.Metadata(index)
            if entry.Name() == ENTRY.encode():
                facts = json.loads(model.Buffers(entry.Buffer()).DataAsNumpy().tobytes())
                return facts if isinstance(facts, dict) else {}
    except Exception:  # damaged metadata, which the model does not need
        return {}
    return {}


def _attached_labels(content: bytes, architecture: Architecture) -> tuple[str, ...]:
    """The labels in the file's metadata, a zip archive appended to the model; () if there are none.

    The background in front of a detector's labels is left out.
    """
    detects = architecture.head.task == "detection"
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for entry in archive.infolist()[:MAX_LABEL_FILES]:
                if entry.file_size < MAX_LABEL_BYTES:
                    text = read_member(archive, entry).decode("utf-8", "replace")
                    labels = tuple(text.replace("\r\n", "\n").rstrip("\n").split("\n"))
                    if detects and len(labels) > architecture.classes:
                        labels = labels[labels[0].lower() in BACKGROUND_NAMES :]
                    if len(labels) == architecture.classes:
                        return labels
            return ()
    except Exception:  # no archive, or a damaged one, which the model does not need
        return ()
