"""Labelled images: a folder or a .zip with one folder per class, or a CSV list; images with boxes
or masks; and the images that arguments of commands mean.

The names below are loaded when they are first used: a command that reads images needs no annotations.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .duplicates import repeated_images as repeated_images
    from .duplicates import shared_images as shared_images
    from .inputs import Inputs as Inputs
    from .inputs import collect_images as collect_images
    from .reading import read_dataset as read_dataset
    from .reading import read_splits as read_splits
    from .sample import Dataset as Dataset
    from .sample import Sample as Sample
    from .splits import SPLITS as SPLITS
    from .targets import IGNORED as IGNORED
    from .targets import BoxDataset as BoxDataset
    from .targets import BoxSample as BoxSample
    from .targets import BoxTarget as BoxTarget
    from .targets import MaskDataset as MaskDataset
    from .targets import MaskSample as MaskSample
    from .targets import MaskTarget as MaskTarget
    from .tasks import read_boxes as read_boxes
    from .tasks import read_masks as read_masks

_HOMES = {
    "repeated_images": "duplicates",
    "shared_images": "duplicates",
    "Inputs": "inputs",
    "collect_images": "inputs",
    "read_dataset": "reading",
    "read_splits": "reading",
    "Dataset": "sample",
    "Sample": "sample",
    "SPLITS": "splits",
    "IGNORED": "targets",
    "BoxDataset": "targets",
    "BoxSample": "targets",
    "BoxTarget": "targets",
    "MaskDataset": "targets",
    "MaskSample": "targets",
    "MaskTarget": "targets",
    "read_boxes": "tasks",
    "read_masks": "tasks",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
