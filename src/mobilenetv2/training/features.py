"""The head fitted to a frozen backbone, whose features are computed once."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from ..images import Preprocessing
from ..nn import MobileNetV2
from ..runtime import Engine

STEPS = 200


def fit_head(
    net: MobileNetV2,
    preprocessing: Preprocessing,
    batches: Iterable[tuple[Tensor, Tensor]],
    l2: float,
    balance: bool = False,
) -> None:
    """Makes the classifier the logistic regression on the features of images and of their mirror
    images. The backbone is not touched.

    Args:
        net: Its classifier is replaced by the fitted one.
        preprocessing: How pixels are normalised.
        batches: Pixels (N, C, H, W) uint8 and labels (N,), each image once; 10 kB of features are
            held for each.
        l2: Half of this times the squared weights is added to the mean loss.
        balance: Weigh images so that all classes count alike.
    """
    features, labels = _features(Engine(net.to_checkpoint(preprocessing=preprocessing)), batches)
    head = nn.Linear(features.shape[1], net.architecture.classes)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    counts = torch.bincount(labels, minlength=len(head.bias)).clamp(min=1)
    loss_of = nn.CrossEntropyLoss(1 / counts if balance else None)
    optimizer = torch.optim.LBFGS(
        head.parameters(), max_iter=STEPS, tolerance_grad=1e-5, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = loss_of(head(features), labels) + l2 / 2 * head.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    net.classifier[-1].load_state_dict(head.state_dict())


def _features(engine: Engine, batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """(2 N, channels) of each image and its mirror image, and the labels (2 N,)."""
    features, labels = [], []
    for pixels, label in batches:
        images = pixels.permute(0, 2, 3, 1).numpy()  # (N, H, W, C)
        for view in (images, images[:, :, ::-1]):
            features.append(engine.features(np.ascontiguousarray(view)))
            labels.append(label)
    return torch.from_numpy(np.concatenate(features)), torch.cat(labels)
