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
from tflite_file import write_tflite

from mobilenetv2.architecture import Architecture
from mobilenetv2.checkpoint import Checkpoint
from mobilenetv2.graph import array_shapes, layers
from mobilenetv2.images import Preprocessing
from mobilenetv2.int8 import AnyCheckpoint, Int8Checkpoint
from mobilenetv2.writers import WriteOptions, onnx


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


def write_ncnn(checkpoint: Checkpoint, path: Path, batch: int | None = 1) -> None:
    """Writes ncnn: a `.param` file of layers and a `.bin` file of float32 weights, with ReLU6 fused."""
    network = layers(checkpoint.architecture)
    reads = [source for layer in network for source in layer.sources]
    lines, blobs, arrays = ["Input image 0 1 image"], 1, []
    copies_read: dict[str, int] = {}

    def next_copy(source: str) -> str:
        """The tensor itself, or, where several layers read it, its next copy."""
        if reads.count(source) == 1:
            return source
        copies_read[source] = copies_read.get(source, -1) + 1
        return f"{source}/{copies_read[source]}"

    for layer in network:
        inputs = " ".join(next_copy(source) for source in layer.sources)
        output = "logits" if layer is network[-1] else layer.name
        if layer.weight:
            weight, bias = folded(checkpoint, layer)
            arrays += [np.zeros(1, np.int32), weight, bias]  # 0: the weights are float32
        if layer.kind == "add":
            kind, settings = "BinaryOp", "0=0"
        elif layer.kind == "pool":
            kind, settings = "Pooling", "0=1 4=1"  # average, global
        elif layer.kind == "linear":
            kind, settings = "InnerProduct", f"0={len(bias)} 1=1 2={weight.size}"
        else:
            kind = "ConvolutionDepthWise" if layer.kind == "depthwise" else "Convolution"
            top, bottom, left, right = layer.padding
            settings = (
                f"0={len(bias)} 1={layer.kernel} 2={layer.dilation} 3={layer.stride} 4={left} 14={top} "
                f"15={right} 16={bottom} 5=1 6={weight.size}"
            )
            settings += f" 7={layer.groups}" if layer.kind == "depthwise" else ""
            settings += " 9=3 -23310=2,0.0,6.0" if layer.activation == "relu6" else ""
        lines.append(f"{kind} {layer.name} {len(layer.sources)} 1 {inputs} {output} {settings}")
        blobs += 1
        if (copies := reads.count(layer.name)) > 1:
            names = " ".join(f"{layer.name}/{i}" for i in range(copies))
            lines.append(f"Split {layer.name}/split 1 {copies} {layer.name} {names}")
            blobs += copies
    path.write_text("\n".join(["7767517", f"{len(lines)} {blobs}", *lines]) + "\n")
    path.with_suffix(".bin").write_bytes(b"".join(array.tobytes() for array in arrays))


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
