"""Labelled images: a folder or a .zip with one folder a class, or a CSV list."""

from __future__ import annotations

import csv
import io
import os
import re
import threading
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from .errors import ImageError, UserError
from .images import SUFFIXES, find_images, is_hidden

SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
TREE = "CLASS/image.jpg, or val/CLASS/image.jpg"


@dataclass(frozen=True)
class Sample:
    """One labelled image.

    Attributes:
        name: What to call it in a message: its path, or archive.zip/path.
        label: Its class, an index into `Dataset.classes`.
        source: The file, or the archive that has it under `member`.
        member: Its name in the archive.
    """

    name: str
    label: int
    source: Path | Archive
    member: str = ""

    def open(self) -> Path | IO[bytes]:
        """What `images.decode` reads; may be called from any thread.

        Raises:
            ImageError: The archive cannot give it.
        """
        if isinstance(self.source, Path):
            return self.source
        return self.source.open(self.member, self.name)


@dataclass(frozen=True)
class Dataset:
    """Labelled images and where they are; nothing is decoded yet.

    Attributes:
        classes: Their names: of folders in order of their code points ("10" before "2", "B" before
            "a"), of a list in order of its indices, if it has them.
        samples: The images, in order of their paths, or as listed.
        indices: A list's own number of each class, from 0, a background class not counted; () where
            there are none.
        problems: What was left out and why, a line each.
    """

    classes: tuple[str, ...]
    samples: tuple[Sample, ...]
    indices: tuple[int, ...] = ()
    problems: tuple[str, ...] = ()

    def summary(self) -> list[dict[str, str | int]]:
        """How many images each class has: rows of class and images, empty classes included."""
        counts = Counter(sample.label for sample in self.samples)
        return [{"class": name, "images": counts[i]} for i, name in enumerate(self.classes)]


def read_dataset(source: str | os.PathLike[str], split: str | None = None) -> Dataset:
    """Finds labelled images.

    A folder, or a .zip, has one folder a class; all that lies anywhere below it is of that class.
    Above the classes there may be folders train, val (valid, validation) and test, one of them
    alone or at least two among others. A CSV list has the columns file (relative to the list) and
    label, index (the class by number), or both, and may have split. Hidden files and folders are
    left out; links are followed once.

    Args:
        source: Folder, .zip or .csv.
        split: Which of train, val and test; None: val if it is there, else test, else everything.

    Raises:
        UserError: Not there, none of the three, no such split, or no labelled image in it.
    """
    found = _find(Path(source))
    dataset = found.dataset(_chosen_splits(found, split))
    if not dataset.samples:
        raise UserError(
            "; ".join((f"{found.path}: no images in class folders ({TREE})", *dataset.problems))
        )
    return dataset


def read_splits(source: str | os.PathLike[str]) -> dict[str, Dataset]:
    """Those of train, val and test that a source has, by these names, or all of it as "".

    Each has the classes of its own folders or lines alone, and may be empty; that a class has no
    images is not among the problems.

    Args:
        source: As for `read_dataset`.

    Raises:
        UserError: Not there, or none of the three kinds.
    """
    found = _find(Path(source))
    names = _splits(found)
    kinds = sorted({SPLITS[name.lower()] for name in names})
    parts = {kind: [name for name in names if SPLITS[name.lower()] == kind] for kind in kinds}
    return {kind: found.dataset(parts[kind], own=True) for kind in kinds} or {
        "": found.dataset([], own=True)
    }


class Archive:
    """A .zip file read from several threads and processes: each has a handle of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._own = threading.local()

    def __reduce__(self) -> tuple[type[Archive], tuple[Path]]:
        return Archive, (self.path,)

    def open(self, member: str, name: str) -> IO[bytes]:
        """A member's bytes as a file of that name.

        Raises:
            ImageError: It is damaged, encrypted or packed in an unknown way.
        """
        try:
            return _Bytes(self._zip().read(member), name)
        except MemoryError:
            raise ImageError(f"{name}: too large for this machine's memory") from None
        except Exception as error:  # zipfile and its decompressors raise nearly anything
            raise ImageError(f"{name}: cannot be unpacked: {error}") from error

    def _zip(self) -> zipfile.ZipFile:
        if getattr(self._own, "process", None) != os.getpid():
            self._own.zip, self._own.process = zipfile.ZipFile(self.path), os.getpid()
        opened: zipfile.ZipFile = self._own.zip
        return opened


class _Bytes(io.BytesIO):
    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data)
        self.name = name


@dataclass(frozen=True)
class _Tree:
    """A folder or archive: folders of the first two levels, and images, by the parts of their
    paths.
    """

    path: Path
    folders: set[tuple[str, ...]]
    images: Mapping[tuple[str, ...], tuple[Path | Archive, str]]
    problems: list[str]

    def tops(self) -> list[str]:
        return sorted(parts[0] for parts in self.folders if len(parts) == 1)

    def dataset(self, splits: Sequence[str], own: bool = False) -> Dataset:
        """What lies below the folders `splits`, or everything; with the classes of all splits, or
        of its own alone.
        """
        tops, depth = self.tops(), 1 if splits else 0
        named = [top for top in tops if top.lower() in SPLITS or top in splits] if splits else []
        classes = sorted(
            {
                parts[depth]
                for parts in self.folders
                if len(parts) == depth + 1
                and (not splits or parts[0] in (splits if own else named))
            }
        )
        number = {name: i for i, name in enumerate(classes)}
        samples, loose = [], []
        for parts, (source, member) in self.images.items():
            if splits and len(parts) > 1 and parts[0] not in splits:
                continue
            name = str(self.path.joinpath(*parts))
            if len(parts) > depth + 1:
                samples.append(Sample(name, number[parts[depth]], source, member))
            else:
                loose.append("/".join(parts))
        empty = sorted(set(range(len(classes))) - {sample.label for sample in samples})
        problems = list(self.problems)
        if beside := [top for top in tops if top not in named] if splits else []:
            problems.append(f"{len(beside)} folders beside the splits left out: {_some(beside)}")
        if loose:
            problems.append(f"{len(loose)} images without a class folder left out: {_some(loose)}")
        if empty and samples and not own:
            problems.append(
                f"{len(empty)} classes without images: {_some([classes[i] for i in empty])}"
            )
        shown = tuple(name.encode("utf-8", "backslashreplace").decode() for name in classes)
        return Dataset(shown, tuple(samples), (), tuple(problems))


def _from_folder(root: Path) -> _Tree:
    hidden: list[Path] = []
    found, others = find_images(root, hidden)
    closed = [path for path in found if not _is_image(path.name)]
    problems = [f"{path}: may not be searched" for path in closed]
    problems += _ignored(others, (path.name for path in hidden))
    folders: set[tuple[str, ...]] = {(top,) for top in _subfolders(root)}
    folders |= {(*top, name) for top in folders for name in _subfolders(root.joinpath(*top))}
    images = {p.relative_to(root).parts: (p, "") for p in found if _is_image(p.name)}
    return _Tree(root, folders, images, problems)


def _subfolders(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [e.name for e in entries if e.is_dir() and not is_hidden(e.name)]
    except OSError:
        return []


def _from_archive(path: Path) -> _Tree:
    archive = Archive(path)
    try:
        with zipfile.ZipFile(path) as opened:
            members = opened.namelist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise UserError(f"{path}: a damaged archive: {error}") from None
    split = {
        member: tuple(p for p in member.replace("\\", "/").split("/") if p not in ("", "."))
        for member in members
    }
    seen = {m: parts for m, parts in split.items() if parts and not any(map(is_hidden, parts))}
    hidden = [next(filter(is_hidden, p)) for p in split.values() if any(map(is_hidden, p))]
    files = {m: parts for m, parts in seen.items() if not m.endswith(("/", "\\"))}
    tops = {parts[0].lower() for parts in seen.values()}
    depths = [len(parts) for parts in files.values() if _is_image(parts[-1])]
    if len(tops) == 1 and not tops & SPLITS.keys() and min(depths, default=0) > 2:  # one wrapper
        seen, files = ({m: parts[1:] for m, parts in of.items()} for of in (seen, files))
    folders = {
        parts[:depth]
        for member, parts in seen.items()
        for depth in (1, 2)
        if depth < len(parts) + (member not in files)
    } - {()}
    images = {
        parts: (archive, member)
        for member, parts in sorted(files.items(), key=lambda item: item[1])
        if _is_image(parts[-1])
    }
    others = [Path(*parts) for parts in files.values() if parts not in images]
    return _Tree(path, folders, images, _ignored(others, hidden))


@dataclass(frozen=True)
class _List:
    """A CSV list: of each line the file, the class as (index, name), the index -1 where there is
    none, and the split, "" where there is none.
    """

    path: Path
    numbered: bool
    lines: list[tuple[Path, tuple[int, str], str]]

    def tops(self) -> list[str]:
        return sorted({split for _, _, split in self.lines} - {""})

    def dataset(self, splits: Sequence[str], own: bool = False) -> Dataset:
        """The lines of `splits`, or all; with the classes of all lines, or of its own alone."""
        chosen = [line for line in self.lines if not splits or line[2] in splits]
        keys = sorted({key for _, key, _ in (chosen if own else self.lines)})
        number = {key: i for i, key in enumerate(keys)}
        samples = tuple(Sample(str(file), number[key], file) for file, key, _ in chosen)
        indices = tuple(index for index, _ in keys) if self.numbered else ()
        return Dataset(tuple(name for _, name in keys), samples, indices)


def _find(path: Path) -> _Tree | _List:
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if path.is_dir():
        return _from_folder(path)
    if path.suffix.lower() == ".csv":
        return _from_list(path)
    if zipfile.is_zipfile(path):
        return _from_archive(path)
    raise UserError(f"{path}: neither a folder, a .zip nor a .csv list of labelled images")


def _splits(found: _Tree | _List) -> list[str]:
    """Which of the names at the top are splits; [] where they are classes."""
    tops = found.tops()
    splits = [top for top in tops if top.lower() in SPLITS]
    return splits if len(splits) >= min(2, len(tops)) else []  # a class may well be called train


def _chosen_splits(found: _Tree | _List, split: str | None) -> list[str]:
    """Which of the splits to read; [] for all that there is."""
    tops = found.tops()
    if split is not None:
        kind = SPLITS.get(split.lower(), split)
        chosen = [top for top in tops if split == top or SPLITS.get(top.lower()) == kind]
        if not chosen:
            kinds = "folders" if isinstance(found, _Tree) else "splits"
            raise UserError(
                f"{found.path}: no split {split!r}; its {kinds} are {_some(tops) or 'none'}"
            )
        return chosen
    splits = _splits(found)
    for kind in ("val", "test"):
        if chosen := [top for top in splits if SPLITS[top.lower()] == kind]:
            return chosen
    return splits


def _from_list(path: Path) -> _List:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or ()
            if "file" not in columns or not {"label", "index"} & set(columns):
                raise UserError(
                    f"{path}: needs the columns file and label or index, not {', '.join(columns) or 'none'}"
                )
            return _List(
                path, "index" in columns, [_entry(path, reader.line_num, row) for row in reader]
            )
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a CSV file in UTF-8: {error}") from None


def _entry(
    path: Path, line: int, row: Mapping[str, str | None]
) -> tuple[Path, tuple[int, str], str]:
    if not row["file"]:
        raise UserError(f"{path}: line {line} names no file")
    number = row.get("index", "-1") or ""
    if "index" in row and not re.fullmatch("[0-9]{1,9}", number):
        raise UserError(f"{path}: line {line}: index {number!r} is not a whole number from 0")
    name = row.get("label", number)
    if not name:
        raise UserError(f"{path}: line {line} has no label")
    split = row.get("split", "") or ""
    if "split" in row and split.lower() not in SPLITS:
        raise UserError(f"{path}: line {line}: split {split!r} is not train, val or test")
    return path.parent / row["file"], (int(number), name), split


def _is_image(name: str) -> bool:
    return Path(name).suffix.lower() in SUFFIXES


def _ignored(others: Iterable[Path], hidden: Iterable[str]) -> list[str]:
    kinds = Counter(path.suffix.lower() or "no ending" for path in others)
    listed = ", ".join(f"{kind} ({count})" for kind, count in sorted(kinds.items()))
    names = sorted(set(hidden))
    return [f"ignored {kinds.total()} files that are not images by name: {listed}"] * bool(
        kinds
    ) + [f"hidden files and folders left out: {_some(names)}"] * bool(names)


def _some(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
