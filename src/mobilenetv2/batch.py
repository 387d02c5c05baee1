"""Models for the workers of Ray, Spark, Dask and other programs that map batches of rows.

Each class loads its model when it is made and is then called with a batch, a dictionary of columns of
one length. It answers with a dictionary of columns of the same length: the columns that came in,
without the images themselves, the columns of the answer, and `error`, which is empty where all is
well. An image that cannot be read is a row with an error, never an exception.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import PurePath
from typing import IO, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .arguments import check_kind, check_whole
from .detector import Detector as DetectorModel
from .drawing import mask_png
from .errors import ImageError, UserError
from .graph import network
from .loading import load
from .model import Model, Prediction
from .printable import printable
from .results import Detections, Segmentation

Columns = Mapping[str, Any]
# where the images are looked for; `content` is what Spark's binaryFile calls the bytes
IMAGE_COLUMNS = ("bytes", "image", "content", "path")
NAME_COLUMN = "path"
ERROR = "error"


class NamedBytes(io.BytesIO):
    """The content of an image file, with the name that messages call it."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self.name = name


class _Row:
    """An image of a batch, with the name that messages call it."""

    def __init__(self, value: Any, name: str) -> None:
        self.value = value
        self.name = name

    def open(self) -> Any:
        """What `Model.classify` takes."""
        value = self.value
        if value is None:
            raise ImageError(f"{self.name}: no image: the value is missing")
        if isinstance(value, bytes | bytearray | memoryview):
            return NamedBytes(bytes(value), self.name)
        return value


class _Mapper:
    """What the classes below share.

    Args:
        model: As for `mobilenetv2.load`.
        threads: As for `mobilenetv2.load`.
        column: The column with the images; None: the first of `IMAGE_COLUMNS` that a batch has.
        prefix: In front of the names of the answer's columns, `error` included.
        max_pixels: As for `mobilenetv2.decode`.
        options: What else the class was made with, for copies.
    """

    tasks: ClassVar[tuple[str, ...]]
    types: dict[str, str]  # of the columns of the answer, as Arrow calls them

    def __init__(
        self,
        model: str | os.PathLike[str] | bytes | IO[bytes],
        threads: int | None,
        column: str | None,
        prefix: str,
        max_pixels: int | None,
        options: Mapping[str, Any],
    ) -> None:
        check_kind("column", column, str, type(None))
        check_kind("prefix", prefix, str)
        if max_pixels is not None:
            max_pixels = check_whole("max_pixels", max_pixels)
        if hasattr(model, "read"):
            model = model.read()
        common = {"threads": threads, "column": column, "prefix": prefix, "max_pixels": max_pixels}
        self._arguments = {"model": model, **common, **options}
        self._column, self._prefix, self._max_pixels = column, prefix, max_pixels
        self.model = load(model, threads)
        head = self.model.checkpoint.architecture.head
        if head.task not in self.tasks:
            name = "the model" if isinstance(model, bytes) else model
            raise UserError(
                f"{name} is a model for {head.task}: mobilenetv2.batch.{CLASSES[head.task]} runs it"
            )

    def __getstate__(self) -> dict[str, Any]:
        return self._arguments

    def __setstate__(self, arguments: dict[str, Any]) -> None:
        type(self).__init__(self, **arguments)

    def __call__(self, batch: Any) -> Any:
        """The answers for a batch.

        Args:
            batch: Columns by name, all of one length: arrays or lists; or a `pyarrow.Table`. The images are bytes of image
                files, decoded images (as for `Model.classify`), or names of files. Bytes and decoded
                images are named by the column `path` in errors, where there is one.

        Returns:
            The columns that came in, except the bytes or decoded images; the columns of the answer;
            and `error`, a text for each row, empty where the image was read. A table for a table: its
            columns have a type even where all lists are empty, which arrays cannot say.

        Raises:
            UserError: No dictionary of columns of one length, no column of images, or a column of the
                answer's name.
        """
        if type(batch).__module__.split(".")[0] == "pyarrow" and hasattr(batch, "schema"):
            return self._table(batch)
        column, count = self._checked(batch)
        values = _values(batch[column])
        names = _values(batch[NAME_COLUMN]) if NAME_COLUMN in batch else [None] * count
        rows = [_Row(v, _name(n, i)) for i, (v, n) in enumerate(zip(values, names))]
        answers: list[Sequence[Any]] = []
        errors = np.full(count, "", object)
        with closing(self._results(rows)) as results:  # type: ignore[type-var]
            for i, (_, result) in enumerate(results):
                if isinstance(result, ImageError):
                    errors[i] = printable(str(result))
                    answers.append(self._missing())
                else:
                    answers.append(self._answer(result))
        kept = {name: batch[name] for name in batch if name != column or _texts(name, values)}
        columns = zip(self.types.items(), zip(*answers) if answers else [()] * len(self.types))
        return {
            **kept,
            **{self._prefix + name: _column(cells, kind) for (name, kind), cells in columns},
            self._prefix + ERROR: errors,
        }

    def _table(self, table: Any) -> Any:
        """The answers for a `pyarrow.Table`, as one."""
        import pyarrow

        column, _ = self._checked({name: table[name] for name in table.column_names})
        needed = [name for name in {column, NAME_COLUMN} if name in table.column_names]
        rows = self({name: table[name].to_pylist() for name in needed})
        if column not in rows:
            table = table.drop_columns([column])
        for name, kind in {**self.types, ERROR: "string"}.items():
            cells = [list(c) if np.ndim(c) == 2 else c for c in rows[self._prefix + name].tolist()]
            values = pyarrow.array(cells, _arrow_type(kind))
            table = table.append_column(self._prefix + name, values)
        return table

    def _checked(self, batch: Columns) -> tuple[str, int]:
        """The column of the images, and the number of rows."""
        if not isinstance(batch, Mapping):
            raise UserError(
                f"a batch is a dictionary of columns, not {type(batch).__name__}: Ray gives it with "
                "batch_format='numpy', and of a pandas frame it is dict(frame.items())"
            )
        names = IMAGE_COLUMNS if self._column is None else (self._column,)
        column = next((name for name in names if name in batch), None)
        if column is None:
            raise UserError(
                f"the batch has no column {' or '.join(names)}, but {', '.join(map(str, batch))}: "
                "column= names the one with the images"
            )
        lengths = {name: len(values) for name, values in batch.items()}
        if len(set(lengths.values())) > 1:
            raise UserError(f"the columns of a batch must have one length, not {lengths}")
        taken = [self._prefix + name for name in (*self.types, ERROR)]
        if clash := [name for name in taken if name in batch]:
            raise UserError(
                f"the batch has a column {', '.join(clash)} already: prefix='predicted_' names those of "
                "the answer apart"
            )
        return column, lengths[column]

    def _results(self, rows: Iterable[_Row]) -> Iterable[tuple[_Row, Any]]:
        """Each row with its result or error."""
        raise NotImplementedError

    def _answer(self, result: Any) -> Sequence[Any]:
        """The cells of an image, in the order of `types`."""
        raise NotImplementedError

    def _missing(self) -> Sequence[Any]:
        """The cells of an image that cannot be read."""
        raise NotImplementedError


class Classifier(_Mapper):
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
    ) -> None:
        self._top = check_whole("top", top)
        super().__init__(model, threads, column, prefix, max_pixels, {"top": top})
        self._count = min(self._top, self.model.checkpoint.architecture.classes)
        if self._top > 1:
            self.types = {name: f"list<{kind}>" for name, kind in self.types.items()}

    def _results(self, rows: Iterable[_Row]) -> Iterable[tuple[_Row, Any]]:
        return self.model.classify_files(rows, self._top, _Row.open, max_pixels=self._max_pixels)

    def _answer(self, result: list[Prediction]) -> Sequence[Any]:
        cells = zip(*((p.label, p.index, p.probability) for p in result))
        return [list(cell) if self._top > 1 else cell[0] for cell in cells]

    def _missing(self) -> Sequence[Any]:
        missing = ("", -1, float("nan"))
        return [[cell] * self._count for cell in missing] if self._top > 1 else missing


class Detector(_Mapper):
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
    ) -> None:
        self._selection: dict[str, Any] = {
            "threshold": threshold,
            "iou_threshold": iou_threshold,
            "limit": limit,
            "classes": classes,
        }
        super().__init__(model, threads, column, prefix, max_pixels, self._selection)
        self.model.detect_files([], **self._selection)  # refuses values out of range

    def _results(self, rows: Iterable[_Row]) -> Iterable[tuple[_Row, Any]]:
        return self.model.detect_files(
            rows, _Row.open, max_pixels=self._max_pixels, **self._selection
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


class Segmenter(_Mapper):
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
    ) -> None:
        check_kind("png", png, bool)
        self._png = png
        super().__init__(model, threads, column, prefix, max_pixels, {"png": png})
        wide = len(self.model.class_names()) > 256
        self.types = {"mask": "binary" if png else f"list<list<{'uint16' if wide else 'uint8'}>>"}

    def _results(self, rows: Iterable[_Row]) -> Iterable[tuple[_Row, Any]]:
        results: Iterable[tuple[_Row, Any]] = self.model.segment_files(
            rows, _Row.open, max_pixels=self._max_pixels
        )
        return results

    def _answer(self, result: Segmentation) -> Sequence[Any]:
        return (mask_png(result.mask) if self._png else result.mask,)

    def _missing(self) -> Sequence[Any]:
        return (b"" if self._png else np.zeros((0, 0), np.uint8),)


class Features(_Mapper):
    """Describes the images of a batch: the column `features`, a vector (channels,) float32 for each,
    as `Model.features` gives it. That of a row with an error is NaN.

    Args:
        model: As for `Classifier`; a classifier, or a model without a head.
        threads: As for `Classifier`.
        column: As for `Classifier`.
        prefix: As for `Classifier`.
        max_pixels: As for `Classifier`.

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
    ) -> None:
        super().__init__(model, threads, column, prefix, max_pixels, {})
        described = network(self.model.checkpoint.architecture)
        last = described[described.outputs[0]]
        self._channels = (last.in_shape if last.kind == "linear" else last.out_shape)[0]

    def _results(self, rows: Iterable[_Row]) -> Iterable[tuple[_Row, Any]]:
        return self.model.features_files(rows, _Row.open, max_pixels=self._max_pixels)

    def _answer(self, result: NDArray[np.float32]) -> Sequence[Any]:
        return (result,)

    def _missing(self) -> Sequence[Any]:
        return (np.full(self._channels, np.nan, np.float32),)


CLASSES = {
    "classification": "Classifier",
    "detection": "Detector",
    "segmentation": "Segmenter",
    "features": "Features",
}


def _values(column: Any) -> list[Any]:
    """The cells of a column. NumPy cuts zero bytes off the end of each of an array of bytes; they
    are put back.
    """
    array = column if isinstance(column, np.ndarray) else None
    if array is not None and array.dtype.kind == "S":
        return [bytes(cell).ljust(array.dtype.itemsize, b"\0") for cell in array]
    return list(column)


def _name(value: Any, index: int) -> str:
    return os.fsdecode(value) if isinstance(value, str | os.PathLike) else f"row {index}"


def _texts(name: str, values: list[Any]) -> bool:
    """Whether a column has names of images, which stay, and not images."""
    if not values:
        return name == NAME_COLUMN
    return all(isinstance(value, str | PurePath) or value is None for value in values)


def _column(cells: Sequence[Any], kind: str) -> NDArray[Any]:
    """An array of one dimension; NumPy would join lists or arrays of one length to two."""
    column: NDArray[Any] = np.empty(len(cells), kind if kind in ("int64", "double") else object)
    for i, cell in enumerate(cells):
        column[i] = cell
    return column


def _arrow_type(kind: str) -> Any:
    """The type of that name of `pyarrow`; lists are written as `list<double>`."""
    import pyarrow

    inner = kind.removeprefix("list<")
    return pyarrow.list_(_arrow_type(inner[:-1])) if inner != kind else pyarrow.type_for_alias(kind)
