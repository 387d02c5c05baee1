"""The network as data: `network()` turns a description into the flat list of layers that everything
reads, and the names of its outputs.

Nothing here computes on tensors. An `Architecture` says which network is meant;
`network(architecture, height, width)` says what that network does to one image of that size, layer
by layer, with every shape, stride and padding amount. Costs, the NumPy reference, the PyTorch
modules, the importers and the writers are all loops over that list, and ask for its outputs, never
for its last layer.

Sources: Sandler et al. 2018 (arXiv 1801.04381 v4), Table 2 and Section 3; TF-slim
`mobilenet_v2.py`; torchvision's names.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

from .architecture import Architecture, ArchitectureRecord
from .arguments import check_kind
from .layer import Builder, Layer, Shape
from .records import Side


@dataclass(frozen=True)
class Network:
    """What a network does to one image.

    Attributes:
        layers: In an order in which every layer comes behind those that it reads.
        outputs: Names of the tensors that are the answer: one of a classifier or a segmenter.
    """

    layers: tuple[Layer, ...]
    outputs: tuple[str, ...]

    def __getitem__(self, name: str) -> Layer:
        """The layer of that name.

        Raises:
            KeyError: There is none.
        """
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise KeyError(name)


@dataclass(frozen=True)
class ImageSize(ArchitectureRecord):
    """Rows and columns of an image."""

    noun: ClassVar[str] = "image"

    height: Side
    width: Side


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
        divisor: Of which the answer is a multiple.
        minimum: The smallest answer; `divisor` if None.
    """
    rounded = max(
        divisor if minimum is None else minimum, int(value + divisor / 2) // divisor * divisor
    )
    return rounded + divisor if rounded < 0.9 * value else rounded


def blocks(architecture: Architecture) -> tuple[Block, ...]:
    """The inverted residuals of the network, with widths rounded and strides beyond the output
    stride made dilation.

    A block that loses its stride keeps the dilation of the one before it; the blocks after it are
    dilated (DeepLab's rule, TF-slim `mobilenet_base`)."""
    check_kind("architecture", architecture, Architecture)
    a = architecture
    resolved: list[Block] = []
    reached, dilation = a.stem_stride, 1
    channels = stem_channels(a)
    for stage in a.stages:
        width = make_divisible(stage.channels * a.width_mult, a.divisor, a.min_channels)
        for repeat in range(stage.repeats):
            stride = described = stage.stride if repeat == 0 else 1
            if reached * described > a.output_stride:
                stride = 1
            expands = stage.expansion != 1
            inner = make_divisible(channels * stage.expansion, 8) if expands else channels
            resolved.append(
                Block(len(resolved) + 1, channels, inner, width, stride, dilation, expands)
            )
            reached *= stride
            dilation *= described // stride
            channels = width
    return tuple(resolved)


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


def network(
    architecture: Architecture, height: int | None = None, width: int | None = None
) -> Network:
    """What the network does to one image, layer by layer, and what of it is the answer.

    Args:
        architecture: Which network.
        height: Rows of the image; the architecture's own resolution if None.
        width: Columns of the image.

    Raises:
        ArchitectureError: A side is not between 1 and 65536.
    """
    check_kind("architecture", architecture, Architecture)
    rows, columns = architecture.resolution
    image = ImageSize(
        height=rows if height is None else height, width=columns if width is None else width
    )
    return _network(architecture, image.height, image.width)


@lru_cache(maxsize=32)  # loading and packing a model ask for the same one four times
def _network(a: Architecture, height: int, width: int) -> Network:
    net = Builder((a.in_channels, height, width), a.padding, a.bn_epsilon)
    net.conv(
        "features.0.0",
        "stem",
        stem_channels(a),
        kernel=3,
        stride=a.stem_stride,
        activation="relu6",
        norm="features.0.1",
    )
    resolved = blocks(a)
    wide: tuple[str, Shape] | None = None
    for block in resolved:
        wide = _add_block(net, a, block, wide)
    outputs = last_channels(a)
    if outputs is not None and a.head.keeps_last:
        path = f"features.{len(resolved) + 1}"
        net.conv(f"{path}.0", "last", outputs, activation="relu6", norm=f"{path}.1")
    return Network(outputs=a.head.build(net, a.output_stride), layers=tuple(net.layers))


def layers(
    architecture: Architecture, height: int | None = None, width: int | None = None
) -> tuple[Layer, ...]:
    """The layers of `network`, of the same arguments."""
    return network(architecture, height, width).layers


def array_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all arrays of the network, in torchvision's order (`num_batches_tracked`
    left out).
    """
    return {name: shape for layer in layers(architecture) for name, shape in layer.arrays().items()}


def _add_block(
    net: Builder, a: Architecture, block: Block, wide: tuple[str, Shape] | None
) -> tuple[str, Shape] | None:
    """Adds an inverted residual.

    Args:
        net: Where to.
        a: The description.
        block: Which block.
        wide: Name and shape of the wide tensor of the block before, where a shortcut between
            expansions may begin at it.

    Returns:
        This block's wide tensor for the next one, or None.
    """
    start, shape = net.at, net.shape
    path, index = f"features.{block.index}.conv", block.index
    if block.expands:
        net.conv(
            f"{path}.0.0",
            "expand",
            block.inner_channels,
            activation="relu6",
            norm=f"{path}.0.1",
            block=index,
        )
        if a.shortcut == "expansion" and wide and wide[1] == net.shape:
            net.add(f"features.{index}.add", net.at, wide[0], index)
    place = int(block.expands)
    net.conv(
        f"{path}.{place}.0",
        "depthwise",
        block.inner_channels,
        kernel=3,
        stride=block.stride,
        dilation=block.dilation,
        depthwise=True,
        activation="relu6",
        norm=f"{path}.{place}.1",
        block=index,
    )
    filtered = net.at, net.shape
    net.conv(
        f"{path}.{place + 1}",
        "project",
        block.out_channels,
        activation="linear" if a.bottleneck == "linear" else "relu6",
        norm=f"{path}.{place + 2}",
        block=index,
    )
    if a.shortcut == "bottleneck" and block.keeps_shape and net.shape == shape:
        net.add(f"features.{index}.add", start, net.at, index)
    return filtered if block.keeps_shape and block.expands else None
