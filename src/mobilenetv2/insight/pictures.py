"""Feature maps as small PNG images inside the page."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

COLUMNS = 6  # maps a block
STOPS = np.array(  # dark to bright, in equal steps of lightness; read from viridis
    [(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)], np.float64
)


def png(pixels: NDArray[np.uint8]) -> str:
    """Pixels (H, W, 1 or 3) as a data address."""
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze(axis=2) if pixels.shape[2] == 1 else pixels).save(
        file, "PNG", optimize=True
    )
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def jpeg(pixels: NDArray[np.uint8]) -> str:
    """A photo (H, W, 1 or 3) as a data address."""
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze(axis=2) if pixels.shape[2] == 1 else pixels).save(
        file, "JPEG", quality=88
    )
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def strongest(values: NDArray[np.float32], count: int = COLUMNS) -> NDArray[np.int64]:
    """The channels of a map (H, W, C) that vary most over its places, most first, (count,)."""
    spread = values.reshape(-1, values.shape[2]).var(axis=0)
    order: NDArray[np.int64] = np.argsort(-spread, kind="stable")[:count]
    return order


def coloured(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """One channel (H, W) in colours from its least to its largest value, (H, W, 3)."""
    low, high = float(values.min()), float(values.max())
    shares = (values.astype(np.float64) - low) / (high - low if high > low else 1.0)
    places = np.linspace(0, 1, len(STOPS))
    channels = [np.interp(shares, places, STOPS[:, i]) for i in range(3)]
    return np.stack(channels, axis=2).round().astype(np.uint8)
