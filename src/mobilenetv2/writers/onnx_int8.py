"""The layers of an int8 model as nodes of an ONNX graph: float operators between DequantizeLinear and
QuantizeLinear, with the model's own integers, scales and zero points. Runtimes make integer
operators of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..graph import network
from ..int8 import Activation, Int8Checkpoint, float_results
from ..layer import IMAGE, Layer
from .arrays import activations, bias_of_pixels
from .onnx_float import Maps
from .onnx_graph import Dimension, Graph
from .options import WriteOptions


class Int8Layers:
    """Adds layers one after another.

    Args:
        graph: Where to.
        checkpoint: The model.
        image: The tensor of pixels, (N, C, H, W) uint8.
        options: Those of the file.
    """

    def __init__(
        self, graph: Graph, checkpoint: Int8Checkpoint, image: str, options: WriteOptions
    ) -> None:
        self._graph = graph
        self._checkpoint = checkpoint
        self._batch = options.batch
        self._dynamic = options.dynamic_size
        self._net = network(checkpoint.architecture)
        self._stored = dict(activations(checkpoint))
        zero, *others = dict.fromkeys(checkpoint.image_zero_points)
        self._image_zeros = checkpoint.image_zero_points if others else ()
        # where its channels differ, the first layer's bias has their zero points
        self._stored[IMAGE] = Activation(checkpoint.image_scale, 0 if others else zero)
        self._floats = (
            float_results(self._net, "nearest") if checkpoint.rounding == "nearest" else frozenset()
        )
        self._codes = {IMAGE: image}
        self._reals: dict[str, str] = {}
        self._maps = Maps(graph, image, options)

    def outputs(self) -> list[str]:
        """Adds all layers and returns the tensors of the network's outputs, float32."""
        for layer in self._net.layers:
            self._maps.note(layer, self._codes.get(layer.sources[0], ""))
            self._add(layer)
        return [self._real(name) for name in self._net.outputs]

    def _add(self, layer: Layer) -> None:
        graph, name, source = self._graph, layer.name, layer.sources[0]
        if layer.kind == "resize" and self._maps.is_pooled(source):
            self._codes[name] = self._maps.spread(layer, self._codes[source], name)
        elif layer.kind == "resize":
            self._reals[name] = self._maps.resize(layer, self._real(source), name)
        elif layer.kind == "pool":
            self._store(
                layer, graph.node("GlobalAveragePool", [self._real(source)], f"{name}.mean")
            )
        elif layer.kind == "linear":
            self._linear(layer)
        elif layer.weight:
            self._convolution(layer)
        else:
            kind, axis = ("Add", {}) if layer.kind == "add" else ("Concat", {"axis": 1})
            inputs = [self._real(each) for each in layer.sources]
            self._store(layer, graph.node(kind, inputs, f"{name}.sum", **axis))

    def _store(self, layer: Layer, sums: str) -> None:
        """Stores a layer's result, unless it is an answer that stays float32."""
        if layer.name in self._floats:
            self._reals[layer.name] = sums
            return
        stored = self._stored[layer.name]
        codes = self._graph.node(
            "QuantizeLinear", [sums, *self._scale_and_zero(layer.name)], f"{layer.name}.codes"
        )
        if limits := clip_limits(layer, stored):
            names = [
                self._graph.constant(f"limit.uint8.{limit}", np.uint8(limit)) for limit in limits
            ]
            codes = self._graph.node("Clip", [codes, *names], f"{layer.name}.clipped")
        self._codes[layer.name] = codes

    def _real(self, name: str) -> str:
        """What the stored values of a layer stand for."""
        if name not in self._reals:
            self._reals[name] = self._graph.node(
                "DequantizeLinear", [self._codes[name], *self._scale_and_zero(name)], f"{name}.real"
            )
        return self._reals[name]

    def _scale_and_zero(self, name: str) -> list[str]:
        stored = self._stored[name]
        scale = self._graph.constant(f"{name}.scale", np.float32(stored.scale))
        return [scale, self._graph.constant(f"{name}.zero", np.uint8(stored.zero_point))]

    def _linear(self, layer: Layer) -> None:
        (source,), graph = layer.sources, self._graph
        flat = graph.node("Flatten", [self._codes[source]], f"{source}.flat")
        real = graph.node(
            "DequantizeLinear", [flat, *self._scale_and_zero(source)], f"{source}.flat.real"
        )
        quantized = self._checkpoint.layers[layer.name]
        weight = np.ascontiguousarray(quantized.weight.T)
        arrays = self._arrays(layer, weight, quantized.bias, axis=1)
        self._store(layer, graph.node("Gemm", [real, *arrays], f"{layer.name}.sum"))

    def _convolution(self, layer: Layer) -> None:
        (source,), graph = layer.sources, self._graph
        quantized = self._checkpoint.layers[layer.name]
        bias, is_padded = quantized.bias, source == IMAGE and bool(self._image_zeros)
        if is_padded:
            bias = bias_of_pixels(quantized, self._image_zeros)
            real = graph.node(
                "DequantizeLinear",
                [self._padded(layer), *self._scale_and_zero(IMAGE)],
                "image.padded.real",
            )
        else:
            real = self._real(source)
        inputs = [real, *self._arrays(layer, quantized.weight, bias)]
        sums = graph.convolution(layer, inputs, f"{layer.name}.sum", is_padded)
        self._store(layer, sums)

    def _arrays(
        self, layer: Layer, weight: NDArray[Any], bias: NDArray[np.int32], axis: int = 0
    ) -> list[str]:
        """The tensors of a layer's kernel and bias.

        Args:
            layer: The layer.
            weight: Its kernel.
            bias: Its bias.
            axis: That of the kernel's outputs.
        """
        quantized = self._checkpoint.layers[layer.name]
        scale = quantized.scale
        unit = np.float64(self._stored[layer.sources[0]].scale) * scale
        zeros = np.full(scale.shape, quantized.zero_point, weight.dtype)
        return [
            self._constant(f"{layer.name}.weight", weight, scale, zeros, axis),
            self._constant(
                f"{layer.name}.bias", bias, unit.astype(np.float32), np.zeros_like(bias), 0
            ),
        ]

    def _constant(
        self, name: str, values: NDArray[Any], scale: Any, zeros: NDArray[Any], axis: int
    ) -> str:
        """A constant that stands for other numbers, one scale per place along an axis."""
        parts = (("int", values), ("scale", scale), ("zero", zeros))
        inputs = [self._graph.constant(f"{name}.{part}", array) for part, array in parts]
        return self._graph.node("DequantizeLinear", inputs, name, axis=axis)

    def _padded(self, layer: Layer) -> str:
        """The pixels with the first layer's border, in which each channel has its own zero point."""
        graph, image = self._graph, self._codes[IMAGE]
        top, bottom, left, right = layer.padding
        sides: list[Dimension] = list(layer.in_shape[1:])
        before: list[Dimension] = [top, left]
        if self._dynamic:
            sides = [graph.sides(image, 2, 3), graph.sides(image, 3, 4)]
        if self._dynamic and self._checkpoint.architecture.padding == "same" and layer.stride > 1:
            # one before an odd side, none before an even one, and one behind either
            before = [graph.node("Mod", [s, graph.whole(2)], f"{s}.odd") for s in map(str, sides)]
            bottom = right = 1
        zero = graph.constant(
            "image.zeros", np.array(self._image_zeros, np.uint8).reshape(1, -1, 1, 1)
        )
        batch = graph.sides(image, 0, 1) if self._batch is None else self._batch

        def strip(name: str, rows: Dimension, columns: Dimension) -> list[str]:
            if rows == 0 or columns == 0:
                return []
            shape = graph.shape(f"image.{name}.shape", batch, 1, rows, columns)
            return [graph.node("Expand", [zero, shape], f"image.{name}")]

        above = strip("top", before[0], sides[1])
        below = strip("bottom", bottom, sides[1])
        tall = graph.node("Concat", [*above, image, *below], "image.tall", axis=2)
        rows = graph.sides(tall, 2, 3) if self._dynamic else layer.in_shape[1] + top + bottom
        beside = strip("left", rows, before[1]), strip("right", rows, right)
        return graph.node("Concat", [*beside[0], tall, *beside[1]], "image.padded", axis=3)


def clip_limits(layer: Layer, stored: Activation) -> tuple[int, ...]:
    """The lowest and the highest stored value of a layer's activation; none where these are those of
    uint8.
    """
    if layer.activation == "linear":
        return ()
    low, high = stored.zero_point, 255
    if layer.activation == "relu6":
        high = min(high, low + round(6 / stored.scale))
    return () if (low, high) == (0, 255) else (low, high)
