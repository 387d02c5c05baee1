"""How far an int8 network is from the float network it was made from: in its outputs and per tensor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import boxes
from ..arguments import check_kind
from ..checkpoint import Checkpoint
from ..errors import UserError
from ..graph import layers
from ..heads import Head, SSDHead
from ..int8 import Int8Checkpoint, stored_tensors
from .engine import Engine
from .inputs import check_images
from .int8_reference import Int8Reference
from .reference import Reference

# images run at once where all tensors of both networks are held, and where only the outputs are
TENSOR_BATCH = 2
OUTPUT_BATCH = 16
# images whose tensors are compared
TENSOR_IMAGES = 16


@dataclass(frozen=True)
class TensorNoise:
    """How far one stored tensor is from the same tensor of the float network.

    Attributes:
        layer: The layer whose output it is.
        kind: The layer's role: "stem", "expand", "depthwise", "project", "add" and so on.
        low: The smallest value that can be stored.
        high: The largest value that can be stored.
        signal_to_noise_db: Power of the float tensor over the power of the difference, in decibels;
            None where one of them is 0.
        added_percent: The noise that the layer itself adds: the power of the difference in percent
            of the signal's, less the same of the noisiest tensor that the layer reads. Negative
            where the layer averages noise out.
    """

    layer: str
    kind: str
    low: float
    high: float
    signal_to_noise_db: float | None
    added_percent: float


@dataclass(frozen=True)
class Comparison:
    """An int8 and a float network on the same images.

    Attributes:
        images: Number of images.
        agreement_percent: Percent of the images with the same best class; of a segmenter's pixels, of
            a detector's anchors; None without classes.
        answer_db: `signal_to_noise_db` of the network's outputs.
        tensors: Every stored tensor, in the order of the network.
    """

    images: int
    agreement_percent: float | None
    answer_db: float | None
    tensors: tuple[TensorNoise, ...]


def compare(
    checkpoint: Checkpoint,
    quantized: Int8Checkpoint,
    pixels: NDArray[np.uint8],
    advance: Callable[[], object] = lambda: None,
) -> Comparison:
    """Compares both networks on the same pixels.

    The outputs are compared on all images, the tensors on at most 16 of them, evenly spaced.

    Args:
        checkpoint: The float network.
        quantized: The int8 network made from it.
        pixels: (N, H, W, C) uint8.
        advance: Called after each image, to show progress.

    Raises:
        UserError: Two architectures, or pixels as an engine refuses them.
    """
    check_kind("checkpoint", checkpoint, Checkpoint)
    check_kind("quantized", quantized, Int8Checkpoint)
    if checkpoint.architecture != quantized.architecture:
        raise UserError("checkpoint and quantized must be one network, not of two architectures")
    check_images(pixels, checkpoint.architecture.in_channels)
    float_engine, int8_engine = Engine(checkpoint), Engine(quantized)
    head = quantized.architecture.head
    agreeing: list[NDArray[np.bool_]] = []
    output_powers = np.zeros(2)
    for begin in range(0, len(pixels), OUTPUT_BATCH):
        batch = pixels[begin : begin + OUTPUT_BATCH]
        expected, output = float_engine(batch), int8_engine(batch)
        agreeing.append(_best_classes(head, expected) == _best_classes(head, output))
        pairs = [(expected, output)]
        if isinstance(expected, dict):
            pairs = [(expected[name], output[name]) for name in expected]
        for pair in pairs:
            output_powers += _powers(*pair)
        for _ in batch:
            advance()
    evenly_spaced = np.unique(np.linspace(0, len(pixels) - 1, TENSOR_IMAGES).astype(int))
    return Comparison(
        len(pixels),
        100 * float(np.concatenate(agreeing).mean()) if head.classes else None,
        _decibel(*output_powers),
        tuple(_tensors(Reference(checkpoint), Int8Reference(quantized), pixels[evenly_spaced])),
    )


def _best_classes(head: Head, output: Any) -> NDArray[np.int64]:
    """The best class of each image, pixel or anchor."""
    scores = boxes.raw_outputs(head, output)[1] if isinstance(head, SSDHead) else output
    classes: NDArray[np.int64] = scores.argmax(axis=-1)
    return classes


def _tensors(
    reference: Reference, int8_reference: Int8Reference, pixels: NDArray[np.uint8]
) -> list[TensorNoise]:
    quantized = int8_reference.checkpoint
    names = stored_tensors(quantized.architecture, quantized.rounding)
    powers = {name: np.zeros(2) for name in names}
    for begin in range(0, len(pixels), TENSOR_BATCH):
        batch = pixels[begin : begin + TENSOR_BATCH]
        expected, stored = reference.run(batch, names), int8_reference.run(batch, names)
        for name in names:
            powers[name] += _powers(expected[name], int8_reference.real(name, stored[name]))
    # power of the noise over that of the signal, by layer
    noise_shares = {"image": 0.0}
    rows = []
    for layer in layers(quantized.architecture):
        share_before = max(noise_shares[source] for source in layer.sources)
        if layer.name not in powers:
            # a tensor that is not stored is as noisy as what the layer reads
            noise_shares[layer.name] = share_before
            continue
        signal, noise = powers[layer.name]
        noise_shares[layer.name] = float(noise / signal) if signal else 0.0
        activation = quantized.activations[layer.name]
        rows.append(
            TensorNoise(
                layer.name,
                layer.role,
                -activation.zero_point * activation.scale,
                (255 - activation.zero_point) * activation.scale,
                _decibel(signal, noise),
                100 * (noise_shares[layer.name] - share_before),
            )
        )
    return rows


def _powers(expected: NDArray[np.float32], values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Power of the signal `expected`, and of the noise in `values`."""
    signal, noise = expected.astype(np.float64), np.subtract(values, expected, dtype=np.float64)
    return np.array([(signal**2).sum(), (noise**2).sum()])


def _decibel(signal: float, noise: float) -> float | None:
    return float(10 * np.log10(signal / noise)) if signal and noise else None
