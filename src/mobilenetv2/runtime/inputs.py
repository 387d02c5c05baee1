"""What every runtime accepts as input, and the messages for the rest."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..images import Preprocessing


def check_images(images: NDArray[Any], channels: int) -> None:
    """Accepts uint8 pixels or normalised float images (N, H, W, channels).

    Raises:
        UserError: Anything else, an empty batch, NaN, or floats that are not normalised.
    """
    if not isinstance(images, np.ndarray):
        raise UserError(
            f"images must be a NumPy array (N, H, W, {channels}), not {type(images).__name__}"
        )
    if images.ndim != 4 or images.shape[3] != channels or 0 in images.shape:
        raise UserError(
            f"images must be (N, H, W, {channels}) with N, H and W at least 1, not {images.shape}"
        )
    if images.dtype == np.uint8:
        return
    if images.dtype not in (np.float32, np.float64):
        raise UserError(f"images must be uint8 pixels or normalised float32, not {images.dtype}")
    if not np.isfinite(images).all():
        raise UserError("images hold NaN or infinity")
    if np.abs(images).max() > 16:
        raise UserError(
            "float images must be normalised (about -3..3), not 0..255: pass pixels as uint8"
        )


def to_pixels(images: NDArray[Any], preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """uint8 pixels as they are; normalised floats as the nearest pixels, what lies beyond 0..255
    clamped.
    """
    if images.dtype == np.uint8:
        return images
    scale, offset = preprocessing.scale_offset()
    return np.clip(np.rint((images - offset) / scale), 0, 255).astype(np.uint8)
