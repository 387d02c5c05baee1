"""What training starts from: a new network, or weights with a new head, fitted or not."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..architecture import SMALL_IMAGES, Architecture
from ..datasets import Sample
from ..errors import ImageError, UserError
from ..graph import layers
from ..images import Preprocessing
from ..nn import MobileNetV2
from ..nn.backbone import Backbone
from ..nn.build import new_arrays
from ..nn.fused import fuse
from ..runtime import Engine
from .recipes import Recipe
from .start import Start
from .task import Task

LOG = logging.getLogger(__name__)

SIZE_SAMPLES = 100  # images whose size is read to decide whether all are small
LBFGS_STEPS = 200


class Built(NamedTuple):
    """A network before training.

    Attributes:
        net: The network.
        preprocessing: That of its images.
        weights: The provenance of its weights; {} without.
        new: The arrays that the weights did not bring; () without weights.
    """

    net: Backbone
    preprocessing: Preprocessing
    weights: dict[str, Any]
    new: tuple[str, ...]


def build(
    task: Task, start: Start, classes: tuple[str, ...], samples: Sequence[Any], recipe: Recipe
) -> Built:
    """The network before training.

    Args:
        task: What it is trained for.
        start: What to start from.
        classes: Names of the classes.
        samples: Images of the training data; if all are small, a new classifier gets them uncropped.
        recipe: Its seed initialises a new network or head; its crop is that of validation and use.

    Raises:
        UserError: `start` contradicts itself, or the weights cannot be read.
    """
    torch.manual_seed(recipe.seed)
    if start.weights is None:
        architecture, preprocessing = task.from_scratch(start, len(classes), samples)
        net, preprocessing = task.new(architecture, recipe), _cropped(preprocessing, recipe)
        return Built(net, preprocessing, {}, ())
    from ..formats import open_checkpoint

    checkpoint = open_checkpoint(start.weights, start.width, int8=False)
    for note in checkpoint.notes:
        LOG.info("%s: %s", start.weights, note)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="new head")
        net, preprocessing = task.from_weights(checkpoint, start, classes, recipe)
    if not recipe.freeze_norms and _folded(net):
        raise UserError(
            f"{start.weights}: batch norms were folded into the kernels, and normalising by batches "
            "would undo them: --set freeze_norms=true"
        )
    new = new_arrays(net.architecture, checkpoint, checkpoint.labels != classes)
    preprocessing = _cropped(preprocessing, recipe)
    return Built(net, preprocessing, dict(checkpoint.provenance), tuple(sorted(new)))


def _cropped(preprocessing: Preprocessing, recipe: Recipe) -> Preprocessing:
    """With the recipe's crop, where images are cropped."""
    if recipe.crop_fraction is None or preprocessing.resize != "short_side":
        return preprocessing
    return replace(preprocessing, crop_fraction=recipe.crop_fraction)


def prepare(net: Backbone) -> Backbone:
    """The same network with fused operators and channels-last memory. Call it once, before
    optimiser and moving average are made.
    """
    fuse(net)
    return net.to(memory_format=torch.channels_last)


def last_map(architecture: Architecture) -> tuple[int, int]:
    """(height, width) of the backbone's last map."""
    backbone = [x for x in layers(architecture) if x.name.startswith("features.")]
    return backbone[-1].out_shape[1:]


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


def plain_architecture(
    start: Start, samples: Sequence[Sample]
) -> tuple[Architecture, Preprocessing]:
    """A new classifier's description, its classes aside, and the preprocessing of its images."""
    base = start.architecture or (SMALL_IMAGES if start.small_images else Architecture())
    size = start.resolution or base.resolution
    architecture = replace(base, width_mult=start.width or base.width_mult, resolution=size)
    crop_fraction = 1.0 if _all_small(samples, size) else 0.875
    half = (0.5,) * base.in_channels
    return architecture, Preprocessing(size=size, crop_fraction=crop_fraction, mean=half, std=half)


def published_architecture(start: Start, size: tuple[int, int]) -> Architecture:
    """A new network's description as TensorFlow's detectors and segmenters have it, the head aside.

    Args:
        start: Gives width, resolution, or all but the classes.
        size: The resolution where neither says one.
    """
    base = start.architecture or Architecture(padding="same", bn_epsilon=1e-3, resolution=size)
    if start.architecture is not None and base.head.task in ("classification", "features"):
        base = replace(base, resolution=size)
    return replace(
        base,
        width_mult=start.width or base.width_mult,
        resolution=start.resolution or base.resolution,
    )


def _folded(net: Backbone) -> bool:
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
