"""Labelled images: a folder or a .zip with one folder per class, or a CSV list;
and the images that arguments of commands mean."""

from __future__ import annotations

from .duplicates import repeated_images
from .inputs import Inputs, collect_images
from .reading import read_dataset, read_splits
from .sample import Dataset, Sample
from .splits import SPLITS

__all__ = [
    "SPLITS",
    "Dataset",
    "Inputs",
    "Sample",
    "collect_images",
    "read_dataset",
    "read_splits",
    "repeated_images",
]
