"""The native runtime against the NumPy oracle, for every instruction set of this machine."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from mobilenetv2.architecture import SMALL_IMAGES, V1, Architecture, Stage
from mobilenetv2.errors import ArchitectureError, UserError
from mobilenetv2.formats import read
from mobilenetv2.graph import layers
from mobilenetv2.heads import Classifier, DeepLab
from mobilenetv2.model import Model
from mobilenetv2.processors import usable_processors
from mobilenetv2.runtime import Engine, Reference, _native

from .conftest import random_checkpoint

ISAS = _native.kernel_names()
FAST = ISAS[-1]
CHEAP_SIZES = [(1, 1), (2, 3), (1, 50), (7, 7), (33, 17), (32, 32), (31, 64), (64, 5), (65, 65)]
SIZES = [*CHEAP_SIZES, (96, 96), (97, 225), (129, 130), (160, 40), (200, 199), (224, 224)]

VARIANTS = {
    "0.35": Architecture(width_mult=0.35, head=Classifier(7)),
    "0.5 same": Architecture(width_mult=0.5, head=Classifier(7), padding="same", bn_epsilon=1e-3),
    "1.0": Architecture(head=Classifier(1001)),
    "1.4 same": Architecture(width_mult=1.4, head=Classifier(3), padding="same"),
    "stride 8 same": Architecture(
        width_mult=0.35, head=Classifier(7), output_stride=8, padding="same"
    ),
    "stride 16": Architecture(width_mult=0.5, head=Classifier(7), output_stride=16),
    "relu6": Architecture(width_mult=0.35, head=Classifier(7), bottleneck="relu6"),
    "expansion": Architecture(width_mult=0.35, head=Classifier(7), shortcut="expansion"),
    "no shortcut": Architecture(width_mult=0.35, head=Classifier(7), shortcut="none"),
    "v1": replace(V1, width_mult=0.25, head=Classifier(7)),
    "v1 same": replace(V1, width_mult=0.5, head=Classifier(7), padding="same"),
    "32 px": replace(SMALL_IMAGES, width_mult=0.5, head=Classifier(10)),
    "grey": Architecture(width_mult=0.35, head=Classifier(7), in_channels=1),
    "features": Architecture(width_mult=0.35, head="features"),
    "no last": Architecture(width_mult=0.35, head="features", last_channels=None),
    "odd channels": Architecture(
        width_mult=0.37, head=Classifier(5), divisor=1, min_channels=1, stem_channels=11
    ),
    "stem alone": Architecture(
        stages=(Stage(1, 8, 1, 1),), head="features", last_channels=None, stem_channels=8
    ),
    "half expansion": Architecture(
        stages=(Stage(0.5, 24, 2, 2), Stage(3, 24, 3, 1)), width_mult=1.0, head=Classifier(4)
    ),
    "deeplabv3": Architecture(width_mult=0.35, head=DeepLab(5), output_stride=16, padding="same"),
    "aspp": Architecture(width_mult=0.35, head=DeepLab(5, aspp=True), output_stride=8),
}


@cache
def reference(variant: str) -> Reference:
    return Reference(random_checkpoint(VARIANTS[variant]))


@cache
def answer(variant: str, count: int, height: int, width: int) -> np.ndarray:
    return reference(variant)(image(variant, count, height, width))


def image(variant: str, count: int, height: int, width: int) -> np.ndarray:
    shape = (count, height, width, VARIANTS[variant].in_channels)
    return np.random.default_rng(height * 1000 + width).integers(0, 256, shape, dtype=np.uint8)


@cache
def engine(variant: str, isa: str = FAST, threads: int = 1) -> Engine:
    return Engine(reference(variant).checkpoint, threads, isa)


def tolerance(variant: str) -> float:
    """Maps end in ReLU6, whose range is 6; logits of these random models are about 1."""
    return 6e-4 if VARIANTS[variant].head.task == "features" else 1e-4


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_the_reference(variant, isa) -> None:
    heavy = isa == "scalar" or variant in ("1.0", "1.4 same", "aspp", "v1 same")
    for height, width in CHEAP_SIZES if heavy else SIZES:
        count = 1 + height % 3
        found = engine(variant, isa)(image(variant, count, height, width))
        wanted = answer(variant, count, height, width)
        assert found.shape == wanted.shape
        assert found.dtype == np.float32
        assert np.abs(found - wanted).max() < tolerance(variant), (height, width)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    ("variant", "height", "width"),
    [
        ("1.0", 224, 224),
        ("1.4 same", 97, 225),
        ("0.35", 513, 513),
        ("v1 same", 96, 160),
        ("0.35", 224, 448),
    ],
)
def test_larger_images(variant, height, width, isa) -> None:
    found = engine(variant, isa, 2)(image(variant, 1, height, width))
    assert np.abs(found - answer(variant, 1, height, width)).max() < 1e-4


@pytest.mark.parametrize("isa", ISAS)
def test_the_padding_rules_agree_where_every_stride_2_input_is_odd(isa) -> None:
    same = random_checkpoint(width_mult=0.35, classes=7, padding="same")
    symmetric = replace(same, architecture=replace(same.architecture, padding="symmetric"))
    engines = Engine(same, 1, isa), Engine(symmetric, 1, isa)
    for side in (225, 193, 97, 33, 224):
        one, other = (run(image("0.35", 1, side, side)) for run in engines)
        difference = np.abs(one - other).max()
        assert difference > 1e-2 if side == 224 else difference < 1e-5, side


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("variant", ["0.35", "grey", "0.5 same", "deeplabv3"])
def test_float_images(variant, isa) -> None:
    shape = (2, 61, 44, VARIANTS[variant].in_channels)
    x = np.random.default_rng(1).uniform(-1, 1, shape)
    assert np.abs(engine(variant, isa)(x) - reference(variant)(x)).max() < 1e-4


def test_the_border_is_exact() -> None:
    """An image of the value that normalises to nearly zero has nearly no border: a padding of 0
    would show.
    """
    checkpoint = replace(
        random_checkpoint(width_mult=0.35, classes=7),
        preprocessing=replace(
            random_checkpoint(width_mult=0.35).preprocessing,
            mean=(0.2, 0.5, 0.8),
            std=(0.3, 0.2, 0.1),
        ),
    )
    x = np.broadcast_to(np.array([51, 127, 204], np.uint8), (1, 40, 40, 3))
    assert np.abs(Engine(checkpoint, 1)(x) - Reference(checkpoint)(x)).max() < 1e-4


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("variant", ["0.5 same", "stride 8 same", "expansion", "v1", "deeplabv3"])
def test_the_same_bits_for_any_number_of_threads_and_any_batch(variant, isa) -> None:
    for height, width in [(33, 17), (96, 80)]:
        x = image(variant, 11, height, width)
        wanted = engine(variant, isa)(x)
        for threads in (1, 2, 3, 4, 8):
            run = engine(variant, isa, threads)
            assert np.array_equal(run(x), wanted)
            assert np.array_equal(run(x[4:5]), wanted[4:5])
            assert np.array_equal(run(x[:3]), wanted[:3])


@pytest.mark.parametrize(
    "size", [(513, 513), (512, 512), (500, 375), (641, 361), (33, 33), (31, 47)], ids=str
)
def test_scores_of_each_pixel_have_the_images_size(size) -> None:
    x = image("deeplabv3", 1, *size)
    scores = engine("deeplabv3", FAST, 2)(x)
    assert scores.shape == (1, *size, 5)
    if max(size) < 100:
        assert np.abs(scores - reference("deeplabv3")(x)).max() < 1e-4


def test_strange_arrays() -> None:
    run = engine("0.35")
    x = image("0.35", 4, 40, 50)
    wanted = run(x)
    views = {
        "negative strides": (x[::-1, ::-1, ::-1], run(np.ascontiguousarray(x[::-1, ::-1, ::-1]))),
        "every second": (np.repeat(x, 2, axis=2)[:, :, ::2], wanted),
        "channels first, turned": (
            np.ascontiguousarray(x.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1),
            wanted,
        ),
        "Fortran order": (np.asfortranarray(x), wanted),
        "one image, repeated": (
            np.broadcast_to(x[:1], (3, 40, 50, 3)),
            np.repeat(wanted[:1], 3, axis=0),
        ),
    }
    locked = x.copy()
    locked.setflags(write=False)
    views["read-only"] = (locked, wanted)
    for name, (view, expected) in views.items():
        assert np.array_equal(run(view), expected), name


@pytest.mark.parametrize(
    ("images", "complaint"),
    [
        ([[1]], "NumPy array"),
        (np.zeros((8, 8, 3), np.uint8), "must be"),
        (np.zeros((1, 3, 8, 8), np.uint8), "must be"),
        (np.zeros((0, 8, 8, 3), np.uint8), "at least 1"),
        (np.zeros((1, 8, 8, 3), np.int32), "int32"),
        (np.zeros((1, 8, 0, 3), np.uint8), "at least 1"),
        (np.zeros((1, 8, 8, 1), np.uint8), "N, H, W, 3"),
        (np.zeros((1, 8, 8, 3), bool), "bool"),
        (np.zeros((1, 8, 8, 3), np.float16), "float16"),
        (np.zeros((1, 8, 8, 3), ">f4"), ">f4"),
        (np.full((1, 8, 8, 3), np.nan, np.float32), "NaN"),
        (np.full((1, 8, 8, 3), -np.inf, np.float64), "infinity"),
        (np.full((1, 8, 8, 3), 255, np.float32), "normalised"),
    ],
)
def test_wrong_input_is_refused(images, complaint) -> None:
    with pytest.raises(UserError, match=complaint):
        engine("0.35")(images)


def test_wrong_settings_are_refused(monkeypatch) -> None:
    checkpoint = reference("0.35").checkpoint
    for threads in (0, -1, 1.5, True, "2", 1 << 20):
        with pytest.raises(UserError, match="threads"):
            Engine(checkpoint, threads)  # type: ignore[arg-type]
    for isa in ("sse9", "AVX2", "", 2):
        with pytest.raises(UserError, match=f"isa.*{isa}"):
            Engine(checkpoint, isa=isa)  # type: ignore[arg-type]
    monkeypatch.setenv("MOBILENETV2_ISA", "mmx")
    with pytest.raises(UserError, match="MOBILENETV2_ISA.*mmx"):
        Engine(checkpoint)
    monkeypatch.setenv("MOBILENETV2_ISA", "")
    assert Engine(checkpoint).isa == FAST
    monkeypatch.setenv("MOBILENETV2_ISA", "scalar")
    assert Engine(checkpoint).isa == "scalar"
    assert Engine(checkpoint, isa=FAST).isa == FAST
    with pytest.raises(ArchitectureError):
        engine("0.35").activation_bytes(0, 5)


def test_the_best_instruction_set_and_all_processors_by_default(monkeypatch) -> None:
    monkeypatch.delenv("MOBILENETV2_ISA", raising=False)
    run = Model(reference("0.35").checkpoint).engine
    assert run.isa == FAST
    assert run.threads == usable_processors()
    assert Model(reference("0.35").checkpoint, threads=3, isa="scalar").engine.threads == 3


def test_activation_memory() -> None:
    """One operator after another cannot do with less than 6.0 MB: 112 x 112 x 96 in, 56 x 56 x 96
    out.
    """
    assert engine("1.0").activation_bytes(224, 224) <= 1_000_000


def test_the_profile_covers_the_network() -> None:
    steps = engine("0.35").profile(image("0.35", 1, 96, 96))
    names = [layer.name for layer in layers(VARIANTS["0.35"], 96, 96)]
    assert steps[0][0] == names[0]
    assert steps[-1][1] == names[-1]
    assert [names.index(first) for first, *_ in steps[1:]] == [
        names.index(last) + 1 for _, last, *_ in steps[:-1]
    ]
    assert all(milliseconds >= 0 for *_, milliseconds in steps)
    of_floats = engine("0.35").profile(np.zeros((9, 96, 96, 3), np.float32))
    assert [names for *names, _ in of_floats] == [names for *names, _ in steps]


def test_published_logits(shared) -> None:
    name = "tf2_mobilenet_v2_1.0_224_ptq"
    pixels = np.load(shared("reference/imagenet/inputs.first32.npz"))["images"]
    wanted = np.load(shared(f"reference/imagenet/{name}.first32.npz"))["float_logits"]
    checkpoint = read(shared(f"models/{name}.tflite"), int8=False)
    for isa in ISAS if FAST != "scalar" else ():
        count = 2 if isa == "scalar" else 32
        assert np.abs(Engine(checkpoint, isa=isa)(pixels[:count]) - wanted[:count]).max() < 1e-3


@pytest.mark.parametrize("reserved", [0, 1 << 19, 1 << 20])  # of 900,000 weights
def test_weights_lie_anywhere(monkeypatch: pytest.MonkeyPatch, reserved: int) -> None:
    """In one piece of memory while there is room, then each layer's in its own."""
    checkpoint = random_checkpoint(width_mult=0.35, classes=400)
    pixels = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), np.uint8)
    expected = Engine(checkpoint)(pixels)
    monkeypatch.setattr("mobilenetv2.runtime.packing.matrix_weights", lambda _: reserved)
    np.testing.assert_array_equal(Engine(checkpoint)(pixels), expected)
