"""Files beside a model, for formats that have no place for labels and preprocessing."""

from __future__ import annotations

import json
from pathlib import Path

from ..int8 import AnyCheckpoint
from .options import WriteOptions, description


def write_beside(checkpoint: AnyCheckpoint, path: Path, options: WriteOptions) -> tuple[Path, ...]:
    """Writes the description as JSON, and the labels, one per line, where the model has some.

    Args:
        checkpoint: The model.
        path: The model's file; of `model.param` the others are `model.json` and `model.labels.txt`.
        options: As for the model's file.

    Returns:
        The files.
    """
    facts = path.with_suffix(".json")
    text = json.dumps(description(checkpoint, options), indent=1, ensure_ascii=False)
    facts.write_text(text + "\n", encoding="utf-8", errors="surrogateescape")
    if not checkpoint.labels:
        return (facts,)
    labels = path.with_suffix(".labels.txt")
    # a label in several lines would move all that follow
    lines = (" ".join(label.split()) for label in checkpoint.labels)
    labels.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="surrogateescape")
    return facts, labels
