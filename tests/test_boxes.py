"""Anchors, coding, matching and suppression, against recorded values and plain loops."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from mobilenetv2 import boxes
from mobilenetv2.architecture import Architecture
from mobilenetv2.errors import ArchitectureError
from mobilenetv2.graph import network
from mobilenetv2.heads import SSD, SSDLite, ssd_anchor_sizes

DETECTOR = Architecture(head=SSD(23), resolution=(300, 300), padding="same", bn_epsilon=1e-3)


def anchors_of(architecture: Architecture, *size: int) -> np.ndarray:
    return boxes.anchors(architecture.head, network(architecture, *size))  # type: ignore[arg-type]


def random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """Boxes with few distinct corners, so that many touch, coincide or have no area."""
    corners = rng.integers(0, 9, (count, 2, 2)) / 8
    return np.concatenate([corners.min(1), corners.max(1)], 1)


@pytest.mark.parametrize(("side", "count"), [(300, 1917), (320, 2034)])
@pytest.mark.parametrize("head", [SSD(5), SSDLite(5)])
def test_anchors_of_known_sizes(head, side, count) -> None:
    anchors = anchors_of(replace(DETECTOR, head=head), side, side)
    assert anchors.shape == (count, 4)
    assert (anchors[:, :2] > 0).all()
    assert (anchors[:, :2] < 1).all()
    assert anchors[-1, :2] == pytest.approx((0.5, 0.5))


def test_anchors_are_the_recorded_ones(shared) -> None:
    recorded = np.load(shared("reference/detection/anchors.npz"))
    anchors = anchors_of(DETECTOR)
    assert anchors == pytest.approx(recorded["anchors_yxhw"], abs=1e-12)
    corners = boxes.corners(anchors)[:, [1, 0, 3, 2]]  # recorded with y first
    assert corners == pytest.approx(recorded["anchors_corners"], abs=1e-12)


def test_anchors_of_an_oblong_image_are_square_in_pixels() -> None:
    height, width = 160, 320
    anchors = anchors_of(DETECTOR, height, width)
    squares = anchors[np.isclose(anchors[:, 2] * height, anchors[:, 3] * width)]
    assert len(squares) >= len(anchors) / 4
    assert squares[:, 2].max() * height == pytest.approx(0.974679 * height, abs=1e-3)


def test_anchor_steps_move_the_centres() -> None:
    head = SSD(2, anchor_steps=(16 / 300, 32 / 300, 64 / 300, 100 / 300, 0.5, 1.0))
    anchors = anchors_of(replace(DETECTOR, head=head))
    assert anchors[0, :2] == pytest.approx((8 / 300, 8 / 300))
    assert anchors[-1, :2] == pytest.approx((0.5, 0.5))


@pytest.mark.parametrize(
    "changes",
    [{"anchor_sizes": ssd_anchor_sizes(5)}, {"anchor_steps": (0.1,)}, {"extra_channels": (8, 8)}],
)
def test_as_many_anchors_as_maps(changes) -> None:
    with pytest.raises(ArchitectureError, match="one entry for each of the [0-9] maps"):
        SSDLite(**changes)


def test_codes_and_boxes() -> None:
    rng = np.random.default_rng(0)
    anchors = np.concatenate([rng.uniform(0, 1, (50, 2)), rng.uniform(0.05, 0.9, (50, 2))], 1)
    low = rng.uniform(0, 0.8, (50, 2))
    own = np.concatenate([low, low + rng.uniform(0.01, 0.2, (50, 2))], 1)
    codes = boxes.encode_boxes(own, anchors)
    assert boxes.decode_boxes(codes, anchors) == pytest.approx(own, abs=1e-5)
    # y first: an anchor moved down by a tenth of its height has the code 1 there
    moved = boxes.decode_boxes(np.array([[1.0, 0, 0, 0]]), np.array([[0.5, 0.5, 0.2, 0.4]]))
    assert moved[0] == pytest.approx((0.3, 0.42, 0.7, 0.62))


def test_huge_codes_stay_finite() -> None:
    codes = np.full((1, 4), 1e9, np.float32)
    assert np.isfinite(boxes.decode_boxes(codes, np.array([[0.5, 0.5, 0.2, 0.4]]))).all()


def test_overlaps_of_boxes_without_area_are_0() -> None:
    rng = np.random.default_rng(1)
    first, second = random_boxes(rng, 40), random_boxes(rng, 30)
    overlaps = boxes.overlaps(first, second)
    grid = (np.arange(8) + 0.5) / 8  # cells that a box covers wholly or not at all

    def cells(box: np.ndarray) -> np.ndarray:
        columns, rows = (grid > box[0]) & (grid < box[2]), (grid > box[1]) & (grid < box[3])
        return rows[:, None] & columns

    for i, a in enumerate(first):
        for j, b in enumerate(second):
            both = (cells(a) | cells(b)).sum()
            expected = (cells(a) & cells(b)).sum() / both if both else 0
            assert overlaps[i, j] == pytest.approx(expected)


def test_matching() -> None:
    anchors = np.array(
        [[0.25, 0.25, 0.5, 0.5], [0.75, 0.75, 0.5, 0.5], [0.25, 0.75, 0.5, 0.5], [0.5, 0.5, 1, 1]]
    )
    own = np.array([[0, 0, 0.5, 0.4], [0.8, 0.8, 0.9, 0.9], [0.7, 0.7, 0.9, 0.9]])
    # the first overlaps anchor 0 by 0.8; the others no anchor by 0.5, and both take anchor 1
    assert boxes.match(own, anchors).tolist() == [0, 1, -1, -1]
    assert boxes.match(np.zeros((0, 4)), anchors).tolist() == [-1] * 4


def suppressed(own: np.ndarray, scores: np.ndarray, threshold: float) -> list[int]:
    """Non-maximum suppression, by its definition."""
    kept: list[int] = []
    for index in sorted(range(len(own)), key=lambda index: (-scores[index], index)):
        overlaps = boxes.overlaps(own[[index]], own[kept])
        if not len(kept) or overlaps.max() <= threshold:
            kept.append(index)
    return kept


@pytest.mark.parametrize("seed", range(8))
def test_best_boxes_are_those_of_suppression_in_each_class(seed) -> None:
    rng = np.random.default_rng(seed)
    own = random_boxes(rng, 120)
    scores = rng.integers(0, 12, (120, 3)) / 12  # many ties
    kept = []
    for column in range(3):
        candidates = np.flatnonzero((own[:, 2:] > own[:, :2]).all(1) & (scores[:, column] > 0.2))
        best = candidates[suppressed(own[candidates], scores[candidates, column], 0.4)]
        kept += [(-scores[row, column], column, row) for row in best]
    expected = sorted(kept)[:20]
    rows, columns = boxes.best_boxes(own, scores, threshold=0.2, iou_threshold=0.4, limit=20)
    assert list(zip(columns, rows)) == [(column, row) for _, column, row in expected]
    rows, columns = boxes.best_boxes(
        own, scores, threshold=0.2, iou_threshold=0.4, limit=9, classes=[2]
    )
    assert list(rows) == [row for _, column, row in sorted(kept) if column == 2][:9]


def test_probabilities_leave_the_background_out() -> None:
    scores = np.array([[3.0, 0.0, -1000.0], [0.0, np.log(3), 0.0]], np.float32)
    assert boxes.probabilities(SSD(2), scores) == pytest.approx(
        np.array([[0.5, 0.0], [0.75, 0.5]]), abs=1e-6
    )
    softmax = boxes.probabilities(SSD(2, score="softmax"), scores)
    assert softmax[1] == pytest.approx((0.6, 0.2))


def test_recorded_outputs_give_the_recorded_detections(shared) -> None:
    recorded = np.load(shared("reference/detection/ssd_mobilenet_v2_oidv4_fp16.first8.npz"))
    detections = json.loads(shared("reference/detection/detections.oidv4_classes.json").read_text())
    listed = json.loads(shared("data/coco-sample/instances.json").read_text())["images"]
    images = {image["file_name"]: image for image in listed}
    anchors = anchors_of(DETECTOR)
    for file, codes, scores in zip(
        recorded["files"], recorded["raw_boxes"], recorded["raw_scores"]
    ):
        image = images[str(file)]
        own = np.clip(boxes.decode_boxes(codes, anchors), 0, 1)
        probabilities = boxes.probabilities(SSD(23), scores)
        rows, columns = boxes.best_boxes(
            own, probabilities, threshold=1e-3, iou_threshold=0.6, limit=100
        )
        expected = [each for each in detections if each["image_id"] == image["id"]]
        assert [column + 1 for column in columns] == [each["category_id"] for each in expected]
        sizes = np.array([image["width"], image["height"]] * 2)
        corners = own[rows] * sizes
        corners[:, 2:] -= corners[:, :2]
        assert corners == pytest.approx(np.array([each["bbox"] for each in expected]), abs=2e-3)
        assert probabilities[rows, columns] == pytest.approx(
            np.array([each["score"] for each in expected]), abs=2e-6
        )
