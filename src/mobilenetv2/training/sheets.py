"""Sheets of images with captions: the pictures of a run."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ..evaluation.grid import Grid
from ..evaluation.sheet import fitting
from ..files import write_atomically
from ..printable import printable
from .fonts import pillow_font

LOG = logging.getLogger(__name__)
COLUMNS, TILE, LINE = 4, 240, 17  # pixels: side of an image, height of a line of text
MAX_LINE = 100  # characters of a caption that are stored


class Sheet(NamedTuple):
    """Images in a grid, each with a caption.

    Attributes:
        image: All of them.
        grid: Where each is.
        captions: The lines of text of each image.
    """

    image: Image.Image
    grid: Grid
    captions: Sequence[Sequence[str]]

    def save(self, path: Path) -> None:
        """Writes a JPEG, with grid and captions in its comment."""
        captions = [[line[:MAX_LINE] for line in caption] for caption in self.captions]
        comment = json.dumps({"grid": self.grid, "captions": captions})
        content = io.BytesIO()
        self.image.save(content, "JPEG", quality=90, comment=comment.encode())
        write_atomically(path, content.getvalue())

    @classmethod
    def load(cls, path: Path) -> Sheet:
        """Reads what `save` wrote."""
        with Image.open(path) as image:
            image.load()
            stored = json.loads(image.info["comment"])
        return cls(image, Grid(*stored["grid"]), stored["captions"])


def picture_of(pixels: NDArray[np.uint8]) -> Image.Image:
    """Pixels (H, W, channels) as an RGB image whose longer side fills a tile. Small ones are enlarged
    without smoothing.
    """
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).convert("RGB")
    scale = (TILE - 4) / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    filter_ = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BICUBIC
    return image.resize((width, height), filter_)


def sheet_of(tiles: Sequence[tuple[Image.Image, Sequence[str]]]) -> Sheet:
    """A sheet of images from `picture_of`, with the lines below them."""
    height = max((image.height for image, _ in tiles), default=TILE) + 4
    lines = max((len(caption) for _, caption in tiles), default=1)
    grid = Grid(COLUMNS, TILE, height, lines * LINE + 4)
    sheet = Image.new("RGB", grid.size(len(tiles)), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (image, caption) in enumerate(tiles):
        x, y = grid.place(i)
        left, top = (TILE - image.width) // 2, (height - image.height) // 2
        sheet.paste(image, (x + left, y + top))
        for row, line in enumerate(caption):
            font = pillow_font(printable(line), 12)
            text = fitting(line, TILE - 8, draw, font)
            draw.text((x + 4, y + height + row * LINE), text, "black", font)
    return Sheet(sheet, grid, [caption for _, caption in tiles])


def counted(names: Mapping[str, int]) -> str:
    """Names with how often each is there: "cat, dog (2)"."""
    return ", ".join(f"{name} ({count})" if count > 1 else name for name, count in names.items())


@contextmanager
def never_stopping(path: Path) -> Iterator[None]:
    """In the block, an error is a warning that names the file: a run does not stop for a picture."""
    try:
        yield
    except Exception as error:  # of Pillow, Matplotlib, Jinja, or the disk
        reason = printable(" ".join(str(error).split())) or type(error).__name__
        LOG.warning("%s is left out: %s", path, reason)
