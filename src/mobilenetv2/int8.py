"""A quantised model as data: integer weights, the scales of every tensor, and how sums are rounded.

real = scale * (stored - zero point). Activations are uint8 with one scale a tensor, weights int8
with one scale an output channel, or uint8 with a zero point as old TensorFlow files have them.
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
from .checkpoint import FORMAT, VERSION, Checkpoint, check_described, described_without_background
from .errors import ModelFileError, UserError, shortened
from .files import checksum, in_order, read_safetensors, write_atomically
from .graph import Layer, layers
from .images import Preprocessing

ROUNDINGS = ("nearest", "twice")
ARRAYS = ("weight", "scale", "bias")  # of each layer, as the file names them
HEADER = ("architecture", "labels", "preprocessing", "provenance", "quantization")


@dataclass(frozen=True)
class Activation:
    """How a tensor is stored as uint8."""

    scale: float
    zero_point: int


@dataclass(frozen=True)
class Int8Layer:
    """A convolution or linear layer with its batch norm folded in.

    Attributes:
        weight: int8 or uint8, shaped as the checkpoint's kernel: (out, in / groups, k, k), a
            classifier's (out, in).
        scale: float32 (out,), of the weights.
        zero_point: Of the weights; not 0 only where they are uint8.
        bias: int32 (out,), in units of the input's scale times `scale`.
    """

    weight: NDArray[Any]
    scale: NDArray[np.float32]
    bias: NDArray[np.int32]
    zero_point: int = 0


@dataclass(frozen=True)
class Int8Checkpoint:
    """What `Checkpoint` is for floats.

    Attributes:
        architecture: Which network.
        layers: Every layer that has weights, by the name that `layers()` gives it.
        image_scale: Of the image's values: real = image_scale * (pixel - zero point).
        image_zero_points: One a channel: the pixel value that stands for 0, hence for the border.
        activations: Every tensor that is stored, by the name of the layer that makes it. With
            "nearest", a projection before a shortcut has none: it is added before it is rounded,
            and the sum is stored.
        rounding: "nearest": a sum times its factor is rounded once, to the nearest even; what the
            last layer gives stays float. "twice": first to 31 bits as the factor's fraction, then,
            after its power of two, halves away from zero, as TensorFlow Lite's reference kernels
            do; all tensors are stored, the logits too.
        labels: One name a class, or none.
        preprocessing: What the weights expect of an image.
        provenance: Free facts as JSON.

    Raises:
        ModelFileError: Something is missing, extra, misshapen, of the wrong type or out of range.
    """

    architecture: Architecture
    layers: Mapping[str, Int8Layer]
    image_scale: float
    image_zero_points: tuple[int, ...]
    activations: Mapping[str, Activation]
    rounding: str = "nearest"
    labels: tuple[str, ...] = ()
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_described(self.architecture, self.labels, self.preprocessing)
        problems = list(self._problems())
        if problems:
            raise ModelFileError(
                f"the int8 arrays do not fit the network: {shortened(problems, 4, '; ')}"
            )

    def _problems(self) -> list[str]:
        found = []
        if self.rounding not in ROUNDINGS:
            found.append(f"rounding must be one of {', '.join(ROUNDINGS)}, not {self.rounding!r}")
        if len(self.image_zero_points) != self.architecture.in_channels:
            found.append("the image's zero points are not one a channel")
        if not all(0 <= zero <= 255 for zero in self.image_zero_points):
            found.append("the image's zero points are not within 0..255")
        if not (np.isfinite(self.image_scale) and self.image_scale > 0):
            found.append("the image's scale is not positive")
        wanted = {layer.name: layer for layer in layers(self.architecture) if layer.weight}
        found += [f"{name} is missing" for name in wanted if name not in self.layers]
        found += [
            f"{name} is not part of the network" for name in self.layers if name not in wanted
        ]
        for name, layer in self.layers.items():
            if name in wanted:
                found += [f"{name}: {what}" for what in _layer_problems(layer, wanted[name])]
        stored = set(stored_tensors(self.architecture, self.rounding))
        found += [f"no scale for the output of {name}" for name in stored - self.activations.keys()]
        for name, activation in self.activations.items():
            if name not in stored:
                found.append(f"a scale for {name}, which is not stored")
            if not (np.isfinite(activation.scale) and activation.scale > 0):
                found.append(f"the scale of {name} is not positive")
            if not 0 <= activation.zero_point <= 255:
                found.append(f"the zero point of {name} is not within 0..255")
        return found

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the file, under a temporary name until it is complete. The same model gives the
        same bytes.

        Raises:
            ModelFileError: The file cannot be written; what was there before is untouched.
        """
        from safetensors.numpy import save

        quantization = {
            "rounding": self.rounding,
            "image": [self.image_scale, *self.image_zero_points],
            "activations": {name: [a.scale, a.zero_point] for name, a in self.activations.items()},
            "weight_zero_points": {
                name: layer.zero_point for name, layer in self.layers.items() if layer.zero_point
            },
        }
        header = {
            "architecture": self.architecture.to_json(),
            "labels": json.dumps(self.labels),
            "preprocessing": self.preprocessing.to_json(),
            "provenance": json.dumps(self.provenance),
            "quantization": json.dumps(quantization, sort_keys=True),
        }
        arrays = {
            f"{name}.{kind}": np.ascontiguousarray(getattr(layer, kind))
            for name, layer in self.layers.items()
            for kind in ARRAYS
        }
        header |= {"format": FORMAT, "version": VERSION, "checksum": checksum(header, arrays)}
        write_atomically(Path(path), in_order(save(arrays, header)))

    def without_background(self) -> Int8Checkpoint:
        """As `Checkpoint.without_background`."""
        described = described_without_background(self.architecture, self.labels)
        head = self.layers["classifier.1"]
        head = replace(head, weight=head.weight[1:], scale=head.scale[1:], bias=head.bias[1:])
        return replace(self, layers={**self.layers, "classifier.1": head}, **described)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Int8Checkpoint:
        """Reads a file that `save` wrote.

        Raises:
            ModelFileError: Not such a file, or damaged; the message names the file and what is
                wrong.
        """
        header, arrays = read_safetensors(Path(path))
        if header.get("format") != FORMAT or "quantization" not in header:
            raise ModelFileError(f"{path}: not a quantised mobilenetv2 model")
        return cls.from_file(path, header, arrays)

    @classmethod
    def from_file(
        cls, path: str | os.PathLike[str], header: Mapping[str, str], arrays: Mapping[str, Any]
    ) -> Int8Checkpoint:
        """What `load` does once header and arrays are read."""
        if header.get("version") != VERSION:
            raise ModelFileError(
                f"{path}: file version {header.get('version')!r}, this release reads {VERSION!r}"
            )
        missing = sorted({*HEADER, "checksum"} - header.keys())
        if missing:
            raise ModelFileError(f"{path}: the header lacks {', '.join(missing)}")
        if checksum({name: header[name] for name in HEADER}, arrays) != header["checksum"]:
            raise ModelFileError(f"{path}: damaged: the checksum does not fit; get the file again")
        try:
            told = json.loads(header["quantization"])
            zeros = told["weight_zero_points"]
            names = sorted({name.rpartition(".")[0] for name in arrays})
            extra = arrays.keys() - {f"{name}.{kind}" for name in names for kind in ARRAYS}
            if extra:
                raise ModelFileError(f"not part of the network: {', '.join(sorted(extra))}")
            return cls(
                architecture=Architecture.from_json(header["architecture"]),
                layers={
                    name: Int8Layer(
                        arrays[f"{name}.weight"],
                        arrays[f"{name}.scale"],
                        arrays[f"{name}.bias"],
                        int(zeros.get(name, 0)),
                    )
                    for name in names
                },
                image_scale=float(told["image"][0]),
                image_zero_points=tuple(int(zero) for zero in told["image"][1:]),
                activations={
                    name: Activation(float(scale), int(zero))
                    for name, (scale, zero) in told["activations"].items()
                },
                rounding=str(told["rounding"]),
                labels=tuple(str(label) for label in json.loads(header["labels"])),
                preprocessing=Preprocessing.from_json(header["preprocessing"]),
                provenance=dict(json.loads(header["provenance"])),
            )
        except (UserError, ValueError, TypeError, KeyError) as error:
            raise ModelFileError(f"{path}: {error}") from None


AnyCheckpoint = Checkpoint | Int8Checkpoint
QuantizedCheckpoint = Int8Checkpoint  # its name up to release 0.1


def stored_tensors(architecture: Architecture, rounding: str) -> list[str]:
    """Names of the layers whose output is stored as uint8."""
    steps = layers(architecture)
    added = {layer.sources[-1] for layer in steps if layer.kind == "add"}
    names = [layer.name for layer in steps]
    if rounding == "twice":
        return names
    if steps[-1].kind == "linear":
        names.pop()
    return [name for name in names if name not in added]


def _layer_problems(found: Int8Layer, layer: Layer) -> list[str]:
    shape = layer.weight_shape
    count = layer.out_shape[0]
    problems = []
    if found.weight.dtype not in (np.int8, np.uint8):
        problems.append(f"weights are {found.weight.dtype}, not int8 or uint8")
    if found.weight.shape != shape:
        problems.append(f"weights are {found.weight.shape}, not {shape}")
    if found.scale.dtype != np.float32 or found.scale.shape != (count,):
        problems.append(f"scales are not float32 ({count},)")
    elif not (np.isfinite(found.scale).all() and (found.scale > 0).all()):
        problems.append("a scale is not positive")
    if found.bias.dtype != np.int32 or found.bias.shape != (count,):
        problems.append(f"biases are not int32 ({count},)")
    if not 0 <= found.zero_point <= 255 or (found.zero_point and found.weight.dtype == np.int8):
        problems.append(f"zero point {found.zero_point} of {found.weight.dtype} weights")
    return problems
