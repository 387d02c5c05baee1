"""A model's own manifold: how many dimensions its activations on photos span, and how many channels
are positive behind a ReLU6.

Sandler et al. 2018, Section 3.2; the positive channels are its Figure 7.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..architecture import Architecture
from ..checkpoint import Checkpoint
from ..graph import layers
from ..layer import Layer
from ..runtime.reference import LIMITS, Reference, convolution, depthwise

BATCH = 4  # photos in one run of the network
SAMPLES = 64  # places taken of each photo and tensor; neighbouring places are much alike
INITIAL_PHOTOS = 8  # the batch whose statistics normalise an untrained network
EXPLAINED = 0.99  # share of the variance


class Moments:
    """Mean and covariance, in float64, of rows that are added part by part.

    Args:
        channels: Length of a row.
    """

    def __init__(self, channels: int) -> None:
        self.count = 0
        self._sum = np.zeros(channels)
        self._products = np.zeros((channels, channels))
        self._spectrum: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None

    def add(self, rows: NDArray[np.floating]) -> None:
        """Adds rows, (N, channels)."""
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
        """(channels, channels), divided by `count`."""
        covariance: NDArray[np.float64] = self._products / max(self.count, 1)
        return covariance - np.outer(self.mean, self.mean)

    def spectrum(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Variances along the principal directions, largest first, (channels,), and the directions
        as columns, (channels, channels); computed once for the rows added so far.
        """
        if self._spectrum is None:
            values, directions = np.linalg.eigh(self.covariance)
            self._spectrum = np.maximum(values[::-1], 0), directions[:, ::-1]
        return self._spectrum


def effective_rank(variances: NDArray[np.float64]) -> float:
    """exp of the entropy of the shares of variance: n where n directions have equal variance, 1 where
    one direction has all of it, 0 where nothing varies.

    Roy & Vetterli, The effective rank: a measure of effective dimensionality, EUSIPCO 2007; they
    use singular values, this function the eigenvalues of the covariance.

    Args:
        variances: Eigenvalues of a covariance, not negative, (channels,).
    """
    total = variances.sum()
    if total <= 0:
        return 0.0
    shares = variances[variances > 0] / total
    return float(math.exp(-(shares * np.log(shares)).sum()))


def directions_for(variances: NDArray[np.float64], share: float = EXPLAINED) -> int:
    """How many of the largest variances make up a share of their sum; 0 where nothing varies.

    Args:
        variances: Largest first, (channels,).
        share: 0..1.
    """
    total = variances.sum()
    if total <= 0:
        return 0
    reached = np.cumsum(variances) >= share * total * (1 - 1e-12)
    return int(np.argmax(reached)) + 1


@dataclass(frozen=True)
class Span:
    """The dimensions that the pixels of a tensor span; a pixel is a point with one coordinate for each
    channel.

    Attributes:
        layer: The layer that gives the tensor.
        block: Its block, from 1.
        channels: Of the tensor.
        effective_rank: Dimensions in use, see the function `effective_rank`.
        channels_99: How many principal directions have 99 % of the variance.
    """

    layer: str
    block: int
    channels: int
    effective_rank: float
    channels_99: int


@dataclass(frozen=True)
class Positivity:
    """The share of a layer's channels that are positive behind its ReLU6, 0..1, over all places of all
    photos.

    Attributes:
        layer: The layer.
        block: Its block, from 1.
        channels: Of the layer.
        threshold: Channels of the bottleneck divided by those of the layer: the smallest share from
            which the bottleneck can be computed back (Lemma 2), 1/6 for an expansion by 6.
        least: Share at the place with the fewest positive channels.
        mean: Over all places.
        most: Share at the place with the most positive channels.
        deviation: Standard deviation over the places.
        below: Share of the places that are below the threshold.
        dead: How many channels are positive nowhere.
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
    """What `observe` measures of a model on photos; tuples are in the order of the network.

    Attributes:
        photos: How many.
        bottlenecks: The tensors between the blocks, shortcut added.
        expansions: The wide tensors behind their ReLU6; blocks that do not expand have none.
        trained: Positive channels of the same wide tensors.
        initial: The same of an untrained network: kernels from a normal distribution, each batch
            norm with the statistics of 8 photos, as in the first step of training.
        dead: For each layer with a ReLU6: its name, how many of its channels are positive nowhere,
            and how many channels it has.
        moments: Mean and covariance of each bottleneck, by layer name.
    """

    photos: int
    bottlenecks: tuple[Span, ...]
    expansions: tuple[Span, ...]
    trained: tuple[Positivity, ...]
    initial: tuple[Positivity, ...]
    dead: tuple[tuple[str, int, int], ...]
    moments: dict[str, Moments] = field(repr=False, compare=False)


class _Counter:
    """Counts the positive channels of one layer, batch by batch."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self.threshold = layer.in_shape[0] / layer.out_shape[0]
        self.alive = np.zeros(layer.out_shape[0], bool)  # channels positive anywhere
        # Entry k: places where exactly k channels are positive.
        self.histogram: NDArray[np.int64] = np.zeros(layer.out_shape[0] + 1, np.int64)

    def add(self, values: NDArray[np.floating]) -> None:
        """Adds values (N, H, W, C)."""
        positive = values > 0
        self.alive |= positive.any(axis=(0, 1, 2))
        counts = np.count_nonzero(positive, axis=3)
        self.histogram += np.bincount(counts.ravel(), minlength=len(self.histogram))

    @property
    def dead(self) -> int:
        return int((~self.alive).sum())

    def result(self) -> Positivity:
        channels = len(self.alive)
        shares = np.arange(channels + 1) / channels
        weights = self.histogram / self.histogram.sum()
        occurring = shares[self.histogram > 0]
        mean = float((weights * shares).sum())
        deviation = math.sqrt(float((weights * (shares - mean) ** 2).sum()))
        below = float(weights[shares < self.threshold].sum())
        assert self.layer.block is not None
        return Positivity(
            self.layer.name, self.layer.block, channels, self.threshold,
            float(occurring[0]), mean, float(occurring[-1]), deviation, below, self.dead,
        )  # fmt: skip


def bottleneck_layers(layers: Sequence[Layer]) -> list[Layer]:
    """The last layer of each block, which gives the block's output, shortcut included."""
    return list({layer.block: layer for layer in layers if layer.block is not None}.values())


def expansion_layers(layers: Sequence[Layer]) -> list[Layer]:
    """The expanding layer of each block that has one."""
    return [layer for layer in layers if layer.role == "expand"]


def source_channels(layers: Sequence[Layer]) -> dict[int, int]:
    """Channels of the bottleneck that each expansion is made from, by block."""
    return {layer.block: layer.in_shape[0] for layer in expansion_layers(layers) if layer.block}


def shortcut_blocks(layers: Sequence[Layer]) -> set[int]:
    """The blocks that have a shortcut, by number."""
    return {layer.block for layer in layers if layer.kind == "add" and layer.block is not None}


def observe(
    checkpoint: Checkpoint,
    pixels: NDArray[np.uint8],
    seed: int = 0,
    advance: Callable[[], object] = lambda: None,
) -> Manifold:
    """Runs a model on photos and measures what its tensors span.

    A covariance is that of 64 random places of each photo; of all places where the map has fewer.
    Positive channels are counted at all places.

    Args:
        checkpoint: Any float model.
        pixels: (N, H, W, C) uint8, as its preprocessing gives them.
        seed: Of the random places and of the untrained network.
        advance: Called after each photo.
    """
    rng = np.random.default_rng(seed)
    network = layers(checkpoint.architecture, *pixels.shape[1:3])
    bottlenecks, expansions = bottleneck_layers(network), expansion_layers(network)
    moments = {layer.name: Moments(layer.out_shape[0]) for layer in (*bottlenecks, *expansions)}
    counters = {layer.name: _Counter(layer) for layer in network if layer.activation == "relu6"}
    reference = Reference(checkpoint)
    for begin in range(0, len(pixels), BATCH):
        batch = pixels[begin : begin + BATCH]
        values = reference.run(batch, moments.keys() | counters.keys())
        for name, rows in moments.items():
            rows.add(_random_places(values[name], rng))
        for name, counter in counters.items():
            counter.add(values[name])
        for _ in batch:
            advance()
    normalised = checkpoint.preprocessing.normalize(pixels[:INITIAL_PHOTOS])
    return Manifold(
        len(pixels),
        tuple(_span(layer, moments[layer.name]) for layer in bottlenecks),
        tuple(_span(layer, moments[layer.name]) for layer in expansions),
        tuple(counters[layer.name].result() for layer in expansions),
        initial_positivity(checkpoint.architecture, normalised, rng),
        tuple((name, one.dead, len(one.alive)) for name, one in counters.items()),
        {layer.name: moments[layer.name] for layer in bottlenecks},
    )


def initial_positivity(
    architecture: Architecture, normalised: NDArray[np.float32], rng: np.random.Generator
) -> tuple[Positivity, ...]:
    """Positive channels of the expansions of an untrained network.

    Args:
        architecture: The network.
        normalised: Photos as the network reads them, (N, H, W, C).
        rng: Draws the kernels.
    """
    rows = []
    for layer, values in initial_values(architecture, normalised, rng):
        if layer.role == "expand":
            counter = _Counter(layer)
            counter.add(values)
            rows.append(counter.result())
    return tuple(rows)


def initial_values(
    architecture: Architecture, normalised: NDArray[np.float32], rng: np.random.Generator
) -> Iterator[tuple[Layer, NDArray[np.float32]]]:
    """The layers of an untrained network with their outputs (N, H, W, C), up to the last block.

    Kernels are standard normal. Their scale does not matter: each batch norm divides by the
    standard deviation of the batch, as in training.
    """
    network = layers(architecture, *normalised.shape[1:3])
    end = max(i for i, layer in enumerate(network) if layer.block is not None) + 1
    values = {"image": normalised}
    for index, layer in enumerate(network[:end]):
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
        read_later = {source for later in network[index + 1 :] for source in later.sources}
        values = {name: tensor for name, tensor in values.items() if name in read_later}
        yield layer, out


def _random_places(values: NDArray[np.floating], rng: np.random.Generator) -> NDArray[np.floating]:
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
