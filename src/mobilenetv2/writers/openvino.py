"""OpenVINO files (.xml and .bin), made of the ONNX graph, with what its Model API reads of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from ..int8 import AnyCheckpoint
from . import onnx
from .options import WriteOptions, WriterError, by_way_of, description, refuse

# names of Model API's wrappers; its SSD takes other outputs than ours
MODEL_TYPES = {"classification": "Classification", "segmentation": "Segmentation"}
RESIZES = {"short_side": "crop", "stretch": "standard", "fit": "fit_to_window"}


def write(checkpoint: AnyCheckpoint, path: Path, options: WriteOptions) -> tuple[Path, ...]:
    """Writes the two files.

    Args:
        checkpoint: The model.
        path: The .xml file; the .bin file stands beside it.
        options: What they are to be like; their images and results are those of ONNX.

    Returns:
        Both.

    Raises:
        WriterError: As for ONNX, or OpenVINO would not read a file of this name.
    """
    import openvino

    refuse(options, "openvino", opset="OpenVINO has operators of its own")
    if path.suffix != ".xml":
        raise WriterError(f"{path.name}: OpenVINO reads files that end in .xml, in small letters")
    graph = path.with_name(f"{path.name}.onnx")
    with by_way_of("onnx", "openvino"):
        onnx.write(checkpoint, graph, options)
    # not `convert_model`, which reports its use to a server
    model = openvino.Core().read_model(graph)
    for name, value in model_info(checkpoint, options).items():
        model.set_rt_info(value, ["model_info", name])
    openvino.save_model(model, path, compress_to_fp16=options.float16)
    graph.unlink()
    return path, path.with_suffix(".bin")


def model_info(checkpoint: AnyCheckpoint, options: WriteOptions) -> dict[str, str]:
    """Facts for Model API, which prepares images and names classes by them, and our description."""
    preprocessing = checkpoint.preprocessing
    mean, std = (255 * np.array(values) for values in (preprocessing.mean, preprocessing.std))
    if options.input == "uint8":
        mean, std = np.zeros_like(mean), np.ones_like(std)
    facts = {
        "mobilenetv2": json.dumps(description(checkpoint, options)),
        "mean_values": numbers(mean),
        "scale_values": numbers(std),
        "resize_type": RESIZES[preprocessing.resize],
        "reverse_input_channels": "False",
    }
    if checkpoint.labels:
        # divided by spaces there, in XML
        joined = " ".join(re.sub(r"[\s\0-\x1f]+", "_", x) or "_" for x in checkpoint.labels)
        facts["labels"] = joined.encode("utf-8", "replace").decode()
    if kind := MODEL_TYPES.get(checkpoint.architecture.head.task):
        facts["model_type"] = kind
    return facts


def numbers(values: Any) -> str:
    """Numbers as Model API reads them."""
    return " ".join(f"{value:.9g}" for value in values)
