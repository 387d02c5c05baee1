"""State dicts of PyTorch libraries: the arrays under their names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..architecture import Architecture
from ..checkpoint import Checkpoint
from ..formats.pytorch import TIMM_BLOCK, timm_ends
from ..graph import blocks, layers
from ..int8 import AnyCheckpoint
from ..layer import Layer
from .arrays import check_float16, norm_arrays
from .options import WriteOptions, WriterError, refuse

EPSILON = 1e-5  # of torchvision's and timm's batch norms
Arrays = dict[str, NDArray[Any]]
Naming = Callable[[Layer], tuple[str, str]]  # the paths of a layer's kernel and of its batch norm
FIXED = {  # what no library has another value of
    "stem_channels": 32,
    "stem_stride": 2,
    "last_channels": 1280,
    "output_stride": 32,
    "bottleneck": "linear",
    "shortcut": "bottleneck",
    "divisor": 8,
    "min_channels": 8,
}


def state_dict(checkpoint: Checkpoint, names: Naming, epsilon: float | None = None) -> Arrays:
    """All arrays under other names, each batch norm with its counter of batches.

    Args:
        checkpoint: The model.
        names: Those of the library.
        epsilon: Of the library's batch norms, for which those of the model are recomputed; None:
            they stay as they are.
    """
    arrays: Arrays = {}
    for layer in layers(checkpoint.architecture):
        if layer.weight is None:
            continue
        path, norm = names(layer)
        arrays[f"{path}.weight"] = checkpoint.arrays[layer.weight]
        if layer.bias:
            arrays[f"{path}.bias"] = checkpoint.arrays[layer.bias]
        if layer.norm:
            theirs = norm_arrays(
                checkpoint, layer, layer.bn_epsilon if epsilon is None else epsilon
            )
            arrays |= {f"{norm}.{name}": array for name, array in theirs.items()}
            arrays[f"{norm}.num_batches_tracked"] = np.array(0, np.int64)
    return arrays


def torchvision_names(layer: Layer) -> tuple[str, str]:
    """torchvision's paths of a layer, which are ours."""
    return layer.name, str(layer.norm)


def timm_names(architecture: Architecture) -> Naming:
    """timm's paths of the layers of a classifier or feature extractor."""
    places = [
        f"{stage}.{index}"
        for stage, row in enumerate(architecture.stages)
        for index in range(row.repeats)
    ]
    ends = {ours: theirs for theirs, ours in timm_ends(len(blocks(architecture))).items()}
    inner = [{ours: theirs for theirs, ours in parts.items()} for parts in TIMM_BLOCK]

    def renamed(path: str, block: int) -> str:
        within = inner[block > 1][path.removeprefix(f"features.{block}.conv.")]
        return f"blocks.{places[block - 1]}.{within}"

    def names(layer: Layer) -> tuple[str, str]:
        if layer.block is None:
            return ends[layer.name], ends[layer.norm] if layer.norm else ""
        return renamed(layer.name, layer.block), renamed(str(layer.norm), layer.block)

    return names


def with_float16_kernels(arrays: Arrays, target: str) -> Arrays:
    """A state dict with its kernels as float16.

    Raises:
        WriterError: float16 does not hold one of them.
    """
    kernels = {name: array for name, array in arrays.items() if array.ndim > 1}
    for name, kernel in kernels.items():
        check_float16(target, name, kernel)
    return arrays | {name: kernel.astype(np.float16) for name, kernel in kernels.items()}


def check(checkpoint: AnyCheckpoint, options: WriteOptions, target: str, **fixed: Any) -> None:
    """Refuses what the files of weights of a library cannot hold.

    Args:
        checkpoint: The model.
        options: What the file is to be like.
        target: The library's name, for messages.
        fixed: By the name of a field of the architecture: the library's value.

    Raises:
        WriterError: The message names the reason.
    """
    if not isinstance(checkpoint, Checkpoint):
        raise WriterError(f"{target}: its weights are floats: write the float model (--float)")
    library = f"{target} normalises before the network and gives logits: a file has weights alone"
    refuse(
        options,
        target,
        input=library,
        results=library,
        layout="a file has weights alone",
        batch="a file has weights alone",
        dynamic_size="a file has weights alone",
        opset="only ONNX has one",
        task_metadata="MediaPipe's tasks read .tflite files: use --to tflite",
    )
    architecture = checkpoint.architecture
    if architecture.head.task not in ("classification", "features"):
        raise WriterError(f"{target}: its MobileNetV2 is a classifier, not {architecture.head}")
    for name, value in {**FIXED, **fixed}.items():
        if getattr(architecture, name) != value:
            raise WriterError(
                f"{target}: its MobileNetV2 has {name} {value!r}, not {getattr(architecture, name)!r}"
            )
