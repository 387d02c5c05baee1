"""Parameter groups, optimisers and the learning rate schedule."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..graph import layers
from ..nn.backbone import Backbone
from .muon import Muon
from .recipes import PAPER_EPOCHS, Recipe

POLY_POWER = 0.9  # research/deeplab/train.py


def parameter_groups(
    net: Backbone, recipe: Recipe, new: Collection[str] = ()
) -> list[dict[str, Any]]:
    """All parameters, grouped by their factor of the learning rate and their weight decay.

    Args:
        net: Whose parameters.
        recipe: Decays; where it has `head_epochs`, new parameters are groups of their own.
        new: The names of arrays that the weights did not bring.

    Returns:
        Groups with `params`, their `names`, `weight_decay`, and `scale`, the factor of the
        learning rate: `layer_decay` to the power of the number of blocks after the parameter, for
        the kernels of Muon times their rate over `lr`; `matrix`, True, and `momentum` in groups of
        those; and `new`, True, in groups of new parameters.
    """
    decays = {"conv": recipe.weight_decay, "linear": recipe.weight_decay}
    decays["depthwise"] = recipe.depthwise_decay
    decayed = {x.weight: decays[x.kind] for x in layers(net.architecture) if x.kind in decays}
    matrices = muon_kernels(net) if recipe.optimizer == "muon" else ()
    alone = frozenset(new if recipe.head_epochs else ())
    groups: defaultdict[tuple[float, float, bool, bool], list[tuple[str, nn.Parameter]]]
    groups = defaultdict(list)
    for name, parameter in net.named_parameters():
        parts = name.split(".")
        blocks_after = len(net.features) - int(parts[1]) if parts[0] == "features" else 0
        scale, matrix = recipe.layer_decay**blocks_after, name in matrices
        decay = 0.0 if matrix else decayed.get(name, 0.0)
        scale *= recipe.muon_lr / recipe.lr if matrix else 1
        groups[scale, decay, matrix, name in alone].append((name, parameter))
    return [
        {
            "params": [parameter for _, parameter in members],
            "names": [name for name, _ in members],
            "weight_decay": decay,
            "scale": scale,
            **({"matrix": True, "momentum": recipe.muon_momentum} if matrix else {}),
            **({"new": True} if is_new else {}),
        }
        for (scale, decay, matrix, is_new), members in groups.items()
    ]


def muon_kernels(net: Backbone) -> frozenset[str]:
    """The names of the kernels of 1x1 convolutions with a batch norm behind them."""
    return frozenset(
        x.weight
        for x in layers(net.architecture)
        if x.kind == "conv" and x.kernel == 1 and x.norm and x.weight
    )


def make_optimizer(
    net: Backbone, recipe: Recipe, new: Collection[str] = (), from_scratch: bool = True
) -> torch.optim.Optimizer:
    """The recipe's optimiser over `parameter_groups`; `from_scratch` is whether the network is new."""
    groups = parameter_groups(net, recipe, new)
    if recipe.optimizer == "muon":
        return Muon(groups, lr=recipe.lr, momentum=recipe.momentum, from_scratch=from_scratch)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.momentum > 0
        )
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.lr, betas=(recipe.momentum, 0.999))
    return RMSProp(groups, lr=recipe.lr, momentum=recipe.momentum)


class RMSProp(torch.optim.Optimizer):
    """TensorFlow's RMSProp: epsilon is inside the root, the mean square starts at 1, and the
    momentum is of updates that contain the learning rate.

    s = decay s + (1 - decay) g g; m = momentum m + lr g / sqrt(s + epsilon); w = w - m. The
    defaults are TF-slim's `train_image_classifier.py`; weight decay is added to the gradient.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        decay: float = 0.9,
        momentum: float = 0.9,
        epsilon: float = 1.0,
    ) -> None:
        defaults = {"lr": lr, "decay": decay, "momentum": momentum, "epsilon": epsilon}
        super().__init__(params, defaults | {"weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Updates every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["square"] = torch.ones_like(parameter)
            state["momentum"] = torch.zeros_like(parameter)
        gradient = gradient.add(parameter, alpha=group["weight_decay"])
        state["square"].lerp_(gradient.square(), 1 - group["decay"])
        root = (state["square"] + group["epsilon"]).sqrt_()
        state["momentum"].mul_(group["momentum"]).addcdiv_(gradient, root, value=group["lr"])
        parameter.sub_(state["momentum"])


def learning_rate(recipe: Recipe, step: int, epoch_steps: int) -> float:
    """The learning rate of a step of a recipe with epochs, counted from 0 over the whole run.

    Args:
        recipe: Schedule, warm-up and number of epochs.
        step: Number of the step.
        epoch_steps: Steps per epoch.
    """
    total = recipe.epochs * epoch_steps
    warmup = round(recipe.warmup_epochs * epoch_steps + recipe.warmup_share * total)
    warmup = min(warmup, total // 2)
    if step < warmup:
        return recipe.lr * (step + 1) / (warmup + 1)
    left = (total - step) / (total - warmup)
    return _decayed(recipe, left, PAPER_EPOCHS * (step // epoch_steps) / recipe.epochs)


def timed_learning_rate(recipe: Recipe, share: float) -> float:
    """The learning rate of a recipe with minutes when this share of them is over."""
    share, warmup = min(share, 1.0), recipe.warmup_share
    if share < warmup:
        return recipe.lr * (share / warmup)
    left = (1 - share) / (1 - warmup)
    return _decayed(recipe, left, int(PAPER_EPOCHS * share))


def _decayed(recipe: Recipe, left: float, decays: float) -> float:
    """The learning rate after the warm-up.

    Args:
        recipe: Its schedule.
        left: Share of the run after the warm-up that is left.
        decays: How often the exponential schedule has decayed.
    """
    if recipe.schedule == "exponential":
        return float(recipe.lr * recipe.decay**decays)
    if recipe.schedule == "poly":
        return recipe.lr * float(left**POLY_POWER)
    if recipe.schedule == "linear":
        return recipe.lr * left
    return recipe.lr * 0.5 * (1 - math.cos(math.pi * left))
