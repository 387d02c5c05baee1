"""The contact sheet: wrongly classified images side by side."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import PurePath
from typing import TYPE_CHECKING

from ..arguments import check_kind, check_list
from ..decoding import ignore_remark
from ..printable import printable
from .classification import Answer

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

# images per row; side of an image, height of its text in pixels
COLUMNS, TILE, CAPTION = 8, 128, 49
MOST = 32  # images


def contact_sheet(mistakes: Sequence[Answer]) -> Image:
    """The first 32 mistakes as one image, 8 per row.

    The text below each image is its class, the predicted class and the probability of that, and the
    name of its file.

    Raises:
        ImageError: One of the images can no longer be read.
    """
    from PIL import Image, ImageDraw, ImageFont

    check_list("mistakes", mistakes)
    shown = list(islice(mistakes, MOST))
    for mistake in shown:
        check_kind("a mistake", mistake, Answer)
    rows = max(1, -(-len(shown) // COLUMNS))
    sheet = Image.new("RGB", (COLUMNS * TILE, rows * (TILE + CAPTION)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for i, mistake in enumerate(shown):
        x, y = i % COLUMNS * TILE, i // COLUMNS * (TILE + CAPTION)
        image = mistake.sample.decode(warn=ignore_remark)
        scale = (TILE - 4) / max(image.size)
        width, height = (max(1, round(side * scale)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        sheet.paste(image, (x + (TILE - width) // 2, y + (TILE - height) // 2))
        probability = f"{mistake.probability:.2f}"
        space = TILE - 4 - draw.textlength(probability + " ", font)
        truth = fitting(mistake.truth, TILE - 4, draw, font)
        predicted = fitting(f"-> {mistake.predicted}", space, draw, font)
        draw.text((x + 2, y + TILE), truth, "black", font)
        draw.text((x + 2, y + TILE + 15), predicted, "firebrick", font)
        draw.text((x + TILE - 2, y + TILE + 15), probability, "black", font, anchor="ra")
        name = fitting(PurePath(mistake.sample.name).name, TILE - 4, draw, font)
        draw.text((x + 2, y + TILE + 30), name, "dimgrey", font)
    return sheet


def fitting(text: str, width: float, draw: ImageDraw, font: FreeTypeFont | ImageFont) -> str:
    """As much of a text as fits on a line of this width in pixels."""
    # no letter is narrower than a pixel
    text = printable(" ".join(text.split()))[: int(width)]
    while text and draw.textlength(text, font) > width:
        text = text[:-1]
    return text
