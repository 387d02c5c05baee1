"""State dicts of detectors and segmenters: mmdetection, torchvision, Hugging Face."""

from __future__ import annotations

import json
from dataclasses import replace
from math import sqrt

import numpy as np
import pytest

from mobilenetv2 import boxes
from mobilenetv2.checkpoint import Checkpoint
from mobilenetv2.detector import Detector
from mobilenetv2.errors import ModelFileError
from mobilenetv2.formats import read
from mobilenetv2.formats.pytorch import read_state_dict
from mobilenetv2.graph import network
from mobilenetv2.heads import DeepLab, SSDLite
from mobilenetv2.images import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from mobilenetv2.labels import VOC
from mobilenetv2.runtime import Engine, Reference

from .conftest import random_checkpoint
from .writers import (
    hugging_face,
    hugging_face_config,
    mmdetection,
    save_pth,
    save_safetensors,
    tensors,
    torchvision_ssdlite,
)

LAYOUTS = {
    "mmdetection": mmdetection,
    "mmdetection, counted": lambda checkpoint: mmdetection(checkpoint, counted=True),
    "torchvision": torchvision_ssdlite,
    "torchvision, renumbered": lambda checkpoint: torchvision_ssdlite(checkpoint, renumbered=True),
}
SIX = (((0.5, 0.5),) * 6,) * 6


def detector(layout: str, classes: int = 3, width: float = 0.35) -> Checkpoint:
    """A random SSDLite with six anchors in each cell of every map."""
    tap = "input" if layout.startswith("mmdetection") else "expansion"
    head = SSDLite(classes, (16, 24, 16, 8), SIX, None, "softmax", tap)
    return random_checkpoint(
        width_mult=width, resolution=(320, 320), padding="symmetric", bn_epsilon=1e-3, head=head
    )


@pytest.mark.parametrize("width", [0.35, 1.0])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_ssdlite_of_every_layout(tmp_path, layout, width) -> None:
    checkpoint = detector(layout, width=width)
    path = save_safetensors(tmp_path / "model.safetensors", LAYOUTS[layout](checkpoint))
    imported = read(path)
    head = imported.architecture.head
    assert replace(head, anchor_sizes=SIX, anchor_steps=None) == checkpoint.architecture.head
    assert replace(imported.architecture, head=checkpoint.architecture.head) == (
        checkpoint.architecture
    )
    assert imported.arrays.keys() == checkpoint.arrays.keys()
    for name, array in checkpoint.arrays.items():
        np.testing.assert_array_equal(imported.arrays[name], array, err_msg=name)
    (note,) = imported.notes
    assert "assumed" in note
    assert "so are its anchors" in note


@pytest.mark.parametrize(
    ("layout", "rows"),
    [
        # (y, x, height, width) of the first cell's anchors and of the last one, in pixels
        (
            "mmdetection",
            {
                0: (8, 8, 48, 48),
                1: (8, 8, sqrt(4800), sqrt(4800)),
                2: (8, 8, 48 / sqrt(2), 48 * sqrt(2)),
                3: (8, 8, 48 * sqrt(2), 48 / sqrt(2)),
                4: (8, 8, 48 / sqrt(3), 48 * sqrt(3)),
                5: (8, 8, 48 * sqrt(3), 48 / sqrt(3)),
                6: (8, 24, 48, 48),
                120: (24, 8, 48, 48),
                # 107 pixels from cell to cell of the map of 3 x 3
                3150: (53.5, 53.5, 202, 202),
                3233: (160, 160, 304 * sqrt(3), 304 / sqrt(3)),
            },
        ),
        (
            "torchvision",
            {
                0: (8, 8, 64, 64),
                1: (8, 8, 320 * sqrt(0.2 * 0.35), 320 * sqrt(0.2 * 0.35)),
                2: (8, 8, 64 / sqrt(2), 64 * sqrt(2)),
                5: (8, 8, 64 * sqrt(3), 64 / sqrt(3)),
                3150: (320 / 6, 320 / 6, 208, 208),
                # no side is longer than the image
                3233: (160, 160, 320, 304 / sqrt(3)),
            },
        ),
    ],
)
def test_anchors(tmp_path, layout, rows) -> None:
    arrays = LAYOUTS[layout](detector(layout))
    architecture = read_state_dict(tmp_path / "model.pth", arrays).architecture
    anchors = 320 * boxes.anchors(architecture.head, network(architecture))
    assert anchors.shape == (6 * (400 + 100 + 25 + 9 + 4 + 1), 4)
    for row, expected in rows.items():
        assert anchors[row] == pytest.approx(expected), row


@pytest.mark.parametrize(
    ("layout", "preprocessing"),
    [
        ("mmdetection", Preprocessing(
            size=(320, 320), resize="stretch", mean=IMAGENET_MEAN, std=IMAGENET_STD)),
        ("torchvision", Preprocessing(size=(320, 320), resize="stretch")),
    ],
)  # fmt: skip
def test_how_images_are_prepared(tmp_path, layout, preprocessing) -> None:
    imported = read_state_dict(tmp_path / "model.pth", LAYOUTS[layout](detector(layout)))
    assert imported.preprocessing == preprocessing


@pytest.mark.parametrize("layout", ["mmdetection", "torchvision"])
def test_the_engine_runs_it(tmp_path, layout, pixels) -> None:
    imported = read_state_dict(tmp_path / "model.pth", LAYOUTS[layout](detector(layout)))
    imported.save(tmp_path / "ours.safetensors")
    assert read(tmp_path / "ours.safetensors").architecture == imported.architecture
    image = pixels(1, 320, 320, 3)
    outputs = Reference(imported)(imported.preprocessing.normalize(image))
    codes, scores = Detector(imported).raw(image)
    expected_codes, expected_scores = boxes.raw_outputs(imported.architecture.head, outputs)
    np.testing.assert_allclose(codes, expected_codes, atol=1e-3)
    np.testing.assert_allclose(scores, expected_scores, atol=1e-3)
    probabilities = boxes.probabilities(imported.architecture.head, scores)
    background = np.exp(scores[..., 0]) / np.exp(scores).sum(-1)
    np.testing.assert_allclose(probabilities.sum(-1) + background, np.ones((1, 3234)), rtol=1e-5)


@pytest.mark.parametrize(
    "meta",
    [
        {"CLASSES": ("cat", "dog", "newt")},
        {"dataset_meta": {"CLASSES": ["cat", "dog", "newt"]}},
        {"dataset_meta": {"classes": ("cat", "dog", "newt"), "palette": None}, "epoch": 3},
    ],
)
def test_labels_of_mmdetection(tmp_path, meta) -> None:
    arrays = tensors(mmdetection(detector("mmdetection")))
    path = save_pth(tmp_path / "epoch_3.pth", {"meta": meta, "state_dict": arrays})
    assert read(path).labels == ("cat", "dog", "newt")


@pytest.mark.parametrize(
    "meta", [{}, {"CLASSES": ("one",)}, {"CLASSES": [1, 2, 3]}, {"dataset_meta": 3}, "text"]
)
def test_labels_that_do_not_fit_are_not_taken(tmp_path, meta) -> None:
    arrays = tensors(mmdetection(detector("mmdetection")))
    path = save_pth(tmp_path / "epoch_3.pth", {"meta": meta, "state_dict": arrays})
    assert read(path).labels == ()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_array_of_the_head_counts(tmp_path, layout) -> None:
    arrays = LAYOUTS[layout](detector(layout))
    theirs = [name for name in arrays if "features" not in name and "layer" not in name[:14]]
    for name in [name for name in theirs if not name.endswith("num_batches_tracked")][::9]:
        without = {other: array for other, array in arrays.items() if other != name}
        for changed in (without, arrays | {name: arrays[name][:-1]}):
            with pytest.raises(ModelFileError, match=r"model\.pth: .*(missing|head\.|features\.)"):
                read_state_dict(tmp_path / "model.pth", changed)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_another_number_of_anchors(tmp_path, layout) -> None:
    """Four in each cell of a map, or three and six as TensorFlow's."""
    checkpoint = detector(layout)
    four = (((0.5, 0.5),) * 4,)
    head = replace(checkpoint.architecture.head, anchor_sizes=(*SIX[:5], *four))
    arrays = LAYOUTS[layout](
        random_checkpoint(replace(checkpoint.architecture, head=head), resolution=(320, 320))
    )
    with pytest.raises(ModelFileError, match=r"model\.pth: .*head\.boxes\.5\.1\.weight is \(16"):
        read_state_dict(tmp_path / "model.pth", arrays)


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        # SSD300 on VGG, SSDLite on MobileNetV3, Faster R-CNN and YOLO
        (["backbone.features.0.weight", "backbone.extra.0.1.weight"], r"arrays: backbone\.extra\.0\.1"),
        (["backbone.features.0.0.0.weight", "backbone.features.0.1.block.0.0.weight"],
         r"its first arrays: backbone\.features\.0\.0\.0\.weight, backbone\.features\.0\.1\.block"),
        (["backbone.0.0.weight", "rpn.head.conv.0.0.weight"], r"its first arrays: backbone\.0\.0\.weight"),
        (["model.0.conv.weight", "model.22.dfl.conv.weight"], r"its first arrays: 0\.conv\.weight"),
        (["backbone.layer1.0.conv1.weight", "classifier.0.convs.0.0.weight"],
         r"its first arrays: backbone\.layer1\.0\.conv1\.weight, classifier"),
        # DeepLabv3+ with a decoder
        (["backbone.low_level_features.0.0.weight", "classifier.project.0.weight"], "its first arrays: backbone"),
        # mmdetection's RetinaNet, and its SSD with ordinary convolutions
        (["backbone.conv1.conv.weight", "backbone.layer1.0.linear_conv.conv.weight", "bbox_head.retina_cls.weight"],
         r"not an SSDLite: bbox_head\.cls_convs\.0\.1\.bias is missing"),
        (["backbone.layer1.0.linear_conv.conv.weight", "bbox_head.cls_convs.0.0.bias"],
         r"not an SSDLite: bbox_head\.cls_convs\.0\.1\.bias is missing"),
    ],
)  # fmt: skip
def test_other_detectors_and_segmenters_are_refused(tmp_path, names, complaint) -> None:
    arrays = {name: np.zeros((4, 3, 3, 3), np.float32) for name in names}
    with pytest.raises(ModelFileError, match=rf"other\.safetensors: .*{complaint}"):
        read(save_safetensors(tmp_path / "other.safetensors", arrays))


@pytest.mark.parametrize(("shape", "missing"), [((25,), 0), ((6,), 0), ((4, 6), 0), ((24,), 2)])
def test_heads_of_another_shape(tmp_path, shape, missing) -> None:
    """Scores that are not those of six anchors, no class, another axis, an extra layer too few."""
    arrays = mmdetection(detector("mmdetection"))
    arrays["bbox_head.cls_convs.0.1.bias"] = np.zeros(shape, np.float32)
    if missing:
        del arrays[f"neck.extra_layers.{missing}.1.pointwise_conv.conv.weight"]
    complaint = "would be its extra layer 2" if missing else r"cls_convs\.0\.1\.bias is \("
    with pytest.raises(ModelFileError, match=rf"model\.pth: not an SSDLite: .*{complaint}"):
        read_state_dict(tmp_path / "model.pth", arrays)


def test_shapes_are_checked_before_rows_are_moved(tmp_path) -> None:
    """A small file may have an array of any shape: one repeated number."""
    arrays = mmdetection(detector("mmdetection"))
    for name in ("bbox_head.reg_convs.1.1.bias", "bbox_head.cls_convs.1.1.bias"):
        huge = np.broadcast_to(np.float16(0), 24 << 40)
        with pytest.raises(
            ModelFileError, match=r"model\.pth: .*\.1\.1\.bias is \(26388279066624,\)"
        ):
            read_state_dict(tmp_path / "model.pth", arrays | {name: huge})
    huge = np.broadcast_to(np.float16(0), 24 << 40)
    with pytest.raises(ModelFileError, match=r"model\.pth: head classes must be"):
        read_state_dict(tmp_path / "model.pth", arrays | {"bbox_head.cls_convs.0.1.bias": huge})


# --- Hugging Face's segmenter ---


def segmenter(**changes: object) -> Checkpoint:
    settings = {"width_mult": 0.35, "padding": "same", "bn_epsilon": 1e-3, "last_channels": None}
    return random_checkpoint(
        **{**settings, "head": DeepLab(21), "resolution": (65, 65), "output_stride": 16, **changes}
    )


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"output_stride": 8, "head": DeepLab(4)},
        {"output_stride": 32, "padding": "symmetric", "width_mult": 1.0},
        {"width_mult": 0.5, "divisor": 1, "min_channels": 1},
        {"bn_epsilon": 2e-3},
    ],
    ids=str,
)
def test_hugging_face_segmenters(tmp_path, changes) -> None:
    checkpoint = segmenter(**changes)
    path = save_safetensors(tmp_path / "model.safetensors", hugging_face(checkpoint))
    output_stride = checkpoint.architecture.output_stride
    config = hugging_face_config(checkpoint.architecture, output_stride=output_stride)
    path.with_name("config.json").write_text(json.dumps(config))
    imported = read(path)
    assert imported.architecture == checkpoint.architecture
    assert imported.preprocessing == Preprocessing(size=(65, 65), resize="fit")
    assert imported.labels == (VOC if checkpoint.architecture.classes == 21 else ())
    assert "mobilenet_v2.conv_1x1.convolution.weight" in imported.provenance["left_out"]
    for name, array in checkpoint.arrays.items():
        np.testing.assert_array_equal(imported.arrays[name], array, err_msg=name)
    image = np.random.default_rng(0).uniform(-1, 1, (1, 65, 65, 3)).astype(np.float32)
    np.testing.assert_allclose(Reference(imported)(image), Reference(checkpoint)(image), atol=1e-5)


def test_hugging_face_segmenter_with_labels_and_an_image_processor(tmp_path) -> None:
    path = save_safetensors(
        tmp_path / "model.safetensors", hugging_face(segmenter(head=DeepLab(2)))
    )
    config = {"output_stride": 16, "id2label": {"0": "road", "1": "tree"}, "image_size": 65}
    path.with_name("config.json").write_text(json.dumps(config))
    processor = {"size": {"shortest_edge": 65}, "crop_size": {"height": 65, "width": 65}}
    path.with_name("preprocessor_config.json").write_text(json.dumps(processor))
    imported = read(path)
    assert imported.labels == ("road", "tree")
    assert imported.preprocessing == Preprocessing(size=(65, 65), crop_fraction=1.0)
    shape = Engine(imported)(np.zeros((1, 65, 65, 3), np.uint8)).shape
    assert shape == (1, 65, 65, 2)


def test_what_is_assumed_of_a_segmenter_alone(tmp_path) -> None:
    """Strides do not show in arrays."""
    imported = read_state_dict(tmp_path / "model.pth", hugging_face(segmenter()))
    assert imported.architecture.output_stride == 32
    images, stride = imported.notes
    assert "long side fits 224 x 224" in images
    assert stride == "there is no config.json; the output stride is assumed to be 32"


@pytest.mark.parametrize(
    "name",
    [
        "segmentation_head.conv_pool.convolution.weight",
        "segmentation_head.conv_aspp.normalization.running_var",
        "segmentation_head.conv_projection.convolution.weight",
        "segmentation_head.classifier.convolution.bias",
        "segmentation_head.classifier.convolution.weight",
    ],
)
def test_every_array_of_a_segmenter_counts(tmp_path, name) -> None:
    arrays = hugging_face(segmenter())
    del arrays[name]
    with pytest.raises(ModelFileError, match=r"model\.pth: .*missing"):
        read_state_dict(tmp_path / "model.pth", arrays)


def test_a_decoder_is_refused(tmp_path) -> None:
    """DeepLabv3+ has one; these networks do not."""
    arrays = hugging_face(segmenter())
    arrays["segmentation_head.decoder.convolution.weight"] = np.zeros((48, 24, 1, 1), np.float32)
    with pytest.raises(ModelFileError, match=r"not part of the network: segmentation_head\.decod"):
        read_state_dict(tmp_path / "model.pth", arrays)
