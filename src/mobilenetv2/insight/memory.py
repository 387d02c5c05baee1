"""Activation memory over the course of inference (Sandler et al. 2018, Section 5): as the paper counts
it, as the runtime plans it, and as a process really grows.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..architecture import Architecture
from ..arguments import check_kind
from ..checkpoint import Checkpoint
from ..cost import MemoryStep, bottleneck_memory, operator_memory
from ..graph import array_shapes, layers
from ..images import Preprocessing
from ..runtime.engine import Engine

ITEM_BYTES = 4  # of a float32


@dataclass(frozen=True)
class StepMemory:
    """Activation memory while one step runs.

    Attributes:
        first: Index in `layers()` of the step's first layer.
        last: Index of its last layer.
        held_bytes: Bytes of activations.
    """

    first: int
    last: int
    held_bytes: int


@dataclass(frozen=True)
class Memory:
    """Activation memory for one float32 image, step by step.

    Attributes:
        layers: Names of the network's layers, in order.
        operators: One layer after another; with the image and the output.
        bottlenecks: Each block as one operator, its inner tensor never complete; with the image and
            the output.
        runtime: As the runtime plans it; with all scratch memory, without the image and the output.
        activation_bytes: The largest of `runtime`.
        resident_bytes: How much a new process grew while it ran the network once, as the operating
            system counts; None where it does not say.
        threads: Of the runtime; each thread has its own scratch memory.
    """

    layers: tuple[str, ...]
    operators: tuple[StepMemory, ...]
    bottlenecks: tuple[StepMemory, ...]
    runtime: tuple[StepMemory, ...]
    activation_bytes: int
    resident_bytes: int | None
    threads: int


def measure_memory(
    checkpoint: Checkpoint, height: int, width: int, threads: int | None = None
) -> Memory:
    """Counts, plans and measures the memory for one image of height x width.

    Args:
        checkpoint: A float model.
        height: Rows of the image.
        width: Columns of it.
        threads: As for `Engine`.
    """
    check_kind("checkpoint", checkpoint, Checkpoint)
    architecture = checkpoint.architecture
    names = tuple(layer.name for layer in layers(architecture, height, width))
    blocks = {layer.name: layer.block for layer in layers(architecture) if layer.block is not None}
    index = {name: i for i, name in enumerate(names)}
    spans = {name: (i, i) for name, i in index.items()}
    for name, block in blocks.items():
        first, last = spans.get(f"features.{block}", (index[name], index[name]))
        spans[f"features.{block}"] = min(first, index[name]), max(last, index[name])

    def placed(steps: Sequence[MemoryStep]) -> tuple[StepMemory, ...]:
        return tuple(StepMemory(*spans[step.name], step.total_bytes) for step in steps)

    engine = Engine(checkpoint, threads)
    return Memory(
        names,
        placed(operator_memory(architecture, height, width, ITEM_BYTES)),
        placed(bottleneck_memory(architecture, height, width, ITEM_BYTES)),
        tuple(
            StepMemory(index[first], index[last], step_bytes)
            for first, last, _, step_bytes in engine.activation_steps(height, width)
        ),
        engine.activation_bytes(height, width),
        resident_growth(architecture, height, width, engine.threads),
        engine.threads,
    )


def resident_growth(
    architecture: Architecture, height: int, width: int, threads: int
) -> int | None:
    """Bytes by which a new process grows while it runs the network once, without the output; all
    weights are zero.

    Args:
        architecture: The network.
        height: Rows of the image.
        width: Columns of it.
        threads: Of the runtime.

    Returns:
        None where the system has no /proc, or where the process does not start or end.
    """
    if not Path("/proc/self/clear_refs").exists():
        return None
    program = f"from {__name__} import _grow; _grow()"
    # Allocations from 64 KB up get new pages, so that reused memory does not hide any growth.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", program, architecture.to_json(), *map(str, (height, width, threads))],
            env=environment, capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        return int(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def _grow() -> None:
    """The program of the new process; its arguments are those of `resident_growth`."""
    import re

    import numpy as np

    def peak() -> int:
        kilobytes = re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())
        assert kilobytes
        return 1024 * int(kilobytes[1])

    architecture = Architecture.from_json(sys.argv[1])
    height, width, threads = map(int, sys.argv[2:])
    arrays = {
        name: np.zeros(shape, np.float32) for name, shape in array_shapes(architecture).items()
    }
    half = (0.5,) * architecture.in_channels
    checkpoint = Checkpoint(architecture, arrays, (), Preprocessing(mean=half, std=half))
    engine = Engine(checkpoint, threads)
    image = np.full((1, height, width, architecture.in_channels), 128, np.uint8)
    engine(image[:, :8, :8])  # loads the code
    engine.activation_bytes(height, width)  # makes the plan
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak, VmHWM
    before = peak()
    output = engine(image)
    print(peak() - before - output.nbytes)
