"""The file of an int8 model: the same after a round trip, refused when damaged or wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import mobilenetv2
from mobilenetv2.checkpoint import Checkpoint
from mobilenetv2.errors import ModelFileError
from mobilenetv2.files import read_safetensors
from mobilenetv2.formats import open_checkpoint, read, recognise
from mobilenetv2.int8 import Activation, Int8Checkpoint, stored_tensors
from mobilenetv2.nn import mobilenet_v2
from mobilenetv2.runtime import Int8Reference

from .int8 import random_int8

LABELS = ("background", "löwe", "狼")


def small(rounding: str = "twice", unsigned: bool = True, **changes: object) -> Int8Checkpoint:
    settings = {"width_mult": 0.35, "classes": 3, "resolution": (32, 32), **changes}
    return replace(random_int8(rounding, unsigned, **settings), labels=LABELS)


@pytest.mark.parametrize("unsigned", [True, False])
@pytest.mark.parametrize("rounding", ["nearest", "twice"])
def test_the_same_in_another_process(tmp_path, pixels, rounding, unsigned) -> None:
    model = small(rounding, unsigned)
    path = tmp_path / "model.safetensors"
    model.save(path)
    np.save(tmp_path / "x.npy", pixels(2, 32, 32, 3))
    code = """
import sys, numpy as np, mobilenetv2
from mobilenetv2.runtime import Int8Reference
model = mobilenetv2.Int8Checkpoint.load(sys.argv[1])
np.save(sys.argv[3], Int8Reference(model)(np.load(sys.argv[2])))
model.save(sys.argv[1] + ".again")
"""
    names = [path, tmp_path / "x.npy", tmp_path / "y.npy"]
    subprocess.run([sys.executable, "-c", code, *map(str, names)], check=True)
    expected = Int8Reference(model)(pixels(2, 32, 32, 3))
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), expected)
    assert (tmp_path / "model.safetensors.again").read_bytes() == path.read_bytes()


def test_it_is_read_as_int8(tmp_path) -> None:
    path = tmp_path / "model.safetensors"
    small().save(path)
    assert recognise(path) == "mobilenetv2"
    for model in (read(path), open_checkpoint(str(path)), Int8Checkpoint.load(path)):
        assert isinstance(model, mobilenetv2.Int8Checkpoint)
        assert model.labels == LABELS
        assert model.activations == small().activations


@pytest.mark.parametrize(
    "read_float32",
    [
        Checkpoint.load,
        lambda path: read(path, int8=False),
        lambda path: mobilenet_v2(weights=path),
    ],
    ids=["Checkpoint.load", "read", "mobilenet_v2"],
)
def test_it_is_not_read_as_float32(tmp_path, read_float32) -> None:
    path = tmp_path / "model.safetensors"
    small().save(path)
    with pytest.raises(ModelFileError, match=r"model\.safetensors: an int8 model"):
        read_float32(path)


def test_float32_is_not_read_as_int8(tmp_path) -> None:
    path = tmp_path / "float.safetensors"
    open_checkpoint("cifar10").save(path)
    with pytest.raises(ModelFileError, match="not an int8 mobilenetv2 model"):
        Int8Checkpoint.load(path)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda header, arrays: header.pop("quantization"), "missing"),
        (lambda header, arrays: header.pop("labels"), "the header lacks labels"),
        (lambda header, arrays: header.update(version="3"), "file version '3', this release"),
        (lambda header, arrays: header.update(quantization="[]"), "Expected `object`"),
        (lambda header, arrays: header.update(quantization="{}"), "weight_zero_points"),
        (lambda header, arrays: arrays.pop("classifier.1.bias"), r"classifier\.1\.bias"),
        (
            lambda header, arrays: arrays.update({"features.0.0.more": np.zeros(3)}),
            r"not part of the network: features\.0\.0\.more",
        ),
    ],
)
def test_incomplete_files_are_refused(tmp_path, change: Callable[..., object], complaint) -> None:
    from safetensors.numpy import save_file

    from mobilenetv2.files import checksum
    from mobilenetv2.int8 import HEADER

    path = tmp_path / "model.safetensors"
    small().save(path)
    header, arrays = read_safetensors(path)
    change(header, arrays)
    header["checksum"] = checksum({n: header[n] for n in HEADER if n in header}, arrays)
    save_file(arrays, path, header)
    with pytest.raises(ModelFileError, match=rf"model\.safetensors: .*{complaint}"):
        read(path)


def as_version_1(path: Path) -> None:
    """Rewrites an int8 file as releases before version 2 wrote it: the head's name and its classes
    in the architecture, and no pooling.
    """
    from safetensors.numpy import save_file

    from mobilenetv2.files import checksum
    from mobilenetv2.int8 import HEADER

    header, arrays = read_safetensors(path)
    architecture = json.loads(header["architecture"])
    architecture |= {"head": "classifier", "classes": architecture["head"]["classes"]}
    stored = {k: v for k, v in json.loads(header["quantization"]).items() if k != "pooling"}
    header |= {
        "version": "1",
        "architecture": json.dumps(architecture),
        "quantization": json.dumps(stored),
    }
    header["checksum"] = checksum({name: header[name] for name in HEADER}, arrays)
    save_file(arrays, path, header)


@pytest.mark.parametrize("pooling", ["average", "mean"])
def test_files_of_version_1(tmp_path, pooling) -> None:
    """Equal scales of the map and its average stood for an average of stored values."""
    model = random_int8("twice", pooling == "average", width_mult=0.35, classes=3)
    assert model.pooling == pooling
    path = tmp_path / "model.safetensors"
    model.save(path)
    as_version_1(path)
    loaded = read(path)
    assert loaded.architecture == model.architecture
    assert loaded.pooling == pooling
    assert loaded.activations == model.activations


def changed(name: str, **arrays: object) -> Callable[[Int8Checkpoint], dict[str, object]]:
    return lambda model: {"layers": {**model.layers, name: replace(model.layers[name], **arrays)}}


STEM = "features.0.0"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda m: {"rounding": "up"}, "rounding must be one of nearest, twice, not 'up'"),
        (lambda m: {"pooling": "max"}, "pooling must be one of mean, average, not 'max'"),
        (lambda m: {"activations": {**m.activations, "pool": Activation(1, 0)}}, "of the map that"),
        (lambda m: {"image_zero_points": (0, 0)}, "not one per channel"),
        (lambda m: {"image_zero_points": (0, 0, 256)}, r"not within 0\.\.255"),
        (lambda m: {"image_scale": float("nan")}, "scale is not positive"),
        (lambda m: {"labels": ("a",)}, "1 labels for 3 classes"),
        (lambda m: {"layers": dict(list(m.layers.items())[1:])}, r"features\.0\.0 is missing"),
        (lambda m: {"layers": {**m.layers, "x": m.layers[STEM]}}, "x is not part of the network"),
        (changed(STEM, weight=np.zeros((16, 3, 3, 3))), "weights are float64, not int8 or uint8"),
        (changed(STEM, weight=np.zeros((3, 3), np.int8)), r"weights are \(3, 3\), not \(16, 3, 3"),
        (changed(STEM, weight=np.zeros((16, 3, 3, 3), np.int8)), "zero point .* of int8 weights"),
        (changed(STEM, scale=np.ones(16)), r"scales are not float32 \(16,\)"),
        (changed(STEM, scale=np.zeros(16, np.float32)), "a scale is not positive"),
        (changed(STEM, bias=np.zeros(16, np.int64)), r"biases are not int32 \(16,\)"),
        (changed(STEM, zero_point=256), "zero point 256"),
        (lambda m: {"activations": {}}, "no scale for the output of"),
        (lambda m: {"activations": {**m.activations, "x": Activation(1, 0)}}, "x, which is not"),
        (lambda m: {"activations": {**m.activations, STEM: Activation(0, 0)}}, "not positive"),
        (lambda m: {"activations": {**m.activations, STEM: Activation(1, 256)}}, "not within"),
        (lambda m: {"rounding": "nearest"}, "which is not stored"),
    ],
)
def test_contradictory_models_are_refused(change, complaint) -> None:
    model = small()
    with pytest.raises(ModelFileError, match=complaint):
        replace(model, **change(model))


def test_a_resize_keeps_the_scale_of_its_map() -> None:
    model = random_int8(head="deeplabv3", width_mult=0.35, resolution=(33, 33))
    name = "head.image_pooling.resize"
    assert model.activations[name] == model.activations["head.image_pooling.0"]
    with pytest.raises(ModelFileError, match=f"{name} has another scale than the map"):
        replace(model, activations={**model.activations, name: Activation(0.5, 0)})


@pytest.mark.parametrize("unsigned", [False, True])
def test_a_file_says_whether_codes_were_signed(tmp_path, unsigned) -> None:
    """TensorFlow Lite rounds averages and resizes of int8 in another way than those of uint8."""
    model = random_int8("twice", unsigned, width_mult=0.35, resolution=(33, 33))
    model.save(tmp_path / "int8.safetensors")
    assert Int8Checkpoint.load(tmp_path / "int8.safetensors").signed is not unsigned


def test_what_is_stored() -> None:
    """With one rounding, the summands of shortcuts and the logits are not stored."""
    net = small().architecture
    everything, fewer = stored_tensors(net, "twice"), stored_tensors(net, "nearest")
    assert len(everything) == 64
    missing = sorted(set(everything) - set(fewer))
    assert missing == sorted(
        [f"features.{i}.conv.2" for i in (3, 5, 6, 8, 9, 10, 12, 13, 15, 16)] + ["classifier.1"]
    )


def test_without_the_background(pixels) -> None:
    model = small()
    short = model.without_background()
    assert short.labels == LABELS[1:]
    assert short.architecture.classes == 2
    x = pixels(1, 32, 32, 3)
    np.testing.assert_array_equal(Int8Reference(short)(x), Int8Reference(model)(x)[:, 1:])
    with pytest.raises(ModelFileError, match="class 0 is not the background"):
        short.without_background()
