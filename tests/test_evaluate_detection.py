"""Average precision: pycocotools' recorded numbers, crowds, difficult objects, classes by name."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mobilenetv2 import load
from mobilenetv2.datasets import BoxDataset, BoxSample, BoxTarget, read_boxes
from mobilenetv2.drawing import bright_colours
from mobilenetv2.errors import UserError
from mobilenetv2.evaluation import (
    DetectionEvaluation,
    box_sheet,
    evaluate_detector,
    match_boxes,
    read_matches,
    score_detections,
)
from mobilenetv2.results import Detections

Answers = list[tuple[BoxSample, Detections]]


def recorded_answers(path: Path, dataset: BoxDataset) -> Answers:
    """The detections of a COCO results file."""
    index = {category: i for i, category in enumerate(dataset.category_ids)}
    rows: dict[Any, list[Any]] = {sample.target.image_id: [] for sample in dataset.samples}
    for row in json.loads(path.read_text()):
        x, y, width, height = row["bbox"]
        box = (x, y, x + width, y + height)
        rows[row["image_id"]].append((box, row["score"], index[row["category_id"]]))
    return [
        (sample, detections(rows[sample.target.image_id], sample.target.size))
        for sample in dataset.samples
    ]


def detections(
    rows: Sequence[tuple[Sequence[float], float, int]], size: tuple[int, int] = (100, 100)
) -> Detections:
    boxes = np.array([row[0] for row in rows], np.float32).reshape(-1, 4)
    scores = np.array([row[1] for row in rows], np.float32)
    indices = np.array([row[2] for row in rows], np.int64)
    return Detections(boxes, scores, indices, tuple(f"class{i}" for i in indices), size)


@pytest.mark.parametrize(
    ("predictions", "expected"),
    [
        ("coco-eval/predictions.json", "coco-eval/expected.json"),
        ("detection/detections.json", "detection/expected.json"),
    ],
)
def test_recorded_numbers_of_pycocotools(
    shared: Callable[[str], Path], predictions: str, expected: str
) -> None:
    dataset = read_boxes(shared("data/coco-sample"))
    recorded = json.loads(shared("reference/" + expected).read_text())
    ids = recorded.get("category_ids", dataset.category_ids)
    matched = {i: i for i, category in enumerate(dataset.category_ids) if category in ids}
    answers = recorded_answers(shared("reference/" + predictions), dataset)
    evaluation = score_detections(dataset, answers, dataset.classes, matched)
    assert astuple(evaluation.scores) == pytest.approx([*recorded["stats"].values()], abs=1e-9)
    results = dict(zip(dataset.category_ids, evaluation.classes))
    for category, values in recorded["per_category"].items():
        result = results[int(category)]
        assert (result.ap, result.ap50) == pytest.approx((values["AP"], values["AP50"]), abs=1e-9)
    scored = [result for result in evaluation.classes if result.indices and result.boxes]
    assert np.mean([result.ap for result in scored]) == pytest.approx(evaluation.scores.ap)
    precisions = evaluation.curves.precisions
    assert precisions.shape == (10, 101, 80)
    assert np.nanmean(precisions) == pytest.approx(evaluation.scores.ap)
    assert (np.diff(precisions[0, :, 0]) <= 0).all()


def test_a_real_detector_has_its_recorded_precision(shared: Callable[[str], Path]) -> None:
    dataset = read_boxes(shared("data/coco-sample"))
    model = load(shared("models/ssd_mobilenet_v2_oidv4_fp16.tflite"))
    with shared("reference/detection/coco_mapping.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["coco_id"]]
    matched = {
        int(row["class"]) - 1: dataset.category_ids.index(int(row["coco_id"])) for row in rows
    }
    evaluation = evaluate_detector(model, dataset, matched=matched)
    recorded = json.loads(shared("reference/detection/expected.json").read_text())
    assert astuple(evaluation.scores) == pytest.approx([*recorded["stats"].values()], abs=0.002)


def dataset_of(*targets: BoxTarget, classes: tuple[str, ...] = ("cat", "dog")) -> BoxDataset:
    samples = tuple(BoxSample(f"{i}.jpg", target) for i, target in enumerate(targets))
    return BoxDataset(classes, samples, tuple(range(1, len(classes) + 1)))


def target(
    boxes: Sequence[Sequence[float]], classes: Sequence[int], image_id: int | str
) -> BoxTarget:
    corners = np.array(boxes, np.float32).reshape(-1, 4)
    sides = corners[:, 2:] - corners[:, :2]
    none = np.zeros(len(corners), bool)
    return BoxTarget(
        corners, np.array(classes, np.int64), none, none, sides.prod(1), (100, 100), image_id
    )


TARGET = target([[0, 0, 40, 40], [50, 50, 90, 90]], [0, 0], "a")
FOUND = ([0, 0, 40, 40], 0.9, 0)
ELSEWHERE = ([45, 0, 85, 40], 0.95, 0)
IN_SECOND = ([60, 60, 80, 80], 0.8, 0)  # a quarter of the second object


def evaluated(
    target: BoxTarget, rows: Sequence[Any], matched: Mapping[int, int] | None = None
) -> DetectionEvaluation:
    dataset = dataset_of(target)
    answers = [(dataset.samples[0], detections(rows))]
    return score_detections(dataset, answers, ("cat", "dog"), matched or {0: 0, 1: 1})


def test_right_missed_and_wrong_boxes() -> None:
    evaluation = evaluated(TARGET, [ELSEWHERE, FOUND])
    # half of the objects with a precision of 1/2, at 51 of 101 recalls
    assert evaluation.scores.ap50 == pytest.approx(0.5 * 51 / 101)
    assert evaluation.scores.ar100 == 0.5
    assert np.isnan(evaluation.scores.ap_large)
    assert np.isnan(evaluation.classes[1].ap)
    (answer,) = evaluation.answers
    assert (answer.missed, answer.wrong) == (1, 1)
    assert evaluation.worst == (answer,)
    assert evaluated(TARGET, [FOUND, ([50, 50, 90, 90], 0.5, 0)]).worst == ()


def test_several_detections_in_a_crowd_are_not_wrong() -> None:
    alone = evaluated(TARGET, [FOUND, IN_SECOND])
    assert alone.scores.ap50 == pytest.approx(51 / 101)
    crowded = replace(TARGET, crowd=np.array([False, True]))
    evaluation = evaluated(crowded, [IN_SECOND, IN_SECOND, FOUND])
    assert evaluation.scores.ap50 == pytest.approx(1)
    assert evaluation.classes[0].boxes == 1
    assert (evaluation.answers[0].missed, evaluation.answers[0].wrong) == (0, 0)


@pytest.mark.parametrize("rows", [[FOUND], [FOUND, ([50, 50, 90, 90], 0.95, 0)]])
def test_difficult_objects_do_not_count(rows: list[Any]) -> None:
    evaluation = evaluated(replace(TARGET, difficult=np.array([False, True])), rows)
    assert evaluation.scores.ap50 == pytest.approx(1)
    assert (evaluation.answers[0].missed, evaluation.answers[0].wrong) == (0, 0)


def test_nothing_detected_and_nothing_there() -> None:
    assert evaluated(TARGET, []).scores.ap == 0
    empty = evaluated(target([], [], 0), [FOUND])
    assert np.isnan(empty.scores.ap)
    assert empty.answers[0].wrong == 1


def test_equal_scores_are_ordered_by_the_image_id() -> None:
    """As pycocotools does with the file, whatever the order of its images."""
    right, empty = target([[0, 0, 40, 40]], [0], 2), target([], [], 1)
    for targets in ((right, empty), (empty, right)):
        dataset = dataset_of(*targets)
        answers = [(sample, detections([FOUND])) for sample in dataset.samples]
        assert score_detections(dataset, answers, ("cat", "dog"), {0: 0}).scores.ap50 == 0.5


def test_classes_are_matched_by_name_and_the_others_mentioned() -> None:
    dataset = dataset_of(TARGET, target([[0, 0, 9, 9]], [1], "b"), classes=("cat", "traffic light"))
    assert match_boxes(dataset, ("bird", "Traffic_Light", "cat")) == {2: 0, 1: 1}
    matched = match_boxes(dataset, ("bird", "cat"))
    assert matched == {1: 0}
    answers = [(sample, detections([])) for sample in dataset.samples]
    evaluation = score_detections(dataset, answers, ("bird", "cat"), matched)
    assert evaluation.notes == (
        "1 classes of the data that the model lacks are not scored: traffic light",
        "1 classes of the model that the data lacks do not count: bird",
    )
    with pytest.raises(UserError, match=r"none of the model's 1 classes \('bird'\) is one of"):
        match_boxes(dataset, ("bird",))


def test_several_classes_of_the_model_may_be_one_of_the_data() -> None:
    evaluation = evaluated(TARGET, [FOUND, ([50, 50, 90, 90], 0.7, 1)], {0: 0, 1: 0})
    assert evaluation.scores.ap == pytest.approx(1)
    assert evaluation.classes[0].indices == (0, 1)


def test_a_list_of_matches_may_have_odd_names(tmp_path: Path) -> None:
    """Names with a line separator of Unicode or a quoted comma are whole."""
    path = tmp_path / "match.csv"
    path.write_text('label,class\na\u2028b,"x, y"\nc,z\n', encoding="utf-8")
    dataset = BoxDataset(("z", "x, y"), (), (1, 2), (), ())
    assert read_matches(path, dataset, ("c", "a\u2028b")) == {1: 1, 0: 0}
    path.write_text("label,class\n" + "a" * 200_000 + ",z\n")
    with pytest.raises(UserError, match=r"match\.csv: field larger than field limit"):
        read_matches(path, dataset, ("c",))


def test_what_is_drawn_on_a_large_image_can_be_read_on_the_sheet(tmp_path: Path) -> None:
    """Frames are as wide as on a small image, in their own colour."""
    Image.new("RGB", (2360, 1180), (90, 90, 90)).save(tmp_path / "large.png")
    box = np.array([[590, 590, 1770, 1000]], np.float32)
    flags = np.zeros(1, bool)
    target = BoxTarget(box, np.array([0]), flags, flags, box[:, 2], (1180, 2360), "large")
    sample = BoxSample(str(tmp_path / "large.png"), target)
    answer = detections([((590, 590, 1770, 1000), 0.9, 0)], (1180, 2360))
    evaluation = score_detections(
        BoxDataset(("cat",), (sample,), (1,)), [(sample, answer)], ["cat"], {0: 0}
    )
    sheet = np.asarray(box_sheet(evaluation, evaluation.answers))
    colour = bright_colours(1)[0]
    # 236 x 118 pixels in the middle of two tiles of 240
    for tile in (0, 240):
        frame = sheet[61 + 80, tile + 2 + 59 : tile + 2 + 61]
        assert (frame == colour).all()
        assert sheet[61 + 80, tile + 2 + 118].tolist() == [90, 90, 90]
