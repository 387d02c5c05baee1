"""Reads labelled images from a source of any kind, and chooses among its splits."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

from ..arguments import check_kind, check_path
from ..errors import UserError, shortened
from ..paths import is_folder, obstacle
from .csv_list import CsvList, read_list
from .folders import Folders, read_archive, read_folder
from .sample import Dataset
from .splits import SPLITS, default_splits, splits_among, splits_called

TREE = "CLASS/image.jpg, or val/CLASS/image.jpg"


def read_dataset(source: str | os.PathLike[str], split: str | None = None) -> Dataset:
    """The labelled images of one split of a source.

    A folder, or a .zip, has one folder per class; every image anywhere below it is of that class.
    Above the class folders there may be folders train, val (valid, validation) and test: either
    one of them alone, or at least two, perhaps among others. A CSV list has the columns file
    (relative to the list) and label, index (the number of the class), or both, and may have split.
    Hidden files and folders are left out; links are followed except where they loop.

    Args:
        source: Folder, .zip or .csv.
        split: train, val or test; None: val if the source has it, else test, else everything.

    Raises:
        UserError: The source does not exist, is of none of the three kinds, has no such split, or
            no labelled image.
    """
    check_kind("split", split, str, type(None))
    opened = _open(source)
    dataset = opened.dataset(_chosen_splits(opened, split))
    if not dataset.samples:
        problems = (f"{opened.path}: no images in class folders ({TREE})", *dataset.problems)
        raise UserError("; ".join(problems))
    return dataset


def read_splits(source: str | os.PathLike[str]) -> dict[str, Dataset]:
    """The splits of a source by the names train, val and test, or all of it as "".

    Each has only the classes of its own folders or lines, and may be empty. Its problems do not
    include classes without images.

    Args:
        source: As for `read_dataset`.

    Raises:
        UserError: The source does not exist, or is of none of the three kinds.
    """
    opened = _open(source)
    names: dict[str, list[str]] = {}
    for name in splits_among(opened.top_names()):
        names.setdefault(SPLITS[name.lower()], []).append(name)
    if not names:
        return {"": opened.dataset([], own_classes=True)}
    return {
        split: opened.dataset(chosen, own_classes=True) for split, chosen in sorted(names.items())
    }


def _open(source: str | os.PathLike[str]) -> Folders | CsvList:
    path = Path(check_path("source", source))
    if is_folder(path):
        return read_folder(path)
    if reason := obstacle(path):
        raise UserError(f"{path}: {reason}")
    if path.suffix.lower() == ".csv":
        return read_list(path)
    if path.suffix.lower() == ".zip" or zipfile.is_zipfile(path):
        return read_archive(path)
    raise UserError(f"{path}: neither a folder, a .zip nor a .csv list of labelled images")


def _chosen_splits(opened: Folders | CsvList, split: str | None) -> list[str]:
    """The splits to read; [] for the whole source."""
    names = opened.top_names()
    if split is None:
        return default_splits(names)
    chosen = splits_called(split, names)
    if not chosen:
        kind = "folders" if isinstance(opened, Folders) else "splits"
        raise UserError(
            f"{opened.path}: no split {split!r}; its {kind} are {shortened(names) or 'none'}"
        )
    return chosen
