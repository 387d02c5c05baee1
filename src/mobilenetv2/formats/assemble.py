"""From somebody's arrays, renamed to torchvision's names, to a `Checkpoint`: which width and depth are these?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..architecture import MOBILENET_V2, Architecture, array_shapes, blocks, last_channels, stem_channels
from ..checkpoint import Checkpoint, check_arrays
from ..errors import ArchitectureError, ModelFileError
from ..images import Preprocessing
from ..labels import imagenet_labels

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PUBLISHED_WIDTHS = (1.0, 0.35, 0.5, 0.75, 1.3, 1.4, 1.1, 1.2)
REPEATS = (  # blocks a stage; strides cannot be read from arrays, so only known tables are taken
    (1, 2, 3, 4, 3, 3, 1),  # Table 2
    (1, 3, 4, 5, 4, 4, 1),  # timm's 110d
    (1, 3, 5, 6, 5, 5, 1),  # timm's 120d
)


@dataclass(frozen=True)
class Rules:
    """What arrays do not say, and their source does."""

    source: str
    padding: str
    bn_epsilon: float
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    labels: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)


def assemble(path: Path, arrays: Mapping[str, NDArray[Any]], rules: Rules) -> Checkpoint:
    """A checkpoint of arrays with torchvision's names; every array is used once or the file is refused.

    Raises:
        ModelFileError: The arrays are not those of a MobileNetV2; the message names the first that differ.
    """
    shapes = {name: array.shape for name, array in arrays.items()}
    try:
        architecture = replace(
            infer_architecture(shapes),
            padding=rules.padding,
            bn_epsilon=rules.bn_epsilon,
            resolution=rules.preprocessing.size,
        )
        order = array_shapes(architecture)
        check_arrays({name: np.zeros(shape, np.float32) for name, shape in shapes.items()}, order)
        labels = rules.labels or (imagenet_labels(architecture.classes) if architecture.head == "classifier" else ())
        return Checkpoint(
            architecture,
            {name: np.ascontiguousarray(arrays[name], dtype=np.float32) for name in order},
            labels,
            rules.preprocessing,
            {"source": rules.source, "file": path.name, **rules.provenance},
        )
    except (ModelFileError, ArchitectureError) as error:
        raise ModelFileError(f"{path}: read as {rules.source}: {error}") from None


def infer_architecture(shapes: Mapping[str, tuple[int, ...]]) -> Architecture:
    """The description whose arrays have these shapes (width, depth, last convolution, classes and channels).

    Raises:
        ModelFileError: No known table at any width gives these channels.
    """
    depth = max((int(name.split(".")[1]) for name in shapes if name.startswith("features.") and ".conv." in name), default=0)
    stem = _out(shapes, "features.0.0.weight")
    widths = [_project_width(shapes, index) for index in range(1, depth + 1)]
    base = Architecture(
        in_channels=shapes["features.0.0.weight"][1],
        head="classifier" if "classifier.1.weight" in shapes else "features",
        classes=shapes["classifier.1.weight"][0] if "classifier.1.weight" in shapes else 1000,
    )
    last = shapes.get(f"features.{depth + 1}.0.weight", (None,))[0]
    for candidate in _candidates(base, depth):
        if stem_channels(candidate) == stem and [block.out_channels for block in blocks(candidate)] == widths:
            return _with_last(candidate, last)
    raise ModelFileError(
        f"no width multiplier gives these channels: stem {stem}, then {widths} in {depth} blocks; "
        "at width 1 they are 32, then 16 24 24 32 32 32 64 64 64 64 96 96 96 160 160 160 320 in 17"
    )


def _candidates(base: Architecture, depth: int) -> Iterator[Architecture]:
    """Known tables of that many blocks, the published widths first, then every hundredth."""
    hundredths = sorted((i / 100 for i in range(5, 401)), key=lambda width: (round(width * 100) % 5 != 0, width))
    tables = [repeats for repeats in REPEATS if sum(repeats) == depth]
    for repeats in tables:
        stages = tuple(replace(stage, repeats=n) for stage, n in zip(MOBILENET_V2, repeats, strict=True))
        for scale_ends in (True, False):
            for width in (*PUBLISHED_WIDTHS, *hundredths):
                yield replace(base, stages=stages, scale_ends=scale_ends, width_mult=width)


def _with_last(architecture: Architecture, last: int | None) -> Architecture:
    """The last convolution as it is in the file, whatever the usual rule gives (640 at width 0.5 exists)."""
    if last is None or last_channels(architecture) == last:
        return replace(architecture, last_channels=1280 if last else None)
    scale = max(1.0, architecture.width_mult) if architecture.scale_ends else 1.0
    return replace(architecture, last_channels=round(last / scale))


def _project_width(shapes: Mapping[str, tuple[int, ...]], index: int) -> int:
    path = f"features.{index}.conv"
    return _out(shapes, f"{path}.2.weight" if f"{path}.1.0.weight" in shapes else f"{path}.1.weight")


def _out(shapes: Mapping[str, tuple[int, ...]], name: str) -> int:
    if name not in shapes or len(shapes[name]) != 4:
        raise ModelFileError(f"not a MobileNetV2: it has no convolution that would be {name}")
    return shapes[name][0]
