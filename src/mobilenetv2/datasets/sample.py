"""A dataset as data: its classes and its labelled images, none of which is decoded yet."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from .archive import Archive, InMemory


@dataclass(frozen=True)
class Sample:
    """One labelled image.

    Attributes:
        name: What messages call it: its path, or archive.zip/path.
        target: What a model should predict: an index into `Dataset.classes`; -1 if unknown.
        source: The image file, the archive that contains it, or its bytes.
        member: Its name in the archive; "" for a file.
    """

    name: str
    target: int
    source: Path | Archive | InMemory
    member: str = ""

    def open(self) -> Path | IO[bytes]:
        """What `images.decode` takes: a path or an open file. Any thread may call it.

        Raises:
            ImageError: The archive cannot give it.
        """
        if isinstance(self.source, Path):
            return self.source
        return self.source.open(self.member, self.name)


@dataclass(frozen=True)
class Dataset:
    """Labelled images of named classes.

    Attributes:
        classes: The names of the classes: of folders in the order of their code points ("10"
            before "2", "B" before "a"), of a list in the order of its indices if it has them.
        samples: The images, in the order of their paths, or of the lines of a list.
        indices: The number that a list gives each class, counted from 0 without a background
            class; () where there are no numbers.
        problems: What was left out and why, one line each.
    """

    classes: tuple[str, ...]
    samples: tuple[Sample, ...]
    indices: tuple[int, ...] = ()
    problems: tuple[str, ...] = ()

    def summary(self) -> list[dict[str, str | int]]:
        """The number of images of each class, empty ones included: one row per class."""
        counts = Counter(sample.target for sample in self.samples)
        return [{"class": name, "images": counts[i]} for i, name in enumerate(self.classes)]
