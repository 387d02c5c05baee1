"""The processes that load batches: how many to start, and how much shared memory they need."""

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

Batch = tuple[Tensor, Tensor]  # (N, C, H, W) uint8, (N,) int64
MAX_WORKERS = 8
PREFETCH = 2  # batches that a worker prepares in advance
SHARED_MEMORY = Path("/dev/shm")
CGROUPS = Path("/sys/fs/cgroup")


def stacked(images: Sequence[tuple[Tensor, int]]) -> Batch:
    """One batch of images (C, H, W) and class indices, with the channels last in memory."""
    # not torch.stack: on a busy machine its threads wait for each other, 110 ms instead of 6
    pixels = np.stack([image.permute(1, 2, 0).numpy() for image, _ in images])  # (N, H, W, C)
    labels = torch.tensor([label for _, label in images])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2), labels


def batch_loader(
    batches: torch.utils.data.Dataset[Batch | UserError], batch_bytes: int, workers: int
) -> DataLoader[Batch]:
    """A loader of a dataset whose items are batches, or errors to raise.

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


class _Loader(DataLoader[Any]):
    """Raises the errors of workers unchanged; PyTorch would put a traceback into their message."""

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        for batch in super().__iter__():
            if isinstance(batch, UserError):
                raise batch
            yield batch


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


def usable_processors() -> int:
    """Processors that this process may use, a container's limit counted in."""
    usable = getattr(os, "sched_getaffinity", None)
    count = len(usable(0)) if usable else os.cpu_count() or 1
    return max(1, int(min(count, _cgroup_cpus(CGROUPS, Path("/proc/self/cgroup")))))


def _cgroup_cpus(root: Path, own: Path) -> float:
    """Processors' worth of time that a container may use (control groups, versions 1 and 2)."""
    limits = [float("inf")]
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        return limits[0]
    for _, controllers, path in lines:
        place = Path(path.lstrip("/"))
        for group in (place, *place.parents):
            if not controllers:
                limits.append(_quota(root / group / "cpu.max"))
            elif "cpu" in controllers.split(","):
                folder = root / "cpu" / group
                limits.append(_quota(folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us"))
    return min(limits)


def _quota(*files: Path) -> float:
    try:
        quota, period = " ".join(file.read_text() for file in files).split()
        return int(quota) / int(period) if int(quota) > 0 else float("inf")
    except (OSError, ValueError):  # absent, or "max"
        return float("inf")
