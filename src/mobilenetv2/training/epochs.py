"""The epochs of a run: steps, validation, what is kept, and the ways in which it stops."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from lightning.fabric import Fabric

from ..errors import UserError
from .data import Images, ShardImages, loader, shard_loader
from .machine import Machine, stop_signals, told_of_memory
from .optim import learning_rate
from .run_folder import RunFolder
from .trainer import Trainer, Validation

LOG = logging.getLogger(__name__)
TOLD_SECONDS = 30.0  # between two lines within an epoch
LOGGED_STEPS = 50  # between two events of TensorBoard within an epoch


class DivergedError(UserError):
    """The loss became infinite or not a number; the message says where and what to do."""


class Stopped(Exception):  # noqa: N818 - not an error: the run was asked to stop, and can go on
    """SIGINT or SIGTERM came, the state is saved; `signal` is its number."""

    def __init__(self, signal: int) -> None:
        super().__init__(f"stopped by signal {signal}; --resume goes on from here")
        self.signal = signal


@dataclass
class Progress:
    """How far a run is: the epochs and the steps of the next one that are done, its loss so far,
    and what came of the epochs before.
    """

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    best: dict[str, float] = field(default_factory=dict)
    since_best: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)


class Materials(NamedTuple):
    """What the epochs work with."""

    fabric: Fabric
    trainer: Trainer
    folder: RunFolder
    machine: Machine
    train: Images | ShardImages
    val: Images
    keep_best: Callable[[dict[str, float]], None]


def run_epochs(with_: Materials, progress: Progress) -> None:
    """Trains until the epochs or the patience are at an end, `progress` being brought forward.

    After each epoch the moving average is judged and, if it is the best so far, kept; then the
    state is saved.

    Raises:
        DivergedError: The loss is no longer finite.
        Stopped: SIGINT or SIGTERM; the step was finished and the state saved.
        UserError: A step wants more memory than there is.
    """
    recipe = with_.trainer.recipe
    if not progress.rows and recipe.head_first:
        judge(with_, progress, {"lr": "", "train_loss": "", "seconds": "", "waiting": ""})
        save(with_, progress)
    with stop_signals() as asked:
        while progress.epoch < recipe.epochs:
            if 0 < recipe.patience <= progress.since_best:
                LOG.info("no better for %d epochs: stopped", progress.since_best)
                break
            facts = _train(with_, progress, asked)
            progress.epoch, progress.step, progress.loss_sum = progress.epoch + 1, 0, 0.0
            judge(with_, progress, facts)
            save(with_, progress)


def batches(with_: Materials, images: Images | ShardImages, epoch: int, train: bool) -> Any:
    """The batches of one epoch for this process."""
    recipe, fabric = with_.trainer.recipe, with_.fabric
    batch = -(-recipe.batch // fabric.world_size)
    if isinstance(images, ShardImages):
        workers = with_.machine.worker_count
        return shard_loader(images, batch, epoch=epoch, steps=recipe.epoch_steps, workers=workers)
    return loader(
        images,
        batch,
        epoch=epoch,
        seed=recipe.seed,
        train=train,
        workers=with_.machine.worker_count,
        balance=train and recipe.balance,
        rank=fabric.global_rank,
        world=fabric.world_size,
    )


def _train(with_: Materials, progress: Progress, asked: Callable[[], int]) -> dict[str, Any]:
    """One epoch, or what is left of it."""
    fabric, trainer, recipe = with_.fabric, with_.trainer, with_.trainer.recipe
    epoch = progress.epoch
    found = batches(with_, with_.train, epoch, train=True)
    steps = len(found)
    started = told = ready = time.perf_counter()
    waited, lr = 0.0, recipe.lr
    for pixels, labels in islice(found, progress.step, None):
        waited += time.perf_counter() - ready
        step = progress.step
        lr = learning_rate(recipe, epoch * steps + step, steps)
        seed = np.random.SeedSequence([recipe.seed, epoch, step, fabric.global_rank])
        with told_of_memory(recipe.batch):
            loss = trainer.step(pixels, labels, lr, int(seed.generate_state(1)[0]))
        if not math.isfinite(loss):
            where = f"at step {step + 1} of {steps} in epoch {epoch + 1}"
            raise DivergedError(_diverged(with_, where, lr))
        progress.step += 1
        progress.loss_sum += loss
        if step % LOGGED_STEPS == 0:
            fabric.log_dict({"train/loss": loss, "train/lr": lr}, epoch * steps + step)
        ready = time.perf_counter()
        if ready - told > TOLD_SECONDS:
            told = ready
            LOG.info("epoch %d  step %d of %d  loss %.4f", epoch + 1, step + 1, steps, loss)
        signal = int(fabric.all_reduce(float(asked()), reduce_op="sum"))
        if signal:
            save(with_, progress)
            raise Stopped(asked() or signal)
    seconds = time.perf_counter() - started
    return {
        "lr": learning_rate(recipe, (epoch + 1) * steps - 1, steps),
        "train_loss": progress.loss_sum / steps,
        "seconds": seconds,
        "waiting": waited / seconds,
    }


def judge(with_: Materials, progress: Progress, facts: dict[str, Any]) -> Validation:
    """Validates, logs, and keeps the network if it is the best so far."""
    found = with_.trainer.validate(batches(with_, with_.val, 0, train=False))
    if not math.isfinite(found.loss):
        where = f"in validation after epoch {progress.epoch}"
        raise DivergedError(_diverged(with_, where, facts["lr"] or 0.0))
    scores = {"val_loss": found.loss, "val_top1": found.top1, "val_balanced": found.balanced}
    progress.rows.append({"epoch": progress.epoch, **facts, **scores})
    best = progress.best
    progress.since_best += 1
    if not best or (found.top1, -found.loss) > (best["val_top1"], -best["val_loss"]):
        progress.best = {"epoch": progress.epoch, **scores}
        progress.since_best = 0
        with_.keep_best(progress.best)
    with_.fabric.log_dict(scores, progress.epoch)
    LOG.info("%s", _line(progress.rows[-1], with_.trainer.recipe.epochs))
    return found


def save(with_: Materials, progress: Progress) -> None:
    """Writes the log and what a resumed run needs."""
    if with_.fabric.is_global_zero:
        with_.folder.write_log(progress.rows)
        with_.folder.write_state({"progress": asdict(progress), **with_.trainer.state_dict()})
    with_.fabric.barrier()


def _line(row: dict[str, Any], epochs: int) -> str:
    trained = "head alone" if row["lr"] == "" else f"loss {row['train_loss']:.4f}"
    return (
        f"epoch {row['epoch']}/{epochs}  {trained}  validation: loss {row['val_loss']:.4f}, "
        f"top1 {row['val_top1']:.2f} %, balanced {row['val_balanced']:.2f} %"
        + (f"  {row['seconds']:.0f} s" if row["seconds"] != "" else "")
    )


def _diverged(with_: Materials, where: str, lr: float) -> str:
    last = with_.folder.last
    good = f"the last good state is {last}" if last.exists() else "nothing was saved"
    return (
        f"the loss is no longer finite {where}, learning rate {lr:.3g}; {good}; try a lower rate "
        "(--lr) or --precision 32"
    )
