"""A quantised network beside the float one it was made of: tensor by tensor, and in its answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..checkpoint import Checkpoint
from ..graph import layers
from ..int8 import Int8Checkpoint, stored_tensors
from .engine import Engine
from .int8_reference import Int8Reference
from .reference import Reference

BATCH = 2  # images at once where all tensors of both networks are held
GROUP = 16  # images at once where the answers are
CLOSELY = 16  # images whose tensors are compared


@dataclass(frozen=True)
class TensorNoise:
    """How far a stored tensor is from the float network's.

    Attributes:
        layer: The layer that makes it.
        kind: "stem", "expand", "depthwise", "project", "add" and so on.
        low: The least value that can be stored.
        high: The greatest.
        signal_to_noise_db: Power of the float tensor over the power of the difference, in decibel;
            None where one of them is 0.
        added_percent: Power of the difference in percent of the signal's, less that of the noisier
            tensor that the layer reads: what the layer itself brings in. Negative where it
            averages noise out.
    """

    layer: str
    kind: str
    low: float
    high: float
    signal_to_noise_db: float | None
    added_percent: float


@dataclass(frozen=True)
class Comparison:
    """Both networks on the same images.

    Attributes:
        images: How many.
        agreement_percent: Images for which both name the same class first; None without a
            classifier.
        answer_db: As `signal_to_noise_db`, of the last layer's output.
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
    """Runs both networks on pixels (N, H, W, C); `advance` is called after each image.

    The answers are those of all images, the tensors those of at most 16, evenly spaced.
    """
    floats, integers = Engine(checkpoint), Engine(quantized)
    agreeing = 0
    answer = np.zeros(2)
    for begin in range(0, len(pixels), GROUP):
        group = pixels[begin : begin + GROUP]
        wanted, found = floats(group), integers(group)
        agreeing += int((wanted.argmax(axis=-1) == found.argmax(axis=-1)).sum())
        answer += _powers(wanted, found)
        for _ in group:
            advance()
    classifies = quantized.architecture.head.task == "classification"
    closely = pixels[np.unique(np.linspace(0, len(pixels) - 1, CLOSELY).astype(int))]
    return Comparison(
        len(pixels),
        100 * agreeing / len(pixels) if classifies else None,
        _decibel(*answer),
        tuple(_tensors(Reference(checkpoint), Int8Reference(quantized), closely)),
    )


def _tensors(
    reference: Reference, integers: Int8Reference, pixels: NDArray[np.uint8]
) -> list[TensorNoise]:
    quantized = integers.checkpoint
    names = stored_tensors(quantized.architecture, quantized.rounding)
    powers = {name: np.zeros(2) for name in names}
    for begin in range(0, len(pixels), BATCH):
        batch = pixels[begin : begin + BATCH]
        wanted, found = reference.run(batch, names), integers.run(batch, names)
        for name in names:
            powers[name] += _powers(wanted[name], integers.real(name, found[name]))
    shares = {"image": 0.0}
    rows = []
    for layer in layers(quantized.architecture):
        before = max(shares[source] for source in layer.sources)
        if layer.name not in powers:  # not stored: as noisy as what it reads
            shares[layer.name] = before
            continue
        signal, noise = powers[layer.name]
        shares[layer.name] = float(noise / signal) if signal else 0.0
        stored = quantized.activations[layer.name]
        rows.append(
            TensorNoise(
                layer.name,
                layer.role,
                -stored.zero_point * stored.scale,
                (255 - stored.zero_point) * stored.scale,
                _decibel(signal, noise),
                100 * (shares[layer.name] - before),
            )
        )
    return rows


def _powers(wanted: NDArray[np.float32], found: NDArray[np.float32]) -> NDArray[np.float64]:
    """Of the signal and of the noise."""
    signal, noise = wanted.astype(np.float64), np.subtract(found, wanted, dtype=np.float64)
    return np.array([(signal**2).sum(), (noise**2).sum()])


def _decibel(signal: float, noise: float) -> float | None:
    return float(10 * np.log10(signal / noise)) if signal and noise else None
