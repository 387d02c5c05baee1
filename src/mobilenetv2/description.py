"""What a reader of a model in another form needs to know of it, as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import boxes
from .graph import network
from .heads import SSDHead
from .int8 import AnyCheckpoint, Int8Checkpoint


def describe(
    checkpoint: AnyCheckpoint, input: str, results: Sequence[str], raw: bool
) -> dict[str, Any]:
    """The entry "mobilenetv2" of a file's metadata.

    Args:
        checkpoint: The model.
        input: What the file takes: "float32" or "uint8".
        results: Names of what it gives.
        raw: Whether these are what the network gives, before a mask or boxes are made of it.

    Returns:
        task, labels, preprocessing (fields of `Preprocessing`), input, size (height, width), results,
        provenance; of detectors with raw results also anchors (n, 4) as centre y, x, height, width in
        parts of the pixels, and the four scales of the codes.
    """
    architecture = checkpoint.architecture
    facts: dict[str, Any] = {
        "task": architecture.head.task,
        "labels": list(checkpoint.labels),
        "preprocessing": checkpoint.preprocessing.to_dict(),
        "input": input,
        "size": list(architecture.resolution),
        "results": list(results),
        "numbers": "int8" if isinstance(checkpoint, Int8Checkpoint) else "float32",
        "provenance": checkpoint.provenance,
    }
    head = architecture.head
    if isinstance(head, SSDHead) and raw:
        facts["anchors"] = boxes.anchors(head, network(architecture)).tolist()
        facts["code_scales"] = list(boxes.CODE_SCALES)
    return facts
