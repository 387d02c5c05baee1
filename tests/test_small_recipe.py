"""The recipe of the model that ships: its optimiser, what changes over time, and its clock."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from mobilenetv2.architecture import Architecture, Stage  # noqa: E402
from mobilenetv2.heads import Classifier  # noqa: E402
from mobilenetv2.images import Preprocessing  # noqa: E402
from mobilenetv2.nn import MobileNetV2  # noqa: E402
from mobilenetv2.training import RECIPES  # noqa: E402
from mobilenetv2.training.optim import timed_learning_rate  # noqa: E402

from .test_trainer import trainer_of  # noqa: E402

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
    print(
        np.abs(np.array(losses) - expected)[[0, 1, 2, 5, 10, 20, 30, 40, 60, 80, 99]], losses[::10]
    )
    assert losses == pytest.approx(expected, abs=1e-4)
    assert losses[-1] < 0.6 < 1.3 < losses[0]
