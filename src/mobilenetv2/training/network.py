"""What training starts from: a new network, or somebody's weights with a new head."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import nn

from ..architecture import SMALL_IMAGES, Architecture
from ..datasets import Sample
from ..errors import ImageError, UserError
from ..graph import layers
from ..images import Preprocessing
from ..nn import MobileNetV2, mobilenet_v2
from ..nn.fused import fuse
from ..records import Record, Size
from .recipes import Recipe

LOOKED_AT = 100  # images whose size says whether all are small


@dataclass(frozen=True)
class Start(Record):
    """The network to start from.

    Attributes:
        weights: A model file of any kind, or a name from `mobilenetv2.models()`; None: from scratch.
        width: Width multiplier; None: the weights', or 1.
        resolution: (height, width) of the images; None: the weights', or 224, or 32 of
            `small_images`.
        small_images: The strides for 32 x 32 images, `architecture.SMALL_IMAGES`.
        architecture: Everything about a new network but the classes; not together with weights or
            `small_images`.
    """

    noun: ClassVar[str] = "start"

    weights: str | os.PathLike[str] | None = None
    width: float | None = None
    resolution: Size | None = None
    small_images: bool = False
    architecture: Architecture | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights is not None and self.small_images:
            raise UserError("small_images is for new networks: weights bring their own strides")
        if self.architecture is not None and (self.weights is not None or self.small_images):
            raise UserError("give one of weights, small_images and architecture")


def build(
    start: Start, classes: tuple[str, ...], samples: Sequence[Sample], recipe: Recipe
) -> tuple[MobileNetV2, Preprocessing, dict[str, Any]]:
    """The network, what it expects of images, and where its weights are from.

    Raises:
        UserError: `start` contradicts itself, or the weights cannot be read.
    """
    torch.manual_seed(recipe.seed)
    if start.weights is None:
        architecture, preprocessing = _from_scratch(start, samples)
        wanted = replace(architecture, classes=len(classes))
        return restore(wanted, recipe), preprocessing, {}
    from ..formats import open_checkpoint

    source = open_checkpoint(start.weights, start.width, int8=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="new head")
        net = mobilenet_v2(
            weights=source,
            width_mult=start.width,
            num_classes=len(classes),
            fresh_head=source.labels != classes,
            dropout=recipe.drop_rate,
            drop_path_rate=recipe.drop_path_rate,
            bn_decay=recipe.bn_decay,
        )
    if not recipe.freeze_norms and _folded(net):
        raise UserError(
            f"{start.weights}: batch norms were folded into the kernels, and normalising by batches "
            "would undo them: --set freeze_norms=true"
        )
    size = start.resolution or source.preprocessing.size
    net.architecture = replace(net.architecture, resolution=size)
    return net, replace(source.preprocessing, size=size), dict(source.provenance)


def restore(architecture: Architecture, recipe: Recipe) -> MobileNetV2:
    """A network of that description, whose weights a checkpoint will bring."""
    return MobileNetV2(
        architecture,
        drop_rate=recipe.drop_rate,
        drop_path_rate=recipe.drop_path_rate,
        bn_decay=recipe.bn_decay,
    )


def prepare(net: MobileNetV2) -> MobileNetV2:
    """The same network, laid out for speed; called once, before optimiser and moving average."""
    fuse(net)
    return net.to(memory_format=torch.channels_last)


def last_map(architecture: Architecture) -> tuple[int, int]:
    """(height, width) of the map before pooling."""
    pool = next(layer for layer in layers(architecture) if layer.kind == "pool")
    return pool.in_shape[1:]


def _from_scratch(start: Start, samples: Sequence[Sample]) -> tuple[Architecture, Preprocessing]:
    base = start.architecture or (SMALL_IMAGES if start.small_images else Architecture())
    size = start.resolution or base.resolution
    architecture = replace(base, width_mult=start.width or base.width_mult, resolution=size)
    crop_fraction = 1.0 if _all_small(samples, size) else 0.875
    return architecture, Preprocessing(size=size, crop_fraction=crop_fraction)


def _folded(net: MobileNetV2) -> bool:
    """Whether the weights came without statistics of batch norm, as from TensorFlow Lite."""
    means = [m.running_mean for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    return not any(mean.any() for mean in means)


def _all_small(samples: Sequence[Sample], size: tuple[int, int]) -> bool:
    """Whether the images, a hundred of them evenly spaced, are no larger than `size`."""
    from PIL import Image

    for sample in samples[:: -(-len(samples) // LOOKED_AT)]:
        try:
            with Image.open(sample.open()) as image:
                if image.height > size[0] or image.width > size[1]:
                    return False
        except (ImageError, OSError):
            continue
    return True
