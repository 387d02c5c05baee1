"""`mobilenetv2 quantize`: a float model in, an int8 model out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from .output import progress, write_rows

WORST = 5
COLUMNS = ("layer", "kind", "low", "high", "signal_to_noise_db", "added_percent")


@click.command()
@click.argument("model", metavar="MODEL")
@click.option(
    "--calibrate",
    "sources",
    multiple=True,
    required=True,
    type=click.Path(exists=True, path_type=Path),
    help="Images like those to come: a folder or a file; may be repeated.",
)
@click.option(
    "-o",
    "--output",
    "target",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The .safetensors file to write.",
)
@click.option(
    "--samples",
    default=100,
    show_default=True,
    type=click.IntRange(min=1),
    help="Images to calibrate with, evenly spaced among those found.",
)
@click.option(
    "--report",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also write what was measured, every layer included, to this JSON file.",
)
def quantize(
    model: str, sources: Sequence[Path], target: Path, samples: int, report: Path | None
) -> int:
    """Make MODEL, a file or a name, a model of 8-bit integers, a quarter the size.

    The images show how large its activations grow; no training and no labels are needed. The two
    models are then compared on the same images. Images that cannot be read are named on stderr
    and skipped, and the exit code is 1."""
    import warnings

    from ..errors import UserError
    from ..formats import open_checkpoint
    from ..runtime.compare import compare
    from ..runtime.quantize import check_quantizable, doubts, read_images, to_int8

    warnings.filterwarnings("ignore", module="PIL")  # of odd EXIF; what fails is an error
    _check_targets(model, target, report)
    found = open_checkpoint(model)
    try:
        checkpoint = check_quantizable(found)
    except UserError as error:
        raise type(error)(f"{model}: {error}") from None
    files = _spread(_found(sources), samples)
    with progress(3 * len(files), "quantising") as advance:
        pixels, skipped = read_images(checkpoint.preprocessing, files, advance)
        for complaint in skipped:
            click.echo(complaint, err=True)
        doubtful = doubts(checkpoint, pixels)
        for doubt in doubtful:
            click.echo(f"warning: {doubt}", err=True)
        quantized = to_int8(checkpoint, pixels, advance)
        quantized.save(target)
        compared = compare(checkpoint, quantized, pixels, advance)
    facts: dict[str, Any] = {
        "model": model,
        "file": str(target),
        "file_bytes": target.stat().st_size,
        "float_bytes": sum(array.nbytes for array in checkpoint.arrays.values()),
        "calibration_images": compared.images,
        "agreement_percent": compared.agreement_percent,
        "answer_db": compared.answer_db,
    }
    tensors = [asdict(tensor) for tensor in compared.tensors]
    if report is not None:
        _write_report(
            report, {**facts, "warnings": doubtful, "skipped": skipped, "layers": tensors}
        )
    rows = ({"property": name.replace("_", " "), "value": value} for name, value in facts.items())
    write_rows(rows, ("property", "value"), "table")
    worst = sorted(tensors, key=lambda tensor: -tensor["added_percent"])[:WORST]
    write_rows(worst, COLUMNS, "table", "layers that add most noise")
    return 1 if skipped else 0


def _check_targets(model: str, target: Path, report: Path | None) -> None:
    from ..errors import ModelFileError

    if target.suffix != ".safetensors":
        raise click.UsageError(f"--output must end in .safetensors, not {target.name!r}")
    for path in (target, report):
        if path is not None and not path.parent.is_dir():
            raise ModelFileError(f"{path}: the folder {path.parent} does not exist")
    if target.exists() and os.path.exists(model) and target.samefile(model):
        raise click.UsageError(f"--output is MODEL itself, {model}: give another name")


def _found(sources: Sequence[Path]) -> list[Path]:
    """The files given and the images in the folders given, each once."""
    from ..images import find_images

    found = [
        path
        for source in sources
        for path in (find_images(source)[0] if source.is_dir() else [source])
    ]
    return list(dict.fromkeys(found))


def _spread(files: list[Path], count: int) -> list[Path]:
    """At most `count`, evenly spaced: in a folder a class, each class has its share."""
    count = min(count, len(files))
    return [files[i * len(files) // count] for i in range(count)]


def _write_report(path: Path, report: dict[str, Any]) -> None:
    import json

    from ..files import write_atomically

    write_atomically(path, (json.dumps(report, indent=1, ensure_ascii=False) + "\n").encode())
