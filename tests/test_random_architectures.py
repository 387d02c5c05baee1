"""Random architectures at random image sizes: the engine gives what the NumPy oracles give, on every
instruction set, in float32 and int8.

MOBILENETV2_ARCHITECTURES is the number of architectures (default 60), from seed 0 on.
"""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest

from mobilenetv2.architecture import Architecture, Stage
from mobilenetv2.graph import layers, network
from mobilenetv2.heads import SSD, Classifier, DeepLab, Features, Head, SSDLite
from mobilenetv2.runtime import Engine, Int8Reference, Reference, _native
from mobilenetv2.runtime.int8_scales import int8_obstacle

from .conftest import random_checkpoint
from .int8 import random_int8

FLOAT_ISAS = _native.kernel_names()
INT8_ISAS = _native.byte_kernel_names()

COUNT = int(os.environ.get("MOBILENETV2_ARCHITECTURES", "60"))
# and those that were wrong once: 217 reads inputs beside its own that another thread writes
SEEDS = sorted({*range(COUNT), 217})
ROUNDINGS = [("nearest", False), ("nearest", True), ("twice", False), ("twice", True)]


def random_detector(rng: np.random.Generator) -> Head:
    extra = tuple(map(int, rng.integers(1, 40, rng.integers(0, 3))))
    sizes = tuple(((0.2, 0.2),) * int(rng.integers(1, 4)) for _ in range(len(extra) + 2))
    options = {"classes": int(rng.integers(1, 5)), "extra_channels": extra, "anchor_sizes": sizes}
    if rng.integers(2):
        return SSDLite(**options)
    return SSD(**options, predictor_kernel=int(rng.choice([1, 3])))


def random_head(rng: np.random.Generator, output_stride: int, strided: bool) -> Head:
    kind = rng.integers(6)
    if kind > 3 and strided and output_stride == 32:
        return random_detector(rng)
    if kind == 0:
        return Features()
    if kind == 1:
        return DeepLab(int(rng.integers(1, 7)), aspp=bool(output_stride < 32 and rng.integers(2)))
    return Classifier(int(rng.integers(1, 40)))


def random_architecture(rng: np.random.Generator) -> Architecture:
    """A small network with any of the options: strides, dilations up to 16 and beyond, expansion 1
    anywhere, odd channels.
    """
    stages = tuple(
        Stage(
            float(rng.choice([1, 1, 2, 3, 6, 0.5])),
            int(rng.integers(1, 41)),
            int(rng.integers(1, 4)),
            int(rng.integers(1, 3)),
        )
        for _ in range(rng.integers(1, 8))
    )
    output_stride = int(rng.choice([8, 16, 32]))
    return Architecture(
        width_mult=float(rng.choice([0.35, 1.0])),
        stages=stages,
        in_channels=int(rng.choice([1, 3])),
        stem_channels=int(rng.integers(1, 25)),
        stem_stride=int(rng.integers(1, 3)),
        last_channels=None if rng.integers(3) == 0 else int(rng.integers(1, 70)),
        resolution=(int(rng.integers(1, 10)), int(rng.integers(1, 10))),
        output_stride=output_stride,
        padding=str(rng.choice(["same", "symmetric"])),
        head=random_head(rng, output_stride, any(stage.stride == 2 for stage in stages)),
        bottleneck=str(rng.choice(["linear", "linear", "relu6"])),
        shortcut=str(rng.choice(["bottleneck", "bottleneck", "expansion", "none"])),
        divisor=int(rng.choice([1, 4, 8])),
        min_channels=int(rng.choice([1, 8])),
    )


def random_images(rng: np.random.Generator, architecture: Architecture) -> np.ndarray:
    """A small batch of another size than the architecture's own."""
    largest = 20 if architecture.head.task == "segmentation" else 70
    size = rng.integers(1, largest, 2)
    shape = (int(rng.integers(1, 4)), *map(int, size), architecture.in_channels)
    return rng.integers(0, 256, shape, dtype=np.uint8)


def random_names(rng: np.random.Generator, names: list[str]) -> list[str]:
    return [str(name) for name in rng.choice(names, min(3, len(names)), replace=False)]


@pytest.mark.parametrize("seed", SEEDS)
def test_float32(seed: int) -> None:
    """Within 1e-4 of the largest value, all outputs and three tensors from anywhere within."""
    rng = np.random.default_rng(seed)
    architecture = random_architecture(rng)
    images = random_images(rng, architecture)
    checkpoint = random_checkpoint(architecture, seed)
    outputs = network(architecture).outputs
    names = random_names(rng, [layer.name for layer in layers(architecture)])
    oracle = Reference(checkpoint, np.float64)
    expected = oracle.run(images, {*outputs, *names})
    for isa in FLOAT_ISAS:
        engine = Engine(checkpoint, int(rng.integers(1, 4)), isa)
        for name, values in zip(outputs, answers(engine, images), strict=True):
            assert np.isfinite(values).all()
            close(values.reshape(expected[name].shape), expected[name], f"{isa} {name}")
        check_mask(engine, images)
        for name, values in engine.outputs(images, names).items():
            close(values, expected[name], f"{isa} {name}")


def answers(network: Engine | Int8Reference, images: np.ndarray) -> list[np.ndarray]:
    """The outputs, in the network's order."""
    answer = network(images)
    return list(answer.values()) if isinstance(answer, dict) else [answer]


def check_mask(engine: Engine, images: np.ndarray) -> None:
    """The mask of a segmenter is the best class of its scores."""
    if engine.checkpoint.architecture.head.task == "segmentation":
        expected = engine(images).argmax(-1).astype(np.uint8)
        np.testing.assert_array_equal(
            engine.mask(images), expected, err_msg=engine.isa, strict=True
        )


def close(found: np.ndarray, expected: np.ndarray, what: str) -> None:
    assert found.shape == expected.shape, what
    scale = max(1.0, float(np.abs(expected).max()))
    assert np.abs(found - expected).max() <= 1e-4 * scale, what


@pytest.mark.parametrize("seed", SEEDS)
def test_int8(seed: int) -> None:
    """The same stored values on every instruction set, hence the same outputs to the last bit."""
    rng = np.random.default_rng(seed)
    architecture = random_architecture(rng)
    rounding, unsigned = ROUNDINGS[seed % len(ROUNDINGS)]
    if int8_obstacle(architecture, rounding):
        architecture = replace(architecture, shortcut="bottleneck", bottleneck="linear")
    assert int8_obstacle(architecture, rounding) is None
    images = random_images(rng, architecture)
    checkpoint = random_int8(rounding, unsigned, seed, **vars(architecture))
    expected = answers(Int8Reference(checkpoint), images)
    for isa in INT8_ISAS:
        engine = Engine(checkpoint, int(rng.integers(1, 4)), isa)
        for values, own in zip(answers(engine, images), expected, strict=True):
            np.testing.assert_array_equal(values, own, err_msg=isa)
        check_mask(engine, images)
