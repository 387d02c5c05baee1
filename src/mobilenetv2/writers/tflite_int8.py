"""The layers of an int8 model as integer operators of a LiteRT graph, with the model's own integers,
scales and zero points.

Activations are int8, 128 less than ours. They are uint8 where the model was read from a uint8 file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..int8 import Activation, Int8Checkpoint
from ..int8_layers import Int8Layer
from ..layer import IMAGE, Layer
from .arrays import activations, bias_of_pixels
from .options import WriteOptions, WriterError
from .tflite_graph import Graph, Quantization
from .tflite_layers import Layers


class Int8Layers(Layers):
    """As `Layers`, of an int8 model; `image` is from `image_codes`.

    Args:
        graph: Where to.
        checkpoint: The model.
        image: The tensor that the first layer reads.
        options: Those of the file.

    Raises:
        WriterError: The format does not hold the model.
    """

    def __init__(
        self, graph: Graph, checkpoint: Int8Checkpoint, image: int, options: WriteOptions
    ) -> None:
        super().__init__(graph, checkpoint, image, options)
        self._int8, self._type = checkpoint, stored_type(checkpoint)
        self._stored = {**activations(checkpoint), IMAGE: image_activation(checkpoint)}
        if self._type == np.uint8 and (
            mixed := [name for name, layer in checkpoint.layers.items() if not one_scale(layer)]
        ):
            raise WriterError(
                f"tflite: {mixed[0]} has uint8 activations and one scale per channel: LiteRT has "
                "those for int8 only"
            )

    def tensor(self, name: str, shape: Sequence[int], like: str | None = None) -> int:
        """As `Layers.tensor`, with its scale and zero point."""
        quantization = quantization_of(self._stored[like or name], self._type)
        return self.graph.tensor(name, shape, self._type, quantization)

    def arrays(self, layer: Layer) -> list[int]:
        """As `Layers.arrays`: the model's integers."""
        quantized = self._int8.layers[layer.name]
        bias = quantized.bias
        if layer.sources[0] == IMAGE and self._pads_by_channel():
            bias = bias_of_pixels(quantized, self._int8.image_zero_points)
        weight, zero = self._shifted(quantized)
        axes, axis, weight = self.in_axes(layer, weight)
        scale = quantized.scale
        if self._type == np.uint8 or (weight.ndim == 2 and one_scale(quantized)):
            scale = scale[:1]
        unit = np.float64(self._stored[layer.sources[0]].scale) * scale
        zeros = np.zeros(len(scale), np.int64)
        return [
            self.graph.constant(
                f"{layer.name}.weight",
                weight.transpose(axes),
                Quantization(scale, zeros + zero, axis),
            ),
            self.graph.constant(
                f"{layer.name}.bias", bias, Quantization(unit.astype(np.float32), zeros)
            ),
        ]

    def _shifted(self, quantized: Int8Layer) -> tuple[NDArray[Any], int]:
        """Weights and their zero point in the type that the operators read."""
        weight, zero = quantized.weight, quantized.zero_point
        if weight.dtype == self._type:
            return weight, zero
        shift = -128 if self._type == np.int8 else 128
        return (weight.astype(np.int16) + shift).astype(self._type), zero + shift

    def concatenated(self, layer: Layer, sources: list[int]) -> list[int]:
        """As `Layers.concatenated`: at the scale of the result."""
        joined = []
        for name, source in zip(layer.sources, sources, strict=True):
            if self._stored[name] != self._stored[layer.name]:
                shape = self.graph.shape(source)
                out = self.tensor(f"{name}.rescaled", shape, like=layer.name)
                source = self.graph.operator("QUANTIZE", [source], out)
            joined.append(source)
        return joined

    def pool(self, layer: Layer, source: int) -> int:
        """As `Layers.pool`, with the average that the model has."""
        is_average = self._int8.pooling == "average"
        return self.average(layer, source) if is_average else super().pool(layer, source)

    def is_flat(self) -> bool:
        """As `Layers.is_flat`: a FULLY_CONNECTED has one scale in runtimes from before 2024."""
        return all(
            one_scale(self._int8.layers[layer.name])
            for layer in self.net.layers
            if layer.kind == "linear"
        )

    def convolution(self, layer: Layer, source: int, is_padded: bool = False) -> int:
        """As `Layers.convolution`; the first one may read a border with a value per channel."""
        if layer.sources[0] == IMAGE and self._pads_by_channel():
            return super().convolution(layer, self._bordered(layer, source), is_padded=True)
        return super().convolution(layer, source, is_padded)

    def _pads_by_channel(self) -> bool:
        return len(set(self._int8.image_zero_points)) > 1

    def _bordered(self, layer: Layer, image: int) -> int:
        """The image between strips of the pixel that stands for 0."""
        if self.options.batch is None or self.options.dynamic_size:
            raise WriterError(
                "tflite: the channels of an int8 model's image have different zero points, so that "
                "its border is part of the file: give a batch and no dynamic_size"
            )
        shift = 128 if self._type == np.int8 else 0
        pixel = (np.array(self._int8.image_zero_points) - shift).astype(self._type)
        top, bottom, left, right = layer.padding
        channels, height, width = layer.in_shape
        quantization = quantization_of(self._stored[IMAGE], self._type)

        def strip(rows: int, columns: int) -> list[int]:
            values = np.broadcast_to(pixel, (self.batch, rows, columns, channels))
            name = f"{IMAGE}.border.{rows}x{columns}"
            return [self.graph.constant(name, values, quantization)] if values.size else []

        tall, wide = height + top + bottom, width + left + right
        rows = [*strip(top, width), image, *strip(bottom, width)]
        out = self.tensor(f"{IMAGE}.tall", (self.batch, tall, width, channels), like=IMAGE)
        image = self.graph.operator("CONCATENATION", rows, out, Axis=1)
        columns = [*strip(tall, left), image, *strip(tall, right)]
        out = self.tensor(f"{IMAGE}.bordered", (self.batch, tall, wide, channels), like=IMAGE)
        return self.graph.operator("CONCATENATION", columns, out, Axis=2)


def stored_type(checkpoint: Int8Checkpoint) -> Any:
    """The type of a file's activations: that of the file that the model is from, else int8."""
    weights = checkpoint.layers.values()
    imported = checkpoint.rounding == "twice" and not checkpoint.signed
    uint8 = imported and all(layer.weight.dtype == np.uint8 for layer in weights)
    return np.dtype(np.uint8 if uint8 else np.int8)


def one_scale(layer: Int8Layer) -> bool:
    """Whether all outputs of a layer have one scale."""
    return bool((layer.scale == layer.scale[0]).all())


def image_activation(checkpoint: Int8Checkpoint) -> Activation:
    """How the image is stored; with zero point 0 where its channels have different ones."""
    zero, *others = dict.fromkeys(checkpoint.image_zero_points)
    return Activation(checkpoint.image_scale, 0 if others else zero)


def quantization_of(stored: Activation, type_: Any) -> Quantization:
    """Scale and zero point of a tensor of int8 or uint8."""
    shift = 128 if type_ == np.int8 else 0
    zero = np.array([stored.zero_point - shift], np.int64)
    return Quantization(np.array([stored.scale], np.float32), zero)


def image_codes(graph: Graph, checkpoint: Int8Checkpoint, options: WriteOptions) -> int:
    """Declares the image and returns the tensor that the first layer reads."""
    architecture = checkpoint.architecture
    shape = (options.batch or 1, *architecture.resolution, architecture.in_channels)
    stored, type_ = image_activation(checkpoint), stored_type(checkpoint)
    if options.input == "uint8":
        image = graph.tensor(IMAGE, shape, np.uint8, quantization_of(stored, np.uint8))
        graph.inputs = [image]
        if type_ == np.uint8:
            return image
    else:
        image = graph.tensor(IMAGE, shape)
        graph.inputs = [image]
        # from the normalised value to what the stored pixel stands for
        scale, offset = checkpoint.preprocessing.scale_offset()
        factor = stored.scale / scale
        image = scaled(graph, image, factor, -offset * factor - stored.zero_point * stored.scale)
    codes = graph.tensor(f"{IMAGE}.codes", shape, type_, quantization_of(stored, type_))
    return graph.operator("QUANTIZE", [image], codes)


def scaled(graph: Graph, image: int, scale: NDArray[Any], offset: NDArray[Any]) -> int:
    """Adds a factor and then an offset per channel to a float32 image, where they change it."""
    name, shape = graph.name(image), graph.shape(image)
    if not (scale == 1).all():
        factor = graph.constant(f"{IMAGE}.scale", scale.astype(np.float32))
        image = graph.operator("MUL", [image, factor], graph.tensor(f"{name}.scaled", shape))
    if offset.any():
        summand = graph.constant(f"{IMAGE}.offset", offset.astype(np.float32))
        image = graph.operator("ADD", [image, summand], graph.tensor(f"{name}.shifted", shape))
    return image
