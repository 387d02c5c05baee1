"""Which class of a model is which class of a dataset."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..datasets import Dataset
from ..errors import UserError, shortened
from ..labels import has_background, imagenet_classes


def match_classes(
    dataset: Dataset, labels: tuple[str, ...], outputs: int, used: set[int]
) -> NDArray[np.int64]:
    """The model's index of each class of a dataset.

    A class is looked up among the model's labels by its name: the same name; else the same but
    for case, spaces and underscores; else the same up to the first comma, where lists of synonyms
    have one. A list's index, counted from 0 without a background class, chooses between equal
    names, and decides alone where the dataset or the model has no names. Names that are all
    WordNet ids of ImageNet's classes, or all numbers, are understood too (`how_named`).

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
    dataset = _understood(dataset, how_named(dataset, labels, outputs))
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


def how_named(
    dataset: Dataset, labels: tuple[str, ...], outputs: int
) -> Literal["names", "synsets", "numbers"]:
    """What the names of a dataset's classes are.

    Args:
        dataset: Its classes are matched.
        labels: The model's, () if it has none; a name among them is a name.
        outputs: The number of the model's classes.

    Returns:
        "synsets": all are WordNet ids of ImageNet's classes, such as n01440764; "numbers": all are
        numbers, such as the 0 to 999 of ImageNet-V2, counted from 0 without a background class;
        else "names".
    """
    names = dataset.classes
    if not names or {*map(_normalized, names)} & {*map(_normalized, labels)}:
        return "names"
    if all(re.fullmatch("n[0-9]{8}", name) for name in names):
        known = (labels or outputs in (1000, 1001)) and {*names} <= imagenet_classes().keys()
        return "synsets" if known else "names"
    numbers = not dataset.indices and all(re.fullmatch("[0-9]{1,9}", name) for name in names)
    return "numbers" if numbers else "names"


def _understood(dataset: Dataset, named: str) -> Dataset:
    """The dataset with the names and indices that its class names stand for."""
    if named == "synsets":
        classes = imagenet_classes()
        order = {synset: i for i, synset in enumerate(classes)}
        indices = tuple(order[name] for name in dataset.classes)
        return replace(
            dataset, classes=tuple(classes[name] for name in dataset.classes), indices=indices
        )
    if named == "numbers":
        indices = tuple(map(int, dataset.classes))
        return replace(dataset, classes=tuple(map(str, indices)), indices=indices)
    return dataset


class _Candidates:
    """The classes of a model by their labels."""

    def __init__(self, labels: tuple[str, ...], outputs: int) -> None:
        self.labels, self.outputs = labels, outputs
        self.tables = [defaultdict[str, list[int]](list) for _ in KEYS]
        for i, label in enumerate(labels):
            for table, key in zip(self.tables, KEYS):
                table[key(label)].append(i)
        # of the 1000 classes of ImageNet, one more is the background
        self.background = int(has_background(labels) or (not labels and outputs == 1001))

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
