"""Training steps on the CPU as one native operator each: batch norm with its ReLU6, and the depthwise
convolution.

docs/training.md has what share of a step these take.
"""

from __future__ import annotations

from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from ._native import Training, instruction_sets
from .classifier import Conv2d

DTYPES = (torch.float32, torch.bfloat16)


def fuse(net: nn.Module) -> None:
    """Makes the training steps of a network run as fused operators, in place.

    Parameters, buffers and their names stay. A fused module does as before in evaluation, on other
    devices than the CPU and for other types than float32 and bfloat16; gradients of gradients are
    not offered.
    """
    for parent in list(net.modules()):
        if not isinstance(parent, nn.Sequential):
            continue
        children = list(parent.named_children())
        for (_, module), (name, following) in zip(children, [*children[1:], ("", None)]):
            if _is_plain_norm(module):
                module.__class__ = NormReLU6
                module.active = isinstance(following, nn.ReLU6)
                if module.active:
                    setattr(parent, name, nn.Identity())
            elif _is_depthwise(module):
                module.__class__ = DepthwiseConv2d


def _is_plain_norm(module: nn.Module) -> bool:
    return (
        type(module) is nn.BatchNorm2d
        and module.num_features % 8 == 0
        and module.affine
        and module.track_running_stats
        and module.momentum is not None
    )


def _is_depthwise(module: nn.Module) -> bool:
    return (
        type(module) is Conv2d
        and module.kernel_size == (3, 3)
        and module.in_channels == module.groups == module.out_channels
        and module.groups % 8 == 0
        and module.dilation == (1, 1)
        and module.stride in ((1, 1), (2, 2))
        and module.bias is None
    )


class NormReLU6(nn.BatchNorm2d):
    """Batch norm and the ReLU6 after it, if it is `active`."""

    active: bool

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape and type."""
        pixels = x.numel() // x.shape[1]
        if not (self.training and _is_native(x)) or pixels < 2:
            x = super().forward(x)
            return functional.relu6(x) if self.active else x
        y, mean, variance = _Norm.apply(x, self.weight, self.bias, self.eps, self.active)
        momentum = cast(float, self.momentum)
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(variance * (pixels / (pixels - 1)), momentum)
        return y


class DepthwiseConv2d(Conv2d):
    """A 3x3 depthwise convolution whose weights stay float32 whatever the maps are."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, ceil(H / stride), ceil(W / stride))."""
        if not (self.training and _is_native(x)):
            return super().forward(x)
        top, left = (self.pads(size)[0] for size in x.shape[2:])
        return _Depthwise.apply(x, self.weight, self.stride[0], top, left)


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, active: bool) -> Any:
        x = _channels_last(x)
        out, mean, variance = torch.empty_like(x), torch.empty_like(bias), torch.empty_like(bias)
        _kernels().norm(
            _pixels(x), weight.detach(), bias.detach(), eps, active, mean, variance, _pixels(out)
        )
        ctx.save_for_backward(x, weight, bias, mean, variance)
        ctx.eps, ctx.active = eps, active
        ctx.mark_non_differentiable(mean, variance)
        return out, mean, variance

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> Any:
        x, weight, bias, mean, variance = ctx.saved_tensors
        out, for_weight, for_bias = (
            torch.empty_like(x),
            torch.empty_like(bias),
            torch.empty_like(bias),
        )
        _kernels().norm_gradient(
            _pixels(_channels_last(gradient)), _pixels(x), weight.detach(), bias.detach(), ctx.eps,
            ctx.active, mean, variance, _pixels(out), for_weight, for_bias,
        )  # fmt: skip
        return out, for_weight, for_bias, None, None


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, top: int, left: int) -> Tensor:
        x = _channels_last(x)
        n, c, h, w = x.shape
        shape = (n, c, -(-h // stride), -(-w // stride))
        out = torch.empty(shape, dtype=x.dtype, memory_format=torch.channels_last)
        _kernels().depthwise(_pictures(x), _taps(weight), stride, top, left, _pictures(out))
        ctx.save_for_backward(x, weight)
        ctx.geometry = stride, top, left
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        out, for_weight = torch.empty_like(x), torch.empty_like(_taps(weight))
        _kernels().depthwise_gradient(
            _pictures(_channels_last(gradient)), _pictures(x), _taps(weight), *ctx.geometry,
            _pictures(out), for_weight,
        )  # fmt: skip
        return out, for_weight.view_as(weight), None, None, None


@cache
def _kernels_of(isa: str, threads: int) -> Training:
    return Training(isa, threads)


def _kernels() -> Training:
    return _kernels_of(instruction_sets()[-1], torch.get_num_threads())


def _is_native(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype in DTYPES


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _pictures(x: Tensor) -> Tensor:
    return x.detach().permute(0, 2, 3, 1)  # (N, H, W, C), contiguous


def _pixels(x: Tensor) -> Tensor:
    return _pictures(x).view(-1, x.shape[1])  # (N H W, C)


def _taps(weight: Tensor) -> Tensor:
    return weight.detach().view(-1, 3, 3)  # (C, 3, 3)
