"""`mobilenetv2 evaluate` with a detector and with a segmenter."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import mobilenetv2 as mnv2
from mobilenetv2.architecture import Architecture
from mobilenetv2.cli import run
from mobilenetv2.datasets import read_boxes
from mobilenetv2.heads import DeepLab, SSDLite

from .conftest import random_checkpoint
from .test_boxes_data import write_coco, write_voc, write_yolo

SMALL = Architecture(width_mult=0.35, resolution=(64, 64), padding="same")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three images with boxes as coco/, voc/, yolo/; with masks as voc/; a model for each task."""
    monkeypatch.chdir(tmp_path)
    for write, name in ((write_coco, "coco"), (write_voc, "voc"), (write_yolo, "yolo")):
        write(Path(name))
    Path("voc/SegmentationClass").mkdir()
    Path("voc/classes.txt").write_text("background\ncat\ndog\n")
    for name in "abc":
        mask = np.zeros((40, 80), np.uint8)
        mask[:10], mask[10:20], mask[30:] = 1, 2, 255
        Image.fromarray(mask).save(f"voc/SegmentationClass/{name}.png")
    heads = (
        ("detector", SSDLite(3), ("dog", "bird", "cat")),
        ("segmenter", DeepLab(4), ("background", "dog", "bird", "cat")),
    )
    for name, head, labels in heads:
        checkpoint = random_checkpoint(replace(SMALL, head=head))
        replace(checkpoint, labels=labels).save(Path(f"{name}.safetensors"))
    return tmp_path


def evaluated(capsys: Any, data: str, task: str, *options: str, code: int = 0) -> tuple[Any, str]:
    """What the command prints as JSON, and on stderr."""
    arguments = ["evaluate", data, "--model", f"{task}.safetensors", "--format", "json", *options]
    assert run(arguments) == code
    printed = capsys.readouterr()
    return json.loads(printed.out)[0], printed.err


def image_size(path: str) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


@pytest.mark.parametrize("data", ["coco", "voc", "yolo"])
def test_a_detector_in_all_layouts(folder: Path, capsys: Any, data: str) -> None:
    report, notes = evaluated(capsys, data, "detector")
    dataset = read_boxes(data)
    expected = mnv2.evaluation.evaluate_detector(mnv2.load("detector.safetensors"), dataset)
    assert report["ap50"] == pytest.approx(expected.scores.ap50, abs=1e-6)
    assert (report["images"], report["skipped"]) == (3, 0)
    assert [row["indices"] for row in report["classes"]] == [[2], [0]]
    assert [row["boxes"] for row in report["classes"]] == [2, 1]
    assert len(report["recalls"]) == len(report["classes"][0]["precisions50"]) == 101
    assert np.mean(report["classes"][0]["precisions50"]) == pytest.approx(
        report["classes"][0]["ap50"], abs=1e-5
    )
    assert "1 classes of the model that the data lacks do not count: bird" in notes


def test_results_sheet_and_tables_of_a_detector(folder: Path, capsys: Any) -> None:
    evaluated(capsys, "coco", "detector", "--predictions", "p.json", "--mistakes", "m.png")
    rows = json.loads(Path("p.json").read_text())
    assert {row["category_id"] for row in rows} <= {3, 7}
    assert {row["image_id"] for row in rows} <= {0, 1, 2}
    assert all(len(row["bbox"]) == 4 for row in rows)
    assert image_size("m.png") == (1440, 258)
    arguments = ["evaluate", "coco", "--model", "detector.safetensors", "--format"]
    assert run([*arguments, "csv"]) == 0
    lines = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [line["class"] for line in lines] == ["cat", "dog"]
    assert run([*arguments, "table"]) == 0
    assert "ap75" in capsys.readouterr().out


def test_a_segmenter(folder: Path, capsys: Any) -> None:
    options = ["--predictions", "p.csv", "--mistakes", "m.png"]
    report, notes = evaluated(capsys, "voc", "segmenter", *options)
    model = mnv2.load("segmenter.safetensors")
    expected = mnv2.evaluation.evaluate_segmenter(model, "voc")
    assert report["miou"] == pytest.approx(expected.scores.miou, abs=1e-6)
    assert [row["index"] for row in report["classes"]] == [0, 3, 1]
    assert np.sum(report["confusion"]) == 3 * 30 * 80
    assert np.shape(report["confusion"]) == (3, 4)
    rows = list(csv.DictReader(Path("p.csv").read_text().splitlines()))
    assert [row["file"] for row in rows] == [f"voc/JPEGImages/{name}.jpg" for name in "abc"]
    assert image_size("m.png") == (1440, 258)
    assert "bird" in notes


def test_a_list_says_which_class_a_label_is(folder: Path, capsys: Any) -> None:
    Path("m.csv").write_text("label,class\ncat,dog\nbird,dog\n")
    report, notes = evaluated(capsys, "coco", "detector", "--match", "m.csv")
    assert [row["indices"] for row in report["classes"]] == [[], [2, 1]]
    assert "1 classes of the data that the model lacks are not scored: cat" in notes


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("label\ncat\n", "needs the columns label and class"),
        ("label,class\n", "no rows"),
        ("label,class\nfox,dog\n", "line 2: the model has no class 'fox'"),
        ("label,class\ncat\n", "line 2: the data has no class None"),
        ("label,class\ncat,dog\ncat,cat\n", "line 3: 'cat' once more"),
    ],
)
def test_lists_that_make_no_sense(folder: Path, capsys: Any, text: str, words: str) -> None:
    Path("m.csv").write_text(text)
    arguments = ["evaluate", "coco", "--model", "detector.safetensors", "--match", "m.csv"]
    assert run(arguments) == 2
    assert f"m.csv: {words}" in capsys.readouterr().err


@pytest.mark.parametrize("task", ["detector", "segmenter"])
def test_images_that_cannot_be_read_are_named(folder: Path, capsys: Any, task: str) -> None:
    Path("voc/JPEGImages/b.jpg").write_bytes(b"no image")
    report, notes = evaluated(capsys, "voc", task, code=1)
    assert (report["images"], report["skipped"]) == (2, 1)
    assert "voc/JPEGImages/b.jpg: not an image" in notes
    assert "1 of 3 could not be read" in notes


@pytest.mark.parametrize(
    ("data", "task", "options", "words"),
    [
        ("coco", "segmenter", [], "coco: no masks in the layout of Pascal VOC"),
        ("coco", "detector", ["--wrong-only", "--predictions", "p.json"], "is for classifiers"),
        ("coco", "detector", ["--predictions", "p.csv"], "a COCO results file"),
        ("coco", "detector", ["--predictions", "coco/instances.json"], "give another name"),
        ("voc", "segmenter", ["--mistakes", "voc/SegmentationClass/a.png"], "give another name"),
        ("voc", "segmenter", ["--match", "m.csv"], "--match is for detectors"),
        ("coco", "detector", ["--match", "m.csv"], "m.csv: cannot be read: no such file"),
        ("coco", "detector", ["--split", "train"], "no split 'train'"),
    ],
)
def test_refusals(
    folder: Path, capsys: Any, data: str, task: str, options: Sequence[str], words: str
) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*.*") if path.is_file()}
    assert run(["evaluate", data, "--model", f"{task}.safetensors", *options]) == 2
    assert words in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in folder.rglob("*.*") if path.is_file()}
