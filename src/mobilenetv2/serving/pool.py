"""The threads that decode images and run the model, and the queue in front of them."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from ..pipeline import Threads
from .limits import Limits, RefusalError

Item = TypeVar("Item")
Result = TypeVar("Result")
# gives the result of each image, or its error
Work = Callable[[list[Item]], Sequence[Result | Exception]]


class Pool:
    """Threads that work on images, never those of the event loop.

    A thread that becomes free takes as many of the waiting images as are worked on together, of any
    requests whose work is equal, but no more than its share where other threads are free too.

    Args:
        workers: The number of threads.
        limits: How many images may wait, and for how long.
        group: Images that a thread works on together, at most.

    Attributes:
        pending: Images that wait or are worked on; read and changed on the event loop alone.
    """

    def __init__(self, workers: int, limits: Limits, group: int = 1) -> None:
        self._threads = Threads(workers)
        # bodies are taken apart beside the images: they would else wait behind them
        self._bodies = ThreadPoolExecutor(2, "body")
        self._most = workers + limits.queue
        self._seconds = limits.seconds
        self._group = group
        self._lock = threading.Lock()  # of the next two
        self._waiting: deque[_Image] = deque()
        self._busy = 0
        self.pending = 0

    async def body(self, work: Callable[[], Result]) -> Result:
        """Takes a body apart, or puts one together."""
        return await asyncio.get_running_loop().run_in_executor(self._bodies, work)

    async def map(self, work: Work[Item, Result], items: Sequence[Item]) -> list[Result]:
        """The result of each item, in order; the first error of one is raised.

        Args:
            work: Called with some of the items, and with those of other calls whose work is equal.
            items: At least one.

        Raises:
            RefusalError: Too many images wait already, or the answer takes too long.
        """
        if self.pending + len(items) > self._most:
            raise RefusalError(
                429, f"the queue is full, {self.pending} images wait: try again later"
            )
        call = _Call(work, len(items))
        self.pending += len(items)
        with self._lock:
            self._waiting.extend(_Image(call, i, item) for i, item in enumerate(items))
        for _ in items:
            self._threads.submit(self._work)
        try:
            return await asyncio.wait_for(call.results, self._seconds)
        except asyncio.TimeoutError:
            raise RefusalError(
                503, f"the answer took more than {self._seconds:g} seconds: try again later"
            ) from None
        finally:
            if call.missing:
                self._drop(call)

    def close(self) -> None:
        """Ends the threads, after the work that they have begun."""
        self._threads.close()
        self._bodies.shutdown(cancel_futures=True)

    def _work(self) -> None:
        """Works on the images whose turn it is, if others have not taken them; on a thread."""
        group = self._take()
        if not group:
            return
        call = group[0].call
        results = _attempted(call.work, [image.item for image in group])
        with self._lock:
            self._busy -= 1
        with suppress(RuntimeError):  # the event loop has ended: nobody waits
            call.results.get_loop().call_soon_threadsafe(self._deliver, group, results)

    def _take(self) -> list[_Image]:
        with self._lock:
            if not self._waiting:
                return []
            share = -(-len(self._waiting) // max(1, self._threads.count - self._busy))
            group = [self._waiting.popleft()]
            while len(group) < min(share, self._group) and self._waiting:
                if self._waiting[0].call.work != group[0].call.work:
                    break
                group.append(self._waiting.popleft())
            self._busy += 1
        return group

    def _deliver(self, group: list[_Image], results: Sequence[Any]) -> None:
        """Hands over what a thread has made, on the event loop."""
        self.pending -= len(group)
        for image, result in zip(group, results, strict=True):
            image.call.add(image.index, result)

    def _drop(self, call: _Call) -> None:
        """Forgets the images of a call that has ended, where no thread has begun with them."""
        with self._lock:
            kept = [image for image in self._waiting if image.call is not call]
            self.pending -= len(self._waiting) - len(kept)
            self._waiting = deque(kept)


def _attempted(work: Work[Any, Any], items: list[Any]) -> Sequence[Any]:
    """The results of items, or errors: where all together end in an error, each is tried alone."""
    try:
        return work(items)
    except Exception as error:
        if len(items) == 1:
            return [error]
        return [result for item in items for result in _attempted(work, [item])]


class _Call:
    """The images of one request.

    Args:
        work: What is done with them.
        count: How many there are.

    Attributes:
        missing: How many have no result yet.
        results: Of all, in order, or the first error.
    """

    def __init__(self, work: Work[Any, Any], count: int) -> None:
        self.work = work
        self.missing = count
        self.results: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._results: list[Any] = [None] * count

    def add(self, index: int, result: Any) -> None:
        """Takes the result of an image, or its error."""
        self.missing -= 1
        self._results[index] = result
        if self.results.done():
            return
        if isinstance(result, Exception):
            self.results.set_exception(result)
        elif not self.missing:
            self.results.set_result(self._results)


@dataclass(frozen=True, eq=False)
class _Image:
    """An image that waits for a thread: an item of a call."""

    call: _Call
    index: int
    item: Any
