"""`mobilenetv2 classify`: the most probable classes of images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import model_option, stretch_option
from .output import notify, progress, result_options, show_image_warnings, write_json, write_rows

if TYPE_CHECKING:
    from ..datasets import Sample
    from ..model import Prediction

COLUMNS = ("file", "rank", "index", "label", "probability")


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@model_option
@click.option(
    "--top", default=5, show_default=True, type=click.IntRange(min=1), help="Classes per image."
)
@click.option(
    "--max-pixels",
    type=click.IntRange(min=1),
    help="Refuse larger images.  [default: about 179 million]",
)
@stretch_option
@result_options
def classify(
    paths: Sequence[str],
    model_name: str,
    top: int,
    max_pixels: int | None,
    stretch: bool,
    format_: str,
) -> int:
    """Classify images.

    PATH is an image, a folder (searched with its subfolders), a .zip of images, a .csv list with the
    column file, a pattern such as 'photos/*.jpg', or - for stdin: an image, or a list of files, one
    per line. Images that cannot be read are named on stderr,
    the others are classified, and the exit code is 1."""
    from ..datasets import collect_images
    from ..errors import ImageError
    from ..model import load

    show_image_warnings()
    inputs = collect_images(paths)
    inputs = inputs.stretched() if stretch else inputs
    for line in (*inputs.problems, *inputs.left_out):
        notify(line)
    if not inputs.samples:
        raise click.UsageError("no images to classify")
    model = load(model_name)
    failed = len(inputs.problems)

    def results() -> Iterator[tuple[Sample, list[Prediction]]]:
        nonlocal failed
        with progress(len(inputs.samples), "classifying") as advance:
            for sample, result in model.classify_files(
                inputs.samples, top, lambda sample: sample.decode(max_pixels=max_pixels)
            ):
                advance()
                if isinstance(result, ImageError):
                    failed += 1
                    notify(result)
                else:
                    yield sample, result

    _write(results(), format_)
    if failed:
        notify(f"{failed} of {len(inputs.samples) + len(inputs.problems)} could not be read")
    return 1 if failed else 0


def _write(results: Iterator[tuple[Sample, list[Prediction]]], format_: str) -> None:
    rows = ((Path(sample.name), _rows(predictions)) for sample, predictions in results)
    if format_ == "json":
        write_json({"file": file, "predictions": ranked} for file, ranked in rows)
    else:
        flat = ({"file": file, **row} for file, ranked in rows for row in ranked)
        write_rows(flat, COLUMNS, format_)


def _rows(predictions: list[Prediction]) -> list[dict[str, Any]]:
    return [
        {"rank": rank, "index": p.index, "label": p.label, "probability": round(p.probability, 6)}
        for rank, p in enumerate(predictions, 1)
    ]
