"""Images for training: which are trained and validated with, how they are decoded, and in which
batches they come.
"""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections import Counter, namedtuple
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from mobilenetv2.datasets import Dataset, Sample, read_dataset  # noqa: E402
from mobilenetv2.errors import ImageError, UserError  # noqa: E402
from mobilenetv2.images import Preprocessing, decode  # noqa: E402
from mobilenetv2.training import workers as processes  # noqa: E402
from mobilenetv2.training.augment import Augmentation, evaluation_transform  # noqa: E402
from mobilenetv2.training.data import (  # noqa: E402
    Images,
    ShardImages,
    check_images,
    check_split,
    default_workers,
    loader,
    read_shards,
    read_split,
    shard_loader,
    without,
)

from .test_datasets import build, greys, packed  # noqa: E402

# Python 3.12 says so of every fork of a process with threads
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
SIZE = Preprocessing(size=(8, 8), crop_fraction=1.0)
PLAIN = evaluation_transform(SIZE)
CHANCE = Augmentation(colour=True, policy="rand", erase=0.5).transform((8, 8), SIZE)


def samples(root: Path, **counts: int) -> Dataset:
    """As many different images of each class."""
    rng = np.random.default_rng(0)
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            image = rng.integers(0, 256, (12, 10, 3), np.uint8)
            Image.fromarray(image).save(root / name / f"{i:03}.png")
    return read_dataset(root)


def parts(split: object) -> tuple[list[str], list[str]]:
    return tuple(
        [Path(s.name).as_posix()[-7:] for s in of.samples] for of in (split.train, split.val)
    )


def many(label: str, count: int, first: int = 0) -> dict[str, int]:
    return {f"{label}/{i:02}.png": 1 for i in range(first, first + count)}


# --- which images ---


@pytest.mark.parametrize("name", ["val", "valid", "Validation", "test"])
@pytest.mark.parametrize("zipped", [False, True])
def test_parts_that_are_there_are_taken(tmp_path: Path, name: str, zipped: bool) -> None:
    names = {"train/a/1.png": 1, "train/b/x/2.png": 2, f"{name}/b/3.JPG": 3}
    source = build(tmp_path / "data", names)
    source = packed(source, tmp_path / "d.zip") if zipped else source
    split = read_split(source)
    assert greys(split.train) == [("a", 1), ("b", 2)]
    assert greys(split.val) == [("b", 3)]
    assert split.val.classes == split.train.classes == ("a", "b")
    assert split.rows() == [
        {"class": "a", "train": 1, "val": 0},
        {"class": "b", "train": 1, "val": 1},
    ]
    assert any("no part val, so test" in problem for problem in split.problems) == (name == "test")


def test_test_is_left_alone_where_there_is_a_val(tmp_path: Path) -> None:
    build(tmp_path, {"train/a/1.png": 1, "train/b/1.png": 2, "val/a/1.png": 3, "test/c/1.png": 4})
    split = read_split(tmp_path)
    assert (split.train.classes, greys(split.val)) == (("a", "b"), [("a", 3)])


def test_a_second_source_is_validated_with(tmp_path: Path) -> None:
    build(tmp_path / "a", {"z/1.png": 1, "y/1.png": 2, "x/1.png": 3})
    build(tmp_path / "b", {"train/x/1.png": 4, "val/z/1.png": 5})
    split = read_split(tmp_path / "a", tmp_path / "b")
    assert greys(split.train) == [("x", 3), ("y", 2), ("z", 1)]
    assert greys(split.val) == [("z", 5)]
    assert [sample.target for sample in split.val.samples] == [2]


def test_each_class_gives_its_share(tmp_path: Path) -> None:
    source = build(
        tmp_path / "data", {**many("a", 40), **many("b", 15), **many("c", 2), **many("d", 1)}
    )
    split = read_split(source, val_share=0.1)
    assert [(row["train"], row["val"]) for row in split.rows()] == [
        (36, 4),
        (13, 2),
        (1, 1),
        (1, 0),
    ]
    assert not {s.name for s in split.train.samples} & {s.name for s in split.val.samples}
    assert "a single image, used for training only: d" in split.problems
    assert [row["train"] for row in read_split(source, val_share=0.99).rows()] == [1, 1, 1, 1]


def test_the_split_is_the_same_for_a_seed_and_in_any_container(tmp_path: Path) -> None:
    source = build(tmp_path / "data", {**many("a", 20), **many("b", 20)})
    archive = packed(source, tmp_path / "data.zip")  # its members stand in reverse
    chosen = parts(read_split(source, seed=3))
    assert parts(read_split(source, seed=3)) == parts(read_split(archive, seed=3)) == chosen
    assert parts(read_split(source, seed=4)) != chosen


def test_the_split_does_not_follow_the_order_of_the_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = build(tmp_path, {**many("a", 20), **many("b", 20)})
    chosen, walk = parts(read_split(source)), os.walk

    def reversed_walk(*args: object, **named: object) -> Iterator[object]:
        for parent, folders, files in walk(*args, **named):
            folders.reverse()
            files.reverse()
            yield parent, folders, files

    monkeypatch.setattr(os, "walk", reversed_walk)
    assert parts(read_split(source)) == chosen


def test_lists(tmp_path: Path) -> None:
    text = "file,label,split\n1.png,b,train\n2.png,a,Train\n3.png,b,val\n4.png,a,test\n"
    (tmp_path / "list.csv").write_text(text)
    split = read_split(tmp_path / "list.csv")
    assert [s.target for s in split.train.samples] == [1, 0]
    assert [(Path(s.name).name, s.target) for s in split.val.samples] == [("3.png", 1)]
    assert [len(read_dataset(tmp_path / "list.csv", p).samples) for p in (None, "train")] == [1, 2]
    (tmp_path / "plain.csv").write_text(
        "file,label\n" + "".join(f"{i},{i % 2}\n" for i in range(20))
    )
    assert [row["val"] for row in read_split(tmp_path / "plain.csv").rows()] == [1, 1]
    (tmp_path / "bad.csv").write_text("file,label,split\nx,a,train\ny,b,often\n")
    with pytest.raises(UserError, match="line 3: split 'often' is not train, val or test"):
        read_split(tmp_path / "bad.csv")


def test_lists_with_numbers_meet_by_number(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("file,index,label\n1,7,crane\n2,3,crane\n")
    (tmp_path / "val.csv").write_text("file,index\n3,7\n")
    split = read_split(tmp_path / "train.csv", tmp_path / "val.csv")
    assert [sample.target for sample in split.val.samples] == [1]
    assert split.val.indices == (3, 7)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            {"1.png": 1, "2.png": 1},
            r"2 images without a class folder left out: 1.png, 2.png; exp",
        ),
        (
            {"train/1.png": 1, "val/1.png": 1},
            r"no images to train with.*DATA/train/CLASS/image",
        ),
        (
            {"train/a/1.png": 1, "val/a/1.png": 1},
            "all .* of the class 'a'.*needs two classes.*DATA/",
        ),
        ({"val/a/1.png": 1, "test/b/1.png": 1}, "has test and val but no train"),
        (
            {"train/a/1.png": 1, "train/b/1.png": 1, "val/d/1.png": 1, "val/c/1.png": 1},
            "none to train with: c, d",
        ),
        ({"train/a/1.png": 1, "train/b/1.png": 1, "val/1.png": 1}, "no images to validate with"),
        ({"a/1.png": 1, "b/1.png": 1}, "no class has two images"),
    ],
)
def test_what_cannot_be_trained_with(tmp_path: Path, names: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=f"(?s){message}"):
        read_split(build(tmp_path, names))


def test_images_on_both_sides_are_named(tmp_path: Path) -> None:
    source = build(tmp_path, {**many("a", 10), **many("b", 10)})
    [problem] = read_split(source, source).problems
    assert problem == f"20 images are in training and in validation: {tmp_path / 'a/00.png'}"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "seed must be 0 or above, not -1"),
        *(
            ({"val_share": share}, "val_share must be between 0 and 1")
            for share in (0, 1, -0.1, float("nan"))
        ),
    ],
)
def test_options_out_of_range(tmp_path: Path, options: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_split(tmp_path, **options)


@pytest.mark.parametrize("zipped", [False, True])
def test_litter_is_no_class_and_is_named(tmp_path: Path, zipped: bool) -> None:
    names = {**many("train/a", 10), **many("train/b", 10), **many("val/a", 1)}
    clean = build(tmp_path / "data", names)
    expected = read_split(clean)
    assert expected.problems == ()
    for litter in (".ipynb_checkpoints", ".git", "__MACOSX", "@eaDir"):
        build(clean, {f"{litter}/x.png": 0, f"train/{litter}/x.png": 0})
    for file in (".DS_Store", "train/a/Thumbs.db", "train/a/._photo.jpg"):
        (clean / file).write_bytes(b"x")
    split = read_split(packed(clean, tmp_path / "d.zip") if zipped else clean)
    assert split.rows() == expected.rows()
    assert split.problems == (
        "hidden files and folders left out: .DS_Store, ._photo.jpg, .git, .ipynb_checkpoints, "
        "@eaDir and 2 more",
    )


def test_every_ending_counts(tmp_path: Path) -> None:
    endings = ("JPG", "jpeg", "webp", "tif", "BMP", "png", "jfif")
    build(tmp_path, {f"{kind}/deep/er/{i}.{kind}": i for kind in endings for i in (1, 2)})
    (tmp_path / "png/movie.MOV").write_bytes(b"x")
    split = read_split(tmp_path, val_share=0.5)
    assert {(row["train"], row["val"]) for row in split.rows()} == {(1, 1)}
    assert split.train.classes == tuple(sorted(endings))
    assert split.problems[0] == "ignored 1 files that are not images by name: .mov (1)"


@pytest.mark.parametrize("ending", ["heic", "AVIF", "jp2"])
def test_kinds_that_pillow_may_not_read_are_never_passed_over(tmp_path: Path, ending: str) -> None:
    build(tmp_path, {f"{name}/{i}.png": i for name in "ab" for i in range(3)})
    (tmp_path / "a" / f"photo.{ending}").write_bytes(b"of a kind that cannot be read")
    dataset = read_dataset(tmp_path)
    assert len(dataset.samples) == 7
    assert [Path(name).name for name in check_images(dataset.samples, 1)] == [f"photo.{ending}"]


def test_complaints(tmp_path: Path) -> None:
    source = build(tmp_path, {**many("Cat", 120), **many("cat", 12), **many("val", 3)})
    (tmp_path / "empty").mkdir()
    problems = read_split(source, val_share=0.01).problems
    assert problems[:4] == (
        "no images to train with, so never predicted: empty",
        "fewer than 10 images to train with: val (2)",
        "unbalanced: 119 images of 'Cat' and 2 of 'val'; --balance shows all classes equally often",
        "classes that differ only in upper and lower case: Cat, cat",
    )
    assert problems[4].startswith("read as a class, not as a part of the data: val; expected")
    assert read_split(source).train.classes == ("Cat", "cat", "empty", "val")


def test_links_are_followed_once(tmp_path: Path) -> None:
    build(tmp_path, {**many("data/a", 2), **many("elsewhere", 2)})
    (tmp_path / "data/b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data/b/back").symlink_to(tmp_path / "data")
    assert [row["train"] + row["val"] for row in read_split(tmp_path / "data").rows()] == [2, 2]


# --- broken ones ---


def test_broken_images_are_named_before_the_first_epoch(tmp_path: Path) -> None:
    whole = samples(tmp_path, a=70, b=70)
    good = (tmp_path / "a/000.png").read_bytes()
    bad = {"cut.png": good[:-150], "empty.jpg": b"", "page.png": b"<html>", "text.jpg": b"text"}
    for name, content in {**bad, "header.png": b"\x89PNG" + good[10:]}.items():
        (tmp_path / "b" / name).write_bytes(content)
    dataset = read_dataset(tmp_path)
    broken = check_images(dataset.samples, workers=2)
    assert {Path(name).name for name in broken} == {*bad, "header.png"}
    assert all(name in str(error) for name, error in broken.items())
    assert without(dataset, broken) == whole


def test_what_is_counted_before_the_first_epoch(tmp_path: Path) -> None:
    samples(tmp_path / "train", a=3, b=3)
    samples(tmp_path / "val", a=2, b=2)
    for i, path in enumerate(sorted((tmp_path / "val").rglob("*.png"))):
        Image.new("RGB", (12, 10), (i, i, i)).save(path)
    for name in ("val/a/x.png", "train/b/y.png"):
        (tmp_path / name).write_bytes((tmp_path / "train/a/000.png").read_bytes())
    ramp = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    for i in range(2):
        Image.fromarray(ramp + i).save(tmp_path / f"val/a/scan{i}.png")
    (tmp_path / "val/b/cut.png").write_bytes(b"")
    split, broken = check_split(read_split(tmp_path), workers=2)
    assert [Path(name).name for name in broken] == ["cut.png"]
    assert len(split.val.samples) == 7
    text = "\n".join(split.problems)
    assert "images to validate with that are also trained with: 1: " in text
    assert f"{tmp_path / 'val/a/x.png'} is {tmp_path / 'train/a/000.png'}" in text
    assert f"stand in two classes: 1: {tmp_path / 'train/b/y.png'} is {tmp_path}" in text
    assert f"2 images keep few grey levels: {tmp_path / 'val/a/scan0.png'}: values from 0" in text
    stretched, _ = check_split(replace(split, val=split.val.stretched(), problems=()), workers=2)
    assert len(stretched.problems) == 2
    assert np.asarray(Images(stretched.val.samples, PLAIN)[3][0]).max() > 200


@pytest.mark.parametrize("workers", [0, 1])
def test_a_image_that_breaks_later_is_named(tmp_path: Path, workers: int) -> None:
    images = Images(samples(tmp_path, a=4, b=4).samples, PLAIN)
    (tmp_path / "b/002.png").write_bytes(b"gone")
    with pytest.raises(ImageError) as caught:
        list(loader(images, 2, epoch=0, seed=0, train=False, workers=workers))
    assert str(caught.value) == (
        f"{tmp_path / 'b/002.png'}: not an image, or of a kind that Pillow cannot read"
    )


# --- images ---


def test_training_decodes_as_prediction_does(
    shared: Callable[[str], Path],
) -> None:
    folder = shared("data/odd-images")
    names = ("gray16.png", "cmyk.jpg", "exif_orientation_6.jpg", "png_named.jpg", "animated.gif")
    of = [Sample(name, 1, folder / name) for name in names]
    preprocessing = Preprocessing(size=(64, 48))
    for bytes_ in (0, 1 << 30):
        images = Images(of, evaluation_transform(preprocessing), remember_bytes=bytes_)
        for i, name in enumerate(names):
            pixels, label = images[i]
            assert label == 1
            expected = preprocessing(decode(folder / name))
            np.testing.assert_array_equal(pixels.permute(1, 2, 0), expected, err_msg=name)


def test_sixteen_bits_keep_their_shades(tmp_path: Path) -> None:
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(ramp).save(tmp_path / "16.png")
    preprocessing = Preprocessing(size=(256, 256), crop_fraction=1.0)
    of = [Sample("16", 0, tmp_path / "16.png")]
    pixels, _ = Images(of, evaluation_transform(preprocessing))[0]
    assert len(pixels.unique()) == 256
    np.testing.assert_array_equal(pixels[0], ramp >> 8)


def test_what_is_remembered_is_not_read_again(tmp_path: Path) -> None:
    dataset = samples(tmp_path, a=3, b=3)  # 360 bytes each
    images = Images(dataset.samples, PLAIN, remember_bytes=4 * 360)
    before = [images[i][0] for i in range(6)]
    for sample in dataset.samples:
        Path(sample.name).unlink()
    assert all(torch.equal(images[i][0], before[i]) for i in range(4))
    with pytest.raises(ImageError, match="no such file"):
        images[4]


# --- batches ---


def everything(images: Images, batch: int = 8, **options: object) -> tuple[object, list[int]]:
    """One epoch as one tensor, and its labels."""
    options = {"epoch": 0, "seed": 0, "train": True, "workers": 0, **options}
    pixels, labels = zip(*loader(images, batch, **options))
    return torch.cat(pixels), torch.cat(labels).tolist()


def indices(images: Images, batch: int, **options: object) -> list[list[int]]:
    """The images of each batch by number, which they have as their label."""
    options = {"epoch": 0, "seed": 0, "train": True, "workers": 0, **options}
    return [labels.tolist() for _, labels in loader(images, batch, **options)]


@pytest.fixture
def numbered(tmp_path: Path) -> Callable[[int], Images]:
    """Images whose label is their number."""
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    return lambda n: Images([Sample(str(i), i, tmp_path / "x.png") for i in range(n)], PLAIN)


def test_any_number_of_workers_gives_the_same_images(tmp_path: Path) -> None:
    images = Images(samples(tmp_path, a=12, b=9).samples, CHANCE, seed=5)
    alone, labels = everything(images, epoch=3)
    for options in ({"workers": 1}, {"workers": 2}):
        pixels, same = everything(images, epoch=3, **options)
        assert torch.equal(pixels, alone)
        assert same == labels
    again = Images(images.samples, CHANCE, seed=5, remember_bytes=1 << 20)
    assert torch.equal(everything(again, epoch=3)[0], alone)
    assert pixels.dtype == torch.uint8
    assert pixels.shape == (21, 3, 8, 8)


def test_a_image_depends_on_seed_epoch_and_number_alone(tmp_path: Path) -> None:
    of = samples(tmp_path, a=4, b=4).samples
    images = Images([of[0], of[0], of[1]], CHANCE, seed=1)
    first, twin = images[0][0], images[1][0]
    assert not torch.equal(first, twin)
    assert torch.equal(images[0][0], first)
    images.set_epoch(1)
    assert not torch.equal(images[0][0], first)
    images.set_epoch(0)
    assert torch.equal(images[0][0], first)
    assert not torch.equal(Images(of[:1], CHANCE, seed=2)[0][0], first)


def test_batches_lie_with_the_channels_last(tmp_path: Path) -> None:
    [(pixels, labels)] = loader(
        Images(samples(tmp_path, a=2, b=2).samples, PLAIN),
        4,
        epoch=0,
        seed=0,
        train=True,
        workers=0,
    )
    assert pixels.is_contiguous(memory_format=torch.channels_last)
    assert labels.dtype == torch.int64


def test_the_order_is_by_seed_and_epoch(numbered: Callable[[int], Images]) -> None:
    images = numbered(40)
    order = indices(images, 8, epoch=1)
    assert indices(images, 8, epoch=1) == order
    flat = [i for labels in order for i in labels]
    assert sorted(flat) == list(range(40)) != flat
    assert len({str(indices(images, 8, epoch=e, seed=s)) for e in (1, 2) for s in (0, 1)}) == 4
    in_order = [i for labels in indices(images, 8, train=False) for i in labels]
    assert in_order == list(range(40))


@pytest.mark.parametrize(
    ("images", "batch", "sizes"),
    [
        (65, 64, [33, 32]),
        (5, 32, [5]),
        (64, 32, [32, 32]),
        (5, 2, [3, 2]),
        (3, 2, [3]),
        (5, 1, [3, 2]),
        (100, 33, [25, 25, 25, 25]),
    ],
)
def test_no_batch_of_training_has_a_single_image(
    numbered: Callable[[int], Images], images: int, batch: int, sizes: list[int]
) -> None:
    assert [len(labels) for labels in indices(numbered(images), batch)] == sizes


@pytest.mark.parametrize(("count", "world"), [(65, 2), (64, 3), (8, 4), (9, 4)])
def test_ranks_share_the_images(numbered: Callable[[int], Images], count: int, world: int) -> None:
    images = numbered(count)
    for train in (True, False):
        ranks = [indices(images, 8, train=train, rank=r, world=world) for r in range(world)]
        assert sorted(i for rank in ranks for batch in rank for i in batch) == list(range(count))
        assert not train or len({len(rank) for rank in ranks}) == 1
        assert not train or min(len(batch) for rank in ranks for batch in rank) > 1


def test_too_few_to_train_and_poor_batches(numbered: Callable[[int], Images]) -> None:
    with pytest.raises(UserError, match="7 images are too few .* 4 processes"):
        indices(numbered(7), 8, world=4)
    with pytest.raises(UserError, match="a batch has at least 1 image, not 0"):
        indices(numbered(7), 0)
    assert indices(numbered(1), 8, train=False, rank=1, world=2, workers=2) == []


def test_balance_shows_all_classes_equally_often(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    labels = [0] * 500 + [2] * 15  # and none of 1
    images = Images([Sample(str(i), c, tmp_path / "x.png") for i, c in enumerate(labels)], PLAIN)
    order = [
        loader(images, 64, epoch=e, seed=0, train=True, workers=0, balance=True) for e in (0, 1)
    ]
    seen = [Counter(np.concatenate(of.dataset.batches).tolist()) for of in order]
    assert sum(seen[0].values()) == 515
    for counts in seen:
        small = [counts[i] for i in range(500, 515)]
        assert sum(small) in (257, 258)
        assert max(small) - min(small) <= 1
        assert max(counts[i] for i in range(500)) == 1
    assert seen[0] != seen[1]
    assert {len(batch) for batch in order[0].dataset.batches} == {57, 58}
    plain = Counter(everything(images, 64)[1])
    assert plain == {0: 500, 2: 15}


# --- processes ---


class Threads(Images):
    def __getitem__(self, i: int) -> tuple[object, int]:
        return super().__getitem__(i)[0], torch.get_num_threads()


def test_a_worker_computes_with_one_thread(tmp_path: Path) -> None:
    images = Threads(samples(tmp_path, a=2, b=2).samples, PLAIN)
    before = torch.get_num_threads()
    assert indices(images, 2, workers=2) == [[1, 1], [1, 1]]
    assert torch.get_num_threads() == before


def test_loading_leaves_the_global_random_numbers_alone(tmp_path: Path) -> None:
    images = Images(samples(tmp_path, a=2, b=2).samples, CHANCE)
    state = torch.get_rng_state()
    everything(images, 2)
    everything(images, 2, workers=1)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("usable", "workers"), [(1, 0), (2, 0), (3, 0), (4, 2), (5, 2), (64, 8)])
def test_default_workers_keep_to_the_processors(
    monkeypatch: pytest.MonkeyPatch, usable: int, workers: int
) -> None:
    monkeypatch.setattr(processes, "usable_processors", lambda: usable)
    assert default_workers() == workers


@pytest.mark.parametrize(
    ("free", "workers"), [(192 * 8 * 3, 0), (192 * 8 * 4, 1), (192 * 8 * 9, 2)]
)
def test_little_shared_memory_means_fewer_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, workers: int
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(processes, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(free, 0, free))
    images = Images(samples(tmp_path / "data", a=20, b=20).samples, PLAIN)
    options = {"epoch": 0, "seed": 0, "train": True, "workers": 2}
    if workers == 2:
        assert loader(images, 8, **options).num_workers == 2
        return
    with pytest.warns(UserWarning, match=rf"enough for {workers} workers .*--shm-size"):
        found = loader(images, 8, **options)
    assert found.num_workers == workers
    assert sum(len(labels) for _, labels in found) == 40


INTERRUPTED = """
import sys, time
from mobilenetv2.images import Preprocessing
from mobilenetv2.training.augment import evaluation_transform
from mobilenetv2.training.data import Images, loader, read_split
images = Images(
    read_split(sys.argv[1]).train.samples, evaluation_transform(Preprocessing(size=(8, 8)))
)
epoch = iter(loader(images, 2, epoch=0, seed=0, train=True, workers=2))
next(epoch)
import multiprocessing
print(*(child.pid for child in multiprocessing.active_children()), flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals are of Unix")
def test_an_interrupt_leaves_no_process(tmp_path: Path) -> None:
    samples(tmp_path, a=20, b=20)
    command = [sys.executable, "-c", INTERRUPTED, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        children = [int(pid) for pid in process.stdout.readline().split()]
        process.send_signal(signal.SIGINT)
        process.wait(30)
    assert len(children) == 2
    deadline = time.monotonic() + 10
    while any(map(_lives, children)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(_lives, children))


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")  # an orphan that has ended may wait to be buried
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"


# --- shards ---


def shard(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def png(grey: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (10, 10), (grey,) * 3).save(file, "png")
    return file.getvalue()


@pytest.fixture
def shards(tmp_path: Path) -> str:
    """Four of five images each; image i is of grey 10 i and of class i % 3, a cat, dog or emu."""
    pytest.importorskip("webdataset")
    for s in range(4):
        files: dict[str, bytes] = {}
        for i in range(5 * s, 5 * s + 5):
            said = (b"cat", b"dog", b"emu")[i % 3] if s else b"%d\n" % (i % 3)
            files[f"dir/{i:03}.png"] = png(10 * i)
            files[f"dir/{i:03}.cls" if s < 3 else f"dir/{i:03}.json"] = (
                said if s < 3 else b'{"label": "%s"}' % said
            )
        shard(tmp_path / f"train-{s:06}.tar", files)
    return str(tmp_path / "train-{000000..000003}.tar")


NAMES = ("cat", "dog", "emu")


def streamed(images: ShardImages, **options: int) -> list[tuple[int, int]]:
    """Number and class of each image of an epoch of five batches of four: once through."""
    options = {"epoch": 0, "steps": 5, "workers": 0, **options}
    return [
        (int(pixels[0, 0, 0]) // 10, int(label))
        for batch in shard_loader(images, 4, **options)
        for pixels, label in zip(*batch)
    ]


def test_shards_once_through_and_again(shards: str) -> None:
    images = ShardImages(read_shards(shards, NAMES), PLAIN)
    found = streamed(images)
    assert sorted(i for i, _ in found) == list(range(20)) != [i for i, _ in found]
    assert all(label == i % 3 for i, label in found)
    assert streamed(images) == found
    assert streamed(images, epoch=1) != found
    assert sorted(Counter(i for i, _ in streamed(images, steps=10)).values()) == [2] * 20


def test_shards_are_shared_by_workers_and_ranks(shards: str) -> None:
    named = read_shards(shards, NAMES)
    both = [i for i, _ in streamed(ShardImages(named, PLAIN), workers=2, steps=4)]
    assert len(both) == len(set(both)) == 16
    ranks = [streamed(ShardImages(named, PLAIN, rank=r, world=2), steps=2) for r in range(2)]
    seen = [i for rank in ranks for i, _ in rank]
    assert len(seen) == len(set(seen)) == 16
    assert (
        shard_loader(ShardImages(named, PLAIN, world=4), 4, epoch=0, steps=2, workers=8).num_workers
        == 1
    )
    with pytest.raises(UserError, match="4 shards cannot be shared by 5 processes"):
        ShardImages(named, PLAIN, world=5)


def test_batches_of_shards_are_those_of_images(shards: str) -> None:
    [(pixels, labels)] = shard_loader(
        ShardImages(read_shards(shards, NAMES), CHANCE), 6, epoch=0, steps=1, workers=1
    )
    assert (pixels.shape, pixels.dtype, labels.dtype) == ((6, 3, 8, 8), torch.uint8, torch.int64)
    assert pixels.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("files", "classes", "message"),
    [
        ({"1.png": png(1)}, NAMES, r"x.tar/1.*: no class: neither a .cls"),
        ({"1.png": png(1), "1.cls": b"yak"}, NAMES, "its class 'yak' is not one of the 3 classes"),
        ({"1.png": png(1), "1.cls": b"3"}, NAMES, "its class '3' is not one of the 3 classes"),
        ({"1.png": png(1), "1.cls": b"cat"}, None, "'cat' is not a number, and no names are given"),
        ({}, NAMES, "no images in .*x.tar"),
        (
            {"1.png": b"no", "1.cls": b"0"},
            NAMES,
            "no images in .*x.tar: .*x.tar/1.png: not an image",
        ),
    ],
)
def test_shards_without_usable_images(
    tmp_path: Path, workers: int, files: dict[str, bytes], classes: object, message: str
) -> None:
    pytest.importorskip("webdataset")
    images = ShardImages(read_shards(str(shard(tmp_path / "x.tar", files)), classes), PLAIN)
    with pytest.raises(UserError, match=message):
        streamed(images, workers=workers)


def test_damaged_and_absent_shards(tmp_path: Path, shards: str) -> None:
    (tmp_path / "cut.tar").write_bytes((tmp_path / "train-000001.tar").read_bytes()[:3000])
    with pytest.raises(UserError, match="cut.tar: cannot be read"):
        streamed(ShardImages(read_shards(str(tmp_path / "cut.tar"), NAMES), PLAIN))
    with pytest.raises(UserError, match=r"1 of 5 files are absent: .*train-000004.tar"):
        read_shards(shards.replace("3}", "4}"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"x\.tar: cannot be read: empty file"),
        (b"junk" * 3000, r"x\.tar: cannot be read: invalid header"),
        (None, r"x\.tar/1\.png: is there twice"),
    ],
)
def test_what_is_wrong_with_a_shard_is_said_in_words(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    pytest.importorskip("webdataset")
    file = shard(tmp_path / "x.tar", {"1.png": png(1), "1.cls": b"0"})
    if content is None:
        with tarfile.open(file, "a") as archive:
            archive.addfile(tarfile.TarInfo("1.png"))
    else:
        file.write_bytes(content)
    with pytest.raises(UserError, match=message) as raised:
        streamed(ShardImages(read_shards(str(file), NAMES), PLAIN))
    assert " object at " not in str(raised.value)


def test_shards_by_a_wildcard(shards: str) -> None:
    named = read_shards(shards, NAMES)
    assert read_shards(shards.replace("{000000..000003}", "*"), NAMES) == named
    with pytest.raises(UserError, match=r"1 of 1 files are absent: .*none-\*\.tar"):
        read_shards(shards.replace("train-{000000..000003}", "none-*"), NAMES)


@pytest.mark.parametrize("workers", [0, 1])
def test_images_that_a_shard_keeps_from_being_read_are_named_once(
    tmp_path: Path, workers: int
) -> None:
    pytest.importorskip("webdataset")
    files = {"1.png": png(10), "1.cls": b"7", "1.v2.png": png(20), "2.png": png(30)}
    file = shard(tmp_path / "x.tar", {**files, "._1.png": b"", "__MACOSX/._1.png": b""})
    with tarfile.open(file, "a") as archive:
        for name, kind in (("2.cls", tarfile.LNKTYPE), ("3.png", tarfile.SYMTYPE)):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, f"1.{name[2:]}"
            archive.addfile(entry)
    images = ShardImages(read_shards(str(file)), PLAIN)
    with pytest.warns(UserWarning, match="left out") as caught:
        assert set(streamed(images, steps=3, workers=workers)) == {(1, 7)}
    assert len(caught) == 3
    assert {name.partition("x.tar/")[2]: str(x) for name, x in images.left_out.items()} == {
        "1.v2.png": f"{file}/1.v2.png: beside {file}/1.png, and one image per name is read (a name "
        "ends at its first dot)",
        "2.png": f"{file}/2.cls: a link to 1.cls, and those in tar files are not followed: store the "
        "file itself (tar --dereference --hard-dereference)",
        "3.png": f"{file}/3.png: a link to 1.png, and those in tar files are not followed: store the "
        "file itself (tar --dereference --hard-dereference)",
    }


def test_a_broken_image_of_a_shard_is_left_out_and_named(tmp_path: Path) -> None:
    pytest.importorskip("webdataset")
    files = {"1.png": png(10), "1.cls": b"7", "2.jpg": b"no", "2.cls": b"7"}
    images = ShardImages(read_shards(str(shard(tmp_path / "x.tar", files))), PLAIN)
    with pytest.warns(UserWarning, match="left out: .*x.tar/2.jpg: not an image"):
        assert set(streamed(images, steps=1)) == {(1, 7)}


def test_images_are_decoded_by_the_threads_that_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path, {f"a/{i}.png": i for i in range(1, 40)})
    (tmp_path / "a" / "bad.png").write_bytes(b"no")
    samples = read_dataset(tmp_path).samples
    start, started = threading.Thread.start, []

    def refused(thread: threading.Thread) -> None:
        if len(started) == 1:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refused)
    with pytest.warns(RuntimeWarning, match="1 of 3 threads"):
        broken = check_images(samples, workers=3)
    assert [Path(name).name for name in broken] == ["bad.png"]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(11, "Resource temporarily unavailable"), "cannot work: .*unavailable; give fewer"),
        (RuntimeError("can't start new thread"), "cannot work: can't start new thread"),
        (
            RuntimeError("Too many open files. Communication\nwith"),
            "cannot work: Too many open files",
        ),
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."),
            "cannot work: DataLoader worker .pid 7. is killed",
        ),
    ],
)
def test_workers_that_the_system_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    build(tmp_path, {f"a/{i}.png": i for i in range(1, 5)})
    images = Images(read_dataset(tmp_path).samples, evaluation_transform(Preprocessing()))

    def refused(loader: object) -> Iterator[object]:
        raise error

    batches = loader(images, 2, epoch=0, seed=0, train=False, workers=1)
    monkeypatch.setattr(torch.utils.data.DataLoader, "__iter__", refused)
    with pytest.raises(UserError, match=message):
        next(iter(batches))
    error.args = ("Caught KeyError in DataLoader worker process 0.",)
    if isinstance(error, RuntimeError):  # a fault of the program
        with pytest.raises(RuntimeError, match="Caught KeyError"):
            next(iter(batches))
