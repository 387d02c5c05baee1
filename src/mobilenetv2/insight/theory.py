"""The paper's argument on random data: what ReLU destroys and what it keeps.

Figure 1 and Theorem 1: a spiral in the plane, embedded in n dimensions by a random matrix, cut by
ReLU, and projected back. Lemmas 1 and 2: layers are linear where ReLU changes nothing, and invertible
where enough outputs stay positive.

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

from ..arguments import check_list, check_whole

Array = NDArray[np.float64]

DIMENSIONS = (2, 3, 5, 15, 30)  # of Figure 1
TURNS = 3
POINTS = 96  # of the spiral in `survival`, which averages over many matrices
STEP = 1e-6  # of a finite difference; the spiral has radius 1
INPUTS = 16  # channels of the narrowest bottleneck in the paper
OUTPUTS = (8, 16, 32, 96)
EXPANSIONS = (1, 2, 3, 4, 6)
SMALL = 1e-9  # relative to the largest; a singular value below it counts as 0


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
        outputs: m, up to 10000.
        inputs: n, the dimension of the volume.
    """
    outputs, inputs = check_whole("outputs", outputs, 0, 10_000), check_whole("inputs", inputs, 0)
    ways, choices = 0, 1
    for k in range(outputs - inputs + 1):
        ways, choices = ways + choices, choices * (outputs - k) // (k + 1)
    return float(ways / 2**outputs)


def surviving_area(matrices: Array) -> Array:
    """The exact share of a disc around the origin that x -> ReLU(B x) keeps two-dimensional, (M,).

    A direction survives if at least two rows are positive there. Each row is positive on half of
    all directions, so the disc is cut into 2 n sectors in each of which the same rows are positive.

    Args:
        matrices: B, (M, n, 2); no two rows are parallel.
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
    check_list("dimensions", dimensions)
    dimensions = [check_whole("a dimension", x, 2) for x in dimensions]
    check_whole("matrices", matrices, 2)
    rng = np.random.default_rng(seed)
    points = spiral(POINTS + 1)[1:]  # at the origin the map has no derivative
    records = []
    for dimension in dimensions:
        drawn = rng.standard_normal((matrices, dimension, 2))
        parts = np.array_split(drawn, 20)
        areas = np.concatenate([surviving_area(part) for part in parts])
        invertible = np.concatenate([_invertible(points, part) for part in parts])
        distortion = np.concatenate([_distortion(points, part) for part in parts])
        error = float(areas.std(ddof=1) / math.sqrt(matrices))
        theorem, area = preserved_share(dimension, 2), float(areas.mean())
        share, median = float(invertible.mean()), float(np.median(distortion))
        records.append(Survival(dimension, matrices, theorem, area, error, share, median))
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


@dataclass(frozen=True)
class LinearRegion:
    """A random layer ReLU(B x + b), once with a bias so large that ReLU cuts nothing ("uncut"), once
    without a bias.

    Attributes:
        inputs: n.
        outputs: m.
        rank: Dimensions that the uncut outputs span, around their mean.
        carried: Share of the inputs' variance that a linear map can recover from the uncut outputs,
            0..1.
        bent_uncut: Share of the uncut outputs' variance that no linear map of the inputs explains,
            0..1.
        bent_cut: The same without the bias, where ReLU cuts half of the values.
    """

    inputs: int
    outputs: int
    rank: int
    carried: float
    bent_uncut: float
    bent_cut: float


@dataclass(frozen=True)
class LemmaOne:
    """Lemma 1: ReLU on a disc in the plane.

    Attributes:
        points: Points of the disc, (P, 2).
        outputs: ReLU of them, (P, 2).
        interior: Share of the outputs that have no zero, 0..1; 1/4 of a disc around the origin.
        moved: The largest distance between such an output and its point; the lemma says 0.
    """

    points: Array
    outputs: Array
    interior: float
    moved: float


@dataclass(frozen=True)
class Invertibility:
    """Lemma 2 on random layers y = ReLU(B x).

    Attributes:
        expansion: m / n.
        inputs: n.
        outputs: m.
        samples: Number of layers, each with a new B and a new x.
        theorem: Share of inputs that y determines, by Theorem 1, 0..1.
        invertible: Share of the samples for which the lemma's condition holds, 0..1.
        recovery_error: Of those, the largest relative distance between x and `recover`'s result.
        twin_error: Of the others, the largest relative distance between y and the output of the
            second input that `twin` gives; None if there were no others.
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
    """Measures one random layer for each number of outputs, on standard normal inputs.

    Args:
        inputs: n.
        outputs: The m.
        samples: Inputs x of each layer.
        seed: Of the random numbers.
    """
    rng = np.random.default_rng(seed)
    regions = []
    for count in outputs:
        x = rng.standard_normal((samples, inputs))
        product = x @ rng.standard_normal((count, inputs)).T
        uncut = relu(product - product.min(axis=0) + 1)  # the bias keeps the least value at 1
        values = np.linalg.svd(uncut - uncut.mean(axis=0), compute_uv=False)
        regions.append(
            LinearRegion(
                inputs,
                count,
                int((values > SMALL * values[0]).sum()),
                1 - _unexplained(uncut, x),
                _unexplained(x, uncut),
                _unexplained(x, relu(product)),
            )
        )
    return tuple(regions)


def lemma_one(samples: int = 1500, seed: int = 0) -> LemmaOne:
    """Applies ReLU to random points, uniform in the unit disc.

    Args:
        samples: Number of points.
        seed: Of the random numbers.
    """
    rng = np.random.default_rng(seed)
    radius, angle = np.sqrt(rng.uniform(0, 1, samples)), rng.uniform(0, 2 * np.pi, samples)
    points = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    outputs = relu(points)
    interior = (outputs > 0).all(axis=1)
    moved = np.abs(outputs - points)[interior].max(initial=0.0)
    return LemmaOne(points, outputs, float(interior.mean()), float(moved))


def is_invertible(matrix: Array, y: Array) -> bool:
    """Lemma 2: whether ReLU(B x) = y has exactly one solution. It has if the rows of B at the positive
    entries of y span all n dimensions.

    Args:
        matrix: B, (m, n).
        y: An output of the layer, (m,).
    """
    rows = matrix[y > 0]
    inputs = matrix.shape[1]
    return bool(len(rows) >= inputs and np.linalg.matrix_rank(rows) == inputs)


def recover(matrix: Array, y: Array) -> Array:
    """The one x, (n,), with ReLU(B x) = y, from the positive entries of y.

    Args:
        matrix: B, (m, n), for which `is_invertible` is True.
        y: An output of the layer, (m,).
    """
    x: Array = np.linalg.lstsq(matrix[y > 0], y[y > 0], rcond=None)[0].astype(np.float64)
    return x


def twin(matrix: Array, x: Array) -> Array:
    """A second input with the same output, where `is_invertible` is False.

    It is a step away from x, orthogonal to the rows whose outputs are positive, and half as long as
    the step that would make another output positive.

    Args:
        matrix: B, (m, n).
        x: The input, (n,); no entry of B x is 0.

    Returns:
        The second input, (n,).
    """
    before = matrix @ x
    rows = matrix[before > 0]
    direction: Array = np.linalg.svd(rows)[2][-1] if len(rows) else np.eye(len(x))[0]  # (n,)
    change = matrix[before <= 0] @ direction
    rising = change > 0
    longest = (-before[before <= 0][rising] / change[rising]).min(initial=2.0)
    second: Array = x + longest / 2 * direction
    return second


def invertibility(
    inputs: int = INPUTS,
    expansions: Sequence[float] = EXPANSIONS,
    samples: int = 1000,
    seed: int = 0,
) -> tuple[Invertibility, ...]:
    """Tests Lemma 2 on random layers: recovers the input where the lemma says that it can be, and
    gives a second input with the same output where not.

    Args:
        inputs: n.
        expansions: The m / n, one record for each.
        samples: Random layers for each.
        seed: Of the random numbers.
    """
    check_whole("samples", samples)
    rng = np.random.default_rng(seed)
    records = []
    for expansion in expansions:
        outputs = round(expansion * inputs)
        recovery_errors, twin_errors = [], []
        for _ in range(samples):
            matrix, x = rng.standard_normal((outputs, inputs)), rng.standard_normal(inputs)
            y = relu(matrix @ x)
            if is_invertible(matrix, y):
                recovery_errors.append(_distance(recover(matrix, y), x))
            else:
                twin_errors.append(_distance(relu(matrix @ twin(matrix, x)), y))
        theorem, share = preserved_share(outputs, inputs), len(recovery_errors) / samples
        largest = max(recovery_errors, default=0.0), max(twin_errors, default=None)
        records.append(Invertibility(expansion, inputs, outputs, samples, theorem, share, *largest))
    return tuple(records)


def _distance(actual: Array, expected: Array) -> float:
    return float(np.linalg.norm(actual - expected) / max(float(np.linalg.norm(expected)), SMALL))


def _unexplained(x: Array, y: Array) -> float:
    """Share of y's variance that the best affine map of x does not explain, 0..1."""
    inputs, targets = x - x.mean(axis=0), y - y.mean(axis=0)
    rest = targets - inputs @ np.linalg.lstsq(inputs, targets, rcond=SMALL)[0]
    return float((rest**2).sum() / (targets**2).sum())
