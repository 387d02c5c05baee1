"""The processes that load batches: how many to start, and how much shared memory they need."""

from __future__ import annotations

import os
import shutil
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ..errors import UserError
from ..processors import usable_processors

Batch = tuple[Tensor, Tensor]  # (N, C, H, W) uint8, targets (N, ...)
MAX_WORKERS = 8
PREFETCH = 2  # batches that a worker prepares in advance
SHARED_MEMORY = Path("/dev/shm")
# of PyTorch's and Python's messages where the system refuses a process, a thread or a file
REFUSED = ("DataLoader worker (pid", "Too many open files", "start new thread", "ancdata")


def stacked(images: Sequence[tuple[Tensor, int | Tensor]]) -> Batch:
    """One batch of images (C, H, W) and class indices or other targets, with the channels last in
    memory.
    """
    # not torch.stack: on a busy machine its threads wait for each other, 110 ms instead of 6
    pixels = np.stack([image.permute(1, 2, 0).numpy() for image, _ in images])  # (N, H, W, C)
    targets = [target for _, target in images]
    if isinstance(targets[0], Tensor):
        joined = torch.from_numpy(np.stack([target.numpy() for target in targets]))  # type: ignore[union-attr]
    else:
        joined = torch.tensor(targets)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2), joined


def batch_loader(
    batches: torch.utils.data.Dataset[Any], batch_bytes: int, workers: int
) -> DataLoader[Any]:
    """A loader of a dataset whose items are batches, alone or with more, or errors to raise.

    Args:
        batches: The dataset.
        batch_bytes: Size of one batch.
        workers: Processes to start; fewer if shared memory is too small.
    """
    workers = _affordable(batch_bytes, workers)
    return _Loader(
        batches,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=PREFETCH if workers else None,
        # forked processes share the memory of this one, so cached images are not copied
        multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
        # draws the workers' seeds, so that the global generator stays unchanged
        generator=torch.Generator(),
    )


class Span(NamedTuple):
    """The part of a run that an epoch is expected to be, known before its batches are loaded.

    Attributes:
        begin: Share of the run that is done when the epoch begins.
        length: Share of the run that the epoch takes.
    """

    begin: float = 0.0
    length: float = 0.0

    def at(self, part: float) -> float:
        """The share of the run that is done after this part of the epoch."""
        return self.begin + self.length * part


UNKNOWN = Span()


class _Loader(DataLoader[Any]):
    """Raises the errors of workers unchanged; PyTorch would put a traceback into their message."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        with explained_worker_errors():
            for batch in super().__iter__():
                if isinstance(batch, UserError):
                    raise batch
                yield batch


@contextmanager
def explained_worker_errors() -> Iterator[None]:
    """In the block, what the system refuses to processes that read images becomes a UserError.

    PyTorch raises that one of them was killed wherever this process is at that moment.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        text = str(error)
        if isinstance(error, RuntimeError) and not any(part in text for part in REFUSED):
            raise
        raise UserError(
            f"the processes that read images cannot work: {text.splitlines()[0]:.200}; give fewer, "
            "or none (--workers 0)"
        ) from error


def _affordable(batch_bytes: int, workers: int) -> int:
    """The number of workers whose batches fit into shared memory, at most `workers`."""
    if workers < 1 or not SHARED_MEMORY.is_dir():
        return max(0, workers)
    free = shutil.disk_usage(SHARED_MEMORY).free
    fitting = max(0, (free // max(1, batch_bytes) - 2) // PREFETCH)  # two are in use
    if workers > fitting:
        warnings.warn(
            f"{SHARED_MEMORY} has {free >> 20} MB free, enough for {fitting} workers with batches "
            f"of {batch_bytes / 2**20:.1f} MB; a container's is set by --shm-size",
            stacklevel=4,
        )
    return min(workers, fitting)


def default_workers() -> int:
    """Half of the processors of this process, at most 8; the others compute. Below four
    processors 0: a worker would slow the steps by what it saves (benchmarks/train.py).
    """
    count = usable_processors() // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return min(MAX_WORKERS, count // 2) if count >= 4 else 0
