"""Hands a checkpoint's weights to the extension, in the order in which they are used.

Wide tensors are blocked: their channels are filled up to whole blocks, here with weights of zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..checkpoint import Checkpoint
from ..folding import fold
from ..graph import Layer, layers
from . import _native
from .plan import Group, Weights, chained, grouped

Array = NDArray[Any]


@dataclass(frozen=True)
class Place:
    """A layer that has weights, and what is around it."""

    layer: Layer
    reads_blocks: bool
    writes_blocks: bool
    added: Layer | None = field(default=None)  # the sum that a projection goes into


def weighted(groups: list[Group]) -> Iterator[Place]:
    """The layers that have weights, in order."""
    for chain in chained(groups):
        members = [(layer, group) for group in chain for layer in group.layers]
        kinds = [layer.kind for layer, _ in members]
        for index, (layer, group) in enumerate(members):
            if layer.weight is None:
                continue
            projects = group.is_block and layer.role == "project"
            added = group.last if projects and group.has_shortcut else None
            writes_blocks = "depthwise" in kinds[index : index + 2]
            yield Place(layer, projects, writes_blocks, added)


def pack(network: _native.Network, checkpoint: Checkpoint) -> Weights:
    """Folds the batch norms; the first layer is packed twice, for normalised values and for
    pixels.
    """
    numbers: dict[str, int] = {}
    pixels = -1
    for place in weighted(grouped(layers(checkpoint.architecture))):
        layer = place.layer
        exact = "image" in layer.sources
        weight, bias = fold(checkpoint, layer, np.float64 if exact else np.float32)
        weight, bias = laid_out(place, weight), filled(bias) if place.writes_blocks else bias
        if layer.kind == "depthwise":
            taps = weight.reshape(-1, layer.kernel**2).T  # (9, C)
            numbers[layer.name] = network.add_depthwise(_floats(taps), _floats(bias))
            continue
        numbers[layer.name] = network.add_matrix(_floats(rows(weight)), _floats(bias))
        if exact:
            scale, offset = checkpoint.preprocessing.scale_offset()
            bias = bias + (weight * offset).sum(axis=(1, 2, 3))
            pixels = network.add_matrix(_floats(rows(weight * scale)), _floats(bias))
            network.set_pixel_padding((-offset / scale).tolist())
    return Weights(numbers, pixels, network.panel_channels, 4)


def laid_out(place: Place, weight: Array) -> Array:
    """(out, in / groups, k, k) as (out, k, k, in / groups), blocked where the tensors are; a
    depthwise kernel stays (C, 1, k, k).
    """
    weight = weight.reshape(*weight.shape[:2], place.layer.kernel, place.layer.kernel)
    if place.writes_blocks:
        weight = filled(weight)
    if place.layer.kind == "depthwise":
        return weight
    weight = weight.transpose(0, 2, 3, 1)
    return filled(weight, 3) if place.reads_blocks else weight


def filled(array: Array, axis: int = 0, unit: int = 0) -> Array:
    """Zeros behind an axis up to whole blocks, or to a multiple of `unit`."""
    missing = -array.shape[axis] % (unit or _native.BLOCK)
    if not missing:
        return array
    room = [(0, 0)] * array.ndim
    room[axis] = (0, missing)
    return np.pad(array, room)


def rows(weight: Array) -> Array:
    """One row for each output channel."""
    return weight.reshape(len(weight), -1)


def _floats(array: Array) -> NDArray[np.float32]:
    return np.ascontiguousarray(array, np.float32)
