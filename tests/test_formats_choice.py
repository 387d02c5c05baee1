"""PyTorch files with several sets of weights: which is read, and that what is left out is said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mobilenetv2.checkpoint import Checkpoint, background_note
from mobilenetv2.cli import run
from mobilenetv2.errors import ModelFileError
from mobilenetv2.formats import open_checkpoint, read
from mobilenetv2.loading import load

from .conftest import random_checkpoint
from .int8 import Int8TFLiteWriter, random_int8
from .writers import (
    LAYOUTS,
    TFLiteWriter,
    difference,
    prefixed,
    save_pth,
    save_safetensors,
    tensors,
    timm,
    torchvision,
)


def small(seed: int = 0, **changes: object) -> Checkpoint:
    return random_checkpoint(
        seed=seed, **{"width_mult": 0.1, "last_channels": 64, "classes": 3, **changes}
    )


RAW, AVERAGE = small(1), small(2)
r, a = tensors(torchvision(RAW)), tensors(torchvision(AVERAGE))


def with_prefix(prefix: str, arrays: dict[str, Any]) -> dict[str, Any]:
    return {prefix + name: array for name, array in arrays.items()}


COUNT = {"n_averaged": torch.tensor(5)}
AVERAGED: dict[str, Any] = {
    "timm": {"state_dict": r, "state_dict_ema": a, "epoch": 3},
    "torchvision": {"model": r, "model_ema": COUNT | with_prefix("module.", a)},
    "ema": {"model": r, "ema": a, "updates": 7},
    "ema of a wrapper": {"model": r, "ema": {"module": a, "updates": 7}},
    "MMEngine": {"state_dict": r, "ema_state_dict": {"steps": torch.tensor(3)} | with_prefix("module.", a)},
    "averages first": {"ema_model_state_dict": a, "model_state_dict": r},
    "SWA": {"state_dict": r, "swa_state_dict": a},
    "shadow": {"model": r, "ema": {"decay": 0.999, "shadow": a}},
    "Lightning module": {"state_dict": with_prefix("model.", r) | with_prefix("ema_model.module.", a)},
    "Lightning averaging": {
        "state_dict": with_prefix("net.", a),
        "current_model_state": with_prefix("net.", r),
        "averaging_state": COUNT,
    },
    "Lightning SWA": {
        "state_dict": with_prefix("net.", r),
        "callbacks": {"StochasticWeightAveraging": {"average_model_state": with_prefix("net.", a)}},
    },
    "beside": r | with_prefix("ema.", a),
}  # fmt: skip


@pytest.mark.parametrize("name", AVERAGED)
def test_averages_are_read_and_the_raw_weights_on_request(tmp_path, name) -> None:
    path = save_pth(tmp_path / "model.pth", AVERAGED[name])
    for weights_of, expected in ((None, AVERAGE), ("ema", AVERAGE), ("raw", RAW)):
        checkpoint = read(path, weights_of=weights_of)
        for array, values in expected.arrays.items():
            np.testing.assert_array_equal(checkpoint.arrays[array], values, err_msg=array)
        first = checkpoint.notes[0]
        assert "the averages" in first
        assert ("are read, not the averages" in first) == (weights_of == "raw")
        assert ("weights" in checkpoint.provenance) == (weights_of != "raw")


def test_the_command_says_which_weights_it_took(tmp_path, capsys) -> None:
    path = save_pth(tmp_path / "model.pth", AVERAGED["timm"])
    for choice, expected, words in (
        (
            [],
            AVERAGE,
            "note: the averages state_dict_ema are read, not the raw weights state_dict ",
        ),
        (["--weights-of", "raw"], RAW, "note: the raw weights state_dict are read, not the "),
        (["--weights-of", "state_dict_ema"], AVERAGE, "note: the averages state_dict_ema"),
    ):
        out = tmp_path / "out.safetensors"
        assert run(["convert", str(path), str(out), *choice]) == 0
        assert words in capsys.readouterr().err
        assert difference(Checkpoint.load(out), expected) == 0
    assert run(["convert", str(path), str(out), "--weights-of", "nobody"]) == 2
    assert (
        "holds no weights of 'nobody'; it holds state_dict, state_dict_ema"
        in capsys.readouterr().err
    )


def test_load_takes_the_choice_too(tmp_path) -> None:
    path = save_pth(tmp_path / "model.pth", AVERAGED["timm"])
    for source in (path, path.read_bytes()):
        for weights_of, expected in ((None, AVERAGE), ("raw", RAW)):
            assert difference(load(source, weights_of=weights_of).checkpoint, expected) == 0


@pytest.mark.parametrize("weights_of", ["ema", "state_dict"])
def test_files_without_such_weights(tmp_path, weights_of) -> None:
    plain = save_pth(tmp_path / "plain.pth", r)
    tflite = TFLiteWriter(small(padding="same", bn_epsilon=1e-3)).save(tmp_path / "x.tflite")
    RAW.save(tmp_path / "ours.safetensors")
    for path in (plain, tflite, tmp_path / "ours.safetensors"):
        with pytest.raises(ModelFileError, match=rf"{path.name}: holds .*'{weights_of}'"):
            open_checkpoint(path, weights_of=weights_of)
        assert difference(open_checkpoint(path, weights_of="raw"), read(path)) == 0


def test_several_networks_are_refused_by_name(tmp_path) -> None:
    path = save_pth(tmp_path / "model.pth", with_prefix("student.", r) | with_prefix("teacher.", a))
    with pytest.raises(ModelFileError, match="holds several networks: student, teacher; choose"):
        read(path)
    assert difference(read(path, weights_of="teacher"), AVERAGE) == 0


BESIDE = {"criterion.weight": torch.zeros(3), "metric.matrix": torch.zeros(2, 2)}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("save", [save_pth, save_safetensors])
def test_what_stands_beside_a_network_is_left_out_and_said(tmp_path, layout, save) -> None:
    """As Lightning saves a module that has the network, its loss and its metrics."""
    rules = {"padding": "same", "bn_epsilon": 1e-3} if layout.startswith("hugging") else {}
    checkpoint = small(**rules)
    arrays = prefixed(LAYOUTS[layout](checkpoint), "net.")
    beside = {name: tensor.numpy() for name, tensor in BESIDE.items()}
    content = arrays | beside
    if save is save_pth:
        content = {"state_dict": tensors(content), "epoch": 3}
    imported = read(save(tmp_path / "model", content))
    assert difference(checkpoint, imported) == 0
    assert re_search("left out, beside .*net.*: criterion.weight, metric.matrix", imported.notes)
    assert imported.provenance["left_out"] == ["criterion.weight", "metric.matrix"]


def re_search(pattern: str, notes: tuple[str, ...]) -> bool:
    import re

    return any(re.search(pattern, note) for note in notes)


def test_the_count_of_an_average_is_no_array(tmp_path) -> None:
    path = save_pth(tmp_path / "model.pth", COUNT | with_prefix("module.", a))
    imported = read(path)
    assert difference(AVERAGE, imported) == 0
    assert "left_out" not in imported.provenance
    assert re_search("the averages module are read$", imported.notes)


# --- what a file does not say ---


@pytest.mark.parametrize(
    ("name", "side", "words"),
    [
        ("mobilenet_v2-7ebf99e0.pth", 232, "recognised as torchvision-v2: short side 232"),
        ("copy of mobilenet_v2-7ebf99e0 (1).pth", 232, "recognised as torchvision-v2"),
        ("mobilenet_v2-b0353104.pth", 256, "recognised as torchvision-v1: short side 256"),
        ("model.pth", 256, "assumed, as usual for torchvision: short side 256.*7ebf99e0"),
    ],
)
def test_torchvisions_two_sets_of_weights(tmp_path, name, side, words) -> None:
    imported = read(save_pth(tmp_path / name, r))
    assert round(224 / imported.preprocessing.crop_fraction) == side
    assert re_search(words, imported.notes)


def test_a_renamed_file_is_recognised_by_its_checksum(tmp_path, monkeypatch) -> None:
    from hashlib import sha256

    path = save_pth(tmp_path / "model.pth", r)
    digits = sha256(path.read_bytes()).hexdigest()[:8]
    monkeypatch.setattr(
        "mobilenetv2.zoo.TORCHVISION",
        (("torchvision-v2", f"mobilenet_v2-{digits}.pth", 1, 2, 232),),
    )
    assert re_search("recognised as torchvision-v2: short side 232", read(path).notes)


SAME = {"padding": "same", "bn_epsilon": 1e-3}
SOURCES: dict[str, Callable[[Path], object]] = {
    "timm.pth": lambda path: save_pth(path, tensors(timm(RAW))),
    "hf.safetensors": lambda path: save_safetensors(path, LAYOUTS["hugging_face"](small(**SAME))),
    "float.tflite": lambda path: TFLiteWriter(small(**SAME)).save(path),
}


@pytest.mark.parametrize("name", SOURCES)
def test_an_assumed_preprocessing_is_said(tmp_path, name, capsys) -> None:
    SOURCES[name](tmp_path / name)
    assert run(["convert", str(tmp_path / name), str(tmp_path / "out.safetensors")]) == 0
    assert "note: the file does not say how images are prepared; assumed" in capsys.readouterr().err
    assert run(["inspect", str(tmp_path / name)]) == 0
    assert "note 1" in capsys.readouterr().out


def test_the_background_is_said(tmp_path, capsys) -> None:
    floats = small(classes=1001, **SAME)
    TFLiteWriter(floats).save(tmp_path / "float.tflite")
    Int8TFLiteWriter(random_int8("twice", width_mult=0.1, last_channels=64, classes=1001)).save(
        tmp_path / "int8.tflite"
    )
    for name in ("float.tflite", "int8.tflite"):
        out = tmp_path / "out.safetensors"
        assert run(["convert", str(tmp_path / name), str(out)]) == 0
        assert "note: class 0 is the background" in capsys.readouterr().err
        assert run(["inspect", str(out)]) == 0
        assert "class 0 is the background" in capsys.readouterr().out
        note = background_note(read(out))
        assert note is not None
        assert "--drop-background" in note
        assert "1000 classes" in note
        assert run(["convert", str(tmp_path / name), str(out), "--drop-background"]) == 0
        assert "note: class 0" not in capsys.readouterr().err
        assert background_note(read(out)) is None


# --- one output ---


@pytest.mark.parametrize("kind", ["pth", "safetensors", "tflite", "int8.tflite"])
def test_one_output_is_refused(tmp_path, kind) -> None:
    """Its softmax would be 1 for every image."""
    path, one = tmp_path / f"model.{kind}", small(classes=1, **SAME)
    if kind == "pth":
        save_pth(path, tensors(torchvision(one)))
    elif kind == "safetensors":
        save_safetensors(path, timm(one))
    elif kind == "tflite":
        TFLiteWriter(one).save(path)
    else:
        model = random_int8("twice", width_mult=0.1, last_channels=64, classes=1)
        Int8TFLiteWriter(model).save(path)
    with pytest.raises(ModelFileError, match=r"model\..*: it has one output"):
        read(path)


def test_commands_say_which_weights_were_read(tmp_path, capsys) -> None:
    """`classify` reads the file as `convert` does, and says the same."""
    path = tmp_path / "model.pth"
    torch.save({"state_dict": tensors(RAW.arrays), "state_dict_ema": tensors(AVERAGE.arrays)}, path)
    assert run(["convert", str(path), str(tmp_path / "ours.safetensors")]) == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert any("average" in note for note in notes)
    for command in (["classify", "examples/cat.jpg"], ["benchmark", "--runs", "1"]):
        assert run([*command, "--model", str(path)]) == 0
        err = capsys.readouterr().err.splitlines()
        assert [line for line in err if line.startswith("note: ")] == notes
