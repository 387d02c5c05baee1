"""int8 LiteRT files: the model's own integers, run by LiteRT."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mobilenetv2.exporting import verification_pixels
from mobilenetv2.formats.tflite import read_tflite
from mobilenetv2.formats.tflite_graph import parse
from mobilenetv2.images import Preprocessing
from mobilenetv2.int8 import Int8Checkpoint
from mobilenetv2.runtime import Int8Reference
from mobilenetv2.runtime.quantize import to_int8
from mobilenetv2.verification.compare import differences, expected_results
from mobilenetv2.writers import WriteOptions, WriterError
from mobilenetv2.writers.tflite import write

from .int8 import random_int8
from .test_writers_tflite import DETECTORS, HEADS, IMAGENET, SMALL, small

interpreter = pytest.importorskip("ai_edge_litert.interpreter")

from mobilenetv2.verification.tflite import run  # noqa: E402

PUBLISHED = [
    "mobilenet_v2_1.0_224_quant",
    "tf2_mobilenet_v2_1.0_224_ptq",
    "mobilenet_v2_1.0_224_inat_bird_quant",
    "deeplabv3_mnv2_dm05_pascal_quant",
]
QUANTIZED = ["CONV_2D", "DEPTHWISE_CONV_2D", "ADD", "MEAN", "AVERAGE_POOL_2D", "CONCATENATION"]


def reference_kernels(path: Path, images: np.ndarray) -> np.ndarray:
    """A file's first output by TensorFlow Lite's reference kernels."""
    kind = interpreter.OpResolverType.BUILTIN_REF
    call = interpreter.Interpreter(str(path), experimental_op_resolver_type=kind)
    call.allocate_tensors()
    rows = []
    for image in images:
        call.set_tensor(call.get_input_details()[0]["index"], image[None])
        call.invoke()
        rows.append(call.get_tensor(call.get_output_details()[0]["index"]))
    return np.concatenate(rows)


def check_same_model(one: Int8Checkpoint, other: Int8Checkpoint) -> None:
    """Every integer, scale and zero point is the same."""
    assert one.layers.keys() == other.layers.keys()
    for name, layer in one.layers.items():
        back = other.layers[name]
        assert (layer.weight.dtype, layer.zero_point) == (back.weight.dtype, back.zero_point)
        for array in ("weight", "scale", "bias"):
            np.testing.assert_array_equal(getattr(layer, array), getattr(back, array))
    names = (
        "architecture", "activations", "image_scale", "image_zero_points", "rounding", "pooling",
        "signed",
    )  # fmt: skip
    for name in names:
        assert getattr(one, name) == getattr(other, name), name


@pytest.mark.parametrize("model", PUBLISHED)
def test_published_files_keep_every_integer(tmp_path, shared, model) -> None:
    original = shared(f"models/{model}.tflite")
    checkpoint = read_tflite(original)
    assert isinstance(checkpoint, Int8Checkpoint)
    options = WriteOptions(input="uint8", results="final")
    (path,) = write(checkpoint, tmp_path / "model.tflite", options)
    back = read_tflite(path)
    assert isinstance(back, Int8Checkpoint)
    check_same_model(checkpoint, back)
    pixels = verification_pixels(checkpoint.preprocessing, None)
    theirs = reference_kernels(original, pixels)
    ours = reference_kernels(path, pixels)
    if ours.dtype == np.uint8:  # a mask
        np.testing.assert_array_equal(ours, theirs)
    else:  # probabilities, which the original rounds to 1/256
        np.testing.assert_allclose(ours, theirs / 256, atol=0.01)


@pytest.mark.parametrize("model", PUBLISHED[:2])
def test_logits_of_published_files_are_ours_to_the_last_bit(tmp_path, shared, model) -> None:
    checkpoint = read_tflite(shared(f"models/{model}.tflite"))
    (path,) = write(checkpoint, tmp_path / "model.tflite", WriteOptions(input="uint8"))
    pixels = verification_pixels(checkpoint.preprocessing, None)
    logits = reference_kernels(path, pixels)
    assert isinstance(checkpoint, Int8Checkpoint)
    ours = Int8Reference(checkpoint)(pixels)
    step = checkpoint.activations["classifier.1"].scale
    np.testing.assert_allclose(logits / step, ours / step, atol=1e-3)


@pytest.mark.parametrize("takes", ["float32", "uint8"])
@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize("padding", ["same", "symmetric"])
def test_every_integer_is_ours(tmp_path, pixels, padding, unsigned, takes) -> None:
    """Where the first layer's border is of several values: strips around the image."""
    model = random_int8(
        "twice", unsigned, stages=SMALL, last_channels=64, head="features", padding=padding,
        resolution=(49, 64),
    )  # fmt: skip
    for zeros in ((127, 127, 127), (124, 116, 104)):
        checkpoint = replace(model, image_zero_points=zeros)
        images = pixels(2, 49, 64, 3)
        (path,) = write(checkpoint, tmp_path / "model.tflite", WriteOptions(input=takes))
        given = images if takes == "uint8" else checkpoint.preprocessing.normalize(images)
        np.testing.assert_allclose(
            reference_kernels(path, given), Int8Reference(checkpoint)(images), rtol=1e-6
        )


@pytest.mark.parametrize("preprocessing", [Preprocessing(size=(64, 64)), IMAGENET])
@pytest.mark.parametrize("head", HEADS)
def test_our_own_models(tmp_path, pixels, head, preprocessing) -> None:
    images = pixels(4, 64, 64, 3)
    checkpoint = to_int8(replace(small(head), preprocessing=preprocessing), images)
    for kind in ("raw", "final"):
        options = WriteOptions(input="uint8", results=kind)
        (path,) = write(checkpoint, tmp_path / "model.tflite", options)
        values = run(path, images, checkpoint, options)
        compared = differences(
            checkpoint, options, expected_results(checkpoint, options, images), values
        )
        assert all(each.passed for each in compared), compared
    graph = parse(path.read_bytes())
    for op in graph.ops:
        if op.code in QUANTIZED[:-1]:
            is_clipping = head in DETECTORS and graph.tensors[op.outputs[0]].name.startswith(
                "detec"
            )
            assert is_clipping or graph.tensors[op.outputs[0]].dtype == np.int8, op


def test_the_graph_of_an_int8_classifier(tmp_path, pixels) -> None:
    checkpoint = to_int8(small("classifier", padding="same"), pixels(2, 64, 64, 3))
    (path,) = write(checkpoint, tmp_path / "model.tflite", WriteOptions(input="uint8"))
    codes = Counter(op.code for op in parse(path.read_bytes()).ops)
    assert codes["QUANTIZE"] == codes["DEQUANTIZE"] == codes["MEAN"] == 1
    assert codes.keys() <= {*QUANTIZED, "QUANTIZE", "DEQUANTIZE", "RESHAPE"}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"batch": None}, "border"), ({"float16": True}, "int8"), ({"layout": "nchw"}, "NHWC")],
)
def test_what_the_format_does_not_hold_is_refused(tmp_path, pixels, changes, reason) -> None:
    floats = replace(small("classifier"), preprocessing=IMAGENET)
    checkpoint = to_int8(floats, pixels(2, 64, 64, 3))
    options: dict[str, Any] = {"input": "uint8", **changes}
    with pytest.raises(WriterError, match=reason):
        write(checkpoint, tmp_path / "model.tflite", WriteOptions(**options))
    assert list(tmp_path.iterdir()) == []
