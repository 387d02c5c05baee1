"""Draws detections and masks: frames, labels, colours, palette PNGs."""

from __future__ import annotations

import colorsys
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .errors import UserError
from .images import as_image, to_image
from .printable import printable

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

    from .images import OneImage

Mask = NDArray[np.uint8] | NDArray[np.uint16]
OVERLAY = 0.55  # how much of the colour covers the image
GOLDEN_RATIO = 0.618034
COLOURS = 256
DARK = 140  # colours below this brightness get white text
MOST_NAMES = 12  # that are written on an image


def palette(count: int) -> NDArray[np.uint8]:
    """Colours (count, 3) of Pascal VOC: black, then each index spread over the bits of three channels."""
    index = np.arange(count)
    colours = np.zeros((count, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (((index >> (3 * bit + channel)) & 1) << (7 - bit)).astype(
                np.uint8
            )
    return colours


def bright_colours(count: int) -> NDArray[np.uint8]:
    """Colours (count, 3) that are seen on photographs; neighbours have unlike hues."""
    hues = (np.arange(count) * GOLDEN_RATIO) % 1
    colours = [colorsys.hsv_to_rgb(hue, 0.8, 0.95) for hue in hues]
    rounded: NDArray[np.uint8] = np.rint(255 * np.array(colours).reshape(-1, 3)).astype(np.uint8)
    return rounded


def draw_boxes(
    image: OneImage,
    size: tuple[int, int],
    boxes: NDArray[np.float32],
    captions: Sequence[str],
    indices: Sequence[int],
) -> Image:
    """A copy of an image with boxes and a caption for each; the first lie on top.

    Args:
        image: As for `Model.classify`.
        size: (height, width) that the upright image must have.
        boxes: (n, 4) corners in pixels.
        captions: One per box.
        indices: The class of each box, for its colour.

    Raises:
        ImageError: The image cannot be decoded.
        UserError: It has another size.
    """
    from PIL import ImageDraw

    drawn = _copy(image, size)
    draw, scale = ImageDraw.Draw(drawn), _scale(drawn)
    colours = bright_colours(COLOURS).tolist()
    marked = [
        (box, caption, tuple(colours[index % COLOURS]))
        for box, caption, index in zip(boxes.tolist(), captions, indices, strict=True)
    ]
    for box, _, colour in reversed(marked):
        draw.rectangle(box, outline=colour, width=scale)
    for box, caption, colour in reversed(marked):
        _label(draw, printable(caption), (box[0], box[1]), colour, drawn.size, above=True)
    return drawn


def draw_mask(
    image: OneImage, mask: Mask, labels: Mapping[int, str], ignored: int | None = None
) -> Image:
    """A copy of an image with the classes of a mask as colours over it, and their names.

    Args:
        image: As for `Model.classify`.
        mask: (H, W) classes, at the size of the upright image; class 0 is left out.
        labels: The names of the classes to name.
        ignored: The value of pixels without a class, which get stripes of black and white.

    Raises:
        ImageError: The image cannot be decoded.
        UserError: It has another size.
    """
    from PIL import Image, ImageDraw

    drawn = _copy(image, (mask.shape[0], mask.shape[1]))
    colours = bright_colours(int(mask.max()) + 1)
    covered = (mask > 0).astype(np.uint8) * np.uint8(255 * OVERLAY)
    painted = colours[mask]
    if ignored is not None:
        rows, columns = np.nonzero(mask == ignored)
        painted[rows, columns] = 255 * ((rows + columns) // _scale(drawn) % 2)[:, None]
    drawn.paste(Image.fromarray(painted), mask=Image.fromarray(covered))
    draw, y = ImageDraw.Draw(drawn), 0.0
    for index, label in list(labels.items())[:MOST_NAMES]:
        y = _label(draw, printable(label), (0, y), tuple(colours[index].tolist()), drawn.size)
    return drawn


def mask_png(mask: Mask) -> bytes:
    """A mask (H, W) as a PNG: with a palette up to 256 classes, else grey of 16 bits."""
    from PIL import Image

    image = Image.fromarray(mask)
    if mask.dtype == np.uint8:
        image.putpalette(palette(256).tobytes())
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


def _copy(image: OneImage, size: tuple[int, int]) -> Image:
    """An RGB copy of an image that must have this (height, width)."""
    copy = to_image(as_image(image)).copy()
    if copy.size != size[::-1]:
        raise UserError(
            f"the image is {copy.height} x {copy.width} (height x width), the answer is for "
            f"{size[0]} x {size[1]}"
        )
    return copy


def _scale(image: Image) -> int:
    """Width of a line, so that it is seen on large images too."""
    return max(2, round(max(image.size) / 250))


def _label(
    draw: ImageDraw,
    text: str,
    place: tuple[float, float],
    colour: tuple[int, ...],
    size: tuple[int, int],
    above: bool = False,
) -> float:
    """Writes a text on its colour at a place, or above it where there is room.

    Returns:
        The row where it ends.
    """
    from PIL import ImageFont

    font = ImageFont.load_default(max(11, round(max(size) / 48)))
    left, top, right, bottom = draw.textbbox((0, 0), text, font)
    width, height = right - left + 4, bottom - top + 4
    x = min(max(0, place[0]), max(0, size[0] - width))
    y = place[1] - height if above and place[1] >= height else place[1]
    y = min(max(0, y), max(0, size[1] - height))
    draw.rectangle((x, y, x + width, y + height), fill=colour)
    brightness = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
    draw.text((x + 2 - left, y + 2 - top), text, "white" if brightness < DARK else "black", font)
    return y + height
