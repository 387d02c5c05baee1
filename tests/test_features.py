"""The input of the classifier layer: the native runtime against the NumPy oracle and PyTorch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mobilenetv2.architecture import SMALL_IMAGES, V1, Architecture
from mobilenetv2.errors import UserError
from mobilenetv2.heads import Classifier, DeepLab
from mobilenetv2.model import Model
from mobilenetv2.nn import MobileNetV2
from mobilenetv2.runtime import Engine, Reference, _native

from .conftest import random_checkpoint

VARIANTS = {
    "0.35": Architecture(width_mult=0.35, head=Classifier(7)),
    "0.5 same": Architecture(width_mult=0.5, head=Classifier(7), padding="same", output_stride=16),
    "expansion": Architecture(width_mult=0.35, head=Classifier(7), shortcut="expansion"),
    "no last": Architecture(width_mult=0.35, head=Classifier(7), last_channels=None),
    "v1": replace(V1, width_mult=0.25, head=Classifier(7)),
    "32 px": replace(SMALL_IMAGES, width_mult=0.5, head=Classifier(10)),
    "grey": Architecture(width_mult=0.35, head=Classifier(7), in_channels=1),
}


@pytest.mark.parametrize("isa", _native.kernel_names())
@pytest.mark.parametrize("variant", VARIANTS)
def test_features_equal_the_reference(variant, isa, pixels) -> None:
    checkpoint = random_checkpoint(VARIANTS[variant])
    engine, reference = Engine(checkpoint, 2, isa), Reference(checkpoint)
    weight, bias = (checkpoint.arrays[f"classifier.1.{name}"] for name in ("weight", "bias"))
    for count, height, width in [(1, 1, 1), (2, 33, 17), (6, 64, 40)]:
        x = pixels(count, height, width, checkpoint.architecture.in_channels)
        features = engine.features(x)
        expected = reference.run(x, ("pool",))["pool"].reshape(count, -1)
        assert features.shape == expected.shape == (count, weight.shape[1])
        assert features.dtype == np.float32
        assert np.abs(features - expected).max() < 6e-4
        assert np.abs(features @ weight.T + bias - engine(x)).max() < 1e-4


def test_features_equal_torch(pixels) -> None:
    checkpoint = random_checkpoint(VARIANTS["0.5 same"])
    net = MobileNetV2(checkpoint.architecture).eval()
    net.load_checkpoint(checkpoint)
    x = pixels(3, 65, 48, 3)
    values = checkpoint.preprocessing.normalize(x).astype(np.float32)
    with torch.no_grad():
        maps = net.forward_features(torch.from_numpy(values).permute(0, 3, 1, 2))
    expected = maps.mean(dim=(2, 3)).numpy()
    for images in (x, values):
        assert np.abs(Model(checkpoint).features(images) - expected).max() < 6e-4


def test_features_and_logits_take_turns(pixels) -> None:
    """Each has its own plan of the same size, and the same bits alone, in a batch, on any threads."""
    checkpoint = random_checkpoint(VARIANTS["0.35"])
    x = pixels(7, 40, 50, 3)
    alone = Engine(checkpoint, 1)
    logits, features = alone(x), alone.features(x)
    for threads in (1, 3):
        engine = Engine(checkpoint, threads)
        for _ in range(2):
            assert np.array_equal(engine.features(x), features)
            assert np.array_equal(engine(x), logits)
            assert np.array_equal(engine.features(x[3:4]), features[3:4])


def test_a_head_that_labels_pixels_has_no_features_of_a_whole_image(pixels) -> None:
    model = Model(random_checkpoint(width_mult=0.35, head=DeepLab()))
    with pytest.raises(UserError, match="head is DeepLab.*no features of a whole image"):
        model.features(pixels(1, 32, 32, 3))


@pytest.mark.parametrize(
    ("images", "complaint"),
    [
        ([[1]], "NumPy array"),
        (np.zeros((8, 8, 3), np.uint8), "must be"),
        (np.zeros((0, 8, 8, 3), np.uint8), "at least 1"),
        (np.zeros((1, 8, 8, 3), np.int32), "int32"),
        (np.full((1, 8, 8, 3), 255, np.float32), "normalised"),
    ],
)
@pytest.mark.parametrize("method", ["features", "profile"])
def test_features_and_profile_refuse_what_the_call_refuses(images, complaint, method) -> None:
    engine = Engine(random_checkpoint(VARIANTS["0.35"]), 1)
    with pytest.raises(UserError, match=complaint):
        getattr(engine, method)(images)
