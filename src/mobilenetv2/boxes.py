"""Boxes of detectors in plain NumPy: anchors, coding, overlap, matching, non-maximum suppression.

Boxes are (n, 4) arrays of corners (x0, y0, x1, y1); anchors are (n, 4) arrays of centres and sizes
(y, x, height, width), the order of the codes that networks are trained with. Both are in parts of
the image unless said otherwise.
Source: TF Object Detection API, research/object_detection.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from .graph import Network
    from .heads import SSDHead

Floats = NDArray[np.floating[Any]]
# codes are so many times the shift of centre and logarithm of size; faster_rcnn_box_coder.py
CODE_SCALES = (10.0, 10.0, 5.0, 5.0)
CODED_SIZE_EPSILON = 1e-8
MAX_LOG_SIZE = 20.0  # larger ones would overflow float32


def anchors(head: SSDHead, network: Network) -> NDArray[np.float64]:
    """The anchors of a detector for images of one size, in the order of its outputs' rows.

    Args:
        head: The network's head.
        network: `graph.network` for the size.

    Returns:
        (n, 4) centres and sizes; map after map, then y, x and the anchors of a cell.
    """
    height, width = network.layers[0].in_shape[1:]
    shorter = min(height, width)
    parts = []
    for index, (name, sizes) in enumerate(
        zip(network.outputs[::2], head.anchor_sizes, strict=True)
    ):
        rows, columns = network[name].out_shape[1:]
        steps = 1 / rows, 1 / columns
        if head.anchor_steps is not None:
            steps = (head.anchor_steps[index],) * 2
        grid = np.empty((rows, columns, len(sizes), 4))
        grid[..., 0] = ((np.arange(rows) + 0.5) * steps[0])[:, None, None]
        grid[..., 1] = ((np.arange(columns) + 0.5) * steps[1])[:, None]
        grid[..., 2:] = np.array(sizes) * (shorter / height, shorter / width)
        parts.append(grid.reshape(-1, 4))
    return np.concatenate(parts)


def raw_outputs(
    head: SSDHead, outputs: Mapping[str, NDArray[np.float32]]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A detector's outputs, one row per anchor.

    Args:
        head: The network's head.
        outputs: By name, (N, H, W, anchors * numbers), in the network's order.

    Returns:
        Box codes (N, n, 4) and scores (N, n, 1 + classes).
    """
    maps = list(outputs.values())
    joined = [
        np.concatenate([values.reshape(len(values), -1, numbers) for values in maps[begin::2]], 1)
        for begin, numbers in ((0, 4), (1, 1 + head.classes))
    ]
    return joined[0], joined[1]


def probabilities(head: SSDHead, scores: Floats) -> NDArray[np.float32]:
    """Probabilities (..., classes) of the scores (..., 1 + classes), the background left out."""
    if head.score == "sigmoid":
        with np.errstate(over="ignore"):
            values: NDArray[np.float32] = (1 / (1 + np.exp(-scores[..., 1:]))).astype(np.float32)
        return values
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    shares: NDArray[np.float32] = (powers / powers.sum(-1, keepdims=True)).astype(np.float32)
    return shares[..., 1:]


def decode_boxes(codes: Floats, anchors: Floats) -> NDArray[np.float64]:
    """The boxes (..., 4) that codes (..., 4) mean with these anchors (n, 4)."""
    shifts = codes.astype(np.float64) / CODE_SCALES
    centre = shifts[..., :2] * anchors[..., 2:] + anchors[..., :2]
    half = np.exp(np.minimum(shifts[..., 2:], MAX_LOG_SIZE)) * anchors[..., 2:] / 2
    boxes: NDArray[np.float64] = np.concatenate(
        [(centre - half)[..., ::-1], (centre + half)[..., ::-1]], -1
    )
    return boxes


def encode_boxes(boxes: Floats, anchors: Floats) -> NDArray[np.float64]:
    """The codes (n, 4) of boxes (n, 4) with their anchors (n, 4); `decode_boxes` undoes it."""
    boxes = boxes.astype(np.float64)
    sizes = (boxes[:, 2:] - boxes[:, :2])[:, ::-1] + CODED_SIZE_EPSILON
    centre = (boxes[:, :2] + boxes[:, 2:])[:, ::-1] / 2
    own = anchors[:, 2:] + CODED_SIZE_EPSILON
    shifts = [(centre - anchors[:, :2]) / own, np.log(sizes / own)]
    codes: NDArray[np.float64] = np.concatenate(shifts, 1) * CODE_SCALES
    return codes


def corners(anchors: Floats) -> NDArray[np.float64]:
    """Anchors (n, 4) as boxes (n, 4)."""
    half = anchors[:, 2:] / 2
    return np.concatenate([(anchors[:, :2] - half)[:, ::-1], (anchors[:, :2] + half)[:, ::-1]], 1)


def overlaps(first: Floats, second: Floats) -> NDArray[np.float64]:
    """Intersection over union of boxes (n, 4) and boxes (m, 4): (n, m); 0 of those without area."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    common = np.maximum(high - low, 0).prod(-1)
    both = _areas(first)[:, None] + _areas(second)[None] - common
    shares: NDArray[np.float64] = np.divide(common, both, np.zeros_like(common), where=both > 0)
    return shares


def match(boxes: Floats, anchors: Floats, threshold: float = 0.5) -> NDArray[np.int64]:
    """Which box each anchor is to predict.

    An anchor takes the box that it overlaps most, from `threshold` on; and each box takes the
    anchor that overlaps it most, whatever the overlap. The box with the lower index wins an anchor
    that two boxes take.

    Args:
        boxes: (n, 4).
        anchors: (m, 4) centres and sizes.
        threshold: Intersection over union from which an anchor takes a box.

    Returns:
        (m,) index of a box, or -1: background. Source: argmax_matcher.py, force_match_for_each_row.
    """
    if not len(boxes):
        return np.full(len(anchors), -1, np.int64)
    overlap = overlaps(boxes, corners(anchors))
    matched = np.where(overlap.max(0) >= threshold, overlap.argmax(0), -1)
    best = overlap.argmax(1)
    for index in reversed(range(len(boxes))):
        matched[best[index]] = index
    return matched.astype(np.int64)


def best_boxes(
    boxes: Floats,
    scores: Floats,
    *,
    threshold: float,
    iou_threshold: float,
    limit: int,
    classes: Sequence[int] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The detections of one image: suppression for each class, then the best of all classes.

    Args:
        boxes: (n, 4), each clipped to the image; those without area are left out.
        scores: (n, classes).
        threshold: Scores must be above it.
        iou_threshold: A box goes that overlaps a better one of its class by more (intersection over
            union).
        limit: Boxes per class, and per image.
        classes: The classes to look for; None: all.

    Returns:
        The row of each detection in `boxes` and its class, best first; of equal scores the smaller
        class and row come first.
    """
    has_area = (boxes[:, 2:] > boxes[:, :2]).all(axis=1, keepdims=True)
    columns = np.arange(scores.shape[1]) if classes is None else np.array(classes, np.int64)
    candidates = scores[:, columns]
    row, place = np.nonzero(np.logical_and(has_area, candidates > threshold))
    order = np.lexsort((row, columns[place], -candidates[row, place]))
    corners_of = boxes.astype(np.float64).tolist()
    kept: dict[int, list[list[float]]] = {}  # boxes of each class
    rows, of_class = [], []
    # Best first over all classes: a box depends on better ones only, so that the rest of the
    # candidates, thousands of them, is never looked at.
    for index in order:
        box, class_ = corners_of[row[index]], int(columns[place[index]])
        better = kept.setdefault(class_, [])
        if all(_overlap(box, other) <= iou_threshold for other in better):
            better.append(box)
            rows.append(row[index])
            of_class.append(class_)
            if len(rows) == limit:
                break
    return np.array(rows, np.int64), np.array(of_class, np.int64)


def _overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two boxes that have an area."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    common = width * height
    both = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return common / (both - common)


def _areas(boxes: Floats) -> NDArray[np.float64]:
    areas: NDArray[np.float64] = np.maximum(boxes[:, 2:].astype(np.float64) - boxes[:, :2], 0).prod(
        1
    )
    return areas
