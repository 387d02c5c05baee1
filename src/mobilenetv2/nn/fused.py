"""Native operators for training on the CPU: the inverted residual up to its last batch norm as one
operator, and outside of such blocks batch norm with its ReLU6, and the depthwise convolution.

docs/notes/training.md says what share of a step they take.
"""

from __future__ import annotations

from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from ._native import Training, instruction_sets
from .blocks import Conv2d, InvertedResidual

DTYPES = (torch.float32, torch.bfloat16)


def fuse(net: nn.Module) -> None:
    """Changes a network in place so that its training steps use fused operators.

    Parameters, buffers and their names stay. In evaluation, on other devices than the CPU and for
    other types than float32 and bfloat16, a fused module computes as before. Second derivatives are
    not supported, and hooks on the modules inside an inverted residual are not called.
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
    blocks = [module for module in net.modules() if type(module) is InvertedResidual]
    if any(block.adds_expansion for block in blocks):
        return
    for block in filter(_is_plain_residual, blocks):
        block.__class__ = FusedResidual


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


def _is_plain_residual(block: InvertedResidual) -> bool:
    if not block.expands:
        return False
    (expand, first, *_), (depthwise, second, *_), project, *_ = block.conv
    return (
        type(first) is type(second) is NormReLU6
        and first.active
        and second.active
        and type(depthwise) is DepthwiseConv2d
        and expand.in_channels % 8 == project.out_channels % 8 == 0
    )


class NormReLU6(nn.BatchNorm2d):
    """Batch norm, followed by ReLU6 if `active`."""

    active: bool

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape and type."""
        if not (self.training and _is_native(x)) or _pixel_count(x) < 2:
            x = super().forward(x)
            return functional.relu6(x) if self.active else x
        y, mean, variance = _Norm.apply(x, self.weight, self.bias, self.eps, self.active)
        self.update_statistics(mean, variance, _pixel_count(x))
        return y

    @torch.no_grad()
    def update_statistics(self, mean: Tensor, variance: Tensor, pixels: int) -> None:
        """Updates the running statistics by a batch's mean and biased variance, each (C,)."""
        momentum = cast(float, self.momentum)
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance * (pixels / (pixels - 1)), momentum)


class DepthwiseConv2d(Conv2d):
    """A 3x3 depthwise convolution whose weights stay float32 for maps of any type."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, ceil(H / stride), ceil(W / stride))."""
        if not (self.training and _is_native(x)):
            return super().forward(x)
        top, left = (self.pads(size)[0] for size in x.shape[2:])
        return _Depthwise.apply(x, self.weight, self.stride[0], top, left)


class FusedResidual(InvertedResidual):
    """An inverted residual that keeps one wide map for the backward pass instead of four."""

    def forward(self, x: Tensor) -> Tensor:
        """As `InvertedResidual.forward`."""
        (expand, first, *_), (depthwise, second, *_), project, *rest = self.conv
        if not (first.training and second.training and _is_native(x)) or _pixel_count(x) < 2:
            return super().forward(x)
        top, left = (depthwise.pads(size)[0] for size in x.shape[2:])
        out, statistics = _Residual.apply(
            x, expand.weight, first.weight, first.bias, depthwise.weight, second.weight,
            second.bias, project.weight, first.eps, second.eps, depthwise.stride[0], top, left,
        )  # fmt: skip
        first.update_statistics(statistics[0], statistics[1], _pixel_count(x))
        second.update_statistics(statistics[2], statistics[3], _pixel_count(out))
        for module in rest:
            out = module(out)
        return x + self._drop_path(out) if self.adds_input else out


class _Residual(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, expand: Tensor, weight1: Tensor, bias1: Tensor, taps: Tensor,
        weight2: Tensor, bias2: Tensor, project: Tensor, eps1: float, eps2: float, stride: int,
        top: int, left: int,
    ) -> Any:  # fmt: skip
        x, kernels = _channels_last(x), _kernels()
        n, channels, h, w = x.shape
        expanded, out_channels = len(expand), len(project)
        height, width = -(-h // stride), -(-w // stride)
        weights = (
            expand.detach().view(expanded, channels),
            torch.stack((weight1, bias1, weight2, bias2)),
            _taps(taps),
            project.detach().view(out_channels, expanded),
        )
        ctx.settings = eps1, eps2, stride, top, left
        moments, statistics = torch.empty(1 + channels, channels), torch.empty(4, expanded)
        rounded = -(-expanded // kernels.group) * kernels.group
        kept = torch.empty(n * height * width, rounded, dtype=x.dtype)
        out = torch.empty(
            (n, out_channels, height, width), dtype=x.dtype, memory_format=torch.channels_last
        )
        kernels.residual(
            _channels_last_view(x),
            *weights,
            *ctx.settings,
            moments,
            statistics,
            kept,
            _channels_last_view(out),
        )
        ctx.save_for_backward(x, *weights, moments, statistics, kept)
        ctx.mark_non_differentiable(statistics)
        return out, statistics

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Any) -> Any:
        x, *weights, moments, statistics, kept = ctx.saved_tensors
        out, gradients = torch.empty_like(x), [torch.empty_like(each) for each in weights]
        _kernels().residual_gradient(
            _channels_last_view(_channels_last(gradient)), _channels_last_view(x), *weights, *ctx.settings, moments,
            statistics, kept, _channels_last_view(out), *gradients,
        )  # fmt: skip
        expand, norms, taps, project = gradients
        weight1, bias1, weight2, bias2 = norms
        return (
            out, _as_weight(expand, *expand.shape, 1, 1), weight1, bias1,
            _as_weight(taps, len(taps), 1, 3, 3), weight2, bias2,
            _as_weight(project, *project.shape, 1, 1), *(None,) * len(ctx.settings),
        )  # fmt: skip


def _as_weight(gradient: Tensor, *shape: int) -> Tensor:
    """A convolution's gradient, (O, I) or (O, 9), in the shape and strides of its channels-last
    weight, which DistributedDataParallel expects.
    """
    channels, height, width = shape[1:]
    strides = (height * width * channels, 1, width * channels, channels)
    return gradient.as_strided(shape, strides)


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
        _kernels().depthwise(
            _channels_last_view(x), _taps(weight), stride, top, left, _channels_last_view(out)
        )
        ctx.save_for_backward(x, weight)
        ctx.geometry = stride, top, left
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        out, for_weight = torch.empty_like(x), torch.empty_like(_taps(weight))
        _kernels().depthwise_gradient(
            _channels_last_view(_channels_last(gradient)), _channels_last_view(x), _taps(weight), *ctx.geometry,
            _channels_last_view(out), for_weight,
        )  # fmt: skip
        return out, _as_weight(for_weight, *weight.shape), None, None, None


@cache
def _kernels_of(isa: str, threads: int) -> Training:
    return Training(isa, threads)


@cache
def _widest() -> str:
    return instruction_sets()[-1]  # detection is slow on a virtual machine


def _kernels() -> Training:
    return _kernels_of(_widest(), torch.get_num_threads())


def _is_native(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype in DTYPES


def _pixel_count(x: Tensor) -> int:
    return x.numel() // x.shape[1]


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _channels_last_view(x: Tensor) -> Tensor:
    return x.detach().permute(0, 2, 3, 1)  # (N, H, W, C), contiguous


def _pixels(x: Tensor) -> Tensor:
    return _channels_last_view(x).view(-1, x.shape[1])  # (N H W, C)


def _taps(weight: Tensor) -> Tensor:
    return weight.detach().view(-1, 3, 3)  # (C, 3, 3)
