"""Shards with boxes and with masks: the same pixels and targets as from folders, and what is wrong
is named.
"""

from __future__ import annotations

import io
import json
import pickle
import signal
import tarfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")
pytest.importorskip("webdataset")

from mobilenetv2 import Checkpoint, UserError  # noqa: E402
from mobilenetv2.datasets import BoxDataset, read_boxes, read_masks  # noqa: E402
from mobilenetv2.datasets.shard_sample import ShardSample, mask_target  # noqa: E402
from mobilenetv2.images import Preprocessing  # noqa: E402
from mobilenetv2.training import Start, fit  # noqa: E402
from mobilenetv2.training.data import (  # noqa: E402
    ShardImages,
    Split,
    check_split,
    read_shards,
    shard_loader,
)
from mobilenetv2.training.epochs import Stopped  # noqa: E402
from mobilenetv2.training.tasks import TASKS, task_called  # noqa: E402
from mobilenetv2.training.trainer import Trainer  # noqa: E402

from .test_fit_tasks import (  # noqa: E402
    ARCHITECTURES,
    MACHINE,
    MAKE,
    RECIPE,
    read_log,
)

# Python 3.12 says so of every fork of a process with threads
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
COUNT = 12  # images of `MAKE`
NAMES = ("blue", "red")
NAMED = BoxDataset(NAMES, (), (1, 2), (), ("a.json",))
SMALL = Preprocessing(size=(32, 32), resize="stretch", mean=(0.5,) * 3, std=(0.5,) * 3)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def tar(path: Path, files: dict[str, bytes]) -> str:
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return str(path)


def corners(target: Any) -> list[list[float]]:
    return [[float(value) for value in box] for box in target.boxes]


def as_boxes(target: Any) -> tuple[str, bytes]:
    labels = [NAMES[i] for i in target.classes]
    return "json", json.dumps({"boxes": corners(target), "labels": labels}).encode()


def as_annotations(target: Any) -> tuple[str, bytes]:
    annotations = [
        {"bbox": [x, y, right - x, bottom - y], "category": int(i), "iscrowd": 0, "id": 7}
        for (x, y, right, bottom), i in zip(corners(target), target.classes)
    ]
    return "json", b"\xef\xbb\xbf" + json.dumps({"annotations": annotations}).encode()


def as_coco(target: Any) -> tuple[str, bytes]:
    """As in COCO's file, where `make_boxes` counts the classes from 1."""
    content = json.loads(as_annotations(target)[1])
    for each in content["annotations"]:
        each["category_id"] = each.pop("category") + 1
    return "json", json.dumps(content).encode()


def as_voc(target: Any) -> tuple[str, bytes]:
    objects = "".join(
        f"<object><name>{NAMES[i]}</name><bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin>"
        f"<xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>"
        for (x, y, right, bottom), i in zip(corners(target), target.classes)
    )
    return "xml", f"<annotation>{objects}</annotation>".encode()


def as_mask(target: Any) -> tuple[str, bytes]:
    return "mask.png", target.path.read_bytes()


FORMS: dict[str, list[Callable[[Any], tuple[str, bytes]]]] = {
    "detection": [as_boxes, as_annotations, as_coco, as_voc],
    "segmentation": [as_mask, lambda target: ("seg.png", as_mask(target)[1])],
}
CASES = [(task, form) for task, forms in FORMS.items() for form in forms]


def all_of(task: str, data: Path) -> Any:
    if task == "detection":
        return read_boxes(data)
    parts = [read_masks(data, name) for name in ("train", "val")]
    return replace(parts[0], samples=parts[0].samples + parts[1].samples)


def shards(task: str, data: Path, form: Callable[[Any], tuple[str, bytes]] | None = None) -> str:
    """Three tar files beside the data."""
    form = form or FORMS[task][0]
    for s in range(3):
        files: dict[str, bytes] = {}
        for sample in all_of(task, data).samples[s::3]:
            name = f"dir/{Path(sample.name).stem}"
            kind, content = form(sample.target)
            files[f"{name}.{kind}"] = content  # in front of the image
            files[f"{name}.png"] = Path(sample.name).read_bytes()
        tar(data.parent / f"train-{s}.tar", files)
    return str(data.parent / "train-{0..2}.tar")


def stream(task: str, pattern: str, val: Any, **options: Any) -> Any:
    """Images without random changes; `val` names the classes."""
    made = TASKS[task].images((), RECIPE[task], ARCHITECTURE[task], SMALL, train=False)
    source = replace(read_shards(pattern, val.classes), target=TASKS[task].shard_target(val))
    return ShardImages(source, made.transform, item=made.item, **options)


ARCHITECTURE = {
    task: replace(x, head=x.head.with_classes({"detection": 2, "segmentation": 21}[task]))
    for task, x in ARCHITECTURES.items()
}


def contents(batches: Any) -> Counter[tuple[bytes, bytes]]:
    """How often each pair of pixels and target is in the batches."""
    return Counter(
        (image.numpy().tobytes(), target.numpy().tobytes())
        for images, targets in batches
        for image, target in zip(images, targets)
    )


@pytest.mark.parametrize(("task", "form"), CASES)
def test_pixels_and_targets_are_those_of_folders(task: str, form: Any, tmp_path: Path) -> None:
    data = MAKE[task](tmp_path / "data")
    dataset = all_of(task, data)
    own = TASKS[task].images(dataset.samples, RECIPE[task], ARCHITECTURE[task], SMALL, train=False)
    expected = contents([(x[None], y[None]) for x, y in map(own.__getitem__, range(COUNT))])
    images = stream(task, shards(task, data, form), dataset)
    images = pickle.loads(pickle.dumps(images))  # as for workers that are not forked
    batches = list(shard_loader(images, 4, epoch=0, steps=3, workers=0))
    assert contents(batches) == expected
    assert len(expected) == COUNT
    again, other = (list(shard_loader(images, 4, epoch=e, steps=3, workers=0)) for e in (0, 1))
    assert all(torch.equal(a[1], b[1]) for a, b in zip(again, batches))
    assert contents(other) == expected
    assert any(not torch.equal(a[0], b[0]) for a, b in zip(other, batches))


@pytest.mark.parametrize("task", FORMS)
def test_workers_and_processes_share_the_images(task: str, tmp_path: Path) -> None:
    data = MAKE[task](tmp_path / "data")
    val, pattern = all_of(task, data), shards(task, data)
    whole = contents(shard_loader(stream(task, pattern, val), 4, epoch=0, steps=3, workers=0))
    both = shard_loader(stream(task, pattern, val), 4, epoch=0, steps=3, workers=2)
    assert contents(both) == whole
    parts = [
        contents(shard_loader(images, 2, epoch=0, steps=2, workers=1))
        for images in (stream(task, pattern, val, rank=rank, world=3) for rank in range(3))
    ]
    assert parts[0] + parts[1] + parts[2] == whole


@pytest.mark.parametrize("task", FORMS)
def test_a_run_on_shards_and_its_second_half_alone(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = MAKE[task](tmp_path / "data")
    pattern = shards(task, data)
    assert task_called(None, pattern, str(data)).name == task
    recipe = RECIPE[task].changed({"epoch_steps": 4, "ema_decay": 0.9})
    start = Start(architecture=ARCHITECTURES[task])
    whole = fit(pattern, tmp_path / "whole", recipe, start, val=data, machine=MACHINE)
    assert whole.task.name == task
    step, count = Trainer.step, []

    def stop_in_the_second_epoch(self: Trainer, *rest: Any) -> Any:
        loss = step(self, *rest)
        count.append(1)
        if len(count) == 6:
            signal.raise_signal(signal.SIGTERM)
        return loss

    monkeypatch.setattr(Trainer, "step", stop_in_the_second_epoch)
    with pytest.raises(Stopped):
        fit(pattern, tmp_path / "part", recipe, start, val=data, machine=MACHINE)
    resumed = fit(pattern, tmp_path / "part", machine=MACHINE, resume=True)
    assert len(count) == 8
    one, other = (Checkpoint.load(x.file) for x in (whole, resumed))
    assert all(np.array_equal(one.arrays[name], other.arrays[name]) for name in one.arrays)
    assert one.labels == all_of(task, data).classes
    columns = ("train_loss", "val_loss")
    logs = [
        [[row[c] for c in columns] for row in read_log(tmp_path / x)] for x in ("whole", "part")
    ]
    assert logs[0] == logs[1]


def png(
    height: int = 48, width: int = 64, mode: str = "RGB", value: Any = 0, **options: Any
) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (width, height), value).save(file, "png", **options)
    return file.getvalue()


def one(tmp_path: Path, *files: tuple[str, Any]) -> str:
    """A tar file with an image of 48 x 64 and others beside it."""
    beside = {
        f"1.{kind}": content if isinstance(content, bytes) else json.dumps(content).encode()
        for kind, content in files
    }
    return tar(tmp_path / "x.tar", {"1.png": png(), **beside})


BOX = [8, 4, 40, 24]
WRONG = [
    ("detection", [], r"x\.tar/1\.\*: no boxes: neither a \.json nor a \.xml file beside it"),
    ("detection", [("json", b"{")], r"x\.tar/1\.json: not boxes: Input data was truncated"),
    ("detection", [("json", {"boxes": [[1, 2, 3]]})], r"1\.json: not boxes: .*length 4"),
    ("detection", [("json", {"label": "a"})], r"1\.json: needs either boxes and labels, or anno"),
    ("detection", [("json", {"boxes": [BOX], "labels": []})], r"1\.json: 1 boxes, but 0 labels"),
    (
        "detection",
        [("json", {"boxes": [BOX], "labels": ["green"]})],
        r"x\.tar/1\.json: the class 'green' is not one of the 2 classes",
    ),
    ("detection", [("json", {"boxes": [BOX], "labels": [2]})], "the class 2 is not one of the 2"),
    ("detection", [("json", {"boxes": [BOX], "labels": [-1]})], "the class -1 is not one of the"),
    ("detection", [("json", {"boxes": [BOX], "labels": [True]})], r"1\.json: not boxes: .*bool"),
    (
        "detection",
        [("json", {"annotations": [{"bbox": BOX}]})],
        r"1\.json: an annotation without category",
    ),
    (
        "detection",
        [("json", {"annotations": [{"bbox": BOX, "category_id": 0}]})],
        r"1\.json: the category_id 0 is none of the COCO file to validate with \(1, 2\)",
    ),
    (
        "detection",
        [("json", {"boxes": [[0, 0, 1e300, 4]], "labels": [0]})],
        r"x\.tar/1\.json: a box with the corners \[0\.0, 0\.0, 1e\+300, 4\.0\]",
    ),
    (
        "detection",
        [("json", {"boxes": [], "labels": [], "height": 50, "width": 64})],
        r"1\.json: says that .*x\.tar/1\.png is 50 x 64 \(height x width\), but it is 48 x 64",
    ),
    ("detection", [("xml", b"<a><object/></a>")], r"x\.tar/1\.xml: no <name> in <object>"),
    ("detection", [("xml", b"<a>")], r"x\.tar/1\.xml: not an annotation in XML"),
    ("segmentation", [], r"x\.tar/1\.\*: no mask: one \.mask\.png or \.seg\.png must be beside"),
    (
        "segmentation",
        [("mask.png", png(mode="L")), ("seg.png", png(mode="L"))],
        r"x\.tar/1\.\*: 2 masks \(mask\.png, seg\.png\)",
    ),
    ("segmentation", [("seg.png", b"no")], r"x\.tar/1\.seg\.png: not a mask"),
    ("segmentation", [("seg.png", png())], r"1\.seg\.png: .*colours \(RGB\) are not classes"),
    (
        "segmentation",
        [("mask.png", png(40, 64, "L"))],
        r"1\.mask\.png: says that .*1\.png is 40 x 64 \(height x width\), but it is 48 x 64",
    ),
    (
        "segmentation",
        [("mask.png", png(mode="L", value=2))],
        r"1\.mask\.png: values 2, but there are 2 classes and 255 for pixels without one; the im",
    ),
]


@pytest.mark.parametrize(("task", "files", "message"), WRONG, ids=range(len(WRONG)))
def test_what_is_wrong_beside_an_image_is_named(
    task: str, files: list[tuple[str, Any]], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        next(iter(stream(task, one(tmp_path, *files), NAMED)))


def test_ids_of_categories_need_a_coco_file(tmp_path: Path) -> None:
    pattern = one(tmp_path, ("json", {"annotations": [{"bbox": BOX, "category_id": 1}]}))
    voc = replace(NAMED, files=("a.xml",))
    with pytest.raises(UserError, match=r"category_id 1 .*there is no such file: give category"):
        next(iter(stream("detection", pattern, voc)))


def test_an_error_in_a_worker_is_the_same(tmp_path: Path) -> None:
    images = stream("segmentation", one(tmp_path, ("mask.png", png(mode="L", value=2))), NAMED)
    with pytest.raises(UserError, match=r"1\.mask\.png: values 2"):
        list(shard_loader(images, 2, epoch=0, steps=1, workers=1))


def test_boxes_that_are_changed_are_mentioned_once(tmp_path: Path) -> None:
    boxes = [[40, 24, 8, 4], [50, 30, 90, 40], [70, 0, 80, 10], [5, 5, 5, 9]]
    content = json.dumps({"boxes": boxes, "labels": [0, "red", 1, 0]}).encode()
    files = {f"{i}.{kind}": x for i in (1, 2) for kind, x in (("json", content), ("png", png()))}
    images = stream("detection", tar(tmp_path / "x.tar", files), NAMED)
    seen = []
    images.item = lambda image, sample, rng: seen.append(sample.target) or (torch.zeros(1), 0)
    with pytest.warns(UserWarning, match="boxes") as caught:
        list(zip(range(4), images))
    assert corners(seen[0]) == [[8, 4, 40, 24], [50, 30, 64, 40]] == corners(seen[1])
    assert seen[0].classes.tolist() == [0, 1]
    assert [str(each.message).partition(".json: ")[2] for each in caught] == [
        "1 boxes with swapped corners put in order; other images are not mentioned",
        "1 boxes that leave their images clipped; other images are not mentioned",
        "2 boxes without area inside their images left out; other images are not mentioned",
    ]


def test_a_crowd_is_no_object_to_learn(tmp_path: Path) -> None:
    for kind, content in (
        ("boxes", {"boxes": [BOX], "labels": ["blue"], "iscrowd": [1]}),
        ("annotations", {"annotations": [{"bbox": BOX, "category": "blue", "iscrowd": 1}]}),
    ):
        (tmp_path / kind).mkdir()
        pattern = one(tmp_path / kind, ("json", content))
        ((_, target),) = zip(range(1), (t for _, t in stream("detection", pattern, NAMED)))
        assert not (target[:, 0] > 0).any()


def exif(orientation: int) -> Image.Exif:
    made = Image.Exif()
    made[0x0112] = orientation
    return made


def test_a_mask_of_the_stored_image_is_turned() -> None:
    values = np.zeros((48, 64), np.uint8)
    values[:8, :16] = 1
    file = io.BytesIO()
    Image.fromarray(values).save(file, "png")
    image = png(exif=exif(6))  # stored 48 x 64, upright 64 x 48
    sample = ShardSample("x.tar/1", {"png": image, "mask.png": file.getvalue()})
    assert (mask_target(sample, NAMES, (64, 48)).read() == np.rot90(values, -1)).all()
    sample = replace(sample, files=sample.files | {"png": b"no"})
    with pytest.raises(UserError, match=r"1\.mask\.png: the size of x\.tar/1\.png cannot be read"):
        mask_target(sample, NAMES, (64, 48))


@pytest.mark.parametrize("task", FORMS)
def test_a_broken_image_is_left_out_and_named(task: str, tmp_path: Path) -> None:
    data = MAKE[task](tmp_path / "data")
    (sample, *_) = all_of(task, data).samples
    kind, content = FORMS[task][0](sample.target)
    files = {"1.png": Path(sample.name).read_bytes(), f"1.{kind}": content}
    files |= {"2.png": b"no", f"2.{kind}": content}
    images = stream(task, tar(tmp_path / "x.tar", files), all_of(task, data))
    with pytest.warns(UserWarning, match=r"left out: .*x\.tar/2\.png: not an image"):
        (batch,) = shard_loader(images, 2, epoch=0, steps=1, workers=0)
    assert len(contents([batch])) == 1


@pytest.mark.parametrize("task", FORMS)
def test_shards_need_val_and_steps(task: str, tmp_path: Path) -> None:
    data = MAKE[task](tmp_path / "data")
    start, recipe = Start(architecture=ARCHITECTURES[task]), RECIPE[task]
    steps = recipe.changed({"epoch_steps": 4})
    for val, changed in ((data, recipe), (None, steps), ("b.tar", steps)):
        with pytest.raises(UserError, match=r"a\.tar: shards need .*--val.*epoch_steps"):
            fit("a.tar", tmp_path / "run", changed, start, val=val, task=task, machine=MACHINE)


def test_a_batch_of_one_becomes_two(tmp_path: Path) -> None:
    data = MAKE["segmentation"](tmp_path / "data")
    recipe = RECIPE["segmentation"].changed({"batch": 1, "epochs": 1, "epoch_steps": 1})
    start = Start(architecture=ARCHITECTURES["segmentation"])
    pattern = shards("segmentation", data)
    assert fit(pattern, tmp_path / "run", recipe, start, val=data, machine=MACHINE).epochs == 1


@pytest.mark.parametrize("task", FORMS)
def test_the_same_image_to_train_and_to_validate_with_is_named(task: str, tmp_path: Path) -> None:
    dataset = all_of(task, MAKE[task](tmp_path / "data"))
    parts = [replace(dataset, samples=dataset.samples[i::2]) for i in (0, 1)]
    assert TASKS[task].repeated(Split(*parts, ())) == []
    first, last = dataset.samples[0].name, dataset.samples[-1].name
    Path(last).write_bytes(Path(first).read_bytes())
    split, _ = check_split(Split(*parts, ()), 1, TASKS[task].repeated)
    what = "images to validate with that are also trained with: 1"
    assert split.problems == (f"{what}: {last} is {first}",)
    twice = replace(dataset, samples=(dataset.samples[0], dataset.samples[-1]))
    assert TASKS[task].repeated(Split(twice, parts[0], ())) == []
