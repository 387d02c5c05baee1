"""Objects as annotation files state them, checked and brought to the upright image."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import UserError, shortened
from ..paths import is_hidden, is_image_name
from .frames import UNKNOWN, Frame
from .targets import BoxTarget

SLACK = 1.0  # pixels by which boxes may leave the image unmentioned: rounding


class Object(NamedTuple):
    """One object.

    Attributes:
        corners: Two opposite corners: x, y, x, y.
        class_index: Its class.
        crowd: Whether the box is around many objects.
        difficult: Whether it does not count.
        area: Of the object; None: that of the box.
    """

    corners: tuple[float, float, float, float]
    class_index: int
    crowd: bool = False
    difficult: bool = False
    area: float | None = None


class ObjectChecks:
    """Makes targets of objects, and remembers what it changed or left out."""

    def __init__(self) -> None:
        self._swapped: list[str] = []
        self._clipped: list[str] = []
        self._empty: list[str] = []

    def target(
        self, name: str, objects: Sequence[Object], frame: Frame, image_id: int | str
    ) -> BoxTarget:
        """The target of one image.

        Args:
            name: What messages call the image.
            objects: Its objects.
            frame: The frame of their corners.
            image_id: The data's id of the image.

        Raises:
            UserError: A corner or an area is not finite.
        """
        if frame.size == UNKNOWN:
            objects = ()
        corners = np.array([each.corners for each in objects], np.float64).reshape(-1, 4)
        if not np.isfinite(corners).all() or np.abs(corners).max(initial=0) > 1e9:
            row = corners[~(np.abs(corners) <= 1e9).all(1)][0].tolist()
            raise UserError(f"{name}: a box with the corners {row}")
        ordered = np.concatenate(
            [
                np.minimum(corners[:, :2], corners[:, 2:]),
                np.maximum(corners[:, :2], corners[:, 2:]),
            ],
            1,
        )
        upright = frame.upright(ordered)
        limits = np.array([frame.size[1], frame.size[0]] * 2)
        boxes = np.clip(upright, 0, limits).astype(np.float32)
        kept = (boxes[:, 2:] > boxes[:, :2]).all(1)
        outside = (np.abs(boxes - upright) > SLACK).any(1)
        self._swapped += [name] * int((ordered != corners).any(1).sum())
        self._clipped += [name] * int((outside & kept).sum())
        self._empty += [name] * int((~kept).sum())
        sides = boxes[:, 2:] - boxes[:, :2]
        stated = np.array([_area(each, name) for each in objects], np.float32)
        areas = np.where(np.isnan(stated), sides[:, 0] * sides[:, 1], stated)
        return BoxTarget(
            boxes[kept],
            np.array([each.class_index for each in objects], np.int64)[kept],
            np.array([each.crowd for each in objects], bool)[kept],
            np.array([each.difficult for each in objects], bool)[kept],
            areas.astype(np.float32)[kept],
            frame.size,
            image_id,
            frame.turn,
        )

    def changes(self) -> dict[str, list[str]]:
        """What was done to boxes, and for each of these boxes the name of its image."""
        changes = {
            "with swapped corners put in order": self._swapped,
            "that leave their images clipped": self._clipped,
            "without area inside their images left out": self._empty,
        }
        return {change: names for change, names in changes.items() if names}

    def problems(self) -> list[str]:
        """One line about each kind of change, with the images it was made in."""
        return [
            f"{len(names)} boxes {change}: {shortened(list(dict.fromkeys(names)))}"
            for change, names in self.changes().items()
        ]


def _area(each: Object, name: str) -> float:
    """The stated area; NaN where there is none."""
    if each.area is None:
        return float("nan")
    if not 0 <= each.area < 1e18:
        raise UserError(f"{name}: an object with the area {each.area}")
    return each.area


def unique_classes(names: Sequence[str], where: str) -> None:
    """Checks that no two classes have one name.

    Raises:
        UserError: Two have.
    """
    if twice := repeated(names):
        raise UserError(f"{where}: several classes are called {shortened(twice)}")
    if not names:
        raise UserError(f"{where}: no classes")
    if "" in names:
        raise UserError(f"{where}: a class without a name")


def repeated(values: Iterable[object]) -> list[str]:
    """The values that occur more than once, as texts."""
    return [str(value) for value, count in Counter(values).items() if count > 1]


def image_files(folder: Path) -> list[Path]:
    """The images in a folder, not below it, sorted.

    Raises:
        UserError: It cannot be searched.
    """
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries)
    except OSError as error:
        raise UserError(f"{folder}: may not be searched: {error.strerror}") from None
    return [folder / name for name in names if is_image_name(name) and not is_hidden(name)]
