"""`mobilenet_v2`: a network from scratch or from weights, with the names that torchvision's and
timm's users know.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
from torch import nn

from ..architecture import Architecture, Stage
from ..checkpoint import Checkpoint
from ..errors import ArchitectureError, shortened
from ..graph import array_shapes, blocks
from ..heads import Classifier, Features
from .backbone import PAPER_BN_DECAY, Backbone
from .classifier import FeatureExtractor, MobileNetV2

if TYPE_CHECKING:
    from ..checkpoint import FloatArray

TORCHVISION_ENUM = "MobileNet_V2_Weights"
TORCHVISION_WEIGHTS = {
    "IMAGENET1K_V1": "torchvision-v1",
    "IMAGENET1K_V2": "torchvision-v2",
    "DEFAULT": "torchvision-v2",
}
# Arguments that weights decide: what messages call them, and the fields of the architecture.
ARGUMENTS = {
    "width_mult": ("width", ("width_mult",)),
    "inverted_residual_setting": ("rows", ("stages",)),
    "round_nearest": ("divisor", ("divisor", "min_channels")),
    "norm_layer": ("epsilon", ("bn_epsilon",)),
}
Weights = str | Path | Checkpoint | Enum


@overload
def mobilenet_v2(*, features_only: Literal[True], **options: Any) -> FeatureExtractor: ...
@overload
def mobilenet_v2(*, features_only: Literal[False] = False, **options: Any) -> MobileNetV2: ...
def mobilenet_v2(
    *,
    width_mult: float | None = None,
    num_classes: int | None = None,
    weights: Weights | None = None,
    pretrained: bool = False,
    progress: bool = True,
    in_chans: int | None = None,
    output_stride: int | None = None,
    dropout: float | None = None,
    drop_rate: float | None = None,
    drop_path_rate: float = 0.0,
    bn_decay: float | None = None,
    norm_layer: Callable[[int], nn.Module] | None = None,
    global_pool: str | None = None,
    features_only: bool = False,
    out_indices: int | Sequence[int] | None = None,
    inverted_residual_setting: Sequence[Sequence[float]] | None = None,
    round_nearest: int | None = None,
    fresh_head: bool = False,
    architecture: Architecture | None = None,
) -> Backbone:
    """Builds MobileNetV2, from scratch or from weights.

    Args:
        width_mult: Width multiplier; with weights, it must be the same as theirs. Default 1.0.
        num_classes: Number of outputs. If it differs from the weights', the head is new, with a
            warning. 0: no classifier, the pooled features. Default that of the weights, or 1000.
        weights: A model file, a name from `mobilenetv2.models()`, a `Checkpoint`, "imagenet"
            (TF-slim's weights of this width), or torchvision's "IMAGENET1K_V1", "IMAGENET1K_V2" or
            "DEFAULT" (the latter), also as `MobileNet_V2_Weights`.
        pretrained: True: as weights="IMAGENET1K_V1", which is what torchvision means by it.
        progress: Taken as torchvision's users write it; downloads show no progress.
        in_chans: Channels of the pixels. The first kernel of weights for 3 is summed over its
            channels for 1, so that a grey image gives the same result as three equal channels, if
            all three are normalised alike; for others it is repeated and scaled, as in timm.
        output_stride: 8, 16 or 32.
        dropout: Share of the pooled features dropped in training. Default 0.2, or 0 without
            classes.
        drop_rate: timm's name for `dropout`.
        drop_path_rate: Stochastic depth of the last block.
        bn_decay: Share of the old running statistics kept at each step; PyTorch's momentum is 1 -
            bn_decay. Default 0.997.
        norm_layer: Makes an `nn.BatchNorm2d` of so many channels, whose eps and momentum are used.
        global_pool: "avg", or "" for the last map, with num_classes=0.
        features_only: Answer with a list of maps; see `FeatureExtractor`.
        out_indices: Which maps; all by default.
        inverted_residual_setting: torchvision's rows (t, c, n, s), in place of the paper's.
        round_nearest: Channels are rounded to a multiple of this. Default 8.
        fresh_head: Makes a new head even if the number of classes is the same.
        architecture: Everything else about the network (padding, options, stages); not together
            with weights.

    Raises:
        ArchitectureError: Arguments that contradict each other or the weights.
        ModelFileError: The weights cannot be read.
    """
    if pretrained:
        weights = _one_of(weights=weights, pretrained="IMAGENET1K_V1")
    checkpoint = opened_weights(weights, width_mult, architecture)
    norm = {} if norm_layer is None else _norm_options(norm_layer)
    base = base_architecture(
        checkpoint,
        architecture or Architecture(),
        {
            "width_mult": None if width_mult is None else _number(width_mult),
            "inverted_residual_setting": inverted_residual_setting,
            "round_nearest": round_nearest,
            "norm_layer": norm.get("eps"),
        },
    )
    decay = 1 - norm["momentum"] if norm else PAPER_BN_DECAY
    rates = {
        "drop_path_rate": drop_path_rate,
        "bn_decay": decay if bn_decay is None else bn_decay,
    }
    head = (
        Features() if num_classes == 0 else None if num_classes is None else Classifier(num_classes)
    )
    changes = {"head": head, "in_channels": in_chans, "output_stride": output_stride}
    result = replace(base, **{name: x for name, x in changes.items() if x is not None})
    net: Backbone
    if features_only:
        if num_classes or global_pool or fresh_head:
            raise ArchitectureError(
                "features_only=True has no head: leave out num_classes, global_pool and fresh_head"
            )
        net = FeatureExtractor(result, out_indices, **rates)
    else:
        if out_indices is not None:
            raise ArchitectureError("out_indices goes with features_only=True")
        if num_classes == 0 and global_pool is None:
            global_pool = "avg"
        drop_rate = _one_of(dropout=dropout, drop_rate=drop_rate)
        net = MobileNetV2(result, drop_rate=drop_rate, global_pool=global_pool, **rates)
    if checkpoint:
        fill(net, checkpoint, fresh_head)
    return net


def _number(width_mult: float | str) -> float:
    try:
        return float(width_mult)
    except (TypeError, ValueError):
        raise ArchitectureError(f"width_mult must be a number, not {width_mult!r:.80}") from None


def _one_of(**arguments: Any) -> Any:
    """The value of two arguments that mean the same and of which one at most is given."""
    given = {name: value for name, value in arguments.items() if value is not None}
    if len(given) > 1:
        raise ArchitectureError(f"give either {' or '.join(given)}: they mean the same")
    return next(iter(given.values()), None)


def opened_weights(
    weights: Weights | None, width_mult: float | None, architecture: Architecture | None
) -> Checkpoint | None:
    """The checkpoint that `weights` means, or None for a network from scratch.

    Raises:
        ArchitectureError: There is an architecture too, or weights of that name have another width.
        ModelFileError: The weights cannot be read.
    """
    if weights is None:
        return None
    if architecture is not None:
        raise ArchitectureError(
            "give either weights or architecture: a model file says which network it is"
        )
    if isinstance(weights, Checkpoint):
        return weights
    from ..formats import open_checkpoint  # late: not needed to build a new network

    if isinstance(weights, Enum):
        weights = f"{type(weights).__name__}.{weights.name}"
    enum, _, name = str(weights).rpartition(".")
    if enum not in ("", TORCHVISION_ENUM) and enum.endswith("Weights"):
        raise ArchitectureError(f"{weights} are not weights of MobileNetV2 in float32")
    if enum in ("", TORCHVISION_ENUM) and name in TORCHVISION_WEIGHTS:
        if width_mult is not None and float(width_mult) != 1:
            raise ArchitectureError(
                f"torchvision has published weights of width 1 alone, not {float(width_mult):g}: "
                "weights='imagenet' are TF-slim's, of other widths (and other preprocessing)"
            )
        weights = TORCHVISION_WEIGHTS[name]
    return open_checkpoint(weights, width_mult, int8=False)


def base_architecture(
    checkpoint: Checkpoint | None, architecture: Architecture, arguments: Mapping[str, Any]
) -> Architecture:
    """The architecture of the weights, with which the arguments must agree, or one that has their
    values.
    """
    base = checkpoint.architecture if checkpoint else architecture
    values: dict[str, Any] = {}
    for argument, value in arguments.items():
        if value is None:
            continue
        noun, fields = ARGUMENTS[argument]
        value = _stages(value) if argument == "inverted_residual_setting" else value
        theirs = getattr(base, fields[0])
        if checkpoint and theirs != value:
            shown = "other rows" if isinstance(value, tuple) else f"{argument}={value:g}"
            raise ArchitectureError(f"{shown}, but weights of {noun} {theirs}")
        values |= dict.fromkeys(fields, value)
    result = replace(base, **values)
    if arguments.get("inverted_residual_setting") or arguments.get("round_nearest"):
        _check_as_torchvision(result)
    return result


def _stages(rows: Sequence[Sequence[Any]]) -> tuple[Stage, ...]:
    """torchvision's rows (t, c, n, s)."""
    if not all(isinstance(row, Sequence) and len(row) == 4 for row in rows):
        raise ArchitectureError(
            f"inverted_residual_setting has rows of 4 numbers (t, c, n, s), not {rows!r:.200}"
        )
    return tuple(Stage(*row) for row in rows)


def _check_as_torchvision(a: Architecture) -> None:
    """Refuses rows of which torchvision would make another network."""
    stride = a.stem_stride * math.prod(stage.stride for stage in a.stages)
    if stride > 32:
        raise ArchitectureError(
            f"inverted_residual_setting has a stride of {stride} in all, and strides beyond 32 are "
            "made dilation here"
        )
    expansions = [stage.expansion for stage in a.stages for _ in range(stage.repeats)]
    for block, expansion in zip(blocks(a), expansions, strict=True):
        expanded = round(block.in_channels * expansion)
        if block.inner_channels != expanded:
            raise ArchitectureError(
                f"block {block.index} expands {block.in_channels} channels by {expansion:g} to "
                f"{expanded}, and expanded channels are multiples of 8 here: change round_nearest "
                "or inverted_residual_setting"
            )


def _norm_options(norm_layer: Callable[[int], nn.Module]) -> dict[str, float]:
    """eps and momentum of the batch norms that it makes."""
    try:
        norm = norm_layer(8)
    except TypeError as error:
        raise ArchitectureError(
            f"norm_layer must make an nn.BatchNorm2d of so many channels: {error}"
        ) from None
    if (
        type(norm) is not nn.BatchNorm2d
        or not (norm.affine and norm.track_running_stats)
        or norm.momentum is None
    ):
        raise ArchitectureError(
            f"norm_layer must make an nn.BatchNorm2d with weights, running statistics and momentum, "
            f"not {norm}: batch norms are folded into kernels; change others in the network built"
        )
    return {"eps": norm.eps, "momentum": norm.momentum}


def fill(net: Backbone, checkpoint: Checkpoint, fresh_head: bool) -> None:
    """Loads a checkpoint into a network that may have another head or another number of input
    channels.
    """
    a, theirs = net.architecture, checkpoint.architecture
    arrays = dict(checkpoint.arrays)
    if a.in_channels != theirs.in_channels:
        arrays["features.0.0.weight"] = _for_channels(
            arrays["features.0.0.weight"], theirs.in_channels, a.in_channels
        )
    shapes = array_shapes(a)
    arrays = {name: array for name, array in arrays.items() if name in shapes}
    new = new_arrays(a, checkpoint, fresh_head)
    if new:
        kept = any(not name.startswith("features.") and name not in new for name in arrays)
        part = f"; {shortened(sorted(new), 2)} do not come from the weights" if kept else ""
        warnings.warn(
            f"new head: {a.classes} classes, not trained"
            f"{part or '; the head of the weights is not used'}",
            stacklevel=3,
        )
        arrays |= {name: x.detach().numpy() for name, x in net.state_dict().items() if name in new}
    net.load_arrays(arrays)


def new_arrays(
    architecture: Architecture, checkpoint: Checkpoint, fresh_head: bool = False
) -> frozenset[str]:
    """The arrays of a network that its weights do not bring, so that they begin untrained.

    Args:
        architecture: The network's.
        checkpoint: The weights.
        fresh_head: Those whose shape depends on the number of classes are new in any case.
    """
    shapes = array_shapes(architecture)
    more_classes = architecture.with_classes(architecture.classes + 1)
    of_classes = {name for name, x in array_shapes(more_classes).items() if shapes.get(name) != x}
    new = {name for name in of_classes if fresh_head} | {
        name
        for name, shape in shapes.items()
        if name not in checkpoint.arrays
        or (checkpoint.arrays[name].shape != shape and not name.startswith("features."))
    }
    return frozenset(new & shapes.keys())


def _for_channels(kernel: FloatArray, theirs: int, ours: int) -> FloatArray:
    """The kernel of the first convolution, (out, channels, 3, 3), for other channels: as in timm."""
    if ours == 1:
        return kernel.sum(axis=1, keepdims=True)
    if theirs != 3:
        raise ArchitectureError(f"weights for {theirs} channels do not fit in_chans={ours}")
    repeated = np.tile(kernel, (1, -(-ours // 3), 1, 1))[:, :ours]
    return repeated * np.float32(3 / ours)
