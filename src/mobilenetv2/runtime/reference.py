"""The network in plain NumPy: slow, obvious, the oracle for everything faster.

One loop over `layers()`; tensors are (N, H, W, C). Batch norms are folded in float64 first.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arguments import check_kind
from ..checkpoint import Checkpoint
from ..errors import UserError
from ..folding import fold
from ..graph import Network, layers, network
from ..layer import Layer
from .inputs import check_images, checked_names

Tensor = NDArray[Any]
LIMITS = {"relu6": (0, 6), "relu": (0, None)}


class Reference:
    """Runs a float checkpoint layer by layer.

    Args:
        checkpoint: The model.
        dtype: numpy.float32, or numpy.float64 to know the rounding of the former.
    """

    def __init__(self, checkpoint: Checkpoint, dtype: Any = np.float32) -> None:
        check_kind("checkpoint", checkpoint, Checkpoint)
        self.checkpoint = checkpoint
        self.dtype = np.dtype(dtype)

    def __call__(self, images: Tensor) -> Any:
        """uint8 (N, H, W, C) pixels -> the network's output: (N, classes) logits of a classifier,
        else (N, H, W, C); a dict by name where there are several.

        float32 images are taken as normalised already.

        Raises:
            UserError: Not a batch of images of the network's channels, an empty batch, or NaN.
        """
        net = network(self.checkpoint.architecture)
        return as_answer(net, self.run(images, net.outputs))

    def run(self, images: Tensor, names: Collection[str]) -> dict[str, Tensor]:
        """The outputs (N, H, W, C) of the named layers; `images` as for the call."""
        names = checked_names(names)
        x = self._normalised(images)
        steps = layers(self.checkpoint.architecture, x.shape[1], x.shape[2])
        unknown = sorted(set(names) - {layer.name for layer in steps})
        if unknown:
            raise UserError(f"no layer named {', '.join(unknown)}; `mobilenetv2 cost` lists them")
        last_use = {source: index for index, layer in enumerate(steps) for source in layer.sources}
        values = {"image": x}
        for index, layer in enumerate(steps):
            values[layer.name] = self._step(layer, [values[source] for source in layer.sources])
            for source in layer.sources:
                if last_use[source] == index and source not in names:
                    values.pop(source, None)
        return {name: values[name] for name in names}

    @cached_property
    def _weights(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Kernel and bias of each layer that has them, batch norms folded in."""
        weights: dict[str, tuple[Tensor, Tensor]] = {}
        for layer in layers(self.checkpoint.architecture):
            if layer.weight:
                weight, bias = self._folded(layer)
                weights[layer.name] = weight.astype(self.dtype), bias.astype(self.dtype)
        return weights

    def _folded(self, layer: Layer) -> tuple[Tensor, Tensor]:
        return fold(self.checkpoint, layer)

    def _normalised(self, images: Tensor) -> Tensor:
        check_images(images, self.checkpoint.architecture.in_channels)
        if images.dtype == np.uint8:
            return self.checkpoint.preprocessing.normalize(images).astype(self.dtype)
        return images.astype(self.dtype)

    def _step(self, layer: Layer, inputs: list[Tensor]) -> Tensor:
        out: Tensor
        if layer.kind == "add":
            out = inputs[0] + inputs[1]
        elif layer.kind == "concat":
            out = np.concatenate(inputs, axis=3)
        elif layer.kind == "pool":
            out = inputs[0].mean(axis=(1, 2), keepdims=True)  # (N, 1, 1, C)
        elif layer.kind == "resize":
            out = resize_corners(inputs[0], layer.out_shape[1], layer.out_shape[2])
        else:
            out = self._weighted(layer, inputs[0])
        return out

    def _weighted(self, layer: Layer, x: Tensor) -> Tensor:
        """A convolution, depthwise convolution or linear layer, its bias and its activation."""
        weight, bias = self._weights[layer.name]
        if layer.kind == "depthwise":
            out = depthwise(x, weight, layer)
        else:
            weight = weight.reshape(layer.out_shape[0], -1, layer.kernel, layer.kernel)
            out = convolution(x, weight, layer)
        return activated(layer, out + bias)


def activated(layer: Layer, out: Tensor) -> Tensor:
    """The sums of a layer after its activation."""
    if layer.activation == "linear":
        return out
    low, high = LIMITS[layer.activation]
    return np.clip(out, low, high, out=out)


def as_answer(network: Network, outputs: dict[str, Tensor]) -> Any:
    """A network's outputs (N, H, W, C) as it answers with them: one array where there is one output,
    (N, classes) of a linear layer; else a dict by name.
    """
    answer = {
        name: values.reshape(len(values), -1) if network[name].kind == "linear" else values
        for name, values in outputs.items()
    }
    return next(iter(answer.values())) if len(answer) == 1 else answer


def taps(x: Tensor, layer: Layer) -> list[tuple[int, int, Tensor]]:
    """For each place in the kernel, the input values under it: row, column, (N, out H, out W, C)."""
    top, bottom, left, right = layer.padding
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0))) if any(layer.padding) else x
    rows, columns = ((size - 1) * layer.stride + 1 for size in layer.out_shape[1:])
    places = [(i, j) for i in range(layer.kernel) for j in range(layer.kernel)]
    return [
        (
            i,
            j,
            padded[:, i * d : i * d + rows : layer.stride, j * d : j * d + columns : layer.stride],
        )
        for d in (layer.dilation,)
        for i, j in places
    ]


def convolution(x: Tensor, weight: Tensor, layer: Layer) -> Tensor:
    """(N, H, W, in) with weight (out, in, k, k) -> (N, out H, out W, out), one matrix product
    per tap.
    """
    shape = (x.shape[0], *layer.out_shape[1:], layer.out_shape[0])
    products = (
        under.reshape(-1, x.shape[3]) @ weight[:, :, i, j].T for i, j, under in taps(x, layer)
    )
    out = next(products)
    for product in products:
        out += product
    return out.reshape(shape)


def depthwise(x: Tensor, weight: Tensor, layer: Layer) -> Tensor:
    """(N, H, W, C) with weight (C, 1, 3, 3) -> (N, out H, out W, C)."""
    out = np.zeros((x.shape[0], *layer.out_shape[1:], x.shape[3]), x.dtype)
    product = np.empty_like(out)
    for i, j, under in taps(x, layer):
        out += np.multiply(under, weight[:, 0, i, j], out=product)
    return out


def resize_corners(x: Tensor, height: int, width: int) -> Tensor:
    """Bilinear resize (N, H, W, C) -> (N, height, width, C) with the corner pixels' centres
    aligned.
    """
    for axis, size in ((1, height), (2, width)):
        have = x.shape[axis]
        place = np.arange(size) * (have - 1) / max(size - 1, 1)
        low = np.minimum(place.astype(int), have - 1)
        share = (place - low).astype(x.dtype).reshape([-1 if i == axis else 1 for i in range(4)])
        x = (
            np.take(x, low, axis) * (1 - share)
            + np.take(x, np.minimum(low + 1, have - 1), axis) * share
        )
    return x
