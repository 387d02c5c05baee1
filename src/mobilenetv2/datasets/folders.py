"""The images in class folders, of a folder or of a .zip, as a dataset."""

from __future__ import annotations

import os
import re
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError, shortened
from ..paths import folder_content, is_hidden, is_image_name
from ..printable import printable
from .archive import Archive
from .layouts import other_layout
from .sample import Dataset, Sample
from .splits import is_split

UNSAFE = re.compile(r"[\ud800-\udfff]|\\[xu]")
Parts = tuple[str, ...]  # of a path, relative to the folder or archive


@dataclass(frozen=True)
class Folders:
    """The folders and images of a folder or of an archive.

    Attributes:
        path: The folder or archive itself.
        folders: The paths of the folders of the first two levels.
        images: The path of each image, with the `source` and `member` of its `Sample`.
        others: The paths of the other files.
        hidden: The names of hidden files and folders.
        problems: What else was left out, one line each.
    """

    path: Path
    folders: set[Parts]
    images: Mapping[Parts, tuple[Archive | None, str]]
    others: Sequence[Parts] = ()
    hidden: Sequence[str] = ()
    problems: Sequence[str] = ()

    def top_names(self) -> list[str]:
        """The folders of the first level, which are splits or classes."""
        return sorted(path[0] for path in self.folders if len(path) == 1)

    def dataset(self, chosen: Sequence[str], own_classes: bool = False) -> Dataset:
        """The images below the folders `chosen`, or all where none is chosen.

        Args:
            chosen: The splits to read: folders of the first level, with class folders in them.
            own_classes: Take the classes of these splits alone, instead of those of all splits.

        Raises:
            UserError: The folders are those of another task, such as detection.
        """
        self._check_layout(chosen)
        depth = 1 if chosen else 0  # of the class folders
        splits = [name for name in self.top_names() if is_split(name) or name in chosen]
        parents = chosen if own_classes else splits
        classes = sorted(
            {
                _class_name(path[depth])
                for path in self.folders
                if len(path) == depth + 1 and (not chosen or path[0] in parents)
            }
        )
        index = {name: i for i, name in enumerate(classes)}
        samples, outside = [], []
        for path, (source, member) in self.images.items():
            if chosen and len(path) > 1 and path[0] not in chosen:
                continue
            if len(path) > depth + 1:
                name = str(self.path.joinpath(*path))
                target = index[_class_name(path[depth])]
                samples.append(Sample(name, target, source, member))
            else:
                outside.append("/".join(path))
        problems = [*self.problems, *_left_out(self.others, self.hidden)]
        others = [name for name in self.top_names() if name not in splits]
        if chosen and others:
            problems.append(
                f"{len(others)} folders beside the splits left out: {shortened(others)}"
            )
        if outside:
            problems.append(
                f"{len(outside)} images without a class folder left out: {shortened(outside)}"
            )
        empty = sorted(set(range(len(classes))) - {sample.target for sample in samples})
        if empty and samples and not own_classes:
            names = [classes[i] for i in empty]
            problems.append(f"{len(empty)} classes without images: {shortened(names)}")
        return Dataset(tuple(classes), tuple(samples), (), tuple(problems))

    def _check_layout(self, chosen: Sequence[str]) -> None:
        names = self.top_names()
        described = [path for path in self.others if path[-1].lower().endswith(".json")]
        files = [path[0] for path in described if len(path) == 1]
        reason = "" if chosen else other_layout([*names, *files])
        below: dict[str, set[str]] = {top: set() for top in names}
        for path in (*self.folders, *described):
            if len(path) == 2:
                below.setdefault(path[0], set()).add(path[1])
        for top in names:
            reason = reason or other_layout(below[top], certain=not (chosen and is_split(top)))
        if reason:
            raise UserError(f"{self.path}: {reason}")


def _class_name(folder: str) -> str:
    """The name of a class; systems differ in whether they write accents apart from their letters.

    Bytes that are not UTF-8 are escaped, and so is what looks like such an escape.
    """
    name = unicodedata.normalize("NFC", folder)
    return printable(name) if UNSAFE.search(name) else name


def read_folder(root: Path) -> Folders:
    """The class folders in a folder."""
    content = folder_content(root)
    problems = [f"{path}: {why}" for path, why in content.unreadable.items()]
    if content.loops:
        loops = [str(path) for path in content.loops]
        problems.append(f"links to a folder that they are in left out: {shortened(loops)}")
    folders: set[Parts] = {(name,) for name in _subfolders(root)}
    folders |= {(*path, name) for path in folders for name in _subfolders(root.joinpath(*path))}
    images: dict[Parts, tuple[Archive | None, str]]
    images = {path.relative_to(root).parts: (None, "") for path in content.images}
    others = [path.relative_to(root).parts for path in content.others]
    hidden = [path.name for path in content.hidden]
    return Folders(root, folders, images, others, hidden, problems)


def _subfolders(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [e.name for e in entries if e.is_dir() and not is_hidden(e.name)]
    except OSError:
        return []


def read_archive(path: Path) -> Folders:
    """The class folders in a .zip file; one folder around all of them does not count.

    Raises:
        UserError: The archive is damaged or cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as zip_file:
            members = zip_file.namelist()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    except Exception as error:  # zipfile raises nearly anything
        raise UserError(f"{path}: a damaged archive: {error}") from None
    hidden, visible = [], {}
    for member in members:
        parts = tuple(p for p in member.replace("\\", "/").split("/") if p not in ("", "."))
        if names := [part for part in parts if is_hidden(part)]:
            hidden.append(names[0])
        elif parts:
            visible[member] = parts
    files = {m: parts for m, parts in visible.items() if not m.endswith(("/", "\\"))}
    if _has_wrapper(visible.values(), files.values()):
        visible = {member: parts[1:] for member, parts in visible.items()}
        files = {member: parts[1:] for member, parts in files.items()}
    folders = {
        parts[:depth]
        for member, parts in visible.items()
        for depth in (1, 2)
        if depth < len(parts) + (member not in files)
    } - {()}
    archive = Archive(path)
    images: dict[Parts, tuple[Archive | None, str]]
    images = {
        parts: (archive, member)
        for member, parts in sorted(files.items(), key=lambda item: item[1])
        if is_image_name(parts[-1])
    }
    others = [parts for parts in files.values() if not is_image_name(parts[-1])]
    twice = sum(is_image_name(member) and member in files for member in members) - len(images)
    problems = [f"{twice} images left out that have the name of another"] if twice else []
    return Folders(path, folders, images, others, hidden, problems)


def _has_wrapper(visible: Iterable[Parts], files: Collection[Parts]) -> bool:
    """Whether one folder, not a split, surrounds all class folders of an archive."""
    tops = {parts[0] for parts in visible}
    depths = [len(parts) for parts in files if is_image_name(parts[-1])]
    return (
        len({top.lower() for top in tops}) == 1
        and not any(map(is_split, tops))
        and min(depths, default=0) > 2
        and min(map(len, files), default=0) > 1
    )


def _left_out(others: Iterable[Parts], hidden: Iterable[str]) -> list[str]:
    """One line about files that are not images by name, and one about hidden ones, if there are any."""
    problems = []
    if counts := Counter(Path(path[-1]).suffix.lower() or "no ending" for path in others):
        listed = ", ".join(f"{suffix} ({count})" for suffix, count in sorted(counts.items()))
        problems.append(f"ignored {counts.total()} files that are not images by name: {listed}")
    if names := sorted(set(hidden)):
        problems.append(f"hidden files and folders left out: {shortened(names)}")
    return problems
