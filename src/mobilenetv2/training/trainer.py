"""A network in training: one step, the moving average, validation, and the state to resume from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from ..nn.backbone import Backbone
from .machine import autocast
from .optim import make_optimizer
from .run_folder import Settings
from .task import Validation
from .tasks import task_of

Batches = Iterable[tuple[Tensor, Tensor]]


class Trainer:
    """Network, optimiser and moving average.

    Args:
        fabric: The device and the other processes.
        net: The network to train in place, from `prepare`.
        settings: Recipe, preprocessing and precision. If training starts from scratch, the first
            statistics of batch norm mean little and are forgotten faster.
    """

    def __init__(self, fabric: Fabric, net: Backbone, settings: Settings) -> None:
        self.fabric, self.net, self.recipe = fabric, net, settings.recipe
        self.task = task_of(net.architecture)
        self.precision = settings.precision
        self.classes = net.architecture.classes
        self.from_scratch = settings.start.weights is None
        self.wrapped, self.optimizer = fabric.setup(
            net, make_optimizer(net, settings.recipe, settings.new, self.from_scratch)
        )
        self.average = AveragedModel(net, multi_avg_fn=self._averaged, use_buffers=True)
        norms = {name: m for name, m in net.named_modules() if isinstance(m, nn.BatchNorm2d)}
        self.norms = list(norms.values())
        new = {m for name, m in norms.items() if f"{name}.weight" in settings.new}
        self._young_norms = set(self.norms) if self.from_scratch else new
        self._frozen_norms = set(self.norms) - new if self.recipe.freeze_norms else set()
        self._start = _copied(self.average.module) if self.recipe.start_shares else {}
        self._own_statistics = False  # of batch norm, since they were last shared
        scale, offset = settings.preprocessing.scale_offset()
        # one number where it is that of all channels, which is ten times as fast
        self._scale, self._offset = (
            torch.tensor(
                values[:1] if len({*values.tolist()}) == 1 else values,
                dtype=torch.float32,
                device=fabric.device,
            ).view(-1, 1, 1)
            for values in (scale, offset)
        )

    def step(
        self,
        pixels: Tensor,
        targets: Tensor,
        lr: float,
        seed: int,
        new_alone: bool = False,
        share: float = 0.0,
    ) -> float:
        """Takes one step; leaves the weights unchanged if the loss or its gradient is not finite.

        Args:
            pixels: (N, C, H, W) uint8.
            targets: Class indices, (N,) int64, or other targets of the task.
            lr: Learning rate.
            seed: Seed of dropout and of mixed images.
            new_alone: Change only what the weights did not bring, where there is any.
            share: How much of the run is done.

        Returns:
            The mean loss over all processes, or NaN.
        """
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        self.wrapped.train()
        self._own_statistics = len(self._frozen_norms) < len(self.norms)
        for norm in self._frozen_norms:
            norm.eval()
        self._set_rates(lr, new_alone)
        x, target = self.task.mixed(
            self._normalised(pixels),
            targets.to(self.fabric.device),
            self.recipe,
            self.classes,
            generator,
            share,
        )
        self.optimizer.zero_grad()
        with self.fabric.no_backward_sync(self.wrapped):
            with autocast(self.fabric.device, self.precision):
                output = self.wrapped(x)
            loss, count = self.task.loss(output, target, self.recipe, self.net.architecture)
            if count is not None:
                loss = loss / self.fabric.all_reduce(count.float()).clamp(min=1)
            self.fabric.backward(loss)
        mean, norm = self._shared(loss.detach()), self._clipped()
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
        sums: tuple[Tensor, ...] = ()
        for pixels, targets in batches:
            parts = self.task.sums(
                net(self._normalised(pixels)),
                targets.to(self.fabric.device),
                self.recipe,
                self.net.architecture,
            )
            sums = tuple(map(torch.add, sums, parts)) if sums else parts
        sums = sums or self.task.zeros(self.classes, self.fabric.device)
        sums = self.fabric.all_reduce(sums, reduce_op="sum")
        return self.task.validation(sums, self.classes)

    @contextmanager
    def mixed_with_start(self, share: float) -> Iterator[None]:
        """In the block, the moving average is between the weights before the first epoch (0) and itself
        (1).
        """
        net, average = self.average.module, _copied(self.average.module)
        mixed = {
            name: torch.lerp(self._start[name], value, share)
            if value.is_floating_point()
            else value
            for name, value in average.items()
        }
        net.load_state_dict(mixed)
        try:
            yield
        finally:
            net.load_state_dict(average)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain numbers. All processes call it together: within an epoch each has statistics
        of its own.
        """
        state: dict[str, Any] = {
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict(),
        }
        if self._start:
            state["start"] = self._start
        if self._own_statistics and self.fabric.world_size > 1:
            state["statistics"] = [self._of_all(each) for each in self._statistics()]
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average.load_state_dict(state["average"])
        for name, value in state.get("start", {}).items():
            self._start[name].copy_(value)
        for own, of_all in zip(self._statistics(), state.get("statistics", [])):
            own.copy_(of_all[self.fabric.global_rank])
            self._own_statistics = True

    def _set_rates(self, lr: float, new_alone: bool) -> None:
        groups = self.optimizer.param_groups
        new_alone = new_alone and any(group.get("new") for group in groups)
        for group in groups:
            still = new_alone and not group.get("new")
            group["lr"] = 0.0 if still else lr * group["scale"]
        decay = self.recipe.bn_decay
        young = warmed_up(decay, int(self.average.n_averaged))
        for norm in self.norms:
            norm.momentum = 1 - (young if norm in self._young_norms else decay)

    def _averaged(self, averages: list[Tensor], values: list[Tensor], count: Tensor) -> None:
        kept = warmed_up(self.recipe.ema_decay, int(count))
        if averages[0].is_floating_point():  # all are of one type
            torch._foreach_lerp_(averages, values, 1 - kept)
        else:
            torch._foreach_copy_(averages, values)

    def _shared(self, loss: Tensor) -> Tensor:
        """Replaces the gradients by their means over all processes; returns the mean of the loss.

        In one piece: the buckets of DistributedDataParallel change after the first step, and with them
        how sums are rounded.
        """
        if self.fabric.world_size == 1:
            return loss
        parts = [loss.view(1), *self._gradients()]
        means = self.fabric.all_reduce(torch.cat([each.flatten() for each in parts]))
        mean, *rest = means.split([each.numel() for each in parts])
        for gradient, part in zip(self._gradients(), rest, strict=True):
            gradient.copy_(part.view_as(gradient))
        return mean[0]

    def _clipped(self) -> Tensor:
        """Clips the gradients where the recipe says so; returns their norm before."""
        if not self.recipe.clip_norm:
            return torch.nn.utils.get_total_norm(self._gradients())
        norm: Tensor = self.fabric.clip_gradients(
            self.wrapped,
            self.optimizer,
            max_norm=self.recipe.clip_norm,
            error_if_nonfinite=False,
        )
        return norm

    def _gradients(self) -> list[Tensor]:
        return [each.grad for each in self.net.parameters() if each.grad is not None]

    def _share_statistics(self) -> None:
        """Replaces batch norm's running statistics by their mean over all processes, unless they are
        still the same in all: the mean of equal numbers may be rounded.
        """
        if not self._own_statistics:
            return
        self._own_statistics = False
        for statistics in self._statistics():
            statistics.copy_(self.fabric.all_reduce(statistics.clone()))

    def _of_all(self, own: Tensor) -> list[Tensor]:
        """A tensor as each process has it."""
        gathered = [torch.empty_like(own) for _ in range(self.fabric.world_size)]
        torch.distributed.all_gather(gathered, own)
        return gathered

    def _statistics(self) -> list[Tensor]:
        """Batch norm's running means and variances, of the network and of the average."""
        nets = (self.net, self.average.module)
        return [each for net in nets for each in net.buffers() if each.is_floating_point()]

    def _normalised(self, pixels: Tensor) -> Tensor:
        """(N, C, H, W) uint8 -> normalised float32, channels last."""
        x = pixels.to(self.fabric.device).to(torch.float32, memory_format=torch.channels_last)
        return x.mul_(self._scale).add_(self._offset)


def _copied(net: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


def warmed_up(decay: float, step: int) -> float:
    """The share that a moving average keeps at a step: less than `decay` at first, as in
    TensorFlow's `ExponentialMovingAverage`.
    """
    return min(decay, (1 + step) / (10 + step))
