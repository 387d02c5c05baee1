"""All experiments on one model, as one record, which the report shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..checkpoint import Checkpoint
from ..cost import Cost, network_cost
from ..graph import layers, network
from ..layer import Layer
from ..runtime.engine import Engine
from ..runtime.reference import Reference
from .head import drawn_answer
from .interventions import (
    Clipping,
    Effect,
    Judge,
    Narrowing,
    classes,
    clip_bottlenecks,
    narrow_bottlenecks,
)
from .manifold import Manifold, bottleneck_layers, observe
from .memory import Memory, measure_memory
from .photos import Photos
from .theory import (
    Invertibility,
    LemmaOne,
    LinearRegion,
    Panel,
    Survival,
    invertibility,
    lemma_one,
    linear_regions,
    panels,
    survival,
)


@dataclass(frozen=True)
class FirstPhoto:
    """One photo on its way through the network.

    Attributes:
        name: The photo's file name.
        pixels: As the model reads it, (H, W, C) uint8.
        maps: The output of each block, (H, W, C) float32, by layer name.
        predicted: The most probable classes, most probable first: label and probability, 0..1; ()
            where the model is not a classifier.
        drawn: The boxes of a detector or the mask of a segmenter on the photo, (H, W, 3) uint8; None
            for other models.
    """

    name: str
    pixels: NDArray[np.uint8]
    maps: dict[str, NDArray[np.float32]] = field(repr=False)
    predicted: tuple[tuple[str, float], ...]
    drawn: NDArray[np.uint8] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class OnPhotos:
    """The experiments that need photos.

    Attributes:
        photos: The photos.
        manifold: What the model's tensors span on them.
        unchanged: Accuracy of the unchanged model. Where the model has no classes this is None, and
            the next two are empty.
        clippings: Effects of a ReLU6 on bottlenecks.
        narrowings: Effects of fewer directions in bottlenecks.
        first_photo: The first photo on its way through the network.
    """

    photos: Photos
    manifold: Manifold
    unchanged: Effect | None
    clippings: tuple[Clipping, ...]
    narrowings: tuple[Narrowing, ...]
    first_photo: FirstPhoto


@dataclass(frozen=True)
class Explanation:
    """The results of all experiments on one model.

    Attributes:
        name: Of the model.
        checkpoint: The model.
        size: (height, width) of the pixels that it reads.
        layers: The network at that size.
        cost: Its multiply-adds and parameters.
        panels: Figure 1.
        survival: Figure 1 in numbers.
        regions: Layers in which ReLU cuts nothing.
        disc: Lemma 1.
        invertibility: Lemma 2.
        memory: Activation memory.
        on_photos: The experiments that need photos; None without photos.
    """

    name: str
    checkpoint: Checkpoint
    size: tuple[int, int]
    layers: tuple[Layer, ...]
    cost: Cost
    panels: tuple[Panel, ...]
    survival: tuple[Survival, ...]
    regions: tuple[LinearRegion, ...]
    disc: LemmaOne
    invertibility: tuple[Invertibility, ...]
    memory: Memory
    on_photos: OnPhotos | None


def explain(
    checkpoint: Checkpoint,
    name: str,
    photos: Photos | None = None,
    seed: int = 0,
    advance: Callable[[], object] = lambda: None,
) -> Explanation:
    """Runs every experiment; without photos, those that need none.

    Args:
        checkpoint: A float model.
        name: The model's name in the report.
        photos: From `photos.read_photos`.
        seed: Of all random numbers.
        advance: Called `steps(checkpoint, photos)` times.
    """
    size = checkpoint.preprocessing.size
    return Explanation(
        name,
        checkpoint,
        size,
        layers(checkpoint.architecture, *size),
        network_cost(checkpoint.architecture, *size),
        panels(seed=seed),
        survival(seed=seed),
        linear_regions(seed=seed),
        lemma_one(seed=seed),
        invertibility(seed=seed),
        measure_memory(checkpoint, *size),
        None if photos is None else _on_photos(checkpoint, photos, seed, advance),
    )


def steps(checkpoint: Checkpoint, photos: Photos) -> int:
    """How often `explain` calls `advance`: once per photo and once per block."""
    return len(photos.pixels) + len(bottleneck_layers(layers(checkpoint.architecture)))


def _on_photos(
    checkpoint: Checkpoint, photos: Photos, seed: int, advance: Callable[[], object]
) -> OnPhotos:
    manifold = observe(checkpoint, photos.pixels, seed, advance)
    first_photo = _first_photo(checkpoint, photos)
    if not checkpoint.architecture.classes:
        return OnPhotos(photos, manifold, None, (), (), first_photo)
    engine = Engine(checkpoint)
    judge = Judge(photos.pixels, classes(engine, photos.pixels), photos.truth)
    return OnPhotos(
        photos,
        manifold,
        judge(engine),
        clip_bottlenecks(checkpoint, judge, advance),
        narrow_bottlenecks(checkpoint, manifold.moments, judge),
        first_photo,
    )


def _first_photo(checkpoint: Checkpoint, photos: Photos) -> FirstPhoto:
    net = network(checkpoint.architecture, *photos.pixels.shape[1:3])
    names = [layer.name for layer in bottleneck_layers(net.layers)]
    values = Reference(checkpoint).run(photos.pixels[:1], {*names, *net.outputs})
    predicted: tuple[tuple[str, float], ...] = ()
    if checkpoint.architecture.head.task == "classification":
        predicted = _most_probable(values[net.outputs[0]].ravel(), checkpoint.labels)
    maps = {name: values[name][0] for name in names}
    drawn = drawn_answer(checkpoint, photos.pixels[0])
    return FirstPhoto(photos.names[0], photos.pixels[0], maps, predicted, drawn)


def _most_probable(
    logits: NDArray[np.floating], labels: Sequence[str], top: int = 3
) -> tuple[tuple[str, float], ...]:
    """Labels and probabilities of the `top` classes, most probable first."""
    exponentials = np.exp(logits.astype(np.float64) - float(logits.max()))
    probabilities = exponentials / exponentials.sum()
    order = np.argsort(-probabilities, kind="stable")[:top]
    return tuple((labels[i] if labels else f"class {i}", float(probabilities[i])) for i in order)
