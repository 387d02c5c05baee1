"""The records of a program's file, as `native/program_file.hpp` reads them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..errors import UserError
from . import _native
from .plan import LABELS_IN_A_BYTE, Plan
from .program_recorder import RecordedLayer, Recorder, UsedLayers, image_conv

MAGIC, VERSION, ALIGNMENT = b"mnv2prog", 1, 64
NAME_BYTES = 64
TYPES = (np.float32, np.uint8, np.uint16)  # of outputs, by number
ROUNDING = "4i6f6d"
LAYER = struct.Struct("<Q6i" + ROUNDING)
STEP = struct.Struct("<6i3q2d2i2f10i" + ROUNDING)
STAGE = struct.Struct("<16i4f2i")


def outputs_of(chosen: Plan) -> list[tuple[str, type[Any], tuple[int, int, int]]]:
    """Name, type and (channels, height, width) of each output."""
    listed: list[tuple[str, type[Any], tuple[int, int, int]]] = []
    for name, (channels, height, width) in chosen.outputs.items():
        kind: type[Any] = np.float32
        if name == chosen.mask:
            kind = np.uint8 if channels <= LABELS_IN_A_BYTE else np.uint16
            channels = 1
        listed.append((name, kind, (channels, height, width)))
    return listed


def sections_of(recorder: Recorder, chosen: Plan) -> dict[str, bytes]:
    """What lies behind the header, in order, but for labels and description."""
    outputs = b"".join(
        struct.pack(f"<{NAME_BYTES}s4i", _name(name), TYPES.index(kind), *shape)
        for name, kind, shape in outputs_of(chosen)
    )
    used = UsedLayers(recorder, chosen.native_steps)
    layers, weights = _layers(used.kept)
    steps, stages, numbers, tables = [], bytearray(), list[int](), bytearray()
    for step in chosen.native_steps:
        first = len(stages) // STAGE.size, len(numbers), len(tables) // 256
        for stage in step.stages:
            stages += _stage(stage, used, image_conv(step, stage))
        numbers += [
            *step.inputs,
            *(step.input_channels if step.kind == _native.StepKind.CONCAT else ()),
        ]
        tables += bytes(step.rescaling)
        steps.append(_step(step, used, first))
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


def _rounding(rounding: _native.Rounding) -> tuple[float, ...]:
    return (
        rounding.mode.value,
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


def _layers(kept: Iterable[RecordedLayer]) -> tuple[bytes, bytes]:
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
                layer.tail,
                *_rounding(layer.rounding),
            )
        )
    return b"".join(records), bytes(weights)


def _stage(stage: _native.Stage, used: UsedLayers, conv: int) -> bytes:
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
        used.matrix(conv),
        used.matrix(stage.expand),
        used.depthwise(stage.depthwise),
        used.matrix(stage.project),
        stage.wide_low,
        stage.wide_high,
        stage.low,
        stage.high,
        stage.shortcut,
        stage.strip,
    )


def _step(step: _native.Step, used: UsedLayers, first: tuple[int, int, int]) -> bytes:
    """A step's record; `first`: its first stage, number and table."""
    first_stage, first_number, first_table = first
    return STEP.pack(
        step.kind.value,
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
        used.matrix(step.matrix),
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
        step.stripes,
        *_rounding(step.rounding),
    )


def file_of(numbers: Sequence[int], sections: Sequence[bytes]) -> bytes:
    """Header and sections, each at a multiple of ALIGNMENT.

    Args:
        numbers: 1 of int8 and 0 of float32; batch, height, width, channels, threads.
        sections: All of them, in order.
    """
    facts = struct.pack("<6i16x", *numbers)
    header_bytes = 24 + len(facts) + 16 * len(sections)
    content, table = bytearray(header_bytes), b""
    for section in sections:
        content += bytes(-len(content) % ALIGNMENT)
        table += struct.pack("<2Q", len(content), len(section))
        content += section
    checked = struct.pack("<Q", len(content)) + facts + table + content[header_bytes:]
    return MAGIC + struct.pack("<2I", VERSION, zlib.crc32(checked)) + checked
