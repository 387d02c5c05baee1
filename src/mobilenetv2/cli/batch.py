"""The images that a command works on one by one: what cannot be read is named, the rest goes on."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, TypeVar

import click

from .output import notify, progress, show_image_warnings
from .overwriting import refuse_overwritten, refuse_written

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..datasets import Sample
    from ..errors import ImageError

Answer = TypeVar("Answer")


class Batch:
    """The images that the arguments of a command mean.

    Args:
        paths: The arguments.
        stretch: As for `images.decode`.
        max_pixels: As for `images.decode`.
        verb: What the command does with images, for messages.

    Attributes:
        samples: The images.

    Raises:
        click.UsageError: There is no image, or an output of the command is one of them.
    """

    def __init__(
        self, paths: Sequence[str], verb: str, *, stretch: bool, max_pixels: int | None
    ) -> None:
        from ..datasets import collect_images

        show_image_warnings()
        inputs = collect_images(paths)
        inputs = inputs.stretched() if stretch else inputs
        for line in (*inputs.problems, *inputs.left_out):
            notify(line)
        if not inputs.samples:
            raise click.UsageError(f"no images to {verb}")
        refuse_overwritten(inputs.samples, inputs.lists)
        self.samples = inputs.samples
        self._max_pixels = max_pixels
        self._arguments = len(inputs.problems) + len(inputs.samples)
        self._answered = 0

    def decode(self, sample: Sample) -> Image:
        """One of the images, as `images.decode` gives it."""
        return sample.decode(max_pixels=self._max_pixels)

    def answers(
        self, results: Iterable[tuple[Sample, Answer | ImageError]], activity: str
    ) -> Iterator[tuple[Sample, Answer]]:
        """Those of the results that are answers; the errors are printed. Shows a progress bar."""
        from ..errors import ImageError

        with progress(len(self.samples), activity) as advance:
            for sample, result in results:
                advance()
                if isinstance(result, ImageError):
                    notify(result)
                else:
                    self._answered += 1
                    yield sample, result

    def exit_code(self) -> int:
        """0 if every argument was an image with an answer, else 1; prints how many were not."""
        failed = self._arguments - self._answered
        if failed:
            notify(f"{failed} of {self._arguments} could not be read")
        return 1 if failed else 0


class Pictures:
    """PNG files in a folder, one for each image of a batch, named after the images.

    Args:
        option: That names the folder, for messages.
        folder: Made where it does not exist; None: no files.
        suffix: Between the name of the image, without its own suffix, and ".png".
        batch: Where the images come from.

    Raises:
        UserError: A file would take the place of one of the images.
    """

    def __init__(self, option: str, folder: Path | None, suffix: str, batch: Batch) -> None:
        from ..errors import UserError

        self._folder, self._batch = folder, batch
        ending = f".{suffix}.png" if suffix else ".png"
        self._paths: dict[str, Path] = {}
        if folder is None:
            return
        taken: set[str] = set()
        images = {os.path.realpath(sample.name) for sample in batch.samples}
        for sample in batch.samples:
            stem = PurePath(sample.name).stem
            numbered = (stem if n == 1 else f"{stem}-{n}" for n in count(1))
            name = next(name for name in numbered if name not in taken)
            taken.add(name)
            path = folder / (name + ending)
            if os.path.realpath(path) in images:
                raise UserError(f"{path} is one of the images: give another folder")
            self._paths[sample.name] = path
        refuse_written(option, self._paths.values())
        folder.mkdir(parents=True, exist_ok=True)

    def save(self, sample: Sample, save: Callable[[Path], None]) -> None:
        """Calls `save` with the file of an image."""
        if self._folder is not None:
            save(self._paths[sample.name])

    def write(self, sample: Sample, draw: Callable[[Image], Image]) -> None:
        """Writes what `draw` makes of an image."""
        if self._folder is not None:
            from ..files import write_atomically

            content = io.BytesIO()
            draw(self._batch.decode(sample)).save(content, "PNG")
            write_atomically(self._paths[sample.name], content.getbuffer())
