"""Interventions on a trained model: a ReLU6 on a bottleneck, or only the strongest directions of each
bottleneck; and how many predictions stay the same or right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..boxes import raw_outputs
from ..checkpoint import Checkpoint
from ..folding import fold, unfolded
from ..graph import Network, layers
from ..heads import SSDHead
from ..runtime.engine import Engine
from .manifold import Moments, bottleneck_layers, directions_for

BATCH = 16  # photos in one run of the network
SHARES = (0.9, 0.95, 0.99, 0.999)  # of the variance


@dataclass(frozen=True)
class Effect:
    """The predictions of a changed model, compared; percent.

    Attributes:
        agreement: Photos for which it predicts the same class as the unchanged model; of a model
            that predicts a class for each pixel, pixels.
        accuracy: Photos for which it predicts the right class; None where that is not known.
    """

    agreement: float
    accuracy: float | None

    @property
    def score(self) -> float:
        """The accuracy where it is known, else the agreement."""
        return self.agreement if self.accuracy is None else self.accuracy


@dataclass(frozen=True)
class Clipping:
    """The effect of a ReLU6 on a block's bottleneck, before the shortcut is added.

    Attributes:
        block: The block, from 1; None for all blocks at once.
        effect: On the predictions.
    """

    block: int | None
    effect: Effect


@dataclass(frozen=True)
class Narrowing:
    """The effect of reducing every bottleneck to its strongest directions for the layer that expands
    it; shortcuts carry all directions.

    Attributes:
        share: Of each bottleneck's variance that the kept directions have, 0..1.
        kept: Directions kept, summed over the bottlenecks.
        channels: Channels, summed over the same bottlenecks.
        effect: On the predictions.
    """

    share: float
    kept: int
    channels: int
    effect: Effect


class ClippedEngine(Engine):
    """An engine that can add a ReLU6 to layers; see `Engine` for the rest."""

    clipped: frozenset[str] = frozenset()

    def clip(self, names: Iterable[str]) -> ClippedEngine:
        """Adds a ReLU6 to the layers of these names and to no others; returns itself."""
        self.clipped = frozenset(names)
        self._plans.clear()
        return self

    def _network(self, height: int, width: int) -> Network:
        plain = super()._network(height, width)
        layers = tuple(
            replace(layer, activation="relu6") if layer.name in self.clipped else layer
            for layer in plain.layers
        )
        return replace(plain, layers=layers)


@dataclass(frozen=True)
class Judge:
    """Compares a changed model with the unchanged one and with the right classes.

    Attributes:
        pixels: The photos, (N, H, W, C) uint8.
        unchanged: Classes that the unchanged model predicts, as `classes` gives them.
        truth: The right classes, (N,), or None.
    """

    pixels: NDArray[np.uint8]
    unchanged: NDArray[np.int64]
    truth: NDArray[np.int64] | None = None

    def __call__(self, engine: Engine) -> Effect:
        """Runs a changed model on the photos."""
        predicted = classes(engine, self.pixels)
        accuracy = None if self.truth is None else 100 * float((predicted == self.truth).mean())
        return Effect(100 * float((predicted == self.unchanged).mean()), accuracy)


def classes(engine: Engine, pixels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The most probable class of each photo (N,), of each pixel (N, H, W), or of each anchor of a
    detector (N, anchors), where class 0 is the background.
    """
    head = engine.checkpoint.architecture.head
    batches = (pixels[i : i + BATCH] for i in range(0, len(pixels), BATCH))
    outputs = (engine(batch) for batch in batches)
    if isinstance(head, SSDHead):
        outputs = (raw_outputs(head, output)[1] for output in outputs)
    return np.concatenate([scores.argmax(axis=-1) for scores in outputs])


def clip_bottlenecks(
    checkpoint: Checkpoint, judge: Judge, advance: Callable[[], object] = lambda: None
) -> tuple[Clipping, ...]:
    """Adds a ReLU6 to each linear bottleneck in turn, at last to all of them at once.

    Nothing is trained afterwards. The effect shows how much this model's bottlenecks carry below 0
    and above 6, not how good a network trained with ReLU6 would be (the paper's Figure 6a).

    Args:
        checkpoint: A float model with classes.
        judge: Of the same model.
        advance: Called after each single bottleneck.

    Returns:
        One record per bottleneck and one for all; () where no bottleneck is linear.
    """
    linear = [
        layer
        for layer in layers(checkpoint.architecture)
        if layer.role == "project" and layer.activation == "linear"
    ]
    engine = ClippedEngine(checkpoint)
    clippings = []
    for layer in linear:
        clippings.append(Clipping(layer.block, judge(engine.clip([layer.name]))))
        advance()
    if linear:
        clippings.append(Clipping(None, judge(engine.clip(layer.name for layer in linear))))
    return tuple(clippings)


def narrow_bottlenecks(
    checkpoint: Checkpoint,
    moments: Mapping[str, Moments],
    judge: Judge,
    shares: Sequence[float] = SHARES,
) -> tuple[Narrowing, ...]:
    """Reduces every bottleneck to its strongest directions, once for each share of the variance.

    Args:
        checkpoint: A float model with classes.
        moments: Of each bottleneck, by layer name; see `Manifold.moments`.
        judge: Of the same model.
        shares: Of the variance that is kept, 0..1.
    """
    narrowings = []
    for share in shares:
        narrowed, kept, channels = narrowed_checkpoint(checkpoint, moments, share)
        narrowings.append(Narrowing(share, kept, channels, judge(Engine(narrowed))))
    return tuple(narrowings)


def narrowed_checkpoint(
    checkpoint: Checkpoint, moments: Mapping[str, Moments], share: float
) -> tuple[Checkpoint, int, int]:
    """A model whose 1 x 1 convolutions read m + P P^T (x - m) in place of a bottleneck x: m is its
    mean, P has the directions with `share` of its variance. The change is folded into the kernels.

    Args:
        checkpoint: The unchanged float model.
        moments: Of each bottleneck, by layer name.
        share: Of the variance that is kept, 0..1.

    Returns:
        The model; the number of directions kept and the number of channels, each summed over the
        bottlenecks that a 1 x 1 convolution reads.
    """
    network = layers(checkpoint.architecture)
    arrays = dict(checkpoint.arrays)
    kept = channels = 0
    for bottleneck in bottleneck_layers(network):
        readers = [
            layer
            for layer in network
            if bottleneck.name in layer.sources and layer.kind == "conv" and layer.kernel == 1
        ]
        variances, directions = moments[bottleneck.name].spectrum()
        strongest = directions[:, : directions_for(variances, share)]
        projection = strongest @ strongest.T  # (C, C)
        for reader in readers:
            weight, bias = fold(checkpoint, reader)
            matrix = weight.reshape(len(weight), -1)  # (out, C)
            projected = matrix @ projection
            bias = bias + (matrix - projected) @ moments[bottleneck.name].mean
            arrays |= unfolded(reader, projected.reshape(weight.shape), bias)
        if readers:
            kept += strongest.shape[1]
            channels += len(variances)
    return replace(checkpoint, arrays=arrays), kept, channels
