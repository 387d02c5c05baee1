"""`mobilenetv2 benchmark`: how fast a model runs on this machine, and which steps take the time."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

import click

from .options import (
    DEFAULT_MODEL,
    model_argument,
    precision_option,
    resolution_option,
    threads_option,
)
from .output import notify, notify_notes, result_options, write_json, write_rows

LONG_SECONDS = 10  # a run of more is announced


@click.command()
@model_argument(required=False)
@threads_option
@precision_option
@click.option(
    "--batch", default=1, show_default=True, type=click.IntRange(min=1), help="Images per call."
)
@resolution_option("what the model was made for")
@click.option(
    "--isa",
    help="Instruction set, such as avx2; an unknown one lists those of this machine.  [default: the best]",
)
@click.option(
    "--runs",
    type=click.IntRange(min=1),
    help="Calls to measure.  [default: as many as take a second, at least 10]",
)
@click.option("--profile", is_flag=True, help="Also print how long each step of a call takes.")
@result_options
def benchmark(
    model: str | None,
    batch: int,
    resolution: tuple[int, int] | None,
    isa: str | None,
    precision: str | None,
    runs: int | None,
    profile: bool,
    format_: str,
) -> None:
    """Measure how fast MODEL, a file or a name, runs on this machine; without it the bundled one.

    Calls run on random images, after a warm-up. "macs" are the multiply-adds of one image, as
    `cost` counts them; "gmacs per second" are 1e9 of them per second. "peak" is the rate that one
    core reaches in registers alone, measured too, times the threads; with more threads than cores
    it is too high.

    CSV has one row for the model or, with --profile, one row per step."""
    from ..loading import load
    from ..runtime.timing import StepTiming, expected_seconds, measure, measure_steps

    name = model or DEFAULT_MODEL
    loaded = load(name, isa=isa, precision=precision)
    notify_notes(loaded.checkpoint)
    height, width = resolution or loaded.checkpoint.preprocessing.size
    seconds = (1 + profile) * expected_seconds(loaded.engine, height, width, batch, runs)
    if seconds > LONG_SECONDS:
        notify(f"about {seconds:,.0f} seconds; a smaller --batch or fewer --runs take less")
    timing = measure(loaded.engine, height, width, batch, runs)
    steps = [asdict(step) for step in measure_steps(loaded.engine, timing)] if profile else []
    summary: dict[str, Any] = {"model": name, **asdict(timing)}
    if format_ == "json":
        write_json([{**summary, "steps": steps} if profile else summary])
        return
    if format_ == "table":
        rows = [{"property": name.replace("_", " "), "value": summary[name]} for name in summary]
        write_rows(rows, ("property", "value"), format_)
    elif not profile:
        write_rows([summary], tuple(summary), format_)
    if profile:
        write_rows(steps, tuple(field.name for field in fields(StepTiming)), format_)
