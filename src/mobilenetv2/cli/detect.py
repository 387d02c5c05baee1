"""`mobilenetv2 detect`: the objects in images, each with its box."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import click

from .batch import Batch, Pictures
from .options import (
    max_pixels_option,
    precision_option,
    stretch_option,
    task_model,
    task_model_option,
    threads_option,
)
from .output import notify, result_options, write_json, write_rows

if TYPE_CHECKING:
    from ..datasets import Sample
    from ..results import Detections

COLUMNS = ("file", "label", "index", "score", "x0", "y0", "x1", "y1")


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@task_model_option
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    help="Objects need a score above it.",
)
@click.option(
    "--iou",
    "iou_threshold",
    type=click.FloatRange(0, 1),
    default=0.6,
    show_default=True,
    help="Of two boxes of one class that overlap by more, the better one is kept.",
)
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=100,
    show_default=True,
    help="Objects per image at most.",
)
@click.option(
    "--class",
    "classes",
    multiple=True,
    metavar="LABEL",
    help="Look for this class only; may be repeated.",
)
@click.option(
    "--draw",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Write each image with its boxes drawn, as FOLDER/NAME.detected.png.",
)
@click.option(
    "--coco",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="ANNOTATIONS",
    help="Print COCO results instead, with the numbers that this file has for images and classes.",
)
@max_pixels_option
@threads_option
@precision_option
@stretch_option
@result_options
def detect(
    paths: Sequence[str],
    model_name: str,
    draw: Path | None,
    coco: Path | None,
    max_pixels: int | None,
    stretch: bool,
    precision: str | None,
    format_: str,
    **selection: Any,
) -> int:
    """Detect objects in images.

    PATH is as for `classify`. Boxes are corners in pixels of the upright image, from the top left.
    Images that cannot be read are named on stderr, the others go on, and the exit code is 1."""
    batch = Batch(paths, "detect in", stretch=stretch, max_pixels=max_pixels)
    model = task_model(model_name, "detection", precision)
    selection["classes"] = selection["classes"] or None
    pictures = Pictures("--draw", draw, "detected", batch)
    results = model.detect_files(batch.samples, batch.decode, **selection)

    def answers() -> Iterator[tuple[Sample, Detections]]:
        for sample, detections in batch.answers(results, "detecting"):
            pictures.write(sample, detections.draw)
            yield sample, detections

    if coco is not None:
        return _print_coco(coco, model.class_names(), answers(), batch)
    if format_ == "json":
        write_json({"file": Path(s.name), **d.to_dict()} for s, d in answers())
    else:
        rows = (row for sample, d in answers() for row in _rows(sample, d, format_ == "table"))
        write_rows(rows, COLUMNS, format_)
    return batch.exit_code()


def _print_coco(
    path: Path,
    labels: tuple[str, ...],
    answers: Iterator[tuple[Sample, Detections]],
    batch: Batch,
) -> int:
    """Prints a COCO results file; images and classes that the annotation file lacks are named."""
    from ..datasets import BoxDataset
    from ..datasets.coco import read_coco_ids
    from ..errors import shortened
    from ..evaluation import match_boxes

    ids = read_coco_ids(path)
    numbers = tuple(ids.categories.values())
    matched = match_boxes(BoxDataset(tuple(ids.categories), (), numbers, (), ()), labels)
    if lacking := [label for index, label in enumerate(labels) if index not in matched]:
        notify(f"note: classes that {path} lacks are left out: {shortened(lacking)}")
    categories = {index: numbers[place] for index, place in matched.items()}
    unknown: list[str] = []

    def rows() -> Iterator[dict[str, Any]]:
        for sample, detections in answers:
            name = PurePath(sample.name).name
            if name in ids.images:
                yield from detections.to_coco(ids.images[name], categories)
            else:
                unknown.append(sample.name)

    write_json(rows())
    if unknown:
        notify(f"{path} has no image {shortened(unknown)}: left out")
    return batch.exit_code() or int(bool(unknown))


def _rows(sample: Sample, detections: Detections, empty: bool) -> Iterator[dict[str, Any]]:
    """One row per object; where there is none, and `empty`, one with the file's name alone."""
    file = {"file": Path(sample.name)}
    objects = detections.to_dict()["detections"]
    for each in objects:
        box = dict(zip(("x0", "y0", "x1", "y1"), each.pop("box")))
        yield {**file, **each, **box}
    if empty and not objects:
        yield {**dict.fromkeys(COLUMNS), **file, "label": "nothing"}
