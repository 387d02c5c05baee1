"""Programs: a plan for images of one size and its weights in one flat file `.mnv2`, which
`native/program.cpp` runs without Python.

The weights are written as `packing` gives them to the extension, before they are cut for a target,
and the plan for one thread: what depends on the target or on the threads is put in when the file is
opened.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
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
from .int8_scales import int8_obstacle
from .packing import pack
from .plan import Plan, plan
from .program_recorder import Recorder
from .program_records import TYPES, file_of, outputs_of, sections_of
from .steps import group

MOST_BATCH, MOST_THREADS, MOST_SIDE = 1 << 10, 64, 1 << 14  # as native/program_reader.hpp


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
    if odd := next((label for label in checkpoint.labels if "\0" in label), None):
        raise UserError(f"label {odd!r}: labels of programs have no NUL in them")
    recorder, chosen = _recorded(checkpoint, mask)
    described = {
        **describe(checkpoint, "uint8", tuple(chosen.outputs), raw=not mask),
        **(facts or {}),
        "batch": batch,
        "outputs": [
            {"name": name, "type": np.dtype(kind).name, "shape": [batch, *shape[1:], shape[0]]}
            for name, kind, shape in outputs_of(chosen)
        ],
    }
    if isinstance(head, SSDHead):
        described["score"] = head.score
    sections = sections_of(recorder, chosen)
    sections["labels"] = b"".join(
        f"{label}\0".encode("utf-8", "replace") for label in checkpoint.labels
    )
    sections["description"] = json.dumps(
        described, ensure_ascii=False, separators=(",", ":")
    ).encode("utf-8", "replace")
    channels = checkpoint.architecture.in_channels
    int8 = isinstance(checkpoint, Int8Checkpoint)
    content = file_of((int8, batch, height, width, channels, threads), list(sections.values()))
    _require_runnable(content)
    return content


def _require_runnable(content: bytes) -> None:
    """Refuses what the reader refuses, such as images that take too much memory."""
    try:
        Program(content, 1)
    except ModelFileError as error:
        reason = str(error).removeprefix("the program: ")
        raise UserError(f"the model cannot be a program: {reason}") from None


def _recorded(checkpoint: AnyCheckpoint, mask: bool) -> tuple[Recorder, Plan]:
    described = network(checkpoint.architecture)
    names, mask_of = None, None
    if mask:
        scores = described[described.outputs[0]]
        names = (scores.sources[0] if scores.kind == "resize" else scores.name,)
        mask_of = scores.name
    steps = group(described, names)
    recorder = Recorder()
    native = cast(Any, recorder)
    if isinstance(checkpoint, Checkpoint):
        weights, int8 = pack(native, checkpoint, steps), None
    else:
        if obstacle := int8_obstacle(checkpoint.architecture, checkpoint.rounding):
            raise UserError(f"the network cannot run in int8: {obstacle}")
        weights, int8 = pack_int8(native, checkpoint, steps), checkpoint
    return recorder, plan(native, described, steps, weights, 1, int8, mask_of)


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
            chosen = chosen_isa(isa, "int8" if int8 else "float32")
            self._native = _native.Program(content, threads, chosen)
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
