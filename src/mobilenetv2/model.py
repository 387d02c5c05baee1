"""The public face: `load` a model by file or name, then classify images with it. No PyTorch."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from .errors import ImageError, UserError
from .images import decode
from .pipeline import map_images
from .runtime import Engine

if TYPE_CHECKING:
    from PIL.Image import Image

    from .int8 import AnyCheckpoint

Source = TypeVar("Source")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Prediction:
    """One class and its probability; `index` counts the model's own classes from 0."""

    label: str
    index: int
    probability: float


class Model:
    """A checkpoint ready to run.

    Args:
        checkpoint: The model; an `Int8Checkpoint` runs in int8.
        threads: Threads of the network; None: as many as the process may use processors.
        isa: As for `runtime.Engine`: "scalar", "avx2", "avx512"; None: the best of this machine.

    Attributes:
        checkpoint: Everything that was in the file.
        engine: What runs it.

    Raises:
        UserError: `threads` is out of range, or this machine lacks the instruction set.
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
        logits: NDArray[np.float32] = self.engine(images)
        return logits

    def features(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Pixels as for the call -> the input of the classifier layer, (N, channels) float32.

        This is the last map averaged over its positions. It describes an image, for search or for
        another classifier.

        Raises:
            UserError: As for the call, and where the model is not a classifier.
        """
        return self.engine.features(images)

    def classify(
        self, image: str | os.PathLike[str] | Image | NDArray[np.uint8], top: int = 5
    ) -> list[Prediction]:
        """The `top` most probable classes of one image, best first, or all if there are fewer.

        Args:
            image: A file name, a PIL image, or (H, W, 3) uint8 RGB.
            top: The number of classes, at least 1.

        Raises:
            ImageError: The image cannot be decoded.
            UserError: The model is not a classifier, or `top` is below 1.
        """
        self._check_top(top)
        decoded = decode(image) if isinstance(image, str | os.PathLike) else image
        pixels = self.checkpoint.preprocessing(decoded)
        return self._predictions(self(pixels[None])[0], top)

    def classify_files(
        self,
        files: Iterable[Source],
        top: int = 5,
        open_source: Callable[[Source], Any] = lambda source: source,
        *,
        max_pixels: int | None = None,
    ) -> Iterator[tuple[Source, list[Prediction] | ImageError]]:
        """The most probable classes of many files, or the error of each that cannot be read.

        There are as many workers as the engine has threads, and each runs its own images on its
        own thread, which is faster than one image on all threads.

        Args:
            files: The files, in the order of the results; read one by one while the work goes on.
            top: The number of classes of each file, at least 1.
            open_source: As for `map_images`.
            max_pixels: As for `images.decode`.

        Raises:
            UserError: As for `classify`.
        """
        self._check_top(top)

        def use(file: Source, logits: NDArray[np.float32]) -> list[Prediction]:
            return self._predictions(logits, top)

        with closing(self.map_images(files, use, open_source, max_pixels=max_pixels)) as results:
            yield from results

    def map_images(
        self,
        sources: Iterable[Source],
        use: Callable[[Source, NDArray[np.float32]], Result],
        open_source: Callable[[Source], Any] = lambda source: source,
        *,
        max_pixels: int | None = None,
    ) -> Generator[tuple[Source, Result | ImageError], None, None]:
        """Runs many images on several workers, as `classify_files` does.

        Args:
            sources: Whatever `open_source` takes, in the order of the results; read one by one
                while the work goes on.
            use: Called with each source and its logits (classes,), on the worker's thread.
            open_source: Gives what `images.decode` takes for a source, on the worker's thread;
                may raise `ImageError`.
            max_pixels: As for `images.decode`.

        Yields:
            Each source with the result of `use`, or with its error.
        """

        def prepare(source: Source) -> NDArray[np.uint8]:
            image = decode(open_source(source), max_pixels=max_pixels)
            return self.checkpoint.preprocessing(image)

        return map_images(sources, prepare, self.engine, use, self.engine.threads)

    def check_classifies(self) -> None:
        """Refuses a model that is not a classifier.

        Raises:
            UserError: The model's head is another one.
        """
        if self.checkpoint.architecture.head.task != "classification":
            raise UserError(
                f"the model's head is {self.checkpoint.architecture.head}: it does not classify"
            )

    def _check_top(self, top: int) -> None:
        self.check_classifies()
        if top < 1:
            raise UserError(f"top must be at least 1, not {top}")

    def _predictions(self, logits: NDArray[np.float32], top: int) -> list[Prediction]:
        """The `top` most probable classes for the logits (classes,) of one image."""
        probabilities = np.exp(logits.astype(np.float64) - logits.max())
        probabilities /= probabilities.sum()
        order = np.argsort(-probabilities, kind="stable")[:top]
        labels = self.checkpoint.labels
        return [
            Prediction(labels[i] if labels else f"class {i}", int(i), float(probabilities[i]))
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
        int8: Whether a quantised .tflite file runs in int8; False: its weights become float32.

    Raises:
        ModelFileError: Neither a readable model file nor a known name.
        DownloadError: A published model could not be fetched.
        UserError: As for `Model`.
    """
    from .formats import open_checkpoint

    file = Path(name) if isinstance(name, os.PathLike) else name
    checkpoint = open_checkpoint(file, int8=int8)
    return Model(checkpoint, threads, isa)
