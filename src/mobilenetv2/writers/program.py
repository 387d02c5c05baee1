"""Writes programs, which our runtime runs without Python (include/mobilenetv2.h)."""

from __future__ import annotations

from pathlib import Path

from ..heads import SSDHead
from ..int8 import AnyCheckpoint
from ..runtime.program import write_program
from .options import WriteOptions, WriterError, refuse


def write(checkpoint: AnyCheckpoint, path: Path, options: WriteOptions) -> tuple[Path, ...]:
    """Writes a program.

    Raises:
        WriterError: An option that programs do not have.
    """
    refuse(
        options,
        "program",
        dynamic_size="a program is for images of one size: give --resolution",
        float16="a program has float32 or int8 weights: see --int8",
        opset="a program has no operators of ONNX",
        task_metadata="a program has a description of its own",
    )
    if options.batch is None:
        raise WriterError("program: give the most images per run, --batch N")
    if options.layout == "nchw":
        raise WriterError("program: layout 'nchw': pixels come in rows, as images are decoded")
    task = checkpoint.architecture.head.task
    if options.results == "final" and task in ("classification", "detection"):
        raise WriterError(
            f"program: results 'final': a program of a {task} model gives raw results, and its "
            "description what turns them into final ones"
        )
    facts = None
    if isinstance(checkpoint.architecture.head, SSDHead):
        names = ("score_threshold", "iou_threshold", "max_detections")
        facts = {"detections": {name: getattr(options, name) for name in names}}
    mask = task == "segmentation" and options.results == "final"
    write_program(checkpoint, path, batch=options.batch, mask=mask, facts=facts)
    return (path,)
