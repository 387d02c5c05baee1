"""The recipe of the model that ships: its optimiser, what changes over time, and its clock."""

from __future__ import annotations

from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from mobilenetv2.architecture import Architecture, Stage  # noqa: E402
from mobilenetv2.datasets import read_dataset  # noqa: E402
from mobilenetv2.heads import Classifier, DeepLab, SSDLite  # noqa: E402
from mobilenetv2.images import Preprocessing  # noqa: E402
from mobilenetv2.nn import MobileNetV2  # noqa: E402
from mobilenetv2.nn.heads import DetectionNetwork, SegmentationNetwork  # noqa: E402
from mobilenetv2.training import RECIPES, clock  # noqa: E402
from mobilenetv2.training.augment import Augmentation, evaluation_transform  # noqa: E402
from mobilenetv2.training.classification import Classification  # noqa: E402
from mobilenetv2.training.clock import Stopwatch  # noqa: E402
from mobilenetv2.training.data import Images, loader  # noqa: E402
from mobilenetv2.training.muon import Muon, orthogonal  # noqa: E402
from mobilenetv2.training.optim import (  # noqa: E402
    learning_rate,
    parameter_groups,
    timed_learning_rate,
)
from mobilenetv2.training.processes import environment  # noqa: E402
from mobilenetv2.training.run_folder import RunFolder  # noqa: E402
from mobilenetv2.training.workers import Span  # noqa: E402

from .test_fit import make_images, read_log, same_state  # noqa: E402
from .test_trainer import trainer_of  # noqa: E402
from .training_worker import STEP_SECONDS, train  # noqa: E402

SMALL = RECIPES["small"]
NETWORK = Architecture(
    stages=(Stage(1, 8, 1, 1), Stage(3, 16, 2, 2), Stage(4, 24, 1, 2)),
    stem_channels=8,
    stem_stride=1,
    last_channels=32,
    head=Classifier(4),
    resolution=(16, 16),
)


# the trainer that the model was trained with, before its recipe was one of `train`


class OldMuon:
    def __init__(self, matrices: list[Tensor], momentum: float = 0.85) -> None:
        self.matrices, self.momentum = [each.detach().flatten(1) for each in matrices], momentum
        self.parameters = matrices
        self.velocities = [torch.zeros_like(each) for each in self.matrices]
        self.keep_norms()

    def keep_norms(self) -> None:
        for matrix in self.matrices:
            matrix.mul_(len(matrix) ** 0.5 / matrix.norm())

    @torch.no_grad()
    def step(self, rate: float) -> None:
        for parameter, matrix, velocity in zip(self.parameters, self.matrices, self.velocities):
            gradient = parameter.grad.flatten(1)
            velocity.mul_(self.momentum).add_(gradient)
            update = old_orthogonal(gradient + self.momentum * velocity)
            rows, columns = matrix.shape
            matrix.sub_(update, alpha=rate * max(1.0, rows / columns) ** 0.5)
            parameter.grad = None
        self.keep_norms()


def old_orthogonal(matrix: Tensor) -> Tensor:
    wide = matrix if len(matrix) <= matrix.shape[1] else matrix.T
    wide = wide / (wide.norm() + 1e-7)
    for _ in range(5):
        square = wide @ wide.T
        wide = 3.4445 * wide + (2.0315 * square @ square - 4.775 * square) @ wide
    return wide if wide.shape == matrix.shape else wide.T


def old_pace(share: float) -> float:
    return max(0.0, min(share / 0.03, (1 - share) / 0.97))


def old_side(share: float) -> int:
    return next(side for until, side in ((0.25, 12), (0.5, 14), (1.0, 16)) if share < until)


def old_losses(net: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> list[float]:
    """The loss of each step; the shares of the time are those of the steps."""
    pointwise = [
        m.weight for m in net.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)
    ]
    muon = OldMuon(pointwise)
    others = [p for p in net.parameters() if all(p is not each for each in pointwise)]
    groups = [
        {"params": [p for p in others if p.ndim > 1], "weight_decay": 5e-4},
        {"params": [p for p in others if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.0, momentum=0.9, nesterov=True, fused=True)
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.1)
    losses = []
    net.train()
    for step, (pixels, labels) in enumerate(batches):
        share = (step + 1) / 101
        x = functional.interpolate(pixels, size=old_side(share), mode="bilinear", antialias=True)
        loss = loss_of(net(x), functional.one_hot(labels, 4).float())
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = 0.12 * old_pace(share)
        optimizer.step()
        muon.step(0.025 * old_pace(share))
        losses.append(loss.item())
    return losses


def test_a_hundred_steps_are_those_of_the_trainer_before() -> None:
    rng = np.random.default_rng(0)
    batches = []
    for _ in range(100):
        labels = torch.from_numpy(rng.integers(4, size=16))
        noise = rng.integers(0, 128, (16, 16, 16, 3), dtype=np.uint8)
        noise[..., 0] += (32 * labels.numpy()).astype(np.uint8)[:, None, None]
        batches.append((torch.from_numpy(noise).permute(0, 3, 1, 2), labels))
    recipe = SMALL.changed({"augmentation.cutmix": 0})
    trainer = trainer_of(NETWORK, recipe, Preprocessing(size=(16, 16), std=(0.25,) * 3))
    torch.manual_seed(0)
    old = MobileNetV2(NETWORK, drop_rate=0.0, bn_decay=0.9)  # from the same weights
    losses = [
        trainer.step(*batch, timed_learning_rate(recipe, i / 101), i, share=i / 101)
        for i, batch in enumerate(batches, 1)
    ]
    expected = old_losses(old, [(trainer._normalised(x), labels) for x, labels in batches])
    assert losses == pytest.approx(expected, abs=1e-6)
    assert losses[-1] < 0.6 < 1.3 < losses[0]


# its optimiser


@pytest.mark.parametrize("shape", [(24, 144), (144, 24), (64, 64)])
def test_a_step_turns_all_directions_alike(shape: tuple[int, int]) -> None:
    """Singular values over three orders of magnitude become nearly equal; their vectors stay."""
    torch.manual_seed(0)
    u, _, vh = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    answer = orthogonal(u @ torch.diag(torch.logspace(0, -3, len(vh))) @ vh)
    turned = u.T @ answer @ vh.T
    assert torch.allclose(turned, torch.diag(turned.diag()), atol=1e-3)
    large = turned.diag()[torch.logspace(0, -3, len(vh)) > 0.03]
    assert 0.6 < large.min() <= large.max() < 1.3


@pytest.mark.parametrize(("from_scratch", "norm"), [(True, 24**0.5), (False, 3.0)])
def test_a_step_turns_a_kernel_by_its_rate_and_keeps_its_norm(
    from_scratch: bool, norm: float
) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 24, 1, bias=False)
    with torch.no_grad():
        layer.weight.mul_(3 / layer.weight.norm())
    group = {"params": [layer.weight], "matrix": True, "momentum": 0.85}
    muon = Muon([group], lr=0.02, from_scratch=from_scratch)
    before = layer.weight.detach().clone()
    assert float(before.norm()) == pytest.approx(norm)
    y = functional.batch_norm(layer(torch.randn(2, 8, 3, 3)), None, None, training=True)
    (y * torch.randn(y.shape)).mean().backward()
    muon.step()
    after = layer.weight.detach()
    assert float(after.norm()) == pytest.approx(norm)
    angle = functional.cosine_similarity(before.flatten(), after.flatten(), dim=0).arccos()
    assert float(angle) == pytest.approx(0.02, rel=0.2)
    group["lr"] = muon.param_groups[0]["lr"] = 0.0
    muon.step()
    assert torch.equal(layer.weight.detach(), after)


HEADS = {
    "classification": MobileNetV2,
    "detection": lambda of: DetectionNetwork(replace(of, head=SSDLite(3))),
    "segmentation": lambda of: SegmentationNetwork(
        replace(of, head=DeepLab(classes=3), output_stride=16)
    ),
}


@pytest.mark.parametrize("task", HEADS)
def test_kernels_of_muon_are_1x1_and_normalised(task: str) -> None:
    """Depthwise and 3x3 kernels, and what answers without a batch norm behind it, are SGD's."""
    net = HEADS[task](NETWORK)
    recipe = SMALL.changed({"layer_decay": 0.5})
    shapes = {name: tuple(each.shape) for name, each in net.named_parameters()}
    matrices = {
        name: group for group in parameter_groups(net, recipe) if group.get("matrix")
        for name in group["names"]
    }  # fmt: skip
    assert len(matrices) > 5
    assert all(shapes[name][2:] == (1, 1) for name in matrices)
    left = {name for name in shapes if shapes[name][2:] == (1, 1)} - matrices.keys()
    assert (len(left) > 0) == (task != "classification")
    assert all(name.replace("weight", "bias") in shapes for name in left)  # no batch norm behind it
    assert {group["weight_decay"] for group in matrices.values()} == {0.0}
    scale = matrices["features.2.conv.0.0.weight"]["scale"]
    assert 0.12 * scale == pytest.approx(0.025 * 0.5 ** (len(net.features) - 2))


@pytest.mark.parametrize("optimizer", ["sgd", "muon"])
def test_depthwise_kernels_decay_by_a_field_of_their_own(optimizer: str) -> None:
    recipe = SMALL.changed({"optimizer": optimizer, "weight_decay": 0.1, "depthwise_decay": 0.2})
    groups = parameter_groups(MobileNetV2(NETWORK), recipe)
    decays = {name: group["weight_decay"] for group in groups for name in group["names"]}
    assert decays["features.0.0.weight"] == decays["classifier.1.weight"] == 0.1
    assert decays["features.2.conv.1.0.weight"] == 0.2
    assert decays["features.2.conv.1.1.weight"] == decays["classifier.1.bias"] == 0
    assert decays["features.2.conv.0.0.weight"] == (0.1 if optimizer == "sgd" else 0)


# what changes over time


def test_rates_and_sizes_over_time() -> None:
    recipe = SMALL.changed({"warmup_share": 0.1, "lr": 1})
    shares = (0, 0.05, 0.1, 0.55, 1, 1.01)
    rates = [timed_learning_rate(recipe, share) for share in shares]
    assert rates == pytest.approx([0, 0.5, 1, 0.5, 0, 0])
    in_steps = recipe.changed({"epochs": 10})
    assert learning_rate(in_steps, 20, 10) == pytest.approx(80 / 90)
    assert learning_rate(in_steps, 5, 10) == pytest.approx(6 / 11)
    assert [SMALL.side(share) for share in (0, 0.24, 0.25, 0.5, 1.0)] == [0.75, 0.75, 0.875, 1, 1]
    sizes = {"cosine": 0.5, "poly": 0.5**0.9, "exponential": 0.5**150}
    for schedule, rate in sizes.items():
        changed = recipe.changed({"schedule": schedule, "warmup_share": 0, "decay": 0.5})
        assert timed_learning_rate(changed, 0.5) == pytest.approx(rate)


def test_pixels_become_smaller_where_the_recipe_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_of(NETWORK, SMALL, Preprocessing(size=(16, 24)))
    shapes = []
    forward = trainer.net.forward
    monkeypatch.setattr(trainer.net, "forward", lambda x: shapes.append(x.shape) or forward(x))
    pixels = torch.zeros(2, 3, 16, 24, dtype=torch.uint8)
    for share in (0.0, 0.3, 0.5):
        trainer.step(pixels, torch.tensor([0, 1]), 0.01, 0, share=share)
    assert [tuple(shape[2:]) for shape in shapes] == [(12, 18), (14, 21), (16, 24)]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_policy_ends_within_an_epoch(tmp_path: Path, workers: int) -> None:
    """The batches from that share of the run on; those before have other pixels."""
    samples = read_dataset(make_images(tmp_path, {"a": 8, "b": 8})).samples
    augmentation = Augmentation(crop="none", flip=False, policy="trivial", policy_until=0.6)
    recipe = SMALL.changed({"augmentation." + n: v for n, v in augmentation.to_dict().items()})
    preprocessing = Preprocessing(size=(16, 16), crop_fraction=1)
    images = Classification().images(samples, recipe, NETWORK, preprocessing, train=True)
    plain = Images(samples, evaluation_transform(preprocessing))
    batches = [
        list(loader(each, 4, epoch=3, seed=0, train=True, workers=workers, span=Span(0.5, 0.2)))
        for each in (images, plain)
    ]
    same = [torch.equal(mine, its) for (mine, _), (its, _) in zip(*batches, strict=True)]
    assert same == [False, False, True, True]  # 0.5, 0.55, 0.6, 0.65


def test_images_are_mirrored_in_turns(tmp_path: Path) -> None:
    samples = read_dataset(make_images(tmp_path, {"a": 3, "b": 3})).samples
    transform = evaluation_transform(Preprocessing(size=(16, 16), crop_fraction=1))
    plain, turns = Images(samples, transform), Images(samples, transform, alternate=True)
    for epoch in range(3):
        turns.set_epoch(epoch)
        for i in range(6):
            expected = plain[i][0].flip(2) if (i + epoch) % 2 == 0 else plain[i][0]
            assert torch.equal(turns[i][0], expected)


def test_the_time_is_the_mean_of_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    class Two:
        world_size, device = 2, torch.device("cpu")

        def all_reduce(self, own: Tensor, reduce_op: str) -> Tensor:
            assert reduce_op == "sum"
            return own + torch.tensor([0.5, 15.0])  # the other's

    readings = iter([100.0, 101.5, 104.0])
    monkeypatch.setattr(clock, "now", lambda: next(readings))
    stopwatch = Stopwatch(Two())  # type: ignore[arg-type]
    assert stopwatch.read() == (1.0, 15)
    assert stopwatch.read(2) == (1.5, 17)


# going on after a stop


QUICK = {"batch": 8, "val_share": 0.1, "augmentation.cutout": 4, "augmentation.cutmix": 1.0}
TWELVE_STEPS = 12 * STEP_SECONDS / 60  # minutes
RUNS = {
    "minutes": SMALL.changed({**QUICK, "minutes": TWELVE_STEPS}),
    "epochs": SMALL.changed({**QUICK, "epochs": 3}),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("images"), {"dark": 22, "light": 22})


def run(count: int, *arguments: Any) -> list[int | None]:
    """Trains in so many processes; their exit codes."""
    context = get_context("forkserver")  # loads PyTorch once
    context.set_forkserver_preload(["mobilenetv2.training.fit", "mobilenetv2.training.report"])
    variables = environment(count, 1)
    processes = [
        context.Process(target=train, args=(rank, variables, *arguments)) for rank in range(count)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


@pytest.mark.parametrize(
    ("name", "count"), [("epochs", 1), ("minutes", 1), ("minutes", 2), ("minutes", 3)]
)
def test_killed_and_resumed_is_as_never_stopped(
    data: Path, tmp_path: Path, name: str, count: int
) -> None:
    recipe = RUNS[name]
    whole, part = tmp_path / "whole", tmp_path / "part"
    assert run(count, data, whole, recipe, 0) == [0] * count
    assert run(count, data, part, recipe, 8) == [-9] * count
    killed = RunFolder(part).read_state()
    assert killed is not None
    assert killed["progress"]["epoch"] == 1
    assert run(count, data, part, None, 0) == [0] * count
    states = [RunFolder(folder).read_state() for folder in (part, whole)]
    assert same_state(*states)
    assert states[0]["progress"]["seconds"] == states[1]["progress"]["seconds"]
    for column in ("lr", "train_loss", "val_loss"):
        assert [row[column] for row in read_log(part)] == [row[column] for row in read_log(whole)]
