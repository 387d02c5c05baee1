"""The tasks by name, and which of them a source of images is for."""

from __future__ import annotations

from pathlib import Path

from ..architecture import Architecture
from ..datasets.tasks import is_boxes, is_masks
from ..errors import UserError
from .classification import Classification
from .detection import Detection
from .segmentation import Segmentation
from .shards import in_shards
from .task import Task

TASKS: dict[str, Task] = {
    task.name: task for task in (Classification(), Detection(), Segmentation())
}


def task_of(architecture: Architecture) -> Task:
    """The task of a network's head; one without a head becomes a classifier."""
    return TASKS.get(architecture.head.task, TASKS[Classification.name])


def task_called(name: str | None, data: str, val: str | None = None) -> Task:
    """The task of that name; None: the one that the data are for.

    Args:
        name: Name of a task.
        data: The images to train with.
        val: The images to validate with, which decide where the others are in shards.

    Raises:
        UserError: There is no such task, or the data may be for two.
    """
    if name is not None:
        if name not in TASKS:
            raise UserError(f"a task is {', '.join(TASKS)}, not {name!r:.80}")
        return TASKS[name]
    if val is not None and in_shards(data):
        data = val
    path = Path(data)
    boxes, masks = is_boxes(path), is_masks(path)
    if boxes and masks:
        raise UserError(f"{data}: has boxes and masks; give the task (--task detection)")
    if boxes:
        return TASKS[Detection.name]
    return TASKS[Segmentation.name if masks else Classification.name]
