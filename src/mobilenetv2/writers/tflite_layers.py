"""The layers of a float32 model as operators of a LiteRT graph, NHWC."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..checkpoint import Checkpoint
from ..graph import network
from ..int8 import AnyCheckpoint
from ..layer import IMAGE, Layer, conv_padding
from .arrays import folded
from .options import WriteOptions, WriterError
from .tflite_graph import ACTIVATIONS, SAME, VALID, Graph

# how the axes of a kernel are ordered, and which of them is the outputs'
KERNEL_AXES = {
    "conv": ((0, 2, 3, 1), 0),  # (out, in, k, k) -> (out, k, k, in)
    "depthwise": ((1, 2, 3, 0), 3),  # (out, 1, k, k) -> (1, k, k, out)
    "linear": ((0, 1), 0),
}


class Layers:
    """Adds layers one after another.

    Args:
        graph: Where to.
        checkpoint: The model.
        image: The tensor that the first layer reads, (N, H, W, C).
        options: Those of the file.
    """

    def __init__(
        self, graph: Graph, checkpoint: AnyCheckpoint, image: int, options: WriteOptions
    ) -> None:
        self.graph, self.checkpoint, self.options = graph, checkpoint, options
        self.net = network(checkpoint.architecture)
        self.made = {IMAGE: image}

    def outputs(self) -> list[int]:
        """Adds all layers and returns the tensors of the network's outputs."""
        for layer in self.net.layers:
            self.made[layer.name] = self.add(layer, [self.made[name] for name in layer.sources])
        return [self.made[name] for name in self.net.outputs]

    def tensor(self, name: str, shape: Sequence[int], like: str | None = None) -> int:
        """Adds the tensor of a layer.

        Args:
            name: Of the tensor.
            shape: Its axes.
            like: The layer whose values it stores; that of its name if None.
        """
        return self.graph.tensor(name, shape)

    def arrays(self, layer: Layer) -> list[int]:
        """The tensors of a layer's kernel and bias."""
        assert isinstance(self.checkpoint, Checkpoint)
        weight, bias = folded(self.checkpoint, layer)
        axes, _, weight = self.in_axes(layer, weight)
        name = f"{layer.name}.weight"
        return [
            self.weights(name, weight.transpose(axes)),
            self.bias(f"{layer.name}.bias", bias),
        ]

    def weights(self, name: str, values: NDArray[Any]) -> int:
        """A kernel as float32, or as float16 with a DEQUANTIZE behind it."""
        if not self.options.float16:
            return self.graph.constant(name, values.astype(np.float32))
        if np.abs(values).max() > np.finfo(np.float16).max:
            raise WriterError(f"tflite: float16 does not hold the weights {name}: leave it out")
        half = self.graph.constant(f"{name}.float16", values.astype(np.float16))
        return self.graph.operator(
            "DEQUANTIZE", [half], self.graph.constant_result(name, values.shape)
        )

    def bias(self, name: str, values: NDArray[Any]) -> int:
        """A bias; in files of others it is float16 where weights are."""
        return self.graph.constant(name, values.astype(np.float32))

    def in_axes(self, layer: Layer, weight: NDArray[Any]) -> tuple[tuple[int, ...], int, Any]:
        """How the axes of a kernel are ordered, which of them is the outputs', and the kernel with as
        many axes.
        """
        if layer.kind != "linear" or self.is_flat():
            return *KERNEL_AXES[layer.kind], weight
        return *KERNEL_AXES["conv"], weight[:, :, None, None]

    def concatenated(self, layer: Layer, sources: list[int]) -> list[int]:
        """What a concatenation reads."""
        return sources

    def add(self, layer: Layer, sources: list[int]) -> int:
        """Adds a layer and returns its tensor."""
        if layer.kind == "pool":
            return self.pool(layer, sources[0])
        if layer.kind == "linear":
            return self.linear(layer, sources[0])
        if layer.weight:
            return self.convolution(layer, sources[0])
        channels, height, width = layer.out_shape
        out = self.tensor(layer.name, (self.batch, height, width, channels))
        if layer.kind == "add":
            return self.graph.operator("ADD", sources, out)
        if layer.kind == "concat":
            joined = self.concatenated(layer, sources)
            return self.graph.operator("CONCATENATION", joined, out, Axis=3)
        size = self.graph.whole(height, width)
        return self.graph.operator("RESIZE_BILINEAR", [*sources, size], out, AlignCorners=True)

    @property
    def batch(self) -> int:
        """Images per call, as shapes have it."""
        return self.options.batch or 1

    def pool(self, layer: Layer, source: int) -> int:
        """Adds an average over the whole map."""
        flat = self.checkpoint.architecture.head.task == "classification" and self.is_flat()
        shape = (self.batch, layer.out_shape[0]) if flat else (self.batch, 1, 1, layer.out_shape[0])
        out = self.tensor(layer.name, shape)
        return self.graph.operator("MEAN", [source, self.graph.whole(1, 2)], out, KeepDims=not flat)

    def is_flat(self) -> bool:
        """Whether the linear layer is a FULLY_CONNECTED."""
        return True

    def average(self, layer: Layer, source: int) -> int:
        """Adds an average over the whole map that keeps the map's scale."""
        channels, height, width = layer.in_shape
        out = self.tensor(layer.name, (self.batch, 1, 1, channels))
        size: dict[str, Any] = {"FilterHeight": height, "FilterWidth": width}
        return self.graph.operator(
            "AVERAGE_POOL_2D", [source], out, Padding=VALID, StrideH=1, StrideW=1, **size
        )

    def linear(self, layer: Layer, source: int) -> int:
        """Adds a classifier's last layer: a FULLY_CONNECTED, or a 1x1 convolution."""
        shape = (self.batch, layer.out_shape[0])
        if self.is_flat():
            out = self.tensor(layer.name, shape)
            return self.graph.operator("FULLY_CONNECTED", [source, *self.arrays(layer)], out)
        out = self.convolution(layer, source)
        flat = self.tensor(f"{layer.name}.flat", shape, like=layer.name)
        return self.graph.operator(
            "RESHAPE", [out, self.graph.whole(self.options.batch or -1, shape[1])], flat
        )

    def convolution(self, layer: Layer, source: int, is_padded: bool = False) -> int:
        """Adds a convolution; `is_padded`: its input has its border already."""
        channels, height, width = layer.out_shape
        explicit = not is_padded and self._pads(layer)
        if explicit:
            source = self._padded(layer, source)
        depthwise = layer.kind == "depthwise"
        multiplier: dict[str, Any] = {"DepthMultiplier": 1} if depthwise else {}
        out = self.tensor(layer.name, (self.batch, height, width, channels))
        return self.graph.operator(
            "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D",
            [source, *self.arrays(layer)],
            out,
            StrideH=layer.stride,
            StrideW=layer.stride,
            DilationHFactor=layer.dilation,
            DilationWFactor=layer.dilation,
            Padding=VALID if explicit or is_padded else SAME,
            FusedActivationFunction=ACTIVATIONS[layer.activation],
            **multiplier,
        )

    def _pads(self, layer: Layer) -> bool:
        """Whether SAME would pad in another way."""
        if self.options.dynamic_size and layer.stride > 1:
            return self.checkpoint.architecture.padding == "symmetric" and any(layer.padding)
        rule = (layer.kernel, layer.stride, layer.dilation)
        sides = [conv_padding("same", size, *rule) for size in layer.in_shape[1:]]
        return (*sides[0], *sides[1]) != layer.padding

    def _padded(self, layer: Layer, source: int) -> int:
        top, bottom, left, right = layer.padding
        amounts = np.array([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32)
        channels, height, width = layer.in_shape
        shape = (self.batch, height + top + bottom, width + left + right, channels)
        out = self.tensor(f"{layer.name}.padded", shape, like=layer.sources[0])
        pads = self.graph.constant(f"{layer.name}.pads", amounts)
        return self.graph.operator("PAD", [source, pads], out)
