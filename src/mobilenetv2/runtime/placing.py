"""A place in memory for every tensor of a plan, and for what a step needs for itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from ..layer import IMAGE, Shape
from . import _native
from .bands import Band

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
        band: The pixels that it runs on; None: all of them.
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
    band: Band | None = None

    @property
    def output_items(self) -> int:
        """Elements of the output, or of as much of it as exists at a time."""
        channels, height, width = self.output_shape
        if self.band is not None and self.output in self.band.local:
            height, width = self.band.height, self.band.width
        return channels * height * width * self.item_scale

    def before(self, name: str, items: int) -> int:
        """Elements of a tensor, with `items` for each pixel, that lie before what the step reads or
        makes.
        """
        return 0 if self.band is None or name in self.band.local else self.band.first * items


class Room(msgspec.Struct):
    """Memory for one tensor, or for tensors that take each other's place.

    Attributes:
        size: Elements.
        first: Index of the first step that needs it.
        last: Of the last one.
        begin: Where it lies.
    """

    size: int
    first: int
    last: int
    begin: int = 0

    @property
    def end(self) -> int:
        """Behind its last element."""
        return self.begin + self.size

    def take_place(self, others: Iterable[Room]) -> None:
        """Takes the lowest place that none of the others has while this one is needed."""
        self.begin = 0
        for other in sorted(others, key=lambda room: room.begin):
            if other.last < self.first or self.last < other.first:
                continue
            if other.begin - self.begin >= self.size:
                break
            self.begin = max(self.begin, other.end)


def place(
    unplaced: Sequence[UnplacedStep], written: Mapping[str, int], item_bytes: int
) -> list[int]:
    """Gives every tensor a place.

    Of three orders in which tensors take the lowest free place, the one with the lowest peak counts:
    the order of the steps; the largest first; or those of the step that needs most memory first
    (Pisarchyk and Lee, Efficient Memory Management for Deep Neural Net Inference, 2020).

    Args:
        unplaced: The steps.
        written: The index of the caller's array that a tensor is written to, by its name.
        item_bytes: Bytes of one element.

    Returns:
        Elements that each step needs for one image, those of its threads included.
    """
    rooms, scratches = _rooms(unplaced, written, LINE_BYTES // item_bytes)
    of_steps: list[list[Room]] = [[] for _ in unplaced]
    every = list({id(room): room for room in [*rooms.values(), *scratches.values()]}.values())
    for room in every:
        for index in range(room.first, room.last + 1):
            of_steps[index].append(room)
    threads = [todo.thread_items for todo in unplaced]
    needs = [items + sum(room.size for room in alive) for items, alive in zip(threads, of_steps)]
    by_need = sorted(every, key=lambda room: (-max(needs[room.first : room.last + 1]), -room.size))
    orders = [by_need, sorted(every, key=lambda room: -room.size), every]

    def peak(order: Sequence[Room]) -> int:
        _take_places(order)
        return max(items + top for items, top in zip(threads, _tops(of_steps)))

    _take_places(min(orders, key=peak))
    places = {name: room.begin for name, room in rooms.items()}
    places |= {name: _native.ANSWER - index for name, index in written.items()}
    places[IMAGE] = _native.IMAGE
    for index, todo in enumerate(unplaced):
        channels = todo.step.input_channels or [0]
        todo.step.inputs = [
            places[name] + todo.before(name, items)
            for name, items in zip(todo.inputs, channels, strict=True)
        ]
        todo.step.output = places[todo.output]
        todo.step.scratch = scratches[index].begin if index in scratches else 0
        before = todo.before(todo.output, todo.output_shape[0])
        if todo.output in written:
            todo.step.scratch += before
        else:
            todo.step.output += before * todo.item_scale
    for todo, top in zip(unplaced, _tops(of_steps)):
        todo.step.top = top
    return [todo.step.top + todo.thread_items for todo in unplaced]


def _take_places(order: Sequence[Room]) -> None:
    for index, room in enumerate(order):
        room.take_place(order[:index])


def _tops(of_steps: Iterable[Iterable[Room]]) -> list[int]:
    """The end of the memory that each step's tensors lie in."""
    return [max((room.end for room in alive), default=0) for alive in of_steps]


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
        last = max(last_use.get(todo.output, index), index)
        (read, *_) = todo.inputs
        if todo.output in rooms:
            rooms[todo.output].last = last
        elif todo.in_place and read in rooms and last_use[read] == index:
            rooms[todo.output] = rooms[read]
            rooms[read].last = last
        else:
            rooms[todo.output] = Room(-(-todo.output_items // line) * line, index, last)
    return rooms, scratches
