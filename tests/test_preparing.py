"""Resizing of our own: the pixels of Pillow."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from mobilenetv2 import Model, Preprocessing
from mobilenetv2.runtime import _native, preparing
from mobilenetv2.runtime.preparing import prepared

from .conftest import random_checkpoint

SIZES = [
    (500, 375),
    (375, 500),
    (257, 256),
    (256, 300),
    (1, 9),
    (3, 40),
    (40, 3),
    (31, 33),
    (1200, 900),
]


def noise(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(width * height)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos", "nearest"])
@pytest.mark.parametrize("crop_fraction", [0.875, 1.0])
def test_pixels_are_those_of_pillow(interpolation: str, crop_fraction: float) -> None:
    rules = Preprocessing(interpolation=interpolation, crop_fraction=crop_fraction)  # type: ignore[arg-type]
    for size in ((224, 224), (96, 160)):
        for image in (noise(*shape) for shape in SIZES):
            expected = replace(rules, size=size)(image)
            np.testing.assert_array_equal(prepared(replace(rules, size=size), image), expected)


@pytest.mark.parametrize(
    "change",
    [{"resize": "fit"}, {"resize": "stretch"}, {"mean": (0.5,), "std": (0.5,)}],
    ids=["fit", "stretch", "grey"],
)
def test_others_are_left_to_pillow(change: dict[str, object]) -> None:
    rules = replace(Preprocessing(size=(64, 96)), **change)  # type: ignore[arg-type]
    image = noise(90, 300)
    np.testing.assert_array_equal(prepared(rules, image), rules(image))


def test_an_image_in_several_pieces_of_memory() -> None:
    image = noise(3000, 2000)
    with pytest.raises(ValueError, match="contiguous|multiple array blocks"):
        image.__arrow_c_array__()
    np.testing.assert_array_equal(prepared(Preprocessing(), image), Preprocessing()(image))


def test_a_model_prepares_images_so(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def resample(image: object, size: tuple[int, int], *rest: object) -> None:
        sizes.append(size)
        original(image, size, *rest)

    original = _native.resample
    monkeypatch.setattr(preparing._native, "resample", resample)
    model = Model(random_checkpoint(width_mult=0.1, classes=3))
    one = model.classify(noise(500, 375))
    (_, many), *_ = model.classify_files([noise(500, 375), noise(300, 400)])
    assert many == one
    assert sizes == [(375, 500), (375, 500), (400, 300)]


@pytest.mark.parametrize(
    ("size", "offset", "match"),
    [
        ((30, 41), (0, 0), "pixels of four bytes"),
        ((30, 40), (-1, 0), "within the image"),
        ((30, 40), (0, 11), "within the image"),
    ],
)
def test_parts_that_there_are_not(
    size: tuple[int, int], offset: tuple[int, int], match: str
) -> None:
    _, array = noise(40, 30).__arrow_c_array__()
    pixels = np.empty((10, 10, 3), np.uint8)
    with pytest.raises(ValueError, match=match):
        _native.resample(array, size, (15, 20), offset, _native.Filter.BILINEAR, pixels)
