"""Datasets with masks: class ids as stored, upright, and what is wrong is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from mobilenetv2.datasets import read_masks
from mobilenetv2.errors import UserError

MASK = np.zeros((40, 80), np.uint8)
MASK[4:24, 8:40] = 15
MASK[30:] = 255


def write(
    folder: Path, mask: Image.Image | None = None, name: str = "a.png", orientation: int = 1
) -> Path:
    """A folder with one image, 40 x 80 as stored, bright where the mask has class 15."""
    for part in ("JPEGImages", "SegmentationClass"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = Image.fromarray(np.where(MASK == 15, 255, 0).astype(np.uint8))
    pixels.save(folder / "JPEGImages" / "a.jpg", exif=exif, quality=100)
    (mask or palette_image(MASK)).save(folder / "SegmentationClass" / name)
    return folder


def palette_image(values: NDArray[np.uint8]) -> Image.Image:
    image = Image.fromarray(values)
    image.putpalette(np.arange(768, dtype=np.uint8).tobytes())
    return image


@pytest.mark.parametrize("kind", ["palette", "grey"])
def test_values_are_classes(tmp_path: Path, kind: str) -> None:
    image = palette_image(MASK) if kind == "palette" else Image.fromarray(MASK)
    dataset = read_masks(write(tmp_path, image))
    (sample,) = dataset.samples
    assert (sample.target.read() == MASK).all()
    assert sample.target.read().dtype == np.uint8
    assert dataset.classes[15] == "person"
    assert sample.target.size == (40, 80)


@pytest.mark.parametrize(("bits", "largest"), [(1, 1), (2, 3), (4, 15)])
def test_grey_of_few_bits_is_not_scaled(tmp_path: Path, bits: int, largest: int) -> None:
    """Pillow reads 4-bit grey 0..15 as 0..255."""
    import struct
    import zlib

    rows = np.where(MASK == 15, largest, 0).astype(np.uint8)
    packed = np.packbits(
        np.unpackbits(rows[..., None], axis=-1)[..., 8 - bits :].reshape(40, -1), axis=-1
    )
    lines = b"".join(b"\0" + row.tobytes() for row in packed)

    def chunk(name: bytes, content: bytes) -> bytes:
        body = name + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 80, 40, bits, 0, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines))
    (write(tmp_path) / "SegmentationClass" / "a.png").write_bytes(png + chunk(b"IEND", b""))
    assert (read_masks(tmp_path).samples[0].target.read() == rows).all()


def test_more_than_256_classes(tmp_path: Path) -> None:
    values = np.where(MASK == 15, 999, 0).astype(np.uint16)
    write(tmp_path, Image.fromarray(values))
    with pytest.raises(UserError, match="values 999, but there are 21 classes"):
        read_masks(tmp_path)
    (tmp_path / "classes.txt").write_text("".join(f"class{i}\n" for i in range(1000)))
    dataset = read_masks(tmp_path)
    assert dataset.classes[999] == "class999"
    assert any("so that class255 never counts" in problem for problem in dataset.problems)
    assert (dataset.samples[0].target.read() == values).all()


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("upright", [True, False])
def test_turned_photos_have_upright_masks(tmp_path: Path, orientation: int, upright: bool) -> None:
    """Whether the mask has the upright image's size or the stored one's."""
    write(tmp_path, orientation=orientation)
    sample = read_masks(tmp_path).samples[0]
    bright = np.asarray(sample.decode())[..., 0] > 128
    if upright:
        palette_image(np.where(bright, 15, 0).astype(np.uint8)).save(
            tmp_path / "SegmentationClass" / "a.png"
        )
        sample = read_masks(tmp_path).samples[0]
    assert sample.target.size == (80, 40)
    assert ((sample.target.read() == 15) == bright).all()


@pytest.mark.parametrize(
    ("mask", "name", "words"),
    [
        (
            palette_image(np.full((40, 80), 21, np.uint8)),
            "a.png",
            "a.png: values 21, but there are",
        ),
        (palette_image(MASK[:, :79].copy()), "a.png", "is 40 x 79 .* but it is 40 x 80"),
        (Image.new("RGB", (80, 40)), "a.png", r"a.png: not a mask: colours \(RGB\)"),
        (Image.new("LA", (80, 40)), "a.png", r"a.png: not a mask: colours \(LA\)"),
        (palette_image(MASK), "b.png", "1 of 1 images are missing: b"),
    ],
)
def test_wrong_masks_are_refused_by_name(
    tmp_path: Path, mask: Image.Image, name: str, words: str
) -> None:
    with pytest.raises(UserError, match=words) as error:
        read_masks(write(tmp_path, mask, name))
    assert str(tmp_path) in str(error.value)


def test_damaged_and_lossy_masks_are_named(tmp_path: Path) -> None:
    path = write(tmp_path) / "SegmentationClass" / "a.png"
    path.write_bytes(path.read_bytes()[:90])
    with pytest.raises(UserError, match=r"a\.png: not a mask"):
        read_masks(tmp_path)
    with path.open("wb") as file:
        Image.fromarray(MASK).save(file, "JPEG")
    with pytest.raises(UserError, match="JPEG blends neighbouring classes"):
        read_masks(tmp_path)


def test_lists_and_missing_masks(tmp_path: Path) -> None:
    lists = write(tmp_path) / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\n\n")
    (lists / "val.txt").write_text("z\n")
    assert len(read_masks(tmp_path, "train").samples) == 1
    with pytest.raises(UserError, match="1 of 1 masks are missing: z"):
        read_masks(tmp_path)
    (lists / "val.txt").write_text("a\na\n")
    with pytest.raises(UserError, match="listed more than once: a"):
        read_masks(tmp_path, "val")
    with pytest.raises(UserError, match="no masks in the layout"):
        read_masks(tmp_path / "JPEGImages")
    with pytest.raises(UserError, match="nowhere: no such file"):
        read_masks(tmp_path / "nowhere")


def test_the_sample_of_voc(shared: Callable[[str], Path]) -> None:
    folder = shared("data/voc-sample")
    counts = {split: len(read_masks(folder, split).samples) for split in ("train", "val")}
    assert counts == {"train": 29, "val": 71}
    assert len(read_masks(folder).samples) == 71
