"""The arrays of a classifier as the formats of the peers need them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mobilenetv2.checkpoint import Checkpoint
from mobilenetv2.folding import fold
from mobilenetv2.int8 import Int8Checkpoint, stored_tensors
from mobilenetv2.layer import Layer
from mobilenetv2.runtime import Reference
from mobilenetv2.runtime.quantize import best_activation


def folded(checkpoint: Checkpoint, layer: Layer) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Kernel and bias of a layer, with its batch norm folded in."""
    weight, bias = fold(checkpoint, layer)
    return weight.astype(np.float32), bias.astype(np.float32)


def with_all_stored(
    quantized: Int8Checkpoint, checkpoint: Checkpoint, pixels: NDArray[np.uint8]
) -> Int8Checkpoint:
    """The same int8 weights, with a scale for every tensor.

    Peers also store projections before a sum, and some of them store the logits.

    Args:
        quantized: An int8 classifier.
        checkpoint: The float classifier that it was made from.
        pixels: The images that the new ranges are taken from, (N, H, W, 3).
    """
    names = set(stored_tensors(quantized.architecture, "twice")) - quantized.activations.keys()
    values = Reference(checkpoint).run(pixels, names)
    stored = dict(quantized.activations)
    stored |= {name: best_activation(values[name].ravel()) for name in sorted(names)}
    # the files of the peers hold scales as float32
    rounded = {name: replace(a, scale=float(np.float32(a.scale))) for name, a in stored.items()}
    image_scale = float(np.float32(quantized.image_scale))
    return replace(
        quantized, rounding="twice", image_scale=image_scale, activations=rounded, unstored={}
    )
