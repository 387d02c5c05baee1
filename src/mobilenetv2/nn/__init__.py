"""PyTorch modules built from an architecture. Needs the extra `train` (`pip install
'mobilenetv2[train]'`).
"""

from importlib.util import find_spec

from ..errors import MissingExtraError

if find_spec("torch") is None:
    raise MissingExtraError("mobilenetv2.nn needs PyTorch: pip install 'mobilenetv2[train]'")

from .backbone import FeatureInfo, FeatureTap
from .build import mobilenet_v2
from .classifier import FeatureExtractor, MobileNetV2

__all__ = ["FeatureExtractor", "FeatureInfo", "FeatureTap", "MobileNetV2", "mobilenet_v2"]
