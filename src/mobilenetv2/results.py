"""What detectors and segmenters answer about one image."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .drawing import draw_boxes, draw_mask, mask_png
from .files import write_atomically

if TYPE_CHECKING:
    from PIL.Image import Image

    from .images import OneImage


@dataclass(frozen=True, eq=False)
class Detections:
    """The objects in one image, best score first.

    Attributes:
        boxes: (n, 4) float32, corners (x0, y0, x1, y1) in pixels of the upright image.
        scores: (n,) float32, from 0 to 1.
        indices: (n,) int64, the class of each; the model's own classes count from 0, without a
            background.
        labels: The name of the class of each.
        size: (height, width) of the upright image.
    """

    boxes: NDArray[np.float32] = field(repr=False)
    scores: NDArray[np.float32] = field(repr=False)
    indices: NDArray[np.int64] = field(repr=False)
    labels: tuple[str, ...]
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.boxes)

    def to_dict(self) -> dict[str, Any]:
        """As a dictionary fit for JSON: the size, and each object with its box."""
        objects = zip(self.labels, self.indices.tolist(), self.scores.tolist(), self.boxes.tolist())
        return {
            "height": self.size[0],
            "width": self.size[1],
            "detections": [
                {
                    "label": label,
                    "index": index,
                    "score": round(score, 6),
                    "box": [round(side, 2) for side in box],
                }
                for label, index, score, box in objects
            ],
        }

    def to_coco(
        self, image_id: int | str, category_ids: Sequence[int] | Mapping[int, int]
    ) -> list[dict[str, Any]]:
        """As entries of a COCO results file, whose boxes are x, y, width, height.

        Args:
            image_id: Of the image in the annotation file.
            category_ids: The category of each class; objects of classes that it lacks are left out.
        """
        known = category_ids if isinstance(category_ids, Mapping) else dict(enumerate(category_ids))
        rows = zip(self.indices.tolist(), self.scores.tolist(), self.boxes.tolist())
        return [
            {
                "image_id": image_id,
                "category_id": known[index],
                "bbox": [
                    round(side, 3) for side in (box[0], box[1], box[2] - box[0], box[3] - box[1])
                ],
                "score": round(score, 6),
            }
            for index, score, box in rows
            if index in known
        ]

    def draw(self, image: OneImage) -> Image:
        """A copy of the image with a frame, a label and the score for each object.

        Args:
            image: As for `Detector.detect`.

        Raises:
            ImageError: It cannot be decoded.
            UserError: It has another size than the one that was detected in.
        """
        captions = [f"{label} {score:.2f}" for label, score in zip(self.labels, self.scores)]
        return draw_boxes(image, self.size, self.boxes, captions, self.indices.tolist())


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The class of every pixel of one image.

    Attributes:
        mask: (H, W) uint8, or uint16 above 256 classes, at the size of the upright image.
        labels: The names of all classes, the background first.
    """

    mask: NDArray[np.uint8] | NDArray[np.uint16] = field(repr=False)
    labels: tuple[str, ...]

    def class_shares(self) -> list[tuple[int, float]]:
        """Each class that occurs and its share of the pixels, largest first."""
        counts = np.bincount(self.mask.ravel(), minlength=len(self.labels))
        order = np.argsort(-counts, kind="stable").tolist()
        return [(i, float(counts[i]) / self.mask.size) for i in order if counts[i]]

    def shares(self) -> dict[str, float]:
        """The share of the pixels of each label that occurs, that of equal labels together."""
        shares: dict[str, float] = {}
        for i, share in self.class_shares():
            shares[self.labels[i]] = shares.get(self.labels[i], 0.0) + share
        return shares

    def to_dict(self) -> dict[str, Any]:
        """As a dictionary fit for JSON: the size, and the share of each class."""
        height, width = self.mask.shape
        shares = {label: round(share, 6) for label, share in self.shares().items()}
        return {"height": height, "width": width, "shares": shares}

    def draw(self, image: OneImage) -> Image:
        """A copy of the image with the classes as colours over it, and their names.

        Args:
            image: As for `Segmenter.segment`.

        Raises:
            ImageError: It cannot be decoded.
            UserError: It has another size than the mask.
        """
        shown = {i: self.labels[i] for i, _ in self.class_shares() if i > 0}
        return draw_mask(image, self.mask, shown)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the mask as a PNG whose pixel values are the classes, in the colours of Pascal VOC.

        Above 256 classes it is a grey PNG of 16 bits.
        """
        write_atomically(Path(path), mask_png(self.mask))
