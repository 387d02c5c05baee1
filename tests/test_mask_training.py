"""The random changes of images with masks, and the loss of a segmenter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from mobilenetv2.architecture import Architecture
from mobilenetv2.heads import DeepLab
from mobilenetv2.images import Preprocessing
from mobilenetv2.training import RECIPES
from mobilenetv2.training.augment import Augmentation
from mobilenetv2.training.segmentation import Segmentation
from mobilenetv2.training.windows import mask_transform

PREPROCESSING = Preprocessing(size=(48, 48), resize="fit")
COLOURS = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)


def painted(height: int = 40, width: int = 60) -> tuple[Image.Image, np.ndarray]:
    """An image whose colours say its classes, and the mask."""
    mask = np.zeros((height, width), np.uint8)
    mask[8:30, 10:25], mask[5:35, 30:50], mask[30:40, 0:60] = 1, 2, 3
    return Image.fromarray(COLOURS[mask]), mask


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_masks_go_where_their_pixels_go(dtype: type) -> None:
    image, mask = painted()
    transform = mask_transform(Augmentation(crop="zoomed"), PREPROCESSING)
    shares = []
    for seed in range(40):
        pixels, classes = transform(image, mask.astype(dtype), np.random.default_rng(seed))
        assert pixels.shape == (48, 48, 3)
        assert classes.shape == (48, 48)
        assert classes.dtype == dtype
        assert set(np.unique(classes)) <= {0, 1, 2, 3, 255}
        outside = classes == 255
        shares.append(outside.mean())
        shown = COLOURS[np.where(outside, 0, classes)].astype(int)
        agree = np.abs(shown - pixels).max(-1) < 100
        assert agree[~outside].mean() > 0.85
        if not outside.any():
            continue
        assert (np.abs(pixels[outside].astype(int) - 128) <= 1).mean() > 0.85
    assert max(shares) > 0.5
    assert min(shares) == 0


def test_evaluation_takes_the_pixels_of_prediction() -> None:
    image, mask = painted()
    pixels, classes = mask_transform(None, PREPROCESSING)(image, mask, np.random.default_rng(0))
    assert np.array_equal(pixels, PREPROCESSING(image))
    assert (classes[32:] == 255).all()
    assert not (classes[:32] == 255).any()
    rows, columns = (np.arange(n) * 1.25 + 0.625 for n in (32, 48))  # the nearest of 40 and 60
    assert np.array_equal(classes[:32], mask[np.ix_(rows.astype(int), columns.astype(int))])


def test_the_loss_is_that_of_the_pixels_with_a_class() -> None:
    task, recipe = Segmentation(), RECIPES["deeplab"]
    architecture = Architecture(head=DeepLab(3), output_stride=16)
    logits = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    mask = torch.full((2, 4, 4), 255, dtype=torch.uint8)
    mask[0, 0, :3] = torch.tensor([0, 1, 2], dtype=torch.uint8)
    total, count = task.loss(logits, mask, recipe, architecture)
    expected = sum(-torch.log_softmax(logits[0, :, 0, i], 0)[i] for i in range(3))
    assert float(total.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    assert int(count) == 3
    total.backward()
    assert int(logits.grad.abs().sum(1).bool().sum()) == 3
    nothing, none = task.loss(logits, torch.full_like(mask, 255), recipe, architecture)
    assert float(nothing.detach()) == 0
    assert int(none) == 0
