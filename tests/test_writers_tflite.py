"""LiteRT files, run by LiteRT."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tflite

import mobilenetv2 as mnv2
from mobilenetv2.architecture import Architecture, Stage
from mobilenetv2.checkpoint import Checkpoint
from mobilenetv2.errors import ModelFileError
from mobilenetv2.formats.tflite import read_tflite
from mobilenetv2.formats.tflite_graph import parse
from mobilenetv2.heads import SSD, Classifier, DeepLab, Features, Head, SSDLite, ssd_anchor_sizes
from mobilenetv2.images import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from mobilenetv2.int8 import AnyCheckpoint
from mobilenetv2.runtime import Engine
from mobilenetv2.verification.compare import expected_results
from mobilenetv2.writers import WriteOptions, WriterError, tflite_results
from mobilenetv2.writers.tflite import write

from .conftest import random_checkpoint

pytest.importorskip("ai_edge_litert")

from mobilenetv2.verification.tflite import run

SMALL = (Stage(1, 8, 1, 1), Stage(6, 12, 2, 2), Stage(3, 16, 2, 2), Stage(6, 24, 2, 2))
EXTRA = (16, 16)
HEADS: dict[str, Head] = {
    "classifier": Classifier(10),
    "features": Features(),
    "deeplab": DeepLab(5),
    "aspp": DeepLab(5, aspp=True),
    "ssd": SSD(4, EXTRA, ssd_anchor_sizes(4)),
    "ssdlite": SSDLite(4, EXTRA, ssd_anchor_sizes(4), score="softmax"),
}
DETECTORS = ("ssd", "ssdlite")
IMAGENET = Preprocessing(size=(64, 64), mean=IMAGENET_MEAN, std=IMAGENET_STD)


def small(head: str, size: tuple[int, int] = (64, 64), **changes: Any) -> Checkpoint:
    """A shallow network with random weights."""
    stride = 16 if HEADS[head].task == "segmentation" else 32
    architecture = Architecture(
        stages=SMALL, last_channels=64, head=HEADS[head], resolution=size, output_stride=stride
    )
    return random_checkpoint(replace(architecture, **changes))


def results(
    checkpoint: AnyCheckpoint, images: np.ndarray, folder: Path, **options: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What LiteRT makes of the images, and our engine."""
    chosen = WriteOptions(**options)
    (path,) = write(checkpoint, folder / "model.tflite", chosen)
    return run(path, images, checkpoint, chosen), expected_results(checkpoint, chosen, images)


def check_same(values: dict[str, Any], ours: dict[str, Any], atol: float = 1e-4) -> None:
    assert list(values) == list(ours)
    for name, array in ours.items():
        # nearly constant values would agree whatever the file computes
        assert array.std() > 0.02
        np.testing.assert_allclose(values[name], array, atol=atol)


def readable(head: Head, **changes: Any) -> Checkpoint:
    """A network that the importer knows."""
    stride = 16 if head.task == "segmentation" else 32
    architecture = Architecture(
        width_mult=0.35, resolution=(64, 64), head=head, output_stride=stride, **changes
    )
    return random_checkpoint(architecture)


def model_of(path: Path) -> Any:
    return tflite.Model.GetRootAs(path.read_bytes(), 0)


def metadata(path: Path) -> dict[str, bytes]:
    """The contents of a file's metadata, by name."""
    model = model_of(path)
    entries = [model.Metadata(index) for index in range(model.MetadataLength())]
    buffers = {each.Name().decode(): model.Buffers(each.Buffer()) for each in entries}
    return {name: buffer.DataAsNumpy().tobytes() for name, buffer in buffers.items()}


@pytest.mark.parametrize("padding", ["same", "symmetric"])
@pytest.mark.parametrize("head", HEADS)
def test_every_head_at_an_odd_size(tmp_path, pixels, head, padding) -> None:
    checkpoint = small(head, (97, 131), padding=padding)
    images = pixels(5, 97, 131, 3)
    for batch in (1, 5, None):
        check_same(*results(checkpoint, images, tmp_path, batch=batch))


@pytest.mark.parametrize("padding", ["same", "symmetric"])
@pytest.mark.parametrize("head", ["classifier", "features"])
def test_images_of_any_size(tmp_path, pixels, head, padding) -> None:
    checkpoint = small(head, padding=padding)
    options = WriteOptions(dynamic_size=True, batch=None)
    (path,) = write(checkpoint, tmp_path / "model.tflite", options)
    for size in ((64, 64), (97, 131), (50, 33)):
        images = pixels(2, *size, 3)
        values = run(path, images, checkpoint, options)
        check_same(values, expected_results(checkpoint, options, images))


@pytest.mark.parametrize(
    "changes",
    [
        {"shortcut": "expansion"},
        {"shortcut": "none", "bottleneck": "relu6", "last_channels": None},
        {"in_channels": 1},
        {"output_stride": 8},
        {"stem_stride": 1},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_other_architectures(tmp_path, pixels, changes) -> None:
    checkpoint = small("classifier", (48, 64), **changes)
    images = pixels(2, 48, 64, checkpoint.architecture.in_channels)
    check_same(*results(checkpoint, images, tmp_path))


@pytest.mark.parametrize("padding", ["same", "symmetric"])
@pytest.mark.parametrize("head", ["classifier", "deeplab", "ssd"])
def test_pixels_are_normalised_by_the_file(tmp_path, pixels, head, padding) -> None:
    checkpoint = replace(small(head, padding=padding), preprocessing=IMAGENET)
    check_same(*results(checkpoint, pixels(2, 64, 64, 3), tmp_path, input="uint8"))
    tensor = parse((tmp_path / "model.tflite").read_bytes()).tensors[0]
    assert (tensor.name, tensor.shape, tensor.dtype) == ("image", (1, 64, 64, 3), np.uint8)


def test_the_graph_of_the_paper(tmp_path) -> None:
    checkpoint = random_checkpoint(padding="same")
    (path,) = write(checkpoint, tmp_path / "model.tflite", WriteOptions())
    graph = parse(path.read_bytes())
    assert Counter(op.code for op in graph.ops) == {
        "CONV_2D": 35,
        "DEPTHWISE_CONV_2D": 17,
        "ADD": 10,
        "MEAN": 1,
        "FULLY_CONNECTED": 1,
    }
    relu6 = [op for op in graph.ops if op.options.get("FusedActivationFunction") == 3]
    assert len(relu6) == 35
    names = [graph.tensors[op.outputs[0]].name for op in graph.ops]
    layers = [layer.name for layer in mnv2.layers(checkpoint.architecture)]
    assert names == [*layers[:-1], "logits"]
    assert model_of(path).OperatorCodesLength() == 5


def test_constants_lie_where_runtimes_read_them(tmp_path) -> None:
    (path,) = write(small("ssd"), tmp_path / "model.tflite", WriteOptions(results="final"))
    content = np.frombuffer(path.read_bytes(), np.uint8)
    start = content.__array_interface__["data"][0]
    arrays = [tensor.data for tensor in parse(content.tobytes()).tensors if tensor.data.size]
    assert len(arrays) > 40
    model = tflite.Model.GetRootAs(content, 0)
    for index in range(1, model.BuffersLength()):
        data = model.Buffers(index).DataAsNumpy()
        assert (data.__array_interface__["data"][0] - start) % 16 == 0


def test_the_same_model_gives_the_same_bytes(tmp_path) -> None:
    checkpoint = replace(small("classifier"), labels=tuple("abcdefghij"))
    options = WriteOptions(task_metadata=True, results="final")
    first = write(checkpoint, tmp_path / "a.tflite", options)[0].read_bytes()
    assert write(checkpoint, tmp_path / "b.tflite", options)[0].read_bytes() == first


def test_probabilities_and_masks(tmp_path, pixels) -> None:
    images = pixels(2, 64, 64, 3)
    check_same(*results(small("classifier"), images, tmp_path, results="final"))
    theirs, ours = results(small("deeplab"), images, tmp_path, results="final")
    assert theirs["mask"].dtype == np.uint8
    # two classes are as good as equal in a few pixels
    assert (theirs["mask"] == ours["mask"]).mean() > 0.999


def test_a_mask_of_more_classes_than_a_byte_holds(tmp_path, pixels) -> None:
    architecture = replace(small("deeplab", (32, 32)).architecture, head=DeepLab(300))
    checkpoint = random_checkpoint(architecture)
    checkpoint.arrays["head.logits.bias"][:256] -= 50
    theirs, ours = results(checkpoint, pixels(1, 32, 32, 3), tmp_path, results="final")
    assert theirs["mask"].dtype == np.int32
    assert theirs["mask"].max() > 255
    assert (theirs["mask"] == ours["mask"]).mean() > 0.99


@pytest.mark.parametrize("head", DETECTORS)
def test_detections(tmp_path, pixels, head) -> None:
    checkpoint = small(head, (96, 64))
    for name, array in checkpoint.arrays.items():
        if name.startswith("head.scores"):
            array *= 0.5  # scores of 1 would come in any order
    images = pixels(2, 96, 64, 3)
    counts = []
    for threshold, iou, most in ((0.2, 0.6, 100), (0.0, 0.3, 7), (0.99999, 0.5, 10)):
        options = {"score_threshold": threshold, "iou_threshold": iou, "max_detections": most}
        theirs, ours = results(checkpoint, images, tmp_path, results="final", **options)
        for index in range(len(images)):
            counts.append(len(ours["classes"][index]))
            np.testing.assert_allclose(theirs["scores"][index], ours["scores"][index], atol=1e-5)
            np.testing.assert_array_equal(theirs["classes"][index], ours["classes"][index])
            np.testing.assert_allclose(theirs["boxes"][index], ours["boxes"][index], atol=1e-4)
    assert min(counts) == 0
    assert max(counts) > 20


def test_boxes_without_area_are_left_out(tmp_path, pixels) -> None:
    checkpoint = small("ssd")
    # all boxes of the last map lie far beyond the left border
    arrays = dict(checkpoint.arrays)
    bias = arrays["head.boxes.3.bias"].copy()
    bias[1::4] = -1000
    checkpoint = replace(checkpoint, arrays={**arrays, "head.boxes.3.bias": bias})
    options = {"score_threshold": 0, "iou_threshold": 1, "max_detections": 3000}
    theirs, ours = results(
        checkpoint, pixels(1, 64, 64, 3), tmp_path, results="final", **options
    )  # fmt: skip
    assert 0 < len(theirs["boxes"][0]) == len(ours["boxes"][0]) < 4 * 318


def test_float16_weights(tmp_path, pixels) -> None:
    checkpoint, images = readable(HEADS["classifier"]), pixels(2, 64, 64, 3)
    theirs, ours = results(checkpoint, images, tmp_path, float16=True)
    half = (tmp_path / "model.tflite").stat().st_size
    assert 1e-6 < np.abs(theirs["logits"] - ours["logits"]).max() < 0.02
    back = read_tflite(tmp_path / "model.tflite")
    np.testing.assert_allclose(Engine(back)(images), theirs["logits"], atol=1e-4)
    results(checkpoint, images, tmp_path)
    assert half < 0.7 * (tmp_path / "model.tflite").stat().st_size
    large = {**checkpoint.arrays, "classifier.1.weight": np.full((10, 1280), 1e5, np.float32)}
    with pytest.raises(WriterError, match="float16 does not hold"):
        results(replace(checkpoint, arrays=large), images, tmp_path, float16=True)


@pytest.mark.parametrize("padding", ["same", "symmetric"])
@pytest.mark.parametrize("head", ["classifier", "deeplab", "aspp"])
def test_files_are_read_back(tmp_path, pixels, head, padding) -> None:
    checkpoint = readable(HEADS[head], padding=padding)
    images = pixels(1, 64, 64, 3)
    for kind in ("raw", "final"):
        (path,) = write(checkpoint, tmp_path / "model.tflite", WriteOptions(results=kind))
        back = read_tflite(path)
        assert back.architecture.padding == padding
        np.testing.assert_allclose(Engine(back)(images), Engine(checkpoint)(images), atol=1e-4)


def test_a_file_of_ours_says_labels_and_preprocessing_when_it_is_read(tmp_path) -> None:
    checkpoint = readable(HEADS["classifier"], padding="same")
    own = Preprocessing(
        size=checkpoint.architecture.resolution,
        resize="stretch",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )
    labels = tuple(f"x{index}" for index in range(checkpoint.architecture.classes))
    checkpoint = replace(checkpoint, preprocessing=own, labels=labels)
    (path,) = write(checkpoint, tmp_path / "model.tflite", WriteOptions())
    back = read_tflite(path)
    assert (back.preprocessing, back.labels, back.notes) == (own, labels, ())


@pytest.mark.parametrize("score", ["sigmoid", "softmax"])
@pytest.mark.parametrize("kind", [SSD, SSDLite])
def test_detectors_are_read_back(tmp_path, pixels, kind, score) -> None:
    head = kind(4, EXTRA, ssd_anchor_sizes(4), score=score)
    checkpoint = readable(head, padding="same")
    (path,) = write(checkpoint, tmp_path / "model.tflite", WriteOptions())
    back, images = read_tflite(path), pixels(1, 64, 64, 3)
    assert back.architecture.head == head
    outputs, ours = Engine(back)(images), Engine(checkpoint)(images)
    for name in ours:
        np.testing.assert_allclose(outputs[name], ours[name], atol=1e-4)


@pytest.mark.parametrize(
    ("begin", "fewer", "reason"), [(0, 0, "has no place"), (1, 1, "leaves out more")]
)
def test_another_part_of_the_scores_is_refused(tmp_path, monkeypatch, begin, fewer, reason) -> None:
    part = tflite_results._Detections._part

    def other(self: Any, tensor: int, _: int, count: int) -> int:
        return part(self, tensor, begin, count - fewer)

    monkeypatch.setattr(tflite_results._Detections, "_part", other)
    head = SSD(4, EXTRA, ssd_anchor_sizes(4))
    (path,) = write(readable(head), tmp_path / "model.tflite", WriteOptions())
    with pytest.raises(ModelFileError, match=f"SLICE after scores {reason}"):
        read_tflite(path)


@pytest.mark.parametrize(
    ("head", "options", "reason"),
    [
        ("classifier", {"layout": "nchw"}, "NHWC"),
        ("classifier", {"opset": 17}, "ONNX"),
        ("ssd", {"dynamic_size": True}, "anchors"),
        ("deeplab", {"dynamic_size": True}, "one size"),
        ("ssd", {"results": "final", "batch": 2}, "one image"),
        ("classifier", {"task_metadata": True}, "results 'final'"),
        ("deeplab", {"task_metadata": True, "results": "final"}, "results 'raw'"),
        ("features", {"task_metadata": True}, "no task"),
        ("classifier", {"task_metadata": True, "results": "final", "batch": 2}, "batch 1"),
    ],
)
def test_what_the_format_does_not_hold_is_refused(tmp_path, head, options, reason) -> None:
    with pytest.raises(WriterError, match=reason):
        write(small(head), tmp_path / "model.tflite", WriteOptions(**options))
    assert list(tmp_path.iterdir()) == []


def test_a_file_describes_itself(tmp_path) -> None:
    checkpoint = replace(small("ssd"), labels=("cat", "dog", "bird\nof prey", "한글"))
    (path,) = write(checkpoint, tmp_path / "model.tflite", WriteOptions(input="uint8"))
    facts = json.loads(metadata(path)["mobilenetv2"])
    assert (facts["task"], facts["input"], facts["size"]) == ("detection", "uint8", [64, 64])
    assert facts["labels"] == list(checkpoint.labels)
    assert len(facts["anchors"]) == 318
    assert b"MobileNetV2 for detection" in model_of(path).Description()


@pytest.mark.parametrize("head", ["classifier", "deeplab", "ssd"])
def test_metadata_for_mediapipe(tmp_path, pixels, head) -> None:
    labels = tuple(f"label {index}" for index in range(HEADS[head].classes))
    checkpoint = replace(readable(HEADS[head]), labels=labels)
    kind = "raw" if head == "deeplab" else "final"
    theirs, ours = results(
        checkpoint, pixels(1, 64, 64, 3), tmp_path, task_metadata=True, results=kind
    )
    assert theirs.keys() == ours.keys()
    path = tmp_path / "model.tflite"
    content = metadata(path)["TFLITE_METADATA"]
    assert content[4:8] == b"M001"
    assert b"labels.txt" in content
    assert b"label 0\nlabel 1" in path.read_bytes()
    if head != "ssd":
        assert read_tflite(path).labels == labels


def test_mediapipe_normalises_all_channels_alike(tmp_path) -> None:
    checkpoint = replace(small("classifier"), preprocessing=IMAGENET)
    options = WriteOptions(task_metadata=True, results="final")
    with pytest.raises(WriterError, match="give input 'uint8'"):
        write(checkpoint, tmp_path / "model.tflite", options)
    exported = mnv2.export(checkpoint, tmp_path / "model.tflite", task_metadata=True)
    assert exported.options == replace(options, input="uint8")


def test_a_model_is_exported_and_checked(tmp_path) -> None:
    exported = mnv2.export(mnv2.load("cifar10"), tmp_path / "cifar10.tflite")
    assert exported.runtime.startswith("ai-edge-litert ")
    assert [each.passed for each in exported.differences] == [True]
