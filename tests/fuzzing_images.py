"""Damaged files of every kind that the package reads as images or datasets, made from a seed.

The tests run a few hundred of them; `tools/fuzz` runs them for as long as one likes.
"""

from __future__ import annotations

import io
import random
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from mobilenetv2.datasets import collect_images, read_dataset, read_splits
from mobilenetv2.errors import ImageError, UserError
from mobilenetv2.images import decode

# Kinds that Pillow writes, with the modes to write.
KINDS = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "JPEG": ("L", "RGB", "CMYK"),
    "GIF": ("P",),
    "BMP": ("1", "P", "RGB", "RGBA"),
    "TIFF": ("1", "LA", "RGB", "CMYK", "I;16", "F", "LAB"),
    "WEBP": ("RGB", "RGBA"),
    "AVIF": ("RGBA",),
    "JPEG2000": ("RGB", "RGBA"),
    "PPM": ("1", "L", "RGB", "I;16"),
    "TGA": ("P", "RGB", "RGBA"),
    "ICO": ("RGBA",),
    "PCX": ("P", "RGB"),
    "SGI": ("RGB",),
    "DDS": ("RGBA",),
    "MPO": ("RGB",),
    "ICNS": ("RGBA",),
    "MSP": ("1",),
    "XBM": ("1",),
    "SPIDER": ("F",),
    "EPS": ("RGB",),
    "QOI": ("RGBA",),
}
MOST_PIXELS = 1 << 20  # of a damaged image, so that a header of large sizes costs no time


def mutated(content: bytes, rng: random.Random) -> bytes:
    """The content with up to eight of the usual damages."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 8)):
        at = (
            rng.randrange(len(data) + 1)
            if rng.random() < 0.5
            else rng.randrange(min(64, len(data) + 1))
        )
        length = rng.choice((1, 1, 2, 4, rng.randint(1, 64)))
        damage = rng.randrange(7)
        if damage == 0 and data:
            data[min(at, len(data) - 1)] ^= 1 << rng.randrange(8)
        elif damage == 1:
            data[at : at + length] = rng.randbytes(length)
        elif damage == 2:
            data[at : at + length] = rng.choice((b"\0", b"\xff", b"\x7f", b"\x80")) * length
        elif damage == 3:
            del data[at : at + length]
        elif damage == 4:
            data[at:at] = rng.randbytes(length)
        elif damage == 5:
            del data[at:]
        else:
            other = rng.randrange(len(data) + 1)
            data[at:at] = data[other : other + length]
    return bytes(data)


def whole_images() -> Iterator[bytes]:
    """One small file of each kind and mode that this Pillow can write."""
    rng = np.random.default_rng(0)
    colour = Image.fromarray(rng.integers(0, 256, (12, 9, 3), dtype=np.uint8))
    for kind, modes in KINDS.items():
        for mode in modes:
            if mode == "LAB":
                image = Image.new("LAB", (9, 12), (50, 10, 10))
            elif mode == "I;16":
                image = Image.fromarray(rng.integers(0, 4096, (12, 9), dtype=np.uint16))
            else:
                image = colour.convert(mode)
            file = io.BytesIO()
            options = (
                {"append_images": [colour], "save_all": True} if kind in ("GIF", "MPO") else {}
            )
            try:
                image.save(file, kind, **options)
            except (KeyError, OSError):  # not in this build
                continue
            yield file.getvalue()


def images_inputs(seed: int) -> Iterator[bytes]:
    """Damaged image files, without end."""
    rng = random.Random(seed)
    whole = list(whole_images())
    while True:
        yield mutated(rng.choice(whole), rng)


def check_image(content: bytes) -> None:
    """Fails where `decode` gives anything but an RGB image or an `ImageError`."""
    try:
        image = decode(content, max_pixels=MOST_PIXELS, stretch=len(content) % 2 == 0, warn=str)
    except ImageError:
        return
    assert image.mode == "RGB"
    assert np.asarray(image).shape == (image.height, image.width, 3)


LISTS = (
    "file,label\na.png,cat\nb/c.png,dog\n",
    'file,index,label,split\na.png,0,cat,train\nb.png,1,"dog, hound",val\n',
    "\ufefffile,label\r\nb\\caf\u00e9.png,caf\u00e9\r\n",
)


def whole_archives() -> Iterator[bytes]:
    """Small .zip files: of class folders, of splits with a folder around, and of odd names."""
    image = next(whole_images())
    for names in (
        ("a/1.png", "b/2.png", "b/.hidden/3.png"),
        ("data/train/a/1.png", "data/val/a/2.png", "data/notes.txt"),
        ("a\\1.png", "caf\u00e9/1.png", "a/1.png", "/abs/1.png", "../up/1.png"),
    ):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in names:
                archive.writestr(name, image)
        yield file.getvalue()


def dataset_inputs(seed: int) -> Iterator[tuple[str, bytes]]:
    """Damaged lists and archives, each with the ending of its name, without end."""
    rng = random.Random(seed)
    whole = [(".csv", text.encode()) for text in LISTS]
    whole += [(".zip", content) for content in whole_archives()]
    while True:
        ending, content = rng.choice(whole)
        yield ending, mutated(content, rng)


def check_dataset(ending: str, content: bytes, folder: Path) -> None:
    """Fails where a dataset is read as anything but a `Dataset` or a `UserError`.

    Args:
        ending: Of the file's name.
        content: Of the file.
        folder: Where it is written.
    """
    path = folder / f"data{ending}"
    path.write_bytes(content)
    for read in (read_dataset, read_splits, lambda path: collect_images([path])):
        message = str(path)
        try:
            read(path)
        except UserError as error:
            message = str(error)
        assert message.startswith(str(path))
    for sample in collect_images([path]).samples:
        message = sample.name
        try:
            sample.decode(max_pixels=MOST_PIXELS, warn=str)
        except ImageError as error:
            message = str(error)
        assert message.startswith(sample.name)
