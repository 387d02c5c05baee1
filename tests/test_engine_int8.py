"""Integers on the native runtime: the oracle's bytes, whatever the instruction set or the threads."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from mobilenetv2 import formats
from mobilenetv2.architecture import Architecture
from mobilenetv2.errors import UserError
from mobilenetv2.graph import network
from mobilenetv2.heads import Classifier
from mobilenetv2.int8 import Int8Checkpoint
from mobilenetv2.runtime import Engine, Int8Reference, _native
from mobilenetv2.runtime.steps import group
from mobilenetv2.runtime.timing import measure

from .conftest import random_checkpoint
from .int8 import random_int8
from .test_int8_reference import KINDS, VARIANTS, extreme, variant

ISAS = _native.byte_kernel_names()
FLOAT_TARGETS = {"avxvnni": "avx2", "avx512vnni": "avx512", "dotprod": "neon", "i8mm": "neon"}
PUBLISHED = ["tf2_mobilenet_v2_1.0_224_ptq", "mobilenet_v2_1.0_224_quant"]


@cache
def model(name: str, rounding: str, unsigned: bool) -> Int8Checkpoint:
    return variant(name, rounding, unsigned)


def image(channels: int, count: int, height: int, width: int) -> np.ndarray:
    shape = (count, height, width, channels)
    return np.random.default_rng(height * 1000 + width).integers(0, 256, shape, dtype=np.uint8)


@cache
def answer(name: str, rounding: str, unsigned: bool, shape: tuple[int, int, int]) -> np.ndarray:
    found = model(name, rounding, unsigned)
    return Int8Reference(found)(image(found.architecture.in_channels, *shape))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("rounding", "unsigned"), KINDS, ids=str)
@pytest.mark.parametrize("name", VARIANTS)
def test_the_oracles_bytes(name, rounding, unsigned, isa) -> None:
    found = model(name, rounding, unsigned)
    engine = Engine(found, 1, isa)
    for shape in ((2, 33, 17), (1, 1, 1), (1, 97, 65), (1, 40, 48)):
        pixels = image(found.architecture.in_channels, *shape)
        np.testing.assert_array_equal(engine(pixels), answer(name, rounding, unsigned, shape))


@pytest.mark.parametrize("weight", [127, -127, -128])
@pytest.mark.parametrize("isa", ISAS)
def test_the_largest_sums(isa, weight) -> None:
    """White pixels under weights at the ends: what 16-bit sums would cut off."""
    white = np.full((1, 64, 64, 3), 255, np.uint8)
    for rounding in ("nearest", "twice"):
        found = extreme(model("same", rounding, False), weight)
        np.testing.assert_array_equal(Engine(found, 1, isa)(white), Int8Reference(found)(white))


@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize("isa", ISAS)
def test_results_that_are_halves(isa, unsigned) -> None:
    """Scales that are powers of two: a quarter of the results are halves, which float32 cannot
    round twice.
    """
    model = random_int8("twice", unsigned, classes=5, resolution=(48, 48), width_mult=0.35)
    layers = {
        name: replace(layer, scale=np.full_like(layer.scale, 2.0**-6))
        for name, layer in model.layers.items()
    }
    scales = {name: replace(out, scale=2.0**-4) for name, out in model.activations.items()}
    halves = replace(model, layers=layers, image_scale=2.0**-4, activations=scales)
    pixels = image(3, 2, 48, 31)
    names = [step.output for step in group(network(model.architecture)).steps][:-1]
    stored = Int8Reference(halves).run(pixels, names)
    assert all(len(np.unique(values)) > 2 for values in stored.values())
    engine = Engine(halves, 1, isa)
    for name, values in engine.outputs(pixels, names).items():
        codes = np.rint(values / scales[name].scale) + scales[name].zero_point
        np.testing.assert_array_equal(codes, stored[name], err_msg=name)


@pytest.mark.parametrize("isa", ISAS)
def test_odd_channels(isa) -> None:
    """Tensors whose channels fill neither a vector nor a quad of bytes."""
    changes = {"width_mult": 0.37, "divisor": 1, "min_channels": 1, "stem_channels": 11}
    found = random_int8(classes=5, resolution=(48, 48), **changes)
    pixels = image(3, 2, 48, 31)
    np.testing.assert_array_equal(Engine(found, 1, isa)(pixels), Int8Reference(found)(pixels))


@pytest.mark.parametrize(("rounding", "unsigned"), KINDS, ids=str)
def test_threads_and_batches_give_the_same_bytes(rounding, unsigned) -> None:
    found = model("v2", rounding, unsigned)
    pixels = image(3, 5, 96, 80)
    alone = np.concatenate([Engine(found, 1)(pixels[i : i + 1]) for i in range(5)])
    for threads in (1, 2, 3, 4, 8):
        engine = Engine(found, threads)
        np.testing.assert_array_equal(engine(pixels), alone)
        np.testing.assert_array_equal(engine(pixels, alone=True), alone)


def test_floats_become_pixels() -> None:
    found = model("v2", "nearest", False)
    pixels = image(3, 1, 32, 32)
    engine = Engine(found, 1)
    np.testing.assert_array_equal(engine(found.preprocessing.normalize(pixels)), engine(pixels))


@pytest.mark.parametrize(("rounding", "unsigned"), KINDS, ids=str)
def test_features_are_the_stored_averages(rounding, unsigned) -> None:
    found = model("v2", rounding, unsigned)
    pixels = image(3, 2, 64, 64)
    oracle = Int8Reference(found)
    wanted = oracle.real("pool", oracle.run(pixels, ["pool"])["pool"]).reshape(2, -1)
    np.testing.assert_array_equal(Engine(found, 2).features(pixels), wanted)


def test_memory_of_the_network_at_224() -> None:
    floats = random_checkpoint(width_mult=1.0, classes=1000, resolution=(224, 224))
    integers = random_int8(width_mult=1.0, classes=1000, resolution=(224, 224))
    for threads in (1, 2):
        assert Engine(floats, threads).activation_bytes(224, 224) <= 1_000_000
        assert Engine(integers, threads).activation_bytes(224, 224) <= 300_000
    assert Engine(integers, 1).weight_bytes < Engine(floats, 1).weight_bytes / 3.4


def test_instruction_sets_of_integers_mean_their_floats(monkeypatch) -> None:
    floats = random_checkpoint(**vars(Architecture(width_mult=0.35, head=Classifier(5))))
    for isa in ISAS:
        monkeypatch.setenv("MOBILENETV2_ISA", isa)
        assert Engine(model("v2", "nearest", False), 1).isa == isa
        assert Engine(floats, 1).isa == FLOAT_TARGETS.get(isa, isa)


@pytest.mark.parametrize("isa", ISAS)
def test_timing_knows_the_peak_of_bytes(isa) -> None:
    timing = measure(Engine(model("v2", "nearest", False), 1, isa), 64, 64, runs=2)
    assert timing.isa == isa
    assert timing.peak_gmacs_per_second > 0
    assert np.isfinite(timing.peak_share)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("unsigned", [False, True])
def test_a_shortcut_around_a_bottleneck_with_a_relu6(isa, unsigned) -> None:
    """Rounded twice and never negative, but not without its shortcut."""
    checkpoint = random_int8(
        "twice", unsigned, bottleneck="relu6", width_mult=0.35, classes=5, resolution=(32, 32)
    )
    x = image(3, 2, 32, 32)
    np.testing.assert_array_equal(Engine(checkpoint, 1, isa)(x), Int8Reference(checkpoint)(x))


MODES = _native.RoundingMode


def rounding_of(mode: MODES, **changes: float) -> _native.Rounding:
    rounding = _native.Rounding()
    rounding.mode, rounding.low, rounding.high = mode, 0.0, 255.0
    for name, value in changes.items():
        setattr(rounding, name, value)
    return rounding


@pytest.mark.parametrize(
    ("rounding", "factors", "complaint"),
    [
        (rounding_of(MODES.ONCE), (), "not those of the rounding mode"),
        (rounding_of(MODES.ONCE), ("fraction", "power"), "not those of the rounding mode"),
        (rounding_of(MODES.TWICE), ("factor",), "not those of the rounding mode"),
        (rounding_of(MODES.TWICE), ("fraction",), "not those of the rounding mode"),
        (rounding_of(MODES.ONCE_SATURATING, high=200.0), ("factor",), "limits of a byte"),
        (rounding_of(MODES.ONCE_SATURATING, zero=3), ("factor",), "limits of a byte"),
        (
            rounding_of(MODES.TWICE_NON_NEGATIVE, zero=3, low=-3.0, high=252.0),
            ("fraction", "power"),
            "zero point 0",
        ),
        (rounding_of(MODES.ONCE, low=np.nan), ("factor",), "limits of a result are no bytes"),
        (rounding_of(MODES.ONCE, high=256.0), ("factor",), "limits of a result are no bytes"),
        (rounding_of(MODES.ONCE, zero=1), ("factor",), "limits of a result are no bytes"),
        (rounding_of(MODES.ONCE, input_zero=256), ("factor",), "a zero point is no byte"),
        (rounding_of(MODES.ONCE, shortcut_factor=np.inf), ("factor",), "a factor is out of range"),
        (
            rounding_of(MODES.TWICE, product_low=np.nan),
            ("fraction", "power"),
            "limits of a product",
        ),
    ],
)
def test_contradictory_roundings_are_refused(rounding, factors, complaint) -> None:
    network = _native.ByteNetwork("scalar", 1)
    dtypes = {"factor": np.float32, "fraction": np.float64, "power": np.float64}
    given = {name: np.ones(4, dtypes[name]) for name in factors}
    with pytest.raises(ValueError, match=complaint):
        network.add_matrix(
            np.ones((4, 8), np.int8), np.zeros(4, np.int32), rounding=rounding, **given
        )


@pytest.mark.parametrize("factor", [np.nan, np.inf, 1e30])
def test_factors_that_are_no_numbers_are_refused(factor: float) -> None:
    network = _native.ByteNetwork("scalar", 1)
    factors = np.array([1, 1, factor, 1], np.float32)
    with pytest.raises(ValueError, match="a factor is out of range"):
        network.add_matrix(np.ones((4, 8), np.int8), np.zeros(4, np.int32), factor=factors)


def test_what_cannot_run_is_refused() -> None:
    with pytest.raises(UserError, match="isa must be one"):
        Engine(model("v2", "nearest", False), 1, "avx2" if "neon" in ISAS else "neon")
    with pytest.raises(UserError, match=r"cannot run in int8: features\.4\.add \(add\)"):
        Engine(random_int8("twice", shortcut="expansion", width_mult=0.35), 1)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files_give_the_reference_kernels_logits(shared, name) -> None:
    """Every logit of 32 images, to the last bit; of fewer images on other instruction sets."""
    found = formats.read(shared(f"models/{name}.tflite"))
    pixels = np.load(shared("reference/imagenet/inputs.first32.npz"))["images"]
    wanted = np.load(shared(f"reference/imagenet/{name}.first32.npz"))["ref_logits"]
    np.testing.assert_array_equal(Engine(found, 2)(pixels), wanted)
    for isa in ISAS[:-1]:
        np.testing.assert_array_equal(Engine(found, 2, isa)(pixels[:2]), wanted[:2])
