"""Boxes handed to pycocotools."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from typing import Any

from ..datasets import BoxSample, BoxTarget
from ..errors import MissingExtraError, install_hint, missing_modules
from ..results import Detections


def check_pycocotools() -> None:
    """Checks that pycocotools is installed.

    Raises:
        MissingExtraError: It is not.
    """
    if missing_modules("pycocotools"):
        raise MissingExtraError(f"average precision needs pycocotools: {install_hint('detection')}")


def evaluated(
    answers: Sequence[tuple[BoxSample, Detections]],
    matched: Mapping[int, int],
    scored: Sequence[int],
) -> Any:
    """pycocotools' evaluator after its work.

    Args:
        answers: Each image with what the model answered.
        matched: The dataset's class for each of the model's that counts.
        scored: The dataset's classes to score.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    class Evaluator(COCOeval):  # type: ignore[misc]
        def _prepare(self) -> None:
            super()._prepare()  # looks at crowds alone
            for objects in self._gts.values():
                for each in objects:
                    each["ignore"] = each["ignore"] or each["difficult"]

    # of equal scores the image with the lower id comes first
    if all(isinstance(sample.target.image_id, int) for sample, _ in answers):
        answers = sorted(answers, key=lambda answer: answer[0].target.image_id)
    truth, detected = COCO(), COCO()
    images = [{"id": number} for number in range(1, len(answers) + 1)]
    categories = [{"id": i} for i in scored]
    objects = [
        each
        for number, (sample, _) in enumerate(answers, 1)
        for each in _objects(sample.target, number, scored)
    ]
    boxes = [
        each
        for number, (_, detections) in enumerate(answers, 1)
        for each in _detected(detections, number, matched)
    ]
    with redirect_stdout(io.StringIO()):
        for coco, annotations in ((truth, objects), (detected, boxes)):
            # an id of 0 would mean: no match
            numbered = [{**each, "id": i} for i, each in enumerate(annotations, 1)]
            coco.dataset = {"images": images, "categories": categories, "annotations": numbered}
            coco.createIndex()
        evaluator = Evaluator(truth, detected, "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator


def _objects(target: BoxTarget, number: int, scored: Sequence[int]) -> list[dict[str, Any]]:
    return [
        {
            "image_id": number,
            "category_id": index,
            "bbox": _sides(box),
            "area": area,
            "iscrowd": int(crowd),
            "difficult": difficult,
        }
        for box, index, area, crowd, difficult in zip(
            target.boxes.tolist(),
            target.classes.tolist(),
            target.areas.tolist(),
            target.crowd.tolist(),
            target.difficult.tolist(),
        )
        if index in scored
    ]


def _detected(
    detections: Detections, number: int, matched: Mapping[int, int]
) -> list[dict[str, Any]]:
    boxes = [_sides(box) for box in detections.boxes.tolist()]
    return [
        {
            "image_id": number,
            "category_id": matched[index],
            "bbox": box,
            "area": box[2] * box[3],
            "score": score,
        }
        for box, index, score in zip(boxes, detections.indices.tolist(), detections.scores.tolist())
        if index in matched
    ]


def _sides(box: Sequence[float]) -> list[float]:
    """Left, top, width, height."""
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]
