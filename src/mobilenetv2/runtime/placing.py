"""A place in memory for every tensor of a plan, and for what a step needs for itself."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec

from ..layer import IMAGE, Shape
from . import _native

LINE_BYTES = 64  # tensors begin on a cache line


class UnplacedStep(msgspec.Struct):
    """A step whose tensors have names and no places yet.

    Attributes:
        step: What the extension will run.
        names: First layer, last layer.
        inputs: Names of the tensors that it reads.
        output: Name of the tensor that it makes.
        output_shape: (channels, height, width).
        scratch_items: Elements of memory for this step alone, beside each thread's own.
        in_place: The output may take the place of the input.
        item_scale: Elements of one output number: 4 of float32 among bytes.
    """

    step: _native.Step
    names: tuple[str, str]
    inputs: tuple[str, ...]
    output: str
    output_shape: Shape
    scratch_items: int = 0
    in_place: bool = False
    item_scale: int = 1

    @property
    def output_items(self) -> int:
        """Elements of the output."""
        return math.prod(self.output_shape) * self.item_scale


class Arena(msgspec.Struct):
    """Places for tensors that live from one step to another, first fit.

    Attributes:
        line: Elements in a cache line; places are multiples of it.
        taken: (begin, end) of the tensors that are alive, sorted.
    """

    line: int
    taken: list[tuple[int, int]] = msgspec.field(default_factory=list)

    @property
    def top(self) -> int:
        """No tensor that is alive reaches beyond."""
        return max((end for _, end in self.taken), default=0)

    def take(self, size: int) -> int:
        """A place for so many elements."""
        size = -(-size // self.line) * self.line
        begin = 0
        for other, end in self.taken:
            if other - begin >= size:
                break
            begin = end
        self.taken = sorted([*self.taken, (begin, begin + size)])
        return begin

    def free(self, begin: int) -> None:
        """Gives a place back."""
        self.taken = [place for place in self.taken if place[0] != begin]


def place(unplaced: Sequence[UnplacedStep], written: Mapping[str, int], item_bytes: int) -> None:
    """Gives every tensor a place; an input that nobody reads again is free afterwards."""
    last_use = {name: index for index, todo in enumerate(unplaced) for name in todo.inputs}
    arena = Arena(LINE_BYTES // item_bytes)
    places = {IMAGE: _native.IMAGE}
    for index, todo in enumerate(unplaced):
        dying = {
            name
            for name in todo.inputs
            if last_use[name] == index and name != IMAGE and name not in written
        }
        if todo.output in written:
            places[todo.output] = _native.ANSWER - written[todo.output]
        elif todo.in_place and todo.inputs[0] in dying:
            places[todo.output] = places[todo.inputs[0]]
            dying = set()
        else:
            places[todo.output] = arena.take(todo.output_items)
        todo.step.inputs = [places[name] for name in todo.inputs]
        todo.step.output = places[todo.output]
        if todo.scratch_items:
            todo.step.scratch = arena.take(todo.scratch_items)
        todo.step.top = arena.top
        if todo.scratch_items:
            arena.free(todo.step.scratch)
        for name in dying:
            arena.free(places[name])
