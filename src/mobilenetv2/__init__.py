"""MobileNetV2, complete: the network as data, published weights in, images classified, without
PyTorch.

The names below are loaded when they are first used, so that importing the package costs nothing.
Training and PyTorch modules are in `mobilenetv2.training` and `mobilenetv2.nn`, which need the extra
`train`; a star import leaves them out.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import batch as batch
    from . import nn as nn
    from . import training as training
    from .architecture import Architecture as Architecture
    from .checkpoint import Checkpoint as Checkpoint
    from .datasets import Dataset as Dataset
    from .datasets import read_boxes as read_boxes
    from .datasets import read_dataset as read_dataset
    from .datasets import read_masks as read_masks
    from .detector import Detector as Detector
    from .errors import UserError as UserError
    from .evaluation import Evaluation as Evaluation
    from .evaluation import evaluate as evaluate
    from .evaluation import evaluate_detector as evaluate_detector
    from .evaluation import evaluate_segmenter as evaluate_segmenter
    from .exporting import export as export
    from .graph import layers as layers
    from .graph import network as network
    from .images import Preprocessing as Preprocessing
    from .images import decode as decode
    from .int8 import Int8Checkpoint as Int8Checkpoint
    from .int8 import QuantizedCheckpoint as QuantizedCheckpoint
    from .loading import load as load
    from .model import Model as Model
    from .model import Prediction as Prediction
    from .results import Detections as Detections
    from .results import Segmentation as Segmentation
    from .runtime.quantize import quantize as quantize
    from .segmenter import Segmenter as Segmenter
    from .zoo import models as models

_HOMES = {
    "Architecture": "architecture",
    "Checkpoint": "checkpoint",
    "Dataset": "datasets",
    "Detections": "results",
    "Detector": "detector",
    "Segmentation": "results",
    "Segmenter": "segmenter",
    "Evaluation": "evaluation",
    "Model": "model",
    "Prediction": "model",
    "Preprocessing": "images",
    "Int8Checkpoint": "int8",
    "QuantizedCheckpoint": "int8",
    "UserError": "errors",
    "decode": "images",
    "evaluate": "evaluation",
    "evaluate_detector": "evaluation",
    "evaluate_segmenter": "evaluation",
    "export": "exporting",
    "layers": "graph",
    "load": "loading",
    "models": "zoo",
    "network": "graph",
    "quantize": "runtime.quantize",
    "read_boxes": "datasets",
    "read_dataset": "datasets",
    "read_masks": "datasets",
}
__version__ = "0.1.0"
__all__ = sorted(_HOMES)
_MODULES = ("batch", "nn", "training")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f".{name}", __name__)
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
