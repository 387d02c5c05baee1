"""Random parts of images together with their boxes or masks.

A window is a rectangle of an image, in its pixels; it may reach beyond the image. Where it lands
in the pixels of the network is a place, as `Preprocessing.place` gives it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from math import sqrt
from typing import Any, Protocol

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from ..datasets import IGNORED
from ..errors import UserError
from ..images import Preprocessing
from .augment import Augmentation, jitter
from .recipes import Recipe

Window = tuple[float, float, float, float]  # left, top, right, bottom
Place = tuple[int, int, int, int]  # top, left, rows, columns
Pixels = NDArray[np.uint8]
Mask = NDArray[np.uint8] | NDArray[np.uint16]
# TF Object Detection API, preprocessor.proto: ssd_random_crop
SSD_SHARES = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
SSD_KEPT, SSD_ATTEMPTS = 0.15, 100
SSD_ASPECTS, SSD_AREAS = (0.5, 2.0), (0.1, 1.0)


class BoxTransform(Protocol):
    """Upright RGB image, boxes (n, 4) in its pixels, random generator -> pixels (H, W, C), boxes
    (m, 4) in parts of the pixels, and which of the n they are (m,).
    """

    def __call__(
        self, image: Image.Image, boxes: NDArray[np.float32], rng: Generator
    ) -> tuple[Pixels, NDArray[np.float64], NDArray[np.int64]]: ...


class MaskTransform(Protocol):
    """Upright RGB image, mask (height, width), random generator -> pixels (H, W, C), mask (H, W)."""

    def __call__(self, image: Image.Image, mask: Mask, rng: Generator) -> tuple[Pixels, Mask]: ...


def box_transform(augmentation: Augmentation | None, preprocessing: Preprocessing) -> BoxTransform:
    """The function that changes one image with its boxes; None: as for evaluation. It can be pickled."""
    return partial(_with_boxes, augmentation, preprocessing)


def mask_transform(
    augmentation: Augmentation | None, preprocessing: Preprocessing
) -> MaskTransform:
    """As `box_transform`, for an image with its mask."""
    return partial(_with_mask, augmentation, preprocessing)


def _with_boxes(
    a: Augmentation | None,
    preprocessing: Preprocessing,
    image: Image.Image,
    boxes: NDArray[np.float32],
    rng: Generator,
) -> tuple[Pixels, NDArray[np.float64], NDArray[np.int64]]:
    corners = boxes.astype(np.float64).reshape(-1, 4)
    kept = np.arange(len(corners))
    window: Window = (0, 0, image.width, image.height)
    if a is not None:
        window = expanded(window, a.expand, rng)
        if a.crop == "ssd":
            window, kept = ssd_crop(window, corners, rng)
    wide, high = max(1, round(window[2] - window[0])), max(1, round(window[3] - window[1]))
    place = preprocessing.place(high, wide)
    pixels = resized_window(image, window, place, preprocessing)
    boxes_in = in_pixels(corners[kept], window, place, preprocessing.size)
    has_area = (boxes_in[:, 2:] > boxes_in[:, :2]).all(1)
    boxes_in, kept = boxes_in[has_area], kept[has_area]
    if a is not None and a.flip and rng.random() < 0.5:
        pixels = pixels[:, ::-1]
        boxes_in = np.stack(
            [1 - boxes_in[:, 2], boxes_in[:, 1], 1 - boxes_in[:, 0], boxes_in[:, 3]], 1
        )
    return _coloured(pixels, a, rng), boxes_in, kept


def _with_mask(
    a: Augmentation | None,
    preprocessing: Preprocessing,
    image: Image.Image,
    mask: Mask,
    rng: Generator,
) -> tuple[Pixels, Mask]:
    height, width = preprocessing.size
    window: Window = (0, 0, image.width, image.height)
    place = preprocessing.place(image.height, image.width)
    if a is not None and a.crop == "zoomed":
        scale = min(height / image.height, width / image.width) * rng.uniform(*a.zoom)
        wide, high = width / scale, height / scale
        left, top = (
            rng.uniform(min(0.0, free), max(0.0, free))
            for free in (image.width - wide, image.height - high)
        )
        window, place = (left, top, left + wide, top + high), (0, 0, height, width)
    pixels = resized_window(image, window, place, preprocessing)
    classes = mask_window(mask, window, place, preprocessing.size)
    if a is not None and a.flip and rng.random() < 0.5:
        pixels, classes = pixels[:, ::-1], classes[:, ::-1]
    return _coloured(pixels, a, rng), np.ascontiguousarray(classes)


def _coloured(pixels: Pixels, a: Augmentation | None, rng: Generator) -> Pixels:
    if a is None or not a.colour:
        return np.ascontiguousarray(pixels)
    grey = pixels.shape[2] == 1
    image = Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if grey else pixels))
    return np.array(jitter(image, rng)).reshape(pixels.shape)


def expanded(window: Window, most: float, rng: Generator) -> Window:
    """The window in half of the cases, in the others a larger one around it: SSD's "zoom out"."""
    if most <= 1 or rng.random() < 0.5:
        return window
    factor = rng.uniform(1, most)
    left, top, right, bottom = window
    wide, high = right - left, bottom - top
    x = left - rng.uniform(0, wide * (factor - 1))
    y = top - rng.uniform(0, high * (factor - 1))
    return x, y, x + wide * factor, y + high * factor


def ssd_crop(
    window: Window, boxes: NDArray[np.float64], rng: Generator
) -> tuple[Window, NDArray[np.int64]]:
    """A part of the window, and the boxes that it keeps: TensorFlow's `ssd_random_crop`.

    One share is drawn for each image: the part must cover one box at least by it, and boxes that it
    covers by less are left out.
    """
    everything = np.arange(len(boxes))
    share = SSD_SHARES[rng.integers(len(SSD_SHARES))]
    if rng.random() < SSD_KEPT:
        return window, everything
    left, top, right, bottom = window
    wide, high = right - left, bottom - top
    for _ in range(SSD_ATTEMPTS):
        area = wide * high * rng.uniform(*SSD_AREAS)
        aspect = rng.uniform(*SSD_ASPECTS)
        w, h = sqrt(area * aspect), sqrt(area / aspect)
        if w > wide or h > high:
            continue
        x, y = left + rng.uniform(0, wide - w), top + rng.uniform(0, high - h)
        part = (x, y, x + w, y + h)
        covered = covered_shares(boxes, part)
        if not len(boxes) or covered.max() >= max(share, 1e-6):
            return part, everything[covered >= max(share, 1e-6)]
    return window, everything


def covered_shares(boxes: NDArray[np.float64], window: Window) -> NDArray[np.float64]:
    """The share of each box (n, 4) that lies in the window."""
    clipped = np.clip(boxes, (*window[:2],) * 2, (*window[2:],) * 2)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    shares: NDArray[np.float64] = (clipped[:, 2:] - clipped[:, :2]).prod(1) / np.maximum(
        areas, 1e-12
    )
    return shares


def in_pixels(
    boxes: NDArray[np.float64], window: Window, place: Place, size: tuple[int, int]
) -> NDArray[np.float64]:
    """Boxes (n, 4) of the image in parts of the pixels, clipped to window and pixels."""
    top, left, rows, columns = place
    scale = np.array([columns / (window[2] - window[0]), rows / (window[3] - window[1])] * 2)
    clipped = np.clip(boxes, (*window[:2],) * 2, (*window[2:],) * 2)
    moved = (clipped - np.array([*window[:2]] * 2)) * scale + np.array([left, top] * 2)
    parts: NDArray[np.float64] = np.clip(moved / np.array([*size[::-1]] * 2), 0, 1)
    return parts


def resized_window(
    image: Image.Image, window: Window, place: Place, preprocessing: Preprocessing
) -> Pixels:
    """The window of the image at its place in the pixels (H, W, C); the mean colour elsewhere."""
    height, width = preprocessing.size
    if preprocessing.channels == 1:
        image = image.convert("L")
    fill = tuple(round(255 * min(max(mean, 0), 1)) for mean in preprocessing.mean)
    pixels = np.empty((height, width, len(fill)), np.uint8)
    pixels[:] = fill
    x, y = (_spans(window, place, axis, side) for axis, side in enumerate(image.size))
    if x is None or y is None:
        return pixels
    filter_ = Image.Resampling[preprocessing.interpolation.upper()]
    (x0, x1), (column, last_column) = x
    (y0, y1), (row, last_row) = y
    shape = (last_column - column, last_row - row)
    part = np.asarray(image.resize(shape, filter_, box=(x0, y0, x1, y1)))
    part = part.reshape(*part.shape[:2], len(fill))
    rows = slice(max(0, row), max(0, last_row))
    columns = slice(max(0, column), max(0, last_column))
    shown = pixels[rows, columns]
    shown[:] = part[max(0, -row) :, max(0, -column) :][: shown.shape[0], : shown.shape[1]]
    return pixels


def mask_window(mask: Mask, window: Window, place: Place, size: tuple[int, int]) -> Mask:
    """The same for a mask: the class of the nearest pixel; `IGNORED` elsewhere."""
    top, left, rows, columns = place
    y = _nearest(size[0], top, rows, window[1], window[3])
    x = _nearest(size[1], left, columns, window[0], window[2])
    inside_y = (y >= 0) & (y < mask.shape[0]) & _within(size[0], top, rows)
    inside_x = (x >= 0) & (x < mask.shape[1]) & _within(size[1], left, columns)
    answer: Mask = np.full(size, IGNORED, mask.dtype)
    answer[np.ix_(inside_y, inside_x)] = mask[np.ix_(y[inside_y], x[inside_x])]
    return answer


def _nearest(side: int, first: int, count: int, low: float, high: float) -> NDArray[np.int64]:
    """For each of `side` rows of the pixels the row of the image."""
    centres = (np.arange(side) - first + 0.5) * ((high - low) / count) + low
    return np.floor(centres).astype(np.int64)


def _within(side: int, first: int, count: int) -> NDArray[np.bool_]:
    rows = np.arange(side)
    return (rows >= first) & (rows < first + count)


def _spans(
    window: Window, place: Place, axis: int, side: int
) -> tuple[tuple[float, float], tuple[int, int]] | None:
    """The part of an axis (0: x) that window and image share, in pixels of the image and in whole
    pixels of the network; None where they share none.
    """
    low, high = window[axis], window[axis + 2]
    first, count = (place[1], place[3]) if axis == 0 else (place[0], place[2])
    begin, end = max(0.0, low), min(float(side), high)
    if end <= begin:
        return None
    scale = count / (high - low)
    start = round(first + (begin - low) * scale)
    stop = max(start + 1, round(first + (end - low) * scale))
    return (begin, end), (start, stop)


def refuse_fields(recipe: Recipe, only: Mapping[str, Any], crops: Sequence[str], task: str) -> None:
    """Refuses what images with boxes or masks cannot have.

    Args:
        recipe: What to check.
        only: Fields of the recipe with the one value that they may have.
        crops: The crops that its augmentation may have.
        task: Named in the message.

    Raises:
        UserError: A field says something else; all of them are named.
    """
    only = {"sizes": (), "crop_fraction": None, **only}
    wrong = [
        f"{name}={getattr(recipe, name)}" for name in only if getattr(recipe, name) != only[name]
    ]
    a, default = recipe.augmentation, Augmentation()
    names = [
        name
        for name in ("policy", "erase", "cutout", "mixup", "cutmix")
        if getattr(a, name) != getattr(default, name)
    ]
    names += [] if a.crop in crops else ["crop"]
    names += ["flip"] if a.flip == "alternate" else []
    wrong += [f"augmentation.{name}={getattr(a, name)}" for name in names]
    if wrong:
        raise UserError(f"recipe {recipe.name!r} is not for {task}: it has {', '.join(wrong)}")
