"""`Segmenter`: recorded masks on real images, and masks in the frame of the upright image."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import mobilenetv2 as mnv2
from mobilenetv2.architecture import Architecture
from mobilenetv2.drawing import palette
from mobilenetv2.errors import NotFiniteError, UserError
from mobilenetv2.heads import DeepLab
from mobilenetv2.images import Preprocessing
from mobilenetv2.results import Segmentation
from mobilenetv2.runtime import Engine

from .conftest import random_checkpoint

SMALL = Architecture(
    width_mult=0.35, head=DeepLab(5), output_stride=16, resolution=(65, 65), padding="same"
)


def segmenter(resize: str = "fit", classes: int = 5) -> mnv2.Segmenter:
    checkpoint = random_checkpoint(replace(SMALL, head=DeepLab(classes)))
    preprocessing = Preprocessing(size=SMALL.resolution, resize=resize, crop_fraction=1)  # type: ignore[arg-type]
    return mnv2.Segmenter(replace(checkpoint, preprocessing=preprocessing), 1)


def photo(seed: int = 0, height: int = 70, width: int = 50) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize(
    "name", ["deeplabv3_mnv2_pascal_quant", "deeplabv3_mnv2_dm05_pascal_quant"]
)
def test_real_images_give_the_recorded_masks(shared, name) -> None:
    model = mnv2.load(shared(f"models/{name}.tflite"), 2, int8=False)
    assert isinstance(model, mnv2.Segmenter)
    assert model.checkpoint.labels[8] == "cat"
    folder = shared("reference/segmentation")
    bird = model.segment(folder / "inputs/bird_segmentation.bmp")
    recorded = np.array(Image.open(folder / name / "bird_segmentation.float.513.png"))
    assert (bird.mask == recorded).mean() > 0.995
    assert next(iter(bird.shares())) == "background"
    assert "bird" in bird.shares()
    # a photo that is not square: its mask is that of the pixels, cut and enlarged
    file = shared("data/voc-sample/JPEGImages/000000001675.jpg")
    cat = model.segment(file)
    with Image.open(file) as opened:
        width, height = opened.size
    rows, columns = (
        round(height * 513 / max(height, width)),
        round(width * 513 / max(height, width)),
    )
    recorded = Image.open(folder / name / "000000001675.float.513.png").crop((0, 0, columns, rows))
    enlarged = np.array(recorded.resize((width, height), Image.Resampling.NEAREST))
    assert (cat.mask == enlarged).mean() > 0.995


def test_masks_have_the_size_of_the_upright_image() -> None:
    model = segmenter()
    upright = photo(3, 90, 40)
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = io.BytesIO()
    Image.fromarray(np.rot90(upright)).save(stored, "PNG", exif=exif)
    turned = model.segment(stored.getvalue())
    assert turned.mask.shape == (90, 40)
    assert np.array_equal(turned.mask, model.segment(upright).mask)
    assert turned.draw(stored.getvalue()).size == (40, 90)


@pytest.mark.parametrize(
    "size", [(65, 65), (64, 64), (50, 37), (81, 46), (33, 33), (31, 47), (1, 1)]
)
def test_any_size_of_pixels(size) -> None:
    """Sizes that are no multiple of the output stride plus 1 too."""
    masks = segmenter().masks(photo(0, *size)[None])
    assert masks.shape == (1, *size)
    assert masks.dtype == np.uint8


def test_many_images_as_one() -> None:
    model = segmenter()
    images = [photo(seed, 40 + seed, 60) for seed in range(6)]
    one_by_one = [model.segment(image).mask for image in images]
    for many in (model.segment(images), [r for _, r in model.segment_files(iter(images))]):
        assert all(np.array_equal(a.mask, b) for a, b in zip(many, one_by_one, strict=True))


def test_what_a_crop_leaves_out_is_background() -> None:
    model = segmenter("short_side")
    mask = model.segment(photo(0, 65, 130)).mask
    assert mask.shape == (65, 130)
    assert not mask[:, :32].any()
    assert not mask[:, 98:].any()
    assert mask[:, 32:97].any()


def test_more_than_256_classes_need_16_bits(tmp_path) -> None:
    model = segmenter(classes=300)
    result = model.segment(photo())
    assert result.mask.dtype == np.uint16
    result.save(tmp_path / "mask.png")
    assert np.array_equal(np.array(Image.open(tmp_path / "mask.png")), result.mask)


def test_a_saved_mask_holds_classes_in_the_colours_of_voc(tmp_path) -> None:
    result = Segmentation(np.array([[0, 1], [15, 2]], np.uint8), tuple("abcdefghijklmnop"))
    result.save(tmp_path / "mask.png")
    saved = Image.open(tmp_path / "mask.png")
    assert saved.mode == "P"
    assert np.array_equal(np.array(saved), result.mask)
    colours = np.array(saved.convert("RGB"))
    assert colours.tolist() == [[[0, 0, 0], [128, 0, 0]], [[192, 128, 128], [0, 128, 0]]]


def test_the_palette_is_that_of_voc(shared) -> None:
    own = palette(256)
    file = next(shared("data/voc-sample/SegmentationClass").glob("*.png"))
    recorded = np.array(Image.open(file).getpalette()).reshape(-1, 3)
    assert np.array_equal(own[: len(recorded)][:21], recorded[:21])


def test_shares_and_data() -> None:
    result = Segmentation(np.array([[0, 0, 2, 2], [2, 2, 2, 1]], np.uint8), ("sky", "sea", "sand"))
    assert list(result.shares().items()) == [("sand", 0.625), ("sky", 0.25), ("sea", 0.125)]
    assert result.to_dict() == {
        "height": 2,
        "width": 4,
        "shares": {"sand": 0.625, "sky": 0.25, "sea": 0.125},
    }
    assert len(repr(result)) < 80
    alike = Segmentation(result.mask, ("sky", "sea", "sky"))
    assert alike.shares() == {"sky": 0.875, "sea": 0.125}
    assert alike.class_shares() == [(2, 0.625), (0, 0.25), (1, 0.125)]


def test_drawing() -> None:
    image = np.full((40, 60, 3), 200, np.uint8)
    mask = np.zeros((40, 60), np.uint8)
    mask[20:] = 2
    drawn = np.asarray(Segmentation(mask, ("a", "b", "c")).draw(image))
    assert (drawn[:20, 40:] == 200).all()
    assert (drawn[20:] != 200).any()
    assert (image == 200).all()
    with pytest.raises(UserError, match="the image is 40 x 30"):
        Segmentation(mask, ("a", "b", "c")).draw(image[:, :30])


def test_a_classifier_is_no_segmenter() -> None:
    with pytest.raises(UserError, match="it does not segment"):
        mnv2.Segmenter(random_checkpoint(width_mult=0.35))


@pytest.mark.parametrize(
    "name", ["deeplabv3_mnv2_pascal_quant", "deeplabv3_mnv2_dm05_pascal_quant"]
)
def test_integers_give_every_recorded_class_of_the_reference_kernels(shared, name) -> None:
    model = mnv2.load(shared(f"models/{name}.tflite"), 2)
    folder = shared("reference/segmentation")
    bird = np.array(Image.open(folder / "inputs/bird_segmentation.bmp").convert("RGB"))
    recorded = np.array(Image.open(folder / name / "bird_segmentation.ref.513.png"))
    np.testing.assert_array_equal(model.masks(bird[None])[0], recorded)
    assert model.engine.activation_bytes(513, 513) < 3_000_000


@pytest.mark.parametrize("classes", [1, 256, 257])
def test_the_mask_is_the_first_of_the_greatest_scores(classes) -> None:
    checkpoint = random_checkpoint(replace(SMALL, head=DeepLab(classes)))
    arrays = dict(checkpoint.arrays)
    for name in ("head.logits.weight", "head.logits.bias"):
        arrays[name] = np.repeat(arrays[name][::2], 2, axis=0)[:classes]  # pairs of equal scores
    engine = Engine(replace(checkpoint, arrays=arrays), 2)
    images = np.stack([photo(seed, 37, 50) for seed in range(2)])
    mask = engine.mask(images)
    assert mask.dtype == (np.uint8 if classes <= 256 else np.uint16)
    np.testing.assert_array_equal(mask, engine(images).argmax(-1))
    assert not (mask % 2).any()
    np.testing.assert_array_equal(mask, engine.mask(images, alone=True))


def test_no_mask_of_scores_that_are_not_finite() -> None:
    checkpoint = random_checkpoint(SMALL)
    huge = np.full_like(checkpoint.arrays["head.logits.weight"], 3e38)
    engine = Engine(replace(checkpoint, arrays={**checkpoint.arrays, "head.logits.weight": huge}))
    with pytest.raises(NotFiniteError, match=r"head\.logits"):
        engine.mask(photo()[None])


def test_a_classifier_gives_no_mask() -> None:
    with pytest.raises(UserError, match="gives no mask"):
        Engine(random_checkpoint(Architecture(width_mult=0.35)), 1).mask(photo()[None])
