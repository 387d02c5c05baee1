"""Images of a batch mixed with each other: Mixup and CutMix."""

from __future__ import annotations

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor


def mixup(x: Tensor, shares: Tensor, alpha: float, rng: Generator) -> tuple[Tensor, Tensor]:
    """Blends each image (N, C, H, W) and its class shares (N, classes) with the one before it."""
    kept = float(rng.beta(alpha, alpha))
    mixed = kept * x + (1 - kept) * x.roll(1, 0)
    return mixed, kept * shares + (1 - kept) * shares.roll(1, 0)


def cutmix(
    x: Tensor, shares: Tensor, alpha: float, rng: Generator, chance: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Pastes into some of the images (N, C, H, W) a rectangle of the one before, and mixes their
    class shares (N, classes) in proportion to the areas. Each has a rectangle of its own.
    """
    # sides relative to those of the image, before its edges cut them
    sides = np.sqrt(1 - rng.beta(alpha, alpha, len(x))) * (rng.random(len(x)) < chance)
    rows, columns = (_inside(length, sides, rng) for length in x.shape[2:])
    pasted = torch.from_numpy(rows[:, :, None] & columns[:, None, :])  # (N, H, W)
    cut = pasted.float().mean((1, 2))[:, None].to(shares.device)
    mixed = torch.where(pasted[:, None].to(x.device), x.roll(1, 0), x)
    return mixed, (1 - cut) * shares + cut * shares.roll(1, 0)


def _inside(length: int, sides: NDArray[np.float64], rng: Generator) -> NDArray[np.bool_]:
    """Which points of a side lie within these shares of it, each around a random point: (N, length)."""
    middles = rng.integers(length, size=(len(sides), 1))
    inside: NDArray[np.bool_] = (
        np.abs(np.arange(length) + 0.5 - middles) <= sides[:, None] * length / 2
    )
    return inside
