"""A model's own manifold: what its activations on photos span, and how many of them ReLU6 lets
through.

The argument is Section 3.2's of Sandler et al. 2018; the positive channels are its Figure 7.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..architecture import Architecture
from ..checkpoint import Checkpoint
from ..graph import layers
from ..layer import Layer
from ..runtime.reference import LIMITS, Reference, convolution, depthwise

BATCH = 4  # photos at once
SAMPLES = 64  # places taken of each photo and tensor: neighbours say the same
INITIAL_PHOTOS = 8  # for a network at its start: a batch, whose statistics normalise it
EXPLAINED = 0.99  # of the variance


class Moments:
    """Mean and covariance of rows that come in parts, in float64.

    Args:
        channels: Length of a row.
    """

    def __init__(self, channels: int) -> None:
        self.count = 0
        self._sum = np.zeros(channels)
        self._products = np.zeros((channels, channels))
        self._spectrum: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None

    def add(self, rows: NDArray[np.floating]) -> None:
        """Takes more rows in, (N, channels)."""
        rows = rows.astype(np.float64)
        self.count += len(rows)
        self._sum += rows.sum(axis=0)
        self._products += rows.T @ rows
        self._spectrum = None

    @property
    def mean(self) -> NDArray[np.float64]:
        """(channels,)."""
        return self._sum / max(self.count, 1)

    @property
    def covariance(self) -> NDArray[np.float64]:
        """(channels, channels), over `count`."""
        covariance: NDArray[np.float64] = self._products / max(self.count, 1)
        return covariance - np.outer(self.mean, self.mean)

    def spectrum(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Variances along the principal directions, largest first, (channels,), and the directions
        as columns, (channels, channels); computed once for the rows taken in so far.
        """
        if self._spectrum is None:
            values, directions = np.linalg.eigh(self.covariance)
            self._spectrum = np.maximum(values[::-1], 0), directions[:, ::-1]
        return self._spectrum


def effective_rank(variances: NDArray[np.float64]) -> float:
    """exp of the entropy of the shares of variance: n where n directions are alike, 1 where one has
    it all, 0 where nothing varies.

    Roy & Vetterli, The effective rank: a measure of effective dimensionality, EUSIPCO 2007; there
    of singular values, here of the covariance's eigenvalues.
    """
    total = variances.sum()
    if total <= 0:
        return 0.0
    shares = variances[variances > 0] / total
    return float(math.exp(-(shares * np.log(shares)).sum()))


def directions_for(variances: NDArray[np.float64], share: float = EXPLAINED) -> int:
    """How many of the largest variances have this share of the sum, 0 where nothing varies."""
    total = variances.sum()
    if total <= 0:
        return 0
    reached = np.cumsum(variances) >= share * total * (1 - 1e-12)
    return int(np.argmax(reached)) + 1


@dataclass(frozen=True)
class Span:
    """What a tensor's pixels span, a pixel being a point with a coordinate for each channel.

    Attributes:
        layer: The layer that makes the tensor.
        block: Its block, from 1.
        channels: Dimensions there are.
        effective_rank: Dimensions in use, see `effective_rank`.
        channels_99: Directions that have 99 % of the variance.
    """

    layer: str
    block: int
    channels: int
    effective_rank: float
    channels_99: int


@dataclass(frozen=True)
class Positivity:
    """How many channels are positive behind a ReLU6, over all places of all photos; shares 0..1.

    Attributes:
        layer: The layer.
        block: Its block, from 1.
        channels: Of the layer.
        threshold: Channels of the bottleneck over those of the layer, the least share from which
            the bottleneck can be told (Lemma 2): 1/6 for an expansion by 6.
        least: Of the place with the fewest.
        mean: Over all places.
        most: Of the place with the most.
        deviation: Standard deviation over the places.
        below: Share of places below the threshold.
        dead: Channels that are nowhere positive.
    """

    layer: str
    block: int
    channels: int
    threshold: float
    least: float
    mean: float
    most: float
    deviation: float
    below: float
    dead: int


@dataclass(frozen=True)
class Manifold:
    """A model on photos; all in the order of the network.

    Attributes:
        photos: How many.
        bottlenecks: Of the tensors between the blocks, shortcut added.
        expansions: Of the wide tensors, behind ReLU6; blocks that do not expand have none.
        trained: Positive channels of the same wide tensors.
        initial: The same network before training: kernels from a normal distribution, each batch
            norm with the statistics of 8 photos, as in the first step of training.
        dead: Channels of each layer with a ReLU6 that are nowhere positive, and of how many.
        moments: Mean and covariance of each bottleneck, by layer.
    """

    photos: int
    bottlenecks: tuple[Span, ...]
    expansions: tuple[Span, ...]
    trained: tuple[Positivity, ...]
    initial: tuple[Positivity, ...]
    dead: tuple[tuple[str, int, int], ...]
    moments: dict[str, Moments] = field(repr=False, compare=False)


class _Counter:
    """Counts positive channels of one layer as its tensors come."""

    def __init__(self, layer: Layer, threshold: float) -> None:
        self.layer, self.threshold = layer, threshold
        self.alive = np.zeros(layer.out_shape[0], bool)
        self.places: NDArray[np.int64] = np.zeros(layer.out_shape[0] + 1, np.int64)

    def add(self, values: NDArray[np.floating]) -> None:
        """Values (N, H, W, C)."""
        positive = values > 0
        self.alive |= positive.any(axis=(0, 1, 2))
        counts = np.count_nonzero(positive, axis=3)
        self.places += np.bincount(counts.ravel(), minlength=len(self.places))

    @property
    def dead(self) -> int:
        return int((~self.alive).sum())

    def result(self) -> Positivity:
        channels = len(self.alive)
        shares = np.arange(channels + 1) / channels
        weights = self.places / self.places.sum()
        seen = shares[self.places > 0]
        mean = float((weights * shares).sum())
        spread = math.sqrt(float((weights * (shares - mean) ** 2).sum()))
        below = float(weights[shares < self.threshold].sum())
        assert self.layer.block is not None
        return Positivity(
            self.layer.name, self.layer.block, channels, self.threshold,
            float(seen[0]), mean, float(seen[-1]), spread, below, self.dead,
        )  # fmt: skip


def bottleneck_layers(described: tuple[Layer, ...]) -> list[Layer]:
    """The last layer of each block: what goes on to the next, shortcut included."""
    last = {layer.block: layer for layer in described if layer.block is not None}
    return list(last.values())


def expansion_layers(described: tuple[Layer, ...]) -> list[Layer]:
    """The layer of each block that expands, where there is one."""
    return [layer for layer in described if layer.role == "expand"]


def observe(
    checkpoint: Checkpoint,
    pixels: NDArray[np.uint8],
    seed: int = 0,
    advance: Callable[[], object] = lambda: None,
) -> Manifold:
    """Runs a model on photos and looks at its tensors.

    Covariances are those of 64 places of each photo and tensor, drawn from `seed`; fewer where the
    map is smaller. Counts of positive channels are of all places.

    Args:
        checkpoint: Any model of floats.
        pixels: (N, H, W, C) uint8, as its preprocessing gives them.
        seed: Of the places, and of the network at its start.
        advance: Called after each photo.
    """
    rng = np.random.default_rng(seed)
    described = layers(checkpoint.architecture, *pixels.shape[1:3])
    spanned = [*bottleneck_layers(described), *expansion_layers(described)]
    moments = {layer.name: Moments(layer.out_shape[0]) for layer in spanned}
    counters = {
        layer.name: _Counter(layer, layer.in_shape[0] / layer.out_shape[0])
        for layer in described
        if layer.activation == "relu6"
    }
    reference = Reference(checkpoint)
    for begin in range(0, len(pixels), BATCH):
        batch = pixels[begin : begin + BATCH]
        values = reference.run(batch, moments.keys() | counters.keys())
        for name, of in moments.items():
            of.add(_some_places(values[name], rng))
        for name, counter in counters.items():
            counter.add(values[name])
        for _ in batch:
            advance()
    bottlenecks, expansions = (
        tuple(_span(layer, moments[layer.name]) for layer in some)
        for some in (bottleneck_layers(described), expansion_layers(described))
    )
    normalised = checkpoint.preprocessing.normalize(pixels[:INITIAL_PHOTOS])
    return Manifold(
        len(pixels),
        bottlenecks,
        expansions,
        tuple(counters[layer.name].result() for layer in expansion_layers(described)),
        initial_positivity(checkpoint.architecture, normalised, rng),
        tuple((name, one.dead, len(one.alive)) for name, one in counters.items()),
        {layer.name: moments[layer.name] for layer in bottleneck_layers(described)},
    )


def initial_positivity(
    architecture: Architecture, normalised: NDArray[np.float32], rng: np.random.Generator
) -> tuple[Positivity, ...]:
    """Positive channels of the expansions before training.

    Args:
        architecture: Which network.
        normalised: Photos as the network reads them, (N, H, W, C).
        rng: Draws the kernels.
    """
    results = []
    for layer, values in initial_values(architecture, normalised, rng):
        if layer.role == "expand":
            counter = _Counter(layer, layer.in_shape[0] / layer.out_shape[0])
            counter.add(values)
            results.append(counter.result())
    return tuple(results)


def initial_values(
    architecture: Architecture, normalised: NDArray[np.float32], rng: np.random.Generator
) -> Iterator[tuple[Layer, NDArray[np.float32]]]:
    """The tensors (N, H, W, C) of a network before training, up to the last block.

    Kernels are normal; their scale does not matter, since each batch norm divides by the deviation
    of the batch itself, as in training.
    """
    described = layers(architecture, *normalised.shape[1:3])
    end = max(i for i, layer in enumerate(described) if layer.block is not None) + 1
    values = {"image": normalised}
    for index, layer in enumerate(described[:end]):
        if layer.kind == "add":
            out = values[layer.sources[0]] + values[layer.sources[1]]
        else:
            weight = rng.standard_normal(layer.weight_shape, np.float32)
            run = depthwise if layer.kind == "depthwise" else convolution
            out = run(values[layer.sources[0]], weight, layer)
            out -= out.mean(axis=(0, 1, 2))
            out /= np.sqrt(out.var(axis=(0, 1, 2)) + layer.bn_epsilon)
            if layer.activation != "linear":
                np.clip(out, *LIMITS[layer.activation], out=out)
        values[layer.name] = out
        read_later = {source for later in described[index + 1 :] for source in later.sources}
        values = {name: tensor for name, tensor in values.items() if name in read_later}
        yield layer, out


def _some_places(values: NDArray[np.floating], rng: np.random.Generator) -> NDArray[np.floating]:
    """At most `SAMPLES` pixels of each photo, (N * places, C), of values (N, H, W, C)."""
    pixels = values.reshape(len(values), -1, values.shape[3])
    places = rng.choice(pixels.shape[1], min(SAMPLES, pixels.shape[1]), replace=False)
    return pixels[:, places].reshape(-1, values.shape[3])


def _span(layer: Layer, moments: Moments) -> Span:
    variances, _ = moments.spectrum()
    assert layer.block is not None
    return Span(
        layer.name, layer.block, layer.out_shape[0],
        effective_rank(variances), directions_for(variances),
    )  # fmt: skip
