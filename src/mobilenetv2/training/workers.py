"""The processes that load batches: how many there should be, and what they may take."""

from __future__ import annotations

import os
import shutil
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ..errors import UserError
from ..processors import usable_processors

Batch = tuple[Tensor, Tensor]  # (N, C, H, W) uint8, (N,) int64
MOST_WORKERS = 8
PREFETCH = 2  # batches that a worker is ahead
SHARED_MEMORY = Path("/dev/shm")


def stacked(images: Sequence[tuple[Tensor, int]]) -> Batch:
    """(C, H, W) and label of each as one batch whose memory has the channels last."""
    # not torch.stack: its threads wait for one another on a busy machine, 110 ms instead of 6
    pixels = np.stack([image.permute(1, 2, 0).numpy() for image, _ in images])  # (N, H, W, C)
    labels = torch.tensor([label for _, label in images])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2), labels


def batch_loader(
    batches: torch.utils.data.Dataset[Batch | UserError], batch_bytes: int, workers: int
) -> DataLoader[Batch]:
    """Loads a dataset whose items are batches, or errors to raise.

    Args:
        batches: By number, or one after another.
        batch_bytes: Of one.
        workers: Processes, as many as there is shared memory for.
    """
    workers = _affordable(batch_bytes, workers)
    return _Loader(
        batches,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=PREFETCH if workers else None,
        # what is in memory is shared, not copied
        multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
        generator=torch.Generator(),  # asked for a seed at each start; the global one stays as it is
    )


class _Loader(DataLoader[Any]):
    """Raises errors as they are; PyTorch wraps those that a worker raises in a traceback."""

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        for batch in super().__iter__():
            if isinstance(batch, UserError):
                raise batch
            yield batch


def _affordable(batch_bytes: int, workers: int) -> int:
    """As many workers as there is shared memory for."""
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
    """Half of the processors of this process, at most 8; the others compute. None of fewer than
    four: a worker would take from the steps what it saves (benchmarks/train.py).
    """
    count = usable_processors() // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return min(MOST_WORKERS, count // 2) if count >= 4 else 0
