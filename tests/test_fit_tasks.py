"""Training of detectors and segmenters end to end, on images of 48 x 64 pixels."""

from __future__ import annotations

import csv
import json
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mobilenetv2 import Checkpoint, Detector, Segmenter, UserError
from mobilenetv2.architecture import Architecture, Stage
from mobilenetv2.cli import main
from mobilenetv2.datasets import read_boxes, read_masks
from mobilenetv2.evaluation import evaluate_detector, evaluate_segmenter
from mobilenetv2.heads import Classifier, DeepLab, SSDLite, ssd_anchor_sizes
from mobilenetv2.images import Preprocessing
from mobilenetv2.nn import mobilenet_v2
from mobilenetv2.training import RECIPES, Machine, Start, fit
from mobilenetv2.training.data import loader, rarest_classes
from mobilenetv2.training.epochs import Stopped
from mobilenetv2.training.run_folder import RunFolder
from mobilenetv2.training.tasks import TASKS as TASKS_BY_NAME
from mobilenetv2.training.tasks import task_called

MACHINE = Machine(workers=0, precision="32")
BACKBONE = Architecture(
    stages=(Stage(1, 8, 1, 1), Stage(2, 8, 1, 2), Stage(2, 16, 1, 2)),
    stem_channels=8,
    last_channels=16,
    resolution=(32, 32),
    padding="same",
)
ARCHITECTURES = {
    "detection": replace(
        BACKBONE, head=SSDLite(extra_channels=(8,), anchor_sizes=ssd_anchor_sizes(3))
    ),
    "segmentation": replace(BACKBONE, head=DeepLab(), output_stride=16),
}
SHORT = {"epochs": 2, "batch": 4, "val_share": 0.25, "lr": 0.01}
RECIPE = {
    "detection": RECIPES["ssdlite"].changed({**SHORT, "optimizer": "sgd"}),
    "segmentation": RECIPES["deeplab"].changed(SHORT),
}
TASKS = ("detection", "segmentation")
COLOURS = ((40, 60, 220), (230, 40, 40))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def make_boxes(folder: Path, count: int = 12) -> Path:
    """Images of grey noise with one or two rectangles, every third without any; COCO's layout."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    images, objects = [], []
    for i in range(count):
        pixels = rng.integers(90, 120, (48, 64, 3), dtype=np.uint8)
        images.append({"id": i, "file_name": f"{i:02}.png", "height": 48, "width": 64})
        for _ in range(i % 3):
            w, h = rng.integers(14, 30, 2).tolist()
            x, y, class_ = (int(rng.integers(n)) for n in (64 - w, 48 - h, 2))
            pixels[y : y + h, x : x + w] = COLOURS[class_]
            box = {"bbox": [x, y, w, h], "area": w * h, "iscrowd": 0, "id": len(objects) + 1}
            objects.append({**box, "image_id": i, "category_id": class_ + 1})
        Image.fromarray(pixels).save(folder / "images" / f"{i:02}.png")
    names = [{"id": 1, "name": "blue"}, {"id": 2, "name": "red"}]
    content = {"images": images, "annotations": objects, "categories": names}
    (folder / "instances.json").write_text(json.dumps(content))
    return folder


def make_masks(folder: Path, count: int = 12) -> Path:
    """Images in two halves, in the layout of Pascal VOC with the parts train and val."""
    rng = np.random.default_rng(0)
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True)
    for i in range(count):
        mask = np.zeros((48, 64), np.uint8)
        mask[:, 16 + i * 3 :] = 1 + i % 2
        mask[20:22] = 255
        colours = np.array([(100, 100, 100), *COLOURS], np.int64)[np.where(mask == 255, 0, mask)]
        pixels = (colours + rng.integers(0, 20, (48, 64, 3))).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "JPEGImages" / f"{i:02}.png")
        Image.fromarray(mask).save(folder / "SegmentationClass" / f"{i:02}.png")
    lists = folder / "ImageSets" / "Segmentation"
    (lists / "train.txt").write_text("".join(f"{i:02}\n" for i in range(count - 4)))
    (lists / "val.txt").write_text("".join(f"{i:02}\n" for i in range(count - 4, count)))
    return folder


MAKE: dict[str, Callable[[Path], Path]] = {"detection": make_boxes, "segmentation": make_masks}


def run(
    task: str, data: Path, out: Path, recipe: Any = None, start: Any = None, **more: Any
) -> Any:
    start = start or Start(architecture=ARCHITECTURES[task])
    return fit(data, out, recipe or RECIPE[task], start, machine=MACHINE, **more)


def read_log(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("task", TASKS)
def test_a_run_its_folder_and_what_its_file_states(task: str, tmp_path: Path) -> None:
    data = MAKE[task](tmp_path / "data")
    trained = run(task, data, tmp_path / "run")
    assert trained.task.name == task
    kept = Checkpoint.load(tmp_path / "run" / "model.safetensors")
    assert kept.architecture.head.task == task
    assert kept.preprocessing.resize == {"detection": "stretch", "segmentation": "fit"}[task]
    assert kept.preprocessing.size == (32, 32)
    stated = kept.provenance["validation"]
    best = max(read_log(tmp_path / "run"), key=trained_rank(task))
    if task == "detection":
        assert kept.labels == ("blue", "red")
        assert kept.provenance["trained_on"]["train_images"] == 9
        assert stated["ap50"] == trained.evaluation.scores.ap50
        assert float(best["val_ap50"]) == pytest.approx(stated["ap50"], abs=1e-9)
    else:
        assert len(kept.labels) == 21
        assert stated["miou"] == trained.evaluation.scores.miou
        assert float(best["val_miou"]) == pytest.approx(stated["miou"], abs=1e-9)
        again = evaluate_segmenter(Segmenter(kept), read_masks(data, "val"))
        assert again.scores == trained.evaluation.scores
    figures = {"curves.png", {"detection": "precision.png"}.get(task, "confusion.png")}
    assert figures <= {path.name for path in (tmp_path / "run").iterdir()}
    assert len(read_log(tmp_path / "run")) == 2


def trained_rank(task: str) -> Callable[[dict[str, str]], tuple[float, float]]:
    column = {"detection": "val_ap", "segmentation": "val_miou"}[task]
    return lambda row: (float(row[column]), -float(row["val_loss"]))


@pytest.mark.parametrize("task", TASKS)
def test_a_resumed_run_gives_the_same_bits(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = MAKE[task](tmp_path / "data")
    whole = run(task, data, tmp_path / "whole")
    write, count = RunFolder.write_state, []

    def stop_after_one(self: RunFolder, state: Any) -> None:
        write(self, state)
        count.append(1)
        if len(count) == 1:
            raise Stopped(2)

    monkeypatch.setattr(RunFolder, "write_state", stop_after_one)
    with pytest.raises(Stopped):
        run(task, data, tmp_path / "part")
    resumed = fit(data, tmp_path / "part", machine=MACHINE, resume=True)
    one, other = (Checkpoint.load(x.file).arrays for x in (whole, resumed))
    assert all(np.array_equal(one[name], other[name]) for name in one)
    columns = ("train_loss", "val_loss", "lr")
    logs = [
        [[row[c] for c in columns] for row in read_log(tmp_path / x)] for x in ("whole", "part")
    ]
    assert logs[0] == logs[1]
    with pytest.raises(UserError, match=f"the run to resume had task '{task}', not 'classif"):
        fit(data, tmp_path / "part", machine=MACHINE, resume=True, task="classification")


@pytest.mark.parametrize("task", TASKS)
def test_what_the_weights_bring_stands_still_while_the_head_learns(
    task: str, tmp_path: Path
) -> None:
    data = MAKE[task](tmp_path / "data")
    torch.manual_seed(0)
    classifier = mobilenet_v2(architecture=replace(BACKBONE, head=Classifier(3)))
    for norm in (m for m in classifier.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        torch.nn.init.normal_(norm.running_mean, 0, 0.1)  # as of weights that were trained
    weights = tmp_path / "classifier.safetensors"
    before = classifier.to_checkpoint()
    before.save(weights)
    start = Start(weights=weights, resolution=(32, 32))
    name = {"detection": "ssdlite-finetune", "segmentation": "deeplab-finetune"}[task]
    recipe = RECIPES[name].changed({**SHORT, "epochs": 1, "head_epochs": 1})
    run(task, data, tmp_path / "run", recipe, start)
    settings = RunFolder(tmp_path / "run").read_settings()
    assert all(name.startswith("head.") for name in settings.new)
    after = Checkpoint.load(tmp_path / "run" / "model.safetensors").arrays
    shared = [name for name in after if name in before.arrays]
    assert shared
    assert all(np.array_equal(after[name], before.arrays[name]) for name in shared)
    moved = [x for x in after if x.startswith("head.") and x.endswith("running_mean")]
    assert moved
    assert all(after[name].any() for name in moved)
    recipe = recipe.changed({"head_epochs": 0})
    run(task, data, tmp_path / "all", recipe, start)
    after = Checkpoint.load(tmp_path / "all" / "model.safetensors").arrays
    kernels = [name for name in shared if name.endswith("0.weight")]
    assert all(not np.array_equal(after[name], before.arrays[name]) for name in kernels)


def test_a_detector_learns(tmp_path: Path) -> None:
    """Sixty steps on 12 images, which are validated with too."""
    data = make_boxes(tmp_path / "data")
    changes = {
        "optimizer": "adamw", "lr": 0.02, "schedule": "cosine", "epochs": 20, "batch": 4,
        "ema_decay": 0.9, "bn_decay": 0.9, "augmentation.crop": "none", "augmentation.flip": False,
    }  # fmt: skip
    recipe = RECIPE["detection"].changed(changes)
    trained = run("detection", data, tmp_path / "run", recipe, val=data)
    found = evaluate_detector(Detector(Checkpoint.load(trained.file)), read_boxes(data)).scores
    assert found.ap50 == trained.evaluation.scores.ap50
    assert found.ap50 > 0.6


def test_a_segmenter_learns(tmp_path: Path) -> None:
    data = make_masks(tmp_path / "data")
    changes = {"lr": 0.05, "epochs": 20, "ema_decay": 0.9, "bn_decay": 0.9, "drop_rate": 0.0}
    trained = run("segmentation", data, tmp_path / "run", RECIPE["segmentation"].changed(changes))
    assert trained.evaluation.scores.miou > 0.6


@pytest.mark.parametrize("task", TASKS)
def test_the_command_knows_the_task_by_the_data(
    task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = MAKE[task](tmp_path / "data")
    assert task_called(None, str(data)).name == task
    architecture = tmp_path / "tiny.json"
    architecture.write_text(ARCHITECTURES[task].to_json())
    arguments = (
        ["train", str(data), "-o", str(tmp_path / "run"), "--architecture", str(architecture)]
        + ["--epochs", "1", "--batch", "4", "--set", "val_share=0.25", "--processes", "1"]
        + ["--precision", "32", "--workers", "0", "--format", "json"]
    )
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    (row,) = json.loads(capsys.readouterr().out)
    score = {"detection": "ap50", "segmentation": "miou"}[task]
    assert 0 <= row[score] <= 1
    assert row["classes"][0]["class"] == {"detection": "blue", "segmentation": "background"}[task]


def test_what_a_task_cannot_do_is_refused_before_the_first_step(tmp_path: Path) -> None:
    boxes, masks = make_boxes(tmp_path / "boxes"), make_masks(tmp_path / "masks")
    cases: list[tuple[str, Path, dict[str, Any], str]] = [
        (
            "detection",
            boxes,
            {"drop_rate": 0.1},
            r"'ssdlite' is not for detection: .* drop_rate=0.1",
        ),
        ("detection", boxes, {"augmentation.mixup": 0.2}, r"augmentation\.mixup=0\.2"),
        ("detection", boxes, {"augmentation.crop": "pad"}, r"augmentation\.crop=pad"),
        ("segmentation", masks, {"augmentation.crop": "ssd"}, r"augmentation\.crop=ssd"),
    ]
    for task, data, changes, message in cases:
        with pytest.raises(UserError, match=message):
            run(task, data, tmp_path / "run", RECIPE[task].changed(changes))
    with pytest.raises(UserError, match="small_images .* is for classifiers"):
        run("detection", boxes, tmp_path / "run", start=Start(small_images=True))
    recipe = RECIPES["modern"].changed({"augmentation.crop": "ssd"})
    with pytest.raises(UserError, match="is for images with boxes or masks"):
        fit(tmp_path / "none", tmp_path / "run", recipe, machine=MACHINE)
    with pytest.raises(UserError, match="a task is classification, detection"):
        fit(boxes, tmp_path / "run", task="boxes", machine=MACHINE)
    content = json.loads((boxes / "instances.json").read_text()) | {"annotations": []}
    (boxes / "instances.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="no image to train with has a box"):
        run("detection", boxes, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_freeze_is_for_classifiers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = make_boxes(tmp_path / "data")
    with pytest.raises(SystemExit) as ended:
        main(["train", str(data), "-o", str(tmp_path / "run"), "--weights", "x", "--freeze"])
    assert ended.value.code == 2
    assert "--freeze is for classifiers; for detection give" in capsys.readouterr().err


def test_other_classes_of_a_detector_are_all_that_is_new(tmp_path: Path) -> None:
    data = make_boxes(tmp_path / "data")
    first = run("detection", data, tmp_path / "first", RECIPE["detection"].changed({"epochs": 1}))
    recipe = RECIPES["ssdlite-finetune"].changed({**SHORT, "epochs": 1, "freeze_norms": False})
    same = run("detection", data, tmp_path / "same", recipe, Start(weights=first.file))
    assert RunFolder(tmp_path / "same").read_settings().new == ()
    one, other = (Checkpoint.load(x.file).arrays for x in (first, same))
    assert any(not np.array_equal(one[x], other[x]) for x in one if x.startswith("features."))
    content = json.loads((data / "instances.json").read_text())
    content["categories"] += [{"id": 9, "name": "green"}]
    (data / "instances.json").write_text(json.dumps(content))
    more = run("detection", data, tmp_path / "more", recipe, Start(weights=first.file))
    new = set(RunFolder(tmp_path / "more").read_settings().new)
    assert new == {f"head.scores.{i}.1.{kind}" for i in range(3) for kind in ("weight", "bias")}
    arrays = Checkpoint.load(more.file).arrays
    kernels = [x for x in arrays if x.endswith("weight") and x not in new]
    assert all(np.array_equal(arrays[x], one[x]) for x in kernels)


def test_a_batch_of_one_becomes_two(tmp_path: Path) -> None:
    data = make_masks(tmp_path / "data")
    recipe = RECIPE["segmentation"].changed({"batch": 1, "epochs": 1})
    trained = run("segmentation", data, tmp_path / "run", recipe)
    assert trained.epochs == 1


def test_data_with_boxes_and_masks_need_the_task(tmp_path: Path) -> None:
    data = make_masks(tmp_path / "data")
    (data / "Annotations").mkdir()
    with pytest.raises(UserError, match=r"has boxes and masks; give the task \(--task detection\)"):
        task_called(None, str(data))
    assert task_called("segmentation", str(data)).name == "segmentation"


def test_a_list_of_classes_beside_class_folders_is_no_detection(tmp_path: Path) -> None:
    for name in ("train/ant", "train/bee", "val/ant", "val/bee"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "train.json").write_text('{"ant": 0, "bee": 1}')
    assert task_called(None, str(tmp_path)).name == "classification"
    (tmp_path / "train.json").write_text('{"images": [], "annotations": [], "categories": []}')
    assert task_called(None, str(tmp_path)).name == "detection"


def test_images_that_cannot_be_read_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = make_boxes(tmp_path / "data")
    content = (data / "images" / "04.png").read_bytes()
    (data / "images" / "04.png").write_bytes(content[: len(content) // 2])
    with caplog.at_level(logging.WARNING, "mobilenetv2"):
        trained = run("detection", data, tmp_path / "run")
    assert [Path(name).name for name in trained.broken] == ["04.png"]
    assert "1 of 12 images cannot be read and are left out" in caplog.messages


def test_a_classifier_begins_with_the_backbone_of_a_segmenter(tmp_path: Path) -> None:
    data = make_masks(tmp_path / "data")
    segmenter = run("segmentation", data, tmp_path / "segmenter")
    rng = np.random.default_rng(0)
    for name, low in (("dark", 0), ("light", 150)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(4):
            pixels = rng.integers(low, low + 100, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{i}.png")
    recipe = RECIPES["finetune"].changed({"epochs": 0, "freeze_norms": False})
    start = Start(weights=segmenter.file)
    trained = fit(tmp_path / "images", tmp_path / "run", recipe, start, machine=MACHINE)
    kept, before = Checkpoint.load(trained.file), Checkpoint.load(segmenter.file)
    assert kept.preprocessing.size == (224, 224)
    assert kept.preprocessing.resize == "short_side"
    shared = [name for name in kept.arrays if name in before.arrays]
    assert all(np.array_equal(kept.arrays[name], before.arrays[name]) for name in shared)


def test_the_rarest_class_of_an_image() -> None:
    assert rarest_classes([{0}, {0, 1}, set(), {0, 2}, {0}, {2}]).tolist() == [0, 1, 3, 2, 0, 2]
    assert rarest_classes([set(), set()]).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("task", "chosen", "labels"),
    [
        ("detection", (0, 3, 4, 6, 7, 10, 5), [2, 2, 1, 2, 1, 0, 0]),
        ("segmentation", (0, 1, 2, 4, 6), [1, 2, 1, 1, 1]),
    ],
)
def test_balance_shows_images_of_rare_classes_as_often_as_others(
    task: str, chosen: tuple[int, ...], labels: list[int], tmp_path: Path
) -> None:
    data = MAKE[task](tmp_path / "data")
    dataset = read_boxes(data) if task == "detection" else read_masks(data, "train")
    samples = [dataset.samples[i] for i in chosen]
    architecture = replace(
        ARCHITECTURES[task], head=ARCHITECTURES[task].head.with_classes(len(dataset.classes))
    )
    images = TASKS_BY_NAME[task].images(
        samples, RECIPE[task], architecture, Preprocessing(size=(32, 32)), train=False
    )
    assert images.labels().tolist() == labels
    batches = loader(images, 4, epoch=0, seed=0, train=True, workers=0, balance=True).dataset
    shown = Counter(labels[i] for batch in batches.batches for i in batch)
    assert shown.keys() == {*labels}
    assert max(shown.values()) <= min(shown.values()) + 1
    assert sum(shown.values()) == len(labels)
    trained = run(
        task, data, tmp_path / "run", RECIPE[task].changed({"balance": True, "epochs": 1})
    )
    assert trained.epochs == 1
