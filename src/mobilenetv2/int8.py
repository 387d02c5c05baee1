"""An int8 model as data: its weights, the scale of every tensor, and how sums are rounded.

real = scale * (stored - zero point). Activations are uint8 with one scale per tensor. Weights are
int8 with one scale per output channel, or uint8 with a zero point as in old TensorFlow files.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from .architecture import Architecture
from .arguments import check_path
from .checkpoint import (
    DESCRIPTION,
    FORMAT,
    Checkpoint,
    Shaped,
    check_description,
    check_header,
    description_header,
    description_without_background,
    errors_of_header,
    read_description,
    read_json,
    save_model,
)
from .errors import ModelFileError, shortened
from .files import read_safetensors
from .graph import Network, layers, network
from .images import Preprocessing
from .int8_layers import ARRAYS, Int8Layer, StoredLayers, int8_values, weight_zero_point
from .layer import Layer
from .stored import StoredArrays

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROUNDINGS = ("nearest", "twice")
POOLINGS = ("mean", "average")
HEADER = (*DESCRIPTION, "quantization")


class Quantization(msgspec.Struct):
    """What the header of an int8 file says beside the description of the network."""

    weight_zero_points: dict[str, int]
    rounding: str
    image: Annotated[list[int | float], msgspec.Meta(min_length=1)]
    activations: dict[str, tuple[float, int]]
    pooling: str | None = None
    signed: bool = False
    unstored: dict[str, tuple[float, int]] = {}


@dataclass(frozen=True)
class Activation:
    """How a tensor is stored as uint8."""

    scale: float
    zero_point: int


@dataclass(frozen=True, eq=False)
class Int8Checkpoint:
    """An int8 model as data, as `Checkpoint` is a float32 model.

    Attributes:
        architecture: The network.
        layers: Every layer that has weights, by the name that `layers()` gives it.
        image_scale: Of the pixels: real = image_scale * (pixel - zero point).
        image_zero_points: One per channel: the pixel value of 0, which the padding has.
        activations: Every tensor that is stored, by the name of the layer that makes it. With
            "nearest", a projection before a shortcut has none: it is added before it is rounded,
            and the sum is stored.
        rounding: "nearest": a sum times its factor is rounded once, halves to even, and logits stay
            float. "twice": the sum times the 31-bit fraction of the factor
            is rounded, then divided by the factor's power of two and rounded again, halves away
            from zero, as TensorFlow Lite's reference kernels do; all tensors are stored, the
            logits too. A resize keeps the scale of its map, a concatenation brings its maps to one.
        pooling: "mean": the average is rescaled to the scale of its own tensor;
            "average": it is rounded at the scale of the map, as AVERAGE_POOL_2D does, and both
            tensors have that scale.
        signed: The codes, less 128, are what an int8 file has: halves of averages and resizes are
            rounded away from 128 instead of up.
        unstored: With "nearest", how other runtimes may store the tensors that have no entry in
            `activations`; not used here. All of these tensors, or none.
        labels: One per class, or ().
        preprocessing: What the weights expect of an image.
        provenance: Any facts that JSON can hold.
        notes: As for `Checkpoint`.

    Raises:
        ModelFileError: Something is missing, extra, of a wrong shape or type, or out of range.
    """

    architecture: Architecture
    layers: Mapping[str, Int8Layer] = field(repr=False)
    image_scale: float
    image_zero_points: tuple[int, ...]
    activations: Mapping[str, Activation] = field(repr=False)
    rounding: str = "nearest"
    pooling: str = "mean"
    labels: tuple[str, ...] = ()
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    provenance: dict[str, Any] = field(default_factory=dict, repr=False)
    notes: tuple[str, ...] = ()
    signed: bool = False
    unstored: Mapping[str, Activation] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        check_description(self.architecture, self.labels, self.preprocessing, self.provenance)
        problems = list(self._problems())
        if problems:
            raise ModelFileError(
                f"the int8 arrays do not fit the network: {shortened(problems, 4, '; ')}"
            )

    def _problems(self) -> Iterator[str]:
        if self.rounding not in ROUNDINGS:
            yield f"rounding must be one of {', '.join(ROUNDINGS)}, not {self.rounding!r}"
        if self.pooling not in POOLINGS:
            yield f"pooling must be one of {', '.join(POOLINGS)}, not {self.pooling!r}"
        if self.pooling == "average" and self.rounding == "nearest":
            yield "an average of stored values goes with rounding 'twice'"
        if self.pooling == "average" and not keeps_pooled_scale(
            self.architecture, self.activations
        ):
            yield "an average needs the scale of the map that it is of"
        if len(self.image_zero_points) != self.architecture.in_channels:
            yield "the image's zero points are not one per channel"
        if not all(0 <= zero <= 255 for zero in self.image_zero_points):
            yield "the image's zero points are not within 0..255"
        if not 0 < self.image_scale < math.inf:
            yield "the image's scale is not positive"
        weighted = {layer.name: layer for layer in layers(self.architecture) if layer.weight}
        yield from (f"{name} is missing" for name in weighted if name not in self.layers)
        for name in self.layers:
            if name not in weighted:
                yield f"{name} is not part of the network"
            else:
                problems = _problems(self.layers, weighted[name])
                yield from (f"{name}: {problem}" for problem in problems)
        stored = stored_tensors(self.architecture, self.rounding)
        for name in stored:
            if name not in self.activations:
                yield f"no scale for the output of {name}"
        others = set(stored_tensors(self.architecture, "twice")) - set(stored)
        if self.unstored and self.unstored.keys() != others:
            yield f"unstored must be of {shortened(sorted(others)) or 'nothing'}"
        for name in self.activations:
            if name not in stored:
                yield f"a scale for {name}, which is not stored"
        for name, activation in {**self.unstored, **self.activations}.items():
            if not 0 < activation.scale < math.inf:
                yield f"the scale of {name} is not positive"
            if not 0 <= activation.zero_point <= 255:
                yield f"the zero point of {name} is not within 0..255"
        for step in layers(self.architecture):
            known = {**self.unstored, **self.activations}
            resized = step.kind == "resize" and step.name in known
            if resized and known[step.name] != known.get(step.sources[0]):
                yield f"{step.name} has another scale than the map that it resizes"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the model as a file. The same model always gives the same bytes.

        Raises:
            ModelFileError: The file cannot be written; an older file of this name stays as it was.
        """
        quantization: dict[str, Any] = {
            "rounding": self.rounding,
            "pooling": self.pooling,
            "image": [self.image_scale, *self.image_zero_points],
            "activations": {name: [a.scale, a.zero_point] for name, a in self.activations.items()},
            "weight_zero_points": {
                name: layer.zero_point for name, layer in self.layers.items() if layer.zero_point
            },
        }
        if self.signed:
            quantization["signed"] = True
        if self.unstored:
            quantization["unstored"] = {
                n: [a.scale, a.zero_point] for n, a in self.unstored.items()
            }
        header = description_header(
            self.architecture, self.labels, self.preprocessing, self.provenance
        )
        header["quantization"] = json.dumps(quantization, sort_keys=True)
        arrays = {
            f"{name}.{kind}": getattr(layer, kind)
            for name, layer in self.layers.items()
            for kind in ARRAYS
        }
        save_model(path, header, arrays)

    def without_background(self) -> Int8Checkpoint:
        """As `Checkpoint.without_background`."""
        description = description_without_background(self.architecture, self.labels)
        head = self.layers["classifier.1"]
        parts = {name: getattr(head, name)[1:].copy() for name in ARRAYS}
        head = replace(head, **parts)
        return replace(self, layers={**self.layers, "classifier.1": head}, **description)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Int8Checkpoint:
        """Reads a file that `save` wrote.

        Raises:
            ModelFileError: Not such a file, or damaged; the message says why.
        """
        return cls.from_file(path, *read_safetensors(Path(check_path("path", path))))

    @classmethod
    def from_file(
        cls, path: str | os.PathLike[str], header: Mapping[str, str], arrays: Mapping[str, Any]
    ) -> Int8Checkpoint:
        """The checkpoint in a file's header and arrays; `path` is for messages."""
        if header.get("format") == FORMAT and "quantization" not in header:
            raise ModelFileError(f"{path}: not an int8 mobilenetv2 model")
        check_header(path, header, arrays, HEADER)
        with errors_of_header(path):
            stored: Quantization = read_json(header, "quantization", Quantization)
            description = read_description(header)
            image_scale, *zero_points = stored.image
            if not all(isinstance(zero, int) for zero in zero_points):
                raise ModelFileError("the image's zero points are not whole numbers")
            activations = {name: Activation(*pair) for name, pair in stored.activations.items()}
            # up to file version 1 equal scales stood for an average
            pooling = stored.pooling or (
                "average"
                if stored.rounding == "twice"
                and keeps_pooled_scale(description["architecture"], activations)
                else "mean"
            )
            return cls(
                layers=_read_layers(arrays, stored.weight_zero_points),
                image_scale=float(image_scale),
                image_zero_points=tuple(map(int, zero_points)),
                activations=activations,
                rounding=stored.rounding,
                pooling=pooling,
                signed=stored.signed,
                unstored={name: Activation(*pair) for name, pair in stored.unstored.items()},
                **description,
            )


AnyCheckpoint = Checkpoint | Int8Checkpoint
QuantizedCheckpoint = Int8Checkpoint  # its name up to release 0.1


def stored_tensors(architecture: Architecture, rounding: str) -> list[str]:
    """The names of the layers whose output is stored as uint8, in the order of the network."""
    net = network(architecture)
    names = [layer.name for layer in net.layers]
    if rounding == "twice":
        return names
    added = {layer.sources[-1] for layer in net.layers if layer.kind == "add"}
    unstored = added | float_results(net, rounding)
    return [name for name in names if name not in unstored]


def float_results(net: Network, rounding: str) -> frozenset[str]:
    """The names of the layers whose sums become float32: those with a bias of their own, such as
    logits, where nothing but the answer is made of them. With "nearest" they may be resized on the
    way, in float32 too.
    """
    readers = {
        layer.name: [reader for reader in net.layers if layer.name in reader.sources]
        for layer in net.layers
    }

    def ends(name: str) -> bool:
        resizes = rounding == "nearest"
        return all(resizes and r.kind == "resize" and ends(r.name) for r in readers[name])

    results: set[str] = set()
    for layer in net.layers:
        resized = layer.kind == "resize" and layer.sources[0] in results
        if (layer.bias is not None or resized) and ends(layer.name):
            results.add(layer.name)
    return frozenset(results)


def keeps_pooled_scale(architecture: Architecture, activations: Mapping[str, Activation]) -> bool:
    """Whether the map and its average are stored alike, where there is a pooling."""
    pools = [layer for layer in layers(architecture) if layer.kind == "pool"]
    return bool(pools) and all(
        pool.name in activations and activations.get(pool.sources[0]) == activations[pool.name]
        for pool in pools
    )


def _read_layers(
    arrays: Mapping[str, NDArray[Any]], zero_points: Mapping[str, int]
) -> Mapping[str, Int8Layer]:
    names = sorted({name.rpartition(".")[0] for name in arrays})
    expected = {f"{name}.{kind}" for name in names for kind in ARRAYS}
    if extra := sorted(arrays.keys() - expected):
        raise ModelFileError(f"not part of the network: {shortened(extra)}")
    if missing := sorted(expected - arrays.keys()):
        raise ModelFileError(f"missing: {shortened(missing)}")
    if isinstance(arrays, StoredArrays):
        return StoredLayers(arrays, zero_points)
    return {
        name: Int8Layer(
            arrays[f"{name}.weight"],
            arrays[f"{name}.scale"],
            arrays[f"{name}.bias"],
            int(zero_points.get(name, 0)),
        )
        for name in names
    }


def _problems(stored: Mapping[str, Int8Layer], layer: Layer) -> Iterator[str]:
    """What is wrong with the weights of one layer."""
    name, count = layer.name, layer.out_shape[0]
    if isinstance(stored, StoredLayers):
        shaped: list[Shaped] = [stored.arrays.places[f"{name}.{kind}"] for kind in ARRAYS]
    else:
        shaped = [getattr(stored[name], kind) for kind in ARRAYS]
    weight, scale, bias = shaped
    if weight.dtype not in ("int8", "uint8"):
        yield f"weights are {weight.dtype}, not int8 or uint8"
    if weight.shape != layer.weight_shape:
        yield f"weights are {weight.shape}, not {layer.weight_shape}"
    if scale.dtype != "float32" or scale.shape != (count,):
        yield f"scales are not float32 ({count},)"
    elif not all(0 < value < math.inf for value in int8_values(stored, name, "scale")):
        yield "a scale is not positive"
    if bias.dtype != "int32" or bias.shape != (count,):
        yield f"biases are not int32 ({count},)"
    zero = weight_zero_point(stored, name)
    if not 0 <= zero <= 255 or (zero and weight.dtype == "int8"):
        yield f"zero point {zero} of {weight.dtype} weights"
