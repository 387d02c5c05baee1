"""The average precision of a detector, as COCO defines it, by pycocotools."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arguments import check_kind
from ..boxes import overlaps
from ..datasets import BoxDataset, BoxSample, Dataset, read_boxes
from ..detector import Detector
from ..errors import ImageError, UserError, shortened
from ..files import read_text
from ..results import Detections
from .coco import check_pycocotools, evaluated
from .matching import match_classes

LOWEST_SCORE = 0.001  # of the detections that count: the precision at high recall needs many
SHOWN_SCORE, SHOWN_IOU = 0.5, 0.5  # for the errors of one image
ALL_AREAS, HUNDRED_BOXES = 0, 2  # places in pycocotools' tables


@dataclass(frozen=True)
class DetectionScores:
    """COCO's twelve numbers, each from 0 to 1; NaN where no object is of that size.

    Attributes:
        ap: Average precision, the mean over classes and over overlaps (intersection over union)
            of 0.50, 0.55 ... 0.95.
        ap50: The same at 0.50 alone.
        ap75: At 0.75 alone.
        ap_small: `ap` of objects below 32 x 32 pixels.
        ap_medium: Of those up to 96 x 96.
        ap_large: Of those above.
        ar1: Average recall with the best box of each image and class.
        ar10: With the ten best.
        ar100: With the hundred best.
        ar_small: `ar100` of small objects.
        ar_medium: Of medium ones.
        ar_large: Of large ones.
    """

    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    ar1: float
    ar10: float
    ar100: float
    ar_small: float
    ar_medium: float
    ar_large: float


@dataclass(frozen=True)
class BoxClassResult:
    """One class of the dataset.

    Attributes:
        label: Its name in the dataset.
        indices: The model's indices of it; () if the model lacks it: it is then not scored.
        boxes: The number of its objects that count: no crowds, none that are difficult.
        ap: As in `DetectionScores`, of this class; NaN without objects.
        ap50: The same at 0.50.
    """

    label: str
    indices: tuple[int, ...]
    boxes: int
    ap: float
    ap50: float


@dataclass(frozen=True, eq=False)
class Curves:
    """Precision over recall.

    Attributes:
        overlaps: (10,): 0.50, 0.55 ... 0.95.
        recalls: (101,): 0, 0.01 ... 1.
        precisions: (10, 101, classes): the best precision at this recall or a higher one; NaN for
            classes without objects.
        scores: (10, 101, classes): the lowest score with which the recall is reached.
    """

    overlaps: NDArray[np.float64]
    recalls: NDArray[np.float64]
    precisions: NDArray[np.float64]
    scores: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class BoxAnswer:
    """What the model answered for one image.

    Attributes:
        sample: The image and its objects.
        detections: The model's answer.
        missed: The number of objects that no detection overlaps by half, scores from 0.5.
        wrong: The number of detections, scores from 0.5, that overlap no object of their class.
    """

    sample: BoxSample
    detections: Detections
    missed: int
    wrong: int


@dataclass(frozen=True, eq=False)
class DetectionEvaluation:
    """The result of `evaluate_detector`.

    Attributes:
        scores: Over all classes of the dataset that the model has and of which there are objects.
        classes: One result per class, in the dataset's order.
        curves: Precision over recall of each of them.
        answers: One for each image that could be read, in the dataset's order.
        skipped: The errors of the images that could not be read.
        unmatched: The labels of the model that are no class of the dataset; detections of these do
            not count.
    """

    scores: DetectionScores
    classes: tuple[BoxClassResult, ...]
    curves: Curves
    answers: tuple[BoxAnswer, ...]
    skipped: tuple[ImageError, ...] = ()
    unmatched: tuple[str, ...] = ()

    @property
    def worst(self) -> tuple[BoxAnswer, ...]:
        """The answers with errors, those with most first."""
        wrong = (answer for answer in self.answers if answer.missed + answer.wrong)
        return tuple(sorted(wrong, key=lambda answer: -(answer.missed + answer.wrong)))

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines about classes that are not scored and labels that do not count."""
        lacking = [result.label for result in self.classes if not result.indices and result.boxes]
        lines = [
            f"{len(names)} {what}: {shortened(names)}"
            for names, what in (
                (lacking, "classes of the data that the model lacks are not scored"),
                (self.unmatched, "classes of the model that the data lacks do not count"),
            )
            if names
        ]
        return tuple(lines)


def evaluate_detector(
    model: Detector,
    dataset: BoxDataset | str | os.PathLike[str],
    advance: Callable[[BoxSample, ImageError | None], object] | None = None,
    matched: Mapping[int, int] | None = None,
) -> DetectionEvaluation:
    """Runs a detector on every image of a dataset.

    Args:
        model: A detector.
        dataset: From `datasets.read_boxes`, or what that takes.
        advance: Called after each image, with its error if it could not be read.
        matched: The dataset's class for each of the model's; None: by `match_boxes`.

    Raises:
        MissingExtraError: pycocotools is not installed.
        UserError: The model has no class of the dataset, or no image could be read.
    """
    check_kind("model", model, Detector)
    check_pycocotools()
    if not isinstance(dataset, BoxDataset):
        dataset = read_boxes(dataset)
    labels = model.class_names()
    matched = match_boxes(dataset, labels) if matched is None else matched
    for index, place in matched.items():
        if index not in range(len(labels)) or place not in range(len(dataset.classes)):
            raise UserError(
                f"matched has the classes {index!r:.40} and {place!r:.40}: out of range"
            )
    answers: list[tuple[BoxSample, Detections]] = []
    skipped: list[ImageError] = []
    results: Any = model.detect_files(dataset.samples, BoxSample.decode, threshold=LOWEST_SCORE)
    with closing(results):
        for sample, result in results:
            if advance:
                advance(sample, result if isinstance(result, ImageError) else None)
            if isinstance(result, ImageError):
                skipped.append(result)
            else:
                answers.append((sample, result))
    if not answers:
        raise UserError(f"none of the {len(skipped)} images could be read: {skipped[0]}")
    return score_detections(dataset, answers, labels, matched, skipped)


def match_boxes(dataset: BoxDataset, labels: tuple[str, ...]) -> dict[int, int]:
    """The dataset's class of each of the model's classes, by `match_classes`.

    Args:
        dataset: Its classes are matched.
        labels: The model's.

    Raises:
        UserError: None is a class of the dataset, or one may be several.
    """
    indices = match_classes(Dataset(dataset.classes, ()), labels, len(labels), set())
    matched = {int(index): i for i, index in enumerate(indices) if index >= 0}
    if not matched:
        raise UserError(
            f"none of the model's {len(labels)} classes ({shortened([*map(repr, labels)])}) is one of "
            f"the data's {len(dataset.classes)} ({shortened([*map(repr, dataset.classes)])}); "
            "`mobilenetv2 convert --labels` names the model's"
        )
    return matched


def read_matches(path: Path, dataset: BoxDataset, labels: tuple[str, ...]) -> dict[int, int]:
    """The dataset's class of each of the model's classes, from a list.

    Args:
        path: A CSV file with the columns label, of the model, and class, of the dataset, one row
            for each label that counts.
        dataset: Its classes are matched.
        labels: The model's.

    Raises:
        UserError: The file is no such list, or names a label or class that there is not.
    """
    rows = csv.DictReader(io.StringIO(read_text(path, "utf-8-sig")))
    if not {"label", "class"} <= {*(rows.fieldnames or ())}:
        raise UserError(f"{path}: needs the columns label and class")
    matched = {}
    try:
        listed = [(rows.line_num, row) for row in rows]
    except csv.Error as error:
        raise UserError(f"{path}: {error}") from None
    for line, row in listed:
        label, name = row["label"], row["class"]
        if label not in labels:
            raise UserError(f"{path}: line {line}: the model has no class {label!r:.80}")
        if name not in dataset.classes:
            raise UserError(f"{path}: line {line}: the data has no class {name!r:.80}")
        if labels.index(label) in matched:
            raise UserError(f"{path}: line {line}: {label!r:.80} once more")
        matched[labels.index(label)] = dataset.classes.index(name)
    if not matched:
        raise UserError(f"{path}: no rows")
    return matched


def score_detections(
    dataset: BoxDataset,
    answers: Sequence[tuple[BoxSample, Detections]],
    labels: Sequence[str],
    matched: Mapping[int, int],
    skipped: Iterable[ImageError] = (),
) -> DetectionEvaluation:
    """The evaluation of answers.

    Args:
        dataset: Where the images are from.
        answers: Each image with what the model answered, at least one.
        labels: The names of the model's classes.
        matched: The dataset's class for each of the model's that counts; several may be one class.
        skipped: The errors of images that could not be read.

    Raises:
        MissingExtraError: pycocotools is not installed.
    """
    check_pycocotools()
    scored = sorted(set(matched.values()))
    result = evaluated(answers, matched, scored)
    precision = np.where(result.eval["precision"] < 0, np.nan, result.eval["precision"])
    precisions = np.full((*precision.shape[:2], len(dataset.classes)), np.nan)
    scores = precisions.copy()
    precisions[..., scored] = precision[:, :, :, ALL_AREAS, HUNDRED_BOXES]
    scores[..., scored] = result.eval["scores"][:, :, :, ALL_AREAS, HUNDRED_BOXES]
    scores[np.isnan(precisions)] = np.nan
    counts = np.zeros(len(dataset.classes), np.int64)
    for sample, _ in answers:
        target = sample.target
        counted = target.classes[~(target.crowd | target.difficult)]
        counts += np.bincount(counted, minlength=len(counts))
    classes = tuple(
        BoxClassResult(
            name,
            tuple(index for index, own in matched.items() if own == i),
            int(counts[i]),
            float(precisions[..., i].mean()),
            float(precisions[0, :, i].mean()),
        )
        for i, name in enumerate(dataset.classes)
    )
    stats = np.where(np.array(result.stats) < 0, np.nan, result.stats)
    return DetectionEvaluation(
        DetectionScores(*stats.tolist()),
        classes,
        Curves(result.params.iouThrs, result.params.recThrs, precisions, scores),
        tuple(_answer(sample, detections, matched) for sample, detections in answers),
        tuple(skipped),
        tuple(label for i, label in enumerate(labels) if i not in matched),
    )


def _answer(sample: BoxSample, detections: Detections, matched: Mapping[int, int]) -> BoxAnswer:
    """The answer with its errors: each object takes the best free detection that overlaps it."""
    target = sample.target
    known = set(matched.values())
    own = np.array([matched.get(index, -1) for index in detections.indices.tolist()], np.int64)
    shown = (detections.scores >= SHOWN_SCORE) & (own >= 0)
    boxes, classes = detections.boxes[shown], own[shown]
    shares = np.where(target.crowd, _inside(boxes, target.boxes), overlaps(boxes, target.boxes))
    shares[classes[:, None] != target.classes[None]] = 0
    counted = ~(target.crowd | target.difficult) & np.isin(target.classes, [*known])
    free = counted.copy()
    wrong = 0
    for row in shares:
        candidates = np.where(free, row, 0)
        if candidates.size and candidates.max() >= SHOWN_IOU:
            free[candidates.argmax()] = False
        elif not (row[~counted] >= SHOWN_IOU).any():
            wrong += 1
    return BoxAnswer(sample, detections, int(free.sum()), wrong)


def _inside(boxes: NDArray[np.float32], crowds: NDArray[np.float32]) -> NDArray[np.float64]:
    """The share of each box (n, 4) that lies in each of (m, 4): what counts for crowds."""
    low = np.maximum(boxes[:, None, :2], crowds[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], crowds[None, :, 2:])
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(-1, dtype=np.float64)
    shares: NDArray[np.float64] = (
        np.maximum(high - low, 0).prod(-1) / np.maximum(areas, 1e-9)[:, None]
    )
    return shares
