"""An ordered parallel map over images: prepare, run, use the output."""

from __future__ import annotations

import threading
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from itertools import chain, islice
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar, cast

from .errors import ImageError, NotFiniteError

Source = TypeVar("Source")
Output = TypeVar("Output")
Result = TypeVar("Result")
Size = tuple[int, int]  # height, width
GROUP = 4  # images that a worker runs at once: the weights are read once for all of them


def map_images(
    sources: Iterable[Source],
    prepare: Callable[[Source], tuple[memoryview, Size]],
    run: Callable[[memoryview, bool], Iterable[Output]],
    use: Callable[[Source, Size, Output], Result],
    workers: int,
) -> Generator[tuple[Source, Result | ImageError], None, None]:
    """Maps many images to results on several threads.

    Each worker takes a few images at a time and does all three steps with them. There are fewer
    workers, with a warning, where the system starts no more threads.

    Args:
        sources: Whatever `prepare` takes. They are read one by one while the work goes on, so that
            there may be any number of them.
        prepare: Gives the pixels of an image as bytes (H, W, C), of one shape for all, and the size
            that it had; may raise `ImageError`.
        run: Called with a batch of pixels, bytes (N, H, W, C), and with whether the calling thread has
            to do all of the work; gives the output of each image. May raise `NotFiniteError`: then
            it is called with each image alone.
        use: Called with each source, its size and its output.
        workers: The number of threads.

    Yields:
        Each source with its result, or with its `ImageError`, in the order of the sources.
    """

    def prepared(source: Source) -> tuple[memoryview, Size] | ImageError:
        try:
            return prepare(source)
        except ImageError as error:
            return error

    def alone(
        source: Source, pixels: memoryview, size: Size, one_thread: bool
    ) -> Result | ImageError:
        try:
            (output,) = run(stacked([pixels]), one_thread)
        except NotFiniteError as error:
            name = source if isinstance(source, Path) else getattr(source, "name", source)
            return NotFiniteError(f"{name}: {error}")
        return use(source, size, output)

    def results(group: list[Source], one_thread: bool) -> list[Result | ImageError]:
        images = [prepared(source) for source in group]
        pixels = [image[0] for image in images if not isinstance(image, ImageError)]
        try:
            outputs = iter(run(stacked(pixels), one_thread) if pixels else ())
        except NotFiniteError:
            return [
                image if isinstance(image, ImageError) else alone(source, *image, one_thread)
                for source, image in zip(group, images)
            ]
        return [
            image if isinstance(image, ImageError) else use(source, image[1], next(outputs))
            for source, image in zip(group, images)
        ]

    remaining = iter(sources)
    first = list(islice(remaining, 2))
    if len(first) < 2:  # all threads work on the one image
        yield from zip(first, results(first, one_thread=False))
        return
    remaining = chain(first, remaining)
    groups = iter(lambda: list(islice(remaining, GROUP)), [])
    ahead = list(islice(groups, max(2, workers)))
    if len(ahead) < 2:  # a thread would work while this one waits
        yield from zip(ahead[0], results(ahead[0], one_thread=True))
        return
    tasks = (_Task(group, results) for group in chain(ahead, groups))
    with closing(_in_order(tasks, min(workers, len(ahead)))) as finished:
        for task, made in finished:
            yield from zip(task.group, made)


def stacked(images: Sequence[memoryview]) -> memoryview:
    """Pixels of one shape (H, W, C) as a batch (N, H, W, C)."""
    batch = memoryview(b"".join(images))
    return batch.cast("B", (len(images), *cast(tuple[int, ...], images[0].shape)))


def map_in_order(
    items: Iterable[Source], work: Callable[[Source], Result], workers: int
) -> Generator[Result, None, None]:
    """Maps items to results, in their order, on several threads or on those that the system starts.

    Args:
        items: Whatever `work` takes; read one by one while the work goes on.
        work: Called with each item.
        workers: The number of threads, at least 1.
    """
    tasks = (_Task([item], lambda group, _: [work(group[0])]) for item in items)
    with closing(_in_order(tasks, workers)) as finished:
        for _, (result,) in finished:
            yield result


class _Task(Generic[Source, Result]):
    """One group of sources, and what became of it."""

    def __init__(
        self, group: list[Source], work: Callable[[list[Source], bool], list[Result]]
    ) -> None:
        self.group = group
        self._work = work
        # not an Event: a signal's exception inside of its `wait` may find its lock released
        self._done: SimpleQueue[None] = SimpleQueue()
        self._results: list[Result] = []
        self._error: BaseException | None = None

    def run(self) -> None:
        """Does the work on the calling thread."""
        try:
            self._results = self._work(self.group, True)
        except BaseException as error:  # raised again on the thread that asks for the result
            self._error = error
        self._done.put(None)

    def result(self) -> list[Result]:
        """Waits for the work, once; the results, or the error that ended it."""
        self._done.get()
        if self._error is not None:
            raise self._error
        return self._results


def _in_order(
    tasks: Iterator[_Task[Source, Result]], workers: int
) -> Generator[tuple[_Task[Source, Result], list[Result]], None, None]:
    """Each task with its results, in order; twice as many as there are threads are read ahead."""
    with closing(Threads(workers)) as threads:  # ended also when the caller stops early
        pending: deque[_Task[Source, Result]] = deque()

        def submit(count: int) -> None:
            for task in islice(tasks, count):
                threads.submit(task.run)
                pending.append(task)

        submit(2 * threads.count)
        while pending:
            task = pending.popleft()
            results = task.result()
            submit(1)
            yield task, results


class Threads:
    """Threads that do work in the order in which it is submitted.

    `concurrent.futures.ThreadPoolExecutor` fails where the system starts fewer threads than asked
    for; here those that there are do the work, or the calling thread where there is none.

    Args:
        most: The number of threads, if the system starts as many.

    Attributes:
        count: The number of threads, at least 1.
    """

    def __init__(self, most: int) -> None:
        self._work: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        try:
            for _ in range(most):
                thread = threading.Thread(target=self._serve, daemon=True)
                thread.start()
                self._threads.append(thread)
        except RuntimeError:
            warnings.warn(
                f"the system lets this process start {len(self._threads)} of {most} threads",
                RuntimeWarning,
                stacklevel=4,
            )
        self.count = max(1, len(self._threads))

    def close(self) -> None:
        """Ends the threads; work that has not begun is dropped."""
        with suppress(Empty):
            while True:
                self._work.get_nowait()
        for _thread in self._threads:
            self._work.put(None)
        for thread in self._threads:
            thread.join()

    def submit(self, work: Callable[[], object]) -> None:
        """Hands over work, or does it at once where there are no threads."""
        if self._threads:
            self._work.put(work)
        else:
            work()

    def _serve(self) -> None:
        while work := self._work.get():
            work()
