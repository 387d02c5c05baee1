"""`to_checkpoint`: what a checkpoint cannot hold is refused before a file is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from torch import nn

import mobilenetv2 as mnv2
from mobilenetv2.checkpoint import Checkpoint
from mobilenetv2.errors import ModelFileError, UserError
from mobilenetv2.nn import MobileNetV2, mobilenet_v2
from mobilenetv2.nn.fused import fuse


def small_net(**options: object) -> MobileNetV2:
    return mobilenet_v2(width_mult=0.35, num_classes=2, **options)


def replaced(kind: type[nn.Module], new: Callable[[nn.Module], nn.Module]) -> Callable[..., None]:
    """A change of the first module of a kind."""

    def change(net: nn.Module) -> None:
        parent, name, old = next(
            (parent, name, module)
            for parent in net.modules()
            for name, module in parent.named_children()
            if isinstance(module, kind)
        )
        setattr(parent, name, new(old))

    return change


def with_value(path: str, name: str, value: object) -> Callable[[nn.Module], None]:
    return lambda net: setattr(net.get_submodule(path), name, value)


CHANGES = {
    "eps": (with_value("features.0.1", "eps", 0.1), r"features\.0\.1 has eps 0\.1, not 1e-05$"),
    "SiLU": (
        replaced(nn.ReLU6, lambda _: nn.SiLU()),
        r"features\.0\.2 is a SiLU, not a ReLU6$",
    ),
    "Identity for ReLU6": (
        replaced(nn.ReLU6, lambda _: nn.Identity()),
        r"features\.0\.2 is a Identity, not a ReLU6$",
    ),
    "stride": (
        with_value("features.1.conv.0.0", "stride", (2, 2)),
        r"features\.1\.conv\.0\.0 has stride \(2, 2\), not \(1, 1\)$",
    ),
    "residual": (with_value("features.2", "adds_input", True), r"features\.2 has adds_input True$"),
    "block": (
        with_value("features", "3", nn.Identity()),
        r"features\.3 is a Identity, not an inverted residual$",
    ),
    "subtree": (
        with_value("features.3", "conv", nn.Identity()),
        r": features\.3\.conv\.0 is missing",
    ),
    "GroupNorm": (
        replaced(nn.BatchNorm2d, lambda old: nn.GroupNorm(1, old.num_features)),
        r"features\.0\.1 is a GroupNorm, not a batch norm with running statistics$",
    ),
    "more": (
        lambda net: net.features.add_module("19", nn.Sequential(nn.ReLU())),
        r": features\.19 is a Sequential that the architecture lacks$",
    ),
    "head": (
        with_value("classifier", "0", nn.ReLU()),
        r"a checkpoint holds no ReLU\(\) before the classifier's last layer$",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_checkpoint_of_a_changed_network_is_refused(change: str) -> None:
    net = small_net()
    run, message = CHANGES[change]
    run(net)
    with pytest.raises(UserError, match=message):
        net.to_checkpoint()


@pytest.mark.parametrize("change", [nn.SyncBatchNorm.convert_sync_batchnorm, fuse, nn.Module.half])
def test_a_network_that_computes_the_same_is_still_a_checkpoint(change) -> None:
    net = small_net()
    expected = net.to_checkpoint()
    taken = (change(net) or net).to_checkpoint()
    assert taken.architecture == expected.architecture
    for name, array in expected.arrays.items():
        assert np.allclose(taken.arrays[name], array, atol=1e-3), name


@pytest.mark.parametrize("labels", [None, (), []])
def test_no_labels_may_be_written_in_any_way(labels: object) -> None:
    assert small_net().to_checkpoint(labels=labels).labels == ()


@pytest.mark.parametrize("labels", [["a", "b"], np.array(["a", "b"]), ("a", "b")])
def test_labels_may_be_any_sequence_of_texts(labels: object, tmp_path) -> None:
    small_net().to_checkpoint(labels=labels).save(tmp_path / "m.safetensors")
    assert Checkpoint.load(tmp_path / "m.safetensors").labels == ("a", "b")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": "ab"}, "^labels must be a tuple of texts, not 'ab'$"),
        ({"labels": {"a", "b"}}, "^labels must be a tuple of texts, not {"),
        ({"labels": range(2)}, r"^labels must be a tuple of texts, not \(0, 1\)$"),
        ({"labels": np.arange(2)}, r"^labels must be a tuple of texts, not \(0, 1\)$"),
        ({"labels": 2}, "^labels must be a tuple of texts, not 2$"),
        ({"provenance": "x"}, "^provenance must be a dict, not 'x'$"),
        ({"provenance": []}, r"^provenance must be a dict, not \[\]$"),
        ({"preprocessing": "x"}, "^preprocessing must be a Preprocessing, not 'x'$"),
    ],
)
def test_what_a_file_could_not_hold_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        small_net().to_checkpoint(**arguments)


@pytest.mark.parametrize(
    "values",
    [
        {"labels": None},
        {"labels": "ab"},
        {"labels": (1, 2)},
        {"provenance": None},
        {"provenance": {"a": object()}},
    ],
)
def test_a_good_file_is_not_overwritten_by_one_that_cannot_be_read(
    values: dict[str, Any], tmp_path
) -> None:
    checkpoint = small_net().to_checkpoint(labels=("a", "b"))
    checkpoint.save(tmp_path / "m.safetensors")
    before = (tmp_path / "m.safetensors").read_bytes()
    with pytest.raises(ModelFileError, match=next(iter(values))):
        replace(checkpoint, **values).save(tmp_path / "m.safetensors")
    assert (tmp_path / "m.safetensors").read_bytes() == before


@pytest.mark.parametrize("name", ["cifar10", "cifar10-int8"])
def test_models_are_compared_by_identity_and_shown_in_short(name: str) -> None:
    model = mnv2.load(name)
    again = mnv2.load(name).checkpoint
    assert model.checkpoint == model.checkpoint
    assert model.checkpoint != again
    assert len({model.checkpoint, again, again}) == 2
    assert "Architecture(width_mult=1.0" in repr(again)
    assert len(repr(again)) < 2000
    kind = "Int8Checkpoint" if name.endswith("int8") else "Checkpoint"
    assert repr(model) == (f"Model({kind} of width 1, head Classifier(classes=10), pixels 32 x 32)")
