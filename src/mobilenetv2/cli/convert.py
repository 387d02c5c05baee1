"""`mobilenetv2 convert`: a model file of any known kind into ours."""

from __future__ import annotations

from pathlib import Path

import click

from .output import OutputPath, notify, notify_notes


@click.command()
@click.argument("source", metavar="IN")
@click.argument("target", metavar="OUT", type=OutputPath(".safetensors"))
@click.option(
    "--labels",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Labels of the classes, one per line.",
)
@click.option(
    "--drop-background", is_flag=True, help="Turn 1001 classes with the background first into 1000."
)
@click.option(
    "--weights-of",
    metavar="ema|raw|NAME",
    help="Of a PyTorch file with several sets of weights: averages over the training, those that "
    "they are averages of, or a name in the file.  [default: averages, if there are any]",
)
@click.option("--float", "floats", is_flag=True, help="Turn quantised weights into float32.")
def convert(
    source: str,
    target: Path,
    labels: Path | None,
    drop_background: bool,
    weights_of: str | None,
    floats: bool,
) -> None:
    """Convert a model file (or a published model by name) into OUT, a mobilenetv2 .safetensors
    file.

    IN is recognised by its content: torchvision, timm and Hugging Face weights (.pth,
    .safetensors), Keras (.h5, .keras), TensorFlow Lite (.tflite: float, float16, uint8, int8; or
    TF-slim's .tgz). A quantised .tflite file becomes an int8 model."""
    from dataclasses import replace

    from ..checkpoint import Checkpoint, background_note
    from ..formats import open_checkpoint
    from ..labels import read_labels

    checkpoint = open_checkpoint(source, int8=not floats, weights_of=weights_of)
    if labels is not None:
        architecture = checkpoint.architecture
        counted = architecture.head.task != "detection"
        checkpoint = replace(
            checkpoint, labels=read_labels(labels, architecture.classes, background=counted)
        )
    if drop_background:
        checkpoint = checkpoint.without_background()
    checkpoint.save(target)
    notify_notes(checkpoint)
    if note := background_note(checkpoint):
        notify(f"note: {note}")
    a = checkpoint.architecture
    numbers = "float32" if isinstance(checkpoint, Checkpoint) else "int8"
    named = "with labels" if checkpoint.labels else "without labels (give them with --labels)"
    notify(
        f"{target}: width {a.width_mult:g}, {a.resolution[0]} x {a.resolution[1]}, {a.classes} classes {named}, "
        f"{a.padding} padding, {numbers}, epsilon {a.bn_epsilon:g}, from "
        f"{checkpoint.provenance.get('source', 'a mobilenetv2 file')}",
    )
