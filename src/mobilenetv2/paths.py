"""Paths that a user gives: what stands in the way of reading them, and the images below a folder."""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from .errors import UserError

ENDINGS = "jpg jpeg jpe jfif png apng webp gif bmp dib tif tiff ppm pgm pbm pnm avif avifs heic heif jp2 tga ico pcx sgi mpo"
SUFFIXES = frozenset(f".{ending}" for ending in ENDINGS.split())
KINDS = {
    stat.S_IFIFO: "FIFO",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
}
ABSENT = "no such file or folder"
ADDRESS = re.compile("[a-z][a-z0-9+.-]+:/", re.IGNORECASE)  # two letters or more: not a drive
DOWNLOAD = (
    "a web address: download the image first, or pipe it: curl -L ADDRESS | mobilenetv2 classify -"
)
MOST_VISITS = 10_000  # of one folder through links; more come from links that branch at every level


def obstacle(path: str | os.PathLike[str]) -> str:
    """Why a path cannot be opened as a file, as words after its name; "" if it is a regular file.

    Nothing is opened, so that a FIFO or a device does not block.
    """
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        try:
            return f"a link to {os.readlink(path)}, which does not exist"
        except OSError:
            return DOWNLOAD if is_address(os.fspath(path)) else ABSENT
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the name
        return f"cannot be read: {getattr(error, 'strerror', None) or error}"
    if stat.S_ISREG(mode):
        return ""
    if stat.S_ISDIR(mode):
        return "a folder, not a file"
    return f"not a regular file but a {KINDS.get(stat.S_IFMT(mode), 'special file')}"


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a folder; False where it cannot be looked at."""
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def is_address(name: str) -> bool:
    """Whether a name is a web address, perhaps with a slash less after it was a `Path`."""
    return ADDRESS.match(name) is not None


def located(folder: str | os.PathLike[str], name: str) -> str:
    """The path of a file that a list names, as the list has it or as another system writes it.

    Other systems have backslashes, and write accents apart from their letters or in one.

    Returns:
        The first that exists, or the path as the list has it.
    """
    first = os.path.join(folder, name)
    if re.search(r"(^|/)\.?(/|$)", first.lstrip("/")):  # what `Path` leaves out
        first = str(Path(first))
    if (name.isascii() and "\\" not in name) or os.path.lexists(first):
        return first
    ways = [name, name.replace("\\", "/")]
    ways += [unicodedata.normalize(form, way) for form in ("NFC", "NFD") for way in ways]
    paths = [str(Path(folder, way)) for way in ways]
    return next((path for path in paths if os.path.lexists(path)), first)


def is_hidden(name: str) -> bool:
    """Whether a file or folder is not data: it has a leading dot, or an operating system made it."""
    return name.startswith(".") or name in ("__MACOSX", "@eaDir", "Thumbs.db")


def is_image_name(name: str) -> bool:
    """Whether the suffix of a name is that of an image."""
    return os.path.splitext(name)[1].lower() in SUFFIXES


@dataclass
class FolderContent:
    """The files anywhere below a folder, each list sorted by path.

    Attributes:
        images: Files that are images by the suffix of their names.
        others: The other files.
        hidden: Hidden files and folders (a leading dot, `__MACOSX`, `@eaDir`), left out above.
        loops: Links to a folder that they are in, left out above.
        unreadable: Folders that may not be searched, and links to nothing that are not called
            images, each with the reason.
    """

    images: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)
    hidden: list[Path] = field(default_factory=list)
    loops: list[Path] = field(default_factory=list)
    unreadable: dict[Path, str] = field(default_factory=dict)


def folder_content(folder: Path) -> FolderContent:
    """Searches a folder and all folders below it. Links are followed, except where they loop.

    Raises:
        UserError: Links branch so often that a folder is reached more than 10,000 times.
    """
    content = FolderContent()
    visits: Counter[tuple[int, int]] = Counter()
    pending: list[tuple[Path, Chain]] = [(folder, ())]
    while pending:
        parent, above = pending.pop()
        try:
            status = os.stat(parent)
            with os.scandir(parent) as entries:
                listed = list(entries)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            content.unreadable[parent] = f"may not be searched: {reason}"
            continue
        identity = status.st_dev, status.st_ino
        if _contains(above, identity):
            content.loops.append(parent)
            continue
        visits[identity] += 1
        if visits[identity] > MOST_VISITS:
            raise UserError(f"{parent}: a folder that links reach more than {MOST_VISITS} times")
        for entry in listed:
            path = Path(parent, entry.name)
            if is_hidden(entry.name):
                content.hidden.append(path)
            elif _is_folder(entry):
                pending.append((path, (identity, above)))
            elif entry.is_symlink() and not (is_image_name(entry.name) or path.exists()):
                content.unreadable[path] = obstacle(path)
            else:
                (content.images if is_image_name(entry.name) else content.others).append(path)
    for paths in (content.images, content.others, content.hidden, content.loops):
        paths.sort()
    return content


Chain = tuple[Any, ...]  # () or (identity of a folder, Chain of the folders above it)


def _contains(chain: Chain, identity: tuple[int, int]) -> bool:
    while chain:
        if chain[0] == identity:
            return True
        chain = chain[1]
    return False


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def matching_paths(pattern: str) -> tuple[list[Path], dict[Path, str]]:
    """The files and folders that a pattern such as photos/**/*.jpg matches, sorted, and the folders
    that may not be searched for them, each with the reason.

    Where `**` stands, a folder is searched as by `folder_content`, and a matching folder stands for
    the images in it.
    """
    if not _is_pattern(pattern) or "\0" in pattern:
        return [], {}
    # `glob.glob` leaves out what may not be searched, and follows looping links, with two of them
    # more often than ever ends
    parts = Path(pattern).parts
    first = parts.index("**") if "**" in parts else len(parts)
    matched = [Path()]
    unreadable: dict[Path, str] = {}
    for part in parts[:first]:
        matched = [path for folder in matched for path in _children(folder, part, unreadable)]
    if first == len(parts):
        return sorted(matched), unreadable
    paths: list[Path] = []
    for folder in filter(is_folder, matched):
        content = folder_content(folder)
        unreadable |= {path: why for path, why in content.unreadable.items() if is_folder(path)}
        for path in (*content.images, *content.others):
            exactly, below = _matched(path.relative_to(folder).parts, parts[first:])
            if exactly or (below and is_image_name(path.name)):
                paths.append(path)
    return sorted(paths), unreadable


def _children(folder: Path, part: str, unreadable: dict[Path, str]) -> list[Path]:
    """What is in a folder by the name `part`, or matches it; adds a folder that may not be searched."""
    try:
        if not _is_pattern(part):
            os.lstat(folder / part)
            return [folder / part]
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        unreadable[folder] = f"may not be searched: {error.strerror}"
        return []
    hidden = part.startswith(".")
    return [folder / n for n in names if fnmatch(n, part) and (hidden or not n.startswith("."))]


def _is_pattern(text: str) -> bool:
    return re.search("[*?[]", text) is not None


def _matched(parts: Sequence[str], pattern: Sequence[str]) -> tuple[bool, bool]:
    """Whether a pattern matches a path, and whether it matches a folder above."""

    def skipped(positions: set[int]) -> set[int]:  # `**` also matches no part at all
        for i in sorted(positions):
            while i < len(pattern) and pattern[i] == "**":
                i += 1
                positions.add(i)
        return positions

    positions = skipped({0})
    below = False
    for part in parts:
        below = below or len(pattern) in positions
        positions = skipped(
            {i for i in positions if i < len(pattern) and pattern[i] == "**"}
            | {i + 1 for i in positions if i < len(pattern) and fnmatch(part, pattern[i])}
        )
    return len(pattern) in positions, below
