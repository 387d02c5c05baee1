"""Detectors and segmenters in TensorFlow Lite, against LiteRT; graphs that differ are refused."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mobilenetv2 import boxes
from mobilenetv2.checkpoint import Checkpoint
from mobilenetv2.detector import Detector
from mobilenetv2.errors import ModelFileError
from mobilenetv2.formats import read
from mobilenetv2.graph import network
from mobilenetv2.heads import SSD, DeepLab, SSDLite, ssd_anchor_sizes
from mobilenetv2.runtime import Reference

from .conftest import random_checkpoint
from .writers import CUSTOM, RELU, RELU6, TFLiteWriter

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


def test_predictors_in_another_order(tmp_path) -> None:
    """Those of the last map run first."""
    checkpoint = DETECTORS["SSDLite"]()
    writer = TFLiteWriter(checkpoint)
    ordered = read(writer.save(tmp_path / "ordered.tflite"))
    moved = [
        named(writer, f"head.{what}.{index}{layer}")
        for index in reversed(range(6))
        for what in ("scores", "boxes")
        for layer in (".0.0", ".1")
    ]
    first = writer.graph.operators.index(writer.operators("RESHAPE")[0])
    before, behind = writer.graph.operators[:first], writer.graph.operators[first:]
    writer.graph.operators = [op for op in before if op not in moved] + moved + behind
    imported = read(writer.save(tmp_path / "model.tflite"))
    for name, array in ordered.arrays.items():
        np.testing.assert_array_equal(imported.arrays[name], array, err_msg=name)


@pytest.mark.parametrize(
    ("lines", "labels"),
    [("cat\ndog\nnewt\n", ("cat", "dog", "newt")), ("???\ncat\ndog\nnewt", ("cat", "dog", "newt")),
     ("cow\ncat\ndog\nnewt", ())],
)  # fmt: skip
def test_labels_of_a_detector(tmp_path, lines, labels) -> None:
    path = TFLiteWriter(DETECTORS["3 classes"]()).save(tmp_path / "model.tflite")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("labelmap.txt", lines)
    assert read(path).labels == labels


def test_scores_without_an_activation_are_assumed_to_be_logits(tmp_path) -> None:
    path = TFLiteWriter(DETECTORS["SSDLite"](), end="scores").save(tmp_path / "model.tflite")
    assert read(path).notes[0] == (
        "the file's scores end without LOGISTIC or SOFTMAX; LOGISTIC (sigmoid) is assumed"
    )


# --- quantised detectors ---


def quantize(writer: TFLiteWriter, kind: type[np.generic]) -> None:
    """Gives all tensors the type of a quantised file: constants with the scale of their values, the
    others with some scale.
    """
    number = {np.uint8: 3, np.int8: 9}[kind]
    ends = np.iinfo(kind)
    for tensor in writer.graph.tensors:
        name, buffer = tensor.name.decode(), writer.model.buffers[tensor.buffer]
        if tensor.type != 0 or name == "":
            continue
        tensor.type, tensor.quantization = number, writer.schema.QuantizationParametersT()
        scale, zero = 2 / 255, ends.min + 127
        if tensor.buffer:
            values = np.frombuffer(bytes(buffer.data), np.float32)
            low, high = min(0, values.min()), max(0, values.max())
            scale, stored = (high - low) / 255, kind
            zero = round(ends.min - low / scale)
            if name.endswith(".bias"):
                scale, zero, stored, tensor.type = scale / 1000, 0, np.int32, 2
            limits = np.iinfo(stored)
            counted = np.clip(np.rint(values / scale) + zero, limits.min, limits.max)
            buffer.data = np.frombuffer(counted.astype(stored).tobytes(), np.uint8)
        tensor.quantization.scale, tensor.quantization.zeroPoint = [float(scale)], [int(zero)]


@pytest.mark.parametrize("dequantized", [False, True])
@pytest.mark.parametrize("kind", [np.uint8, np.int8])
def test_quantised_detectors_become_float(tmp_path, kind, dequantized) -> None:
    checkpoint = DETECTORS["SSDLite"]()
    writer = TFLiteWriter(checkpoint)
    quantize(writer, kind)
    if dequantized:
        operator = writer.graph.operators.pop()
        for place in range(3):
            source = operator.inputs[place]
            options = writer.schema.DequantizeOptionsT()
            shape = tuple(writer.graph.tensors[source].shape)
            operator.inputs[place] = writer.op("DEQUANTIZE", [source], shape, options)
        writer.graph.operators.append(operator)
    imported = read(writer.save(tmp_path / "model.tflite"), int8=False)
    assert imported.architecture == checkpoint.architecture
    assert imported.provenance["source"] == f"TensorFlow Lite ({np.dtype(kind).name})"
    for name in ("head.boxes.0.1", "head.scores.5.1"):
        weight = checkpoint.arrays[f"{name}.weight"]
        np.testing.assert_allclose(
            imported.arrays[f"{name}.weight"], weight, atol=np.ptp(weight) / 255
        )


# --- segmenters ---

SEGMENTERS = {
    "light": lambda: model(DeepLab(21)),
    "ASPP": lambda: model(DeepLab(4, aspp=True)),
    "ASPP, stride 8": lambda: model(DeepLab(4, aspp=True), output_stride=8),
    "stride 32": lambda: model(DeepLab(3), output_stride=32),
    "not square": lambda: model(DeepLab(2), resolution=(65, 97)),
    "one place": lambda: model(DeepLab(2), resolution=(16, 16)),
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


# --- graphs that are not the network ---


def named(writer: TFLiteWriter, name: str) -> Any:
    """The operator that makes a layer's tensor."""
    made = writer.made[name]
    return next(op for op in writer.graph.operators if made in op.outputs)


def refused(tmp_path: Path, writer: TFLiteWriter, complaint: str) -> None:
    with pytest.raises(ModelFileError, match=rf"other\.tflite: .*{complaint}"):
        read(writer.save(tmp_path / "other.tflite"))


def moved_anchors(writer: TFLiteWriter) -> None:
    tensor = writer.graph.tensors[writer.operators(CUSTOM)[0].inputs[2]]
    buffer = writer.model.buffers[tensor.buffer]
    values = np.frombuffer(bytes(buffer.data), np.float32).copy()
    values[4 * 20 + 2] += 0.01
    buffer.data = np.frombuffer(values.tobytes(), np.uint8)


def fewer_anchors(writer: TFLiteWriter) -> None:
    tensor = writer.graph.tensors[writer.operators(CUSTOM)[0].inputs[2]]
    buffer = writer.model.buffers[tensor.buffer]
    tensor.shape, buffer.data = [tensor.shape[0] - 1, 4], buffer.data[:-16]


def maps_in_another_order(writer: TFLiteWriter) -> None:
    inputs = writer.operators("CONCATENATION")[0].inputs
    inputs[2], inputs[3] = inputs[3], inputs[2]


def joined_along_the_numbers(writer: TFLiteWriter) -> None:
    writer.operators("CONCATENATION")[1].builtinOptions.axis = 2


def without_logistic(writer: TFLiteWriter) -> None:
    logistic = writer.operators("LOGISTIC")[0]
    writer.graph.operators.remove(logistic)
    writer.operators(CUSTOM)[0].inputs[1] = logistic.inputs[0]


def with_two_logistics(writer: TFLiteWriter) -> None:
    operator = writer.graph.operators.pop()
    shape = tuple(writer.graph.tensors[operator.inputs[1]].shape)
    operator.inputs[1] = writer.op("LOGISTIC", [operator.inputs[1]], shape, None)
    writer.graph.operators.append(operator)


def boxes_and_scores_exchanged(writer: TFLiteWriter) -> None:
    inputs = writer.operators(CUSTOM)[0].inputs
    inputs[0], inputs[1] = inputs[1], inputs[0]


def activation(name: str, code: int) -> Callable[[TFLiteWriter], None]:
    def change(writer: TFLiteWriter) -> None:
        named(writer, name).builtinOptions.fusedActivationFunction = code

    return change


def one_class_less(writer: TFLiteWriter) -> None:
    """On one map; the anchors stay as many."""
    for place in (1, 2):
        tensor = writer.graph.tensors[named(writer, "head.scores.2.1").inputs[place]]
        buffer = writer.model.buffers[tensor.buffer]
        count = tensor.shape[0]
        buffer.data = buffer.data[: len(buffer.data) // count * (count - 6)]
        tensor.shape = [count - 6, *tensor.shape[1:]]


def another_map_is_read(writer: TFLiteWriter) -> None:
    named(writer, "head.boxes.3.0.0").inputs[0] = writer.made["head.extra.2.2.0"]


def other_rows(writer: TFLiteWriter) -> None:
    tensor = writer.graph.tensors[writer.operators("RESHAPE")[7].outputs[0]]
    tensor.shape = [1, tensor.shape[2] * tensor.shape[1] // 2, 2]


def a_circle(writer: TFLiteWriter) -> None:
    reshape = writer.operators("RESHAPE")[3]
    reshape.inputs[0] = reshape.outputs[0]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (moved_anchors, "its anchors are not those of TensorFlow's ssd_anchor_generator"),
        (fewer_anchors, r"anchors of the shape \(\d+, 4\), not \(\d+, 4\)"),
        (maps_in_another_order, r"CONCATENATION of head\.boxes\.0\.1, .* not that of all maps in order"),
        (joined_along_the_numbers, r"of head\.scores\.0\.1 and others joins other axes"),
        (without_logistic, r"PostProcess reads boxes, scores, not boxes, probabilities"),
        (with_two_logistics, "a LOGISTIC after probabilities has no place in it"),
        (boxes_and_scores_exchanged, r"its maps have \[4, 9, 9, 9, 9, 9\] anchors a cell"),
        (activation("head.extra.1.0.0", RELU), r"head\.extra\.1\.0\.0 has the activation relu, not relu6"),
        (activation("head.scores.4.0.0", 0), r"head\.scores\.4\.0\.0 has the activation linear"),
        (activation("head.boxes.1.1", RELU6), r"head\.boxes\.1\.1 has the activation relu6, not linear"),
        (one_class_less, r"head\.scores\.2\.1\.weight is \(30, 32, 1, 1\), not \(36, 32, 1, 1\)"),
        (another_map_is_read, r"head\.boxes\.\d\.0\.\S* .*(does not read what it should|not \()"),
        (other_rows, r"a RESHAPE after head\.scores\.\d\.1 to \(1, \d+, 2\), not to rows of 6"),
        (a_circle, "its operators are not in order"),
    ],
)  # fmt: skip
def test_detectors_that_differ(tmp_path, change, complaint) -> None:
    writer = TFLiteWriter(DETECTORS["SSDLite"]())
    change(writer)
    refused(tmp_path, writer, complaint)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"y_scale": 5.0}, r"has the scales \(5\.0, 10\.0, 5\.0, 5\.0\), not \(10"),
        ({"w_scale": 10.0}, r"has the scales \(10\.0, 10\.0, 5\.0, 10\.0\)"),
        ({"num_classes": 4}, "PostProcess has 4 classes, not 5"),
    ],
)
def test_other_options_of_the_detection_operator(tmp_path, options, complaint) -> None:
    refused(tmp_path, TFLiteWriter(DETECTORS["SSDLite"](), detections=options), complaint)


def test_six_anchors_on_every_map(tmp_path) -> None:
    head = SSDLite(5, EXTRA, (ssd_anchor_sizes()[1], *ssd_anchor_sizes()[1:]))
    complaint = r"its maps have \[6, 6, 6, 6, 6, 6\] anchors a cell, not \[3, 6, 6, 6, 6, 6\]"
    refused(tmp_path, TFLiteWriter(model(head)), complaint)


def test_boxes_that_cannot_be_told_from_scores(tmp_path) -> None:
    writer = TFLiteWriter(DETECTORS["3 classes"](), end="scores")
    refused(tmp_path, writer, "its predictors end in .*, not in boxes and scores")


def corners_not_aligned(writer: TFLiteWriter) -> None:
    writer.operators("RESIZE_BILINEAR")[-1].builtinOptions.alignCorners = False


def half_pixel_centres(writer: TFLiteWriter) -> None:
    options = writer.operators("RESIZE_BILINEAR")[-1].builtinOptions
    options.alignCorners, options.halfPixelCenters = False, True


def branches_in_another_order(writer: TFLiteWriter) -> None:
    writer.operators("CONCATENATION")[0].inputs.reverse()


def another_rate(writer: TFLiteWriter) -> None:
    options = named(writer, "head.aspp2.0").builtinOptions
    options.dilationHFactor = options.dilationWFactor = 13


def arg_max_over_rows(writer: TFLiteWriter) -> None:
    axis = writer.graph.tensors[writer.operators("ARG_MAX")[0].inputs[1]]
    data = np.frombuffer(np.int32(1).tobytes(), np.uint8)
    writer.model.buffers[axis.buffer].data = data


def decoder(writer: TFLiteWriter) -> None:
    """DeepLabv3+ has a convolution of an early map."""
    projection = named(writer, "head.aspp0.0")
    weight = writer.graph.tensors[projection.inputs[1]]
    weight.name = b"decoder/feature_projection0"
    projection.inputs[0] = writer.made["features.3.add"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (corners_not_aligned, r"head\.resize does not align the corners"),
        (half_pixel_centres, r"head\.resize does not align the corners"),
        (branches_in_another_order, r"head\.concat \(CONCATENATION\) does not read"),
        (another_rate, r"head\.aspp2\.0 has dilation 13, not 12"),
        (arg_max_over_rows, r"an ARG_MAX after head\.resize over other axes"),
        (activation("head.concat_projection.0", RELU6), "has the activation relu6, not relu"),
        (decoder, "without a decoder: decoder/feature_projection0 has no place in it"),
    ],
)
def test_segmenters_that_differ(tmp_path, change, complaint) -> None:
    writer = TFLiteWriter(SEGMENTERS["ASPP"]())
    change(writer)
    refused(tmp_path, writer, complaint)
