"""`Preprocessing` of photos, sooner: the same pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..images import MAX_RESIZED_PIXELS, Preprocessing, to_image
from . import _native

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

FILTERS = {  # "nearest" takes no time
    "bilinear": _native.Filter.BILINEAR,
    "bicubic": _native.Filter.BICUBIC,
    "lanczos": _native.Filter.LANCZOS,
}


def prepared(preprocessing: Preprocessing, image: Image | NDArray[np.uint8]) -> memoryview:
    """What `preprocessing(image)` gives, as memory (height, width, channels) of bytes; an image that is resized and cropped is computed only inside
    the crop, without the GIL.

    Args:
        preprocessing: What the weights expect of an image.
        image: As `images.as_image` gives it.

    Raises:
        ImageError: As for `Preprocessing`.
    """
    image = to_image(image)
    filter_ = FILTERS.get(preprocessing.interpolation)
    # where the sides shrink differently, Pillow may take the rows first, which rounds in another way
    if filter_ is None or preprocessing.resize != "short_side" or preprocessing.channels != 3:
        return _by_pillow(preprocessing, image)
    top, left, rows, columns = preprocessing.place(image.height, image.width)
    height, width = preprocessing.size
    unchanged = (rows, columns) == (image.height, image.width)
    within = -rows <= top - height and -columns <= left - width and max(top, left) <= 0
    if unchanged or not within or rows * columns > MAX_RESIZED_PIXELS:
        return _by_pillow(preprocessing, image)
    try:
        _, stored = image.__arrow_c_array__()
    except ValueError:  # a large image lies in several pieces of memory
        return _by_pillow(preprocessing, image)
    pixels = memoryview(bytearray(height * width * 3)).cast("B", (height, width, 3))
    size = image.height, image.width
    _native.resample(stored, size, (rows, columns), (-top, -left), filter_, pixels)
    return pixels


def _by_pillow(preprocessing: Preprocessing, image: Image) -> memoryview:
    pixels = memoryview(preprocessing.cropped(image).tobytes())
    return pixels.cast("B", (*preprocessing.size, preprocessing.channels))
