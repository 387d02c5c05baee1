"""ReLU where nothing is cut, and what can be undone where something is: Section 3.2 and Appendix A's
lemmas, as experiments on random layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .spiral import preserved_share, relu

Array = NDArray[np.float64]

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
    found = []
    for count in outputs:
        x = rng.standard_normal((samples, inputs))
        product = x @ rng.standard_normal((count, inputs)).T
        uncut = relu(product - product.min(axis=0) + 1)  # the bias keeps the least value at 1
        values = np.linalg.svd(uncut - uncut.mean(axis=0), compute_uv=False)
        found.append(
            LinearRegion(
                inputs,
                count,
                int((values > SMALL * values[0]).sum()),
                1 - _unexplained(uncut, x),
                _unexplained(x, uncut),
                _unexplained(x, relu(product)),
            )
        )
    return tuple(found)


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
    found = []
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
        found.append(
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
    return tuple(found)


def _distance(found: Array, wanted: Array) -> float:
    return float(np.linalg.norm(found - wanted) / max(float(np.linalg.norm(wanted)), SMALL))


def _unexplained(x: Array, y: Array) -> float:
    """Share of y's variance that the best affine map of x leaves over."""
    inputs, targets = x - x.mean(axis=0), y - y.mean(axis=0)
    rest = targets - inputs @ np.linalg.lstsq(inputs, targets, rcond=SMALL)[0]
    return float((rest**2).sum() / (targets**2).sum())
