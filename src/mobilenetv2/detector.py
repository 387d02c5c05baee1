"""Objects in images: a checkpoint with an SSD head, ready to run."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from . import boxes
from .errors import ImageError, UserError
from .graph import network
from .heads import SSDHead
from .model import Model, one_or_all
from .records import Meta, Record
from .results import Detections

if TYPE_CHECKING:
    from .images import OneImage
    from .int8 import AnyCheckpoint

Source = TypeVar("Source")
Share = Annotated[float, Meta(ge=0, le=1)]


@dataclass(frozen=True, kw_only=True)
class Selection(Record):
    """Which of the boxes that a detector predicts are its answer.

    Attributes:
        threshold: Boxes need a score above it.
        iou_threshold: Of two boxes of one class that overlap by more (intersection over union), the
            one with the lower score is left out.
        limit: Boxes of an image at most.
        classes: The classes to look for, by label or index; None: all.
    """

    noun: ClassVar[str] = "detection"

    threshold: Share = 0.5
    iou_threshold: Share = 0.6
    limit: Annotated[int, Meta(ge=1, le=100_000)] = 100
    classes: tuple[str | int, ...] | None = None


class Detector(Model):
    """A checkpoint whose head is `SSD` or `SSDLite`, ready to run.

    Args:
        checkpoint: As for `Model`.
        threads: As for `Model`.
        isa: As for `Model`.

    Raises:
        UserError: As for `Model`, or the head is another one.
    """

    def __init__(
        self,
        checkpoint: AnyCheckpoint,
        threads: int | None = None,
        isa: str | None = None,
        precision: str | None = None,
    ) -> None:
        super().__init__(checkpoint, threads, isa, precision)
        head = checkpoint.architecture.head
        if not isinstance(head, SSDHead):
            raise UserError(f"the model's head is {head}: it does not detect")
        self._head = head
        size = checkpoint.preprocessing.size
        self._anchors = boxes.anchors(head, network(checkpoint.architecture, *size))

    @overload
    def detect(self, image: OneImage, **selection: Any) -> Detections: ...
    @overload
    def detect(
        self, image: list[OneImage] | tuple[OneImage, ...], **selection: Any
    ) -> list[Detections]: ...
    def detect(
        self, image: OneImage | list[OneImage] | tuple[OneImage, ...], **selection: Any
    ) -> Detections | list[Detections]:
        """The objects in one image, best score first.

        Args:
            image: As for `Model.classify`; a list, a tuple or an array (N, H, W, C) gives a list.
            **selection: The fields of `Selection`: threshold, iou_threshold, limit, classes.

        Raises:
            ImageError: The image cannot be decoded.
            UserError: A field of `selection` is unknown or out of range.
        """
        chosen = self._selection(selection)
        answer: Detections | list[Detections] = one_or_all(
            image, lambda images: self._map(images, chosen)
        )
        return answer

    def detect_files(
        self,
        files: Iterable[Source],
        open_source: Callable[[Source], Any] = lambda source: source,
        *,
        max_pixels: int | None = None,
        **selection: Any,
    ) -> Iterator[tuple[Source, Detections | ImageError]]:
        """The objects in many images, or the error of each that cannot be read.

        The images are read one by one while the work goes on, so that they may be the frames of a
        video. A few groups of four per thread are read ahead: results come that much later, and each
        frame must be an array of its own.

        Args:
            files: Whatever `detect` takes for one image, in the order of the results.
            open_source: As for `Model.map_images`.
            max_pixels: As for `images.decode`.
            **selection: As for `detect`.

        Raises:
            UserError: As for `detect`.
        """
        return self._map(files, self._selection(selection), open_source, max_pixels)

    def raw(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Pixels (N, H, W, 3) uint8 RGB -> box codes (N, n, 4) and scores (N, n, 1 + classes) before
        sigmoid or softmax, one row per anchor.

        Raises:
            UserError: As for the call of `Model`.
        """
        return boxes.raw_outputs(self._head, self.engine(images))

    def _selection(self, values: Mapping[str, Any]) -> tuple[Selection, list[int] | None]:
        selection = Selection.from_dict(values)
        if selection.classes is None:
            return selection, None
        labels = self.class_names()
        indices = []
        for name in selection.classes:
            if name in labels:
                indices += [index for index, label in enumerate(labels) if label == name]
            elif isinstance(name, int) and 0 <= name < len(labels):
                indices.append(name)
            else:
                raise UserError(
                    f"the model has no class {name!r:.80}; `mobilenetv2 inspect` lists its classes"
                )
        return selection, sorted(set(indices))

    def _map(
        self,
        sources: Iterable[Source],
        chosen: tuple[Selection, list[int] | None],
        open_source: Callable[[Source], Any] = lambda source: source,
        max_pixels: int | None = None,
    ) -> Generator[tuple[Source, Detections | ImageError], None, None]:
        def run(
            pixels: NDArray[np.uint8], alone: bool
        ) -> Iterable[tuple[NDArray[np.float32], NDArray[np.float32]]]:
            codes, scores = boxes.raw_outputs(self._head, self.engine(pixels, alone))
            return zip(codes, scores, strict=True)

        def use(
            source: Source,
            size: tuple[int, int],
            output: tuple[NDArray[np.float32], NDArray[np.float32]],
        ) -> Detections:
            return self._detections(*output, size, *chosen)

        return self.map_sized(sources, use, run, open_source, max_pixels=max_pixels)

    def _detections(
        self,
        codes: NDArray[np.float32],
        scores: NDArray[np.float32],
        size: tuple[int, int],
        selection: Selection,
        classes: Sequence[int] | None,
    ) -> Detections:
        """The answer for one image of (height, width)."""
        preprocessing = self.checkpoint.preprocessing
        rows, columns = preprocessing.size
        top, left, height, width = preprocessing.place(*size)
        # from parts of the pixels to parts of the image, which may lie in a part of the pixels
        scale = np.array([columns / width, rows / height] * 2)
        corners = boxes.decode_boxes(codes, self._anchors) * scale
        corners = np.clip(corners - np.array([left / width, top / height] * 2), 0, 1)
        probabilities = boxes.probabilities(self._head, scores)
        kept, of_class = boxes.best_boxes(
            corners,
            probabilities,
            threshold=selection.threshold,
            iou_threshold=selection.iou_threshold,
            limit=selection.limit,
            classes=classes,
        )
        names = self.class_names()
        return Detections(
            (corners[kept] * np.array([size[1], size[0]] * 2)).astype(np.float32),
            probabilities[kept, of_class],
            of_class,
            tuple(names[index] for index in of_class),
            size,
        )
