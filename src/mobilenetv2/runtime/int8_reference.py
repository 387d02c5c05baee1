"""An int8 network in plain NumPy: the oracle for the int8 kernels, which must store the same values.

One loop over `layers()`. Sums are whole numbers, exact in float64. What follows them is float32,
one operation at a time, with "nearest", and int64 with "twice".
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arguments import check_kind
from ..errors import UserError
from ..graph import layers, network
from ..int8 import Int8Checkpoint, stored_tensors
from ..layer import Layer
from .inputs import check_images, checked_names, to_pixels
from .int8_scales import ADD_BITS, halves_from, int8_obstacle, mean_fixed_point
from .reference import Tensor, as_answer, convolution, depthwise, resize_corners
from .rounding import (
    average_pool,
    fixed_points,
    rescaled,
    rescaling,
    resize_codes,
    stored,
    sum_scale,
)


class Int8Reference:
    """Runs a quantised checkpoint layer by layer.

    Args:
        checkpoint: The model: a classifier, or one that ends in features.

    Raises:
        UserError: A network of another kind.
    """

    def __init__(self, checkpoint: Int8Checkpoint) -> None:
        check_kind("checkpoint", checkpoint, Int8Checkpoint)
        architecture = checkpoint.architecture
        obstacle = int8_obstacle(architecture, checkpoint.rounding)
        if obstacle:
            raise UserError(f"the network cannot run in int8: {obstacle}")
        self.checkpoint = checkpoint
        self._twice = checkpoint.rounding == "twice"
        self._out = checkpoint.activations
        self._scale = {name: out.scale for name, out in self._out.items()}
        self._scale["image"] = checkpoint.image_scale
        self._zero = {name: np.array(out.zero_point) for name, out in self._out.items()}
        self._zero["image"] = np.array(checkpoint.image_zero_points)
        self._weights: dict[str, tuple[Tensor, Tensor]] = {}
        self._sum_of: dict[str, str] = {}  # the projection before each sum
        for layer in layers(architecture):
            if layer.weight:
                stored_layer = checkpoint.layers[layer.name]
                weight = stored_layer.weight.astype(np.float64) - stored_layer.zero_point
                weight = weight.reshape(*weight.shape[:2], layer.kernel, layer.kernel)
                self._weights[layer.name] = weight, stored_layer.bias.astype(np.float64)
            if layer.kind == "add":
                self._sum_of[layer.sources[1]] = layer.name

    def __call__(self, images: Tensor) -> Any:
        """uint8 (N, H, W, C) pixels -> the network's output as float32: (N, classes) logits of a
        classifier, else (N, H, W, C); a dict by name where there are several.

        float32 images are taken as normalised already, and rounded to pixels.

        Raises:
            UserError: Not a batch of images of the network's channels, an empty batch, or NaN.
        """
        net = network(self.checkpoint.architecture)
        return as_answer(
            net,
            {
                name: self.real(name, values) if name in self._out else values
                for name, values in self._walk(images, net.outputs).items()
            },
        )

    def run(self, images: Tensor, names: Collection[str]) -> dict[str, NDArray[np.uint8]]:
        """The outputs (N, H, W, C) of the named layers as they are stored; `images` as for the
        call.
        """
        names = checked_names(names)
        stored_names = stored_tensors(self.checkpoint.architecture, self.checkpoint.rounding)
        unknown = sorted(set(names) - set(stored_names))
        if unknown:
            raise UserError(
                f"no layer stores {', '.join(unknown)}; stored are {', '.join(stored_names)}"
            )
        return self._walk(images, names)

    def real(self, name: str, values: NDArray[np.uint8]) -> NDArray[np.float32]:
        """What the values stored by a layer stand for: (value - zero point) * scale."""
        return self._centred(name, values).astype(np.float32) * np.float32(self._scale[name])

    def _centred(self, name: str, values: NDArray[np.uint8]) -> NDArray[np.float64]:
        """value - zero point."""
        centred: NDArray[np.float64] = values.astype(np.float64) - self._zero[name]
        return centred

    def _walk(self, images: Tensor, names: Collection[str]) -> dict[str, Tensor]:
        check_images(images, self.checkpoint.architecture.in_channels)
        values: dict[str, Tensor] = {"image": to_pixels(images, self.checkpoint.preprocessing)}
        steps = layers(self.checkpoint.architecture, images.shape[1], images.shape[2])
        last_use = {source: index for index, layer in enumerate(steps) for source in layer.sources}
        for index, layer in enumerate(steps):
            values[layer.name] = self._step(layer, [values[source] for source in layer.sources])
            for source in layer.sources:
                if last_use[source] == index and source not in names:
                    values.pop(source, None)
        return {name: values[name] for name in names}

    def _step(self, layer: Layer, inputs: list[Tensor]) -> Tensor:
        """What the layer stores, uint8. With "nearest" two things are float32 instead: logits, resized
        or not, and a projection before a sum, in steps of that sum.
        """
        if layer.kind == "concat":
            sources = zip(layer.sources, inputs, strict=True)
            rescaled_inputs = [rescaling(self.checkpoint, s, layer.name)[x] for s, x in sources]
            return np.concatenate(rescaled_inputs, axis=3)
        if layer.kind == "resize" and layer.name not in self._out:
            return resize_corners(inputs[0], *layer.out_shape[1:])
        if layer.kind == "resize":
            return resize_codes(inputs[0], *layer.out_shape[1:], self.checkpoint.signed)
        if layer.kind == "add":
            return self._add(layer, inputs)
        if layer.kind == "pool":
            return self._pool(layer, inputs[0])
        sums = self._sums(layer, inputs[0])
        factor = sum_scale(self.checkpoint, layer)
        out = self._out.get(layer.name)
        if out is None:
            step = self._scale[self._sum_of[layer.name]] if layer.name in self._sum_of else 1.0
            return sums.astype(np.float32) * (factor / step).astype(np.float32)
        factor = factor / out.scale
        if self._twice:
            return stored(rescaled(sums, *fixed_points(factor)), out, layer.activation)
        return stored(sums.astype(np.float32) * factor.astype(np.float32), out, layer.activation)

    def _sums(self, layer: Layer, x: Tensor) -> NDArray[np.float64]:
        """bias + sum of (input - zero point) * (weight - zero point); the border is 0."""
        weight, bias = self._weights[layer.name]
        centred = self._centred(layer.sources[0], x)
        multiplied = depthwise if layer.kind == "depthwise" else convolution
        return multiplied(centred, weight, layer) + bias

    def _add(self, layer: Layer, inputs: list[Tensor]) -> NDArray[np.uint8]:
        """Shortcut and projection, brought to one scale and added."""
        out, (shortcut, _) = self._out[layer.name], layer.sources
        if not self._twice:
            factor = np.float32(self._scale[shortcut] / out.scale)
            return stored(
                inputs[1] + self._centred(shortcut, inputs[0]).astype(np.float32) * factor, out
            )
        unit = 2 * max(self._scale[name] for name in layer.sources)
        first, second = (
            rescaled(
                self._centred(name, values) * 2**ADD_BITS, *fixed_points(self._scale[name] / unit)
            )
            for name, values in zip(layer.sources, inputs, strict=True)
        )
        back = fixed_points(unit / (out.scale * 2**ADD_BITS))
        return stored(rescaled(first + second, *back), out)

    def _pool(self, layer: Layer, x: Tensor) -> NDArray[np.uint8]:
        """The average of the map."""
        source, out = self._out[layer.sources[0]], self._out[layer.name]
        count = layer.in_shape[1] * layer.in_shape[2]
        total = x.sum(axis=(1, 2), keepdims=True, dtype=np.int64)  # (N, 1, 1, C)
        if self.checkpoint.pooling == "average":
            return average_pool(total, count, halves_from(self.checkpoint))
        centred = total - count * source.zero_point
        if not self._twice:
            factor = np.float32(source.scale / (count * out.scale))
            return stored(centred.astype(np.float32) * factor, out)
        fixed, power = mean_fixed_point(source, out, count)
        return stored(rescaled(centred, np.array(fixed), np.array(power)), out)
