"""How far the results of a written file are from those of our runtime, and whether that is close."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import boxes
from ..graph import network
from ..heads import SSDHead
from ..int8 import AnyCheckpoint, Int8Checkpoint
from ..runtime import Engine
from ..writers.options import WriteOptions, result_names

FLOAT_DIFFERENCE = 1e-4  # in parts of the largest value, or of 1 where all are smaller
MASK_SHARE = 0.999  # of pixels, and of detections, that must be the same
# Signal over noise in decibels, at least: int8 networks differ by a step here and there where sums are
# rounded in another way.
INT8_DB = 15.0
INT8_SHARE = 0.9  # as MASK_SHARE
# Of detections: a step in a score decides about the threshold, and which of two boxes is left out. Their
# raw results are compared too, by `INT8_DB`.
INT8_BOXES_SHARE = 0.6
AT_ONCE = 256  # boxes that are compared with all others
SAME_CORNER = 1e-3  # of boxes that count as one, in parts of the pixels
SAME_BOX = 0.9  # intersection over union of two boxes that count as one


@dataclass(frozen=True)
class Difference:
    """One result of a file beside ours.

    Attributes:
        result: Its name.
        largest: The largest difference of a value; of masks the share of pixels that differ, of
            detections the share without a counterpart.
        allowed: What `largest` may be; None where `signal_to_noise_db` decides.
        signal_to_noise_db: Power of ours over that of the difference, in decibels; None where there is
            no difference, or values are classes.
        agreement_percent: Percent of the images, pixels or anchors with the same best class; None
            where the values are not of classes.
        passed: Whether the two are close enough.
    """

    result: str
    largest: float
    allowed: float | None
    signal_to_noise_db: float | None
    agreement_percent: float | None
    passed: bool


def expected_results(
    checkpoint: AnyCheckpoint, options: WriteOptions, pixels: NDArray[np.uint8]
) -> dict[str, Any]:
    """Our runtime's results on pixels (N, H, W, C), as `verification` describes them."""
    names = result_names(checkpoint, options)
    engine, head = Engine(checkpoint), checkpoint.architecture.head
    if isinstance(head, SSDHead):
        codes, scores = boxes.raw_outputs(head, engine(pixels))
        probabilities = boxes.probabilities(head, scores)
        if options.results == "raw":
            return dict(zip(names, (codes, probabilities), strict=True))
        anchors = boxes.anchors(head, network(checkpoint.architecture, *pixels.shape[1:3]))
        corners = np.clip(boxes.decode_boxes(codes, anchors), 0, 1)
        return _detections(corners, probabilities, options)
    if names == ("mask",):
        return {"mask": engine.mask(pixels)}
    values = engine(pixels)
    if names == ("probabilities",):
        powers = np.exp(values - values.max(axis=1, keepdims=True))
        values = powers / powers.sum(axis=1, keepdims=True)
    return {names[0]: values}


def _detections(
    corners: NDArray[np.float64], probabilities: NDArray[np.float32], options: WriteOptions
) -> dict[str, Any]:
    kept: dict[str, Any] = {"boxes": [], "scores": [], "classes": []}
    for of_image, scores in zip(corners, probabilities, strict=True):
        rows, classes = boxes.best_boxes(
            of_image,
            scores,
            threshold=options.score_threshold,
            iou_threshold=options.iou_threshold,
            limit=options.max_detections,
        )
        kept["boxes"].append(of_image[rows])
        kept["scores"].append(scores[rows, classes])
        kept["classes"].append(classes)
    return kept


def differences(
    checkpoint: AnyCheckpoint,
    options: WriteOptions,
    expected: Mapping[str, Any],
    results: Mapping[str, Any],
) -> tuple[Difference, ...]:
    """Each result of a file beside ours.

    Args:
        checkpoint: The model, from `as_float16` where the file has such weights.
        options: Of the file.
        expected: From `expected_results`.
        results: From the `run` of the file's format.
    """
    int8 = isinstance(checkpoint, Int8Checkpoint)
    if "boxes" in expected:
        return (_of_detections(expected, results, INT8_BOXES_SHARE if int8 else MASK_SHARE),)
    if "mask" in expected:
        share = float((expected["mask"] != results["mask"]).mean())
        allowed = 1 - (INT8_SHARE if int8 else MASK_SHARE)
        return (Difference("mask", share, allowed, None, 100 * (1 - share), share <= allowed),)
    least_db = INT8_DB if int8 else None
    return tuple(_of_values(name, expected[name], results[name], least_db) for name in expected)


def _of_values(name: str, ours: Any, theirs: Any, least_db: float | None) -> Difference:
    if ours.shape != theirs.shape:
        return Difference(name, np.inf, None, None, None, False)
    difference = np.abs(ours.astype(np.float64) - theirs)
    largest = float(difference.max())  # NaN stays one, and passes nowhere
    power = float((difference**2).sum())
    signal = float((ours.astype(np.float64) ** 2).sum())
    decibel = float(10 * np.log10(signal / power)) if power and signal else None
    agreement = None
    if name not in ("codes", "features"):
        agreement = 100 * float((ours.argmax(-1) == theirs.argmax(-1)).mean())
    if least_db is not None:
        close = largest == 0 or (decibel is not None and decibel >= least_db)
        return Difference(name, largest, None, decibel, agreement, bool(close))
    allowed = FLOAT_DIFFERENCE * max(1.0, float(np.abs(ours).max()))
    return Difference(name, largest, allowed, decibel, agreement, largest <= allowed)


def _of_detections(ours: Mapping[str, Any], theirs: Mapping[str, Any], share: float) -> Difference:
    """Detections are the same where class and place are; scores tell in which order."""
    alone = count = 0
    for index in range(len(ours["classes"])):
        first, second = ((each["boxes"][index], each["classes"][index]) for each in (ours, theirs))
        alone += _without_counterpart(first, second) + _without_counterpart(second, first)
        count += len(first[0]) + len(second[0])
    lacking = alone / count if count else 0.0
    agreement = 100 * (1 - lacking) if count else None
    return Difference("boxes", lacking, 1 - share, None, agreement, lacking <= 1 - share)


def _without_counterpart(some: tuple[Any, Any], others: tuple[Any, Any]) -> int:
    """How many boxes have none of their class in the same place among others."""
    alone = 0
    for begin in range(0, len(some[0]), AT_ONCE):
        part = slice(begin, begin + AT_ONCE)
        same_class = np.asarray(some[1])[part, None] == np.asarray(others[1])[None]
        own, their = np.asarray(some[0])[part], np.asarray(others[0])
        # thin boxes have next to no area to overlap with
        near = (np.abs(own[:, None] - their[None]) < SAME_CORNER).all(axis=2)
        same_place = near | (boxes.overlaps(own, their) >= SAME_BOX)
        alone += int((~(same_class & same_place).any(axis=1)).sum())
    return alone
