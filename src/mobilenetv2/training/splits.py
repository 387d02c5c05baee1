"""Splits a dataset into images to train with and images to validate with."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..datasets import SPLITS, Dataset, read_splits, repeated_images
from ..decoding import warn_of_range
from ..errors import ImageError, UserError
from ..pipeline import map_in_order

TREE = (
    "expected one folder per class, DATA/train/CLASS/image.jpg and DATA/val/CLASS/image.jpg; or, "
    "with some images set aside for validation, DATA/CLASS/image.jpg"
)
FEW = 10  # a class with fewer images than this is mentioned
IMBALANCE = 10  # mentioned if the largest class has this many times the smallest class's images
GROUP = 64  # images that a thread checks at a time


@dataclass(frozen=True)
class Split:
    """Images to train with and others to validate with.

    Attributes:
        train: Images to learn from: a `Dataset`, `BoxDataset` or `MaskDataset`; of the former at
            least two classes have images.
        val: Images to validate with; the same classes in the same order, some possibly empty.
        problems: Warnings about the data, one line each.
    """

    train: Any
    val: Any
    problems: tuple[str, ...]

    def rows(self) -> list[dict[str, str | int]]:
        """Numbers of images per class: rows of class, train and val."""
        val = self.val.summary()
        return [
            {"class": row["class"], "train": row["images"], "val": other["images"]}
            for row, other in zip(self.train.summary(), val)
        ]


def read_split(
    source: str | os.PathLike[str],
    val: str | os.PathLike[str] | None = None,
    *,
    val_share: float = 0.1,
    seed: int = 0,
) -> Split:
    """The images to train with and the images to validate with.

    The images to validate with are, in this order: those of `val`; the source's own part val
    (valid, validation); its part test; images set aside at random from each class. Of each class
    the share is rounded, and at least one image stays on either side. The choice is the same on
    every machine. The parts of a list are in its column split.

    Args:
        source: Folder, .zip or .csv, as `datasets.read_dataset` reads it.
        val: Another source: its part val is used, else its part test, else all of it.
        val_share: Share of each class to set aside if there are no other images, 0..1.
        seed: Decides which images are set aside.

    Raises:
        UserError: A source cannot be read, has no images, or has other classes than the training
            part; there are fewer than two classes to train with; `val_share` or `seed` is out of
            range.
    """
    path = Path(source)
    if not 0 < val_share < 1:
        raise UserError(f"val_share must be between 0 and 1, not {val_share}")
    if seed < 0:
        raise UserError(f"seed must be 0 or above, not {seed}")
    parts = read_splits(path)
    train = _training(path, parts)
    notes: list[str] = []
    other = read_splits(val) if val is not None else parts
    name = next((name for name in ("val", "test", "", "train") if name in other), "")
    if val is None and name not in ("val", "test"):
        train, held_out = _set_aside(train, val_share, seed, notes)
    else:
        held_out = _with_classes_of(train, other[name], Path(source if val is None else val))
        if val is None and name == "test":
            notes.append(f"{path}: there is no part val, so test is used for validation")
    if both := {s.name for s in train.samples} & {s.name for s in held_out.samples}:
        notes.append(f"{len(both)} images are in training and in validation: {min(both)}")
    problems = (*train.problems, *held_out.problems, *notes, *_warnings(train))
    return Split(train, held_out, tuple(dict.fromkeys(problems)))


def _training(path: Path, parts: Mapping[str, Dataset]) -> Dataset:
    train = parts.get("train", parts.get(""))
    if train is None:
        raise UserError(f"{path}: has {' and '.join(sorted(parts))} but no train; {TREE}")
    if not train.samples:
        raise UserError("; ".join((f"{path}: no images to train with", *train.problems, TREE)))
    if len(used := sorted({sample.target for sample in train.samples})) < 2:
        raise UserError(
            f"{path}: all images to train with are of the class {train.classes[used[0]]!r}; a "
            f"classifier needs two classes; {TREE}"
        )
    return train


def _set_aside(
    dataset: Dataset, share: float, seed: int, notes: list[str]
) -> tuple[Dataset, Dataset]:
    """Splits each class of the images at random."""
    rng = np.random.default_rng(seed)
    members: defaultdict[int, list[int]] = defaultdict(list)
    for i, sample in enumerate(dataset.samples):
        members[sample.target].append(i)
    aside: set[int] = set()
    for _, of_class in sorted(members.items()):
        count = min(max(round(share * len(of_class)), 1), len(of_class) - 1)
        aside.update(rng.permutation(of_class)[:count].tolist())
    if single := [dataset.classes[label] for label, of in sorted(members.items()) if len(of) == 1]:
        notes.append(f"a single image, used for training only: {_joined(single)}")
    if not aside:
        raise UserError(f"no class has two images, so none can be used for validation; {TREE}")
    return tuple(  # type: ignore[return-value]
        replace(dataset, samples=tuple(s for i, s in enumerate(dataset.samples) if i in chosen))
        for chosen in (set(range(len(dataset.samples))) - aside, aside)
    )


def _with_classes_of(train: Dataset, val: Dataset, path: Path) -> Dataset:
    """`val` with the classes of `train`, matched by name, or by index if both have indices."""
    numbered = bool(train.indices and val.indices)
    keys = (train.indices, val.indices) if numbered else (train.classes, val.classes)
    trained = {sample.target for sample in train.samples}
    number = {key: i for i, key in enumerate(keys[0]) if i in trained}
    lacking = {
        val.classes[sample.target] for sample in val.samples if keys[1][sample.target] not in number
    }
    if lacking:
        raise UserError(
            f"{path}: images to validate with of classes that have none to train with: "
            f"{_joined(sorted(lacking))}"
        )
    if not val.samples:
        raise UserError("; ".join((f"{path}: no images to validate with", *val.problems, TREE)))
    samples = (replace(sample, target=number[keys[1][sample.target]]) for sample in val.samples)
    return Dataset(train.classes, tuple(samples), train.indices, val.problems)


def _warnings(train: Dataset) -> Iterator[str]:
    """Possible problems with these images to train with."""
    counts = Counter(sample.target for sample in train.samples)
    names = [(name, counts[i]) for i, name in enumerate(train.classes)]
    if empty := [name for name, count in names if not count]:
        yield f"no images to train with, so never predicted: {_joined(empty)}"
    if few := [f"{name} ({count})" for name, count in names if 0 < count < FEW]:
        yield f"fewer than {FEW} images to train with: {_joined(few)}"
    present = [(count, name) for name, count in names if count]
    (least, small), (most, large) = min(present), max(present)
    if most >= IMBALANCE * least:
        yield (
            f"unbalanced: {most} images of {large!r} and {least} of {small!r}; --balance shows "
            "all classes equally often"
        )
    alike = defaultdict(list)
    for name in train.classes:
        alike[name.casefold()].append(name)
    for same in alike.values():
        if len(same) > 1:
            yield f"classes that differ only in upper and lower case: {_joined(same)}"
    if parts := [name for name in train.classes if name.lower() in SPLITS]:
        yield f"read as a class, not as a part of the data: {_joined(parts)}; {TREE}"


def check_split(
    split: Split, workers: int, repeated: Callable[[Split], Sequence[str]] | None = None
) -> tuple[Split, dict[str, ImageError]]:
    """Looks at every image once, before training.

    Args:
        split: From `read_split`.
        workers: Threads that decode; one at least.
        repeated: Warnings about images that are there twice; None: `repeated_images`.

    Returns:
        The split without the images that cannot be decoded, its problems extended by images that
        are there twice and by images that keep few grey levels; and the errors, as `check_images`
        gives them.
    """
    remarks: list[str] = []
    broken = check_images((*split.train.samples, *split.val.samples), workers, remarks.append)
    train, val = without(split.train, broken), without(split.val, broken)
    twice = repeated(Split(train, val, ())) if repeated else repeated_images(train, val)
    problems = [*split.problems, *twice]
    if remarks:
        problems.append(f"{len(remarks)} images keep few grey levels: {min(remarks)}")
    return Split(train, val, tuple(problems)), broken


def check_images(
    samples: Sequence[Any], workers: int, warn: Callable[[str], object] = warn_of_range
) -> dict[str, ImageError]:
    """Decodes every image once and returns the errors by the name of the sample.

    Args:
        samples: Samples of a dataset.
        workers: Threads that decode; one at least.
        warn: As for `images.decode`.
    """

    def errors(group: Sequence[Any]) -> dict[str, ImageError]:
        broken = {}
        for sample in group:
            try:
                sample.decode(warn=warn)
            except ImageError as error:
                broken[sample.name] = error
        return broken

    groups = [samples[i : i + GROUP] for i in range(0, len(samples), GROUP)]
    checked = map_in_order(groups, errors, max(1, workers))
    return {name: error for broken in checked for name, error in broken.items()}


def without(dataset: Any, broken: Collection[str]) -> Any:
    """The dataset without the images of these names."""
    return replace(dataset, samples=tuple(s for s in dataset.samples if s.name not in broken))


def _joined(names: Sequence[str]) -> str:
    return ", ".join(names)
