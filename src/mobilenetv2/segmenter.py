"""A class for every pixel: a checkpoint with a DeepLab head, ready to run."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from .errors import ImageError, UserError
from .model import Model, one_or_all
from .results import Segmentation

if TYPE_CHECKING:
    from .images import OneImage
    from .int8 import AnyCheckpoint

Source = TypeVar("Source")
Mask = NDArray[np.uint8] | NDArray[np.uint16]


class Segmenter(Model):
    """A checkpoint whose head is `DeepLab`, ready to run.

    Args:
        checkpoint: As for `Model`.
        threads: As for `Model`.
        isa: As for `Model`.

    Raises:
        UserError: As for `Model`, or the head is another one.
    """

    def __init__(
        self,
        checkpoint: AnyCheckpoint,
        threads: int | None = None,
        isa: str | None = None,
        precision: str | None = None,
    ) -> None:
        super().__init__(checkpoint, threads, isa, precision)
        head = checkpoint.architecture.head
        if head.task != "segmentation":
            raise UserError(f"the model's head is {head}: it does not segment")

    @overload
    def segment(self, image: OneImage) -> Segmentation: ...
    @overload
    def segment(self, image: list[OneImage] | tuple[OneImage, ...]) -> list[Segmentation]: ...
    def segment(
        self, image: OneImage | list[OneImage] | tuple[OneImage, ...]
    ) -> Segmentation | list[Segmentation]:
        """The class of every pixel of one image, at the image's own size.

        Args:
            image: As for `Model.classify`; a list, a tuple or an array (N, H, W, C) gives a list.

        Raises:
            ImageError: The image cannot be decoded.
        """
        answer: Segmentation | list[Segmentation] = one_or_all(image, self._map)
        return answer

    def segment_files(
        self,
        files: Iterable[Source],
        open_source: Callable[[Source], Any] = lambda source: source,
        *,
        max_pixels: int | None = None,
    ) -> Iterator[tuple[Source, Segmentation | ImageError]]:
        """The masks of many images, or the error of each that cannot be read.

        The images are read one by one while the work goes on, so that they may be the frames of a
        video. A few groups of four per thread are read ahead: results come that much later, and each
        frame must be an array of its own.

        Args:
            files: Whatever `segment` takes for one image, in the order of the results.
            open_source: As for `Model.map_images`.
            max_pixels: As for `images.decode`.
        """
        return self._map(files, open_source, max_pixels)

    def masks(self, images: NDArray[np.uint8], alone: bool = False) -> Mask:
        """Pixels (N, H, W, 3) uint8 RGB -> the class of each pixel, (N, H, W).

        Raises:
            UserError: As for the call of `Model`.
        """
        return self.engine.mask(images, alone)

    def _map(
        self,
        sources: Iterable[Source],
        open_source: Callable[[Source], Any] = lambda source: source,
        max_pixels: int | None = None,
    ) -> Generator[tuple[Source, Segmentation | ImageError], None, None]:
        def use(source: Source, size: tuple[int, int], mask: Mask) -> Segmentation:
            return Segmentation(self._at_size(mask, size), self.class_names())

        return self.map_sized(sources, use, self.masks, open_source, max_pixels=max_pixels)

    def _at_size(self, mask: Mask, size: tuple[int, int]) -> Mask:
        """The mask of the pixels as the mask of the image of (height, width).

        Every pixel takes the class of the nearest one; what preprocessing cut off is class 0.
        """
        top, left, rows, columns = self.checkpoint.preprocessing.place(*size)
        y = _nearest(size[0], rows, top)
        x = _nearest(size[1], columns, left)
        inside = (y >= 0) & (y < mask.shape[0]), (x >= 0) & (x < mask.shape[1])
        answer: Mask = np.zeros(size, mask.dtype)
        answer[np.ix_(*inside)] = mask[np.ix_(y[inside[0]], x[inside[1]])]
        return answer


def _nearest(side: int, resized: int, first: int) -> NDArray[np.int64]:
    """For each of `side` rows of an image the row of the pixels, where the image takes `resized` rows
    from `first` on; Pillow's rule.
    """
    centres = (np.arange(side) + 0.5) * (resized / side)
    rows: NDArray[np.int64] = np.floor(centres).astype(np.int64) + first
    return rows
