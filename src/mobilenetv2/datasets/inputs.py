"""The images that the arguments of a command mean; every command reads them in this one way."""

from __future__ import annotations

import codecs
import io
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import UserError, shortened
from ..paths import ABSENT, folder_content, is_folder, located, matching_paths, obstacle
from .archive import InMemory
from .csv_list import MOST_IMAGES, read_file_column
from .folders import read_archive
from .sample import Sample

UNLABELLED = -1
STDIN = "<stdin>"
MOST_STDIN_BYTES = 1 << 29
MARKS = {  # UTF-32's begins as UTF-16's
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
CONTROL = re.compile(rb"[\x01-\x08\x0b\x0c\x0e-\x1f\x7f]")


@dataclass(frozen=True)
class Inputs:
    """The images that arguments mean, none of which is decoded yet.

    Attributes:
        samples: The images, each once, in the order of the arguments; their target is -1.
        problems: What is no image, one line for each argument, file or folder; as bad as an image
            that cannot be decoded.
        left_out: What was left out of folders and archives, one line for each kind.
        lists: The .csv lists that name images.
    """

    samples: tuple[Sample, ...]
    problems: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()

    def stretched(self) -> Inputs:
        """The same images, those of more than 8 bits to be decoded with `stretch`."""
        return replace(self, samples=tuple(replace(s, stretch=True) for s in self.samples))


def collect_images(
    arguments: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
) -> Inputs:
    """The images that arguments mean.

    Args:
        arguments: One or several; each is an image file; a folder, searched with its subfolders; a .zip, the same;
            a .csv list with the column file (relative to the list); a pattern such as
            photos/*.jpg or photos/**/*.jpg; or - for stdin, which is one image or a list of any
            of these but patterns, one per line or separated by NUL characters (`find -print0`).
    """
    if isinstance(arguments, str | os.PathLike):
        arguments = [arguments]
    collector = _Collector()
    for argument in arguments:
        collector.add(os.fspath(argument))
    return collector.inputs()


class _Collector:
    def __init__(self) -> None:
        self.samples: dict[str, Sample] = {}
        self.problems: dict[str, None] = {}
        self.others: dict[Path, None] = {}
        self.hidden: dict[Path, None] = {}
        self.loops: dict[Path, None] = {}
        self.lists: list[str] = []
        self.stdin_read = False

    def inputs(self) -> Inputs:
        kinds = Counter(path.suffix.lower() or "no ending" for path in self.others)
        listed = ", ".join(f"{suffix} ({count})" for suffix, count in sorted(kinds.items()))
        left_out = []
        if kinds:
            left_out.append(f"ignored {kinds.total()} files that are not images by name: {listed}")
        for paths, what in (
            (self.hidden, "hidden files and folders"),
            (self.loops, "links to a folder that they are in"),
        ):
            if paths:
                left_out.append(f"{what} left out: {shortened(list(map(str, paths)))}")
        samples, problems = tuple(self.samples.values()), tuple(self.problems)
        return Inputs(samples, problems, tuple(left_out), tuple(self.lists))

    def add(self, name: str, patterns: bool = True) -> None:
        """Adds what an argument means, or a line of a list if `patterns` is false."""
        try:
            if name == "-" and patterns:
                self._add_stdin()
            else:
                self._add_path(name, patterns)
        except UserError as error:
            self._problem(str(error))

    def _add_path(self, name: str, patterns: bool) -> None:
        if is_folder(name):
            self._add_folder(Path(name))
        elif reason := obstacle(name):
            searched = patterns and reason == ABSENT
            matches, unreadable = matching_paths(name) if searched else ([], {})
            for match in matches:
                self.add(str(match), patterns=False)
            for folder, why in unreadable.items():
                self._problem(f"{folder}: {why}")
            if not (matches or unreadable):
                self._problem(f"{name}: {reason}")
        elif name.lower().endswith(".csv"):
            self.lists.append(name)
            for file in read_file_column(Path(name)):
                self._add_file(file)
        elif name.lower().endswith(".zip"):
            self._add_archive(Path(name))
        else:
            self._add_file(str(Path(name)))

    def _problem(self, line: str) -> None:
        self.problems[line] = None

    def _add_file(self, name: str) -> None:
        self._add_sample(Sample(name, UNLABELLED))

    def _add_sample(self, sample: Sample) -> None:
        self.samples.setdefault(sample.name, sample)

    def _add_folder(self, folder: Path) -> None:
        content = folder_content(folder)
        for path in content.images:
            self._add_file(str(path))
        for path, reason in content.unreadable.items():
            self._problem(f"{path}: {reason}")
        self.others |= dict.fromkeys(content.others)
        self.hidden |= dict.fromkeys(content.hidden)
        self.loops |= dict.fromkeys(content.loops)
        if not (content.images or content.unreadable):
            self._problem(f"{folder}: no images in this folder")

    def _add_archive(self, path: Path) -> None:
        archive = read_archive(path)
        for parts, (source, member) in archive.images.items():
            self._add_sample(Sample(str(path.joinpath(*parts)), UNLABELLED, source, member))
        self.others |= dict.fromkeys(path.joinpath(*parts) for parts in archive.others)
        self.hidden |= dict.fromkeys(path / name for name in archive.hidden)
        for problem in archive.problems:
            self._problem(f"{path}: {problem}")
        if not archive.images:
            self._problem(f"{path}: no images in this archive")

    def _add_stdin(self) -> None:
        if self.stdin_read:
            return
        self.stdin_read = True
        content = _as_utf8(_read_stdin())
        if _is_image(content):
            self._add_sample(Sample(STDIN, UNLABELLED, InMemory(content)))
            return
        _check_separators(content)
        count = 0
        for count, name in enumerate(_names(content), 1):
            if count > MOST_IMAGES:
                raise UserError(f"-: more than {MOST_IMAGES} names on stdin")
            self.add(located("", os.fsdecode(name)), patterns=False)
        if not count:
            raise UserError("-: stdin has neither an image nor names of images")


def _as_utf8(content: bytes) -> bytes:
    """Without a byte order mark, and in UTF-8 if that says UTF-16 or UTF-32, as PowerShell's `>`
    writes it; no image begins with one.

    Raises:
        UserError: It is not in that encoding, or in UTF-16 without a mark.
    """
    for mark, encoding in MARKS.items():
        if content.startswith(mark):
            try:
                return os.fsencode(content[len(mark) :].decode(encoding))
            except UnicodeError as error:
                raise UserError(f"-: stdin begins as {encoding}, but is not: {error}") from None
    return content


def _check_separators(content: bytes) -> None:
    """Refuses a list with NUL characters that do not separate names: letters of UTF-16."""
    names = content[:4096].split(b"\0")
    letters = [name for name in names if len(name) == 1]
    lines = {b"\n", b"\r"} & set(names[:-1])
    spelled = 2 * len(letters) > len(names) > 1 and not all(map(os.path.lexists, letters))
    if lines or spelled:
        raise UserError(
            "-: a list with NUL characters between letters, as UTF-16 has them: write it in UTF-8"
        )


def _names(content: bytes) -> Iterator[bytes]:
    """The names in a list, separated by NUL characters or by line ends."""
    separator = b"\0" if b"\0" in content else b"\n"
    start = 0
    while start < len(content):
        end = content.find(separator, start)
        end = len(content) if end < 0 else end
        name = content[start:end]
        if separator == b"\n":
            name = name.rstrip(b"\r")
        if name.strip():
            yield name
        start = end + 1


def _read_stdin() -> bytes:
    if sys.stdin is None:  # closed by the caller
        return b""
    try:
        content = sys.stdin.buffer.read(MOST_STDIN_BYTES + 1)
    except OSError as error:
        raise UserError(f"-: stdin cannot be read: {error.strerror}") from None
    if len(content) > MOST_STDIN_BYTES:
        raise UserError(f"-: more than {MOST_STDIN_BYTES} bytes on stdin: give the image as a file")
    return content


def _is_image(content: bytes) -> bool:
    """Whether bytes are an image, perhaps a damaged one, rather than a list of names."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)):
            return True
    except Image.DecompressionBombError:
        return True
    except Exception:  # Pillow's plugins may raise anything
        first = content.split(b"\0", 1)[0].split(b"\n", 1)[0]
        return bool(CONTROL.search(content[:4096])) and not os.path.lexists(first)
