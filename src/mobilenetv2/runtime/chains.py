"""How much of a chain of stages runs at a time, and where the first chain ends.

A chain keeps a few rows of every wide tensor. It may go on to the second block with a stride: then the
map that the first one makes, mostly the largest of the network, never exists as a whole, and the columns
are cut into stripes, so that the rows are narrower. This saves memory and costs a little time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain

import msgspec

from ..layer import Layer
from . import _native
from .steps import Step, Steps

STRIPES = 2
NARROWEST = 8  # columns of a stripe's output
MOST_STAGES = 8  # as native/program_reader.hpp


def longer_chain(steps: Steps, layers: Mapping[str, Layer]) -> Steps | None:
    """The same steps with the blocks up to the second stride in the first chain; None where there is
    no such chain, or its columns are too few.

    Args:
        steps: The network.
        layers: By name.
    """
    first = steps.steps[0]
    if not (first.stages and first.stages[0].conv):
        return None
    readers = Counter(chain(steps.outputs, *(step.sources for step in steps.steps)))
    joined = [first]
    for step in steps.steps[1:MOST_STAGES]:
        before = joined[-1].output
        if step.kind != "block" or step.sources != (before,) or readers[before] != 1:
            return None
        joined.append(step)
        if any(layers[name].stride > 1 for name in step.layers):
            break
    else:
        return None
    stages = tuple(chain.from_iterable(step.stages for step in joined))
    names = tuple(chain.from_iterable(step.layers for step in joined))
    dilated = any(layers[name].dilation > 1 for name in names)
    width = layers[names[-1]].out_shape[2]
    if len(stages) > MOST_STAGES or dilated or width < STRIPES * NARROWEST:
        return None
    merged = Step("stripes", stages, names, first.sources)
    return msgspec.structs.replace(steps, steps=(merged, *steps.steps[len(joined) :]))


def cut_strips(stages: Sequence[_native.Stage], item_bytes: int, budget: int) -> None:
    """Output rows at once: of the last stage as many as fit the budget, of those before what it asks
    for.

    Args:
        stages: In order.
        item_bytes: Bytes of one activation.
        budget: Bytes for the wide rows of all stages and their depthwise output.
    """
    last = stages[-1]
    row_bytes, rows = 0, 1  # for one output row of the last stage
    for stage in reversed(stages):
        wide = max(stage.wide_channels, stage.out_channels)
        items = wide * (stage.in_width * stage.stride + stage.out_width)
        if stage.conv >= 0 and stage is not last:
            items = stage.in_channels * stage.in_width * stage.stride
        row_bytes += rows * item_bytes * items
        rows *= stage.stride
    last.strip = max(1, min(budget // row_bytes, last.out_height))
    for before, after in zip(reversed(stages[:-1]), reversed(stages[1:])):
        before.strip = min(after.strip * after.stride, before.out_height)


def cut_stripes(step: _native.Step, stages: Sequence[_native.Stage], rows: int) -> None:
    """So many output rows of every stage at once, some columns of them."""
    step.stripes = STRIPES
    for stage in stages:
        stage.strip = min(rows, stage.out_height)
