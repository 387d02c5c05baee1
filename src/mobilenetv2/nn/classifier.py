"""MobileNetV2 as a `torch.nn.Module`: the classifier, and the feature pyramid of a backbone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..architecture import Architecture
from ..errors import ArchitectureError, UserError
from ..heads import Features
from .backbone import (
    PAPER_BN_DECAY,
    Backbone,
    FeatureInfo,
    check_rates,
    checked_indices,
    initialise,
)

PAPER_DROP_RATE = 0.2  # "dropout keep 0.8"; TF-slim mobilenet.py training_scope


class MobileNetV2(Backbone):
    """The classifier or, with head "features", its feature extractor.

    Args:
        architecture: Which network; heads "classifier" and "features".
        drop_rate: Share of the pooled features dropped in training. None: 0.2, or 0 without
            classes.
        drop_path_rate: Stochastic depth of the last block; it rises linearly from the first block.
        bn_decay: Share of the old running statistics kept at each step (PyTorch calls 1 - bn_decay
            "momentum").
        global_pool: "avg", or "" for none, which goes without classes only. None: "avg" with
            classes, else "".

    Attributes:
        classifier: Dropout, and the linear layer or, without classes, an identity.
        num_classes: Number of classes, 0 without; timm's name.
        head_hidden_size: Inputs of the linear layer; timm's name for `num_features` after pooling.
        last_channel: torchvision's name for the same.

    Raises:
        ArchitectureError: Another head or pooling, or a rate outside [0, 1).
    """

    def __init__(
        self,
        architecture: Architecture,
        *,
        drop_rate: float | None = None,
        drop_path_rate: float = 0.0,
        bn_decay: float = PAPER_BN_DECAY,
        global_pool: str | None = None,
    ) -> None:
        if architecture.head.task not in ("classification", "features"):
            raise ArchitectureError(
                f"MobileNetV2 has the heads Classifier and Features, not {architecture.head}"
            )
        if drop_rate is None:
            drop_rate = PAPER_DROP_RATE if architecture.classes else 0.0
        check_rates(drop_rate=drop_rate)
        super().__init__(architecture, drop_path_rate=drop_path_rate, bn_decay=bn_decay)
        self.drop_rate = drop_rate
        self.head_hidden_size = self.last_channel = self.num_features
        self.num_classes = architecture.classes
        self.global_pool = _checked_pool(global_pool, self.num_classes)
        self.classifier = self._new_head()
        self.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images (N, in_channels, H, W) of any size -> logits (N, classes). Without
        classes: the pooled features (N, last), or without pooling the last map.
        """
        return self.forward_head(self.forward_features(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The last map -> what `forward` gives.

        Args:
            x: (N, last, H, W), from `forward_features`.
            pre_logits: Leave out the linear layer.
        """
        if self.global_pool == "avg":
            x = x.mean(dim=[2, 3])  # (N, last)
        if pre_logits:
            return functional.dropout(x, self.drop_rate, self.training)
        return self.classifier(x)  # type: ignore[no-any-return]

    def get_classifier(self) -> nn.Module:
        """The linear layer or, without classes, the identity."""
        head = self.classifier
        return head[-1] if isinstance(head, nn.Sequential) else head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the head by a new one that is not trained.

        Args:
            num_classes: Number of classes; 0: none, `forward` then gives features.
            global_pool: "avg" or "" as for the network; None: as before.

        Raises:
            ArchitectureError: A number of classes or a pooling that cannot be.
        """
        a = self.architecture
        new = a.with_classes(num_classes) if num_classes != 0 else replace(a, head=Features())
        pool = self.global_pool if global_pool is None else global_pool
        self.global_pool = _checked_pool(pool, new.classes)
        self.architecture, self.num_classes = new, new.classes
        self.classifier = self._new_head().to(next(self.features.parameters()))
        self.classifier.train(self.training)
        for layer in self.classifier:
            if isinstance(layer, nn.Linear):
                initialise(layer)

    def _new_head(self) -> nn.Sequential:
        linear = nn.Linear(self.num_features, self.num_classes) if self.num_classes else None
        return nn.Sequential(nn.Dropout(self.drop_rate), linear or nn.Identity())

    def _described(self) -> tuple[Architecture, dict[str, Tensor]]:
        """The head may have been replaced, as torchvision's users do."""
        head = self.get_classifier()
        bare = isinstance(head, nn.Identity)
        if not bare and not (isinstance(head, nn.Linear) and head.in_features == self.num_features):
            raise UserError(
                f"a checkpoint holds one nn.Linear({self.num_features}, classes) as the "
                f"classifier, not {head}"
            )
        for layer in self.classifier[:-1] if isinstance(self.classifier, nn.Sequential) else ():
            if not isinstance(layer, nn.Dropout | nn.Identity):
                raise UserError(f"a checkpoint holds no {layer} before the classifier's last layer")
        if not isinstance(head, nn.Linear):
            return replace(self.architecture, head=Features()), self.state_dict()
        bias = torch.zeros(head.out_features) if head.bias is None else head.bias.detach()
        arrays = {"classifier.1.weight": head.weight.detach(), "classifier.1.bias": bias}
        return self.architecture.with_classes(head.out_features), self.state_dict() | arrays


class FeatureExtractor(Backbone):
    """A backbone that answers with the maps of several levels, as timm's `features_only=True`.

    Args:
        architecture: Which network; its head and its last convolution are left out.
        out_indices: Levels, those below 0 counted from the end; an int: the last so many; None:
            all. The maps come in the network's order.
        drop_path_rate: As for `MobileNetV2`.
        bn_decay: As for `MobileNetV2`.

    Raises:
        UserError: No such level, or a rate outside [0, 1).
    """

    def __init__(
        self,
        architecture: Architecture,
        out_indices: int | Sequence[int] | None = None,
        *,
        drop_path_rate: float = 0.0,
        bn_decay: float = PAPER_BN_DECAY,
    ) -> None:
        bare = replace(architecture, head=Features(), last_channels=None)
        super().__init__(bare, drop_path_rate=drop_path_rate, bn_decay=bn_decay)
        taken = checked_indices(out_indices, len(self.feature_info))
        self.feature_info = FeatureInfo(self.feature_info, taken)
        self.level_modules = self.feature_info.module_indices()
        self.reset_parameters()

    def forward(self, x: Tensor) -> list[Tensor]:
        """Normalised images (N, in_channels, H, W) of any size -> the maps of the levels."""
        return self.features.maps(x, self.level_modules)


def _checked_pool(global_pool: str | None, classes: int) -> str:
    if global_pool is None:
        return "avg" if classes else ""
    if global_pool not in ("avg", ""):
        raise ArchitectureError(
            f"global_pool must be 'avg' or '' (none), not {global_pool!r:.80}: MobileNetV2 averages"
        )
    if classes and not global_pool:
        raise ArchitectureError(
            "global_pool='' gives a map, which goes without a classifier only: num_classes=0"
        )
    return global_pool
