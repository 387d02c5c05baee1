"""State dicts of torchvision and timm: their names, and the engine's answers after reading back.

`tests/peers` loads such files in the libraries themselves.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mobilenetv2 import formats
from mobilenetv2.architecture import MOBILENET_V2, V1, Architecture, Stage
from mobilenetv2.checkpoint import Checkpoint
from mobilenetv2.graph import layers
from mobilenetv2.heads import Classifier, DeepLab, Features, SSDLite
from mobilenetv2.images import Preprocessing
from mobilenetv2.runtime import Engine
from mobilenetv2.verification import weights
from mobilenetv2.verification.float16 import as_float16
from mobilenetv2.writers import FORMATS, WriteOptions, WriterError, timm, torchvision, writer

from .conftest import random_checkpoint
from .int8 import random_int8

WRITERS = {"torchvision": (torchvision, ".pth"), "timm": (timm, ".safetensors")}


def small(**changes: Any) -> Checkpoint:
    return random_checkpoint(
        Architecture(width_mult=0.35, resolution=(64, 64), head=Classifier(7)), **changes
    )


def written(
    checkpoint: Checkpoint, target: str, folder: Path, pixels: np.ndarray, **options: Any
) -> np.ndarray:
    """The only result."""
    module, suffix = WRITERS[target]
    path, chosen = folder / f"model{suffix}", WriteOptions(**options)
    assert module.write(checkpoint, path, chosen)[0] == path
    (answer,) = weights.run(path, pixels, checkpoint, chosen).values()
    return np.asarray(answer)


@pytest.mark.parametrize("size", [(64, 64), (97, 131)], ids=str)
@pytest.mark.parametrize(
    ("target", "changes"),
    [
        ("torchvision", {}),
        ("torchvision", {"bn_epsilon": 1e-3}),
        ("torchvision", {"bn_epsilon": 1e-6}),
        ("timm", {}),
        ("timm", {"padding": "same", "bn_epsilon": 1e-3}),
        ("timm", {"head": Features()}),
    ],
    ids=str,
)
def test_the_file_gives_the_engines_answers(
    target: str, changes: dict[str, Any], size: tuple[int, int], tmp_path: Path, pixels: Any
) -> None:
    checkpoint, images = small(resolution=size, **changes), pixels(2, *size, 3)
    expected = Engine(checkpoint)(images)
    bound = 1e-4 * max(1, np.abs(expected).max())
    assert np.abs(written(checkpoint, target, tmp_path, images) - expected).max() <= bound


def test_variances_below_the_others_epsilon_keep_the_function(tmp_path: Path, pixels: Any) -> None:
    checkpoint, images = small(bn_epsilon=1e-7), pixels(1, 64, 64, 3)
    arrays = dict(checkpoint.arrays)
    # both as small as they are: their quotient is what counts
    arrays["features.0.1.running_var"] = np.full_like(arrays["features.0.1.running_var"], 1e-6)
    arrays["features.0.1.weight"] = arrays["features.0.1.weight"] * np.float32(1e-3)
    checkpoint = replace(checkpoint, arrays=arrays)
    answer, expected = written(checkpoint, "timm", tmp_path, images), Engine(checkpoint)(images)
    assert np.abs(answer - expected).max() <= 1e-4 * max(1, np.abs(expected).max())


@pytest.mark.parametrize("target", WRITERS)
def test_kernels_as_float16(target: str, tmp_path: Path, pixels: Any) -> None:
    checkpoint, images = small(), pixels(1, 64, 64, 3)
    rounded = {
        layer.weight: checkpoint.arrays[layer.weight].astype(np.float16).astype(np.float32)
        for layer in layers(checkpoint.architecture)
        if layer.weight
    }
    stored = as_float16(checkpoint, "arrays")
    assert all((stored.arrays[name] == kernel).all() for name, kernel in rounded.items())
    expected = Engine(replace(checkpoint, arrays={**checkpoint.arrays, **rounded}))(images)
    module, suffix = WRITERS[target]
    path, chosen = tmp_path / f"model{suffix}", WriteOptions(float16=True)
    module.write(checkpoint, path, chosen)
    (answer,) = weights.run(path, images, stored, chosen).values()
    with pytest.raises(WriterError, match="are others than the model's"):
        weights.run(path, images, checkpoint, chosen)
    assert np.abs(answer - expected).max() <= 1e-4 * max(1, np.abs(expected).max())


@pytest.mark.parametrize(
    ("target", "name", "padding"),
    [
        ("torchvision", "m.pth", "symmetric"),
        ("timm", "m.safetensors", "same"),
        ("keras", "m.h5", "same"),
        ("keras", "m.weights.h5", "same"),
    ],
)
def test_a_file_read_again_keeps_labels_and_preprocessing(
    target: str, name: str, padding: str, tmp_path: Path
) -> None:
    pytest.importorskip({"keras": "h5py"}.get(target, "torch"))
    checkpoint = small(resolution=(64, 96), padding=padding, bn_epsilon=1e-3)
    labels = tuple(f"l{i}\udce9" for i in range(checkpoint.architecture.classes))
    preprocessing = Preprocessing(size=(64, 96), resize="stretch", mean=(0.1,) * 3, std=(0.2,) * 3)
    checkpoint = replace(checkpoint, labels=labels, preprocessing=preprocessing)
    path = tmp_path / name
    writer(FORMATS[target])(checkpoint, path, WriteOptions())
    read = formats.read(path)
    assert (read.labels, read.preprocessing, read.notes) == (labels, preprocessing, ())
    assert read.architecture.resolution == (64, 96)
    assert read.architecture.padding == padding
    if target == "timm":  # its folders call them so
        path = path.rename(tmp_path / "model.safetensors")
        beside = (tmp_path / "m.json").rename(tmp_path / "config.json")
        assert formats.read(path).labels == labels
    else:
        beside = path.with_suffix(".json")
    beside.write_text(beside.read_text(errors="replace").replace('"l0', '"more", "l0'))
    other = formats.read(path)
    assert f"{beside}: of another model, so that it is not read" in other.notes
    assert other.labels != labels


def test_torchvisions_names(tmp_path: Path) -> None:
    checkpoint = replace(small(), labels=tuple("abcdefg"))
    files = torchvision.write(checkpoint, tmp_path / "m.pth", WriteOptions())
    assert [file.name for file in files] == ["m.pth", "m.json", "m.labels.txt"]
    state = torch.load(files[0], weights_only=True)
    assert state["features.18.1.num_batches_tracked"].shape == ()
    stored = {name: array.numpy() for name, array in state.items()}
    assert {n for n in stored if not n.endswith("tracked")} == set(checkpoint.arrays)
    assert all((stored[name] == array).all() for name, array in checkpoint.arrays.items())


def test_timms_names_and_configuration(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    checkpoint = replace(small(padding="same"), labels=tuple("abcdefg"))
    checkpoint = replace(checkpoint, preprocessing=Preprocessing(size=(64, 64), resize="stretch"))
    files = timm.write(checkpoint, tmp_path / "model.safetensors", WriteOptions())
    stored, ours = load_file(files[0]), checkpoint.arrays
    assert stored["bn1.num_batches_tracked"].shape == ()
    for theirs, name in {
        "conv_stem.weight": "features.0.0.weight",
        "blocks.0.0.conv_pw.weight": "features.1.conv.1.weight",
        "blocks.1.1.conv_pwl.weight": "features.3.conv.2.weight",
        "blocks.6.0.bn3.running_var": "features.17.conv.3.running_var",
        "classifier.bias": "classifier.1.bias",
    }.items():
        assert (stored[theirs] == ours[name]).all()
    config = json.loads(files[1].read_text())
    assert (config["architecture"], config["num_classes"]) == ("mobilenetv2_035", 7)
    assert config["model_args"] == {"pad_type": "same"}
    assert config["label_names"] == list("abcdefg")
    assert config["pretrained_cfg"]["crop_mode"] == "squash"
    assert config["mobilenetv2"]["size"] == [64, 64]


def test_timms_deeper_networks_have_names() -> None:
    stages = tuple(
        replace(s, repeats=r) for s, r in zip(MOBILENET_V2, (1, 3, 4, 5, 4, 4, 1), strict=True)
    )
    architecture = Architecture(width_mult=1.1, stages=stages, scale_ends=False)
    assert timm.model_name(architecture) == "mobilenetv2_110d"


@pytest.mark.parametrize(
    ("target", "changes", "reason"),
    [
        ("torchvision", {"padding": "same"}, "padding 'symmetric', not 'same'"),
        ("torchvision", {"in_channels": 1}, "in_channels 3"),
        ("torchvision", {"head": Features()}, "--to timm"),
        ("torchvision", {"head": SSDLite(2)}, "is a classifier"),
        ("torchvision", {"head": DeepLab(2), "output_stride": 16}, "is a classifier"),
        ("torchvision", {"shortcut": "none"}, "shortcut 'bottleneck'"),
        ("torchvision", {"stages": (Stage(2.5, 16, 1, 2),)}, "fractions"),
        ("timm", {"in_channels": 1}, "in_channels 3, not 1"),
        ("timm", {"width_mult": 0.4}, "none of width 0.4"),
        ("timm", {"output_stride": 16}, "output_stride 32, not 16"),
        ("timm", {"stages": V1.stages, "last_channels": None}, "last_channels 1280, not None"),
    ],
    ids=str,
)
def test_networks_that_the_library_does_not_have_are_refused(
    target: str, changes: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    module, suffix = WRITERS[target]
    with pytest.raises(WriterError, match=reason):
        module.write(small(**changes), tmp_path / f"m{suffix}", WriteOptions())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options",
    [{"input": "uint8"}, {"results": "final"}, {"opset": 17}, {"layout": "nhwc"}],
    ids=str,
)
@pytest.mark.parametrize("target", WRITERS)
def test_options_that_weights_do_not_have_are_refused(
    target: str, options: dict[str, Any], tmp_path: Path
) -> None:
    module, suffix = WRITERS[target]
    with pytest.raises(WriterError, match=f"{target}: {next(iter(options))}"):
        module.write(small(), tmp_path / f"m{suffix}", WriteOptions(**options))


@pytest.mark.parametrize("target", WRITERS)
def test_int8_is_refused(target: str, tmp_path: Path) -> None:
    int8 = random_int8(width_mult=0.35, resolution=(32, 32))
    with pytest.raises(WriterError, match="write the float model"):
        WRITERS[target][0].write(int8, tmp_path / "m", WriteOptions())


def test_other_weights_than_the_models_are_named(tmp_path: Path, pixels: Any) -> None:
    timm.write(small(seed=1), tmp_path / "model.safetensors", WriteOptions())
    path = tmp_path / "model.safetensors"
    with pytest.raises(WriterError, match=r"weights of features\.0\.0 are others"):
        weights.run(path, pixels(1, 64, 64, 3), small(), WriteOptions())


@pytest.mark.parametrize("target", WRITERS)
def test_float16_that_does_not_hold_a_kernel_is_refused(target: str, tmp_path: Path) -> None:
    checkpoint = small()
    arrays = {**checkpoint.arrays, "classifier.1.weight": np.full((7, 1280), 7e4, np.float32)}
    with pytest.raises(WriterError, match=rf"{target}: float16 does not hold the weights"):
        WRITERS[target][0].write(
            replace(checkpoint, arrays=arrays), tmp_path / "m", WriteOptions(float16=True)
        )


def test_timms_file_may_be_read_by_whoever_reads_others(tmp_path: Path) -> None:
    path, config = timm.write(small(), tmp_path / "m.safetensors", WriteOptions())
    assert path.stat().st_mode == config.stat().st_mode
