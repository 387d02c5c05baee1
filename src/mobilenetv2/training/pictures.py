"""The pictures of a run: its first batches as the network sees them, and answers of its result."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from ..evaluation.grid import Grid
from ..evaluation.sheet import fitting
from ..files import write_atomically
from ..printable import printable
from .fonts import pillow_font

if TYPE_CHECKING:
    from .run_folder import RunFolder, Settings
    from .task import Task

LOG = logging.getLogger(__name__)
BATCHES, IMAGES = 3, 16  # that are drawn; of each batch
COLUMNS, TILE, LINE = 4, 240, 17  # pixels: side of an image, height of a line of text
MAX_CAPTION = 200  # characters that are stored


class Sheet(NamedTuple):
    """Images in a grid, each with a caption.

    Attributes:
        image: All of them.
        grid: Where each is.
        captions: One per image, of one line or more.
    """

    image: Image.Image
    grid: Grid
    captions: Sequence[str]

    def save(self, path: Path) -> None:
        """Writes a JPEG, with grid and captions in its comment."""
        captions = [caption[:MAX_CAPTION] for caption in self.captions]
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


def sheet_of(tiles: Sequence[tuple[Image.Image, str]]) -> Sheet:
    """A sheet of images from `picture_of`, with their captions of one line or more."""
    height = max((image.height for image, _ in tiles), default=TILE) + 4
    lines = max((caption.count("\n") + 1 for _, caption in tiles), default=1)
    grid = Grid(COLUMNS, TILE, height, lines * LINE + 4)
    sheet = Image.new("RGB", grid.size(len(tiles)), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (image, caption) in enumerate(tiles):
        x, y = grid.place(i)
        left, top = (TILE - image.width) // 2, (height - image.height) // 2
        sheet.paste(image, (x + left, y + top))
        for row, line in enumerate(caption.split("\n")):
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


class Pictures:
    """Draws the first batches of a run.

    Args:
        folder: Folder of the run; None draws nothing.
        task: Knows what the targets mean.
        settings: Of the run.
    """

    def __init__(self, folder: RunFolder | None, task: Task, settings: Settings) -> None:
        self.folder, self.task, self.settings = folder, task, settings

    def batch(self, number: int, pixels: Tensor, targets: Tensor, seed: int, share: float) -> None:
        """Draws a batch, if it is one of the first of the run, and writes the page with it.

        Args:
            number: Of the batch in the run, from 0.
            pixels: As for `Trainer.step`.
            targets: As for `Trainer.step`.
            seed: As for `Trainer.step`: images are mixed in the same way.
            share: As for `Trainer.step`.
        """
        if self.folder is None or number >= BATCHES:
            return
        path = self.folder.batch_picture(number)
        with never_stopping(path):
            self._sheet(pixels, targets, seed, share).save(path)
        with never_stopping(self.folder.page):
            from .page import write_page

            write_page(self.folder, self.settings, self.task)

    def _sheet(self, pixels: Tensor, targets: Tensor, seed: int, share: float) -> Sheet:
        recipe, architecture = self.settings.recipe, self.settings.architecture
        generator = torch.Generator().manual_seed(seed)
        classes = self.settings.classes
        # mixed as the normalised pixels are, from which these differ by factors and sums
        mixed, targets = self.task.mixed(
            pixels.float(), targets, recipe, len(classes), generator, share
        )
        shown = mixed[:IMAGES].round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
        return sheet_of(
            [
                self.task.tile(np.ascontiguousarray(image), target.numpy(), classes, architecture)
                for image, target in zip(shown, targets[:IMAGES])
            ]
        )
