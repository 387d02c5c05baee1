"""Interventions: a ReLU6 put on a bottleneck, or a bottleneck seen through its strongest directions
alone; and what the model's answers are worth afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..checkpoint import Checkpoint
from ..folding import fold, unfolded
from ..graph import Network, layers
from ..runtime.engine import Engine
from .manifold import Moments, bottleneck_layers, directions_for

GROUP = 16  # photos at once
SHARES = (0.9, 0.95, 0.99, 0.999)


@dataclass(frozen=True)
class Effect:
    """Answers of a changed model, percent.

    Attributes:
        agreement: Photos for which it names the class that the unchanged model names; pixels, of a
            model that answers for each.
        accuracy: Photos for which it names the right class; None where that is not known.
    """

    agreement: float
    accuracy: float | None


@dataclass(frozen=True)
class Clipping:
    """A ReLU6 on one block's bottleneck, before the shortcut; `block` is None for all at once."""

    block: int | None
    effect: Effect


@dataclass(frozen=True)
class Narrowing:
    """Every bottleneck reduced to its strongest directions, as what reads it sees them; the
    shortcuts carry everything on.

    Attributes:
        share: Of each bottleneck's variance that the directions have, 0..1.
        kept: Directions kept, all bottlenecks together.
        channels: Channels of those bottlenecks.
        effect: On the answers.
    """

    share: float
    kept: int
    channels: int
    effect: Effect


class ClippedEngine(Engine):
    """An engine on which projections can be made to end in a ReLU6; see `Engine` for the rest."""

    clipped: frozenset[str] = frozenset()

    def clip(self, names: Iterable[str]) -> ClippedEngine:
        """Puts a ReLU6 on the layers of these names alone, and returns itself."""
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
    """What answers are compared with.

    Attributes:
        pixels: The photos, (N, H, W, C) uint8.
        answers: The unchanged model's classes, (N,) or (N, H, W).
        truth: The right ones, (N,), or None.
    """

    pixels: NDArray[np.uint8]
    answers: NDArray[np.int64]
    truth: NDArray[np.int64] | None = None

    def __call__(self, engine: Engine) -> Effect:
        """Runs a changed model."""
        answers = classes(engine, self.pixels)
        right = None if self.truth is None else 100 * float((answers == self.truth).mean())
        return Effect(100 * float((answers == self.answers).mean()), right)


def classes(engine: Engine, pixels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The most probable class of each photo (N,), or of each pixel (N, H, W)."""
    groups = (pixels[i : i + GROUP] for i in range(0, len(pixels), GROUP))
    return np.concatenate([engine(group).argmax(axis=-1) for group in groups])


def clip_bottlenecks(
    checkpoint: Checkpoint, judge: Judge, advance: Callable[[], object] = lambda: None
) -> tuple[Clipping, ...]:
    """A ReLU6 on each linear bottleneck in turn, last on all of them; () where none is linear.

    Nothing is trained afterwards: it shows what the bottlenecks of this model carry below 0 and
    above 6, not how good a network trained with ReLU6 would be (the paper's Figure 6a).
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
    """Leaves each bottleneck its strongest directions, for several shares of the variance."""
    narrowings = []
    for share in shares:
        narrowed, kept, channels = narrowed_checkpoint(checkpoint, moments, share)
        narrowings.append(Narrowing(share, kept, channels, judge(Engine(narrowed))))
    return tuple(narrowings)


def narrowed_checkpoint(
    checkpoint: Checkpoint, moments: Mapping[str, Moments], share: float
) -> tuple[Checkpoint, int, int]:
    """The model whose 1 x 1 convolutions see each bottleneck x as m + P P^T (x - m): m its mean, P
    the directions with `share` of its variance. The change is folded into their kernels.

    Returns:
        The model, the directions kept, and the channels there were, both over the bottlenecks that
        are read by a 1 x 1 convolution.
    """
    described = layers(checkpoint.architecture)
    arrays = dict(checkpoint.arrays)
    kept = channels = 0
    for bottleneck in bottleneck_layers(described):
        readers = [
            layer
            for layer in described
            if bottleneck.name in layer.sources and layer.kind == "conv" and layer.kernel == 1
        ]
        variances, directions = moments[bottleneck.name].spectrum()
        strongest = directions[:, : directions_for(variances, share)]
        projection = strongest @ strongest.T  # (C, C)
        for reader in readers:
            weight, bias = fold(checkpoint, reader)
            matrix = weight.reshape(len(weight), -1)  # (out, C)
            seen = matrix @ projection
            bias = bias + (matrix - seen) @ moments[bottleneck.name].mean
            arrays |= unfolded(reader, seen.reshape(weight.shape), bias)
        if readers:
            kept += strongest.shape[1]
            channels += len(variances)
    return replace(checkpoint, arrays=arrays), kept, channels
