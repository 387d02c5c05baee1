"""All experiments on one model, as one record: what the report shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..checkpoint import Checkpoint
from ..cost import Cost, network_cost
from ..graph import layers, network
from ..layer import Layer
from ..runtime.engine import Engine
from ..runtime.reference import Reference
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
class Look:
    """One photo on its way through the network.

    Attributes:
        name: The photo's file.
        pixels: As the model sees it, (H, W, C) uint8.
        maps: The tensor behind each block, (H, W, C) float32, by layer.
        answers: The most probable classes, best first: label and probability; () where the model
            does not classify.
    """

    name: str
    pixels: NDArray[np.uint8]
    maps: dict[str, NDArray[np.float32]] = field(repr=False)
    answers: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class OnPhotos:
    """What takes photos to measure.

    Attributes:
        photos: Which.
        manifold: What they span.
        unchanged: The model's own answers; None, as the next two are empty, where it has no
            classes.
        clippings: With a ReLU6 on bottlenecks.
        narrowings: With fewer directions.
        look: The first photo.
    """

    photos: Photos
    manifold: Manifold
    unchanged: Effect | None
    clippings: tuple[Clipping, ...]
    narrowings: tuple[Narrowing, ...]
    look: Look


@dataclass(frozen=True)
class Explanation:
    """Everything measured.

    Attributes:
        name: What the model is called.
        checkpoint: The model.
        size: (height, width) of the images.
        layers: The network at that size.
        cost: What it costs.
        panels: Figure 1.
        survival: Figure 1 in numbers.
        regions: ReLU where nothing is cut.
        disc: Lemma 1.
        invertibility: Lemma 2.
        memory: Activation memory.
        on_photos: What photos show; None without photos.
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
    """Runs every experiment; those on photos only if there are any.

    Args:
        checkpoint: A model of floats.
        name: What to call it.
        photos: From `photos.read_photos`.
        seed: Of all random numbers.
        advance: Called `steps(...)` times.
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
    """How often `explain` calls `advance`: once a photo, and once a block for its ReLU6."""
    return len(photos.pixels) + len(bottleneck_layers(layers(checkpoint.architecture)))


def _on_photos(
    checkpoint: Checkpoint, photos: Photos, seed: int, advance: Callable[[], object]
) -> OnPhotos:
    manifold = observe(checkpoint, photos.pixels, seed, advance)
    look = _look(checkpoint, photos)
    if not checkpoint.architecture.classes:
        return OnPhotos(photos, manifold, None, (), (), look)
    engine = Engine(checkpoint)
    judge = Judge(photos.pixels, classes(engine, photos.pixels), photos.truth)
    return OnPhotos(
        photos,
        manifold,
        judge(engine),
        clip_bottlenecks(checkpoint, judge, advance),
        narrow_bottlenecks(checkpoint, manifold.moments, judge),
        look,
    )


def _look(checkpoint: Checkpoint, photos: Photos, top: int = 3) -> Look:
    net = network(checkpoint.architecture, *photos.pixels.shape[1:3])
    names = [layer.name for layer in bottleneck_layers(net.layers)]
    values = Reference(checkpoint).run(photos.pixels[:1], {*names, *net.outputs})
    answers: list[tuple[str, float]] = []
    if checkpoint.architecture.head.task == "classification":
        logits: NDArray[Any] = values[net.outputs[0]].ravel().astype(np.float64)
        chances = np.exp(logits - logits.max())
        chances /= chances.sum()
        labels = checkpoint.labels
        answers = [
            (labels[i] if labels else f"class {i}", float(chances[i]))
            for i in np.argsort(-chances, kind="stable")[:top]
        ]
    maps = {name: values[name][0] for name in names}
    return Look(photos.names[0], photos.pixels[0], maps, tuple(answers))
