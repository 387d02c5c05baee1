"""What stands on the backbone: a record for each head, which adds its layers and names its outputs.

A head is data like the rest of the description. Nobody else asks which head it is: what a reader
needs to know of it (its task, its classes, whether the last convolution belongs to the network) is
an attribute.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from .errors import ArchitectureError, UserError
from .layer import Builder
from .records import Record, Side

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


Head = Classifier | Features | DeepLab
# Heads as files up to version 1 name them, beside a number of classes.
NAMED_HEADS: dict[str, Head] = {
    "classifier": Classifier(),
    "features": Features(),
    "deeplabv3": DeepLab(),
    "deeplabv3_aspp": DeepLab(aspp=True),
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
