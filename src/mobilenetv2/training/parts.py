"""The images to train with and to validate with, of a source with boxes or with masks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..datasets.splits import NoSplitError
from ..errors import UserError, shortened
from .splits import Split

# a source, the name of a split or None, and the names of the classes or None -> the images
Read = Callable[[str, "str | None", "tuple[str, ...] | None"], Any]


def read_parts(read: Read, data: str, val: str | None, share: float, seed: int) -> Split:
    """The split of a source: its parts train and val (or test), or a share that is set aside.

    Args:
        read: Reads one part of a source.
        data: The images to train with.
        val: Another source of images to validate with: its part val, else test, else all of it.
        share: Share of the images that is set aside where there is no part to validate with.
        seed: Decides which.

    Raises:
        UserError: A source cannot be read, has no images to train or validate with, or has other
            classes than the images to train with.
    """
    train = _part(read, data, "train", None)
    if train is None:
        train = read(data, None, None)
        if val is None and any(_has(read, data, name) for name in ("val", "test")):
            raise UserError(f"{data}: has images to validate with but no part train")
    notes: list[str] = []
    if val is not None:
        held_out = read(val, None, train.classes)
    else:
        held_out = None
        for name in ("val", "test"):
            held_out = held_out or _part(read, data, name, train.classes)
    if held_out is None:
        train, held_out = _set_aside(train, share, seed, data)
    if held_out.classes != train.classes:
        odd = sorted({*held_out.classes} ^ {*train.classes}) or ["their order"]
        raise UserError(
            f"{val or data}: images to validate with have other classes: {shortened(odd)}"
        )
    if both := {s.name for s in train.samples} & {s.name for s in held_out.samples}:
        notes.append(f"{len(both)} images are in training and in validation: {min(both)}")
    problems = (*train.problems, *held_out.problems, *notes)
    return Split(train, held_out, tuple(dict.fromkeys(problems)))


def _part(read: Read, data: str, name: str, classes: tuple[str, ...] | None) -> Any:
    try:
        return read(data, name, classes)
    except NoSplitError:
        return None


def _has(read: Read, data: str, name: str) -> bool:
    return _part(read, data, name, None) is not None


def _set_aside(dataset: Any, share: float, seed: int, data: str) -> tuple[Any, Any]:
    """Images at random, as many as the share says, at least one and not all."""
    count = len(dataset.samples)
    if count < 2:
        raise UserError(f"{Path(data)}: has {count} image; one to train and one to validate with")
    order = np.random.default_rng(seed).permutation(count)
    aside = {*order[: min(max(round(share * count), 1), count - 1)].tolist()}
    chosen = [
        tuple(sample for i, sample in enumerate(dataset.samples) if (i in aside) == held_out)
        for held_out in (False, True)
    ]
    return replace(dataset, samples=chosen[0]), replace(dataset, samples=chosen[1])
