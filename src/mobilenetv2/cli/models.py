"""`mobilenetv2 models`: the models that have a name."""

from __future__ import annotations

import click

from .output import result_options, write_rows

COLUMNS = (
    *("name", "source", "width_mult", "resolution", "dataset", "top1", "top5"),
    *("licence", "sha256", "url"),
)


@click.command()
@click.option(
    "--url/--no-url",
    default=False,
    help="Also print the address of each (always in JSON and CSV).",
)
@result_options
def models(url: bool, format_: str) -> None:
    """List the models that have a name: those that ship with the package, then published ones.

    A published model is fetched at first use, verified if its publisher states a checksum
    (listed here, often only its first digits), converted once and kept. top1 and top5 are percent
    of the dataset's images, as the publisher states them; for the models that ship, as measured."""
    from dataclasses import asdict

    from ..zoo import models as all_models

    columns = COLUMNS if url or format_ != "table" else COLUMNS[:-1]
    write_rows((asdict(model) for model in all_models()), columns, format_)
