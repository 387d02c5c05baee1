"""`mobilenetv2 benchmark`: how fast a model runs here, and on what the time goes."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

import click

from .options import model_option, resolution_option
from .output import format_option, write_json, write_rows


@click.command()
@model_option
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    help="Threads of the network.  [default: the processors this process may use]",
)
@click.option(
    "--batch", default=1, show_default=True, type=click.IntRange(min=1), help="Images a call."
)
@resolution_option("what the model was made for")
@click.option(
    "--isa",
    help="Instruction set: scalar, avx2 or avx512, for integers also avxvnni and avx512vnni.  [default: the best that is here]",
)
@click.option(
    "--runs",
    type=click.IntRange(min=1),
    help="Calls to measure.  [default: for a second, at least 10]",
)
@click.option("--profile", is_flag=True, help="Also how long each step of a call takes.")
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

    Each call takes random images, after a warm-up. "macs" are multiply-adds of one image, as
    `cost` counts them; "gmacs per second" are thousand millions of them. "peak" is what one core
    reaches in registers alone, measured too, times the threads; more threads than cores make it
    too high.

    CSV has a row for the model or, with --profile, a row for each step."""
    from ..model import load
    from ..runtime.timing import StepTiming, measure, measure_steps

    model = load(model_name, threads, isa)
    height, width = resolution or model.checkpoint.preprocessing.size
    timing = measure(model.engine, height, width, batch, runs)
    steps = [asdict(step) for step in measure_steps(model.engine, timing)] if profile else []
    facts: dict[str, Any] = {"model": model_name, **asdict(timing)}
    if format_ == "json":
        write_json([{**facts, "steps": steps} if profile else facts])
        return
    if format_ == "table":
        rows = [{"property": name.replace("_", " "), "value": facts[name]} for name in facts]
        write_rows(rows, ("property", "value"), format_)
    elif not profile:
        write_rows([facts], tuple(facts), format_)
    if profile:
        write_rows(steps, tuple(field.name for field in fields(StepTiming)), format_)
