"""What training starts from: a new network, or weights with a new head, fitted or not."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ..architecture import SMALL_IMAGES, Architecture
from ..datasets import Sample
from ..errors import ImageError, UserError
from ..graph import layers
from ..images import Preprocessing
from ..nn import MobileNetV2, mobilenet_v2
from ..nn.fused import fuse
from ..records import Meta, Record, Size
from ..runtime import Engine
from .recipes import Recipe

LOG = logging.getLogger(__name__)

SIZE_SAMPLES = 100  # images whose size is read to decide whether all are small
LBFGS_STEPS = 200


@dataclass(frozen=True)
class Start(Record):
    """The network to start from.

    Attributes:
        weights: A model file of any kind, or a name from `mobilenetv2.models()`; None: from scratch.
        width: Width multiplier. None: that of the weights, or 1.
        resolution: (height, width) of the pixels. None: that of the weights, or 224, or 32 with
            `small_images`.
        small_images: A new network with the strides for 32 x 32 images,
            `architecture.SMALL_IMAGES`.
        architecture: Everything about a new network except its classes; not together with weights
            or `small_images`.

    Raises:
        UserError: A value is out of range, or two contradict each other.
    """

    noun: ClassVar[str] = "start"

    weights: str | os.PathLike[str] | None = None
    width: Annotated[float, Meta(ge=0.001, le=16)] | None = None
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
    """The network before training, its preprocessing, and the provenance of its weights.

    Args:
        start: What to start from.
        classes: Names of the classes.
        samples: Images of the training data; if all are small, a new network gets them uncropped.
        recipe: Its seed initialises a new network or head.

    Raises:
        UserError: `start` contradicts itself, or the weights cannot be read.
    """
    torch.manual_seed(recipe.seed)
    if start.weights is None:
        architecture, preprocessing = _from_scratch(start, samples)
        described = architecture.with_classes(len(classes))
        return restore(described, recipe), preprocessing, {}
    from ..formats import open_checkpoint

    checkpoint = open_checkpoint(start.weights, start.width, int8=False)
    for note in checkpoint.notes:
        LOG.info("%s: %s", start.weights, note)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="new head")
        net = mobilenet_v2(
            weights=checkpoint,
            width_mult=start.width,
            num_classes=len(classes),
            fresh_head=checkpoint.labels != classes,
            dropout=recipe.drop_rate,
            drop_path_rate=recipe.drop_path_rate,
            bn_decay=recipe.bn_decay,
        )
    if not recipe.freeze_norms and _folded(net):
        raise UserError(
            f"{start.weights}: batch norms were folded into the kernels, and normalising by batches "
            "would undo them: --set freeze_norms=true"
        )
    size = start.resolution or checkpoint.preprocessing.size
    net.architecture = replace(net.architecture, resolution=size)
    return net, replace(checkpoint.preprocessing, size=size), dict(checkpoint.provenance)


def restore(architecture: Architecture, recipe: Recipe) -> MobileNetV2:
    """A new network of this architecture with the recipe's rates."""
    return MobileNetV2(
        architecture,
        drop_rate=recipe.drop_rate,
        drop_path_rate=recipe.drop_path_rate,
        bn_decay=recipe.bn_decay,
    )


def prepare(net: MobileNetV2) -> MobileNetV2:
    """The same network with fused operators and channels-last memory. Call it once, before
    optimiser and moving average are made.
    """
    fuse(net)
    return net.to(memory_format=torch.channels_last)


def last_map(architecture: Architecture) -> tuple[int, int]:
    """(height, width) of the map before pooling."""
    pool = next(layer for layer in layers(architecture) if layer.kind == "pool")
    return pool.in_shape[1:]


def fit_head(
    net: MobileNetV2,
    preprocessing: Preprocessing,
    batches: Iterable[tuple[Tensor, Tensor]],
    l2: float,
    balance: bool = False,
) -> None:
    """Makes the classifier the logistic regression on the features of images and of their mirror
    images. The backbone is frozen, so the features are computed once.

    Args:
        net: Its classifier is replaced by the fitted one.
        preprocessing: How pixels are normalised.
        batches: Pixels (N, C, H, W) uint8 and class indices (N,), each image once. Their features
            stay in memory: 10 kB per image.
        l2: Half of this times the squared weights is added to the mean loss.
        balance: Weigh images so that all classes count alike.
    """
    engine = Engine(net.to_checkpoint(preprocessing=preprocessing))
    features, labels = _features(engine, batches)
    head = nn.Linear(features.shape[1], net.architecture.classes)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    counts = torch.bincount(labels, minlength=len(head.bias)).clamp(min=1)
    cross_entropy = nn.CrossEntropyLoss(1 / counts if balance else None)
    optimizer = torch.optim.LBFGS(
        head.parameters(),
        max_iter=LBFGS_STEPS,
        tolerance_grad=1e-5,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = cross_entropy(head(features), labels)
        loss = loss + l2 / 2 * head.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    net.classifier[-1].load_state_dict(head.state_dict())


def _features(engine: Engine, batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """(2 N, channels) of each image and its mirror image, and the class indices (2 N,)."""
    features, labels = [], []
    for pixels, batch_labels in batches:
        images = pixels.permute(0, 2, 3, 1).numpy()  # (N, H, W, C)
        for view in (images, images[:, :, ::-1]):
            features.append(engine.features(np.ascontiguousarray(view)))
            labels.append(batch_labels)
    return torch.from_numpy(np.concatenate(features)), torch.cat(labels)


def _from_scratch(start: Start, samples: Sequence[Sample]) -> tuple[Architecture, Preprocessing]:
    base = start.architecture or (SMALL_IMAGES if start.small_images else Architecture())
    size = start.resolution or base.resolution
    architecture = replace(base, width_mult=start.width or base.width_mult, resolution=size)
    crop_fraction = 1.0 if _all_small(samples, size) else 0.875
    half = (0.5,) * base.in_channels
    return architecture, Preprocessing(size=size, crop_fraction=crop_fraction, mean=half, std=half)


def _folded(net: MobileNetV2) -> bool:
    """Whether the weights have no batch norm statistics, like those from TensorFlow Lite."""
    means = [m.running_mean for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    return not any(mean.any() for mean in means)


def _all_small(samples: Sequence[Sample], size: tuple[int, int]) -> bool:
    """Whether no image is larger than `size`, judged by 100 evenly spaced ones."""
    from PIL import Image

    for sample in samples[:: -(-len(samples) // SIZE_SAMPLES)]:
        try:
            with Image.open(sample.open()) as image:
                if image.height > size[0] or image.width > size[1]:
                    return False
        except (ImageError, OSError):
            continue
    return True
