"""The network as data: the description, and `layers()`, the flat list that everything reads.

Nothing here computes on tensors. An `Architecture` says which network is meant;
`layers(architecture, height, width)` says what that network does to one image of that size, layer
by layer, with every shape, stride and padding amount. Costs, the NumPy reference, the PyTorch
modules, the importers and the writers are all loops over that list.

Sources: Sandler et al. 2018 (arXiv 1801.04381 v4), Table 2 and Section 3; TF-slim
`mobilenet_v2.py`; torchvision's names.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from .architecture import MAX_SIDE, Architecture, check_integer

DEEPLAB_CHANNELS = 256
DEEPLAB_BN_EPSILON = 1e-5
ASPP_RATES_AT_16 = (6, 12, 18)  # doubled at output stride 8; TF models, research/deeplab


@dataclass(frozen=True)
class Layer:
    """One step on one image. Shapes are (channels, height, width); padding is (top, bottom, left,
    right).

    `kind` is "conv", "depthwise", "linear", "add", "pool" (global average), "resize" (bilinear,
    corners aligned) or "concat". `sources` names the layers it reads, "image" being the image.
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
    """What the network does to one image, in order; the last layer's output is the answer.

    Args:
        architecture: Which network.
        height: Rows of the image; the architecture's own resolution if None.
        width: Columns of the image.

    Raises:
        ArchitectureError: A side is not between 1 and 65536.
    """
    height = architecture.resolution[0] if height is None else height
    width = architecture.resolution[1] if width is None else width
    for name, side in (("height", height), ("width", width)):
        check_integer(name, side, 1, MAX_SIDE)
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
        self.image = (height, width)
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
        yield self._resize("head.resize", self.image)

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
