"""Training steps as one operator each: batch norm with ReLU6, and the depthwise convolution."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from .classifier import Conv2d


@cache
def _kernels(threads: int) -> Any:
    from ._native import Training, instruction_sets

    return Training(instruction_sets()[-1], threads)


class NormReLU6(nn.BatchNorm2d):
    """Batch norm and the ReLU6 after it, if there is one; in evaluation PyTorch's own."""

    active: bool

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        if not self.training:
            x = super().forward(x)
            return nn.functional.relu6(x) if self.active else x
        self.num_batches_tracked.add_(1)
        y, mean, variance = _Norm.apply(x, self.weight, self.bias, self.eps, self.active)
        pixels = x.numel() // x.shape[1]
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * (pixels / max(1, pixels - 1)), self.momentum)
        return y


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, active: bool) -> Any:
        x = x.contiguous(memory_format=torch.channels_last)
        mean, variance = torch.empty_like(weight), torch.empty_like(weight)
        out = torch.empty_like(x)
        _kernels(torch.get_num_threads()).norm(
            _pixels(x), weight.detach(), bias.detach(), eps, active, mean, variance, _pixels(out)
        )
        ctx.save_for_backward(x, weight, bias, mean, variance)
        ctx.eps, ctx.active = eps, active
        ctx.mark_non_differentiable(mean, variance)
        ctx.set_materialize_grads(False)
        return out, mean, variance

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> Any:
        x, weight, bias, mean, variance = ctx.saved_tensors
        gradient = gradient.to(x.dtype).contiguous(memory_format=torch.channels_last)
        out = torch.empty_like(x)
        by_weight, by_bias = torch.empty_like(weight), torch.empty_like(bias)
        _kernels(torch.get_num_threads()).norm_gradient(
            _pixels(gradient), _pixels(x), weight.detach(), bias.detach(), ctx.eps, ctx.active,
            mean, variance, _pixels(out), by_weight, by_bias,
        )  # fmt: skip
        return out, by_weight, by_bias, None, None


class DepthwiseConv2d(Conv2d):
    """A 3x3 depthwise convolution; its weights stay float32 whatever the maps are."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, ceil(H / stride), ceil(W / stride))."""
        if not self.training:
            return super().forward(x)
        stride = self.stride[0]
        top, left = (self.pads(size)[0] for size in x.shape[2:])
        return _Depthwise.apply(x, self.weight, stride, top, left)


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, top: int, left: int) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        n, c, h, w = x.shape
        out = torch.empty(
            (n, c, -(-h // stride), -(-w // stride)), dtype=x.dtype, memory_format=torch.channels_last
        )
        _kernels(torch.get_num_threads()).depthwise(
            _pictures(x), weight.detach().view(c, 3, 3), stride, top, left, _pictures(out)
        )
        ctx.save_for_backward(x, weight)
        ctx.geometry = stride, top, left
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        gradient = gradient.to(x.dtype).contiguous(memory_format=torch.channels_last)
        out, by_weight = torch.empty_like(x), torch.empty_like(weight)
        shape = x.shape[1], 3, 3
        _kernels(torch.get_num_threads()).depthwise_gradient(
            _pictures(gradient), _pictures(x), weight.detach().view(shape), *ctx.geometry,
            _pictures(out), by_weight.view(shape),
        )  # fmt: skip
        return out, by_weight, None, None, None


def fuse(net: nn.Module) -> None:
    """Makes a network's training steps on the CPU run as fused operators, in place."""
    for parent in list(net.modules()):
        if not isinstance(parent, nn.Sequential):
            continue
        names = list(parent._modules)
        for name, following in zip(names, names[1:] + [""]):
            module = parent._modules[name]
            if isinstance(module, nn.BatchNorm2d) and module.num_features % 8 == 0:
                module.__class__ = NormReLU6
                module.active = isinstance(parent._modules.get(following), nn.ReLU6)
                if module.active:
                    parent._modules[following] = nn.Identity()
            elif isinstance(module, Conv2d) and module.groups > 1 and module.kernel_size == (3, 3) and module.groups % 8 == 0:
                module.__class__ = DepthwiseConv2d


def _pictures(x: Tensor) -> Tensor:
    return x.detach().permute(0, 2, 3, 1)


def _pixels(x: Tensor) -> Tensor:
    return _pictures(x).reshape(-1, x.shape[1])
