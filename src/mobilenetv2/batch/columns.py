"""What the classes of this room share: columns in, columns out, around one model."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping, Sequence, Set
from contextlib import closing
from pathlib import PurePath
from typing import IO, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..arguments import check_kind, check_whole
from ..errors import ImageError, UserError
from ..loading import load
from ..printable import printable

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


class Row:
    """An image of a batch, with the name that messages call it."""

    def __init__(self, value: Any, name: str) -> None:
        self.value = value
        self.name = name

    def open(self) -> Any:
        """What `Model.classify` takes."""
        value = self.value
        if value is None or (isinstance(value, float) and value != value):
            raise ImageError(f"{self.name}: no image: the value is missing")
        if isinstance(value, bytes | bytearray | memoryview):
            return NamedBytes(bytes(value), self.name)
        return value

    def message(self, error: ImageError) -> str:
        """What the column of errors says: which image, and what is wrong with it."""
        text, name = printable(str(error)), printable(self.name)
        named = isinstance(self.value, str | os.PathLike) or text.startswith(f"{name}:")
        return text if named else f"{name}: {text}"


class Mapper:
    """What the classes below share.

    Args:
        model: As for `mobilenetv2.load`.
        threads: As for `mobilenetv2.load`.
        column: The column with the images; None: the first of `IMAGE_COLUMNS` that a batch has.
        prefix: In front of the names of the answer's columns, `error` included.
        max_pixels: As for `mobilenetv2.decode`.
        precision: As for `mobilenetv2.load`.
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
        precision: str | None,
        options: Mapping[str, Any],
    ) -> None:
        check_kind("column", column, str, type(None))
        check_kind("prefix", prefix, str)
        if max_pixels is not None:
            max_pixels = check_whole("max_pixels", max_pixels)
        if hasattr(model, "read"):
            model = model.read()
        common = {
            "threads": threads,
            "column": column,
            "prefix": prefix,
            "max_pixels": max_pixels,
            "precision": precision,
        }
        self._arguments = {"model": model, **common, **options}
        self._column, self._prefix, self._max_pixels = column, prefix, max_pixels
        self.model = load(model, threads, precision=precision)
        head = self.model.checkpoint.architecture.head
        if head.task not in self.tasks:
            name = model if isinstance(model, str | os.PathLike) else "the model"
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
            batch: Columns by name, all of one length: arrays or lists; or a `pyarrow.Table`. The
                images are bytes of image files, decoded images (as for `Model.classify`), or names of
                files, which may be bytes in the column `path` alone. In errors, bytes and decoded images are called by the column `path`, where there
                is one.

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
        return self._columns(batch)

    def _columns(self, batch: Columns) -> dict[str, Any]:
        """The answers for a dictionary of columns."""
        column, count = self._checked(batch)
        values = _values(column, batch[column])
        names = _values(NAME_COLUMN, batch[NAME_COLUMN]) if NAME_COLUMN in batch else [None] * count
        rows = [Row(v, _name(n, i)) for i, (v, n) in enumerate(zip(values, names))]
        answers: list[Sequence[Any]] = []
        errors = np.full(count, "", object)
        with closing(self._results(rows)) as results:  # type: ignore[type-var]
            for i, (row, result) in enumerate(results):
                if isinstance(result, ImageError):
                    errors[i] = row.message(result)
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
        # not self(...): Ray's own call around it would wait for itself
        rows = self._columns({name: table[name].to_pylist() for name in needed})
        if column not in rows:
            table = table.drop_columns([column])
        for name, kind in {**self.types, ERROR: "string"}.items():
            cells = [
                list(cell) if isinstance(cell, np.ndarray) and cell.ndim == 2 else cell
                for cell in rows[self._prefix + name].tolist()
            ]
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
        lengths = {name: _length(name, values) for name, values in batch.items()}
        shape: Any = getattr(batch[column], "shape", ())
        if len(shape) == 3 and shape[2] in (3, 4):
            raise UserError(
                f"the column {column} is one image, {tuple(shape)}: a batch needs one per row, "
                f"{column}=array[None]"
            )
        if len(set(lengths.values())) > 1:
            raise UserError(f"the columns of a batch must have one length, not {lengths}")
        taken = [self._prefix + name for name in (*self.types, ERROR)]
        if clash := [name for name in taken if name in batch]:
            raise UserError(
                f"the batch has a column {', '.join(clash)} already: prefix='predicted_' names those of "
                "the answer apart"
            )
        return column, lengths[column]

    def _results(self, rows: Iterable[Row]) -> Iterable[tuple[Row, Any]]:
        """Each row with its result or error."""
        raise NotImplementedError

    def _answer(self, result: Any) -> Sequence[Any]:
        """The cells of an image, in the order of `types`."""
        raise NotImplementedError

    def _missing(self) -> Sequence[Any]:
        """The cells of an image that cannot be read."""
        raise NotImplementedError


CLASSES = {
    "classification": "Classifier",
    "detection": "Detector",
    "segmentation": "Segmenter",
    "features": "Features",
}


def _length(name: str, column: Any) -> int:
    try:
        if isinstance(column, str | bytes | bytearray | Mapping | Set):
            raise TypeError
        return len(column)
    except TypeError:
        raise UserError(
            f"the column {name} must be a list or an array with one cell per row, not "
            f"{type(column).__name__}"
        ) from None


def _values(name: str, column: Any) -> list[Any]:
    """The cells of a column, where bytes are a name of the system's in the column `path` and content
    elsewhere. NumPy cuts zero bytes off the end of each of an array of bytes; in content they are
    put back.
    """
    if name == NAME_COLUMN:
        return [os.fsdecode(cell) if isinstance(cell, bytes) else cell for cell in column]
    array = column if isinstance(column, np.ndarray) else None
    if array is not None and array.dtype.kind == "S":
        return [bytes(cell).ljust(array.dtype.itemsize, b"\0") for cell in array]
    return list(column)


def _name(value: Any, index: int) -> str:
    return os.fsdecode(value) if isinstance(value, str | os.PathLike) else f"row {index}"


def _texts(name: str, values: list[Any]) -> bool:
    """Whether a column has names of images, which stay, and not images. Cells may lack a value, and
    the columns of an answer must not depend on it: only `path` stays without any name.
    """
    named = name == NAME_COLUMN or any(isinstance(value, str | PurePath) for value in values)
    return named and not any(map(_is_image, values))


def _is_image(value: Any) -> bool:
    return isinstance(value, bytes | bytearray | memoryview | list | tuple) or any(
        hasattr(value, name) and not isinstance(value, np.generic)
        for name in ("read", "__array__", "__array_interface__")
    )


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
