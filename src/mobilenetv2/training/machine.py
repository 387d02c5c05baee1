"""What a run stands on: the device, one process or several, precision, and the signals that stop
it.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, ClassVar, Literal, TypeVar

import torch
from lightning.fabric import Fabric
from lightning.fabric.loggers import TensorBoardLogger
from lightning.fabric.strategies import DDPStrategy
from torch import nn

from ..errors import UserError
from ..images import Preprocessing
from ..nn import MobileNetV2
from ..records import Meta, Record
from .data import default_workers

PATIENCE = timedelta(days=7)  # of the processes that wait while the first looks through the images
TIMED_STEPS, TIMED_PIXELS = 3, 8 * 224 * 224
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h
Value = TypeVar("Value")


@dataclass(frozen=True)
class Machine(Record):
    """How to run, which does not change what is trained but for rounding.

    Attributes:
        workers: Processes that prepare images; None: as the machine has room for.
        precision: "32", "bf16" (bfloat16 where autocast deems it safe), or "auto": the faster of
            the two, measured before the first epoch.
    """

    noun: ClassVar[str] = "machine"

    workers: Annotated[int, Meta(ge=0)] | None = None
    precision: Literal["auto", "32", "bf16"] = "auto"

    @property
    def worker_count(self) -> int:
        return default_workers() if self.workers is None else self.workers


def launch(folder: str | os.PathLike[str]) -> Fabric:
    """The device of this process, joined with the others that were started with it."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    nodes = int(os.environ.get("WORLD_SIZE", 1)) // local
    keep_freed_memory()
    fabric = Fabric(
        devices=local,
        num_nodes=nodes,
        strategy=DDPStrategy(timeout=PATIENCE) if local * nodes > 1 else "auto",
        loggers=[TensorBoardLogger(folder, name="", version="")],
    )
    fabric.launch()
    return fabric


def keep_freed_memory() -> None:
    """Tells glibc, where that is the C library, to keep what is freed: every step asks for the same
    hundreds of megabytes, and pages that were given back are cleared anew.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def once(fabric: Fabric, work: Callable[[], Value]) -> Value:
    """Does the work in the first process alone; all get what it gives or raise what it raises."""
    value: Value | UserError | None = None
    if fabric.is_global_zero:
        try:
            value = work()
        except UserError as error:
            value = error
    value = fabric.broadcast(value)
    if isinstance(value, UserError):
        raise value
    return value  # type: ignore[return-value]


def faster_precision(
    net: MobileNetV2, preprocessing: Preprocessing, device: torch.device, batch: int
) -> str:
    """Whether a few training steps of a copy of the network are faster in "32" or in "bf16".

    Their batches are of `batch` images, or of fewer where these are large.
    """
    height, width = preprocessing.size
    images = max(2, min(batch, TIMED_PIXELS // (height * width)))  # batch norm wants two
    shape = (images, preprocessing.channels, height, width)
    took = {}
    for precision in ("32", "bf16"):
        copy = deepcopy(net).to(device).train()
        x = torch.randn(shape, device=device).to(memory_format=torch.channels_last)
        labels = torch.arange(images, device=device) % net.architecture.classes
        times = []
        for _ in range(TIMED_STEPS):
            started = time.perf_counter()
            with autocast(device, precision):
                loss = nn.functional.cross_entropy(copy(x), labels)
            loss.backward()
            loss.item()  # waits for the device
            times.append(time.perf_counter() - started)
        took[precision] = min(times)
    return min(took, key=lambda precision: took[precision])


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Arithmetic of "32" or "bf16" within a `with` block."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


@contextmanager
def told_of_memory(batch: int) -> Iterator[None]:
    """Turns running out of memory within the block into a UserError that names the batch size."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        known = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not known and "can't allocate memory" not in str(error):  # what the CPU's allocator says
            raise
        raise UserError(
            f"no memory for a step with a batch of {batch}: give a smaller one (--batch)"
        ) from error


@contextmanager
def stop_signals() -> Iterator[Callable[[], int]]:
    """Within the block, the first SIGINT or SIGTERM is only remembered, for the loop to ask for; a
    second one does what it always does. Yields the question: the signal's number, or 0.
    """
    seen = [0]
    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return
    kinds = (signal.SIGINT, signal.SIGTERM)
    before = {kind: signal.getsignal(kind) for kind in kinds}

    def restore() -> None:
        for kind, handler in before.items():
            signal.signal(kind, handler)

    def remember(kind: int, frame: object) -> None:
        seen[0] = kind
        restore()

    for kind in kinds:
        signal.signal(kind, remember)
    try:
        yield lambda: seen[0]
    finally:
        restore()
