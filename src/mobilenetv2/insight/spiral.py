"""Figure 1: a spiral in the plane, embedded in n dimensions by a random matrix, cut by ReLU, and
projected back; and Theorem 1, which says how much of the plane survives.

Sandler et al. 2018, Section 3.2 and Appendix A. The paper gives neither the spiral nor the
distribution of the matrix. Here they are an Archimedean spiral and independent standard normal
entries, for which the theorem holds: the distribution is the same when a row changes its sign.
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
POINTS = 96  # of the spiral in `survival`, which averages over many matrices
STEP = 1e-6  # of a finite difference; the spiral has radius 1


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
    """How much of the plane survives ReLU in n dimensions, over many random matrices.

    Attributes:
        dimension: n.
        matrices: How many.
        theorem: Expected share of the area that is not collapsed, by Theorem 1, 0..1.
        area: The same share measured, exact for each matrix; the mean over the matrices, 0..1.
        area_error: Standard error of `area`.
        invertible: Share of the spiral's points around which the map is invertible, 0..1: its
            derivative, by finite differences, has rank 2.
        distortion: Median over the matrices of the root mean square distance between the spiral and
            what comes back, scaled to fit best, divided by the spiral's own root mean square: 0 for
            the same shape, 1 for one that has nothing in common.
    """

    dimension: int
    matrices: int
    theorem: float
    area: float
    area_error: float
    invertible: float
    distortion: float


def spiral(points: int = 600) -> Array:
    """A spiral of three turns from the origin to radius 1, its points at equal angles, (points, 2)."""
    share = np.linspace(0, 1, points)
    angle = 2 * math.pi * TURNS * share
    return np.stack([share * np.cos(angle), share * np.sin(angle)], axis=1)


def relu(x: Array) -> Array:
    """max(x, 0)."""
    return np.maximum(x, 0)


def there_and_back(points: Array, matrix: Array) -> Array:
    """T^-1 ReLU(T x), with T's pseudo-inverse for T^-1.

    Args:
        points: The x, (P, 2).
        matrix: T, (..., n, 2).

    Returns:
        (..., P, 2).
    """
    back: Array = relu(points @ matrix.swapaxes(-1, -2)) @ np.linalg.pinv(matrix).swapaxes(-1, -2)
    return back


def panels(dimensions: Sequence[int] = DIMENSIONS, seed: int = 0) -> tuple[Panel, ...]:
    """Figure 1: one random matrix for each n, drawn from `seed`."""
    rng = np.random.default_rng(seed)
    drawn = []
    for dimension in dimensions:
        matrix = rng.standard_normal((dimension, 2))
        drawn.append(Panel(dimension, matrix, there_and_back(spiral(), matrix)))
    return tuple(drawn)


def preserved_share(outputs: int, inputs: int) -> float:
    """Theorem 1: the expected share of a volume that x -> ReLU(B x) does not collapse, 0..1.

    It is N / 2^m with N the sum of C(m, k) for k from 0 to m - n: the probability that at least n of
    m coordinates are positive, each with probability 1/2.

    Args:
        outputs: m.
        inputs: n, the dimension of the volume.
    """
    ways = sum(math.comb(outputs, k) for k in range(outputs - inputs + 1))
    return float(ways / 2**outputs)


def surviving_area(matrices: Array) -> Array:
    """The exact share of a disc around the origin that x -> ReLU(B x) keeps two-dimensional.

    A direction survives if at least two rows are positive there. Each row is positive on half of
    all directions, so the disc is cut into 2 n sectors in each of which the same rows are positive.

    Args:
        matrices: B, (M, n, 2); no two rows are parallel.

    Returns:
        Shares 0..1, (M,).
    """
    angles = np.arctan2(matrices[..., 1], matrices[..., 0])  # (M, n): direction of each row
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
    """The claim of Figure 1 in numbers, over many random matrices; one record for each n.

    Args:
        dimensions: The n, each 2 or more.
        matrices: How many for each n, at least 2.
        seed: Of the random numbers.
    """
    rng = np.random.default_rng(seed)
    points = spiral(POINTS + 1)[1:]  # at the origin the map has no derivative
    records = []
    for dimension in dimensions:
        drawn = rng.standard_normal((matrices, dimension, 2))
        parts = np.array_split(drawn, 20)
        areas = np.concatenate([surviving_area(part) for part in parts])
        invertible = np.concatenate([_invertible(points, part) for part in parts])
        distortion = np.concatenate([_distortion(points, part) for part in parts])
        records.append(
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
    return tuple(records)


def _invertible(points: Array, matrices: Array) -> NDArray[np.bool_]:
    """Whether the derivative of ReLU(T x), by finite differences, has rank 2 at each point, (M, P)."""
    transposed = matrices.swapaxes(1, 2)
    here = relu(points @ transposed)  # (M, P, n)
    x, y = ((relu((points + step) @ transposed) - here) / STEP for step in STEP * np.eye(2))
    xx, yy, xy = (x * x).sum(axis=2), (y * y).sum(axis=2), (x * y).sum(axis=2)
    rank_two: NDArray[np.bool_] = xx * yy - xy**2 > 1e-6 * (xx + yy) ** 2
    return rank_two


def _distortion(points: Array, matrices: Array) -> Array:
    """The distortion of the spiral by each matrix, (M,); see `Survival`."""
    back = there_and_back(points, matrices)  # (M, P, 2)
    power = (back**2).sum(axis=(1, 2))
    scale = (back * points).sum(axis=(1, 2)) / np.maximum(power, 1e-300)
    squares = ((scale[:, None, None] * back - points) ** 2).sum(axis=(1, 2))
    distortion: Array = np.sqrt(squares / (points**2).sum())
    return distortion
