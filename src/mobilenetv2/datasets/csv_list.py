"""The images in a CSV list as a dataset."""

from __future__ import annotations

import csv
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TextIO

from ..errors import UserError, shortened
from ..paths import is_address, located
from .sample import Dataset, Sample
from .splits import is_split

LONGEST_LINE = 1 << 20
MOST_COLUMNS = 1000
MOST_IMAGES = 3_000_000  # of one list, which take less than 1 GB of memory
Key = tuple[int, str]  # a class: its index, -1 without a column index, and its name


class Line(NamedTuple):
    """One line of a list: the image file, its class, and the split, "" without a column split."""

    file: str
    key: Key
    split: str


@dataclass(frozen=True)
class CsvList:
    """The lines of a list, and whether it has a column index."""

    path: Path
    has_indices: bool
    lines: list[Line]

    def top_names(self) -> list[str]:
        """The values of the column split."""
        return sorted({line.split for line in self.lines} - {""})

    def dataset(self, chosen: Sequence[str], own_classes: bool = False) -> Dataset:
        """The lines of the splits `chosen`, or all where none is chosen, each once.

        Args:
            chosen: Values of the column split.
            own_classes: Take the classes of these lines alone, instead of those of all lines.
        """
        lines = [line for line in self.lines if not chosen or line.split in chosen]
        keys = sorted({line.key for line in (lines if own_classes else self.lines)})
        index = {key: i for i, key in enumerate(keys)}
        counts = Counter((line.file, line.key) for line in lines)
        samples = tuple(Sample(file, index[key]) for file, key in counts)
        indices = tuple(number for number, _ in keys) if self.has_indices else ()
        again = sorted(file for (file, _), count in counts.items() if count > 1)
        problems = (f"{len(again)} images listed again left out: {shortened(again)}",)
        return Dataset(tuple(name for _, name in keys), samples, indices, problems if again else ())


def read_list(path: Path) -> CsvList:
    """The lines of a .csv file.

    Raises:
        UserError: The file cannot be read, lacks a column, or has a line that makes no sense.
    """
    rows = _rows(path, ("label", "index"))
    columns = next(rows)[1]
    keys: dict[Key, Key] = {}
    lines = []
    for number, row in rows:
        line = _line(path, number, row)
        lines.append(line._replace(key=keys.setdefault(line.key, line.key)))  # one object per class
    return CsvList(path, "index" in columns, lines)


def read_file_column(path: Path) -> list[str]:
    """The files of a .csv file, which need not have labels.

    Raises:
        UserError: As for `read_list`.
    """
    return [_file(path, number, row) for number, row in islice(_rows(path), 1, None)]


def _rows(path: Path, needed: Sequence[str] = ()) -> Iterator[tuple[int, Mapping[str, str | None]]]:
    """The rows of a .csv file with their numbers, after the names of the columns as number 0.

    Args:
        path: The file.
        needed: Names of columns, one of which must be there beside the column file.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(_bounded(file))
            columns = reader.fieldnames or ()
            if len(columns) > MOST_COLUMNS:
                raise UserError(f"{path}: more than {MOST_COLUMNS} columns: not a list of images")
            if "file" not in columns or (needed and not {*needed} & {*columns}):
                raise UserError(
                    f"{path}: needs the column{'s file and ' + ' or '.join(needed) if needed else ' file'}"
                    f", not {', '.join(columns) or 'none'}{_reason(columns)}"
                )
            yield 0, dict.fromkeys(columns)
            for count, row in enumerate(reader, 1):
                if count > MOST_IMAGES:
                    raise UserError(
                        f"{path}: more than {MOST_IMAGES} images: make several lists of it, or shards"
                    )
                if any(row.get(None) or ()):
                    raise UserError(
                        f"{path}: line {reader.line_num} has more fields than the header: "
                        "a name or label with a comma needs quotes"
                    )
                yield reader.line_num, row
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a CSV file in UTF-8: {error}") from None


def _reason(columns: Sequence[str]) -> str:
    """Why names of columns are not those that they seem to be; "" if they do not."""
    for mark, noun in ((";", "semicolons"), ("\t", "tabs"), ("|", "vertical bars")):
        if mark in "".join(columns):
            return f" (fields must be separated by commas, not by {noun})"
    names = {"file", "label", "index"}
    if names & {name.strip().lower() for name in columns} - {*columns}:
        return " (names of columns are in lower case, without spaces)"
    return ""


def _bounded(file: TextIO) -> Iterator[str]:
    """The lines of a file, which needs no more memory than one of them."""
    while line := file.readline(LONGEST_LINE):
        if len(line) == LONGEST_LINE:
            raise csv.Error(f"a line of {LONGEST_LINE} characters or more")
        yield line


def _line(path: Path, number: int, row: Mapping[str, str | None]) -> Line:
    index = row.get("index", "-1") or ""
    if "index" in row and not re.fullmatch("[0-9]{1,9}", index):
        raise UserError(f"{path}: line {number}: index {index!r} is not a whole number from 0")
    name = unicodedata.normalize("NFC", row.get("label", index) or "")
    if not name:
        raise UserError(f"{path}: line {number} has no label")
    split = row.get("split", "") or ""
    if "split" in row and not is_split(split):
        raise UserError(f"{path}: line {number}: split {split!r} is not train, val or test")
    return Line(_file(path, number, row), (int(index), name), split)


def _file(path: Path, number: int, row: Mapping[str, str | None]) -> str:
    if not row["file"]:
        raise UserError(f"{path}: line {number} names no file")
    if is_address(row["file"]):
        raise UserError(f"{path}: line {number}: a web address: download the images first")
    return located(path.parent, row["file"])
