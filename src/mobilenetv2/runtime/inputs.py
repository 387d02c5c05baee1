"""What every runtime accepts as input, and the messages for the rest."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..images import Preprocessing, check_unmasked

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def check_images(
    images: NDArray[Any], channels: int, preprocessing: Preprocessing | None = None
) -> None:
    """Accepts uint8 pixels or normalised float images (N, H, W, channels).

    Warns of floats that look like values from 0 to 1, where `preprocessing` gives others.

    Raises:
        UserError: Anything else, an empty batch, NaN, or floats that are not normalised.
    """
    import numpy as np

    if not isinstance(images, np.ndarray):
        raise UserError(
            f"images must be a NumPy array (N, H, W, {channels}), not {type(images).__name__}"
        )
    check_unmasked(images)
    if images.ndim != 4 or images.shape[3] != channels or 0 in images.shape:
        raise UserError(
            f"images must be (N, H, W, {channels}) with N, H and W at least 1, not {images.shape}"
        )
    if images.dtype == np.uint8:
        return
    if images.dtype not in (np.float32, np.float64):
        raise UserError(f"images must be uint8 pixels or normalised float32, not {images.dtype}")
    low, high = float(images.min()), float(images.max())  # NaN if there is one
    if not np.isfinite(low + high):
        raise UserError("images hold NaN or infinity")
    if max(-low, high) > 16:
        raise UserError(
            "float images must be normalised (about -3..3), not 0..255: pass pixels as uint8"
        )
    if preprocessing is not None and 0 <= low < high <= 1:
        _warn_if_others_are_expected(preprocessing)


def checked_names(names: Iterable[str]) -> tuple[str, ...]:
    """Names of layers, each once.

    Raises:
        UserError: Not a list of names, or an empty one.
    """
    if not isinstance(names, str) and isinstance(names, Iterable):
        listed = tuple(dict.fromkeys(names))
        if listed and all(isinstance(name, str) for name in listed):
            return listed
    raise UserError(f"no layer named: names must be a list of names of layers, not {names!r:.80}")


def _warn_if_others_are_expected(preprocessing: Preprocessing) -> None:
    scale, offset = preprocessing.scale_offset()
    low, high = float(offset.min()), float((255 * scale + offset).max())
    if low < -0.01:
        warnings.warn(
            f"all values of the float images are from 0 to 1, but these weights expect {low:.3g} to "
            f"{high:.3g}; pass uint8 pixels, or normalise with checkpoint.preprocessing.normalize",
            UserWarning,
            stacklevel=6,  # who called the model
        )


def to_pixels(images: NDArray[Any], preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """uint8 pixels as they are; normalised floats as the nearest pixels, what lies beyond 0..255
    clamped.
    """
    import numpy as np

    if images.dtype == np.uint8:
        return images
    scale, offset = preprocessing.scale_offset()
    return np.clip(np.rint((images - offset) / scale), 0, 255).astype(np.uint8)
