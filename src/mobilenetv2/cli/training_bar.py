"""The progress bar of `mobilenetv2 train`, and its log above that."""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.live import Live

    from ..training.watch import Step, Watch

REFRESH_SECONDS = 0.1
RECENT = 100  # batches over which speed is measured
BAR_WIDTH = 40


class Pace:
    """How fast a run goes, measured over its last batches.

    Args:
        clock: Seconds, from any moment.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._recent: deque[tuple[float, int]] = deque(maxlen=RECENT)
        self._last: Step | None = None
        self._train_seconds = 0.0  # per batch
        self._pause = 0.0  # between the last batch of an epoch and the first of the next
        self._train_steps = 0
        self._trained = 0.0  # when

    def add(self, step: Step) -> None:
        """Takes note of a batch that was just finished."""
        now, last = self._clock(), self._last
        if last is None or (step.validates, step.epoch) != (last.validates, last.epoch):
            if last and not step.validates:
                self._pause = now - self._trained
            self._recent.clear()
        self._recent.append((now, step.images))
        if not step.validates:
            self._train_seconds = self._seconds() or self._train_seconds
            self._train_steps, self._trained = step.steps, now
        self._last = step

    @property
    def images_per_second(self) -> float | None:
        """Images per second; None before the second batch."""
        seconds = self._recent[-1][0] - self._recent[0][0] if self._recent else 0.0
        return sum(images for _, images in list(self._recent)[1:]) / seconds if seconds else None

    def left(self) -> float | None:
        """Seconds to the end of the epoch or validation; None before its second batch."""
        seconds = self._seconds()
        if self._last is None or seconds is None:
            return None
        return float(self._last.steps - self._last.step) * seconds

    def left_of_run(self) -> float | None:
        """Seconds to the end of the run; None before its second batch. The time between two epochs is
        known from the second one on. A run with minutes knows its end.
        """
        left, last = self.left(), self._last
        if last is None:
            return None
        if last.seconds_left is not None:
            return float(last.seconds_left)
        if left is None:
            return None
        epochs = last.epochs - last.epoch
        if epochs and not self._train_seconds:
            return None
        pauses = epochs + (not last.validates)
        seconds = left + epochs * self._train_steps * self._train_seconds + pauses * self._pause
        return float(seconds)

    def _seconds(self) -> float | None:
        """Per batch."""
        count = len(self._recent) - 1
        return (self._recent[-1][0] - self._recent[0][0]) / count if count > 0 else None


class TrainingBar:
    """Two lines about a run: of the epoch a bar and the time left, then loss, rate and speed, and how
    far the run is.

    Args:
        clock: As for `Pace`.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.pace = Pace(clock)
        self.last: Step | None = None

    def add(self, step: Step) -> None:
        """Takes note of a batch that was just finished."""
        self.pace.add(step)
        self.last = step

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        if self.last is None:
            return
        step, left = self.last, _duration(self.pace.left())
        activity = "validation after epoch" if step.validates else "epoch"
        first = Table.grid(padding=(0, 1, 0, 0))
        first.add_row(
            Text(
                f"{activity} {step.epoch}" + f" of {step.epochs}" * bool(step.epochs), no_wrap=True
            ),
            ProgressBar(step.steps, step.step, min(BAR_WIDTH, max(4, options.max_width - 50))),
            Text(f"{step.step}/{step.steps}  {left} left", no_wrap=True),
        )
        yield first
        yield Text(self.facts(), no_wrap=True, overflow="ellipsis")

    def facts(self) -> str:
        """The second line."""
        step = self.last
        if step is None:
            return ""
        rate = self.pace.images_per_second
        speed = "–" if rate is None else f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"
        finished = step.epoch if step.validates else step.epoch - 1 + step.step / step.steps
        share = finished / step.epochs if step.epochs else step.share or 0.0
        facts = [
            f"{speed} images/s",
            f"run {100 * share:.0f} %, {_duration(self.pace.left_of_run())} left",
        ]
        if not step.validates:
            facts = [f"loss {step.loss:.4f}", f"rate {step.lr:.3g}", *facts]
        return "  ".join(facts)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class _LinesAbove(logging.Handler):
    """Prints log lines above a bar."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        from rich.text import Text

        try:
            self.console.print(Text(self.format(record)), soft_wrap=True)
        except Exception:
            self.handleError(record)


@contextmanager
def training_bar(shows: bool) -> Iterator[tuple[Watch | None, logging.Handler]]:
    """In the block, a bar on stderr, if that is a terminal with somebody before it.

    Args:
        shows: False: never a bar.

    Yields:
        What to call after each batch, None without a bar; and a handler for the log.
    """
    if not (shows and sys.stderr.isatty()) or "CI" in os.environ:
        yield None, logging.StreamHandler()
        return
    from rich.console import Console
    from rich.live import Live

    console, bar = Console(stderr=True), TrainingBar()
    if not console.is_interactive:  # TERM=dumb, for example
        yield None, logging.StreamHandler()
        return
    # without a thread that redraws: processes that read images are forked
    live = Live(bar, console=console, auto_refresh=False, transient=True, redirect_stdout=False)
    live.start()
    console.show_cursor()  # it stays there if the process is killed
    try:
        yield _redrawing(bar, live), _LinesAbove(console)
    finally:
        with suppress(OSError):  # the terminal is gone
            live.stop()


def _redrawing(bar: TrainingBar, live: Live) -> Watch:
    """What draws the bar after each batch, until the terminal is gone: training goes on then."""
    drawn = 0.0

    def watch(step: Step) -> None:
        nonlocal drawn
        bar.add(step)
        now = time.monotonic()
        if now - drawn >= REFRESH_SECONDS or (step.step in (1, step.steps) and drawn < math.inf):
            drawn = now
            try:
                live.refresh()
            except OSError:
                drawn = math.inf

    return watch
