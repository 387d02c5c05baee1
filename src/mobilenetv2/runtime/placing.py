"""A place in memory for every tensor of a plan, and for what a step needs for itself."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

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
        thread_items: Elements of memory that its threads need beside that, all together.
        in_place: The output may take the place of the input.
        item_scale: Elements of one output number: 4 of float32 among bytes.
    """

    step: _native.Step
    names: tuple[str, str]
    inputs: tuple[str, ...]
    output: str
    output_shape: Shape
    scratch_items: int = 0
    thread_items: int = 0
    in_place: bool = False
    item_scale: int = 1

    @property
    def output_items(self) -> int:
        """Elements of the output."""
        return math.prod(self.output_shape) * self.item_scale


class Room(msgspec.Struct):
    """Memory for one tensor, or for tensors that take each other's place.

    Attributes:
        size: Elements.
        first: Index of the first step that needs it.
        last: Of the last one.
        begin: Where it lies; -1 before that is known.
    """

    size: int
    first: int
    last: int
    begin: int = -1

    @property
    def end(self) -> int:
        """Behind its last element."""
        return self.begin + self.size

    def take_place(self, others: Iterable[Room]) -> None:
        """Takes the lowest place that none of the others has while this one is needed."""
        self.begin = 0
        for other in sorted(others, key=lambda room: room.begin):
            if other.begin < 0 or other.last < self.first or self.last < other.first:
                continue
            if other.begin - self.begin >= self.size:
                break
            self.begin = max(self.begin, other.end)


def place(
    unplaced: Sequence[UnplacedStep], written: Mapping[str, int], item_bytes: int
) -> list[int]:
    """Gives every tensor a place.

    The steps that need most choose first, and so have no gaps between their tensors (greedy by
    breadth: Pisarchyk and Lee, Efficient Memory Management for Deep Neural Net Inference, 2020).

    Args:
        unplaced: The steps.
        written: The index of the caller's array that a tensor is written to, by its name.
        item_bytes: Bytes of one element.

    Returns:
        Elements that each step needs for one image, those of its threads included.
    """
    rooms, scratches = _rooms(unplaced, written, LINE_BYTES // item_bytes)
    of_steps: list[list[Room]] = [[] for _ in unplaced]
    for room in {id(room): room for room in [*rooms.values(), *scratches.values()]}.values():
        for index in range(room.first, room.last + 1):
            of_steps[index].append(room)
    needs = [
        todo.thread_items + sum(room.size for room in alive)
        for todo, alive in zip(unplaced, of_steps)
    ]
    placed: list[Room] = []
    for index in sorted(range(len(unplaced)), key=lambda index: -needs[index]):
        for room in sorted(of_steps[index], key=lambda room: -room.size):
            if room.begin < 0:
                room.take_place(placed)
                placed.append(room)
    places = {name: room.begin for name, room in rooms.items()}
    places |= {name: _native.ANSWER - index for name, index in written.items()}
    places[IMAGE] = _native.IMAGE
    for index, todo in enumerate(unplaced):
        todo.step.inputs = [places[name] for name in todo.inputs]
        todo.step.output = places[todo.output]
        todo.step.scratch = scratches[index].begin if index in scratches else 0
        todo.step.top = max((room.end for room in of_steps[index]), default=0)
    return [todo.step.top + todo.thread_items for todo in unplaced]


def _rooms(
    unplaced: Sequence[UnplacedStep], written: Mapping[str, int], line: int
) -> tuple[dict[str, Room], dict[int, Room]]:
    """Of each tensor by name, and of each step's scratch by the step's index. Tensors that are
    written to the caller's arrays have none.
    """
    last_use = {name: index for index, todo in enumerate(unplaced) for name in todo.inputs}
    rooms: dict[str, Room] = {}
    scratches: dict[int, Room] = {}
    for index, todo in enumerate(unplaced):
        if todo.scratch_items:
            scratches[index] = Room(-(-todo.scratch_items // line) * line, index, index)
        if todo.output in written:
            continue
        last = last_use.get(todo.output, index)
        (read, *_) = todo.inputs
        if todo.in_place and read in rooms and last_use[read] == index:
            rooms[todo.output] = rooms[read]
            rooms[read].last = last
        else:
            rooms[todo.output] = Room(-(-todo.output_items // line) * line, index, last)
    return rooms, scratches
