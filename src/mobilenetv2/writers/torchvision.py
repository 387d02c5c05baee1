"""State dicts of torchvision's `mobilenet_v2`, as `.pth`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..checkpoint import Checkpoint
from ..int8 import AnyCheckpoint
from .beside import write_beside
from .options import WriteOptions, WriterError
from .state_dicts import EPSILON, check, state_dict, torchvision_names, with_float16_kernels


def write(checkpoint: AnyCheckpoint, path: Path, options: WriteOptions) -> tuple[Path, ...]:
    """Writes a state dict that `torchvision.models.mobilenet_v2(num_classes=...,
    width_mult=...)` loads.

    Batch norms with another epsilon than torchvision's are recomputed for it.

    Args:
        checkpoint: A classifier.
        path: The file; the description stands beside it in a `.json`, the labels in a `.labels.txt`.
        options: What it is to be like.

    Returns:
        The files.

    Raises:
        WriterError: Options or a network that torchvision does not have.
    """
    check(checkpoint, options, "torchvision", padding="symmetric", in_channels=3, scale_ends=True)
    assert isinstance(checkpoint, Checkpoint)
    architecture = checkpoint.architecture
    if architecture.head.task != "classification":
        raise WriterError("torchvision: its MobileNetV2 has a classifier: use --to timm")
    if any(stage.expansion != int(stage.expansion) for stage in architecture.stages):
        raise WriterError("torchvision: it rounds fractions of channels in another way")
    import torch

    arrays = state_dict(checkpoint, torchvision_names, EPSILON)
    if options.float16:
        arrays = with_float16_kernels(arrays, "torchvision")
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
    torch.save(tensors, path)
    return (path, *write_beside(checkpoint, path, options))
