"""LiteRT (TensorFlow Lite) files: float32, float16, or int8 with the model's own integers, for every
head.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from ..checkpoint import Checkpoint
from ..int8 import AnyCheckpoint, Int8Checkpoint
from ..layer import IMAGE
from .options import WriteOptions, WriterError, about, description, refuse
from .tflite_graph import Graph
from .tflite_int8 import Int8Layers, image_codes, scaled
from .tflite_layers import Layers
from .tflite_metadata import NAME, attach_labels, check_task, task_metadata
from .tflite_results import add_results


def write(checkpoint: AnyCheckpoint, path: Path, options: WriteOptions) -> tuple[Path, ...]:
    """Writes a file.

    Images are (N, height, width, channels). An int8 file computes with integers whatever it takes:
    of normalised images it makes pixels first.

    Args:
        checkpoint: The model.
        path: The file.
        options: What it is to be like.

    Returns:
        The file.

    Raises:
        WriterError: Options that LiteRT or this model does not go with.
    """
    _check(checkpoint, options)
    graph = Graph(any_batch=options.batch is None)
    if isinstance(checkpoint, Int8Checkpoint):
        image = image_codes(graph, checkpoint, options)
        layers: Layers = Int8Layers(graph, checkpoint, image, options)
    else:
        layers = Layers(graph, checkpoint, _image(graph, checkpoint, options), options)
    add_results(graph, checkpoint, options, layers.outputs())
    text = about(checkpoint, options, "buffer")
    metadata = {"mobilenetv2": json.dumps(description(checkpoint, options)).encode()}
    if options.task_metadata:
        metadata[NAME] = task_metadata(checkpoint, options, text)
    graph.save(path, text, metadata)
    if options.task_metadata and checkpoint.labels:
        attach_labels(path, checkpoint.labels)
    return (path,)


def _check(checkpoint: AnyCheckpoint, options: WriteOptions) -> None:
    refuse(options, "tflite", opset="it is a version of ONNX's operators")
    task = checkpoint.architecture.head.task
    if options.task_metadata:
        check_task(checkpoint, options)
    if options.layout == "nchw":
        raise WriterError("tflite: layout 'nchw': LiteRT's operators read NHWC; leave it out")
    if options.float16 and isinstance(checkpoint, Int8Checkpoint):
        raise WriterError("tflite: float16: the weights of an int8 model are int8")
    if options.dynamic_size and task == "detection":
        raise WriterError("tflite: dynamic_size: a detector's anchors are those of one size")
    if options.dynamic_size and task == "segmentation":
        raise WriterError(
            "tflite: dynamic_size: the operator that enlarges the scores has one size"
        )
    if options.dynamic_size and getattr(checkpoint, "pooling", "mean") == "average":
        raise WriterError("tflite: dynamic_size: its AVERAGE_POOL_2D is of a map of one size")
    if options.results == "final" and task == "detection" and options.batch != 1:
        raise WriterError(
            "tflite: batch: the operator that selects detections takes one image; give batch 1, or "
            "results 'raw'"
        )


def _image(graph: Graph, checkpoint: Checkpoint, options: WriteOptions) -> int:
    """Declares the image and returns its tensor, normalised."""
    architecture = checkpoint.architecture
    shape = (options.batch or 1, *architecture.resolution, architecture.in_channels)
    graph.inputs = [graph.tensor(IMAGE, shape, options.input)]
    if options.input == "float32":
        return graph.inputs[0]
    pixels = graph.cast(graph.inputs[0], f"{IMAGE}.real", np.float32)
    return scaled(graph, pixels, *checkpoint.preprocessing.scale_offset())
