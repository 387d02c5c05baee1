"""Activation memory over the course of inference (Section 5): as the paper counts it, and as the
runtime really has it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..architecture import Architecture
from ..checkpoint import Checkpoint
from ..cost import MemoryStep, bottleneck_memory, operator_memory
from ..graph import array_shapes, layers
from ..images import Preprocessing
from ..runtime.engine import Engine

ITEM_BYTES = 4  # of a float32


@dataclass(frozen=True)
class Held:
    """Memory while one step runs.

    Attributes:
        first: The first layer of the step, by its place in `layers()`.
        last: The last one.
        held_bytes: Of activations.
    """

    first: int
    last: int
    held_bytes: int


@dataclass(frozen=True)
class Memory:
    """Activation memory of one float32 image, step by step.

    Attributes:
        layers: Names of the network's layers, in order.
        operators: One layer after another; image and answer included.
        bottlenecks: Each block as one operator whose inner tensor is never whole; the same
            included.
        runtime: As the runtime plans it, all scratch included, image and answer not.
        activation_bytes: The most of `runtime`.
        resident_bytes: How much larger a fresh process grew while it ran the network once, as the
            system counts; None where the system does not say.
        threads: Of the runtime; each has scratch of its own.
    """

    layers: tuple[str, ...]
    operators: tuple[Held, ...]
    bottlenecks: tuple[Held, ...]
    runtime: tuple[Held, ...]
    activation_bytes: int
    resident_bytes: int | None
    threads: int


def measure_memory(
    checkpoint: Checkpoint, height: int, width: int, threads: int | None = None
) -> Memory:
    """Counts, plans and measures one image of height x width.

    Args:
        checkpoint: The model.
        height: Rows of the image.
        width: Columns of it.
        threads: As for `Engine`.
    """
    architecture = checkpoint.architecture
    names = tuple(layer.name for layer in layers(architecture, height, width))
    blocks = {layer.name: layer.block for layer in layers(architecture) if layer.block is not None}
    place = {name: i for i, name in enumerate(names)}
    spans = {name: (i, i) for name, i in place.items()}
    for name, block in blocks.items():
        first, last = spans.get(f"features.{block}", (place[name], place[name]))
        spans[f"features.{block}"] = min(first, place[name]), max(last, place[name])

    def held(steps: Sequence[MemoryStep]) -> tuple[Held, ...]:
        return tuple(Held(*spans[step.name], step.total_bytes) for step in steps)

    engine = Engine(checkpoint, threads)
    return Memory(
        names,
        held(operator_memory(architecture, height, width, ITEM_BYTES)),
        held(bottleneck_memory(architecture, height, width, ITEM_BYTES)),
        tuple(
            Held(place[first], place[last], taken)
            for first, last, _, taken in engine.activation_steps(height, width)
        ),
        engine.activation_bytes(height, width),
        resident_growth(architecture, height, width, engine.threads),
        engine.threads,
    )


def resident_growth(
    architecture: Architecture, height: int, width: int, threads: int
) -> int | None:
    """How many bytes a fresh process grows by while it runs the network once, the answer not
    counted; the weights are zeros.

    Returns:
        None where the system has no /proc, or will not start a process.
    """
    if not Path("/proc/self/clear_refs").exists():
        return None
    program = f"from {__name__} import _grow; _grow()"
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}  # no freed memory is used again
    try:
        done = subprocess.run(
            [sys.executable, "-c", program, architecture.to_json(), *map(str, (height, width, threads))],
            env=environment, capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        return int(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def _grow() -> None:
    """What the fresh process does; its arguments are those of `resident_growth`."""
    import re

    import numpy as np

    def peak() -> int:
        match = re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())
        assert match
        return 1024 * int(match[1])

    architecture = Architecture.from_json(sys.argv[1])
    height, width, threads = map(int, sys.argv[2:])
    arrays = {
        name: np.zeros(shape, np.float32) for name, shape in array_shapes(architecture).items()
    }
    half = (0.5,) * architecture.in_channels
    checkpoint = Checkpoint(architecture, arrays, (), Preprocessing(mean=half, std=half))
    engine = Engine(checkpoint, threads)
    image = np.full((1, height, width, architecture.in_channels), 128, np.uint8)
    engine(image[:, :8, :8])  # brings the code into memory
    engine.activation_bytes(height, width)  # and the plan
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = peak()
    answer = engine(image)
    print(peak() - before - answer.nbytes)
