"""`mobilenetv2 detect` and `segment`: what they print and write, and what they refuse."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mobilenetv2 as mnv2
from mobilenetv2.architecture import Architecture
from mobilenetv2.cli import run
from mobilenetv2.heads import DeepLab, SSDLite

from .conftest import random_checkpoint

SMALL = Architecture(width_mult=0.35, resolution=(64, 64), padding="same")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """photos/a.png, photos/b/a.jpg, and a damaged one; a model for each task."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos/b").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, size in (("photos/a.png", (40, 60, 3)), ("photos/b/a.jpg", (50, 30, 3))):
        Image.fromarray(rng.integers(0, 256, size, np.uint8)).save(name)
    for name, head in (("detector", SSDLite(3)), ("segmenter", DeepLab(3))):
        checkpoint = random_checkpoint(replace(SMALL, head=head))
        replace(checkpoint, labels=("x", "y", "z")).save(Path(f"{name}.safetensors"))
    return tmp_path


def test_detect_prints_what_the_library_gives(folder, capsys) -> None:
    arguments = ["detect", "photos", "--model", "detector.safetensors", "--threshold", "0.5"]
    assert run([*arguments, "--format", "json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    model = mnv2.load("detector.safetensors")
    files = ["photos/a.png", "photos/b/a.jpg"]
    expected = [{"file": file, **model.detect(file).to_dict()} for file in files]
    assert printed == expected
    assert sum(len(each["detections"]) for each in printed) > 0
    assert run([*arguments, "--format", "csv", "--class", "y", "--limit", "2"]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert {row["label"] for row in rows} == {"y"}
    own = [
        (file, d)
        for file in files
        for d in model.detect(file, classes=("y",), limit=2).to_dict()["detections"]
    ]
    assert [(row["file"], float(row["x1"])) for row in rows] == [(f, d["box"][2]) for f, d in own]


def test_an_image_without_objects_is_named(folder, capsys) -> None:
    arguments = ["detect", "photos/a.png", "--model", "detector.safetensors", "--threshold", "1"]
    assert run(arguments) == 0
    assert "photos/a.png   nothing" in capsys.readouterr().out
    assert run([*arguments, "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["detections"] == []


def test_drawn_images_and_masks(folder, capsys) -> None:
    assert run(["detect", "photos", "--model", "detector.safetensors", "--draw", "out"]) == 0
    assert (
        run(
            [
                "segment",
                "photos",
                "--model",
                "segmenter.safetensors",
                "--draw",
                "out",
                "--masks",
                "out",
            ]
        )
        == 0
    )
    names = {path.name for path in Path("out").iterdir()}
    assert names == {
        f"a{n}{kind}.png" for n in ("", "-2") for kind in (".detected", ".segmented", "")
    }
    model = mnv2.load("segmenter.safetensors")
    for name, file in (("a.png", "photos/a.png"), ("a-2.png", "photos/b/a.jpg")):
        with Image.open(f"out/{name}") as mask:
            assert np.array_equal(np.array(mask), model.segment(file).mask)
    with Image.open("out/a-2.segmented.png") as drawn:
        assert drawn.size == (30, 50)


def test_segment_prints_shares(folder, capsys) -> None:
    assert run(["segment", "photos", "--model", "segmenter.safetensors", "--format", "csv"]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    shares = mnv2.load("segmenter.safetensors").segment("photos/a.png").shares()
    own = {row["label"]: float(row["share"]) for row in rows if row["file"] == "photos/a.png"}
    assert own == pytest.approx(shares, abs=1e-6)


@pytest.mark.parametrize(("command", "model"), [("detect", "detector"), ("segment", "segmenter")])
def test_a_damaged_image_among_others(folder, capsys, command, model) -> None:
    Path("photos/bad.jpg").write_bytes(b"no image")
    assert run([command, "photos", "--model", f"{model}.safetensors", "--format", "json"]) == 1
    captured = capsys.readouterr()
    assert len(json.loads(captured.out)) == 2
    assert "photos/bad.jpg" in captured.err
    assert "1 of 3 could not be read" in captured.err


def test_no_image_is_written_over(folder, capsys) -> None:
    before = Path("photos/a.png").read_bytes()
    arguments = ["segment", "photos", "--model", "segmenter.safetensors", "--masks", "photos"]
    assert run(arguments) == 2
    assert "photos/a.png is one of the images" in capsys.readouterr().err
    assert Path("photos/a.png").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["detect", "photos", "--model", "segmenter.safetensors"], "`mobilenetv2 segment` runs it"),
        (["segment", "photos", "--model", "detector.safetensors"], "`mobilenetv2 detect` runs it"),
        (["detect", "photos", "--model", "cifar10"], "`mobilenetv2 classify` runs it"),
        (["detect", "photos"], "--model"),
        (["detect", "photos", "--model", "detector.safetensors", "--class", "w"], "no class 'w'"),
        (["detect", "photos", "--model", "detector.safetensors", "--threshold", "2"], "threshold"),
        (["detect", "nowhere", "--model", "detector.safetensors"], "no images to detect in"),
    ],
)
def test_wrong_usage(folder, capsys, arguments, complaint) -> None:
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert complaint in captured.err
    assert captured.out == ""


def test_labels_of_a_detector_may_begin_with_the_background(folder, capsys) -> None:
    shutil.copy("detector.safetensors", "in.safetensors")
    Path("labels.txt").write_text("???\none\ntwo\nthree\n")
    assert run(["convert", "in.safetensors", "out.safetensors", "--labels", "labels.txt"]) == 0
    assert mnv2.Checkpoint.load(Path("out.safetensors")).labels == ("one", "two", "three")
    Path("labels.txt").write_text("a\nb\nc\n\n255 is ignored\n")
    assert (
        run(["convert", "segmenter.safetensors", "out.safetensors", "--labels", "labels.txt"]) == 0
    )
    assert mnv2.Checkpoint.load(Path("out.safetensors")).labels == ("a", "b", "c")


def test_the_background_of_a_segmenter_stays(folder, capsys) -> None:
    arguments = ["convert", "segmenter.safetensors", "out.safetensors", "--drop-background"]
    assert run(arguments) == 2
    assert "the background of a model for segmentation is needed" in capsys.readouterr().err


def test_quantize_compares_anchors(folder, capsys) -> None:
    arguments = [
        "quantize",
        "detector.safetensors",
        "--calibrate",
        "photos",
        "-o",
        "int8.safetensors",
    ]
    assert run(arguments) == 0
    printed = capsys.readouterr().out
    agreement = next(line for line in printed.splitlines() if "agreement percent" in line)
    assert 80 < float(agreement.split()[-1]) <= 100
    quantized = mnv2.load("int8.safetensors")
    assert isinstance(quantized, mnv2.Detector)
    assert quantized.detect("photos/a.png", threshold=0).size == (40, 60)


def test_inspect_names_the_head(folder, capsys) -> None:
    assert run(["inspect", "detector.safetensors"]) == 0
    assert "SSDLite(classes=3, extra_channels=(512, 256, 256, 128)" in capsys.readouterr().out


def test_drawings_never_take_the_place_of_another_file(folder, capsys) -> None:
    """Not of another image, of the model, of the printed results, nor of one another."""
    Path("more").mkdir()
    for name in ("a.png", "a-2.jpg"):
        shutil.copy("photos/a.png", f"more/{name}")
    segment = ["segment", "--model", "segmenter.safetensors", "photos", "more"]
    assert run([*segment, "--masks", "more"]) == 2
    assert "more/a.png is one of the images" in capsys.readouterr().err
    assert run([*segment, "--masks", "out"]) == 0
    assert len(list(Path("out").iterdir())) == 4
    detect = ["detect", "photos/a.png", "--draw", "drawn"]
    arguments = ["--model", "detector.safetensors", "-o", "drawn/a.detected.png"]
    Path("drawn").mkdir()
    capsys.readouterr()
    assert run([*detect, *arguments]) == 2
    assert "--output is drawn/a.detected.png, which --draw would write" in capsys.readouterr().err
    shutil.copy("detector.safetensors", "drawn/a.detected.png")
    assert run([*detect, "--model", "drawn/a.detected.png"]) == 2
    assert Path("drawn/a.detected.png").read_bytes() == Path("detector.safetensors").read_bytes()


def test_a_wrong_selection_prints_nothing_but_the_error(folder, capsys) -> None:
    arguments = ["detect", "photos", "--model", "detector.safetensors", "--format", "csv"]
    assert run([*arguments, "--limit", "1000000"]) == 2
    assert capsys.readouterr().out == ""


def test_coco_results_have_the_numbers_of_the_annotation_file(folder, capsys) -> None:
    content = {
        "images": [{"id": 7, "file_name": "some/a.png"}],
        "categories": [{"id": 30, "name": "Z"}, {"id": 20, "name": "x"}],
    }
    Path("ids.json").write_text(json.dumps(content))
    arguments = ["detect", "photos", "--model", "detector.safetensors", "--coco", "ids.json"]
    assert run(arguments) == 1  # one image is not in the file
    captured = capsys.readouterr()
    rows = json.loads(captured.out)
    model = mnv2.load("detector.safetensors")
    expected = model.detect("photos/a.png").to_coco(7, {0: 20, 2: 30})
    assert rows == expected
    assert {row["category_id"] for row in rows} == {20, 30}
    assert "classes that ids.json lacks are left out: y" in captured.err
    assert "ids.json has no image photos/b/a.jpg: left out" in captured.err
    Path("ids.json").write_text("{")
    assert run(arguments) == 2
    assert "ids.json: damaged" in capsys.readouterr().err
