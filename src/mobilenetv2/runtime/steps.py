"""Which layers run together as one step, and how each tensor lies in memory.

Decided once for a network, by its wiring alone: the answer does not depend on the image's size.
`packing` lays the weights out for these steps, and `plan` gives them sizes and places in memory.

An inverted residual is one step: a 1x1 convolution, a 3x3 depthwise convolution and a 1x1
convolution in a row with no other reader in between, and the shortcut around them. The stem and the
blocks behind it, up to the first with a stride, are one chain, so that none of the large maps
between them ever exists in memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain

import msgspec

from ..graph import Network
from ..layer import IMAGE, Layer

MAX_STAGES = 3  # in a chain


class Stage(msgspec.Struct, frozen=True):
    """Layers, by name, that turn rows into rows: an inverted residual, a part of one, or a k x k
    convolution.

    Attributes:
        conv: The k x k convolution; then there is nothing else.
        expand: The 1x1 convolution before the depthwise one.
        depthwise: The 3x3 depthwise convolution.
        project: The 1x1 convolution behind it.
        add: The shortcut around all of them.
    """

    conv: str | None = None
    expand: str | None = None
    depthwise: str | None = None
    project: str | None = None
    add: str | None = None

    @property
    def layers(self) -> tuple[str, ...]:
        """The names that there are, in order."""
        parts = (self.conv, self.expand, self.depthwise, self.project, self.add)
        return tuple(name for name in parts if name is not None)


class Step(msgspec.Struct, frozen=True):
    """Layers that run together.

    Attributes:
        kind: "rows" (stages over strips of rows), "block" (one inverted residual with an expansion,
            which runs over rows, or over the whole plane where the map is small), "stripes" (a longer
            chain, see `chains`), "matmul" (a 1x1 convolution or a linear layer), "mean", "add",
            "concat" or "resize".
        stages: Of "rows", "block" and "stripes", each reading the one before.
        layers: Names of all layers, in order; the last one's output is the step's.
        sources: Names of the tensors that it reads.
    """

    kind: str
    stages: tuple[Stage, ...]
    layers: tuple[str, ...]
    sources: tuple[str, ...]

    @property
    def output(self) -> str:
        """Name of the tensor that it makes."""
        return self.layers[-1]


class Steps(msgspec.Struct, frozen=True):
    """A network as steps.

    Attributes:
        steps: In order.
        blocked: Names of the tensors whose channels lie in blocks, 16 of all pixels and then the
            next 16. They exist within a step only; all other tensors are dense.
        outputs: Names of the tensors that are the answer.
    """

    steps: tuple[Step, ...]
    blocked: frozenset[str]
    outputs: tuple[str, ...]


def group(network: Network, outputs: Sequence[str] | None = None) -> Steps:
    """Groups the layers that the outputs need.

    Args:
        network: The network, for an image of any size.
        outputs: Names of the wanted tensors; None: the network's own outputs.
    """
    outputs = network.outputs if outputs is None else tuple(outputs)
    layers = _needed(network.layers, outputs)
    readers = Counter(chain(outputs, *(layer.sources for layer in layers)))
    units = list(_units(layers, readers))
    head = _chain_length(units, readers, {layer.name: layer for layer in layers})
    steps = [_step(units[:head]), *(_step([unit]) for unit in units[head:])]
    return Steps(tuple(steps), frozenset(_blocked(steps)), outputs)


class _Unit(msgspec.Struct, frozen=True):
    """One stage, or one layer that is none."""

    stage: Stage | None
    layers: tuple[Layer, ...]

    @property
    def has_stride(self) -> bool:
        return any(layer.stride > 1 for layer in self.layers)


def _needed(layers: Sequence[Layer], outputs: Sequence[str]) -> list[Layer]:
    """The layers that the outputs are made of, in order."""
    needed = set(outputs)
    for layer in reversed(layers):
        if layer.name in needed:
            needed.update(layer.sources)
    return [layer for layer in layers if layer.name in needed]


def _units(layers: Sequence[Layer], readers: Mapping[str, int]) -> list[_Unit]:
    units = []
    index = 0
    while index < len(layers):
        stage = _block_at(layers[index : index + 4], readers) or _lone_stage(layers[index])
        taken = len(stage.layers) if stage else 1
        units.append(_Unit(stage, tuple(layers[index : index + taken])))
        index += taken
    return units


def _lone_stage(layer: Layer) -> Stage | None:
    if layer.kind == "depthwise":
        return Stage(depthwise=layer.name)
    return Stage(conv=layer.name) if layer.kind == "conv" and layer.kernel > 1 else None


def _block_at(layers: Sequence[Layer], readers: Mapping[str, int]) -> Stage | None:
    """The inverted residual that begins with the first layer: with or without its expansion."""

    def alone(index: int) -> bool:
        """Whether the next layer is the only reader of this one."""
        name = layers[index].name
        return readers[name] == 1 and name in layers[index + 1].sources

    kinds = [_part(layer) for layer in layers]
    begin = 1 if kinds[:3] == ["1x1", "3x3", "1x1"] else 0
    if kinds[begin : begin + 2] != ["3x3", "1x1"] or not all(map(alone, range(begin + 1))):
        return None
    if begin and layers[0].activation != layers[1].activation:
        return None
    project = layers[begin + 1]
    shortcut = None
    if len(layers) > begin + 2 and alone(begin + 1):
        add = layers[begin + 2]
        if add.kind == "add" and add.sources == (layers[0].sources[0], project.name):
            shortcut = add.name
    expand = layers[0].name if begin else None
    return Stage(None, expand, layers[begin].name, project.name, shortcut)


def _part(layer: Layer) -> str:
    """What a layer may be of an inverted residual."""
    if layer.kind == "depthwise" and layer.kernel == 3:
        return "3x3"
    return "1x1" if layer.kind == "conv" and (layer.kernel, layer.stride) == (1, 1) else ""


def _chain_length(
    units: Sequence[_Unit], readers: Mapping[str, int], layers: Mapping[str, Layer]
) -> int:
    """How many of the first units run as one chain: a k x k convolution of the image, and the blocks
    behind it up to the first with a stride.
    """
    first = units[0]
    if not (first.stage and first.stage.conv and first.layers[0].sources == (IMAGE,)):
        return 1
    length = 1
    for before, unit in zip(units, units[1:MAX_STAGES]):
        if not (unit.stage and unit.stage.project) or unit.stage.add:
            break
        if readers[before.layers[-1].name] != 1 or (length > 1 and before.has_stride):
            break
        length += 1
    return length


def _step(units: Sequence[_Unit]) -> Step:
    layers = [layer for unit in units for layer in unit.layers]
    stages = tuple(unit.stage for unit in units if unit.stage)
    names = tuple(layer.name for layer in layers)
    first = layers[0]
    if not stages:
        kind = {"conv": "matmul", "linear": "matmul", "pool": "mean"}.get(first.kind, first.kind)
    else:
        kind = "block" if len(stages) == 1 and stages[0].expand else "rows"
    return Step(kind, stages, names, first.sources)


def _blocked(steps: Sequence[Step]) -> set[str]:
    """What a depthwise convolution reads or writes lies in blocks, unless it is a step's own input
    or output.
    """
    blocked: set[str] = set()
    for step in steps:
        names = [name for stage in step.stages for name in stage.layers]
        for index, name in enumerate(names):
            if any(name == stage.depthwise for stage in step.stages):
                blocked.update(names[max(0, index - 1) : index + 1])
        blocked.discard(step.output)
    return blocked
