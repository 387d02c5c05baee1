"""One layer as data, and the builder that writes layers down one after another.

Nothing here knows of an architecture or a head: both add their layers through a `Builder`, which
works out every shape, stride and padding amount.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

IMAGE = "image"  # the tensor that the first layer reads
BATCH_NORM_ARRAYS = ("weight", "bias", "running_mean", "running_var")

Shape = tuple[int, int, int]  # channels, height, width


@dataclass(frozen=True)
class Layer:
    """One operation on one image.

    Attributes:
        kind: "conv", "depthwise", "linear", "add", "pool" (global average), "resize" (bilinear,
            corners aligned) or "concat".
        name: Of the layer and of the tensor that it makes.
        role: What it is for: "stem", "expand", "depthwise", "project", "add", "last", "pool",
            "classifier", or a name of the head's own.
        block: Index of its inverted residual in `features`, None outside of blocks.
        sources: Names of the tensors that it reads; "image" is the image.
        in_shape: (channels, height, width) of the first source.
        out_shape: (channels, height, width) of its result.
        kernel: Side of the kernel.
        stride: Step of the kernel, in rows and columns.
        dilation: Rows and columns from one tap to the next.
        padding: Rows and columns added: (top, bottom, left, right).
        activation: "linear", "relu" or "relu6".
        norm: Prefix of its batch norm's arrays. A layer has a batch norm, a bias or neither.
        bias: Name of its bias array.
        bn_epsilon: Added to the variance by its batch norm.
    """

    kind: str
    name: str
    role: str
    block: int | None
    sources: tuple[str, ...]
    in_shape: Shape
    out_shape: Shape
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
        shapes: dict[str, tuple[int, ...]] = {}
        if self.weight is not None:
            shapes[self.weight] = self.weight_shape
        if self.norm is not None:
            shapes |= {f"{self.norm}.{array}": self.out_shape[:1] for array in BATCH_NORM_ARRAYS}
        if self.bias is not None:
            shapes[self.bias] = self.out_shape[:1]
        return shapes


def conv_padding(rule: str, size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """Rows (or columns) added before and after `size` of them.

    Args:
        rule: "same": as many as TensorFlow's SAME, the odd one after. "symmetric":
            dilation * (kernel - 1) / 2 on both sides.
        size: Rows or columns of the input.
        kernel: Side of the kernel.
        stride: Step of the kernel.
        dilation: Distance of its taps.
    """
    reach = dilation * (kernel - 1)
    if rule == "symmetric":
        return reach // 2, reach // 2
    total = max((math.ceil(size / stride) - 1) * stride + reach + 1 - size, 0)
    return total // 2, total - total // 2


class Builder:
    """Writes layers down in order and keeps the tensor at hand, which the next layer reads.

    Args:
        image: (channels, height, width) of the image.
        padding: Rule of `conv_padding`.
        bn_epsilon: Of batch norms, unless a layer says otherwise.

    Attributes:
        layers: What has been written so far.
        image: As given.
        at: Name of the tensor at hand.
        shape: Its (channels, height, width).
    """

    def __init__(self, image: Shape, padding: str, bn_epsilon: float) -> None:
        self.layers: list[Layer] = []
        self.image = image
        self.padding = padding
        self.bn_epsilon = bn_epsilon
        self.at = IMAGE
        self.shape = image

    def conv(
        self,
        name: str,
        role: str,
        channels: int,
        *,
        kernel: int = 1,
        stride: int = 1,
        dilation: int = 1,
        depthwise: bool = False,
        activation: str = "linear",
        norm: str | None = None,
        bias: str | None = None,
        bn_epsilon: float | None = None,
        block: int | None = None,
    ) -> None:
        """A convolution of the tensor at hand; the arguments are `Layer`'s attributes."""
        rows, columns = self.shape[1:]
        self._write(
            Layer(
                kind="depthwise" if depthwise else "conv",
                name=name,
                role=role,
                block=block,
                sources=(self.at,),
                in_shape=self.shape,
                out_shape=(channels, math.ceil(rows / stride), math.ceil(columns / stride)),
                kernel=kernel,
                stride=stride,
                dilation=dilation,
                padding=(
                    *conv_padding(self.padding, rows, kernel, stride, dilation),
                    *conv_padding(self.padding, columns, kernel, stride, dilation),
                ),
                activation=activation,
                norm=norm,
                bias=bias,
                bn_epsilon=0.0 if norm is None else bn_epsilon or self.bn_epsilon,
            )
        )

    def add(self, name: str, first: str, second: str, block: int | None = None) -> None:
        """The sum of two tensors of the shape at hand."""
        self._write(Layer("add", name, "add", block, (first, second), self.shape, self.shape))

    def pool(self, name: str) -> None:
        """The average over all places of the map at hand."""
        out = (self.shape[0], 1, 1)
        self._write(Layer("pool", name, "pool", None, (self.at,), self.shape, out))

    def linear(self, name: str, role: str, outputs: int, bias: str) -> None:
        """A fully connected layer on a map of one place."""
        out = (outputs, 1, 1)
        self._write(Layer("linear", name, role, None, (self.at,), self.shape, out, bias=bias))

    def resize(self, name: str, size: tuple[int, int]) -> None:
        """The map at hand, resized to (height, width) with its corners aligned."""
        out = (self.shape[0], *size)
        self._write(Layer("resize", name, "resize", None, (self.at,), self.shape, out))

    def concat(self, name: str, sources: Sequence[str], channels: int) -> None:
        """Maps of the size at hand side by side, `channels` in all."""
        out = (channels, *self.shape[1:])
        self._write(Layer("concat", name, "concat", None, tuple(sources), self.shape, out))

    def go_back(self, name: str, shape: Shape) -> None:
        """Makes an earlier tensor the one at hand."""
        self.at, self.shape = name, shape

    def _write(self, layer: Layer) -> None:
        self.layers.append(layer)
        self.at, self.shape = layer.name, layer.out_shape
