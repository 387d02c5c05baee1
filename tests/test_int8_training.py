"""Training with the rounding of int8: the module answers as the engine, and what it trained is written."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from mobilenetv2 import Int8Checkpoint, UserError, load
from mobilenetv2.architecture import Architecture
from mobilenetv2.checkpoint import Checkpoint
from mobilenetv2.cli import main
from mobilenetv2.heads import SSD, Classifier, DeepLab, Features, Head, SSDLite
from mobilenetv2.nn import DetectionNetwork, MobileNetV2, SegmentationNetwork, mobilenet_v2
from mobilenetv2.nn.fused import fuse
from mobilenetv2.nn.int8 import round_as_int8
from mobilenetv2.runtime import Engine
from mobilenetv2.runtime.quantize import to_int8
from mobilenetv2.training import RECIPES, Start, fit
from mobilenetv2.training.run_folder import RunFolder

from .conftest import random_checkpoint
from .test_fit import MACHINE, make_images, same_state

NARROW = Architecture(width_mult=0.2, resolution=(64, 48), last_channels=48)
EXTRA = {"classes": 3, "extra_channels": (16, 16, 8, 8)}
KINDS: dict[str, tuple[Head, Any, dict[str, Any]]] = {
    "classifier": (Classifier(5), MobileNetV2, {"padding": "same"}),
    "ssd": (SSD(**EXTRA), DetectionNetwork, {}),
    "ssdlite": (SSDLite(**EXTRA), DetectionNetwork, {"padding": "same"}),
    "deeplab": (DeepLab(4), SegmentationNetwork, {"output_stride": 16}),
}
FINETUNE = RECIPES["finetune"].for_int8().changed({"epochs": 2, "batch": 8, "lr": 0.01})


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def rounded_network(kind: str, pixels: np.ndarray, per_layer: bool = False) -> Any:
    """A random network of that kind after `round_as_int8`, and what it was calibrated as."""
    head, module, options = KINDS[kind]
    checkpoint = random_checkpoint(replace(NARROW, head=head, **options))
    net = module(checkpoint.architecture)
    net.load_checkpoint(checkpoint)
    calibrated = to_int8(checkpoint, pixels, per_layer=per_layer)
    round_as_int8(net, calibrated)
    net.int8.start(net)
    return net.eval(), calibrated


def answers(net: Any, checkpoint: Int8Checkpoint, pixels: np.ndarray) -> list[np.ndarray]:
    """The outputs of the module in the order and layout of the engine's."""
    scale, offset = checkpoint.preprocessing.scale_offset()
    x = torch.from_numpy((pixels * scale + offset).astype(np.float32)).permute(0, 3, 1, 2)
    with torch.no_grad():
        outputs = net.outputs(x).values() if hasattr(net, "outputs") else [net(x)]
    return [y.numpy() if y.ndim == 2 else y.permute(0, 2, 3, 1).numpy() for y in outputs]


def engine_answers(checkpoint: Int8Checkpoint, pixels: np.ndarray) -> list[np.ndarray]:
    outputs = Engine(checkpoint)(pixels)
    return list(outputs.values()) if isinstance(outputs, dict) else [outputs]


def check_same(net: Any, checkpoint: Int8Checkpoint, pixels: np.ndarray) -> None:
    """A resize of logits is computed in another order; all else is the same to the last bit."""
    for mine, theirs in zip(
        answers(net, checkpoint, pixels), engine_answers(checkpoint, pixels), strict=True
    ):
        bound = 1e-6 * float(np.abs(theirs).max()) if isinstance(net, SegmentationNetwork) else 0.0
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=bound)


@pytest.mark.parametrize("per_layer", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_module_answers_as_the_engine(kind: str, per_layer: bool, pixels: Any) -> None:
    images = pixels(3, 64, 48, 3)
    net, calibrated = rounded_network(kind, images, per_layer)
    check_same(net, calibrated, images)
    written = net.to_checkpoint(labels=calibrated.labels, preprocessing=calibrated.preprocessing)
    for name, layer in calibrated.layers.items():
        assert np.array_equal(layer.weight, written.layers[name].weight), name
        assert np.array_equal(layer.scale, written.layers[name].scale), name
        assert np.array_equal(layer.bias, written.layers[name].bias), name


@pytest.mark.parametrize("kind", KINDS)
def test_after_steps_and_a_copy_it_still_does(kind: str, pixels: Any) -> None:
    images = pixels(2, 64, 48, 3)
    net, calibrated = rounded_network(kind, images)
    fuse(net)
    net.train().to(memory_format=torch.channels_last)
    before = [x.clone() for x in net.parameters()]
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    x = torch.rand(2, 3, 64, 48) * 2 - 1
    for _ in range(2):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            y = net(x)
        sum(each.square().mean() for each in (y if isinstance(y, tuple) else (y,))).backward()
        optimizer.step()
    names = [name for name, _ in net.named_parameters()]
    same = [n for n, old, new in zip(names, before, net.parameters()) if torch.equal(old, new)]
    # of a random network, some maps of a head are 0 everywhere
    assert len(same) < len(names) / 10
    copied = copy.deepcopy(net).eval()
    written = copied.to_checkpoint(preprocessing=calibrated.preprocessing)
    check_same(copied, written, images)
    changed = [
        n for n, x in written.layers.items() if (x.weight != calibrated.layers[n].weight).any()
    ]
    assert changed


def test_rounding_passes_gradients_but_not_beyond_the_limits() -> None:
    from mobilenetv2.nn.int8 import _RoundWithin

    x = torch.tensor([-3.0, -0.4, 0.5, 1.5, 9.0], requires_grad=True)
    y = _RoundWithin.apply(x, -2, 6)
    assert y.tolist() == [-2, 0, 0, 2, 6]
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 1, 0]


def test_one_scale_per_layer(pixels: Any) -> None:
    checkpoint = random_checkpoint(replace(NARROW, head=Classifier(5)))
    images = pixels(2, 64, 48, 3)
    for name, layer in to_int8(checkpoint, images, per_layer=True).layers.items():
        assert np.ptp(layer.scale) == 0, name
        assert np.abs(layer.weight).max() == 127, name


def test_networks_that_cannot_be_rounded(pixels: Any) -> None:
    images = pixels(2, 64, 48, 3)
    net, calibrated = rounded_network("classifier", images)
    with pytest.raises(UserError, match="no network to round as int8: Int8Classifier"):
        round_as_int8(net, calibrated)
    other = MobileNetV2(replace(NARROW, head=Features()))
    with pytest.raises(UserError, match="not what `quantize` made of this network"):
        round_as_int8(other, calibrated)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Images, and a float32 model of their classes."""
    folder = tmp_path_factory.mktemp("int8")
    torch.set_num_threads(1)
    data = make_images(folder / "data", {"dark": 20, "light": 20})
    start = Start(width=0.35, resolution=(16, 16), small_images=True)
    recipe = RECIPES["modern"].changed(
        {"epochs": 2, "batch": 8, "lr": 0.05, "augmentation.crop": "pad"}
    )
    fit(data, folder / "float", recipe, start, machine=MACHINE)
    return data, folder / "float" / "model.safetensors"


@pytest.mark.parametrize("int8", ["channel", "layer"])
def test_a_run_writes_what_it_trained(
    trained: tuple[Path, Path], tmp_path: Path, int8: str
) -> None:
    data, weights = trained
    recipe = FINETUNE.changed({"int8": int8, "epochs": 1})
    run = fit(data, tmp_path / "run", recipe, Start(weights=str(weights)), machine=MACHINE)
    written = load(run.file).checkpoint
    calibrated = Int8Checkpoint.load(tmp_path / "run" / "calibrated.safetensors")
    assert isinstance(written, Int8Checkpoint)
    assert written.labels == calibrated.labels == ("dark", "light")
    assert written.activations == calibrated.activations
    assert all((np.ptp(x.scale) == 0) == (int8 == "layer") for x in written.layers.values())
    state = RunFolder(tmp_path / "run").read_state()
    assert state is not None
    net: Any = mobilenet_v2(weights=Checkpoint.load(weights))
    round_as_int8(net, calibrated)
    average = {name[7:]: x for name, x in state["average"].items() if name.startswith("module.")}
    net.load_state_dict(average)
    again = net.to_checkpoint(labels=written.labels, preprocessing=written.preprocessing)
    for name, layer in again.layers.items():
        assert np.array_equal(layer.weight, written.layers[name].weight), name


def test_resumed_it_is_as_never_stopped(
    trained: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, weights = trained
    start = Start(weights=str(weights))
    fit(data, tmp_path / "whole", FINETUNE, start, machine=MACHINE)
    from mobilenetv2.training import epochs

    def stopped(context: Any, progress: Any) -> None:
        saved(context, progress)
        raise KeyboardInterrupt

    saved = epochs.save
    with monkeypatch.context() as patch:
        patch.setattr(epochs, "save", stopped)
        with pytest.raises(KeyboardInterrupt):
            fit(data, tmp_path / "run", FINETUNE, start, machine=MACHINE)
    fit(data, tmp_path / "run", resume=True, machine=MACHINE)
    mine, theirs = (RunFolder(tmp_path / name).read_state() for name in ("run", "whole"))
    assert mine is not None
    assert mine["progress"]["epoch"] == 2
    assert same_state(mine, theirs)


def test_what_int8_needs(trained: tuple[Path, Path], tmp_path: Path) -> None:
    data, weights = trained
    with pytest.raises(UserError, match="int8 goes on from a trained model: give it"):
        fit(data, tmp_path / "a", FINETUNE, machine=MACHINE)
    others = make_images(tmp_path / "others", {"low": 8, "high": 8})
    with pytest.raises(UserError, match="classifier.1.bias.* would be new: train in float32 first"):
        fit(others, tmp_path / "b", FINETUNE, Start(weights=str(weights)), machine=MACHINE)
    with pytest.raises(UserError, match="freeze_norms=true"):
        FINETUNE.changed({"freeze_norms": False})
    done = CliRunner().invoke(main, ["train", str(data), "-o", str(tmp_path / "c"), "--int8"])
    assert done.exit_code == 2
    assert "--int8 goes on from a trained model" in done.stderr


def test_the_option_changes_the_default_recipe() -> None:
    for name in ("finetune", "ssdlite-finetune", "deeplab-finetune"):
        before, recipe = RECIPES[name], RECIPES[name].for_int8()
        assert (recipe.name, recipe.int8) == (f"{name}-int8", "channel")
        assert (recipe.lr, recipe.freeze_norms) == (before.lr / 3, True)
        assert (recipe.head_first, recipe.head_epochs) == (False, 0)
