"""The description: the paper's Table 2 as data, and `Architecture`, every option around it.

`graph` says what such a network does to an image, layer by layer.
Sources: Sandler et al. 2018 (arXiv 1801.04381 v4), Table 2 and Section 3; Howard et al. 2017.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

from .errors import ArchitectureError, UserError
from .heads import Classifier, Head, named_head
from .records import Meta, Record, Side, Size

MAX_DILATION = 1 << 10

Stride = Annotated[int, Meta(ge=1, le=2)]
Padding = Literal["same", "symmetric"]
OutputStride = Literal[8, 16, 32]


class ArchitectureRecord(Record):
    """Base of the records that say which network is meant."""

    noun: ClassVar[str] = "architecture"
    error: ClassVar[type[UserError]] = ArchitectureError


@dataclass(frozen=True)
class Stage(ArchitectureRecord):
    """One row of Table 2: `repeats` blocks of the same width, of which the first has the stride.

    Attributes:
        expansion: Channels of the expanded tensor over those of the input; 1: no expansion.
        channels: Outputs at width 1.0.
        repeats: Blocks.
        stride: Of the first block; the others have 1.
    """

    noun: ClassVar[str] = "row of stages"

    expansion: Annotated[float, Meta(ge=0.1, le=64)]
    channels: Side
    repeats: Annotated[int, Meta(ge=1, le=64)]
    stride: Stride

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.expansion == int(self.expansion):
            object.__setattr__(self, "expansion", int(self.expansion))


# fmt: off
MOBILENET_V2 = (  # Table 2; the comments give the input at 224 x 224
    #      t     c  n  s
    Stage( 1,   16, 1, 1),  # 112 x 112 x 32
    Stage( 6,   24, 2, 2),  # 112 x 112 x 16
    Stage( 6,   32, 3, 2),  #  56 x  56 x 24
    Stage( 6,   64, 4, 2),  #  28 x  28 x 32
    Stage( 6,   96, 3, 1),  #  14 x  14 x 64
    Stage( 6,  160, 3, 2),  #  14 x  14 x 96
    Stage( 6,  320, 1, 1),  #   7 x   7 x 160
)
MOBILENET_V2_32PX = (  # for 32 x 32 images: with a stem of stride 1 the last map is 4 x 4, not 1 x 1
    Stage( 1,   16, 1, 1),
    Stage( 6,   24, 2, 1),
    Stage( 6,   32, 3, 2),
    Stage( 6,   64, 4, 2),
    Stage( 6,   96, 3, 1),
    Stage( 6,  160, 3, 2),
    Stage( 6,  320, 1, 1),
)
MOBILENET_V1 = (  # Howard et al. 2017, Table 1: depthwise separable convolutions are blocks of expansion 1
    Stage( 1,   64, 1, 1),
    Stage( 1,  128, 2, 2),
    Stage( 1,  256, 2, 2),
    Stage( 1,  512, 6, 2),
    Stage( 1, 1024, 2, 2),
)
# fmt: on


@dataclass(frozen=True, kw_only=True)
class Architecture(ArchitectureRecord):
    """Which network is meant. Frozen; change one with `dataclasses.replace`, store one with
    `to_json`.

    Attributes:
        width_mult: Width multiplier; scales every layer but a last convolution below 1.0.
        stages: The rows of Table 2, with channels as they are at width 1.0.
        in_channels: Channels of the image.
        stem_channels: Outputs of the first convolution at width 1.0.
        stem_stride: Stride of the first convolution.
        last_channels: Outputs of the last 1x1 convolution at width 1.0 and below; None leaves it
            out.
        scale_ends: False keeps stem and last convolution as they are at any width (timm's 110d,
            120d).
        resolution: (height, width) the weights are meant for. The network itself takes any size.
        output_stride: Strides beyond this are replaced by dilation; 8, 16 or 32.
        padding: "same" as TensorFlow pads (more below and right), "symmetric" as torchvision pads.
        bn_epsilon: Added to the variance by every batch norm of the backbone.
        head: What stands on the backbone: a record of `heads`, such as `Classifier(1000)`. The name
            "classifier", "features", "deeplabv3" or "deeplabv3_aspp" stands for its record with
            default options.
        bottleneck: What stands on the projection: "linear" as in the paper, or "relu6".
        shortcut: Between "bottleneck"s as in the paper, between "expansion"s (Figure 6b: the wide
            tensor of a shape-preserving block is added to the wide tensor of the next), or "none".
        divisor: Channel counts are rounded to a multiple of this.
        min_channels: No layer is narrower.

    Raises:
        ArchitectureError: A value is out of range; the message names it.
    """

    width_mult: Annotated[float, Meta(ge=0.001, le=16)] = 1.0
    stages: Annotated[
        tuple[Stage, ...], Meta(min_length=1, max_length=64, description="1 to 64 Stage rows")
    ] = MOBILENET_V2
    in_channels: Side = 3
    stem_channels: Side = 32
    stem_stride: Stride = 2
    last_channels: Side | None = 1280
    scale_ends: bool = True
    resolution: Size = (224, 224)
    output_stride: OutputStride = 32
    padding: Padding = "symmetric"
    bn_epsilon: Annotated[float, Meta(ge=1e-12, le=1)] = 1e-5
    head: Head = field(default_factory=Classifier)
    bottleneck: Literal["linear", "relu6"] = "linear"
    shortcut: Literal["bottleneck", "expansion", "none"] = "bottleneck"
    divisor: Side = 8
    min_channels: Side = 8

    def __post_init__(self) -> None:
        if isinstance(self.width_mult, str):  # as file names have it
            with suppress(ValueError):
                object.__setattr__(self, "width_mult", float(self.width_mult))
        if isinstance(self.head, str):
            object.__setattr__(self, "head", named_head(self.head))
        super().__post_init__()
        if self.output_stride not in self.head.output_strides:
            raise ArchitectureError(
                f"{self.head} goes with output_stride "
                f"{' and '.join(map(str, self.head.output_strides))} only, not {self.output_stride}"
            )
        stride = self.stem_stride * math.prod(stage.stride for stage in self.stages)
        if stride > MAX_DILATION * self.output_stride:
            raise ArchitectureError(
                f"strides of {stride} in all and output_stride {self.output_stride} make dilations "
                f"above {MAX_DILATION}"
            )

    @property
    def classes(self) -> int:
        """Classes of the head, 0 where it has none."""
        return self.head.classes

    def with_classes(self, classes: int) -> Architecture:
        """The same network with another number of classes; a network that ends in features becomes
        a classifier.
        """
        return replace(self, head=self.head.with_classes(classes))

    @classmethod
    def from_dict(cls, values: Any) -> Architecture:
        """Reads what `to_dict` gave, in this release or an earlier one. Fields that are absent take
        their defaults.

        Raises:
            ArchitectureError: Not a dictionary, an unknown field, or a value out of range.
        """
        if isinstance(values, Mapping) and not isinstance(values.get("head"), Mapping):
            # up to file version 1 the head was a name, and the number of classes stood beside it
            values = dict(values)
            name, classes = values.pop("head", "classifier"), values.pop("classes", None)
            values["head"] = named_head(name, classes)
        return super().from_dict(values)


SMALL_IMAGES = Architecture(stages=MOBILENET_V2_32PX, stem_stride=1, resolution=(32, 32))
V1 = Architecture(stages=MOBILENET_V1, last_channels=None, bottleneck="relu6", shortcut="none")
