"""PyTorch modules built from the description. Needs the extra `train` (`pip install 'mobilenetv2[train]'`)."""

from ..errors import MissingExtraError

try:
    import torch as _torch  # noqa: F401  (only to say which extra is missing)
except ImportError as error:
    raise MissingExtraError("mobilenetv2.nn needs PyTorch: pip install 'mobilenetv2[train]'") from error

from .classifier import FeatureTap, MobileNetV2, mobilenet_v2

__all__ = ["FeatureTap", "MobileNetV2", "mobilenet_v2"]
