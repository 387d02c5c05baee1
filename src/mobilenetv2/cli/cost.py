"""`mobilenetv2 cost`: what a network costs, layer by layer, and the paper's tables recomputed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from .options import model_argument, resolution_option
from .output import notify, result_options, write_rows

if TYPE_CHECKING:
    from ..architecture import Architecture
    from ..cost import Cost

TOTALS = ("macs", "parameters", "parameters_without_batch_norm", "activation_bytes")
COLUMNS = ("name", "kind", "output", *TOTALS, "receptive_field")
PAPER_COLUMNS = (
    "table",
    "row",
    "column",
    "printed",
    "ours",
    "difference_percent",
    "verdict",
    "reason",
)
DESCRIBING = (
    "network",
    "width",
    "classes",
    "output_stride",
    "padding",
    "head",
)  # what a model file already says


@click.command(
    short_help="Multiply-adds, parameters and memory of a network, or the paper's tables recomputed."
)
@model_argument(required=False)
@click.option(
    "--network", type=click.Choice(["v2", "v1", "v2-32px"]), help="Which network.  [default: v2]"
)
@click.option("--width", type=float, help="Width multiplier.  [default: 1.0]")
@resolution_option("224, v2-32px: 32, or MODEL's")
@click.option("--classes", type=int, help="Outputs.  [default: 1000]")
@click.option(
    "--output-stride", type=int, help="8, 16 or 32: strides beyond become dilation.  [default: 32]"
)
@click.option(
    "--padding",
    type=click.Choice(["same", "symmetric"]),
    help="Of convolutions.  [default: symmetric]",
)
@click.option(
    "--head",
    type=click.Choice(["classifier", "features", "deeplabv3", "deeplabv3_aspp", "ssd", "ssdlite"]),
    help="What stands on the backbone.  [default: classifier]",
)
@click.option(
    "--bytes",
    "bytes_",
    type=click.IntRange(1),
    help="Per activation: 4 float32, 1 int8.  [default: 4]",
)
@click.option(
    "--layers/--no-layers",
    default=None,
    help="A row for each layer, or the total alone.  [default: layers]",
)
@click.option(
    "--paper", is_flag=True, help="Compare with the figures of the paper and of TF-slim instead."
)
@result_options
def cost(model: str | None, paper: bool, format_: str, **options: Any) -> int | None:
    """Count what a network costs: that of MODEL (a file or a name), or one described by the
    options.

    "macs" are multiply-adds, the paper's MAdds: one multiplication and one addition each, so a
    figure in FLOPs is twice as large. Convolutions and the linear layer are counted; batch norm,
    additions, pooling and resizing are not. "parameters" has batch norm's gamma and beta in it,
    "parameters_without_batch_norm" counts as TF-slim does. "receptive_field" is the side, in
    pixels, of what one output value sees.

    --paper recomputes Tables 3 to 7 and the 22 networks that TF-slim published; exit code 1 if
    a figure is off."""
    given = {name: value for name, value in options.items() if value is not None}
    if paper:
        _refuse(["MODEL"] * (model is not None) + list(given), "--paper compares fixed networks")
        return _print_paper(format_)
    if model is not None:
        _refuse([name for name in DESCRIBING if name in given], "MODEL says already what it is")
    architecture = _from_model(model) if model is not None else _described(given)
    height, width = given.get("resolution", architecture.resolution)
    _print_cost(
        architecture, (height, width), given.get("bytes_", 4), given.get("layers", True), format_
    )
    return None


def _refuse(names: list[str], why: str) -> None:
    if names:
        listed = ", ".join(
            name if name == "MODEL" else f"--{name.strip('_').replace('_', '-')}" for name in names
        )
        raise click.UsageError(f"{why}; leave out {listed}")


def _from_model(model: str) -> Architecture:
    from ..formats import open_checkpoint

    return open_checkpoint(model).architecture


def _described(given: dict[str, Any]) -> Architecture:
    from dataclasses import replace

    from ..architecture import SMALL_IMAGES, V1, Architecture

    base = {"v2": Architecture(), "v1": V1, "v2-32px": SMALL_IMAGES}[given.get("network", "v2")]
    fields = {"width": "width_mult", "resolution": "resolution"}
    fields |= {name: name for name in ("output_stride", "padding", "head")}
    described = replace(
        base, **{field: given[name] for name, field in fields.items() if name in given}
    )
    if "classes" in given and not described.classes:
        raise click.UsageError("--head features has no classes; leave out --classes")
    return described.with_classes(given["classes"]) if "classes" in given else described


def _print_cost(
    architecture: Architecture, size: tuple[int, int], bytes_: int, each: bool, format_: str
) -> None:
    from ..cost import network_cost

    counted = network_cost(architecture, *size, bytes_per_element=bytes_)
    title = f"width {architecture.width_mult:g}, image {size[0]}x{size[1]} (macs: multiply-adds)"
    write_rows(_cost_rows(counted, each), COLUMNS, format_, title)
    if format_ == "table":
        write_rows(_peak_rows(architecture, size, bytes_), ("peak memory", "bytes", "at"), format_)


def _cost_rows(counted: Cost, each: bool) -> Iterator[dict[str, Any]]:
    for row in counted.layers if each else ():
        values = {name: getattr(row, name) for name in (*TOTALS, "receptive_field")}
        output = "x".join(map(str, row.layer.out_shape))
        yield {"name": row.layer.name, "kind": row.layer.kind, "output": output, **values}
    yield (
        dict.fromkeys(COLUMNS)
        | {"name": "total"}
        | {name: getattr(counted, name) for name in TOTALS}
    )


def _peak_rows(
    architecture: Architecture, size: tuple[int, int], bytes_: int
) -> Iterator[dict[str, Any]]:
    from ..cost import bottleneck_memory, operator_memory, peak_memory

    models = {
        "one layer after another": operator_memory(architecture, *size, bytes_),
        "each block as one operator": bottleneck_memory(architecture, *size, bytes_),
    }
    if architecture.stages[0].expansion == 1:
        models["and the stem with the first"] = bottleneck_memory(
            architecture, *size, bytes_, fuse_stem=True
        )
    for name, steps in models.items():
        peak = peak_memory(steps)
        yield {"peak memory": name, "bytes": peak.total_bytes, "at": peak.name}


def _print_paper(format_: str) -> int:
    from ..paper import VERDICTS, compare

    comparisons = compare()
    write_rows([vars(row) for row in comparisons], PAPER_COLUMNS, format_)
    counts = {verdict: sum(row.verdict == verdict for row in comparisons) for verdict in VERDICTS}
    notify(", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    return 1 if counts["off"] else 0
