"""The description: the paper's Table 2 as data, and `Architecture`, every option around it.

`graph` says what such a network does to an image, layer by layer.
Sources: Sandler et al. 2018 (arXiv 1801.04381 v4), Table 2 and Section 3; Howard et al. 2017.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from .errors import ArchitectureError
from .heads import (
    MAX_COUNT,
    Classifier,
    Features,
    Head,
    check_integer,
    head_from_dict,
    head_to_dict,
    named_head,
)


@dataclass(frozen=True)
class Stage:
    """One row of Table 2: `repeats` blocks of the same width, of which the first has the stride."""

    expansion: float
    channels: int
    repeats: int
    stride: int


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

CHOICES: dict[str, tuple[Any, ...]] = {
    "padding": ("same", "symmetric"),
    "bottleneck": ("linear", "relu6"),
    "shortcut": ("bottleneck", "expansion", "none"),
    "output_stride": (8, 16, 32),
}
MAX_SIDE = MAX_COUNT
MAX_DILATION = 1 << 10


def _number(name: str, value: Any, low: float, high: float) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not low <= number <= high:
        raise ArchitectureError(f"{name} must be a number from {low} to {high}, not {value!r:.80}")
    return number


def _stage(stage: Stage) -> Stage:
    if not isinstance(stage, Stage):
        raise ArchitectureError(f"stages must be Stage rows, not {stage!r:.80}")
    expansion = _number("expansion", stage.expansion, 0.1, 64)
    return Stage(
        int(expansion) if expansion.is_integer() else expansion,
        check_integer("channels", stage.channels, 1, MAX_SIDE),
        check_integer("repeats", stage.repeats, 1, 64),
        check_integer("stride", stage.stride, 1, 2),
    )


@dataclass(frozen=True, kw_only=True)
class Architecture:
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

    width_mult: float = 1.0
    stages: tuple[Stage, ...] = MOBILENET_V2
    in_channels: int = 3
    stem_channels: int = 32
    stem_stride: int = 2
    last_channels: int | None = 1280
    scale_ends: bool = True
    resolution: tuple[int, int] = (224, 224)
    output_stride: int = 32
    padding: str = "symmetric"
    bn_epsilon: float = 1e-5
    head: Head = field(default_factory=Classifier)
    bottleneck: str = "linear"
    shortcut: str = "bottleneck"
    divisor: int = 8
    min_channels: int = 8

    def __post_init__(self) -> None:
        checked: dict[str, Any] = {
            "width_mult": _number("width_mult", self.width_mult, 0.001, 16),
            "bn_epsilon": _number("bn_epsilon", self.bn_epsilon, 1e-12, 1),
            "stem_stride": check_integer("stem_stride", self.stem_stride, 1, 2),
            "output_stride": check_integer("output_stride", self.output_stride, 8, 32),
        }
        for name in ("in_channels", "stem_channels", "divisor", "min_channels"):
            checked[name] = check_integer(name, getattr(self, name), 1, MAX_SIDE)
        if self.last_channels is not None:
            checked["last_channels"] = check_integer(
                "last_channels", self.last_channels, 1, MAX_SIDE
            )
        if not isinstance(self.resolution, tuple) or len(self.resolution) != 2:
            raise ArchitectureError(
                f"resolution must be (height, width), not {self.resolution!r:.80}"
            )
        checked["resolution"] = tuple(
            check_integer("resolution", side, 1, MAX_SIDE) for side in self.resolution
        )
        if not isinstance(self.stages, tuple) or not 1 <= len(self.stages) <= 64:
            raise ArchitectureError("stages must be a tuple of 1 to 64 Stage rows")
        checked["stages"] = tuple(_stage(stage) for stage in self.stages)
        # as plain int and float, whatever kind of number was given
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        if not isinstance(self.scale_ends, bool):
            raise ArchitectureError(
                f"scale_ends must be true or false, not {self.scale_ends!r:.80}"
            )
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                listed = ", ".join(map(repr, allowed))
                raise ArchitectureError(
                    f"{name} must be one of {listed}, not {getattr(self, name)!r:.80}"
                )
        if not isinstance(self.head, Head):
            object.__setattr__(self, "head", named_head(self.head))
        if self.output_stride not in self.head.output_strides:
            raise ArchitectureError(
                f"{self.head} has atrous rates for output_stride 8 and 16 only, not "
                f"{self.output_stride}"
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
        if isinstance(self.head, Features):
            return replace(self, head=Classifier(classes))
        return replace(self, head=replace(self.head, classes=classes))

    def to_json(self) -> str:
        """The description as JSON text; `from_json` gives an equal Architecture back."""
        return json.dumps(asdict(self) | {"head": head_to_dict(self.head)})

    @classmethod
    def from_json(cls, text: str) -> Architecture:
        """Reads what `to_json` wrote, in this release or an earlier one. Fields that are absent take
        their defaults.

        Raises:
            ArchitectureError: Not JSON, an unknown field, or a value out of range.
        """
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ArchitectureError(f"the architecture is not JSON: {error}") from None
        if not isinstance(values, dict):
            raise ArchitectureError(
                f"the architecture must be a JSON object, not {type(values).__name__}"
            )
        classes = values.pop("classes", None)  # beside the head up to file version 1
        if isinstance(values.get("head"), dict):
            values["head"] = head_from_dict(values["head"])
        elif classes is not None or "head" in values:
            values["head"] = named_head(values.get("head", "classifier"), classes)
        unknown = sorted(set(values) - {each.name for each in fields(cls)})
        if unknown:
            raise ArchitectureError(f"the architecture has unknown fields: {', '.join(unknown)}")
        if "stages" in values:
            try:
                values["stages"] = tuple(Stage(**row) for row in values["stages"])
            except TypeError as error:
                raise ArchitectureError(f"a row of stages is wrong: {error}") from None
        if isinstance(values.get("resolution"), list):
            values["resolution"] = tuple(values["resolution"])
        return cls(**values)


SMALL_IMAGES = Architecture(stages=MOBILENET_V2_32PX, stem_stride=1, resolution=(32, 32))
V1 = Architecture(stages=MOBILENET_V1, last_channels=None, bottleneck="relu6", shortcut="none")
