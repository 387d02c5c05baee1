"""OpenVINO files, run by OpenVINO."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mobilenetv2 import boxes
from mobilenetv2.architecture import Architecture, Stage
from mobilenetv2.checkpoint import Checkpoint
from mobilenetv2.graph import network
from mobilenetv2.heads import SSD, Classifier, DeepLab, Features, Head, SSDHead, ssd_anchor_sizes
from mobilenetv2.images import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from mobilenetv2.int8 import AnyCheckpoint
from mobilenetv2.runtime import Engine
from mobilenetv2.runtime.quantize import to_int8
from mobilenetv2.writers import WriteOptions, WriterError

from .conftest import random_checkpoint

pytest.importorskip("onnx")
openvino = pytest.importorskip("openvino")

from mobilenetv2.verification.openvino import run  # noqa: E402
from mobilenetv2.writers.openvino import write  # noqa: E402

STAGES = (Stage(1, 8, 1, 1), Stage(6, 12, 2, 2), Stage(3, 16, 1, 2), Stage(6, 24, 1, 2))
HEADS: dict[str, Head] = {
    "classifier": Classifier(10),
    "features": Features(),
    "deeplab": DeepLab(5),
    "ssd": SSD(4, (16, 16), ssd_anchor_sizes(4)),
}


def small(head: str, size: tuple[int, int] = (48, 65), **changes: Any) -> Checkpoint:
    """A shallow network with random weights."""
    architecture = Architecture(
        stages=STAGES, last_channels=32, head=HEADS[head], resolution=size, **changes
    )
    return random_checkpoint(architecture)


def results(
    checkpoint: AnyCheckpoint, images: np.ndarray, folder: Path, **options: Any
) -> dict[str, Any]:
    """What OpenVINO makes of the images."""
    chosen = WriteOptions(**options)
    written = write(checkpoint, folder / "model.xml", chosen)
    assert sorted(folder.iterdir()) == sorted(written)
    return run(written[0], images, checkpoint, chosen)


@pytest.mark.parametrize("padding", ["same", "symmetric"])
@pytest.mark.parametrize("head", ["classifier", "features", "deeplab"])
def test_float_files(tmp_path, pixels, head, padding) -> None:
    checkpoint = small(head, padding=padding)
    options: dict[str, Any]
    for options in ({}, {"batch": None, "dynamic_size": True, "layout": "nhwc", "input": "uint8"}):
        images = pixels(2, 97, 51, 3) if options else pixels(2, 48, 65, 3)
        (values,) = results(checkpoint, images, tmp_path, **options).values()
        wanted = Engine(checkpoint, 1)(images)
        assert wanted.std() > 0.1
        np.testing.assert_allclose(values, wanted, atol=1e-4)


@pytest.mark.parametrize("batch", [1, 2])
def test_detections(tmp_path, pixels, batch) -> None:
    checkpoint = small("ssd")
    images = pixels(2, 48, 65, 3)
    head = checkpoint.architecture.head
    assert isinstance(head, SSDHead)
    codes, scores = boxes.raw_outputs(head, Engine(checkpoint, 1)(images))
    probabilities = boxes.probabilities(head, scores)
    values = results(checkpoint, images, tmp_path, batch=batch)
    np.testing.assert_allclose(values["codes"], codes, atol=1e-4)
    np.testing.assert_allclose(values["scores"], probabilities, atol=1e-5)
    values = results(
        checkpoint, images, tmp_path, batch=batch, results="final", score_threshold=0.6
    )
    anchors = boxes.anchors(head, network(checkpoint.architecture))
    for index in range(2):
        corners = np.clip(boxes.decode_boxes(codes[index], anchors), 0, 1)
        rows, classes = boxes.best_boxes(
            corners, probabilities[index], threshold=0.6, iou_threshold=0.6, limit=100
        )
        assert len(rows) > 10
        np.testing.assert_array_equal(values["classes"][index], classes)
        np.testing.assert_allclose(values["boxes"][index], corners[rows], atol=1e-4)


@pytest.mark.parametrize("head", ["classifier", "deeplab", "ssd"])
def test_int8_files(tmp_path, pixels, head) -> None:
    size = (48, 65)
    checkpoint = small(head, size, padding="same")
    imagenet = Preprocessing(size=size, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    images = pixels(3, *size, 3)
    quantized = to_int8(replace(checkpoint, preprocessing=imagenet), images)
    values = results(quantized, images, tmp_path, input="uint8", batch=3)
    wanted = Engine(quantized, 1)(images)
    if isinstance(wanted, dict):
        wanted = boxes.raw_outputs(checkpoint.architecture.head, wanted)[0]  # type: ignore[arg-type]
    assert np.abs(next(iter(values.values())) - wanted).mean() < 0.1 * wanted.std()


def test_what_the_file_says_of_itself(tmp_path) -> None:
    checkpoint = replace(small("classifier"), labels=("a <cat>\n", *"bcdefghi", ""))
    checkpoint = replace(
        checkpoint, preprocessing=Preprocessing(size=(48, 65), mean=IMAGENET_MEAN, std=IMAGENET_STD)
    )
    sizes = []
    for float16 in (False, True):
        options = WriteOptions(float16=float16)
        xml, weights = write(checkpoint, tmp_path / "model.xml", options)
        sizes.append(weights.stat().st_size)
    # float32 stays float32, unlike OpenVINO's default
    assert 0.4 < sizes[1] / sizes[0] < 0.6
    model = openvino.Core().read_model(xml)
    said = {
        name: model.get_rt_info(["model_info", name]).astype(str)
        for name in ("labels", "mean_values", "scale_values", "model_type", "resize_type")
    }
    assert said == {
        "labels": "a_<cat>_ b c d e f g h i _",
        "mean_values": "123.675 116.28 103.53",
        "scale_values": "58.395 57.12 57.375",
        "model_type": "Classification",
        "resize_type": "crop",
    }
    text = model.get_rt_info(["model_info", "mobilenetv2"]).astype(str)
    assert json.loads(text)["labels"][0] == "a <cat>\n"


def test_operators_of_onnx_are_not_chosen(tmp_path) -> None:
    with pytest.raises(WriterError, match="operators of its own"):
        write(small("classifier"), tmp_path / "model.xml", WriteOptions(opset=17))
    assert not list(tmp_path.iterdir())


def test_names_that_openvino_does_not_read(tmp_path) -> None:
    with pytest.raises(WriterError, match="MODEL.XML: OpenVINO reads files that end in .xml"):
        write(small("classifier"), tmp_path / "MODEL.XML", WriteOptions())
    assert not list(tmp_path.iterdir())
