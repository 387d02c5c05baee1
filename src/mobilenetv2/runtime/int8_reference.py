"""A quantised network in plain NumPy: the oracle for integer kernels, which must give its bytes.

One loop over `layers()`. Sums are whole numbers, exact in float64. What follows them is float32,
one operation at a time, with "nearest", and int64 with "twice".
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..graph import Layer, layers
from ..int8 import Activation, Int8Checkpoint, stored_tensors
from .inputs import check_images, to_pixels
from .reference import LIMITS, Tensor, convolution, depthwise

ADD_BITS = 20  # of fraction in a sum


class Int8Reference:
    """Runs a quantised checkpoint layer by layer.

    Args:
        checkpoint: The model: a classifier, or one that ends in features.

    Raises:
        UserError: A network of another kind.
    """

    def __init__(self, checkpoint: Int8Checkpoint) -> None:
        check_int8(checkpoint)
        architecture = checkpoint.architecture
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
                found = checkpoint.layers[layer.name]
                weight = found.weight.astype(np.float64) - found.zero_point
                weight = weight.reshape(*weight.shape[:2], layer.kernel, layer.kernel)
                self._weights[layer.name] = weight, found.bias.astype(np.float64)
            if layer.kind == "add":
                self._sum_of[layer.sources[1]] = layer.name

    def __call__(self, images: Tensor) -> NDArray[np.float32]:
        """uint8 (N, H, W, C) pixels -> the last layer's output as float32: (N, classes) logits of a
        classifier, else (N, H, W, C).

        float32 images are taken as normalised already, and rounded to pixels.

        Raises:
            UserError: Not a batch of images of the network's channels, an empty batch, or NaN.
        """
        last = layers(self.checkpoint.architecture)[-1]
        found = self._walk(images, (last.name,))[last.name]
        out = self.real(last.name, found) if last.name in self._out else found
        return out.reshape(len(out), -1) if last.kind == "linear" else out

    def run(self, images: Tensor, wanted: Collection[str]) -> dict[str, NDArray[np.uint8]]:
        """The outputs (N, H, W, C) of the named layers as they are stored; `images` as for the
        call.
        """
        names = stored_tensors(self.checkpoint.architecture, self.checkpoint.rounding)
        unknown = sorted(set(wanted) - set(names))
        if unknown:
            raise UserError(f"no layer stores {', '.join(unknown)}; stored are {', '.join(names)}")
        return self._walk(images, wanted)

    def real(self, name: str, values: NDArray[np.uint8]) -> NDArray[np.float32]:
        """What the values stored by a layer stand for: (value - zero point) * scale."""
        return self._centred(name, values).astype(np.float32) * np.float32(self._scale[name])

    def _centred(self, name: str, values: NDArray[np.uint8]) -> NDArray[np.float64]:
        """value - zero point."""
        centred: NDArray[np.float64] = values.astype(np.float64) - self._zero[name]
        return centred

    def _walk(self, images: Tensor, wanted: Collection[str]) -> dict[str, Tensor]:
        check_images(images, self.checkpoint.architecture.in_channels)
        values: dict[str, Tensor] = {"image": to_pixels(images, self.checkpoint.preprocessing)}
        steps = layers(self.checkpoint.architecture, images.shape[1], images.shape[2])
        last_use = {source: index for index, layer in enumerate(steps) for source in layer.sources}
        for index, layer in enumerate(steps):
            values[layer.name] = self._step(layer, [values[source] for source in layer.sources])
            for source in layer.sources:
                if last_use[source] == index and source not in wanted:
                    values.pop(source, None)
        return {name: values[name] for name in wanted}

    def _step(self, layer: Layer, inputs: list[Tensor]) -> Tensor:
        """What the layer stores, uint8. With "nearest" two things are float32 instead: logits, and
        a projection before a sum, in steps of that sum.
        """
        if layer.kind == "add":
            return self._add(layer, inputs)
        if layer.kind == "pool":
            return self._pool(layer, inputs[0])
        sums = self._sums(layer, inputs[0])
        factor = self._sum_scale(layer)
        out = self._out.get(layer.name)
        if out is None:
            step = self._scale[self._sum_of[layer.name]] if layer.name in self._sum_of else 1.0
            return sums.astype(np.float32) * (factor / step).astype(np.float32)
        factor = factor / out.scale
        if self._twice:
            return stored(rescaled(sums, *fixed_point(factor)), out, layer.activation)
        return stored(sums.astype(np.float32) * factor.astype(np.float32), out, layer.activation)

    def _sums(self, layer: Layer, x: Tensor) -> NDArray[np.float64]:
        """bias + sum of (input - zero point) * (weight - zero point); the border is 0."""
        weight, bias = self._weights[layer.name]
        centred = self._centred(layer.sources[0], x)
        multiplied = depthwise if layer.kind == "depthwise" else convolution
        return multiplied(centred, weight, layer) + bias

    def _sum_scale(self, layer: Layer) -> NDArray[np.float64]:
        """What 1 in the sum of each output channel stands for."""
        scale, weight = self._scale[layer.sources[0]], self.checkpoint.layers[layer.name]
        if self._twice and weight.weight.dtype == np.uint8:  # TensorFlow Lite's float product
            return (np.float32(scale) * weight.scale).astype(np.float64)
        return scale * weight.scale.astype(np.float64)

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
                self._centred(name, values) * 2**ADD_BITS, *fixed_point(self._scale[name] / unit)
            )
            for name, values in zip(layer.sources, inputs, strict=True)
        )
        back = fixed_point(unit / (out.scale * 2**ADD_BITS))
        return stored(rescaled(first + second, *back), out)

    def _pool(self, layer: Layer, x: Tensor) -> NDArray[np.uint8]:
        """The average of the map."""
        source, out = self._out[layer.sources[0]], self._out[layer.name]
        count = layer.in_shape[1] * layer.in_shape[2]
        total = x.sum(axis=(1, 2), keepdims=True, dtype=np.int64)  # (N, 1, 1, C)
        centred = total - count * source.zero_point
        if not self._twice:
            factor = np.float32(source.scale / (count * out.scale))
            return stored(centred.astype(np.float32) * factor, out)
        if source == out:  # AVERAGE_POOL_2D
            average: NDArray[np.uint8] = ((total + count // 2) // count).astype(np.uint8)
            return average
        fixed, power = fixed_point(source.scale / out.scale)  # MEAN
        shift = count.bit_length() - 1
        return stored(rescaled(centred, (fixed << shift) // count, power - shift), out)


def check_int8(checkpoint: Int8Checkpoint) -> None:
    """Refuses networks that have layers for which there is no integer arithmetic.

    Raises:
        UserError: Another head, shortcuts between expansions, or bottlenecks that are limited
            before a sum that is rounded once.
    """
    architecture = checkpoint.architecture
    if architecture.head not in ("classifier", "features"):
        raise UserError(f"the head {architecture.head!r} does not run in integers")
    if architecture.shortcut == "expansion":
        raise UserError("shortcuts between expansions do not run in integers")
    added = any(layer.kind == "add" for layer in layers(architecture))
    if added and architecture.bottleneck != "linear" and checkpoint.rounding == "nearest":
        raise UserError(
            f"bottlenecks with {architecture.bottleneck} and shortcuts do not run in integers"
        )


def stored(values: Tensor, out: Activation, activation: str = "linear") -> NDArray[np.uint8]:
    """Values in steps of `out` as they are stored, floats rounded half to even."""
    lowest, highest = code_limits(out, activation)
    found: NDArray[np.uint8] = (np.rint(np.clip(values, lowest, highest)) + out.zero_point).astype(
        np.uint8
    )
    return found


def code_limits(out: Activation, activation: str) -> tuple[int, int]:
    """The least and the greatest code that an activation lets through, less the zero point."""
    low, high = LIMITS.get(activation, (None, None))
    highest = 255 - out.zero_point
    if high is not None:
        highest = min(highest, int(np.rint(high / out.scale)))
    return (-out.zero_point if low is None else 0), highest


def fixed_point(factor: NDArray[np.float64] | float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """A factor as TensorFlow Lite stores it: 31 bits of a fraction in 0.5..1, and a power of two."""
    fraction, power = np.frexp(factor)
    fixed = np.floor(fraction * 2**31 + 0.5).astype(np.int64)
    full = fixed == 2**31
    fixed, power = np.where(full, 2**30, fixed), power + full.astype(np.int64)
    return np.where(power < -31, 0, fixed), np.maximum(power, -31)


def rescaled(
    values: Tensor, fixed: NDArray[np.int64], power: NDArray[np.int64]
) -> NDArray[np.int64]:
    """values * fixed * 2**(power - 31), rounded twice: at the fraction's last bit, halves up, then at
    the power of two, halves away from zero (gemmlowp's rule).
    """
    scaled = (values.astype(np.int64) << np.maximum(power, 0)) * fixed
    scaled += 1 << 30
    scaled >>= 31
    right = np.maximum(-power, 0)
    half = (1 << right) >> 1
    found: NDArray[np.int64] = np.sign(scaled) * ((np.abs(scaled) + half) >> right)
    return found
