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
        learning rate: `layer_decay` to the power of the number of blocks after the parameter; and
        `new`, True, in groups of new parameters.
    """
    decayed = {x.weight for x in layers(net.architecture) if x.kind in ("conv", "linear")}
    alone = frozenset(new if recipe.head_epochs else ())
    groups: defaultdict[tuple[float, float, bool], list[tuple[str, nn.Parameter]]]
    groups = defaultdict(list)
    for name, parameter in net.named_parameters():
        parts = name.split(".")
        blocks_after = len(net.features) - int(parts[1]) if parts[0] == "features" else 0
        decay = recipe.weight_decay if name in decayed else 0.0
        groups[recipe.layer_decay**blocks_after, decay, name in alone].append((name, parameter))
    return [
        {
            "params": [parameter for _, parameter in members],
            "names": [name for name, _ in members],
            "weight_decay": decay,
            "scale": scale,
            **({"new": True} if is_new else {}),
        }
        for (scale, decay, is_new), members in groups.items()
    ]


def make_optimizer(
    net: Backbone, recipe: Recipe, new: Collection[str] = ()
) -> torch.optim.Optimizer:
    """The recipe's optimiser over `parameter_groups`."""
    groups = parameter_groups(net, recipe, new)
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
    """The learning rate of a step, counted from 0 over the whole run.

    Args:
        recipe: Schedule, warm-up and number of epochs.
        step: Number of the step.
        epoch_steps: Steps per epoch.
    """
    total = recipe.epochs * epoch_steps
    warmup = min(round(recipe.warmup_epochs * epoch_steps), total // 2)
    if step < warmup:
        return recipe.lr * (step + 1) / (warmup + 1)
    if recipe.schedule == "exponential":
        decays = PAPER_EPOCHS * (step // epoch_steps) / recipe.epochs
        return recipe.lr * recipe.decay**decays
    done = (step - warmup) / (total - warmup)
    if recipe.schedule == "poly":
        return recipe.lr * float((1 - done) ** POLY_POWER)
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))
