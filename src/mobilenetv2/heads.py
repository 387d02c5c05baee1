"""What stands on the backbone: a record for each head, which adds its layers and names its outputs.

A head is data like the rest of the description. Nobody else asks which head it is: what a reader
needs to know of it (its task, its classes, whether the last convolution belongs to the network) is
an attribute.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

from .errors import ArchitectureError, UserError
from .layer import Builder
from .records import Meta, Record, Side

DEEPLAB_CHANNELS = 256
DEEPLAB_BN_EPSILON = 1e-5
ASPP_RATES_AT_16 = (6, 12, 18)  # doubled at output stride 8; TF models, research/deeplab


class HeadRecord(Record):
    """Base of the heads."""

    noun: ClassVar[str] = "head"
    error: ClassVar[type[UserError]] = ArchitectureError


@dataclass(frozen=True)
class Features(HeadRecord):
    """No head: the network ends at its last convolution and gives that map.

    Attributes:
        task: What the outputs are for.
        classes: 0: it has none.
        keeps_last: The last 1x1 convolution is part of the network.
        output_strides: Those of the backbone that it goes with.
    """

    kind: ClassVar[str] = "features"
    task: ClassVar[str] = "features"
    classes: ClassVar[int] = 0
    keeps_last: ClassVar[bool] = True
    output_strides: ClassVar[tuple[int, ...]] = (8, 16, 32)

    def build(self, net: Builder, output_stride: int) -> tuple[str, ...]:
        """Adds the head's layers behind the tensor at hand; returns the names of the outputs."""
        return (net.at,)

    def with_classes(self, classes: int) -> Classifier:
        """A head of its kind with so many classes; the one without any becomes a classifier."""
        return Classifier(classes)


@dataclass(frozen=True)
class Classifier(HeadRecord):
    """Global average pooling and one fully connected layer: logits (classes, 1, 1).

    Attributes:
        classes: How many.
    """

    kind: ClassVar[str] = "classifier"
    task: ClassVar[str] = "classification"
    keeps_last: ClassVar[bool] = True
    output_strides: ClassVar[tuple[int, ...]] = (8, 16, 32)

    classes: Side = 1000

    def build(self, net: Builder, output_stride: int) -> tuple[str, ...]:
        """As `Features.build`."""
        net.pool("pool")
        net.linear("classifier.1", "classifier", self.classes, bias="classifier.1.bias")
        return (net.at,)

    def with_classes(self, classes: int) -> Classifier:
        """As `Features.with_classes`."""
        return replace(self, classes=classes)


@dataclass(frozen=True)
class DeepLab(HeadRecord):
    """Mobile DeepLabv3: scores (classes, height, width) at the image's own size.

    The head of TF models' research/deeplab: pooled branch first, ReLU (not ReLU6), corners aligned.

    Attributes:
        classes: How many, the background included.
        aspp: With the three atrous branches; without them it is the paper's light head.
    """

    kind: ClassVar[str] = "deeplab"
    task: ClassVar[str] = "segmentation"
    keeps_last: ClassVar[bool] = False

    classes: Side = 21
    aspp: bool = False

    @property
    def output_strides(self) -> tuple[int, ...]:
        """As `Features.output_strides`: atrous rates exist for 8 and 16 only."""
        return (8, 16) if self.aspp else (8, 16, 32)

    def build(self, net: Builder, output_stride: int) -> tuple[str, ...]:
        """As `Features.build`."""
        backbone, shape = net.at, net.shape
        grid = shape[1:]
        net.pool("head.image_pooling.pool")
        self._branch(net, "image_pooling")
        net.resize("head.image_pooling.resize", grid)
        branches = [net.at]
        rates = [rate * 16 // output_stride for rate in ASPP_RATES_AT_16] if self.aspp else []
        for index, rate in enumerate([0, *rates]):
            net.go_back(backbone, shape)
            self._branch(net, f"aspp{index}", rate)
            branches.append(net.at)
        net.concat("head.concat", branches, len(branches) * DEEPLAB_CHANNELS)
        self._branch(net, "concat_projection")
        net.conv("head.logits", "logits", self.classes, bias="head.logits.bias")
        net.resize("head.resize", net.image[1:])
        return (net.at,)

    def with_classes(self, classes: int) -> DeepLab:
        """As `Features.with_classes`."""
        return replace(self, classes=classes)

    def _branch(self, net: Builder, name: str, rate: int = 0) -> None:
        """A 3x3 atrous convolution for a rate, a 1x1 one without."""
        net.conv(
            f"head.{name}.0",
            name,
            DEEPLAB_CHANNELS,
            kernel=3 if rate else 1,
            dilation=rate or 1,
            activation="relu",
            norm=f"head.{name}.1",
            bn_epsilon=DEEPLAB_BN_EPSILON,
        )


def ssd_anchor_sizes(
    maps: int = 6,
    min_scale: float = 0.2,
    max_scale: float = 0.95,
    ratios: Sequence[float] = (1.0, 2.0, 0.5, 3.0, 0.3333),
) -> tuple[tuple[tuple[float, float], ...], ...]:
    """Anchors of TF's `ssd_anchor_generator`: (height, width) of each, for each map.

    The first map has three anchors only; the others have one per ratio, and behind them a square
    between the map's scale and the next one's.

    Args:
        maps: How many.
        min_scale: Of the first map, in parts of the image's shorter side.
        max_scale: Of the last map; scales rise linearly.
        ratios: Width over height, in the order of the predictors' channels.
    """
    step = (max_scale - min_scale) / max(1, maps - 1)
    scales = [*(min_scale + step * index for index in range(maps)), 1.0]
    sizes: list[tuple[tuple[float, float], ...]] = []
    for index, scale in enumerate(scales[:-1]):
        shapes = [(scale, ratio) for ratio in ratios]
        shapes.append((math.sqrt(scale * scales[index + 1]), 1.0))
        if index == 0:
            shapes = [(0.1, 1.0), (scale, 2.0), (scale, 0.5)]
        sizes.append(tuple((s / math.sqrt(r), s * math.sqrt(r)) for s, r in shapes))
    return tuple(sizes)


AnchorSide = Annotated[float, Meta(gt=0, le=16)]
# two numbers: height and width
AnchorSize = tuple[AnchorSide, AnchorSide]


@dataclass(frozen=True)
class SSDHead(HeadRecord):
    """Base of the two detectors, which predict boxes and classes on several maps.

    The first map is that before the network's last stride, the second the network's last
    convolution; extra layers of stride 2 make the others. There are two outputs for each map: box
    codes (4 per anchor: y, x, height, width) and scores (1 + classes per anchor, background first).

    Attributes:
        classes: How many, the background not counted.
        extra_channels: Outputs of the extra layers; half of them inside.
        anchor_sizes: (height, width) of the anchors of a cell, for each map, in parts of the image's
            shorter side.
        anchor_steps: Distance of the cells of each map, in parts of the image; None: one over the
            number of cells.
        score: What makes probabilities of an anchor's scores: "sigmoid" of each, or "softmax".
        first_map: Of the last block with a stride, the "expansion" inside (TF, torchvision), or the
            "input" of the block (mmdetection).
    """

    task: ClassVar[str] = "detection"
    keeps_last: ClassVar[bool] = True
    output_strides: ClassVar[tuple[int, ...]] = (32,)

    classes: Side = 90
    extra_channels: Annotated[tuple[Side, ...], Meta(max_length=16)] = (512, 256, 256, 128)
    anchor_sizes: Annotated[
        tuple[Annotated[tuple[AnchorSize, ...], Meta(min_length=1, max_length=64)], ...],
        Meta(min_length=2, max_length=18, description="(height, width) of anchors, for each map"),
    ] = field(default_factory=ssd_anchor_sizes, repr=False)
    anchor_steps: tuple[AnchorSide, ...] | None = field(default=None, repr=False)
    score: Literal["sigmoid", "softmax"] = "sigmoid"
    first_map: Literal["expansion", "input"] = "expansion"

    def __post_init__(self) -> None:
        super().__post_init__()
        maps = len(self.extra_channels) + 2
        for name in ("anchor_sizes", "anchor_steps"):
            values = getattr(self, name)
            if values is not None and len(values) != maps:
                raise ArchitectureError(
                    f"{name} must have one entry for each of the {maps} maps (two of the backbone, "
                    f"{maps - 2} of extra_channels), not {len(values)}"
                )

    def build(self, net: Builder, output_stride: int) -> tuple[str, ...]:
        """As `Features.build`."""
        strided = [layer for layer in net.layers if layer.kind == "depthwise" and layer.stride > 1]
        if not strided:
            raise ArchitectureError(f"{type(self).__name__} needs a block with stride 2")
        first = (strided[-1].sources[0], strided[-1].in_shape)
        for layer in net.layers:
            if self.first_map == "input" and (layer.name, layer.role) == (first[0], "expand"):
                first = (layer.sources[0], layer.in_shape)
        maps = [first, (net.at, net.shape)]
        for index, channels in enumerate(self.extra_channels):
            self._extra(net, f"head.extra.{index}", channels)
            maps.append((net.at, net.shape))
        outputs = []
        for index, (place, anchors) in enumerate(zip(maps, self.anchor_sizes, strict=True)):
            for what, numbers in (("boxes", 4), ("scores", 1 + self.classes)):
                net.go_back(*place)
                self._predictor(net, f"head.{what}.{index}", what, len(anchors) * numbers)
                outputs.append(net.at)
        return tuple(outputs)

    def with_classes(self, classes: int) -> Any:
        """As `Features.with_classes`."""
        return replace(self, classes=classes)

    def _extra(self, net: Builder, name: str, channels: int) -> None:
        raise NotImplementedError

    def _predictor(self, net: Builder, name: str, role: str, channels: int) -> None:
        raise NotImplementedError


@dataclass(frozen=True)
class SSD(SSDHead):
    """The plain SSD head: ordinary convolutions in extra layers and predictors.

    Attributes:
        predictor_kernel: Side of the predictors' kernels: 1, or 3 as in the first SSD.
    """

    kind: ClassVar[str] = "ssd"

    predictor_kernel: Literal[1, 3] = 1

    def _extra(self, net: Builder, name: str, channels: int) -> None:
        _norm_conv(net, f"{name}.0", max(1, channels // 2))
        _norm_conv(net, f"{name}.1", channels, kernel=3, stride=2)

    def _predictor(self, net: Builder, name: str, role: str, channels: int) -> None:
        net.conv(name, role, channels, kernel=self.predictor_kernel, bias=f"{name}.bias")


@dataclass(frozen=True)
class SSDLite(SSDHead):
    """The paper's detector: SSD whose 3x3 convolutions are depthwise, with a 1x1 behind them.

    Source: TF Object Detection API, ssdlite_mobilenet_v2_coco.config.
    """

    kind: ClassVar[str] = "ssdlite"

    def _extra(self, net: Builder, name: str, channels: int) -> None:
        inner = max(1, channels // 2)
        _norm_conv(net, f"{name}.0", inner)
        _norm_conv(net, f"{name}.1", inner, kernel=3, stride=2, depthwise=True)
        _norm_conv(net, f"{name}.2", channels)

    def _predictor(self, net: Builder, name: str, role: str, channels: int) -> None:
        _norm_conv(net, f"{name}.0", net.shape[0], kernel=3, depthwise=True)
        net.conv(f"{name}.1", role, channels, bias=f"{name}.1.bias")


def _norm_conv(net: Builder, name: str, channels: int, **options: Any) -> None:
    """A convolution of the head with its batch norm and ReLU6."""
    net.conv(f"{name}.0", "extra", channels, activation="relu6", norm=f"{name}.1", **options)


Head = Classifier | Features | DeepLab | SSD | SSDLite
# Heads as files up to version 1 name them, beside a number of classes.
NAMED_HEADS: dict[str, Head] = {
    "classifier": Classifier(),
    "features": Features(),
    "deeplabv3": DeepLab(),
    "deeplabv3_aspp": DeepLab(aspp=True),
    "ssd": SSD(),
    "ssdlite": SSDLite(),
}


def named_head(name: Any, classes: int | None = None) -> Head:
    """The head of a name, with its default options but for the classes.

    Raises:
        ArchitectureError: No such head, or a number of classes out of range.
    """
    head = NAMED_HEADS.get(name) if isinstance(name, str) else None
    if head is None:
        listed = ", ".join(map(repr, NAMED_HEADS))
        raise ArchitectureError(f"head must be one of {listed}, not {name!r:.80}")
    return head if classes is None or not head.classes else head.with_classes(classes)
