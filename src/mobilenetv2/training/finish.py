"""The end of a run: its result is measured, and everything to look at is written."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from ..formats import open_checkpoint
from .checkpoints import quiet_about_range
from .epochs import Progress
from .page import Finished, write_page
from .report import draw_curves
from .run_folder import RunFolder, Settings
from .sheets import never_stopping
from .task import Task

LOG = logging.getLogger(__name__)


def finish(task: Task, folder: RunFolder, settings: Settings, val: Any, progress: Progress) -> Any:
    """Evaluates the model file by the CPU runtime, writes the scores into it, and draws.

    Args:
        task: What was trained.
        folder: Of the run.
        settings: Of the run.
        val: Images to validate with.
        progress: After the last epoch.

    Returns:
        The evaluation.
    """
    checkpoint = open_checkpoint(folder.model)
    with quiet_about_range():
        evaluation = task.evaluate(checkpoint, val)
    which = {
        name: progress.best[name] for name in ("epoch", "trained_share") if name in progress.best
    }
    scores = {**which, **task.scores(evaluation)}
    provenance = checkpoint.provenance | {"validation": scores}
    replace(checkpoint, provenance=provenance).save(folder.model)
    folder.write_log(progress.rows)
    with never_stopping(folder.curves):
        best_epoch = int(progress.best["epoch"])
        draw_curves(progress.rows, task.columns, best_epoch, folder.curves)
    with never_stopping(folder.path / task.figure):
        task.draw(evaluation, checkpoint.labels, folder.path / task.figure)
    with never_stopping(folder.answers), quiet_about_range():
        task.answers(evaluation, checkpoint).save(folder.answers)
    with never_stopping(folder.page):
        finished = Finished(progress.epoch, progress.best, progress.rows, evaluation)
        write_page(folder, settings, task, finished)
        LOG.info("%s shows the run", folder.page)
    return evaluation
