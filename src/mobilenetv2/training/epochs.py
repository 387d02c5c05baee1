"""The epochs of a run: steps, validation, saving, and the ways in which a run stops."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from lightning.fabric import Fabric

from ..errors import UserError
from .clock import Stopwatch
from .data import Images, ShardImages, loader, shard_loader
from .events import Events
from .machine import Machine, stop_signals
from .optim import learning_rate, timed_learning_rate
from .pictures import Pictures
from .recipes import Recipe
from .run_folder import RunFolder
from .trainer import Trainer
from .watch import Step, Watch
from .workers import UNKNOWN, Span

LOG = logging.getLogger(__name__)
LOG_SECONDS = 30.0  # between two log lines within an epoch
EVENT_STEPS = 50  # between two TensorBoard events within an epoch


class DivergedError(UserError):
    """The loss became infinite or not a number; the message says where and what to do."""


class Stopped(Exception):  # noqa: N818 - not an error: the run was stopped and can be resumed
    """SIGINT or SIGTERM was received, and the state is saved.

    Attributes:
        signal: Number of the signal.
    """

    def __init__(self, signal: int) -> None:
        super().__init__(f"stopped by signal {signal}; --resume continues from here")
        self.signal = signal


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        epoch: Finished epochs.
        step: Finished steps of the current epoch.
        loss_sum: Sum of the losses of these steps.
        best: Epoch and scores of the best network so far; empty before the first validation.
        since_best: Epochs since then.
        rows: The log, one row per epoch.
        seconds: Time taken, validation included and without what came before and after a stop.
        begin: Share of the run that was done when the current epoch began.
        length: Share of the run that the epoch before it took.
        mixed: Whether the mixtures with the start were validated, after the last epoch.
    """

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    best: dict[str, float] = field(default_factory=dict)
    since_best: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    begin: float = 0.0
    length: float = 0.0
    mixed: bool = False

    def share(self, recipe: Recipe, epoch_steps: int) -> float:
        """The share of the run that is done: of its minutes, or of its steps."""
        if recipe.minutes:
            return min(1.0, self.seconds / (60 * recipe.minutes))
        total = recipe.epochs * epoch_steps
        return (self.epoch * epoch_steps + self.step) / total if total else 1.0

    def time(self, recipe: Recipe) -> tuple[float | None, float | None]:
        """The share of the recipe's minutes that is over, and the seconds left of them; None in a run
        with epochs.
        """
        if not recipe.minutes:
            return None, None
        return self.share(recipe, 1), max(0.0, 60 * recipe.minutes - self.seconds)

    def is_done(self, recipe: Recipe) -> bool:
        """Whether there are no more steps; an epoch that was begun may still lack its validation."""
        return self.share(recipe, 1) >= 1 if recipe.minutes else self.epoch >= recipe.epochs


class RunContext(NamedTuple):
    """Everything that is fixed during a run.

    Attributes:
        fabric: The device and the other processes.
        trainer: Network, optimiser and moving average.
        folder: Where state and log are written.
        events: Where the values for TensorBoard are written.
        machine: Workers that load images.
        train: Images to train with.
        val: Images to validate with.
        keep_best: Saves the model file; called with the scores whenever they are the best so far.
        measure: The scores of the moving average that the runtime gives.
        pictures: Draws the first batches.
        watch: Called after each batch; None: lines in the log show how far an epoch is.
    """

    fabric: Fabric
    trainer: Trainer
    folder: RunFolder
    events: Events
    machine: Machine
    train: Images | ShardImages
    val: Images
    keep_best: Callable[[dict[str, float]], None]
    measure: Callable[[], dict[str, float]]
    pictures: Pictures
    watch: Watch | None


def run_epochs(context: RunContext, progress: Progress) -> None:
    """Trains until all epochs or minutes are over or the patience has run out; updates `progress`.

    After each epoch the moving average is validated and, if it is the best so far, kept; then the
    state is saved.

    Raises:
        DivergedError: The loss is no longer finite.
        Stopped: SIGINT or SIGTERM was received; the step was finished and the state saved.
        UserError: A file cannot be written, or the processes that read images cannot work.
    """
    recipe, stopwatch = context.trainer.recipe, Stopwatch(context.fabric)
    if not progress.rows and recipe.head_first:
        validate(context, progress, {"lr": "", "train_loss": "", "seconds": "", "waiting": ""})
        save(context, progress)
    with stop_signals() as received_signal:
        progress.seconds += stopwatch.read()[0]
        while progress.step or not progress.is_done(recipe):
            if 0 < recipe.patience <= progress.since_best:
                LOG.info("stopped: no better result for %d epochs", progress.since_best)
                break
            epoch_row = _train(context, progress, stopwatch, received_signal)
            progress.epoch, progress.step, progress.loss_sum = progress.epoch + 1, 0, 0.0
            validate(context, progress, epoch_row)
            progress.seconds += stopwatch.read()[0]
            save(context, progress)
        if recipe.start_shares and progress.epoch and not progress.mixed:
            mix_with_start(context, progress)
            progress.mixed = True
            save(context, progress)


def batches(
    context: RunContext,
    images: Images | ShardImages,
    epoch: int,
    train: bool,
    span: Span = UNKNOWN,
) -> Any:
    """The batches of one epoch for this process, which is expected to be that part of the run."""
    recipe, fabric = context.trainer.recipe, context.fabric
    batch = -(-recipe.batch // fabric.world_size)
    if isinstance(images, ShardImages):
        workers = context.machine.worker_count
        steps = recipe.epoch_steps
        return shard_loader(images, batch, epoch=epoch, steps=steps, workers=workers, span=span)
    return loader(
        images,
        batch,
        epoch=epoch,
        seed=recipe.seed,
        train=train,
        workers=context.machine.worker_count,
        balance=train and recipe.balance,
        rank=fabric.global_rank,
        world=fabric.world_size,
        span=span,
    )


def _train(
    context: RunContext,
    progress: Progress,
    stopwatch: Stopwatch,
    received_signal: Callable[[], int],
) -> dict[str, Any]:
    """Trains for one epoch, or for the rest of it; returns the entries of its log row."""
    fabric, trainer, recipe = context.fabric, context.trainer, context.trainer.recipe
    epoch = progress.epoch
    if not progress.step:
        progress.begin = progress.share(recipe, 1)
    span = Span(progress.begin, 1 / recipe.epochs if recipe.epochs else progress.length)
    epoch_batches = batches(context, context.train, epoch, train=True, span=span)
    steps = len(epoch_batches)
    started = logged = ready = time.perf_counter()
    waited, over = 0.0, progress.is_done(recipe)
    for pixels, targets in () if over else islice(epoch_batches, progress.step, None):
        waited += time.perf_counter() - ready
        step, share = progress.step, progress.share(recipe, steps)
        lr = _rate(progress, recipe, steps)
        sequence = np.random.SeedSequence([recipe.seed, epoch, step, fabric.global_rank])
        seed = int(sequence.generate_state(1)[0])
        loss = trainer.step(pixels, targets, lr, seed, epoch < recipe.head_epochs, share)
        if not math.isfinite(loss):
            where = f"at step {step + 1} of {steps} in epoch {epoch + 1}"
            raise DivergedError(_diverged_message(context, where, lr))
        progress.step += 1
        progress.loss_sum += loss
        context.pictures.batch(epoch * steps + step, pixels, targets, seed, share)
        if step % EVENT_STEPS == 0:
            context.events.write({"train/loss": loss, "train/lr": lr}, epoch * steps + step)
        ready = time.perf_counter()
        if context.watch:
            done, images = (epoch + 1, recipe.epochs, step + 1, steps), len(pixels)
            time_over = progress.time(recipe)
            context.watch(Step(False, *done, images * fabric.world_size, loss, lr, *time_over))
        elif ready - logged > LOG_SECONDS:
            logged = ready
            LOG.info("epoch %d  step %d of %d  loss %.4f", epoch + 1, step + 1, steps, loss)
        seconds, signal = stopwatch.read(received_signal())
        progress.seconds += seconds
        if signal:
            save(context, progress)
            raise Stopped(received_signal() or signal)
        if progress.is_done(recipe):
            break
    progress.length = progress.share(recipe, steps) - progress.begin
    seconds = time.perf_counter() - started
    return {
        "lr": _rate(replace(progress, step=progress.step - 1), recipe, steps),
        "train_loss": progress.loss_sum / progress.step,
        "seconds": seconds,
        "waiting": waited / seconds,
    }


def _rate(progress: Progress, recipe: Recipe, steps: int) -> float:
    """The learning rate of the next step."""
    if recipe.minutes:
        return timed_learning_rate(recipe, progress.share(recipe, steps))
    return learning_rate(recipe, progress.epoch * steps + progress.step, steps)


def validate(context: RunContext, progress: Progress, epoch_row: dict[str, Any]) -> None:
    """Validates, logs, and keeps the network if it is the best so far."""
    scores = _scores(context, progress, epoch_row["lr"] or 0.0)
    progress.rows.append({"epoch": progress.epoch, **epoch_row, **scores})
    progress.since_best += 1
    if _keep_better(context, progress, scores):
        progress.since_best = 0
    context.events.write(scores, progress.epoch)
    share = progress.share(context.trainer.recipe, 1)
    LOG.info("%s", _log_line(context, progress.rows[-1], share))


def mix_with_start(context: RunContext, progress: Progress) -> None:
    """Validates the mixtures of the weights before the first epoch and the moving average, logs, and
    keeps the best if it is the best so far.
    """
    for share in context.trainer.recipe.start_shares:
        with context.trainer.mixed_with_start(share):
            scores = _scores(context, progress, 0.0)
            _keep_better(context, progress, scores | {"trained_share": share})
        LOG.info(
            "%g %% as trained, the rest as before  validation: loss %.4f, %s",
            100 * share,
            scores["val_loss"],
            context.trainer.task.line(scores),
        )


def _scores(context: RunContext, progress: Progress, lr: float) -> dict[str, float]:
    result = context.trainer.validate(_watched(context, progress))
    if not math.isfinite(result.loss):
        where = f"in validation after epoch {progress.epoch}"
        raise DivergedError(_diverged_message(context, where, lr))
    return {"val_loss": result.loss, **result.scores, **context.measure()}


def _keep_better(context: RunContext, progress: Progress, scores: dict[str, float]) -> bool:
    """Keeps the network if it is the best so far; returns whether it is."""
    rank = context.trainer.task.rank
    if progress.best and rank(scores) <= rank(progress.best):
        return False
    progress.best = {"epoch": progress.epoch, **scores}
    context.keep_best(progress.best)
    return True


def _watched(context: RunContext, progress: Progress) -> Iterator[Any]:
    """The batches to validate with; `watch` is called after each."""
    recipe, epoch = context.trainer.recipe, progress.epoch
    val_batches = batches(context, context.val, 0, train=False)
    steps = len(val_batches)
    for step, (pixels, targets) in enumerate(val_batches, 1):
        yield pixels, targets
        if context.watch:
            images = len(pixels) * context.fabric.world_size
            done = epoch, recipe.epochs, step, steps
            time_over = progress.time(recipe)
            context.watch(Step(True, *done, images, math.nan, math.nan, *time_over))


def save(context: RunContext, progress: Progress) -> None:
    """Writes the state to resume from, then the log."""
    state = context.trainer.state_dict()
    if context.fabric.is_global_zero:
        context.folder.write_state({"progress": asdict(progress), **state})
        context.folder.write_log(progress.rows)
    context.fabric.barrier()


def _log_line(context: RunContext, row: dict[str, Any], share: float) -> str:
    trained = "head alone" if row["lr"] == "" else f"loss {row['train_loss']:.4f}"
    recipe = context.trainer.recipe
    of = f"/{recipe.epochs}" if not recipe.minutes else f", {100 * share:.0f} % of the time"
    return (
        f"epoch {row['epoch']}{of}  {trained}  validation: loss "
        f"{row['val_loss']:.4f}, {context.trainer.task.line(row)}"
        + (f"  {row['seconds']:.0f} s" if row["seconds"] != "" else "")
    )


def _diverged_message(context: RunContext, where: str, lr: float) -> str:
    last = context.folder.last
    saved = f"the last good state is {last}" if last.exists() else "nothing was saved"
    return (
        f"the loss is no longer finite {where}, learning rate {lr:.3g}; {saved}; try a lower rate "
        "(--lr) or --precision 32"
    )
