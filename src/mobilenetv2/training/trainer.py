"""A network in training: one step, the moving average, validation, and the state to resume from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel

from ..nn import MobileNetV2
from .machine import autocast
from .optim import make_optimizer
from .run_folder import Settings

Batches = Iterable[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Validation:
    """The result of a validation.

    Attributes:
        loss: Mean loss in nats.
        confusion: Numbers of images, (classes, classes) int64: rows are true classes, columns
            predicted ones.
    """

    loss: float
    confusion: NDArray[np.int64]

    @property
    def top1(self) -> float:
        """Accuracy in percent."""
        return 100 * float(np.trace(self.confusion) / self.confusion.sum())

    @property
    def balanced(self) -> float:
        """Balanced accuracy in percent."""
        return balanced(self.confusion)


def balanced(confusion: NDArray[np.int64]) -> float:
    """Balanced accuracy in percent: the mean recall of the classes that have images."""
    images = confusion.sum(1)
    return 100 * float((confusion.diagonal()[images > 0] / images[images > 0]).mean())


class Trainer:
    """Network, optimiser and moving average.

    Args:
        fabric: The device and the other processes.
        net: The network to train in place, from `prepare`.
        settings: Recipe, preprocessing and precision. If training starts from scratch, the first
            statistics of batch norm mean little and are forgotten faster.
    """

    def __init__(self, fabric: Fabric, net: MobileNetV2, settings: Settings) -> None:
        self.fabric, self.net, self.recipe = fabric, net, settings.recipe
        self.precision = settings.precision
        self.classes = net.architecture.classes
        self.from_scratch = settings.start.weights is None
        self.wrapped, self.optimizer = fabric.setup(net, make_optimizer(net, settings.recipe))
        self.average = AveragedModel(net, multi_avg_fn=self._averaged, use_buffers=True)
        self.norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
        self._own_statistics = False  # of batch norm, since they were last shared
        scale, offset = settings.preprocessing.scale_offset()
        self._scale, self._offset = (
            torch.tensor(values, dtype=torch.float32, device=fabric.device).view(-1, 1, 1)
            for values in (scale, offset)
        )

    def step(self, pixels: Tensor, labels: Tensor, lr: float, seed: int) -> float:
        """Takes one step; leaves the weights unchanged if the loss or its gradient is not finite.

        Args:
            pixels: (N, C, H, W) uint8.
            labels: Class indices, (N,) int64.
            lr: Learning rate.
            seed: Seed of dropout and of mixed images.

        Returns:
            The mean loss over all processes in nats, or NaN.
        """
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        self.wrapped.train()
        self._own_statistics = not self.recipe.freeze_norms
        if self.recipe.freeze_norms:
            for norm in self.norms:
                norm.eval()
        self._set_rates(lr)
        x, target = self.recipe.augmentation.mix(
            self._normalised(pixels), labels.to(self.fabric.device), self.classes, generator
        )
        with autocast(self.fabric.device, self.precision):
            logits = self.wrapped(x)  # (N, classes)
        loss = functional.cross_entropy(
            logits.float(), target, label_smoothing=self.recipe.label_smoothing
        )
        self.optimizer.zero_grad()
        self.fabric.backward(loss)
        norm = self.fabric.clip_gradients(
            self.wrapped,
            self.optimizer,
            max_norm=self.recipe.clip_norm or float("inf"),
            error_if_nonfinite=False,
        )
        mean = self.fabric.all_reduce(loss.detach())
        if not torch.isfinite(mean + norm):
            return float("nan")
        self.optimizer.step()
        self.average.update_parameters(self.net)
        return float(mean)

    @torch.no_grad()
    def validate(self, batches: Batches) -> Validation:
        """Validates the moving average; each process gets a share of the images."""
        self._share_statistics()
        net = self.average.module.eval()
        confusion = torch.zeros(self.classes**2, dtype=torch.int64, device=self.fabric.device)
        loss = torch.zeros((), dtype=torch.float64, device=self.fabric.device)
        for pixels, labels in batches:
            labels = labels.to(self.fabric.device)
            logits = net(self._normalised(pixels))  # (N, classes)
            loss += functional.cross_entropy(logits, labels, reduction="sum")
            pairs = labels * self.classes + logits.argmax(1)
            confusion += torch.bincount(pairs, minlength=self.classes**2)
        confusion, loss = self.fabric.all_reduce((confusion, loss), reduce_op="sum")
        counts = confusion.view(self.classes, self.classes).cpu().numpy()
        return Validation(float(loss) / int(counts.sum()), counts)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain numbers."""
        return {
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average.load_state_dict(state["average"])

    def _set_rates(self, lr: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["scale"]
        decay = self.recipe.bn_decay
        if self.from_scratch:
            decay = warmed_up(decay, int(self.average.n_averaged))
        for norm in self.norms:
            norm.momentum = 1 - decay

    def _averaged(self, averages: list[Tensor], values: list[Tensor], count: Tensor) -> None:
        kept = warmed_up(self.recipe.ema_decay, int(count))
        for average, value in zip(averages, values):
            if average.is_floating_point():
                average.lerp_(value, 1 - kept)
            else:
                average.copy_(value)

    def _share_statistics(self) -> None:
        """Replaces batch norm's running statistics by their mean over all processes, unless they are
        still the same in all: the mean of equal numbers may be rounded.
        """
        if not self._own_statistics:
            return
        self._own_statistics = False
        for net in (self.net, self.average.module):
            for buffer in net.buffers():
                if buffer.is_floating_point():
                    buffer.copy_(self.fabric.all_reduce(buffer.clone()))

    def _normalised(self, pixels: Tensor) -> Tensor:
        """(N, C, H, W) uint8 -> normalised float32, channels last."""
        x = pixels.to(self.fabric.device).to(memory_format=torch.channels_last)
        return x * self._scale + self._offset


def warmed_up(decay: float, step: int) -> float:
    """The share that a moving average keeps at a step: less than `decay` at first, as in
    TensorFlow's `ExponentialMovingAverage`.
    """
    return min(decay, (1 + step) / (10 + step))
