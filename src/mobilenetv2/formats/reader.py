"""Reads a model file of any known kind, recognised by its content."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

from ..architecture import Architecture
from ..checkpoint import Checkpoint, is_ours
from ..errors import ModelFileError, UserError
from ..files import (
    LARGEST_NETWORK_BYTES,
    require_file,
    require_memory,
    require_size,
)
from ..graph import array_shapes
from ..stored import StoredArrays

if TYPE_CHECKING:
    from ..int8 import AnyCheckpoint

MAX_MESSAGE = 4000
WRITTEN = (".onnx", ".xml", ".param")  # endings of files that the package writes and does not read
KINDS = ("mobilenetv2", "safetensors", "tflite", "tgz", "keras", "hdf5", "pytorch")


def recognise(path: Path) -> str:
    """The kind of a model file by its content, one of `KINDS`.

    Raises:
        ModelFileError: No such file, or of an unknown kind.
    """
    return _recognise(path)[0]


def _recognise(path: Path) -> tuple[str, StoredArrays | None]:
    """The kind, and the arrays of a safetensors file."""
    require_file(path)
    try:
        with open(path, "rb") as file:
            head = file.read(512)
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read: {error.strerror}") from None
    if head[4:8] == b"TFL3":
        return "tflite", None
    if head.startswith(b"\x1f\x8b"):
        return "tgz", None
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return "hdf5", None
    if head[8:9] == b"{":
        arrays = StoredArrays(path)
        return "mobilenetv2" if is_ours(arrays.texts) else "safetensors", arrays
    if head.startswith(b"PK\x03\x04"):
        return "keras" if "model.weights.h5" in _zip_members(path) else "pytorch", None
    # A bare pickle, or a tar archive of PyTorch before 0.4.
    if head[:1] == b"\x80" or head[257:262] == b"ustar":
        return "pytorch", None
    if head.startswith(b"mnv2prog") or path.suffix.lower() in WRITTEN:
        raise ModelFileError(
            f"{path}: a file of this kind is written by `mobilenetv2 convert`, not read: give the model "
            "that it was made of"
        )
    raise ModelFileError(
        f"{path}: not a model file of a known kind (.safetensors of ours or others, .pth, .tflite, .tgz, .h5, .keras)"
    )


@overload
def read(path: Path, int8: Literal[False], weights_of: str | None = None) -> Checkpoint: ...
@overload
def read(path: Path, int8: bool = True, weights_of: str | None = None) -> AnyCheckpoint: ...
def read(path: Path, int8: bool = True, weights_of: str | None = None) -> AnyCheckpoint:
    """The checkpoint in any model file: float32, or int8 where the file is.

    Args:
        path: The file.
        int8: Whether the result may be int8; False turns a quantised .tflite file into float32
            and refuses an int8 file of ours.
        weights_of: Which weights of a PyTorch file that holds several: "ema" for averages over the
            training, "raw" for those that they are averages of, or a name as the file has it.
            Default: the averages, if there are any.

    Raises:
        ModelFileError: Unknown, damaged or not a MobileNetV2; the message names the file and the
            array at fault.
        MissingExtraError: A library that this kind of file needs is not installed.
    """
    if not isinstance(path, str | os.PathLike):
        raise ModelFileError(f"a model is the name of a file, not {type(path).__name__}")
    try:
        return _read(Path(os.fsdecode(path)), int8, weights_of)
    except UserError as error:  # names in a file may be of any length, and hold newlines
        message = " ".join(str(error).splitlines())
        raise type(error)(
            message if len(message) <= MAX_MESSAGE else f"{message[:MAX_MESSAGE]} ..."
        ) from None


def _read(path: Path, int8: bool, weights_of: str | None) -> AnyCheckpoint:
    kind, arrays = _recognise(path)
    if weights_of not in (None, "raw") and kind not in ("pytorch", "safetensors"):
        raise ModelFileError(f"{path}: holds one set of weights, and none of {weights_of!r:.80}")
    if arrays is not None and kind == "mobilenetv2":
        _require_size_of_network(path, arrays.texts)
        if int8 and "quantization" in arrays.texts:
            from ..int8 import Int8Checkpoint

            return Int8Checkpoint.from_file(path, arrays.texts, arrays)
        return Checkpoint.from_file(path, arrays.texts, arrays)
    require_size(path)
    if kind == "tflite":
        from .tflite import read_tflite

        return read_tflite(path, int8)
    if kind == "tgz":
        from .tgz import read_tgz

        return read_tgz(path, int8)
    from .own import with_own_facts

    if kind in ("keras", "hdf5"):
        from .keras import read_h5, read_keras

        return with_own_facts(path, read_keras(path) if kind == "keras" else read_h5(path))
    from .pytorch import read_foreign_safetensors, read_pth

    reader = read_pth if kind == "pytorch" else read_foreign_safetensors
    return with_own_facts(path, reader(path, weights_of))


def _require_size_of_network(path: Path, header: Mapping[str, str]) -> None:
    """Refuses a large file of ours that holds more than the network it describes."""
    size = path.stat().st_size
    if size <= LARGEST_NETWORK_BYTES:
        return
    try:
        shapes = array_shapes(Architecture.from_json(header.get("architecture", "")))
    except (UserError, ValueError, TypeError) as error:
        raise ModelFileError(f"{path}: damaged: its architecture cannot be read: {error}") from None
    needed = 4 * sum(math.prod(shape) for shape in shapes.values())  # float32
    if size > needed + LARGEST_NETWORK_BYTES:
        raise ModelFileError(
            f"{path}: damaged: {size >> 20} MB, but its network has {needed >> 20} MB of arrays"
        )


def _zip_members(path: Path) -> list[str]:
    """The names of an archive's members, which together are not too large to be read."""
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            require_memory(
                path, sum(entry.file_size for entry in archive.infolist()), "its content"
            )
            return archive.namelist()
    except UserError as error:
        raise ModelFileError(f"{path}: {error}") from None
    except Exception:  # zipfile raises nearly anything on damaged archives
        raise ModelFileError(f"{path}: a damaged archive (.pth or .keras)") from None
