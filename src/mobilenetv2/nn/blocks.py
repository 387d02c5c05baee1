"""The modules that a network is made of: convolution, inverted residual, and their sequence. All can
be scripted and traced by `torch.jit`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..layer import Layer, conv_padding

ACTIVATIONS: dict[str, type[nn.ReLU] | type[nn.ReLU6]] = {"relu": nn.ReLU, "relu6": nn.ReLU6}


class Conv2d(nn.Conv2d):
    """A convolution that pads by the padding rule of the architecture and the size of its input."""

    __constants__ = (*nn.Conv2d.__constants__, "same")

    def __init__(self, layer: Layer, padding_rule: str) -> None:
        self.same = padding_rule == "same"
        pad = 0 if self.same else conv_padding(padding_rule, 1, layer.kernel, 1, layer.dilation)[0]
        super().__init__(
            layer.in_shape[0], layer.out_shape[0], layer.kernel, layer.stride, pad,
            dilation=layer.dilation, groups=layer.groups, bias=layer.bias is not None,
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, out, ceil(H / stride), ceil(W / stride))."""
        if self.same:
            return _conv_same(
                x, self.weight, self.bias, self.kernel_size[0], self.stride[0], self.dilation[0],
                self.groups,
            )  # fmt: skip
        return self._conv_forward(x, self.weight, self.bias)

    def pads(self, size: int) -> tuple[int, int]:
        """The padding before and after a side of this size, in pixels."""
        rule = "same" if self.same else "symmetric"
        return conv_padding(rule, size, self.kernel_size[0], self.stride[0], self.dilation[0])


@torch.jit.script_if_tracing  # so that a traced network takes images of any size
def _conv_same(
    x: Tensor, weight: Tensor, bias: Tensor | None, kernel: int, stride: int, dilation: int,
    groups: int,
) -> Tensor:  # fmt: skip
    top, bottom = conv_padding("same", x.shape[2], kernel, stride, dilation)
    left, right = conv_padding("same", x.shape[3], kernel, stride, dilation)
    if top == bottom and left == right:
        return functional.conv2d(x, weight, bias, stride, (top, left), dilation, groups)
    x = functional.pad(x, (left, right, top, bottom))
    return functional.conv2d(x, weight, bias, stride, 0, dilation, groups)


class InvertedResidual(nn.Module):
    """The block of Table 1: expand, filter, project, and the shortcut of the architecture."""

    __constants__ = ("adds_expansion", "adds_input", "expands")

    def __init__(
        self, steps: Sequence[Layer], padding_rule: str, bn_decay: float, drop_path_rate: float
    ) -> None:
        super().__init__()
        modules: list[nn.Module] = []
        for layer in (step for step in steps if step.weight is not None):
            parts = conv_norm(layer, padding_rule, bn_decay)
            modules += parts if layer.role == "project" else [nn.Sequential(*parts)]
        self.conv = nn.Sequential(*modules)
        self.expands = steps[0].role == "expand"
        self.adds_expansion = len(steps) > 1 and steps[1].role == "add"
        self.adds_input = steps[-1].role == "add"
        self.drop_path_rate = drop_path_rate

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, out, ceil(H / stride), ceil(W / stride))."""
        out = self.conv(x)
        return x + self._drop_path(out) if self.adds_input else out

    def forward_wide(self, x: Tensor, wide: Tensor | None) -> tuple[Tensor, Tensor]:
        """The output of a block whose shortcut connects expansions, and its wide tensor.

        Args:
            x: (N, C, H, W).
            wide: The wide tensor of the previous block.
        """
        _, inner, out = self.forward_parts(x, wide)
        return out, inner

    def forward_parts(self, x: Tensor, wide: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """What the depthwise convolution reads, what it gives, and the output of the block.

        Args:
            x: (N, C, H, W).
            wide: As for `forward_wide`; None where shortcuts do not connect expansions.
        """
        filter_index = 1 if self.expands else 0
        filtered, inner, out = x, x, x
        for index, module in enumerate(self.conv):
            if index == filter_index:
                if self.adds_expansion and wide is not None:
                    out = out + wide
                filtered = out  # (N, tC, H, W)
            out = module(out)
            if index == filter_index:
                inner = out  # (N, tC, H / stride, W / stride)
        if self.adds_input:
            out = x + self._drop_path(out)
        return filtered, inner, out

    def _drop_path(self, x: Tensor) -> Tensor:
        """Stochastic depth: in training, drops the branch for a random share of the images."""
        if not self.training or self.drop_path_rate == 0:
            return x
        kept = torch.rand([x.shape[0], 1, 1, 1], device=x.device) >= self.drop_path_rate
        return x * kept.to(x.dtype) / (1 - self.drop_path_rate)


class FeatureModules(nn.Sequential):
    """Stem, inverted residuals and last convolution, in order."""

    is_wide = False  # whether shortcuts connect the wide tensors of consecutive blocks

    def maps(self, x: Tensor, indices: list[int]) -> list[Tensor]:
        """The outputs of the modules with these indices, in order; those behind are not run."""
        taken: list[Tensor] = []
        for index, module in enumerate(self):
            if index <= max(indices):
                x = module(x)
                if index in indices:
                    taken.append(x)
        return taken

    def tapped(self, x: Tensor, block: int | None) -> tuple[Tensor | None, Tensor]:
        """What the depthwise convolution of a block reads (None: of no block), and the last map."""
        tap: Tensor | None = None
        wide: Tensor | None = None
        for index, module in enumerate(self):
            if isinstance(module, InvertedResidual) and (index == block or self.is_wide):
                filtered, wide, x = module.forward_parts(x, wide if self.is_wide else None)
                tap = filtered if index == block else tap
            else:
                x = module(x)
        return tap, x


class WideFeatureModules(FeatureModules):
    """`FeatureModules` whose shortcuts connect the wide tensors of consecutive blocks."""

    is_wide = True

    def forward(self, x: Tensor) -> Tensor:
        """The output of the last module."""
        return self._run(x, [])[0]

    def maps(self, x: Tensor, indices: list[int]) -> list[Tensor]:
        """As `FeatureModules.maps`."""
        return self._run(x, indices)[1]

    def _run(self, x: Tensor, indices: list[int]) -> tuple[Tensor, list[Tensor]]:
        """The last output, and those with these indices; without any, all modules are run."""
        taken: list[Tensor] = []
        wide: Tensor | None = None
        for index, module in enumerate(self):
            if len(indices) == 0 or index <= max(indices):
                if hasattr(module, "forward_wide"):
                    x, wide = module.forward_wide(x, wide)
                else:
                    x = module(x)
                if index in indices:
                    taken.append(x)
        return x, taken


def conv_norm(layer: Layer, padding_rule: str, bn_decay: float) -> list[nn.Module]:
    """The convolution of a layer, its batch norm and its activation."""
    norm = nn.BatchNorm2d(layer.out_shape[0], eps=layer.bn_epsilon, momentum=1 - bn_decay)
    active = [ACTIVATIONS[layer.activation](inplace=True)] if layer.activation != "linear" else []
    return [Conv2d(layer, padding_rule), norm, *active]
