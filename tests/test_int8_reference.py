"""The quantised oracle: against its rules done by hand on whole numbers, and against the floats."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from mobilenetv2.architecture import SMALL_IMAGES, V1, Architecture
from mobilenetv2.checkpoint import Checkpoint
from mobilenetv2.errors import UserError
from mobilenetv2.folding import unfolded
from mobilenetv2.graph import layers
from mobilenetv2.heads import Classifier, Features
from mobilenetv2.int8 import Activation, Int8Checkpoint
from mobilenetv2.int8_layers import Int8Layer
from mobilenetv2.runtime import Int8Reference, Reference
from mobilenetv2.runtime.int8_reference import fixed_points, rescaled, stored

from .int8 import random_int8

SMALL = {"width_mult": 0.35, "head": Classifier(7), "resolution": (64, 64)}
VARIANTS = {
    "v2": Architecture(**SMALL),
    "same": Architecture(**SMALL, padding="same"),
    "stride 8": Architecture(**SMALL, output_stride=8),
    "relu6": Architecture(**SMALL, bottleneck="relu6", shortcut="none"),
    "no shortcut": Architecture(**SMALL, shortcut="none"),
    "v1": replace(V1, **SMALL),
    "32 px": replace(SMALL_IMAGES, width_mult=0.35, head=Classifier(10)),
    "grey": Architecture(**SMALL, in_channels=1),
    "features": Architecture(**{**SMALL, "head": Features()}),
}
KINDS = [("nearest", False), ("nearest", True), ("twice", False), ("twice", True)]


def variant(name: str, rounding: str = "nearest", unsigned: bool = False) -> Int8Checkpoint:
    return random_int8(rounding, unsigned, **vars(VARIANTS[name]))


def image(model: Int8Checkpoint, count: int = 1) -> np.ndarray:
    size = (count, *model.architecture.resolution, model.architecture.in_channels)
    return np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)


def as_floats(model: Int8Checkpoint) -> Checkpoint:
    """The network that the integers stand for."""
    arrays: dict[str, np.ndarray] = {}
    for step in layers(model.architecture):
        if step.weight:
            layer, source = model.layers[step.name], step.sources[0]
            image = source == "image"
            unit = model.image_scale if image else model.activations[source].scale
            scale = layer.scale.astype(np.float64)
            shaped = scale.reshape(-1, *[1] * (layer.weight.ndim - 1))
            weight = (layer.weight.astype(np.float64) - layer.zero_point) * shaped
            arrays |= unfolded(step, weight, layer.bias * unit * scale)
    return Checkpoint(model.architecture, arrays, (), model.preprocessing)


@pytest.mark.parametrize(("rounding", "unsigned"), KINDS, ids=str)
@pytest.mark.parametrize("name", VARIANTS)
def test_each_layer_is_within_a_step_of_its_floats(name, rounding, unsigned) -> None:
    """Fed with what the integers stand for, the float network's next layer gives the same."""
    model = variant(name, rounding, unsigned)
    run, floats = Int8Reference(model), Reference(as_floats(model), np.float64)
    x = image(model)
    real = {"image": (x.astype(np.float64) - model.image_zero_points[0]) * model.image_scale}
    real |= {n: run.real(n, v) for n, v in run.run(x, tuple(model.activations)).items()}
    # of a step; the first of two roundings is at a 16th or finer, of an average over 4 at half
    for step in layers(model.architecture):
        if step.name not in model.activations:
            continue
        sources = [
            real[s] if s in real else floats._step(projected(model, s), [real[before(model, s)]])
            for s in step.sources
        ]
        most = 0.51 if rounding == "nearest" else 0.76 if step.kind == "pool" else 0.57
        wanted = floats._step(step, [source.astype(np.float64) for source in sources])
        out = model.activations[step.name]
        held = np.clip(wanted, *(out.scale * (end - out.zero_point) for end in (0, 255)))
        assert np.abs(real[step.name] - held).max() < most * out.scale, step.name


def projected(model: Int8Checkpoint, name: str):  # type: ignore[no-untyped-def]
    return next(step for step in layers(model.architecture) if step.name == name)


def before(model: Int8Checkpoint, name: str) -> str:
    return projected(model, name).sources[0]


@pytest.mark.parametrize(("rounding", "unsigned"), KINDS, ids=str)
def test_logits_are_near_those_of_the_floats(rounding, unsigned) -> None:
    model = variant("same", rounding, unsigned)
    found, wanted = (
        Int8Reference(model)(image(model)),
        Reference(as_floats(model))(image(model)),
    )
    assert found.shape == (1, 7)
    assert found.dtype == np.float32
    assert np.abs(found - wanted).max() < 0.3 * np.abs(wanted).max()


@pytest.mark.parametrize("size", [(33, 17), (1, 1), (64, 96)], ids=str)
def test_other_sizes_and_batches(size, pixels) -> None:
    run = Int8Reference(variant("same"))
    x = pixels(3, *size, 3)
    together = run(x)
    for index in range(3):
        np.testing.assert_array_equal(run(x[index : index + 1])[0], together[index])


# --- rounding ---


def by_hand(x: int, factor: float) -> int:
    """gemmlowp's two steps on Python's whole numbers."""
    exponent = 0
    mantissa = Fraction(factor)
    while mantissa >= 1:
        mantissa, exponent = mantissa / 2, exponent + 1
    while mantissa < Fraction(1, 2):
        mantissa, exponent = mantissa * 2, exponent - 1
    fixed = int(mantissa * 2**31 + Fraction(1, 2))
    if fixed == 2**31:
        fixed, exponent = fixed // 2, exponent + 1
    product = (x << max(exponent, 0)) * fixed
    nudge = 2**30 if product >= 0 else 1 - 2**30
    high = abs(product + nudge) // 2**31 * (1 if product + nudge >= 0 else -1)  # as C divides
    right = max(-exponent, 0)
    remainder = high & ((1 << right) - 1)
    threshold = ((1 << right) - 1 >> 1) + (high < 0)
    return (high >> right) + (remainder > threshold)


def test_twice_rounding_on_whole_numbers() -> None:
    rng = np.random.default_rng(0)
    factors = [*(10 ** rng.uniform(-7, 0.9, 200)), 0.5, 0.25, 2**-7, 1.0, 2.0, 1 - 2**-40, 3.3e-7]
    for factor in factors:
        sums = np.concatenate(
            [
                rng.integers(-(2**26), 2**26, 20),
                np.arange(-9, 10),
                (np.arange(-5, 5) + 0.5) / factor,
            ]
        ).astype(np.int64)
        found = rescaled(sums, *fixed_points(factor))
        assert found.tolist() == [by_hand(int(x), factor) for x in sums], factor


def test_nearest_rounding() -> None:
    """Halves to even; what lies beyond goes to the ends."""
    out = Activation(1.0, 10)
    halves = np.array([-0.5, 0.5, 1.5, 2.5, -1.5, -99, 999], np.float32)
    assert stored(halves, out).tolist() == [10, 10, 12, 12, 8, 0, 255]


def test_relu6_ends_at_the_code_of_6() -> None:
    """QT-05: also where 255 stands for more."""
    values = np.array([-3, 0, 2.4, 59.6, 60.4, 61, 9999], np.float32)
    assert stored(values, Activation(0.1, 3), "relu6").tolist() == [3, 3, 5, 63, 63, 63, 63]
    assert stored(values, Activation(0.1, 3), "relu").tolist() == [3, 3, 5, 63, 63, 64, 255]
    assert stored(values, Activation(6 / 255, 0), "relu6").tolist()[-1] == 255


@pytest.mark.parametrize(("rounding", "unsigned"), KINDS, ids=str)
def test_relu6_stays_within_its_range(rounding, unsigned) -> None:
    """QT-05, in a network whose scales leave room above 6."""
    model = variant("same", rounding, unsigned)
    roomy = {name: Activation(0.04, 5) for name in model.activations}
    model = replace(model, activations={**model.activations, **roomy})
    run = Int8Reference(model)
    steps = [step.name for step in layers(model.architecture) if step.activation == "relu6"]
    for name, values in run.run(image(model), steps).items():
        assert values.min() >= 5, name
        assert values.max() <= 155, name


@pytest.mark.parametrize("weight", [127, -127, -128])
@pytest.mark.parametrize("rounding", ["nearest", "twice"])
def test_the_largest_sums(rounding, weight) -> None:
    """QT-02: pixels of 255 under weights at the ends: sums that 16 bits cannot hold, to the last
    unit.
    """
    model = variant("same", rounding)
    stem = model.layers["features.0.0"]
    count = 27
    bias = np.arange(len(stem.bias), dtype=np.int32) - 255 * weight * count + 1
    changed = Int8Layer(np.full_like(stem.weight, weight), np.ones_like(stem.scale), bias)
    model = replace(
        model,
        layers={**model.layers, "features.0.0": changed},
        image_scale=1.0,
        image_zero_points=(0, 0, 0),
        activations={**model.activations, "features.0.0": Activation(1.0, 0)},
    )
    white = np.full((1, 64, 64, 3), 255, np.uint8)
    found = Int8Reference(model).run(white, ["features.0.0"])["features.0.0"]
    wanted = np.minimum(np.arange(len(bias)) + 1, 6)  # relu6
    assert (found[0, 5, 5] == wanted).all()
    out = Int8Reference(extreme(model, weight))(white)
    assert np.isfinite(out).all()


def extreme(model: Int8Checkpoint, weight: int) -> Int8Checkpoint:
    found = {
        name: replace(layer, weight=np.full_like(layer.weight, weight))
        for name, layer in model.layers.items()
    }
    return replace(model, layers=found)


def test_the_border_is_the_zero_point(pixels) -> None:
    """An image of zero points gives the bias everywhere, at the border too."""
    model = variant("same")
    stem = model.layers["features.0.0"]
    x = np.full((1, 32, 32, 3), 127, np.uint8)
    found = Int8Reference(model).run(x, ["features.0.0"])["features.0.0"]
    assert (found == found[:, :1, :1]).all()
    out = model.activations["features.0.0"]
    factor = (model.image_scale * stem.scale.astype(np.float64) / out.scale).astype(np.float32)
    np.testing.assert_array_equal(found[0, 0, 0], stored(stem.bias * factor, out, "relu6"))


def test_zero_points_of_each_channel() -> None:
    model = replace(variant("same"), image_zero_points=(10, 20, 30))
    x = np.broadcast_to(np.array([10, 20, 30], np.uint8), (1, 32, 32, 3))
    found = Int8Reference(model).run(x, ["features.0.0"])["features.0.0"]
    assert (found == found[:, :1, :1]).all()


def test_sums_of_scales_that_differ_eightfold(pixels) -> None:
    """QT-06: a step more of the shortcut is eight of the sum, or an eighth."""
    model = variant("same", "twice")
    step = next(step for step in layers(model.architecture) if step.kind == "add")
    shortcut, projection = step.sources
    inputs = [pixels(1, 8, 8, 8), pixels(1, 8, 8, 8, seed=1)]
    for one, other in ((0.8, 0.1), (0.1, 0.8), (0.1, 0.1)):
        scales = {
            shortcut: Activation(one, 100),
            projection: Activation(other, 140),
            step.name: Activation(0.9, 128),
        }
        changed = replace(model, activations={**model.activations, **scales})
        found = Int8Reference(changed)._add(step, inputs)
        wanted = (inputs[0] - 100.0) * one + (inputs[1] - 140.0) * other
        exact = np.clip(wanted / 0.9 + 128, 0, 255)
        assert np.abs(found - exact).max() < 0.51


def test_floats_are_rounded_to_pixels(pixels) -> None:
    model = variant("same")
    run, x = Int8Reference(model), pixels(2, 32, 32, 3)
    normal = model.preprocessing.normalize(x)
    np.testing.assert_array_equal(run(normal), run(x))
    np.testing.assert_array_equal(run(normal.astype(np.float64) + 0.001), run(x))
    np.testing.assert_array_equal(run(np.full_like(normal, 3)), run(np.full_like(x, 255)))


def test_what_cannot_run_is_refused(pixels) -> None:
    run = Int8Reference(variant("same"))
    with pytest.raises(UserError, match="normalised"):
        run(np.full((1, 8, 8, 3), 255, np.float32))
    with pytest.raises(UserError, match=r"features\.99; stored are features\.0\.0, "):
        run.run(pixels(1, 32, 32, 3), ["features.99"])
    with pytest.raises(UserError, match=r"no layer stores features\.3\.conv\.2"):
        run.run(pixels(1, 32, 32, 3), ["features.3.conv.2"])


@pytest.mark.parametrize(
    ("rounding", "changes", "obstacle"),
    [
        ("twice", {"shortcut": "expansion"}, r"\(add\) has no int8 kernel"),
        ("nearest", {"bottleneck": "relu6"}, "limited before a sum that is rounded once"),
    ],
)
def test_networks_without_int8_arithmetic_are_refused(rounding, changes, obstacle) -> None:
    with pytest.raises(UserError, match=obstacle):
        Int8Reference(random_int8(rounding, **{**SMALL, **changes}))
