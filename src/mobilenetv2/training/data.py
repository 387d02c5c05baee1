"""Decoded images in batches, the same ones whatever the number of workers and machines."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from ..datasets import Sample
from ..errors import ImageError, UserError
from ..images import decode
from .augment import Transform
from .shards import ShardImages, Shards, read_shards, shard_loader
from .splits import Split, check_images, read_split, without
from .workers import MOST_WORKERS, Batch, batch_loader, default_workers, stacked

__all__ = [
    "Images",
    "ShardImages",
    "Shards",
    "Split",
    "check_images",
    "default_workers",
    "loader",
    "read_shards",
    "read_split",
    "shard_loader",
    "without",
]


class Images(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """Images of a dataset, decoded and changed.

    Random numbers depend on the seed, the epoch and the image's place in `samples` alone.

    Args:
        samples: Of a dataset.
        transform: From `Augmentation.transform` or `evaluation_transform`: an upright RGB image
            and random numbers -> (H, W, C) uint8.
        seed: 0 or above.
        remember_bytes: Decoded images to keep in memory, the first ones; they are decoded at
            once. 3 bytes a pixel: 154 MB for the 50000 of CIFAR-10.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        transform: Transform,
        seed: int = 0,
        remember_bytes: int = 0,
    ) -> None:
        self.samples, self.transform, self.seed, self.epoch = samples, transform, seed, 0
        self._remembered = _decoded(samples, remember_bytes)

    def __len__(self) -> int:
        return len(self.samples)

    def set_epoch(self, epoch: int) -> None:
        """Other random numbers from now on; workers that run already do not hear of it."""
        self.epoch = epoch

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        """(C, H, W) uint8 and the label.

        Raises:
            ImageError: It cannot be decoded.
        """
        pixels = self._remembered[i] if i < len(self._remembered) else None
        sample = self.samples[i]
        image = decode(sample.open()) if pixels is None else Image.fromarray(pixels)
        rng = np.random.default_rng((i + 1, self.epoch, self.seed))
        return torch.from_numpy(self.transform(image, rng)).permute(2, 0, 1), sample.target


def _decoded(samples: Sequence[Sample], most_bytes: int) -> list[NDArray[np.uint8] | None]:
    """The first images as (H, W, 3), as many as fit; None for one that cannot be decoded."""

    def pixels(sample: Sample) -> NDArray[np.uint8] | None:
        try:
            return np.asarray(decode(sample.open()))
        except ImageError:
            return None

    found: list[NDArray[np.uint8] | None] = []
    total, ahead = 0, 64 * MOST_WORKERS
    with ThreadPoolExecutor(max(1, default_workers())) as pool:
        while total < most_bytes and len(found) < len(samples):
            for image in pool.map(pixels, samples[len(found) : len(found) + ahead]):
                total += 0 if image is None else image.nbytes
                if total > most_bytes:
                    break
                found.append(image)
    return found


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
) -> DataLoader[Batch]:
    """One epoch's batches: (N, C, H, W) uint8, in memory with the channels last, and (N,) int64.

    Training takes the images in an order by chance. They are shared out evenly: every process has
    as many batches as any other, sizes differ by one image at most, and none has a single
    image, which batch norm could not use (so `batch` is passed by one at times, and a batch of
    one is made two). Validation takes each image once, in order; processes may differ in number.

    Args:
        images: What to load; its epoch is set.
        batch: Images a batch and process, at most (but see above).
        epoch: Decides the order, and the random numbers of the images.
        seed: Decides the order too.
        train: Whether to train with them or to validate.
        workers: Processes that decode; 0: none but this one. Each computes with one thread. Fewer
            are started, with a warning, where shared memory is too small for their batches.
        balance: In training, all classes equally often: as many images as ever, of the small
            classes again and again, of the large ones a part.
        rank: Which process of training this is.
        world: How many there are.

    Returns:
        To be gone through once. An `ImageError` in a worker is raised here as it was there.

    Raises:
        UserError: `batch` below 1, or fewer than two images a process to train with.
    """
    if batch < 1:
        raise UserError(f"a batch has at least 1 image, not {batch}")
    images.set_epoch(epoch)
    if train:
        order = _order(images.samples, balance, np.random.default_rng((0, epoch, seed)))
        batches = _even_batches(order, batch, world)[rank::world]
    else:
        mine = np.arange(rank, len(images), world)
        batches = [mine[i : i + batch] for i in range(0, len(mine), batch)]
    one = images[int(batches[0][0])][0].nbytes * len(batches[0]) if batches and workers else 0
    return batch_loader(_Batches(images, batches), one, min(workers, len(batches)))


def _order(samples: Sequence[Sample], balance: bool, rng: np.random.Generator) -> NDArray[np.intp]:
    """Images by chance, each once, or balanced: of each class as many, each about as often."""
    if not balance:
        return rng.permutation(len(samples))
    labels = np.array([sample.target for sample in samples])
    members = np.split(np.argsort(labels, kind="stable"), np.cumsum(np.bincount(labels))[:-1])
    present = [members[i] for i in rng.permutation(len(members)) if len(members[i])]
    shares = np.array_split(np.arange(len(samples)), len(present))
    chosen = [
        np.resize(rng.permutation(of_class), len(share)) for of_class, share in zip(present, shares)
    ]
    return rng.permutation(np.concatenate(chosen))


def _even_batches(order: NDArray[np.intp], batch: int, world: int) -> list[NDArray[np.intp]]:
    """As few as there must be, `world` times a whole number, at least two images in each."""
    count = min(-(-len(order) // (batch * world)), len(order) // (2 * world))
    if not count:
        raise UserError(
            f"{len(order)} images are too few to train with: batch norm needs two at a time in "
            f"each of {world} processes"
        )
    return np.array_split(order, count * world)


class _Batches(torch.utils.data.Dataset["Batch | UserError"]):
    """Batches by number."""

    def __init__(self, images: Images, batches: Sequence[NDArray[np.intp]]) -> None:
        self.images, self.batches = images, batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, b: int) -> Batch | UserError:
        try:
            return stacked([self.images[int(i)] for i in self.batches[b]])
        except ImageError as error:
            return error
