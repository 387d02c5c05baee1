"""Datasets with boxes: three layouts give the same objects, and what is wrong is named."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import mobilenetv2 as mnv2
from mobilenetv2.datasets import BoxDataset, read_boxes, read_masks
from mobilenetv2.datasets.frames import Frame
from mobilenetv2.errors import UserError

CLASSES = ("cat", "dog")
# Images of height 40 and width 80: the class and the corners of each object
OBJECTS: dict[str, list[tuple[int, list[float]]]] = {
    "a": [(1, [8, 4, 40, 24]), (0, [0, 0, 80, 40])],
    "b": [],
    "c": [(0, [16, 10, 24, 30])],
}


def save_image(path: Path, orientation: int = 1) -> None:
    """An image that is 40 x 80 upright."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    size = (40, 80) if orientation >= 5 else (80, 40)
    Image.new("RGB", size, "red").save(path, exif=exif)


def coco_content() -> dict[str, Any]:
    annotations = [
        {
            "id": 10 * i + j,
            "image_id": i,
            "category_id": 3 + 4 * c,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
        }
        for i, objects in enumerate(OBJECTS.values())
        for j, (c, (x0, y0, x1, y1)) in enumerate(objects)
    ]
    return {
        "images": [
            {"id": i, "file_name": f"{name}.jpg", "height": 40, "width": 80}
            for i, name in enumerate(OBJECTS)
        ],
        "annotations": annotations,
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
    }


def write_coco(folder: Path, content: Any = None) -> Path:
    for name in OBJECTS:
        save_image(folder / "images" / f"{name}.jpg")
    text = json.dumps(coco_content() if content is None else content)
    (folder / "instances.json").write_text(text)
    return folder


def voc_xml(
    objects: list[tuple[int, list[float]]], size: str = "<height>40</height><width>80</width>"
) -> str:
    boxes = "".join(
        f"<object><name>{CLASSES[c]}</name><bndbox><xmin>{x0 + 1}</xmin><ymin>{y0 + 1}</ymin>"
        f"<xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
        for c, (x0, y0, x1, y1) in objects
    )
    return f"<annotation><size>{size}</size>{boxes}</annotation>"


def write_voc(folder: Path) -> Path:
    (folder / "Annotations").mkdir(parents=True)
    for name, objects in OBJECTS.items():
        save_image(folder / "JPEGImages" / f"{name}.jpg")
        (folder / "Annotations" / f"{name}.xml").write_text(voc_xml(objects))
    return folder


def write_yolo(folder: Path, yaml: str = "names: [cat, dog]\nnc: 2\n") -> Path:
    (folder / "labels").mkdir(parents=True)
    for name, objects in OBJECTS.items():
        save_image(folder / "images" / f"{name}.jpg")
        lines = [
            f"{c} {(x0 + x1) / 160} {(y0 + y1) / 80} {(x1 - x0) / 80} {(y1 - y0) / 40}\n"
            for c, (x0, y0, x1, y1) in objects
        ]
        if lines:
            (folder / "labels" / f"{name}.txt").write_text("".join(lines))
    (folder / "data.yaml").write_text(yaml)
    return folder


def objects_of(dataset: BoxDataset) -> dict[str, list[tuple[int, list[float]]]]:
    return {
        Path(sample.name).stem: [
            (c, np.round(box, 3).tolist())
            for c, box in zip(sample.target.classes.tolist(), sample.target.boxes)
        ]
        for sample in dataset.samples
    }


@pytest.mark.parametrize("write", [write_coco, write_voc, write_yolo])
def test_three_layouts_give_the_same_objects(tmp_path: Path, write: Any) -> None:
    dataset = read_boxes(write(tmp_path / "data"))
    assert dataset.classes == CLASSES
    assert objects_of(dataset) == OBJECTS
    target = dataset.samples[0].target
    assert target.size == (40, 80)
    assert target.areas.tolist() == [640, 3200]
    assert (target.boxes.dtype, target.classes.dtype) == (np.float32, np.int64)
    assert dataset.samples[1].target.boxes.shape == (0, 4)
    assert dataset.summary() == [
        {"class": "cat", "images": 2, "boxes": 2},
        {"class": "dog", "images": 1, "boxes": 1},
    ]
    assert dataset.samples[0].decode().size == (80, 40)
    if write is not write_yolo:  # an image without labels is mentioned
        assert dataset.problems == ()


@pytest.mark.parametrize("write", [write_coco, write_voc, write_yolo])
def test_classes_are_chosen_and_ordered(tmp_path: Path, write: Any) -> None:
    dataset = read_boxes(write(tmp_path), classes=["dog"])
    assert dataset.classes == ("dog",)
    assert objects_of(dataset) == {"a": [(0, [8, 4, 40, 24])], "b": [], "c": []}
    assert any("2 boxes of other classes left out" in problem for problem in dataset.problems)
    assert read_boxes(tmp_path, classes=["dog", "cat"]).samples[0].target.classes.tolist() == [0, 1]


def test_coco_keeps_crowds_areas_and_ids(tmp_path: Path) -> None:
    content = coco_content()
    content["annotations"][0] |= {"iscrowd": 1, "area": 99.5, "segmentation": [[1, 2, 3, 4]]}
    dataset = read_boxes(write_coco(tmp_path, content))
    target = dataset.samples[0].target
    assert target.crowd.tolist() == [True, False]
    assert target.areas.tolist() == [99.5, 3200]
    assert dataset.category_ids == (3, 7)
    assert [sample.target.image_id for sample in dataset.samples] == [0, 1, 2]


@pytest.mark.parametrize("orientation", [3, 5, 6, 7, 8])
@pytest.mark.parametrize("write", [write_coco, write_voc, write_yolo])
def test_turned_photos_have_boxes_in_the_upright_frame(
    tmp_path: Path, write: Any, orientation: int
) -> None:
    write(tmp_path)
    for path in tmp_path.rglob("*.jpg"):
        save_image(path, orientation)
    assert objects_of(read_boxes(tmp_path)) == OBJECTS


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_boxes_in_the_stored_frame_are_turned_as_the_image_is(
    tmp_path: Path, orientation: int
) -> None:
    """A box around bright pixels of the stored image is around those of the upright one."""
    stored = np.zeros((40, 80, 3), np.uint8)
    stored[4:24, 8:40] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    write_coco(tmp_path, coco_content() | {"annotations": coco_content()["annotations"][:1]})
    Image.fromarray(stored).save(tmp_path / "images" / "a.jpg", exif=exif, quality=100)
    sample = read_boxes(tmp_path).samples[0]
    assert sample.target.size == (80, 40)
    left, top, right, bottom = sample.target.boxes[0].astype(int)
    bright = np.asarray(sample.decode())[..., 0] > 128
    assert bright[top:bottom, left:right].all()
    assert bright.sum() == 20 * 32
    frame = Frame(sample.target.size, sample.target.turn)
    assert frame.stored(sample.target.boxes)[0] == pytest.approx([8, 4, 40, 24])


def test_boxes_are_ordered_clipped_and_left_out_with_a_note(tmp_path: Path) -> None:
    content = coco_content()
    content["annotations"] = [
        {"id": i, "image_id": 0, "category_id": 3, "bbox": box}
        for i, box in enumerate(
            [
                [40, 24, -32, -20],
                [-10, -10, 50, 60],
                [5, 5, 0, 10],
                [90, 5, 10, 10],
                [70.5, 0, 10, 9],
            ]
        )
    ]
    dataset = read_boxes(write_coco(tmp_path, content))
    assert dataset.samples[0].target.boxes.tolist() == [
        [8, 4, 40, 24],
        [0, 0, 40, 40],
        [70.5, 0, 80, 9],
    ]
    assert dataset.problems == (
        f"1 boxes with swapped corners put in order: {tmp_path}/images/a.jpg",
        f"1 boxes that leave their images clipped: {tmp_path}/images/a.jpg",
        f"2 boxes without area inside their images left out: {tmp_path}/images/a.jpg",
    )


def changed(part: str, row: int, **values: Any) -> dict[str, Any]:
    content = coco_content()
    content[part][row] |= values
    return content


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (changed("annotations", 0, image_id=9), r"annotations\[0\]: no image has the id 9"),
        (changed("annotations", 0, category_id=1), r"annotations\[0\]: no category has the id 1"),
        (changed("annotations", 1, bbox=[1, 2, 3]), r"annotations\[1\].bbox"),
        (changed("annotations", 1, bbox=["1", 2, 3, 4]), r"annotations\[1\].bbox"),
        (changed("annotations", 1, bbox=[float("nan"), 2, 3, 4]), "instances.json: damaged"),
        (changed("annotations", 1, bbox=[1e300, 2, 3, 4]), r"a.jpg: a box with the corners \[1e"),
        (changed("annotations", 1, area=-1), "a.jpg: an object with the area -1"),
        (changed("images", 1, id=0), "several images with the id 0"),
        (changed("images", 1, file_name="a.jpg"), "several entries of the image a.jpg"),
        (changed("images", 1, file_name="./a.jpg"), "several entries of the image a.jpg"),
        (changed("categories", 1, id=7), "several categories with the id 7"),
        (changed("categories", 1, name="dog"), "several classes are called dog"),
        (changed("images", 1, file_name="z.jpg"), "1 of 3 images are not in .*images: z.jpg"),
        (changed("images", 1, height=41), "b.jpg is 41 x 80 .* but it is 40 x 80"),
        (coco_content() | {"categories": []}, "no classes"),
        (coco_content() | {"images": [], "annotations": []}, "no images"),
        ([{"image_id": 1, "caption": "a cat"}], "not a COCO file of boxes"),
        ({"images": []}, "not a COCO file of boxes: .*annotations"),
    ],
)
def test_wrong_coco_files_are_refused_by_name(tmp_path: Path, content: Any, words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        read_boxes(write_coco(tmp_path, content))
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", [b"", b"{", b"[" * 100_000, b'{"images": \xff}', b"\0" * 100])
def test_damaged_json_is_named(tmp_path: Path, text: bytes) -> None:
    (write_coco(tmp_path) / "instances.json").write_bytes(text)
    with pytest.raises(UserError, match=r"instances\.json: (damaged|cannot be read|not a COCO)"):
        read_boxes(tmp_path)


def test_exports_of_other_tools(tmp_path: Path) -> None:
    """A folder per split with its file in it, or one file of any name."""
    for split in ("train", "valid"):
        write_coco(tmp_path / split)
        file = tmp_path / split / "instances.json"
        file.rename(file.with_name("_annotations.coco.json"))
        for path in (tmp_path / split / "images").iterdir():
            path.rename(tmp_path / split / path.name)
    assert objects_of(read_boxes(tmp_path)) == OBJECTS
    assert "/train/" in read_boxes(tmp_path, "train").samples[0].name
    (tmp_path / "valid" / "_annotations.coco.json").rename(tmp_path / "valid" / "result.json")
    assert objects_of(read_boxes(tmp_path / "valid")) == OBJECTS


def test_a_byte_order_mark_is_no_damage(tmp_path: Path) -> None:
    path = write_coco(tmp_path) / "instances.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert objects_of(read_boxes(path)) == OBJECTS


def test_official_names_and_splits_of_coco(tmp_path: Path) -> None:
    write_coco(tmp_path)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "images").rename(tmp_path / "val2017")
    (tmp_path / "instances.json").rename(tmp_path / "annotations" / "instances_val2017.json")
    (tmp_path / "annotations" / "captions_val2017.json").write_text("{}")
    assert objects_of(read_boxes(tmp_path)) == OBJECTS
    assert objects_of(read_boxes(tmp_path, "val")) == OBJECTS
    with pytest.raises(UserError, match="no split 'train'; its splits are val"):
        read_boxes(tmp_path, "train")


BOX = "<bndbox><xmin>{}</xmin><ymin>2</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
BOMB = '<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;&b;">]><annotation>&c;</annotation>'


@pytest.mark.parametrize(
    ("xml", "words"),
    [
        (BOMB, "document type"),
        ("<annotation>", "not an annotation in XML"),
        ("", "not an annotation in XML"),
        ('<?xml version="1.0" encoding="klingon"?><annotation/>', "not an annotation in XML"),
        ("<annotation><object><name>cat</name></object></annotation>", "without bndbox"),
        (f"<annotation><object>{BOX.format(1)}</object></annotation>", "no <name> in <object>"),
        (
            f"<a><object><name>cat</name>{BOX.format('one')}</object></a>",
            "xmin 'one' is not a number",
        ),
        (
            f"<a><object><name>cat</name>{BOX.format('nan')}</object></a>",
            "xmin 'nan' is not a number",
        ),
        (voc_xml([], "<height>50</height><width>80</width>"), "but it is 40 x 80"),
    ],
)
def test_wrong_xml_is_refused_by_name(tmp_path: Path, xml: str, words: str) -> None:
    write_voc(tmp_path)
    (tmp_path / "Annotations" / "b.xml").write_text(xml)
    with pytest.raises(UserError, match=words) as error:
        read_boxes(tmp_path)
    assert "b" in str(error.value)


def test_odd_sizes_and_second_annotations_of_voc_are_refused(tmp_path: Path) -> None:
    write_voc(tmp_path)
    path = tmp_path / "Annotations" / "b.xml"
    text = path.read_text()
    for size in ("inf", "nan"):
        path.write_text(text.replace("<width>80<", f"<width>{size}<"))
        with pytest.raises(UserError, match=rf"b\.xml: width '{size}' is not a number"):
            read_boxes(tmp_path)
    path.write_text(text)
    again = (tmp_path / "Annotations" / "a.xml").read_text()
    (tmp_path / "Annotations" / "z.xml").write_text(
        again.replace("<annotation>", "<annotation><filename>a.jpg</filename>", 1)
    )
    with pytest.raises(UserError, match=r"several files annotate .*a\.jpg"):
        read_boxes(tmp_path)


def test_images_of_yolo_with_one_name_have_ids_of_their_own(tmp_path: Path) -> None:
    write_yolo(tmp_path)
    save_image(tmp_path / "images" / "more" / "a.jpg")
    ids = [sample.target.image_id for sample in read_boxes(tmp_path).samples]
    assert len({*ids}) == len(ids) == 4


def test_a_text_is_no_list_of_classes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a list of classes is needed, not one"):
        read_boxes(write_voc(tmp_path), classes="cat")


def test_years_of_voc_are_told_apart(tmp_path: Path) -> None:
    write_voc(tmp_path / "VOCdevkit" / "VOC2007")
    assert objects_of(read_boxes(tmp_path)) == OBJECTS
    write_voc(tmp_path / "VOCdevkit" / "VOC2012")
    with pytest.raises(UserError, match="give one of .*VOC2007, .*VOC2012"):
        read_boxes(tmp_path)
    assert objects_of(read_boxes(tmp_path / "VOCdevkit" / "VOC2012")) == OBJECTS


def test_voc_lists_difficult_objects_and_missing_files(tmp_path: Path) -> None:
    write_voc(tmp_path / "VOCdevkit" / "VOC2007")
    root = tmp_path / "VOCdevkit" / "VOC2007"
    path = root / "Annotations" / "a.xml"
    path.write_text(path.read_text().replace("<bndbox>", "<difficult>1</difficult><bndbox>", 1))
    lists = root / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\n")
    (lists / "val.txt").write_text("b\nc\n")
    (lists / "cat_val.txt").write_text("b 1\nc -1\n")
    with pytest.raises(UserError, match="cat_val.txt: a list of one class"):
        read_boxes(tmp_path, "cat_val")
    assert list(objects_of(read_boxes(tmp_path))) == ["b", "c"]
    train = read_boxes(tmp_path, "train")
    assert train.classes == CLASSES
    assert train.samples[0].target.difficult.tolist() == [True, False]
    with pytest.raises(UserError, match="no list test.txt"):
        read_boxes(tmp_path, "test")
    (lists / "val.txt").write_text("b\nd\n")
    with pytest.raises(UserError, match="1 of 2 annotations are missing: d"):
        read_boxes(tmp_path)
    (root / "JPEGImages" / "c.jpg").unlink()
    (lists / "val.txt").write_text("c\n")
    with pytest.raises(UserError, match="no image c in"):
        read_boxes(tmp_path)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("2 .5 .5 .1 .1", "line 1: class 2, but there are 2 classes, 0 to 1"),
        ("-1 .5 .5 .1 .1", "line 1: class -1"),
        ("0.5 .5 .5 .1 .1", "line 1: class 0.5"),
        ("nan .5 .5 .1 .1", "line 1: class nan"),
        ("inf .5 .5 .1 .1", "line 1: class inf"),
        ("0 .5 .5 .1", "line 1: 4 numbers; a class and 4 are needed"),
        ("0 .5 .5 .1 .1 .9", "line 1: 6 numbers"),
        ("0 nan .5 .1 .1", "line 1: numbers outside of 0..1"),
        ("0 40 20 10 10", "line 1: numbers outside of 0..1"),
        ("cat .5 .5 .1 .1", "line 1: .* is not a class and numbers"),
    ],
)
def test_wrong_lines_of_yolo_are_refused_by_name(tmp_path: Path, line: str, words: str) -> None:
    (write_yolo(tmp_path) / "labels" / "c.txt").write_text(line)
    with pytest.raises(UserError, match=r"c\.txt: " + words):
        read_boxes(tmp_path)


@pytest.mark.parametrize(
    ("yaml", "words"),
    [
        ("names: [cat, dog", "not the description of a dataset"),
        ("names: !!python/object/apply:os.system ['true']", "class 1, but there are 1 classes"),
        ("a: &a [x]\nnames: [*a, *a]", "references"),
        ("names: {1: cat, 2: dog}", "numbers of names are not 0, 1"),
        ("names: [cat, dog]\nnc: 3", "nc is '3', but there are 2 names"),
        ("names: [cat, cat]", "several classes are called cat"),
        ("names: [cat, dog]\nval: [1, {a: b}]", "neither a path"),
        ("names: [cat, dog]\nval: nowhere", "no such folder or list"),
        ("- cat", "no fields"),
        ("names: [cat, dog]\n" + "#" * (1 << 20), "more than 1048576 characters"),
        ("[" * 5000, "not the description"),
    ],
)
def test_wrong_yaml_is_refused_by_name(tmp_path: Path, yaml: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        read_boxes(write_yolo(tmp_path, yaml))
    assert str(tmp_path) in str(error.value)


def test_names_in_yaml_are_texts(tmp_path: Path) -> None:
    assert read_boxes(write_yolo(tmp_path, "names: {0: no, 1: 12}")).classes == ("no", "12")


def test_splits_lists_and_polygons_of_yolo(tmp_path: Path) -> None:
    write_yolo(tmp_path / "train", "")
    write_yolo(tmp_path / "valid", "")
    (tmp_path / "data.yaml").write_text(
        "names:\n  0: cat\n  1: dog\ntrain: ../train/images\nval: list.txt\n"
    )
    (tmp_path / "list.txt").write_text("./valid/images/c.jpg\n")
    assert objects_of(read_boxes(tmp_path, "train")) == OBJECTS
    assert objects_of(read_boxes(tmp_path)) == {"c": OBJECTS["c"]}
    assert objects_of(read_boxes(tmp_path / "data.yaml")) == {"c": OBJECTS["c"]}
    (tmp_path / "valid" / "labels" / "c.txt").write_text("0 .2 .25 .3 .5 .25 .75\n")
    assert objects_of(read_boxes(tmp_path)) == {"c": OBJECTS["c"]}


def test_folders_of_splits_and_listed_classes_of_yolo(tmp_path: Path) -> None:
    write_yolo(tmp_path)
    (tmp_path / "data.yaml").unlink()
    with pytest.raises(UserError, match=r"no data\.yaml or classes\.txt"):
        read_boxes(tmp_path)
    (tmp_path / "labels" / "classes.txt").write_text("cat\ndog\n")
    dataset = read_boxes(tmp_path)
    assert objects_of(dataset) == OBJECTS
    assert dataset.problems == ("1 images without a file of labels have no objects: b.jpg",)


@pytest.mark.parametrize("count", [1, 1000])
def test_one_class_and_a_thousand(tmp_path: Path, count: int) -> None:
    names = ", ".join(f"class{i}" for i in range(count))
    write_yolo(tmp_path, f"names: [{names}]")
    for path in (tmp_path / "labels").iterdir():
        path.write_text(f"{count - 1} .5 .5 .1 .1\n")
    dataset = read_boxes(tmp_path)
    assert len(dataset.classes) == count
    assert dataset.samples[0].target.classes.tolist() == [count - 1]


@pytest.mark.parametrize("name", ["nothing", "folder", "file.txt", "boxes.zip: unpack"])
def test_what_is_no_dataset_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file.txt").write_text("cat")
    zipfile.ZipFile(tmp_path / "boxes.zip", "w").close()
    with pytest.raises(UserError, match=name):
        read_boxes(tmp_path / name.split(":")[0])


@pytest.mark.parametrize("write", [write_coco, write_voc, write_yolo])
def test_an_unreadable_image_stays(tmp_path: Path, write: Any) -> None:
    """It is named when it is decoded. Without a stated size its boxes are unknown."""
    write(tmp_path)
    (path,) = tmp_path.rglob("a.jpg")
    path.write_bytes(b"no image")
    dataset = read_boxes(tmp_path)
    unknown: dict[str, Any] = {"a": []} if write is write_yolo else {}
    assert objects_of(dataset) == OBJECTS | unknown
    with pytest.raises(UserError, match="a.jpg: not an image"):
        dataset.samples[0].decode()


def test_empty_fields_of_yaml_are_no_splits(tmp_path: Path) -> None:
    yaml = "names: [cat, dog]\ntrain: images\nval: null\ntest:\n"
    assert objects_of(read_boxes(write_yolo(tmp_path, yaml))) == OBJECTS


def test_the_sample_of_coco(shared: Callable[[str], Path]) -> None:
    dataset = read_boxes(shared("data/coco-sample"))
    assert (len(dataset.samples), len(dataset.classes)) == (128, 80)
    assert sum(len(sample.target) for sample in dataset.samples) == 929
    assert dataset.category_ids[-1] == 90
    assert dataset.problems == ()
    empty = [sample.target.image_id for sample in dataset.samples if not len(sample.target)]
    assert empty == [250, 508]


@pytest.mark.parametrize("read", [read_boxes, read_masks])
@pytest.mark.parametrize("source", [None, 1, b"data", ["data"]])
def test_what_is_no_name_of_data(read: Any, source: Any) -> None:
    with pytest.raises(UserError, match="source must be a file name, not"):
        read(source)


def test_difficult_objects_are_marked_by_0_or_1(tmp_path: Path) -> None:
    write_voc(tmp_path)
    path = tmp_path / "Annotations" / "a.xml"
    text = path.read_text()
    for flag, difficult in (("1", True), ("true", True), ("0", False)):
        path.write_text(text.replace("<bndbox>", f"<difficult>{flag}</difficult><bndbox>", 1))
        assert read_boxes(tmp_path).samples[0].target.difficult.tolist() == [difficult, False]
    path.write_text(text.replace("<bndbox>", "<difficult>perhaps</difficult><bndbox>", 1))
    with pytest.raises(UserError, match=r"a\.xml: difficult 'perhaps' is neither 0 nor 1"):
        read_boxes(tmp_path)


def test_what_is_no_model_is_not_evaluated(tmp_path: Path) -> None:
    for evaluate in (mnv2.evaluate_detector, mnv2.evaluate_segmenter):
        with pytest.raises(UserError, match="model must be of type"):
            evaluate(None, tmp_path)
