"""SSDLite on a MobileNetV2, built of torchvision's and of mmdetection's own parts, against our readers:
box codes and scores before the activation, anchors, and decoded boxes.
"""

from __future__ import annotations

import importlib.machinery
import sys
import types
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from comparing import Array, Case, Row, distance
from pytorch_peers import randomised, save_both
from torch import Tensor, nn

from mobilenetv2 import boxes
from mobilenetv2.detector import Detector
from mobilenetv2.formats import read

SIDE = 320
CLASSES = 7
# x, y, width, height of their codes to our y, x, height, width
OUR_CODES = [1, 0, 3, 2]


def check_detectors(folder: Path) -> Iterator[Row]:
    """Two widths of each, `.pth` and `.safetensors`."""
    for seed, width in enumerate((1.0, 0.5)):
        yield from compare_detector(
            folder, "torchvision", width, *torchvision_detector(seed, width)
        )
        yield from compare_detector(folder, "mmdet", width, *mmdetection_detector(seed, width))


def compare_detector(
    folder: Path,
    package: str,
    width: float,
    model: nn.Module,
    run: Callable[[Array], dict[str, Array]],
) -> Iterator[Row]:
    """Our answers beside those of a model for one image.

    Args:
        folder: For its files.
        package: Of the model.
        width: Its multiplier.
        model: Whose state dict is saved.
        run: Takes pixels (320, 320, 3) uint8 to codes, scores, anchors and boxes in our order, the
            latter two as corners in pixels.
    """
    case = Case(package, f"SSDLite, MobileNetV2 {width}", lambda x: x)
    pixels = np.random.default_rng(7).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    theirs = run(pixels)
    for suffix, path in save_both(model, folder, f"{package}_{width}").items():
        try:
            detector = Detector(read(path))
            codes, scores = detector.raw(pixels[None])
        except Exception as error:
            yield case.broken(suffix, "reading", error)
            continue
        decoded = boxes.decode_boxes(codes[0], detector._anchors)
        ours = {
            "box codes": codes[0],
            "scores": scores[0],
            "anchors": boxes.corners(detector._anchors) * SIDE,
            "boxes": np.clip(decoded, 0, 1) * SIDE,
        }
        for what, values in ours.items():
            difference, allowed = distance(values, theirs[what])
            verdict = "equal" if difference <= allowed else f"FAIL: allowed is {allowed:.1e}"
            yield case.row(suffix, what, difference, verdict)


def torchvision_detector(
    seed: int, width: float
) -> tuple[nn.Module, Callable[[Array], dict[str, Array]]]:
    """torchvision builds it of MobileNetV3 only: a MobileNetV2's blocks lack the name `block`."""
    from torchvision.models import mobilenet_v2
    from torchvision.models.detection._utils import retrieve_out_channels
    from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
    from torchvision.models.detection.ssd import SSD
    from torchvision.models.detection.ssdlite import SSDLiteHead, _mobilenet_extractor
    from torchvision.models.mobilenetv2 import InvertedResidual

    norm = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.03)
    backbone = mobilenet_v2(width_mult=width, norm_layer=norm)
    backbone.features[-1].out_channels = backbone.last_channel
    block = property(lambda self: self.conv)
    with mock.patch.object(InvertedResidual, "block", block, create=True):
        extractor = _mobilenet_extractor(backbone, 6, norm)
    anchors = DefaultBoxGenerator([[2, 3]] * 6, min_ratio=0.2, max_ratio=0.95)
    channels = retrieve_out_channels(extractor, (SIDE, SIDE))
    head = SSDLiteHead(channels, anchors.num_anchors_per_location(), CLASSES + 1, norm)
    half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    model = randomised(SSD(extractor, anchors, (SIDE, SIDE), CLASSES + 1, head=head, **half), seed)

    def run(pixels: Array) -> dict[str, Array]:
        images, _ = model.transform([torch.from_numpy(pixels.transpose(2, 0, 1).copy()) / 255])
        maps = list(model.backbone(images.tensors).values())
        outputs = model.head(maps)
        corners = model.anchor_generator(images, maps)[0]
        codes = outputs["bbox_regression"][0]
        decoded = model.box_coder.decode_single(codes, corners).clamp(0, SIDE)
        return answers(codes, outputs["cls_logits"][0], corners, decoded)

    return model, run


def mmdetection_detector(
    seed: int, width: float
) -> tuple[nn.Module, Callable[[Array], dict[str, Array]]]:
    """Backbone, neck and head of ssdlite_mobilenetv2-scratch_8xb24-600e_coco, of its own file."""
    provide_operators()
    import mmdet
    from mmdet.models.backbones.mobilenet_v2 import MobileNetV2
    from mmdet.models.dense_heads.ssd_head import SSDHead
    from mmdet.models.necks.ssd_neck import SSDNeck
    from mmengine.config import Config

    configs = Path(mmdet.__file__).parent / ".mim" / "configs"
    config = Config.fromfile(configs / "ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py")
    options = {part: dict(config.model[part]) for part in ("backbone", "neck", "bbox_head")}
    for part in options.values():
        del part["type"], part["init_cfg"]
    first, *others = options["neck"]["out_channels"]
    channels = (int(first * width), *others)
    options["neck"] |= {"in_channels": channels[:2], "out_channels": channels}
    options["bbox_head"] |= {"in_channels": channels, "num_classes": CLASSES}
    model = nn.Module()
    model.backbone = MobileNetV2(widen_factor=width, **options["backbone"])
    model.neck = SSDNeck(**options["neck"])
    model.bbox_head = SSDHead(**options["bbox_head"])
    model = randomised(model, seed)
    mean, std = (
        torch.tensor(config.data_preprocessor[name]).view(3, 1, 1) for name in ("mean", "std")
    )

    def run(pixels: Array) -> dict[str, Array]:
        image = (torch.from_numpy(pixels.transpose(2, 0, 1).copy()) - mean) / std
        outputs = model.bbox_head(model.neck(model.backbone(image[None])))
        scores, codes = (
            torch.cat([x.permute(0, 2, 3, 1).reshape(-1, numbers) for x in maps])
            for maps, numbers in zip(outputs, (CLASSES + 1, 4), strict=True)
        )
        sizes = [x.shape[-2:] for x in outputs[0]]
        corners = torch.cat(model.bbox_head.prior_generator.grid_priors(sizes, device="cpu"))
        decoded = model.bbox_head.bbox_coder.decode(corners, codes, max_shape=(SIDE, SIDE))
        return answers(codes, scores.roll(1, -1), corners, decoded)

    return model, run


def answers(codes: Tensor, scores: Tensor, anchors: Tensor, decoded: Tensor) -> dict[str, Array]:
    """What `compare_detector` compares."""
    return {
        "box codes": codes[:, OUR_CODES].numpy(),
        "scores": scores.numpy(),
        "anchors": anchors.numpy(),
        "boxes": decoded.numpy(),
    }


class _Operators:
    """Finds `mmcv.ops`, which mmcv-lite lacks: mmdet imports names of it that are not used here."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name == "mmcv.ops" or name.startswith("mmcv.ops."):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: Any) -> types.ModuleType:
        module = types.ModuleType(spec.name)
        module.__getattr__ = self.operator
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        """Nothing to run."""

    def operator(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (nn.Module,), {})


def provide_operators() -> None:
    """Lets mmdet be imported beside mmcv-lite."""
    if not any(isinstance(finder, _Operators) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Operators())
