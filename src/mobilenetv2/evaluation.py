"""How right a model is on labelled images, and how sure it may be."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .datasets import Dataset, Sample
from .errors import ImageError, UserError
from .images import decode
from .labels import BACKGROUND
from .model import Model

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

BINS = 15  # of confidence; Guo et al., On Calibration of Modern Neural Networks, 2017
COLUMNS, TILE, CAPTION = 8, 128, 34  # of the contact sheet; pixels
SHOWN = 32


class Answer(NamedTuple):
    """What was said of one image: the class and its probability, how many classes were more
    probable than the right one, and the right one's negative log likelihood in nats.
    """

    said: int
    probability: float
    rank: int
    nll: float


@dataclass(frozen=True)
class ClassResult:
    """One class of the dataset: its name there, the model's index for it, its images, and how
    many of them were called it.
    """

    label: str
    index: int
    images: int
    right: int


@dataclass(frozen=True)
class Mistake:
    """An image called something else: what it is, what was said, and with which probability."""

    sample: Sample
    truth: str
    said: str
    probability: float


@dataclass(frozen=True)
class Scores:
    """What many answers are worth.

    Attributes:
        top1: Percent whose class is the most probable.
        top5: Percent whose class is among the five most probable (all, of fewer classes).
        ece: Expected calibration error, 0..1: how far the probability of the answer is from the
            share of right ones, in 15 equal bins of probability, weighted by their images.
        nll: Mean negative log likelihood of the right class, in nats.
    """

    top1: float
    top5: float
    ece: float
    nll: float


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found.

    Attributes:
        scores: Of all images that could be read.
        images: How many those are.
        skipped: The errors of those that could not be read.
        classes: One by one, in the dataset's order, empty ones included; one that is empty and
            that the model lacks has the index -1.
        labels: The model's classes.
        confusion: (dataset's classes, model's classes) int64: row what it is, column what was said.
        mistakes: The surest first.
    """

    scores: Scores
    images: int
    skipped: tuple[ImageError, ...]
    classes: tuple[ClassResult, ...]
    labels: tuple[str, ...]
    confusion: NDArray[np.int64]
    mistakes: tuple[Mistake, ...]


def evaluate(
    model: Model,
    dataset: Dataset,
    advance: Callable[[Sample, ImageError | None], object] | None = None,
) -> Evaluation:
    """Runs a model on every image of a dataset.

    The dataset's classes are found among the model's labels by name: the same; else the same but
    for case, spaces and underscores; else the same up to the first comma, where lists of synonyms
    have one. A list's index, counted from 0 in the model's classes less a background in front,
    chooses where names are alike, and stands alone where either side has no names.

    Args:
        model: A classifier.
        dataset: From `datasets.read_dataset`.
        advance: Called after each image, with its error if it could not be read.

    Raises:
        UserError: The model is not a classifier or lacks a class of the dataset, or no image
            could be read.
    """
    model.check_classifies()
    outputs = model.checkpoint.architecture.classes
    labels = model.checkpoint.labels
    used = {sample.target for sample in dataset.samples}
    truth = match_classes(dataset, labels, outputs, used)

    def judged(sample: Sample, logits: NDArray[np.float32]) -> Answer:
        return judge(logits, int(truth[sample.target]))

    names = labels or tuple(f"class {i}" for i in range(outputs))
    confusion = np.zeros((len(dataset.classes), outputs), np.int64)
    answers: list[Answer] = []
    skipped: list[ImageError] = []
    mistakes: list[Mistake] = []
    with closing(model.map_images(dataset.samples, judged, Sample.open)) as found:
        for sample, answer in found:
            if advance:
                advance(sample, answer if isinstance(answer, ImageError) else None)
            if isinstance(answer, ImageError):
                skipped.append(answer)
                continue
            answers.append(answer)
            confusion[sample.target, answer.said] += 1
            if answer.rank:
                name = dataset.classes[sample.target]
                mistakes.append(Mistake(sample, name, names[answer.said], answer.probability))
    if not answers:
        raise UserError(f"none of the {len(skipped)} images could be read: {skipped[0]}")
    return Evaluation(
        score(answers),
        len(answers),
        tuple(skipped),
        tuple(
            ClassResult(name, int(i), int(row.sum()), int(row[i]) if i >= 0 else 0)
            for name, i, row in zip(dataset.classes, truth, confusion)
        ),
        names,
        confusion,
        tuple(sorted(mistakes, key=lambda mistake: -mistake.probability)),
    )


def judge(logits: NDArray[np.float32], truth: int) -> Answer:
    """One image's logits (classes,) beside its class; of equal ones the first counts as most
    probable.
    """
    shifted = logits.astype(np.float64) - logits.max()
    total = np.exp(shifted).sum()
    said = int(shifted.argmax())
    ahead = (shifted > shifted[truth]).sum() + (shifted[:truth] == shifted[truth]).sum()
    return Answer(said, float(1 / total), int(ahead), float(np.log(total) - shifted[truth]))


def score(answers: Sequence[Answer]) -> Scores:
    """Sums up the answers to at least one image."""
    sure = np.array([answer.probability for answer in answers])
    ranks = np.array([answer.rank for answer in answers])
    bins = np.clip(np.ceil(sure * BINS).astype(int) - 1, 0, BINS - 1)
    gaps = np.bincount(bins, (ranks == 0) - sure, BINS)  # right ones less those expected
    return Scores(
        100 * float((ranks == 0).mean()),
        100 * float((ranks < 5).mean()),
        float(np.abs(gaps).sum() / len(answers)),
        float(np.mean([answer.nll for answer in answers])),
    )


def match_classes(
    dataset: Dataset, labels: tuple[str, ...], outputs: int, used: set[int]
) -> NDArray[np.int64]:
    """The model's index of each class of the dataset, by `evaluate`'s rules, (classes,); -1 for one
    that the model lacks and that is not among the `used`.

    Raises:
        UserError: The model lacks a class, or two classes are one to the model.
    """
    tables = [defaultdict[str, list[int]](list) for _ in KEYS]
    for i, label in enumerate(labels):
        for table, key in zip(tables, KEYS):
            table[key(label)].append(i)
    background = int(labels[:1] == (BACKGROUND,))
    found = np.full(len(dataset.classes), -1, np.int64)
    lacking = []
    for i, name in enumerate(dataset.classes):
        number = dataset.indices[i] + background if dataset.indices else -1
        if dataset.indices and (not labels or name == str(dataset.indices[i])):
            alike = [number] if number < outputs else []
        else:
            alike = next((t[key(name)] for t, key in zip(tables, KEYS) if key(name) in t), [])
        if number in alike or len(alike) == 1:
            found[i] = number if number in alike else alike[0]
        elif i in used and alike:
            raise UserError(
                f"class {name!r} may be any of the model's classes {alike}; a list with the column "
                "index says which"
            )
        elif i in used:
            lacking.append(name)
    if lacking:
        raise UserError(_lacking(lacking, labels, outputs, bool(dataset.indices)))
    for index in np.flatnonzero(np.bincount(found[found >= 0], minlength=outputs) > 1):
        both = [dataset.classes[i] for i in np.flatnonzero(found == index)]
        raise UserError(f"the dataset's classes {both} are one to the model, its class {index}")
    return found


def _lacking(names: Sequence[str], labels: Sequence[str], outputs: int, numbered: bool) -> str:
    shown = ", ".join(map(repr, names[:5])) + f" and {len(names) - 5} more" * (len(names) > 5)
    if not labels and not numbered:
        return (
            f"the model has {outputs} classes without names, and cannot tell which is {shown}; name "
            "them with `mobilenetv2 convert --labels`, or give a list with the column index"
        )
    known = ", ".join(map(repr, labels[:5])) + ", ..." * (outputs > 5)
    return f"the model has no class {shown}; its {outputs} are {known if labels else 'not named'}"


def _folded(name: str) -> str:
    return " ".join(unicodedata.normalize("NFC", name).casefold().replace("_", " ").split())


KEYS: tuple[Callable[[str], str], ...] = (
    str,
    _folded,
    lambda name: _folded(name.split(",")[0]),
)


def contact_sheet(mistakes: Sequence[Mistake]) -> Image:
    """The first 32 mistakes as one image, 8 a row, each above what it is, what was said instead,
    and with which probability.

    Raises:
        ImageError: One of the images can no longer be read.
    """
    from PIL import Image, ImageDraw, ImageFont

    shown = mistakes[:SHOWN]
    rows = max(1, -(-len(shown) // COLUMNS))
    sheet = Image.new("RGB", (COLUMNS * TILE, rows * (TILE + CAPTION)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for i, mistake in enumerate(shown):
        x, y = i % COLUMNS * TILE, i // COLUMNS * (TILE + CAPTION)
        image = decode(mistake.sample.open())
        scale = (TILE - 4) / max(image.size)
        size = [max(1, round(side * scale)) for side in image.size]
        image = image.resize((size[0], size[1]), Image.Resampling.BICUBIC)
        sheet.paste(image, (x + (TILE - image.width) // 2, y + (TILE - image.height) // 2))
        lines = (mistake.truth, f"-> {mistake.said}", f"{mistake.probability:.2f}")
        room = TILE - 4 - draw.textlength(lines[2] + " ", font)
        draw.text((x + 2, y + TILE), _cut(lines[0], TILE - 4, draw, font), "black", font)
        draw.text((x + 2, y + TILE + 15), _cut(lines[1], room, draw, font), "firebrick", font)
        draw.text((x + TILE - 2, y + TILE + 15), lines[2], "black", font, anchor="ra")
    return sheet


def _cut(text: str, width: float, draw: ImageDraw, font: FreeTypeFont | ImageFont) -> str:
    """As much of a text as fits on a line of a width in pixels."""
    text = " ".join(text.split())
    while text and draw.textlength(text, font) > width:
        text = text[:-1]
    return text
