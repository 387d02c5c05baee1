"""Labelled images: a folder or a .zip with one folder per class, or a CSV list; images with boxes
or masks; and the images that arguments of commands mean."""

from __future__ import annotations

from .duplicates import repeated_images, shared_images
from .inputs import Inputs, collect_images
from .reading import read_dataset, read_splits
from .sample import Dataset, Sample
from .splits import SPLITS
from .targets import (
    IGNORED,
    BoxDataset,
    BoxSample,
    BoxTarget,
    MaskDataset,
    MaskSample,
    MaskTarget,
)
from .tasks import read_boxes, read_masks

__all__ = [
    "IGNORED",
    "SPLITS",
    "BoxDataset",
    "BoxSample",
    "BoxTarget",
    "Dataset",
    "Inputs",
    "MaskDataset",
    "MaskSample",
    "MaskTarget",
    "Sample",
    "collect_images",
    "read_boxes",
    "read_dataset",
    "read_masks",
    "read_splits",
    "repeated_images",
    "shared_images",
]
