"""A mask in an image file: the class of every pixel."""

from __future__ import annotations

from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from ..decoding import TURNS, stored_mode
from ..errors import ImageError
from ..paths import obstacle

Mask = NDArray[np.uint8] | NDArray[np.uint16]
LOSSY = ("JPEG", "MPO", "JPEG2000")
FACTORS = {"L;2": 85, "L;4": 17}  # by which Pillow scales grey of 2 and 4 bits


def read_mask(source: Path | IO[bytes], size: tuple[int, int] | None = None, turn: int = 1) -> Mask:
    """The values of a palette or grey image as (height, width) of uint8, or uint16 above 8 bits.

    Args:
        source: The file, or its content as an open file with a name.
        size: Height and width that the mask must have, after it was turned; None: any.
        turn: The EXIF orientation to apply, 1 for none.

    Raises:
        ImageError: No such file, damaged, of another size or kind: colours are not classes.
    """
    from PIL import Image, UnidentifiedImageError

    path = source if isinstance(source, Path) else source.name
    if isinstance(source, Path) and (reason := obstacle(source)):
        raise ImageError(f"{path}: {reason}")
    try:
        with Image.open(source) as image:
            if image.format in LOSSY:
                raise ImageError(f"a {image.format} blends neighbouring classes: save masks as PNG")
            factor = FACTORS.get(stored_mode(image), 1)
            if image.mode not in ("1", "L", "P") and not image.mode.startswith("I"):
                raise ImageError(
                    f"colours ({image.mode}) are not classes: save it as palette or grey PNG"
                )
            turned = image.transpose(Image.Transpose[TURNS[turn]]) if turn in TURNS else image
            values = np.asarray(turned)
    except MemoryError:
        raise ImageError(f"{path}: too large for this machine's memory") from None
    except UnidentifiedImageError:  # its message has an address of memory
        raise ImageError(
            f"{path}: not a mask: not an image, or of a kind that Pillow cannot read"
        ) from None
    except Exception as error:  # Pillow's plugins may raise anything on damaged files
        raise ImageError(f"{path}: not a mask: {error or type(error).__name__}") from error
    if size and values.shape != size:
        raise ImageError(
            f"{path}: {values.shape[0]} x {values.shape[1]} (height x width), but its image is "
            f"{size[0]} x {size[1]}"
        )
    if values.dtype not in (np.uint8, np.bool_):
        if values.min() < 0 or values.max() > 65535:
            raise ImageError(f"{path}: values from {values.min()} to {values.max()} are no classes")
        return values.astype(np.uint16)
    return values.astype(np.uint8) // np.uint8(factor)
