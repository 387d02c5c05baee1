"""`mobilenetv2 quantize`: makes an int8 model of a float32 model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import model_argument, stretch_option, threads_option
from .output import (
    OutputPath,
    notify,
    notify_notes,
    progress,
    show_image_warnings,
    write_properties,
    write_rows,
)
from .overwriting import refuse_overwritten

if TYPE_CHECKING:
    from ..datasets import Sample

WORST = 5
COLUMNS = ("layer", "kind", "low", "high", "signal_to_noise_db", "added_percent")


@click.command()
@model_argument()
@click.option(
    "--calibrate",
    "sources",
    multiple=True,
    required=True,
    metavar="IMAGES",
    help="Images like those that will be classified, as PATH of `classify`; may be repeated.",
)
@click.option(
    "-o",
    "--output",
    "target",
    required=True,
    type=OutputPath(".safetensors"),
    help="The .safetensors file to write.",
)
@click.option(
    "--samples",
    default=100,
    show_default=True,
    type=click.IntRange(min=1),
    help="Images to calibrate with, evenly spaced among all of them.",
)
@click.option(
    "--report",
    type=OutputPath(),
    help="Also write all measurements, those of every layer included, to this JSON file.",
)
@threads_option
@stretch_option
def quantize(
    model: str,
    sources: Sequence[str],
    target: Path,
    samples: int,
    report: Path | None,
    stretch: bool,
) -> int:
    """Turn MODEL, a file or a name, into an int8 model of a quarter the size.

    The images show how large its activations become; neither training nor labels are needed. The
    two models are then compared on the same images. Images that cannot be read are named on stderr
    and skipped, and the exit code is 1."""
    from ..datasets import collect_images
    from ..errors import UserError
    from ..formats import open_checkpoint
    from ..runtime.compare import compare
    from ..runtime.quantize import check_quantizable, doubts, read_images, to_int8

    show_image_warnings()
    original = open_checkpoint(model)
    notify_notes(original)
    try:
        checkpoint = check_quantizable(original)
    except UserError as error:
        raise type(error)(f"{model}: {error}") from None
    inputs = collect_images(sources)
    inputs = inputs.stretched() if stretch else inputs
    for line in (*inputs.problems, *inputs.left_out):
        notify(line)
    refuse_overwritten(inputs.samples, inputs.lists)
    images = _evenly_spaced(inputs.samples, samples)
    with progress(3 * len(images), "quantising") as advance:
        pixels, skipped = read_images(checkpoint.preprocessing, images, advance)
        for message in skipped:
            notify(message)
        skipped = [*inputs.problems, *skipped]
        warned = doubts(checkpoint, pixels)
        for warning in warned:
            notify(f"warning: {warning}")
        quantized = to_int8(checkpoint, pixels, advance)
        quantized.save(target)
        comparison = compare(checkpoint, quantized, pixels, advance)
    properties: dict[str, Any] = {
        "model": model,
        "file": str(target),
        "file_bytes": target.stat().st_size,
        "float_bytes": sum(array.nbytes for array in checkpoint.arrays.values()),
        "calibration_images": comparison.images,
        "agreement_percent": comparison.agreement_percent,
        "answer_db": comparison.answer_db,
    }
    tensors = [asdict(tensor) for tensor in comparison.tensors]
    if report is not None:
        _write_report(
            report, {**properties, "warnings": warned, "skipped": skipped, "layers": tensors}
        )
    write_properties({name.replace("_", " "): value for name, value in properties.items()})
    worst = sorted(tensors, key=lambda tensor: -tensor["added_percent"])[:WORST]
    write_rows(worst, COLUMNS, "table", "layers that add most noise")
    return 1 if skipped else 0


def _evenly_spaced(images: Sequence[Sample], count: int) -> list[Sample]:
    """At most `count` of the images; with one folder per class, each class has its share."""
    count = min(count, len(images))
    return [images[i * len(images) // count] for i in range(count)]


def _write_report(path: Path, report: dict[str, Any]) -> None:
    import json

    from ..files import write_atomically

    write_atomically(path, (json.dumps(report, indent=1, ensure_ascii=False) + "\n").encode())
