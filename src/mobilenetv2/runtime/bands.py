"""Bands of pixels: where steps that work on single pixels follow one another on a large map, all of them
run on some pixels before any runs on the next ones, so that what they hand on is never a whole map.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

import msgspec

from ..layer import IMAGE, Layer
from .steps import Step, Steps

UNIT = (
    64  # pixels of a band for one thread; bands then begin on a cache line, whatever the channels
)
MOST_BANDS = 32
KINDS = ("matmul", "concat")


class Band(msgspec.Struct, frozen=True):
    """Some pixels of a map, counted over all images of a batch.

    Attributes:
        first: Pixels of one image before it.
        height: Its pixels as rows, and
        width: columns.
        local: Names of the tensors that exist for one band at a time.
    """

    first: int
    height: int
    width: int
    local: frozenset[str]


def banded(
    steps: Steps, layers: Mapping[str, Layer], threads: int
) -> Iterator[tuple[Step, Band | None]]:
    """The steps in the order in which they run, each with its band; None for all pixels.

    Args:
        steps: The network.
        layers: By name.
        threads: That will run them.
    """
    run: list[Step] = []
    for step in steps.steps:
        if run and not (
            _works_on_pixels(step) and _pixels(step, layers) == _pixels(run[0], layers)
        ):
            yield from _cut(run, steps, layers, threads)
            run = []
        if _works_on_pixels(step):
            run.append(step)
        else:
            yield step, None
    yield from _cut(run, steps, layers, threads)


def _works_on_pixels(step: Step) -> bool:
    return step.kind in KINDS


def _pixels(step: Step, layers: Mapping[str, Layer]) -> int:
    _, height, width = layers[step.output].out_shape
    return height * width


def _cut(
    run: Sequence[Step], steps: Steps, layers: Mapping[str, Layer], threads: int
) -> Iterator[tuple[Step, Band | None]]:
    """The steps of a run for one band after another, if there are several and a tensor gets smaller."""
    outside = [step for step in steps.steps if step not in run]
    read = {*steps.outputs, *chain.from_iterable(step.sources for step in outside)}
    local = frozenset(step.output for step in run) - read
    pixels = _pixels(run[0], layers) if run else 0
    # the caller's arrays are read, and joined into, as a whole
    whole = {name for step in run for name in step.sources}
    whole |= {step.output for step in run if step.kind == "concat"}
    most = UNIT * max(threads, -(-pixels // (UNIT * MOST_BANDS)))
    if not local or pixels <= most or whole & {IMAGE, *steps.outputs}:
        yield from ((step, None) for step in run)
        return
    for first in range(0, pixels, most):
        count = min(most, pixels - first)
        width = next(width for width in range(UNIT, 0, -1) if count % width == 0)
        band = Band(first, count // width, width, local)
        yield from ((step, band) for step in run)
