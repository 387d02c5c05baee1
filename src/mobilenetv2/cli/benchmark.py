"""`mobilenetv2 benchmark`: how fast a model runs on this machine, in total and per step."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

import click

from .options import model_option, resolution_option
from .output import format_option, write_json, write_properties, write_rows


@click.command()
@model_option
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    help="Threads of the network.  [default: the processors this process may use]",
)
@click.option(
    "--batch", default=1, show_default=True, type=click.IntRange(min=1), help="Images per call."
)
@resolution_option("what the model was made for")
@click.option(
    "--isa",
    help="Instruction set: scalar, avx2 or avx512, for int8 also avxvnni and avx512vnni.  [default: the best of this machine]",
)
@click.option(
    "--runs",
    type=click.IntRange(min=1),
    help="Calls to measure.  [default: for a second, at least 10]",
)
@click.option("--profile", is_flag=True, help="Also measure each step of a call.")
@format_option
def benchmark(
    model_name: str,
    threads: int | None,
    batch: int,
    resolution: tuple[int, int] | None,
    isa: str | None,
    runs: int | None,
    profile: bool,
    format_: str,
) -> None:
    """Measure how fast a model runs on this machine.

    Each call takes random images, after a warm-up. "macs" are the multiply-adds of one image, as
    `cost` counts them; "gmacs per second" are 1e9 of them per second. "peak" is the speed of one
    core with all data in registers, measured too, times the threads; it is too high if there are
    more threads than cores.

    CSV has one row for the model or, with --profile, one row per step."""
    from ..model import load
    from ..runtime.timing import StepTiming, measure, measure_steps

    model = load(model_name, threads, isa)
    height, width = resolution or model.checkpoint.preprocessing.size
    timing = measure(model.engine, height, width, batch, runs)
    steps = [asdict(step) for step in measure_steps(model.engine, timing)] if profile else []
    properties: dict[str, Any] = {"model": model_name, **asdict(timing)}
    if format_ == "json":
        write_json([{**properties, "steps": steps} if profile else properties])
        return
    if format_ == "table":
        write_properties({name.replace("_", " "): value for name, value in properties.items()})
    elif not profile:
        write_rows([properties], tuple(properties), format_)
    if profile:
        write_rows(steps, tuple(field.name for field in fields(StepTiming)), format_)
