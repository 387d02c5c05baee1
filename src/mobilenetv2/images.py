"""Images in: any file Pillow opens becomes upright 8-bit RGB, and `Preprocessing` makes it what
the weights expect.

The same decoding and the same `Preprocessing` serve prediction, evaluation, calibration and
training."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from .errors import ImageError
from .records import Meta, Record, Size

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

ENDINGS = "jpg jpeg jpe jfif png apng webp gif bmp dib tif tiff ppm pgm pbm pnm avif avifs heic heif jp2 tga ico pcx sgi mpo"
SUFFIXES = frozenset(f".{ending}" for ending in ENDINGS.split())
TURNS = {  # EXIF orientation -> what puts the stored pixels upright, a member of Image.Transpose
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of red, green and blue in 0..1; torchvision, timm
IMAGENET_STD = (0.229, 0.224, 0.225)
MAX_RESIZED_PIXELS = 1 << 25  # a resized image larger than this is resized only where the crop lies
PILLOW_LIMIT_FACTOR = 2  # Pillow refuses images of more than twice Image.MAX_IMAGE_PIXELS

_pillow_limit = threading.Lock()


def decode(source: str | os.PathLike[str] | IO[bytes], *, max_pixels: int | None = None) -> Image:
    """Reads one image as upright 8-bit RGB.

    The stored orientation is applied, alpha is dropped, palettes, grey, 1 bit and CMYK become RGB,
    16-bit values keep their high byte, floats from 0 to 1 are scaled to 0..255, and of an animation
    the first frame is taken. The content decides, not the file's name. Colour profiles are ignored.

    Args:
        source: A file name or an open binary file.
        max_pixels: Refuse images of more pixels than this. Default: Pillow's own limit (about 179
            million).

    Returns:
        A `PIL.Image.Image` of mode "RGB"; `numpy.asarray` of it is (height, width, 3) uint8.

    Raises:
        ImageError: Not an image, damaged, or too large; the message names the file.
    """
    from PIL import Image, UnidentifiedImageError

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
    except Exception as error:  # Pillow's plugins raise nearly anything on damaged files
        raise ImageError(f"{name}: cannot be decoded: {error or type(error).__name__}") from error


def _open(source: str | os.PathLike[str] | IO[bytes], max_pixels: int | None) -> Image:
    """`Image.open`, with Pillow's process-wide limit lifted for the moment of opening if the caller
    has set one.
    """
    from PIL import Image

    if max_pixels is None:
        try:
            return Image.open(source)
        except (
            Image.DecompressionBombWarning
        ):  # made an error by a filter of the caller's: large, but not too large
            pass
    with _pillow_limit:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(source)
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _upright_rgb(image: Image) -> Image:
    """Any image of Pillow's as `decode` promises it; what has passed once passes unchanged."""
    from PIL import Image

    if 0 in image.size:
        raise ImageError(f"an image of {image.width}x{image.height} has no pixels")
    image.load()
    turn = TURNS.get(_orientation(image))
    image = _to_rgb(image)
    if turn:
        image = image.transpose(Image.Transpose[turn])
        image.info = {}  # the orientation is in it, and would turn the image again
    return image


def _orientation(image: Image) -> Any:
    try:
        return image.getexif().get(0x0112)
    except (
        Exception
    ):  # damaged EXIF says nothing about the pixels, and Pillow raises nearly anything on it
        return None


def _to_rgb(image: Image) -> Image:
    if image.mode == "F" or image.mode.startswith("I"):
        return _deep_to_rgb(image)
    if "transparency" in image.info and image.mode == "P":
        image = image.convert("RGBA")
    if image.mode == "La":  # colours multiplied by alpha; Pillow divides only on the way to LA
        image = image.convert("LA")
    return image if image.mode == "RGB" else image.convert("RGB")


def _deep_to_rgb(image: Image) -> Image:
    """More than 8 bits a channel, one channel: the range decides the scale, since the file does not
    say it.
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
        resize: "short_side": scale until the crop divided by `crop_fraction` is just covered, then
            cut the centre; "stretch": the whole image to `size`, its aspect not kept.
        crop_fraction: Side of the crop over side of the resized image: 0.875 is 224 out of 256.
        interpolation: Pillow's filter, which averages when it shrinks: "nearest", "bilinear",
            "bicubic", "lanczos".
        mean: Subtracted from each channel after scaling to 0..1. One number means a grey image.
        std: Then divided by. Mean and std of 0.5 give -1..1.

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

    def __call__(self, image: Image | NDArray[np.uint8]) -> NDArray[np.uint8]:
        """One image -> pixels (height, width, channels) uint8, not yet normalised.

        Args:
            image: What `decode` gives, another image of Pillow's, which is treated alike, or (H,
                W, 3) uint8 RGB.

        Raises:
            ImageError: An array of another shape or type, no pixels at all, or values of no known
                range.
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
            else:  # needle-shaped: the same image, computed only inside the crop
                top, left = crop_offset(rows, height), crop_offset(columns, width)
                y, x = image.height / rows, image.width / columns
                box = (left * x, top * y, (left + width) * x, (top + height) * y)
                image = image.resize((width, height), filter_, box=box)
        pixels: NDArray[np.uint8] = np.array(
            image
        )  # a copy: a view of Pillow's memory is read-only
        return pixels.reshape(height, width, self.channels)

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Size of the image before the crop: torchvision's `Resize`, extended to crops that are
        not square.
        """
        rows, columns = (round(side / self.crop_fraction) for side in self.size)
        if rows / height >= columns / width:
            return rows, int(rows * width / height)
        return int(columns * height / width), columns

    def scale_offset(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Normalisation as pixel * scale + offset, one of each a channel, in float64."""
        import numpy as np

        mean, std = np.array(self.mean, np.float64), np.array(self.std, np.float64)
        return 1 / (255 * std), -mean / std

    def normalize(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(..., channels) uint8 -> float32 of the range the weights want."""
        import numpy as np

        mean, std = np.array(self.mean, np.float64), np.array(self.std, np.float64)
        table = ((np.arange(256)[:, None] / 255 - mean) / std).astype(np.float32)  # (256, channels)
        normal: NDArray[np.float32] = table[pixels, np.arange(self.channels)]
        return normal


def crop_offset(size: int, crop: int) -> int:
    """First row of the middle `crop` of `size` rows, halves rounded to even; negative where the
    crop is larger.

    torchvision's `center_crop`: what lies outside the image is black.
    """
    return round((size - crop) / 2) if crop <= size else -((crop - size) // 2)


def center_crop(image: Image, height: int, width: int) -> Image:
    """The middle (height, width) of an image, with black where it is smaller; torchvision's rule
    to the pixel.
    """
    top, left = crop_offset(image.height, height), crop_offset(image.width, width)
    return image.crop((left, top, left + width, top + height))


def find_images(folder: Path, hidden: list[Path] | None = None) -> tuple[list[Path], list[Path]]:
    """Images below a folder by the ending of their names, and the other files, both sorted by
    path.

    Hidden files and folders (a leading dot, `__MACOSX`, `@eaDir`) are left out of both, and
    appended to `hidden`. A folder that may not be searched stands among the images, so that
    whoever decodes them is told."""
    closed: list[OSError] = []
    found = sorted(_walk(folder, closed, [] if hidden is None else hidden))
    images = [path for path in found if path.suffix.lower() in SUFFIXES]
    others = [path for path in found if path.suffix.lower() not in SUFFIXES]
    return sorted(images + [Path(error.filename) for error in closed]), others


def _walk(folder: Path, closed: list[OSError], hidden: list[Path]) -> Iterator[Path]:
    seen: set[str] = set()
    for parent, folders, files in os.walk(folder, followlinks=True, onerror=closed.append):
        real = os.path.realpath(parent)
        if real in seen:  # a link to where we have been
            folders.clear()
            continue
        seen.add(real)
        hidden += (Path(parent, name) for name in (*folders, *files) if is_hidden(name))
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        yield from (Path(parent, name) for name in files if not is_hidden(name))


def is_hidden(name: str) -> bool:
    """A file or folder that no one put there as data: a leading dot, or what systems leave behind."""
    return name.startswith(".") or name in ("__MACOSX", "@eaDir", "Thumbs.db")


def _from_array(array: NDArray[np.uint8]) -> Image:
    import numpy as np
    from PIL import Image

    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or array.size == 0:
        raise ImageError(
            f"an image as an array must be (H, W, 3) uint8 RGB, not {array.shape} {array.dtype}"
        )
    return Image.fromarray(array)
