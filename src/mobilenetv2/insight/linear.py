"""Random layers with ReLU: linear where ReLU changes nothing, and still invertible where enough outputs
stay positive.

Sandler et al. 2018, Section 3.2 and the lemmas of Appendix A.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .spiral import preserved_share, relu

Array = NDArray[np.float64]

INPUTS = 16  # channels of the narrowest bottleneck in the paper
OUTPUTS = (8, 16, 32, 96)
EXPANSIONS = (1, 2, 3, 4, 6)
SMALL = 1e-9  # relative to the largest; a singular value below it counts as 0


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
    """The one x with ReLU(B x) = y, from the positive entries of y.

    Args:
        matrix: B, (m, n), for which `is_invertible` is True.
        y: An output of the layer, (m,).

    Returns:
        x, (n,).
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
        records.append(
            Invertibility(
                expansion,
                inputs,
                outputs,
                samples,
                preserved_share(outputs, inputs),
                len(recovery_errors) / samples,
                max(recovery_errors, default=0.0),
                max(twin_errors, default=None),
            )
        )
    return tuple(records)


def _distance(actual: Array, expected: Array) -> float:
    return float(np.linalg.norm(actual - expected) / max(float(np.linalg.norm(expected)), SMALL))


def _unexplained(x: Array, y: Array) -> float:
    """Share of y's variance that the best affine map of x does not explain, 0..1."""
    inputs, targets = x - x.mean(axis=0), y - y.mean(axis=0)
    rest = targets - inputs @ np.linalg.lstsq(inputs, targets, rcond=SMALL)[0]
    return float((rest**2).sum() / (targets**2).sum())
