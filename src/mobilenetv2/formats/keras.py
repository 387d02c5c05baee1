"""Reads Keras's MobileNetV2: legacy `.h5` (weights or whole model), `.weights.h5` and `.keras` of
Keras 3.

Legacy files name arrays by layer: as Keras does today (`block_1_expand/kernel:0`), or as it did when
the published weights were made (`mobl1_conv_1_expand/kernel:0`). Keras 3 numbers the layers of each
kind in their order (`layers/conv2d_3/vars/0`). Padding is
TensorFlow's, epsilon 1e-3 and images -1..1, unless the configuration of a whole model says otherwise.
"""

from __future__ import annotations

import io
import math
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ..checkpoint import Checkpoint
from ..errors import MissingExtraError, ModelFileError, UserError, install_hint
from ..files import require_memory
from .assemble import Rules, StoredArray, assemble, assumed, infer_architecture
from .keras_config import (
    Facts,
    configuration_in,
    configuration_of,
    facts_of,
    matched,
    preprocessing_of,
)

BN_EPSILON = 1e-3
OIHW_FROM_HWIO, C1HW_FROM_HWC1 = (3, 2, 0, 1), (2, 3, 0, 1)
NORM_ARRAYS = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
VARS = {  # a layer's variables by the number that Keras 3 gives them
    "conv2d": ("kernel",),
    "depthwise_conv2d": ("depthwise_kernel",),
    "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
    "dense": ("kernel", "bias"),
}


def read_h5(path: Path) -> Checkpoint:
    """The checkpoint in a `.h5` or `.weights.h5` file.

    Raises:
        ModelFileError: Damaged, or not a MobileNetV2; the message names arrays that do not fit.
        MissingExtraError: The package `h5py` is not installed.
    """
    return _read(path, path, path.read_bytes())


def read_keras(path: Path) -> Checkpoint:
    """The checkpoint in a `.keras` archive.

    Raises:
        ModelFileError: As for `read_h5`.
        MissingExtraError: The package `h5py` is not installed.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            weights, config = archive.read("model.weights.h5"), archive.read("config.json")
    except Exception as error:  # zipfile raises nearly anything on damaged archives
        raise ModelFileError(f"{path}: damaged, or not a .keras archive: {error}") from None
    return _read(path, io.BytesIO(weights), config)


def _read(path: Path, content: Path | IO[bytes], config: bytes) -> Checkpoint:
    try:
        import h5py
    except ImportError:
        raise MissingExtraError(
            f"reading Keras files needs h5py; {install_hint('formats')}"
        ) from None
    stored: dict[str, StoredArray] = {}

    def take(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and not name.startswith(("optimizer", "_optimizer")):
            stored[name] = _stored(path, name, item)

    try:
        with h5py.File(content, "r") as file:
            file.visititems(take)
            numbered = any("/vars/" in name for name in stored)
            arrays: dict[str, StoredArray] = {}
            for name, array in _numbered(stored) if numbered else _by_layer(stored):
                if name in arrays:
                    raise ModelFileError(f"two arrays would be {name}")
                arrays[name] = array
            archived = not isinstance(content, Path)
            layers = configuration_of(config) if archived else configuration_in(config)
            return assemble(path, *_described(arrays, facts_of(layers), _size(path, config)))
    except UserError as error:
        if str(error).startswith(f"{path}: "):
            raise
        raise ModelFileError(f"{path}: not Keras's MobileNetV2: {error}") from None
    except Exception as error:  # HDF5 raises nearly anything on damaged files
        raise ModelFileError(f"{path}: damaged, or not a Keras weights file: {error}") from None


def _described(
    arrays: dict[str, StoredArray], facts: Facts, size: tuple[int, int]
) -> tuple[dict[str, StoredArray], Rules]:
    """The arrays, and the rules of their configuration.

    One sigmoid is the softmax of two outputs, of which the first is 0.
    """
    architecture = infer_architecture({name: array.shape for name, array in arrays.items()})
    architecture = matched(
        facts,
        replace(architecture, resolution=size, bn_epsilon=BN_EPSILON),
    )
    preprocessing = preprocessing_of(facts, size)
    rules = Rules(
        "Keras",
        architecture.padding if facts.kernels else "same",
        architecture.bn_epsilon,
        preprocessing,
    )
    notes = [] if facts.rescales else [assumed(rules)]
    if facts.sigmoid and architecture.classes == 1:
        for name in ("classifier.1.weight", "classifier.1.bias"):
            if name in arrays:
                arrays[name] = _after_zeros(arrays[name])
        notes.append(
            "its one output, a sigmoid, became two classes: 0 and 1, whose probability it is; "
            "--labels names them"
        )
    return arrays, replace(rules, notes=tuple(notes))


def _after_zeros(array: StoredArray) -> StoredArray:
    """An array with zeros of the same size before it."""

    def read() -> NDArray[Any]:
        values = array.read()
        return np.concatenate([np.zeros_like(values), values])

    return StoredArray((2 * array.shape[0], *array.shape[1:]), array.dtype, read)


def _stored(path: Path, name: str, item: Any) -> StoredArray:
    """A dataset, which is not read before its shape is checked.

    Raises:
        ModelFileError: Its values are not floats in this file, or take any amount of memory.
    """
    if item.is_virtual or item.external:
        raise ModelFileError(f"its array {name} lies in another file")
    if item.dtype.kind != "f" or item.shape is None:
        raise ModelFileError(f"its array {name} is of the type {item.dtype}")
    if item.compression not in (None, "gzip") or item.scaleoffset is not None:
        raise ModelFileError(
            f"its array {name} is compressed with another method than gzip; `h5repack -f GZIP=4` "
            "writes such a file"
        )
    require_memory(path, max(item.nbytes, _chunk_bytes(item)), f"its array {name}")
    return StoredArray(item.shape, item.dtype, lambda: _values(path, name, item))


def _chunk_bytes(item: Any) -> int:
    return math.prod(item.chunks) * int(item.dtype.itemsize) if item.chunks else 0


def _values(path: Path, name: str, item: Any) -> NDArray[Any]:
    """The values of a dataset. HDF5 inflates a compressed chunk to whatever size it has, so each is
    inflated here first, up to the size that it may have.
    """
    if item.compression:
        size = _chunk_bytes(item)
        for index in range(item.id.get_num_chunks()):
            chunk = item.id.get_chunk_info(index)
            _, content = item.id.read_direct_chunk(chunk.chunk_offset)
            if len(zlib.decompressobj().decompress(content, size + 1)) > size:
                raise ModelFileError(f"its array {name} has a chunk of more than {size} bytes")
    return np.asarray(item[()])


def _by_layer(stored: dict[str, StoredArray]) -> Iterator[tuple[str, StoredArray]]:
    """Legacy names: .../LAYER/ARRAY:0."""
    layers = {path: path.split(":")[0].split("/")[-2] if "/" in path else "" for path in stored}
    depth = max((block[0] + 1 for block in map(_in_block, layers.values()) if block), default=0)
    for path, array in stored.items():
        name = _torchvision_name(layers[path], depth)
        if name is None:
            raise ModelFileError(f"it has no layer {layers[path]!r} (array {path})")
        yield _converted(name, path.split(":")[0].rpartition("/")[2], array, path)


def _torchvision_name(layer: str, depth: int) -> str | None:
    """`block_3_project_BN` -> `features.4.conv.3`; None for a layer of another network."""
    top = {
        "Conv1": "features.0.0",
        "bn_Conv1": "features.0.1",
        "predictions": "classifier.1",
        "Logits": "classifier.1",
    }
    top |= {"Conv_1": f"features.{depth + 1}.0", "Conv_1_bn": f"features.{depth + 1}.1"}
    # "dense" is a classifier that a user has added.
    if layer in top or re.fullmatch(r"dense(_\d+)?", layer):
        return top.get(layer, "classifier.1")
    block = _in_block(layer)
    if block is None:
        return None
    number, part, norm = block
    place = ("expand", "depthwise", "project").index(part) - (number == 0)
    inner = f"{place + norm}" if part == "project" else f"{place}.{int(norm)}"
    return None if place < 0 else f"features.{number + 1}.conv.{inner}"


def _in_block(layer: str) -> tuple[int, str, bool] | None:
    """Keras's number of a layer's block, its part of the block, and whether it is a batch norm.

    None for a layer outside of the blocks.
    """
    if match := re.fullmatch(
        r"(?:expanded_conv|block_(\d{1,3}))_(expand|depthwise|project)(_BN)?", layer
    ):
        return int(match.group(1) or 0), match.group(2), bool(match.group(3))
    if match := re.fullmatch(
        r"(mobl|bn)(\d{1,3})_conv_(?:\d+_)?(?:bn_)?(expand|depthwise|project)", layer
    ):
        return int(match.group(2)), match.group(3), match.group(1) == "bn"
    return None


def _numbered(stored: dict[str, StoredArray]) -> Iterator[tuple[str, StoredArray]]:
    """Keras 3 names: .../KIND_NUMBER/vars/INDEX, numbered by kind in the order of the network."""
    # By kind, number of the layer and number of the variable: the array's path and the array.
    layers: dict[str, dict[int, dict[int, tuple[str, StoredArray]]]] = {kind: {} for kind in VARS}
    for path, array in stored.items():
        match = re.search(r"(?:^|/)([a-z0-9_]*?[a-z0-9])(?:_(\d{1,3}))?/vars/(\d{1,3})$", path)
        if not match or match.group(1) not in VARS:
            raise ModelFileError(f"its array {path} is of a layer that the network does not have")
        kind, number, index = match.groups()
        variables = layers[kind].setdefault(int(number or 0), {})
        if int(index) in variables:
            raise ModelFileError(
                f"its arrays {variables[int(index)][0]} and {path} are the same variable"
            )
        variables[int(index)] = (path, array)
    counts = {kind: max(numbers, default=-1) + 1 for kind, numbers in layers.items()}
    for kind, names in _layer_names(counts).items():
        wrong = sorted(set(layers[kind]) ^ set(range(len(names))))
        if wrong:
            problem = "one too many" if wrong[0] in layers[kind] else "missing"
            raise ModelFileError(
                f"its {kind} number {wrong[0]} is {problem}: the network has {len(names)} of the kind"
            )
        for name, (_, variables) in zip(names, sorted(layers[kind].items()), strict=True):
            for index, (path, array) in sorted(variables.items()):
                if index >= len(VARS[kind]):
                    raise ModelFileError(f"its array {path} is one too many")
                yield _converted(name, VARS[kind][index], array, path)


def _layer_names(counts: dict[str, int]) -> dict[str, list[str]]:
    """torchvision's names of the layers of each kind, in the order in which Keras numbers them.

    Args:
        counts: The number of layers of each kind.
    """
    depth = counts["depthwise_conv2d"]
    blocks = [(f"features.{block}.conv", block > 1) for block in range(1, depth + 1)]
    kernels, depthwise, norms = ["features.0.0"], [], ["features.0.1"]
    for path, expands in blocks:
        kernels += [f"{path}.0.0"] * expands + [f"{path}.{1 + expands}"]
        depthwise.append(f"{path}.{int(expands)}.0")
        norms += [f"{path}.0.1"] * expands + [f"{path}.{int(expands)}.1", f"{path}.{2 + expands}"]
    if counts["conv2d"] > len(kernels) or counts["batch_normalization"] > len(norms):
        kernels.append(f"features.{depth + 1}.0")
        norms.append(f"features.{depth + 1}.1")
    return {
        "conv2d": kernels,
        "depthwise_conv2d": depthwise,
        "batch_normalization": norms,
        "dense": ["classifier.1"] if counts["dense"] else [],
    }


def _converted(name: str, kind: str, array: StoredArray, path: str) -> tuple[str, StoredArray]:
    """One array with torchvision's name, its axes in PyTorch's order."""
    # Keras 3 uses either name for both; a depthwise kernel is HWC1.
    axes = len(array.shape)
    if kind in ("kernel", "depthwise_kernel") and axes == 4:
        depthwise = re.fullmatch(r"features\.(1\.conv\.0|\d+\.conv\.1)\.0", name)
        return f"{name}.weight", array.transpose(C1HW_FROM_HWC1 if depthwise else OIHW_FROM_HWIO)
    if kind == "kernel" and axes == 2:
        return f"{name}.weight", array.transpose((1, 0))
    if kind == "bias" and name == "classifier.1":
        return f"{name}.bias", array
    if kind in NORM_ARRAYS:
        return f"{name}.{NORM_ARRAYS[kind]}", array
    raise ModelFileError(f"its array {path} {array.shape} has no place in the network")


def _size(path: Path, config: bytes) -> tuple[int, int]:
    """The input size in the model's configuration, else in the published file's name, else 224.

    Searched in the raw bytes of the file: reading an attribute of a damaged file with HDF5 may
    never return.
    """
    match = re.search(rb'"batch_(?:input_)?shape": ?\[null, ?(\d{1,5}), ?(\d{1,5}), ?\d\]', config)
    if match:
        return int(match.group(1)), int(match.group(2))
    named = re.search(r"tf_kernels_[\d.]+_(\d{2,3})\D", path.name)
    return (int(named.group(1)),) * 2 if named else (224, 224)
