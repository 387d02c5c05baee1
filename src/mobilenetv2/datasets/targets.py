"""Images with boxes and images with masks, as data; no image is decoded yet."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .mask_file import read_mask
from .sample import Labelled

IGNORED = 255  # the value of pixels that have no class


@dataclass(frozen=True, eq=False, slots=True)
class BoxTarget:
    """The objects in one image.

    Attributes:
        boxes: (n, 4) float32: left, top, right, bottom in pixels of the upright image, inside of it
            and with an area.
        classes: (n,) int64: indices into `BoxDataset.classes`, which have no background.
        crowd: (n,) bool: many objects in one box, as COCO marks them.
        difficult: (n,) bool: objects that Pascal VOC does not count.
        areas: (n,) float32: of the objects themselves where the data says it, else of the boxes.
        size: Height and width of the upright image.
        image_id: The data's id of the image; its name without suffix where there are no ids.
        turn: The EXIF orientation that was applied to the annotations, 1 for none.
    """

    boxes: NDArray[np.float32]
    classes: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    difficult: NDArray[np.bool_]
    areas: NDArray[np.float32]
    size: tuple[int, int]
    image_id: int | str
    turn: int = 1

    def __len__(self) -> int:
        """The number of objects."""
        return len(self.classes)


@dataclass(frozen=True, slots=True)
class MaskTarget:
    """The file with the class of every pixel of one image.

    Attributes:
        path: A PNG whose values are classes.
        size: Height and width of the upright image.
        classes: The classes that occur in it, in ascending order.
        turn: The EXIF orientation to apply to the mask, 1 for none.
    """

    path: Path
    size: tuple[int, int]
    classes: tuple[int, ...]
    turn: int = 1

    def read(self) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """The mask (height, width) of the upright image: classes, and `IGNORED` for none.

        Raises:
            ImageError: The file is not a mask, or of another size than the image.
        """
        return read_mask(self.path, self.size, self.turn)


class BoxSample(Labelled[BoxTarget]):
    """One image and the objects in it."""

    __slots__ = ()


class MaskSample(Labelled[MaskTarget]):
    """One image and the class of each of its pixels."""

    __slots__ = ()


@dataclass(frozen=True)
class BoxDataset:
    """Images with boxes of named classes.

    Attributes:
        classes: The names of the classes, without a background.
        samples: The images, also those without objects.
        category_ids: COCO's id of each class; counted from 1 where the data has none.
        problems: What was left out or changed and why, one line each.
        files: The files that the boxes were read from.
    """

    classes: tuple[str, ...]
    samples: tuple[BoxSample, ...]
    category_ids: tuple[int, ...]
    problems: tuple[str, ...] = ()
    files: tuple[str, ...] = ()

    def stretched(self) -> BoxDataset:
        """The same images, those of more than 8 bits to be decoded with `stretch`."""
        return replace(self, samples=tuple(replace(s, stretch=True) for s in self.samples))

    def summary(self) -> list[dict[str, str | int]]:
        """The number of images and of boxes of each class, one row per class."""
        boxes = np.zeros(len(self.classes), np.int64)
        images = np.zeros(len(self.classes), np.int64)
        for sample in self.samples:
            counts = np.bincount(sample.target.classes, minlength=len(self.classes))
            boxes += counts
            images += counts > 0
        return [
            {"class": name, "images": int(images[i]), "boxes": int(boxes[i])}
            for i, name in enumerate(self.classes)
        ]


@dataclass(frozen=True)
class MaskDataset:
    """Images with masks of named classes.

    Attributes:
        classes: The names of the classes by mask value, the background first.
        samples: The images.
        problems: What was left out and why, one line each.
    """

    classes: tuple[str, ...]
    samples: tuple[MaskSample, ...]
    problems: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """The files of the masks."""
        return tuple(str(sample.target.path) for sample in self.samples)

    def stretched(self) -> MaskDataset:
        """The same images, those of more than 8 bits to be decoded with `stretch`."""
        return replace(self, samples=tuple(replace(s, stretch=True) for s in self.samples))

    def summary(self) -> list[dict[str, str | int]]:
        """The number of images that each class occurs in, one row per class."""
        counts = Counter(value for sample in self.samples for value in sample.target.classes)
        return [{"class": name, "images": counts[i]} for i, name in enumerate(self.classes)]
