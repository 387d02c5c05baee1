"""`load`: a model by file or name, as what it is for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, Any

from .arguments import check_kind
from .formats import open_checkpoint, read_content
from .model import Model


def load(
    name: str | os.PathLike[str] | bytes | IO[bytes],
    threads: int | None = None,
    isa: str | None = None,
    *,
    int8: bool = True,
    weights_of: str | None = None,
    precision: str | None = None,
) -> Any:
    """A model by file (any format that `formats.read` knows) or by a name of
    `mobilenetv2.models()`: a `Detector`, a `Segmenter`, or a `Model` for everything else.

    Args:
        name: The file or name; or the content of a model file, as bytes or as an open binary file.
        threads: As for `Model`.
        isa: As for `Model`.
        int8: Whether a quantised .tflite file runs in int8; False: its weights become float32.
        weights_of: Of a PyTorch file with several sets of weights: "ema" for averages over the
            training, "raw" for those that they are averages of, or a name in the file. Default: the
            averages, if there are any.
        precision: As for `Model`: "bf16" runs float weights in bfloat16.

    Raises:
        ModelFileError: Neither a readable model file nor a known name.
        DownloadError: A published model could not be fetched.
        UserError: As for `Model`.
    """
    check_kind("int8", int8, bool)
    check_kind("weights_of", weights_of, str, type(None))
    if isinstance(name, str | os.PathLike):
        file = Path(name) if isinstance(name, os.PathLike) else name
        checkpoint = open_checkpoint(file, int8=int8, weights_of=weights_of)
    else:
        checkpoint = read_content(name, int8, weights_of)
    return _kind(checkpoint.architecture.head.task)(checkpoint, threads, isa, precision)


def _kind(task: str) -> type[Model]:
    """The class of the models of a task."""
    if task == "detection":
        from .detector import Detector

        return Detector
    if task == "segmentation":
        from .segmenter import Segmenter

        return Segmenter
    return Model
