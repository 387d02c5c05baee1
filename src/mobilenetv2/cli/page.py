"""`mobilenetv2 page`: a static page that runs models in the browser."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from .output import notify, notify_notes


@click.command()
@click.argument("models", metavar="MODEL...", nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    "target",
    required=True,
    type=click.Path(path_type=Path),
    help="The folder to write.",
)
@click.option("--title", default="MobileNetV2", show_default=True, help="Title of the page.")
def page(models: tuple[str, ...], target: Path, title: str) -> None:
    """Write a folder that classifies, detects or segments photos in the browser.

    Photos are dropped on the page, chosen, or come from the camera; they stay on the device. Of
    several MODELs, such as the float32 and the int8 one, the page lets its user choose. Any web
    server can serve the folder: `python -m http.server -d FOLDER` does here."""
    from ..formats import open_checkpoint
    from ..web import write_page

    checkpoints = [open_checkpoint(name) for name in models]
    for checkpoint in checkpoints:
        notify_notes(checkpoint)
    stems = [Path(name).stem for name in models]
    write_page(checkpoints, target, title, stems if len(set(stems)) == len(stems) else models)
    folder = shlex.quote(str(target))
    notify(
        f"{target}: written; python -m http.server -d {folder} serves it on http://localhost:8000"
    )
