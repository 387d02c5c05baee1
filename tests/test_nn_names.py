"""The names that torchvision's and timm's users know, and `torch.jit`. tests/peers compares them with
the packages themselves.
"""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Callable
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mobilenetv2.architecture import Architecture, Stage
from mobilenetv2.checkpoint import Checkpoint
from mobilenetv2.errors import ArchitectureError, UserError
from mobilenetv2.heads import Features
from mobilenetv2.nn import MobileNetV2, mobilenet_v2

from .conftest import random_checkpoint

CHECKPOINT = random_checkpoint(width_mult=0.35, resolution=(64, 64))
X = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def net() -> MobileNetV2:
    return mobilenet_v2(weights=CHECKPOINT).eval()


def test_without_classes_the_pooled_features(net: MobileNetV2) -> None:
    pooled = net.forward_features(X).mean((2, 3))
    bare = mobilenet_v2(weights=CHECKPOINT, num_classes=0).eval()
    assert torch.equal(bare(X), pooled)
    assert bare.train()(X).shape == pooled.shape
    assert (bare.num_classes, bare.num_features, bare.head_hidden_size) == (0, 1280, 1280)
    assert isinstance(bare.get_classifier(), nn.Identity)
    unpooled = mobilenet_v2(weights=CHECKPOINT, num_classes=0, global_pool="").eval()
    assert torch.equal(unpooled(X), net.forward_features(X))


def test_a_headless_file_still_gives_its_map(net: MobileNetV2) -> None:
    headless = mobilenet_v2(weights=CHECKPOINT, num_classes=0).to_checkpoint()
    assert headless.architecture.head == Features()
    assert torch.equal(mobilenet_v2(weights=headless).eval()(X), net.forward_features(X))


def test_the_head_alone(net: MobileNetV2) -> None:
    last = net.forward_features(X)
    assert torch.equal(net.forward_head(last), net(X))
    assert torch.equal(net.forward_head(last, pre_logits=True), last.mean((2, 3)))
    assert net.get_classifier() is net.classifier[1]
    assert (net.num_classes, net.num_features, net.last_channel) == (1000, 1280, 1280)
    assert torch.equal(net.features(X), last)  # as torchvision's users call it


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_levels_as_in_timm(stride: int) -> None:
    """Checked against timm 1.0.31: the end of each stage before a stride, made dilation or not."""
    net = mobilenet_v2(output_stride=stride)
    assert net.feature_info.channels() == [16, 24, 32, 96, 320]
    assert net.feature_info.reduction() == [min(r, stride) for r in (2, 4, 8, 16, 32)]
    assert net.feature_info.module_name() == [f"features.{i}" for i in (1, 3, 6, 13, 17)]
    assert [level["stage"] for level in net.feature_info] == [1, 2, 3, 5, 7]
    assert net.feature_info.get_dicts(["num_chs"], 3) == {"num_chs": 96}


@pytest.mark.parametrize(
    ("out_indices", "taken"),
    [(None, [0, 1, 2, 3, 4]), ((1, 3), [1, 3]), ((-1, 0), [0, 4]), (2, [3, 4])],
)
def test_maps_of_levels(net: MobileNetV2, out_indices: Any, taken: list[int]) -> None:
    pyramid = net.forward_pyramid(X)
    expected = [pyramid[i] for i in taken]
    extractor = mobilenet_v2(weights=CHECKPOINT, features_only=True, out_indices=out_indices).eval()
    maps = extractor(X)
    last, intermediates = net.forward_intermediates(X, out_indices)
    early, _ = net.forward_intermediates(X, out_indices, stop_early=True)
    assert torch.equal(last, net.forward_features(X))
    assert torch.equal(early, expected[-1])
    alone = net.forward_intermediates(X, out_indices, intermediates_only=True)
    for found in (maps, intermediates, alone):
        assert len(found) == len(expected)
        assert all(map(torch.equal, found, expected))
    assert extractor.feature_info.channels() == [m.shape[1] for m in maps]
    assert extractor.feature_info.reduction() == [64 // m.shape[2] for m in maps]
    assert not any(name.startswith(("features.18", "cl")) for name in extractor.state_dict())


def test_stages_as_extra_levels(net: MobileNetV2) -> None:
    _, maps = net.forward_intermediates(X, extra_blocks=True)
    assert [m.shape[1] for m in maps] == [16, 8, 8, 16, 24, 32, 56, 112]
    assert torch.equal(maps[0], net.features[0](X))


def test_the_stem_is_a_level_where_the_first_stage_halves() -> None:
    rows = [[1, 16, 1, 2], [6, 24, 1, 2]]
    extractor = mobilenet_v2(inverted_residual_setting=rows, features_only=True).eval()
    assert extractor.feature_info.module_name() == ["features.0", "features.1", "features.2"]
    assert [tuple(m.shape[1:]) for m in extractor(X)] == [(32, 32, 48), (16, 16, 24), (24, 8, 12)]


def test_a_new_head() -> None:
    net = mobilenet_v2(weights=CHECKPOINT).eval().double()
    net.reset_classifier(7)
    assert net(X.double()).shape == (2, 7)
    assert not net.classifier.training
    assert net.to_checkpoint().architecture == CHECKPOINT.architecture.with_classes(7)
    net.reset_classifier(0)
    assert torch.equal(net(X.double()), net.forward_features(X.double()).mean((2, 3)))
    net.reset_classifier(0, "")
    assert torch.equal(net(X.double()), net.forward_features(X.double()))
    assert net.to_checkpoint().architecture.head == Features()
    with pytest.raises(ArchitectureError, match="global_pool='' gives a map"):
        net.reset_classifier(7)
    assert net.num_classes == 0  # as before
    with pytest.raises(ArchitectureError, match="classes"):
        net.reset_classifier(-1, "avg")


def linear_inside(net: MobileNetV2) -> None:
    net.classifier[1] = nn.Linear(net.last_channel, 3)


def linear_alone(net: MobileNetV2) -> None:
    net.classifier = nn.Linear(net.get_classifier().in_features, 3, bias=False)


def nothing(net: MobileNetV2) -> None:
    net.classifier = nn.Identity()


@pytest.mark.parametrize(("replace_head", "classes"), [(linear_inside, 3), (linear_alone, 3), (nothing, 0)])  # fmt: skip
def test_a_replaced_head_is_the_one_that_is_saved(
    replace_head: Callable[[MobileNetV2], None], classes: int
) -> None:
    net = mobilenet_v2(weights=CHECKPOINT).eval()
    replace_head(net)
    again = mobilenet_v2(weights=net.to_checkpoint(), global_pool="avg").eval()
    assert again.num_classes == classes
    assert torch.equal(again(X), net(X))


def test_a_head_that_a_checkpoint_cannot_hold_is_named() -> None:
    net = mobilenet_v2(weights=CHECKPOINT)
    net.classifier = nn.Sequential(nn.Linear(1280, 8), nn.ReLU(), nn.Linear(8, 2))
    with pytest.raises(UserError, match=r"one nn.Linear\(1280, classes\).*in_features=8"):
        net.to_checkpoint()


class MobileNet_V2_Weights(Enum):  # noqa: N801 - torchvision's
    IMAGENET1K_V1 = 1
    IMAGENET1K_V2 = 2


class ResNet18_Weights(Enum):  # noqa: N801
    IMAGENET1K_V1 = 1


@pytest.mark.parametrize(
    ("options", "version"),
    [
        ({"pretrained": True}, 1),
        ({"weights": "IMAGENET1K_V1", "progress": False}, 1),
        ({"weights": "MobileNet_V2_Weights.IMAGENET1K_V1"}, 1),
        ({"weights": MobileNet_V2_Weights.IMAGENET1K_V1, "width_mult": 1}, 1),
        ({"weights": "DEFAULT"}, 2),
        ({"weights": MobileNet_V2_Weights.IMAGENET1K_V2}, 2),
        ({"weights": "IMAGENET1K_V2", "round_nearest": 8, "norm_layer": nn.BatchNorm2d}, 2),
    ],
)
def test_torchvisions_weights(
    options: dict[str, Any], version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOBILENETV2_CACHE", str(tmp_path))
    checkpoint = random_checkpoint(classes=4, seed=version)
    checkpoint.save(tmp_path / f"torchvision-v{version}.safetensors")  # as if fetched before
    net = mobilenet_v2(**options)
    assert np.array_equal(net.classifier[1].weight, checkpoint.arrays["classifier.1.weight"])


def test_channels_as_in_timm() -> None:
    """timm repeats the kernel and scales it, so that the sum over equal channels stays."""
    kernel = CHECKPOINT.arrays["features.0.0.weight"]
    net = mobilenet_v2(weights=CHECKPOINT, in_chans=4)
    expected = np.concatenate([kernel, kernel[:, :1]], axis=1) * 3 / 4
    assert np.allclose(net.features[0][0].weight, expected, rtol=1e-6)
    assert net.eval()(torch.zeros(1, 4, 32, 32)).shape == (1, 1000)


def test_torchvisions_rows() -> None:
    rows = [[1, 16, 1, 1], [2, 40, 2, 2]]
    net = mobilenet_v2(inverted_residual_setting=rows, round_nearest=4, width_mult=0.45)
    shapes = {name: tuple(p.shape) for name, p in net.named_parameters() if p.ndim == 4}
    assert shapes["features.0.0.weight"] == (16, 3, 3, 3)  # 14.4: 16, for 12 is below nine tenths
    assert shapes["features.1.conv.1.weight"] == (8, 16, 1, 1)  # 7.2
    assert shapes["features.2.conv.0.0.weight"] == (16, 8, 1, 1)
    assert shapes["features.3.conv.2.weight"] == (20, 40, 1, 1)  # 18: 20
    assert shapes["features.4.0.weight"] == (1280, 20, 1, 1)


def test_the_layer_of_norms_gives_epsilon_and_momentum() -> None:
    net = mobilenet_v2(width_mult=0.35, norm_layer=partial(nn.BatchNorm2d, eps=0.01, momentum=0.2))
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {norm.eps for norm in norms} == {0.01}
    assert [norm.momentum for norm in norms] == pytest.approx([0.2] * 52)
    assert net.architecture.bn_epsilon == 0.01


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "DEFAULT", "width_mult": 0.5}, "of width 1 alone, not 0.5: weights='imagenet"),
        ({"weights": ResNet18_Weights.IMAGENET1K_V1}, "ResNet18.* are not weights of MobileNetV2"),
        ({"pretrained": True, "weights": "cifar10"}, "give either weights or pretrained"),
        ({"dropout": 0.1, "drop_rate": 0.2}, "give either dropout or drop_rate"),
        ({"global_pool": "max"}, "global_pool must be 'avg' or '' .*not 'max'"),
        ({"global_pool": ""}, "num_classes=0"),
        ({"features_only": True, "num_classes": 5}, "features_only=True has no head"),
        ({"features_only": True, "out_indices": (5,)}, r"levels are from 0 to 4, not \(5,\)"),
        ({"out_indices": (1,)}, "goes with features_only=True"),
        ({"num_classes": -1}, "classes"),
        ({"norm_layer": partial(nn.GroupNorm, 4)}, "must make an nn.BatchNorm2d .*GroupNorm"),
        ({"norm_layer": partial(nn.BatchNorm2d, affine=False)}, "must make an nn.BatchNorm2d"),
        ({"weights": CHECKPOINT, "norm_layer": partial(nn.BatchNorm2d, eps=1e-3)}, "norm_layer=0.001, but weights of epsilon 1e-05"),
        ({"weights": CHECKPOINT, "round_nearest": 4}, "round_nearest=4, but weights of divisor 8"),
        ({"weights": CHECKPOINT, "inverted_residual_setting": [[1, 16, 1, 1]]}, "other rows"),
        ({"inverted_residual_setting": [[1, 16, 1]]}, "rows of 4 numbers"),
        ({"inverted_residual_setting": [[1, 16, 1, 2]] * 6}, "stride of 128 in all"),
        ({"round_nearest": 1, "width_mult": 0.34}, "block 2 expands .* multiples of 8 here"),
        ({"weights": random_checkpoint(in_channels=1, width_mult=0.35), "in_chans": 2}, "weights for 1 channels do not fit in_chans=2"),
    ],
)  # fmt: skip
def test_what_cannot_have_its_meaning_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        mobilenet_v2(**options)


def scripted(net: nn.Module) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return saved(torch.jit.script(net), torch.jit.save, torch.jit.load)


def traced(net: nn.Module) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return saved(torch.jit.trace(net, X), torch.jit.save, torch.jit.load)


def saved(
    net: Any, save: Callable[..., Any] = torch.save, load: Callable[..., Any] | None = None
) -> Any:
    content = io.BytesIO()
    save(net, content)
    content.seek(0)
    return (load or partial(torch.load, weights_only=False))(content)


COPIES: dict[str, Callable[[nn.Module], Any]] = {
    "script": scripted,
    "trace": traced,
    "deepcopy": copy.deepcopy,
    "pickle": lambda net: pickle.loads(pickle.dumps(net)),
    "save": saved,
}
STAGES = (Stage(1, 16, 1, 1), Stage(3, 24, 3, 2))


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize(
    ("padding", "shortcut"),
    [("symmetric", "bottleneck"), ("same", "bottleneck"), ("same", "expansion")],
)
def test_copies_of_every_kind_give_the_same_values(way: str, padding: str, shortcut: str) -> None:
    description = Architecture(stages=STAGES, last_channels=64, padding=padding, shortcut=shortcut)  # type: ignore[arg-type]
    net = mobilenet_v2(weights=random_checkpoint(description)).eval()
    other = COPIES[way](net)
    for x in (X, X[:1, :, :33, :47]):  # another size than was traced
        assert torch.equal(other(x), net(x))
    if way == "trace":  # PyTorch warns of lists, as it does with timm's
        return
    extractor = mobilenet_v2(weights=random_checkpoint(description), features_only=True).eval()
    maps: list[Tensor] = COPIES[way](extractor)(X)
    assert all(map(torch.equal, maps, extractor(X)))


def test_a_checkpoint_of_an_extractor() -> None:
    extractor = mobilenet_v2(weights=CHECKPOINT, features_only=True).eval()
    checkpoint: Checkpoint = extractor.to_checkpoint()
    assert torch.equal(mobilenet_v2(weights=checkpoint).eval()(X), extractor(X)[-1])
