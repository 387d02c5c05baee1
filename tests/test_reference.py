"""The NumPy oracle: against the published logits, against PyTorch, and against arithmetic done by
hand.
"""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest
import torch

from mobilenetv2.architecture import SMALL_IMAGES, V1, Architecture, Stage
from mobilenetv2.checkpoint import Checkpoint
from mobilenetv2.errors import UserError
from mobilenetv2.folding import fold
from mobilenetv2.formats import read
from mobilenetv2.graph import layers
from mobilenetv2.heads import Classifier
from mobilenetv2.nn import MobileNetV2
from mobilenetv2.runtime import Engine, Reference, _native
from mobilenetv2.runtime.reference import resize_corners

from .conftest import random_checkpoint

QUANTISED = ("tf2_mobilenet_v2_1.0_224_ptq", "mobilenet_v2_1.0_224_quant")


@pytest.mark.parametrize("name", QUANTISED)
def test_published_logits_on_the_recorded_pixels(shared, name) -> None:
    checkpoint = read(shared(f"models/{name}.tflite"), int8=False)
    pixels = np.load(shared("reference/imagenet/inputs.first32.npz"))["images"]
    wanted = np.load(shared(f"reference/imagenet/{name}.first32.npz"))["float_logits"]
    assert np.abs(Reference(checkpoint)(pixels) - wanted).max() < 1e-3


@pytest.mark.parametrize("name", QUANTISED)
def test_every_stage_of_the_first_image(shared, name) -> None:
    checkpoint = read(shared(f"models/{name}.tflite"), int8=False)
    pixels = np.load(shared("reference/imagenet/inputs.first32.npz"))["images"][:1]
    steps = layers(checkpoint.architecture)
    ends = {"stem": steps[0].name, "last_conv": "features.18.0", "logits": "classifier.1"}
    ends |= {f"block{layer.block}": layer.name for layer in steps if layer.block}
    values = Reference(checkpoint, np.float64).run(pixels, set(ends.values()))
    with open(
        shared(f"reference/imagenet/{name}.float.layers_first_image.csv"), encoding="utf-8"
    ) as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 20
    for row in rows:
        found = values[ends[row["stage"]]]
        for key, value in (
            ("mean", found.mean()),
            ("std", found.std()),
            ("min", found.min()),
            ("l2", np.linalg.norm(found)),
        ):
            assert value == pytest.approx(float(row[key]), rel=1e-4, abs=1e-5), (
                f"{row['stage']} {key}"
            )


def test_wrong_padding_moves_the_logits(shared) -> None:
    right = read(shared(f"models/{QUANTISED[0]}.tflite"), int8=False)
    wrong = replace(right, architecture=replace(right.architecture, padding="symmetric"))
    pixels = np.load(shared("reference/imagenet/inputs.first32.npz"))["images"][:1]
    assert np.abs(Reference(right)(pixels) - Reference(wrong)(pixels)).max() > 0.5


@pytest.mark.parametrize("side", [225, 193, 97, 33])
def test_the_padding_rules_agree_where_every_stride_2_input_is_odd(pixels, side) -> None:
    same = random_checkpoint(width_mult=0.35, padding="same")
    symmetric = replace(same, architecture=replace(same.architecture, padding="symmetric"))
    x = pixels(1, side, side, 3)
    assert np.abs(Reference(same)(x) - Reference(symmetric)(x)).max() < 1e-5
    even = pixels(1, 96, 96, 3)
    assert np.abs(Reference(same)(even) - Reference(symmetric)(even)).max() > 1e-3


VARIANTS = {
    "v2": Architecture(width_mult=0.35, head=Classifier(7)),
    "same": Architecture(width_mult=0.5, head=Classifier(7), padding="same", bn_epsilon=1e-3),
    "stride 8": Architecture(width_mult=0.35, head=Classifier(7), output_stride=8, padding="same"),
    "stride 16": Architecture(width_mult=0.35, head=Classifier(7), output_stride=16),
    "relu6": Architecture(width_mult=0.35, head=Classifier(7), bottleneck="relu6"),
    "expansion": Architecture(width_mult=0.35, head=Classifier(7), shortcut="expansion"),
    "no shortcut": Architecture(width_mult=0.35, head=Classifier(7), shortcut="none"),
    "v1": replace(V1, width_mult=0.25, head=Classifier(7)),
    "32 px": replace(SMALL_IMAGES, width_mult=0.35, head=Classifier(10)),
    "grey": Architecture(width_mult=0.35, head=Classifier(7), in_channels=1),
    "features": Architecture(width_mult=0.35, head="features"),
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("size", [(224, 224), (97, 130), (33, 17), (1, 1)], ids=str)
def test_equals_the_torch_module(variant, size) -> None:
    checkpoint = random_checkpoint(VARIANTS[variant])
    net = MobileNetV2(checkpoint.architecture).eval()
    net.load_checkpoint(checkpoint)
    x = (
        np.random.default_rng(1)
        .uniform(-1, 1, (2, *size, checkpoint.architecture.in_channels))
        .astype(np.float32)
    )
    with torch.no_grad():
        wanted = net(torch.from_numpy(x).permute(0, 3, 1, 2))
    wanted = wanted.permute(0, 2, 3, 1).numpy() if wanted.ndim == 4 else wanted.numpy()
    found = Reference(checkpoint)(x)
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() < 1e-4 * (
        6 if found.ndim == 4 else 1
    )  # maps end in ReLU6, whose range is 6


def test_batch_norm_folding_at_the_edges() -> None:
    """Variances of 0 and 1e-14, scales of 0 and below: folded equals normalised step by step, in
    float64.
    """
    checkpoint = random_checkpoint(width_mult=0.35, bn_epsilon=1e-3)
    arrays = dict(checkpoint.arrays)
    arrays["features.0.1.running_var"] = np.array([0, 1e-14, 1e-6, *[1] * 13], np.float32)
    arrays["features.0.1.weight"] = np.array([1, 1, 1, 0, -2, *[1] * 11], np.float32)
    checkpoint = Checkpoint(checkpoint.architecture, arrays, (), checkpoint.preprocessing)
    stem = layers(checkpoint.architecture)[0]
    weight, bias = fold(checkpoint, stem)
    assert np.isfinite(weight).all()
    x = np.random.default_rng(0).normal(size=weight.shape[1:])
    raw = (arrays[stem.weight].astype(np.float64) * x).sum(axis=(1, 2, 3))
    norm = {
        name: arrays[f"features.0.1.{name}"].astype(np.float64)
        for name in ("weight", "bias", "running_mean", "running_var")
    }
    wanted = (raw - norm["running_mean"]) / np.sqrt(norm["running_var"] + 1e-3) * norm[
        "weight"
    ] + norm["bias"]
    assert (weight * x).sum(axis=(1, 2, 3)) + bias == pytest.approx(wanted, rel=1e-10, abs=1e-10)


@pytest.mark.parametrize("isa", _native.kernel_names())
@pytest.mark.parametrize("epsilon", [1e-3, 1e-5])
def test_extreme_batch_norms_are_folded_as_they_normalise(pixels, epsilon, isa) -> None:
    """Every batch norm has channels with a variance of 0, 1e-14 and 1e-6, and scales of 0 and -1."""
    stages = (Stage(1, 16, 1, 1), Stage(6, 16, 2, 1))  # more would amplify roundings
    checkpoint = random_checkpoint(stages=stages, last_channels=64, classes=7, bn_epsilon=epsilon)
    arrays = {name: array.copy() for name, array in checkpoint.arrays.items()}
    for layer in layers(checkpoint.architecture):
        if layer.norm:
            arrays[f"{layer.norm}.running_var"][:3] = 0, 1e-14, 1e-6
            arrays[f"{layer.norm}.weight"][3:5] = 0, -1
    checkpoint = replace(checkpoint, arrays=arrays)
    net = MobileNetV2(checkpoint.architecture).double().eval()
    net.load_checkpoint(checkpoint)
    x = pixels(2, 24, 16, 3)
    normal = torch.from_numpy(checkpoint.preprocessing.normalize(x)).double()
    with torch.no_grad():
        wanted = net(normal.permute(0, 3, 1, 2)).numpy()  # not folded
    for run in (Engine(checkpoint, 1, isa), Reference(checkpoint)):
        assert np.abs(run(x) - wanted).max() < 1e-4 * np.abs(wanted).max()


def test_a_image_alone_or_in_a_batch(pixels) -> None:
    run = Reference(random_checkpoint(width_mult=0.35))
    x = pixels(3, 64, 48, 3)
    assert (
        np.abs(run(x)[1:2] - run(x[1:2])).max() < 1e-4
    )  # the matrix product sums in another order


def test_deeplab_head_gives_scores_at_the_images_size(pixels) -> None:
    checkpoint = random_checkpoint(
        width_mult=0.35, head="deeplabv3", classes=5, output_stride=16, padding="same"
    )
    assert Reference(checkpoint)(pixels(1, 65, 49, 3)).shape == (1, 65, 49, 5)


def test_resize_keeps_corners() -> None:
    x = np.array([[0.0, 3.0], [6.0, 9.0]]).reshape(1, 2, 2, 1)
    assert resize_corners(x, 4, 4)[0, :, :, 0].tolist() == [
        [0, 1, 2, 3],
        [2, 3, 4, 5],
        [4, 5, 6, 7],
        [6, 7, 8, 9],
    ]
    assert resize_corners(x[:, :1, :1], 3, 2).ravel().tolist() == [0] * 6


@pytest.mark.parametrize(
    ("images", "complaint"),
    [
        (np.zeros((8, 8, 3), np.uint8), "must be"),
        (np.zeros((1, 3, 8, 8), np.uint8), "must be"),
        (np.zeros((0, 8, 8, 3), np.uint8), "at least 1"),
        (np.zeros((1, 8, 8, 3), np.int32), "int32"),
        (np.full((1, 8, 8, 3), np.nan, np.float32), "NaN"),
        (np.full((1, 8, 8, 3), 255, np.float32), "normalised"),
    ],
)
def test_wrong_input_is_refused(images, complaint) -> None:
    with pytest.raises(UserError, match=complaint):
        Reference(random_checkpoint(width_mult=0.35))(images)


def test_an_unknown_layer_is_named(pixels) -> None:
    with pytest.raises(UserError, match=r"features\.99"):
        Reference(random_checkpoint(width_mult=0.35)).run(pixels(1, 32, 32, 3), ("features.99",))
