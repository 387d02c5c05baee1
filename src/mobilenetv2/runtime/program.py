"""Programs: a plan for images of one size and its weights in one flat file `.mnv2`, which
`native/program.cpp` runs without Python.

The weights are written as `packing` gives them to the extension, before they are cut for a target,
and the plan for one thread: what depends on the target or on the threads is put in when the file is
opened. `native/program_file.hpp` has the same records.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ..arguments import check_path, check_whole
from ..checkpoint import Checkpoint
from ..description import describe
from ..errors import ModelFileError, NotFiniteError, UserError
from ..files import write_atomically
from ..graph import network
from ..heads import SSDHead
from ..int8 import AnyCheckpoint, Int8Checkpoint
from . import _native
from .choices import chosen_isa
from .int8_packing import pack_int8
from .packing import pack
from .plan import LABELS_IN_A_BYTE, Plan, plan
from .rounding import int8_obstacle
from .steps import group

MAGIC, VERSION, ALIGNMENT = b"mnv2prog", 1, 64
MOST_BATCH, MOST_THREADS, MOST_SIDE = 1 << 10, 64, 1 << 14  # as native/program_reader.hpp
NAME_BYTES = 64
TYPES = (np.float32, np.uint8, np.uint16)  # of outputs, by number
STEP_KINDS = ("ROWS", "PLANE", "MATMUL", "MEAN", "ADD", "CONCAT", "RESIZE", "LABELS", "TO_FLOAT")
ROUNDING_MODES = (
    "ONCE",
    "ONCE_SATURATING",
    "TWICE",
    "TWICE_NON_NEGATIVE",
    "ONCE_TO_FLOAT",
    "TWICE_TO_FLOAT",
)


@dataclass(frozen=True)
class _Layer:
    """Weights as they were handed over.

    Attributes:
        depthwise: Whether it is a depthwise layer; else a matrix.
        depth: Of a matrix; of a depthwise layer, its copies.
        arrays: Weights, bias and the factors of an int8 layer.
    """

    depthwise: bool
    channels: int
    depth: int
    input_factor: int
    arrays: tuple[NDArray[Any], ...]
    rounding: _native.Rounding


@dataclass
class _Recorder:
    """Stands in for the extension's network: what is packed and planned is written down.

    Attributes:
        layers: In the order in which they were added.
        handles: The index in `layers` of each matrix, and of each depthwise layer.
        padding: Of the image's channels.
    """

    threads: int = 1
    panel_channels: int = _native.BLOCK
    layers: list[_Layer] = field(default_factory=list)
    handles: tuple[list[int], list[int]] = field(default_factory=lambda: ([], []))
    padding: list[float] = field(default_factory=list)

    def add_matrix(
        self,
        weights: NDArray[Any],
        bias: NDArray[Any],
        input_factor: int = 0,
        rounding: _native.Rounding | None = None,
        **factors: NDArray[Any],
    ) -> int:
        channels, depth = weights.shape
        return self._add(False, channels, depth, input_factor, (weights, bias), factors, rounding)

    def add_depthwise(
        self,
        weights: NDArray[Any],
        bias: NDArray[Any],
        copies: int = 1,
        rounding: _native.Rounding | None = None,
        **factors: NDArray[Any],
    ) -> int:
        return self._add(True, len(bias), copies, 0, (weights, bias), factors, rounding)

    def set_pixel_padding(self, values: list[float]) -> None:
        self.padding = values

    def plan(self, steps: list[_native.Step], threads: int) -> None:
        """The steps are in the plan that is made around this."""

    def _add(
        self,
        depthwise: bool,
        channels: int,
        depth: int,
        input_factor: int,
        arrays: tuple[NDArray[Any], ...],
        factors: Mapping[str, NDArray[Any]],
        rounding: _native.Rounding | None,
    ) -> int:
        ordered = tuple(
            factors[name] for name in ("factor", "fraction", "power") if name in factors
        )
        handles = self.handles[depthwise]
        handles.append(len(self.layers))
        self.layers.append(
            _Layer(
                depthwise,
                channels,
                depth,
                input_factor,
                (*arrays, *ordered),
                rounding or _native.Rounding(),
            )
        )
        return len(handles) - 1


def write_program(
    checkpoint: AnyCheckpoint,
    path: str | os.PathLike[str],
    size: tuple[int, int] | None = None,
    batch: int = 1,
    threads: int = 1,
    mask: bool = False,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Writes a model as a program. The same arguments give the same bytes.

    Args:
        checkpoint: The model, float32 or int8.
        path: The file.
        size: (height, width) of the pixels; None: the model's own.
        batch: Images per run at most.
        threads: Threads that run it, unless who opens it says another number.
        mask: Of a segmenter, the best class of each pixel instead of the scores of all.
        facts: More entries of the file's description.

    Raises:
        UserError: An argument is out of range, or the network has layers without int8 kernels.
        ModelFileError: The file cannot be written.
    """
    target = Path(check_path("path", path))
    write_atomically(
        target, program_bytes(checkpoint, size, batch, threads, mask=mask, facts=facts)
    )


def program_bytes(
    checkpoint: AnyCheckpoint,
    size: tuple[int, int] | None = None,
    batch: int = 1,
    threads: int = 1,
    mask: bool = False,
    facts: Mapping[str, Any] | None = None,
) -> bytes:
    """What `write_program` writes.

    Raises:
        UserError: As there.
    """
    head = checkpoint.architecture.head
    batch = check_whole("batch", batch, most=MOST_BATCH)
    threads = check_whole("threads", threads, most=MOST_THREADS)
    if mask and head.task != "segmentation":
        raise UserError(f"the model's head is {head}: it gives no mask")
    if size is not None:
        checkpoint = replace(
            checkpoint,
            architecture=replace(checkpoint.architecture, resolution=size),
            preprocessing=replace(checkpoint.preprocessing, size=size),
        )
    height, width = checkpoint.architecture.resolution
    if max(height, width) > MOST_SIDE:
        raise UserError(f"a program takes pixels up to {MOST_SIDE} x {MOST_SIDE}")
    recorder, chosen = _recorded(checkpoint, mask)
    if isinstance(head, SSDHead):
        facts = {"score": head.score, **(facts or {})}
    described = {
        **describe(checkpoint, "uint8", tuple(chosen.outputs), raw=not mask),
        **(facts or {}),
        "batch": batch,
        "outputs": [
            {"name": name, "type": np.dtype(kind).name, "shape": [batch, *shape[1:], shape[0]]}
            for name, kind, shape in _outputs(chosen)
        ],
    }
    if isinstance(head, SSDHead):
        described["score"] = head.score
    sections = _sections(recorder, chosen)
    sections["labels"] = b"".join(f"{label}\0".encode() for label in checkpoint.labels)
    sections["description"] = json.dumps(
        described, ensure_ascii=False, separators=(",", ":")
    ).encode()
    channels = checkpoint.architecture.in_channels
    int8 = isinstance(checkpoint, Int8Checkpoint)
    numbers = struct.pack("<6i16x", int8, batch, height, width, channels, threads)
    return _file(numbers, list(sections.values()))


def _recorded(checkpoint: AnyCheckpoint, mask: bool) -> tuple[_Recorder, Plan]:
    described = network(checkpoint.architecture)
    names, mask_of = None, None
    if mask:
        scores = described[described.outputs[0]]
        names = (scores.sources[0] if scores.kind == "resize" else scores.name,)
        mask_of = scores.name
    steps = group(described, names)
    recorder = _Recorder()
    native = cast(Any, recorder)
    if isinstance(checkpoint, Checkpoint):
        weights, int8 = pack(native, checkpoint, steps), None
    else:
        if obstacle := int8_obstacle(checkpoint.architecture, checkpoint.rounding):
            raise UserError(f"the network cannot run in int8: {obstacle}")
        weights, int8 = pack_int8(native, checkpoint, steps), checkpoint
    return recorder, plan(native, described, steps, weights, 1, int8, mask_of)


def _outputs(chosen: Plan) -> list[tuple[str, type[Any], tuple[int, int, int]]]:
    """Name, type and (channels, height, width) of each output."""
    listed: list[tuple[str, type[Any], tuple[int, int, int]]] = []
    for name, (channels, height, width) in chosen.outputs.items():
        kind: type[Any] = np.float32
        if name == chosen.mask:
            kind = np.uint8 if channels <= LABELS_IN_A_BYTE else np.uint16
            channels = 1
        listed.append((name, kind, (channels, height, width)))
    return listed


def _sections(recorder: _Recorder, chosen: Plan) -> dict[str, bytes]:
    """What lies behind the header, in order, but for labels and description."""
    outputs = b"".join(
        struct.pack(f"<{NAME_BYTES}s4i", _name(name), TYPES.index(kind), *shape)
        for name, kind, shape in _outputs(chosen)
    )
    renumbered = _Renumbered(recorder, chosen.native_steps)
    layers, weights = _layers(renumbered.kept)
    steps, stages, numbers, tables = [], bytearray(), list[int](), bytearray()
    for step in chosen.native_steps:
        first = len(stages) // STAGE.size, len(numbers), len(tables) // 256
        for stage in step.stages:
            stages += _stage(stage, renumbered, step.inputs[0] == _native.IMAGE)
        numbers += [*step.inputs, *(step.input_channels if step.kind.name == "CONCAT" else ())]
        tables += bytes(step.rescaling)
        steps.append(_step(step, renumbered, first))
    return {
        "outputs": outputs,
        "padding": np.array(recorder.padding, "<f4").tobytes(),
        "layers": layers,
        "steps": b"".join(steps),
        "stages": bytes(stages),
        "numbers": np.array(numbers, "<i8").tobytes(),
        "tables": bytes(tables),
        "weights": weights,
    }


def _name(name: str) -> bytes:
    if len(name) >= NAME_BYTES or not name.isascii():
        raise UserError(
            f"output {name}: names in programs are ASCII, {NAME_BYTES - 1} letters at most"
        )
    return name.encode()


class _Renumbered:
    """The layers that a plan uses, and their handles among them: of an image's first convolution
    only the one for pixels.
    """

    def __init__(self, recorder: _Recorder, steps: Sequence[_native.Step]) -> None:
        used: tuple[set[int], set[int]] = set(), set()
        for step in steps:
            used[0].add(step.matrix)
            for stage in step.stages:
                used[0].update((self.conv(stage, step.inputs[0] == _native.IMAGE),))
                used[0].update((stage.expand, stage.project))
                used[1].add(stage.depthwise)
        self.kept: list[_Layer] = []
        self._handles: tuple[dict[int, int], dict[int, int]] = {-1: -1}, {-1: -1}
        indices = [{i: h for h, i in enumerate(listed)} for listed in recorder.handles]
        for index, layer in enumerate(recorder.layers):
            handle = indices[layer.depthwise][index]
            if handle in used[layer.depthwise]:
                handles = self._handles[layer.depthwise]
                handles[handle] = len(handles) - 1
                self.kept.append(layer)

    @staticmethod
    def conv(stage: _native.Stage, reads_image: bool) -> int:
        return stage.conv_pixels if reads_image else stage.conv

    def matrix(self, handle: int) -> int:
        return self._handles[0][handle]

    def depthwise(self, handle: int) -> int:
        return self._handles[1][handle]


ROUNDING = "4i6f6d"
LAYER = struct.Struct("<Q5i4x" + ROUNDING)
STEP = struct.Struct("<6i3q2d2i2f9i4x" + ROUNDING)
STAGE = struct.Struct("<16i4f2i")


def _rounding(rounding: _native.Rounding) -> tuple[float, ...]:
    return (
        ROUNDING_MODES.index(rounding.mode.name),
        rounding.zero,
        rounding.input_zero,
        rounding.shortcut_zero,
        rounding.low,
        rounding.high,
        rounding.shortcut_factor,
        rounding.product_low,
        rounding.product_high,
        rounding.float_scale,
        rounding.product.fraction,
        rounding.product.power,
        rounding.shortcut.fraction,
        rounding.shortcut.power,
        rounding.total.fraction,
        rounding.total.power,
    )


def _layers(kept: Iterable[_Layer]) -> tuple[bytes, bytes]:
    """Records of layers, and their arrays."""
    records, weights = [], bytearray()
    for layer in kept:
        begin = len(weights)
        for array in layer.arrays:
            little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
            weights += little.tobytes()
            weights += bytes(-len(weights) % ALIGNMENT)
        records.append(
            LAYER.pack(
                begin,
                layer.depthwise,
                layer.channels,
                layer.depth,
                layer.input_factor,
                len(layer.arrays) - 2,
                *_rounding(layer.rounding),
            )
        )
    return b"".join(records), bytes(weights)


def _stage(stage: _native.Stage, renumbered: _Renumbered, reads_image: bool) -> bytes:
    return STAGE.pack(
        stage.in_height,
        stage.in_width,
        stage.in_channels,
        stage.wide_channels,
        stage.out_height,
        stage.out_width,
        stage.out_channels,
        stage.kernel,
        stage.stride,
        stage.dilation,
        stage.top,
        stage.left,
        renumbered.matrix(renumbered.conv(stage, reads_image)),
        renumbered.matrix(stage.expand),
        renumbered.depthwise(stage.depthwise),
        renumbered.matrix(stage.project),
        stage.wide_low,
        stage.wide_high,
        stage.low,
        stage.high,
        stage.shortcut,
        stage.strip,
    )


def _step(step: _native.Step, renumbered: _Renumbered, first: tuple[int, int, int]) -> bytes:
    """A step's record; `first`: its first stage, number and table."""
    first_stage, first_number, first_table = first
    return STEP.pack(
        STEP_KINDS.index(step.kind.name),
        first_stage,
        len(step.stages),
        first_number,
        len(step.inputs),
        first_table,
        step.output,
        step.scratch,
        step.top,
        step.mean_factor,
        step.mean_divisor,
        step.chunk * _native.BLOCK,
        renumbered.matrix(step.matrix),
        step.low,
        step.high,
        step.reads_floats,
        step.signed_codes,
        step.label_bytes,
        step.in_channels,
        step.in_height,
        step.in_width,
        step.out_channels,
        step.out_height,
        step.out_width,
        *_rounding(step.rounding),
    )


def _file(numbers: bytes, sections: Sequence[bytes]) -> bytes:
    """Header and sections, each at a multiple of ALIGNMENT."""
    header_bytes = 24 + len(numbers) + 16 * len(sections)
    content, table = bytearray(header_bytes), b""
    for section in sections:
        content += bytes(-len(content) % ALIGNMENT)
        table += struct.pack("<2Q", len(content), len(section))
        content += section
    checked = struct.pack("<Q", len(content)) + numbers + table + content[header_bytes:]
    return MAGIC + struct.pack("<2I", VERSION, zlib.crc32(checked)) + checked


class Program:
    """A program that is run as the C interface runs it, in this process, by one Python thread at a
    time.

    Args:
        content: Of the file.
        threads: Threads that run it; 0: as the file says.
        isa: As for `Engine`.

    Raises:
        ModelFileError: Not a program, or damaged.
    """

    def __init__(self, content: bytes, threads: int = 0, isa: str | None = None) -> None:
        int8 = len(content) > 24 and content[24] == 1
        try:
            self._native = _native.Program(content, threads, chosen_isa(isa, int8))
            self.description: dict[str, Any] = json.loads(self._native.info)
        except ValueError as error:
            raise ModelFileError(f"the program: {error}") from None

    @property
    def batch(self) -> int:
        """Images per run at most."""
        return self._native.shape[0]

    @property
    def workspace_bytes(self) -> int:
        """Memory that a run works in, its results not included."""
        return self._native.workspace_bytes

    def __call__(self, pixels: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """Runs it on pixels (N, H, W, C) uint8, at most `batch` images at once.

        Returns:
            By name, float32 (N, H, W, C); a mask has its classes in the last axis, uint8 or uint16.

        Raises:
            UserError: Pixels of another size.
            NotFiniteError: An image has an answer that is not finite.
        """
        pixels = np.ascontiguousarray(pixels)
        if pixels.dtype != np.uint8 or pixels.shape[1:] != self._native.shape[1:]:
            height, width, channels = self._native.shape[1:]
            raise UserError(
                f"pixels must be uint8 (N, {height}, {width}, {channels}), not {pixels.dtype} "
                f"{pixels.shape}"
            )
        answers = {
            name: np.empty((len(pixels), *shape), TYPES[kind])
            for name, kind, *shape in self._native.outputs
        }
        for begin in range(0, len(pixels), self.batch):
            part = slice(begin, begin + self.batch)
            try:
                self._native.run(pixels[part], [values[part] for values in answers.values()])
            except ValueError as error:
                raise NotFiniteError(f"the program: {error}") from None
        return answers
