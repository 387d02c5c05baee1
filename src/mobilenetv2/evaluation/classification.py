"""The accuracy and the calibration of a classifier on labelled images."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..arguments import check_kind
from ..datasets import Dataset, Sample, read_dataset
from ..errors import ImageError, UserError
from ..model import Model
from .matching import match_classes

# One answer for a larger share of at least as many images, of as many classes, is suspicious.
ONE_ANSWER_SHARE, ONE_ANSWER_IMAGES, ONE_ANSWER_CLASSES = 0.95, 50, 3
BINS = 15  # of confidence; Guo et al., On Calibration of Modern Neural Networks, 2017


class Outcome(NamedTuple):
    """How a model classified one image.

    Attributes:
        predicted: The most probable class.
        probability: Its probability.
        true_class_rank: The number of classes that are more probable than the true one.
        nll: The negative log likelihood of the true class, in nats.
    """

    predicted: int
    probability: float
    true_class_rank: int
    nll: float


@dataclass(frozen=True)
class ClassResult:
    """One class of the dataset.

    Attributes:
        label: Its name in the dataset.
        index: The model's index of it; -1 if the model lacks it.
        images: The number of its images.
        right: How many of them were classified as this class.
    """

    label: str
    index: int
    images: int
    right: int


@dataclass(frozen=True)
class Answer:
    """What the model answered for an image.

    Attributes:
        sample: The image.
        truth: The name of its class in the dataset.
        predicted: The label of the most probable class.
        probability: The probability of that class.
        right: Whether it is the image's class.
    """

    sample: Sample
    truth: str
    predicted: str
    probability: float
    right: bool


@dataclass(frozen=True)
class Scores:
    """Accuracy and calibration over many images.

    Attributes:
        top1: Percent of the images whose class is the most probable.
        top5: Percent whose class is among the five most probable (all, of fewer classes).
        ece: Expected calibration error, 0..1: the distance between the probability of the
            predicted class and the share of right predictions, in 15 equal bins of probability,
            weighted by the number of images.
        nll: Mean negative log likelihood of the true class, in nats.
    """

    top1: float
    top5: float
    ece: float
    nll: float


@dataclass(frozen=True)
class Evaluation:
    """The result of `evaluate`.

    Attributes:
        scores: Of all images that could be read.
        images: The number of these images.
        skipped: The errors of the images that could not be read.
        classes: One result per class, in the dataset's order, empty classes included.
        labels: The labels of the model's classes.
        confusion: (dataset's classes, model's classes) int64: the number of images of the row's
            class that were classified as the column's.
        answers: Of all images that could be read, in the dataset's order.
    """

    scores: Scores
    images: int
    skipped: tuple[ImageError, ...]
    classes: tuple[ClassResult, ...]
    labels: tuple[str, ...]
    confusion: NDArray[np.int64]
    answers: tuple[Answer, ...]

    @property
    def mistakes(self) -> tuple[Answer, ...]:
        """The wrong answers, ordered by probability, the highest first."""
        wrong = (answer for answer in self.answers if not answer.right)
        return tuple(sorted(wrong, key=lambda answer: -answer.probability))

    @property
    def warnings(self) -> tuple[str, ...]:
        """What makes the result suspicious: nearly all images, of several classes, got one."""
        answers = self.confusion.sum(0)
        share, classes = answers.max() / self.images, (self.confusion.sum(1) > 0).sum()
        if (
            self.images < ONE_ANSWER_IMAGES
            or classes < ONE_ANSWER_CLASSES
            or share <= ONE_ANSWER_SHARE
        ):
            return ()
        return (
            f"{100 * share:.0f} % of {self.images} images of {classes} classes were classified as "
            f"{self.labels[answers.argmax()]!r}: preprocessing, labels or weights may be wrong "
            "(`mobilenetv2 inspect` shows them)",
        )


def evaluate(
    model: Model,
    dataset: Dataset | str | os.PathLike[str],
    advance: Callable[[Sample, ImageError | None], object] | None = None,
) -> Evaluation:
    """Runs a model on every image of a dataset.

    The dataset's classes are looked up among the model's labels by `match_classes`.

    Args:
        model: A classifier.
        dataset: From `datasets.read_dataset`, or what that takes.
        advance: Called after each image, with its error if it could not be read.

    Raises:
        UserError: The model is not a classifier or lacks a class of the dataset, or no image
            could be read.
    """
    check_kind("model", model, Model)
    model.check_classifies()
    if not isinstance(dataset, Dataset):
        dataset = read_dataset(dataset)
    outputs = model.checkpoint.architecture.classes
    labels = model.checkpoint.labels or tuple(f"class {i}" for i in range(outputs))
    used = {sample.target for sample in dataset.samples}
    index = match_classes(dataset, model.checkpoint.labels, outputs, used)

    def use(sample: Sample, logits: NDArray[np.float32]) -> Outcome:
        return judge(logits, int(index[sample.target]))

    confusion = np.zeros((len(dataset.classes), outputs), np.int64)
    outcomes: list[Outcome] = []
    skipped: list[ImageError] = []
    answers: list[Answer] = []
    with closing(model.map_images(dataset.samples, use, Sample.decode)) as results:
        for sample, outcome in results:
            if advance:
                advance(sample, outcome if isinstance(outcome, ImageError) else None)
            if isinstance(outcome, ImageError):
                skipped.append(outcome)
                continue
            outcomes.append(outcome)
            confusion[sample.target, outcome.predicted] += 1
            truth, predicted = dataset.classes[sample.target], labels[outcome.predicted]
            right = outcome.true_class_rank == 0
            answers.append(Answer(sample, truth, predicted, outcome.probability, right))
    if not outcomes:
        raise UserError(f"none of the {len(skipped)} images could be read: {skipped[0]}")
    return Evaluation(
        score(outcomes),
        len(outcomes),
        tuple(skipped),
        _class_results(dataset, index, confusion),
        labels,
        confusion,
        tuple(answers),
    )


def _class_results(
    dataset: Dataset, index: NDArray[np.int64], confusion: NDArray[np.int64]
) -> tuple[ClassResult, ...]:
    return tuple(
        ClassResult(name, int(i), int(row.sum()), int(row[i]) if i >= 0 else 0)
        for name, i, row in zip(dataset.classes, index, confusion)
    )


def judge(logits: NDArray[np.float32], true_class: int) -> Outcome:
    """The outcome for the logits (classes,) of one image; of equal logits the first wins."""
    shifted = logits.astype(np.float64) - logits.max()
    total = np.exp(shifted).sum()
    true_logit = shifted[true_class]
    rank = (shifted > true_logit).sum() + (shifted[:true_class] == true_logit).sum()
    return Outcome(
        int(shifted.argmax()), float(1 / total), int(rank), float(np.log(total) - true_logit)
    )


def score(outcomes: Sequence[Outcome]) -> Scores:
    """The scores of the outcomes of at least one image."""
    probabilities = np.array([outcome.probability for outcome in outcomes])
    ranks = np.array([outcome.true_class_rank for outcome in outcomes])
    bins = np.clip(np.ceil(probabilities * BINS).astype(int) - 1, 0, BINS - 1)
    gaps = np.bincount(bins, (ranks == 0) - probabilities, BINS)  # right less expected, per bin
    return Scores(
        100 * float((ranks == 0).mean()),
        100 * float((ranks < 5).mean()),
        float(np.abs(gaps).sum() / len(outcomes)),
        float(np.mean([outcome.nll for outcome in outcomes])),
    )
