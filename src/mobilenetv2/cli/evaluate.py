"""`mobilenetv2 evaluate`: how right a model is on labelled images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import model_option
from .output import format_option, progress, write_json, write_rows

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..datasets import Sample
    from ..errors import ImageError
    from ..evaluation import Evaluation

COLUMNS = ("class", "index", "images", "right", "percent")


@click.command()
@click.argument("data", metavar="DATA")
@model_option
@click.option(
    "--split",
    metavar="NAME",
    help="Folder to take: train, val or test.  [default: val, else test, else everything]",
)
@click.option(
    "--mistakes",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the 32 surest wrong answers as one image.",
)
@format_option
def evaluate(
    data: str, model_name: str, split: str | None, mistakes: Path | None, format_: str
) -> int:
    """Measure how right a model is on labelled images.

    DATA is a folder or a .zip with one folder a class (above them train, val and test, if you
    like), or a CSV list with the columns file and label, index or both. Images that cannot be
    read are named on stderr and left out, and the exit code is 1.

    top1 and top5 are percent; ece is the expected calibration error from 0 to 1; nll is the mean
    negative log likelihood."""
    import warnings

    from ..datasets import read_dataset
    from ..evaluation import contact_sheet
    from ..evaluation import evaluate as run
    from ..model import load

    warnings.filterwarnings("ignore", module="PIL")
    dataset = read_dataset(data, split)
    for problem in dataset.problems:
        click.echo(problem, err=True)
    model = load(model_name)
    with progress(len(dataset.samples), "evaluating") as step:

        def advance(sample: Sample, error: ImageError | None) -> None:
            step()
            if error:
                click.echo(str(error), err=True)

        found = run(model, dataset, advance)
    _write(found, format_)
    if mistakes:
        _save(contact_sheet(found.mistakes), mistakes)
    if found.skipped:
        click.echo(f"{len(found.skipped)} of {len(dataset.samples)} could not be read", err=True)
    return 1 if found.skipped else 0


def _write(found: Evaluation, format_: str) -> None:
    scores = found.scores
    facts = {
        "images": found.images,
        "skipped": len(found.skipped),
        "top1": round(scores.top1, 4),
        "top5": round(scores.top5, 4),
        "ece": round(scores.ece, 6),
        "nll": round(scores.nll, 6),
    }
    classes: list[dict[str, Any]] = [
        {
            "class": c.label,
            "index": c.index,
            "images": c.images,
            "right": c.right,
            "percent": round(100 * c.right / c.images, 4) if c.images else None,
        }
        for c in found.classes
    ]
    if format_ == "json":
        whole = {**facts, "classes": classes, "labels": found.labels}
        write_json([{**whole, "confusion": found.confusion.tolist()}])
        return
    if format_ == "table":
        rows = [{"property": name, "value": value} for name, value in facts.items()]
        write_rows(rows, ("property", "value"), format_)
    write_rows(classes, COLUMNS, format_)


def _save(sheet: Image, path: Path) -> None:
    try:
        sheet.save(path)
    except (OSError, ValueError) as error:  # ValueError: an ending that Pillow does not know
        raise click.UsageError(f"{path}: cannot be written: {error}") from None
