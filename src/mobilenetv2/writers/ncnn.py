"""ncnn files: a `.param` of layers as text and a `.bin` of weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..checkpoint import Checkpoint
from ..graph import network
from ..heads import SSDHead
from ..int8 import AnyCheckpoint
from ..layer import IMAGE, Layer
from .arrays import check_float16, folded
from .beside import write_beside
from .options import WriteOptions, WriterError, refuse, result_names

FIRST_LINE = "7767517"
FLOAT32_WEIGHTS = 0
FLOAT16_WEIGHTS = 0x01306B47
LIMIT = (1 << 31) - 1  # end of a slice, beyond any
ACTIVATIONS = {"linear": "", "relu": " 9=1", "relu6": " 9=3 -23310=2,0.0,6.0"}


def write(checkpoint: AnyCheckpoint, path: Path, options: WriteOptions) -> tuple[Path, ...]:
    """Writes a model of ncnn. Its maps are (channels, height, width) of one image.

    Args:
        checkpoint: The model.
        path: The `.param` file; the weights stand beside it in a `.bin`, the description in a
            `.json`, the labels in a `.labels.txt`.
        options: What it is to be like. With `input="uint8"` the file normalises values 0..255, which
            it takes as float32, as `ncnn::Mat::from_pixels` gives them.

    Returns:
        The files.

    Raises:
        WriterError: Options that ncnn or this model does not go with.
    """
    _check(checkpoint, options)
    assert isinstance(checkpoint, Checkpoint)
    graph = Graph(options.float16)
    net = network(checkpoint.architecture)
    names = {IMAGE: IMAGE}
    if options.input == "uint8":
        scale, offset = (values.ravel() for values in checkpoint.preprocessing.scale_offset())
        names[IMAGE] = graph.node("Scale", "image.normalised", [IMAGE], f"0={scale.size} 1=1")
        graph.arrays += [scale.astype(np.float32), offset.astype(np.float32)]
    pools = {layer.name for layer in net.layers if layer.kind == "pool"}
    for layer in net.layers:
        sources, pooled = [names[name] for name in layer.sources], layer.sources[0] in pools
        names[layer.name] = add_layer(graph, checkpoint, layer, sources, pooled)
    add_results(graph, checkpoint, options, [names[name] for name in net.outputs])
    path.write_text(graph.text(), encoding="ascii")
    weights = path.with_suffix(".bin")
    weights.write_bytes(b"".join(array.tobytes() for array in graph.arrays))
    return (path, weights, *write_beside(checkpoint, path, options))


def _check(checkpoint: AnyCheckpoint, options: WriteOptions) -> None:
    architecture = checkpoint.architecture
    if not isinstance(checkpoint, Checkpoint):
        raise WriterError(
            "ncnn: its int8 has one scale per tensor, no zero point and float32 between layers, "
            "which are other answers than this int8 model's: write the float model"
        )
    refuse(
        options,
        "ncnn",
        batch="a file of ncnn takes one image",
        opset="only ONNX has one",
        task_metadata="MediaPipe's tasks read .tflite files: use --to tflite",
    )
    if options.layout == "nhwc":
        raise WriterError("ncnn: layout 'nhwc': its maps are (channels, height, width)")
    task = architecture.head.task
    if options.dynamic_size and (architecture.padding == "same" or task == "segmentation"):
        raise WriterError(
            "ncnn: dynamic_size: padding 'same' and a segmenter's resize belong to one size"
        )
    if options.dynamic_size and task == "detection":
        raise WriterError("ncnn: dynamic_size: a detector's anchors are those of one size")
    if options.results == "final" and task in ("segmentation", "detection"):
        raise WriterError(
            f"ncnn: final results of {task}: it has no such layer; write raw ones (--results raw)"
        )
    if task == "segmentation" and 1 in architecture.resolution:
        raise WriterError(
            "ncnn: images of one row or column cannot be resized with corners aligned"
        )


@dataclass(frozen=True)
class Node:
    """A line of a `.param` file."""

    kind: str
    name: str
    sources: tuple[str, ...]
    settings: str


class Graph:
    """Layers and weights in the order in which ncnn reads them.

    Args:
        float16: Whether kernels are stored as float16.

    Attributes:
        arrays: What the `.bin` file holds.
    """

    def __init__(self, float16: bool) -> None:
        self._float16 = float16
        self._nodes = [Node("Input", IMAGE, (), "")]
        self.arrays: list[NDArray[Any]] = []

    def node(self, kind: str, name: str, sources: list[str], settings: str) -> str:
        """Adds a layer; its result has the layer's name, which is returned."""
        self._nodes.append(Node(kind, name, tuple(sources), settings))
        return name

    def weights(self, layer: Layer, kernel: NDArray[np.float32], bias: NDArray[np.float32]) -> None:
        """Adds the kernel and bias of the layer that was added last.

        Raises:
            WriterError: float16 does not hold the kernel.
        """
        if not self._float16:
            self.arrays += [np.array([FLOAT32_WEIGHTS], np.int32), kernel, bias]
            return
        check_float16("ncnn", layer.name, kernel)
        # ncnn reads whole words of four bytes
        half = np.zeros(kernel.size + kernel.size % 2, np.float16)
        half[: kernel.size] = kernel.ravel()
        self.arrays += [np.array([FLOAT16_WEIGHTS], np.int32), half, bias]

    def rename(self, name: str, result: str) -> None:
        """Gives a tensor that no layer reads the name of a result."""
        self._nodes = [
            Node(node.kind, result, node.sources, node.settings) if node.name == name else node
            for node in self._nodes
        ]

    def text(self) -> str:
        """The `.param` file. A tensor that several layers read is split into as many."""
        reads = [source for node in self._nodes for source in node.sources]
        copies = {name: reads.count(name) for name in reads}
        used = dict.fromkeys(copies, 0)
        lines, blobs = [], 0
        for node in self._nodes:
            inputs = []
            for source in node.sources:
                inputs.append(source if copies[source] == 1 else f"{source}/{used[source]}")
                used[source] += 1
            parts = [node.kind, node.name, str(len(inputs)), "1", *inputs, node.name, node.settings]
            lines.append(" ".join(parts).rstrip())
            blobs += 1
            count = copies.get(node.name, 0)
            if count > 1:
                names = " ".join(f"{node.name}/{i}" for i in range(count))
                lines.append(f"Split {node.name}/split 1 {count} {node.name} {names}")
                blobs += count
        return "\n".join([FIRST_LINE, f"{len(lines)} {blobs}", *lines]) + "\n"


def add_layer(
    graph: Graph, checkpoint: Checkpoint, layer: Layer, sources: list[str], pooled: bool
) -> str:
    """Adds a layer of the network; returns the name of its result.

    Args:
        graph: Where to.
        checkpoint: The model.
        layer: The layer.
        sources: Names of the tensors that it reads.
        pooled: Whether it reads the result of a global pooling, which has no rows and columns in ncnn.
    """
    name = layer.name
    if layer.kind == "add":
        return graph.node("BinaryOp", name, sources, "0=0")
    if layer.kind == "concat":
        return graph.node("Concat", name, sources, "0=0")  # along channels
    if layer.kind == "pool":
        return graph.node("Pooling", name, sources, "0=1 4=1")  # average, global
    if layer.kind == "resize":
        return _resize(graph, layer, sources)
    kernel, bias = folded(checkpoint, layer)
    if layer.kind == "linear" or pooled:
        settings = f"0={bias.size} 1=1 2={kernel.size}{ACTIVATIONS[layer.activation]}"
        graph.node("InnerProduct", name, sources, settings)
    else:
        top, bottom, left, right = layer.padding
        settings = (
            f"0={bias.size} 1={layer.kernel} 2={layer.dilation} 3={layer.stride} "
            f"4={left} 14={top} 15={right} 16={bottom} 5=1 6={kernel.size}"
        )
        kind = "Convolution"
        if layer.kind == "depthwise":
            kind, settings = "ConvolutionDepthWise", f"{settings} 7={layer.groups}"
        graph.node(kind, name, sources, settings + ACTIVATIONS[layer.activation])
    graph.weights(layer, kernel, bias)
    return name


def _resize(graph: Graph, layer: Layer, sources: list[str]) -> str:
    """A bilinear resize with corners aligned. ncnn needs two rows and columns for it, so that a single
    one is repeated first.
    """
    (rows, columns), (height, width) = layer.in_shape[1:], layer.out_shape[1:]
    nearest, bilinear = 1, 2
    if 1 in (rows, columns):
        rows, columns = (height if rows == 1 else rows), (width if columns == 1 else columns)
        whole = (rows, columns) == (height, width)
        name = layer.name if whole else f"{layer.name}.repeated"
        sources = [graph.node("Interp", name, sources, f"0={nearest} 3={rows} 4={columns}")]
        if whole:
            return name
    return graph.node("Interp", layer.name, sources, f"0={bilinear} 3={height} 4={width} 6=1")


def add_results(
    graph: Graph, checkpoint: Checkpoint, options: WriteOptions, outputs: list[str]
) -> None:
    """Adds what makes the file's results of the network's outputs."""
    head = checkpoint.architecture.head
    if isinstance(head, SSDHead):
        outputs = _detections(graph, head, outputs)
    elif head.task == "classification" and options.results == "final":
        outputs = [graph.node("Softmax", "softmax", outputs, "0=0 1=1")]
    for name, result in zip(outputs, result_names(checkpoint, options), strict=True):
        graph.rename(name, result)


def _detections(graph: Graph, head: SSDHead, outputs: list[str]) -> list[str]:
    """Codes (anchors, 4) and probabilities (anchors, classes) of a detector's maps."""
    joined = []
    for what, begin, numbers in (("boxes", 0, 4), ("classes", 1, 1 + head.classes)):
        rows = []
        for name in outputs[begin::2]:
            last = graph.node("Permute", f"{name}.hwc", [name], "0=3")
            rows.append(graph.node("Reshape", f"{name}.rows", [last], f"0={numbers} 1=-1"))
        joined.append(graph.node("Concat", f"head.{what}", rows, "0=0"))
    codes, scores = joined
    if head.score == "sigmoid":
        scores = graph.node("Sigmoid", "sigmoid", [scores], "")
    else:
        scores = graph.node("Softmax", "softmax", [scores], "0=1 1=1")
    # without the background, the first column
    columns = f"-23309=1,1 -23310=1,{LIMIT} -23311=1,1"
    return [codes, graph.node("Crop", "without_background", [scores], columns)]
