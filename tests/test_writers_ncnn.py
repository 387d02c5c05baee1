"""Files of ncnn: what ncnn computes with them is what the engine computes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mobilenetv2 import boxes, formats
from mobilenetv2.architecture import Architecture
from mobilenetv2.checkpoint import Checkpoint
from mobilenetv2.heads import SSD, Classifier, DeepLab, Features, Head, SSDHead, SSDLite
from mobilenetv2.images import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from mobilenetv2.runtime import Engine
from mobilenetv2.verification.float16 import as_float16
from mobilenetv2.writers import WriteOptions, WriterError, ncnn

from .conftest import REPOSITORY, random_checkpoint
from .int8 import random_int8

HEADS: dict[str, Head] = {
    "classifier": Classifier(7),
    "features": Features(),
    "deeplab": DeepLab(5),
    "aspp": DeepLab(5, aspp=True),
    "ssd": SSD(3),
    "ssdlite": SSDLite(3, score="softmax"),
}


def model(head: Head, size: tuple[int, int] = (64, 64), padding: str = "same") -> Checkpoint:
    stride = 16 if isinstance(head, DeepLab) else 32
    architecture = Architecture(
        width_mult=0.35, head=head, resolution=size, padding=padding, output_stride=stride
    )
    preprocessing = Preprocessing(size=size, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    return replace(random_checkpoint(architecture), preprocessing=preprocessing)


def raw_results(checkpoint: Checkpoint, pixels: np.ndarray) -> dict[str, Any]:
    """The engine's, by the names that files have."""
    answer, head = Engine(checkpoint, threads=1)(pixels), checkpoint.architecture.head
    if isinstance(head, SSDHead):
        codes, scores = boxes.raw_outputs(head, answer)
        return {"codes": codes, "scores": boxes.probabilities(head, scores)}
    names = {"classification": "logits", "features": "features", "segmentation": "scores"}
    return {names[head.task]: answer}


def written(
    checkpoint: Checkpoint, path: Path, pixels: np.ndarray, **options: Any
) -> dict[str, Any]:
    from mobilenetv2.verification.ncnn import run

    pytest.importorskip("ncnn")
    chosen = WriteOptions(**options)
    ncnn.write(checkpoint, path, chosen)
    return run(path, pixels, checkpoint, chosen)


def assert_close(results: dict[str, Any], expected: dict[str, Any]) -> None:
    assert results.keys() == expected.keys()
    for name, values in expected.items():
        assert results[name].shape == values.shape
        assert np.abs(results[name] - values).max() <= 1e-4 * max(1, np.abs(values).max())


@pytest.mark.parametrize("padding", ["same", "symmetric"])
@pytest.mark.parametrize("size", [(64, 64), (97, 131)], ids=str)
@pytest.mark.parametrize("head", HEADS)
def test_every_head_gives_the_engines_answers(
    head: str, size: tuple[int, int], padding: str, tmp_path: Path, pixels: Any
) -> None:
    checkpoint = model(HEADS[head], size, padding)
    images = pixels(2, *size, 3)
    results = written(checkpoint, tmp_path / "model.param", images)
    assert_close(results, raw_results(checkpoint, images))


def test_pixels_are_normalised_by_the_file(tmp_path: Path, pixels: Any) -> None:
    checkpoint, images = model(Classifier(7)), pixels(2, 64, 64, 3)
    results = written(checkpoint, tmp_path / "model.param", images, input="uint8")
    assert_close(results, raw_results(checkpoint, images))


def test_final_results_of_a_classifier_are_probabilities(tmp_path: Path, pixels: Any) -> None:
    checkpoint, images = model(Classifier(7)), pixels(2, 64, 64, 3)
    results = written(checkpoint, tmp_path / "model.param", images, results="final")
    powers = np.exp(raw_results(checkpoint, images)["logits"])
    assert_close(results, {"probabilities": powers / powers.sum(1, keepdims=True)})


@pytest.mark.parametrize("head", ["classifier", "ssd"])
def test_kernels_as_float16(head: str, tmp_path: Path, pixels: Any) -> None:
    checkpoint, images = model(HEADS[head]), pixels(1, 64, 64, 3)
    results = written(checkpoint, tmp_path / "half.param", images, float16=True)
    assert_close(results, raw_results(as_float16(checkpoint, "kernels"), images))
    ncnn.write(checkpoint, tmp_path / "whole.param", WriteOptions())
    sizes = [(tmp_path / f"{name}.bin").stat().st_size for name in ("half", "whole")]
    assert sizes[0] < 0.6 * sizes[1]


def test_float16_that_does_not_hold_a_kernel_is_refused(tmp_path: Path) -> None:
    checkpoint = model(Classifier(7))
    arrays = {**checkpoint.arrays, "classifier.1.weight": np.full((7, 1280), 7e4, np.float32)}
    with pytest.raises(WriterError, match=r"float16 does not hold the weights of classifier\.1"):
        ncnn.write(replace(checkpoint, arrays=arrays), tmp_path / "m", WriteOptions(float16=True))


def test_a_file_takes_any_size_where_the_network_does(tmp_path: Path, pixels: Any) -> None:
    checkpoint, images = model(Features(), padding="symmetric"), pixels(1, 97, 131, 3)
    results = written(checkpoint, tmp_path / "model.param", images, dynamic_size=True)
    assert_close(results, raw_results(checkpoint, images))


@pytest.mark.parametrize("size", [(16, 16), (16, 64), (64, 5)], ids=str)
def test_maps_of_one_row_or_column_are_resized(
    size: tuple[int, int], tmp_path: Path, pixels: Any
) -> None:
    checkpoint, images = model(DeepLab(5), size), pixels(1, *size, 3)
    results = written(checkpoint, tmp_path / "model.param", images)
    assert_close(results, raw_results(checkpoint, images))


def test_shortcuts_between_wide_tensors(tmp_path: Path, pixels: Any) -> None:
    checkpoint, images = model(Classifier(7)), pixels(1, 64, 64, 3)
    wide = random_checkpoint(checkpoint.architecture, shortcut="expansion", bottleneck="relu6")
    results = written(wide, tmp_path / "model.param", images)
    assert_close(results, raw_results(wide, images))


def test_labels_and_preprocessing_stand_beside_the_file(tmp_path: Path) -> None:
    checkpoint = replace(model(Classifier(2)), labels=("ant", "bee\nor wasp"))
    files = ncnn.write(checkpoint, tmp_path / "m.param", WriteOptions(input="uint8"))
    assert [file.name for file in files] == ["m.param", "m.bin", "m.json", "m.labels.txt"]
    facts = json.loads(files[2].read_text())
    assert facts["labels"] == ["ant", "bee\nor wasp"]
    assert (facts["input"], facts["results"], facts["size"]) == ("uint8", ["logits"], [64, 64])
    assert Preprocessing.from_dict(facts["preprocessing"]) == checkpoint.preprocessing
    assert files[3].read_text() == "ant\nbee or wasp\n"


@pytest.mark.parametrize(
    ("head", "options", "reason"),
    [
        ("classifier", {"batch": 4}, "takes one image"),
        ("classifier", {"batch": None}, "takes one image"),
        ("classifier", {"layout": "nhwc"}, "channels, height, width"),
        ("classifier", {"opset": 17}, "only ONNX"),
        ("classifier", {"task_metadata": True}, "tflite"),
        ("classifier", {"dynamic_size": True}, "padding 'same'"),
        ("deeplab", {"results": "final"}, "segmentation: it has no such layer"),
        ("ssd", {"results": "final"}, "detection: it has no such layer"),
    ],
)
def test_what_ncnn_cannot_hold_is_refused(
    head: str, options: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(WriterError, match=reason):
        ncnn.write(model(HEADS[head]), tmp_path / "m.param", WriteOptions(**options))
    assert not list(tmp_path.iterdir())


def test_int8_is_refused(tmp_path: Path) -> None:
    int8 = random_int8(width_mult=0.35, resolution=(32, 32))
    with pytest.raises(WriterError, match="write the float model"):
        ncnn.write(int8, tmp_path / "m.param", WriteOptions())


def test_ncnn_warns_of_no_layer(tmp_path: Path, pixels: Any, capfd: Any) -> None:
    written(model(HEADS["aspp"]), tmp_path / "model.param", pixels(1, 64, 64, 3))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "name", ["ssd_mobilenet_v2_oidv4_fp16", "deeplabv3_mnv2_dm05_pascal_quant"]
)
def test_published_weights_give_the_engines_answers(
    name: str, tmp_path: Path, shared: Callable[[str], Path]
) -> None:
    checkpoint = formats.read(shared(f"models/{name}.tflite"), int8=False)
    images = checkpoint.preprocessing(REPOSITORY / "examples" / "cat.jpg")[None]
    results = written(checkpoint, tmp_path / "model.param", images, input="uint8")
    assert_close(results, raw_results(checkpoint, images))
