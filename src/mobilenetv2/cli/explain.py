"""`mobilenetv2 explain`: the paper's ideas tried on a model, as a report."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .output import format_option, progress, write_json, write_rows

if TYPE_CHECKING:
    from ..insight.explain import Explanation
    from ..insight.photos import Photos

COLUMNS = (
    "block", "channels", "effective_rank", "channels_99", "wide_channels", "wide_effective_rank", "positive_percent",
    "positive_deviation", "below_percent", "relu6_agreement", "relu6_accuracy",
)  # fmt: skip


@click.command()
@click.argument("model", metavar="MODEL")
@click.option(
    "--images",
    type=click.Path(exists=True, path_type=Path),
    help="Photos like those that MODEL is meant for: a folder, or labelled ones as `evaluate` takes them.",
)
@click.option(
    "--samples",
    default=100,
    show_default=True,
    type=click.IntRange(min=1),
    help="Photos to take, evenly spaced among those found.",
)
@click.option(
    "-o",
    "--output",
    "target",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
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
@click.option("--seed", default=0, show_default=True, type=int, help="Of all random numbers.")
@format_option
def explain(
    model: str,
    images: Path | None,
    samples: int,
    target: Path,
    lang: str,
    figures: Path | None,
    seed: int,
    format_: str,
) -> int:
    """Show why MobileNetV2 is built as it is, on the paper's toy and on MODEL, a file or a name.

    Writes one self-contained HTML page: the network to scale, Figure 1 and Theorem 1, ReLU where
    nothing is cut, what MODEL's own activations span on your photos, what a ReLU6 on its
    bottlenecks would cost, multiply-adds, parameters and memory, feature maps. Without --images,
    what takes photos is left out. Prints what was measured of each block; JSON has all numbers."""
    import warnings

    from ..errors import ModelFileError
    from ..formats import open_checkpoint
    from ..insight.explain import explain as run
    from ..insight.explain import steps
    from ..insight.photos import read_photos
    from ..insight.report import Report

    warnings.filterwarnings("ignore", module="PIL")  # of odd EXIF; what fails is an error
    if target.suffix.lower() not in (".html", ".htm"):
        raise click.UsageError(f"--output must end in .html, not {target.name!r}")
    if not target.parent.is_dir():
        raise ModelFileError(f"{target}: the folder {target.parent} does not exist")
    if figures is not None:
        try:
            figures.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ModelFileError(f"{figures}: cannot be made: {error.strerror}") from None
    checkpoint = open_checkpoint(model, int8=False)
    photos: Photos | None = None
    if images is not None:
        photos = read_photos(checkpoint, images, samples)
        for complaint in photos.skipped:
            click.echo(complaint, err=True)
        if photos.truth is None:
            click.echo(f"the photos count as unlabelled: {photos.unlabelled}", err=True)
    with progress(steps(checkpoint, photos) if photos else 0, "explaining") as advance:
        name = Path(model).stem if os.path.exists(model) else model
        found = run(checkpoint, name, photos, seed, advance)
    given = ["--images", str(images), "--samples", str(samples)] if images else []
    more = ["-o", str(target), "--lang", lang, "--seed", str(seed)]
    command = shlex.join(["mobilenetv2", "explain", model, *given, *more])
    report = Report(found, lang, command, seed)
    _write_page(report.html(), target)
    if figures is not None:
        for name, drawing in report.figures().items():
            _write_page(drawing, figures / f"{name}.svg")
    _print(found, format_)
    return 1 if photos and photos.skipped else 0


def _write_page(text: str, path: Path) -> None:
    from ..files import write_atomically

    write_atomically(path, text.encode())


def _print(found: Explanation, format_: str) -> None:
    from ..insight.measurements import block_rows, plain_data, totals

    if format_ == "json":
        write_json([plain_data(found)])
        return
    if format_ == "table" or not found.on_photos:
        rows = [
            {"property": name.replace("_", " "), "value": value}
            for name, value in totals(found).items()
        ]
        write_rows(rows, ("property", "value"), format_)
    if found.on_photos:
        write_rows(block_rows(found.on_photos), COLUMNS, format_)
