"""The public face: `load` a model by file or name, then classify images with it. No PyTorch."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from .errors import ImageError, UserError
from .images import decode
from .runtime import Engine

if TYPE_CHECKING:
    from PIL.Image import Image

    from .int8 import AnyCheckpoint

Source = TypeVar("Source")
Answer = TypeVar("Answer")
GROUP = 4  # files that a worker takes at once: the weights are read once for all


@dataclass(frozen=True)
class Prediction:
    """One class and its probability; `index` counts the model's own classes from 0."""

    label: str
    index: int
    probability: float


class Model:
    """A checkpoint ready to run.

    Args:
        checkpoint: The model; a `Int8Checkpoint` runs in integers.
        threads: Threads of the network; None: the processors this process may use.
        isa: As for `runtime.Engine`: "scalar", "avx2", "avx512"; None: the best of this machine.

    Attributes:
        checkpoint: Everything that was in the file.
        engine: What runs it.

    Raises:
        UserError: No such number of threads, or an instruction set that this machine lacks.
    """

    def __init__(
        self, checkpoint: AnyCheckpoint, threads: int | None = None, isa: str | None = None
    ) -> None:
        self.checkpoint = checkpoint
        self.engine = Engine(checkpoint, threads, isa)

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Pixels (N, H, W, 3) uint8 RGB, cropped to any size -> logits (N, classes) float32.

        Raises:
            UserError: Another type, rank or number of channels, or an empty batch.
        """
        return self.engine(images)

    def features(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """As the call, up to the classifier layer -> (N, channels) float32, the average of the last
        map: a description of each image that a search or a classifier of one's own can stand on.

        Raises:
            UserError: As for the call, and where the model is not a classifier.
        """
        return self.engine.features(images)

    def classify(
        self, image: str | os.PathLike[str] | Image | NDArray[np.uint8], top: int = 5
    ) -> list[Prediction]:
        """The `top` most probable classes of one image, best first; all of them where there are
        fewer.

        Args:
            image: A file name, a PIL image, or (H, W, 3) uint8 RGB.
            top: How many, at least 1.

        Raises:
            ImageError: The image cannot be decoded.
            UserError: The model is not a classifier, or `top` is below 1.
        """
        self._check(top)
        decoded = decode(image) if isinstance(image, str | os.PathLike) else image
        pixels = self.checkpoint.preprocessing(decoded)
        return self._best(self(pixels[None])[0], top)

    def classify_files(
        self, paths: Iterable[Path], top: int = 5, *, max_pixels: int | None = None
    ) -> Iterator[tuple[Path, list[Prediction] | ImageError]]:
        """Classifies many files; one that cannot be read yields its error.

        As many workers as the engine has threads, each of which reads a few files and runs them on
        its own thread: faster than one image on all threads.

        Args:
            paths: The files, in the order of the answers; taken as the work goes on.
            top: Classes a file.
            max_pixels: As for `images.decode`.
        """
        self._check(top)

        def best(path: Path, logits: NDArray[np.float32]) -> list[Prediction]:
            return self._best(logits, top)

        with closing(self.map_images(paths, best, max_pixels=max_pixels)) as answers:
            yield from answers

    def map_images(
        self,
        sources: Iterable[Source],
        use: Callable[[Source, NDArray[np.float32]], Answer],
        opened: Callable[[Source], Any] = lambda source: source,
        *,
        max_pixels: int | None = None,
    ) -> Generator[tuple[Source, Answer | ImageError], None, None]:
        """Runs many images on several workers, as `classify_files` does.

        Args:
            sources: Whatever stands for an image, in the order of the answers; taken as the work
                goes on.
            use: Called with each source and its logits (classes,), on the worker's thread.
            opened: What `images.decode` reads for a source, also on the worker's thread; may raise
                `ImageError`.
            max_pixels: As for `images.decode`.

        Yields:
            Each source with what `use` made of it, or with its error.
        """

        def prepared(source: Source) -> NDArray[np.uint8] | ImageError:
            try:
                image = decode(opened(source), max_pixels=max_pixels)
                return self.checkpoint.preprocessing(image)
            except ImageError as error:
                return error

        def answers(group: list[Source], alone: bool) -> list[Answer | ImageError]:
            images = [prepared(source) for source in group]
            pixels = [image for image in images if not isinstance(image, ImageError)]
            logits = iter(self.engine(np.stack(pixels), alone) if pixels else ())
            return [
                image if isinstance(image, ImageError) else use(source, next(logits))
                for source, image in zip(group, images)
            ]

        waiting = iter(sources)
        first = list(islice(waiting, 2))
        if len(first) < 2:
            yield from zip(first, answers(first, alone=False))
            return
        from concurrent.futures import ThreadPoolExecutor

        waiting = chain(first, waiting)
        groups = iter(lambda: list(islice(waiting, GROUP)), [])
        pool = ThreadPoolExecutor(self.engine.threads)
        try:
            work = ((group, pool.submit(answers, group, True)) for group in groups)
            ahead = deque(islice(work, 2 * self.engine.threads))
            while ahead:
                group, future = ahead.popleft()
                found = future.result()
                ahead.extend(islice(work, 1))
                yield from zip(group, found)
        finally:  # also of a generator that is left early
            pool.shutdown(cancel_futures=True)

    def check_classifies(self) -> None:
        """Raises:
        UserError: The model's head is not a classifier.
        """
        if self.checkpoint.architecture.head.task != "classification":
            raise UserError(
                f"the model's head is {self.checkpoint.architecture.head}: it does not classify"
            )

    def _check(self, top: int) -> None:
        self.check_classifies()
        if top < 1:
            raise UserError(f"top must be at least 1, not {top}")

    def _best(self, logits: NDArray[np.float32], top: int) -> list[Prediction]:
        chances = np.exp(logits.astype(np.float64) - logits.max())
        chances /= chances.sum()
        order = np.argsort(-chances, kind="stable")[:top]
        labels = self.checkpoint.labels
        return [
            Prediction(labels[i] if labels else f"class {i}", int(i), float(chances[i]))
            for i in order
        ]


def load(
    name: str | os.PathLike[str],
    threads: int | None = None,
    isa: str | None = None,
    *,
    int8: bool = True,
) -> Model:
    """A model by file (any format that `formats.read` knows) or by a name of
    `mobilenetv2.models()`.

    Args:
        name: The file or name.
        threads: As for `Model`.
        isa: As for `Model`.
        int8: A quantised .tflite file runs in int8; False turns its weights into floats.

    Raises:
        ModelFileError: Neither a readable model file nor a known name.
        DownloadError: A published model could not be fetched.
        UserError: As for `Model`.
    """
    from .formats import open_checkpoint

    file = Path(name) if isinstance(name, os.PathLike) else name
    checkpoint = open_checkpoint(file, int8=int8)
    return Model(checkpoint, threads, isa)
