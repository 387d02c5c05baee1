"""`mobilenetv2 segment`: the class of every pixel of images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

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
from .output import result_options, write_json, write_rows

if TYPE_CHECKING:
    from ..datasets import Sample
    from ..results import Segmentation

COLUMNS = ("file", "index", "label", "share")


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@task_model_option
@click.option(
    "--masks",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Write each mask as FOLDER/NAME.png, whose pixel values are the classes.",
)
@click.option(
    "--draw",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Write each image with its classes as colours over it, as FOLDER/NAME.segmented.png.",
)
@max_pixels_option
@threads_option
@precision_option
@stretch_option
@result_options
def segment(
    paths: Sequence[str],
    model_name: str,
    masks: Path | None,
    draw: Path | None,
    max_pixels: int | None,
    stretch: bool,
    precision: str | None,
    format_: str,
) -> int:
    """Find the class of every pixel of images, and print the share of each class.

    PATH is as for `classify`. Masks have the size of the upright image. Images that cannot be read
    are named on stderr, the others go on, and the exit code is 1."""
    batch = Batch(paths, "segment", stretch=stretch, max_pixels=max_pixels)
    model = task_model(model_name, "segmentation", precision)
    mask_files = Pictures("--masks", masks, "", batch)
    pictures = Pictures("--draw", draw, "segmented", batch)
    results = model.segment_files(batch.samples, batch.decode)

    def answers() -> Iterator[tuple[Sample, Segmentation]]:
        for sample, segmentation in batch.answers(results, "segmenting"):
            mask_files.save(sample, segmentation.save)
            pictures.write(sample, segmentation.draw)
            yield sample, segmentation

    if format_ == "json":
        write_json(
            {"file": Path(s.name), **segmentation.to_dict()} for s, segmentation in answers()
        )
    else:
        rows = (
            {"file": Path(s.name), "index": i, "label": d.labels[i], "share": round(share, 6)}
            for s, d in answers()
            for i, share in d.class_shares()
        )
        write_rows(rows, COLUMNS, format_)
    return batch.exit_code()
