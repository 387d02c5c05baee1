"""One training step: the moving averages while they warm up, and the loss with label smoothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.fabric import Fabric
from torch import nn

from mobilenetv2.architecture import Architecture, Stage
from mobilenetv2.heads import Classifier
from mobilenetv2.images import Preprocessing
from mobilenetv2.nn import MobileNetV2
from mobilenetv2.training import RECIPES, Recipe, Start
from mobilenetv2.training.run_folder import Settings
from mobilenetv2.training.trainer import Trainer, warmed_up

NETWORK = Architecture(
    stages=(Stage(1, 8, 1, 1), Stage(2, 8, 1, 2)),
    stem_channels=8,
    last_channels=16,
    head=Classifier(4),
    resolution=(16, 16),
)
RECIPE = RECIPES["modern"].changed({"drop_rate": 0.0})


def make_trainer(start: Start | None = None, **changes: Any) -> Trainer:
    return trainer_of(NETWORK, RECIPE.changed(changes), Preprocessing(size=(16, 16)), start)


def trainer_of(
    network: Architecture, recipe: Recipe, preprocessing: Preprocessing, start: Start | None = None
) -> Trainer:
    """A trainer of a new classifier of four classes."""
    torch.manual_seed(0)
    settings = Settings(
        version="",
        data="",
        val=None,
        start=start or Start(),
        recipe=recipe,
        precision="32",
        classes=("a", "b", "c", "d"),
        images={},
        architecture=network,
        preprocessing=preprocessing,
        weights={},
    )
    net = MobileNetV2(network, drop_rate=0.0, bn_decay=recipe.bn_decay)
    return Trainer(Fabric(accelerator="cpu", devices=1), net, settings)


def make_batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8, generator=generator)
    return pixels, torch.arange(8) % 4


@pytest.mark.parametrize(
    ("decay", "step", "kept"),
    [
        (0.999, 0, 1 / 10),
        (0.999, 1, 2 / 11),
        (0.999, 10, 11 / 20),
        (0.999, 8989, 8990 / 8999),
        (0.999, 8991, 0.999),
        (0.9, 79, 80 / 89),
        (0.9, 81, 0.9),
        (0.0, 5, 0.0),
    ],
)
def test_an_average_warms_up(decay: float, step: int, kept: float) -> None:
    """(1 + n) / (10 + n), as in TensorFlow's ExponentialMovingAverage, until that is `decay`."""
    assert warmed_up(decay, step) == pytest.approx(kept, abs=1e-12)


def test_the_average_of_the_weights_warms_up() -> None:
    trainer = make_trainer(ema_decay=0.999)
    expected = None
    for step in range(4):
        trainer.step(*make_batch(step), lr=0.1, seed=step)
        weight = trainer.net.classifier[1].weight.detach().clone()
        if expected is None:
            expected = weight  # the first step begins the average
        else:
            kept = (1 + step) / (10 + step)
            expected = kept * expected + (1 - kept) * weight
        average = trainer.average.module.classifier[1].weight.detach()
        assert torch.allclose(average, expected, atol=1e-7)
        assert step == 0 or not torch.allclose(average, weight, atol=1e-4)


@pytest.mark.parametrize(
    ("start", "kept"),
    [(Start(), [1 / 10, 2 / 11, 3 / 12]), (Start(weights="some.safetensors"), [0.9, 0.9, 0.9])],
    ids=["from scratch", "from weights"],
)
def test_the_statistics_of_batch_norm_warm_up_from_scratch(start: Start, kept: list[float]) -> None:
    trainer = make_trainer(start)
    decays = []
    for step in range(3):
        trainer.step(*make_batch(step), lr=0.1, seed=step)
        decays += {1 - norm.momentum for norm in trainer.norms}
    assert decays == pytest.approx(kept)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_the_loss_spreads_a_share_of_the_target_evenly(smoothing: float) -> None:
    trainer = make_trainer(label_smoothing=smoothing)
    pixels, labels = make_batch()
    x = torch.from_numpy(
        Preprocessing(size=(16, 16)).normalize(pixels.permute(0, 2, 3, 1).numpy())
    ).permute(0, 3, 1, 2)
    with torch.no_grad():
        nn.init.normal_(trainer.net.classifier[1].weight)  # so that the logits differ
        logits = trainer.net.train()(x)  # (8, 4)
    target = torch.full((8, 4), smoothing / 4)
    target[torch.arange(8), labels] += 1 - smoothing
    expected = -(target * logits.log_softmax(1)).sum(1).mean()
    assert trainer.step(pixels, labels, lr=0.1, seed=0) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize(
    ("freeze_norms", "steps", "shared"),
    [(True, 0, False), (True, 2, False), (False, 0, False), (False, 2, True)],
)
def test_statistics_that_did_not_change_keep_their_bits(
    monkeypatch: pytest.MonkeyPatch, freeze_norms: bool, steps: int, shared: bool
) -> None:
    """The mean of three equal numbers is not always that number."""
    trainer = make_trainer(freeze_norms=freeze_norms)
    monkeypatch.setattr(
        trainer.fabric,
        "all_reduce",
        lambda data, reduce_op="mean": data if reduce_op == "sum" else (data + data + data) / 3,
    )
    for norm in trainer.norms:
        nn.init.normal_(norm.running_mean)
    trainer.average.module.load_state_dict(trainer.net.state_dict())
    for step in range(steps):
        trainer.step(*make_batch(step), lr=0.1, seed=step)
    nets = trainer.net, trainer.average.module
    before = [{name: x.clone() for name, x in net.named_buffers()} for net in nets]
    trainer.validate([make_batch()])
    for net, values in zip(nets, before):
        same = [torch.equal(x, values[name]) for name, x in net.named_buffers()]
        assert all(same) != shared
    if freeze_norms:
        assert all(map(torch.equal, nets[0].buffers(), nets[1].buffers()))


def test_a_mixture_with_the_start_lasts_for_its_block() -> None:
    trainer = make_trainer(head_first=True, start_shares=[0.25], ema_decay=0.0)
    net = trainer.average.module
    first = net.classifier[-1].weight.detach().clone()
    trainer.step(*make_batch(), lr=0.1, seed=0)
    last = net.classifier[-1].weight.detach().clone()
    assert not torch.equal(first, last)
    with trainer.mixed_with_start(0.25):
        torch.testing.assert_close(net.classifier[-1].weight, 0.75 * first + 0.25 * last)
    assert torch.equal(net.classifier[-1].weight, last)
