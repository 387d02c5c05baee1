"""A dataset as data: its classes and its labelled images, none of which is decoded yet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Generic, TypeVar

from ..decoding import decode, warn_of_range
from .archive import Archive, InMemory

if TYPE_CHECKING:
    from PIL.Image import Image


Target = TypeVar("Target")


@dataclass(frozen=True, slots=True)
class Labelled(Generic[Target]):
    """One image and what a model should predict for it.

    Attributes:
        name: What messages call it: its path, or archive.zip/path.
        target: What a model should predict.
        source: Its file, the archive that contains it, or its bytes; None: the file called `name`.
        member: Its name in the archive; "" for a file.
        stretch: As for `decode`.
    """

    name: str
    target: Target
    source: Path | Archive | InMemory | None = None
    member: str = ""
    stretch: bool = False

    def open(self) -> Path | IO[bytes]:
        """What `images.decode` takes: a path or an open file. Any thread may call it.

        Raises:
            ImageError: The archive cannot give it.
        """
        if self.source is None:
            return Path(self.name)
        if isinstance(self.source, Path):
            return self.source
        return self.source.open(self.member, self.name)

    def decode(
        self, *, max_pixels: int | None = None, warn: Callable[[str], object] = warn_of_range
    ) -> Image:
        """The image as upright 8-bit RGB. Any thread may call it.

        Args:
            max_pixels: As for `images.decode`.
            warn: As for `images.decode`.

        Raises:
            ImageError: It cannot be decoded.
        """
        source = self.open()
        try:
            return decode(source, max_pixels=max_pixels, stretch=self.stretch, warn=warn)
        finally:
            if not isinstance(source, Path):
                source.close()


class Sample(Labelled[int]):
    """One image and its class: an index into `Dataset.classes`; -1 if unknown."""

    __slots__ = ()


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

    def stretched(self) -> Dataset:
        """The same images, those of more than 8 bits to be decoded with `stretch`."""
        return replace(self, samples=tuple(replace(s, stretch=True) for s in self.samples))

    def summary(self) -> list[dict[str, str | int]]:
        """The number of images of each class, empty ones included: one row per class."""
        counts = Counter(sample.target for sample in self.samples)
        return [{"class": name, "images": counts[i]} for i, name in enumerate(self.classes)]
