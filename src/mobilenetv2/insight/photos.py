"""The photos that a model is explained on, and small copies of them for the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..checkpoint import Checkpoint
from ..datasets import Dataset, Sample, read_dataset
from ..errors import ImageError, UserError
from ..evaluation import match_classes
from ..images import decode, find_images


@dataclass(frozen=True)
class Photos:
    """Photos as the model sees them.

    Attributes:
        pixels: (N, H, W, C) uint8.
        names: Their files.
        truth: The model's index of each one's class, (N,); None where that is not known.
        unlabelled: Why it is not known; empty where it is.
        skipped: What is wrong with those that could not be read.
    """

    pixels: NDArray[np.uint8]
    names: tuple[str, ...]
    truth: NDArray[np.int64] | None = None
    unlabelled: str = ""
    skipped: tuple[str, ...] = ()


def read_photos(
    checkpoint: Checkpoint,
    source: Path,
    samples: int = 100,
    advance: Callable[[], object] = lambda: None,
) -> Photos:
    """Reads photos, evenly spaced among those found.

    Args:
        checkpoint: Whose preprocessing and classes are meant.
        source: A folder of photos; or labelled ones, as `datasets.read_dataset` takes them. Photos
            in class folders that the model does not know count as unlabelled.
        samples: How many at most.
        advance: Called after each.

    Raises:
        UserError: There are none, or none can be read.
    """
    every_sample, truth, unlabelled = _find(checkpoint, source)
    count = min(samples, len(every_sample))
    chosen = [i * len(every_sample) // count for i in range(count)]
    pixels, kept, skipped = [], [], []
    for i in chosen:
        try:
            pixels.append(checkpoint.preprocessing(decode(every_sample[i].open())))
            kept.append(i)
        except ImageError as error:
            skipped.append(str(error))
        advance()
    if not pixels:
        raise UserError(f"{source}: none of the {count} photos can be read: {skipped[0]}")
    names = tuple(every_sample[i].name for i in kept)
    right = None if truth is None else truth[kept]
    return Photos(np.stack(pixels), names, right, unlabelled, tuple(skipped))


def _find(
    checkpoint: Checkpoint, source: Path
) -> tuple[Sequence[Sample], NDArray[np.int64] | None, str]:
    """The photos, the model's index of each one's class, and why there is none."""
    if not source.is_dir():
        dataset = read_dataset(source)
        return dataset.samples, _truth(checkpoint, dataset), ""
    try:
        dataset = read_dataset(source)
        return dataset.samples, _truth(checkpoint, dataset), ""
    except UserError as error:
        files, _ = find_images(source)
        if not files:
            raise UserError(f"{source}: no photos in this folder") from None
        return [Sample(str(file), -1, file) for file in files], None, str(error).split(";")[0]


def _truth(checkpoint: Checkpoint, dataset: Dataset) -> NDArray[np.int64]:
    if checkpoint.architecture.head.task != "classification":
        raise UserError("the model does not name a class for a photo")
    used = {sample.target for sample in dataset.samples}
    labels, outputs = checkpoint.labels, checkpoint.architecture.classes
    index = match_classes(dataset, labels, outputs, used)
    return index[[sample.target for sample in dataset.samples]]


COLUMNS = 6  # maps a block
STOPS = np.array(  # dark to bright, in equal steps of lightness; read from viridis
    [(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)], np.float64
)


def png(pixels: NDArray[np.uint8]) -> str:
    """Pixels (H, W, 1 or 3) as a data address."""
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze(axis=2) if pixels.shape[2] == 1 else pixels).save(
        file, "PNG", optimize=True
    )
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def jpeg(pixels: NDArray[np.uint8]) -> str:
    """A photo (H, W, 1 or 3) as a data address."""
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze(axis=2) if pixels.shape[2] == 1 else pixels).save(
        file, "JPEG", quality=88
    )
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def strongest(values: NDArray[np.float32], count: int = COLUMNS) -> NDArray[np.int64]:
    """The channels of a map (H, W, C) that vary most over its places, most first, (count,)."""
    spread = values.reshape(-1, values.shape[2]).var(axis=0)
    order: NDArray[np.int64] = np.argsort(-spread, kind="stable")[:count]
    return order


def coloured(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """One channel (H, W) in colours from its least to its largest value, (H, W, 3)."""
    low, high = float(values.min()), float(values.max())
    shares = (values.astype(np.float64) - low) / (high - low if high > low else 1.0)
    places = np.linspace(0, 1, len(STOPS))
    channels = [np.interp(shares, places, STOPS[:, i]) for i in range(3)]
    return np.stack(channels, axis=2).round().astype(np.uint8)
