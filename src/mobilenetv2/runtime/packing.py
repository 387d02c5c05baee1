"""Hands a float checkpoint's weights to the extension, which folds batch norms and lays them out for
the steps that read them, in the order in which they are used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from ..checkpoint import Checkpoint
from ..errors import ModelFileError
from ..graph import layers
from ..layer import IMAGE, Layer
from ..stored import StoredArrays
from . import _native
from .steps import Steps

if TYPE_CHECKING:
    from ..checkpoint import FloatArray

NORM = ("weight", "bias", "running_mean", "running_var")
SPARE_WEIGHTS = 128  # of a matrix: the last vectors of its panels, two lines of int8


class Weights(msgspec.Struct, frozen=True):
    """Handles of the weights inside the extension.

    Attributes:
        handles: By layer name.
        pixels: Of the first layer's weights for uint8 pixels, normalisation folded in.
        panel_channels: Channels in the widest panel of a packed matrix.
        item_bytes: Bytes of one activation: 4 in float32, 2 in bfloat16, 1 in int8.
    """

    handles: Mapping[str, int]
    pixels: int
    panel_channels: int
    item_bytes: int


def weighted_layers(checkpoint_layers: tuple[Layer, ...], steps: Steps) -> list[Layer]:
    """The layers of the steps that have weights, in the order in which they are used."""
    named = {layer.name: layer for layer in checkpoint_layers}
    ordered = [named[name] for step in steps.steps for name in step.layers]
    return [layer for layer in ordered if layer.weight is not None]


def matrix_weights(weighted: Sequence[Layer]) -> int:
    """Weights of all matrices once they are packed, at most: in whole blocks, with spare lines."""
    total = 0
    for layer in weighted:
        if layer.kind != "depthwise":
            outputs, inputs = map(up_to_block, layer.weight_shape[:2])
            twice = 2 if IMAGE in layer.sources else 1
            total += twice * (outputs * inputs * layer.kernel**2 + SPARE_WEIGHTS)
    return total


def pack(network: _native.Network, checkpoint: Checkpoint, steps: Steps) -> Weights:
    """Packs float weights, batch norms folded in; those of the first layer twice, for normalised
    values and for pixels.
    """
    handles: dict[str, int] = {}
    pixels = -1
    weighted = weighted_layers(layers(checkpoint.architecture), steps)
    folding = _Folding(checkpoint.arrays, weighted, steps)
    network.reserve(matrix_weights(weighted))
    for layer in weighted:
        if layer.kind == "depthwise":
            handles[layer.name] = network.add_depthwise(*folding(layer))
            continue
        handles[layer.name] = network.add_matrix(*folding(layer))
        if IMAGE in layer.sources:
            scale, offset = checkpoint.preprocessing.scales_and_offsets()
            pixels = network.add_matrix(*folding(layer, scale, offset))
            network.set_pixel_padding([-b / a for a, b in zip(scale, offset)])
    return Weights(handles, pixels, network.panel_channels, 4)


class _Folding:
    """Folds batch norms into kernels, in memory that is used for one layer after another, and without
    NumPy where the arrays are in a file.

    Args:
        arrays: By name, float32.
        weighted: The layers.
        steps: That read the weights.
    """

    def __init__(
        self, arrays: Mapping[str, FloatArray], weighted: Sequence[Layer], steps: Steps
    ) -> None:
        self._arrays, self._steps = arrays, steps
        sizes = [math.prod(self._shape(layer)) for layer in weighted]
        self._folded = memoryview(bytearray(4 * max(sizes)))
        self._read = memoryview(bytearray(4 * max(math.prod(x.weight_shape) for x in weighted)))

    def __call__(
        self, layer: Layer, scale: Sequence[float] = (), offset: Sequence[float] = ()
    ) -> tuple[memoryview[Any], memoryview[Any]]:
        """The weights and the bias as the network takes them, until the next call.

        Args:
            layer: Whose they are.
            scale: Of pixels, per channel; (): the layer's input is not pixels.
            offset: Likewise.

        Raises:
            ModelFileError: They are too large for float32.
        """
        assert layer.weight is not None
        norm = [f"{layer.norm}.{name}" for name in NORM] if layer.norm else []
        if layer.norm is None and layer.bias:
            norm = [layer.bias]
        shape = self._shape(layer)
        weights = self._folded[: 4 * math.prod(shape)].cast("f", shape)
        outputs = shape[1] if layer.kind == "depthwise" else shape[0]
        bias = memoryview(bytearray(4 * outputs)).cast("f")
        if not _native.fold(
            self._flat(layer.weight, self._read),
            (layer.weight_shape[0], layer.weight_shape[1], layer.kernel),
            layer.kind == "depthwise",
            [self._flat(name) for name in norm],
            layer.bn_epsilon,
            list(scale),
            list(offset),
            weights,
            bias,
        ):
            raise too_large(layer)
        return weights, bias

    def _shape(self, layer: Layer) -> tuple[int, int]:
        """Of the weights as the network takes them."""
        outputs, inputs = filled_shape(layer, self._steps)
        if layer.kind == "depthwise":
            return layer.kernel**2, outputs
        return outputs, layer.kernel**2 * inputs

    def _flat(self, name: str, room: memoryview | None = None) -> memoryview[Any]:
        if isinstance(self._arrays, StoredArrays):
            return memoryview(self._arrays.content(name, room)).cast("f")
        import numpy as np

        return np.ascontiguousarray(self._arrays[name], np.float32).reshape(-1).data


def too_large(layer: Layer) -> ModelFileError:
    """The error of a layer with numbers too large for float32."""
    return ModelFileError(
        f"layer {layer.name}: its weights are too large for float32 once batch norm, normalisation and "
        "scales are folded in; the file is damaged"
    )


def filled_shape(layer: Layer, steps: Steps) -> tuple[int, int]:
    """Outputs and inputs of a kernel, in whole blocks of channels where the tensors are blocked; a
    depthwise kernel always writes whole blocks.
    """
    outputs, inputs = layer.weight_shape[:2]
    if layer.name in steps.blocked or layer.kind == "depthwise":
        outputs = up_to_block(outputs)
    if layer.sources[0] in steps.blocked and layer.kind != "depthwise":
        inputs = up_to_block(inputs)
    return outputs, inputs


def up_to_block(channels: int) -> int:
    """The next multiple of BLOCK."""
    return -(-channels // _native.BLOCK) * _native.BLOCK
