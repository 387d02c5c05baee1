"""The photos on which a model is examined, with their right classes where these are known."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..arguments import check_kind, check_path, check_whole
from ..checkpoint import Checkpoint
from ..datasets import Dataset, Sample, collect_images, read_dataset
from ..errors import ImageError, UserError
from ..evaluation import match_classes
from ..paths import is_folder


@dataclass(frozen=True)
class Photos:
    """Photos as the model reads them.

    Attributes:
        pixels: (N, H, W, C) uint8.
        names: File names, (N,).
        truth: Right class of each photo, as an index of the model's outputs, (N,); None where the
            classes are not known.
        unlabelled: Why they are not known; empty where they are.
        skipped: For each file that cannot be read: what is wrong with it.
    """

    pixels: NDArray[np.uint8]
    names: tuple[str, ...]
    truth: NDArray[np.int64] | None = None
    unlabelled: str = ""
    skipped: tuple[str, ...] = ()


def read_photos(
    checkpoint: Checkpoint,
    source: str | os.PathLike[str],
    samples: int = 100,
    advance: Callable[[], object] = lambda: None,
    *,
    stretch: bool = False,
) -> Photos:
    """Reads photos, at even distances in the list of all photos of a source.

    Args:
        checkpoint: The model; photos get its preprocessing, and indices of its classes.
        source: Labelled photos as `datasets.read_dataset` takes them, or else anything that
            `datasets.collect_images` takes. Photos in folders whose names are not classes of the
            model count as unlabelled.
        samples: How many to read, at most.
        advance: Called after each photo.
        stretch: As for `images.decode`.

    Raises:
        UserError: There are no photos, or none of the chosen ones can be read.
    """
    samples = check_whole("samples", samples)
    check_kind("checkpoint", checkpoint, Checkpoint)
    available, truth, unlabelled, problems = _find(checkpoint, check_path("source", source))
    skipped = list(problems)
    if not available:
        raise UserError("; ".join(skipped) or f"{source}: no images")
    count = min(samples, len(available))
    pixels, kept = [], []
    for i in (step * len(available) // count for step in range(count)):
        try:
            photo = replace(available[i], stretch=stretch)
            pixels.append(checkpoint.preprocessing(photo.decode()))
            kept.append(i)
        except ImageError as error:
            skipped.append(str(error))
        advance()
    if not pixels:
        raise UserError(f"{source}: none of the {count} photos can be read: {skipped[0]}")
    names = tuple(available[i].name for i in kept)
    truth = None if truth is None else truth[kept]
    return Photos(np.stack(pixels), names, truth, unlabelled, tuple(skipped))


def _find(
    checkpoint: Checkpoint, source: str
) -> tuple[Sequence[Sample], NDArray[np.int64] | None, str, Sequence[str]]:
    """All photos of a source, the right class of each or why these are not known, and what is no
    image.
    """
    unlabelled = "they are not in class folders or a list"
    if is_folder(source) or source.lower().endswith((".csv", ".zip")):
        try:
            dataset = read_dataset(source)
            return dataset.samples, _truth(checkpoint, dataset), "", ()
        except UserError as error:
            unlabelled = str(error).split(";")[0]
    inputs = collect_images([source])
    return inputs.samples, None, unlabelled, inputs.problems


def _truth(checkpoint: Checkpoint, dataset: Dataset) -> NDArray[np.int64]:
    if checkpoint.architecture.head.task != "classification":
        raise UserError("the model does not predict a class for a photo")
    used = {sample.target for sample in dataset.samples}
    indices = match_classes(dataset, checkpoint.labels, checkpoint.architecture.classes, used)
    return indices[[sample.target for sample in dataset.samples]]
