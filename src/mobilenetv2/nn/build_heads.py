"""`ssdlite_mobilenet_v2` and `deeplabv3_mobilenet_v2`: detectors and segmenters from scratch or from
weights of any network of the family.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..architecture import Architecture
from ..checkpoint import Checkpoint
from ..heads import DeepLab, SSDHead, SSDLite
from .backbone import PAPER_BN_DECAY
from .build import Weights, base_architecture, fill, opened_weights
from .heads import HEAD_BN_DECAY, LOGITS_DROP_RATE, DetectionNetwork, SegmentationNetwork

# of networks from scratch; ssdlite_mobilenet_v2_coco.config and deeplab's VOC configuration
DETECTION_SIZE, SEGMENTATION_SIZE = (300, 300), (513, 513)
DEEPLAB_OUTPUT_STRIDE = 16


def ssdlite_mobilenet_v2(
    *,
    num_classes: int | None = None,
    weights: Weights | None = None,
    width_mult: float | None = None,
    head: SSDHead | None = None,
    drop_path_rate: float = 0.0,
    bn_decay: float = HEAD_BN_DECAY,
    fresh_head: bool = False,
    architecture: Architecture | None = None,
) -> DetectionNetwork:
    """Builds a detector, SSDLite unless another head is given, from scratch or from weights.

    Args:
        num_classes: Number of classes, the background not counted. Default that of `head` or of a
            detector's weights, or 90.
        weights: As for `mobilenet_v2`: a detector, or a classifier or segmenter whose backbone is
            taken. What the weights lack, or have for another number of classes, is new, with a
            warning.
        width_mult: Width multiplier; with weights, it must be the same as theirs. Default 1.0.
        head: The head, an `SSD` or `SSDLite` of `mobilenetv2.heads`. Default that of a detector's
            weights, or `SSDLite()`.
        drop_path_rate: Stochastic depth of the last block.
        bn_decay: Share of the old running statistics kept at each step; PyTorch's momentum is 1 -
            bn_decay.
        fresh_head: Makes the classes' part of the head new even if their number is the same.
        architecture: Everything else about the backbone; not together with weights.

    Raises:
        ArchitectureError: Arguments that contradict each other or the weights.
        ModelFileError: The weights cannot be read.
    """
    base, checkpoint = _start(weights, width_mult, architecture, "detection", DETECTION_SIZE)
    chosen = head or (base.head if isinstance(base.head, SSDHead) else SSDLite())
    if num_classes is not None:
        chosen = chosen.with_classes(num_classes)
    changed = replace(base, head=chosen, output_stride=32)
    net = DetectionNetwork(changed, drop_path_rate=drop_path_rate, bn_decay=bn_decay)
    if checkpoint is not None:
        fill(net, checkpoint, fresh_head)
    return net


def deeplabv3_mobilenet_v2(
    *,
    num_classes: int | None = None,
    weights: Weights | None = None,
    width_mult: float | None = None,
    output_stride: int | None = None,
    head: DeepLab | None = None,
    drop_rate: float = LOGITS_DROP_RATE,
    drop_path_rate: float = 0.0,
    bn_decay: float = PAPER_BN_DECAY,
    head_bn_decay: float = HEAD_BN_DECAY,
    fresh_head: bool = False,
    architecture: Architecture | None = None,
) -> SegmentationNetwork:
    """Builds a segmenter, the paper's Mobile DeepLabv3, from scratch or from weights.

    Args:
        num_classes: Number of classes, the background counted. Default that of `head` or of a
            segmenter's weights, or 21.
        weights: As for `ssdlite_mobilenet_v2`.
        width_mult: As for `ssdlite_mobilenet_v2`.
        output_stride: 8 or 16, without ASPP also 32. Default that of a segmenter's weights, or 16.
        head: The head, a `DeepLab` of `mobilenetv2.heads`. Default that of a segmenter's weights, or
            `DeepLab()`, which has no ASPP.
        drop_rate: Share of the inputs of the logits dropped in training.
        drop_path_rate: Stochastic depth of the last block.
        bn_decay: As for `ssdlite_mobilenet_v2`, in the backbone.
        head_bn_decay: The same in the head.
        fresh_head: As for `ssdlite_mobilenet_v2`.
        architecture: As for `ssdlite_mobilenet_v2`.

    Raises:
        ArchitectureError: Arguments that contradict each other or the weights.
        ModelFileError: The weights cannot be read.
    """
    base, checkpoint = _start(weights, width_mult, architecture, "segmentation", SEGMENTATION_SIZE)
    of_segmenter = isinstance(base.head, DeepLab)
    chosen = head or (base.head if isinstance(base.head, DeepLab) else DeepLab())
    if num_classes is not None:
        chosen = chosen.with_classes(num_classes)
    stride: Any = output_stride or (base.output_stride if of_segmenter else DEEPLAB_OUTPUT_STRIDE)
    changed = replace(base, head=chosen, output_stride=stride)
    net = SegmentationNetwork(
        changed,
        drop_rate=drop_rate,
        drop_path_rate=drop_path_rate,
        bn_decay=bn_decay,
        head_bn_decay=head_bn_decay,
    )
    if checkpoint is not None:
        fill(net, checkpoint, fresh_head)
    return net


def _start(
    weights: Weights | None,
    width_mult: float | None,
    architecture: Architecture | None,
    task: str,
    size: tuple[int, int],
) -> tuple[Architecture, Checkpoint | None]:
    """What the arguments mean without the head, for images of `size` unless weights of the same task,
    or the architecture, say another.
    """
    checkpoint = opened_weights(weights, width_mult, architecture)
    width = {"width_mult": None if width_mult is None else float(width_mult)}
    base = base_architecture(checkpoint, architecture or Architecture(resolution=size), width)
    if checkpoint is not None and base.head.task != task:
        base = replace(base, resolution=size)
    return base, checkpoint
