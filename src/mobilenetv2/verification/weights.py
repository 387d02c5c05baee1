"""Files of weights of other libraries, read back by our own readers and run by our engine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import formats
from ..checkpoint import Checkpoint
from ..folding import fold
from ..graph import layers
from ..int8 import AnyCheckpoint
from ..runtime import Engine
from ..writers.options import WriteOptions, WriterError, result_names


def run(
    path: Path, pixels: NDArray[np.uint8], checkpoint: AnyCheckpoint, options: WriteOptions
) -> dict[str, Any]:
    """The file's results on pixels (N, H, W, C), as this package's docstring lists them.

    Padding and preprocessing, which such a file does not say, are the checkpoint's.

    Raises:
        WriterError: A kernel or bias, with its batch norm folded in, differs from the checkpoint's.
    """
    assert isinstance(checkpoint, Checkpoint)
    stored = formats.read(path, int8=False)
    architecture = replace(checkpoint.architecture, bn_epsilon=stored.architecture.bn_epsilon)
    read = replace(
        stored, architecture=architecture, labels=(), preprocessing=checkpoint.preprocessing
    )
    for mine, theirs in zip(layers(checkpoint.architecture), layers(architecture), strict=True):
        if mine.weight is None:
            continue
        for expected, values in zip(fold(checkpoint, mine), fold(read, theirs), strict=True):
            if np.abs(expected - values).max() > 1e-6 * max(1.0, float(np.abs(expected).max())):
                raise WriterError(f"{path}: the weights of {mine.name} are others than the model's")
    (name,) = result_names(checkpoint, options)
    return {name: Engine(read)(pixels)}
