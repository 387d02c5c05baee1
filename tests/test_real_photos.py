"""Published weights on real photos: the right recipe whatever file they come in, and one photo
through every entry point.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mobilenetv2.checkpoint import Checkpoint
from mobilenetv2.cli import run
from mobilenetv2.formats import read
from mobilenetv2.images import IMAGENET_MEAN, IMAGENET_STD, decode
from mobilenetv2.loading import load
from mobilenetv2.model import Model, Prediction
from mobilenetv2.runtime import Int8Reference, Reference

from .conftest import REPOSITORY
from .writers import LAYOUTS, save_safetensors, write_keras_archive, write_keras_legacy

NAME = "models/tf2_mobilenet_v2_1.0_224_ptq.tflite"
CAT = REPOSITORY / "examples" / "cat.jpg"
BEST = {  # of CAT, in percent
    "float32": (
        ("Egyptian cat", 67.56), ("tiger cat", 15.64), ("tabby", 12.72), ("lynx", 0.28),
        ("cougar", 0.15),
    ),
    "int8": (
        ("Egyptian cat", 65.78), ("tiger cat", 16.32), ("tabby", 13.49), ("lynx", 0.27),
        ("cougar", 0.14),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def published(shared: Callable[[str], Path]) -> Checkpoint:
    return read(shared(NAME), int8=False).without_background()


def for_imagenets_mean(checkpoint: Checkpoint) -> Checkpoint:
    """The same network for pixels that are normalised by ImageNet's mean and deviation."""
    kernel = checkpoint.arrays["features.0.0.weight"].astype(np.float64)
    mean, std = (np.array(x).reshape(3, 1, 1) for x in (IMAGENET_MEAN, IMAGENET_STD))
    shift = (kernel * (2 * mean - 1)).sum(axis=(1, 2, 3))
    changed = {
        "features.0.0.weight": kernel * 2 * std,
        "features.0.1.running_mean": checkpoint.arrays["features.0.1.running_mean"] - shift,
    }
    arrays = {name: array.astype(np.float32) for name, array in changed.items()}
    return replace(checkpoint, arrays=checkpoint.arrays | arrays)


def right(model: Model, photos: Path) -> int:
    """How many of twenty photos the model classifies rightly."""
    with open(photos / "labels.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))[::50]
    found = [model.classify(photos / row["file"], 1)[0].index for row in rows]
    return sum(index == int(row["index"]) for index, row in zip(found, rows, strict=True))


@pytest.mark.parametrize(
    "source", ["tflite", ".h5", ".keras", "hugging_face", "torchvision", "timm", "d-li14"]
)
def test_twenty_photos_without_any_option(shared, published, tmp_path, source) -> None:
    photos = shared("data/imagenet-sample")
    if source == "tflite":
        published.save(tmp_path / "model.safetensors")
        file = tmp_path / "model.safetensors"
    elif source == ".h5":
        file = write_keras_legacy(tmp_path / "model.h5", published, "published")
    elif source == ".keras":
        file = write_keras_archive(tmp_path / "model.keras", published)
    else:
        tensorflows = source.startswith("hugging_face")
        written = published if tensorflows else for_imagenets_mean(published)
        file = save_safetensors(tmp_path / "theirs.safetensors", LAYOUTS[source](written))
    # TensorFlow's weights in PyTorch's files keep their own padding and epsilon.
    checkpoint = replace(read(file), architecture=published.architecture)
    assert right(Model(checkpoint), photos) >= 16


def test_another_recipe_loses_photos(shared, published) -> None:
    """Otherwise the test above would pass with any."""
    photos = shared("data/imagenet-sample")
    other = replace(published.preprocessing, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    assert right(Model(replace(published, preprocessing=other)), photos) < 16


def first_names(predictions: list[Prediction]) -> list[tuple[str, float]]:
    return [(p.label.split(",")[0], 100 * p.probability) for p in predictions]


@pytest.mark.parametrize("kind", BEST)
def test_one_photo_through_every_entry_point(shared, tmp_path, capsys, kind) -> None:
    model = load(shared(NAME), int8=kind == "int8")
    checkpoint = model.checkpoint
    image = decode(CAT)
    oracle = (Int8Reference if kind == "int8" else Reference)(checkpoint)
    logits = oracle(checkpoint.preprocessing(image)[None])
    answers = {
        "path": model.classify(CAT),
        "image": model.classify(image),
        "array": model.classify(np.asarray(image)),
        "many": next(model.classify_files([CAT]))[1],
        "one thread": Model(checkpoint, threads=1).classify(CAT),
        "scalar": Model(checkpoint, isa="scalar").classify(CAT),
        "oracle": model._predictions(logits[0].data, 5),
    }
    # The file alone, in a folder of its own, says everything.
    checkpoint.save(tmp_path / "model.safetensors")
    (tmp_path / "alone").mkdir()
    file = shutil.move(tmp_path / "model.safetensors", tmp_path / "alone" / "renamed")
    answers["our file"] = load(Path(file)).classify(CAT)
    assert run(["classify", str(CAT), "--model", str(file), "--format", "json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)
    answers["command"] = [
        Prediction(row["label"], row["index"], row["probability"]) for row in entry["predictions"]
    ]
    for way, answer in answers.items():
        names, percents = zip(*first_names(answer))
        assert names == tuple(name for name, _ in BEST[kind]), way
        assert percents == pytest.approx([percent for _, percent in BEST[kind]], abs=0.01), way
