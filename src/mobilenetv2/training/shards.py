"""Images streamed from tar files: for datasets that are larger than a disk."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import chain, count, islice
from typing import Any
from zlib import crc32

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ..datasets.sample import Labelled
from ..datasets.shard_sample import ShardSample, class_target
from ..errors import ImageError, MissingExtraError, UserError
from ..images import decode
from .augment import Transform
from .tar_files import tar_files, tar_samples
from .workers import UNKNOWN, Batch, Span, batch_loader, stacked

Item = Callable[[Image.Image, Any, np.random.Generator], tuple[Tensor, Any]]
# a sample, the names of the classes, and the (height, width) of its upright image -> its target
ShardTarget = Callable[[ShardSample, Sequence[str], tuple[int, int]], Any]
SHUFFLE_BUFFER = 1000  # encoded images from which the next one is drawn at random


@dataclass(frozen=True)
class Shards:
    """Tar files of images in WebDataset's layout.

    Attributes:
        urls: The files, or addresses that the library webdataset opens.
        classes: Names of the classes; None: labels are numbers.
        stretch: As for `images.decode`.
        target: Reads what is to be learnt of an image: `class_target`, a `BoxTargets` or
            `mask_target`.
    """

    urls: tuple[str, ...]
    classes: tuple[str, ...] | None = None
    stretch: bool = False
    target: ShardTarget = class_target


def in_shards(data: str) -> bool:
    """Whether images are shards."""
    return data.lower().endswith(".tar")


def read_shards(pattern: str, classes: Sequence[str] | None = None) -> Shards:
    """The tar files of a pattern such as train-{000000..000123}.tar.

    In each file, every image (.jpg, .png, ...) stands beside its class in a file of the same
    name: .cls with the class name or its index from 0, or .json with either as "label" or
    "index". Boxes and masks stand there in the same way (`Shards.target`).

    Args:
        pattern: Path or URL, as for `tar_files`.
        classes: Names of the classes in order. None: the files contain indices.

    Raises:
        MissingExtraError: The library webdataset is not installed.
        UserError: A file does not exist. URLs are not checked.
    """
    if find_spec("webdataset") is None:
        raise MissingExtraError("shards need the library webdataset: pip install webdataset")
    return Shards(tuple(tar_files(pattern)), None if classes is None else tuple(classes))


def class_item(
    transform: Transform, image: Image.Image, sample: Labelled[Any], rng: np.random.Generator
) -> tuple[Tensor, Any]:
    """(C, H, W) uint8 and the class index of one decoded image."""
    return torch.from_numpy(transform(image, rng)).permute(2, 0, 1), sample.target


class ShardImages(IterableDataset[tuple[Tensor, Any]]):
    """The decoded and transformed images of shards, repeated without end.

    In each pass over the data, seed and epoch decide at random which worker of which process reads
    which shards. Within them, images are shuffled in a buffer of 1000. The random numbers of an
    image depend on the seed, the epoch, the pass and its name. Images that cannot be read are left
    out, with a warning where `shard_loader` loads them.

    Args:
        shards: From `read_shards`.
        transform: As for `Images`.
        seed: 0 or above.
        rank: Number of this training process.
        world: Number of training processes.
        item: As `Images.item`, for targets that are no classes; it takes the place of `transform`.
        set_share: As `Images.set_share`.
        alternate: Mirror each image in every other pass and epoch.

    Attributes:
        left_out: The errors of images that `shard_loader` has left out, by name.

    Raises:
        UserError: There are fewer shards than processes.
    """

    def __init__(
        self,
        shards: Shards,
        transform: Transform,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        item: Item | None = None,
        set_share: Callable[[float], None] | None = None,
        alternate: bool = False,
    ) -> None:
        if len(shards.urls) < world:
            raise UserError(f"{len(shards.urls)} shards cannot be shared by {world} processes")
        self.shards, self.seed = shards, seed
        self.item = item or partial(class_item, transform)
        self.set_share, self.alternate = set_share or _ignore, alternate
        self.rank, self.world, self.epoch = rank, world, 0
        self.left_out: dict[str, ImageError] = {}
        self._problems: dict[str, ImageError] = {}

    def set_epoch(self, epoch: int) -> None:
        """Changes the order and the random numbers from the next iteration on."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[Tensor, Any]]:
        """Pairs of (C, H, W) uint8 and the class index, or another target.

        Raises:
            UserError: A shard cannot be read, an image has no class or other target, or a pass has
                no images.
        """
        import webdataset

        info = get_worker_info()
        workers, worker = (info.num_workers, info.id) if info else (1, 0)
        part, parts = self.rank * workers + worker, self.world * workers
        for repeat in count():
            order = np.random.default_rng((0, self.epoch, self.seed, repeat))
            urls = order.permutation(self.shards.urls)[part::parts].tolist()
            shuffled = webdataset.shuffle(
                SHUFFLE_BUFFER, rng=random.Random(f"{self.seed} {self.epoch} {repeat} {part}")
            )
            empty = True
            for name, sample in shuffled(chain.from_iterable(map(tar_samples, urls))):
                number = _number(name)
                rng = np.random.default_rng((number, self.epoch, self.seed, repeat))
                mirrored = self.alternate and (number + self.epoch + repeat) % 2 == 1
                if image := self._image(sample, rng, mirrored):
                    empty = False
                    yield image
            if empty:
                reason = f": {error}" if (error := next(iter(self._problems.values()), "")) else ""
                raise UserError(f"no images in {', '.join(urls[:5])}{reason}")

    def new_problems(self) -> dict[str, ImageError]:
        """The errors of images that were left out since the last call, by name."""
        problems, self._problems = self._problems, {}
        return problems

    def _image(
        self, sample: ShardSample, rng: np.random.Generator, mirrored: bool
    ) -> tuple[Tensor, Any] | None:
        left_out = sample.left_out()
        self._problems |= left_out
        if sample.image is None or (name := f"{sample.name}.{sample.image}") in left_out:
            return None
        try:
            image = decode(sample.open(sample.image), stretch=self.shards.stretch)
        except ImageError as error:
            self._problems[name] = error
            return None
        classes = self.shards.classes or ()
        target = self.shards.target(sample, classes, (image.height, image.width))
        if mirrored:
            image = ImageOps.mirror(image)
        return self.item(image, Labelled(sample.name, target), rng)


def _number(name: str) -> int:
    return 1 + crc32(name.encode(errors="surrogateescape"))


def _ignore(share: float) -> None:
    """Nothing depends on the share of the run."""


def shard_loader(
    images: ShardImages,
    batch: int,
    *,
    epoch: int,
    steps: int,
    workers: int,
    span: Span = UNKNOWN,
) -> ShardLoader:
    """One epoch of shards: `steps` batches like those of `loader`.

    Args:
        images: What to load; its epoch is set.
        batch: Images per batch and process, at least two as in `loader`.
        epoch: Decides the order and the images' random numbers.
        steps: Number of batches.
        workers: Processes that decode; at most the number of shards per training process.
        span: The part of the run that the epoch is expected to be.
    """
    images.set_epoch(epoch)
    batch = max(2, batch)
    workers = min(workers, len(images.shards.urls) // images.world, steps)
    batch_bytes = next(iter(images))[0].nbytes * batch if workers else 0
    return ShardLoader(
        images, batch_loader(_Batches(images, batch, steps, span), batch_bytes, workers)
    )


class ShardLoader:
    """The batches of an epoch. Images that are left out are named once, and kept in `images.left_out`.

    Attributes:
        num_workers: Processes that decode.
    """

    def __init__(self, images: ShardImages, batches: DataLoader[Any]) -> None:
        self._images, self._batches = images, batches
        self.num_workers = batches.num_workers

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        left_out = self._images.left_out
        for (pixels, targets), problems in self._batches:
            for name, error in problems.items():
                if name not in left_out:
                    left_out[name] = error
                    warnings.warn(f"left out: {error}", stacklevel=2)
            yield pixels, targets


class _Batches(IterableDataset["tuple[Batch, dict[str, ImageError]] | UserError"]):
    """The batches of this worker, with the errors of images left out; the workers take turns."""

    def __init__(self, images: ShardImages, batch: int, steps: int, span: Span) -> None:
        self.images, self.batch, self.steps, self.span = images, batch, steps, span

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[tuple[Batch, dict[str, ImageError]] | UserError]:
        info = get_worker_info()
        workers, worker = (info.num_workers, info.id) if info else (1, 0)
        stream = iter(self.images)
        try:
            for b in range(worker, self.steps, workers):
                self.images.set_share(self.span.at(b / self.steps))
                yield stacked(list(islice(stream, self.batch))), self.images.new_problems()
        except UserError as error:
            yield error
