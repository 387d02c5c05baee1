"""`mobilenetv2 quantize`: makes an int8 model of a float32 model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    import numpy as np
    from numpy.typing import NDArray

    from ..checkpoint import Checkpoint
    from ..datasets import Sample
    from ..int8 import AnyCheckpoint, Int8Checkpoint

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
    "--per-layer",
    is_flag=True,
    help="One scale for all weights of a layer, for hardware that has no others.",
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
    per_layer: bool,
    report: Path | None,
    stretch: bool,
) -> int:
    """Turn MODEL, a file or a name, into an int8 model of a quarter the size.

    The images show how large its activations become; neither training nor labels are needed. The
    two models are then compared on the same images. Images that cannot be read are named on stderr
    and skipped, and the exit code is 1."""
    from ..formats import open_checkpoint
    from ..runtime.compare import compare

    show_image_warnings()
    original = open_checkpoint(model)
    notify_notes(original)
    checkpoint = quantizable(model, original)
    images, problems = calibration_images(sources, samples, stretch)
    with progress(3 * len(images), "quantising") as advance:
        quantized, pixels, warned, unread = quantized_by(checkpoint, images, advance, per_layer)
        skipped = [*problems, *unread]
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


def quantizable(name: str, checkpoint: AnyCheckpoint) -> Checkpoint:
    """The model of a name, if it can be quantised.

    Raises:
        UserError: It cannot; the message says why.
    """
    from ..errors import UserError
    from ..runtime.quantize import check_quantizable

    try:
        return check_quantizable(checkpoint)
    except UserError as error:
        raise type(error)(f"{name}: {error}") from None


def calibration_images(
    sources: Sequence[str], samples: int, stretch: bool = False
) -> tuple[list[Sample], list[str]]:
    """At most `samples` of the images of some arguments, evenly spaced, and what is wrong with the
    arguments; what is left out is named on stderr.
    """
    from ..datasets import collect_images

    inputs = collect_images(sources)
    inputs = inputs.stretched() if stretch else inputs
    for line in (*inputs.problems, *inputs.left_out):
        notify(line)
    refuse_overwritten(inputs.samples, inputs.lists)
    images = inputs.samples
    count = min(samples, len(images))
    return [images[i * len(images) // count] for i in range(count)], list(inputs.problems)


def quantized_by(
    checkpoint: Checkpoint,
    images: Sequence[Sample],
    advance: Callable[[], object],
    per_layer: bool = False,
) -> tuple[Int8Checkpoint, NDArray[np.uint8], list[str], list[str]]:
    """The model in int8, the pixels it was quantised by, doubts about these, and the images that
    cannot be read; doubts and images are named on stderr.
    """
    from ..runtime.quantize import doubts, read_images, to_int8

    pixels, skipped = read_images(checkpoint.preprocessing, images, advance)
    for message in skipped:
        notify(message)
    warned = doubts(checkpoint, pixels)
    for warning in warned:
        notify(f"warning: {warning}")
    quantized = to_int8(checkpoint, pixels, advance, per_layer=per_layer)
    return quantized, pixels, warned, skipped


def _write_report(path: Path, report: dict[str, Any]) -> None:
    import json

    from ..files import write_atomically

    write_atomically(path, (json.dumps(report, indent=1, ensure_ascii=False) + "\n").encode())
