"""`mobilenetv2 classify`: the most probable classes of images."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..printable import printable
from .batch import Batch
from .options import (
    max_pixels_option,
    model_option,
    precision_option,
    stretch_option,
    threads_option,
)
from .output import (
    notify,
    notify_notes,
    result_options,
    write_json,
    write_rows,
)

if TYPE_CHECKING:
    from ..model import Prediction

COLUMNS = ("file", "rank", "index", "label", "probability")


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@model_option
@click.option(
    "--top", default=5, show_default=True, type=click.IntRange(min=1), help="Classes per image."
)
@click.option(
    "--index",
    "counting",
    type=click.Choice(["model", "dataset"]),
    default="model",
    show_default=True,
    help="Count classes as the model does, or as its dataset does: without a background class.",
)
@max_pixels_option
@threads_option
@precision_option
@stretch_option
@result_options
def classify(
    paths: Sequence[str],
    model_name: str,
    top: int,
    counting: str,
    max_pixels: int | None,
    stretch: bool,
    precision: str | None,
    format_: str,
) -> int:
    """Classify images.

    PATH is an image, a folder (searched with its subfolders), a .zip of images, a .csv list with the
    column file, a pattern such as 'photos/*.jpg', or - for stdin: an image, or a list of files, one
    per line. Images that cannot be read are named on stderr, the others are classified, and the
    exit code is 1."""
    from ..checkpoint import background_note
    from ..loading import load

    batch = Batch(paths, "classify", stretch=stretch, max_pixels=max_pixels)
    model = load(model_name, precision=precision)
    notify_notes(model.checkpoint)
    note = background_note(model.checkpoint)
    if note and counting == "model" and sys.stdout.isatty():
        notify(f"note: {note}, `--index dataset` counts without it")
    first = 1 if note and counting == "dataset" else 0
    results = model.classify_files(batch.samples, top, batch.decode)
    answers = batch.answers(results, "classifying")
    _write(((Path(sample.name), _rows(p, first)) for sample, p in answers), format_)
    return batch.exit_code()


def _rows(predictions: list[Prediction], first: int) -> list[dict[str, Any]]:
    """One row per class; the index of class `first` is 0, and those before it have none."""
    return [
        {
            "rank": rank,
            "index": p.index - first if p.index >= first else None,
            "label": p.label,
            "probability": round(p.probability, 6),
        }
        for rank, p in enumerate(predictions, 1)
    ]


def _write(results: Iterable[tuple[Path, list[dict[str, Any]]]], format_: str) -> None:
    if format_ == "json":
        write_json({"file": file, "predictions": ranked} for file, ranked in results)
    elif format_ == "table" and sys.stdout.isatty():
        _write_blocks(list(results))
    else:
        flat = ({"file": file, **row} for file, ranked in results for row in ranked)
        write_rows(flat, COLUMNS, format_)


def _write_blocks(results: Sequence[tuple[Path, list[dict[str, Any]]]]) -> None:
    """Prints for each image its name, and below it a line per class, no wider than the terminal."""
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    for file, ranked in results:
        console.print(Text(printable(str(file)), style="bold", overflow="fold"))
        table = Table.grid(padding=(0, 2, 0, 0))
        for _ in ("probability", "index", "label"):
            table.add_column(overflow="fold")
        for row in ranked:
            index = "" if row["index"] is None else str(row["index"])
            cells = (f"{row['probability']:.4f}", f"{index:>4}", printable(row["label"]))
            table.add_row(*map(Text, cells))
        console.print(Padding(table, (0, 0, 0, 2)))
