"""The layers of a float32 model as nodes of an ONNX graph."""

from __future__ import annotations

import numpy as np

from ..checkpoint import Checkpoint
from ..graph import network
from ..layer import IMAGE, Layer
from .arrays import folded
from .onnx_graph import Dimension, Graph
from .options import WriteOptions


class Maps:
    """Where a map takes the size of another one, which may not be known beforehand.

    Args:
        graph: Where nodes are added.
        image: The tensor of the image, (N, C, H, W).
        options: Those of the file.
    """

    def __init__(self, graph: Graph, image: str, options: WriteOptions) -> None:
        self._graph = graph
        self._image = image
        self._batch = options.batch
        self._dynamic = options.dynamic_size
        self._pooled: dict[str, str] = {}  # from tensors of one place to the map that they are of

    def note(self, layer: Layer, source: str) -> None:
        """Remembers of which map a layer is the average, or is made from the average.

        Args:
            layer: The layer.
            source: The graph's tensor that it reads.
        """
        if layer.kind == "pool":
            self._pooled[layer.name] = source
        elif layer.weight and layer.sources[0] in self._pooled:
            self._pooled[layer.name] = self._pooled[layer.sources[0]]

    def is_pooled(self, name: str) -> bool:
        """Whether a layer's map has one place at any size of the image."""
        return name in self._pooled

    def spread(self, layer: Layer, value: str, output: str) -> str:
        """Adds the resize of a map of one place, whose value each place takes."""
        sides: tuple[Dimension, ...] = layer.out_shape[1:]
        if self._dynamic:
            sides = (self._graph.sides(self._pooled[layer.sources[0]], 2, 4),)
        shape = self._graph.shape(f"{output}.shape", 1, 1, *sides)
        return self._graph.node("Expand", [value, shape], output)

    def resize(self, layer: Layer, value: str, output: str) -> str:
        """Adds the resize of a map to the size of the image, with corners aligned."""
        batch = self._graph.sides(value, 0, 1) if self._batch is None else self._batch
        sides: tuple[Dimension, ...] = layer.out_shape[1:]
        if self._dynamic:
            sides = (self._graph.sides(self._image, 2, 4),)
        shape = self._graph.shape(f"{output}.shape", batch, layer.out_shape[0], *sides)
        unused = ["", ""]
        if self._graph.opset < 13:
            unused = [self._graph.constant("resize.unused", np.zeros(0, np.float32))] * 2
        return self._graph.node(
            "Resize",
            [value, *unused, shape],
            output,
            mode="linear",
            coordinate_transformation_mode="align_corners",
        )


def float_outputs(
    graph: Graph, checkpoint: Checkpoint, image: str, options: WriteOptions
) -> list[str]:
    """Adds all layers.

    Args:
        graph: Where to.
        checkpoint: The model.
        image: The tensor of normalised images, (N, C, H, W).
        options: Those of the file.

    Returns:
        The tensors of the network's outputs.
    """
    net = network(checkpoint.architecture)
    tensors = {IMAGE: image}
    maps = Maps(graph, image, options)
    low, high = (graph.constant(f"limit.{x}", np.float32(x)) for x in (0, 6))
    for layer in net.layers:
        inputs = [tensors[source] for source in layer.sources]
        tensors[layer.name] = layer.name
        maps.note(layer, inputs[0])
        if layer.kind == "add":
            graph.node("Add", inputs, layer.name)
        elif layer.kind == "pool":
            graph.node("GlobalAveragePool", inputs, layer.name)
        elif layer.kind == "concat":
            graph.node("Concat", inputs, layer.name, axis=1)
        elif layer.kind == "resize" and maps.is_pooled(layer.sources[0]):
            maps.spread(layer, inputs[0], layer.name)
        elif layer.kind == "resize":
            maps.resize(layer, inputs[0], layer.name)
        else:
            weight, bias = folded(checkpoint, layer)
            arrays = [
                graph.weights(f"{layer.name}.weight", weight),
                graph.constant(f"{layer.name}.bias", bias),
            ]
            sums = layer.name if layer.activation == "linear" else f"{layer.name}.sum"
            if layer.kind == "linear":
                flat = graph.node("Flatten", inputs, f"{layer.name}.flat")
                graph.node("Gemm", [flat, *arrays], sums, transB=1)
            else:
                graph.convolution(layer, [*inputs, *arrays], sums)
            if layer.activation == "relu":
                graph.node("Relu", [sums], layer.name)
            elif layer.activation == "relu6":
                graph.node("Clip", [sums, low, high], layer.name)
    return [tensors[name] for name in net.outputs]
