"""Arguments of the wrong kind: one line that names the argument, never another library's error."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mobilenetv2 as mnv2
from mobilenetv2 import cost
from mobilenetv2.architecture import Architecture
from mobilenetv2.arguments import check_whole
from mobilenetv2.checkpoint import Checkpoint
from mobilenetv2.errors import ImageError, ModelFileError, UserError
from mobilenetv2.evaluation.sheet import contact_sheet
from mobilenetv2.graph import blocks
from mobilenetv2.heads import Classifier
from mobilenetv2.images import decode
from mobilenetv2.insight import memory, photos, theory
from mobilenetv2.int8 import Int8Checkpoint
from mobilenetv2.nn import mobilenet_v2
from mobilenetv2.runtime import Engine, Int8Reference, Reference
from mobilenetv2.runtime.compare import compare
from mobilenetv2.runtime.quantize import quantize
from mobilenetv2.training import RECIPES, Machine, Start, fit

from .conftest import REPOSITORY, random_checkpoint
from .int8 import random_int8

CAT = REPOSITORY / "examples" / "cat.jpg"
SMALL = {"width_mult": 0.35, "resolution": (32, 32)}
CHECKPOINT = random_checkpoint(**SMALL)
INT8 = random_int8(**SMALL)
MODEL = mnv2.Model(CHECKPOINT, 1)
PIXELS = np.zeros((2, 32, 32, 3), np.uint8)


@pytest.mark.parametrize("value", [None, 1, b"x", io.BytesIO(), ["a"], MODEL])
@pytest.mark.parametrize(
    ("run", "name"),
    [
        (Checkpoint.load, "path"),
        (Int8Checkpoint.load, "path"),
        (CHECKPOINT.save, "path"),
        (INT8.save, "path"),
        (mnv2.read_dataset, "source"),
        (lambda value: mnv2.evaluate(MODEL, value), "source"),
        (lambda value: photos.read_photos(CHECKPOINT, value), "source"),
        (lambda value: fit(value, "run"), "data"),
        (lambda value: fit("data", value), "out"),
        (lambda value: fit("data", "run", val=value or 1), "val"),
    ],
)
def test_what_is_no_file_name(
    run: Callable[[Any], Any], name: str, value: object, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"^{name} must be a file name, not "):
        run(value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", ["cifar10", None, MODEL])
@pytest.mark.parametrize(
    ("run", "message"),
    [
        (mnv2.layers, "^architecture must be of type Architecture, not "),
        (blocks, "^architecture must be of type Architecture, not "),
        (cost.network_cost, "^architecture must be of type Architecture, not "),
        (cost.operator_memory, "^architecture must be of type Architecture, not "),
        (cost.bottleneck_memory, "^architecture must be of type Architecture, not "),
        (cost.peak_memory, "MemoryStep|a list of steps is needed"),
        (lambda x: quantize(x, [CAT]), "^checkpoint must be of type Checkpoint or Int8Checkpoint"),
        (lambda x: compare(x, INT8, PIXELS), "^checkpoint must be of type Checkpoint, not "),
        (lambda x: compare(CHECKPOINT, x, PIXELS), "^quantized must be of type Int8Checkpoint"),
        (
            lambda x: mnv2.evaluate(x and "cifar10", CAT.parent),
            "^model must be of type Model, not ",
        ),
        (Engine, "a Checkpoint or Int8Checkpoint is needed"),
        (Reference, "^checkpoint must be of type Checkpoint, not "),
        (Int8Reference, "^checkpoint must be of type Int8Checkpoint, not "),
        (lambda x: photos.read_photos(x, CAT), "^checkpoint must be of type Checkpoint, not "),
        (lambda x: memory.measure_memory(x, 32, 32), "^checkpoint must be of type Checkpoint"),
        (
            lambda x: mnv2.read_dataset(CAT.parent, split=x or 3),
            "^split must be of type str|no split",
        ),
        (RECIPES["modern"].changed, "^changes must be of type Mapping, not "),
    ],
)
def test_what_is_another_object(run: Callable[[Any], Any], message: str, value: object) -> None:
    with pytest.raises(UserError, match=message):
        run(value)


@pytest.mark.parametrize("name", ["recipe", "start", "machine"])
def test_a_run_without_settings_of_the_right_kind_never_begins(name: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {name: "paper"}
    with pytest.raises(UserError, match=f"^{name} must be of type {name.capitalize()} or None"):
        fit(tmp_path, tmp_path / "run", **options)
    assert not list(tmp_path.iterdir())
    assert Machine()  # the defaults are of the right kind


@pytest.mark.parametrize("value", ["photos", Path("photos"), b"photos", None, 1])
@pytest.mark.parametrize(
    "run",
    [
        lambda files: quantize(CHECKPOINT, files),
        lambda files: list(MODEL.classify_files(files)),
        lambda files: list(MODEL.features_files(files)),
        contact_sheet,
        theory.survival,
    ],
)
def test_what_is_no_list(run: Callable[[Any], Any], value: object) -> None:
    with pytest.raises(UserError, match="^a list of [a-z]+ is needed, not "):
        run(value)


@pytest.mark.parametrize("names", ["features.4.conv.2", [], None, 1, [1]])
@pytest.mark.parametrize(
    "run", [MODEL.engine.outputs, Reference(CHECKPOINT).run, Int8Reference(INT8).run]
)
def test_names_of_layers_are_a_list(run: Callable[..., Any], names: object) -> None:
    with pytest.raises(
        UserError, match="^no layer named: names must be a list of names of layers, not "
    ):
        run(PIXELS, names)


def test_texts_of_numpy_are_file_names() -> None:
    expected = MODEL.classify(CAT)
    assert MODEL.classify(np.str_(CAT)) == expected
    assert MODEL.classify(np.bytes_(CAT.read_bytes())) == expected
    for files in (np.array([str(CAT)]), np.array([CAT], object)):
        assert [result for _, result in MODEL.classify_files(files)] == [expected]
        with pytest.warns(UserWarning, match="1 image"):
            quantized = quantize(mnv2.load("cifar10").checkpoint, files)
        assert quantized.architecture.classes == 10


@pytest.mark.parametrize("value", [0, -1, float("nan"), "x", True, 1.5])
@pytest.mark.parametrize(
    ("name", "run"),
    [
        ("max_pixels", lambda x: decode(CAT, max_pixels=x)),
        ("max_pixels", lambda x: list(MODEL.classify_files([CAT], max_pixels=x))),
        ("batch", lambda x: MODEL.engine.activation_bytes(32, 32, x)),
        ("samples", lambda x: photos.read_photos(CHECKPOINT, CAT, x)),
        ("samples", lambda x: theory.invertibility(samples=x)),
        ("matrices", lambda x: theory.survival((2,), matrices=x)),
        ("a dimension", lambda x: theory.survival((x,))),
    ],
)
def test_numbers_that_are_not_whole_and_positive(
    name: str, run: Callable[[Any], Any], value: object
) -> None:
    with pytest.raises(UserError, match=f"^{name} must be a whole number of at least [12], not "):
        run(value)


def test_whole_numbers_of_any_library() -> None:
    assert check_whole("x", np.uint8(3)) == 3
    assert decode(CAT, max_pixels=np.int64(10**6)).size == decode(CAT).size
    with pytest.raises(UserError, match="^x must be a whole number from 0 to 4, not 5$"):
        check_whole("x", 5, 0, 4)


def test_shares_of_theorem_one() -> None:
    assert theory.preserved_share(16, 16) == 2**-16
    assert theory.preserved_share(4, 2) == 11 / 16
    assert theory.preserved_share(2, 4) == 0
    assert theory.preserved_share(10_000, 1_000) == 1
    for arguments in ((10**6, 10**5), (-1, 2), (1, -1), ("a", 1), (1.5, 1)):
        with pytest.raises(UserError, match="^(out|in)puts must be a whole number"):
            theory.preserved_share(*arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width_mult": "x"}, "^width_mult must be a number, not 'x'$"),
        ({"bn_decay": "x"}, "^bn_decay must be at least 0 and below 1, not 'x'$"),
        ({"dropout": "x"}, "must be at least 0 and below 1, not 'x'$"),
        ({"drop_path_rate": None}, "^drop_path_rate must be at least 0 and below 1, not None$"),
        ({"norm_layer": 1}, "^norm_layer must make an nn.BatchNorm2d"),
        ({"norm_layer": __import__("torch").nn.GroupNorm}, "^norm_layer must make an nn.BatchNorm"),
    ],
)
def test_options_of_a_network(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        mobilenet_v2(**options)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (
            lambda: compare(CHECKPOINT, INT8, PIXELS[:0]),
            "^images must be .* not \\(0, 32, 32, 3\\)",
        ),
        (lambda: compare(replaced_classes(), INT8, PIXELS), "not of two architectures$"),
        (lambda: contact_sheet([1]), "^a mistake must be of type Answer, not int$"),
        (lambda: cost.peak_memory([]), "^steps must be those of a network, not none$"),
        (lambda: Architecture.from_json(None), "^the architecture is not JSON: "),
        (lambda: mnv2.load("cifar10", int8="no"), "^int8 must be of type bool, not str$"),
        (lambda: mnv2.load("cifar10", weights_of=3), "^weights_of must be of type str or None"),
        (lambda: Start(width=-1), "^start width must be .* not -1"),
    ],
)
def test_values_that_contradict(run: Callable[[], Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run()


def replaced_classes() -> Checkpoint:
    return random_checkpoint(replace(CHECKPOINT.architecture, head=Classifier(3)))


def test_hidden_values_of_a_masked_array_are_not_used() -> None:
    hidden = np.ma.masked_array(PIXELS, mask=PIXELS == 0)
    preprocessing = CHECKPOINT.preprocessing
    for run in (MODEL, Reference(CHECKPOINT), preprocessing.normalize):
        with pytest.raises(ImageError, match="^a masked array hides values"):
            run(hidden)
    for run in (MODEL.classify, preprocessing):
        with pytest.raises(ImageError, match="^a masked array hides values"):
            run(hidden[0])
    assert np.array_equal(MODEL(np.ma.masked_array(PIXELS)), MODEL(PIXELS))


def test_one_class_is_no_classifier(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="^one class, of which a softmax is always 1"):
        mobilenet_v2(width_mult=0.35, num_classes=1).to_checkpoint(labels=("a",))
    with pytest.raises(ModelFileError, match="^one class"):
        random_checkpoint(width_mult=0.35, classes=1).save(tmp_path / "one.safetensors")
    assert not list(tmp_path.iterdir())
