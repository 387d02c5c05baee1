"""Detectors and segmenters in TensorFlow Lite, against LiteRT; graphs that differ are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mobilenetv2 import boxes
from mobilenetv2.checkpoint import Checkpoint
from mobilenetv2.detector import Detector
from mobilenetv2.formats import read
from mobilenetv2.graph import network
from mobilenetv2.heads import SSD, DeepLab, SSDLite, ssd_anchor_sizes
from mobilenetv2.runtime import Reference

from .conftest import random_checkpoint
from .writers import TFLiteWriter

EXTRA = (32, 16, 16, 8)


def model(head: object, **changes: object) -> Checkpoint:
    settings = {"width_mult": 0.35, "padding": "same", "bn_epsilon": 1e-3, "last_channels": 128}
    settings |= {"resolution": (96, 96), "head": head}
    if isinstance(head, DeepLab):
        settings |= {"last_channels": None, "resolution": (65, 65), "output_stride": 16}
    return random_checkpoint(**{**settings, **changes})


def litert(path: Path, image: np.ndarray) -> list[np.ndarray]:
    """The outputs of the TensorFlow Lite interpreter."""
    interpreter = pytest.importorskip("ai_edge_litert.interpreter").Interpreter(str(path))
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
    interpreter.invoke()
    return [interpreter.get_tensor(output["index"]) for output in interpreter.get_output_details()]


def noise(checkpoint: Checkpoint) -> np.ndarray:
    shape = (1, *checkpoint.architecture.resolution, 3)
    return np.random.default_rng(3).integers(0, 256, shape, dtype=np.uint8)


# --- detectors ---

DETECTORS = {
    "SSDLite": lambda: model(SSDLite(5, EXTRA)),
    "SSD": lambda: model(SSD(5, EXTRA)),
    "SSD, kernels of 3": lambda: model(SSD(5, EXTRA, predictor_kernel=3)),
    "softmax": lambda: model(SSDLite(5, EXTRA, score="softmax")),
    "3 classes": lambda: model(SSDLite(3, EXTRA)),
    "3 classes, SSD": lambda: model(SSD(3, EXTRA)),
    "1 class": lambda: model(SSD(1, EXTRA)),
    "4 maps": lambda: model(SSDLite(2, (32, 16), ssd_anchor_sizes(4))),
    "symmetric": lambda: model(SSDLite(2, EXTRA), padding="symmetric"),
    "not square": lambda: model(SSDLite(2, EXTRA), resolution=(96, 130)),
    "320": lambda: model(SSDLite(2, EXTRA), resolution=(320, 320)),
}


@pytest.mark.parametrize("name", DETECTORS)
def test_a_detector_gives_what_litert_gives(tmp_path, name) -> None:
    checkpoint = DETECTORS[name]()
    path = TFLiteWriter(checkpoint, end="probabilities").save(tmp_path / "model.tflite")
    imported = read(path)
    assert imported.architecture == checkpoint.architecture
    assert imported.preprocessing.resize == "stretch"
    head, pixels = checkpoint.architecture.head, noise(checkpoint)
    codes, scores = Detector(imported).raw(pixels)
    assert len(codes[0]) == len(boxes.anchors(head, network(checkpoint.architecture)))
    if name == "320":
        assert len(codes[0]) == 2034
    expected_codes, expected = litert(path, imported.preprocessing.normalize(pixels))
    np.testing.assert_allclose(codes, expected_codes, atol=1e-3)
    np.testing.assert_allclose(boxes.probabilities(head, scores), expected[..., 1:], atol=1e-4)


@pytest.mark.parametrize("name", ["SSDLite", "softmax", "3 classes", "not square"])
def test_the_detection_operator_answers_the_same(tmp_path, name) -> None:
    checkpoint = DETECTORS[name]()
    path = TFLiteWriter(checkpoint).save(tmp_path / "model.tflite")
    imported = read(path)
    assert imported.architecture == checkpoint.architecture
    pixels = noise(checkpoint)
    corners, classes, scores, count = litert(path, imported.preprocessing.normalize(pixels))
    detections = Detector(imported).detect(pixels[0], threshold=1e-6, limit=10)
    assert count == len(detections.boxes) == 10
    np.testing.assert_allclose(detections.scores, scores[0], atol=1e-4)
    np.testing.assert_array_equal(detections.indices, classes[0])
    height, width = checkpoint.architecture.resolution
    expected = np.clip(corners[0][:, [1, 0, 3, 2]], 0, 1) * [width, height, width, height]
    np.testing.assert_allclose(detections.boxes, expected, atol=0.05)


@pytest.mark.parametrize("end", ["answer", "scores"])
def test_float16_detectors(tmp_path, end) -> None:
    checkpoint = DETECTORS["SSDLite"]()
    path = TFLiteWriter(checkpoint, half=True, end=end).save(tmp_path / "model.tflite")
    imported = read(path)
    assert imported.architecture == checkpoint.architecture
    weight = "head.scores.3.1.weight"
    assert (imported.arrays[weight] == checkpoint.arrays[weight].astype(np.float16)).all()


# --- segmenters ---

SEGMENTERS = {
    "light": lambda: model(DeepLab(21)),
    "ASPP": lambda: model(DeepLab(4, aspp=True)),
    "ASPP, stride 8": lambda: model(DeepLab(4, aspp=True), output_stride=8),
    "stride 32": lambda: model(DeepLab(3), output_stride=32),
    "not square": lambda: model(DeepLab(2), resolution=(65, 97)),
    "even": lambda: model(DeepLab(2), resolution=(64, 80)),
    "symmetric": lambda: model(DeepLab(2), resolution=(64, 80), padding="symmetric"),
    "not rounded": lambda: model(DeepLab(2), width_mult=0.5, divisor=1, min_channels=1),
}


@pytest.mark.parametrize("pool", ["MEAN", "AVERAGE_POOL_2D"])
@pytest.mark.parametrize("name", SEGMENTERS)
def test_a_segmenter_gives_what_litert_gives(tmp_path, name, pool) -> None:
    checkpoint = SEGMENTERS[name]()
    path = TFLiteWriter(checkpoint, pool=pool, end="scores").save(tmp_path / "model.tflite")
    imported = read(path)
    assert imported.architecture == checkpoint.architecture
    assert imported.preprocessing.resize == "fit"
    pixels = imported.preprocessing.normalize(noise(checkpoint))
    np.testing.assert_allclose(Reference(imported)(pixels), litert(path, pixels)[0], atol=1e-3)


def test_a_segmenter_with_arg_max(tmp_path) -> None:
    checkpoint = SEGMENTERS["light"]()
    path = TFLiteWriter(checkpoint).save(tmp_path / "model.tflite")
    imported = read(path)
    assert imported.architecture == checkpoint.architecture
    pixels = imported.preprocessing.normalize(noise(checkpoint))
    mask = Reference(imported)(pixels).argmax(-1)
    assert (mask == litert(path, pixels)[0]).mean() > 0.999
