"""The time that a run has taken, the same in all processes."""

from __future__ import annotations

import time

import torch
from lightning.fabric import Fabric


def now() -> float:
    """Seconds on a clock that is never set back."""
    return time.monotonic()


class Stopwatch:
    """Measures the time between its readings.

    Args:
        fabric: The other processes.
    """

    def __init__(self, fabric: Fabric) -> None:
        self.fabric, self._before = fabric, now()

    def read(self, signal: int = 0) -> tuple[float, int]:
        """All processes call it together, which costs one exchange of two numbers.

        Args:
            signal: Number of the signal that this process has received; 0: none.

        Returns:
            Seconds since the last reading, the mean over the processes; and the sum of the signals.
        """
        before, self._before = self._before, now()
        own = torch.tensor([self._before - before, signal], device=self.fabric.device)
        seconds, signals = self.fabric.all_reduce(own, reduce_op="sum").tolist()
        return seconds / self.fabric.world_size, int(signals)
