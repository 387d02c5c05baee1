"""Random changes of an image's colours."""

from __future__ import annotations

from numpy.random import Generator
from PIL import Image, ImageEnhance

# TF-slim: slim/preprocessing/inception_preprocessing.py, distort_color
MAX_BRIGHTNESS_CHANGE = 32  # of 255
CLAMPED = [0] * MAX_BRIGHTNESS_CHANGE + list(range(256)) + [255] * MAX_BRIGHTNESS_CHANGE


def jitter(image: Image.Image, rng: Generator) -> Image.Image:
    """Random brightness and colour, in random order."""
    limit = MAX_BRIGHTNESS_CHANGE
    change, factor = int(rng.integers(-limit, limit + 1)), rng.uniform(0.5, 1.5)
    table = CLAMPED[limit + change : limit + change + 256] * len(image.getbands())
    if rng.random() < 0.5:
        return ImageEnhance.Color(image.point(table)).enhance(factor)
    return ImageEnhance.Color(image).enhance(factor).point(table)
