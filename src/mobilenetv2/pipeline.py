"""An ordered parallel map over images: prepare, run, use the output."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from itertools import chain, islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from .errors import ImageError

Source = TypeVar("Source")
Output = TypeVar("Output")
Result = TypeVar("Result")
GROUP = 4  # images that a worker runs at once: the weights are read once for all of them


def map_images(
    sources: Iterable[Source],
    prepare: Callable[[Source], NDArray[np.uint8]],
    run: Callable[[NDArray[np.uint8], bool], Iterable[Output]],
    use: Callable[[Source, Output], Result],
    workers: int,
) -> Generator[tuple[Source, Result | ImageError], None, None]:
    """Maps many images to results on several threads.

    Each worker takes a few images at a time and does all three steps with them.

    Args:
        sources: Whatever `prepare` takes. They are read one by one while the work goes on, so that
            there may be any number of them.
        prepare: Gives the pixels of an image, (H, W, C), of one shape for all; may raise
            `ImageError`.
        run: Called with a batch of pixels (N, H, W, C), and with whether the calling thread has
            to do all of the work; gives the output of each image.
        use: Called with each source and its output.
        workers: The number of threads.

    Yields:
        Each source with its result, or with its `ImageError`, in the order of the sources.
    """

    def prepared(source: Source) -> NDArray[np.uint8] | ImageError:
        try:
            return prepare(source)
        except ImageError as error:
            return error

    def results(group: list[Source], alone: bool) -> list[Result | ImageError]:
        images = [prepared(source) for source in group]
        pixels = [image for image in images if not isinstance(image, ImageError)]
        outputs = iter(run(np.stack(pixels), alone) if pixels else ())
        return [
            image if isinstance(image, ImageError) else use(source, next(outputs))
            for source, image in zip(group, images)
        ]

    remaining = iter(sources)
    first = list(islice(remaining, 2))
    if len(first) < 2:  # all threads work on the one image
        yield from zip(first, results(first, alone=False))
        return
    from concurrent.futures import ThreadPoolExecutor

    remaining = chain(first, remaining)
    groups = iter(lambda: list(islice(remaining, GROUP)), [])
    pool = ThreadPoolExecutor(workers)
    try:
        submitted = ((group, pool.submit(results, group, True)) for group in groups)
        pending = deque(islice(submitted, 2 * workers))
        while pending:
            group, future = pending.popleft()
            finished = future.result()
            pending.extend(islice(submitted, 1))
            yield from zip(group, finished)
    finally:  # also when the caller stops early
        pool.shutdown(cancel_futures=True)
