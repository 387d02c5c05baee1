"""`mobilenetv2 evaluate`: the accuracy of a model on labelled images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .evaluate_tasks import Request, evaluate_boxes, evaluate_masks, exit_code
from .options import model_option, precision_option, stretch_option, threads_option
from .output import (
    OutputPath,
    notify,
    notify_notes,
    progress,
    result_options,
    save_image,
    save_rows,
    show_image_warnings,
    write_json,
    write_properties,
    write_rows,
)
from .overwriting import refuse_overwritten

if TYPE_CHECKING:
    from ..datasets import Sample
    from ..errors import ImageError
    from ..evaluation import Evaluation
    from ..model import Model

NAMED = {
    "synsets": "the classes are WordNet ids, taken as those of ImageNet's 1000 classes",
    "numbers": "the classes are numbers, taken as the model's classes, counted from 0 without a "
    "background class",
}
TASKS: dict[str, Callable[[Any, Request], int]] = {
    "detection": evaluate_boxes,
    "segmentation": evaluate_masks,
}
PREDICTION_COLUMNS = ("file", "class", "answer", "probability", "right")
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
    type=OutputPath(".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp"),
    help="Write the mistakes with the highest probability as one image; of detectors and segmenters the worst answers.",
)
@click.option(
    "--predictions",
    type=OutputPath(".csv", ".json"),
    metavar="FILE",
    help="Write the answer for each image, as .csv or .json; of detectors COCO results, .json.",
)
@click.option("--wrong-only", is_flag=True, help="Leave right answers out of --predictions.")
@click.option(
    "--match",
    "matches",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="CSV list with the columns label and class: which class of DATA each of a detector's is.",
)
@threads_option
@precision_option
@stretch_option
@result_options
def evaluate(model_name: str, precision: str | None, **options: Any) -> int:
    """Measure the accuracy of a model on labelled images.

    For a classifier, DATA is a folder or a .zip with one folder per class (above them train, val
    and test, if you like), or a CSV list with the columns file and label, index or both. For a
    detector it is a folder in the layout of COCO, Pascal VOC or YOLO, for a segmenter one of Pascal
    VOC. Images that cannot be read are named on stderr and left out, and the exit code is 1.

    top1 and top5 are percent (top5 of models with more than five classes); ece is the expected
    calibration error from 0 to 1; nll is the mean negative log likelihood. Detectors get COCO's
    twelve numbers, segmenters the mean intersection over union."""
    from ..loading import load

    request = Request(**options)
    if request.wrong_only and request.predictions is None:
        raise click.UsageError("--wrong-only chooses what --predictions FILE gets: give that too")
    show_image_warnings()
    model = load(model_name, precision=precision)
    task = model.checkpoint.architecture.head.task
    if request.matches and task != "detection":
        raise click.UsageError("--match is for detectors: others need classes of the same names")
    if request.wrong_only and task in TASKS:
        raise click.UsageError("--wrong-only is for classifiers: their answers are right or not")
    return TASKS.get(task, _evaluate_classes)(model, request)


def _evaluate_classes(model: Model, request: Request) -> int:
    """Prints the accuracy of a classifier; the exit code."""
    from ..datasets import read_dataset, repeated_images
    from ..evaluation import contact_sheet, how_named
    from ..evaluation import evaluate as run

    dataset = read_dataset(request.data, request.split)
    refuse_overwritten(dataset.samples)
    dataset = dataset.stretched() if request.stretch else dataset
    for problem in (*dataset.problems, *repeated_images(dataset)):
        notify(problem)
    notify_notes(model.checkpoint)
    architecture, labels = model.checkpoint.architecture, model.checkpoint.labels
    if remark := NAMED.get(how_named(dataset, labels, architecture.classes or 0)):
        notify(remark)
    with progress(len(dataset.samples), "evaluating") as step:

        def advance(sample: Sample, error: ImageError | None) -> None:
            step()
            if error:
                notify(error)

        evaluation = run(model, dataset, advance)
    for warning in evaluation.warnings:
        notify(f"warning: {warning}")
    _write(evaluation, str(model.checkpoint.preprocessing), request.format_)
    if request.predictions:
        _save_predictions(evaluation, request.predictions, request.wrong_only)
    if request.mistakes:
        save_image(contact_sheet(evaluation.mistakes), request.mistakes)
    return exit_code(evaluation.skipped, len(dataset.samples))


def _write(evaluation: Evaluation, preprocessing: str, format_: str) -> None:
    scores = evaluation.scores
    properties = {
        "images": evaluation.images,
        "skipped": len(evaluation.skipped),
        "top1": round(scores.top1, 4),
        **({"top5": round(scores.top5, 4)} if len(evaluation.labels) > 5 else {}),
        "ece": round(scores.ece, 6),
        "nll": round(scores.nll, 6),
        "preprocessing": preprocessing,
    }
    classes: list[dict[str, Any]] = [
        {
            "class": c.label,
            "index": c.index,
            "images": c.images,
            "right": c.right,
            "percent": round(100 * c.right / c.images, 4) if c.images else None,
        }
        for c in evaluation.classes
    ]
    if format_ == "json":
        tables = {
            "labels": evaluation.labels,
            "confusion_axes": ["true", "predicted"],
            "confusion": evaluation.confusion.tolist(),
        }
        write_json([{**properties, "classes": classes, **tables}])
        return
    if format_ == "table":
        write_properties(properties)
    write_rows(classes, COLUMNS, format_)


def _save_predictions(evaluation: Evaluation, path: Path, wrong_only: bool) -> None:
    rows = [
        {
            "file": Path(answer.sample.name),
            "class": answer.truth,
            "answer": answer.predicted,
            "probability": round(answer.probability, 6),
            "right": answer.right,
        }
        for answer in evaluation.answers
        if not (wrong_only and answer.right)
    ]
    save_rows(rows, PREDICTION_COLUMNS, path, path.suffix.lower().removeprefix("."))
