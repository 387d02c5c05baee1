"""PyTorch modules built from an architecture. Needs the extra `train`."""

from importlib.util import find_spec

from ..errors import MissingExtraError, install_hint

if find_spec("torch") is None:
    raise MissingExtraError(f"mobilenetv2.nn needs PyTorch; {install_hint('train')}")

from .classifier import FeatureTap, MobileNetV2, mobilenet_v2

__all__ = ["FeatureTap", "MobileNetV2", "mobilenet_v2"]
