"""Arrays with torchvision's names as a `Checkpoint`: infers width and depth from their shapes."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..architecture import MOBILENET_V2, Architecture, OutputStride, Padding, Stage
from ..checkpoint import Checkpoint, Shaped, check_shapes
from ..errors import ArchitectureError, ModelFileError, UserError
from ..files import require_memory
from ..graph import array_shapes, blocks, last_channels, stem_channels
from ..heads import Classifier, Features, Head
from ..images import Preprocessing
from ..labels import VOC, imagenet_labels

PUBLISHED_WIDTHS = (1.0, 0.35, 0.5, 0.75, 1.3, 1.4, 1.1, 1.2)
REPEATS = (  # blocks per stage; arrays do not show strides, so only known tables are read
    (1, 2, 3, 4, 3, 3, 1),  # Table 2
    (1, 3, 4, 5, 4, 4, 1),  # timm's 110d
    (1, 3, 5, 6, 5, 5, 1),  # timm's 120d
)
OUTPUT_STRIDES: tuple[OutputStride, ...] = (32, 16, 8)
Candidate = tuple[Architecture, tuple[int, ...]]  # and the channels of its stem and blocks
ASSUMED = "the file does not say how images are prepared"
IN_BLOCK = re.compile(r"features\.(\d{1,3})\.conv\.")


@dataclass(frozen=True)
class Rules:
    """What the arrays of a source do not show.

    Attributes:
        source: Its name, for messages and provenance.
        padding: Of its convolutions, as `Architecture` has it.
        bn_epsilon: Of its batch norms.
        preprocessing: What its weights expect of an image.
        labels: One per class; () for ImageNet's, if the number of classes fits.
        provenance: Further facts.
        output_stride: Of the network.
        notes: As `Checkpoint` has them.
        head: What stands on the backbone; None: a classifier, or nothing, as the arrays say.
    """

    source: str
    padding: Padding
    bn_epsilon: float
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    labels: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    output_stride: OutputStride = 32
    notes: tuple[str, ...] = ()
    head: Head | None = None


def assumed(rules: Rules) -> str:
    """The note for a file that does not say how images are prepared."""
    return f"{ASSUMED}; assumed, as usual for {rules.source}: {rules.preprocessing.in_words()}"


@dataclass(frozen=True)
class StoredArray:
    """An array that is still in its file, so that its shape is checked before it is read.

    Attributes:
        shape: Its axes.
        dtype: Its type.
        read: Gives its values.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[], NDArray[Any]]

    def transpose(self, axes: Sequence[int]) -> StoredArray:
        """The same array with its axes in another order."""
        shape = tuple(self.shape[axis] for axis in axes)
        return StoredArray(shape, self.dtype, lambda: self.read().transpose(axes))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Its values, as NumPy takes them."""
        return np.asarray(self.read(), dtype)


def assemble(path: Path, arrays: Mapping[str, Shaped], rules: Rules) -> Checkpoint:
    """The checkpoint of arrays with torchvision's names, each of which must be part of it.

    Args:
        path: The file, for messages and provenance.
        arrays: By torchvision's names, of any float type; read only if all of their shapes fit.
        rules: What the arrays do not show.

    Raises:
        ModelFileError: The arrays are not those of a MobileNetV2; the message names the first
            differences.
    """
    shapes = {name: array.shape for name, array in arrays.items()}
    try:
        architecture = replace(
            infer_architecture(shapes, rules.head),
            padding=rules.padding,
            bn_epsilon=rules.bn_epsilon,
            resolution=rules.preprocessing.size,
            output_stride=rules.output_stride,
        )
        order = array_shapes(architecture)
        check_shapes(arrays, order, any_float=True)
        require_memory(path, sum(4 * math.prod(shape) for shape in order.values()), "its arrays")
        labels = rules.labels or usual_labels(architecture)
        if architecture.classes == 1 and architecture.head.task != "detection":
            raise ModelFileError(
                "it has one output, of which a softmax is always 1: a regression is not read; for "
                "the logit of two classes, give the last layer two outputs (weights 0 and w, "
                "biases 0 and b)"
            )
        return Checkpoint(
            architecture,
            {name: _float32(name, arrays[name]) for name in order},
            labels if architecture.classes else (),
            rules.preprocessing,
            {"source": rules.source, "file": path.name, **rules.provenance},
            rules.notes,
        )
    except (ModelFileError, ArchitectureError) as error:
        raise ModelFileError(f"{path}: read as {rules.source}: {error}") from None


def usual_labels(architecture: Architecture) -> tuple[str, ...]:
    """The labels that published networks with so many classes have; () if none are usual."""
    if architecture.head.task == "segmentation":
        return VOC if architecture.classes == len(VOC) else ()
    if architecture.head.task == "classification":
        return imagenet_labels(architecture.classes)
    return ()


def _float32(name: str, stored: Shaped) -> NDArray[np.float32]:
    try:
        # A value that float32 cannot hold becomes infinite and is refused.
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(stored, dtype=np.float32)
    except UserError:
        raise
    except Exception as error:  # HDF5 raises nearly anything on damaged files
        raise ModelFileError(f"{name} cannot be read: {error or type(error).__name__}") from None


def infer_architecture(
    shapes: Mapping[str, tuple[int, ...]], head: Head | None = None
) -> Architecture:
    """The architecture whose arrays have these shapes.

    It is the known table and width with which most layers agree, at the largest output stride of the
    head. If a single layer differs, the caller's comparison of all shapes names that layer.

    Args:
        shapes: By torchvision's names.
        head: As in `Rules`.

    Raises:
        ModelFileError: No known table at any width gives these channels.
    """
    depth = max((int(match.group(1)) for match in map(IN_BLOCK.match, shapes) if match), default=0)
    outputs = [_kernel_outputs(shapes, "features.0.0.weight")]
    outputs += [
        _kernel_outputs(shapes, f"features.{i}.conv.{1 if i == 1 else 2}.weight")
        for i in range(1, depth + 1)
    ]
    last = _first_side(shapes, f"features.{depth + 1}.0.weight", f"features.{depth + 1}.1.weight")

    def agreement(candidate: Candidate) -> tuple[int, bool]:
        architecture, channels = candidate
        agreeing = sum(a == b for a, b in zip(channels, outputs, strict=True))
        return agreeing, last_channels(architecture) == last

    def best_of(candidates: Iterable[Candidate]) -> Candidate | None:
        """The first that agrees most; there are many, and the first of them is mostly right."""
        best = None
        for candidate in candidates:
            if best is None or agreement(candidate) > agreement(best):
                best = candidate
                if agreement(best) == (depth + 1, True):
                    break
        return best

    best = best_of(_candidates(depth))
    if head is not None and head.task == "segmentation" and best and agreement(best)[0] <= depth:
        # TF's segmenters of other widths than 1 do not round to multiples of 8
        best = best_of(chain([best], _candidates(depth, 1)))
    if best is None or agreement(best)[0] < depth:
        raise ModelFileError(
            f"no width multiplier gives these channels: stem {outputs[0]}, then {outputs[1:]} in {depth} blocks; "
            "at width 1 they are 32, then 16 24 24 32 32 32 64 64 64 64 96 96 96 160 160 160 320 in 17"
        )
    if head is None:
        classes = _first_side(shapes, "classifier.1.weight", "classifier.1.bias")
        classifies = any(name.startswith("classifier.") for name in shapes)
        head = Classifier(classes or 1000) if classifies else Features()
    return replace(
        _with_last(best[0], last),
        in_channels=shapes["features.0.0.weight"][1],
        head=head,
        output_stride=next(s for s in OUTPUT_STRIDES if s in head.output_strides),
    )


def _candidates(depth: int, divisor: int = 8) -> Iterator[Candidate]:
    """The known tables of `depth` blocks at all widths, with their channels.

    The published widths come first, then every hundredth.
    """
    hundredths = sorted(
        (i / 100 for i in range(5, 401)), key=lambda width: (round(width * 100) % 5 != 0, width)
    )
    for repeats in (repeats for repeats in REPEATS if sum(repeats) == depth):
        stages = tuple(
            replace(stage, repeats=n) for stage, n in zip(MOBILENET_V2, repeats, strict=True)
        )
        for scale_ends in (True, False):
            for width in (*PUBLISHED_WIDTHS, *hundredths):
                yield _candidate(stages, scale_ends, width, divisor)


@cache
def _candidate(
    stages: tuple[Stage, ...], scale_ends: bool, width_mult: float, divisor: int
) -> Candidate:
    architecture = Architecture(
        stages=stages,
        scale_ends=scale_ends,
        width_mult=width_mult,
        divisor=divisor,
        min_channels=divisor,
    )
    channels = stem_channels(architecture), *(block.out_channels for block in blocks(architecture))
    return architecture, channels


def _with_last(architecture: Architecture, last: int | None) -> Architecture:
    """The architecture with `last` channels of the last convolution, which need not follow the
    usual rule: files with 640 at width 0.5 exist.
    """
    if last is None or last_channels(architecture) == last:
        return replace(architecture, last_channels=1280 if last else None)
    scale = max(1.0, architecture.width_mult) if architecture.scale_ends else 1.0
    return replace(architecture, last_channels=round(last / scale))


def _kernel_outputs(shapes: Mapping[str, tuple[int, ...]], name: str) -> int:
    if len(shapes.get(name, ())) != 4:
        raise ModelFileError(f"not a MobileNetV2: it has no convolution that would be {name}")
    return shapes[name][0]


def _first_side(shapes: Mapping[str, tuple[int, ...]], *names: str) -> int | None:
    """The first number of the shape of the first of these arrays that exists."""
    return next((shapes[name][0] for name in names if shapes.get(name)), None)
