"""What SSD learns: targets for its anchors, and the loss with hard negatives.

Source: TF Object Detection API, core/losses.py and meta_architectures/ssd_meta_arch.py.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ..boxes import corners, encode_boxes, match

NEGATIVES_PER_POSITIVE, MIN_NEGATIVES = 3, 3  # ssdlite_mobilenet_v2_coco.config
CROWD_OVERLAP = 0.5  # the share of an anchor from which it is in a crowd
BACKGROUND, IGNORED_ANCHOR = 0, -1


def anchor_targets(
    boxes: NDArray[np.float64],
    classes: NDArray[np.int64],
    anchors: NDArray[np.float64],
    crowds: NDArray[np.float64] | None = None,
) -> NDArray[np.float32]:
    """What the network is to answer for one image, a row for each anchor.

    Args:
        boxes: (n, 4) in parts of the pixels, each with an area.
        classes: (n,) indices without a background.
        anchors: (m, 4) centres and sizes.
        crowds: (k, 4) boxes in which nothing is known of single objects.

    Returns:
        (m, 5): the class (1 + index; 0: background; -1: background that is not counted, because it
        lies in a crowd), and the code of the box, zeros for the background.
    """
    matched = match(boxes, anchors)
    targets = np.zeros((len(anchors), 5), np.float32)
    positive = matched >= 0
    targets[positive, 0] = classes[matched[positive]] + 1
    targets[positive, 1:] = encode_boxes(boxes[matched[positive]], anchors[positive])
    if crowds is not None and len(crowds):
        own = corners(anchors)
        areas = (own[:, 2:] - own[:, :2]).prod(1)
        low = np.maximum(own[:, None, :2], crowds[None, :, :2])
        high = np.minimum(own[:, None, 2:], crowds[None, :, 2:])
        shares = np.maximum(high - low, 0).prod(-1).max(1) / areas
        targets[~positive & (shares >= CROWD_OVERLAP), 0] = IGNORED_ANCHOR
    return targets


def ssd_loss(codes: Tensor, scores: Tensor, targets: Tensor, score: str) -> tuple[Tensor, Tensor]:
    """The sum of both losses over the positive anchors and the hardest negatives, and the number of
    positive ones, by which TensorFlow divides it.

    Smooth L1 of the codes; cross-entropy of a sigmoid for each class, the background included, or of
    a softmax.

    Args:
        codes: (N, n, 4).
        scores: (N, n, 1 + classes) before sigmoid or softmax.
        targets: (N, n, 5) of `anchor_targets`.
        score: "sigmoid" or "softmax", as the head has it.
    """
    classes = targets[..., 0].long()
    positive = classes > BACKGROUND
    labels = classes.clamp(min=BACKGROUND)
    if score == "softmax":
        of_class = functional.cross_entropy(scores.transpose(1, 2), labels, reduction="none")
    else:
        one_hot = functional.one_hot(labels, scores.shape[-1]).to(scores.dtype)
        of_class = functional.binary_cross_entropy_with_logits(
            scores, one_hot, reduction="none"
        ).sum(-1)
    of_box = functional.smooth_l1_loss(codes, targets[..., 1:], reduction="none").sum(-1)
    counted = positive | hard_negatives(of_class.detach(), classes)
    total = (of_box * positive).sum() + (of_class * counted).sum()
    return total, positive.sum()


@torch.no_grad()
def hard_negatives(losses: Tensor, classes: Tensor) -> Tensor:
    """The background anchors with the greatest loss: three for each positive one of an image, and at
    least three.

    Args:
        losses: (N, n).
        classes: (N, n), 0 for the background.

    Returns:
        (N, n) bool.
    """
    negative = classes == BACKGROUND
    counts = NEGATIVES_PER_POSITIVE * (classes > BACKGROUND).sum(1, keepdim=True)
    order = losses.masked_fill(~negative, -torch.inf).argsort(stable=True, dim=1, descending=True)
    ranks = torch.empty_like(order)
    ranks.scatter_(1, order, torch.arange(order.shape[1], device=order.device).expand_as(order))
    return negative & (ranks < counts.clamp(min=MIN_NEGATIVES))
