"""Decoded images in batches that do not depend on the number of workers and machines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence, Set
from contextlib import closing
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader

from ..datasets import Sample
from ..decoding import ignore_remark
from ..errors import ImageError, UserError
from ..pipeline import map_in_order
from .shards import ShardImages, Shards, class_item, read_shards, shard_loader
from .splits import Split, check_images, check_split, read_split, without
from .workers import UNKNOWN, Batch, Span, batch_loader, default_workers, stacked

__all__ = [
    "Images",
    "ShardImages",
    "Shards",
    "Split",
    "check_images",
    "check_split",
    "default_workers",
    "loader",
    "read_shards",
    "read_split",
    "shard_loader",
    "without",
]


class Images(torch.utils.data.Dataset[tuple[Tensor, Any]]):
    """Decoded and transformed images of a dataset, with their class indices.

    The random numbers of an image depend only on the seed, the epoch and its index in `samples`.

    Args:
        samples: Samples of a dataset.
        transform: From `Augmentation.transform` or `evaluation_transform`: an upright RGB image
            and a random generator -> (H, W, C) uint8.
        seed: 0 or above.
        remember_bytes: Size of a cache of decoded images, filled at once with the first images. An
            image takes 3 bytes per pixel, so the 50000 of CIFAR-10 take 154 MB.
        late: A share of the run, and the transform from it on.
        alternate: Mirror each image in every other epoch.
    """

    def __init__(
        self,
        samples: Sequence[Any],
        transform: Any,
        seed: int = 0,
        remember_bytes: int = 0,
        late: tuple[float, Any] | None = None,
        alternate: bool = False,
    ) -> None:
        self.samples, self.transform, self.seed, self.epoch = samples, transform, seed, 0
        self.late_from, self.late = late or (1.0, transform)
        self.early, self.alternate = transform, alternate
        self._decoded = _decoded(samples, remember_bytes)

    def __len__(self) -> int:
        return len(self.samples)

    def set_epoch(self, epoch: int) -> None:
        """Changes the random numbers from now on, but not in workers that are already running."""
        self.epoch = epoch

    def set_share(self, share: float) -> None:
        """Says how much of the run is done before the next images."""
        self.transform = self.early if share < self.late_from else self.late

    def __getitem__(self, i: int) -> tuple[Tensor, Any]:
        """(C, H, W) uint8 and the class index, or another target.

        Raises:
            ImageError: The image cannot be decoded.
        """
        pixels = self._decoded[i] if i < len(self._decoded) else None
        sample = self.samples[i]
        image = sample.decode(warn=ignore_remark) if pixels is None else Image.fromarray(pixels)
        if self.alternate and (i + self.epoch) % 2 == 0:
            image = ImageOps.mirror(image)
        return self.item(image, sample, np.random.default_rng((i + 1, self.epoch, self.seed)))

    def item(self, image: Image.Image, sample: Any, rng: np.random.Generator) -> tuple[Tensor, Any]:
        """Pixels and target of one decoded image."""
        return class_item(self.transform, image, sample, rng)

    def labels(self) -> NDArray[np.int64]:
        """One class per image, over which training is balanced."""
        return np.array([sample.target for sample in self.samples])


def rarest_classes(present: Sequence[Set[int]]) -> NDArray[np.int64]:
    """Of the classes in each image the one that the fewest images have; images without any are a
    class of their own.
    """
    counts = Counter(chain.from_iterable(present))
    none = max(counts, default=-1) + 1
    rarest = (min(of, key=lambda each: (counts[each], each), default=none) for of in present)
    return np.array(list(rarest))


def _decoded(samples: Sequence[Sample], max_bytes: int) -> list[NDArray[np.uint8] | None]:
    """The first images that fit, each (H, W, 3), or None if it cannot be decoded."""

    def pixels(sample: Sample) -> NDArray[np.uint8] | None:
        try:
            return np.asarray(sample.decode(warn=ignore_remark))
        except ImageError:
            return None

    images: list[NDArray[np.uint8] | None] = []
    total = 0
    with closing(
        map_in_order(samples if max_bytes else (), pixels, max(1, default_workers()))
    ) as decoded:
        for image in decoded:
            total += 0 if image is None else image.nbytes
            if total > max_bytes:
                break
            images.append(image)
    return images


def loader(
    images: Images,
    batch: int,
    *,
    epoch: int,
    seed: int,
    train: bool,
    workers: int,
    balance: bool = False,
    rank: int = 0,
    world: int = 1,
    span: Span = UNKNOWN,
) -> DataLoader[Batch]:
    """The batches of one epoch: (N, C, H, W) uint8, channels last in memory, and (N,) int64.

    Training takes the images in random order and shares them evenly: every process gets the same
    number of batches, their sizes differ by at most one image, and none has a single image, which
    batch norm could not use. (So a batch may have one image more than `batch`, and `batch` 1 gives
    batches of two.) Validation takes each image once, in order; processes may get different
    numbers.

    Args:
        images: What to load; its epoch is set.
        batch: Highest number of images per batch and process (but see above).
        epoch: Decides the order, and the random numbers of the images.
        seed: Decides the order too.
        train: True to train, False to validate.
        workers: Processes that decode, each with one thread; 0: this process decodes. Fewer are
            started, with a warning, where shared memory is too small for their batches.
        balance: In training, show all classes equally often. The number of images stays; those of
            small classes are repeated, those of large classes are not all used. An image with
            boxes or a mask counts for the rarest of its classes.
        rank: Number of this training process.
        world: Number of training processes.
        span: The part of the run that the epoch is expected to be.

    Returns:
        An iterable to use once. An `ImageError` in a worker is raised here unchanged.

    Raises:
        UserError: `batch` is below 1, or a training process would get fewer than two images.
    """
    if batch < 1:
        raise UserError(f"a batch has at least 1 image, not {batch}")
    images.set_epoch(epoch)
    if train:
        rng = np.random.default_rng((0, epoch, seed))
        order = _balanced(images.labels(), rng) if balance else rng.permutation(len(images))
        batches = _even_batches(order, batch, world)[rank::world]
    else:
        mine = np.arange(rank, len(images), world)
        batches = [mine[i : i + batch] for i in range(0, len(mine), batch)]
    batch_bytes = 0
    if batches and workers:
        batch_bytes = images[int(batches[0][0])][0].nbytes * len(batches[0])
    return batch_loader(_Batches(images, batches, span), batch_bytes, min(workers, len(batches)))


def _balanced(labels: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.intp]:
    """Indices of images in random order, balanced over their labels."""
    members = np.split(np.argsort(labels, kind="stable"), np.cumsum(np.bincount(labels))[:-1])
    present = [members[i] for i in rng.permutation(len(members)) if len(members[i])]
    shares = np.array_split(np.arange(len(labels)), len(present))
    chosen = [
        np.resize(rng.permutation(of_class), len(share)) for of_class, share in zip(present, shares)
    ]
    return rng.permutation(np.concatenate(chosen))


def _even_batches(order: NDArray[np.intp], batch: int, world: int) -> list[NDArray[np.intp]]:
    """The smallest number of batches that is a multiple of `world`, each of two images or more."""
    count = min(-(-len(order) // (batch * world)), len(order) // (2 * world))
    if not count:
        raise UserError(
            f"{len(order)} images are too few to train with: batch norm needs two at a time in "
            f"each of {world} processes"
        )
    return np.array_split(order, count * world)


class _Batches(torch.utils.data.Dataset["Batch | UserError"]):
    """Batches by their number in the epoch."""

    def __init__(self, images: Images, batches: Sequence[NDArray[np.intp]], span: Span) -> None:
        self.images, self.batches, self.span = images, batches, span

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, b: int) -> Batch | UserError:
        self.images.set_share(self.span.at(b / len(self.batches)))
        try:
            return stacked([self.images[int(i)] for i in self.batches[b]])
        except ImageError as error:
            return error
