"""Augmentation: each operation against what it must give on images known beforehand."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

torch = pytest.importorskip("torch")

from mobilenetv2.errors import UserError  # noqa: E402
from mobilenetv2.images import Preprocessing  # noqa: E402
from mobilenetv2.training import augment  # noqa: E402
from mobilenetv2.training.augment import (  # noqa: E402
    OPERATIONS,
    RANDAUGMENT,
    WIDE,
    Augmentation,
    crop_box,
    evaluation_transform,
    fitting_box,
    jitter,
    operate,
)
from mobilenetv2.training.mixing import cutmix, mixup  # noqa: E402

RESAMPLING, TRANSFORM = Image.Resampling, Image.Transform
STILL = {"crop": "none", "flip": False}
SIZE = Preprocessing(size=(24, 24), crop_fraction=1.0)
FILL = (128, 128, 128)


def random_image(height: int = 24, width: int = 24, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))


def drawn(augmentation: Augmentation, image: Image.Image, count: int = 50) -> list[np.ndarray]:
    """As many results, each by random numbers of its own."""
    transform = augmentation.transform((24, 24), SIZE)
    return [transform(image, np.random.default_rng(i)) for i in range(count)]


def test_without_chance_it_is_the_evaluation() -> None:
    image = random_image(40, 30)
    for preprocessing in (SIZE, Preprocessing(size=(16, 20), mean=(0.5,), std=(0.5,))):
        expected = preprocessing(image)
        transforms = (
            Augmentation(**STILL).transform(preprocessing.size, preprocessing),
            evaluation_transform(preprocessing),
        )
        for transform in transforms:
            found = pickle.loads(pickle.dumps(transform))(image, np.random.default_rng(0))
            np.testing.assert_array_equal(found, expected)
            assert found.dtype == np.uint8


@pytest.mark.parametrize("crop", ["resized", "pad", "none"])
@pytest.mark.parametrize("policy", ["none", "trivial", "rand"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_combination_gives_the_size_and_the_same_twice(
    crop: str, policy: str, channels: int
) -> None:
    augmentation = Augmentation(crop=crop, policy=policy, colour=True, erase=0.5)
    preprocessing = Preprocessing(mean=(0.4,) * channels, std=(0.5,) * channels)
    transform = augmentation.transform((12, 20), preprocessing)
    image, before = random_image(31, 17), np.asarray(random_image(31, 17))
    results = [[transform(image, np.random.default_rng(i)) for i in range(20)] for _ in range(2)]
    for first, second in zip(*results):
        assert (first.shape, first.dtype) == ((12, 20, channels), np.uint8)
        np.testing.assert_array_equal(first, second)
    assert len({result.tobytes() for result in results[0]}) > 15
    np.testing.assert_array_equal(image, before)


def test_flips_flip() -> None:
    image = random_image()
    found = drawn(Augmentation(crop="none"), image, 200)
    same, mirrored = np.asarray(image), np.asarray(image)[:, ::-1]
    flipped = [np.array_equal(pixels, mirrored) for pixels in found]
    assert all(a != np.array_equal(pixels, same) for a, pixels in zip(flipped, found))
    assert 70 < sum(flipped) < 130


def test_padding_moves_over_mirrored_edges() -> None:
    image = random_image()
    padded = np.pad(np.asarray(image), ((4, 4), (4, 4), (0, 0)), mode="reflect")
    places = {padded[y : y + 24, x : x + 24].tobytes(): (y, x) for y in range(9) for x in range(9)}
    found = drawn(Augmentation(crop="pad", flip=False), image, 600)
    seen = {places[pixels.tobytes()] for pixels in found}
    assert len(seen) > 75  # of 81


def test_crops_take_the_areas_and_shapes_that_are_asked_for() -> None:
    rng = np.random.default_rng(0)
    boxes = [crop_box((400, 300), (0.05, 1), (0.75, 4 / 3), rng) for _ in range(2000)]
    left, top, right, bottom = np.array(boxes).T
    assert min(left) >= 0
    assert min(top) >= 0
    assert max(right) <= 400
    assert max(bottom) <= 300
    areas, shapes = (right - left) * (bottom - top) / 120000, (right - left) / (bottom - top)
    assert 0.049 < areas.min() < 0.06
    assert 0.9 < areas.max() <= 1
    assert 0.74 < shapes.min() < 0.78
    assert 1.3 < shapes.max() < 1.35
    small = [fitting_box((1000, 1000), (0.05, 0.4), (0.75, 4 / 3), rng) for _ in range(2000)]
    shares = [(box[2] - box[0]) * (box[3] - box[1]) / 1e6 for box in small if box]
    assert np.quantile(shares, (0.25, 0.5, 0.75)) == pytest.approx(
        (0.1375, 0.225, 0.3125), abs=0.02
    )


@pytest.mark.parametrize(
    ("size", "box"),
    [((100, 10), (43, 0, 57, 10)), ((10, 100), (0, 43, 10, 57)), ((1, 1), (0, 0, 1, 1))],
)
def test_needles_are_cropped_in_the_middle(
    size: tuple[int, int], box: tuple[int, int, int, int]
) -> None:
    for seed in range(10):
        rng = np.random.default_rng(seed)
        # all of the area has no such shape
        assert (
            crop_box(size, (1, 1), (1.4, 1.4) if size[0] > 10 else (1 / 1.4, 1 / 1.4), rng) == box
        )


def test_a_resized_crop_is_a_part_of_the_image() -> None:
    ramp = np.repeat(np.arange(0, 240, dtype=np.uint8)[None, :, None], 240, 0).repeat(3, 2)
    found = drawn(Augmentation(scale=(0.25, 0.25), ratio=(1, 1), flip=False), Image.fromarray(ramp))
    spans = [(int(p[0, -1, 0]) - int(p[0, 0, 0])) / 23 * 24 for p in found]
    assert spans == pytest.approx([120] * 50, abs=3)
    assert len({int(p[0, 0, 0]) for p in found}) > 20


def test_a_resized_crop_averages_what_it_shrinks() -> None:
    board = np.indices((480, 480)).sum(0)[:, :, None].repeat(3, 2) % 2 * 255
    image = Image.fromarray(board.astype(np.uint8))
    for pixels in drawn(Augmentation(scale=(0.3, 1)), image, 10):
        assert np.abs(pixels.astype(int) - 127).max() < 10


def test_the_shape_is_relative_to_the_size() -> None:
    transform = Augmentation(scale=(1, 1), ratio=(1, 1), flip=False).transform((12, 24), SIZE)
    image = random_image(50, 100)
    np.testing.assert_array_equal(
        transform(image, np.random.default_rng(0)), image.resize((24, 12), RESAMPLING.BILINEAR)
    )


def test_colours_change_by_as_much_as_slim_allows() -> None:
    grey = Image.new("RGB", (4, 4), (100, 100, 100))
    found = [int(np.asarray(jitter(grey, np.random.default_rng(i)))[0, 0, 0]) for i in range(500)]
    assert {68, 100, 132} <= set(found) <= set(range(68, 133))
    red = Image.new("RGB", (4, 4), (150, 90, 90))
    spread = [
        int(np.ptp(np.asarray(jitter(red, np.random.default_rng(i)))[0, 0])) for i in range(500)
    ]
    assert min(spread) == pytest.approx(30, abs=2)
    assert max(spread) == pytest.approx(90, abs=2)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_erasing_erases_the_right_share(share: float) -> None:
    white = Image.new("RGB", (24, 24), (255, 255, 255))
    augmentation = Augmentation(**STILL, erase=share, erase_scale=(0.25, 0.25), erase_ratio=(1, 1))
    found = drawn(augmentation, white, 300)
    erased = [(pixels == 128).all(2) for pixels in found]  # the mean, 0.5
    assert {int(mask.sum()) for mask in erased} <= {0, 144}
    assert sum(mask.any() for mask in erased) == pytest.approx(
        300 * share, abs=30 * (0 < share < 1)
    )
    if share == 1:
        rows, columns = np.argwhere(erased[0]).T
        assert np.ptp(rows) == np.ptp(columns) == 11
        assert len({mask.tobytes() for mask in erased}) > 50


# --- policies: what Pillow itself gives ---


@pytest.mark.parametrize("level", [0, 7, 30])
@pytest.mark.parametrize("sign", [1, -1])
def test_operations_are_those_of_pillow(level: int, sign: int) -> None:
    image = random_image(30, 40)
    share = sign * level / 30

    def affine(*matrix: float) -> Image.Image:
        size, filter_ = image.size, RESAMPLING.BILINEAR
        return image.transform(size, TRANSFORM.AFFINE, matrix, filter_, fillcolor=FILL)

    known = {
        "identity": image,
        "shear_x": affine(1, 0.99 * share, 0, 0, 1, 0),
        "shear_y": affine(1, 0, 0, 0.99 * share, 1, 0),
        "translate_x": affine(1, 0, round(32 * share), 0, 1, 0),
        "translate_y": affine(1, 0, 0, 0, 1, round(32 * share)),
        "rotate": image.rotate(135 * share, RESAMPLING.BILINEAR, fillcolor=FILL),
        "brightness": ImageEnhance.Brightness(image).enhance(1 + 0.99 * share),
        "color": ImageEnhance.Color(image).enhance(1 + 0.99 * share),
        "contrast": ImageEnhance.Contrast(image).enhance(1 + 0.99 * share),
        "sharpness": ImageEnhance.Sharpness(image).enhance(1 + 0.99 * share),
        "posterize": ImageOps.posterize(image, {0: 8, 7: 7, 30: 2}[level]),
        "solarize": ImageOps.solarize(image, {0: 255, 7: 196, 30: 0}[level]),
        "autocontrast": ImageOps.autocontrast(image),
        "equalize": ImageOps.equalize(image),
    }
    assert tuple(known) == OPERATIONS
    for name, expected in known.items():
        found = operate(name, image, level, sign, WIDE, FILL)
        np.testing.assert_array_equal(found, expected, err_msg=name)


def test_translation_moves_the_image() -> None:
    image = random_image(48, 48)
    pixels, moved = np.asarray(image), np.asarray(operate("translate_x", image, 15, 1, WIDE, FILL))
    np.testing.assert_array_equal(moved[:, :32], pixels[:, 16:])
    assert (moved[:, 32:] == 128).all()
    moved = np.asarray(operate("translate_y", image, 30, -1, RANDAUGMENT, FILL))  # 150 / 331
    np.testing.assert_array_equal(moved[22:], pixels[:26])


@pytest.mark.parametrize(("policy", "calls"), [("none", 0), ("trivial", 1), ("rand", 3)])
def test_policies_draw_operations_and_magnitudes(
    monkeypatch: pytest.MonkeyPatch, policy: str, calls: int
) -> None:
    seen: list[tuple[str, int, int]] = []

    def noted(
        name: str, image: Image.Image, level: int, sign: int, reach: object, fill: object
    ) -> Image.Image:
        assert reach == (WIDE if policy == "trivial" else RANDAUGMENT)
        assert fill == FILL
        seen.append((name, level, sign))
        return image

    monkeypatch.setattr(augment, "operate", noted)
    drawn(Augmentation(**STILL, policy=policy, rand_ops=3, rand_magnitude=12), random_image(), 700)
    assert len(seen) == 700 * calls
    if seen:
        names, levels, signs = zip(*seen)
        assert set(names) == set(OPERATIONS)
        assert set(levels) == (set(range(31)) if policy == "trivial" else {12})
        assert set(signs) == {1, -1}


# --- batches ---


def batch(count: int = 6) -> tuple[object, object]:
    """Images of one value each, their number, and as many classes."""
    values = torch.arange(count, dtype=torch.float32)
    return values[:, None, None, None].expand(count, 3, 16, 16), torch.arange(count)


@pytest.mark.parametrize("way", ["mixup", "cutmix"])
def test_mixing_keeps_one_of_labels_and_agrees_with_the_pixels(way: str) -> None:
    x, labels = batch()
    augmentation = Augmentation(**{way: 0.7})
    generator = torch.Generator().manual_seed(0)
    shares = set()
    for _ in range(50):
        mixed, soft = augmentation.mix(x, labels, 8, generator)
        assert (mixed.shape, soft.shape, soft.dtype) == (x.shape, (6, 8), torch.float32)
        torch.testing.assert_close(soft.sum(1), torch.ones(6))
        # the mean of an image's pixels is that of its classes' numbers
        torch.testing.assert_close(mixed.mean((1, 2, 3)), soft @ torch.arange(8.0))
        shares.add(round(float(soft[0, 0]), 4))
    assert len(shares) > 20
    assert torch.equal(x[:, 0, 0, 0], torch.arange(6.0))


def test_mixup_blends_and_cutmix_pastes() -> None:
    x, labels = batch(2)
    one_hot = torch.eye(2)[labels]
    blended, soft = mixup(x, one_hot, 1.0, np.random.default_rng(1))
    assert torch.equal(blended[0], torch.full((3, 16, 16), float(blended[0, 0, 0, 0])))
    assert float(blended[0, 0, 0, 0]) == pytest.approx(float(soft[0, 1]))
    pasted, soft = cutmix(x, one_hot, 1.0, np.random.default_rng(1))
    assert set(pasted[0].unique().tolist()) == {0.0, 1.0}
    rows, columns = torch.nonzero(pasted[0, 0], as_tuple=True)
    height, width = (int(i.max() - i.min()) + 1 for i in (rows, columns))
    assert height * width == len(rows)  # a rectangle
    assert float(soft[0, 1]) == height * width / 256


def test_cutmix_pastes_into_a_share_of_the_images_each_its_own_square() -> None:
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.integers(0, 256, (1000, 3, 32, 32))).float()
    mixed, target = cutmix(x, torch.eye(1000), 1.0, np.random.default_rng(1), chance=0.3)
    changed = (mixed != x).any(1)
    assert torch.equal(mixed.movedim(1, -1)[changed], x.roll(1, 0).movedim(1, -1)[changed])
    shares = target[torch.arange(1000), torch.arange(-1, 999)]  # of the image before
    assert torch.allclose(changed.float().mean((1, 2)), shares, atol=3 / 1024)
    assert torch.allclose(target.diag() + shares, torch.ones(1000))
    assert float((shares > 0).float().mean()) == pytest.approx(0.3, abs=0.04)
    assert shares.max() > 0.8
    assert len({tuple(each.nonzero()[0].tolist()) for each in changed if each.any()}) > 100


def test_images_are_mixed_from_a_share_of_the_run_until_another() -> None:
    x, labels = batch()
    augmentation = Augmentation(cutmix=1.0, mix_from=0.25, mix_until=0.5)
    mixed = [
        not torch.equal(augmentation.mix(x, labels, 6, torch.Generator(), share)[0], x)
        for share in (0.0, 0.24, 0.25, 0.49, 0.5)
    ]
    assert mixed == [False, False, True, True, False]


def test_a_cutout_is_a_square_of_the_mean_colour_cut_at_the_edges() -> None:
    image = Image.fromarray(np.zeros((24, 24, 3), np.uint8))
    sides = set()
    for pixels in drawn(Augmentation(**STILL, cutout=8), image, 400):
        rows, columns = np.nonzero(pixels[:, :, 0])
        height, width = int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1
        assert (pixels[rows, columns] == FILL).all()
        assert height * width == len(rows)
        assert 4 <= min(height, width) <= max(height, width) <= 8
        sides.add((height, width))
    assert {(8, 8), (4, 8), (8, 4)} <= sides


def test_the_same_generator_mixes_the_same_and_both_ways_come() -> None:
    x, labels = batch()
    augmentation = Augmentation(mixup=0.4, cutmix=1.0)
    runs = []
    for _ in range(2):
        generator = torch.Generator().manual_seed(3)
        runs.append([augmentation.mix(x, labels, 6, generator) for _ in range(20)])
    for (first, soft), (second, again) in zip(*runs):
        assert torch.equal(first, second)
        assert torch.equal(soft, again)
    pasted = [len(mixed[0].unique()) == 2 for mixed, _ in runs[0]]
    assert 3 < sum(pasted) < 17


def test_without_mixing_labels_are_certain() -> None:
    x, labels = batch()
    mixed, soft = Augmentation().mix(x, labels, 6, torch.Generator())
    assert mixed is x
    assert torch.equal(soft, torch.eye(6))


# --- data ---


def test_it_goes_to_json_and_back() -> None:
    augmentation = Augmentation(crop="pad", scale=(0.2, 0.9), policy="rand", mixup=0.2)
    assert Augmentation(**json.loads(json.dumps(asdict(augmentation)))) == augmentation


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"crop": "half"},
            "crop must be one of 'resized', 'pad', 'none', 'ssd', 'zoomed', not 'half'",
        ),
        ({"policy": "auto"}, "policy must be one of 'none', 'trivial', 'rand', not 'auto'"),
        ({"scale": (0, 1)}, "scale must be two rising numbers above 0 and up to 1"),
        ({"scale": (0.5, 0.2)}, "scale must be two rising numbers"),
        ({"scale": (0.5, 1.2)}, "scale must be two rising numbers"),
        ({"ratio": (float("nan"), 1)}, "ratio must be two rising numbers"),
        ({"scale": 0.5}, "scale must be two rising numbers .*, not 0.5"),
        ({"ratio": ("a", 1)}, "ratio must be two rising numbers"),
        ({"flip": 0.5}, "flip must be true or false or one of 'alternate', not 0.5"),
        ({"pad": 1.5}, "pad must be a whole number from 0 to 1024, not 1.5"),
        ({"erase": 1.5}, "erase must be a number from 0 to 1, not 1.5"),
        ({"mixup": -1}, "mixup must be a number from 0 to 100, not -1"),
        ({"rand_magnitude": 31}, "rand_magnitude must be a whole number from 0 to 30"),
    ],
)
def test_values_out_of_range(change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=f"augmentation {message}"):
        Augmentation(**change)


def test_images_too_small_to_pad() -> None:
    make: Callable[..., object] = Augmentation(crop="pad", pad=8).transform
    with pytest.raises(UserError, match="images of 8x20 cannot be padded by 8"):
        make((8, 20), SIZE)
