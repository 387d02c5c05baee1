"""Resizing and cropping, pixel for pixel, against the transforms of torchvision and timm."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from comparing import Array, Row
from PIL import Image

from mobilenetv2.images import Preprocessing, center_crop

SIDES = (1, 2, 100, 223, 224, 225, 231, 232, 255, 256, 257, 301, 341, 375, 500)
SIZES = tuple(itertools.product(SIDES, SIDES))
NEEDLES = ((1, 601), (601, 1), (2, 1301), (1303, 2), (3, 2003))  # resized only inside the crop
CROPS = ((224, 224), (225, 225), (50, 301), (513, 320))
RESIZED = (
    (256, "bilinear"),
    (232, "bilinear"),
    (256, "bicubic"),
    (224, "bilinear"),
    (249, "bicubic"),
)


def check_images(folder: Path) -> Iterator[Row]:
    """Compares every pair of sides in every preset, on noise, which shows a shift of one pixel.

    Needle-shaped images, which we resize only inside the crop, may differ by one level of 255.
    """
    from timm.data import create_transform
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

    for side, interpolation in RESIZED:
        ours = Preprocessing(crop_fraction=224 / side, interpolation=interpolation)
        theirs = Compose([Resize(side, InterpolationMode(interpolation)), CenterCrop(224)])
        yield pixels("torchvision", f"Resize({side}), CenterCrop(224)", interpolation, ours, theirs)
    bilinear = Compose([Resize(256), CenterCrop(224)])
    yield pixels(
        "torchvision",
        "the same, needle-shaped",
        "bilinear",
        Preprocessing(),
        bilinear,
        NEEDLES,
        most=1,
    )
    for height, width in CROPS:
        cut = CenterCrop((height, width))
        yield pixels(
            "torchvision", f"CenterCrop({height}, {width})", "", cropped(height, width), cut
        )
    transform = create_transform(
        (3, 224, 224), interpolation="bicubic", crop_pct=0.875, normalize=False
    )
    yield pixels(
        "timm",
        "create_transform(224, 0.875)",
        "bicubic",
        Preprocessing(interpolation="bicubic"),
        transform,
    )


def cropped(height: int, width: int) -> Callable[[Image.Image], Image.Image]:
    """Our crop alone."""
    return lambda image: center_crop(image, height, width)


def pixels(
    package: str,
    name: str,
    interpolation: str,
    ours: Callable[..., Any],
    theirs: Callable[..., Any],
    sizes: tuple[tuple[int, int], ...] = SIZES,
    most: int = 0,
) -> Row:
    """Compares one preset over sizes; `most` is the allowed difference, of 255."""
    worst = 0
    for height, width in sizes:
        noise = np.random.default_rng((height, width)).integers(
            0, 256, (height, width, 3), np.uint8
        )
        image = Image.fromarray(noise)
        a, b = as_array(ours(image)), as_array(theirs(image))
        if a.shape != b.shape:
            verdict = f"FAIL: {height} x {width}: ours is {a.shape}, theirs {b.shape}"
            return Row(package, name, "PIL images", interpolation, None, verdict)
        worst = max(worst, int(np.abs(a.astype(int) - b.astype(int)).max()))
        if worst > most:
            return Row(
                package,
                name,
                "PIL images",
                interpolation,
                worst,
                f"FAIL: first at {height} x {width}",
            )
    verdict = "within a level" if most else "identical"
    return Row(package, name, "PIL images", interpolation, worst, f"{verdict}, {len(sizes)} sizes")


def as_array(image: Any) -> Array:
    """(height, width, 3) uint8 of a PIL image, an array, or a uint8 tensor of PyTorch's layout."""
    array = np.asarray(image)
    return array.transpose(1, 2, 0) if array.shape[0] == 3 and array.shape[2] != 3 else array
