"""How fast an engine runs, per call and per step, and the share of the peak rate that it reaches."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ..cost import network_cost
from ..errors import UserError
from . import _native
from .engine import Engine

WARM_UP_SECONDS = 0.1
# calls are repeated for so long where their number is not given
SECONDS = 1.0
FEWEST_RUNS = 10
# multiply-adds a second of one core in registers
CORE_RATES = {
    "float32": _native.fma_rate,
    "bf16": _native.bf16_fma_rate,
    "int8": _native.byte_fma_rate,
}
Result = TypeVar("Result")


@dataclass(frozen=True)
class Timing:
    """Times of `runs` calls on `batch` images of height x width.

    Attributes:
        precision: Of the engine: "float32", "bf16" or "int8".
        isa: Instruction set of the engine.
        threads: Threads of the engine.
        batch: Images per call.
        height: Rows of an image.
        width: Columns of an image.
        runs: Number of calls measured.
        median_ms: Median time of a call, in milliseconds.
        p10_ms: 10th percentile.
        p90_ms: 90th percentile.
        images_per_second: Images per second, at the median.
        macs: Multiply-adds of one image, as `network_cost` counts them.
        gmacs_per_second: 1e9 multiply-adds per second, at the median.
        peak_gmacs_per_second: The rate that one core reaches in registers alone, times the threads.
        peak_share: gmacs_per_second over peak_gmacs_per_second.
        activation_bytes: `Engine.activation_bytes` for the batch.
        weight_bytes: `Engine.weight_bytes`.
    """

    precision: str
    isa: str
    threads: int
    batch: int
    height: int
    width: int
    runs: int
    median_ms: float
    p10_ms: float
    p90_ms: float
    images_per_second: float
    macs: int
    gmacs_per_second: float
    peak_gmacs_per_second: float
    peak_share: float
    activation_bytes: int
    weight_bytes: int


@dataclass(frozen=True)
class StepTiming:
    """Time of one step of a call. All steps together are the network.

    Attributes:
        first: The first layer of the step.
        last: Its last layer. A block is one step, and so are the stem and the first blocks.
        kind: How it runs: "rows", "plane", "matmul", "mean", "add", "concat", "resize" or
            "to_float".
        median_ms: Median time of the step, in milliseconds.
        time_share: median_ms over the sum of the medians of all steps.
        macs: Multiply-adds of one image.
        gmacs_per_second: 1e9 multiply-adds per second, at the median.
        peak_share: gmacs_per_second over the peak of the `Timing`.
    """

    first: str
    last: str
    kind: str
    median_ms: float
    time_share: float
    macs: int
    gmacs_per_second: float
    peak_share: float


def measure(
    engine: Engine, height: int, width: int, batch: int = 1, runs: int | None = None
) -> Timing:
    """Times calls on random pixels, after a warm-up.

    Args:
        engine: The engine to time.
        height: Rows of an image.
        width: Columns of an image.
        batch: Images per call.
        runs: Number of calls; None: as many as take a second, and at least 10.

    Raises:
        UserError: A number is out of range, or the batch does not fit in memory.
    """
    for name, value in (("batch", batch), ("runs", FEWEST_RUNS if runs is None else runs)):
        if value < 1:
            raise UserError(f"{name} must be at least 1, not {value}")
    macs = network_cost(engine.checkpoint.architecture, height, width).macs
    with _explained_memory_error(height, width, batch):
        images = _images(engine, height, width, batch)
        milliseconds = _repeat_warm(lambda: _call_ms(engine, images), runs)
    p10, median, p90 = (float(value) for value in np.percentile(milliseconds, (10, 50, 90)))
    rate = _gmacs_per_second(macs * batch, median)
    peak = 1e-9 * CORE_RATES[engine.precision](engine.isa) * engine.threads
    return Timing(
        precision=engine.precision,
        isa=engine.isa,
        threads=engine.threads,
        batch=batch,
        height=height,
        width=width,
        runs=len(milliseconds),
        median_ms=median,
        p10_ms=p10,
        p90_ms=p90,
        images_per_second=1e3 * batch / median,
        macs=macs,
        gmacs_per_second=rate,
        peak_gmacs_per_second=peak,
        peak_share=rate / peak,
        activation_bytes=engine.activation_bytes(height, width, batch),
        weight_bytes=engine.weight_bytes,
    )


def expected_seconds(
    engine: Engine, height: int, width: int, batch: int, runs: int | None = None
) -> float:
    """About how long `measure` takes with these arguments, from a call on one image.

    Raises:
        UserError: As for `measure`.
    """
    network_cost(engine.checkpoint.architecture, height, width)  # refuses sizes out of range
    with _explained_memory_error(height, width, 1):
        image = _images(engine, height, width, 1)
        milliseconds = min(_repeat(lambda: _call_ms(engine, image), 2, 0))
    return 1e-3 * milliseconds * batch * (1 + (FEWEST_RUNS if runs is None else runs))


def measure_steps(engine: Engine, timing: Timing) -> list[StepTiming]:
    """Times each step, over the same number of calls and on the same shape as `timing`."""
    images = _images(engine, timing.height, timing.width, timing.batch)
    profiles = _repeat_warm(lambda: engine.profile(images), timing.runs)
    medians = np.median([[ms for *_, ms in steps] for steps in profiles], axis=0)
    costs = network_cost(engine.checkpoint.architecture, timing.height, timing.width).layers
    names = [cost.layer.name for cost in costs]
    timings = []
    for (first, last, kind, _), median in zip(profiles[0], medians.tolist()):
        macs = sum(cost.macs for cost in costs[names.index(first) : names.index(last) + 1])
        rate = _gmacs_per_second(macs * timing.batch, median)
        time_share = median / float(medians.sum())
        peak_share = rate / timing.peak_gmacs_per_second
        timings.append(StepTiming(first, last, kind, median, time_share, macs, rate, peak_share))
    return timings


@contextmanager
def _explained_memory_error(height: int, width: int, batch: int) -> Iterator[None]:
    try:
        yield
    except MemoryError:
        raise UserError(
            f"{batch} images of {height}x{width} do not fit in memory; lower the batch or the resolution"
        ) from None


def _images(engine: Engine, height: int, width: int, batch: int) -> NDArray[np.uint8]:
    shape = batch, height, width, engine.checkpoint.architecture.in_channels
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def _call_ms(engine: Engine, images: NDArray[np.uint8]) -> float:
    begin = time.perf_counter()
    engine(images)
    return 1e3 * (time.perf_counter() - begin)


def _repeat_warm(call: Callable[[], Result], runs: int | None) -> list[Result]:
    """The results of repeated calls, without those of a warm-up."""
    _repeat(call, 1, WARM_UP_SECONDS)
    return _repeat(call, FEWEST_RUNS, SECONDS) if runs is None else _repeat(call, runs, 0)


def _repeat(call: Callable[[], Result], fewest: int, seconds: float) -> list[Result]:
    results: list[Result] = []
    end = time.perf_counter() + seconds
    while len(results) < fewest or time.perf_counter() < end:
        results.append(call())
    return results


def _gmacs_per_second(macs: int, milliseconds: float) -> float:
    # the clock may be too coarse for a small step
    return 1e-6 * macs / max(milliseconds, 1e-6)
