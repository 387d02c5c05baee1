"""Weights for Keras: its names, order and axes, and the engine's answers after reading back.

`tests/peers` loads such files in Keras itself.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mobilenetv2.architecture import MOBILENET_V2_32PX, Architecture
from mobilenetv2.checkpoint import Checkpoint
from mobilenetv2.heads import Classifier, Features, SSDLite
from mobilenetv2.runtime import Engine
from mobilenetv2.verification.keras import run
from mobilenetv2.writers import WriteOptions, WriterError, keras

from .conftest import random_checkpoint
from .int8 import random_int8

h5py = pytest.importorskip("h5py")


def small(**changes: Any) -> Checkpoint:
    architecture = Architecture(
        width_mult=0.35, resolution=(64, 64), head=Classifier(7), padding="same", bn_epsilon=1e-3
    )
    return random_checkpoint(architecture, **changes)


@pytest.mark.parametrize("suffix", [".h5", ".weights.h5"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"bn_epsilon": 1e-5},
        {"head": Features()},
        {"resolution": (97, 131)},
        # at this size every map has odd sides, where both paddings are one
        {"resolution": (97, 129), "padding": "symmetric"},
    ],
    ids=str,
)
def test_the_file_gives_the_engines_answers(
    changes: dict[str, Any], suffix: str, tmp_path: Path, pixels: Any
) -> None:
    checkpoint, path = small(**changes), tmp_path / f"model{suffix}"
    images = pixels(2, *checkpoint.architecture.resolution, 3)
    keras.write(checkpoint, path, WriteOptions())
    expected = Engine(checkpoint)(images)
    (answer,) = run(path, images, checkpoint, WriteOptions()).values()
    assert np.abs(answer - expected).max() <= 1e-4 * max(1, np.abs(expected).max())


def test_names_and_axes_of_the_legacy_file(tmp_path: Path) -> None:
    checkpoint = replace(small(), labels=tuple("abcdefg"))
    files = keras.write(checkpoint, tmp_path / "m.h5", WriteOptions())
    assert [file.name for file in files] == ["m.h5", "m.json", "m.labels.txt"]
    assert json.loads(files[1].read_text())["labels"] == list("abcdefg")
    with h5py.File(files[0]) as file:
        names = list(file.attrs["layer_names"])
        first = ["Conv1", "bn_Conv1", "expanded_conv_depthwise", "expanded_conv_depthwise_BN"]
        assert names[:4] == first
        assert names[-3:] == ["Conv_1", "Conv_1_bn", "predictions"]
        group = file["block_3_expand_BN"]
        arrays = [group[name][()] for name in group.attrs["weight_names"]]
        depthwise = file["block_3_depthwise/block_3_depthwise/kernel"][()]
        dense = file["predictions/predictions/kernel"][()]
    norm = "features.4.conv.0.1"
    for array, name in zip(arrays, ("weight", "bias", "running_mean", "running_var"), strict=True):
        assert (array == checkpoint.arrays[f"{norm}.{name}"]).all()
    kernel = checkpoint.arrays["features.4.conv.1.0.weight"]
    assert (depthwise[..., 0] == kernel[:, 0].transpose(1, 2, 0)).all()
    assert (dense == checkpoint.arrays["classifier.1.weight"].T).all()


@pytest.mark.parametrize(
    ("changes", "options", "reason"),
    [
        ({"padding": "symmetric"}, {}, "another network at 64 x 64"),
        ({"head": SSDLite(2)}, {}, "is a classifier"),
        ({"stages": MOBILENET_V2_32PX}, {}, "has stages"),
        ({}, {"float16": True}, "float16"),
        ({}, {"input": "uint8"}, "keras: input"),
        ({}, {"results": "final"}, "keras: results"),
    ],
    ids=str,
)
def test_what_keras_does_not_have_is_refused(
    changes: dict[str, Any], options: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(WriterError, match=reason):
        keras.write(small(**changes), tmp_path / "m.h5", WriteOptions(**options))
    assert not list(tmp_path.iterdir())


def test_int8_is_refused(tmp_path: Path) -> None:
    int8 = random_int8(width_mult=0.35, resolution=(32, 32))
    with pytest.raises(WriterError, match="write the float model"):
        keras.write(int8, tmp_path / "m.h5", WriteOptions())
