"""Runs programs through the C interface, in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import boxes
from ..heads import SSDHead
from ..int8 import AnyCheckpoint
from ..runtime.program import Program
from ..writers.options import WriteOptions, result_names


def run(
    path: Path, pixels: NDArray[np.uint8], checkpoint: AnyCheckpoint, options: WriteOptions
) -> dict[str, Any]:
    """A file's results on pixels (N, H, W, C)."""
    outputs = Program(path.read_bytes(), threads=1)(pixels)
    names, head = result_names(checkpoint, options), checkpoint.architecture.head
    if isinstance(head, SSDHead):
        codes, scores = boxes.raw_outputs(head, outputs)
        return dict(zip(names, (codes, boxes.probabilities(head, scores)), strict=True))
    if "mask" in names:
        return {"mask": outputs["mask"][..., 0]}
    (values,) = outputs.values()
    return {names[0]: values.reshape(len(values), -1) if names == ("logits",) else values}
