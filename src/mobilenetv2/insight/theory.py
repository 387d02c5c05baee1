"""The paper's argument on toys. Figure 1: a spiral in the plane, embedded in n dimensions by a random
matrix, cut by ReLU, and projected back. And Appendix A's lemmas: ReLU where nothing is cut, and what
can be undone where something is, as experiments on random layers.

Sandler et al. 2018, Section 3.2 and Theorem 1. The paper gives neither the spiral nor the law of the
matrix; here they are an Archimedean spiral and independent standard normal entries, for which the
theorem holds: the law does not change when rows are turned around.
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
    panels = []
    for dimension in dimensions:
        matrix = rng.standard_normal((dimension, 2))
        panels.append(Panel(dimension, matrix, there_and_back(spiral(), matrix)))
    return tuple(panels)


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
    rows = []
    for dimension in dimensions:
        drawn = rng.standard_normal((matrices, dimension, 2))
        parts = np.array_split(drawn, 20)
        areas = np.concatenate([surviving_area(part) for part in parts])
        invertible = np.concatenate([_invertible(points, part) for part in parts])
        distortion = np.concatenate([_distortion(points, part) for part in parts])
        rows.append(
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
    return tuple(rows)


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


INPUTS = 16  # channels of the narrowest bottleneck of the paper
OUTPUTS = (8, 16, 32, 96)
EXPANSIONS = (1, 2, 3, 4, 6)
SMALL = 1e-9  # relative; a singular value below it counts as 0


@dataclass(frozen=True)
class LinearRegion:
    """A random layer ReLU(B x + b), once with a bias so large that nothing is cut, once without.

    Attributes:
        inputs: n.
        outputs: m.
        rank: Dimensions that the uncut outputs span, around their mean.
        carried: Share of the inputs' variance that a linear map can bring back from the uncut
            outputs, 0..1.
        bent_uncut: Share of the outputs' variance that no linear map of the input explains, where
            nothing is cut, 0..1.
        bent_cut: The same without the bias, where half is cut.
    """

    inputs: int
    outputs: int
    rank: int
    carried: float
    bent_uncut: float
    bent_cut: float


@dataclass(frozen=True)
class LemmaOne:
    """A disc through ReLU in the plane, Lemma 1.

    Attributes:
        points: Points of the disc, (P, 2).
        images: Where ReLU puts them, (P, 2).
        interior: Share whose image has no zero, 0..1; 1/4 of a disc around the origin.
        moved: The largest distance that such a point was moved; the lemma says 0.
    """

    points: Array
    images: Array
    interior: float
    moved: float


@dataclass(frozen=True)
class Invertibility:
    """Lemma 2 on random layers y = ReLU(B x).

    Attributes:
        expansion: m / n.
        inputs: n.
        outputs: m.
        samples: How many, each a new B and a new x.
        theorem: Theorem 1's share of inputs that can be told from y.
        invertible: The share for which the lemma's condition holds.
        recovery_error: Of those, the largest relative distance between x and what `recover` gives.
        twin_error: Of the others, the largest relative distance between y and what another input,
            `twin`, gives; None if there were no others.
    """

    expansion: float
    inputs: int
    outputs: int
    samples: int
    theorem: float
    invertible: float
    recovery_error: float
    twin_error: float | None


def linear_regions(
    inputs: int = INPUTS, outputs: Sequence[int] = OUTPUTS, samples: int = 1000, seed: int = 0
) -> tuple[LinearRegion, ...]:
    """One record for each number of outputs, on standard normal inputs."""
    rng = np.random.default_rng(seed)
    rows = []
    for count in outputs:
        x = rng.standard_normal((samples, inputs))
        product = x @ rng.standard_normal((count, inputs)).T
        uncut = relu(product - product.min(axis=0) + 1)  # the bias keeps the least value at 1
        values = np.linalg.svd(uncut - uncut.mean(axis=0), compute_uv=False)
        rows.append(
            LinearRegion(
                inputs,
                count,
                int((values > SMALL * values[0]).sum()),
                1 - _unexplained(uncut, x),
                _unexplained(x, uncut),
                _unexplained(x, relu(product)),
            )
        )
    return tuple(rows)


def lemma_one(samples: int = 1500, seed: int = 0) -> LemmaOne:
    """Sends points drawn evenly from the unit disc through ReLU."""
    rng = np.random.default_rng(seed)
    radius, angle = np.sqrt(rng.uniform(0, 1, samples)), rng.uniform(0, 2 * np.pi, samples)
    points = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    images = relu(points)
    interior = (images > 0).all(axis=1)
    moved = np.abs(images - points)[interior].max(initial=0.0)
    return LemmaOne(points, images, float(interior.mean()), float(moved))


def is_invertible(matrix: Array, y: Array) -> bool:
    """Lemma 2: whether ReLU(B x) = y has one solution: y has n non-zero entries at least, and B's
    rows there span all n dimensions.

    Args:
        matrix: B, (m, n).
        y: An output of the layer, (m,).
    """
    rows = matrix[y > 0]
    inputs = matrix.shape[1]
    return bool(len(rows) >= inputs and np.linalg.matrix_rank(rows) == inputs)


def recover(matrix: Array, y: Array) -> Array:
    """The one x (n,) with ReLU(B x) = y, from the entries that were not cut; B as for
    `is_invertible`.
    """
    x: Array = np.linalg.lstsq(matrix[y > 0], y[y > 0], rcond=None)[0].astype(np.float64)
    return x


def twin(matrix: Array, x: Array) -> Array:
    """Another input with the same output, where `is_invertible` is False: a step in a direction
    that the uncut rows do not see, half as far as the first cut row would notice.

    Args:
        matrix: B, (m, n).
        x: The input, (n,); no entry of B x is 0.
    """
    before = matrix @ x
    rows = matrix[before > 0]
    unseen: Array = np.linalg.svd(rows)[2][-1] if len(rows) else np.eye(len(x))[0]  # (n,)
    change = matrix[before <= 0] @ unseen
    rising = change > 0
    room = (-before[before <= 0][rising] / change[rising]).min(initial=2.0)
    other: Array = x + room / 2 * unseen
    return other


def invertibility(
    inputs: int = INPUTS,
    expansions: Sequence[float] = EXPANSIONS,
    samples: int = 1000,
    seed: int = 0,
) -> tuple[Invertibility, ...]:
    """Lemma 2 tried on random layers: where it says that the input can be told, it is told; where
    not, a second input is shown.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for expansion in expansions:
        outputs = round(expansion * inputs)
        recovered, confused = [], []
        for _ in range(samples):
            matrix, x = rng.standard_normal((outputs, inputs)), rng.standard_normal(inputs)
            y = relu(matrix @ x)
            if is_invertible(matrix, y):
                recovered.append(_distance(recover(matrix, y), x))
            else:
                confused.append(_distance(relu(matrix @ twin(matrix, x)), y))
        rows.append(
            Invertibility(
                expansion,
                inputs,
                outputs,
                samples,
                preserved_share(outputs, inputs),
                len(recovered) / samples,
                max(recovered, default=0.0),
                max(confused, default=None),
            )
        )
    return tuple(rows)


def _distance(value: Array, expected: Array) -> float:
    return float(np.linalg.norm(value - expected) / max(float(np.linalg.norm(expected)), SMALL))


def _unexplained(x: Array, y: Array) -> float:
    """Share of y's variance that the best affine map of x leaves over."""
    inputs, targets = x - x.mean(axis=0), y - y.mean(axis=0)
    rest = targets - inputs @ np.linalg.lstsq(inputs, targets, rcond=SMALL)[0]
    return float((rest**2).sum() / (targets**2).sum())
