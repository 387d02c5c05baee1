"""`read_dataset`: classes and images of folders, archives and lists, and what is left out."""

from __future__ import annotations

import pickle
import threading
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import numpy as np
import pytest
from PIL import Image

from mobilenetv2.datasets import (
    Dataset,
    Sample,
    archive,
    read_dataset,
    read_splits,
    repeated_images,
)
from mobilenetv2.datasets.duplicates import same_images
from mobilenetv2.errors import ImageError, UserError
from mobilenetv2.images import decode

LAYOUT = {
    "10/b.png": 1,
    "10/a.JPG": 2,
    "2/deeper/day/c.png": 3,
    "B/größe.png": 4,
    "a/ü'x, y.webp": 5,
}
HIDDEN = (
    ".git/x.png",
    ".ipynb_checkpoints/x.png",
    "__MACOSX/10/x.png",
    "@eaDir/x.png",
    "10/._a.JPG",
)


def build(root: Path, names: dict[str, int]) -> Path:
    """Writes images, each of its own grey."""
    for name, grey in names.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (40 * grey,) * 3).save(root / name)
    return root


def packed(root: Path, target: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(root.rglob("*"), reverse=True):
            archive.write(path, prefix + path.relative_to(root).as_posix())
    return target


def greys(dataset: Dataset) -> list[tuple[str, int]]:
    return [
        (
            dataset.classes[sample.target],
            round(float(np.asarray(decode(sample.open())).mean()) / 40),
        )
        for sample in dataset.samples
    ]


EXPECTED = [("10", 2), ("10", 1), ("2", 3), ("B", 4), ("a", 5)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    build(tmp_path / "data", {**LAYOUT, **dict.fromkeys(HIDDEN, 0)})
    (tmp_path / "data/empty").mkdir()
    (tmp_path / "data/10/notes.TXT").write_text("no image")
    build(tmp_path / "data", {"loose.png": 0})
    return tmp_path / "data"


@pytest.mark.parametrize("kind", ["folder", "zip", "wrapped zip"])
def test_a_folder_and_its_archive_hold_the_same(root: Path, tmp_path: Path, kind: str) -> None:
    if kind == "wrapped zip":
        (root / "loose.png").unlink()
        source = packed(root, tmp_path / "data.zip", "data/")
    else:
        source = root if kind == "folder" else packed(root, tmp_path / "data.zip")
    dataset = read_dataset(source)
    assert dataset.classes == ("10", "2", "B", "a", "empty")
    assert greys(dataset) == EXPECTED
    assert [row["images"] for row in dataset.summary()] == [2, 1, 1, 1, 0]
    assert list(dataset.problems) == [
        "ignored 1 files that are not images by name: .txt (1)",
        "hidden files and folders left out: ._a.JPG, .git, .ipynb_checkpoints, @eaDir, __MACOSX",
        *["1 images without a class folder left out: loose.png"] * (kind != "wrapped zip"),
        "1 classes without images: empty",
    ]
    assert dataset.samples[0].name.startswith(str(source))


@pytest.mark.parametrize("zipped", [False, True])
def test_splits(tmp_path: Path, zipped: bool) -> None:
    names = {"train/a/1.png": 1, "train/c/1.png": 2, "Validation/c/1.png": 3, "test/b/1.png": 4}
    source = build(tmp_path / "data", names)
    source = packed(source, tmp_path / "d.zip") if zipped else source
    datasets = {split: read_dataset(source, split) for split in (None, "val", "train", "test")}
    assert {dataset.classes for dataset in datasets.values()} == {("a", "b", "c")}
    assert greys(datasets[None]) == greys(datasets["val"]) == [("c", 3)]
    assert greys(datasets["train"]) == [("a", 1), ("c", 2)]
    assert greys(datasets["test"]) == [("b", 4)]
    with pytest.raises(
        UserError, match="no split 'extra'; its folders are Validation, test, train"
    ):
        read_dataset(source, "extra")


def test_each_split_has_its_own_classes(tmp_path: Path) -> None:
    build(tmp_path, {"train/a/1.png": 1, "training/b/1.png": 2, "Valid/c/1.png": 3})
    (tmp_path / "Valid/empty").mkdir()
    splits = read_splits(tmp_path)
    assert list(splits) == ["train", "val"]
    assert (splits["train"].classes, splits["val"].classes) == (("a", "b"), ("c", "empty"))
    assert greys(splits["train"]) == [("a", 1), ("b", 2)]
    assert splits["val"].problems == ()
    assert greys(read_splits(tmp_path / "train")[""]) == [("a", 1)]


def test_without_val_test_is_taken_and_train_alone_is_everything(tmp_path: Path) -> None:
    build(tmp_path, {"train/a/1.png": 1})
    assert greys(read_dataset(tmp_path)) == [("a", 1)]
    build(tmp_path, {"test/a/1.png": 2})
    assert greys(read_dataset(tmp_path)) == [("a", 2)]


def test_splits_among_other_folders_and_a_class_called_train(tmp_path: Path) -> None:
    build(tmp_path / "a", {"train/x/1.png": 1, "val/x/1.png": 2, "drawings/1.png": 3})
    dataset = read_dataset(tmp_path / "a")
    assert greys(dataset) == [("x", 2)]
    assert dataset.problems == ("1 folders beside the splits left out: drawings",)
    build(tmp_path / "a", {"loose.png": 4, "val/loose.png": 5})
    assert read_dataset(tmp_path / "a").problems[1] == (
        "2 images without a class folder left out: loose.png, val/loose.png"
    )
    build(tmp_path / "b", {"train/x/1.png": 1, "plane/x/1.png": 2})
    assert greys(read_dataset(tmp_path / "b")) == [("plane", 2), ("train", 1)]


def test_links_are_followed_once(tmp_path: Path) -> None:
    build(tmp_path, {"data/a/1.png": 1, "elsewhere/2.png": 2})
    (tmp_path / "data/b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data/a/back").symlink_to(tmp_path / "data")
    assert greys(read_dataset(tmp_path / "data")) == [("a", 1), ("b", 2)]


def test_a_class_that_is_a_link_to_nothing_is_named(tmp_path: Path) -> None:
    build(tmp_path, {"a/1.png": 1, "b/1.png": 2})
    (tmp_path / "c").symlink_to("nowhere")
    assert read_dataset(tmp_path).problems == (
        f"{tmp_path / 'c'}: a link to nowhere, which does not exist",
    )


def test_names_that_are_not_text_can_be_printed_and_told_apart(tmp_path: Path) -> None:
    try:
        build(tmp_path, {"caf\udce9/1.png": 1, r"caf\xe9/1.png": 2, "\x1b/1.png": 3})
    except (OSError, UnicodeError):
        pytest.skip("this file system takes text alone")
    dataset = read_dataset(tmp_path)
    assert dataset.classes == ("\x1b", r"caf\x5cxe9", r"caf\xe9")
    assert greys(dataset) == [("\x1b", 3), (r"caf\x5cxe9", 2), (r"caf\xe9", 1)]


@pytest.mark.parametrize(
    ("text", "classes", "indices", "targets"),
    [
        ("file,label\nx.png,dog\ny.png,cat\nx.png,cat\n", ("cat", "dog"), (), [1, 0, 0]),
        ("index,file\n7,x.png\n10,y.png\n", ("7", "10"), (7, 10), [0, 1]),
        (
            '\ufefffile,synset,index,label\nx.png,n1,9,"crane, bird"\ny.png,n2,3,crane\n',
            ("crane", "crane, bird"),
            (3, 9),
            [1, 0],
        ),
    ],
)
def test_lists(
    tmp_path: Path, text: str, classes: object, indices: object, targets: list[int]
) -> None:
    (tmp_path / "list.csv").write_text(text, encoding="utf-8")
    dataset = read_dataset(tmp_path / "list.csv")
    assert (dataset.classes, dataset.indices) == (classes, indices)
    assert [sample.target for sample in dataset.samples] == targets
    assert dataset.samples[0].open() == tmp_path / "x.png"


@pytest.mark.parametrize(
    ("split", "names", "targets"),
    [(None, ["y.png"], [2]), ("val", ["y.png"], [2]), ("train", ["x.png", "z.png"], [0, 1])],
)
def test_splits_of_a_list(
    tmp_path: Path, split: str | None, names: list[str], targets: list[int]
) -> None:
    text = "file,label,split\nx.png,a,train\ny.png,c,Valid\nz.png,b,train\n"
    (tmp_path / "list.csv").write_text(text)
    dataset = read_dataset(tmp_path / "list.csv", split)
    assert dataset.classes == ("a", "b", "c")
    assert [sample.open() for sample in dataset.samples] == [tmp_path / name for name in names]
    assert [sample.target for sample in dataset.samples] == targets


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label,split\nx.png,a,later\n", "line 2: split 'later' is not train, val or test"),
        ("file,label,split\nx.png,a\n", "line 2: split '' is not train, val or test"),
        (
            "file,label\na,b,c\n",
            "line 2 has more fields than the header: a name or label with a comma needs quotes",
        ),
        ("file;label\nx;y\n", "must be separated by commas, not by semicolons"),
        ("file\tlabel\nx\ty\n", "must be separated by commas, not by tabs"),
        ("File,Label\nx,y\n", "names of columns are in lower case"),
        ("file, label\nx,y\n", "names of columns are in lower case, without spaces"),
        ("name,label\nx,y\n", "needs the columns file and label or index, not name, label"),
        ("", "needs the columns file and label or index, not none"),
        ("file,label\nx.png,a\n,b\n", "line 3 names no file"),
        ("file,label\nx.png\n", "line 2 has no label"),
        ("file,index\nx.png,-1\n", "line 2: index '-1' is not a whole number from 0"),
        ("file,index\nx.png," + "9" * 5000, "is not a whole number from 0"),
        ("file,label\n", "no images"),
        ("file,label\n\udcff,a\n", "not a CSV file in UTF-8"),
    ],
)
def test_lists_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "list.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=message):
        read_dataset(tmp_path / "list.csv")


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("flat", None, "CLASS/image.jpg.*2 images without a class folder left out: 1.png, 2"),
        ("x.bin", None, "neither a folder, a .zip nor a .csv"),
        ("cut.zip", None, "neither a folder, a .zip|damaged"),
        ("absent", None, "no such file or folder"),
        ("list.csv", "val", "no split 'val'; its splits are none"),
    ],
)
def test_sources_that_are_refused(
    tmp_path: Path, name: str, split: str | None, message: str
) -> None:
    build(tmp_path, {"flat/1.png": 1, "flat/2.png": 2})
    (tmp_path / "x.bin").write_bytes(b"what")
    packed(build(tmp_path / "whole", {"a/1.png": 1}), tmp_path / "cut.zip")
    (tmp_path / "cut.zip").write_bytes((tmp_path / "cut.zip").read_bytes()[:-30])
    (tmp_path / "list.csv").write_text("file,label\nx.png,a\n")
    with pytest.raises(UserError, match=message):
        read_dataset(tmp_path / name, split)


def test_an_archive_is_read_from_many_threads_and_after_pickling(tmp_path: Path) -> None:
    build(tmp_path / "data", {f"{c}/{i}.png": i for c in "ab" for i in range(6)})
    dataset = read_dataset(packed(tmp_path / "data", tmp_path / "data.zip"))
    expected = greys(dataset)
    assert greys(pickle.loads(pickle.dumps(dataset))) == expected
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(lambda _: greys(dataset), range(12))) == [expected] * 12


def test_a_damaged_member_is_named(tmp_path: Path) -> None:
    packed(build(tmp_path / "data", {"a/1.png": 1, "a/2.png": 2}), tmp_path / "data.zip")
    dataset = read_dataset(tmp_path / "data.zip")
    damaged = bytearray((tmp_path / "data.zip").read_bytes())
    at = damaged.index(b"a/2.png") + 20
    damaged[at : at + 8] = b"\xff" * 8
    (tmp_path / "data.zip").write_bytes(damaged)
    assert decode(dataset.samples[0].open()).size == (8, 8)
    with pytest.raises(ImageError, match="data.zip/a/2.png: cannot be unpacked"):
        dataset.samples[1].open()


def test_the_error_of_an_image_in_an_archive_names_it(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.writestr("a\\1.png", b"no image")
    [sample] = read_dataset(tmp_path / "data.zip").samples
    with pytest.raises(ImageError, match="data.zip/a/1.png: not an image"):
        decode(sample.open())


def test_real_sets(shared: Callable[[str], Path]) -> None:
    cifar = read_dataset(shared("data/cifar10/test.zip"))
    assert [row["images"] for row in cifar.summary()] == [1000] * 10
    assert not cifar.problems
    ants = read_dataset(shared("data/folder-sample"))
    assert ants.summary() == [{"class": "ants", "images": 70}, {"class": "bees", "images": 83}]
    photos = read_dataset(shared("data/imagenet-sample/labels.csv"))
    assert photos.indices == tuple(range(1000))


# --- the same image twice ---


def test_an_image_that_a_list_names_twice_counts_once(tmp_path: Path) -> None:
    build(tmp_path, {"x.png": 1, "y.png": 2})
    text = "file,label\nx.png,cat\n./x.png,cat\ny.png,cat\ny.png,dog\n"
    (tmp_path / "list.csv").write_text(text)
    dataset = read_dataset(tmp_path / "list.csv")
    samples = [(Path(sample.name).name, sample.target) for sample in dataset.samples]
    assert samples == [("x.png", 0), ("y.png", 0), ("y.png", 1)]
    assert dataset.problems == (f"1 images listed again left out: {tmp_path}/x.png",)
    assert repeated_images(dataset) == [
        f"images that stand in two classes: 1: {tmp_path}/y.png is cat and dog"
    ]


@pytest.mark.parametrize("zipped", [False, True])
def test_the_same_bytes_in_two_classes_or_in_two_parts(tmp_path: Path, zipped: bool) -> None:
    root = build(
        tmp_path / "data",
        {
            "train/a/1.png": 1,
            "train/a/2.png": 2,
            "train/b/3.png": 2,
            "val/b/4.png": 3,
            "val/a/5.png": 1,
        },
    )
    (root / "train/a/empty.png").touch()
    (root / "train/b/empty.png").touch()
    source = packed(root, tmp_path / "d.zip") if zipped else root
    parts = read_splits(source)
    assert [
        line.replace(str(source), "d") for line in repeated_images(parts["train"], parts["val"])
    ] == [
        "images to validate with that are also trained with: 1: d/val/a/5.png is d/train/a/1.png",
        "images that stand in two classes: 1: d/train/b/3.png is d/train/a/2.png",
    ]
    assert repeated_images(parts["val"]) == []


def test_files_of_one_size_are_compared_by_content(tmp_path: Path) -> None:
    """Ten thousand bytes that differ at the start, in the middle or nowhere."""
    contents = {"a": b"0" * 10_000, "b": b"1" + b"0" * 9_999, "c": b"0" * 5_000 + b"1" * 5_000}
    samples = []
    for name in ("a", "b", "c", "a", "gone"):
        path = tmp_path / f"{len(samples)}.jpg"
        if name != "gone":
            path.write_bytes(contents[name])
        samples.append(Sample(str(path), 0))
    assert same_images(samples) == [[0, 3]]


def test_stretched_samples(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    ramp = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    Image.fromarray(ramp).save(tmp_path / "a/scan.png")
    dataset = read_dataset(tmp_path)
    remarks: list[str] = []
    assert np.asarray(dataset.samples[0].decode(warn=remarks.append)).max() == 15
    assert "scan.png: values from 0 to 4095 of 0..65535 give 16 grey levels" in remarks[0]
    stretched = np.asarray(dataset.stretched().samples[0].decode())[:, :, 0]
    assert np.abs(stretched - ramp * (255 / 4095)).max() <= 0.5


# --- archives that are not what they say ---


def test_images_of_one_name_in_an_archive_are_counted(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        for name in ("a/1.png", "a\\1.png", "b/1.png"):
            archive.writestr(name, b"")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("b/1.png", b"")
    dataset = read_dataset(tmp_path / "d.zip")
    assert len(dataset.samples) == 2
    assert dataset.problems == ("2 images left out that have the name of another",)


def test_a_file_with_the_name_of_the_folder_around_all(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        for name in ("data/a/1.png", "data/b/2.png", "data"):
            archive.writestr(name, b"")
    dataset = read_dataset(tmp_path / "d.zip")
    assert dataset.classes == ("data",)
    assert dataset.problems == ("ignored 1 files that are not images by name: no ending (1)",)


def test_an_archive_of_a_later_version_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        archive.writestr("a/1.png", b"")
    content = bytearray((tmp_path / "d.zip").read_bytes())
    content[content.index(b"PK\x01\x02") + 6] = 128
    (tmp_path / "d.zip").write_bytes(content)
    with pytest.raises(UserError, match="d.zip: a damaged archive: zip file version 12.8"):
        read_dataset(tmp_path / "d.zip")


def test_a_member_is_never_unpacked_beyond_its_size(tmp_path: Path) -> None:
    """Sizes in the table that are too large to be an image, and one that is a lie."""
    for size in (1 << 30, 100):
        path = tmp_path / f"{size}.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a/x.png", bytes(1 << 20))
        content = bytearray(path.read_bytes())
        start = content.index(b"PK\x01\x02") + 24
        content[start : start + 4] = size.to_bytes(4, "little")
        path.write_bytes(content)
        [sample] = read_dataset(path).samples
        with pytest.raises(ImageError, match="more than 268435456" if size > 100 else "CRC"):
            sample.open()


def test_large_members_wait_for_each_other(tmp_path: Path, monkeypatch) -> None:
    """Of members that count as large, threads hold no more at once than there is room for."""
    monkeypatch.setattr(archive, "LARGE_BYTES", 1000)
    monkeypatch.setattr(archive, "MOST_LARGE_BYTES", 2500)
    monkeypatch.setattr(archive, "LONGEST_WAIT", 0.2)
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as file:
        for i in range(4):
            file.writestr(f"a/{i}.png", bytes(1000))
    samples = read_dataset(tmp_path / "d.zip").samples
    first, second = samples[0].open(), samples[1].open()
    waiting: list[IO[bytes]] = []
    thread = threading.Thread(target=lambda: waiting.append(samples[2].open()))
    thread.start()
    thread.join(0.05)
    assert thread.is_alive()
    first.close()
    thread.join(10)
    assert waiting[0].read() == bytes(1000)
    samples[3].open().close()  # nobody closes: it waits no longer than it must
    for stream in (second, *waiting):
        stream.close()
    for sample in samples:  # decoding closes, whatever comes of it
        with pytest.raises(ImageError):
            sample.decode()
    assert archive._large_members._held == 0


def test_a_table_of_many_columns_is_no_list(tmp_path: Path) -> None:
    path = tmp_path / "wide.csv"
    path.write_text("file,label" + ",a" * 5000 + "\na.png,b\n" * 10)
    with pytest.raises(UserError, match=r"wide\.csv: more than 1000 columns: not a list of images"):
        read_dataset(path)


def test_many_class_folders_are_looked_at_once(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as file:
        for i in range(20_000):
            file.writestr(f"c{i}/a.png", b"")
    assert len(read_dataset(tmp_path / "d.zip").classes) == 20_000


# --- names as other systems write them ---


@pytest.mark.parametrize("kind", ["folder", "zip", "csv"])
def test_one_class_whose_accents_are_written_in_two_ways(tmp_path: Path, kind: str) -> None:
    apart, joined = "cafe\u0301", "caf\u00e9"
    root = build(tmp_path / "data", {f"train/{apart}/1.png": 1, "train/b/1.png": 2})
    build(root, {f"val/{joined}/1.png": 3, "val/b/1.png": 4})
    source = root
    if kind == "zip":
        source = packed(root, tmp_path / "d.zip")
    elif kind == "csv":
        source = root / "list.csv"
        source.write_text(
            f"file,label,split\ntrain/{apart}/1.png,{apart},train\nval/{joined}/1.png,{joined},val\n",
            encoding="utf-8",
        )
    assert joined in read_dataset(source).classes
    assert apart not in read_dataset(source).classes
    parts = read_splits(source)
    assert parts["train"].classes[-1] == parts["val"].classes[-1] == joined
    assert ("café", 3) in greys(parts["val"])


def test_a_list_made_on_another_system(tmp_path: Path) -> None:
    build(tmp_path, {"a/caf\u00e9/1.png": 1, "b\\c.png": 2})
    lines = ["a\\cafe\u0301\\1.png,x", "b\\c.png,y", "gone\\1.png,y"]
    (tmp_path / "list.csv").write_text("\n".join(["file,label", *lines]), encoding="utf-8")
    dataset = read_dataset(tmp_path / "list.csv")
    assert [Path(sample.name) for sample in dataset.samples] == [
        tmp_path / "a/caf\u00e9/1.png",
        tmp_path / "b\\c.png",
        tmp_path / "gone\\1.png",
    ]


@pytest.mark.parametrize("name", ["a/1.png", "./a/1.png", "a//1.png", "a/./1.png", "a/1.png/"])
def test_paths_of_lists_have_one_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("list.csv").write_text(f"file,label\n{name},x\n")
    expected = {"list.csv": "a/1.png", str(tmp_path / "list.csv"): str(tmp_path / "a/1.png")}
    for source, path in expected.items():
        assert [sample.name for sample in read_dataset(source).samples] == [path]


def test_a_line_without_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("file,label\n" + '"' * (1 << 20))
    with pytest.raises(UserError, match="not a CSV file in UTF-8: a line of 1048576 characters"):
        read_dataset(tmp_path / "list.csv")


def test_a_list_of_addresses_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("file,label\nhttps://example.org/1.jpg,a\n")
    with pytest.raises(UserError, match="line 2: a web address: download the images first"):
        read_dataset(tmp_path / "list.csv")


# --- folders of other tasks ---

OTHERS = {
    "Pascal VOC": ("JPEGImages/1.png", "Annotations/1.xml", "SegmentationClass/1.png"),
    "Pascal VOC 2": ("VOC2012/JPEGImages/1.png", "VOC2012/Annotations/1.xml"),
    "Pascal VOC 3": ("VOCdevkit/VOC2012/JPEGImages/1.png", "VOCdevkit/VOC2012/Annotations/1.xml"),
    "COCO": ("annotations/instances_train2017.json", "train2017/1.png", "val2017/2.png"),
    "COCO 2": ("images/1.png", "instances.json"),
    "COCO 3": ("train/1.png", "train/_annotations.coco.json"),
    "YOLO": ("data.yaml", "images/train/1.png", "labels/train/1.txt"),
    "YOLO 2": ("data.yaml", "train/images/1.png", "train/labels/1.txt", "valid/images/1.png"),
    "ADE20K": ("images/training/1.png", "annotations/training/1.png"),
    "Cityscapes": ("leftImg8bit/train/1.png", "gtFine/train/1.png"),
    "segmentation": ("images/1.png", "masks/1.png"),
}


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("name", OTHERS)
def test_folders_of_other_tasks_are_recognised(tmp_path: Path, name: str, zipped: bool) -> None:
    root = build(tmp_path / "data", {path: 1 for path in OTHERS[name] if path.endswith(".png")})
    for path in OTHERS[name]:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    if zipped:
        root = packed(root, tmp_path / "d.zip")
    expected = rf"a (COCO or )?{name.rstrip(' 23')} folder \(.*one folder per class.*a \.csv list"
    for read in (read_dataset, read_splits):
        with pytest.raises(UserError, match=expected):
            read(root)


def test_a_part_of_another_task_beside_class_folders_is_left_out(tmp_path: Path) -> None:
    """Of images/ beside train/ and val/, which link to it, only the two parts count."""
    build(tmp_path, {"images/a/1.png": 1, "images/b/1.png": 2, "labels/a/1.png": 1})
    build(tmp_path, {"val/a/1.png": 3, "val/b/1.png": 4, "elsewhere/x/images/1.png": 1})
    (tmp_path / "train").mkdir()
    for name in "ab":
        (tmp_path / "train" / name).symlink_to(f"../images/{name}")
    assert greys(read_splits(tmp_path)["train"]) == [("a", 1), ("b", 2)]
    assert greys(read_dataset(tmp_path)) == [("a", 3), ("b", 4)]
