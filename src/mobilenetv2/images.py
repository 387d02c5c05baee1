"""Decodes any image file that Pillow opens to upright 8-bit RGB, and turns it into pixels.

Prediction, evaluation, calibration and training all use this decoding and this `Preprocessing`.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from io import BytesIO, TextIOBase
from typing import IO, TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from .errors import ImageError
from .records import Meta, Record, Size

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    OneImage = str | os.PathLike[str] | bytes | bytearray | IO[bytes] | Image | NDArray[np.uint8]

TURNS = {  # EXIF orientation -> the member of Image.Transpose that turns the image upright
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of red, green and blue, 0..1; torchvision, timm
IMAGENET_STD = (0.229, 0.224, 0.225)
MAX_RESIZED_PIXELS = 1 << 25  # of an image that would become larger, only the crop is computed
PILLOW_LIMIT_FACTOR = 2  # Pillow refuses images of more than twice Image.MAX_IMAGE_PIXELS

_pillow_limit = threading.Lock()


def decode(
    source: str | os.PathLike[str] | bytes | bytearray | IO[bytes],
    *,
    max_pixels: int | None = None,
) -> Image:
    """Reads one image as upright 8-bit RGB.

    The stored orientation is applied. Alpha is dropped; palettes, grey, 1 bit and CMYK become RGB;
    16-bit values keep their high byte; floats from 0 to 1 are scaled to 0..255. Of an animation,
    the first frame is read. The kind of file is recognised by its content, not by its name. Colour
    profiles are ignored.

    Args:
        source: A file name, or an image file's content as bytes or as an open binary file.
        max_pixels: The largest number of pixels that is accepted. Default: Pillow's own limit
            (about 179 million).

    Returns:
        A `PIL.Image.Image` of mode "RGB"; `numpy.asarray` of it is (height, width, 3) uint8.

    Raises:
        ImageError: Not an image, damaged, or too large; the message names the file.
    """
    from PIL import Image, UnidentifiedImageError

    if isinstance(source, bytes | bytearray | memoryview):
        source = BytesIO(source)
    if not isinstance(source, str | os.PathLike) and not hasattr(source, "read"):
        raise ImageError(
            f"an image is a file name, bytes, an open file, a PIL image or an array, not "
            f"{type(source).__name__}"
        )
    if isinstance(source, TextIOBase):
        raise ImageError(f"{getattr(source, 'name', '<stream>')}: opened as text; open it as 'rb'")
    name = (
        os.fspath(source)
        if isinstance(source, str | os.PathLike)
        else getattr(source, "name", "<stream>")
    )
    try:
        with _open(source, max_pixels) as image:
            if max_pixels is not None and image.width * image.height > max_pixels:
                raise Image.DecompressionBombError
            return _upright_rgb(image)
    except Image.DecompressionBombError:
        limit = max_pixels or PILLOW_LIMIT_FACTOR * (Image.MAX_IMAGE_PIXELS or 0)
        raise ImageError(
            f"{name}: more than {limit} pixels; raise the limit with max_pixels (--max-pixels) if that is right"
        ) from None
    except UnidentifiedImageError:
        raise ImageError(f"{name}: not an image, or of a kind that Pillow cannot read") from None
    except FileNotFoundError:
        raise ImageError(f"{name}: no such file") from None
    except MemoryError:
        raise ImageError(f"{name}: too large for this machine's memory") from None
    except Exception as error:  # Pillow's plugins may raise anything on damaged files
        raise ImageError(f"{name}: cannot be decoded: {error or type(error).__name__}") from error


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
    if hasattr(source, "__array__"):
        import numpy as np

        return np.asarray(source)
    return decode(source, max_pixels=max_pixels)


def _open(source: str | os.PathLike[str] | IO[bytes], max_pixels: int | None) -> Image:
    """`Image.open`, during which Pillow's own limit does not apply if the caller has set one."""
    from PIL import Image

    if max_pixels is None:
        try:
            return Image.open(source)
        except Image.DecompressionBombWarning:
            # The caller's filter makes this warning an error; the image is within the limit.
            pass
    with _pillow_limit:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(source)
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _upright_rgb(image: Image) -> Image:
    """A Pillow image as `decode` returns it; such an image stays as it is."""
    from PIL import Image

    if 0 in image.size:
        raise ImageError(f"an image of {image.width}x{image.height} has no pixels")
    image.load()
    turn = TURNS.get(_orientation(image))
    image = _to_rgb(image)
    if turn:
        image = image.transpose(Image.Transpose[turn])
        image.info = {}  # has the orientation, which would turn the image again
    return image


def _orientation(image: Image) -> Any:
    try:
        return image.getexif().get(0x0112)
    except Exception:  # Pillow may raise anything on damaged EXIF; the pixels are still good
        return None


def _to_rgb(image: Image) -> Image:
    if image.mode == "F" or image.mode.startswith("I"):
        return _deep_to_rgb(image)
    if "transparency" in image.info and image.mode == "P":
        image = image.convert("RGBA")
    if image.mode == "La":  # grey multiplied by alpha; Pillow divides only in conversion to LA
        image = image.convert("LA")
    return image if image.mode == "RGB" else image.convert("RGB")


def _deep_to_rgb(image: Image) -> Image:
    """An image of one channel with more than 8 bits as RGB.

    Its values decide whether they mean 0..1, 8 bits or 16 bits, since the file does not say it.
    """
    import numpy as np
    from PIL import Image

    values = np.asarray(image)
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 65535):
        raise ImageError(f"values from {low:g} to {high:g} are neither 0..1, 8 bit nor 16 bit")
    if image.mode == "F" and high <= 1:
        grey = np.rint(values * 255)
    elif image.mode.startswith("I;16") or high > 255:
        grey = values.astype(np.uint16) >> 8
    else:
        grey = np.rint(values)
    return Image.fromarray(grey.astype(np.uint8)).convert("RGB")


PerChannel = Annotated[float, Meta(ge=-1e6, le=1e6)]
ONE_OR_THREE = Meta(min_length=1, max_length=3, description="one or three numbers")


@dataclass(frozen=True, kw_only=True)
class Preprocessing(Record):
    """What the weights expect of an image. Belongs to the weights and travels in their file.

    Attributes:
        size: (height, width) of the result.
        resize: "short_side": resize so that the image just covers the crop divided by
            `crop_fraction`, then crop the centre; "stretch": resize the whole image to `size`,
            whatever its aspect ratio.
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
    resize: Literal["short_side", "stretch"] = "short_side"
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
        mean, std = (", ".join(f"{x:g}" for x in values) for values in (self.mean, self.std))
        return f"{resized}, {self.interpolation}; mean {mean}; std {std}"

    def __call__(self, image: Image | NDArray[np.uint8]) -> NDArray[np.uint8]:
        """One image -> pixels (height, width, channels) uint8, not yet normalised.

        Args:
            image: The result of `decode`, any other Pillow image, or uint8 pixels: (H, W, 3) RGB,
                (H, W, 4) RGBA, (H, W) or (H, W, 1) grey.

        Raises:
            ImageError: An array of another shape or type, an image without pixels, or values of
                an unknown range.
        """
        import numpy as np
        from PIL import Image

        if isinstance(image, np.ndarray):
            image = _from_array(image)
        image = _upright_rgb(image)
        if self.channels == 1:
            image = image.convert("L")
        filter_ = Image.Resampling[self.interpolation.upper()]
        height, width = self.size
        if self.resize == "stretch":
            image = image.resize((width, height), filter_)
        else:
            rows, columns = self.resized(image.height, image.width)
            if rows * columns <= MAX_RESIZED_PIXELS:
                if (rows, columns) != (image.height, image.width):
                    image = image.resize((columns, rows), filter_)
                image = center_crop(image, height, width)
            else:  # a long and thin image: the same result, computed only inside the crop
                top, left = crop_offset(rows, height), crop_offset(columns, width)
                y, x = image.height / rows, image.width / columns
                box = (left * x, top * y, (left + width) * x, (top + height) * y)
                image = image.resize((width, height), filter_, box=box)
        pixels: NDArray[np.uint8] = np.array(image)  # a copy: Pillow's memory is read-only
        return pixels.reshape(height, width, self.channels)

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the resized image before the crop.

        This is torchvision's `Resize`, extended to crops that are not square.
        """
        rows, columns = (round(side / self.crop_fraction) for side in self.size)
        if rows / height >= columns / width:
            return rows, int(rows * width / height)
        return int(columns * height / width), columns

    def scale_offset(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Scale and offset per channel, float64; pixel * scale + offset is the normalised value."""
        import numpy as np

        mean, std = np.array(self.mean, np.float64), np.array(self.std, np.float64)
        return 1 / (255 * std), -mean / std

    def normalize(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Pixels (..., channels) uint8 -> float32 in the range that the weights expect."""
        import numpy as np

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
