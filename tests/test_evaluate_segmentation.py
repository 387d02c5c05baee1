"""mIoU: the recorded numbers, ignored pixels, classes that only one side has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobilenetv2 import Segmenter, load
from mobilenetv2.architecture import Architecture
from mobilenetv2.datasets import MaskDataset, MaskSample, MaskTarget, read_masks
from mobilenetv2.errors import UserError
from mobilenetv2.evaluation import (
    confusion_of,
    evaluate_segmenter,
    mask_sheet,
    match_masks,
    score_confusion,
    score_masks,
)
from mobilenetv2.heads import DeepLab
from mobilenetv2.labels import VOC

from .conftest import random_checkpoint

MODELS = ("deeplabv3_mnv2_pascal_quant", "deeplabv3_mnv2_dm05_pascal_quant")


@pytest.mark.parametrize(
    ("model", "iou", "equal"), [(MODELS[0], 0.9031, 0.9782), (MODELS[1], 0.8374, 0.9643)]
)
def test_recorded_overlap_of_the_bird(
    shared: Callable[[str], Path], model: str, iou: float, equal: float
) -> None:
    folder = shared("reference/segmentation")
    truth = np.asarray(Image.open(folder / "inputs" / "bird_segmentation_mask.bmp").convert("L"))
    predicted = np.asarray(Image.open(folder / model / "bird_segmentation.ref.png"))
    confusion = confusion_of(truth, predicted, 21)
    assert confusion.trace() / confusion.sum() == pytest.approx(equal, abs=5e-5)
    bird = confusion[3, 3] / (confusion[3].sum() + confusion[:, 3].sum() - confusion[3, 3])
    assert bird == pytest.approx(iou, abs=5e-5)


@pytest.mark.parametrize(
    ("model", "split", "miou", "pixel_accuracy", "weighted_iou"),
    [(MODELS[0], "train", 0.6752, 0.9055, 0.8404), (MODELS[1], "val", 0.4885, 0.9095, 0.8412)],
)
def test_real_segmenters_have_their_recorded_miou(
    shared: Callable[[str], Path],
    model: str,
    split: str,
    miou: float,
    pixel_accuracy: float,
    weighted_iou: float,
) -> None:
    dataset = read_masks(shared("data/voc-sample"), split)
    segmenter = load(shared(f"models/{model}.tflite"), int8=False)
    scores = evaluate_segmenter(segmenter, dataset).scores
    assert scores.miou == pytest.approx(miou, abs=0.003)
    assert scores.pixel_accuracy == pytest.approx(pixel_accuracy, abs=0.001)
    assert scores.weighted_iou == pytest.approx(weighted_iou, abs=0.003)


def test_a_small_case_by_hand() -> None:
    truth = np.array([[0, 0, 0, 255], [1, 1, 2, 255]], np.uint8)
    predicted = np.array([[0, 0, 1, 1], [1, 3, 2, 0]], np.uint8)
    confusion = confusion_of(truth, predicted, 4)
    assert confusion.tolist() == [
        [2, 1, 0, 0, 0],
        [0, 1, 0, 1, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 0, 0, 0],
    ]
    scores = score_confusion(confusion)
    # class 3 does not occur and is left out of the mean
    assert scores.miou == pytest.approx((2 / 3 + 1 / 3 + 1) / 3)
    assert scores.pixel_accuracy == pytest.approx(4 / 6)
    assert scores.weighted_iou == pytest.approx((3 * 2 / 3 + 2 / 3 + 1) / 6)


def dataset_of(folder: Path, *masks: list[list[int]], classes: tuple[str, ...]) -> MaskDataset:
    samples = []
    for i, values in enumerate(masks):
        mask = np.array(values, np.uint8)
        Image.fromarray(mask).save(folder / f"{i}.png")
        present = tuple(value for value in np.unique(mask).tolist() if value != 255)
        size = mask.shape[0], mask.shape[1]
        samples.append(MaskSample(f"{i}.jpg", MaskTarget(folder / f"{i}.png", size, present)))
    return MaskDataset(classes, tuple(samples))


def test_classes_are_matched_by_name(tmp_path: Path) -> None:
    """The model counts the classes in another order, and has one more."""
    dataset = dataset_of(tmp_path, [[0, 1], [1, 255]], classes=("background", "cat", "dog"))
    labels = ("background", "zebra", "dog", "Cat")
    indices = match_masks(dataset, labels)
    assert indices.tolist() == [0, 3, 2]
    answers = [(dataset.samples[0], np.array([[0, 3], [1, 1]], np.uint8))]
    evaluation = score_masks(dataset, answers, labels, indices)
    assert evaluation.confusion.tolist() == [[1, 0, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0]]
    assert evaluation.scores.miou == 0.75
    assert [result.iou for result in evaluation.classes[:2]] == [1, 0.5]
    assert np.isnan(evaluation.classes[2].iou)
    assert evaluation.classes[1].index == 3
    assert "1 classes of the model that the data lacks are never right: zebra" in evaluation.notes
    assert evaluation.worst[0].pixel_accuracy == pytest.approx(2 / 3)


def test_a_class_that_the_model_lacks_is_refused_where_it_occurs(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, [[0, 1]], classes=("background", "cat", "dog"))
    assert match_masks(dataset, ("background", "cat")).tolist() == [0, 1, -1]
    with pytest.raises(UserError, match="the model has no class 'cat'"):
        match_masks(dataset, ("background", "dog"))


@pytest.mark.parametrize(
    ("mask", "answer", "words"),
    [
        ([[0, 1]], [[0]], "0.jpg: a mask of .* and an answer of"),
        ([[0, 7]], [[0, 1]], "0.jpg: a mask with the value 7, but there are 2 classes"),
        ([[255, 255]], [[0, 1]], "no pixel of 1 images has a class"),
    ],
)
def test_masks_that_do_not_fit_are_refused(
    tmp_path: Path, mask: list[list[int]], answer: list[list[int]], words: str
) -> None:
    dataset = dataset_of(tmp_path, mask, classes=("background", "cat"))
    answers = [(dataset.samples[0], np.array(answer, np.uint8))]
    with pytest.raises(UserError, match=words):
        score_masks(dataset, answers, dataset.classes, np.array([0, 1]))


def test_pixels_without_a_class_look_like_no_class_on_the_sheet(tmp_path: Path) -> None:
    """Stripes of black and white; every class has a colour, on a grey image too."""
    for part in ("JPEGImages", "SegmentationClass"):
        (tmp_path / part).mkdir()
    mask = np.full((60, 60), 255, np.uint8)
    mask[:, :30] = 14
    Image.new("RGB", (60, 60), (90, 90, 90)).save(tmp_path / "JPEGImages" / "a.png")
    Image.fromarray(mask).save(tmp_path / "SegmentationClass" / "a.png")
    architecture = Architecture(width_mult=0.35, resolution=(32, 32), head=DeepLab(21))
    model = Segmenter(replace(random_checkpoint(architecture), labels=VOC))
    sheet = np.asarray(mask_sheet(evaluate_segmenter(model, read_masks(tmp_path)), model))
    truth = sheet[10:230, 10:230].astype(int)
    motorbike, ignored = truth[120:, :90], truth[120:, 130:]  # below the names
    assert np.ptp(motorbike, axis=2).min() > 50
    assert np.ptp(ignored, axis=2).max() <= 2
    assert ignored.min() < 60
    assert ignored.max() > 160
