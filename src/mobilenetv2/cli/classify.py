"""`mobilenetv2 classify`: the most probable classes of images."""

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
from .output import notify, progress, result_options, write_json, write_rows

if TYPE_CHECKING:
    from ..model import Prediction

COLUMNS = ("file", "rank", "index", "label", "probability")


@dataclass
class _Inputs:
    """The files to classify, the number of ignored ones by suffix, and what cannot be read."""

    files: list[Path] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


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
@result_options
def classify(
    paths: Sequence[str], model_name: str, top: int, max_pixels: int | None, format_: str
) -> int:
    """Classify images.

    PATH is an image, a folder (searched with its subfolders), a pattern such as 'photos/*.jpg', or
    - for a list of files on stdin, one per line. Images that cannot be read are named on stderr,
    the others are classified, and the exit code is 1."""
    import warnings

    from ..errors import ImageError
    from ..model import load

    # Pillow warns about large images and odd EXIF data; what it cannot read is an error.
    warnings.filterwarnings("ignore", module="PIL")
    inputs = _collect(paths)
    for problem in inputs.problems:
        notify(problem)
    if inputs.ignored:
        kinds = ", ".join(
            f"{suffix or 'no ending'} ({count})" for suffix, count in sorted(inputs.ignored.items())
        )
        notify(f"ignored {inputs.ignored.total()} files that are not images by name: {kinds}")
    if not inputs.files:
        raise click.UsageError("no images to classify")
    model = load(model_name)
    failed = len(inputs.problems)

    def results() -> Iterator[tuple[Path, list[Prediction]]]:
        nonlocal failed
        with progress(len(inputs.files), "classifying") as advance:
            for path, result in model.classify_files(inputs.files, top, max_pixels=max_pixels):
                advance()
                if isinstance(result, ImageError):
                    failed += 1
                    notify(result)
                else:
                    yield path, result

    _write(results(), format_)
    if failed:
        notify(f"{failed} of {len(inputs.files) + len(inputs.problems)} could not be read")
    return 1 if failed else 0


def _write(results: Iterator[tuple[Path, list[Prediction]]], format_: str) -> None:
    rows = ((_printable(path), _rows(predictions)) for path, predictions in results)
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


def _printable(path: Path) -> str:
    """The path as text, even if its bytes are not UTF-8."""
    return str(path).encode("utf-8", "backslashreplace").decode()


def _collect(paths: Sequence[str]) -> _Inputs:
    """The files that the arguments mean, each once, in their order; folders and patterns sorted."""
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
