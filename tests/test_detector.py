"""`Detector`: recorded boxes on real images, and boxes in the frame of the upright image."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import mobilenetv2 as mnv2
from mobilenetv2.architecture import Architecture
from mobilenetv2.errors import ImageError, UserError
from mobilenetv2.heads import SSD, SSDLite
from mobilenetv2.images import Preprocessing
from mobilenetv2.results import Detections

from .conftest import random_checkpoint

SMALL = Architecture(
    width_mult=0.35, head=SSDLite(3), resolution=(64, 96), padding="same", bn_epsilon=1e-3
)


def detector(**changes: object) -> mnv2.Detector:
    checkpoint = random_checkpoint(replace(SMALL, **changes))  # type: ignore[arg-type]
    preprocessing = Preprocessing(size=SMALL.resolution, resize="stretch")
    return mnv2.Detector(
        replace(checkpoint, labels=("a", "b", "c"), preprocessing=preprocessing), 1
    )


def photo(seed: int = 0, height: int = 70, width: int = 50) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def same(first: Detections, second: Detections) -> bool:
    return first.labels == second.labels and np.array_equal(first.boxes, second.boxes)


@pytest.fixture(scope="module")
def real(request):
    shared = request.getfixturevalue("shared")
    return mnv2.load(shared("models/ssd_mobilenet_v2_oidv4_fp16.tflite"), 2)


def test_real_images_give_the_recorded_detections(shared, real) -> None:
    recorded = np.load(shared("reference/detection/ssd_mobilenet_v2_oidv4_fp16.first8.npz"))
    folder = shared("data/coco-sample")
    files = [folder / "images" / str(name) for name in recorded["files"]]
    for file, pixels in zip(files, recorded["images"]):
        assert np.array_equal(real.checkpoint.preprocessing(file), pixels)
    listed = json.loads((folder / "instances.json").read_text())["images"]
    ids = {image["file_name"]: image["id"] for image in listed}
    detections = json.loads(shared("reference/detection/detections.oidv4_classes.json").read_text())
    for file, result in real.detect_files(files, threshold=0.1):
        expected = [
            each
            for each in detections
            if each["image_id"] == ids[file.name] and each["score"] > 0.1
        ]
        rows = result.to_coco(ids[file.name], range(1, 24))
        assert [row["category_id"] for row in rows] == [each["category_id"] for each in expected]
        assert np.array([row["bbox"] for row in rows]).reshape(-1, 4) == pytest.approx(
            np.array([each["bbox"] for each in expected]).reshape(-1, 4), abs=0.05
        )


def test_load_gives_a_detector(tmp_path) -> None:
    own = detector()
    own.checkpoint.save(tmp_path / "model.safetensors")
    loaded = mnv2.load(tmp_path / "model.safetensors")
    assert isinstance(loaded, mnv2.Detector)
    assert same(loaded.detect(photo(), threshold=0), own.detect(photo(), threshold=0))


def test_many_images_as_one() -> None:
    model = detector()
    images = [photo(seed, 40 + seed, 60) for seed in range(9)]
    one_by_one = [model.detect(image, threshold=0, limit=7) for image in images]
    assert all(len(result) == 7 for result in one_by_one)
    assert all(map(same, model.detect(images, threshold=0, limit=7), one_by_one))
    frames = (image for image in images)
    for (_, result), expected in zip(
        model.detect_files(frames, threshold=0, limit=7), one_by_one, strict=True
    ):
        assert same(result, expected)


def test_a_damaged_image_among_others(tmp_path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    Image.fromarray(photo()).save(tmp_path / "good.png")
    files = [tmp_path / "bad.jpg", tmp_path / "good.png"]
    (_, error), (_, result) = detector().detect_files(files)
    assert isinstance(error, ImageError)
    assert "bad.jpg" in str(error)
    assert isinstance(result, Detections)


def test_boxes_lie_in_the_upright_image() -> None:
    model = detector()
    upright = photo(3, 90, 40)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: stored rows are columns of the upright image
    stored = io.BytesIO()
    Image.fromarray(np.rot90(upright)).save(stored, "PNG", exif=exif)
    turned = model.detect(stored.getvalue(), threshold=0)
    assert turned.size == (90, 40)
    assert same(turned, model.detect(upright, threshold=0))
    assert turned.draw(stored.getvalue()).size == (40, 90)
    as_opened = Image.open(stored)
    assert same(model.detect(as_opened, threshold=0), turned)


@pytest.mark.parametrize("resize", ["stretch", "fit", "short_side"])
def test_boxes_are_mapped_back_through_the_preprocessing(resize) -> None:
    """With all codes 0, the boxes are the anchors; those of one pixel region are a known region."""
    checkpoint = random_checkpoint(SMALL)
    for name, array in checkpoint.arrays.items():
        if name.startswith("head.boxes") and name.endswith((".1.weight", ".1.bias")):
            array[:] = 0
    preprocessing = Preprocessing(size=SMALL.resolution, resize=resize, crop_fraction=1)
    model = mnv2.Detector(replace(checkpoint, preprocessing=preprocessing), 1)
    height, width = 128, 256
    result = model.detect(photo(1, height, width), threshold=0, iou_threshold=1, limit=100_000)
    # 64 x 96 pixels: stretched by 2 and 2.67; fitted to 48 x 96 by 2.67; cropped from 64 x 128 by 2
    y_scale, x_scale, left = {
        "stretch": (2, 256 / 96, 0),
        "fit": (256 / 96, 256 / 96, 0),
        "short_side": (2, 2, 32),
    }[resize]
    from mobilenetv2 import boxes as coding
    from mobilenetv2.graph import network

    anchors = coding.corners(coding.anchors(SMALL.head, network(SMALL)))
    expected = anchors * (96, 64, 96, 64) * (x_scale, y_scale, x_scale, y_scale)
    expected += (left, 0, left, 0)
    expected = np.clip(expected, 0, (width, height, width, height))
    expected = expected[(expected[:, 2:] > expected[:, :2] + 1e-6).all(1)]
    own = np.unique(result.boxes.round(2), axis=0)
    assert own == pytest.approx(np.unique(expected.astype(np.float32).round(2), axis=0), abs=0.02)


def test_classes_by_label_or_index() -> None:
    model = detector()
    everything = model.detect(photo(), threshold=0, limit=10_000)
    assert set(everything.labels) == {"a", "b", "c"}
    only = model.detect(photo(), threshold=0, limit=10_000, classes=("b",))
    assert set(only.labels) == {"b"}
    assert set(only.indices) == {1}
    assert len(only) == everything.labels.count("b")
    assert same(model.detect(photo(), threshold=0, limit=10_000, classes=[1]), only)


@pytest.mark.parametrize(
    ("selection", "complaint"),
    [
        ({"threshold": 1.5}, "threshold"),
        ({"iou_threshold": -1}, "iou_threshold"),
        ({"limit": 0}, "limit"),
        ({"classes": ("z",)}, "no class 'z'"),
        ({"classes": (3,)}, "no class 3"),
        ({"score": 0.5}, "score"),
    ],
)
def test_a_wrong_selection_is_named(selection, complaint) -> None:
    with pytest.raises(UserError, match=complaint):
        detector().detect(photo(), **selection)


def test_a_classifier_is_no_detector() -> None:
    with pytest.raises(UserError, match="it does not detect"):
        mnv2.Detector(random_checkpoint(width_mult=0.35))
    with pytest.raises(UserError, match="it does not classify"):
        detector().classify(photo())


def test_nothing_above_the_threshold() -> None:
    result = detector().detect(photo(), threshold=1)
    assert (len(result), result.boxes.shape, result.labels) == (0, (0, 4), ())
    assert result.to_dict() == {"height": 70, "width": 50, "detections": []}
    assert result.to_coco(1, range(3)) == []
    assert np.array_equal(np.asarray(result.draw(photo())), photo())


def test_one_class_and_a_thousand() -> None:
    for classes in (1, 1000):
        checkpoint = random_checkpoint(replace(SMALL, head=SSD(classes), resolution=(32, 32)))
        result = mnv2.Detector(checkpoint, 1).detect(photo(), threshold=0, limit=5)
        assert len(result) == 5
        assert result.labels[0] == f"class {result.indices[0]}"


def test_results_as_data() -> None:
    result = Detections(
        np.array([[1, 2, 11, 22.123456], [0, 0, 5, 5]], np.float32),
        np.array([0.75, 0.5], np.float32),
        np.array([4, 0]),
        ("cat", "dog"),
        (30, 20),
    )
    assert json.loads(json.dumps(result.to_dict())) == {
        "height": 30,
        "width": 20,
        "detections": [
            {"label": "cat", "index": 4, "score": 0.75, "box": [1, 2, 11, 22.12]},
            {"label": "dog", "index": 0, "score": 0.5, "box": [0, 0, 5, 5]},
        ],
    }
    # the class 0 has no category in that file
    assert result.to_coco(7, {4: 17}) == [
        {"image_id": 7, "category_id": 17, "bbox": [1, 2, 10, 20.123], "score": 0.75}
    ]
    assert len(repr(result)) < 80


def test_drawing_leaves_the_image_alone_and_wants_its_size() -> None:
    image = np.full((60, 80, 3), 255, np.uint8)
    box = np.array([[10, 20, 50, 55]], np.float32)
    result = Detections(box, np.array([0.9], np.float32), np.array([1]), ("cat",), (60, 80))
    drawn = np.asarray(result.draw(image))
    assert drawn.shape == image.shape
    assert (image == 255).all()
    assert (drawn[20:55, 10] != 255).any(-1).all()  # the left side of the frame
    assert (drawn[30:50, 20:45] == 255).all()  # inside
    with pytest.raises(UserError, match="the image is 60 x 60 .* the answer is for 60 x 80"):
        result.draw(image[:, :60])


def test_classes_of_one_label_are_all_looked_for() -> None:
    plain = detector()
    model = mnv2.Detector(replace(plain.checkpoint, labels=("a", "b", "b")), 1)
    found = model.detect(photo(), threshold=0, limit=10_000, classes=["b"])
    assert set(found.indices) == {1, 2}


def test_one_array_is_no_list_of_images() -> None:
    with pytest.raises(UserError, match=r"an array of the shape \(70, 50, 3\): \[image\]"):
        detector().detect_files(photo())
