"""One file is a model: the description, its arrays, labels, preprocessing and provenance in one
`.safetensors`.

The arrays have torchvision's names. The file's header holds, as JSON, `architecture`, `labels`,
`preprocessing` and `provenance`, and a checksum over all of it. Nothing executable is ever read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .architecture import Architecture
from .errors import ModelFileError, UserError, shortened
from .files import checksum, in_order, read_safetensors, write_atomically
from .graph import array_shapes
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
        preprocessing: What the weights expect of an image.
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
    problems = [f"{what}: {shortened(names, 4)}" for what, names in found.items() if names]
    if not problems:
        broken = [name for name, array in arrays.items() if not np.isfinite(array).all()]
        broken += [
            name for name in arrays if name.endswith("running_var") and (arrays[name] < 0).any()
        ]
        if broken:
            problems = [
                f"values that are not finite, or a negative variance: {shortened(broken, 4)}"
            ]
    if problems:
        raise ModelFileError("arrays do not fit the network: " + "; ".join(problems))
