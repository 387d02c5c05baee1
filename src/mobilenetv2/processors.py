"""How many processors this process may use."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import UserError

MOST = 1024
VARIABLE = "MOBILENETV2_THREADS"
CONTROL_GROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")


def usable_processors() -> int:
    """The number of processors that this process may use, at least 1.

    The environment variable MOBILENETV2_THREADS decides if it is set. Otherwise it is the number
    of processors in the affinity mask of the process, or the CPU quota of its control groups
    (versions 1 and 2) rounded down, whichever is lower.

    Raises:
        UserError: MOBILENETV2_THREADS is not a whole number from 1 to 1024.
    """
    if text := os.environ.get(VARIABLE):
        return _from_text(text)
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    count = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, int(min(count, _quota_of_groups(CONTROL_GROUPS, OWN_GROUPS))))


def _from_text(text: str) -> int:
    if text.isascii() and text.isdigit() and len(text) <= 4 and 1 <= int(text) <= MOST:
        return int(text)
    raise UserError(f"{VARIABLE} must be a whole number from 1 to {MOST}, not {text!r:.80}")


def _quota_of_groups(root: Path, own: Path) -> float:
    """The lowest CPU quota, in processors, of the control groups of a process and their parents.

    Args:
        root: Where the control groups are mounted.
        own: The file that names the groups of the process.
    """
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        return float("inf")
    quotas = [float("inf")]
    for _, controllers, path in lines:
        group = Path(path.lstrip("/"))
        for folder in (group, *group.parents):
            if not controllers:  # version 2
                quotas.append(_quota(root / folder / "cpu.max"))
            elif "cpu" in controllers.split(","):
                files = root / "cpu" / folder
                quotas.append(_quota(files / "cpu.cfs_quota_us", files / "cpu.cfs_period_us"))
    return min(quotas)


def _quota(*files: Path) -> float:
    """CPU time over real time, which these files have; infinite if there is no limit."""
    try:
        quota, period = " ".join(file.read_text() for file in files).split()
        return int(quota) / int(period) if int(quota) > 0 else float("inf")
    except (OSError, ValueError):  # no such file, or "max"
        return float("inf")
