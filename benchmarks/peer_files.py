"""Writes a classifier in the formats of the peers, with one loop over `layers()` per format.

Batch norms are folded, and ReLU6 is fused where the format can. All formats hold float32, ONNX and
TensorFlow Lite int8 too.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from peer_arrays import folded
from peers import PEERS, Recipe

from mobilenetv2.architecture import Architecture
from mobilenetv2.checkpoint import Checkpoint
from mobilenetv2.graph import array_shapes, layers
from mobilenetv2.images import Preprocessing
from mobilenetv2.int8 import AnyCheckpoint, Int8Checkpoint
from mobilenetv2.writers import WriteOptions, ncnn, onnx, tflite


def random_checkpoint(width_mult: float = 1.0, resolution: int = 224, seed: int = 0) -> Checkpoint:
    """A classifier with random weights and TensorFlow's padding.

    He's deviation and batch-norm statistics near 0 and 1 keep its activations in the range of a
    trained network's.
    """
    size = (resolution, resolution)
    architecture = Architecture(width_mult=width_mult, resolution=size, padding="same")
    rng = np.random.default_rng(seed)
    arrays = {}
    for name, shape in array_shapes(architecture).items():
        if name.endswith("running_var"):
            array = rng.uniform(0.5, 2, shape)
        elif name.endswith(("running_mean", "bias")):
            array = rng.normal(0, 0.2, shape)
        elif len(shape) == 1:
            array = rng.uniform(0.5, 1.5, shape)
        else:
            array = rng.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape)
        arrays[name] = array.astype(np.float32)
    return Checkpoint(architecture, arrays, (), Preprocessing(size=size), {"source": "random"})


def write(checkpoint: AnyCheckpoint, peer: str, folder: Path, batch: int | None = 1) -> Path:
    """Writes the model file of a peer, unless another peer with the same format has written it.

    Args:
        checkpoint: A classifier; an int8 one must store all tensors.
        peer: A key of `PEERS`.
        folder: The folder for the file.
        batch: Images per call; None leaves it open (ONNX only).

    Returns:
        The path of the file.
    """
    path = folder / f"model{PEERS[peer].suffix}"
    if not path.exists():
        if isinstance(checkpoint, Int8Checkpoint):
            INT8_WRITERS[path.suffix](checkpoint, path, batch)
        else:
            WRITERS[path.suffix](checkpoint, path, batch)
    return path


def recipe(checkpoint: AnyCheckpoint) -> Recipe:
    """The checkpoint's preprocessing and labels, as a user of a peer would write them.

    Raises:
        SystemExit: The preprocessing is not a square RGB crop after resizing the short side.
    """
    p = checkpoint.preprocessing
    if p.resize != "short_side" or p.size[0] != p.size[1] or p.channels != 3:
        raise SystemExit("the programs of the peers only know square RGB crops of the short side")
    labels = checkpoint.labels or tuple(
        f"class {i}" for i in range(checkpoint.architecture.classes)
    )
    short_side = round(p.size[0] / p.crop_fraction)
    return Recipe(short_side, p.size[0], p.interpolation, p.mean, p.std, labels)


def write_onnx(checkpoint: AnyCheckpoint, path: Path, batch: int | None = 1) -> None:
    """Writes ONNX: of normalised images in float32, of pixels in int8."""
    takes = "uint8" if isinstance(checkpoint, Int8Checkpoint) else "float32"
    onnx.write(checkpoint, path, WriteOptions(batch=batch, input=takes))


def write_tflite(checkpoint: AnyCheckpoint, path: Path, batch: int | None = 1) -> None:
    """Writes LiteRT: of normalised images in float32, of pixels in int8."""
    takes = "uint8" if isinstance(checkpoint, Int8Checkpoint) else "float32"
    tflite.write(checkpoint, path, WriteOptions(batch=batch, input=takes))


def write_ncnn(checkpoint: Checkpoint, path: Path, batch: int | None = 1) -> None:
    """Writes ncnn's two files."""
    ncnn.write(checkpoint, path, WriteOptions())


def write_torch(checkpoint: Checkpoint, path: Path, batch: int | None = 1) -> None:
    """Writes the calls that PyTorch makes, with their tensors, for `load_torch`."""
    import torch

    steps = []
    for layer in layers(checkpoint.architecture):
        step: dict[str, Any] = {"kind": layer.kind, "name": layer.name, "sources": layer.sources}
        if layer.weight:
            step["weight"], step["bias"] = map(torch.from_numpy, folded(checkpoint, layer))
        if layer.kind in ("conv", "depthwise"):
            top, bottom, left, right = layer.padding
            symmetric = top == bottom and left == right
            step["pad"] = None if symmetric else (left, right, top, bottom)
            step["padding"] = (top, left) if symmetric else 0
            step["stride"], step["groups"] = layer.stride, layer.groups
            step["relu6"] = layer.activation == "relu6"
        steps.append(step)
    torch.save(steps, path)


WRITERS: dict[str, Callable[[Checkpoint, Path, int | None], None]] = {
    ".onnx": write_onnx,
    ".tflite": write_tflite,
    ".param": write_ncnn,
    ".pt": write_torch,
}
INT8_WRITERS: dict[str, Callable[[Int8Checkpoint, Path, int | None], None]] = {
    ".onnx": write_onnx,
    ".tflite": write_tflite,
}
