"""Reads a model file of any known kind, recognised by its content."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

from ..checkpoint import Checkpoint, is_ours
from ..errors import ModelFileError, UserError
from ..files import open_safetensors, read_safetensors, require_file

if TYPE_CHECKING:
    from ..int8 import AnyCheckpoint

MAX_MESSAGE = 4000
KINDS = ("mobilenetv2", "safetensors", "tflite", "tgz", "keras", "hdf5", "pytorch")


def recognise(path: Path) -> str:
    """The kind of a model file by its content, one of `KINDS`.

    Raises:
        ModelFileError: No such file, or of an unknown kind.
    """
    require_file(path)
    try:
        with open(path, "rb") as file:
            head = file.read(512)
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read: {error.strerror}") from None
    if head[4:8] == b"TFL3":
        return "tflite"
    if head.startswith(b"\x1f\x8b"):
        return "tgz"
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return "hdf5"
    if head[8:9] == b"{":
        with open_safetensors(path) as opened:
            return "mobilenetv2" if is_ours(opened.metadata() or {}) else "safetensors"
    if head.startswith(b"PK\x03\x04"):
        import zipfile

        try:
            with zipfile.ZipFile(path) as archive:
                return "keras" if "model.weights.h5" in archive.namelist() else "pytorch"
        except Exception:  # zipfile raises nearly anything on damaged archives
            raise ModelFileError(f"{path}: a damaged archive (.pth or .keras)") from None
    # A bare pickle, or a tar archive of PyTorch before 0.4.
    if head[:1] == b"\x80" or head[257:262] == b"ustar":
        return "pytorch"
    raise ModelFileError(
        f"{path}: not a model file of a known kind (.safetensors of ours or others, .pth, .tflite, .tgz, .h5, .keras)"
    )


@overload
def read(path: Path, int8: Literal[False]) -> Checkpoint: ...
@overload
def read(path: Path, int8: bool = True) -> AnyCheckpoint: ...
def read(path: Path, int8: bool = True) -> AnyCheckpoint:
    """The checkpoint in any model file: float32, or int8 where the file is.

    Args:
        path: The file.
        int8: Whether the result may be int8; False turns a quantised .tflite file into float32
            and refuses an int8 file of ours.

    Raises:
        ModelFileError: Unknown, damaged or not a MobileNetV2; the message names the file and the
            array at fault.
        MissingExtraError: A library that this kind of file needs is not installed.
    """
    if not isinstance(path, str | os.PathLike):
        raise ModelFileError(f"a model is the name of a file, not {type(path).__name__}")
    try:
        return _read(Path(os.fsdecode(path)), int8)
    except UserError as error:  # names in a file may be of any length, and hold newlines
        message = " ".join(str(error).splitlines())
        raise type(error)(
            message if len(message) <= MAX_MESSAGE else f"{message[:MAX_MESSAGE]} ..."
        ) from None


def _read(path: Path, int8: bool) -> AnyCheckpoint:
    kind = recognise(path)
    if kind == "mobilenetv2":
        header, arrays = read_safetensors(path)
        if int8 and "quantization" in header:
            from ..int8 import Int8Checkpoint

            return Int8Checkpoint.from_file(path, header, arrays)
        return Checkpoint.from_file(path, header, arrays)
    if kind == "tflite":
        from .tflite import read_tflite

        return read_tflite(path, int8)
    if kind == "tgz":
        from .tgz import read_tgz

        return read_tgz(path, int8)
    return _float_reader(kind)(path)


def _float_reader(kind: str) -> Callable[[Path], Checkpoint]:
    if kind in ("keras", "hdf5"):
        from .keras import read_h5, read_keras

        return read_keras if kind == "keras" else read_h5
    from .pytorch import read_foreign_safetensors, read_pth

    return read_pth if kind == "pytorch" else read_foreign_safetensors
