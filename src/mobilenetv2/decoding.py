"""Decodes any image file that Pillow opens to upright 8-bit RGB."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from io import BytesIO, TextIOBase
from typing import IO, TYPE_CHECKING, Any

from .arguments import check_whole
from .errors import ImageError, UserError
from .locks import ForkSafeLock
from .paths import obstacle

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

TURNS = {  # EXIF orientation -> the member of Image.Transpose that turns the image upright
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
MAX_PIXELS = "MOBILENETV2_MAX_PIXELS"  # in the environment
PILLOW_LIMIT_FACTOR = 2  # Pillow refuses images of more than twice Image.MAX_IMAGE_PIXELS
BACKGROUND = "white"  # behind transparent parts, as on a page
WITH_ALPHA = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa")
# PNG stores the transparent value as in the file; Pillow scales the pixels alone: raw mode -> factor
KEY_SCALE = {"L;2": 85.0, "L;4": 17.0, "RGB;16B": 1 / 256}
FEW_LEVELS = 64  # an image that keeps fewer grey levels than this out of more is mentioned
STRIP_PIXELS = 1 << 20  # of an image of more than 8 bits that are converted at once
VIDEO = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp")
INTERPRETED = ("EPS",)  # a program, which another program would run
START_OF_SCAN = b"\xff\xda"  # in a JPEG; entropy-coded bytes never look like it
MAX_SCANS = 500  # of a progressive JPEG; usual ones have about ten

_pillow_limit = ForkSafeLock()


class NarrowRangeWarning(UserWarning):
    """An image of more than 8 bits uses a small part of the range of its type."""


def warn_of_range(text: str) -> None:
    """Warns with a `NarrowRangeWarning`."""
    warnings.warn(NarrowRangeWarning(text), stacklevel=4)


def ignore_remark(text: str) -> None:
    """Does nothing: for images whose remarks have been shown before."""


def decode(
    source: str | os.PathLike[str] | bytes | bytearray | IO[bytes],
    *,
    max_pixels: int | None = None,
    stretch: bool = False,
    warn: Callable[[str], object] = warn_of_range,
) -> Image:
    """Reads one image as upright 8-bit RGB.

    The stored orientation is applied. Transparent parts are composited on white; palettes, grey,
    1 bit and CMYK become RGB; 16-bit values keep their high byte; floats from 0 to 1 are scaled to
    0..255. Of an animation, the first frame is read. The kind of file is recognised by its
    content, not by its name. Colour profiles are ignored.

    Args:
        source: A file name, or an image file's content as bytes or as an open binary file.
        max_pixels: The largest number of pixels that is accepted. Default:
            MOBILENETV2_MAX_PIXELS in the environment, or Pillow's own limit (about 179 million).
        stretch: Map the values of a grey image of more than 8 bits so that the lowest of this
            image becomes 0 and the highest 255. Images of 8 bits stay as they are.
        warn: Called with a line about an image of more than 8 bits that keeps few grey levels, as
            12-bit data in a 16-bit file. Default: a `NarrowRangeWarning`.

    Returns:
        A `PIL.Image.Image` of mode "RGB"; `numpy.asarray` of it is (height, width, 3) uint8.

    Raises:
        ImageError: Not an image, not a regular file, damaged, or too large; the message names the
            file.
        UserError: max_pixels or MOBILENETV2_MAX_PIXELS is not a whole number above 0.
    """
    if max_pixels is None:
        max_pixels = _limit_of_environment()
    else:
        check_whole("max_pixels", max_pixels)
    if isinstance(source, bytes | bytearray | memoryview):
        source = BytesIO(source)
    name = _checked_name(source)
    try:
        with _open(source, max_pixels) as image:
            _check_opened(image, max_pixels)
            rgb, remark = _to_rgb(image, stretch)
    except Exception as error:  # Pillow's plugins may raise anything on damaged files
        reason, advice = _reason(name, error, max_pixels)
        raise ImageError(f"{name}: {reason}", advice) from error
    if remark:
        warn(f"{name}: {remark}")
    return rgb


def _checked_name(source: str | os.PathLike[str] | IO[bytes]) -> str:
    """What messages call a source, which must be a regular file's name or an open binary file."""
    if not isinstance(source, str | os.PathLike) and not hasattr(source, "read"):
        raise ImageError(
            f"an image is a file name, bytes, an open file, a PIL image or an array, not "
            f"{type(source).__name__}"
        )
    if isinstance(source, TextIOBase):
        raise ImageError(f"{getattr(source, 'name', '<stream>')}: opened as text; open it as 'rb'")
    if not isinstance(source, str | os.PathLike):
        return str(getattr(source, "name", "<stream>"))
    name = f"{os.fsdecode(source):.1000}"  # content given as a name may be of any length
    if reason := obstacle(source):
        raise ImageError(f"{name}: {reason}")
    return name


def _check_opened(image: Any, max_pixels: int | None) -> None:
    """Refuses an image before its pixels are decoded: its size, its kind, its scans."""
    from PIL import Image

    if max_pixels is not None and image.width * image.height > max_pixels:
        raise Image.DecompressionBombError
    if image.format in INTERPRETED:
        raise ImageError("a program that draws an image: convert it to PNG first")
    if image.format == "JPEG" and image.info.get("progressive"):
        image.fp.seek(0)
        scans = image.fp.read().count(START_OF_SCAN)
        if scans > MAX_SCANS:
            raise ImageError(f"{scans} scans, each of which takes time: save it anew")


def _reason(name: str, error: Exception, max_pixels: int | None) -> tuple[str, str]:
    """Why an image cannot be decoded, and which option would help."""
    from PIL import Image, UnidentifiedImageError

    if isinstance(error, Image.DecompressionBombError):
        limit = max_pixels or PILLOW_LIMIT_FACTOR * (Image.MAX_IMAGE_PIXELS or 0)
        return f"more than {limit} pixels", (
            f"raise the limit with max_pixels (--max-pixels) or {MAX_PIXELS} in the environment if "
            "that is right"
        )
    if isinstance(error, UnidentifiedImageError):
        if name.lower().endswith(VIDEO):
            return (
                "a video: take images out of it first, such as one per second: "
                "ffmpeg -i VIDEO -vf fps=1 image%04d.jpg"
            ), ""
        return "not an image, or of a kind that Pillow cannot read", ""
    if isinstance(error, MemoryError):
        return "too large for this machine's memory", ""
    if isinstance(error, OSError) and error.strerror:  # of the system, not of Pillow
        return f"cannot be read: {error.strerror}", ""
    if isinstance(error, ImageError):
        return f"cannot be decoded: {error.problem}", error.advice
    return f"cannot be decoded: {error or type(error).__name__}", ""


def _limit_of_environment() -> int | None:
    text = os.environ.get(MAX_PIXELS)
    if not text:
        return None
    if text.isascii() and text.isdigit() and len(text) <= 15 and int(text):
        return int(text)
    raise UserError(f"{MAX_PIXELS} must be a whole number above 0, not {text!r:.80}")


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


def to_rgb(image: Image, *, stretch: bool = False) -> Image:
    """A Pillow image of any mode as `decode` returns it; such an image stays as it is.

    Args:
        image: Any image, opened or made.
        stretch: As for `decode`.

    Raises:
        ImageError: It has no pixels, or values of an unknown range.
    """
    rgb, remark = _to_rgb(image, stretch)
    if remark:
        warn_of_range(f"an image of {image.width}x{image.height}: {remark}")
    return rgb


def _to_rgb(image: Image, stretch: bool) -> tuple[Image, str]:
    """The image as upright 8-bit RGB, and what its caller should know about it."""
    from PIL import Image

    if 0 in image.size:
        raise ImageError(f"an image of {image.width}x{image.height} has no pixels")
    raw_mode = stored_mode(image)
    image.load()
    turn = TURNS.get(stored_orientation(image))
    remark = _lost_colours(image) if ";16" in raw_mode else ""
    if image.mode == "F" or image.mode.startswith("I"):
        image, remark = _deep_to_rgb(image, stretch)
    elif image.has_transparency_data and image.mode in WITH_ALPHA:
        image = _composited(image, raw_mode)
    elif image.mode != "RGB":
        image = image.convert("RGB")
    if turn:
        image = image.transpose(Image.Transpose[turn])
        image.info = {}  # has the orientation, which would turn the image again
    return image, remark


def _lost_colours(image: Image) -> str:
    """A remark about a colour image of 16 bits that keeps few levels: Pillow has the high bytes."""
    if image.mode not in ("RGB", "RGBA"):
        return ""
    limits: Any = image.getextrema()[:3]
    low, high = min(low for low, _ in limits), max(high for _, high in limits)
    if low == high or high - low >= FEW_LEVELS:
        return ""
    return (
        f"colours of 16 bits of which the high bytes are kept, here {low} to {high}: multiply the "
        "values before if these are too few levels"
    )


def stored_mode(image: Image) -> str:
    """How the pixels stand in the file, as Pillow calls it; "" for an image that is loaded."""
    tile = getattr(image, "tile", None)
    arguments = tile[0][3] if tile else ""
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def stored_orientation(image: Image) -> Any:
    """The EXIF orientation of an opened image, 1 to 8; anything else, or None, means none."""
    try:
        return image.getexif().get(0x0112)
    except Exception:  # Pillow may raise anything on damaged EXIF; the pixels are still good
        return None


def _composited(image: Image, raw_mode: str) -> Image:
    """An 8-bit image with any kind of transparency in front of white."""
    from PIL import Image

    key = image.info.get("transparency")
    if key is not None and raw_mode in KEY_SCALE:
        values = key if isinstance(key, tuple) else (key,)
        scaled = tuple(int(value * KEY_SCALE[raw_mode]) for value in values)
        image = image.copy()
        image.info["transparency"] = scaled if isinstance(key, tuple) else scaled[0]
    if image.mode == "La":  # multiplied by alpha; Pillow divides only in conversion to LA
        image = image.convert("LA")
    elif image.mode not in ("LA", "RGBA"):
        image = image.convert("RGBA")
    behind = Image.new("RGB", image.size, BACKGROUND)
    behind.paste(image, mask=image)
    return behind


def _deep_to_rgb(image: Image, stretch: bool) -> tuple[Image, str]:
    """An image of one channel with more than 8 bits as RGB, and a remark if few levels are left.

    Its values decide whether they mean 0..1, 8 bits or 16 bits, since the file does not say it.
    """
    import numpy as np
    from PIL import Image

    values = np.asarray(image)
    key = image.info.get("transparency")
    transparent = values == key if isinstance(key, int) else np.zeros((), bool)
    transparent = np.broadcast_to(transparent, values.shape)
    low, high = _range(values, transparent)
    if stretch and low < high < np.inf and low > -np.inf:
        scale, full = 255 / (high - low), ""
    elif not (low >= 0 and high <= 65535):
        raise ImageError(
            f"values from {low:g} to {high:g} are neither 0..1, 8 bit nor 16 bit",
            "stretch=True (--stretch) maps them to 0..255",
        )
    elif image.mode == "F" and high <= 1:
        scale, full = 255.0, "1"
    elif image.mode.startswith("I;16") or high > 255:
        scale, full = 1 / 256, "65535"
    else:
        scale, full = 1.0, "255"
    start = 0.0 if full else low
    grey = np.empty(values.shape, np.uint8)
    lossy = False
    for strip in _strips(values):
        scaled = (values[strip].astype(np.float64) - start) * scale
        grey[strip] = np.floor(scaled) if full == "65535" else np.rint(scaled)
        lossy = lossy or (bool(full) and _is_lossy(values[strip], scaled, full))
        grey[strip][transparent[strip]] = 255
    levels = int((high - start) * scale) - int((low - start) * scale) + 1
    remark = ""
    if lossy and low < high and levels < FEW_LEVELS:
        remark = (
            f"values from {low:g} to {high:g} of 0..{full} give {levels} grey "
            f"level{'s' * (levels > 1)}; stretch=True (--stretch) gives 256"
        )
    return Image.fromarray(grey).convert("RGB"), remark


def _strips(values: NDArray[Any]) -> Iterator[slice]:
    """Slices of rows of a million pixels or so."""
    rows = max(1, STRIP_PIXELS // values.shape[1])
    return (slice(row, row + rows) for row in range(0, values.shape[0], rows))


def _range(values: NDArray[Any], transparent: NDArray[np.bool_]) -> tuple[float, float]:
    """The lowest and the highest value that can be seen; NaN if one is."""
    import numpy as np

    visible = [values[strip][~transparent[strip]] for strip in _strips(values)]
    limits = [(part.min(), part.max()) for part in visible if part.size]
    if not limits:
        return 0.0, 0.0
    low, high = np.array(limits, np.float64).T
    return float(low.min()), float(high.max())


def _is_lossy(values: NDArray[Any], scaled: NDArray[np.float64], full: str) -> bool:
    """Whether values are more than 8 bits written in a larger type."""
    import numpy as np

    if full == "65535":
        high, low = np.divmod(values.astype(np.int64), 256)
        return bool(((low != 0) & (low != high)).any())
    return bool((np.abs(scaled - np.rint(scaled)) > 0.02).any())
