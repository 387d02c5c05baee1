"""Detectors and segmenters as `torch.nn.Module`s: a backbone, and its head by a loop over the layers
of `graph`. The state-dict keys are the names of the layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..architecture import Architecture
from ..errors import ArchitectureError
from ..graph import Network, network
from ..layer import Layer
from .backbone import PAPER_BN_DECAY, Backbone, check_rates, initialise
from .blocks import Conv2d, conv_norm
from .unchanged import differences

HEAD_BN_DECAY = 0.9997  # ssdlite_mobilenet_v2_coco.config, of backbone and head; deeplab/model.py
LOGITS_DROP_RATE = 0.1  # keep 0.9 before the logits; deeplab/model.py
# truncated normal; ssdlite_mobilenet_v2_coco.config, and deeplab/model.py
INIT_STDS = {"extra": 0.03, "boxes": 0.03, "scores": 0.03, "logits": 0.01}


class HeadNetwork(Backbone):
    """Base of the networks whose head is a graph of its own.

    Args:
        architecture: Which network.
        drop_rate: Share of the inputs of the logits dropped in training.
        drop_path_rate: As for `Backbone`.
        bn_decay: As for `Backbone`.
        head_bn_decay: The same for the head's batch norms.

    Attributes:
        head: The modules of the head, in containers that spell the names of its layers.

    Raises:
        ArchitectureError: A head of another task, or a rate outside [0, 1).
    """

    task: str

    def __init__(
        self,
        architecture: Architecture,
        *,
        drop_rate: float,
        drop_path_rate: float,
        bn_decay: float,
        head_bn_decay: float,
    ) -> None:
        if architecture.head.task != self.task:
            raise ArchitectureError(
                f"{type(self).__name__} is for heads of {self.task}, not {architecture.head}"
            )
        check_rates(drop_rate=drop_rate, head_bn_decay=head_bn_decay)
        super().__init__(architecture, drop_path_rate=drop_path_rate, bn_decay=bn_decay)
        self.drop_rate, self.num_classes = drop_rate, architecture.classes
        self.head = nn.Module()
        described = network(architecture)
        steps = _head_layers(described)
        for layer in steps:
            if layer.norm is not None:
                place, _, index = layer.name.rpartition(".")
                if index != "0" or layer.norm != f"{place}.1":
                    raise AssertionError(f"{layer.name} and {layer.norm} are no sequence")
                modules = conv_norm(layer, architecture.padding, head_bn_decay)
                _place(self, place, nn.Sequential(*modules))
            elif layer.weight is not None:
                _place(self, layer.name, Conv2d(layer, architecture.padding))
        self._tap = _tap(described)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialises as TF-slim and TensorFlow's detection and DeepLab code do."""
        super().reset_parameters()
        for layer in _head_layers(network(self.architecture)):
            if layer.weight is not None and layer.role in INIT_STDS:
                initialise(self.get_submodule(layer.name), INIT_STDS[layer.role])

    def outputs(self, x: Tensor) -> dict[str, Tensor]:
        """Normalised images (N, in_channels, H, W) of any size -> the outputs of the network by name,
        each (N, C, height, width).
        """
        described = described_network(self.architecture, x.shape[2], x.shape[3])
        block, at_input = (
            (None, False) if self._tap is None else (self._tap.block, self._tap.at_input)
        )
        tap, last = self.features.tapped(x, block, at_input)
        tensors = {_last(described): last}
        if self._tap is not None and tap is not None:
            tensors[self._tap.name] = tap
        for layer in _head_layers(described):
            tensors[layer.name] = self._run(layer, [tensors[name] for name in layer.sources])
        return {name: tensors[name] for name in described.outputs}

    def _run(self, layer: Layer, sources: list[Tensor]) -> Tensor:
        """The result of one layer of the head."""
        x = sources[0]
        if layer.kind == "pool":
            return x.mean(dim=[2, 3], keepdim=True)  # (N, C, 1, 1)
        if layer.kind == "resize":
            if x.shape[2:] == (1, 1):
                return x.expand(-1, -1, *layer.out_shape[1:])
            return functional.interpolate(
                x, layer.out_shape[1:], mode="bilinear", align_corners=True
            )
        if layer.kind == "concat":
            return torch.cat(sources, 1)
        if layer.role == "logits":
            x = functional.dropout(x, self.drop_rate, self.training)
        name = layer.name if layer.norm is None else layer.name.rpartition(".")[0]
        return self.get_submodule(name)(x)  # type: ignore[no-any-return]

    def _changes(self) -> Iterator[str]:
        """As `Backbone._changes`."""
        yield from super()._changes()
        with torch.device("meta"):
            described = type(self)(self.architecture)  # type: ignore[call-arg]
        for text in differences(self.head, described.head):
            yield f"head.{text}"


class DetectionNetwork(HeadNetwork):
    """MobileNetV2 with a head `SSD` or `SSDLite`.

    Args:
        architecture: Which network.
        drop_path_rate: Stochastic depth of the last block; it rises linearly from the first block.
        bn_decay: Share of the old running statistics kept at each step, in backbone and head.

    Raises:
        ArchitectureError: Another head, or a rate outside [0, 1).
    """

    task = "detection"

    def __init__(
        self,
        architecture: Architecture,
        *,
        drop_path_rate: float = 0.0,
        bn_decay: float = HEAD_BN_DECAY,
    ) -> None:
        super().__init__(
            architecture,
            drop_rate=0.0,
            drop_path_rate=drop_path_rate,
            bn_decay=bn_decay,
            head_bn_decay=bn_decay,
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised images (N, in_channels, H, W) of any size -> box codes (N, n, 4) and scores
        (N, n, 1 + classes) before sigmoid or softmax, in the order of `boxes.anchors`.
        """
        maps = list(self.outputs(x).values())
        return _rows(maps[::2], 4), _rows(maps[1::2], 1 + self.num_classes)


class SegmentationNetwork(HeadNetwork):
    """MobileNetV2 with a head `DeepLab`. In training, its pooled branch needs two images at a time.

    Args:
        architecture: Which network.
        drop_rate: Share of the inputs of the logits dropped in training.
        drop_path_rate: Stochastic depth of the last block; it rises linearly from the first block.
        bn_decay: Share of the old running statistics kept at each step, in the backbone.
        head_bn_decay: The same for the head's batch norms.

    Raises:
        ArchitectureError: Another head, or a rate outside [0, 1).
    """

    task = "segmentation"

    def __init__(
        self,
        architecture: Architecture,
        *,
        drop_rate: float = LOGITS_DROP_RATE,
        drop_path_rate: float = 0.0,
        bn_decay: float = PAPER_BN_DECAY,
        head_bn_decay: float = HEAD_BN_DECAY,
    ) -> None:
        super().__init__(
            architecture,
            drop_rate=drop_rate,
            drop_path_rate=drop_path_rate,
            bn_decay=bn_decay,
            head_bn_decay=head_bn_decay,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images (N, in_channels, H, W) of any size -> logits (N, classes, H, W)."""
        (logits,) = self.outputs(x).values()
        return logits


@lru_cache(maxsize=64)
def described_network(architecture: Architecture, height: int, width: int) -> Network:
    """As `graph.network`, remembered for the sizes of a training."""
    return network(architecture, height, width)


def _head_layers(described: Network) -> list[Layer]:
    return [layer for layer in described.layers if layer.name.startswith("head.")]


def _last(described: Network) -> str:
    """The name of the backbone's last map."""
    return [layer.name for layer in described.layers if layer.name.startswith("features.")][-1]


class _Tap(NamedTuple):
    """A tensor of the backbone, beside its last map, that the head reads.

    Attributes:
        name: Of the tensor.
        block: The block that reads it.
        at_input: Whether it is the block's input; else its depthwise convolution reads it.
    """

    name: str
    block: int
    at_input: bool


def _tap(described: Network) -> _Tap | None:
    """What the head reads beside the last map; None if nothing."""
    read = {name for layer in _head_layers(described) for name in layer.sources}
    for layer in described.layers:
        if layer.block is not None and layer.sources[0] in read:
            return _Tap(layer.sources[0], layer.block, layer.role != "depthwise")
    return None


def _place(root: nn.Module, path: str, module: nn.Module) -> None:
    """Makes a module the submodule of that path, with plain modules on the way."""
    *parents, name = path.split(".")
    for parent in parents:
        if not hasattr(root, parent):
            root.add_module(parent, nn.Module())
        root = root.get_submodule(parent)
    root.add_module(name, module)


def _rows(maps: list[Tensor], numbers: int) -> Tensor:
    """Maps (N, anchors * numbers, H, W) -> one row for each anchor, (N, n, numbers)."""
    rows = [x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, numbers) for x in maps]
    return torch.cat(rows, 1)
