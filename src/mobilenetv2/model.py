"""A checkpoint ready to run, which classifies or describes images. No PyTorch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, overload

from .arguments import check_list, check_whole
from .errors import ImageError, UserError
from .images import as_image, to_image
from .pipeline import map_images, stacked
from .runtime import Engine, best_classes
from .runtime.preparing import prepared

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .images import OneImage
    from .int8 import AnyCheckpoint

Source = TypeVar("Source")
Output = TypeVar("Output")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Prediction:
    """One class and its probability; `index` counts the model's own classes from 0."""

    label: str
    index: int
    probability: float


class Model:
    """A checkpoint ready to run.

    It may be shared by threads, copied and pickled: a copy is made anew from the arguments.

    Args:
        checkpoint: The model; an `Int8Checkpoint` runs in int8.
        threads: Threads of the network; None: as many as the process may use processors.
        isa: As for `runtime.Engine`: "scalar", "avx2", "avx512"; None: the best of this machine.
        precision: As for `runtime.Engine`: "float32" or "bf16", of float weights; None: "float32".

    Attributes:
        checkpoint: Everything that was in the file.
        engine: What runs it.

    Raises:
        UserError: `threads` is out of range, this machine lacks the instruction set or instructions
            for the precision, or an int8 model is given a precision.
    """

    def __init__(
        self,
        checkpoint: AnyCheckpoint,
        threads: int | None = None,
        isa: str | None = None,
        precision: str | None = None,
    ) -> None:
        self.checkpoint = checkpoint
        self._arguments = checkpoint, threads, isa, precision
        self.engine = Engine(checkpoint, threads, isa, precision)

    def __repr__(self) -> str:
        a, kind = self.checkpoint.architecture, type(self.checkpoint).__name__
        height, width = self.checkpoint.preprocessing.size
        return f"Model({kind} of width {a.width_mult:g}, head {a.head}, pixels {height} x {width})"

    def __reduce__(self) -> tuple[type[Model], tuple[Any, ...]]:
        return type(self), self._arguments

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Pixels (N, H, W, 3) uint8 RGB, cropped to any size -> logits (N, classes) float32.

        Raises:
            UserError: Another type, rank or number of channels, or an empty batch.
            NotFiniteError: The logits of an image are not finite; the message names the layer.
        """
        logits: NDArray[np.float32] = self.engine(images)
        return logits

    def features(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Pixels as for the call -> the input of the classifier layer, (N, channels) float32.

        This is the last map averaged over its positions, which a model without a head has too. It
        describes an image, for search or for another classifier.

        Raises:
            UserError: As for the call, and where the head is neither a classifier nor `Features`.
        """
        return self.engine.features(images)

    @overload
    def classify(self, image: OneImage, top: int = 5) -> list[Prediction]: ...
    @overload
    def classify(
        self, image: list[OneImage] | tuple[OneImage, ...], top: int = 5
    ) -> list[list[Prediction]]: ...
    def classify(
        self, image: OneImage | list[OneImage] | tuple[OneImage, ...], top: int = 5
    ) -> list[Prediction] | list[list[Prediction]]:
        """The `top` most probable classes of one image, best first, or all if there are fewer.

        Args:
            image: A file name, an image file's content as bytes or as an open binary file, a PIL
                image, or uint8 pixels: (H, W, 3) RGB, (H, W, 4) RGBA, (H, W) or (H, W, 1) grey.
                A list or tuple of them, or an array (N, H, W, C), gives a list for each; one that
                cannot be read ends the call, unlike in `classify_files`.
            top: The number of classes, at least 1.

        Raises:
            ImageError: The image cannot be decoded.
            UserError: The model is not a classifier, or `top` is below 1.
        """
        self._check_top(top)
        given: Any = image
        if is_many(given):
            with closing(self.classify_files(given, top)) as results:
                return [raised(result) for _, result in results]
        pixels = prepared(self.checkpoint.preprocessing, as_image(given))
        (logits,) = self.engine.logits(stacked([pixels]))
        return self._predictions(logits, top)

    def classify_files(
        self,
        files: Iterable[Source],
        top: int = 5,
        open_source: Callable[[Source], Any] = lambda source: source,
        *,
        max_pixels: int | None = None,
    ) -> Generator[tuple[Source, list[Prediction] | ImageError], None, None]:
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

        def use(file: Source, size: tuple[int, int], logits: memoryview[Any]) -> list[Prediction]:
            return self._predictions(logits, top)

        run = self.engine.logits
        with closing(
            self._map_memory(files, use, run, open_source, max_pixels=max_pixels)
        ) as results:
            yield from results

    def features_files(
        self,
        files: Iterable[Source],
        open_source: Callable[[Source], Any] = lambda source: source,
        *,
        max_pixels: int | None = None,
    ) -> Iterator[tuple[Source, NDArray[np.float32] | ImageError]]:
        """One vector (channels,) float32 for each file, as `features` gives it, or the error of each
        that cannot be read.

        Args:
            files: As for `classify_files`.
            open_source: As for `map_images`.
            max_pixels: As for `images.decode`.

        Raises:
            UserError: As for `features`.
        """

        def use(file: Source, vector: NDArray[np.float32]) -> NDArray[np.float32]:
            return vector

        run = self.engine.features
        with closing(
            self.map_images(files, use, open_source, max_pixels=max_pixels, run=run)
        ) as results:
            yield from results

    def map_images(
        self,
        sources: Iterable[Source],
        use: Callable[[Source, NDArray[np.float32]], Result],
        open_source: Callable[[Source], Any] = lambda source: source,
        *,
        max_pixels: int | None = None,
        run: Callable[[NDArray[np.uint8], bool], Iterable[NDArray[np.float32]]] | None = None,
    ) -> Generator[tuple[Source, Result | ImageError], None, None]:
        """Runs many images on several workers, as `classify_files` does.

        Args:
            sources: Whatever `open_source` takes, in the order of the results; read one by one
                while the work goes on.
            use: Called with each source and its logits (classes,), on the worker's thread.
            open_source: Gives what `classify` takes for a source, on the worker's thread; may raise
                `ImageError`.
            max_pixels: As for `images.decode`.
            run: What runs a batch of pixels, alone or on all threads: `engine.features`; None: the
                engine itself, which gives logits.

        Yields:
            Each source with the result of `use`, or with its error.
        """

        def used(source: Source, size: tuple[int, int], logits: NDArray[np.float32]) -> Result:
            return use(source, logits)

        return self.map_sized(sources, used, run or self.engine, open_source, max_pixels=max_pixels)

    def map_sized(
        self,
        sources: Iterable[Source],
        use: Callable[[Source, tuple[int, int], Output], Result],
        run: Callable[[NDArray[np.uint8], bool], Iterable[Output]],
        open_source: Callable[[Source], Any] = lambda source: source,
        *,
        max_pixels: int | None = None,
    ) -> Generator[tuple[Source, Result | ImageError], None, None]:
        """As `map_images`; `use` gets the (height, width) of the image too, and whatever `run` gives
        for it.
        """
        import numpy as np

        def run_arrays(pixels: memoryview, alone: bool) -> Iterable[Output]:
            return run(np.asarray(pixels), alone)

        return self._map_memory(sources, use, run_arrays, open_source, max_pixels=max_pixels)

    def _map_memory(
        self,
        sources: Iterable[Source],
        use: Callable[[Source, tuple[int, int], Output], Result],
        run: Callable[[memoryview, bool], Iterable[Output]],
        open_source: Callable[[Source], Any],
        *,
        max_pixels: int | None,
    ) -> Generator[tuple[Source, Result | ImageError], None, None]:
        """As `map_sized`; `run` gets bytes (N, H, W, C)."""
        check_list("files", sources)
        if isinstance(sources, _arrays()) and sources.ndim not in (1, 4):
            raise UserError(
                f"a list of images is needed, not an array of the shape {sources.shape}: [image]"
            )
        if max_pixels is not None:
            check_whole("max_pixels", max_pixels)

        def prepare(source: Source) -> tuple[memoryview, tuple[int, int]]:
            image = to_image(as_image(open_source(source), max_pixels=max_pixels))
            return prepared(self.checkpoint.preprocessing, image), (image.height, image.width)

        return map_images(sources, prepare, run, use, self.engine.threads)

    def class_names(self) -> tuple[str, ...]:
        """The labels, or "class 0" and so on where the model has none."""
        checkpoint = self.checkpoint
        numbered = (f"class {index}" for index in range(checkpoint.architecture.classes))
        return tuple(checkpoint.labels) or tuple(numbered)

    def check_classifies(self) -> None:
        """Refuses a model that is not a classifier.

        Raises:
            UserError: The model's head is another one.
        """
        if self.checkpoint.architecture.head.task != "classification":
            head = self.checkpoint.architecture.head
            others = {"detection": "; `mobilenetv2 detect` runs it"}
            others["segmentation"] = "; `mobilenetv2 segment` runs it"
            raise UserError(
                f"the model's head is {head}: it does not classify{others.get(head.task, '')}"
            )

    def _check_top(self, top: int) -> None:
        self.check_classifies()
        check_whole("top", top)

    def _predictions(self, logits: memoryview[Any], top: int) -> list[Prediction]:
        """The `top` most probable classes for the logits (classes,) of one image."""
        names = self.class_names()
        return [Prediction(names[i], i, share) for i, share in best_classes(logits, top)]


def is_many(image: Any) -> bool:
    """Whether this is a list, a tuple or an array (N, H, W, C) of images."""
    return isinstance(image, list | tuple) or (isinstance(image, _arrays()) and image.ndim == 4)


def _arrays() -> Any:
    """NumPy's arrays, for `isinstance`; without NumPy there are none."""
    return getattr(sys.modules.get("numpy"), "ndarray", ())


def one_or_all(
    image: Any, run: Callable[[Any], Generator[tuple[Any, Result | ImageError], None, None]]
) -> Any:
    """The answer for one image, or the list of answers for a list, a tuple or an array (N, H, W, C).

    Args:
        image: One of these.
        run: Gives each image of a list with its answer or error; the first error is raised.
    """
    many = is_many(image)
    with closing(run(image if many else [image])) as results:
        answers = [raised(result) for _, result in results]
    return answers if many else answers[0]


def raised(result: Result | ImageError) -> Result:
    """The result, unless it is an error, which is raised."""
    if isinstance(result, ImageError):
        raise result
    return result
