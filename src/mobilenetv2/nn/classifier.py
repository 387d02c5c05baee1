"""MobileNetV2 as a `torch.nn.Module`, built by a loop over `graph.layers()`. The state-dict keys are
those of torchvision.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ..architecture import Architecture
from ..checkpoint import Checkpoint
from ..errors import ArchitectureError, ModelFileError
from ..graph import array_shapes, network
from ..heads import Classifier
from ..images import Preprocessing
from ..layer import Layer, conv_padding

# share of the old statistics kept at each step; TF-slim mobilenet.py training_scope
PAPER_BN_DECAY = 0.997
PAPER_INIT_STD = 0.09  # truncated normal; TF-slim mobilenet.py training_scope
PAPER_DROP_RATE = 0.2  # "dropout keep 0.8", ibid.


@dataclass(frozen=True)
class FeatureTap:
    """A map that `forward_pyramid` returns: the output of `features[index]`.

    Attributes:
        index: Index in `features`.
        channels: Channels of the map.
        stride: Pixels of the input per pixel of the map.
    """

    index: int
    channels: int
    stride: int


class Conv2d(nn.Conv2d):
    """A convolution that pads by the padding rule of the architecture and the size of its input."""

    def __init__(self, layer: Layer, padding_rule: str) -> None:
        self.padding_rule = padding_rule
        super().__init__(
            layer.in_shape[0], layer.out_shape[0], layer.kernel, layer.stride,
            dilation=layer.dilation, groups=layer.groups, bias=layer.bias is not None,
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, out, ceil(H / stride), ceil(W / stride))."""
        stride, dilation = self.stride[0], self.dilation[0]
        (top, bottom), (left, right) = self.pads(x.shape[2]), self.pads(x.shape[3])
        if top == bottom and left == right:
            return functional.conv2d(
                x, self.weight, self.bias, stride, (top, left), dilation, self.groups
            )
        x = functional.pad(x, (left, right, top, bottom))
        return functional.conv2d(x, self.weight, self.bias, stride, 0, dilation, self.groups)

    def pads(self, size: int) -> tuple[int, int]:
        """The padding before and after a side of this size, in pixels."""
        return conv_padding(
            self.padding_rule, size, self.kernel_size[0], self.stride[0], self.dilation[0]
        )


class InvertedResidual(nn.Module):
    """The block of Table 1: expand, filter, project, and the shortcut of the architecture."""

    def __init__(
        self, steps: Sequence[Layer], padding_rule: str, bn_decay: float, drop_path_rate: float
    ) -> None:
        super().__init__()
        modules: list[nn.Module] = []
        for layer in (step for step in steps if step.weight is not None):
            parts = _conv_norm(layer, padding_rule, bn_decay)
            modules += parts if layer.role == "project" else [nn.Sequential(*parts)]
        self.conv = nn.Sequential(*modules)
        self.expands = steps[0].role == "expand"
        self.adds_expansion = len(steps) > 1 and steps[1].role == "add"
        self.adds_input = steps[-1].role == "add"
        self.drop_path_rate = drop_path_rate

    def forward(self, x: Tensor, wide: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The output of the block, and the wide tensor that it projects.

        Args:
            x: (N, C, H, W).
            wide: The wide tensor of the previous block; read only if shortcuts connect expansions.
        """
        inner = x
        if self.expands:
            inner = self.conv[0](x)  # (N, tC, H, W)
        if self.adds_expansion and wide is not None:
            inner = inner + wide
        inner = self.conv[1 if self.expands else 0](inner)  # (N, tC, H / stride, W / stride)
        out = inner
        for module in self.conv[2 if self.expands else 1 :]:
            out = module(out)  # (N, out, H / stride, W / stride)
        return (x + self._drop_path(out) if self.adds_input else out), inner

    def _drop_path(self, x: Tensor) -> Tensor:
        """Stochastic depth: in training, drops the branch for a random share of the images."""
        if not self.training or self.drop_path_rate == 0:
            return x
        kept = torch.rand(x.shape[0], 1, 1, 1, device=x.device) >= self.drop_path_rate
        return x * kept.to(x.dtype) / (1 - self.drop_path_rate)


class MobileNetV2(nn.Module):
    """The classifier (or, with head "features", its feature extractor).

    Args:
        architecture: Which network; heads "classifier" and "features".
        drop_rate: Share of the pooled features dropped in training.
        drop_path_rate: Stochastic depth of the last block; it rises linearly from the first block.
        bn_decay: Share of the old running statistics kept at each step (PyTorch calls 1 - bn_decay
            "momentum").

    Raises:
        ArchitectureError: Another head, or a rate outside [0, 1).
    """

    def __init__(
        self,
        architecture: Architecture,
        *,
        drop_rate: float = PAPER_DROP_RATE,
        drop_path_rate: float = 0.0,
        bn_decay: float = PAPER_BN_DECAY,
    ) -> None:
        super().__init__()
        if architecture.head.task not in ("classification", "features"):
            raise ArchitectureError(
                f"MobileNetV2 has the heads Classifier and Features, not {architecture.head}"
            )
        for name, value in (
            ("drop_rate", drop_rate),
            ("drop_path_rate", drop_path_rate),
            ("bn_decay", bn_decay),
        ):
            if not 0 <= value < 1:
                raise ArchitectureError(f"{name} must be at least 0 and below 1, not {value!r}")
        self.architecture = architecture
        described = network(architecture)
        steps = described.layers
        block_count = max(layer.block or 0 for layer in steps)
        modules: list[nn.Module] = []
        taps: list[FeatureTap] = []
        stride = 1
        for block, group in groupby(
            (layer for layer in steps if layer.name.startswith("features.")),
            key=lambda layer: layer.block,
        ):
            records = list(group)
            if block is None:
                modules += [
                    nn.Sequential(*_conv_norm(layer, architecture.padding, bn_decay))
                    for layer in records
                ]
            else:
                rate = drop_path_rate * (block - 1) / max(1, block_count - 1)
                modules.append(InvertedResidual(records, architecture.padding, bn_decay, rate))
            for layer in records:
                stride *= layer.stride
            if block is not None:
                taps = [tap for tap in taps if tap.stride != stride]
                taps.append(FeatureTap(block, records[-1].out_shape[0], stride))
        self.features = nn.Sequential(*modules)
        self.taps = tuple(taps)
        if architecture.classes:
            logits = described[described.outputs[0]]
            linear = nn.Linear(logits.in_shape[0], logits.out_shape[0])
            self.classifier = nn.Sequential(nn.Dropout(drop_rate), linear)
        self.reset_parameters()

    def reset_parameters(self, init_std: float = PAPER_INIT_STD) -> None:
        """Initialises as TF-slim does: kernels from a normal distribution truncated at two standard
        deviations, batch norms to the identity.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.trunc_normal_(module.weight, std=init_std, a=-2 * init_std, b=2 * init_std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images (N, in_channels, H, W) of any size -> logits (N, classes), or the
        last map.
        """
        x = self.forward_features(x)  # (N, last, H / 32, W / 32)
        if not self.architecture.classes:
            return x
        return self.classifier(x.mean(dim=(2, 3)))  # (N, last) -> (N, classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> the map before pooling, (N, last, H / 32, W / 32) at output
        stride 32.
        """
        last = x
        for _, map_ in self._walk(x):
            last = map_
        return last

    def forward_pyramid(self, x: Tensor) -> list[Tensor]:
        """The maps that `taps` describes: the last one of each stride."""
        indices = {tap.index for tap in self.taps}
        return [map_ for index, map_ in self._walk(x) if index in indices]

    def _walk(self, x: Tensor) -> Iterable[tuple[int, Tensor]]:
        """The index and the output of each module of `features`."""
        wide: Tensor | None = None
        keeps_wide = self.architecture.shortcut == "expansion"
        for index, module in enumerate(self.features):
            if isinstance(module, InvertedResidual):
                x, inner = module(x, wide)
                wide = inner if keeps_wide else None
            else:
                x = module(x)
            yield index, x

    def load_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Copies the arrays of a checkpoint into the module.

        Raises:
            ModelFileError: An array is missing, unknown or of another shape; the first is named.
        """
        self.load_arrays(checkpoint.arrays)

    def load_arrays(self, arrays: Mapping[str, NDArray[np.float32]]) -> None:
        """Copies arrays with torchvision's names into the module; raises as `load_checkpoint`."""
        shapes = array_shapes(self.architecture)
        for name in sorted(shapes.keys() | arrays.keys()):
            expected = shapes.get(name, "nothing")
            shape = arrays[name].shape if name in arrays else "nothing"
            if shape != expected:
                raise ModelFileError(
                    f"{name}: the network needs {expected}, the checkpoint has {shape}"
                )
        self.load_state_dict(
            {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}, strict=True
        )

    def to_checkpoint(
        self,
        *,
        labels: Sequence[str] = (),
        preprocessing: Preprocessing | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> Checkpoint:
        """A copy of the arrays as a `Checkpoint`, to save or to run without PyTorch.

        Args:
            labels: Names of the classes.
            preprocessing: What the weights expect. Default: the size of the architecture, and
                values from -1 to 1.
            provenance: Where the weights come from.
        """
        state = self.state_dict()
        arrays = {
            name: state[name].float().cpu().numpy().copy()
            for name in array_shapes(self.architecture)
        }
        half = (0.5,) * self.architecture.in_channels
        preprocessing = preprocessing or Preprocessing(
            size=self.architecture.resolution, mean=half, std=half
        )
        return Checkpoint(
            self.architecture, arrays, tuple(labels), preprocessing, dict(provenance or {})
        )


def mobilenet_v2(
    *,
    width_mult: float | None = None,
    num_classes: int | None = None,
    weights: str | Path | Checkpoint | None = None,
    in_chans: int | None = None,
    output_stride: int | None = None,
    dropout: float = PAPER_DROP_RATE,
    drop_path_rate: float = 0.0,
    bn_decay: float = PAPER_BN_DECAY,
    fresh_head: bool = False,
    architecture: Architecture | None = None,
) -> MobileNetV2:
    """Builds MobileNetV2, from scratch or from weights.

    Args:
        width_mult: Width multiplier; with weights, it must be the same as theirs. Default 1.0.
        num_classes: Number of outputs. If it differs from the weights', the head is new, with a
            warning. Default that of the weights, or 1000.
        weights: A model file, a name from `mobilenetv2.models()`, a `Checkpoint`, or "imagenet"
            (TF-slim's weights of this width).
        in_chans: Channels of the pixels. 1 with weights for 3 sums the first kernel over its
            channels, so that a grey image gives the same result as three equal channels, if all
            three are normalised alike.
        output_stride: 8, 16 or 32.
        dropout: Share of the pooled features dropped in training.
        drop_path_rate: Stochastic depth of the last block.
        bn_decay: Share of the old running statistics kept at each step; PyTorch's momentum is 1 -
            bn_decay.
        fresh_head: Makes a new head even if the number of classes is the same.
        architecture: Everything else about the network (padding, options, stages); not together
            with weights.

    Raises:
        ArchitectureError: Arguments that contradict each other or the weights.
        ModelFileError: The weights cannot be read.
    """
    if weights is not None and architecture is not None:
        raise ArchitectureError(
            "give either weights or architecture: a model file says which network it is"
        )
    checkpoint = None if weights is None else _checkpoint(weights, width_mult)
    base = checkpoint.architecture if checkpoint else (architecture or Architecture())
    width = base.width_mult if width_mult is None else float(width_mult)
    if checkpoint and width != base.width_mult:
        raise ArchitectureError(f"width_mult={width:g}, but weights of width {base.width_mult:g}")
    changes: dict[str, Any] = {
        "width_mult": width,
        "head": None if num_classes is None else Classifier(num_classes),
        "in_channels": in_chans,
        "output_stride": output_stride,
    }
    result = replace(base, **{name: x for name, x in changes.items() if x is not None})
    net = MobileNetV2(result, drop_rate=dropout, drop_path_rate=drop_path_rate, bn_decay=bn_decay)
    if checkpoint:
        _fill(net, checkpoint, fresh_head)
    return net


def _fill(net: MobileNetV2, checkpoint: Checkpoint, fresh_head: bool) -> None:
    """Loads a checkpoint into a network that may have another head or another number of input
    channels.
    """
    a, theirs = net.architecture, checkpoint.architecture
    arrays = dict(checkpoint.arrays)
    if a.in_channels != theirs.in_channels:
        if a.in_channels != 1:
            raise ArchitectureError(
                f"weights for {theirs.in_channels} channels fit 1 or {theirs.in_channels}, not {a.in_channels}"
            )
        arrays["features.0.0.weight"] = arrays["features.0.0.weight"].sum(axis=1, keepdims=True)
    if a.classes and (fresh_head or a.classes != theirs.classes):
        warnings.warn(
            f"new head: {a.classes} classes, not trained; the head of the weights is not used",
            stacklevel=3,
        )
        head = net.classifier[1]
        arrays |= {
            "classifier.1.weight": head.weight.detach().numpy(),
            "classifier.1.bias": head.bias.detach().numpy(),
        }
    net.load_arrays(arrays)


def _checkpoint(weights: str | Path | Checkpoint, width_mult: float | None) -> Checkpoint:
    if isinstance(weights, Checkpoint):
        return weights
    from ..formats import open_checkpoint  # late: not needed to build a new network

    return open_checkpoint(weights, width_mult, int8=False)


def _conv_norm(layer: Layer, padding_rule: str, bn_decay: float) -> list[nn.Module]:
    norm = nn.BatchNorm2d(layer.out_shape[0], eps=layer.bn_epsilon, momentum=1 - bn_decay)
    active: list[nn.Module] = [nn.ReLU6(inplace=True)] if layer.activation == "relu6" else []
    return [Conv2d(layer, padding_rule), norm, *active]
