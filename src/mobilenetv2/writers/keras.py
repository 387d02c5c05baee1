"""Weights of Keras's MobileNetV2: legacy `.h5`, and `.weights.h5` of Keras 3."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..architecture import MOBILENET_V2
from ..checkpoint import Checkpoint
from ..formats.keras import BN_EPSILON, NORM_ARRAYS
from ..graph import layers, network
from ..int8 import AnyCheckpoint
from ..layer import Layer
from .arrays import norm_arrays
from .beside import write_beside
from .options import WriteOptions, WriterError
from .state_dicts import check

NUMBERED = ".weights.h5"  # the ending by which Keras 3 knows its own files
Arrays = dict[str, NDArray[Any]]


def write(checkpoint: AnyCheckpoint, path: Path, options: WriteOptions) -> tuple[Path, ...]:
    """Writes weights that `keras.applications.MobileNetV2(weights=PATH, alpha=..., classes=...,
    input_shape=...)` and `model.load_weights(PATH)` load.

    Batch norms with another epsilon than Keras's are recomputed for it.

    Args:
        checkpoint: A classifier or feature extractor (`include_top=False`).
        path: The file: `.weights.h5` is Keras 3's own format, any other `.h5` the legacy one. The
            description stands beside it in a `.json`, the labels in a `.labels.txt`.
        options: What it is to be like.

    Returns:
        The files.

    Raises:
        WriterError: Options or a network that Keras does not have.
    """
    if isinstance(checkpoint, Checkpoint):
        check_padding(checkpoint)
    check(checkpoint, options, "keras", stages=MOBILENET_V2, in_channels=3, scale_ends=True)
    assert isinstance(checkpoint, Checkpoint)
    if options.float16:
        raise WriterError("keras: float16: its files of weights are float32")
    import h5py

    with h5py.File(path, "w") as file:
        if path.name.endswith(NUMBERED):
            write_numbered(file, checkpoint)
        else:
            write_legacy(file, checkpoint)
    return (path, *write_beside(checkpoint, path, options))


def check_padding(checkpoint: Checkpoint) -> None:
    """Refuses symmetric padding, unless it is TensorFlow's at the model's size.

    Raises:
        WriterError: It is not.
    """
    architecture = checkpoint.architecture
    same = network(replace(architecture, padding="same"))
    if [layer.padding for layer in network(architecture).layers] != [
        layer.padding for layer in same.layers
    ]:
        raise WriterError(
            "keras: padding 'symmetric': its MobileNetV2 pads as TensorFlow does, which is another "
            "network at {} x {}".format(*architecture.resolution)
        )


def layer_names(layer: Layer) -> tuple[str, str]:
    """Keras's names of a layer and of its batch norm."""
    if layer.kind == "linear":
        return "predictions", ""
    if layer.block is None:
        return ("Conv1", "bn_Conv1") if layer.role == "stem" else ("Conv_1", "Conv_1_bn")
    number = layer.block - 1
    path = f"block_{number}_{layer.role}" if number else f"expanded_conv_{layer.role}"
    return path, f"{path}_BN"


def in_keras_axes(layer: Layer, kernel: NDArray[Any]) -> NDArray[Any]:
    """(out, in, h, w) -> (h, w, in, out); depthwise (c, 1, h, w) -> (h, w, c, 1); linear (out, in)
    -> (in, out).
    """
    if layer.kind == "linear":
        return kernel.T
    return np.moveaxis(kernel, (0, 1), (2, 3) if layer.kind == "depthwise" else (3, 2))


def weighted_layers(checkpoint: Checkpoint) -> Iterator[tuple[str, str, Arrays]]:
    """The kind, the name and the arrays of every layer of Keras that has some, in its order."""
    for layer in layers(checkpoint.architecture):
        if layer.weight is None:
            continue
        name, norm = layer_names(layer)
        arrays = {"kernel": in_keras_axes(layer, checkpoint.arrays[layer.weight])}
        if layer.bias:
            arrays["bias"] = checkpoint.arrays[layer.bias]
        kind = {"linear": "dense", "depthwise": "depthwise_conv2d"}.get(layer.kind, "conv2d")
        yield kind, name, arrays
        if layer.norm:
            ours = norm_arrays(checkpoint, layer, BN_EPSILON)
            yield (
                "batch_normalization",
                norm,
                {theirs: ours[name] for theirs, name in NORM_ARRAYS.items()},
            )


def write_legacy(file: Any, checkpoint: Checkpoint) -> None:
    """One group per layer with its arrays by name; Keras goes by their order."""
    names = []
    for _, layer, arrays in weighted_layers(checkpoint):
        group = file.create_group(layer)
        group.attrs["weight_names"] = [f"{layer}/{name}".encode() for name in arrays]
        for name, array in arrays.items():
            group[f"{layer}/{name}"] = array
        names.append(layer.encode())
    file.attrs["layer_names"] = names
    file.attrs["backend"] = "tensorflow"
    file.attrs["keras_version"] = "3.0.0"
    file.create_group("top_level_model_weights").attrs["weight_names"] = np.zeros(0)


def write_numbered(file: Any, checkpoint: Checkpoint) -> None:
    """One group per layer, numbered by kind, with its arrays by number."""
    counts: dict[str, int] = {}
    for kind, layer, arrays in weighted_layers(checkpoint):
        number = counts[kind] = counts.get(kind, -1) + 1
        group = file.create_group(f"layers/{kind}{f'_{number}' if number else ''}/vars")
        group.attrs["name"] = layer
        for index, array in enumerate(arrays.values()):
            group[str(index)] = array
