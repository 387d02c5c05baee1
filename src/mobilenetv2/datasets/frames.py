"""The frame that annotations of an image are written in: upright, or as the file stores it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from ..decoding import stored_orientation
from ..errors import UserError

UNKNOWN = (0, 0)  # the size of an image that cannot be read: decoding it says what is wrong
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that exchange height and width


@dataclass(frozen=True)
class Frame:
    """How annotations of one image become those of the upright image.

    Attributes:
        size: Height and width of the upright image.
        turn: The EXIF orientation to apply to the annotations, 1 for none.
    """

    size: tuple[int, int]
    turn: int = 1

    def upright(self, corners: NDArray[np.float64]) -> NDArray[np.float64]:
        """Corners (n, 4) of annotations as corners in the upright image."""
        if self.turn == 1:
            return corners
        turned = corners[:, [1, 0, 3, 2]]
        height, width = self.size
        if self.turn in (6, 7):
            turned[:, [0, 2]] = width - turned[:, [2, 0]]
        if self.turn in (7, 8):
            turned[:, [1, 3]] = height - turned[:, [3, 1]]
        return turned

    def stored(self, corners: NDArray[np.float32]) -> NDArray[np.float32]:
        """Corners (n, 4) in the upright image as corners of annotations; undoes `upright`."""
        back = Frame(self.size[::-1], {6: 8, 8: 6}.get(self.turn, self.turn))
        turned: NDArray[np.float32] = back.upright(corners.astype(np.float64)).astype(np.float32)
        return corners if self.turn == 1 else turned


def frame(image: Path | IO[bytes], stated: tuple[int, int] | None, where: str) -> Frame:
    """The frame of annotations that state this (height, width), None where they state none.

    Annotations are those of the upright image, as people see it while they draw boxes. Only where
    the stated size is that of the stored image alone, they are turned.

    Args:
        image: The image's file, or its content as an open file with a name.
        stated: The size in the annotations.
        where: What states it, for the message.

    Returns:
        Of the size `UNKNOWN` where no size is stated and the image cannot be read.

    Raises:
        UserError: The image has neither this size nor this size turned.
    """
    from PIL import Image

    try:
        with Image.open(image) as opened:
            stored = opened.height, opened.width
            orientation = stored_orientation(opened)
    except Exception:  # Pillow's plugins may raise anything; decoding the image says what is wrong
        return Frame(stated or UNKNOWN)
    upright = stored[::-1] if orientation in SIDEWAYS else stored
    if stated in (None, upright):
        return Frame(upright)
    if stated == stored:
        return Frame(upright, orientation)
    name = image if isinstance(image, Path) else image.name
    raise UserError(
        f"{where}: says that {name} is {stated[0]} x {stated[1]} (height x width), but it is "
        f"{upright[0]} x {upright[1]}: give the images that the annotations were made for"
    )
