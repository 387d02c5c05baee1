"""`mobilenetv2 classify`: images in, classes out."""

from __future__ import annotations

import glob
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import model_option
from .output import format_option, progress, write_json, write_rows

if TYPE_CHECKING:
    from ..model import Prediction

COLUMNS = ("file", "rank", "index", "label", "probability")


@dataclass
class _Inputs:
    files: list[Path] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@model_option
@click.option(
    "--top", default=5, show_default=True, type=click.IntRange(min=1), help="Classes an image."
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
    """Say what is on images.

    PATH is an image, a folder (searched with its subfolders), a pattern such as 'photos/*.jpg', or
    - for a list of files on stdin, one a line. Images that cannot be read are named on stderr,
    the others are answered, and the exit code is 1."""
    import warnings

    from ..errors import ImageError
    from ..model import load

    warnings.filterwarnings(
        "ignore", module="PIL"
    )  # of large images and odd EXIF; what fails is an error
    inputs = _collect(paths)
    for problem in inputs.problems:
        click.echo(problem, err=True)
    if inputs.ignored:
        kinds = ", ".join(
            f"{suffix or 'no ending'} ({count})" for suffix, count in sorted(inputs.ignored.items())
        )
        click.echo(
            f"ignored {inputs.ignored.total()} files that are not images by name: {kinds}",
            err=True,
        )
    if not inputs.files:
        raise click.UsageError("no images to classify")
    model = load(model_name)
    failed = len(inputs.problems)

    def answers() -> Iterator[tuple[Path, list[Prediction]]]:
        nonlocal failed
        with progress(len(inputs.files), "classifying") as advance:
            for path, answer in model.classify_files(inputs.files, top, max_pixels=max_pixels):
                advance()
                if isinstance(answer, ImageError):
                    failed += 1
                    click.echo(str(answer), err=True)
                else:
                    yield path, answer

    _write(answers(), format_)
    if failed:
        click.echo(
            f"{failed} of {len(inputs.files) + len(inputs.problems)} could not be read", err=True
        )
    return 1 if failed else 0


def _write(answers: Iterator[tuple[Path, list[Prediction]]], format_: str) -> None:
    if format_ == "json":
        write_json(
            {"file": _shown(path), "predictions": [_row(*p) for p in enumerate(found, 1)]}
            for path, found in answers
        )
        return
    rows = (
        {"file": _shown(path), **_row(*p)} for path, found in answers for p in enumerate(found, 1)
    )
    write_rows(rows, COLUMNS, format_)


def _row(rank: int, prediction: Prediction) -> dict[str, Any]:
    chance = round(prediction.probability, 6)
    return {
        "rank": rank,
        "index": prediction.index,
        "label": prediction.label,
        "probability": chance,
    }


def _shown(path: Path) -> str:
    """The name as text, also where its bytes are not UTF-8."""
    return str(path).encode("utf-8", "backslashreplace").decode()


def _collect(paths: Sequence[str]) -> _Inputs:
    """The files that the arguments mean, each once, in the order given; folders and patterns
    sorted.
    """
    from ..images import find_images

    inputs = _Inputs()
    for name in paths:
        if name == "-":
            inputs.files += [Path(line.rstrip("\r\n")) for line in sys.stdin if line.strip()]
        elif Path(name).is_dir():
            images, others = find_images(Path(name))
            inputs.files += images
            inputs.ignored.update(path.suffix.lower() for path in others)
            if not images:
                inputs.problems.append(f"{name}: no images in this folder")
        elif Path(name).exists():
            inputs.files.append(Path(name))
        elif matches := [Path(match) for match in sorted(glob.glob(name, recursive=True))]:
            inputs.files += [match for match in matches if match.is_file()]
        else:
            inputs.problems.append(f"{name}: no such file or folder")
    inputs.files = list(dict.fromkeys(inputs.files))
    return inputs
