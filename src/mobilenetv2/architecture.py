"""The network as data: the paper's Table 2, the options around it, and `layers()`, the flat list
that everything reads.

Nothing here computes on tensors. An `Architecture` says which network is meant;
`layers(architecture, height, width)` says what that network does to one picture of that size, layer
by layer, with every shape, stride and padding amount. Costs, the NumPy reference, the PyTorch
modules, the importers and the writers are all loops over that list.

Sources: Sandler et al. 2018 (arXiv 1801.04381 v4), Table 2 and Section 3; TF-slim
`mobilenet_v2.py`; torchvision's names."""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from .errors import ArchitectureError


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
MOBILENET_V2_32PX = (  # for 32 x 32 pictures: with a stem of stride 1 the last map is 4 x 4, not 1 x 1
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

HEADS = ("classifier", "features", "deeplabv3", "deeplabv3_aspp")
CHOICES: dict[str, tuple[Any, ...]] = {
    "padding": ("same", "symmetric"),
    "head": HEADS,
    "bottleneck": ("linear", "relu6"),
    "shortcut": ("bottleneck", "expansion", "none"),
    "output_stride": (8, 16, 32),
}
MAX_SIDE = 1 << 16
DEEPLAB_CHANNELS = 256
DEEPLAB_BN_EPSILON = 1e-5
ASPP_RATES_AT_16 = (6, 12, 18)  # doubled at output stride 8; TF models, research/deeplab


def _integer(name: str, value: Any, low: int, high: int) -> int:
    try:
        number = math.nan if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = math.nan
    if not low <= number <= high:
        raise ArchitectureError(
            f"{name} must be a whole number from {low} to {high}, not {value!r:.80}"
        )
    return int(number)


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
        _integer("channels", stage.channels, 1, MAX_SIDE),
        _integer("repeats", stage.repeats, 1, 64),
        _integer("stride", stage.stride, 1, 2),
    )


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Which network is meant. Frozen; change one with `dataclasses.replace`, store one with
    `to_json`.

    Attributes:
        width_mult: Width multiplier; scales every layer but a last convolution below 1.0.
        stages: The rows of Table 2, with channels as they are at width 1.0.
        in_channels: Channels of the picture.
        stem_channels: Outputs of the first convolution at width 1.0.
        stem_stride: Stride of the first convolution.
        last_channels: Outputs of the last 1x1 convolution at width 1.0 and below; None leaves it
            out.
        scale_ends: False keeps stem and last convolution as they are at any width (timm's 110d,
            120d).
        classes: Outputs of the head.
        resolution: (height, width) the weights are meant for. The network itself takes any size.
        output_stride: Strides beyond this are replaced by dilation; 8, 16 or 32.
        padding: "same" as TensorFlow pads (more below and right), "symmetric" as torchvision pads.
        bn_epsilon: Added to the variance by every batch norm of the backbone.
        head: "classifier", "features" (ends at the last convolution), "deeplabv3" (the paper's
            light head) or "deeplabv3_aspp".
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
    classes: int = 1000
    resolution: tuple[int, int] = (224, 224)
    output_stride: int = 32
    padding: str = "symmetric"
    bn_epsilon: float = 1e-5
    head: str = "classifier"
    bottleneck: str = "linear"
    shortcut: str = "bottleneck"
    divisor: int = 8
    min_channels: int = 8

    def __post_init__(self) -> None:
        checked: dict[str, Any] = {
            "width_mult": _number("width_mult", self.width_mult, 0.001, 16),
            "bn_epsilon": _number("bn_epsilon", self.bn_epsilon, 1e-12, 1),
            "stem_stride": _integer("stem_stride", self.stem_stride, 1, 2),
            "output_stride": _integer("output_stride", self.output_stride, 8, 32),
        }
        for name in ("in_channels", "stem_channels", "classes", "divisor", "min_channels"):
            checked[name] = _integer(name, getattr(self, name), 1, MAX_SIDE)
        if self.last_channels is not None:
            checked["last_channels"] = _integer("last_channels", self.last_channels, 1, MAX_SIDE)
        if not isinstance(self.resolution, tuple) or len(self.resolution) != 2:
            raise ArchitectureError(
                f"resolution must be (height, width), not {self.resolution!r:.80}"
            )
        checked["resolution"] = tuple(
            _integer("resolution", side, 1, MAX_SIDE) for side in self.resolution
        )
        if not isinstance(self.stages, tuple) or not 1 <= len(self.stages) <= 64:
            raise ArchitectureError("stages must be a tuple of 1 to 64 Stage rows")
        checked["stages"] = tuple(_stage(stage) for stage in self.stages)
        for (
            name,
            value,
        ) in checked.items():  # as plain int and float, whatever kind of number was given
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
        if self.head == "deeplabv3_aspp" and self.output_stride == 32:
            raise ArchitectureError(
                "head 'deeplabv3_aspp' has atrous rates for output_stride 8 and 16 only, not 32"
            )

    def to_json(self) -> str:
        """The description as JSON text; `from_json` gives an equal Architecture back."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Architecture:
        """Reads what `to_json` wrote. Fields that are absent take their defaults.

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
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
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


@dataclass(frozen=True)
class Layer:
    """One step on one picture. Shapes are (channels, height, width); padding is (top, bottom, left,
    right).

    `kind` is "conv", "depthwise", "linear", "add", "pool" (global average), "resize" (bilinear,
    corners aligned) or "concat". `sources` names the layers it reads, "image" being the picture.
    `norm` is the prefix of its batch norm's arrays, `bias` the name of its bias; a layer has one of
    them or neither."""

    kind: str
    name: str
    role: str
    block: int | None
    sources: tuple[str, ...]
    in_shape: tuple[int, int, int]
    out_shape: tuple[int, int, int]
    kernel: int = 1
    stride: int = 1
    dilation: int = 1
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    activation: str = "linear"
    norm: str | None = None
    bias: str | None = None
    bn_epsilon: float = 0.0

    @property
    def groups(self) -> int:
        """Groups of the convolution: the channels of a depthwise one, else 1."""
        return self.in_shape[0] if self.kind == "depthwise" else 1

    @property
    def weight(self) -> str | None:
        """Name of the kernel array, None where the layer has none."""
        return f"{self.name}.weight" if self.kind in ("conv", "depthwise", "linear") else None

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """(out, in / groups, kernel, kernel), or (out, in) of a linear layer."""
        if self.kind == "linear":
            return self.out_shape[0], self.in_shape[0]
        return self.out_shape[0], self.in_shape[0] // self.groups, self.kernel, self.kernel

    def arrays(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the arrays this layer owns, in torchvision's order."""
        found: dict[str, tuple[int, ...]] = {}
        if self.weight is not None:
            found[self.weight] = self.weight_shape
        if self.norm is not None:
            found |= {f"{self.norm}.{array}": self.out_shape[:1] for array in BATCH_NORM_ARRAYS}
        if self.bias is not None:
            found[self.bias] = self.out_shape[:1]
        return found


BATCH_NORM_ARRAYS = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True)
class Block:
    """One inverted residual with its numbers worked out; `index` is its place in `features`."""

    index: int
    in_channels: int
    inner_channels: int
    out_channels: int
    stride: int
    dilation: int
    expands: bool

    @property
    def keeps_shape(self) -> bool:
        """Whether input and output can be added: stride 1 and as many channels."""
        return self.stride == 1 and self.in_channels == self.out_channels


def make_divisible(value: float, divisor: int = 8, minimum: int | None = None) -> int:
    """Rounds to the nearest multiple of `divisor`, never under 90 % of `value` (TF-slim's rule).

    Args:
        value: Channels as a float; do not round it first.
        divisor: The multiple wanted.
        minimum: The smallest answer; `divisor` if None.
    """
    rounded = max(
        divisor if minimum is None else minimum, int(value + divisor / 2) // divisor * divisor
    )
    return rounded + divisor if rounded < 0.9 * value else rounded


def conv_padding(rule: str, size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """Rows (or columns) added before and after `size` of them.

    "same": as many as TensorFlow's SAME, the odd one after. "symmetric": dilation * (kernel - 1) /
    2 on both sides."""
    reach = dilation * (kernel - 1)
    if rule == "symmetric":
        return reach // 2, reach // 2
    total = max((math.ceil(size / stride) - 1) * stride + reach + 1 - size, 0)
    return total // 2, total - total // 2


def blocks(architecture: Architecture) -> tuple[Block, ...]:
    """The inverted residuals of the network, with widths rounded and strides beyond the output
    stride made dilation.

    A block that loses its stride keeps the dilation of the one before it; the blocks after it are
    dilated (DeepLab's rule, TF-slim `mobilenet_base`)."""
    a = architecture
    found: list[Block] = []
    reached, dilation = a.stem_stride, 1
    channels = stem_channels(a)
    for stage in a.stages:
        width = make_divisible(stage.channels * a.width_mult, a.divisor, a.min_channels)
        for repeat in range(stage.repeats):
            stride = wanted = stage.stride if repeat == 0 else 1
            if reached * wanted > a.output_stride:
                stride = 1
            expands = stage.expansion != 1
            inner = make_divisible(channels * stage.expansion, 8) if expands else channels
            found.append(Block(len(found) + 1, channels, inner, width, stride, dilation, expands))
            reached *= stride
            dilation *= wanted // stride
            channels = width
    return tuple(found)


def stem_channels(architecture: Architecture) -> int:
    """Outputs of the first convolution after the width multiplier."""
    a = architecture
    scale = a.width_mult if a.scale_ends else 1.0
    return make_divisible(a.stem_channels * scale, a.divisor, a.min_channels)


def last_channels(architecture: Architecture) -> int | None:
    """Outputs of the last 1x1 convolution: scaled above width 1.0, never shrunk below it. None
    where there is none.
    """
    a = architecture
    if a.last_channels is None:
        return None
    scale = max(1.0, a.width_mult) if a.scale_ends else 1.0
    return make_divisible(a.last_channels * scale, a.divisor, a.min_channels)


def layers(
    architecture: Architecture, height: int | None = None, width: int | None = None
) -> tuple[Layer, ...]:
    """What the network does to one picture, in order; the last layer's output is the answer.

    Args:
        architecture: Which network.
        height: Rows of the picture; the architecture's own resolution if None.
        width: Columns of the picture.

    Raises:
        ArchitectureError: A side is not between 1 and 65536.
    """
    height = architecture.resolution[0] if height is None else height
    width = architecture.resolution[1] if width is None else width
    for name, side in (("height", height), ("width", width)):
        _integer(name, side, 1, MAX_SIDE)
    return tuple(_Walk(architecture, height, width).layers())


def array_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all arrays of the network, in torchvision's order (`num_batches_tracked`
    left out).
    """
    return {name: shape for layer in layers(architecture) for name, shape in layer.arrays().items()}


class _Walk:
    """Walks the description once, carrying the name and shape of the tensor at hand."""

    def __init__(self, architecture: Architecture, height: int, width: int) -> None:
        self.a = architecture
        self.picture = (height, width)
        self.at = "image"
        self.shape = (architecture.in_channels, height, width)

    def layers(self) -> Iterator[Layer]:
        a = self.a
        resolved = blocks(a)
        yield self._conv(
            "features.0.0",
            "stem",
            None,
            stem_channels(a),
            kernel=3,
            stride=a.stem_stride,
            norm="features.0.1",
        )
        before: tuple[Block, str] | None = None
        for block in resolved:
            wide = ""
            for layer in self._block(block, before):
                yield layer
                wide = layer.name if layer.kind == "depthwise" else wide
            before = (block, wide)
        outputs = last_channels(a)
        if outputs is not None and not a.head.startswith("deeplabv3"):
            index = len(resolved) + 1
            yield self._conv(
                f"features.{index}.0", "last", None, outputs, norm=f"features.{index}.1"
            )
        if a.head == "classifier":
            yield from self._classifier()
        elif a.head.startswith("deeplabv3"):
            yield from self._deeplab()

    def _block(self, block: Block, before: tuple[Block, str] | None) -> Iterator[Layer]:
        a, start, shape = self.a, self.at, self.shape
        path = f"features.{block.index}.conv"
        place = 0
        if block.expands:
            yield self._conv(
                f"{path}.0.0", "expand", block, block.inner_channels, norm=f"{path}.0.1"
            )
            place = 1
            if a.shortcut == "expansion" and before and before[0].keeps_shape and before[0].expands:
                yield self._add(block, (self.at, before[1]))
        yield self._conv(
            f"{path}.{place}.0", "depthwise", block, block.inner_channels, kernel=3, stride=block.stride,
            dilation=block.dilation, norm=f"{path}.{place}.1",
        )  # fmt: skip
        yield self._conv(
            f"{path}.{place + 1}", "project", block, block.out_channels,
            activation="linear" if a.bottleneck == "linear" else "relu6", norm=f"{path}.{place + 2}",
        )  # fmt: skip
        if a.shortcut == "bottleneck" and block.keeps_shape and self.shape == shape:
            yield self._add(block, (start, self.at))

    def _classifier(self) -> Iterator[Layer]:
        channels = self.shape[0]
        yield self._step(
            Layer("pool", "pool", "pool", None, (self.at,), self.shape, (channels, 1, 1))
        )
        out = (self.a.classes, 1, 1)
        yield self._step(
            Layer(
                "linear",
                "classifier.1",
                "classifier",
                None,
                (self.at,),
                self.shape,
                out,
                bias="classifier.1.bias",
            )
        )

    def _deeplab(self) -> Iterator[Layer]:
        """The head of TF models' research/deeplab: pooled branch first, ReLU (not ReLU6), corners
        aligned.
        """
        a, backbone, shape = self.a, self.at, self.shape
        grid = shape[1:]
        yield self._step(
            Layer(
                "pool",
                "head.image_pooling.pool",
                "pool",
                None,
                (backbone,),
                shape,
                (shape[0], 1, 1),
            )
        )
        yield self._head_conv("image_pooling")
        yield self._resize("head.image_pooling.resize", grid)
        branches = [self.at]
        rates = (
            [rate * 16 // a.output_stride for rate in ASPP_RATES_AT_16]
            if a.head == "deeplabv3_aspp"
            else []
        )
        for index, rate in enumerate([0, *rates]):
            self.at, self.shape = backbone, shape
            yield self._head_conv(f"aspp{index}", rate)
            branches.append(self.at)
        stacked = (len(branches) * DEEPLAB_CHANNELS, *grid)
        yield self._step(
            Layer("concat", "head.concat", "concat", None, tuple(branches), self.shape, stacked)
        )
        yield self._head_conv("concat_projection")
        yield self._step(
            Layer(
                "conv",
                "head.logits",
                "logits",
                None,
                (self.at,),
                self.shape,
                (a.classes, *grid),
                bias="head.logits.bias",
            )
        )
        yield self._resize("head.resize", self.picture)

    def _head_conv(self, name: str, rate: int = 0) -> Layer:
        """A 3x3 atrous convolution for a rate, a 1x1 one without."""
        return self._conv(
            f"head.{name}.0", name, None, DEEPLAB_CHANNELS, kernel=3 if rate else 1, dilation=rate or 1,
            activation="relu", norm=f"head.{name}.1", bn_epsilon=DEEPLAB_BN_EPSILON,
        )  # fmt: skip

    def _resize(self, name: str, size: tuple[int, int]) -> Layer:
        return self._step(
            Layer("resize", name, "resize", None, (self.at,), self.shape, (self.shape[0], *size))
        )

    def _add(self, block: Block, sources: tuple[str, str]) -> Layer:
        name = f"features.{block.index}.add"
        return self._step(Layer("add", name, "add", block.index, sources, self.shape, self.shape))

    def _conv(
        self,
        name: str,
        role: str,
        block: Block | None,
        outputs: int,
        *,
        norm: str,
        kernel: int = 1,
        stride: int = 1,
        dilation: int = 1,
        activation: str = "relu6",
        bn_epsilon: float | None = None,
    ) -> Layer:
        rows, columns = self.shape[1:]
        top, bottom = conv_padding(self.a.padding, rows, kernel, stride, dilation)
        left, right = conv_padding(self.a.padding, columns, kernel, stride, dilation)
        return self._step(
            Layer(
                kind="depthwise" if role == "depthwise" else "conv",
                name=name,
                role=role,
                block=block.index if block else None,
                sources=(self.at,),
                in_shape=self.shape,
                out_shape=(outputs, math.ceil(rows / stride), math.ceil(columns / stride)),
                kernel=kernel,
                stride=stride,
                dilation=dilation,
                padding=(top, bottom, left, right),
                activation=activation,
                norm=norm,
                bn_epsilon=self.a.bn_epsilon if bn_epsilon is None else bn_epsilon,
            )
        )

    def _step(self, layer: Layer) -> Layer:
        self.at, self.shape = layer.name, layer.out_shape
        return layer


__all__ = [
    "Architecture", "BATCH_NORM_ARRAYS", "Block", "Layer", "MOBILENET_V1", "MOBILENET_V2", "MOBILENET_V2_32PX",
    "SMALL_IMAGES", "Stage", "V1", "array_shapes", "blocks", "conv_padding", "last_channels", "layers", "make_divisible",
    "replace", "stem_channels",
]  # fmt: skip
