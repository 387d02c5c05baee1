"""Core ML packages: the saved program, evaluated in NumPy, computes what the engine computes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mobilenetv2.architecture import MOBILENET_V2, Stage
from mobilenetv2.checkpoint import Checkpoint
from mobilenetv2.heads import Classifier
from mobilenetv2.images import Preprocessing
from mobilenetv2.runtime import Engine
from mobilenetv2.verification.float16 import as_float16
from mobilenetv2.writers import WriteOptions, WriterError, coreml

from .conftest import random_checkpoint
from .int8 import random_int8
from .test_writers_ncnn import HEADS, assert_close, model, raw_results

pytest.importorskip("coremltools")

from mobilenetv2.verification.coreml import read_program, run

SHALLOW = (Stage(1, 16, 1, 1), Stage(6, 24, 2, 2), Stage(6, 32, 1, 2))


def shallow(head: str, size: tuple[int, int] = (32, 32), padding: str = "same") -> Checkpoint:
    whole = model(HEADS[head], size, padding)
    stride = 32 if head.startswith("ssd") else 8
    checkpoint = random_checkpoint(whole.architecture, stages=SHALLOW, output_stride=stride)
    return replace(checkpoint, preprocessing=whole.preprocessing)


def written(
    checkpoint: Checkpoint, path: Path, pixels: np.ndarray, **options: Any
) -> dict[str, Any]:
    chosen = WriteOptions(**options)
    assert coreml.write(checkpoint, path, chosen) == (path,)
    return run(path, pixels, checkpoint, chosen)


@pytest.mark.parametrize(
    ("size", "padding"), [((32, 48), "same"), ((97, 131), "symmetric")], ids=["same", "symmetric"]
)
@pytest.mark.parametrize("head", HEADS)
def test_every_head_gives_the_engines_answers(
    head: str, size: tuple[int, int], padding: str, tmp_path: Path, pixels: Any
) -> None:
    checkpoint, images = shallow(head, size, padding), pixels(2, *size, 3)
    results = written(checkpoint, tmp_path / "m.mlpackage", images)
    assert_close(results, raw_results(checkpoint, images))


def test_the_papers_network_with_images_at_odd_size(tmp_path: Path, pixels: Any) -> None:
    checkpoint, images = model(Classifier(7), (97, 131)), pixels(1, 97, 131, 3)
    assert checkpoint.architecture.stages == MOBILENET_V2
    results = written(checkpoint, tmp_path / "m.mlpackage", images, input="uint8")
    assert_close(results, raw_results(checkpoint, images))


def test_grey_images(tmp_path: Path, pixels: Any) -> None:
    architecture = shallow("classifier").architecture
    checkpoint, images = random_checkpoint(architecture, in_channels=1), pixels(1, 32, 32, 1)
    results = written(checkpoint, tmp_path / "m.mlpackage", images, input="uint8")
    assert_close(results, raw_results(checkpoint, images))
    assert image_type(tmp_path / "m.mlpackage").colorSpace == 10  # GRAYSCALE


def image_type(path: Path) -> Any:
    import coremltools

    with coreml.quiet():
        spec = coremltools.models.MLModel(str(path), skip_model_load=True).get_spec()
    return spec.description.input[0].type.imageType


def test_a_classifier_names_its_classes(tmp_path: Path, pixels: Any) -> None:
    checkpoint, images = shallow("classifier"), pixels(1, 32, 32, 3)
    labels = ("crane", "ant", "bee", "crane", "w\udce4sp", "fly", "moth")
    checkpoint = replace(checkpoint, labels=labels, provenance={"licence": "MIT", "author": "me"})
    path = tmp_path / "m.mlpackage"
    results = written(checkpoint, path, images, input="uint8", results="final")
    powers = np.exp(raw_results(checkpoint, images)["logits"])
    assert_close(results, {"probabilities": powers / powers.sum(1, keepdims=True)})

    import coremltools

    with coreml.quiet():
        loaded = coremltools.models.MLModel(str(path), skip_model_load=True)
    spec = loaded.get_spec().description
    assert [output.name for output in spec.output] == ["classLabel", "classLabel_probs"]
    assert spec.predictedFeatureName == "classLabel"
    assert (image_type(path).width, image_type(path).height, image_type(path).colorSpace) == (
        32, 32, 20,
    )  # fmt: skip
    (classify,) = (
        operation
        for operation in read_program(path).functions["main"].operations
        if operation.op_type == "classify"
    )
    named = [str(label) for label in classify.classes.val]
    assert named == ["crane (0)", "ant", "bee", "crane (3)", "w?sp", "fly", "moth"]
    assert (loaded.author, loaded.license) == ("me", "MIT")
    facts = json.loads(loaded.user_defined_metadata["mobilenetv2"])
    assert facts["labels"] == list(labels)
    assert Preprocessing.from_dict(facts["preprocessing"]) == checkpoint.preprocessing


@pytest.mark.parametrize("classes", [5, 300])
def test_a_segmenters_mask(classes: int, tmp_path: Path, pixels: Any) -> None:
    checkpoint, images = shallow("deeplab"), pixels(3, 32, 32, 3)
    checkpoint = random_checkpoint(checkpoint.architecture, classes=classes)
    results = written(checkpoint, tmp_path / "m.mlpackage", images, results="final", batch=2)
    mask, scores = results["mask"], raw_results(checkpoint, images)["scores"]
    assert mask.shape == (3, 32, 32)
    assert mask.dtype == Engine(checkpoint).mask(images).dtype
    chosen = np.take_along_axis(scores, mask[..., None].astype(int), 3)[..., 0]
    assert np.abs(chosen - scores.max(3)).max() < 1e-4


def test_float16_holds_the_rounded_weights(tmp_path: Path, pixels: Any) -> None:
    checkpoint, images = shallow("classifier"), pixels(1, 32, 32, 3)
    results = written(checkpoint, tmp_path / "m.mlpackage", images, float16=True)
    assert_close(results, raw_results(as_float16(checkpoint, "constants"), images))


def test_a_batch(tmp_path: Path, pixels: Any) -> None:
    checkpoint, images = shallow("classifier"), pixels(3, 32, 32, 3)
    results = written(checkpoint, tmp_path / "m.mlpackage", images, batch=2)
    assert_close(results, raw_results(checkpoint, images))


def test_nothing_is_printed_and_others_may_read_the_package(tmp_path: Path, capfd: Any) -> None:
    path = tmp_path / "m.mlpackage"
    coreml.write(shallow("classifier"), path, WriteOptions())
    assert capfd.readouterr() == ("", "")
    rights = path.stat().st_mode & 0o777
    for file in path.rglob("*"):
        assert file.stat().st_mode & 0o777 == rights & (0o777 if file.is_dir() else 0o666)


@pytest.mark.parametrize(
    ("head", "options", "reason"),
    [
        ("classifier", {"batch": None}, "fixed number"),
        ("classifier", {"batch": 2, "input": "uint8"}, "as an image a package takes one"),
        ("classifier", {"batch": 2, "results": "final"}, "names one class"),
        ("classifier", {"layout": "nhwc"}, "channels, height, width"),
        ("classifier", {"dynamic_size": True}, "one size"),
        ("classifier", {"opset": 17}, "only ONNX"),
        ("classifier", {"task_metadata": True}, "tflite"),
        ("ssd", {"results": "final"}, "results raw"),
    ],
)
def test_what_core_ml_cannot_hold_is_refused(
    head: str, options: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(WriterError, match=reason):
        coreml.write(shallow(head), tmp_path / "m.mlpackage", WriteOptions(**options))
    assert not list(tmp_path.iterdir())


def test_int8_and_weights_beyond_float16_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WriterError, match="write the float model"):
        coreml.write(
            random_int8(width_mult=0.35, resolution=(32, 32)), tmp_path / "m", WriteOptions()
        )
    checkpoint = shallow("classifier")
    arrays = {**checkpoint.arrays, "classifier.1.bias": np.full(7, 7e4, np.float32)}
    with pytest.raises(WriterError, match=r"float16 does not hold the weights of classifier\.1"):
        coreml.write(replace(checkpoint, arrays=arrays), tmp_path / "m", WriteOptions(float16=True))
