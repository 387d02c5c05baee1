"""Turns images into pixels.

Prediction, evaluation, calibration and training all use this `Preprocessing`, and the same `decode`.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Annotated, ClassVar, Literal

from .decoding import decode as decode
from .decoding import to_rgb
from .errors import ImageError
from .records import Meta, Record, Size

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    OneImage = str | os.PathLike[str] | bytes | bytearray | IO[bytes] | Image | NDArray[np.uint8]

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of red, green and blue, 0..1; torchvision, timm
IMAGENET_STD = (0.229, 0.224, 0.225)
MAX_RESIZED_PIXELS = 1 << 25  # of an image that would become larger, only the crop is computed


def as_image(source: OneImage, *, max_pixels: int | None = None) -> Image | NDArray[np.uint8]:
    """What `Preprocessing` takes: an image that is decoded already as it is, any other decoded.

    Args:
        source: As for `Model.classify`.
        max_pixels: As for `decode`.

    Raises:
        ImageError: As for `decode`.
    """
    from PIL import Image

    if isinstance(source, Image.Image):
        return source
    if hasattr(source, "__array__") and not isinstance(source, str | bytes):  # NumPy's texts
        import numpy as np

        check_unmasked(source)
        return np.asarray(source)
    return decode(source, max_pixels=max_pixels)


def to_image(image: Image | NDArray[np.uint8]) -> Image:
    """An image that is decoded already, as an RGB image of Pillow.

    Raises:
        ImageError: An array of another shape or type, or an image of an unknown range of values.
    """
    from PIL import Image

    return to_rgb(image if isinstance(image, Image.Image) else _from_array(image))


def check_unmasked(array: object) -> None:
    """Refuses a masked array that hides values, which would be used all the same.

    Raises:
        ImageError: It hides some.
    """
    import numpy as np

    # without the module, which takes a while to load, there are no masked arrays
    kind = getattr(sys.modules.get("numpy.ma"), "MaskedArray", ())
    if isinstance(array, kind) and np.ma.is_masked(array):
        raise ImageError("a masked array hides values: fill them first, with array.filled(0)")


PerChannel = Annotated[float, Meta(ge=-1e6, le=1e6)]
ONE_OR_THREE = Meta(min_length=1, max_length=3, description="one or three numbers")


@dataclass(frozen=True, kw_only=True)
class Preprocessing(Record):
    """What the weights expect of an image. Belongs to the weights and travels in their file.

    Attributes:
        size: (height, width) of the result.
        resize: "short_side": resize so that the image just covers the crop divided by
            `crop_fraction`, then crop the centre; "stretch": resize the whole image to `size`,
            whatever its aspect ratio; "fit": resize the whole image as large as `size` holds, at the
            top left, and fill the rest with the mean.
        crop_fraction: Side of the crop over side of the resized image: 0.875 is 224 out of 256.
        interpolation: Pillow's filter, which averages when it shrinks: "nearest", "bilinear",
            "bicubic", "lanczos".
        mean: Subtracted from each channel after scaling to 0..1. One number means a grey image.
        std: Then each channel is divided by this. Mean and std of 0.5 give -1..1.

    Raises:
        UserError: A value is out of range; the message names it.
    """

    noun: ClassVar[str] = "preprocessing"

    size: Size = (224, 224)
    resize: Literal["short_side", "stretch", "fit"] = "short_side"
    crop_fraction: Annotated[float, Meta(ge=0.1, le=1)] = 0.875
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    mean: Annotated[tuple[PerChannel, ...], ONE_OR_THREE] = (0.5, 0.5, 0.5)
    std: Annotated[tuple[PerChannel, ...], ONE_OR_THREE] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("mean", "std"):
            if len(getattr(self, name)) == 2:
                raise self.refusal(name, "one or three numbers")
        if len(self.mean) != len(self.std) or min(self.std) < 1e-6:
            raise self.refusal("std", "at least 1e-6, and as many numbers as mean")

    @property
    def channels(self) -> int:
        """3 for RGB, 1 for grey."""
        return len(self.mean)

    def __str__(self) -> str:
        height, width = self.size
        rows, columns = (round(side / self.crop_fraction) for side in self.size)
        resized = f"resized to cover {rows} x {columns}, centre crop {height} x {width}"
        if self.resize == "stretch":
            resized = f"stretched to {height} x {width}"
        elif self.resize == "fit":
            resized = f"resized to fit {height} x {width}, filled with the mean"
        mean, std = (", ".join(f"{x:g}" for x in values) for values in (self.mean, self.std))
        return f"{resized}, {self.interpolation}; mean {mean}; std {std}"

    def in_words(self) -> str:
        """What happens to an image, in one line."""
        height, width = self.size
        if self.resize == "stretch":
            shape = f"stretched to {height} x {width}"
        elif self.resize == "fit":
            shape = f"long side fits {height} x {width}"
        else:
            side = round(min(self.size) / self.crop_fraction)
            shape = f"short side {side}, crop {height} x {width}"
        if set(self.mean) == set(self.std) == {0.5}:
            values = "-1..1"
        else:
            values = f"mean {self.mean}, std {self.std}"
        return f"{shape}, {self.interpolation}, {values}"

    def __call__(self, image: OneImage) -> NDArray[np.uint8]:
        """One image -> pixels (height, width, channels) uint8, not yet normalised.

        Args:
            image: As for `Model.classify`; the result of `decode` for one.

        Raises:
            ImageError: As for `decode`; an array of another shape or type, an image without pixels, or values of
                an unknown range.
        """
        import numpy as np

        pixels: NDArray[np.uint8] = np.array(self.cropped(to_image(as_image(image))))
        return pixels.reshape(*self.size, self.channels)

    def cropped(self, image: Image) -> Image:
        """The same of an RGB image of Pillow, as such an image, of one channel for a grey one."""
        from PIL import Image

        if self.channels == 1:
            image = image.convert("L")
        filter_ = Image.Resampling[self.interpolation.upper()]
        height, width = self.size
        rows, columns = self.resized(image.height, image.width)
        if self.resize == "stretch":
            image = image.resize((width, height), filter_)
        elif self.resize == "fit":
            whole = Image.new(image.mode, (width, height), self._fill())
            whole.paste(image.resize((columns, rows), filter_))
            image = whole
        else:
            if rows * columns <= MAX_RESIZED_PIXELS:
                if (rows, columns) != (image.height, image.width):
                    image = image.resize((columns, rows), filter_)
                image = center_crop(image, height, width)
            else:  # a long and thin image: the same result, computed only inside the crop
                top, left = crop_offset(rows, height), crop_offset(columns, width)
                y, x = image.height / rows, image.width / columns
                box = (left * x, top * y, (left + width) * x, (top + height) * y)
                image = image.resize((width, height), filter_, box=box)
        return image

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the resized image, before it is cropped or filled up.

        For "short_side" this is torchvision's `Resize`, extended to crops that are not square.
        """
        if self.resize == "stretch":
            return self.size
        if self.resize == "fit":
            scale = min(self.size[0] / height, self.size[1] / width)
            return max(1, round(height * scale)), max(1, round(width * scale))
        rows, columns = (round(side / self.crop_fraction) for side in self.size)
        if rows / height >= columns / width:
            return rows, int(rows * width / height)
        return int(columns * height / width), columns

    def place(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Where an image of (height, width) lies in the pixels: (top, left, rows, columns).

        Negative where it was cropped. The point (y, x) of the image is the point
        (top + y * rows / height, left + x * columns / width) of the pixels.
        """
        rows, columns = self.resized(height, width)
        if self.resize != "short_side":
            return 0, 0, rows, columns
        top, left = (crop_offset(a, b) for a, b in zip((rows, columns), self.size, strict=True))
        return -top, -left, rows, columns

    def _fill(self) -> tuple[int, ...]:
        """The mean as a pixel."""
        return tuple(min(255, max(0, round(255 * mean))) for mean in self.mean)

    def scale_offset(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Scale and offset per channel, float64; pixel * scale + offset is the normalised value."""
        import numpy as np

        scales, offsets = self.scales_and_offsets()
        return np.array(scales), np.array(offsets)

    def scales_and_offsets(self) -> tuple[list[float], list[float]]:
        """As `scale_offset`, without NumPy."""
        scales = [1 / (255 * std) for std in self.std]
        return scales, [-mean / std for mean, std in zip(self.mean, self.std)]

    def normalize(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Pixels (..., channels) uint8 -> float32 in the range that the weights expect.

        Raises:
            ImageError: An array of another type or number of channels.
        """
        import numpy as np

        check_unmasked(pixels)
        pixels = np.asarray(pixels)
        if pixels.dtype != np.uint8 or pixels.shape[-1:] != (self.channels,):
            raise ImageError(
                f"pixels must be (..., {self.channels}) uint8, not {pixels.shape} {pixels.dtype}"
            )
        mean, std = np.array(self.mean, np.float64), np.array(self.std, np.float64)
        table = ((np.arange(256)[:, None] / 255 - mean) / std).astype(np.float32)  # (256, channels)
        normal: NDArray[np.float32] = table[pixels, np.arange(self.channels)]
        return normal


def crop_offset(size: int, crop: int) -> int:
    """The first row of a centred crop of `crop` out of `size` rows; negative if the crop is larger.

    Halves are rounded to even, as in torchvision's `center_crop`.
    """
    return round((size - crop) / 2) if crop <= size else -((crop - size) // 2)


def center_crop(image: Image, height: int, width: int) -> Image:
    """The centre (height, width) of an image, black outside of it; torchvision's rule exactly."""
    top, left = crop_offset(image.height, height), crop_offset(image.width, width)
    return image.crop((left, top, left + width, top + height))


def _from_array(array: NDArray[np.uint8]) -> Image:
    import numpy as np
    from PIL import Image

    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    grey = array.ndim == 2
    if array.dtype == np.uint8 and array.size and (grey or array.shape[2:] in ((3,), (4,))):
        return Image.fromarray(array)
    fix = ""
    if array.dtype.kind == "f":
        fix = "; multiply values from 0 to 1 by 255 and use astype('uint8')"
    elif array.ndim == 3 and array.shape[0] in (1, 3, 4) and array.shape[2] not in (3, 4):
        fix = "; move the channels to the end: array.transpose(1, 2, 0)"
    raise ImageError(
        "an image as an array must be uint8, (H, W, 3) RGB, (H, W, 4) RGBA, (H, W) or (H, W, 1) "
        f"grey, not {array.shape} {array.dtype}{fix}"
    )
