"""What SSD learns: targets, hard negatives, loss, and the random changes of images with boxes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from mobilenetv2.architecture import Architecture
from mobilenetv2.boxes import anchors, decode_boxes
from mobilenetv2.graph import network
from mobilenetv2.heads import SSDLite
from mobilenetv2.images import Preprocessing
from mobilenetv2.training.augment import Augmentation
from mobilenetv2.training.ssd import anchor_targets, hard_negatives, ssd_loss
from mobilenetv2.training.windows import box_transform, expanded, ssd_crop

ARCHITECTURE = Architecture(head=SSDLite(2), resolution=(96, 96))
ANCHORS = anchors(ARCHITECTURE.head, network(ARCHITECTURE))
NO_BOXES = np.zeros((0, 4))
PREPROCESSING = Preprocessing(size=(48, 64), resize="stretch")


def targets_of(boxes: list[list[float]], classes: list[int]) -> NDArray[np.float32]:
    return anchor_targets(
        np.array(boxes, np.float64).reshape(-1, 4), np.array(classes, np.int64), ANCHORS
    )


def test_targets_decode_to_the_boxes() -> None:
    boxes = [[0.1, 0.2, 0.5, 0.9], [0.3, 0.3, 0.35, 0.36]]
    targets = targets_of(boxes, [1, 0])
    for box, class_ in zip(boxes, (2, 1), strict=True):
        own = targets[:, 0] == class_
        assert own.any()  # the second is matched although no anchor overlaps it by half
        decoded = decode_boxes(targets[own, 1:], ANCHORS[own])
        assert np.abs(decoded - box).max() < 1e-5
    assert not targets[targets[:, 0] == 0, 1:].any()


def test_an_image_without_objects_is_background() -> None:
    assert not targets_of([], []).any()


def test_anchors_in_a_crowd_are_not_counted() -> None:
    crowd = np.array([[0.0, 0.0, 0.5, 1.0]])
    targets = anchor_targets(np.array([[0.1, 0.1, 0.4, 0.4]]), np.array([0]), ANCHORS, crowd)
    inside = ANCHORS[:, 1] + ANCHORS[:, 3] / 2 <= 0.5
    fits = inside & (ANCHORS[:, 0] - ANCHORS[:, 2] / 2 >= 0) & (ANCHORS[:, 1] > ANCHORS[:, 3] / 2)
    fits &= ANCHORS[:, 0] + ANCHORS[:, 2] / 2 <= 1
    assert set(targets[fits, 0]) == {-1, 1}
    assert (targets[ANCHORS[:, 1] - ANCHORS[:, 3] / 2 > 0.5, 0] == 0).all()


@pytest.mark.parametrize(("positives", "negatives"), [(0, 3), (1, 3), (4, 12), (30, 69)])
def test_three_hard_negatives_for_each_positive(positives: int, negatives: int) -> None:
    classes = torch.zeros(1, 100, dtype=torch.int64)
    classes[0, :positives] = 2
    classes[0, -1] = -1
    losses = torch.arange(100.0).roll(7)[None]
    chosen = hard_negatives(losses, classes)
    assert int(chosen.sum()) == negatives
    assert not (chosen & (classes != 0)).any()
    if chosen.sum() < (classes == 0).sum():
        assert losses[chosen].min() > losses[~chosen & (classes == 0)].max()


def test_equal_losses_give_no_more_negatives() -> None:
    classes = torch.zeros(2, 50, dtype=torch.int64)
    classes[1, :2] = 1
    assert hard_negatives(torch.ones(2, 50), classes).sum(1).tolist() == [3, 6]


@pytest.mark.parametrize("score", ["sigmoid", "softmax"])
def test_the_loss_by_hand(score: str) -> None:
    """One positive of six anchors, three of five negatives."""
    codes = torch.zeros(1, 6, 4)
    scores = torch.zeros(1, 6, 3)
    scores[0, :, 1] = torch.arange(6.0)
    targets = torch.zeros(1, 6, 5)
    targets[0, 1] = torch.tensor([2.0, 0.5, -0.5, 3.0, 0.0])
    total, count = ssd_loss(codes, scores, targets, score)
    of_box = 0.125 + 0.125 + 2.5
    expected = of_box
    for anchor, label in ((1, 2), (3, 0), (4, 0), (5, 0)):
        row = scores[0, anchor].double()
        if score == "softmax":
            expected += float(torch.logsumexp(row, 0) - row[label])
        else:
            signs = torch.tensor([1.0 if i == label else -1.0 for i in range(3)])
            expected += float(torch.nn.functional.softplus(-signs * row).sum())
    assert int(count) == 1
    assert float(total) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("score", ["sigmoid", "softmax"])
def test_a_batch_without_objects_trains_the_classes(score: str) -> None:
    codes = torch.zeros(2, len(ANCHORS), 4, requires_grad=True)
    scores = torch.zeros(2, len(ANCHORS), 3, requires_grad=True)
    total, count = ssd_loss(codes, scores, torch.zeros(2, len(ANCHORS), 5), score)
    total.backward()
    assert torch.isfinite(total)
    assert int(count) == 0
    assert int(scores.grad.abs().sum(-1).bool().sum()) == 6
    assert not codes.grad.any()


def coloured(width: int = 80, height: int = 60) -> tuple[Image.Image, NDArray[np.float32]]:
    """Grey with a red rectangle, and the box of that."""
    pixels = np.full((height, width, 3), 128, np.uint8)
    pixels[15:45, 20:60] = (255, 0, 0)
    return Image.fromarray(pixels), np.array([[20, 15, 60, 45]], np.float32)


def test_boxes_go_where_their_pixels_go() -> None:
    image, boxes = coloured()
    a = Augmentation(crop="ssd", expand=2.0, colour=False)
    transform = box_transform(a, PREPROCESSING)
    seen = 0
    for seed in range(60):
        pixels, found, kept = transform(image, boxes, np.random.default_rng(seed))
        assert pixels.shape == (48, 64, 3)
        assert pixels.flags.c_contiguous
        red = (pixels[..., 0] > 190) & (pixels[..., 1] < 70)
        if not len(found):
            continue
        seen += 1
        assert kept.tolist() == [0]
        rows, columns = np.nonzero(red.any(1))[0], np.nonzero(red.any(0))[0]
        edges = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        assert np.abs(found[0] * [64, 48, 64, 48] - edges).max() <= 1.5
    assert seen > 40


def test_the_changes_of_an_image_are_its_own() -> None:
    image, boxes = coloured()
    transform = box_transform(Augmentation(crop="ssd", expand=2.0, colour=True), PREPROCESSING)
    one, other = (transform(image, boxes, np.random.default_rng((1, 2, 3))) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    assert not np.array_equal(one[0], transform(image, boxes, np.random.default_rng((1, 3, 3)))[0])


def test_evaluation_takes_the_pixels_of_prediction() -> None:
    image, boxes = coloured()
    for resize in ("stretch", "fit", "short_side"):
        preprocessing = Preprocessing(size=(48, 64), resize=resize)
        pixels, _, _ = box_transform(None, preprocessing)(image, boxes, np.random.default_rng(0))
        difference = np.abs(pixels.astype(int) - preprocessing(image))
        assert difference.max() <= (0 if resize != "short_side" else 255)
        assert np.mean(difference) < 1


def test_crops_cover_an_object_and_keep_what_they_cover() -> None:
    rng = np.random.default_rng(0)
    boxes = np.array([[10.0, 10, 50, 50], [70, 70, 95, 95]])
    kept_counts = set()
    for _ in range(200):
        window, kept = ssd_crop((0, 0, 100, 100), boxes, rng)
        kept_counts.add(len(kept))
        x0, y0, x1, y1 = window
        assert 0 <= x0 < x1 <= 100
        assert 0 <= y0 < y1 <= 100
        assert (x1 - x0) * (y1 - y0) >= 0.1 * 100 * 100 - 1e-6
        assert len(kept)
    assert kept_counts == {1, 2}
    window, kept = ssd_crop((0, 0, 100, 100), NO_BOXES, rng)
    assert len(kept) == 0


def test_half_of_the_images_are_put_on_a_larger_ground() -> None:
    rng = np.random.default_rng(0)
    windows = [expanded((0, 0, 10, 20), 3.0, rng) for _ in range(200)]
    larger = [w for w in windows if w != (0, 0, 10, 20)]
    assert 70 < len(larger) < 130
    for x0, y0, x1, y1 in larger:
        assert max(x0, y0) <= 0
        assert x1 >= 10
        assert y1 >= 20
        assert (x1 - x0) / 10 == pytest.approx((y1 - y0) / 20)
        assert x1 - x0 <= 30
