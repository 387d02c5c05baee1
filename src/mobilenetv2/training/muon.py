"""Muon: orthogonal steps for the kernels of 1x1 convolutions, SGD for everything else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, distributed
from torch.optim.sgd import sgd

ITERATIONS = 5  # of Newton and Schulz


class Muon(torch.optim.Optimizer):
    """Momentum whose steps are orthogonal matrices (Jordan et al. 2024), for the groups with `matrix`.

    A batch norm follows each of these kernels, so that only a matrix's direction matters: its
    Frobenius norm is kept, and `lr` is the share of it that a step turns. The processes, whose
    gradients are equal, share the matrices out. All other groups take steps of SGD with Nesterov
    momentum.

    Args:
        params: Groups; those of 1x1 kernels with `matrix` True and a `momentum`.
        lr: Learning rate.
        momentum: Of the groups that have none of their own.
        from_scratch: Scale each matrix so that its norm is the root of the number of its rows;
            otherwise the norms stay those of the weights.
    """

    def __init__(
        self, params: Iterable[Any], lr: float, momentum: float = 0.9, from_scratch: bool = True
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": 0.0, "matrix": False}
        super().__init__(params, defaults)
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                state["momentum_buffer"] = torch.zeros_like(parameter)
                if group["matrix"]:
                    norm = float(parameter.detach().norm())
                    state["norm"] = len(parameter) ** 0.5 if from_scratch else norm
                    self._keep_norm(parameter)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Updates every parameter that has a gradient."""
        matrices = []
        for group in self.param_groups:
            moved = [each for each in group["params"] if each.grad is not None]
            if group["matrix"]:
                matrices += [(each, group) for each in moved]
            elif moved:
                self._descend(moved, group)
        if matrices:
            self._turn(matrices)

    def _descend(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        sgd(
            parameters,
            [each.grad for each in parameters],
            [self.state[each]["momentum_buffer"] for each in parameters],
            fused=True,
            weight_decay=group["weight_decay"],
            momentum=group["momentum"],
            lr=group["lr"],
            dampening=0.0,
            nesterov=group["momentum"] > 0,
            maximize=False,
        )

    def _turn(self, matrices: list[tuple[Tensor, dict[str, Any]]]) -> None:
        """One orthogonal step of each (parameter, group)."""
        together = distributed.is_available() and distributed.is_initialized()
        rank, world = (distributed.get_rank(), distributed.get_world_size()) if together else (0, 1)
        updates = []
        for i, (parameter, group) in enumerate(matrices):
            velocity = self.state[parameter]["momentum_buffer"]
            velocity.mul_(group["momentum"]).add_(parameter.grad)
            ahead = (parameter.grad + group["momentum"] * velocity).flatten(1)
            updates.append(orthogonal(ahead) if i % world == rank else torch.zeros_like(ahead))
        if world > 1:
            flat = torch.cat([each.flatten() for each in updates])
            distributed.all_reduce(flat)
            updates = list(flat.split([each.numel() for each in updates]))
        for (parameter, group), update in zip(matrices, updates, strict=True):
            rows, columns = len(parameter), parameter[0].numel()
            size = self.state[parameter]["norm"] / rows**0.5 * max(1.0, rows / columns) ** 0.5
            if group["lr"]:
                parameter.sub_(update.view_as(parameter), alpha=group["lr"] * size)
                self._keep_norm(parameter)

    @torch.no_grad()
    def _keep_norm(self, parameter: Tensor) -> None:
        parameter.mul_(self.state[parameter]["norm"] / parameter.norm())


def orthogonal(matrix: Tensor) -> Tensor:
    """U V^T of the decomposition U S V^T, its singular values from about 0.7 to 1.2."""
    wide = matrix if len(matrix) <= matrix.shape[1] else matrix.T
    wide = wide / (wide.norm() + 1e-7)
    for _ in range(ITERATIONS):
        square = wide @ wide.T
        wide = 3.4445 * wide + (2.0315 * square @ square - 4.775 * square) @ wide
    return wide if wide.shape == matrix.shape else wide.T
