"""Device, processes, precision, and the signals that stop a run."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, ClassVar, Literal, TypeVar

import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies import DDPStrategy

from ..errors import UserError
from ..nn.fused import instruction_sets
from ..records import Meta, Record
from .data import default_workers

BARRIER_TIMEOUT = timedelta(days=7)  # other ranks wait this long while rank 0 checks the images
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h
Value = TypeVar("Value")


@dataclass(frozen=True)
class Machine(Record):
    """How to run. It does not change the result of training, except for rounding.

    Attributes:
        workers: Processes that prepare images. None: `default_workers`.
        precision: "32", "bf16" (bfloat16 where autocast considers it safe), or "auto": "bf16" where
            the device has instructions for it.

    Raises:
        UserError: A value is out of range; the message names it.
    """

    noun: ClassVar[str] = "machine"

    workers: Annotated[int, Meta(ge=0)] | None = None
    precision: Literal["auto", "32", "bf16"] = "auto"

    @property
    def worker_count(self) -> int:
        return default_workers() if self.workers is None else self.workers


def launch() -> Fabric:
    """Connects this process with those started together with it, and picks its device."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    nodes = int(os.environ.get("WORLD_SIZE", 1)) // local
    keep_freed_memory()
    fabric = Fabric(
        devices=local,
        num_nodes=nodes,
        strategy=DDPStrategy(timeout=BARRIER_TIMEOUT, forward_sync_buffers=False)
        if local * nodes > 1
        else "auto",
    )
    fabric.launch()
    return fabric


def keep_freed_memory() -> None:
    """Makes glibc, if that is the C library, keep freed memory: every step allocates the same
    hundreds of megabytes, and the system clears pages that were returned to it.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def once(fabric: Fabric, work: Callable[[], Value]) -> Value:
    """Calls `work` in the first process only; every process returns its value or raises its
    UserError.
    """
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


def of_all(fabric: Fabric, values: Mapping[str, Value]) -> dict[str, Value]:
    """The dictionaries of all processes as one."""
    parts: list[Mapping[str, Value]] = [values] * fabric.world_size
    if fabric.world_size > 1:
        torch.distributed.all_gather_object(parts, dict(values))
    return {name: value for part in parts for name, value in part.items()}


def automatic_precision(device: torch.device) -> str:
    """ "bf16" on a processor or CUDA device with instructions for bfloat16 (avx512_bf16; one with
    amx_bf16 has them too), else "32". Nothing is timed, so that runs can be repeated.
    """
    if device.type == "cpu":
        return "bf16" if "avx512bf16" in instruction_sets() else "32"
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "32"
    return "32"


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context in which PyTorch computes in "32" or "bf16"."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


@contextmanager
def explained_memory_errors(batch: int) -> Iterator[None]:
    """In the block, turns running out of memory into a UserError that names the batch size."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        out_of_memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
        # the message of PyTorch's CPU allocator
        if not out_of_memory and "can't allocate memory" not in str(error):
            raise
        raise UserError(
            f"no memory for a step with a batch of {batch}: give a smaller one (--batch)"
        ) from error


@contextmanager
def stop_signals() -> Iterator[Callable[[], int]]:
    """In the block, the first SIGINT or SIGTERM is only recorded; a second one acts as usual.

    Yields:
        A function that returns the number of the recorded signal, or 0.
    """
    received = 0
    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return
    kinds = (signal.SIGINT, signal.SIGTERM)
    before = {kind: signal.getsignal(kind) for kind in kinds}

    def restore() -> None:
        for kind, handler in before.items():
            signal.signal(kind, handler)

    def record(kind: int, frame: object) -> None:
        nonlocal received
        received = kind
        restore()

    for kind in kinds:
        signal.signal(kind, record)
    try:
        yield lambda: received
    finally:
        restore()
