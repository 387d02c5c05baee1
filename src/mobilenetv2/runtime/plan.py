"""From `layers()` to what the extension runs: layers grouped into steps, and a place in memory for
every tensor.

An inverted residual (expand, depthwise, project, shortcut) is one step. The stem and the blocks up
to the first that halves the map are one chain, so that none of the large maps between them ever
exists. On small maps a block runs a chunk of wide channels at a time over the whole plane
("plane"), elsewhere in strips of rows ("rows")."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..graph import Layer
from . import _native

if TYPE_CHECKING:
    from ..int8 import Int8Checkpoint


@dataclass(frozen=True)
class Budget:
    """What a block may take of the caches: `strip` bytes for a strip's wide rows and their
    depthwise output, half of it for each of several threads, `plane` for a depthwise output that is kept whole, and `chunk` wide channels
    at once on such small maps. Measured; smaller strips save memory and cost time.
    """

    strip: int
    plane: int
    chunk: int


BUDGETS = {4: Budget(160 << 10, 512 << 10, 64), 1: Budget(96 << 10, 64 << 10, 256)}  # by item bytes
MOST_CHAINED = 3
BLOCK = _native.BLOCK  # channels that wide tensors keep together
LINE_BYTES = 64  # tensors begin on a cache line
LIMITS = {"linear": (-math.inf, math.inf), "relu": (0.0, math.inf), "relu6": (0.0, 6.0)}

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Weights:
    """Numbers of the packed weights by layer name; `pixels` is the first layer's for uint8 pixels.
    Activations are of `item_bytes`.
    """

    numbers: Mapping[str, int]
    pixels: int
    panel_channels: int
    item_bytes: int


@dataclass
class Group:
    """Layers that run as one step: a whole inverted residual, or a single layer."""

    layers: tuple[Layer, ...]

    @property
    def is_block(self) -> bool:
        return any(layer.kind == "depthwise" for layer in self.layers) and len(self.layers) > 1

    @property
    def first(self) -> Layer:
        return self.layers[0]

    @property
    def last(self) -> Layer:
        return self.layers[-1]

    @property
    def has_shortcut(self) -> bool:
        return self.last.kind == "add"

    @property
    def halves(self) -> bool:
        return self.first.in_shape[1:] != self.last.out_shape[1:]


@dataclass
class Planned:
    """A step whose tensors still have names instead of places. `wide_floats` is memory for the step
    alone; `in_place`: the output may take the place of the input.
    """

    step: _native.Step
    inputs: tuple[str, ...]
    output: str
    output_shape: Shape
    wide_floats: int = 0
    in_place: bool = False


@dataclass
class Arena:
    """Places for tensors that live from one step to another, first fit; in items, a `line` of them
    together.
    """

    line: int
    taken: list[tuple[int, int]] = field(default_factory=list)  # (begin, end), sorted

    @property
    def top(self) -> int:
        return max((end for _, end in self.taken), default=0)

    def take(self, size: int) -> int:
        size = -(-size // self.line) * self.line
        begin = 0
        for other, end in self.taken:
            if other - begin >= size:
                break
            begin = end
        self.taken = sorted([*self.taken, (begin, begin + size)])
        return begin

    def free(self, begin: int) -> None:
        self.taken = [place for place in self.taken if place[0] != begin]


def up_to_block(number: int) -> int:
    """The next multiple of BLOCK."""
    return -(-number // BLOCK) * BLOCK


@dataclass(frozen=True)
class Plan:
    """The extension's plan for images of one size, the last layer's (C, H, W), what each step
    computes, and the steps that the plan was made of.
    """

    native: _native.Plan
    out_shape: Shape
    steps: tuple[tuple[str, str, str], ...]  # first layer, last layer, kind of step
    native_steps: tuple[_native.Step, ...]


def plan(
    network: _native.ByteNetwork,
    layers: Sequence[Layer],
    weights: Weights,
    threads: int,
    quantized: Int8Checkpoint | None = None,
) -> Plan:
    """Plans the run of `layers` for images of one size."""
    chains = list(chained(grouped(layers)))
    planned = [_step(chain, weights, threads) for chain in chains]
    if quantized:
        _round_means(layers, planned, quantized)
        if layers[-1].kind != "linear":
            planned.append(_to_floats(layers[-1], quantized))
            chains.append(chains[-1])
    last_use = {name: index for index, step in enumerate(planned) for name in step.inputs}
    arena = Arena(LINE_BYTES // weights.item_bytes)
    places = {"image": _native.IMAGE}
    for index, todo in enumerate(planned):
        dying = {name for name in todo.inputs if last_use[name] == index and name != "image"}
        if index + 1 == len(planned):
            places[todo.output] = _native.ANSWER
        elif todo.in_place and todo.inputs[0] in dying:
            places[todo.output] = places[todo.inputs[0]]
            dying = set()
        else:
            places[todo.output] = arena.take(math.prod(todo.output_shape))
        todo.step.inputs = [places[name] for name in todo.inputs]
        todo.step.output = places[todo.output]
        if todo.wide_floats:
            todo.step.wide = arena.take(todo.wide_floats)
        todo.step.top = arena.top
        if todo.wide_floats:
            arena.free(todo.step.wide)
        for name in dying:
            arena.free(places[name])
    names = tuple(
        (chain[0].first.name, chain[-1].last.name, todo.step.kind)
        for chain, todo in zip(chains, planned)
    )
    steps = tuple(todo.step for todo in planned)
    return Plan(network.plan(list(steps), threads), layers[-1].out_shape, names, steps)


def _round_means(
    layers: Sequence[Layer], planned: Sequence[Planned], quantized: Int8Checkpoint
) -> None:
    from .int8_packing import mean_rounding

    named = {layer.name: layer for layer in layers}
    for todo in planned:
        if todo.step.kind == "mean":
            step = todo.step
            step.rounding, step.mean_factor, step.mean_divisor = mean_rounding(
                quantized, named[todo.output]
            )


def _to_floats(last: Layer, quantized: Int8Checkpoint) -> Planned:
    """The step that makes floats of what the last layer stores."""
    step = _native.Step()
    step.kind = "real"
    step.out_channels, step.in_height, step.in_width = last.out_shape
    stored = quantized.activations[last.name]
    rounding = _native.Rounding()
    rounding.input_zero, rounding.real_factor = stored.zero_point, stored.scale
    step.rounding = rounding
    return Planned(step, (last.name,), "real", last.out_shape)


def grouped(layers: Sequence[Layer]) -> list[Group]:
    """Puts expand, depthwise, project and the shortcut around them together; other layers stay
    alone.
    """
    readers: dict[str, int] = {}
    for layer in layers:
        for source in layer.sources:
            readers[source] = readers.get(source, 0) + 1
    groups: list[Group] = []
    index = 0
    while index < len(layers):
        taken = _block_at(layers[index:], readers)
        groups.append(Group(tuple(layers[index : index + taken])))
        index += taken
    return groups


def _block_at(layers: Sequence[Layer], readers: Mapping[str, int]) -> int:
    """How many of the leading layers make up one inverted residual, or 1."""
    roles = [layer.role for layer in layers[:4]]
    taken = (
        3
        if roles[:3] == ["expand", "depthwise", "project"]
        else 2
        if roles[:2] == ["depthwise", "project"]
        else 1
    )
    if any(readers[layer.name] > 1 for layer in layers[: taken - 1]):
        return 1  # another block reads a wide tensor
    shortcut = (*layers[0].sources, layers[taken - 1].name)
    if (
        taken > 1
        and len(layers) > taken
        and layers[taken].kind == "add"
        and layers[taken].sources == shortcut
    ):
        return taken + 1
    return taken


def chained(groups: Sequence[Group]) -> Iterator[list[Group]]:
    """Joins the stem and the blocks behind it up to the first that halves the map; other groups
    stay alone.
    """
    head = [groups[0]]
    for group in groups[1:MOST_CHAINED]:
        if not group.is_block or group.has_shortcut or (len(head) > 1 and head[-1].halves):
            break
        head.append(group)
    yield head
    for group in groups[len(head) :]:
        yield [group]


def _step(chain: list[Group], weights: Weights, threads: int) -> Planned:
    first, last = chain[0].first, chain[-1].last
    sources = first.sources
    step = _native.Step()
    step.in_channels, step.in_height, step.in_width = first.in_shape
    step.out_channels, step.out_height, step.out_width = last.out_shape
    todo = Planned(step, sources, last.name, last.out_shape)
    todo.in_place = len(chain) == 1 and chain[0].is_block and chain[0].has_shortcut
    if chain[0].is_block and _fits_plane(chain[0], weights, threads):
        step.kind = "plane"
        step.stages = [_stage(chain[0], weights)]
        depthwise = next(layer for layer in chain[0].layers if layer.kind == "depthwise")
        channels = depthwise.out_shape[0]
        unit = max(1, BLOCK // weights.panel_channels)  # panels of a whole block
        units = -(-channels // (unit * weights.panel_channels))
        step.chunk = unit * max(
            1,
            min(
                BUDGETS[weights.item_bytes].chunk // (unit * weights.panel_channels),
                units // threads,
            ),
        )
        todo.wide_floats = up_to_block(channels) * math.prod(depthwise.out_shape[1:])
    elif (
        chain[0].is_block
        or first.kind == "depthwise"
        or (first.kind == "conv" and first.kernel > 1)
    ):
        step.kind = "rows"
        stages = [_stage(group, weights) for group in chain]
        _cut_strips(stages, weights.item_bytes, threads)
        step.stages = stages
        if todo.in_place:  # bands keep the rows around their edges for one another
            halo = 2 * stages[0].dilation * (threads - 1)
            todo.wide_floats = halo * stages[0].in_width * stages[0].in_channels
    elif first.kind in ("conv", "linear"):
        step.kind = "matmul"
        step.matrix = weights.numbers[first.name]
        step.low, step.high = LIMITS[first.activation]
    else:
        step.kind = {"pool": "mean"}.get(first.kind, first.kind)
        step.input_channels = [first.out_shape[0] // len(sources)] * len(sources)
    return todo


def _stage(group: Group, weights: Weights) -> _native.Stage:
    """The numbers of a block, a lone depthwise layer or a k x k convolution."""
    stage = _native.Stage()
    spatial = next(layer for layer in group.layers if layer.kernel > 1)
    stage.in_channels, stage.in_height, stage.in_width = group.first.in_shape
    stage.out_channels, stage.out_height, stage.out_width = group.last.out_shape
    stage.wide_channels = up_to_block(spatial.in_shape[0])
    stage.kernel, stage.stride, stage.dilation = spatial.kernel, spatial.stride, spatial.dilation
    stage.top, _, stage.left, _ = spatial.padding
    stage.shortcut = group.has_shortcut
    for layer in group.layers:
        if layer.kind == "depthwise":
            stage.depthwise = weights.numbers[layer.name]
            stage.wide_low, stage.wide_high = LIMITS[layer.activation]
        elif layer.role == "expand":
            stage.expand = weights.numbers[layer.name]
        elif layer.role == "project":
            stage.project = weights.numbers[layer.name]
            stage.low, stage.high = LIMITS[layer.activation]
        elif layer.kind == "conv":
            stage.conv, stage.conv_pixels = weights.numbers[layer.name], weights.pixels
            stage.low, stage.high = LIMITS[layer.activation]
    return stage


def _fits_plane(group: Group, weights: Weights, threads: int) -> bool:
    """Whether a block runs over its whole plane: the map is small, and there are chunks for all
    threads.
    """
    if group.first.role != "expand":
        return False
    depthwise = next(layer for layer in group.layers if layer.kind == "depthwise")
    channels, height, width = depthwise.out_shape
    budget = BUDGETS[weights.item_bytes]
    at_once = max(budget.chunk, weights.panel_channels) * math.prod(depthwise.in_shape[1:])
    kept = channels * height * width
    if weights.item_bytes * kept > budget.plane or weights.item_bytes * at_once > budget.strip:
        return False
    chunks = -(-channels // weights.panel_channels)
    return threads == 1 or chunks >= 2 * threads or height < 8 * threads


def _cut_strips(stages: list[_native.Stage], item_bytes: int, threads: int) -> None:
    """Output rows at once: for the last stage as many as fit the budget, for those before what it
    asks for.
    """
    last = stages[-1]
    wide = max(last.wide_channels, last.out_channels)
    bytes_a_row = item_bytes * wide * (last.in_width * last.stride + last.out_width)
    budget = BUDGETS[item_bytes].strip // min(threads, 2)
    last.strip = max(1, min(budget // bytes_a_row, last.out_height))
    for before, after in zip(reversed(stages[:-1]), reversed(stages[1:])):
        before.strip = min(after.strip * after.stride, before.out_height)
