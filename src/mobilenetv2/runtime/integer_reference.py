"""A quantised network in plain NumPy: the oracle for integer kernels, which must give its bytes.

One loop over `layers()`. Sums are whole numbers, exact in float64; what follows them is float32,
one operation at a time.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from ..architecture import Layer, layers
from ..errors import UserError
from ..quantized import Activation, QuantizedCheckpoint, stored_tensors
from .inputs import check_images, to_pixels
from .reference import LIMITS, Tensor, convolution, depthwise


class IntegerReference:
    """Runs a quantised checkpoint layer by layer.

    Args:
        checkpoint: The model: a classifier, or one that ends in features.

    Raises:
        UserError: A network of another kind.
    """

    def __init__(self, checkpoint: QuantizedCheckpoint) -> None:
        architecture = checkpoint.architecture
        if architecture.head not in ("classifier", "features"):
            raise UserError(f"the head {architecture.head!r} does not run in integers")
        if architecture.shortcut == "expansion":
            raise UserError("shortcuts between expansions do not run in integers")
        self.checkpoint = checkpoint
        self._twice = checkpoint.rounding == "twice"
        self._out = checkpoint.activations
        self._scale = {name: stored.scale for name, stored in self._out.items()}
        self._scale["image"] = checkpoint.image_scale
        self._zero = {name: np.array(stored.zero_point) for name, stored in self._out.items()}
        self._zero["image"] = np.array(checkpoint.image_zero_points)
        self._weights: dict[str, tuple[Tensor, Tensor]] = {}
        self._sum_of: dict[str, str] = {}  # the projection before each sum
        for layer in layers(architecture):
            if layer.weight:
                stored = checkpoint.layers[layer.name]
                weight = stored.weight.astype(np.float64) - stored.zero_point
                weight = weight.reshape(*weight.shape[:2], layer.kernel, layer.kernel)
                self._weights[layer.name] = weight, stored.bias.astype(np.float64)
            if layer.kind == "add":
                self._sum_of[layer.sources[1]] = layer.name

    def __call__(self, images: Tensor) -> NDArray[np.float32]:
        """uint8 (N, H, W, C) pixels -> the last layer's output as float32: (N, classes) logits of a
        classifier, else (N, H, W, C).

        float32 images are taken as normalised already, and rounded to pixels.

        Raises:
            UserError: Not a batch of pictures of the network's channels, an empty batch, or NaN.
        """
        last = layers(self.checkpoint.architecture)[-1]
        out = self._walk(images, (last.name,))[last.name]
        if last.name in self._out:
            out = self.real(last.name, out)
        return out.reshape(len(out), -1) if last.kind == "linear" else out

    def run(self, images: Tensor, wanted: Collection[str]) -> dict[str, NDArray[np.uint8]]:
        """The outputs (N, H, W, C) of the named layers as they are stored; `images` as for the
        call.
        """
        stored = stored_tensors(self.checkpoint.architecture, self.checkpoint.rounding)
        unknown = sorted(set(wanted) - set(stored))
        if unknown:
            raise UserError(f"no layer stores {', '.join(unknown)}; stored are {', '.join(stored)}")
        return self._walk(images, wanted)

    def real(self, name: str, values: NDArray[np.uint8]) -> NDArray[np.float32]:
        """What the values stored by a layer stand for: (value - zero point) * scale."""
        return (values - self._zero[name]).astype(np.float32) * np.float32(self._scale[name])

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
            return sums * (factor / step).astype(np.float32)
        factor = factor / out.scale
        if self._twice:
            return rounded_twice(sums, *multiplier(factor), out, layer.activation)
        return rounded(sums * factor.astype(np.float32), out, layer.activation)

    def _sums(self, layer: Layer, x: Tensor) -> NDArray[np.float32]:
        """bias + sum of (input - zero point) * (weight - zero point); the border is 0."""
        weight, bias = self._weights[layer.name]
        centred = x - self._zero[layer.sources[0]].astype(np.float64)
        multiplied = depthwise if layer.kind == "depthwise" else convolution
        return (multiplied(centred, weight, layer) + bias).astype(np.float32)

    def _sum_scale(self, layer: Layer) -> NDArray[np.float64]:
        """What 1 in the sum of each output channel stands for."""
        scale, weight = self._scale[layer.sources[0]], self.checkpoint.layers[layer.name]
        if self._twice and weight.weight.dtype == np.uint8:  # TensorFlow Lite's float product
            return (np.float32(scale) * weight.scale).astype(np.float64)
        return scale * weight.scale.astype(np.float64)

    def _add(self, layer: Layer, inputs: list[Tensor]) -> NDArray[np.uint8]:
        """Shortcut and projection in steps of the sum."""
        out = self._out[layer.name]
        shortcut, projection = (
            (values - self._zero[name]).astype(np.float32)
            * np.float32(self._scale[name] / out.scale)
            if name in self._out
            else values
            for name, values in zip(layer.sources, inputs, strict=True)
        )
        return rounded(projection + shortcut, out)

    def _pool(self, layer: Layer, x: Tensor) -> NDArray[np.uint8]:
        """The average of the map, (N, 1, 1, C)."""
        source, out = self._out[layer.sources[0]], self._out[layer.name]
        count = layer.in_shape[1] * layer.in_shape[2]
        total = x.sum(axis=(1, 2), keepdims=True, dtype=np.int64)
        centred = total - count * source.zero_point
        if not self._twice:
            factor = np.float32(source.scale / (count * out.scale))
            return rounded(centred.astype(np.float32) * factor, out)
        if source == out:  # AVERAGE_POOL_2D
            return ((total + count // 2) // count).astype(np.uint8)
        fraction, power = multiplier(np.float64(source.scale / out.scale))  # MEAN
        shift = count.bit_length() - 1
        fraction = np.floor(np.ldexp(fraction, 31 + shift) / count) / 2.0**31
        return rounded_twice(centred.astype(np.float64), fraction, power - shift, out)


def limits(activation: str, out: Activation) -> tuple[int, int]:
    """The lowest and the highest value that an activation lets through, less the zero point."""
    low, high = LIMITS.get(activation, (None, None))
    return (
        -out.zero_point if low is None else 0,
        255 - out.zero_point if high is None
        else min(255 - out.zero_point, int(np.rint(high / out.scale))),
    )


def rounded(values: NDArray[np.float32], out: Activation, activation: str = "linear") -> NDArray[np.uint8]:
    """Values in steps of `out`, rounded half to even."""
    return (np.rint(np.clip(values, *limits(activation, out))) + out.zero_point).astype(np.uint8)


def multiplier(factor: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """A factor as TensorFlow Lite stores it: a fraction of 31 bits in 0.5..1, and a power of two."""
    fraction, power = np.frexp(factor)
    return np.floor(fraction * 2.0**31 + 0.5) / 2.0**31, power


def rounded_twice(
    sums: Tensor,
    fraction: NDArray[np.float64],
    power: NDArray[np.int32],
    out: Activation,
    activation: str = "linear",
) -> NDArray[np.uint8]:
    """sums * fraction rounded, then * 2**power rounded with halves away from zero; all in the type
    of `sums`.
    """
    kind = sums.dtype.type
    first = np.rint(sums * np.ldexp(fraction.astype(kind), np.maximum(power, 0)))
    scaled = first * np.ldexp(kind(1), np.minimum(power, 0))
    second = np.trunc(scaled + np.copysign(kind(0.5), scaled))
    return (np.clip(second, *limits(activation, out)) + out.zero_point).astype(np.uint8)
