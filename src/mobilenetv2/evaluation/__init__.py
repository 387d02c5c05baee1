"""How good a model is on labelled images; classification so far."""

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
from .matching import how_named, match_classes
from .sheet import contact_sheet

__all__ = [
    "Answer",
    "ClassResult",
    "Evaluation",
    "Outcome",
    "Scores",
    "contact_sheet",
    "evaluate",
    "judge",
    "how_named",
    "match_classes",
    "score",
]
