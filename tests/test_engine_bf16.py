"""The native runtime in bfloat16 against its NumPy oracle, for every instruction set of this machine."""

from __future__ import annotations

import pickle
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from PIL import Image

import mobilenetv2
from mobilenetv2.architecture import Architecture, Stage
from mobilenetv2.cli import run
from mobilenetv2.errors import UserError
from mobilenetv2.graph import layers, network
from mobilenetv2.heads import SSD, Classifier, DeepLab, SSDLite
from mobilenetv2.images import Preprocessing
from mobilenetv2.runtime import BF16Reference, Engine, Reference, _native
from mobilenetv2.runtime.bf16_packing import rounded, rounded_taps

from .conftest import random_checkpoint
from .int8 import random_int8
from .test_random_architectures import answers, random_architecture, random_images

ISAS = _native.bf16_kernel_names()
FAST = ISAS[-1]

VARIANTS = {
    "plain": Architecture(width_mult=0.35, head=Classifier(7)),
    "wide": Architecture(width_mult=1.0, head=Classifier(1001), padding="same"),
    "expansion": Architecture(width_mult=0.35, head=Classifier(7), shortcut="expansion"),
    "grey": Architecture(width_mult=0.35, head="features", in_channels=1),
    "odd channels": Architecture(
        width_mult=0.37, head=Classifier(5), divisor=1, min_channels=1, stem_channels=11
    ),
    "half expansion": Architecture(
        stages=(Stage(0.5, 24, 2, 2), Stage(3, 24, 3, 1)), width_mult=1.0, head=Classifier(4)
    ),
    "ssdlite": Architecture(
        width_mult=0.35,
        head=SSDLite(3, extra_channels=(16,), anchor_sizes=(((0.2, 0.2),),) * 3),
    ),
    "ssd": Architecture(
        width_mult=0.35, head=SSD(3, extra_channels=(16,), anchor_sizes=(((0.2, 0.2),),) * 3)
    ),
    "aspp": Architecture(width_mult=0.35, head=DeepLab(5, aspp=True), output_stride=8),
    "deeplabv3": Architecture(width_mult=0.35, head=DeepLab(5), output_stride=16, padding="same"),
}


@cache
def checkpoint(variant: str) -> mobilenetv2.Checkpoint:
    imagenet = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    made = random_checkpoint(VARIANTS[variant])
    return made if variant == "grey" else replace(made, preprocessing=imagenet)


def images(variant: str, count: int = 2, height: int = 33, width: int = 50) -> np.ndarray:
    shape = (count, height, width, VARIANTS[variant].in_channels)
    return np.random.default_rng(7).integers(0, 256, shape, dtype=np.uint8)


def bf16(variant: str, isa: str = FAST, threads: int = 1) -> Engine:
    return Engine(checkpoint(variant), threads, isa, "bf16")


def bits_apart(values: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Difference in steps of bfloat16 at the larger of both magnitudes, at least those at 2**-6."""
    exponent = np.floor(np.log2(np.maximum(np.maximum(abs(values), abs(expected)), 2.0**-6)))
    return abs(values - expected) / 2.0 ** (exponent - 7)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_each_layer_rounds_as_the_oracle(variant, isa) -> None:
    """Every stored tensor from the engine's own tensors before it: the same number, seldom the next
    one, where a sum lies close to a half. Results that stay float32 are as close as in float32.
    """
    pixels = images(variant)
    oracle = BF16Reference(checkpoint(variant))
    described = layers(checkpoint(variant).architecture, *pixels.shape[1:3])
    names = [layer.name for layer in described]
    tensors = bf16(variant, isa).outputs(pixels, names) | {"image": pixels}
    stored = oracle.run(pixels, names)
    apart = []
    for layer in described:
        sources = [tensors[name] for name in layer.sources]
        expected = oracle._step(layer, [s if s is pixels else s.astype(float) for s in sources])
        values = tensors[layer.name]
        assert values.shape == stored[layer.name].shape
        if layer.name in oracle._not_stored:
            assert np.abs(values - expected).max() < 1e-4 * max(1, np.abs(expected).max())
        else:
            assert (values == rounded(values)).all(), layer.name
            apart.append(bits_apart(values, expected).ravel())
            assert apart[-1].max() <= 1, layer.name
    assert (np.concatenate(apart) > 0).mean() < 2e-3


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_whole_network_is_near_the_oracle(variant, isa) -> None:
    """Nearer than to float32: a step of one tensor may move others."""
    pixels = images(variant)
    names = network(checkpoint(variant).architecture).outputs
    exact = Reference(checkpoint(variant)).run(pixels, names)
    oracle = BF16Reference(checkpoint(variant)).run(pixels, names)
    for name, values in zip(names, answers(bf16(variant, isa), pixels), strict=True):
        assert values.dtype == np.float32
        values = values.reshape(exact[name].shape)
        scale = np.abs(exact[name]).max()
        assert np.abs(values - oracle[name]).max() < 0.05 * scale, name
        assert np.std(values - oracle[name]) < 0.6 * np.std(values - exact[name]), name


@pytest.mark.parametrize("seed", range(12))
def test_random_architectures(seed) -> None:
    """On every instruction set about the oracle's answers, as whole steps and layer by layer."""
    rng = np.random.default_rng(seed)
    architecture = random_architecture(rng)
    made = random_checkpoint(architecture, seed)
    pixels = random_images(rng, architecture)
    outputs = network(architecture).outputs
    names = [layer.name for layer in layers(architecture)]
    expected = BF16Reference(made).run(pixels, outputs)
    for isa in ISAS:
        engine = Engine(made, int(rng.integers(1, 4)), isa, "bf16")
        apart = engine.outputs(pixels, names)
        for name, values in zip(outputs, answers(engine, pixels), strict=True):
            scale = max(1.0, float(np.abs(expected[name]).max()))
            assert np.isfinite(values).all()
            assert np.abs(values.reshape(expected[name].shape) - expected[name]).max() < 0.1 * scale
            assert np.abs(apart[name] - expected[name]).max() < 0.1 * scale
        if architecture.head.task == "segmentation":
            np.testing.assert_array_equal(engine.mask(pixels), engine(pixels).argmax(-1))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("variant", ["plain", "odd channels", "ssdlite", "aspp"])
def test_the_same_bits_for_any_threads_and_batch(variant, isa) -> None:
    pixels = images(variant, 3)
    alone = answers(bf16(variant, isa), pixels)
    for threads in (2, 3):
        for values, expected in zip(answers(bf16(variant, isa, threads), pixels), alone):
            np.testing.assert_array_equal(values, expected)
    for values, expected in zip(answers(bf16(variant, isa), pixels[1:2]), alone):
        np.testing.assert_array_equal(values, expected[1:2])


def test_normalised_values() -> None:
    """Values are rounded first; pixels are exact."""
    pixels = images("plain")
    values = checkpoint("plain").preprocessing.normalize(pixels)
    engine = bf16("plain")
    np.testing.assert_array_equal(engine(values), engine(rounded(values)))
    expected = BF16Reference(checkpoint("plain"))(values)
    exact = Reference(checkpoint("plain"))(values)
    assert np.std(engine(values) - expected) < 0.6 * np.std(engine(values) - exact)


def test_rounding() -> None:
    """To the nearest, halves to even; subnormal numbers to zero, what is no number stays so."""
    half = 2.0**-8
    values = np.array([1 + half, 1 + 3 * half, 1 + half + 2**-20, -1e-40, 3e38, np.inf, -np.nan])
    expected = [1, 1 + 4 * half, 1 + 2 * half, -0.0, 3.0040553e38, np.inf, np.nan]
    np.testing.assert_allclose(rounded(values), expected, rtol=1e-6)
    assert np.signbit(rounded(values)[3])


def test_taps_keep_their_sum() -> None:
    """Within half a step of the smallest tap, each tap within a step or two of the largest."""
    taps = np.random.default_rng(0).normal(size=(200, 9)).astype(np.float32)
    near = rounded_taps(taps)
    assert (near == rounded(near)).all()
    errors = np.abs(near.sum(1, np.float64) - taps.sum(1, np.float64))
    assert np.median(errors) < np.median(np.abs(rounded(taps) - taps).sum(1)) / 50
    assert (np.abs(near - taps).max(1) <= 2.0**-7 * np.abs(taps).max(1)).all()


def test_memory_is_about_half() -> None:
    """Of weights and of activations."""
    floats, pairs = Engine(checkpoint("wide"), 1), bf16("wide")
    assert pairs.weight_bytes < 0.55 * floats.weight_bytes
    assert pairs.activation_bytes(224, 224) < 0.7 * floats.activation_bytes(224, 224)


def test_models_and_copies_keep_the_precision(tmp_path) -> None:
    file = tmp_path / "model.safetensors"
    checkpoint("plain").save(file)
    model = mobilenetv2.load(file, 1, FAST, precision="bf16")
    assert model.engine.precision == "bf16"
    pixels = images("plain")
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model))(pixels), model(pixels))
    np.testing.assert_array_equal(model(pixels), bf16("plain")(pixels))
    mapper = mobilenetv2.batch.Features(str(file), precision="float32")
    assert pickle.loads(pickle.dumps(mapper)).model.engine.precision == "float32"
    with pytest.raises(UserError, match="precision must be"):
        mobilenetv2.batch.Features(str(file), precision="fp16")
    assert mobilenetv2.load(file, 1).engine.precision == "float32"
    assert mobilenetv2.load(file, 1, precision="float32").engine.precision == "float32"


@pytest.mark.parametrize(
    ("variant", "words"),
    [
        ("plain", ["classify", "cat.jpg", "--model"]),
        ("plain", ["features", "cat.jpg", "-o", "features.csv", "--model"]),
        ("plain", ["evaluate", "photos", "--model"]),
        ("plain", ["benchmark", "--model"]),
        ("plain", ["serve", "--model"]),
        ("ssdlite", ["detect", "cat.jpg", "--model"]),
        ("deeplabv3", ["segment", "cat.jpg", "--model"]),
    ],
)
def test_every_command_that_runs_a_network_takes_it(variant, words, tmp_path, capsys) -> None:
    checkpoint(variant).save(tmp_path / "model.safetensors")
    Image.new("RGB", (40, 30), "teal").save(tmp_path / "cat.jpg")
    (tmp_path / "photos").mkdir()
    words = [str(tmp_path / word) if "." in word or word == "photos" else word for word in words]
    words = [*words, str(tmp_path / "model.safetensors"), "--precision"]
    assert run([*words, "fp16"]) == 2
    assert "precision must be float32 or bf16, not 'fp16'" in capsys.readouterr().err


def test_what_cannot_be_is_refused(monkeypatch) -> None:
    quantized = random_int8("nearest", False, 0, width_mult=0.35, head=Classifier(3))
    for precision in ("bf16", "float32"):
        with pytest.raises(UserError, match=f"int8 alone, not in {precision}"):
            Engine(quantized, 1, precision=precision)
    for precision in ("fp16", "bfloat16", "", 16):
        with pytest.raises(UserError, match="precision must be float32 or bf16"):
            Engine(checkpoint("plain"), 1, precision=precision)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="isa must be one that this machine has"):
        Engine(checkpoint("plain"), 1, "avx2", "bf16")
    monkeypatch.delenv("MOBILENETV2_ISA", raising=False)
    monkeypatch.setattr(_native, "bf16_kernel_names", lambda: ["scalar"])
    with pytest.raises(UserError, match=r"no instructions for bfloat16.*--precision float32"):
        Engine(checkpoint("plain"), 1, precision="bf16")
    assert Engine(checkpoint("plain"), 1, "scalar", "bf16").isa == "scalar"
