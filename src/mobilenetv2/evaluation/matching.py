"""Which class of a model is which class of a dataset."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ..datasets import Dataset
from ..errors import UserError, shortened
from ..labels import has_background


def match_classes(
    dataset: Dataset, labels: tuple[str, ...], outputs: int, used: set[int]
) -> NDArray[np.int64]:
    """The model's index of each class of a dataset.

    A class is looked up among the model's labels by its name: the same name; else the same but
    for case, spaces and underscores; else the same up to the first comma, where lists of synonyms
    have one. A list's index, counted from 0 without a background class, chooses between equal
    names, and decides alone where the dataset or the model has no names.

    Args:
        dataset: Its classes are matched.
        labels: The model's; () if it has none.
        outputs: The number of the model's classes.
        used: The classes of the dataset that the model must have.

    Returns:
        (classes,) int64; -1 for a class that the model lacks and that is not in `used`.

    Raises:
        UserError: The model lacks a class, or two classes match the same one of the model.
    """
    candidates = _Candidates(labels, outputs)
    matched = np.full(len(dataset.classes), -1, np.int64)
    missing = []
    for i, name in enumerate(dataset.classes):
        number = dataset.indices[i] if dataset.indices else None
        possible, preferred = candidates.of(name, number)
        if preferred in possible or len(possible) == 1:
            matched[i] = preferred if preferred in possible else possible[0]
        elif i in used and possible:
            raise UserError(
                f"class {name!r} may be any of the model's classes {possible}; a list with the "
                "column index says which"
            )
        elif i in used:
            missing.append(name)
    if missing:
        raise UserError(_missing(missing, labels, outputs, bool(dataset.indices)))
    for index in np.flatnonzero(np.bincount(matched[matched >= 0], minlength=outputs) > 1):
        both = [dataset.classes[i] for i in np.flatnonzero(matched == index)]
        raise UserError(f"the dataset's classes {both} are one to the model, its class {index}")
    return matched


class _Candidates:
    """The classes of a model by their labels."""

    def __init__(self, labels: tuple[str, ...], outputs: int) -> None:
        self.labels, self.outputs = labels, outputs
        self.tables = [defaultdict[str, list[int]](list) for _ in KEYS]
        for i, label in enumerate(labels):
            for table, key in zip(self.tables, KEYS):
                table[key(label)].append(i)
        self.background = int(has_background(labels))

    def of(self, name: str, number: int | None) -> tuple[list[int], int]:
        """The classes that a name may mean, and the one that its number means, -1 if it has none."""
        preferred = -1 if number is None else number + self.background
        if number is not None and (not self.labels or name == str(number)):
            return [preferred] if preferred < self.outputs else [], preferred
        same = (table[key(name)] for table, key in zip(self.tables, KEYS) if key(name) in table)
        return next(same, []), preferred


def _missing(names: Sequence[str], labels: Sequence[str], outputs: int, numbered: bool) -> str:
    listed = shortened([repr(name) for name in names])
    if not labels and not numbered:
        return (
            f"the model has {outputs} classes without names, and cannot tell which is {listed}; "
            "name them with `mobilenetv2 convert --labels`, or give a list with the column index"
        )
    known = ", ".join(map(repr, labels[:5])) + ", ..." * (outputs > 5)
    return f"the model has no class {listed}; its {outputs} are {known if labels else 'not named'}"


def _normalized(name: str) -> str:
    return " ".join(unicodedata.normalize("NFC", name).casefold().replace("_", " ").split())


# What names are compared by, the strictest first.
KEYS: tuple[Callable[[str], str], ...] = (
    str,
    _normalized,
    lambda name: _normalized(name.split(",")[0]),
)
