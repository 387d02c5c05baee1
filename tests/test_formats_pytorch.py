"""State dicts of torchvision, timm, Hugging Face and others: read correctly, or refused with the name
of the wrong array; no code in them is run.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mobilenetv2.architecture import MOBILENET_V2, Architecture
from mobilenetv2.checkpoint import Checkpoint
from mobilenetv2.errors import ModelFileError
from mobilenetv2.formats import read, recognise
from mobilenetv2.formats.pytorch import read_state_dict
from mobilenetv2.heads import Classifier
from mobilenetv2.images import Preprocessing
from mobilenetv2.labels import imagenet_labels
from mobilenetv2.runtime import Reference

from .conftest import random_checkpoint
from .writers import (
    LAYOUTS,
    difference,
    edged,
    hugging_face,
    hugging_face_config,
    prefixed,
    save_pth,
    save_safetensors,
    tensors,
    timm,
    torchvision,
)

TENSORFLOW = {"padding": "same", "bn_epsilon": 1e-3}
WIDTHS = (0.35, 0.5, 1.0, 1.4)


def rules_of(layout: str) -> dict[str, object]:
    return TENSORFLOW if layout.startswith("hugging_face") else {}


def deeper(width: float, *repeats: int) -> Architecture:
    """timm's 110d and 120d."""
    stages = tuple(
        replace(stage, repeats=n) for stage, n in zip(MOBILENET_V2, repeats, strict=True)
    )
    return Architecture(width_mult=width, stages=stages, scale_ends=False, head=Classifier(5))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_at_every_width(tmp_path, layout, width) -> None:
    checkpoint = random_checkpoint(width_mult=width, classes=5, **rules_of(layout))
    imported = read(save_safetensors(tmp_path / "model.safetensors", LAYOUTS[layout](checkpoint)))
    assert imported.architecture == checkpoint.architecture
    assert difference(checkpoint, imported) < 1e-5


@pytest.mark.parametrize("width", [0.75, 1.3])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_width_is_that_of_the_arrays(tmp_path, layout, width) -> None:
    checkpoint = random_checkpoint(width_mult=width, classes=5, **rules_of(layout))
    imported = read_state_dict(tmp_path / "model.pth", LAYOUTS[layout](checkpoint))
    assert imported.architecture == checkpoint.architecture


@pytest.mark.parametrize(
    "architecture",
    [
        deeper(1.1, 1, 3, 4, 5, 4, 4, 1),
        deeper(1.2, 1, 3, 5, 6, 5, 5, 1),
        Architecture(width_mult=0.5, last_channels=640, head=Classifier(3)),
        Architecture(width_mult=1.4, last_channels=1280, head=Classifier(4)),
        Architecture(width_mult=0.35, head="features"),
        Architecture(width_mult=0.75, head=Classifier(1000)),
        Architecture(width_mult=0.85, head=Classifier(2)),
    ],
    ids=[
        "110d",
        "120d",
        "640 last",
        "unscaled last",
        "no classifier",
        "1000 classes",
        "unpublished width",
    ],
)
def test_other_shapes_are_read_from_the_arrays(tmp_path, architecture) -> None:
    checkpoint = random_checkpoint(architecture)
    imported = read(save_pth(tmp_path / "model.pth", tensors(timm(checkpoint))))
    assert imported.architecture == architecture
    assert {name: array.shape for name, array in imported.arrays.items()} == {
        name: array.shape for name, array in checkpoint.arrays.items()
    }
    assert difference(checkpoint, imported) < 1e-5


@pytest.mark.parametrize("changes", [{"padding": "same"}, {"bn_epsilon": 1e-3}], ids=str)
def test_padding_and_epsilon_of_the_source_matter(changes) -> None:
    """Otherwise the round trips above would pass with a wrong padding or epsilon."""
    checkpoint = random_checkpoint(width_mult=0.35, classes=5)
    changed = replace(checkpoint, architecture=replace(checkpoint.architecture, **changes))
    assert difference(checkpoint, changed) > 1e-4


@pytest.mark.parametrize(
    ("layout", "mean", "interpolation", "source"),
    [
        ("torchvision", (0.485, 0.456, 0.406), "bilinear", "torchvision"),
        ("timm", (0.485, 0.456, 0.406), "bicubic", "timm"),
        ("hugging_face", (0.5, 0.5, 0.5), "bilinear", "Hugging Face"),
        ("d-li14", (0.485, 0.456, 0.406), "bilinear", "PyTorch (flat blocks)"),
    ],
)
def test_preprocessing_and_provenance_are_the_sources(
    tmp_path, layout, mean, interpolation, source
) -> None:
    arrays = LAYOUTS[layout](random_checkpoint(width_mult=0.35, classes=5))
    imported = read(save_safetensors(tmp_path / "theirs.safetensors", arrays))
    assert (imported.preprocessing.mean, imported.preprocessing.interpolation) == (
        mean,
        interpolation,
    )
    assert (imported.preprocessing.size, imported.preprocessing.crop_fraction) == (
        (224, 224),
        0.875,
    )
    assert imported.provenance == {"source": source, "file": "theirs.safetensors"}


@pytest.mark.parametrize(
    "prefix", ["module.", "model.", "_orig_mod.", "module._orig_mod.", "model.module."]
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_prefixes_of_wrappers(tmp_path, layout, prefix) -> None:
    checkpoint = random_checkpoint(width_mult=0.35, classes=2, **rules_of(layout))
    arrays = prefixed(LAYOUTS[layout](checkpoint), prefix)
    assert_same(read_state_dict(tmp_path / "model.pth", arrays), checkpoint)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "net"])
def test_training_checkpoints(tmp_path, key, legacy) -> None:
    checkpoint = random_checkpoint(width_mult=0.35, classes=2)
    arrays = tensors(prefixed(torchvision(checkpoint), "module."))
    content = {
        key: arrays,
        "epoch": 3,
        "best": 71.8,
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
    }
    path = save_pth(tmp_path / "best.pth.tar", content, legacy=legacy)
    assert recognise(path) == "pytorch"
    assert_same(read(path), checkpoint)


def test_parameters_half_precision_and_double(tmp_path) -> None:
    checkpoint = random_checkpoint(width_mult=0.35, classes=2)
    arrays = tensors(torchvision(checkpoint))
    parameters = {
        n: torch.nn.Parameter(t) if t.is_floating_point() else t for n, t in arrays.items()
    }
    assert_same(read(save_pth(tmp_path / "parameters.pth", parameters)), checkpoint)
    assert_same(
        read(save_pth(tmp_path / "double.pth", {n: t.double() for n, t in arrays.items()})),
        checkpoint,
    )
    for kind in (torch.float16, torch.bfloat16):
        rounded = {
            name: torch.from_numpy(array).to(kind).float().numpy()
            for name, array in checkpoint.arrays.items()
        }
        content = {n: t.to(kind) if t.is_floating_point() else t for n, t in arrays.items()}
        assert_same(
            read(save_pth(tmp_path / "half.pth", content)), replace(checkpoint, arrays=rounded)
        )


def test_edges_of_batch_norm_survive(tmp_path) -> None:
    checkpoint = edged(random_checkpoint(width_mult=0.35, classes=5))
    imported = read(save_pth(tmp_path / "model.pth", tensors(timm(checkpoint))))
    assert_same(imported, checkpoint)
    assert np.isfinite(Reference(imported)(np.zeros((1, 64, 64, 3), np.float32))).all()


def test_our_own_arrays_are_torchvisions() -> None:
    """The names of `torchvision.models.mobilenet_v2().state_dict()`, without the counters."""
    first = ("0.0", "0.1"), ("1", "2")
    others = ("0.0", "0.1"), ("1.0", "1.1"), ("2", "3")
    layers = [("features.0.0", "features.0.1")]
    for block in range(1, 18):
        parts = first if block == 1 else others
        layers += [tuple(f"features.{block}.conv.{name}" for name in part) for part in parts]
    layers.append(("features.18.0", "features.18.1"))
    names = []
    for kernel, norm in layers:
        arrays = ("weight", "bias", "running_mean", "running_var")
        names += [f"{kernel}.weight", *(f"{norm}.{array}" for array in arrays)]
    names += ["classifier.1.weight", "classifier.1.bias"]
    assert list(random_checkpoint(width_mult=0.35, classes=2).arrays) == names


# --- classes and labels ---


@pytest.mark.parametrize(
    ("layout", "classes", "ends"),
    [
        (
            "torchvision",
            1000,
            ("tench, Tinca tinca", "toilet tissue, toilet paper, bathroom tissue"),
        ),
        ("hugging_face", 1001, ("background", "toilet tissue, toilet paper, bathroom tissue")),
        ("timm", 999, ()),
    ],
)
def test_labels_where_the_classes_are_imagenets(tmp_path, layout, classes, ends) -> None:
    checkpoint = random_checkpoint(width_mult=0.35, classes=classes, **rules_of(layout))
    imported = read_state_dict(tmp_path / "model.pth", LAYOUTS[layout](checkpoint))
    assert imported.labels[:1] + imported.labels[-1:] == ends
    assert len(imported.labels) == (classes if ends else 0)


def test_without_background_keeps_the_other_logits(tmp_path) -> None:
    checkpoint = random_checkpoint(width_mult=0.35, classes=1001, **TENSORFLOW)
    full = read_state_dict(tmp_path / "model.pth", hugging_face(checkpoint))
    short = full.without_background()
    image = np.random.default_rng(0).uniform(-1, 1, (1, 64, 64, 3)).astype(np.float32)
    assert short.labels == imagenet_labels(1000)
    np.testing.assert_allclose(Reference(short)(image), Reference(full)(image)[:, 1:], atol=1e-6)
    with pytest.raises(ModelFileError, match="class 0 is not the background"):
        short.without_background()


def folder_of(tmp_path: Path, checkpoint: Checkpoint, text: str) -> Path:
    (tmp_path / "config.json").write_text(text)
    return save_safetensors(tmp_path / "model.safetensors", hugging_face(checkpoint))


@pytest.mark.parametrize("padding", ["same", "symmetric"])
@pytest.mark.parametrize("epsilon", [1e-3, 2e-5])
def test_hugging_face_config(tmp_path, padding, epsilon) -> None:
    checkpoint = random_checkpoint(
        width_mult=0.35, classes=3, resolution=(96, 96), padding=padding, bn_epsilon=epsilon
    )
    names = {"0": "rose", "2": "tulip", "1": "daisy"}
    config = hugging_face_config(checkpoint.architecture, id2label=names)
    imported = read(folder_of(tmp_path, checkpoint, json.dumps(config)))
    assert imported.architecture == checkpoint.architecture
    assert imported.labels == ("rose", "daisy", "tulip")
    assert imported.preprocessing.size == (96, 96)
    assert (
        imported.preprocessing.crop_fraction == 96 / 128
    )  # the image processor resizes the short side to crop + 32
    assert difference(checkpoint, imported) < 1e-5


def test_hugging_face_config_of_other_kinds(tmp_path) -> None:
    checkpoint = random_checkpoint(width_mult=0.35, classes=1001, **TENSORFLOW)
    numbered = {str(i): f"LABEL_{i}" for i in range(1001)}
    config = hugging_face_config(checkpoint.architecture, id2label=numbered, image_size=[96, 128])
    imported = read(folder_of(tmp_path, checkpoint, json.dumps(config)))
    assert imported.preprocessing.size == imported.architecture.resolution == (96, 128)
    assert imported.labels[0] == "background"
    features = random_checkpoint(width_mult=0.35, head="features", **TENSORFLOW)
    named = {
        str(i): f"class {i}" for i in range(1001)
    }  # the base model's config keeps the classifier's labels
    config = hugging_face_config(features.architecture, id2label=named)
    assert read(folder_of(tmp_path, features, json.dumps(config))).labels == ()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[]", "not a Hugging Face config"),
        ("{", "not a Hugging Face config"),
        ('{"image_size": "large"}', "not a Hugging Face config"),
        ('{"image_size": 0}', "preprocessing size"),
        ('{"id2label": {"0": "a", "2": "c"}}', "not a Hugging Face config"),
        ('{"id2label": {"0": "a", "1": "b"}}', "2 labels for 3 classes"),
        ('{"output_stride": 7}', "output_stride"),
        ('{"hidden_act": "silu"}', "hidden_act is 'silu'"),
        ('{"layer_norm_eps": -1}', "bn_epsilon"),
    ],
)
def test_hugging_face_config_that_does_not_fit(tmp_path, text, complaint) -> None:
    path = folder_of(tmp_path, random_checkpoint(width_mult=0.35, classes=3), text)
    with pytest.raises(ModelFileError, match=complaint) as caught:
        read(path)
    assert str(tmp_path) in str(caught.value)


def test_hugging_face_preprocessor(tmp_path) -> None:
    path = folder_of(tmp_path, random_checkpoint(width_mult=0.35, classes=3), "{}")
    (tmp_path / "preprocessor_config.json").write_text(
        '{"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 2, 3]}'
    )
    assert read(path).preprocessing.mean == (0.1, 0.2, 0.3)
    assert read(path).preprocessing.std == (1, 2, 3)
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": 7}')
    with pytest.raises(ModelFileError, match="preprocessor_config.json"):
        read(path)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, Preprocessing(size=(96, 96), crop_fraction=0.75)),
        ({"size": {"shortest_edge": 100}, "crop_size": {"height": 80, "width": 80}, "resample": 3},
         Preprocessing(size=(80, 80), crop_fraction=0.8, interpolation="bicubic")),
        ({"size": 120, "crop_size": 90}, Preprocessing(size=(90, 90), crop_fraction=0.75)),
        ({"size": {"height": 64, "width": 96}, "do_center_crop": False},
         Preprocessing(size=(64, 96), resize="stretch")),
        ({"do_normalize": False}, Preprocessing(
            size=(96, 96), crop_fraction=0.75, mean=(0, 0, 0), std=(1, 1, 1))),
        ({"do_rescale": False, "image_mean": [127.5] * 3, "image_std": [127.5] * 3},
         Preprocessing(size=(96, 96), crop_fraction=0.75)),
        ({"rescale_factor": 1 / 510}, Preprocessing(
            size=(96, 96), crop_fraction=0.75, mean=(1, 1, 1), std=(1, 1, 1))),
        ({"do_center_crop": False}, "do_center_crop is False"),
        ({"do_resize": False}, "do_resize is False"),
        ({"resample": 5}, "resample is 5"),
        ({"size": {"shortest_edge": 0}}, "not a Hugging Face config"),
        ({"size": {"height": 64, "width": 96}, "crop_size": 32}, "stretched and then cropped"),
        ({"image_mean": ["\ud800"]}, "not a Hugging Face config"),
    ],
)  # fmt: skip
def test_hugging_face_images_are_prepared_as_the_file_says_or_refused(
    tmp_path, config, expected
) -> None:
    path = folder_of(tmp_path, random_checkpoint(width_mult=0.1, classes=3), '{"image_size": 96}')
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"do_resize": True} | config))
    if isinstance(expected, str):
        with pytest.raises(ModelFileError, match=f"config.json: .*{expected}"):
            read(path)
        return
    prepared = read(path).preprocessing
    np.testing.assert_allclose(prepared.mean + prepared.std, expected.mean + expected.std)
    assert replace(prepared, mean=expected.mean, std=expected.std) == expected
    assert not read(path).notes


@pytest.mark.parametrize("task", ["regression", "multi_label_classification"])
def test_hugging_face_tasks_without_a_softmax_are_refused(tmp_path, task) -> None:
    path = folder_of(
        tmp_path, random_checkpoint(width_mult=0.1, classes=3), f'{{"problem_type": "{task}"}}'
    )
    with pytest.raises(ModelFileError, match=rf"config\.json: problem_type is '{task}'"):
        read(path)


def test_hugging_face_output_stride_becomes_dilation(tmp_path) -> None:
    checkpoint = random_checkpoint(
        width_mult=0.35, classes=3, output_stride=8, padding="same", bn_epsilon=1e-3
    )
    path = folder_of(tmp_path, checkpoint, '{"output_stride": 8}')
    again = read(path)
    assert again.architecture.output_stride == 8
    x = np.random.default_rng(0).uniform(-1, 1, (1, 64, 64, 3)).astype(np.float32)
    assert np.abs(Reference(again)(x) - Reference(checkpoint)(x)).max() < 1e-5


# --- arrays that do not fit ---


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_array_counts(tmp_path, layout) -> None:
    """Each array is left out or made shorter (one in five; all of timm's): refused by name."""
    checkpoint = random_checkpoint(width_mult=0.35, classes=2)
    arrays = LAYOUTS[layout](checkpoint)
    theirs = [name for name in arrays if not name.endswith("num_batches_tracked")]
    pairs = list(zip(theirs, checkpoint.arrays, strict=True))
    for name, ours in pairs if layout == "timm" else pairs[::5] + pairs[-2:]:
        without = {other: array for other, array in arrays.items() if other != name}
        # Of the classifier's arrays either one may be the wrong one.
        expected = "classifier.1" if ours.startswith("classifier") else ours
        for changed in (
            without,
            arrays | {name: arrays[name][:-1]},
            arrays | {name: arrays[name][..., :-1]},
        ):
            with pytest.raises(ModelFileError) as caught:
                read_state_dict(tmp_path / "model.pth", changed)
            assert "model.pth" in str(caught.value)
            assert expected in str(caught.value), str(caught.value)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "name", ["extra.weight", "features.1.conv.9.weight", "classifier.2.bias", "num_batches_tracked"]
)
def test_an_extra_array(tmp_path, layout, name) -> None:
    arrays = LAYOUTS[layout](random_checkpoint(width_mult=0.35, classes=2))
    path = save_safetensors(
        tmp_path / "model.safetensors", arrays | {name: np.zeros(3, np.float32)}
    )
    with pytest.raises(ModelFileError, match=f"model.safetensors.*not part of the network: {name}"):
        read(path)


@pytest.mark.parametrize(
    ("layout", "theirs", "ours"),
    [
        ("torchvision", "classifier.weight", "classifier.1.weight"),
        ("timm", "features.0.1.bias", "features.0.1.bias"),
        ("hugging_face", "conv_1x1.convolution.weight", "features.18.0.weight"),
        ("tonylins", "conv.1.running_mean", "features.18.1.running_mean"),
    ],
)
def test_two_arrays_for_one_place(tmp_path, layout, theirs, ours) -> None:
    checkpoint = random_checkpoint(width_mult=0.35, classes=2)
    arrays = LAYOUTS[layout](checkpoint) | {theirs: checkpoint.arrays[ours]}
    with pytest.raises(ModelFileError, match=rf"model\.pth: two arrays would be {ours}"):
        read_state_dict(tmp_path / "model.pth", arrays)


def test_a_width_that_does_not_exist(tmp_path) -> None:
    """Channels that were not rounded to multiples of 8."""
    arrays = torchvision(random_checkpoint(width_mult=1.4, classes=2, divisor=1))
    with pytest.raises(
        ModelFileError, match=r"no width multiplier gives these channels: stem 45, then .22, 34"
    ):
        read_state_dict(tmp_path / "model.pth", arrays)


@pytest.mark.parametrize("kind", [np.int32, np.bool_, np.complex64])
def test_arrays_of_another_type(tmp_path, kind) -> None:
    arrays = torchvision(random_checkpoint(width_mult=0.35, classes=2))
    arrays["features.3.conv.2.weight"] = arrays["features.3.conv.2.weight"].astype(kind)
    with pytest.raises(
        ModelFileError, match=r"model.pth.*wrong type: features\.3\.conv\.2\.weight"
    ):
        read_state_dict(tmp_path / "model.pth", arrays)


@pytest.mark.parametrize(
    ("name", "value"),
    [("running_mean", np.nan), ("weight", np.inf), ("running_var", -1.0), ("bias", 1e39)],
)
def test_values_that_cannot_be(tmp_path, name, value) -> None:
    arrays = torchvision(random_checkpoint(width_mult=0.35, classes=2))
    arrays[f"features.18.1.{name}"] = np.full(1280, value)
    with pytest.raises(
        ModelFileError, match=rf"not finite, or a negative variance: features\.18\.1\.{name}"
    ):
        read_state_dict(tmp_path / "model.pth", arrays)


@pytest.mark.parametrize(
    "names",
    [
        [],
        [""],
        ["module."],
        ["features.0.weight"],
        ["features.x.conv.0.0.weight"],
        ["features.99999.conv.0.0.weight"],
        ["features.999.conv.0.0.weight", "features.0.0.weight"],
        ["blocks.0.0.conv_dw.weight"],
        ["conv_stem.first_conv.convolution.weight"],
        ["features.0.0.weight", "features.1.conv.0.weight"],
    ],
)
@pytest.mark.parametrize("shape", [(), (4,), (32, 3, 3, 3)])
def test_other_networks(tmp_path, names, shape) -> None:
    arrays = {name: np.zeros(shape, np.float32) for name in names}
    path = save_safetensors(tmp_path / "other.safetensors", arrays)
    with pytest.raises(
        ModelFileError, match=r"other\.safetensors.*(not a MobileNetV2|no width multiplier)"
    ):
        read(path)


@pytest.mark.parametrize("name", ["classifier.1.weight", "features.18.0.weight"])
def test_an_array_without_axes(tmp_path, name) -> None:
    arrays = torchvision(random_checkpoint(width_mult=0.35, classes=2))
    with pytest.raises(ModelFileError, match=name):
        read_state_dict(tmp_path / "model.pth", arrays | {name: np.ones((), np.float32)})


# --- pickles ---


class Trap:
    """Unpickling it with plain `pickle` makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("how", ["zip", "legacy", "bare pickle", "inside"])
def test_a_pickle_that_would_run_code_does_not(tmp_path, how) -> None:
    trap, path = tmp_path / "sprung", tmp_path / "model.pth"
    if how == "bare pickle":
        path.write_bytes(pickle.dumps(Trap(trap), protocol=2))
    else:
        arrays: dict[str, object] = dict(
            tensors(torchvision(random_checkpoint(width_mult=0.35, classes=2)))
        )
        content = (
            {"state_dict": arrays, "hook": Trap(trap)}
            if how == "inside"
            else arrays | {"x": Trap(trap)}
        )
        save_pth(path, content, legacy=how == "legacy")
    with pytest.raises(
        ModelFileError, match=r"model\.pth: refused: it holds \w+\.mkdir beside arrays"
    ) as caught:
        read(path)
    assert not trap.exists()
    assert "weights_only" not in str(caught.value)  # torch's advice is to switch the protection off
    pickle.loads(pickle.dumps(Trap(trap)))
    assert trap.is_dir()  # plain `pickle` runs it


def test_training_arguments_beside_the_arrays(tmp_path) -> None:
    arrays = tensors(torchvision(random_checkpoint(width_mult=0.35, classes=2)))
    path = save_pth(
        tmp_path / "run.pth", {"state_dict": arrays, "args": argparse.Namespace(lr=0.1)}
    )
    with pytest.raises(
        ModelFileError,
        match=r"run\.pth: refused: it holds argparse\.Namespace.*save its state_dict",
    ):
        read(path)


def test_a_whole_module(tmp_path) -> None:
    path = save_pth(tmp_path / "module.pth", torch.nn.Linear(2, 2))
    with pytest.raises(
        ModelFileError, match=r"module\.pth: refused: it holds torch\.nn\S* beside arrays"
    ):
        read(path)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("kept", [1, 40, 0.1, 0.5, 0.999])
def test_truncated(tmp_path, legacy, kept) -> None:
    arrays = tensors(torchvision(random_checkpoint(width_mult=0.35, classes=2)))
    path = save_pth(tmp_path / "model.pth", arrays, legacy=legacy)
    content = path.read_bytes()
    path.write_bytes(content[: kept if kept >= 1 else int(len(content) * kept)])
    with pytest.raises(ModelFileError, match=r"model\.pth"):
        read(path)


def test_tar_archives_of_old(tmp_path) -> None:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name in ("storages", "tensors", "pickle"):
            member = tarfile.TarInfo(name)
            member.size = 100
            archive.addfile(member, io.BytesIO(b"\x80\x02]q\x00." + b"x" * 94))
    path = tmp_path / "old.pth.tar"
    path.write_bytes(content.getvalue())
    assert recognise(path) == "pytorch"
    with pytest.raises(ModelFileError, match=r"old\.pth\.tar: not a readable \.pth file") as caught:
        read(path)
    assert "False" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        {},
        [],
        7,
        torch.zeros(3),
        {"epoch": 3},
        {"features.0.0.weight": 3},
        {"state_dict": {}, "epoch": 1},
        {1: 2},
    ],
    ids=repr,
)
def test_not_a_state_dict(tmp_path, content) -> None:
    with pytest.raises(ModelFileError, match=r"model\.pth: .*not a state dict"):
        read(save_pth(tmp_path / "model.pth", content))


def test_a_dictionary_that_holds_itself(tmp_path) -> None:
    content: dict[str, object] = {}
    content["model"] = content
    with pytest.raises(ModelFileError, match=r"model\.pth: not a state dict: 'model'"):
        read(save_pth(tmp_path / "model.pth", content))


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch: sparse is beta, quantised is old
@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.zeros(2, 2).to_sparse(),
        lambda: torch.zeros(2, 2).to_sparse_csr(),
        lambda: torch.zeros(2, device="meta"),
        lambda: torch.quantize_per_tensor(torch.zeros(2, 2), 1, 0, torch.qint8),
    ],
    ids=["sparse", "csr", "meta", "quantised"],
)
def test_arrays_that_are_not_dense(tmp_path, make) -> None:
    path = save_pth(tmp_path / "model.pth", {"features.0.0.weight": make()})
    with pytest.raises(
        ModelFileError, match=r"model\.pth: features\.0\.0\.weight is not a dense array"
    ):
        read(path)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_torchvisions_quantised_weights_are_refused_by_name(tmp_path) -> None:
    weight = torch.quantize_per_tensor(torch.zeros(32, 3, 3, 3), 0.1, 0, torch.qint8)
    content = {
        "features.0.0.weight": weight,
        "features.0.0.scale": torch.tensor(0.1),
        "features.0.0.zero_point": torch.tensor(0),
        "classifier.1._packed_params.dtype": torch.qint8,
    }
    for path in (
        save_pth(tmp_path / "q.pth", content),
        save_safetensors(tmp_path / "q.safetensors", {"quant.scale": np.zeros(1)}),
    ):
        with pytest.raises(
            ModelFileError,
            match=rf"{path.name}: quantised PyTorch weights are not read: take the float",
        ):
            read(path)


def test_safetensors_of_types_that_numpy_lacks(tmp_path) -> None:
    from safetensors.torch import save_file

    save_file(
        {"features.0.0.weight": torch.zeros(3, dtype=torch.bfloat16)}, tmp_path / "bf16.safetensors"
    )
    with pytest.raises(
        ModelFileError, match=r"bf16\.safetensors: holds arrays of a type that NumPy lacks"
    ):
        read(tmp_path / "bf16.safetensors")


def test_shapes_are_checked_before_anything_is_copied(tmp_path) -> None:
    """A small file may have an array of any shape: one repeated number."""
    arrays = torchvision(random_checkpoint(width_mult=0.35, classes=2))
    huge = np.broadcast_to(np.float16(0), (1 << 16, 1 << 30))
    with pytest.raises(ModelFileError, match=r"classifier\.1\.weight is \(65536, 1073741824\)"):
        read_state_dict(tmp_path / "model.pth", arrays | {"classifier.1.weight": huge})


def assert_same(imported: Checkpoint, expected: Checkpoint) -> None:
    assert imported.architecture == expected.architecture
    assert list(imported.arrays) == list(expected.arrays)
    for name, array in expected.arrays.items():
        np.testing.assert_array_equal(imported.arrays[name], array, err_msg=name)
