"""What the extension makes of stored weights and of logits, against NumPy, and that NumPy is not needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mobilenetv2.int8_layers import StoredLayers
from mobilenetv2.loading import load
from mobilenetv2.runtime import _native
from mobilenetv2.runtime.rounding import fixed_points

from .conftest import random_checkpoint
from .int8 import random_int8

PHOTO = Path(__file__).parents[1] / "examples" / "cat.jpg"
KERNELS = {"int8": (np.int8, 0), "uint8": (np.uint8, 117), "bytes": (np.uint8, 100)}


@pytest.mark.parametrize("kind", ["matrix", "blocks", "depthwise", "bias", "neither", "pixels"])
def test_weights_are_folded_as_numpy_does_it(kind: str) -> None:
    rng = np.random.default_rng(0)
    outputs, inputs, size = (7, 1, 3) if kind == "depthwise" else (7, 5, 2)
    kernel = rng.normal(size=(outputs, inputs, size, size)).astype(np.float32)
    kernel[0, 0, 0] = 1e-45, *[3e38] * (size - 1)
    norm = rng.uniform(0.5, 2, (4, outputs)).astype(np.float32)
    norm[0] *= 10.0 ** np.arange(-6, 1)
    scale = norm[0] / np.sqrt(norm[3].astype(np.float64) + 1e-3)
    bias = norm[1] - norm[2] * scale
    given = list(norm)
    if kind in ("bias", "neither"):
        given = given[1:2] if kind == "bias" else []
        scale, bias = np.ones(outputs), norm[1] if kind == "bias" else np.zeros(outputs)
    expected = kernel * scale[:, None, None, None]
    pixels = (
        (rng.uniform(0.5, 2, inputs), rng.normal(size=inputs)) if kind == "pixels" else ((), ())
    )
    if kind == "pixels":
        bias = bias + (expected * pixels[1][:, None, None]).sum((1, 2, 3))
        expected = expected * pixels[0][:, None, None]
    more = (9, 3) if kind == "blocks" else (9, 0) if kind == "depthwise" else (0, 0)
    expected = np.pad(expected, [(0, more[0]), (0, more[1]), (0, 0), (0, 0)])
    expected = expected.transpose((1, 2, 3, 0) if kind == "depthwise" else (0, 2, 3, 1))
    rows = len(expected) if kind != "depthwise" else size**2
    expected = expected.astype(np.float32).reshape(rows, -1).copy()

    weights, biases = np.full_like(expected, np.nan), np.full(outputs + more[0], np.nan, np.float32)
    arguments = (outputs, inputs, size), kind == "depthwise", given, 1e-3, *map(list, pixels)
    assert _native.fold(kernel.reshape(-1), *arguments, weights, biases)
    assert weights.tobytes() == expected.tobytes()
    np.testing.assert_allclose(biases, np.pad(bias, (0, more[0])), rtol=1e-6)
    if len(given) == 4:
        given[0][:] = np.finfo(np.float32).max
        assert not _native.fold(kernel.reshape(-1), *arguments, weights, biases)


def test_only_weights_that_fit_are_folded() -> None:
    kernel, ones = np.ones(12, np.float32), [np.ones(3, np.float32)]
    room, bias = np.empty((3, 4), np.float32), np.empty(3, np.float32)

    def fold(
        shape=(3, 4, 1), depthwise=False, norm=ones, scale=(), weights=room, bias=bias
    ) -> bool:
        return _native.fold(kernel, shape, depthwise, norm, 1e-3, list(scale), [], weights, bias)

    assert fold()
    assert fold(norm=[])
    with pytest.raises(TypeError):  # what is written into a copy would be lost
        fold(weights=np.empty((4, 3), np.float32).T)
    for wrong in (
        {"shape": (3, 5, 1)},
        {"shape": (3, 4, 0)},
        {"depthwise": True},
        {"norm": ones * 3},
        {"norm": [np.ones(2, np.float32)]},
        {"scale": [1.0]},
        {"weights": np.empty((2, 4), np.float32)},
        {"weights": np.empty((3, 3), np.float32)},
        {"bias": np.empty(2, np.float32)},
    ):
        with pytest.raises(ValueError, match="size|room|number per output|four arrays|one scale"):
            fold(**wrong)


@pytest.mark.parametrize("count", [1, 3, 99])
def test_the_best_classes_are_those_of_a_softmax(count: int) -> None:
    logits = np.random.default_rng(0).normal(size=40).astype(np.float32) * 30
    logits[[4, 9]] = logits.max()  # the first of equals comes first
    shares = np.exp(logits.astype(np.float64) - logits.max())
    shares /= shares.sum()
    ranked = _native.best_classes(logits, count)
    assert [index for index, _ in ranked] == np.argsort(-shares, kind="stable")[:count].tolist()
    np.testing.assert_allclose([p for _, p in ranked], np.sort(shares)[::-1][:count], rtol=1e-12)
    with pytest.raises(ValueError, match="no classes"):
        _native.best_classes(logits[:0], count)


def int8_kernel(kind: str, shape: tuple[int, ...]) -> tuple[np.ndarray, int, np.ndarray]:
    """Stored weights, their zero point, and what they are less it."""
    dtype, zero = KERNELS[kind]
    low, high = (zero - 90, zero + 100) if kind == "bytes" else (0, 256)
    if dtype == np.int8:
        low, high = -128, 128
    stored = np.random.default_rng(0).integers(low, high, shape).astype(dtype)
    return stored, zero, stored.astype(np.int64) - zero


@pytest.mark.parametrize("kind", KERNELS)
@pytest.mark.parametrize("zeros", [[3], [3, 250, 0]])
def test_int8_sums_begin_as_numpy_says(kind: str, zeros: list[int]) -> None:
    stored, zero, weights = int8_kernel(kind, (5, 3, 2, 2))
    bias = np.int32([0, 7, -(2**31), 2**31 - 1, -9])
    factor, result = np.float32([1, 2, 1e-3, 1e-9, 3, 0]), np.full(7, -1, np.int32)
    least, greatest, largest = _native.int8_bias(
        stored.reshape(-1), zero, (5, 3, 2), bias, zeros, factor, result
    )
    sums = bias - (weights * np.reshape(zeros, (-1, 1, 1))).sum((1, 2, 3))
    limited = np.clip(sums, -(2**30), 2**30)
    assert result.tolist() == [*limited.tolist(), 0, 0]
    assert (least, greatest) == (weights.min(), weights.max())
    most = np.abs(limited) + 255 * np.abs(weights).sum((1, 2, 3))
    assert largest == pytest.approx((most * factor[:5].astype(np.float64)).max(), rel=1e-12)


@pytest.mark.parametrize("kind", KERNELS)
@pytest.mark.parametrize("size", [1, 3])
def test_int8_matrices_are_rows_of_whole_lanes(kind: str, size: int) -> None:
    stored, zero, weights = int8_kernel(kind, (3, 5, size, size))
    middle = 128 - zero if kind == "uint8" else 0
    run = -(-size * 6 // 4) * 4
    rows = np.full((4, size * run), 99, np.int8)
    _native.int8_matrix(stored.reshape(-1), zero, (3, 5, size), middle, 6, rows)
    filled = np.pad(weights, [(0, 1), (0, 1), (0, 0), (0, 0)]).transpose(0, 2, 3, 1) - middle
    runs = np.pad(filled.reshape(4, size, -1), [(0, 0), (0, 0), (0, run - size * 6)])
    np.testing.assert_array_equal(rows, runs.reshape(4, -1))


@pytest.mark.parametrize(("kind", "parts"), [("int8", 1), ("uint8", 2), ("bytes", 1)])
def test_int8_taps_are_sums_of_signed_bytes(kind: str, parts: int) -> None:
    block = _native.BLOCK
    stored, zero, weights = int8_kernel(kind, (block + 3, 1, 3, 3))
    taps = np.full((2, parts * 3 * block * 4), 99, np.int8)
    _native.int8_taps(stored.reshape(-1), zero, (block + 3, 1, 3), parts, taps)
    by_part = taps.reshape(2, parts, 3, block, 4).astype(np.int64)
    assert not by_part[..., 3].any()
    summed = by_part.sum(1).transpose(0, 2, 1, 3).reshape(2 * block, 3, 4)[:, :, :3]
    np.testing.assert_array_equal(summed[: block + 3], weights[:, 0])
    assert not summed[block + 3 :].any()


@pytest.mark.parametrize("outcome", [0.0, 0.0235])
def test_int8_factors_of_one_rounding(outcome: float) -> None:
    scales, factor = np.float32([0.5, 1e-30, 3e4]), np.full(5, 9, np.float32)
    form = _native.int8_factors(scales, 0.0078, False, outcome, True, [], factor)
    assert form == _native.FactorForm.PLAIN
    expected = 0.0078 * scales.astype(np.float64) / (outcome or 1)
    assert factor.tolist() == [*expected.astype(np.float32).tolist(), 0, 0]
    large = np.float32([1, 3e38])
    form = _native.int8_factors(large, 1e3, False, 0.0, True, [], factor)
    assert form == _native.FactorForm.TOO_LARGE


@pytest.mark.parametrize("in_float", [False, True])
@pytest.mark.parametrize("may_collapse", [False, True])
@pytest.mark.parametrize("largest", [0.9, 1.0, 70.0])
def test_int8_factors_of_two_roundings(in_float: bool, may_collapse: bool, largest: float) -> None:
    """Those of powers of two, those that round up to one, and those too small for anything."""
    below_half = np.float32(0.5) - np.float32(2**-25)
    scales = np.float32([largest, 0.25, below_half, 1e-20, 0.3, 1 / 3])
    split = [np.full(8, 9.0), np.full(8, 9.0)]
    form = _native.int8_factors(scales, 0.1, in_float, 0.1, may_collapse, split)
    product = np.float32(0.1) * scales if in_float else 0.1 * scales.astype(np.float64)
    factor = product.astype(np.float64) / 0.1
    fixed, power = fixed_points(factor)
    left = np.maximum(power, 0)
    fraction, rest = fixed / 2**31 * 2.0**left, 2.0 ** (power - left)
    collapsed = may_collapse and factor.max() < 1
    if collapsed:
        fraction, rest = fraction * rest, np.where(rest < 1, (1 + rest) / 2, 0.5)
    assert form == (_native.FactorForm.COLLAPSED if collapsed else _native.FactorForm.PLAIN)
    assert split[0].tolist() == [*fraction.tolist(), 0, 0]
    assert split[1].tolist() == [*rest.tolist(), 0, 0]


def test_int8_arrays_of_another_size_are_refused() -> None:
    kernel, bias, scales = np.zeros(12, np.int8), np.zeros(3, np.int32), np.ones(3, np.float32)
    shape, room = (3, 4, 1), np.zeros((3, 4), np.int8)
    calls: list[tuple[Any, ...]] = [
        (_native.int8_bias, kernel, 0, (3, 5, 1), bias, [0], None, bias),
        (_native.int8_bias, kernel.astype(np.int16), 0, shape, bias, [0], None, bias),
        (_native.int8_bias, kernel, 0, shape, bias[:2], [0], None, bias),
        (_native.int8_bias, kernel, 0, shape, bias, [0, 1], None, bias),
        (_native.int8_bias, kernel, 0, shape, bias, [0], None, bias[:2]),
        (_native.int8_matrix, kernel, 0, shape, 0, 3, room),
        (_native.int8_matrix, kernel, 0, shape, 0, 4, room[:2]),
        (_native.int8_matrix, kernel, 0, shape, 0, 4, np.zeros((3, 8), np.int8)),
        (_native.int8_taps, kernel, 0, shape, 1, room),
        (_native.int8_factors, scales, 1.0, False, 0.0, False, [], scales[:2].copy()),
        (_native.int8_factors, scales, 1.0, False, 0.0, False, [np.zeros(3)]),
    ]
    for function, *arguments in calls:
        with pytest.raises(ValueError, match="kernel|output|input|room"):
            function(*arguments)


@pytest.mark.parametrize("kind", ["float32", "int8"])
def test_a_photo_is_classified_without_numpy(tmp_path: Path, kind: str) -> None:
    """Its import takes longer than a small network's calls; the answer is that of arrays."""
    arguments = {"width_mult": 0.1, "classes": 7, "resolution": (64, 64)}
    model = random_checkpoint(**arguments) if kind == "float32" else random_int8(**arguments)
    path = tmp_path / "model.safetensors"
    model.save(path)
    code = """
import sys
from mobilenetv2 import load
from mobilenetv2.cli import run
model = load(sys.argv[1], 1)
print(*[(p.index, p.probability) for p in model.classify(sys.argv[2], top=7)], sep="\\n")
assert run(["classify", sys.argv[2], sys.argv[2], "--model", sys.argv[1], "-o", sys.argv[3]]) == 0
assert "numpy" not in sys.modules
"""
    command = [sys.executable, "-c", code, str(path), str(PHOTO), str(tmp_path / "out.csv")]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = load(path, 1)
    logits = loaded(loaded.checkpoint.preprocessing(PHOTO)[None])[0].astype(np.float64)
    shares = np.exp(logits) / np.exp(logits).sum()
    for line in ended.stdout.splitlines():
        index, share = eval(line)
        assert share == pytest.approx(shares[index], rel=1e-9)
    assert len(ended.stdout.splitlines()) == 7


def test_layers_in_a_file_are_those_in_memory(tmp_path: Path) -> None:
    model = random_int8(width_mult=0.1, classes=7)
    model.save(tmp_path / "model.safetensors")
    layers = load(tmp_path / "model.safetensors", 1).checkpoint.layers
    assert isinstance(layers, StoredLayers)
    assert set(layers) == set(model.layers)
    assert len(layers) == len(model.layers)
    assert "another" not in layers
    with pytest.raises(KeyError):
        layers["another"]
    for name, layer in layers.items():
        expected = model.layers[name]
        assert layer.zero_point == expected.zero_point
        for kind in ("weight", "scale", "bias"):
            stored, array = getattr(layer, kind), getattr(expected, kind)
            assert stored.dtype == array.dtype
            np.testing.assert_array_equal(stored, array)
