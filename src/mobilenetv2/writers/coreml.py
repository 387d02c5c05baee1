"""Core ML packages: an ML Program with its image, labels and description."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoint import Checkpoint
from ..int8 import AnyCheckpoint
from .coreml_program import build
from .labels import unique_labels
from .options import WriteOptions, WriterError, description, refuse, result_names

DESCRIPTION = "mobilenetv2"  # entry of the metadata
COLOURS = {1: "GRAYSCALE", 3: "RGB"}


def write(checkpoint: AnyCheckpoint, path: Path, options: WriteOptions) -> tuple[Path, ...]:
    """Writes a package for iOS 15, macOS 12 and later.

    Args:
        checkpoint: The model.
        path: The `.mlpackage` folder.
        options: What it is to be like. With `input="uint8"` the file takes an image, as Vision gives
            it, else an array (N, channels, height, width). With `results="final"` a classifier gives
            "classLabel", the best one, and the probabilities by label in "classLabel_probs".

    Returns:
        The folder.

    Raises:
        WriterError: Options that Core ML or this model does not go with.
    """
    _check(checkpoint, options)
    assert isinstance(checkpoint, Checkpoint)
    with quiet():
        import coremltools

        program = build(checkpoint, options)
        architecture = checkpoint.architecture
        shape = (options.batch, architecture.in_channels, *architecture.resolution)
        image = coremltools.TensorType("image", shape, np.float32)
        if options.input == "uint8":
            layout = getattr(coremltools.colorlayout, COLOURS[architecture.in_channels])
            image = coremltools.ImageType("image", shape, color_layout=layout)
        classes = None
        if result_names(checkpoint, options) == ("probabilities",):
            classes = coremltools.ClassifierConfig(
                unique_labels(checkpoint, "coreml"), predicted_probabilities_output="probabilities"
            )
        precision = coremltools.precision.FLOAT16 if options.float16 else None
        passes = coremltools.PassPipeline.DEFAULT
        # its epsilon changes the normalised pixels
        passes.remove_passes({"common::fuse_elementwise_to_batchnorm"})
        model = coremltools.convert(
            program,
            source="milinternal",
            convert_to="mlprogram",
            inputs=[image],
            classifier_config=classes,
            compute_precision=precision or coremltools.precision.FLOAT32,
            minimum_deployment_target=coremltools.target.iOS15,
            pass_pipeline=passes,
            skip_model_load=True,
        )
        _describe(model, checkpoint, options)
        model.save(str(path))
        share(path)
        # coremltools keeps its own copy until the program ends
        shutil.rmtree(model.package_path, ignore_errors=True)
    return (path,)


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps coremltools from printing: it warns of PyTorch's version, of what only macOS has and of its
    own temporary folders, and draws bars of progress.
    """
    logger = logging.getLogger("coremltools")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def share(folder: Path) -> None:
    """Gives everything in a folder the folder's own rights; coremltools lets only the owner read."""
    rights = folder.stat().st_mode & 0o777
    for path in folder.rglob("*"):
        path.chmod(rights if path.is_dir() else rights & 0o666)


def _check(checkpoint: AnyCheckpoint, options: WriteOptions) -> None:
    architecture = checkpoint.architecture
    if not isinstance(checkpoint, Checkpoint):
        raise WriterError(
            "coreml: it computes in floating point between int8 tensors, which gives other answers "
            "than this int8 model: write the float model (--float)"
        )
    refuse(
        options,
        "coreml",
        dynamic_size="a package takes images of one size",
        opset="only ONNX has one",
        task_metadata="MediaPipe's tasks read .tflite files: use --to tflite",
    )
    if options.layout == "nhwc":
        raise WriterError("coreml: layout 'nhwc': its arrays are (N, channels, height, width)")
    if options.batch is None:
        raise WriterError("coreml: any number of images: a package takes a fixed number of them")
    if options.input == "uint8" and options.batch != 1:
        raise WriterError("coreml: several images: as an image a package takes one")
    if options.input == "uint8" and architecture.in_channels not in COLOURS:
        raise WriterError(
            f"coreml: input uint8: an image has 1 or 3 channels, not {architecture.in_channels}"
        )
    task = architecture.head.task
    if options.results == "final" and task == "detection":
        raise WriterError(
            "coreml: final results of detection are not written: write raw ones (--results raw) and "
            "decode the boxes in the program"
        )
    if options.results == "final" and task == "classification" and options.batch != 1:
        raise WriterError("coreml: final results of several images: a package names one class")


def _describe(model: Any, checkpoint: Checkpoint, options: WriteOptions) -> None:
    """Puts texts into the package, for people and for programs."""
    takes = {"float32": "normalised", "uint8": "which the package normalises"}
    p = checkpoint.preprocessing
    model.short_description = (
        f"MobileNetV2 for {checkpoint.architecture.head.task}. Images: {p.in_words()}, "
        f"{takes[options.input]}."
    )
    model.input_description["image"] = p.in_words()
    for name, theirs in (("author", "author"), ("licence", "license")):
        if text := checkpoint.provenance.get(name):
            setattr(model, theirs, str(text))
    model.user_defined_metadata[DESCRIPTION] = json.dumps(description(checkpoint, options))
