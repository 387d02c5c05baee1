"""The names of splits, and which of the names in a source are splits rather than classes."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import UserError

SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}


class NoSplitError(UserError):
    """A source has no split of that name."""


def is_split(name: str) -> bool:
    """Whether a folder or a value of the column split may name a split."""
    return name.lower() in SPLITS


def splits_among(names: Sequence[str]) -> list[str]:
    """The splits among the names of a source; [] where these are classes.

    A single split name among other names is a class too: a class may be called train.
    """
    splits = [name for name in names if is_split(name)]
    return splits if len(splits) >= min(2, len(names)) else []


def default_splits(names: Sequence[str]) -> list[str]:
    """The splits to evaluate with: val, else test, else all that there are."""
    splits = splits_among(names)
    for kind in ("val", "test"):
        if chosen := [name for name in splits if SPLITS[name.lower()] == kind]:
            return chosen
    return splits


def splits_called(split: str, names: Sequence[str]) -> list[str]:
    """The names that mean a given split: itself, or another word for it (valid is val)."""
    kind = SPLITS.get(split.lower(), split)
    return [name for name in names if name == split or SPLITS.get(name.lower()) == kind]
