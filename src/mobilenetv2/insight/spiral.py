"""Figure 1: a spiral in the plane, embedded in n dimensions by a random matrix, cut by ReLU, and
projected back.

Sandler et al. 2018, Section 3.2 and Theorem 1. The paper gives neither the spiral nor the law of
the matrix; here they are an Archimedean spiral and independent standard normal entries, for which
the theorem holds: the law does not change when rows are turned around.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

DIMENSIONS = (2, 3, 5, 15, 30)  # of Figure 1
TURNS = 3
POINTS = 96  # of a spiral whose numbers are averaged over many matrices
STEP = 1e-6  # of a finite difference, in units of the spiral's radius


@dataclass(frozen=True)
class Panel:
    """One panel of Figure 1.

    Attributes:
        dimension: n.
        matrix: T, (n, 2).
        points: The spiral after T, ReLU and T's pseudo-inverse, (points, 2).
    """

    dimension: int
    matrix: Array
    points: Array


@dataclass(frozen=True)
class Survival:
    """What is left of the plane, over many matrices.

    Attributes:
        dimension: n.
        matrices: How many.
        theorem: Theorem 1's expected share of the area that is not collapsed, 0..1.
        area: The share measured, exactly for each matrix, averaged, 0..1.
        area_error: Standard error of `area`.
        invertible: Share of the spiral around which the map can be undone: its derivative, by
            finite differences, has rank 2.
        distortion: Median over matrices of the root mean square distance between spiral and what
            comes back, scaled to fit best, over the spiral's own size: 0 is the same shape, 1
            nothing alike.
    """

    dimension: int
    matrices: int
    theorem: float
    area: float
    area_error: float
    invertible: float
    distortion: float


def spiral(points: int = 600) -> Array:
    """A spiral of three turns from the origin to radius 1, equal angles apart, (points, 2)."""
    share = np.linspace(0, 1, points)
    angle = 2 * math.pi * TURNS * share
    return np.stack([share * np.cos(angle), share * np.sin(angle)], axis=1)


def relu(x: Array) -> Array:
    """max(x, 0)."""
    return np.maximum(x, 0)


def there_and_back(points: Array, matrix: Array) -> Array:
    """T^-1 ReLU(T x) with T's pseudo-inverse, for points (P, 2) and T (..., n, 2) -> (..., P, 2)."""
    back: Array = relu(points @ matrix.swapaxes(-1, -2)) @ np.linalg.pinv(matrix).swapaxes(-1, -2)
    return back


def panels(dimensions: Sequence[int] = DIMENSIONS, seed: int = 0) -> tuple[Panel, ...]:
    """Figure 1: one random matrix for each n, drawn from `seed`."""
    rng = np.random.default_rng(seed)
    found = []
    for dimension in dimensions:
        matrix = rng.standard_normal((dimension, 2))
        found.append(Panel(dimension, matrix, there_and_back(spiral(), matrix)))
    return tuple(found)


def preserved_share(outputs: int, inputs: int) -> float:
    """Theorem 1: the expected share of an n-dimensional volume that x -> ReLU(B x) does not
    collapse, N / 2^m with N the sum of C(m, k) for k from 0 to m - n; m `outputs`, n `inputs`.

    It is the chance that of m coordinates, each positive or not like a coin, n at least are.
    """
    ways = sum(math.comb(outputs, k) for k in range(outputs - inputs + 1))
    return float(ways / 2**outputs)


def surviving_area(matrices: Array) -> Array:
    """The share of a disc around the origin that x -> ReLU(B x) keeps two-dimensional, exactly.

    A direction survives if two rows at least are positive there. Each row is positive on half of
    all directions, so that the disc falls into 2 n sectors on which nothing changes.

    Args:
        matrices: B, (M, n, 2); no two rows are parallel.

    Returns:
        Shares 0..1, (M,).
    """
    angles = np.arctan2(matrices[..., 1], matrices[..., 0])  # (M, n): where each row points
    quarter = math.pi / 2
    edges = np.sort(np.mod(np.concatenate([angles - quarter, angles + quarter], 1), 2 * math.pi))
    widths = np.diff(edges, axis=1, append=edges[:, :1] + 2 * math.pi)  # (M, 2n)
    middles = edges + widths / 2
    positive = np.cos(middles[:, :, None] - angles[:, None, :]) > 0  # (M, 2n, n)
    kept: Array = np.where(positive.sum(axis=2) >= 2, widths, 0).sum(axis=1) / (2 * math.pi)
    return kept


def survival(
    dimensions: Sequence[int] = DIMENSIONS, matrices: int = 2000, seed: int = 0
) -> tuple[Survival, ...]:
    """The figure's claim as numbers over many random matrices, one record for each n.

    Args:
        dimensions: The n, each 2 or more.
        matrices: How many for each n, at least 2.
        seed: Of the random numbers.
    """
    rng = np.random.default_rng(seed)
    points = spiral(POINTS + 1)[1:]  # at the origin itself the map has no derivative
    found = []
    for dimension in dimensions:
        drawn = rng.standard_normal((matrices, dimension, 2))
        parts = np.array_split(drawn, 20)
        areas = np.concatenate([surviving_area(part) for part in parts])
        invertible = np.concatenate([_invertible(points, part) for part in parts])
        distortion = np.concatenate([_distortion(points, part) for part in parts])
        found.append(
            Survival(
                dimension,
                matrices,
                preserved_share(dimension, 2),
                float(areas.mean()),
                float(areas.std(ddof=1) / math.sqrt(matrices)),
                float(invertible.mean()),
                float(np.median(distortion)),
            )
        )
    return tuple(found)


def _invertible(points: Array, matrices: Array) -> NDArray[np.bool_]:
    """Whether the derivative of ReLU(T x) has rank 2, from differences alone, (M, P)."""
    turned = matrices.swapaxes(1, 2)
    here = relu(points @ turned)  # (M, P, n)
    x, y = ((relu((points + step) @ turned) - here) / STEP for step in STEP * np.eye(2))
    xx, yy, xy = (x * x).sum(axis=2), (y * y).sum(axis=2), (x * y).sum(axis=2)
    rank_two: NDArray[np.bool_] = xx * yy - xy**2 > 1e-6 * (xx + yy) ** 2
    return rank_two


def _distortion(points: Array, matrices: Array) -> Array:
    """How unlike the spiral each matrix's is, (M,); see `Survival`."""
    back = there_and_back(points, matrices)  # (M, P, 2)
    power = (back**2).sum(axis=(1, 2))
    scale = (back * points).sum(axis=(1, 2)) / np.maximum(power, 1e-300)
    rest = ((scale[:, None, None] * back - points) ** 2).sum(axis=(1, 2))
    unlike: Array = np.sqrt(rest / (points**2).sum())
    return unlike
