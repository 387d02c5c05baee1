"""SSDLite state dicts of mmdetection and torchvision: names, anchors, and the order of their rows.

Neither has anchors or preprocessing in the file; they are those of mmdetection's
ssdlite_mobilenetv2-scratch_8xb24-600e_coco and of torchvision's ssdlite320.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..checkpoint import Shaped
from ..errors import ModelFileError
from ..heads import AnchorSize, SSDLite
from ..images import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from .assemble import Rules, StoredArray

Arrays = Mapping[str, Shaped]
BN_EPSILON = 1e-3
SIZE = (320, 320)
RATIOS = (2, 3)
MAPS = 6
ANCHORS = 2 + 2 * len(RATIOS)  # of a cell, on every map
# mmdetection: sizes and distances of the anchors in pixels of a 320 x 320 image
ANCHOR_SIDES = (48, 100, 150, 202, 253, 304, 320)
ANCHOR_STEPS = (16, 32, 64, 107, 160, 320)
TORCHVISION_SCALES = (0.2, 0.95)
PLACE = re.compile(r"backbone\.layer(\d)\.(\d{1,2})\.")
BLOCK = re.compile(r"backbone\.layer(\d)\.(\d{1,2})\.(?:conv\.)?(\w+)\.([01])")
BLOCK_PARTS = ("expand_conv", "depthwise_conv", "linear_conv")
FEATURES = re.compile(r"backbone\.features\.0\.(\d{1,2})\.(.+)")
HEAD_PARTS = {"bbox_head.reg_convs": "boxes", "bbox_head.cls_convs": "scores"}
HEAD_PARTS |= {
    "head.regression_head.module_list": "boxes",
    "head.classification_head.module_list": "scores",
}


@dataclass(frozen=True)
class Layout:
    """How a source names and orders its arrays.

    Attributes:
        rename: torchvision's name of an array, or of one in our heads; None: it has that name.
        rules: What the arrays do not show.
        rows_of: The rows of each anchor in the array of one of our names, in the source's numbers; ()
            for its own order.
        unused: Whether the network does not use the array of this name of the source's.
    """

    rename: Callable[[str], str | None]
    rules: Rules
    rows_of: Callable[[str], Sequence[int]] = lambda name: ()
    unused: Callable[[str], bool] = lambda name: False

    def in_order(self, name: str, array: Shaped) -> Shaped:
        """An array with its rows in our order.

        Args:
            name: Ours.
            array: As the source has it.
        """
        rows = list(self.rows_of(name))
        if not (rows and array.shape) or array.shape[0] % len(rows):
            return array

        def read() -> NDArray[Any]:
            anchors = np.asarray(array).reshape(-1, len(rows), *array.shape[1:])
            return anchors[:, rows].reshape(array.shape)

        return StoredArray(array.shape, np.dtype(array.dtype), read)


def mmdetection(arrays: Arrays) -> Layout:
    """backbone.{conv1, layerS.I, conv2}, neck.extra_layers, bbox_head; boxes are x, y, width,
    height, and the background is the last class.
    """
    places = {tuple(map(int, m.groups())) for m in map(PLACE.match, arrays) if m}
    blocks = {place: index + 1 for index, place in enumerate(sorted(places))}
    head = _head(arrays, "bbox_head.cls_convs.0.1.bias")
    head |= {
        "anchor_sizes": _anchors([side / SIZE[0] for side in ANCHOR_SIDES], math.inf),
        "anchor_steps": [step / SIZE[0] for step in ANCHOR_STEPS],
        "first_map": "input",
    }
    ends = {"conv1": "features.0", "conv2": f"features.{len(blocks) + 1}"}

    def rename(name: str) -> str | None:
        path, _, array = name.rpartition(".")
        path = re.sub(r"\.(conv|bn)$", lambda m: ".0" if m[1] == "conv" else ".1", path)
        if match := re.fullmatch(r"backbone\.(conv[12])\.([01])", path):
            return f"{ends[match[1]]}.{match[2]}.{array}"
        if match := BLOCK.fullmatch(path):
            inner = _in_block(blocks[int(match[1]), int(match[2])], match[3], match[4])
            return inner and f"{inner}.{array}"
        if match := re.fullmatch(r"neck\.extra_layers\.(\d)\.(0|1\.\w+)\.([01])", path):
            place = {"0": "0", "1.depthwise_conv": "1", "1.pointwise_conv": "2"}.get(match[2])
            return place and f"head.extra.{match[1]}.{place}.{match[3]}.{array}"
        return _predictor(path, array)

    rules = Rules(
        "mmdetection",
        "symmetric",
        BN_EPSILON,
        Preprocessing(size=SIZE, resize="stretch", mean=IMAGENET_MEAN, std=IMAGENET_STD),
        head=SSDLite.from_dict(head),
    )
    return Layout(rename, rules, _rows_of([head["classes"], *range(head["classes"])]))


def mmdetection_labels(content: Any) -> tuple[str, ...]:
    """The labels that mmdetection has beside the arrays, under "meta"; () if there are none."""
    meta = content.get("meta") if isinstance(content, Mapping) else None
    for _ in range(2):
        if not isinstance(meta, Mapping):
            return ()
        labels = meta.get("classes", meta.get("CLASSES"))
        if isinstance(labels, list | tuple) and all(isinstance(label, str) for label in labels):
            return tuple(labels)
        meta = meta.get("dataset_meta")
    return ()


def _in_block(block: int, part: str, kind: str) -> str | None:
    """The name of a convolution or batch norm of a block, whose parts are named or counted."""
    parts = BLOCK_PARTS[1:] if block == 1 else BLOCK_PARTS  # the first block has no expansion
    if part not in parts and not (part.isdigit() and int(part) < len(parts)):
        return None
    place = parts.index(part) if part in parts else int(part)
    inner = f"{place}.{kind}" if place < len(parts) - 1 else str(place + int(kind))
    return f"features.{block}.conv.{inner}"


def torchvision_ssdlite(arrays: Arrays) -> Layout:
    """backbone.features.{0, 1} on both sides of the last strided block's expansion, backbone.extra,
    head; boxes are x, y, width, height.
    """
    before = max(int(m[1]) for m in map(FEATURES.match, arrays) if m)
    head = _head(arrays, "head.classification_head.module_list.0.1.bias")
    first, last = TORCHVISION_SCALES
    scales = [first + (last - first) * index / (MAPS - 1) for index in range(MAPS)]
    head["anchor_sizes"] = _anchors([*scales, 1.0], 1.0)
    # a slice of a Sequential keeps its numbers, a new one counts from 0
    shift = int("backbone.features.1.0.0.0.weight" in arrays)

    def rename(name: str) -> str | None:
        if match := FEATURES.fullmatch(name):
            inner = "conv.0." if int(match[1]) == before else ""
            return f"features.{match[1]}.{inner}{match[2]}"
        if match := re.fullmatch(r"backbone\.features\.1\.0\.(\d)\.(.+)", name):
            return f"features.{before}.conv.{int(match[1]) + shift}.{match[2]}"
        if match := re.fullmatch(r"backbone\.features\.1\.(\d{1,2})\.(.+)", name):
            return f"features.{before + int(match[1])}.{match[2]}"
        if name.startswith("backbone.extra."):
            return name.replace("backbone", "head", 1)
        return _predictor(*name.rsplit(".", 1))

    rules = Rules(
        "torchvision (SSDLite)",
        "symmetric",
        BN_EPSILON,
        Preprocessing(size=SIZE, resize="stretch"),
        head=SSDLite.from_dict(head),
    )
    return Layout(rename, rules, _rows_of([]))


def _predictor(path: str, *array: str) -> str | None:
    """The name of an array of a predictor in either library."""
    match = re.fullmatch(r"(\D+)\.(\d)\.(0\.[01]|1)", path)
    if match is None or match[1] not in HEAD_PARTS:
        return None
    return ".".join((f"head.{HEAD_PARTS[match[1]]}.{match[2]}.{match[3]}", *array))


def _head(arrays: Arrays, scores: str) -> dict[str, Any]:
    """What the arrays show of the head.

    Args:
        arrays: By the source's names.
        scores: The bias of the first map's class predictor.

    Raises:
        ModelFileError: It is not that of six maps with six anchors per cell.
    """
    shape = arrays[scores].shape if scores in arrays else ()
    if len(shape) != 1 or shape[0] % ANCHORS or shape[0] < 2 * ANCHORS:
        raise ModelFileError(
            f"not an SSDLite: {scores} is {shape or 'missing'}, not scores of the background and "
            f"the classes for {ANCHORS} anchors"
        )
    extra = []
    for index in range(MAPS - 2):
        names = (
            f"neck.extra_layers.{index}.1.pointwise_conv.conv.weight",
            f"backbone.extra.{index}.2.0.weight",
        )
        stored = [arrays[name].shape for name in names if name in arrays]
        if not stored or len(stored[0]) != 4:
            raise ModelFileError(f"not an SSDLite: no convolution would be its extra layer {index}")
        extra.append(stored[0][0])
    return {"classes": shape[0] // ANCHORS - 1, "extra_channels": extra, "score": "softmax"}


def _rows_of(scores: Sequence[int]) -> Callable[[str], Sequence[int]]:
    """The order of an anchor's rows in the predictors: boxes are stored as x, y, width, height."""
    orders: dict[str, Sequence[int]] = {"boxes": (1, 0, 3, 2), "scores": scores}

    def rows_of(name: str) -> Sequence[int]:
        match = re.fullmatch(r"head\.(boxes|scores)\.\d\.1\.(?:weight|bias)", name)
        return orders[match[1]] if match else ()

    return rows_of


def _anchors(scales: Sequence[float], limit: float) -> list[list[AnchorSize]]:
    """(height, width) of the anchors of each map: squares of its scale and of the mean with the next
    one, then each ratio lying and standing, no side above the limit.
    """
    maps: list[list[AnchorSize]] = []
    for scale, following in zip(scales, scales[1:], strict=False):
        between = math.sqrt(scale * following)
        sizes = [(scale, scale), (between, between)]
        for ratio in RATIOS:
            long, short = scale * math.sqrt(ratio), scale / math.sqrt(ratio)
            sizes += [(short, long), (long, short)]
        maps.append([(min(height, limit), min(width, limit)) for height, width in sizes])
    return maps
