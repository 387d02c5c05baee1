"""One process of a training run on a clock that only steps move, and that a step may kill."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import torch

from mobilenetv2.training import Machine, Recipe, Start, fit
from mobilenetv2.training import clock as clock_module
from mobilenetv2.training.trainer import Trainer

TINY = Start(width=0.35, resolution=(16, 16), small_images=True)
STEP_SECONDS = 0.125  # of the first process


def train(
    rank: int, variables: dict[str, str], data: Path, out: Path, recipe: Recipe | None, killed: int
) -> None:
    """Trains, or goes on where there is no recipe; killed by SIGKILL at a step, unless that is 0."""
    os.environ.update(variables, RANK=str(rank), LOCAL_RANK=str(rank))
    torch.set_num_threads(1)
    steps, step = 0, Trainer.step

    def counted(self: Trainer, *rest: Any) -> float:
        nonlocal steps
        loss = step(self, *rest)
        steps += 1
        if steps == killed:
            os.kill(os.getpid(), signal.SIGKILL)
        return loss

    Trainer.step = counted  # type: ignore[method-assign]
    clock_module.now = lambda: steps * STEP_SECONDS * (1 + rank / 4)
    start = None if recipe is None else TINY
    machine = Machine(workers=0, precision="32")
    fit(data, out, recipe, start, machine=machine, resume=recipe is None)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
