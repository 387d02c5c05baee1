"""ONNX files: float32, or int8 with the model's own integers, for every head."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from ..checkpoint import Checkpoint
from ..int8 import AnyCheckpoint, Int8Checkpoint
from .onnx_float import float_outputs
from .onnx_graph import Graph, chosen_opset
from .onnx_int8 import Int8Layers
from .onnx_results import add_results, image_input, normalised, pixels_again
from .options import WriteOptions, WriterError, about, description, refuse

# as others' readers call them
TASKS = {"classification": "classify", "detection": "detect", "segmentation": "segment"}


def write(checkpoint: AnyCheckpoint, path: Path, options: WriteOptions) -> tuple[Path, ...]:
    """Writes a file.

    Images are (N, channels, height, width), or as `options.layout` says. An int8 file computes with
    integers whatever it takes: of normalised images it makes pixels first.

    Args:
        checkpoint: The model.
        path: The file.
        options: What it is to be like.

    Returns:
        The file.

    Raises:
        WriterError: Options that ONNX or this model does not go with.
    """
    return write_named(checkpoint, path, options, {})


def write_named(
    checkpoint: AnyCheckpoint, path: Path, options: WriteOptions, names: Mapping[str, str]
) -> tuple[Path, ...]:
    """As `write`, with other names for the image and for results."""
    opset = chosen_opset(options.opset, isinstance(checkpoint, Int8Checkpoint))
    refuse(options, "onnx", task_metadata="MediaPipe's tasks read .tflite files: use --to tflite")
    architecture = checkpoint.architecture
    if options.dynamic_size and architecture.head.task == "detection":
        raise WriterError("onnx: dynamic_size: a detector's anchors are those of one size")
    if options.float16 and not isinstance(checkpoint, Checkpoint):
        raise WriterError("onnx: float16: the weights of an int8 model are int8")
    same_padding = options.dynamic_size and architecture.padding == "same"
    graph = Graph(opset, options.float16, same_padding, names)
    image = image_input(graph, checkpoint, options)
    if isinstance(checkpoint, Checkpoint):
        if options.input == "uint8":
            image = normalised(graph, checkpoint, image)
        outputs = float_outputs(graph, checkpoint, image, options)
    else:
        if options.input == "float32":
            image = pixels_again(graph, checkpoint, image)
        outputs = Int8Layers(graph, checkpoint, image, options).outputs()
    add_results(graph, checkpoint, options, outputs)
    graph.save(path, about(checkpoint, options, "entry"), metadata(checkpoint, options))
    return (path,)


def metadata(checkpoint: AnyCheckpoint, options: WriteOptions) -> dict[str, str]:
    """Texts about the file for programs: our description, and what others' readers look for."""
    architecture = checkpoint.architecture
    labels = checkpoint.labels or tuple(f"class {i}" for i in range(architecture.classes))
    texts = {
        "mobilenetv2": json.dumps(description(checkpoint, options)),
        "description": f"MobileNetV2, {checkpoint.architecture.head.task}",
        "imgsz": str(list(architecture.resolution)),
        "stride": str(architecture.output_stride),
        "batch": str(options.batch or 1),
        "channels": str(architecture.in_channels),
        "names": str(dict(enumerate(labels))),
    }
    if task := TASKS.get(architecture.head.task):
        texts["task"] = task
    if licence := checkpoint.provenance.get("licence"):
        texts["license"] = str(licence)
    return texts
