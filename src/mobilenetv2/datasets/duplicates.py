"""Images that stand in a dataset more than once: the same bytes under several names."""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any

from ..errors import shortened
from .archive import Archive, InMemory
from .sample import Dataset, Labelled

PIECE = 4096  # bytes in the middle of a file, compared before all of it


def same_images(samples: Sequence[Labelled[Any]]) -> list[list[int]]:
    """The groups of samples with the same bytes, as indices in ascending order.

    Sizes are compared first, then a piece of the files of one size, and whole files only where
    these are equal. Files that cannot be read are left out.
    """
    groups: list[list[int]] = [list(range(len(samples)))]
    for key in (_size, _piece, _digest):
        groups = [part for group in groups for part in _parts(samples, group, key)]
    return groups


def _parts(
    samples: Sequence[Labelled[Any]], group: Iterable[int], key: Callable[[Labelled[Any]], Hashable]
) -> list[list[int]]:
    """The parts of a group with equal keys, of two samples or more."""
    parts: defaultdict[Hashable, list[int]] = defaultdict(list)
    for i in group:
        try:
            parts[key(samples[i])].append(i)
        except Exception:  # zipfile raises nearly anything; decoding it says what is wrong
            continue
    return [part for part in parts.values() if len(part) > 1]


def _size(sample: Labelled[Any]) -> Hashable:
    if isinstance(sample.source, Archive):
        size = sample.source.info(sample.member).file_size
    elif isinstance(sample.source, InMemory):
        size = len(sample.source.content)
    else:
        status = os.stat(sample.source or sample.name)
        if not stat.S_ISREG(status.st_mode):
            raise OSError("not a regular file")
        size = status.st_size
    return size or id(sample)  # empty files are no images


def _piece(sample: Labelled[Any]) -> Hashable:
    if isinstance(sample.source, Archive):
        return sample.source.info(sample.member).CRC
    if isinstance(sample.source, InMemory):
        return b""
    with open(sample.source or sample.name, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - PIECE) // 2)
        return file.read(PIECE)


def _digest(sample: Labelled[Any]) -> Hashable:
    import hashlib  # loads OpenSSL

    opened = sample.open()
    with open(opened, "rb") if isinstance(opened, Path) else opened as file:
        digest = hashlib.blake2b(digest_size=16)
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.digest()


def repeated_images(train: Dataset, val: Dataset | None = None) -> list[str]:
    """Lines about images with the same bytes: those in two classes, and those in both datasets.

    Args:
        train: A dataset.
        val: Another one with the same classes.
    """
    samples = (*train.samples, *(val.samples if val else ()))
    groups = same_images(samples)
    classes = []
    for group in groups:
        first = samples[group[0]]
        for sample in (samples[i] for i in group[1:]):
            if sample.target == first.target:
                continue
            pair = f"{sample.name} is {first.name}"
            if sample.name == first.name:
                both = (train.classes[each.target] for each in (first, sample))
                pair = f"{first.name} is {' and '.join(both)}"
            classes.append(pair)
    return [
        *_shared(groups, samples, len(train.samples)),
        *_line(classes, "images that stand in two classes"),
    ]


def shared_images(train: Sequence[Labelled[Any]], val: Sequence[Labelled[Any]]) -> list[str]:
    """A line about images of `val` with the bytes of images of `train`, if there are any."""
    samples = (*train, *val)
    return _shared(same_images(samples), samples, len(train))


def _shared(
    groups: Sequence[Sequence[int]], samples: Sequence[Labelled[Any]], train: int
) -> list[str]:
    """The line about groups that begin in the first `train` samples and go on behind them."""
    pairs = [
        f"{samples[i].name} is {samples[first].name}"
        for first, *others in groups
        for i in others
        if first < train <= i and samples[i].name != samples[first].name
    ]
    return _line(pairs, "images to validate with that are also trained with")


def _line(pairs: Sequence[str], what: str) -> list[str]:
    return [f"{what}: {len(pairs)}: {shortened(pairs, separator='; ')}"] if pairs else []
