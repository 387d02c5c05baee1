"""Labelled images: a folder or a .zip with one folder per class, or a CSV list."""

from __future__ import annotations

from .reading import read_dataset, read_splits
from .sample import Dataset, Sample
from .splits import SPLITS

__all__ = ["SPLITS", "Dataset", "Sample", "read_dataset", "read_splits"]
