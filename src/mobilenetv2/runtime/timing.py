"""How fast an engine is: per call and per step, beside what the core can do at most."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ..checkpoint import Checkpoint
from ..cost import network_cost
from ..errors import UserError
from . import _native
from .engine import Engine

WARM_UP_SECONDS = 0.1
SECONDS = 1.0  # of calls, where their number is not given
FEWEST_RUNS = 10
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Timing:
    """Time of a call on `batch` images of height x width, over `runs` calls.

    Attributes:
        isa: Instruction set of the engine.
        threads: Threads of the engine.
        batch: Images a call.
        height: Rows of an image.
        width: Columns of an image.
        runs: Calls measured.
        median_ms: Half of the calls took no longer.
        p10_ms: A tenth of them took no longer.
        p90_ms: Nine tenths of them took no longer.
        images_per_second: At the median.
        macs: Multiply-adds of one image, as `network_cost` counts.
        gmacs_per_second: 1e9 multiply-adds a second, at the median.
        peak_gmacs_per_second: What the core reaches in registers alone, times the threads.
        peak_share: gmacs_per_second over peak_gmacs_per_second.
        activation_bytes: As `Engine.activation_bytes`, of the batch.
        weight_bytes: As `Engine.weight_bytes`.
    """

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
    """Time of one step of a call; all steps together are the network.

    Attributes:
        first: Its first layer.
        last: Its last layer; a whole block, or the stem and the blocks behind it, are one step.
        kind: How it runs: "rows", "plane", "matmul", "mean", "add", "concat" or "resize".
        median_ms: Half of the calls took no longer.
        time_share: Of the sum of all steps' medians.
        macs: Multiply-adds of one image.
        gmacs_per_second: 1e9 multiply-adds a second, at the median.
        peak_share: As in `Timing`.
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
        engine: What to time.
        height: Rows of an image.
        width: Columns of an image.
        batch: Images a call.
        runs: Calls; None: as many as take a second, and 10 at least.

    Raises:
        UserError: A number is out of range, or the memory is too small for the batch.
    """
    for name, value in (("batch", batch), ("runs", FEWEST_RUNS if runs is None else runs)):
        if value < 1:
            raise UserError(f"{name} must be at least 1, not {value}")
    macs = network_cost(engine.checkpoint.architecture, height, width).macs
    try:
        images = _images(engine, height, width, batch)
        milliseconds = _warm(lambda: _call_ms(engine, images), runs)
    except MemoryError:
        raise UserError(
            f"{batch} images of {height}x{width} do not fit in memory; lower the batch or the resolution"
        ) from None
    p10, median, p90 = (float(value) for value in np.percentile(milliseconds, (10, 50, 90)))
    rate = _gmacs_per_second(macs * batch, median)
    floats = isinstance(engine.checkpoint, Checkpoint)
    reached = _native.fma_rate if floats else _native.byte_fma_rate
    peak = 1e-9 * reached(engine.isa) * engine.threads
    return Timing(
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


def measure_steps(engine: Engine, timing: Timing) -> list[StepTiming]:
    """Times the steps of the calls that `timing` is of, over as many calls."""
    images = _images(engine, timing.height, timing.width, timing.batch)
    profiles = _warm(lambda: engine.profile(images), timing.runs)
    medians = np.median([[ms for *_, ms in steps] for steps in profiles], axis=0)
    costs = network_cost(engine.checkpoint.architecture, timing.height, timing.width).layers
    names = [cost.layer.name for cost in costs]
    found = []
    for (first, last, kind, _), median in zip(profiles[0], medians.tolist()):
        macs = sum(cost.macs for cost in costs[names.index(first) : names.index(last) + 1])
        rate = _gmacs_per_second(macs * timing.batch, median)
        share, of_peak = median / float(medians.sum()), rate / timing.peak_gmacs_per_second
        found.append(StepTiming(first, last, kind, median, share, macs, rate, of_peak))
    return found


def _images(engine: Engine, height: int, width: int, batch: int) -> NDArray[np.uint8]:
    shape = batch, height, width, engine.checkpoint.architecture.in_channels
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def _call_ms(engine: Engine, images: NDArray[np.uint8]) -> float:
    begin = time.perf_counter()
    engine(images)
    return 1e3 * (time.perf_counter() - begin)


def _warm(call: Callable[[], Answer], runs: int | None) -> list[Answer]:
    """What `call` returns, call by call, after some that do not count."""
    _repeated(call, 1, WARM_UP_SECONDS)
    return _repeated(call, FEWEST_RUNS, SECONDS) if runs is None else _repeated(call, runs, 0)


def _repeated(call: Callable[[], Answer], fewest: int, seconds: float) -> list[Answer]:
    answers: list[Answer] = []
    end = time.perf_counter() + seconds
    while len(answers) < fewest or time.perf_counter() < end:
        answers.append(call())
    return answers


def _gmacs_per_second(macs: int, milliseconds: float) -> float:
    return 1e-6 * macs / max(milliseconds, 1e-6)  # a clock may be too coarse for a small step
