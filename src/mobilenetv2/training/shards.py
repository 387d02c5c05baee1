"""Images streamed from tar files: for datasets that are larger than a disk."""

from __future__ import annotations

import random
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import count, islice
from pathlib import Path
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
from .workers import UNKNOWN, Batch, Span, batch_loader, stacked

Item = Callable[[Image.Image, Any, np.random.Generator], tuple[Tensor, Any]]
# a sample, the names of the classes, and the (height, width) of its upright image -> its target
ShardTarget = Callable[[ShardSample, Sequence[str], tuple[int, int]], Any]
SHUFFLE_BUFFER = 1000  # encoded images from which the next one is drawn at random
REMOTE = re.compile("[a-z][a-z0-9+]+:", re.IGNORECASE)  # two letters or more: not a drive


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
        pattern: Path or URL, with braces for the part that varies.
        classes: Names of the classes in order. None: the files contain indices.

    Raises:
        MissingExtraError: The library webdataset is not installed.
        UserError: A file does not exist. URLs are not checked.
    """
    if find_spec("webdataset") is None:
        raise MissingExtraError("shards need the library webdataset: pip install webdataset")
    from webdataset.shardlists import expand_urls

    urls = expand_urls(pattern)
    absent = [url for url in urls if not REMOTE.match(url) and not Path(url).is_file()]
    if absent:
        raise UserError(f"{pattern}: {len(absent)} of {len(urls)} files are absent: {absent[0]}")
    return Shards(tuple(urls), None if classes is None else tuple(classes))


def class_item(
    transform: Transform, image: Image.Image, sample: Labelled[Any], rng: np.random.Generator
) -> tuple[Tensor, Any]:
    """(C, H, W) uint8 and the class index of one decoded image."""
    return torch.from_numpy(transform(image, rng)).permute(2, 0, 1), sample.target


class ShardImages(IterableDataset[tuple[Tensor, Any]]):
    """The decoded and transformed images of shards, repeated without end.

    In each pass over the data, seed and epoch decide at random which worker of which process reads
    which shards. Within them, images are shuffled in a buffer of 1000. The random numbers of an
    image depend on the seed, the epoch, the pass and its name. Images that cannot be decoded are
    left out with a warning.

    Args:
        shards: From `read_shards`.
        transform: As for `Images`.
        seed: 0 or above.
        rank: Number of this training process.
        world: Number of training processes.
        item: As `Images.item`, for targets that are no classes; it takes the place of `transform`.
        set_share: As `Images.set_share`.
        alternate: Mirror each image in every other pass and epoch.

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
            for sample in shuffled(_samples(urls)):
                if image := self._image(sample, repeat):
                    empty = False
                    yield image
            if empty:
                raise UserError(f"no images in {', '.join(urls[:5])}")

    def _image(self, files: dict[str, Any], repeat: int) -> tuple[Tensor, Any] | None:
        contents = {kind: value for kind, value in files.items() if isinstance(value, bytes)}
        sample = ShardSample(f"{files['__url__']}/{files['__key__']}", contents)
        if sample.image is None:
            return None
        try:
            image = decode(sample.open(sample.image), stretch=self.shards.stretch)
        except ImageError as error:
            warnings.warn(f"left out: {error}", stacklevel=2)
            return None
        classes = self.shards.classes or ()
        target = self.shards.target(sample, classes, (image.height, image.width))
        key = crc32(files["__key__"].encode())
        rng = np.random.default_rng((key + 1, self.epoch, self.seed, repeat))
        if self.alternate and (key + self.epoch + repeat) % 2 == 0:
            image = ImageOps.mirror(image)
        return self.item(image, Labelled(sample.name, target), rng)


def _ignore(share: float) -> None:
    """Nothing depends on the share of the run."""


def _samples(urls: Sequence[str]) -> Iterator[dict[str, Any]]:
    from webdataset.gopen import gopen
    from webdataset.tariterators import group_by_keys, tar_file_expander

    for url in urls:
        try:
            with gopen(url) as stream:
                yield from group_by_keys(tar_file_expander([{"url": url, "stream": stream}]))
        except Exception as error:  # webdataset, tarfile and the download raise anything
            raise UserError(f"{url}: cannot be read: {error}") from error


def shard_loader(
    images: ShardImages,
    batch: int,
    *,
    epoch: int,
    steps: int,
    workers: int,
    span: Span = UNKNOWN,
) -> DataLoader[Batch]:
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
    return batch_loader(_Batches(images, batch, steps, span), batch_bytes, workers)


class _Batches(IterableDataset["Batch | UserError"]):
    """The batches of this worker; the workers take turns."""

    def __init__(self, images: ShardImages, batch: int, steps: int, span: Span) -> None:
        self.images, self.batch, self.steps, self.span = images, batch, steps, span

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Batch | UserError]:
        info = get_worker_info()
        workers, worker = (info.num_workers, info.id) if info else (1, 0)
        stream = iter(self.images)
        try:
            for b in range(worker, self.steps, workers):
                self.images.set_share(self.span.at(b / self.steps))
                yield stacked(list(islice(stream, self.batch)))
        except UserError as error:
            yield error
