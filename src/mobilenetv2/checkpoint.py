"""One file is a model: the description, its arrays, labels, preprocessing and provenance in one
`.safetensors`.

The arrays have torchvision's names. The file's header holds, as JSON, `architecture`, `labels`,
`preprocessing` and `provenance`, and a checksum over all of it. Nothing executable is ever read.
"""

from __future__ import annotations

import json
import os
import threading
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .architecture import Architecture, Layer, array_shapes
from .errors import ModelFileError, UserError
from .images import Preprocessing
from .labels import BACKGROUND

FORMAT = "mobilenetv2"
VERSION = "1"
FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Checkpoint:
    """A model as data: `architecture`, its `arrays` (float32, torchvision's names), and what
    belongs to them.

    Attributes:
        architecture: Which network.
        arrays: Every array that `array_shapes(architecture)` names, and no other.
        labels: One name a class, or none.
        preprocessing: What the weights expect of a picture.
        provenance: Free facts as JSON: where the weights came from, licence, accuracy.

    Raises:
        ModelFileError: Arrays are missing, extra, misshapen, not float32 or not finite, or labels
            are too many or few.
    """

    architecture: Architecture
    arrays: Mapping[str, FloatArray]
    labels: tuple[str, ...] = ()
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_arrays(self.arrays, array_shapes(self.architecture))
        check_described(self.architecture, self.labels, self.preprocessing)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the file, under a temporary name until it is complete. The same model gives the
        same bytes.

        Raises:
            ModelFileError: The file cannot be written; what was there before is untouched.
        """
        from safetensors.numpy import save

        header = {
            "architecture": self.architecture.to_json(),
            "labels": json.dumps(self.labels),
            "preprocessing": self.preprocessing.to_json(),
            "provenance": json.dumps(self.provenance),
        }
        header |= {"format": FORMAT, "version": VERSION, "checksum": checksum(header, self.arrays)}
        content = save(
            {name: np.ascontiguousarray(array) for name, array in self.arrays.items()}, header
        )
        write_atomically(Path(path), in_order(content))

    def without_background(self) -> Checkpoint:
        """The same classifier without its class 0, TensorFlow's background: 1001 classes become
        1000.

        Raises:
            ModelFileError: Class 0 is not named "background".
        """
        names = ("classifier.1.weight", "classifier.1.bias")
        described = described_without_background(self.architecture, self.labels)
        head = {name: self.arrays[name][1:] for name in names}
        return replace(self, arrays={**self.arrays, **head}, **described)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Checkpoint:
        """Reads a file that `save` wrote.

        Raises:
            ModelFileError: Not such a file, or damaged; the message names the file and what is
                wrong.
        """
        return cls.from_file(path, *read_safetensors(Path(path)))

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        header: Mapping[str, str],
        arrays: Mapping[str, NDArray[Any]],
    ) -> Checkpoint:
        """What `load` does once header and arrays are read."""
        if header.get("format") != FORMAT:
            raise ModelFileError(
                f"{path}: a safetensors file, but not a mobilenetv2 model; weights of other libraries go through "
                "`mobilenetv2 convert` first"
            )
        if "quantization" in header:
            raise ModelFileError(
                f"{path}: a quantised model: its weights are integers, and this takes float weights"
            )
        if header.get("version") != VERSION:
            raise ModelFileError(
                f"{path}: file version {header.get('version')!r}, this release reads {VERSION!r}"
            )
        missing = sorted(
            {"architecture", "labels", "preprocessing", "provenance", "checksum"} - header.keys()
        )
        if missing:
            raise ModelFileError(f"{path}: the header lacks {', '.join(missing)}")
        described = {
            name: header[name] for name in ("architecture", "labels", "preprocessing", "provenance")
        }
        if checksum(described, arrays) != header["checksum"]:
            raise ModelFileError(f"{path}: damaged: the checksum does not fit; get the file again")
        try:
            labels, provenance = json.loads(header["labels"]), json.loads(header["provenance"])
            return cls(
                Architecture.from_json(header["architecture"]),
                arrays,
                tuple(str(label) for label in labels),
                Preprocessing.from_json(header["preprocessing"]),
                dict(provenance),
            )
        except (UserError, ValueError, TypeError) as error:
            raise ModelFileError(f"{path}: {error}") from None


def described_without_background(
    architecture: Architecture, labels: tuple[str, ...]
) -> dict[str, Any]:
    """Architecture and labels of a classifier that loses its class 0, the background.

    Raises:
        ModelFileError: Class 0 is not named "background".
    """
    if labels[:1] != (BACKGROUND,):
        raise ModelFileError("class 0 is not the background; there is nothing to drop")
    fewer = replace(architecture, classes=architecture.classes - 1)
    return {"architecture": fewer, "labels": labels[1:]}


def check_described(
    architecture: Architecture, labels: tuple[str, ...], preprocessing: Preprocessing
) -> None:
    """Refuses labels or a preprocessing that do not belong to the network."""
    if labels and len(labels) != architecture.classes:
        raise ModelFileError(f"{len(labels)} labels for {architecture.classes} classes")
    if preprocessing.channels != architecture.in_channels:
        raise ModelFileError(
            f"the preprocessing gives {preprocessing.channels} channels, the network takes {architecture.in_channels}"
        )


def check_arrays(arrays: Mapping[str, NDArray[Any]], wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Refuses arrays that are missing, extra, misshapen, of the wrong type or not finite, naming
    them.
    """
    missing = [name for name in wanted if name not in arrays]
    extra = [name for name in arrays if name not in wanted]
    wrong = [
        f"{name} is {arrays[name].shape}, not {shape}"
        for name, shape in wanted.items()
        if name in arrays and arrays[name].shape != shape
    ]
    typed = [
        f"{name} is {array.dtype}, not float32"
        for name, array in arrays.items()
        if array.dtype != np.float32
    ]
    found = {
        "missing": missing,
        "not part of the network": extra,
        "wrong shape": wrong,
        "wrong type": typed,
    }
    problems = [f"{what}: {_some(names)}" for what, names in found.items() if names]
    if not problems:
        broken = [name for name, array in arrays.items() if not np.isfinite(array).all()]
        broken += [
            name for name in arrays if name.endswith("running_var") and (arrays[name] < 0).any()
        ]
        if broken:
            problems = [f"values that are not finite, or a negative variance: {_some(broken)}"]
    if problems:
        raise ModelFileError("arrays do not fit the network: " + "; ".join(problems))


def fold(
    checkpoint: Checkpoint, layer: Layer, dtype: type[np.floating[Any]] = np.float64
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Kernel and bias of one layer with its batch norm folded in, computed in float64.

    w' = w * gamma / sqrt(var + epsilon), b' = beta - mean * gamma / sqrt(var + epsilon).

    Returns:
        The kernel, shaped as in the checkpoint and rounded to `dtype`, and a bias (out,).
    """
    assert layer.weight is not None
    weight = checkpoint.arrays[layer.weight]
    if layer.norm is None:
        bias = checkpoint.arrays[layer.bias] if layer.bias else np.zeros(layer.out_shape[0])
        return np.asarray(weight, dtype), bias.astype(np.float64)
    gamma, beta, mean, variance = (
        checkpoint.arrays[f"{layer.norm}.{name}"].astype(np.float64)
        for name in ("weight", "bias", "running_mean", "running_var")
    )
    scale = gamma / np.sqrt(variance + layer.bn_epsilon)
    folded = np.empty(weight.shape, dtype)
    scales = scale.reshape(-1, *[1] * (weight.ndim - 1))
    np.multiply(weight, scales, folded, dtype=np.float64, casting="same_kind")
    return folded, beta - mean * scale


def unfolded(layer: Layer, weight: NDArray[Any], bias: NDArray[Any]) -> dict[str, FloatArray]:
    """The arrays of a layer whose batch norm was folded away elsewhere: an identity that adds the
    bias.
    """
    assert layer.weight is not None
    arrays = {layer.weight: np.ascontiguousarray(weight, np.float32)}
    if layer.norm is None:
        assert layer.bias is not None
        return arrays | {layer.bias: np.ascontiguousarray(bias, np.float32)}
    count = layer.out_shape[0]
    identity = (np.ones(count), bias, np.zeros(count), np.full(count, 1 - layer.bn_epsilon))
    names = ("weight", "bias", "running_mean", "running_var")
    return arrays | {
        f"{layer.norm}.{name}": np.asarray(a, np.float32)
        for name, a in zip(names, identity, strict=True)
    }


def read_safetensors_header(path: Path) -> dict[str, str]:
    """The free-form header of any safetensors file, without its arrays.

    Raises:
        ModelFileError: The file is absent, truncated or not safetensors.
    """
    from safetensors import safe_open

    try:
        with safe_open(path, framework="np") as file:
            return dict(file.metadata() or {})
    except Exception as error:  # SafetensorError and OSError
        raise ModelFileError(f"{path}: not a readable safetensors file: {error}") from None


def read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, NDArray[Any]]]:
    """Header and arrays of any safetensors file.

    Raises:
        ModelFileError: The file is absent, truncated or not safetensors.
    """
    from safetensors import safe_open

    if not path.is_file():
        raise ModelFileError(f"{path}: no such file")
    try:
        with safe_open(path, framework="np") as file:
            header, names = dict(file.metadata() or {}), file.keys()
            arrays = {name: file.get_tensor(name) for name in names}
        if any(array.dtype.kind not in "fiub" for array in arrays.values()):
            raise TypeError  # an extension of NumPy's that some other package has brought along
        return header, arrays
    except (TypeError, AttributeError):
        raise ModelFileError(
            f"{path}: holds arrays of a type that NumPy lacks, such as bfloat16: save them as float32"
        ) from None
    except Exception as error:  # SafetensorError and OSError
        raise ModelFileError(f"{path}: not a readable safetensors file: {error}") from None


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file under a temporary name beside it, then renames it over `path`.

    Raises:
        ModelFileError: The folder is absent or cannot be written to.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be written: {error.strerror or error}") from None
    finally:
        with suppress(OSError):  # gone, being `path` now, or never made
            temporary.unlink()


def checksum(header: Mapping[str, str], arrays: Mapping[str, NDArray[Any]]) -> str:
    """CRC-32 over the header's texts and all arrays: against damage, not against forgery."""
    crc = zlib.crc32(json.dumps([header[name] for name in sorted(header)]).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        crc = zlib.crc32(f"{name} {array.dtype} {array.shape}".encode(), crc)
        crc = zlib.crc32(array.data, crc)
    return f"crc32:{crc:08x}"


def in_order(content: bytes) -> bytes:
    """A safetensors file with its free-form texts sorted, which the library shuffles."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the arrays begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text + content[end:]


def _some(names: list[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
