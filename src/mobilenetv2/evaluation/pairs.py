"""Sheets of the worst answers of detectors and segmenters: truth and answer side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..datasets import IGNORED
from ..decoding import ignore_remark
from ..drawing import draw_boxes, draw_mask
from ..printable import printable
from .detection import SHOWN_SCORE, BoxAnswer, BoxClassResult, DetectionEvaluation
from .grid import Grid
from .segmentation import MaskAnswer, SegmentationEvaluation, own_classes

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..segmenter import Segmenter

TILE = 240  # side of an image; there are two in a pair
GRID = Grid(columns=3, width=2 * TILE, height=TILE, caption=18)
MOST = 15  # pairs
Pair = tuple[str, "Image", "Image"]


def box_sheet(evaluation: DetectionEvaluation, answers: Sequence[BoxAnswer] | None = None) -> Image:
    """The 15 worst answers of a detector, or the first 15 of these, as one image.

    Left are the objects of the dataset, right the detections with scores from 0.5, below the name
    of the file and the number of missed objects and of wrong detections.

    Args:
        evaluation: Of the detector.
        answers: Of the evaluation; None: the worst.

    Raises:
        ImageError: One of the images can no longer be read.
    """
    shown = evaluation.worst if answers is None else answers
    return _sheet(_box_pair(answer, evaluation.classes) for answer in islice(shown, MOST))


def mask_sheet(
    evaluation: SegmentationEvaluation,
    model: Segmenter,
    answers: Sequence[MaskAnswer] | None = None,
) -> Image:
    """The 15 worst answers of a segmenter, or the first 15 of these, as one image.

    Left is the mask of the dataset, with pixels that have no class in black and white, right the
    answer in the same colours, below the name of the file and the mean intersection over union.

    Args:
        evaluation: Of the model.
        model: Runs once more on these images.
        answers: Of the evaluation; None: the worst.

    Raises:
        ImageError: One of the images or masks can no longer be read.
    """
    shown = evaluation.worst if answers is None else answers
    return _sheet(_mask_pair(answer, evaluation, model) for answer in islice(shown, MOST))


def _box_pair(answer: BoxAnswer, results: Sequence[BoxClassResult]) -> Pair:
    sample, detections = answer.sample, answer.detections
    image = _fitted(sample.decode(warn=ignore_remark))
    target, shown = sample.target, detections.scores >= SHOWN_SCORE
    size = image.height, image.width
    scale = np.tile(np.divide(size, target.size)[::-1], 2)
    names = [results[index].label for index in target.classes.tolist()]
    truth = draw_boxes(image, size, target.boxes * scale, names, target.classes.tolist())
    captions = [
        f"{label} {score:.2f}"
        for label, score in zip(detections.labels, detections.scores.tolist())
        if score >= SHOWN_SCORE
    ]
    own = {index: i for i, result in enumerate(results) for index in result.indices}
    # classes that the dataset lacks get the last colour
    indices = [own.get(index, -1) for index in detections.indices[shown].tolist()]
    drawn = draw_boxes(image, size, detections.boxes[shown] * scale, captions, indices)
    return box_caption(answer), truth, drawn


def _mask_pair(answer: MaskAnswer, evaluation: SegmentationEvaluation, model: Segmenter) -> Pair:
    sample = answer.sample
    image = sample.decode(warn=ignore_remark)
    labels = dict(enumerate(result.label for result in evaluation.classes))
    indices = np.array([result.index for result in evaluation.classes])
    predicted: NDArray[Any] = own_classes(indices, len(model.class_names()))[
        model.segment(image).mask
    ]
    predicted = predicted.astype(np.uint8 if len(labels) < IGNORED else np.uint16)
    small = _fitted(image)
    rows, columns = (
        np.arange(side) * before // side for side, before in zip(small.size[::-1], image.size[::-1])
    )
    truth, drawn = (
        draw_mask(
            small,
            mask[rows][:, columns],
            {
                i: labels[i]
                for i in np.unique(mask).tolist()
                if i in labels and i not in (0, ignored)
            },
            ignored,
        )
        for mask, ignored in ((sample.target.read(), IGNORED), (predicted, None))
    )
    return mask_caption(answer), truth, drawn


def _fitted(image: Image) -> Image:
    """The image as large as a tile holds, so that what is drawn on it can be read there."""
    from PIL.Image import Resampling

    scale = (TILE - 4) / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Resampling.BICUBIC)


def box_caption(answer: BoxAnswer) -> str:
    """The text below a pair: the name of the file, and its errors."""
    name = PurePath(answer.sample.name).name
    return f"{name}: {answer.missed} missed, {answer.wrong} wrong"


def mask_caption(answer: MaskAnswer) -> str:
    """The text below a pair: the name of the file, and its mean intersection over union."""
    return f"{PurePath(answer.sample.name).name}: mIoU {answer.miou:.3f}"


def _sheet(pairs: Iterable[Pair]) -> Image:
    """The pairs, of images from `_fitted`, in rows; they are made one by one."""
    from PIL import Image, ImageDraw, ImageFont

    tiles = []
    for caption, *images in pairs:
        tile = Image.new("RGB", (GRID.width, GRID.height + GRID.caption), "white")
        for i, image in enumerate(images):
            place = (i * TILE + (TILE - image.width) // 2, (TILE - image.height) // 2)
            tile.paste(image, place)
        draw = ImageDraw.Draw(tile)
        draw.text((4, TILE), printable(caption), "black", ImageFont.load_default(12))
        tiles.append(tile)
    sheet = Image.new("RGB", GRID.size(len(tiles)), "white")
    for i, tile in enumerate(tiles):
        sheet.paste(tile, GRID.place(i))
    return sheet
