"""What the configuration in a Keras file says is what runs, or is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mobilenetv2.checkpoint import Checkpoint
from mobilenetv2.errors import ModelFileError
from mobilenetv2.formats import read
from mobilenetv2.runtime import Reference

from .conftest import random_checkpoint
from .writers import difference, keras_config, write_keras_archive, write_keras_legacy

Layers = list[dict[str, Any]]


def small(**changes: object) -> Checkpoint:
    settings = {"width_mult": 0.1, "last_channels": 64, "classes": 3, "resolution": (64, 64)}
    return random_checkpoint(**{**settings, "padding": "same", "bn_epsilon": 1e-3, **changes})


WRITERS: dict[str, Callable[..., Path]] = {
    "model.keras": write_keras_archive,
    "model.h5": partial(write_keras_legacy, whole=True, keras=3),
    "keras2.h5": partial(write_keras_legacy, whole=True),
}


def written(
    folder: Path,
    name: str,
    checkpoint: Checkpoint,
    change: Callable[[Layers], object] = lambda layers: None,
    **dense: object,
) -> Path:
    """A whole model whose configuration `change` has changed."""
    config = keras_config(checkpoint, 2 if name == "keras2.h5" else 3, whole=True, **dense)
    change(config["config"]["layers"])
    return WRITERS[name](folder / name, checkpoint, config=config)


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"resolution": (65, 97)},
        {"bn_epsilon": 1e-5},
        {"padding": "symmetric"},  # of a model that was built without a size
        {"head": "features", "classes": None},
    ],
    ids=str,
)
def test_a_configuration_is_read(tmp_path, name, changes) -> None:
    checkpoint = small(**changes)
    imported = read(written(tmp_path, name, checkpoint))
    assert imported.architecture == checkpoint.architecture
    assert difference(checkpoint, imported) < 1e-5


def first_of(kind: str, layers: Layers) -> dict[str, Any]:
    return next(layer for layer in layers if layer["class_name"] == kind)


def option(kind: str, **options: object) -> Callable[[Layers], object]:
    """Changes the first layer of a kind."""
    return lambda layers: first_of(kind, layers)["config"].update(options)


def renamed(kind: str, other: str) -> Callable[[Layers], object]:
    return lambda layers: first_of(kind, layers).update(class_name=other)


def inserted(
    kind: str, at: int = 1, nodes: object = (), **options: object
) -> Callable[..., object]:
    layer = {"class_name": kind, "config": {"name": "extra", **options}, "inbound_nodes": nodes}
    return lambda layers: layers.insert(at, layer)


def removed(kind: str) -> Callable[[Layers], object]:
    return lambda layers: layers.remove(first_of(kind, layers))


TENSOR = {"class_name": "__keras_tensor__", "config": {"shape": [None, 64, 64, 3]}}
REFUSED: dict[str, tuple[Callable[[Layers], object], str]] = {
    "relu": (option("ReLU", max_value=None), "Conv1_relu has the activation 'ReLU with"),
    "relu 8": (option("ReLU", max_value=8.0), "activation"),
    "leaky": (option("ReLU", negative_slope=0.1), "activation"),
    "swish": (renamed("ReLU", "Swish"), "Conv1_relu is of the kind Swish"),
    "activation": (inserted("Activation", 3, activation="swish"), "activation 'swish'"),
    "conv activation": (option("Conv2D", activation="elu"), "Conv1 has the activation 'elu'"),
    "stride": (option("Conv2D", strides=[1, 1]), r"Conv1 has strides \[1, 1\], not \(2, 2\)"),
    "dilation": (option("DepthwiseConv2D", dilation_rate=[2, 2]), "dilation_rate"),
    "padding": (option("DepthwiseConv2D", padding="valid"), "is padded"),
    "max pooling": (renamed("GlobalAveragePooling2D", "GlobalMaxPooling2D"), "GlobalMaxPooling2D"),
    "no pooling": (removed("GlobalAveragePooling2D"), "0 global averages, not 1"),
    "no shortcut": (removed("Add"), "10 additions, not 11"),
    "no relu": (removed("ReLU"), "34 ReLU6, not 35"),
    "epsilon": (option("BatchNormalization", epsilon=0.1), "epsilon"),
    "normalization": (inserted("Normalization"), "extra is of the kind Normalization"),
    "resizing": (inserted("Resizing", height=64, width=64), "extra is of the kind Resizing"),
    "lambda": (inserted("Lambda"), "extra is of the kind Lambda"),
    "late rescaling": (inserted("Rescaling", 5, scale=2.0), "rescales what a convolution gives"),
    "rescaling": (inserted("Rescaling", scale=[1.0, 2.0, 3.0]), "each channel in another way"),
    "negative": (inserted("Rescaling", scale=-1.0), "std"),
    "two tensors": (
        inserted("Multiply", nodes=[{"args": [[TENSOR, TENSOR]], "kwargs": {}}]),
        "extra is of the kind Multiply",
    ),
    "number minus tensor": (
        inserted("Subtract", nodes=[{"args": [1.0, TENSOR], "kwargs": {}}]),
        "extra is of the kind Subtract",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
def test_what_does_not_run_here_is_refused_by_name(tmp_path, name, case) -> None:
    change, complaint = REFUSED[case]
    path = written(tmp_path, name, small(), change)
    with pytest.raises(ModelFileError, match=rf"{name}: .*{complaint}"):
        read(path)


@pytest.mark.parametrize("activation", ["sigmoid", "relu", "tanh", "exponential"])
def test_another_activation_of_the_classes_is_refused(tmp_path, activation) -> None:
    path = written(tmp_path, "model.keras", small(), activation=activation)
    with pytest.raises(ModelFileError, match=f"predictions has the activation '{activation}'"):
        read(path)


@pytest.mark.parametrize("name", WRITERS)
def test_one_sigmoid_becomes_two_classes(tmp_path, name) -> None:
    one = small(classes=1)
    imported = read(written(tmp_path, name, one, activation="sigmoid"))
    assert imported.architecture.classes == 2
    image = np.random.default_rng(0).uniform(-1, 1, (1, 64, 64, 3)).astype(np.float32)
    logits = Reference(imported)(image).ravel()
    probabilities = np.exp(logits) / np.exp(logits).sum()
    sigmoid = 1 / (1 + np.exp(-Reference(one)(image).item()))
    np.testing.assert_allclose(probabilities, [1 - sigmoid, sigmoid], rtol=1e-5)
    assert any("became two classes" in note for note in imported.notes)


@pytest.mark.parametrize("activation", ["linear", "softmax", "tanh"])
def test_one_other_output_is_refused(tmp_path, activation) -> None:
    path = written(tmp_path, "model.keras", small(classes=1), activation=activation)
    with pytest.raises(ModelFileError, match=r"model\.keras: .*(one output|'tanh')"):
        read(path)


def operators(*pairs: tuple[str, float], keras: int = 3) -> Callable[[Layers], object]:
    """`preprocess_input` and its like inside of a model."""

    def change(layers: Layers) -> None:
        for at, (kind, number) in enumerate(pairs, 1):
            nodes = (
                [{"args": [TENSOR, number], "kwargs": {}}]
                if keras == 3
                else [["input_1", 0, 0, {"y": number, "name": None}]]
            )
            operator = {"name": f"op{at}", "function": kind}
            layers.insert(at, {
                "class_name": kind if keras == 3 else "TFOpLambda",
                "config": operator, "inbound_nodes": nodes,
            })  # fmt: skip

    return change


@pytest.mark.parametrize(
    ("change", "mean", "std"),
    [
        (inserted("Rescaling", scale=1 / 127.5, offset=-1.0), 0.5, 0.5),
        (inserted("Rescaling", scale=1 / 255), 0, 1),
        (operators(("TrueDivide", 127.5), ("Subtract", 1.0)), 0.5, 0.5),
        (operators(("Multiply", 1 / 255)), 0, 1),
        (operators(("math.truediv", 127.5), ("math.subtract", 1.0), keras=2), 0.5, 0.5),
        (operators(("Add", 255.0), ("Divide", 255.0)), -1, 1),
    ],
)
@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
def test_layers_that_rescale_become_the_preprocessing(tmp_path, name, change, mean, std) -> None:
    imported = read(written(tmp_path, name, small(), change))
    np.testing.assert_allclose(imported.preprocessing.mean, [mean] * 3, atol=1e-9)
    np.testing.assert_allclose(imported.preprocessing.std, [std] * 3)
    assert not imported.notes


def test_a_model_inside_a_model(tmp_path) -> None:
    """As transfer learning writes it, with augmentation and dropout."""
    checkpoint = small()
    config = keras_config(checkpoint, whole=True)
    listed = config["config"]["layers"]
    inner = {"class_name": "Functional", "config": {"name": "base", "layers": listed[:-2]}}
    config["config"]["layers"] = [
        {"class_name": "InputLayer", "config": {"name": "input"}},
        {"class_name": "RandomFlip", "config": {"name": "flip"}},
        inner,
        *listed[-2:-1],
        {"class_name": "Dropout", "config": {"name": "dropout"}},
        *listed[-1:],
    ]
    path = write_keras_archive(tmp_path / "model.keras", checkpoint, config)
    assert difference(checkpoint, read(path)) < 1e-5
    listed[-1]["config"]["activation"] = "sigmoid"
    path = write_keras_archive(tmp_path / "model.keras", checkpoint, config)
    with pytest.raises(ModelFileError, match="sigmoid"):
        read(path)


def test_two_outputs_are_refused(tmp_path) -> None:
    config = keras_config(small(), whole=True)
    config["config"]["output_layers"] = [["predictions", 0, 0], ["Conv_1", 0, 0]]
    path = write_keras_archive(tmp_path / "model.keras", small(), config)
    with pytest.raises(ModelFileError, match="2 outputs"):
        read(path)
    config["config"]["output_layers"] = ["predictions", 0, 0]
    assert read(write_keras_archive(path, small(), config)).architecture.classes == 3


def test_without_a_configuration_the_assumption_is_said(tmp_path) -> None:
    path = write_keras_legacy(tmp_path / "weights.h5", small())
    assert read(path).notes[0].startswith("the file does not say how images are prepared")
    one = write_keras_legacy(tmp_path / "one.h5", small(classes=1))
    with pytest.raises(ModelFileError, match=r"one\.h5: .*one output"):
        read(one)


def test_dense_layers_that_follow_each_other_are_refused(tmp_path) -> None:
    checkpoint = small()
    path = written(tmp_path, "model.keras", checkpoint, inserted("Dense", -1, activation="relu"))
    with pytest.raises(ModelFileError, match="activation 'relu'"):
        read(path)
