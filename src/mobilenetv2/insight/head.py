"""What the head of a detector or a segmenter is made of, and its answer drawn on a photo."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ..checkpoint import Checkpoint
from ..cost import Cost, LayerCost
from ..detector import Detector
from ..heads import SSDHead
from ..segmenter import Segmenter

# keys of the columns of the table of a head, by task
COLUMNS = {
    "detection": ("map", "channels", "anchors", "sides", "macs", "parameters"),
    "segmentation": ("layer", "output", "macs", "parameters"),
}
WEAK = 0.3  # score from which a box is drawn


def rows(checkpoint: Checkpoint, cost: Cost) -> list[tuple[object, ...]]:
    """The table of the head, one row per map of a detector or per layer of a segmenter; multiply-adds
    in millions, parameters in thousands.
    """
    head = checkpoint.architecture.head
    if isinstance(head, SSDHead):
        return _detector_rows(head, cost)
    return [
        (
            row.layer.name.removeprefix("head."),
            " × ".join(map(str, row.layer.out_shape)),
            *_counts([row]),
        )
        for row in cost.layers
        if row.layer.name.startswith("head.")
    ]


def _detector_rows(head: SSDHead, cost: Cost) -> list[tuple[object, ...]]:
    table: list[tuple[object, ...]] = []
    by_name = {row.layer.name: row for row in cost.layers}
    for index, sizes in enumerate(head.anchor_sizes):
        parts = (f"head.boxes.{index}", f"head.scores.{index}")
        own = [row for name, row in by_name.items() if name.startswith(parts)]
        channels, height, width = own[0].layer.in_shape
        sides = [math.sqrt(a * b) for a, b in sizes]
        low, high = (f"{100 * side:.0f}" for side in (min(sides), max(sides)))
        table.append(
            (
                f"{height} × {width}",
                channels,
                f"{height * width * len(sizes):,}",
                f"{low} %" if low == high else f"{low}–{high} %",
                *_counts(own),
            )
        )
    return table


def _counts(own: list[LayerCost]) -> tuple[str, str]:
    macs, parameters = (sum(getattr(row, name) for row in own) for name in ("macs", "parameters"))
    return f"{macs / 1e6:.2f}", f"{parameters / 1e3:.1f}"


def placeholders(checkpoint: Checkpoint, cost: Cost) -> dict[str, str]:
    """Shares of the head in the cost, and what a detector counts."""
    own = [row for row in cost.layers if row.layer.name.startswith("head.")]
    head = checkpoint.architecture.head
    values = {
        "head_macs": f"{100 * sum(row.macs for row in own) / cost.macs:.0f}",
        "head_parameters": f"{100 * sum(row.parameters for row in own) / cost.parameters:.0f}",
        "head_classes": str(head.classes),
        "output_stride": str(checkpoint.architecture.output_stride),
        "grid": " × ".join(map(str, own[0].layer.in_shape[1:])) if own else "",
        "anchor_count": "",
        "extra_share": "",
    }
    if isinstance(head, SSDHead):
        outputs = [row.layer for row in own if row.layer.role == "boxes"]
        count = sum(math.prod(layer.out_shape) // 4 for layer in outputs)
        extra = sum(row.parameters for row in own if row.layer.name.startswith("head.extra"))
        values["anchor_count"] = f"{count:,}"
        values["extra_share"] = f"{100 * extra / cost.parameters:.0f}"
    return values


def drawn_answer(checkpoint: Checkpoint, pixels: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    """The boxes or the mask drawn on pixels (H, W, 3) as the model reads them; None for other tasks."""
    task = checkpoint.architecture.head.task
    whole = replace(checkpoint.preprocessing, size=pixels.shape[:2], resize="stretch")
    same = replace(checkpoint, preprocessing=whole)
    if task == "detection":
        return np.asarray(Detector(same).detect(pixels, threshold=WEAK).draw(pixels))
    if task == "segmentation":
        return np.asarray(Segmenter(same).segment(pixels).draw(pixels))
    return None
