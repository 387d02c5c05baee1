"""Decoding and preprocessing every kind and mode of image, against NumPy and known means."""

from __future__ import annotations

import io
import json
import os
import re
import socket
import struct
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from mobilenetv2 import images
from mobilenetv2.decoding import NarrowRangeWarning, to_rgb
from mobilenetv2.errors import ImageError, UserError
from mobilenetv2.images import Preprocessing, center_crop, crop_offset, decode
from mobilenetv2.loading import load
from mobilenetv2.model import Model, Prediction
from mobilenetv2.paths import SUFFIXES, FolderContent, folder_content

from .conftest import random_checkpoint

ORANGE = (200, 100, 50)
ORANGE_GREY = 124  # 0.299 R + 0.587 G + 0.114 B


def on_white(colour: tuple[int, ...], alpha: int = 128) -> tuple[int, ...]:
    return tuple(round((c * alpha + 255 * (255 - alpha)) / 255) for c in colour)


WHOLE = Preprocessing(size=(64, 64), crop_fraction=1)  # of a 64x64 image: the pixels themselves


def array(image: Image.Image) -> np.ndarray:
    assert image.mode == "RGB"
    return np.asarray(image)


def photo(height: int = 60, width: int = 80) -> np.ndarray:
    """Smooth, colourful and not symmetrical, with a pure red patch at the top left."""
    y, x = np.mgrid[0:height, 0:width]
    channels = (40 + 200 * y / height, 60 + 150 * x / width, 128 + 90 * np.sin(x / 9 + y / 13))
    image = np.stack(channels, axis=2).astype(np.uint8)
    image[:16, :16] = (255, 0, 0)
    return image


def png(
    width: int, height: int, bits: int, colour: int, data: bytes, transparent: bytes = b""
) -> bytes:
    """A PNG file by hand, for what Pillow does not write."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    header += chunk(b"tRNS", transparent) if transparent else b""
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


# --- the collection in shared/data/odd-images ---


def expected_rows(folder: Path) -> list[dict[str, str]]:
    """The rows of the table in expected.md, by the names of its columns."""
    lines = [
        line
        for line in (folder / "expected.md").read_text(encoding="utf-8").splitlines()
        if line[:1] == "|"
    ]
    names, _, *rows = ([cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines)
    return [dict(zip(names, row, strict=True)) for row in rows]


def opaque_mean(path: Path) -> np.ndarray:
    """The mean colour of an image without its alpha, after a check that it is decoded on white."""
    with Image.open(path) as image:
        rgba = np.asarray(image.convert("RGBA")).astype(float)
    expected = 255 + (rgba[:, :, :3] - 255) * rgba[:, :, 3:] / 255
    assert np.abs(array(decode(path)) - expected).max() <= 1
    return rgba[:, :, :3].reshape(-1, 3).mean(0)


def test_every_odd_image_is_decoded_as_expected_or_refused_by_name(
    shared: Callable[[str], Path],
) -> None:
    folder = shared("data/odd-images")
    upright = {"n02951585_can_opener.JPEG": (294, 392)}
    wrong, decoded, refused = [], 0, 0
    for row in expected_rows(folder):
        name = row["file"]
        try:
            image = decode(folder / name)
        except ImageError as error:
            refused += 1
            if "fails" not in row["mean RGB"] + row["Pillow format, mode, size"] or name not in str(
                error
            ):
                wrong.append(f"{name}: {error}")
            continue
        decoded += 1
        stored = tuple(
            int(side) for side in row["Pillow format, mode, size"].split()[-1].split("x")
        )
        size = upright.get(name, (64, 48) if name.startswith("exif") else stored)
        mean = array(image).reshape(-1, 3).mean(0)
        if name in ("rgba.png", "gray_alpha.png"):  # expected.md has the colours without alpha
            mean = opaque_mean(folder / name)
        if (
            image.size != size
            or np.abs(mean - np.array(row["mean RGB"].split(), float)).max() > 1.5
        ):
            wrong.append(f"{name}: {image.size} {mean.round(1)}, not {size} {row['mean RGB']}")
    assert not wrong
    assert (decoded, refused) == (30, 5)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_shared_exif_quadrants(shared: Callable[[str], Path], orientation: int) -> None:
    pixels = array(decode(shared(f"data/odd-images/exif_orientation_{orientation}.jpg")))
    corners = pixels[[12, 12, 36, 36], [16, 48, 16, 48]].astype(int)
    assert np.abs(corners - [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)]).max() <= 6


# --- more than 8 bits ---


@pytest.mark.parametrize(
    ("mode", "ending", "top"),
    [
        ("I;16", "png", 65535),
        ("I;16", "tiff", 65535),
        ("I;16B", "tiff", 65535),
        ("I", "tiff", 65535),
        ("F", "tiff", 65535),
        ("I", "tiff", 255),
        ("F", "tiff", 255),
        ("F", "tiff", 1),
    ],
)
def test_deep_ramps_equal_the_8_bit_ramp(tmp_path: Path, mode: str, ending: str, top: int) -> None:
    ramp = np.arange(65536).reshape(256, 256)
    eight = Image.fromarray((ramp >> 8).astype(np.uint8))
    values = ramp if top == 65535 else ramp * (top / 65535)
    kinds = {"I;16": "<u2", "I;16B": ">u2", "I": np.int32, "F": np.float32}
    deep = Image.frombytes(mode, (256, 256), values.astype(kinds[mode]).tobytes())
    deep.save(tmp_path / f"deep.{ending}")
    eight.save(tmp_path / "eight.png")
    with Image.open(tmp_path / f"deep.{ending}") as stored:
        assert stored.mode == mode
    decoded = array(decode(tmp_path / f"deep.{ending}"))
    expected = array(decode(tmp_path / "eight.png"))
    assert np.abs(decoded.astype(int) - expected).max() <= 1
    assert len(np.unique(decoded)) >= 200
    pre = Preprocessing(size=(256, 256), crop_fraction=1)
    assert np.array_equal(pre(deep), decoded)  # an image that the caller has opened


def test_16_bit_colour_keeps_the_high_byte(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(2, 1, 16, 2, b"\0" + bytes([200, 255, 100, 0, 50, 127]) * 2))
    assert (array(decode(path)) == ORANGE).all()


def test_dark_16_bit_image_is_not_brightened() -> None:
    assert (WHOLE(Image.new("I;16", (64, 64), 255)) == 0).all()
    assert (WHOLE(Image.new("I;16", (64, 64), 256)) == 1).all()


@pytest.mark.parametrize(
    ("mode", "value"), [("I", -1), ("I", 65536), ("F", -0.5), ("F", 65536.0), ("F", np.nan)]
)
def test_values_of_no_known_range_are_refused_by_name(
    tmp_path: Path, mode: str, value: float
) -> None:
    image = Image.new(mode, (4, 4), 3)
    image.putpixel((1, 2), value)
    image.save(tmp_path / "odd.tiff")
    with pytest.raises(ImageError, match=r"odd\.tiff.*neither 0\.\.1, 8 bit nor 16 bit"):
        decode(tmp_path / "odd.tiff")
    with pytest.raises(ImageError, match="neither"):
        WHOLE(image)


# --- more than 8 bits in a larger type ---


def test_12_bit_data_is_named_and_can_be_stretched(tmp_path: Path) -> None:
    grey = photo()[:, :, 1]
    Image.fromarray(grey.astype(np.uint16) * 16).save(tmp_path / "scan.png")
    low, high = int(grey.min()), int(grey.max())
    message = (
        rf"scan\.png: values from {16 * low} to {16 * high} of 0\.\.65535 give "
        rf"{high // 16 - low // 16 + 1} grey levels; stretch=True \(--stretch\) gives 256"
    )
    with pytest.warns(NarrowRangeWarning, match=message):
        narrow = decode(tmp_path / "scan.png")
    assert np.array_equal(array(narrow)[:, :, 0], grey // 16)
    stretched = array(decode(tmp_path / "scan.png", stretch=True))[:, :, 0]
    expected = (grey.astype(float) - low) * 255 / (high - low)
    assert np.abs(stretched - expected).max() <= 0.5
    remarks: list[str] = []
    decode(tmp_path / "scan.png", warn=remarks.append)
    assert len(remarks) == 1


@pytest.mark.parametrize("factor", [256, 257])
def test_8_bits_in_a_larger_type_lose_nothing(factor: int) -> None:
    dark = np.minimum(photo()[:, :, 1], 30).astype(np.uint16)
    assert np.array_equal(array(to_rgb(Image.fromarray(dark * factor)))[:, :, 0], dark)
    assert np.array_equal(
        array(to_rgb(Image.fromarray((dark / 255).astype(np.float32))))[:, :, 0], dark
    )


def test_12_bit_colours_are_mentioned() -> None:
    pixels = b"".join(map(WORD, (0, 100, 4095, 2000, 3000, 1)))
    file = io.BytesIO(png(2, 1, 16, 2, b"\0" + pixels))
    with pytest.warns(NarrowRangeWarning, match="high bytes are kept, here 0 to 15: multiply"):
        assert array(decode(file)).tolist() == [[[0, 0, 15], [7, 11, 0]]]


def test_dark_floats_are_mentioned() -> None:
    ramp = np.linspace(0, 0.1, 4096, dtype=np.float32).reshape(64, 64)
    with pytest.warns(
        NarrowRangeWarning, match=r"of 64x64: values from 0 to 0\.1 of 0\.\.1 give 26"
    ):
        to_rgb(Image.fromarray(ramp))


def test_stretching() -> None:
    values = np.array([[-1000, 0], [500, 3000]], np.float32)
    expected = [[0, 64], [96, 255]]
    assert array(to_rgb(Image.fromarray(values), stretch=True))[:, :, 0].tolist() == expected
    whole = values.astype(np.int32)
    assert array(to_rgb(Image.fromarray(whole), stretch=True))[:, :, 0].tolist() == expected
    eight = Image.fromarray(np.array([[7, 9]], np.uint8))
    assert array(to_rgb(eight, stretch=True))[0, :, 0].tolist() == [7, 9]
    blank = Image.new("I;16", (2, 2), 25600)
    assert (array(to_rgb(blank, stretch=True)) == 100).all()
    for bad in (np.nan, np.inf):
        with pytest.raises(ImageError, match="neither"):
            to_rgb(Image.fromarray(np.array([[0, bad]], np.float32)), stretch=True)


def test_a_transparent_value_is_not_part_of_the_range() -> None:
    data = b"\0" + b"".join(map(WORD, (65535, 100))) + b"\0" + b"".join(map(WORD, (200, 300)))
    file = io.BytesIO(png(2, 2, 16, 0, data, WORD(65535)))
    stretched = array(decode(file, stretch=True))[:, :, 0]
    assert np.abs(stretched - [[255, 0], [127.5, 255]]).max() <= 0.5


# --- CMYK, and the other modes ---


@pytest.mark.parametrize("ending", ["jpg", "tiff"])
def test_cmyk_is_not_inverted(tmp_path: Path, ending: str) -> None:
    image = Image.fromarray(photo())
    image.convert("CMYK").save(tmp_path / f"cmyk.{ending}")
    with Image.open(tmp_path / f"cmyk.{ending}") as stored:
        assert stored.mode == "CMYK"
    pixels = array(decode(tmp_path / f"cmyk.{ending}")).astype(int)
    assert np.abs(pixels - photo()).mean() < 10
    assert np.abs(pixels[8, 8] - (255, 0, 0)).max() <= 10


def test_ycck_is_not_inverted() -> None:
    """Photoshop's: the inks as YCbCr, their complements stored, and a marker that says so."""
    inks = np.asarray(Image.fromarray(255 - photo()).convert("YCbCr"))
    stored = np.dstack([255 - inks, np.zeros(inks.shape[:2], np.uint8)])  # no black
    data = bytearray(encoded(Image.fromarray(stored, "CMYK"), "JPEG", quality=95))
    data[data.index(b"Adobe") + 11] = 2  # YCCK
    pixels = array(decode(io.BytesIO(data))).astype(int)
    assert np.abs(pixels - photo()).mean() < 10
    assert np.abs(pixels[8, 8] - (255, 0, 0)).max() <= 10


@pytest.fixture(scope="module")
def published(shared: Callable[[str], Path]) -> Model:
    return load(shared("models/tf2_mobilenet_v2_1.0_224_ptq.tflite"), int8=False)


@pytest.fixture(scope="module")
def photos(shared: Callable[[str], Path]) -> list[Image.Image]:
    """Ten of the thousand photos."""
    return [decode(path) for path in sorted(shared("data/imagenet-sample").glob("*.jpg"))[::100]]


def classified(model: Model, data: bytes) -> Prediction:
    return model.classify(decode(io.BytesIO(data)), 1)[0]


def test_photos_as_cmyk_keep_their_class(published: Model, photos: list[Image.Image]) -> None:
    for photo in photos:
        rgb, cmyk = (
            classified(published, encoded(photo.convert(mode), "JPEG", quality=95))
            for mode in ("RGB", "CMYK")
        )
        assert cmyk.index == rgb.index


def test_photos_saved_at_several_sizes_keep_their_class(
    published: Model, photos: list[Image.Image]
) -> None:
    spreads = []
    for photo in photos:
        saved = []
        for side in (500, 1000, 2000):
            larger = ImageOps.contain(photo, (side, side))
            saved.append(classified(published, encoded(larger, "JPEG", quality=90)))
        assert len({prediction.index for prediction in saved}) == 1
        spreads.append(np.ptp([prediction.probability for prediction in saved]))
    assert sum(spread <= 0.1 for spread in spreads) >= 9


def in_mode(mode: str) -> tuple[Image.Image, tuple[int, ...]]:
    """An image of one colour in this mode, and that colour as RGB."""
    image = Image.new("RGB", (64, 64), ORANGE)
    if mode in ("L", "LA", "La", "I", "I;16", "I;16B", "F"):
        value = {"I;16": 257 * ORANGE_GREY, "I;16B": 257 * ORANGE_GREY, "F": ORANGE_GREY / 255}.get(
            mode, ORANGE_GREY
        )
        if mode in ("LA", "La"):
            image = Image.new("LA", (64, 64), (value, 128)).convert(mode)
            return image, on_white((ORANGE_GREY,) * 3)
        return Image.new(mode, (64, 64), value), (ORANGE_GREY,) * 3
    if mode == "1":
        return Image.new("1", (64, 64), 1), (255, 255, 255)
    if mode == "LAB":
        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        return ImageCms.profileToProfile(image, *profiles, outputMode="LAB"), ORANGE
    if mode in ("P", "PA"):
        palette = Image.new("P", (64, 64), 1)
        palette.putpalette([0, 0, 0, *ORANGE])
        return palette.convert(mode), ORANGE
    if mode in ("RGBA", "RGBa"):
        return Image.new("RGBA", (64, 64), (*ORANGE, 128)).convert(mode), on_white(ORANGE)
    return image.convert(mode), ORANGE


MODES = "1 L LA La P PA RGB RGBA RGBa RGBX CMYK YCbCr LAB HSV I I;16 I;16B F"


@pytest.mark.parametrize("mode", MODES.split())
def test_every_mode_of_pillow_keeps_its_colour(mode: str) -> None:
    image, colour = in_mode(mode)
    assert image.mode == mode
    pixels = WHOLE(image)
    assert pixels.shape == (64, 64, 3)
    assert np.abs(pixels.astype(int) - colour).max() <= 2
    grey = Preprocessing(size=(64, 64), crop_fraction=1, mean=(0.5,), std=(0.5,))(image)
    assert grey.shape == (64, 64, 1)
    assert np.abs(grey.astype(int) - round(np.dot(colour, (0.299, 0.587, 0.114)))).max() <= 2


@pytest.mark.parametrize(
    ("mode", "ending"),
    [
        ("1", "png"),
        ("L", "jpg"),
        ("LA", "png"),
        ("P", "png"),
        ("P", "gif"),
        ("RGBA", "webp"),
        ("RGBA", "tiff"),
    ]
    + [
        ("YCbCr", "tiff"),
        ("LAB", "tiff"),
        ("RGB", "bmp"),
        ("RGB", "ppm"),
        ("RGB", "tga"),
        ("RGB", "ico"),
    ],
)
def test_files_of_every_mode(tmp_path: Path, mode: str, ending: str) -> None:
    image, colour = in_mode(mode)
    image.save(tmp_path / f"a.{ending}", **({"lossless": True} if ending == "webp" else {}))
    pixels = array(decode(tmp_path / f"a.{ending}"))
    assert pixels.shape == (64, 64, 3)
    assert np.abs(pixels.astype(int) - colour).max() <= 2


# --- transparency ---


@pytest.mark.parametrize("transparency", [1, bytes([0, 128])])
def test_palette_transparency_shows_white(tmp_path: Path, transparency: object) -> None:
    expected = on_white(ORANGE, 0 if transparency == 1 else 128)
    image, _ = in_mode("P")
    image.save(tmp_path / "a.png", transparency=transparency)
    assert (array(decode(tmp_path / "a.png")) == expected).all()
    with Image.open(tmp_path / "a.png") as stored:
        assert type(stored.info["transparency"]) is type(transparency)
        assert (WHOLE(stored) == expected).all()


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "AVIF", "JPEG2000", "TGA", "ICO"])
def test_what_cannot_be_seen_makes_no_difference(kind: str) -> None:
    """Transparent everywhere, over black and over red; and half transparent."""
    options = {"WEBP": {"lossless": True, "exact": True}, "AVIF": {"quality": 100}}.get(kind, {})
    for colour, alpha, near in (((0, 0, 0), 0, 0), ((255, 0, 0), 0, 0), ((200, 100, 50), 128, 2)):
        image = Image.new("RGBA", (64, 64), (*colour, alpha))
        decoded = array(decode(io.BytesIO(encoded(image, kind, **options))))
        assert np.abs(decoded.astype(int) - on_white(colour, alpha)).max() <= near


@pytest.mark.parametrize("mode", ["RGBA", "RGBa", "LA", "La", "PA"])
def test_alpha_is_composited_on_white(mode: str) -> None:
    alpha = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (64, 1))
    image = Image.new("RGB", (64, 64), ORANGE).convert("L" if mode[0] == "L" else "RGB")
    if mode == "PA":
        image, _ = in_mode("P")
        image = image.convert("PA")
    image.putalpha(Image.fromarray(alpha))
    image = image.convert(mode)
    assert image.mode == mode
    colour = (ORANGE_GREY,) * 3 if mode[0] == "L" else ORANGE
    expected = 255 + (np.array(colour) - 255.0) * alpha[:, :, None] / 255
    near = 2 if mode[-1] == "a" else 1  # multiplied by alpha, values have lost bits
    assert np.abs(WHOLE(image) - expected).max() <= near
    assert np.array_equal(WHOLE(to_rgb(image)), WHOLE(image))


WORD = struct.Struct(">H").pack
KEYED = {  # bits, kind of colour, tRNS chunk, two rows of two pixels, those pixels as decoded
    "1 bit": (1, 0, WORD(1), b"\0\x40\0\x80", (0, 255, 255, 0)),
    "2 bits": (2, 0, WORD(1), b"\0\x60\0\xd0", (255, 170, 255, 255)),
    "4 bits": (4, 0, WORD(5), b"\0\x5a\0\xa0", (255, 170, 170, 0)),
    "8 bits": (8, 0, WORD(9), b"\0\x09\x0a\0\x0b\x09", (255, 10, 11, 255)),
    "16 bits": (16, 0, WORD(300), b"\0\x01\x2c\xc8\0\0\x01\x2d\x32\0", (255, 200, 1, 50)),
    "colour": (8, 2, WORD(1) + WORD(2) + WORD(3), b"\0\1\2\3\1\2\4\0\7\7\7\1\2\3", None),
    "16 bit colour": (
        16, 2, WORD(300) + WORD(400) + WORD(500),
        b"\0\x01\x2c\x01\x90\x01\xf4" + bytes([1, 0, 2, 0, 4, 0, 0]) + bytes([7, 0] * 3)
        + b"\x01\x2c\x01\x90\x01\xf4", None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", KEYED)
def test_a_transparent_colour_of_png_shows_white(name: str) -> None:
    bits, colour, key, data, expected = KEYED[name]
    file = io.BytesIO(png(2, 2, bits, colour, data, key))
    pixels = array(decode(file, warn=str)).reshape(4, 3)
    if expected is not None:
        assert (pixels == np.array(expected)[:, None]).all()
    else:
        seen = [[1, 2, 4], [7, 7, 7]]
        assert pixels.tolist() == [[255] * 3, *seen, [255] * 3]


def test_a_palette_with_alpha_shows_white() -> None:
    palette = Image.new("RGBA", (64, 64), (*ORANGE, 128)).quantize()
    assert (palette.mode, palette.info.get("transparency")) == ("P", None)
    assert np.abs(WHOLE(palette).astype(int) - on_white(ORANGE)).max() <= 1


def test_transparency_of_gif_and_of_what_has_none(tmp_path: Path) -> None:
    image, _ = in_mode("P")
    image.save(tmp_path / "a.gif", transparency=1)
    assert (array(decode(tmp_path / "a.gif")) == 255).all()
    cmyk = Image.new("CMYK", (64, 64), (0, 0, 0, 255))
    cmyk.info["transparency"] = 0
    assert (WHOLE(cmyk) == 0).all()


# --- orientation ---

# EXIF 2.32, 4.6.5.1.6: how upright pixels are stored in the file
STORED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.swapaxes(0, 1),
    6: lambda p: np.rot90(p, 1),
    7: lambda p: p[::-1, ::-1].swapaxes(0, 1),
    8: lambda p: np.rot90(p, -1),
}


def turned(upright: np.ndarray, orientation: int) -> tuple[Image.Image, Image.Exif]:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return Image.fromarray(np.ascontiguousarray(STORED[orientation](upright))), exif


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["png", "tiff", "webp"])
def test_eight_orientations_look_the_same(tmp_path: Path, orientation: int, ending: str) -> None:
    stored, exif = turned(photo(), orientation)
    stored.save(tmp_path / f"a.{ending}", exif=exif, lossless=True)
    image = decode(tmp_path / f"a.{ending}")
    assert np.array_equal(array(image), photo())
    pre = Preprocessing(size=(60, 80), crop_fraction=1)
    assert np.array_equal(pre(image), photo())  # not turned twice
    with Image.open(tmp_path / f"a.{ending}") as opened:
        assert np.array_equal(pre(opened), photo())
    assert np.array_equal(
        pre(image.transpose(Image.Transpose.ROTATE_180)), photo()[::-1, ::-1]
    )  # nor when derived


@pytest.mark.parametrize("kind", ["grey16", "palette", "grey alpha"])
def test_orientation_in_other_modes(tmp_path: Path, kind: str) -> None:
    grey = photo()[:, :, 1]
    stored, exif = turned(grey.astype(np.uint16) * 257 if kind == "grey16" else grey, 6)
    if kind != "grey16":
        stored = stored.convert({"palette": "P", "grey alpha": "LA"}[kind])
    stored.save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(array(decode(tmp_path / "a.png")), np.stack([grey] * 3, axis=2))


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_orientation_outside_1_to_8_is_ignored(tmp_path: Path, value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    Image.fromarray(photo()).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(array(decode(tmp_path / "a.png")), photo())


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0rubbish!!!!", b"Exif\0\0II*\0", b"Exif\0\0II*\0\xff\xff\0\0", b"\xff" * 40]
)
@pytest.mark.parametrize("ending", ["png", "webp"])
def test_damaged_exif_does_not_lose_the_image(tmp_path: Path, exif: bytes, ending: str) -> None:
    Image.fromarray(photo()).save(tmp_path / f"a.{ending}", exif=exif, lossless=True)
    assert np.array_equal(array(decode(tmp_path / f"a.{ending}")), photo())


# --- bad files ---


def bad_files() -> dict[str, bytes]:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8))
    jpeg, whole = encoded(noise, "JPEG"), encoded(noise, "PNG")
    return {
        "cut80.jpg": jpeg[: len(jpeg) * 8 // 10],
        "cut.png": whole[: len(whole) // 2],
        "cut.webp": encoded(noise, "WEBP")[:400],
        "cut.tiff": encoded(noise, "TIFF")[:2000],
        "empty.jpg": b"",
        "page.png": b"<!doctype html><title>404 Not Found</title>",
        "text.jpg": b"not an image\n",
        "header.png": whole[:20] + b"\xff" * 8 + whole[28:],
        "no_height.png": png(5, 0, 8, 2, b""),
        "nothing.ppm": b"P6 0 0 255\n",
    }


@pytest.mark.parametrize(("name", "content"), bad_files().items(), ids=bad_files())
def test_bad_files_are_refused_by_name(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageError, match=f"^{re.escape(str(tmp_path / name))}: ") as error:
        decode(tmp_path / name)
    assert "\n" not in str(error.value)


def test_missing_files_folders_and_impossible_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"gone\.jpg: no such file"):
        decode(tmp_path / "gone.jpg")
    with pytest.raises(ImageError, match=re.escape(str(tmp_path))):
        decode(tmp_path)
    with pytest.raises(ImageError, match="null"):
        decode("a\0b.jpg")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"])
def test_damage_anywhere_is_an_image_error_or_an_image(tmp_path: Path, kind: str) -> None:
    whole, rng = encoded(Image.fromarray(photo(24, 32)), kind), np.random.default_rng(0)
    path = tmp_path / "damaged"
    for trial in range(60):
        data = bytearray(whole[: rng.integers(len(whole))] if trial % 2 else whole)
        for at in rng.integers(len(data) or 1, size=3 * (1 - trial % 2)):
            data[at] = rng.integers(256)
        path.write_bytes(data)
        try:
            assert decode(path, max_pixels=1 << 20).mode == "RGB"
        except ImageError as error:
            message = str(error)
            assert message.startswith(f"{path}: ")


# --- many frames, lying names ---


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("GIF", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("PNG", {}),
        ("PNG", {"default_image": True}),
        ("MPO", {"quality": 100}),
    ],
)
def test_the_first_frame_of_many(tmp_path: Path, kind: str, options: dict[str, object]) -> None:
    frames = [
        Image.new("RGB", (64, 64), colour)
        for colour in ("#c86432", "#00ff00", "#0000ff", "white", "black")
    ]
    path = tmp_path / "many.jpg"  # for every kind
    frames[0].save(path, kind, save_all=True, append_images=frames[1:], **options)
    with Image.open(path) as stored:
        assert stored.n_frames >= 4
    image = decode(path)
    assert image.size == (64, 64)
    assert np.abs(array(image).astype(int) - ORANGE).max() <= 2
    # The image can be used although its file is closed.
    assert np.abs(WHOLE(image).astype(int) - ORANGE).max() <= 2


def test_a_first_frame_smaller_than_the_canvas_is_composited(tmp_path: Path) -> None:
    data = bytearray(encoded(Image.new("RGB", (8, 6), ORANGE), "GIF"))
    data[6:10] = struct.pack("<HH", 10, 9)  # the logical screen
    (tmp_path / "a.gif").write_bytes(data)
    pixels = array(decode(tmp_path / "a.gif"))
    assert pixels.shape == (9, 10, 3)
    assert (pixels[:6, :8] == ORANGE).all()


@pytest.mark.parametrize(
    ("kind", "mode", "name"), [("PNG", "RGBA", "a.jpg"), ("JPEG", "RGB", "a.png")]
)
def test_the_content_decides_and_not_the_name(
    tmp_path: Path, kind: str, mode: str, name: str
) -> None:
    (tmp_path / name).write_bytes(encoded(Image.new(mode, (8, 6), ORANGE), kind))
    pixels = array(decode(tmp_path / name))
    assert pixels.shape == (6, 8, 3)
    assert np.abs(pixels.astype(int) - ORANGE).max() <= 2


def test_webp_named_jpg(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(
        encoded(Image.new("RGB", (8, 6), ORANGE), "WEBP", lossless=True)
    )
    assert (array(decode(tmp_path / "a.jpg")) == ORANGE).all()


# --- very large ---


def test_200_megapixels_are_refused_naming_file_and_option(tmp_path: Path) -> None:
    path = tmp_path / "scan.png"
    path.write_bytes(png(20000, 10000, 1, 0, bytes(2501)))
    before = Image.MAX_IMAGE_PIXELS
    with pytest.raises(
        ImageError, match=r"scan\.png: more than 178956970 pixels.*max_pixels \(--max-pixels\)"
    ):
        decode(path)
    with pytest.raises(ImageError, match=r"scan\.png: more than 199999999 pixels"):
        decode(path, max_pixels=199_999_999)
    assert before == Image.MAX_IMAGE_PIXELS


def test_max_pixels_lifts_the_limit_for_this_image_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    path = tmp_path / "a.png"
    Image.new("1", (100, 100), 1).save(path)
    with pytest.raises(ImageError, match=r"more than 2000 pixels"):
        decode(path)
    with pytest.raises(ImageError, match=r"more than 9999 pixels"):
        decode(path, max_pixels=9999)
    assert (array(decode(path, max_pixels=10000)) == 255).all()
    with ThreadPoolExecutor(8) as pool:
        sizes = list(pool.map(lambda _: decode(path, max_pixels=10000).size, range(64)))
    assert sizes == [(100, 100)] * 64
    (tmp_path / "bad.png").write_bytes(b"")
    with pytest.raises(ImageError):
        decode(tmp_path / "bad.png", max_pixels=10000)
    assert Image.MAX_IMAGE_PIXELS == 1000
    with pytest.raises(ImageError, match=r"more than 2000 pixels"):
        decode(path)


def test_the_environment_sets_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    Image.new("1", (100, 100), 1).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    monkeypatch.setenv("MOBILENETV2_MAX_PIXELS", "10000")
    assert decode(path).size == (100, 100)
    with pytest.raises(ImageError, match=r"more than 9999 pixels"):
        decode(path, max_pixels=9999)
    monkeypatch.setenv("MOBILENETV2_MAX_PIXELS", "9999")
    with pytest.raises(ImageError, match=r"more than 9999 .* MOBILENETV2_MAX_PIXELS in the env"):
        decode(path)
    for text in ("0", "-1", "2e8", "²"):
        monkeypatch.setenv("MOBILENETV2_MAX_PIXELS", text)
        with pytest.raises(UserError, match=f"MOBILENETV2_MAX_PIXELS must be .*{text}"):
            decode(path)
    monkeypatch.setenv("MOBILENETV2_MAX_PIXELS", "")
    with pytest.raises(ImageError, match=r"more than 2000 pixels"):
        decode(path)


def test_between_the_warning_and_the_limit_is_fine_although_warnings_are_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (100, 100), ORANGE).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)
    with (
        pytest.raises(Image.DecompressionBombWarning),
        Image.open(path),
    ):  # so it would without care
        pass
    assert (array(decode(path)) == ORANGE).all()
    with path.open("rb") as stream:
        assert (array(decode(stream)) == ORANGE).all()
    assert Image.MAX_IMAGE_PIXELS == 5000


def test_max_pixels_also_lowers_the_limit(tmp_path: Path) -> None:
    Image.new("RGB", (10, 10)).save(tmp_path / "a.png")
    assert decode(tmp_path / "a.png", max_pixels=100).size == (10, 10)
    with pytest.raises(ImageError, match="more than 99 pixels"):
        decode(tmp_path / "a.png", max_pixels=99)


# --- streams ---


def test_open_files_and_streams(tmp_path: Path) -> None:
    data = encoded(Image.fromarray(photo()), "PNG")
    (tmp_path / "a.png").write_bytes(data)
    assert np.array_equal(array(decode(io.BytesIO(data))), photo())
    with (tmp_path / "a.png").open("rb") as stream:
        assert np.array_equal(array(decode(stream)), photo())
        assert not stream.closed
    with pytest.raises(ImageError, match=r"^<stream>: not an image"):
        decode(io.BytesIO(b""))
    (tmp_path / "bad.png").write_bytes(b"bad")
    with (tmp_path / "bad.png").open("rb") as stream, pytest.raises(ImageError, match=r"bad\.png"):
        decode(stream)


# --- crop ---


@pytest.mark.parametrize(
    ("size", "offset"), [(223, 0), (224, 0), (225, 0), (227, 2), (256, 16), (257, 16), (259, 18)]
)
def test_crop_offsets_round_halves_to_even(size: int, offset: int) -> None:
    assert crop_offset(size, 224) == offset


@pytest.mark.parametrize(("size", "offset"), [(301, 38), (341, 58)])
def test_crop_offsets_of_the_usual_long_sides(size: int, offset: int) -> None:
    assert crop_offset(size, 224) == offset


def torchvision_center_crop(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """`torchvision.transforms.functional.center_crop`, its arithmetic in NumPy."""
    rows, columns = pixels.shape[:2]
    down, right = max(height - rows, 0), max(width - columns, 0)
    pixels = np.pad(pixels, ((down // 2, (down + 1) // 2), (right // 2, (right + 1) // 2), (0, 0)))
    rows, columns = pixels.shape[:2]
    top, left = int(round((rows - height) / 2.0)), int(round((columns - width) / 2.0))  # noqa: RUF046
    return pixels[top : top + height, left : left + width]


@pytest.mark.parametrize("rows", [1, 23, 24, 25, 49, 50, 51, 53])
def test_center_crop_is_torchvisions_to_the_pixel(
    rows: int, pixels: Callable[..., np.ndarray]
) -> None:
    for columns in (1, 24, 25, 50, 52, 55):
        image = pixels(rows, columns, 3) | 1  # no black of its own
        for crop in ((24, 24), (50, 50), (25, 51), (51, 24)):
            got = array(center_crop(Image.fromarray(image), *crop))
            assert np.array_equal(got, torchvision_center_crop(image, *crop)), (
                rows,
                columns,
                crop,
            )


def test_a_crop_larger_than_the_image_is_padded_with_black() -> None:
    got = array(center_crop(Image.new("RGB", (24, 24), "white"), 50, 50))
    assert got.shape == (50, 50, 3)
    assert (got[13:37, 13:37] == 255).all()
    assert got.sum() == 24 * 24 * 3 * 255


# --- resize ---


@pytest.mark.parametrize(
    ("width", "height", "resized"),
    [(500, 375, (341, 256)), (375, 500, (256, 341)), (500, 333, (384, 256)), (500, 400, (320, 256))]
    + [(411, 120, (876, 256)), (75, 56, (342, 256)), (1, 1, (256, 256)), (3, 4000, (256, 341333))],
)
def test_the_short_side_becomes_256(width: int, height: int, resized: tuple[int, int]) -> None:
    assert Preprocessing().resized(height, width) == resized[::-1]
    short, long = sorted((width, height))
    assert sorted(resized) == [256, int(256 * long / short)]  # torchvision's Resize


@pytest.mark.parametrize(
    ("side", "resized"), [(96, 110), (128, 146), (160, 183), (192, 219), (224, 256), (256, 293)]
)
def test_the_resize_scales_with_the_size(side: int, resized: int) -> None:
    assert Preprocessing(size=(side, side)).resized(400, 400) == (resized, resized)


def test_the_default_is_short_side_then_centre_crop() -> None:
    image = Image.fromarray(photo(375, 500))
    want = image.resize((341, 256), Image.Resampling.BILINEAR).crop((58, 16, 58 + 224, 16 + 224))
    assert np.array_equal(Preprocessing()(image), array(want))
    squashed = Preprocessing(resize="stretch")(image)
    assert np.array_equal(squashed, array(image.resize((224, 224), Image.Resampling.BILINEAR)))
    assert not np.array_equal(squashed, array(want))
    wide = Preprocessing(size=(30, 70), resize="stretch")(image)
    assert np.array_equal(wide, array(image.resize((70, 30), Image.Resampling.BILINEAR)))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
def test_shrinking_averages(interpolation: str) -> None:
    board = (np.indices((1024, 1024)).sum(0) % 2 * 255).astype(np.uint8)
    shrunk = Preprocessing(interpolation=interpolation)(np.stack([board] * 3, axis=2)).astype(int)
    assert np.abs(shrunk - 127.5).max() < 4  # without averaging, all 0 or all 255
    nearest = Preprocessing(interpolation="nearest")(np.stack([board] * 3, axis=2))
    assert set(np.unique(nearest)) <= {0, 255}


def test_bilinear_shrinking_is_the_triangle_filter() -> None:
    row = np.random.default_rng(0).integers(0, 256, 512)
    got = Preprocessing(size=(64, 64), crop_fraction=1)(
        np.stack([np.tile(row, (512, 1)).astype(np.uint8)] * 3, axis=2)
    )
    centres = (np.arange(64) + 0.5) * 8
    weights = np.maximum(0, 1 - np.abs(np.arange(512) + 0.5 - centres[:, None]) / 8)  # (64, 512)
    want = weights @ row / weights.sum(1)
    assert np.abs(got[0, :, 0] - want).max() <= 1


@pytest.mark.parametrize(
    "size", [(224, 448), (200, 200), (225, 225), (97, 130), (33, 31), (32, 32), (1, 1)]
)
@pytest.mark.parametrize("image", [(375, 500), (500, 375), (1, 1), (7, 300)])
@pytest.mark.parametrize("resize", ["short_side", "stretch"])
def test_sizes_that_are_not_square_nor_multiples_of_32(
    size: tuple[int, int], image: tuple[int, int], resize: str
) -> None:
    pixels = Preprocessing(size=size, resize=resize)(np.full((*image, 3), ORANGE, np.uint8))
    assert pixels.shape == (*size, 3)
    assert pixels.dtype == np.uint8
    assert (pixels == ORANGE).all()  # the image covers the crop everywhere


@pytest.mark.parametrize("size", [(97, 130), (130, 97), (224, 100)])
def test_the_resized_image_just_covers_a_crop_that_is_not_square(size: tuple[int, int]) -> None:
    pre = Preprocessing(size=size, crop_fraction=1)
    for height in range(1, 90, 7):
        for width in range(1, 90, 5):
            rows, columns = pre.resized(height, width)
            assert rows >= size[0]
            assert columns >= size[1]
            assert rows == size[0] or columns == size[1]


def test_tiny_images_of_the_right_size_are_untouched(pixels: Callable[..., np.ndarray]) -> None:
    image = pixels(32, 32, 3)
    assert np.array_equal(Preprocessing(size=(32, 32), crop_fraction=1)(image), image)
    wide = pixels(32, 40, 3)
    assert np.array_equal(Preprocessing(size=(32, 32), crop_fraction=1)(wide), wide[:, 4:36])


# --- needles: only the crop is computed ---


@pytest.mark.parametrize("image", [(3, 400), (400, 3), (1, 97), (57, 31), (375, 500), (300, 77)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
def test_the_bounded_resize_agrees_with_the_full_one(
    image: tuple[int, int],
    interpolation: str,
    monkeypatch: pytest.MonkeyPatch,
    pixels: Callable[..., np.ndarray],
) -> None:
    noise = pixels(*image, 3)
    if interpolation != "bilinear":
        # These overshoot, and Pillow may swap its two passes: stay away from the limits.
        noise = 64 + noise // 2
    for size in ((64, 64), (65, 40)):
        pre = Preprocessing(size=size, interpolation=interpolation)
        full = pre(noise)
        with monkeypatch.context() as patch:
            patch.setattr(images, "MAX_RESIZED_PIXELS", 1)
            bounded = pre(noise)
        assert bounded.shape == full.shape
        assert np.abs(bounded.astype(int) - full).max() <= (2 if interpolation == "lanczos" else 1)


def test_needles_never_become_hundreds_of_megapixels(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    resize = Image.Image.resize

    def spy(
        self: Image.Image, size: tuple[int, int], *rest: object, **named: object
    ) -> Image.Image:
        sizes.append(size)
        return resize(self, size, *rest, **named)

    monkeypatch.setattr(Image.Image, "resize", spy)
    for shape in ((4000, 3), (3, 4000), (1, 60000), (60000, 1)):
        pixels = Preprocessing()(np.full((*shape, 3), ORANGE, np.uint8))
        assert pixels.shape == (224, 224, 3)
        assert (pixels == ORANGE).all()
    assert sizes == [(224, 224)] * 4


# --- values and channels ---


def test_0_is_exactly_minus_1_and_255_exactly_1() -> None:
    normal = Preprocessing().normalize(np.array([[0, 128, 255]], np.uint8))
    assert normal.dtype == np.float32
    assert normal[0, 0] == -1
    assert normal[0, 2] == 1
    assert normal[0, 1] == np.float32(128 / 127.5 - 1)


@pytest.mark.parametrize("mean", [(0.5,), (0.5, 0.5, 0.5), (0.485, 0.456, 0.406)])
def test_normalize_is_its_formula_and_scale_offset_says_the_same(mean: tuple[float, ...]) -> None:
    std = {1: (0.25,), 3: (0.229, 0.224, 0.225)}[len(mean)]
    pre = Preprocessing(mean=mean, std=std)
    levels = np.repeat(
        np.arange(256, dtype=np.uint8)[:, None], len(mean), axis=1
    )  # (256, channels)
    want = (levels / 255 - np.array(mean)) / np.array(std)
    assert np.abs(pre.normalize(levels) - want).max() < 1e-6
    scale, offset = pre.scale_offset()
    assert scale.dtype == offset.dtype == np.float64
    assert np.abs(levels * scale + offset - want).max() < 1e-12
    batch = np.stack([levels.reshape(16, 16, -1)] * 2)  # (2, 16, 16, channels)
    assert np.array_equal(pre.normalize(batch)[1].reshape(256, -1), pre.normalize(levels))


@pytest.mark.parametrize(("name", "channel"), [("red", 0), ("lime", 1), ("blue", 2)])
@pytest.mark.parametrize("ending", ["png", "jpg", "bmp", "gif", "webp"])
def test_colour_cards(tmp_path: Path, name: str, channel: int, ending: str) -> None:
    path = tmp_path / f"{name}.{ending}"
    card = Image.new("RGB", (64, 64), name)
    card.save(path)
    want = -np.ones(3)
    want[channel] = 1
    for image in (decode(path), card, np.asarray(card)):
        normal = WHOLE.normalize(WHOLE(image))
        assert np.abs(normal - want).max() <= 3 / 127.5


def test_path_image_and_array_give_equal_predictions(tmp_path: Path) -> None:
    stored, exif = turned(photo(), 8)
    stored.save(tmp_path / "a.png", exif=exif)
    model = Model(random_checkpoint(width_mult=0.35, resolution=(32, 32), classes=7))
    predictions = model.classify(tmp_path / "a.png")
    assert model.classify(str(tmp_path / "a.png")) == predictions
    assert model.classify(decode(tmp_path / "a.png")) == predictions
    with Image.open(tmp_path / "a.png") as opened:
        assert model.classify(opened) == predictions
    assert model.classify(photo()) == predictions
    assert model.classify(photo()[:, :, ::-1]) != predictions  # BGR is another image


def test_one_channel_follows_the_luma_weights() -> None:
    pre = Preprocessing(size=(8, 8), crop_fraction=1, mean=(0.5,), std=(0.5,))
    assert pre.channels == 1
    assert Preprocessing().channels == 3
    for colour, grey in (((255, 0, 0), 76), ((0, 255, 0), 150), ((0, 0, 255), 29)):
        pixels = pre(np.full((8, 8, 3), colour, np.uint8))
        assert pixels.shape == (8, 8, 1)
        assert (pixels == grey).all()
    ramp = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    assert np.array_equal(pre(Image.fromarray(ramp))[:, :, 0], ramp)
    assert pre.normalize(pre(Image.fromarray(ramp))).shape == (8, 8, 1)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8,), np.uint8),
        np.zeros((8, 8, 2), np.uint8),
        np.zeros((3, 8, 8), np.uint8),
        np.zeros((1, 8, 8, 3), np.uint8),
        np.zeros((8, 8, 3), np.float32),
        np.zeros((8, 8, 3), np.uint16),
        np.zeros((0, 8, 3), np.uint8),
    ],
)
def test_arrays_that_are_not_images_are_refused(image: np.ndarray) -> None:
    with pytest.raises(ImageError, match=re.escape(f"{image.shape} {image.dtype}")):
        Preprocessing()(image)


def test_an_array_with_alpha_is_composited_on_white() -> None:
    rgba = np.full((64, 64, 4), (*ORANGE, 128), np.uint8)
    assert (WHOLE(rgba) == on_white(ORANGE)).all()


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
def test_images_without_pixels_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ImageError, match="no pixels"):
        Preprocessing()(Image.new("RGB", size))


# --- Preprocessing as data ---


@pytest.mark.parametrize(
    "pre",
    [
        Preprocessing(),
        Preprocessing(
            size=(97, 130), resize="stretch", crop_fraction=0.875, interpolation="bicubic"
        ),
        Preprocessing(
            mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), crop_fraction=224 / 232
        ),
        Preprocessing(mean=(0,), std=(1,), crop_fraction=1, interpolation="lanczos"),
    ],
)
def test_json_both_ways(pre: Preprocessing) -> None:
    assert Preprocessing.from_json(pre.to_json()) == pre
    assert hash(Preprocessing.from_json(pre.to_json())) == hash(pre)


def test_in_words() -> None:
    assert str(Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))) == (
        "resized to cover 256 x 256, centre crop 224 x 224, bilinear; mean 0.485, 0.456, 0.406; "
        "std 0.229, 0.224, 0.225"
    )
    grey = Preprocessing(size=(97, 130), resize="stretch", mean=(0.5,), std=(1,))
    assert str(grey) == "stretched to 97 x 130, bilinear; mean 0.5; std 1"


def test_json_is_plain_and_gaps_are_defaults() -> None:
    assert json.loads(Preprocessing().to_json()) == {
        "size": [224, 224],
        "resize": "short_side",
        "crop_fraction": 0.875,
        "interpolation": "bilinear",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
    }
    assert Preprocessing.from_json('{"size": [96, 128]}') == Preprocessing(size=(96, 128))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[1]", "JSON object, not list"),
        ("null", "JSON object, not NoneType"),
        ('{"crop_pct": 0.9, "zoom": 2}', "unknown fields: crop_pct, zoom"),
        ('{"size": 224}', "size must be"),
        ('{"size": [224]}', "size must be"),
        ('{"size": [224, 224, 3]}', "size must be"),
        ('{"size": [224.0, 224]}', "size must be"),
        ('{"size": [true, 224]}', "size must be"),
        ('{"size": [0, 224]}', "size must be"),
        ('{"size": [224, 65537]}', "size must be"),
        ('{"size": null}', "size must be"),
        ('{"resize": "squash"}', "resize must be"),
        ('{"resize": ["stretch"]}', "resize must be"),
        ('{"crop_fraction": 0.09}', "crop_fraction must be"),
        ('{"crop_fraction": 1.01}', "crop_fraction must be"),
        ('{"crop_fraction": NaN}', "crop_fraction must be"),
        ('{"crop_fraction": "1"}', "crop_fraction must be"),
        ('{"interpolation": "area"}', "interpolation must be"),
        ('{"interpolation": 2}', "interpolation must be"),
        ('{"mean": 0.5}', "mean must be"),
        ('{"mean": [0.5, 0.5]}', "mean must be"),
        ('{"mean": ["0", "0", "0"]}', "mean must be"),
        ('{"mean": [[0.5], 0.5, 0.5]}', "mean must be"),
        ('{"mean": [Infinity, 0.5, 0.5]}', "mean must be"),
        ('{"std": [NaN, 0.5, 0.5]}', "std must be"),
        ('{"std": [1e7, 0.5, 0.5]}', "std must be"),
        ('{"std": [0, 0.5, 0.5]}', "std must be"),
        ('{"std": [-0.5, 0.5, 0.5]}', "std must be"),
        ('{"std": [1e-310, 0.5, 0.5]}', "std must be"),
        ('{"mean": [0.5]}', "as many numbers as mean"),
    ],
)
def test_json_that_is_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Preprocessing.from_json(text)


def test_misspelt_keywords_are_refused() -> None:
    with pytest.raises(TypeError, match="crop"):
        Preprocessing(crop=0.875)  # type: ignore[call-arg]


# --- folders ---


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def relative(folder: Path, paths: list[Path]) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in paths]


def test_folder_content_sorts_images_from_the_rest(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "b.JPG",
        "a/z.png",
        "a/b/c.Tiff",
        "a.webp",
        "c/1.jpeg",
        "c/10.gif",
        "B/x.bmp",
        "z.JPEG",
    )
    touch(tmp_path, "notes.md", "a/list.csv", "png", "archive.jpg.zip", "a/README")
    content = folder_content(tmp_path)
    images, others = content.images, content.others
    assert relative(tmp_path, images) == (
        ["B/x.bmp", "a/b/c.Tiff", "a/z.png", "a.webp", "b.JPG", "c/1.jpeg", "c/10.gif", "z.JPEG"]
    )
    assert images == sorted(images)
    assert relative(tmp_path, others) == [
        "a/README",
        "a/list.csv",
        "archive.jpg.zip",
        "notes.md",
        "png",
    ]


def test_folder_content_leaves_out_what_is_hidden(tmp_path: Path) -> None:
    touch(
        tmp_path,
        ".a.jpg",
        "._b.jpg",
        ".git/c.jpg",
        "__MACOSX/d.jpg",
        "x/__MACOSX/._e.jpg",
        "x/@eaDir/f.jpg",
    )
    touch(tmp_path, "x/.DS_Store", "Thumbs.db", "x/seen.jpg")
    content = folder_content(tmp_path)
    assert (content.images, content.others) == ([tmp_path / "x/seen.jpg"], [])
    assert tmp_path / "x/@eaDir" in content.hidden


def test_folder_content_in_a_hidden_folder_that_was_asked_for(tmp_path: Path) -> None:
    touch(tmp_path, ".cache/a.jpg")
    assert folder_content(tmp_path / ".cache").images == [tmp_path / ".cache/a.jpg"]


def test_folder_content_follows_links_once(tmp_path: Path) -> None:
    touch(tmp_path, "root/a/1.jpg", "root/2.jpg", "elsewhere/3.jpg", "elsewhere/deep/4.jpg")
    try:
        (tmp_path / "root/a/up").symlink_to(tmp_path / "root", target_is_directory=True)
        (tmp_path / "root/a/self").symlink_to(tmp_path / "root/a", target_is_directory=True)
        (tmp_path / "root/out").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
        (tmp_path / "root/link.jpg").symlink_to(tmp_path / "elsewhere/3.jpg")
    except OSError:
        pytest.skip("no symbolic links here")
    content = folder_content(tmp_path / "root")
    images, others = content.images, content.others
    assert relative(tmp_path / "root", images) == [
        "2.jpg",
        "a/1.jpg",
        "link.jpg",
        "out/3.jpg",
        "out/deep/4.jpg",
    ]
    assert others == []


def test_a_file_that_may_not_be_read_is_named_once(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "a.jpg"
    path.touch()

    def refusing(path: str) -> Image.Image:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(Image, "open", refusing)
    with pytest.raises(ImageError) as raised:
        decode(path)
    assert str(raised.value) == f"{path}: cannot be read: Permission denied"


def test_a_folder_that_may_not_be_searched_is_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "a/1.jpg", "b/2.jpg", "c/3.jpg")
    scandir = os.scandir

    def refusing(path: str) -> Iterator[os.DirEntry[str]]:
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    content = folder_content(tmp_path)
    assert relative(tmp_path, content.images) == ["a/1.jpg", "c/3.jpg"]
    assert content.unreadable == {tmp_path / "b": "may not be searched: Permission denied"}
    assert content.others == []


@pytest.mark.parametrize("kind", ["FIFO", "socket", "folder", "dangling link", "looping link"])
def test_what_is_no_regular_file_is_named_and_does_not_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)  # the name of a socket may not be long
    path = Path("cam.jpg")
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("nowhere.jpg" if kind == "dangling link" else path)
    reason = {
        "folder": "a folder, not a file",
        "dangling link": "a link to nowhere.jpg, which does not exist",
        "looping link": "cannot be read: Too many levels of symbolic links",
    }.get(kind, f"not a regular file but a {kind}")
    with pytest.raises(ImageError, match=f"^cam.jpg: {reason}"):
        decode(path)
    if kind != "folder":
        assert folder_content(tmp_path).images == [tmp_path / path]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("n" * 300 + ".jpg", "cannot be read: File name too long"),
        ("a\0.jpg", "cannot be read: embedded null byte"),
        ("/dev/null", "not a regular file but a character device"),
        ("https://example.org/cat.jpg", "a web address: download the image first"),
        (Path("https://example.org/cat.jpg"), "a web address: download the image first"),
    ],
)
def test_names_that_are_no_files(name: str, reason: str) -> None:
    with pytest.raises(ImageError, match=f": {reason}"):
        decode(name)


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: object) -> os.stat_result:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("mobilenetv2.paths.os.stat", refused)
    with pytest.raises(ImageError, match=r"a\.jpg: cannot be read: Permission denied"):
        decode(tmp_path / "a.jpg")


def test_a_video_gets_advice_unless_it_is_an_image(tmp_path: Path) -> None:
    (tmp_path / "clip.MP4").write_bytes(b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41")
    with pytest.raises(ImageError, match=r"clip\.MP4: a video: .*ffmpeg -i VIDEO"):
        decode(tmp_path / "clip.MP4")
    (tmp_path / "image.mp4").write_bytes(encoded(Image.new("RGB", (3, 2)), "PNG"))
    assert decode(tmp_path / "image.mp4").size == (3, 2)


def test_a_program_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(encoded(Image.new("RGB", (3, 2)), "EPS"))
    with pytest.raises(ImageError, match="a program that draws an image"):
        decode(tmp_path / "a.jpg")


def test_folder_content_in_an_empty_folder(tmp_path: Path) -> None:
    assert folder_content(tmp_path) == FolderContent()


def test_every_ending_that_pillow_itself_writes_for_photos_is_known() -> None:
    Image.init()
    kinds = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "MPO", "TGA", "PCX", "ICO")
    known = {ending for ending, kind in Image.EXTENSION.items() if kind in kinds} - {
        ".icb",
        ".vda",
        ".vst",
    }
    assert known <= SUFFIXES


def test_a_progressive_jpeg_of_very_many_scans_is_refused() -> None:
    """Each scan passes over the whole image, however little it says."""
    file = io.BytesIO()
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(file, "JPEG", progressive=True)
    content = file.getvalue()
    assert decode(content).size == (64, 64)
    last = content.rindex(b"\xff\xda")
    many = content[:last] + 1000 * content[last:-2] + b"\xff\xd9"
    with pytest.raises(ImageError, match="100[0-9] scans, each of which takes time"):
        decode(many)
