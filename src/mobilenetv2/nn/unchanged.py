"""Whether a network is still the one that its architecture describes, so that arrays say it all."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from .blocks import InvertedResidual

CONVOLUTION = ("stride", "padding", "dilation", "groups", "padding_mode")
RESIDUAL = ("adds_input", "adds_expansion", "expands")


def differences(own: nn.Module, described: nn.Module) -> Iterator[str]:
    """What differs between two networks beside the values of their arrays, a sentence for each.

    Args:
        own: A network, which `nn.fused.fuse` may have changed.
        described: A new network of its architecture.
    """
    modules = dict(own.named_modules())
    expected = dict(described.named_modules())
    named: tuple[str, ...] = ()  # what lies in one of these is not named again
    for name in [*expected, *(name for name in modules if name not in expected)]:
        if name.startswith(named):
            continue
        if name not in modules:
            reason = "is missing"
        elif name not in expected:
            reason = f"is a {type(modules[name]).__name__} that the architecture lacks"
        else:
            reason = _difference(modules, name, expected[name])
        if reason:
            named += (f"{name}.",)
            yield f"{name} {reason}"


def _difference(modules: dict[str, nn.Module], name: str, expected: nn.Module) -> str:
    module = modules[name]
    if isinstance(expected, InvertedResidual):
        if not isinstance(module, InvertedResidual):
            return f"is a {type(module).__name__}, not an inverted residual"
        changed = [x for x in RESIDUAL if getattr(module, x) != getattr(expected, x)]
        return f"has {changed[0]} {getattr(module, changed[0])}" if changed else ""
    if isinstance(expected, nn.Conv2d):
        if not isinstance(module, nn.Conv2d):
            return f"is a {type(module).__name__}, not a convolution"
        for setting in CONVOLUTION:
            if getattr(module, setting) != getattr(expected, setting):
                values = getattr(module, setting), getattr(expected, setting)
                return f"has {setting} {values[0]}, not {values[1]}"
        same = getattr(module, "same", False) != getattr(expected, "same", False)
        return "has another padding rule" if same else ""
    if isinstance(expected, nn.BatchNorm2d):
        if not isinstance(module, _BatchNorm) or not module.track_running_stats:
            return f"is a {type(module).__name__}, not a batch norm with running statistics"
        return f"has eps {module.eps}, not {expected.eps}" if module.eps != expected.eps else ""
    if isinstance(expected, nn.ReLU | nn.ReLU6):
        parent, _, index = name.rpartition(".")
        before = modules.get(f"{parent}.{int(index) - 1}")
        fused = isinstance(module, nn.Identity) and getattr(before, "active", False)
        if not isinstance(module, type(expected)) and not (
            fused and isinstance(expected, nn.ReLU6)
        ):
            return f"is a {type(module).__name__}, not a {type(expected).__name__}"
    return ""
