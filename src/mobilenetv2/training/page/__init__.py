"""The page of a run: index.html in its folder, which shows the other files there and loads nothing
else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from ...files import write_atomically
from ...printable import printable
from ..run_folder import BATCHES, RunFolder, Settings
from ..sheets import Sheet, never_stopping
from ..task import Task

FOLDER = Path(__file__).parent
MAX_CLASSES = 1000  # in the table
# what the names of scores mean; one that is not here needs no explanation
MEANINGS = {
    "top1": "% of the images got their class",
    "top5": "% had it among the five most probable",
    "balanced": "% on average over the classes, each counted alike",
    "ece": "distance between stated probabilities and the share that is right; 0 is best",
    "nll": "mean negative log likelihood; 0 is best",
    "ap": "average precision (COCO's), 1 is best",
    "ap50": "the same where an overlap of half is enough",
    "ap75": "the same where it must be three quarters",
    "ap_small": "AP of objects below 32 x 32 pixels",
    "ap_medium": "AP of objects up to 96 x 96 pixels",
    "ap_large": "AP of larger objects",
    "ar1": "average recall with the best detection of each image and class alone",
    "ar10": "the same with the ten best",
    "ar100": "the same with the hundred best",
    "ar_small": "average recall of objects below 32 x 32 pixels",
    "ar_medium": "average recall of objects up to 96 x 96 pixels",
    "ar_large": "average recall of larger objects",
    "miou": "intersection over union, mean of the classes; 1 is best",
    "pixel_accuracy": "share of the pixels that got their class",
    "weighted_iou": "intersection over union, weighted by the pixels of each class",
}
FIGURES = {
    "confusion.png": "Which classes are taken for which: each row is a true class, each column a predicted one, "
    "and the colour says how much of the row went there. A perfect network has its colour on the diagonal alone.",
    "precision.png": "Precision over recall: the lower the score from which detections are kept, the more "
    "objects are found, and the more detections are wrong. One line per overlap with the object that counts as finding it.",
}


class Finished(NamedTuple):
    """The end of a run.

    Attributes:
        epochs: Number of epochs trained.
        best: Epoch and scores of the best network.
        rows: The log, one row per epoch.
        evaluation: Of the best network.
    """

    epochs: int
    best: Mapping[str, float]
    rows: Sequence[Mapping[str, Any]]
    evaluation: Any


class Tile(NamedTuple):
    """One image of a sheet, as CSS places it.

    Attributes:
        lines: Its caption.
        style: The properties of the box that shows it.
    """

    lines: Sequence[str]
    style: str


def write_page(
    folder: RunFolder,
    settings: Settings,
    task: Task,
    finished: Finished | None = None,
) -> None:
    """Writes index.html into the folder of a run.

    Args:
        folder: Of the run; the page shows the files that are there.
        settings: Of the run.
        task: What is trained.
        finished: None while the run goes on.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    result = {} if finished is None else _result(folder, task, finished)
    page = environment.get_template("page.html").render(
        style=Markup((FOLDER / "page.css").read_text(encoding="utf-8")),
        name=folder.path.resolve().name,
        settings=settings,
        task=task,
        batches=[*filter(None, map(_tiles, map(folder.batch_picture, range(BATCHES))))],
        result=result,
        files=[path.name for path in (folder.model, folder.recipe, folder.log) if path.is_file()],
    )
    write_atomically(folder.page, page.encode())


def _result(folder: RunFolder, task: Task, finished: Finished) -> dict[str, Any]:
    """What the page shows of a finished run."""
    evaluation = finished.evaluation
    classes = task.class_table(evaluation)
    *_, last = classes[0]
    ordered = sorted(classes, key=lambda row: (row[last] is None, row[last] or 0.0))
    figure = folder.path / task.figure
    return {
        "best_epoch": int(finished.best["epoch"]),
        "best": task.line(finished.best),
        "trained_share": finished.best.get("trained_share", 1.0),
        "epochs": finished.epochs,
        "scores": {
            name: (value, MEANINGS.get(name, ""))
            for name, value in task.summary(evaluation).items()
        },
        "rows": [{k: None if x == "" else x for k, x in row.items()} for row in finished.rows],
        "classes": ordered[:MAX_CLASSES],
        "class_count": len(classes),
        "sorted_by": last,
        "confusions": task.confusions(evaluation),
        "answers": _tiles(folder.answers),
        "curves": folder.curves.name if folder.curves.is_file() else None,
        "figure": (figure.name, FIGURES[figure.name]) if figure.is_file() else None,
    }


def _tiles(path: Path) -> tuple[str, list[Tile]] | None:
    """The address of a sheet and its tiles; None if there is none."""
    if not path.is_file():
        return None
    with never_stopping(path):
        sheet = Sheet.load(path)
        return path.name, [_tile(sheet, i, path.name) for i in range(len(sheet.captions))]
    return None


def _tile(sheet: Sheet, number: int, address: str) -> Tile:
    """A tile of a sheet, as the background of a box that may have any width."""
    grid, places = sheet.grid, []
    for place, side, whole in zip(grid.place(number), (grid.width, grid.height), sheet.image.size):
        places.append(100 * place / (whole - side) if whole > side else 0.0)
    return Tile(
        sheet.captions[number],
        f"background: url({address}) {places[0]:.4f}% {places[1]:.4f}% / {100 * grid.columns}% auto; "
        f"aspect-ratio: {grid.width} / {grid.height}",
    )


def _shown(value: Any) -> Any:
    """A value as the page has it."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    return value if isinstance(value, Markup) else printable(str(value))
