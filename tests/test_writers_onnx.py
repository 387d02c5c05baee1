"""ONNX files, and folders for transformers.js, run by ONNX Runtime."""

from __future__ import annotations

import ast
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mobilenetv2 import boxes
from mobilenetv2.architecture import Architecture, Stage
from mobilenetv2.checkpoint import Checkpoint
from mobilenetv2.graph import network
from mobilenetv2.heads import (
    SSD,
    Classifier,
    DeepLab,
    Features,
    Head,
    SSDHead,
    SSDLite,
    ssd_anchor_sizes,
)
from mobilenetv2.images import IMAGENET_MEAN, IMAGENET_STD, Preprocessing, decode
from mobilenetv2.int8 import Activation, AnyCheckpoint, Int8Checkpoint
from mobilenetv2.loading import load
from mobilenetv2.runtime import Engine
from mobilenetv2.runtime.quantize import to_int8
from mobilenetv2.writers import WriteOptions, WriterError

from .conftest import random_checkpoint
from .int8 import random_int8
from .test_random_architectures import random_architecture, random_images

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from mobilenetv2.verification.onnx import run  # noqa: E402
from mobilenetv2.verification.transformers_js import run as run_transformers_js  # noqa: E402
from mobilenetv2.writers import transformers_js  # noqa: E402
from mobilenetv2.writers.onnx import write  # noqa: E402

SMALL = (
    Stage(1, 8, 1, 1),
    Stage(6, 12, 2, 2),
    Stage(3, 16, 2, 2),
    Stage(6, 24, 1, 2),
    Stage(6, 32, 2, 2),
)


def small(head: Head, size: tuple[int, int] = (64, 64), **changes: Any) -> Checkpoint:
    """A shallow network with random weights."""
    stride = 16 if head.task == "segmentation" else 32
    architecture = Architecture(
        stages=SMALL, last_channels=64, head=head, resolution=size, output_stride=stride, **changes
    )
    return random_checkpoint(architecture)


def expected(checkpoint: AnyCheckpoint, images: np.ndarray) -> dict[str, np.ndarray]:
    """What our engine makes of the images, under the names of a file's raw results."""
    outputs, head = Engine(checkpoint, 1)(images), checkpoint.architecture.head
    if isinstance(head, SSDHead):
        codes, scores = boxes.raw_outputs(head, outputs)
        return {"codes": codes, "scores": boxes.probabilities(head, scores)}
    return {{"classification": "logits", "features": "features"}.get(head.task, "scores"): outputs}


def results(
    checkpoint: AnyCheckpoint, images: np.ndarray, folder: Path, **options: Any
) -> dict[str, Any]:
    """What ONNX Runtime makes of the images."""
    chosen = WriteOptions(**options)
    (path,) = write(checkpoint, folder / "model.onnx", chosen)
    # with the shapes that are declared
    onnx.checker.check_model(path, full_check=True)
    return run(path, images, checkpoint, chosen)


def check_same(values: dict[str, Any], wanted: dict[str, Any], atol: float = 1e-4) -> None:
    assert list(values) == list(wanted)
    for name, array in wanted.items():
        # nearly constant values would agree whatever the file computes
        assert array.std() > 0.05
        np.testing.assert_allclose(values[name], array, atol=atol)


def operators(path: Path) -> Counter[str]:
    """How often each operator stands in a file."""
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def optimised(path: Path) -> Counter[str]:
    """How often each operator stands in what ONNX Runtime makes of a file."""
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    settings.graph_optimization_level = level
    settings.optimized_model_filepath = str(path.with_suffix(".optimised.onnx"))
    onnxruntime.InferenceSession(path, settings)
    return operators(path.with_suffix(".optimised.onnx"))


EXTRA = (16, 16)
HEADS: dict[str, Head] = {
    "classifier": Classifier(10),
    "features": Features(),
    "deeplab": DeepLab(5),
    "aspp": DeepLab(5, aspp=True),
    "ssd": SSD(4, EXTRA, ssd_anchor_sizes(4)),
    "ssdlite": SSDLite(4, EXTRA, ssd_anchor_sizes(4), score="softmax"),
}


@pytest.mark.parametrize("padding", ["same", "symmetric"])
@pytest.mark.parametrize("head", HEADS)
def test_every_head_at_an_odd_size(tmp_path, pixels, head, padding) -> None:
    checkpoint = small(HEADS[head], (97, 131), padding=padding)
    images = pixels(3, 97, 131, 3)
    for batch in (1, 2, None):
        check_same(results(checkpoint, images, tmp_path, batch=batch), expected(checkpoint, images))


@pytest.mark.parametrize("padding", ["same", "symmetric"])
@pytest.mark.parametrize("head", ["classifier", "features", "deeplab", "aspp"])
def test_images_of_any_size(tmp_path, pixels, head, padding) -> None:
    checkpoint = small(HEADS[head], padding=padding)
    options = WriteOptions(dynamic_size=True, batch=None)
    (path,) = write(checkpoint, tmp_path / "model.onnx", options)
    for size in ((64, 64), (97, 131), (50, 33)):
        images = pixels(2, *size, 3)
        check_same(run(path, images, checkpoint, options), expected(checkpoint, images))


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
    stages = tuple(replace(stage, repeats=2) for stage in SMALL)
    architecture = Architecture(stages=stages, resolution=(48, 64), head=Classifier(10))
    checkpoint = random_checkpoint(replace(architecture, **changes))
    images = pixels(2, 48, 64, checkpoint.architecture.in_channels)
    for batch in (1, None):
        check_same(results(checkpoint, images, tmp_path, batch=batch), expected(checkpoint, images))


@pytest.mark.parametrize("seed", range(16))
def test_random_architectures(tmp_path, seed) -> None:
    rng = np.random.default_rng(seed)
    architecture = random_architecture(rng)
    images = random_images(rng, architecture)
    checkpoint = random_checkpoint(replace(architecture, resolution=images.shape[1:3]), seed)
    options = {"batch": (1, None, 2)[seed % 3], "layout": ("nchw", "nhwc")[seed % 2]}
    values = results(checkpoint, images, tmp_path, **options)
    for name, array in expected(checkpoint, images).items():
        np.testing.assert_allclose(values[name], array, atol=1e-4 * max(1, np.abs(array).max()))


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("head", ["classifier", "features", "deeplab", "ssd"])
def test_pixels_and_both_layouts(tmp_path, pixels, head, layout) -> None:
    checkpoint = small(HEADS[head])
    imagenet = Preprocessing(size=(64, 64), mean=IMAGENET_MEAN, std=IMAGENET_STD)
    checkpoint = replace(checkpoint, preprocessing=imagenet)
    images = pixels(2, 64, 64, 3)
    values = results(checkpoint, images, tmp_path, input="uint8", layout=layout)
    check_same(values, expected(checkpoint, images))
    (declared,) = onnx.load(tmp_path / "model.onnx").graph.input
    shape = [side.dim_value for side in declared.type.tensor_type.shape.dim]
    assert shape == ([1, 3, 64, 64] if layout == "nchw" else [1, 64, 64, 3])
    assert declared.type.tensor_type.elem_type == onnx.TensorProto.UINT8


def test_the_graph_of_the_paper(tmp_path) -> None:
    (path,) = write(random_checkpoint(), tmp_path / "model.onnx", WriteOptions())
    assert operators(path) == {
        "Conv": 52,
        "Clip": 35,
        "Add": 10,
        "GlobalAveragePool": 1,
        "Flatten": 1,
        "Gemm": 1,
    }
    model = onnx.load(path)
    assert (model.opset_import[0].version, model.ir_version) == (17, 8)
    assert [(side.name, [d.dim_value for d in side.type.tensor_type.shape.dim])
            for side in (*model.graph.input, *model.graph.output)] == [
        ("image", [1, 3, 224, 224]), ("logits", [1, 1000]),
    ]  # fmt: skip


def test_probabilities_and_masks(tmp_path, pixels) -> None:
    images = pixels(2, 64, 64, 3)
    checkpoint = small(Classifier(10))
    values = results(checkpoint, images, tmp_path, results="final")
    powers = np.exp(Engine(checkpoint, 1)(images))
    check_same(values, {"probabilities": powers / powers.sum(1, keepdims=True)})
    checkpoint = small(DeepLab(5))
    mask = results(checkpoint, images, tmp_path, results="final")["mask"]
    assert mask.dtype == np.uint8
    # two classes are as good as equal in a few pixels
    assert (mask == Engine(checkpoint, 1).mask(images)).mean() > 0.999


@pytest.mark.parametrize("batch", [1, 2, None])
@pytest.mark.parametrize("head", ["ssd", "ssdlite"])
def test_detections(tmp_path, pixels, head, batch) -> None:
    checkpoint = small(HEADS[head], (96, 64))
    images = pixels(3, 96, 64, 3)
    raw = expected(checkpoint, images)
    ssd = checkpoint.architecture.head
    assert isinstance(ssd, SSDHead)
    anchors = boxes.anchors(ssd, network(checkpoint.architecture))
    counts = []
    for threshold, iou, most in ((0.2, 0.6, 100), (0.0, 0.3, 7), (0.99999, 0.5, 10)):
        values = results(
            checkpoint, images, tmp_path, batch=batch, results="final", score_threshold=threshold,
            iou_threshold=iou, max_detections=most,
        )  # fmt: skip
        for index in range(3):
            corners = np.clip(boxes.decode_boxes(raw["codes"][index], anchors), 0, 1)
            scores = raw["scores"][index]
            rows, classes = boxes.best_boxes(
                corners, scores, threshold=threshold, iou_threshold=iou, limit=most
            )
            counts.append(len(rows))
            np.testing.assert_array_equal(values["classes"][index], classes)
            np.testing.assert_allclose(values["boxes"][index], corners[rows], atol=1e-4)
            np.testing.assert_allclose(values["scores"][index], scores[rows, classes], atol=1e-5)
    assert min(counts) == 0
    assert max(counts) > 20


def test_boxes_without_area_are_left_out(tmp_path, pixels) -> None:
    checkpoint = small(HEADS["ssd"])
    # all boxes of the last map lie far beyond the left border
    arrays = dict(checkpoint.arrays)
    bias = arrays["head.boxes.3.bias"].copy()
    bias[1::4] = -1000
    checkpoint = replace(checkpoint, arrays={**arrays, "head.boxes.3.bias": bias})
    images = pixels(1, 64, 64, 3)
    values = results(
        checkpoint, images, tmp_path, results="final", score_threshold=0, iou_threshold=1,
        max_detections=10_000,
    )  # fmt: skip
    raw = expected(checkpoint, images)
    anchors = boxes.anchors(checkpoint.architecture.head, network(checkpoint.architecture))  # type: ignore[arg-type]
    corners = np.clip(boxes.decode_boxes(raw["codes"][0], anchors), 0, 1)
    has_area = (corners[:, 2:] > corners[:, :2]).all(1)
    assert 0 < has_area.sum() < len(has_area)
    assert len(values["boxes"][0]) == 4 * has_area.sum()


@pytest.mark.parametrize("opset", [11, 13, 21])
@pytest.mark.parametrize("head", ["classifier", "deeplab", "ssd"])
def test_older_and_newer_operators(tmp_path, pixels, head, opset) -> None:
    checkpoint = small(HEADS[head])
    images = pixels(1, 64, 64, 3)
    values = results(checkpoint, images, tmp_path, opset=opset, batch=None)
    check_same(values, expected(checkpoint, images))
    assert onnx.load(tmp_path / "model.onnx").opset_import[0].version == opset
    results(checkpoint, images, tmp_path, opset=opset, results="final")
    quantized = to_int8(checkpoint, images)
    if opset < 13:
        with pytest.raises(WriterError, match="opset 11: the graph is written with 13 to"):
            results(quantized, images, tmp_path, opset=opset)
    else:
        results(quantized, images, tmp_path, opset=opset, input="uint8")


def test_weights_in_half_the_bytes(tmp_path, pixels) -> None:
    checkpoint = small(Classifier(10))
    images = pixels(2, 64, 64, 3)
    sizes = []
    for float16 in (False, True):
        values = results(checkpoint, images, tmp_path, float16=float16)
        sizes.append((tmp_path / "model.onnx").stat().st_size)
    check_same(values, expected(checkpoint, images), atol=0.02)
    weights = sum(4 * array.size for array in checkpoint.arrays.values() if array.ndim > 1)
    assert sizes[0] - sizes[1] == pytest.approx(weights / 2, rel=0.05)


IMAGENET = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}


@pytest.mark.parametrize("padding", ["same", "symmetric"])
@pytest.mark.parametrize("size", [(64, 64), (33, 50)])
def test_the_border_of_int8_images_with_a_zero_point_per_channel(
    tmp_path, pixels, padding, size
) -> None:
    """A stem and a block: what they store is ours but for the last step of a few values."""
    architecture = Architecture(
        stages=SMALL[:1], last_channels=None, head=Features(), resolution=size, padding=padding
    )
    checkpoint = random_checkpoint(architecture)
    checkpoint = replace(checkpoint, preprocessing=Preprocessing(size=size, **IMAGENET))
    images = pixels(2, *size, 3)
    quantized = to_int8(checkpoint, images)
    assert len(set(quantized.image_zero_points)) == 3
    (step,) = {quantized.activations[n].scale for n in network(architecture).outputs}
    wanted = expected(quantized, images)
    for options in (
        {"input": "uint8"},
        {"input": "uint8", "layout": "nhwc", "batch": None},
        {"input": "uint8", "dynamic_size": True, "batch": None},
        {},
    ):
        values = results(quantized, images, tmp_path, **options)
        steps = np.rint((values["features"] - wanted["features"]) / step)
        assert np.abs(steps).max() <= 1
        assert (steps == 0).mean() > 0.99


@pytest.mark.parametrize("preprocessing", [{}, IMAGENET], ids=["half", "imagenet"])
@pytest.mark.parametrize("head", ["classifier", "aspp", "ssdlite"])
def test_int8_files_run_on_integers(tmp_path, pixels, head, preprocessing) -> None:
    size = (64, 96)
    checkpoint = small(HEADS[head], size, padding="same")
    checkpoint = replace(checkpoint, preprocessing=Preprocessing(size=size, **preprocessing))
    images = pixels(4, *size, 3)
    quantized = to_int8(checkpoint, images)
    wanted = expected(quantized, images)
    values = results(quantized, images, tmp_path, input="uint8")
    assert list(values) == list(wanted)
    for name, array in wanted.items():
        assert np.abs(values[name] - array).mean() < 0.1 * array.std()
    made = optimised(tmp_path / "model.onnx")
    convolutions = sum(
        layer.kind in ("conv", "depthwise") for layer in network(checkpoint.architecture).layers
    )
    # predictions stay float32, as they do with us
    floats = {"classifier": 0, "aspp": 1, "ssdlite": 8}[head]
    assert (made["QLinearConv"], made["Conv"]) == (convolutions - floats, floats)
    if head == "classifier":
        assert (made["QGemm"], made["QLinearGlobalAveragePool"]) == (1, 1)
        assert not made["DequantizeLinear"] + made["QuantizeLinear"]


@pytest.mark.parametrize("unsigned", [False, True])
def test_int8_models_of_tensorflow(tmp_path, pixels, unsigned) -> None:
    quantized = random_int8("twice", unsigned, stages=SMALL, resolution=(64, 64), classes=10)
    images = pixels(4, 64, 64, 3)
    wanted = expected(quantized, images)["logits"]
    values = results(quantized, images, tmp_path, input="uint8")["logits"]
    assert np.abs(values - wanted).mean() < 0.1 * wanted.std()
    made = optimised(tmp_path / "model.onnx")
    assert (made["Conv"], made["QGemm"]) == (0, 1)
    # the logits are stored too
    step = quantized.activations["classifier.1"].scale
    np.testing.assert_allclose(values / step, np.rint(values / step), atol=1e-3)


def test_relu6_is_clipped_where_the_stored_range_does_not(tmp_path, pixels) -> None:
    architecture = Architecture(
        stages=SMALL[:1], last_channels=64, head=Features(), resolution=(32, 32)
    )
    images = pixels(2, 32, 32, 3)
    checkpoint = random_checkpoint(architecture)
    arrays = {name: 4 * a if a.ndim > 1 else a for name, a in checkpoint.arrays.items()}
    quantized = to_int8(replace(checkpoint, arrays=arrays), images)
    wide = {name: Activation(10 / 255, 20) for name in quantized.activations}
    quantized = replace(quantized, activations=wide)
    wanted = Engine(quantized, 1)(images)
    assert wanted.max() > 5.9
    values = results(quantized, images, tmp_path, input="uint8")["features"]
    assert (values.min(), values.max()) == (wanted.min(), wanted.max())
    assert np.abs(values - wanted).max() <= 3 * 10 / 255


def test_real_weights_on_photos(tmp_path, shared) -> None:
    """The published integers in ONNX Runtime and in ours."""
    model = load(shared("models/mobilenet_v2_1.0_224_quant.tflite"))
    photos = sorted(shared("data/imagenet-sample").glob("*.jpg"))[:12]
    images = np.stack([model.checkpoint.preprocessing(decode(photo)) for photo in photos])
    values = results(model.checkpoint, images, tmp_path, input="uint8")["logits"]
    wanted = Engine(model.checkpoint)(images)
    assert (values.argmax(1) == wanted.argmax(1)).mean() > 0.9
    step = model.checkpoint.activations["classifier.1"].scale
    assert np.abs(values - wanted).mean() < 4 * step


def test_what_the_file_says_of_itself(tmp_path) -> None:
    checkpoint = small(Classifier(2))
    checkpoint = replace(
        checkpoint, labels=("cat", "dog's"), provenance={"licence": "Apache-2.0", "source": "us"}
    )
    (path,) = write(checkpoint, tmp_path / "model.onnx", WriteOptions(batch=4))
    texts = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert ast.literal_eval(texts["names"]) == {0: "cat", 1: "dog's"}
    assert ast.literal_eval(texts["imgsz"]) == [64, 64]
    assert (texts["task"], texts["stride"], texts["batch"]) == ("classify", "32", "4")
    assert texts["license"] == "Apache-2.0"
    said = json.loads(texts["mobilenetv2"])
    assert said["labels"] == ["cat", "dog's"]
    assert Preprocessing.from_dict(said["preprocessing"]) == checkpoint.preprocessing
    assert said["results"] == ["logits"]


@pytest.mark.parametrize("head", ["deeplab", "ssd"])
def test_images_of_another_size_are_refused_by_the_runtime(tmp_path, head) -> None:
    (path,) = write(small(HEADS[head]), tmp_path / "model.onnx", WriteOptions())
    session = onnxruntime.InferenceSession(path)
    with pytest.raises(Exception, match="Got: 96 Expected: 64"):
        session.run(None, {"image": np.zeros((1, 3, 64, 96), np.float32)})


def test_the_same_model_gives_the_same_bytes(tmp_path) -> None:
    checkpoint = small(Classifier(2))
    first, second = (
        write(checkpoint, tmp_path / name, WriteOptions())[0].read_bytes() for name in ("a", "b")
    )
    assert first == second


@pytest.mark.parametrize(
    ("head", "options", "message"),
    [
        ("ssd", {"dynamic_size": True}, "anchors are those of one size"),
        ("classifier", {"opset": 10}, "opset 10: the graph is written with 11 to"),
        ("classifier", {"opset": 99}, "the newest that the installed onnx knows"),
        ("classifier", {"task_metadata": True}, "use --to tflite"),
    ],
)
def test_what_is_refused_before_writing(tmp_path, head, options, message) -> None:
    with pytest.raises(WriterError, match=message):
        write(small(HEADS[head]), tmp_path / "model.onnx", WriteOptions(**options))
    assert not list(tmp_path.iterdir())


def test_int8_models_that_are_refused(tmp_path, pixels) -> None:
    quantized = to_int8(small(Classifier(2)), pixels(1, 64, 64, 3))
    with pytest.raises(WriterError, match="the weights of an int8 model are int8"):
        write(quantized, tmp_path / "model.onnx", WriteOptions(float16=True))
    old = replace(quantized, unstored={})
    with pytest.raises(WriterError, match="quantise the float model again"):
        write(old, tmp_path / "model.onnx", WriteOptions())


def test_weights_beyond_float16_are_named(tmp_path) -> None:
    checkpoint = small(Classifier(2))
    weight = checkpoint.arrays["classifier.1.weight"] * 1e6
    checkpoint = replace(checkpoint, arrays={**checkpoint.arrays, "classifier.1.weight": weight})
    with pytest.raises(WriterError, match="float16 does not hold the weights classifier.1.weight"):
        write(checkpoint, tmp_path / "model.onnx", WriteOptions(float16=True))


def test_classes_of_one_label_have_numbers_in_transformers_js(tmp_path) -> None:
    checkpoint = replace(small(Classifier(3)), labels=("crane", "cat", "crane"))
    (folder,) = transformers_js.write(checkpoint, tmp_path / "model", WriteOptions())
    config = json.loads((folder / "config.json").read_text())
    assert config["label2id"] == {"crane (0)": 0, "cat": 1, "crane (2)": 2}
    assert config["id2label"] == {str(i): label for label, i in config["label2id"].items()}
    checkpoint = replace(checkpoint, labels=("crane", "crane (0)", "crane"))
    with pytest.raises(WriterError, match=r"transformers\.js: two classes have one label"):
        transformers_js.write(checkpoint, tmp_path / "other", WriteOptions())


@pytest.mark.parametrize("numbers", ["float32", "int8"])
def test_a_folder_for_transformers_js(tmp_path, pixels, numbers) -> None:
    checkpoint: AnyCheckpoint = replace(small(Classifier(2)), labels=("cat", "dog"))
    images = pixels(3, 64, 64, 3)
    if numbers == "int8":
        checkpoint = to_int8(checkpoint, images)  # type: ignore[arg-type]
    (folder,) = transformers_js.write(checkpoint, tmp_path / "model", WriteOptions())
    config = json.loads((folder / "config.json").read_text())
    assert (config["model_type"], config["id2label"]) == ("mobilenet_v2", {"0": "cat", "1": "dog"})
    prepared = json.loads((folder / "preprocessor_config.json").read_text())
    assert prepared["size"] == {"shortest_edge": 73}
    assert prepared["crop_size"] == {"height": 64, "width": 64}
    assert prepared["image_mean"] == [0.5, 0.5, 0.5]
    quantized = isinstance(checkpoint, Int8Checkpoint)
    name, dtype = ("model_quantized.onnx", "q8") if quantized else ("model.onnx", "fp32")
    assert config["transformers.js_config"] == {"dtype": dtype}
    model = onnx.load(folder / "onnx" / name)
    assert (model.graph.input[0].name, model.graph.output[0].name) == ("pixel_values", "logits")
    values = run_transformers_js(folder, images, checkpoint, WriteOptions())
    atol = 1e-4 if not quantized else 0.3
    check_same(values, expected(checkpoint, images), atol)


def test_a_segmenter_for_transformers_js(tmp_path, pixels) -> None:
    checkpoint = small(DeepLab(5))
    stretched = replace(checkpoint.preprocessing, resize="stretch")
    checkpoint = replace(checkpoint, preprocessing=stretched)
    (folder,) = transformers_js.write(checkpoint, tmp_path / "model", WriteOptions())
    images = pixels(2, 64, 64, 3)
    values = run_transformers_js(folder, images, checkpoint, WriteOptions())
    check_same(values, expected(checkpoint, images))
    prepared = json.loads((folder / "preprocessor_config.json").read_text())
    assert (prepared["size"], prepared["do_center_crop"]) == ({"height": 64, "width": 64}, False)


@pytest.mark.parametrize(
    ("head", "preprocessing", "options", "message"),
    [
        ("ssd", {}, {}, "no MobileNetV2 for detection"),
        ("classifier", {"resize": "fit"}, {}, "does not fit images"),
        ("deeplab", {}, {}, "masks of stretched images only"),
        ("classifier", {}, {"results": "final"}, "leave it at raw"),
        ("classifier", {}, {"input": "uint8"}, "leave it at float32"),
    ],
)
def test_what_transformers_js_does_not_do(tmp_path, head, preprocessing, options, message) -> None:
    checkpoint = small(HEADS[head])
    changed = replace(checkpoint.preprocessing, **preprocessing)
    checkpoint = replace(checkpoint, preprocessing=changed)
    with pytest.raises(WriterError, match=message):
        transformers_js.write(checkpoint, tmp_path / "model", WriteOptions(**options))
    assert not list(tmp_path.iterdir())
