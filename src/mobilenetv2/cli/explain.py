"""`mobilenetv2 explain`: the paper's ideas tested on a model, as a page."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .options import model_argument, stretch_option, threads_option
from .output import (
    OutputPath,
    format_option,
    notify,
    notify_notes,
    progress,
    show_image_warnings,
    write_json,
    write_rows,
)

if TYPE_CHECKING:
    from ..insight.explain import Explanation
    from ..insight.photos import Photos

COLUMNS = (
    "block", "channels", "effective_rank", "channels_99", "wide_channels", "wide_effective_rank", "positive_percent",
    "positive_deviation", "below_percent", "relu6_agreement", "relu6_accuracy",
)  # fmt: skip


@click.command()
@model_argument()
@click.option(
    "--images",
    metavar="PATH",
    help="Photos like those that MODEL is made for, as PATH of `classify`, or labelled ones as for `evaluate`.",
)
@click.option(
    "--samples",
    default=100,
    show_default=True,
    type=click.IntRange(min=1),
    help="How many of the photos to use, at even distances in the list.",
)
@click.option(
    "-o",
    "--output",
    "target",
    required=True,
    type=OutputPath(".html", ".htm"),
    help="The .html file to write.",
)
@click.option(
    "--lang",
    default="en",
    show_default=True,
    type=click.Choice(["en", "ko"]),
    help="Language of the report.",
)
@click.option(
    "--figures",
    type=click.Path(file_okay=False, path_type=Path),
    help="Also write every drawing as an .svg file into this folder.",
)
@click.option(
    "--seed",
    default=0,
    show_default=True,
    type=click.IntRange(min=0),
    help="Seed of all random numbers.",
)
@threads_option
@stretch_option
@format_option
def explain(
    model: str,
    images: str | None,
    samples: int,
    target: Path,
    lang: str,
    figures: Path | None,
    seed: int,
    stretch: bool,
    format_: str,
) -> int:
    """Show why MobileNetV2 is built as it is, on random data and on MODEL, a file or a name.

    Writes one HTML page that loads nothing else: the network to scale, Figure 1 and Theorem 1, where
    ReLU is linear, how many dimensions MODEL's activations use on your photos, the effect of a ReLU6
    on its bottlenecks, multiply-adds, parameters, memory and feature maps. Without --images, the
    parts that need photos are left out. Prints the measurements of each block; JSON has all numbers."""
    from ..errors import ModelFileError
    from ..formats import open_checkpoint
    from ..insight.explain import explain as run
    from ..insight.explain import steps
    from ..insight.photos import read_photos
    from ..insight.report import Report

    show_image_warnings()
    if figures is not None:
        try:
            figures.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ModelFileError(f"{figures}: cannot be made: {error.strerror}") from None
    checkpoint = open_checkpoint(model, int8=False)
    notify_notes(checkpoint)
    photos: Photos | None = None
    if images is not None:
        photos = read_photos(checkpoint, images, samples, stretch=stretch)
        for problem in photos.skipped:
            notify(problem)
        if photos.truth is None:
            notify(f"the photos count as unlabelled: {photos.unlabelled}")
    with progress(steps(checkpoint, photos) if photos else 0, "explaining") as advance:
        name = Path(model).name if os.path.exists(model) else model
        explanation = run(checkpoint, name, photos, seed, advance)
    photo_options = ["--images", images, "--samples", str(samples)] if images else []
    photo_options += ["--stretch"] if images and stretch else []
    options = ["-o", str(target), "--lang", lang, "--seed", str(seed)]
    command = shlex.join(["mobilenetv2", "explain", model, *photo_options, *options])
    report = Report(explanation, lang, command, seed)
    _write_page(report.html(), target)
    if figures is not None:
        for name, drawing in report.figures().items():
            _write_page(drawing, figures / f"{name}.svg")
    _print(explanation, format_)
    return 1 if photos and photos.skipped else 0


def _write_page(text: str, path: Path) -> None:
    from ..files import write_atomically

    write_atomically(path, text.encode())


def _print(explanation: Explanation, format_: str) -> None:
    from ..insight.measurements import block_rows, plain_data, totals

    if format_ == "json":
        write_json([plain_data(explanation)])
        return
    if format_ == "table" or not explanation.on_photos:
        rows = [
            {"property": name.replace("_", " "), "value": value}
            for name, value in totals(explanation).items()
        ]
        write_rows(rows, ("property", "value"), format_)
    if explanation.on_photos:
        write_rows(block_rows(explanation.on_photos), COLUMNS, format_)
