"""`evaluate`: scores of known predictions, classes matched by name, and the command."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mobilenetv2 as mnv2
from mobilenetv2.cli import run
from mobilenetv2.datasets import Dataset, read_dataset
from mobilenetv2.errors import UserError
from mobilenetv2.evaluation import (
    Outcome,
    contact_sheet,
    evaluate,
    how_named,
    judge,
    match_classes,
    score,
)
from mobilenetv2.labels import imagenet_labels
from mobilenetv2.model import Model
from mobilenetv2.zoo import find

from .conftest import random_checkpoint
from .test_datasets import build, packed

LABELS = ("cat", "dog", "emu, large bird")
PROBABILITIES = {  # by the grey of the image
    1: (0.7, 0.2, 0.1),
    2: (0.18, 0.62, 0.2),
    3: (0.05, 0.9, 0.05),
    4: (0.5, 0.3, 0.2),
}
IMAGES = {"cat/1.png": 1, "cat/2.png": 2, "dog/1.png": 3, "emu/1.png": 4}


class KnownEngine:
    """An engine whose output depends on the grey of the image alone."""

    threads = 2

    def __call__(self, images: np.ndarray, alone: bool = False) -> np.ndarray:
        return np.log([PROBABILITIES[int(g)] for g in images[:, 0, 0, 0] // 40]).astype(np.float32)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Model:
    """A model of three classes, which `load` returns for any name."""
    checkpoint = random_checkpoint(width_mult=0.35, resolution=(32, 32), classes=3)
    model = Model(replace(checkpoint, labels=LABELS), 1)
    model.engine = KnownEngine()  # type: ignore[assignment]
    monkeypatch.setattr("mobilenetv2.loading.load", lambda name, **options: model)
    return model


def test_known_predictions(model: Model, tmp_path: Path) -> None:
    evaluation = evaluate(model, read_dataset(build(tmp_path, IMAGES)))
    assert (evaluation.images, evaluation.skipped, evaluation.labels) == (4, (), LABELS)
    scores = evaluation.scores
    assert (scores.top1, scores.top5) == (50, 100)  # all of three classes are among the best five
    assert scores.ece == pytest.approx((0.3 + 0.62 + 0.1 + 0.5) / 4, abs=1e-6)
    assert scores.nll == pytest.approx(-np.log([0.7, 0.18, 0.9, 0.2]).mean(), abs=1e-6)
    assert evaluation.confusion.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]
    rows = [(c.label, c.index, c.images, c.right) for c in evaluation.classes]
    assert rows == [("cat", 0, 2, 1), ("dog", 1, 1, 1), ("emu", 2, 1, 0)]
    wrong = [(m.truth, m.predicted, round(m.probability, 6)) for m in evaluation.mistakes]
    assert wrong == [("cat", "dog", 0.62), ("emu", "cat", 0.5)]


def test_calibration_sums_within_a_bin() -> None:
    outcomes = [Outcome(0, p, rank, 0.0) for p, rank in ((0.7, 0), (0.72, 1), (1.0, 0), (0.2, 5))]
    scores = score(outcomes)
    assert scores.ece == pytest.approx((abs(1 - 1.42) + 0 + 0.2) / 4)
    assert (scores.top1, scores.top5) == (50, 75)
    assert score(outcomes[:1]).top1 == 100


@pytest.mark.parametrize(
    ("low", "high", "same_bin"),
    [
        (9.1 / 15, 9.9 / 15, True),
        (9.5 / 15, 10 / 15, True),  # the upper edge is part of a bin
        (10 / 15, 10.1 / 15, False),
        (13.9 / 15, 14.1 / 15, False),
        (14.1 / 15, 1.0, True),
        (0.0, 0.9 / 15, True),
    ],
)
def test_calibration_has_15_bins(low: float, high: float, same_bin: bool) -> None:
    """A right prediction of a low and a wrong one of a high probability: errors in one bin cancel."""
    outcomes = [Outcome(0, low, 0, 0.0), Outcome(0, high, 1, 0.0)]
    right, wrong = 1 - low, 0 - high
    errors = abs(right + wrong) if same_bin else abs(right) + abs(wrong)
    assert score(outcomes).ece == pytest.approx(errors / 2)


def test_ranks_count_equal_logits_in_order() -> None:
    logits = np.array([1, 3, 3, 2, 3, 0], np.float32)
    assert [judge(logits, true_class).true_class_rank for true_class in range(6)] == [
        4,
        0,
        1,
        3,
        2,
        5,
    ]
    assert judge(logits, 0).predicted == 1
    huge = judge(np.array([0, 3e38], np.float32), 0)
    assert huge.probability == 1
    assert huge.nll == pytest.approx(3e38)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_fewer_than_five_classes(tmp_path: Path, count: int) -> None:
    checkpoint = random_checkpoint(width_mult=0.35, resolution=(32, 32), classes=count)
    model = Model(replace(checkpoint, labels=tuple("abcd"[:count])), 1)
    dataset = read_dataset(build(tmp_path, {f"{name}/1.png": 1 for name in "abcd"[:count]}))
    evaluation = evaluate(model, dataset)
    assert evaluation.scores.top1 == pytest.approx(100 / count)
    assert evaluation.scores.top5 == 100
    predictions = model.classify(tmp_path / "a/1.png", 10)
    assert len(predictions) == count
    assert sum(p.probability for p in predictions) == pytest.approx(1)


def named(*classes: str, indices: tuple[int, ...] = ()) -> Dataset:
    return Dataset(classes, (), indices)


@pytest.mark.parametrize(
    ("dataset", "labels", "expected"),
    [
        (named("b", "a"), ("a", "b"), [1, 0]),
        (named("A", "a"), ("a", "A"), [1, 0]),
        (named("Great_White  shark"), ("x", "great white shark, white shark"), [1]),
        (named("gro\u0308\u00dfe"), ("GR\u00d6SSE",), [0]),
        (named("unused", "a"), ("a",), [-1, 0]),
        (named("crane", "crane", indices=(0, 2)), ("crane", "b", "crane"), [0, 2]),
        (named("crane", indices=(1,)), ("background", "crane", "crane"), [2]),
        (named("1", "0", indices=(1, 0)), (), [1, 0]),
        (named("1", indices=(1,)), ("1", "7"), [1]),
        (named("1", indices=(1,)), ("background", "x", "y"), [2]),
        (named("b", indices=(5,)), ("a", "b"), [1]),
    ],
)
def test_classes_are_matched(
    dataset: Dataset, labels: tuple[str, ...], expected: list[int]
) -> None:
    used = {i for i, name in enumerate(dataset.classes) if name != "unused"}
    assert match_classes(dataset, labels, len(labels) or 2, used).tolist() == expected


@pytest.mark.parametrize(
    ("dataset", "labels", "message"),
    [
        (named("a", "bee"), ("a", "b"), "the model has no class 'bee'; its 2 are 'a', 'b'"),
        (named("a"), (), "2 classes without names.*which is 'a'.*--labels"),
        (named("2", indices=(2,)), (), "the model has no class '2'; its 2 are not named"),
        (named("crane"), ("crane", "crane"), "may be any of the model's classes .0, 1."),
        (named("Cat", "cat"), ("cat", "b"), r"\['Cat', 'cat'\] are one to the model, its class 0"),
    ],
)
def test_classes_that_cannot_be_matched(
    dataset: Dataset, labels: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        match_classes(dataset, labels, 2, set(range(len(dataset.classes))))


SYNSETS = ("n01440764", "n02012849", "n03126707", "n15075141")  # tench, crane, crane, toilet tissue


@pytest.mark.parametrize("outputs", [1000, 1001])
@pytest.mark.parametrize("labelled", [True, False])
def test_wordnet_ids_are_classes_of_imagenet(outputs: int, labelled: bool) -> None:
    labels = imagenet_labels(outputs) if labelled else ()
    dataset = named(*SYNSETS)
    assert how_named(dataset, labels, outputs) == "synsets"
    expected = np.array([0, 134, 517, 999]) + (outputs == 1001)
    assert match_classes(dataset, labels, outputs, {0, 1, 2, 3}).tolist() == expected.tolist()


@pytest.mark.parametrize("labels", [LABELS, ("background", *LABELS[1:]), ()])
def test_numbers_are_the_model_s_classes(labels: tuple[str, ...]) -> None:
    dataset = named("01", "0")
    assert how_named(dataset, labels, 3) == "numbers"
    background = labels[:1] == ("background",)
    assert match_classes(dataset, labels, 3, {0, 1}).tolist() == [1 + background, background]


@pytest.mark.parametrize(
    ("dataset", "labels", "outputs"),
    [
        (named(*SYNSETS), SYNSETS, 4),  # a model that was trained with these folders
        (named(*SYNSETS), (), 4),  # which is which?
        (named(*SYNSETS, "n00000000"), imagenet_labels(1000), 1000),
        (named("0", "1"), ("1", "0"), 2),
        (named("0", "1", indices=(1, 0)), (), 2),
        (named("0", "cat"), LABELS, 3),
    ],
)
def test_names_that_remain_names(dataset: Dataset, labels: tuple[str, ...], outputs: int) -> None:
    assert how_named(dataset, labels, outputs) == "names"


def test_what_class_names_are_taken_for_is_told(model: Model, tmp_path: Path, capsys) -> None:
    data = build(tmp_path, {"0/1.png": 1, "1/1.png": 3})
    assert run(["evaluate", str(data), "--format", "json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)[0]["top1"] == 100
    assert err.startswith("the classes are numbers, taken as the model's classes, counted from 0")


def test_other_heads_and_unreadable_sets_are_refused(model: Model, tmp_path: Path) -> None:
    build(tmp_path, {"cat/1.png": 1})
    features = Model(random_checkpoint(width_mult=0.35, resolution=(32, 32), head="features"), 1)
    with pytest.raises(UserError, match="does not classify"):
        evaluate(features, read_dataset(tmp_path))
    (tmp_path / "cat/1.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="none of the 1 images could be read: .*1.png"):
        evaluate(model, read_dataset(tmp_path))


@pytest.mark.parametrize("zipped", [False, True])
def test_command_json(model: Model, tmp_path: Path, capsys, zipped: bool) -> None:
    source = build(tmp_path / "data", {f"val/{name}": grey for name, grey in IMAGES.items()})
    (source / "train/gnu").mkdir(parents=True)
    source = packed(source, tmp_path / "data.zip") if zipped else source
    assert run(["evaluate", str(source), "--format", "json"]) == 0
    out, err = capsys.readouterr()
    [printed] = json.loads(out)
    assert err == "1 classes without images: gnu\n"
    assert printed == {
        "images": 4,
        "skipped": 0,
        "top1": 50.0,
        "ece": 0.38,
        "nll": round(-float(np.log([0.7, 0.18, 0.9, 0.2]).mean()), 6),
        "preprocessing": "resized to cover 37 x 37, centre crop 32 x 32, bilinear; "
        "mean 0.5, 0.5, 0.5; std 0.5, 0.5, 0.5",
        "classes": [
            {"class": "cat", "index": 0, "images": 2, "right": 1, "percent": 50.0},
            {"class": "dog", "index": 1, "images": 1, "right": 1, "percent": 100.0},
            {"class": "emu", "index": 2, "images": 1, "right": 0, "percent": 0.0},
            {"class": "gnu", "index": -1, "images": 0, "right": 0, "percent": None},
        ],
        "labels": list(LABELS),
        "confusion_axes": ["true", "predicted"],
        "confusion": [[1, 1, 0], [0, 1, 0], [1, 0, 0], [0, 0, 0]],
    }


@pytest.mark.parametrize(
    ("counts", "warned"),
    [
        ({"cat": 40, "dog": 6, "emu": 4}, True),
        ({"cat": 40, "dog": 6, "emu": 3}, False),  # fewer than 50 images
        ({"cat": 40, "dog": 10}, False),  # two classes
        ({"cat": 40, "dog": 6, "emu": 4, "wrong": 3}, False),  # 94 % one answer
        ({"cat": 40, "dog": 6, "emu": 4, "wrong": 2}, True),  # 96 %
    ],
)
def test_one_answer_for_nearly_all_images_is_warned_of(
    model: Model, tmp_path: Path, capsys, counts: dict[str, int], warned: bool
) -> None:
    grey = {"wrong": 3}  # is classified as a dog, all others as cats
    names = {
        f"{'emu' if name == 'wrong' else name}/{name}{i}.png": grey.get(name, 1)
        for name, count in counts.items()
        for i in range(count)
    }
    images = sum(counts.values())
    share = round(100 * (images - counts.get("wrong", 0)) / images)
    assert run(["evaluate", str(build(tmp_path, names))]) == 0
    repeated, *others = capsys.readouterr().err.splitlines()
    assert repeated.startswith("images that stand in two classes: ")
    said = f"warning: {share} % of {images} images of 3 classes were classified as 'cat': prep"
    assert (others[0].startswith(said) and len(others) == 1) if warned else not others


def test_command_csv_table_and_broken_images(model: Model, tmp_path: Path, capsys) -> None:
    build(tmp_path, IMAGES)
    (tmp_path / "dog/2.png").write_bytes(b"no image")
    assert run(["evaluate", str(tmp_path), "--format", "csv"]) == 1
    out, err = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(out)))
    assert list(rows[0]) == ["class", "index", "images", "right", "percent"]
    assert [row["images"] for row in rows] == ["2", "1", "1"]
    assert f"{tmp_path / 'dog/2.png'}: not an image" in err
    assert "1 of 5 could not be read" in err
    assert run(["evaluate", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "top1" in out
    assert "emu" in out


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (".", [], "the model has no class 'gnu'; its 3 are 'cat', 'dog', 'emu, large bird'"),
        (".", ["--split", "val"], "no split 'val'"),
        ("absent", [], "no such file or folder"),
    ],
)
def test_command_refusals(
    model: Model, tmp_path: Path, capsys, data: str, options: list[str], message: str
) -> None:
    build(tmp_path, {**IMAGES, "gnu/1.png": 1})
    assert run(["evaluate", str(tmp_path / data), *options]) == 2
    assert message in capsys.readouterr().err


def test_mistakes_as_one_image(model: Model, tmp_path: Path, capsys) -> None:
    build(tmp_path / "data", IMAGES)
    sheet = tmp_path / "sheet.png"
    assert run(["evaluate", str(tmp_path / "data"), "--mistakes", str(sheet)]) == 0
    with Image.open(sheet) as image:
        assert image.size == (8 * 128, 177)
        greys = [image.getpixel((x, 64)) for x in (64, 192, 320)]
    assert greys == [(80, 80, 80), (160, 160, 160), (255, 255, 255)]
    assert run(["evaluate", str(tmp_path / "data"), "--mistakes", str(tmp_path / "a.what")]) == 2
    assert "a.what: must end in .png or .jpg" in capsys.readouterr().err


def test_the_sheet_has_room_for_many_and_none(model: Model, tmp_path: Path) -> None:
    build(tmp_path, {f"emu/{i}.png": 4 for i in range(40)})
    mistakes = evaluate(model, read_dataset(tmp_path)).mistakes
    assert len(mistakes) == 40
    assert contact_sheet(mistakes).size == (1024, 4 * 177)
    assert contact_sheet(()).size == (1024, 177)
    wordy = replace(mistakes[0], truth="two\nlines " * 9, predicted="long " * 20)
    file = Path(wordy.sample.name)
    other = replace(wordy, sample=replace(wordy.sample, name="a/other name.png", source=file))
    caption, renamed = (np.asarray(contact_sheet([m]))[128:] for m in (wordy, other))
    assert (caption[:30] == renamed[:30]).all()
    assert (caption[30:] != renamed[30:]).any()  # the name of the file
    assert (caption[:15, :128] < 255).any()
    assert (caption[15:, :128] < 255).any()
    assert (caption[:, 126:] == 255).all()  # cut at the edge of the image
    Image.new("RGB", (3, 4000)).save(tmp_path / "emu/0.png")
    assert contact_sheet(mistakes).size == (1024, 4 * 177)


@pytest.mark.parametrize("name", ["cifar10", "cifar10-int8"])
def test_the_bundled_models_on_their_test_set(shared: Callable[[str], Path], name: str) -> None:
    model = mnv2.load(name)
    whole = mnv2.read_dataset(shared("data/cifar10/test.zip"))
    evaluation = mnv2.evaluate(model, whole)
    assert evaluation.scores.top1 == pytest.approx(find(name).top1, abs=0.05)
    assert evaluation.confusion.sum() == evaluation.images == 10_000
    part = replace(whole, samples=whole.samples[::100])  # 100 images
    right = sum(
        model.classify(mnv2.decode(sample.open()), 1)[0].label == part.classes[sample.target]
        for sample in part.samples
    )
    assert mnv2.evaluate(model, part).scores.top1 == right


def test_a_list_of_photos(shared: Callable[[str], Path]) -> None:
    model = mnv2.load(shared("models/tf2_mobilenet_v2_1.0_224_ptq.tflite"), int8=False)
    photos = mnv2.read_dataset(shared("data/imagenet-sample/labels.csv"))
    assert len(photos.samples) == 1000
    evaluation = mnv2.evaluate(model, replace(photos, samples=photos.samples[::5]))
    assert sum(c.right for c in evaluation.classes) == 170
    assert (evaluation.images, evaluation.scores.top1, evaluation.scores.top5) == (200, 85, 98.5)
    assert [c.index for c in evaluation.classes] == list(range(1, 1001))  # 0 is the background


@pytest.mark.parametrize("wrong_only", [False, True])
def test_predictions(model: Model, tmp_path: Path, capsys, wrong_only: bool) -> None:
    data, target = build(tmp_path / "data", IMAGES), tmp_path / "p.csv"
    (data / "dog/2.png").write_bytes(b"no image")
    options = ["--wrong-only"] if wrong_only else []
    assert run(["evaluate", str(data), "--predictions", str(target), *options]) == 1
    expected = [
        f"{data}/cat/1.png,cat,cat,0.7,true",
        f"{data}/cat/2.png,cat,dog,0.62,false",
        f"{data}/dog/1.png,dog,dog,0.9,true",
        f"{data}/emu/1.png,emu,cat,0.5,false",
    ]
    lines = target.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "file,class,answer,probability,right"
    assert lines[1:] == [line for line in expected if not wrong_only or "false" in line]
    if wrong_only:
        assert run(["evaluate", str(data), "--wrong-only"]) == 2
        assert "give that too" in capsys.readouterr().err
        target = tmp_path / "p.json"
        assert run(["evaluate", str(data), "--predictions", str(target), *options]) == 1
        rows = json.loads(target.read_text(encoding="utf-8"))
        assert [(row["answer"], row["right"]) for row in rows] == [("dog", False), ("cat", False)]


def test_top5_only_of_more_than_five_classes(
    tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path, {"0/1.png": 1})
    for classes in (5, 6):
        checkpoint = random_checkpoint(width_mult=0.35, resolution=(32, 32), classes=classes)
        labels = tuple(map(str, range(classes)))
        model = Model(replace(checkpoint, labels=labels), 1)
        monkeypatch.setattr("mobilenetv2.loading.load", lambda name, model=model, **options: model)
        assert run(["evaluate", str(tmp_path), "--format", "json"]) == 0
        [printed] = json.loads(capsys.readouterr().out)
        assert ("top5" in printed) == (classes == 6)
