"""The network in bfloat16 in plain NumPy: the oracle of an engine with `precision="bf16"`.

It rounds where the engine does: the weights of products, and each tensor that is stored. Sums are
made in float64; where one lies close to a half, the engine's may be stored a step away.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from ..checkpoint import Checkpoint
from ..folding import fold
from ..graph import network
from ..int8 import float_results
from ..layer import IMAGE, Layer
from .bf16_packing import rounded, rounded_taps
from .inputs import check_images
from .int8_packing import shortcut_sums
from .reference import Reference, Tensor, activated, convolution
from .steps import group


class BF16Reference(Reference):
    """Runs a float checkpoint in bfloat16, layer by layer; see `Reference` for the rest."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(checkpoint, np.float64)
        # layers whose results go on as they are
        self._not_stored: frozenset[str] = frozenset()

    def run(self, images: Tensor, names: Collection[str]) -> dict[str, Tensor]:
        """As `Reference.run`; a tensor inside a block is stored if it is among the names."""
        net = network(self.checkpoint.architecture)
        added = shortcut_sums(net.layers, group(net, tuple(names)))
        self._not_stored = float_results(net, "nearest") | added.keys()
        values = super().run(images, names)
        return {name: value.astype(np.float32) for name, value in values.items()}

    def _folded(self, layer: Layer) -> tuple[Tensor, Tensor]:
        reads_image = IMAGE in layer.sources
        weight, bias = fold(self.checkpoint, layer, np.float64 if reads_image else np.float32)
        if layer.kind == "depthwise":
            return rounded_taps(weight.reshape(len(weight), -1)).reshape(weight.shape), bias
        return rounded(weight), bias

    def _normalised(self, images: Tensor) -> Tensor:
        """Values as they are stored; pixels as they are."""
        check_images(images, self.checkpoint.architecture.in_channels)
        return images if images.dtype == np.uint8 else rounded(images).astype(np.float64)

    def _step(self, layer: Layer, inputs: list[Tensor]) -> Tensor:
        out = super()._step(layer, inputs)
        return out if layer.name in self._not_stored else rounded(out).astype(np.float64)

    def _weighted(self, layer: Layer, x: Tensor) -> Tensor:
        if x.dtype != np.uint8:
            return super()._weighted(layer, x)
        # of pixels, whose normalisation is part of the weights before they are rounded
        scale, offset = self.checkpoint.preprocessing.scale_offset()
        weight, bias = fold(self.checkpoint, layer)
        weight = rounded(weight * scale[:, None, None]) / scale[:, None, None]
        top, bottom, left, right = layer.padding
        border = rounded(-offset / scale)
        shape = len(x), x.shape[1] + top + bottom, x.shape[2] + left + right, x.shape[3]
        padded = np.broadcast_to(border, shape).astype(np.float64)
        padded[:, top : top + x.shape[1], left : left + x.shape[2]] = x
        inner = replace(layer, padding=(0, 0, 0, 0))
        return activated(layer, convolution(padded * scale + offset, weight, inner) + bias)
