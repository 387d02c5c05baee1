"""How well a segmenter's masks agree with the masks of labelled images."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arguments import check_kind
from ..datasets import IGNORED, Dataset, MaskDataset, MaskSample, read_masks
from ..errors import ImageError, UserError, shortened
from ..segmenter import Segmenter
from .matching import match_classes

Mask = NDArray[Any]


@dataclass(frozen=True)
class SegmentationScores:
    """Agreement over all pixels of many images that have a class, each number from 0 to 1.

    Attributes:
        miou: Intersection over union, the mean over the classes that occur in the dataset's masks.
        pixel_accuracy: The share of the pixels with the right class.
        weighted_iou: Intersection over union, the mean weighted by the pixels of each class.
    """

    miou: float
    pixel_accuracy: float
    weighted_iou: float


@dataclass(frozen=True)
class MaskClassResult:
    """One class of the dataset.

    Attributes:
        label: Its name in the dataset.
        index: The model's index of it; -1 if the model lacks it.
        pixels: The number of its pixels.
        iou: Intersection over union, from 0 to 1; NaN where neither side has a pixel of it.
        recall: The share of its pixels with the right class; NaN without pixels.
    """

    label: str
    index: int
    pixels: int
    iou: float
    recall: float


@dataclass(frozen=True)
class MaskAnswer:
    """How well the answer for one image agrees with its mask.

    Attributes:
        sample: The image.
        miou: As in `SegmentationScores`; NaN where no pixel has a class.
        pixel_accuracy: As in `SegmentationScores`; NaN where no pixel has a class.
    """

    sample: MaskSample
    miou: float
    pixel_accuracy: float


@dataclass(frozen=True, eq=False)
class SegmentationEvaluation:
    """The result of `evaluate_segmenter`.

    Attributes:
        scores: Of one confusion matrix over all images.
        classes: One result per class, in the dataset's order.
        confusion: (classes, classes + 1) int64: the number of pixels of the row's class that the
            model gives the column's; the last column is for the model's classes that the data lacks.
        answers: One for each image that could be read, in the dataset's order.
        skipped: The errors of the images that could not be read.
        unmatched: The labels of the model that are no class of the dataset.
    """

    scores: SegmentationScores
    classes: tuple[MaskClassResult, ...]
    confusion: NDArray[np.int64]
    answers: tuple[MaskAnswer, ...]
    skipped: tuple[ImageError, ...] = ()
    unmatched: tuple[str, ...] = ()

    @property
    def worst(self) -> tuple[MaskAnswer, ...]:
        """The answers with wrong pixels, those with the lowest `miou` first."""
        wrong = (answer for answer in self.answers if answer.pixel_accuracy < 1)
        return tuple(sorted(wrong, key=lambda answer: answer.miou))

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines about labels of the model that are always wrong."""
        if not self.unmatched:
            return ()
        return (
            f"{len(self.unmatched)} classes of the model that the data lacks are never right: "
            f"{shortened(self.unmatched)}",
        )


def evaluate_segmenter(
    model: Segmenter,
    dataset: MaskDataset | str | os.PathLike[str],
    advance: Callable[[MaskSample, ImageError | None], object] | None = None,
) -> SegmentationEvaluation:
    """Runs a segmenter on every image of a dataset.

    Args:
        model: A segmenter.
        dataset: From `datasets.read_masks`, or what that takes.
        advance: Called after each image, with its error if it could not be read.

    Raises:
        UserError: The model lacks a class that occurs, or no image could be read.
    """
    check_kind("model", model, Segmenter)
    if not isinstance(dataset, MaskDataset):
        dataset = read_masks(dataset)
    labels = model.class_names()
    indices = match_masks(dataset, labels)
    skipped: list[ImageError] = []

    def answers() -> Iterable[tuple[MaskSample, Mask]]:
        results: Any = model.segment_files(dataset.samples, MaskSample.decode)
        with closing(results):
            for sample, result in results:
                if advance:
                    advance(sample, result if isinstance(result, ImageError) else None)
                if isinstance(result, ImageError):
                    skipped.append(result)
                else:
                    yield sample, result.mask

    evaluation = score_masks(dataset, answers(), labels, indices)
    return replace(evaluation, skipped=tuple(skipped))


def match_masks(dataset: MaskDataset, labels: tuple[str, ...]) -> NDArray[np.int64]:
    """The model's index of each class of a dataset, by `match_classes`.

    Raises:
        UserError: The model lacks a class that occurs.
    """
    used = {value for sample in dataset.samples for value in sample.target.classes}
    return match_classes(Dataset(dataset.classes, ()), labels, len(labels), used)


def own_classes(indices: NDArray[np.int64], outputs: int) -> NDArray[np.int64]:
    """The dataset's class of each of the model's; the number of classes where there is none.

    Args:
        indices: From `match_masks`.
        outputs: The number of the model's classes.
    """
    own = np.full(outputs, len(indices), np.int64)
    own[indices[indices >= 0]] = np.flatnonzero(indices >= 0)
    return own


def confusion_of(truth: Mask, predicted: Mask, classes: int, ignored: int = IGNORED) -> Any:
    """The confusion matrix (classes, classes + 1) int64 of one image.

    Args:
        truth: (H, W) classes; the value `ignored` is no class.
        predicted: (H, W) classes; those above count in the last column.
        classes: Their number.
        ignored: The value of pixels that do not count.

    Raises:
        UserError: The masks differ in size, or a value of `truth` is no class.
    """
    if truth.shape != predicted.shape:
        raise UserError(
            f"a mask of {truth.shape} (height, width) and an answer of {predicted.shape}"
        )
    counted = truth != ignored
    rows, columns = truth[counted].astype(np.int64), predicted[counted].astype(np.int64)
    if rows.size and rows.max() >= classes:
        raise UserError(f"a mask with the value {rows.max()}, but there are {classes} classes")
    cells = rows * (classes + 1) + np.minimum(columns, classes)
    return np.bincount(cells, minlength=classes * (classes + 1)).reshape(classes, classes + 1)


def score_confusion(confusion: NDArray[np.int64]) -> SegmentationScores:
    """The scores of a confusion matrix (classes, classes + 1); NaN where no pixel counts."""
    pixels = confusion.sum(1)
    if not pixels.any():
        return SegmentationScores(np.nan, np.nan, np.nan)
    iou, present = _iou(confusion), pixels > 0
    return SegmentationScores(
        float(iou[present].mean()),
        float(confusion.trace() / pixels.sum()),
        float((iou[present] * pixels[present]).sum() / pixels.sum()),
    )


def score_masks(
    dataset: MaskDataset,
    answers: Iterable[tuple[MaskSample, Mask]],
    labels: tuple[str, ...],
    indices: NDArray[np.int64],
) -> SegmentationEvaluation:
    """The evaluation of answers, which are read one by one.

    Args:
        dataset: Where the images are from.
        answers: Each image with the mask (H, W) that the model answered, at the image's size.
        labels: The names of the model's classes.
        indices: From `match_masks`.

    Raises:
        UserError: There are no answers, or no pixel has a class.
        ImageError: A mask cannot be read.
    """
    count = len(dataset.classes)
    own = own_classes(indices, len(labels))
    total = np.zeros((count, count + 1), np.int64)
    rows = []
    for sample, predicted in answers:
        try:
            confusion = confusion_of(sample.target.read(), own[predicted], count)
        except UserError as error:
            raise UserError(f"{sample.name}: {error}") from None
        total += confusion
        scores = score_confusion(confusion)
        rows.append(MaskAnswer(sample, scores.miou, scores.pixel_accuracy))
    if not total.any():
        raise UserError(f"no pixel of {len(rows)} images has a class")
    pixels, iou = total.sum(1), _iou(total)
    with np.errstate(invalid="ignore"):
        recall = total.diagonal() / pixels
    classes = tuple(
        MaskClassResult(name, int(indices[i]), int(pixels[i]), float(iou[i]), float(recall[i]))
        for i, name in enumerate(dataset.classes)
    )
    unmatched = tuple(label for label, i in zip(labels, own.tolist()) if i == count)
    return SegmentationEvaluation(
        score_confusion(total), classes, total, tuple(rows), (), unmatched
    )


def _iou(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Intersection over union of each class; NaN where neither side has a pixel of it."""
    right = confusion.diagonal()
    union = confusion.sum(1) + confusion[:, : len(confusion)].sum(0) - right
    with np.errstate(invalid="ignore"):
        shares: NDArray[np.float64] = right / union
    return shares
