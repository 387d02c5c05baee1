"""What `mobilenetv2 evaluate` does with a detector and with a segmenter."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .output import (
    notify,
    notify_notes,
    progress,
    save_image,
    save_rows,
    write_json,
    write_properties,
    write_rows,
)
from .overwriting import refuse_overwritten

if TYPE_CHECKING:
    from ..datasets import BoxDataset
    from ..detector import Detector
    from ..errors import ImageError
    from ..evaluation import DetectionEvaluation, SegmentationEvaluation
    from ..evaluation.detection import BoxAnswer
    from ..results import Detections
    from ..segmenter import Segmenter

BOX_COLUMNS = ("class", "indices", "boxes", "ap", "ap50")
MASK_COLUMNS = ("class", "index", "pixels", "iou", "recall")
ANSWER_COLUMNS = ("file", "miou", "pixel_accuracy")


@dataclass(frozen=True)
class Request:
    """The options of the command.

    Attributes:
        data: The dataset.
        split: Its part.
        mistakes: The file for the sheet.
        predictions: The file for the answers.
        wrong_only: Leave right answers out of it.
        matches: A list of labels and classes.
        stretch: As for `images.decode`.
        format_: How to print.
    """

    data: str
    split: str | None
    mistakes: Path | None
    predictions: Path | None
    wrong_only: bool
    matches: Path | None
    stretch: bool
    format_: str


def evaluate_boxes(model: Detector, request: Request) -> int:
    """Prints the average precision of a detector; the exit code."""
    from ..datasets import read_boxes
    from ..evaluation import box_sheet, evaluate_detector, read_matches
    from ..evaluation.coco import check_pycocotools

    check_pycocotools()
    if request.predictions and request.predictions.suffix.lower() != ".json":
        raise click.UsageError("--predictions of a detector is a COCO results file: FILE.json")
    dataset = _prepared(read_boxes(request.data, request.split), request)
    notify_notes(model.checkpoint)
    labels = model.class_names()
    matched = read_matches(request.matches, dataset, labels) if request.matches else None
    evaluation = _with_progress(
        dataset.samples, lambda step: evaluate_detector(model, dataset, step, matched)
    )
    if request.predictions:
        _save_results(evaluation, dataset, request.predictions)
    if request.mistakes:
        save_image(box_sheet(evaluation), request.mistakes)
    _print_boxes(evaluation, str(model.checkpoint.preprocessing), request.format_)
    return exit_code(evaluation.skipped, len(dataset.samples))


def evaluate_masks(model: Segmenter, request: Request) -> int:
    """Prints the mean intersection over union of a segmenter; the exit code."""
    from ..datasets import read_masks
    from ..evaluation import evaluate_segmenter, mask_sheet

    dataset = _prepared(read_masks(request.data, request.split), request)
    notify_notes(model.checkpoint)
    evaluation = _with_progress(
        dataset.samples, lambda step: evaluate_segmenter(model, dataset, step)
    )
    if request.predictions:
        rows = [
            {
                "file": Path(answer.sample.name),
                "miou": _rounded(answer.miou),
                "pixel_accuracy": _rounded(answer.pixel_accuracy),
            }
            for answer in evaluation.answers
        ]
        suffix = request.predictions.suffix.lower().removeprefix(".")
        save_rows(rows, ANSWER_COLUMNS, request.predictions, suffix)
    if request.mistakes:
        save_image(mask_sheet(evaluation, model), request.mistakes)
    _print_masks(evaluation, str(model.checkpoint.preprocessing), request.format_)
    return exit_code(evaluation.skipped, len(dataset.samples))


def _prepared(dataset: Any, request: Request) -> Any:
    """The dataset to evaluate with, after its problems were printed."""
    refuse_overwritten(dataset.samples, dataset.files)
    for problem in dataset.problems:
        notify(problem)
    return dataset.stretched() if request.stretch else dataset


def _with_progress(samples: Sequence[Any], run: Callable[[Callable[..., None]], Any]) -> Any:
    """The evaluation, after its notes were printed."""
    with progress(len(samples), "evaluating") as step:

        def advance(sample: Any, error: ImageError | None) -> None:
            step()
            if error:
                notify(error)

        evaluation = run(advance)
    for note in evaluation.notes:
        notify(f"note: {note}")
    return evaluation


def _print_boxes(evaluation: DetectionEvaluation, preprocessing: str, format_: str) -> None:
    properties = _properties(evaluation, preprocessing)
    classes: list[dict[str, Any]] = [
        {
            "class": each.label,
            "indices": list(each.indices),
            "boxes": each.boxes,
            "ap": _rounded(each.ap),
            "ap50": _rounded(each.ap50),
        }
        for each in evaluation.classes
    ]
    if format_ == "json":
        curves = evaluation.curves
        for i, each in enumerate(classes):
            each["precisions50"] = curves.precisions[0, :, i].round(6).tolist()
            each["scores50"] = curves.scores[0, :, i].round(6).tolist()
        recalls = curves.recalls.round(6).tolist()
        write_json([{**properties, "recalls": recalls, "classes": classes}])
        return
    if format_ == "table":
        write_properties(properties)
    rows = ({**each, "indices": " ".join(map(str, each["indices"]))} for each in classes)
    write_rows(rows, BOX_COLUMNS, format_)


def _print_masks(evaluation: SegmentationEvaluation, preprocessing: str, format_: str) -> None:
    properties = _properties(evaluation, preprocessing)
    classes: list[dict[str, Any]] = [
        {
            "class": each.label,
            "index": each.index,
            "pixels": each.pixels,
            "iou": _rounded(each.iou),
            "recall": _rounded(each.recall),
        }
        for each in evaluation.classes
    ]
    if format_ == "json":
        tables = {
            "confusion_axes": ["true", "predicted, the last one for other classes of the model"],
            "confusion": evaluation.confusion.tolist(),
        }
        write_json([{**properties, "classes": classes, **tables}])
        return
    if format_ == "table":
        write_properties(properties)
    write_rows(classes, MASK_COLUMNS, format_)


def _properties(
    evaluation: DetectionEvaluation | SegmentationEvaluation, preprocessing: str
) -> dict[str, Any]:
    names = [field.name for field in fields(evaluation.scores)]
    return {
        "images": len(evaluation.answers),
        "skipped": len(evaluation.skipped),
        **dict(zip(names, map(_rounded, astuple(evaluation.scores)))),
        "preprocessing": preprocessing,
    }


def _save_results(evaluation: DetectionEvaluation, dataset: BoxDataset, path: Path) -> None:
    """Writes a COCO results file."""
    from ..files import write_atomically
    from .output import json_text

    ids = {
        index: category
        for result, category in zip(evaluation.classes, dataset.category_ids)
        for index in result.indices
    }
    rows = [
        row
        for answer in evaluation.answers
        for row in _as_annotated(answer).to_coco(answer.sample.target.image_id, ids)
    ]
    write_atomically(path, json_text(rows).encode())


def _as_annotated(answer: BoxAnswer) -> Detections:
    """The detections in the frame of the data's own annotations, for which a results file is made."""
    from dataclasses import replace

    from ..datasets.frames import Frame

    target = answer.sample.target
    boxes = Frame(target.size, target.turn).stored(answer.detections.boxes)
    return replace(answer.detections, boxes=boxes)


def _rounded(value: float) -> float | None:
    """None for NaN: there is nothing to measure."""
    return None if math.isnan(value) else round(value, 6)


def exit_code(skipped: Sequence[ImageError], total: int) -> int:
    """1 and a line where images could not be read, else 0."""
    if skipped:
        notify(f"{len(skipped)} of {total} could not be read")
    return 1 if skipped else 0
