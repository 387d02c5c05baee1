"""Folders for transformers.js: an ONNX file, and how its images are prepared and classes named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..images import Preprocessing
from ..int8 import AnyCheckpoint, Int8Checkpoint
from . import onnx
from .labels import unique_labels
from .options import WriteOptions, WriterError, by_way_of, refuse

TASKS = {
    "classification": "MobileNetV2ForImageClassification",
    "segmentation": "MobileNetV2ForSemanticSegmentation",
}
RESAMPLE = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}  # Pillow's numbers
NAMES = {"image": "pixel_values", "scores": "logits"}


def write(checkpoint: AnyCheckpoint, path: Path, options: WriteOptions) -> tuple[Path, ...]:
    """Writes a folder that a pipeline "image-classification" or "image-segmentation" reads.

    The pipeline normalises images, of an int8 model too, makes probabilities or a mask, and passes
    any number of images at once, so that the file takes any.

    Args:
        checkpoint: The model: a classifier, or a segmenter of images that are stretched.
        path: The folder.
        options: What the ONNX file is to be like.

    Returns:
        The folder.

    Raises:
        WriterError: Options, a task or a preprocessing that a pipeline does not go with.
    """
    by_the_pipeline = "the pipeline does this"
    refuse(
        options,
        "transformers.js",
        input=f"{by_the_pipeline}: leave it at float32",
        results=f"{by_the_pipeline}: leave it at raw",
        layout="images are (N, C, H, W)",
    )
    if options.batch not in (1, None):
        raise WriterError(f"transformers.js: batch {options.batch}: it takes any number of images")
    texts = {
        "config.json": model_settings(checkpoint),
        "preprocessor_config.json": image_settings(checkpoint),
    }
    (path / "onnx").mkdir(parents=True)
    file = path / "onnx" / file_name(checkpoint)
    with by_way_of("onnx", "transformers.js"):
        onnx.write_named(checkpoint, file, replace(options, batch=None), NAMES)
    for name, settings in texts.items():
        text = json.dumps(settings, indent=2)
        (path / name).write_text(text + "\n", encoding="utf-8")
    return (path,)


def file_name(checkpoint: AnyCheckpoint) -> str:
    """The name of the ONNX file in the folder `onnx`, by which a pipeline knows its numbers."""
    return "model_quantized.onnx" if isinstance(checkpoint, Int8Checkpoint) else "model.onnx"


def model_settings(checkpoint: AnyCheckpoint) -> dict[str, Any]:
    """config.json.

    Raises:
        WriterError: A detector, or a network without a head.
    """
    architecture = checkpoint.architecture
    if architecture.head.task not in TASKS:
        raise WriterError(
            f"transformers.js: it has no MobileNetV2 for {architecture.head.task}; use --to onnx"
        )
    labels = unique_labels(checkpoint, "transformers.js")
    height, width = architecture.resolution
    return {
        "model_type": "mobilenet_v2",
        "architectures": [TASKS[architecture.head.task]],
        "image_size": height if height == width else [height, width],
        "num_channels": architecture.in_channels,
        "depth_multiplier": architecture.width_mult,
        "depth_divisible_by": architecture.divisor,
        "min_depth": architecture.min_channels,
        "output_stride": architecture.output_stride,
        "tf_padding": architecture.padding == "same",
        "layer_norm_eps": architecture.bn_epsilon,
        "hidden_act": "relu6",
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
        "transformers.js_config": {
            "dtype": "q8" if isinstance(checkpoint, Int8Checkpoint) else "fp32"
        },
    }


def image_settings(checkpoint: AnyCheckpoint) -> dict[str, Any]:
    """preprocessor_config.json.

    Raises:
        WriterError: A preprocessing that it cannot say.
    """
    preprocessing = checkpoint.preprocessing
    height, width = preprocessing.size
    segments = checkpoint.architecture.head.task == "segmentation"
    if reason := _obstacle(preprocessing, segments):
        raise WriterError(f"transformers.js: {reason}; use --to onnx")
    settings: dict[str, Any] = {
        # the processor that makes masks of a segmenter's logits
        "image_processor_type": "SegformerImageProcessor"
        if segments
        else "MobileNetV2ImageProcessor",
        "do_resize": True,
        "size": {"height": height, "width": width},
        "resample": RESAMPLE[preprocessing.interpolation],
        "do_center_crop": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocessing.mean),
        "image_std": list(preprocessing.std),
    }
    if preprocessing.resize == "short_side":
        settings["size"] = {"shortest_edge": round(height / preprocessing.crop_fraction)}
        settings["do_center_crop"] = True
        settings["crop_size"] = {"height": height, "width": width}
    return settings


def _obstacle(preprocessing: Preprocessing, segments: bool) -> str:
    """What of a preprocessing a pipeline cannot do; "" for one that it can."""
    if preprocessing.channels != 3:
        return "its images have three channels"
    if segments and preprocessing.resize != "stretch":
        return f"it makes masks of stretched images only, not of {preprocessing.resize!r}"
    if preprocessing.resize == "fit":
        return "it does not fit images into a frame"
    if preprocessing.resize == "short_side" and len(set(preprocessing.size)) > 1:
        return "it crops squares only"
    return ""
