"""`mobilenetv2 classify`: the most probable classes of images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from .options import model_option
from .output import format_option, progress, write_json, write_rows

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
@format_option
def classify(
    paths: Sequence[str], model_name: str, top: int, max_pixels: int | None, format_: str
) -> int:
    """Classify images.

    PATH is an image, a folder (searched with its subfolders), a .zip of images, a .csv list with the
    column file, a pattern such as 'photos/*.jpg', or - for stdin: an image, or a list of files, one
    per line. Images that cannot be read are named on stderr,
    the others are classified, and the exit code is 1."""
    import warnings

    from ..datasets import Sample, collect_images
    from ..errors import ImageError
    from ..model import load

    # Pillow warns about large images and odd EXIF data; what it cannot read is an error.
    warnings.filterwarnings("ignore", module="PIL")
    inputs = collect_images(paths)
    for line in (*inputs.problems, *inputs.left_out):
        click.echo(line, err=True)
    if not inputs.samples:
        raise click.UsageError("no images to classify")
    model = load(model_name)
    failed = len(inputs.problems)

    def results() -> Iterator[tuple[Sample, list[Prediction]]]:
        nonlocal failed
        with progress(len(inputs.samples), "classifying") as advance:
            for sample, result in model.classify_files(
                inputs.samples, top, Sample.open, max_pixels=max_pixels
            ):
                advance()
                if isinstance(result, ImageError):
                    failed += 1
                    click.echo(str(result), err=True)
                else:
                    yield sample, result

    _write(results(), format_)
    if failed:
        click.echo(
            f"{failed} of {len(inputs.samples) + len(inputs.problems)} could not be read", err=True
        )
    return 1 if failed else 0


def _write(results: Iterator[tuple[Sample, list[Prediction]]], format_: str) -> None:
    rows = ((_printable(sample.name), _rows(predictions)) for sample, predictions in results)
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


def _printable(name: str) -> str:
    """The name as text, even if its bytes are not UTF-8."""
    return name.encode("utf-8", "backslashreplace").decode()
