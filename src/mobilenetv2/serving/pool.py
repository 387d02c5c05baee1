"""The threads that decode images and run the model, and the queue in front of them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from .limits import Limits, RefusalError

Item = TypeVar("Item")
Result = TypeVar("Result")


class Pool:
    """Threads that work on images, each on one at a time, never those of the event loop.

    Args:
        workers: The number of threads.
        limits: How many images may wait, and for how long.

    Attributes:
        pending: Images that wait or are worked on.
    """

    def __init__(self, workers: int, limits: Limits) -> None:
        self._images = ThreadPoolExecutor(workers, "image")
        # bodies are taken apart beside the images: they would else wait behind them
        self._bodies = ThreadPoolExecutor(2, "body")
        self._most = workers + limits.queue
        self._seconds = limits.seconds
        self._lock = threading.Lock()
        self.pending = 0

    async def body(self, work: Callable[[], Result]) -> Result:
        """Takes a body apart, or puts one together."""
        return await asyncio.get_running_loop().run_in_executor(self._bodies, work)

    async def map(self, work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """The result of each item, in order.

        Raises:
            RefusalError: Too many images wait already, or the answer takes too long.
        """
        with self._lock:
            if self.pending + len(items) > self._most:
                raise RefusalError(
                    429, f"the queue is full, {self.pending} images wait: try again later"
                )
            self.pending += len(items)
        futures = [self._images.submit(work, item) for item in items]
        for future in futures:
            future.add_done_callback(self._done)
        waiting = asyncio.gather(*map(asyncio.wrap_future, futures))
        try:
            return list(await asyncio.wait_for(waiting, self._seconds))
        except asyncio.TimeoutError:  # what has not begun is cancelled with it
            raise RefusalError(
                503, f"the answer took more than {self._seconds:g} seconds: try again later"
            ) from None
        except asyncio.CancelledError:
            if waiting.done() and not waiting.cancelled():
                waiting.exception()  # asyncio would else log that nobody has read it
            raise

    def close(self) -> None:
        """Ends the threads, after the work that they have begun."""
        for executor in (self._images, self._bodies):
            executor.shutdown(cancel_futures=True)

    def _done(self, future: Future[Result]) -> None:
        with self._lock:
            self.pending -= 1
