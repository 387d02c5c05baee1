"""One class per task, each around a model of its own."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ..arguments import check_kind, check_whole
from ..detector import Detector as DetectorModel
from ..drawing import mask_png
from ..graph import network
from ..model import Model, Prediction
from ..results import Detections, Segmentation
from .columns import Mapper, Row


class Classifier(Mapper):
    """Classifies the images of a batch: the columns `label`, `index` and `probability`.

    With `top` above 1 each cell is a list, best class first. A row with an error has the label "",
    the index -1 and the probability NaN. It can be pickled; a copy loads the model again.

    Args:
        model: A file, a name of `mobilenetv2.models()`, or the content of a file: bytes travel with
            the object, as in a broadcast, while a file must be on every machine.
        top: Classes of each image, at least 1.
        threads: Threads of the network; None: as many as the process may use processors. Where a
            machine runs one worker per processor, 1.
        column: The column with the images; None: the first of `bytes`, `image`, `content` and `path`
            that a batch has.
        prefix: In front of the names of the answer's columns, `error` included.
        max_pixels: As for `mobilenetv2.decode`.
        precision: As for `mobilenetv2.load`.

    Attributes:
        model: What runs.

    Raises:
        ModelFileError: Neither a readable model file nor a known name.
        UserError: An argument is out of range, or the model does something else.
    """

    tasks = ("classification",)
    types: dict[str, str] = {"label": "string", "index": "int64", "probability": "double"}  # noqa: RUF012
    model: Model

    def __init__(
        self,
        model: str | os.PathLike[str] | bytes | IO[bytes],
        top: int = 1,
        *,
        threads: int | None = None,
        column: str | None = None,
        prefix: str = "",
        max_pixels: int | None = None,
        precision: str | None = None,
    ) -> None:
        self._top = check_whole("top", top)
        super().__init__(model, threads, column, prefix, max_pixels, precision, {"top": top})
        self._count = min(self._top, self.model.checkpoint.architecture.classes)
        if self._top > 1:
            self.types = {name: f"list<{kind}>" for name, kind in self.types.items()}

    def _results(self, rows: Iterable[Row]) -> Iterable[tuple[Row, Any]]:
        return self.model.classify_files(rows, self._top, Row.open, max_pixels=self._max_pixels)

    def _answer(self, result: list[Prediction]) -> Sequence[Any]:
        cells = zip(*((p.label, p.index, p.probability) for p in result))
        return [list(cell) if self._top > 1 else cell[0] for cell in cells]

    def _missing(self) -> Sequence[Any]:
        missing = ("", -1, float("nan"))
        return [[cell] * self._count for cell in missing] if self._top > 1 else missing


class Detector(Mapper):
    """Finds the objects in the images of a batch: the columns `boxes`, `scores`, `labels` and
    `indices`, each a list for each image, best score first.

    A box is [x0, y0, x1, y1] in pixels of the upright image. The lists of a row with an error are
    empty.

    Args:
        model: As for `Classifier`.
        threshold: As for `mobilenetv2.Detector.detect`.
        iou_threshold: As there.
        limit: As there.
        classes: As there.
        threads: As for `Classifier`.
        column: As for `Classifier`.
        prefix: As for `Classifier`.
        max_pixels: As for `Classifier`.
        precision: As for `Classifier`.

    Raises:
        ModelFileError: As for `Classifier`.
        UserError: As for `Classifier`.
    """

    tasks = ("detection",)
    types: dict[str, str] = {  # noqa: RUF012
        "boxes": "list<list<double>>",
        "scores": "list<double>",
        "labels": "list<string>",
        "indices": "list<int64>",
    }
    model: DetectorModel

    def __init__(
        self,
        model: str | os.PathLike[str] | bytes | IO[bytes],
        *,
        threshold: float = 0.5,
        iou_threshold: float = 0.6,
        limit: int = 100,
        classes: tuple[str | int, ...] | None = None,
        threads: int | None = None,
        column: str | None = None,
        prefix: str = "",
        max_pixels: int | None = None,
        precision: str | None = None,
    ) -> None:
        self._selection: dict[str, Any] = {
            "threshold": threshold,
            "iou_threshold": iou_threshold,
            "limit": limit,
            "classes": classes,
        }
        super().__init__(model, threads, column, prefix, max_pixels, precision, self._selection)
        self.model.detect_files([], **self._selection)  # refuses values out of range

    def _results(self, rows: Iterable[Row]) -> Iterable[tuple[Row, Any]]:
        return self.model.detect_files(
            rows, Row.open, max_pixels=self._max_pixels, **self._selection
        )

    def _answer(self, result: Detections) -> Sequence[Any]:
        return (
            result.boxes.tolist(),
            result.scores.tolist(),
            list(result.labels),
            result.indices.tolist(),
        )

    def _missing(self) -> Sequence[Any]:
        return [], [], [], []


class Segmenter(Mapper):
    """Finds the class of every pixel of the images of a batch: the column `mask`.

    A cell is an array (H, W) of the size of the upright image, or a PNG; of a row with an error it is
    an array (0, 0), or no bytes.

    Args:
        model: As for `Classifier`.
        png: Masks as the content of PNG files, whose pixel values are the classes.
        threads: As for `Classifier`.
        column: As for `Classifier`.
        prefix: As for `Classifier`.
        max_pixels: As for `Classifier`.
        precision: As for `Classifier`.

    Raises:
        ModelFileError: As for `Classifier`.
        UserError: As for `Classifier`.
    """

    tasks = ("segmentation",)

    def __init__(
        self,
        model: str | os.PathLike[str] | bytes | IO[bytes],
        *,
        png: bool = False,
        threads: int | None = None,
        column: str | None = None,
        prefix: str = "",
        max_pixels: int | None = None,
        precision: str | None = None,
    ) -> None:
        check_kind("png", png, bool)
        self._png = png
        super().__init__(model, threads, column, prefix, max_pixels, precision, {"png": png})
        wide = len(self.model.class_names()) > 256
        self.types = {"mask": "binary" if png else f"list<list<{'uint16' if wide else 'uint8'}>>"}

    def _results(self, rows: Iterable[Row]) -> Iterable[tuple[Row, Any]]:
        results: Iterable[tuple[Row, Any]] = self.model.segment_files(
            rows, Row.open, max_pixels=self._max_pixels
        )
        return results

    def _answer(self, result: Segmentation) -> Sequence[Any]:
        return (mask_png(result.mask) if self._png else result.mask,)

    def _missing(self) -> Sequence[Any]:
        return (b"" if self._png else np.zeros((0, 0), np.uint8),)


class Features(Mapper):
    """Describes the images of a batch: the column `features`, a vector (channels,) float32 for each,
    as `Model.features` gives it. That of a row with an error is NaN.

    Args:
        model: As for `Classifier`; a classifier, or a model without a head.
        threads: As for `Classifier`.
        column: As for `Classifier`.
        prefix: As for `Classifier`.
        max_pixels: As for `Classifier`.
        precision: As for `Classifier`.

    Raises:
        ModelFileError: As for `Classifier`.
        UserError: As for `Classifier`.
    """

    tasks = ("classification", "features")
    types: dict[str, str] = {"features": "list<float>"}  # noqa: RUF012
    model: Model

    def __init__(
        self,
        model: str | os.PathLike[str] | bytes | IO[bytes],
        *,
        threads: int | None = None,
        column: str | None = None,
        prefix: str = "",
        max_pixels: int | None = None,
        precision: str | None = None,
    ) -> None:
        super().__init__(model, threads, column, prefix, max_pixels, precision, {})
        described = network(self.model.checkpoint.architecture)
        last = described[described.outputs[0]]
        self._channels = (last.in_shape if last.kind == "linear" else last.out_shape)[0]

    def _results(self, rows: Iterable[Row]) -> Iterable[tuple[Row, Any]]:
        return self.model.features_files(rows, Row.open, max_pixels=self._max_pixels)

    def _answer(self, result: NDArray[np.float32]) -> Sequence[Any]:
        return (result,)

    def _missing(self) -> Sequence[Any]:
        return (np.full(self._channels, np.nan, np.float32),)
