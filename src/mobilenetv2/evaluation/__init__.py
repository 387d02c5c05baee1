"""How good a model is on labelled images, for each of the three tasks."""

from __future__ import annotations

from .classification import (
    Answer,
    ClassResult,
    Evaluation,
    Outcome,
    Scores,
    evaluate,
    judge,
    score,
)
from .detection import (
    BoxAnswer,
    BoxClassResult,
    Curves,
    DetectionEvaluation,
    DetectionScores,
    evaluate_detector,
    match_boxes,
    read_matches,
    score_detections,
)
from .matching import how_named, match_classes
from .pairs import box_sheet, mask_sheet
from .segmentation import (
    MaskAnswer,
    MaskClassResult,
    SegmentationEvaluation,
    SegmentationScores,
    confusion_of,
    evaluate_segmenter,
    match_masks,
    score_confusion,
    score_masks,
)
from .sheet import contact_sheet

__all__ = [
    "Answer",
    "BoxAnswer",
    "BoxClassResult",
    "ClassResult",
    "Curves",
    "DetectionEvaluation",
    "DetectionScores",
    "Evaluation",
    "MaskAnswer",
    "MaskClassResult",
    "Outcome",
    "Scores",
    "SegmentationEvaluation",
    "SegmentationScores",
    "box_sheet",
    "confusion_of",
    "contact_sheet",
    "evaluate",
    "evaluate_detector",
    "evaluate_segmenter",
    "how_named",
    "judge",
    "mask_sheet",
    "match_boxes",
    "match_classes",
    "match_masks",
    "read_matches",
    "score",
    "score_confusion",
    "score_detections",
    "score_masks",
]
