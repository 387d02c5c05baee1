"""PyTorch modules built from an architecture. Needs the extra `train`; without it this module can
be imported, and its names raise `MissingExtraError`.
"""

from typing import Any

from ..errors import MissingExtraError, install_hint, missing_modules

__all__ = [
    "DetectionNetwork",
    "FeatureExtractor",
    "FeatureInfo",
    "FeatureTap",
    "MobileNetV2",
    "SegmentationNetwork",
    "deeplabv3_mobilenet_v2",
    "mobilenet_v2",
    "ssdlite_mobilenet_v2",
]

if not missing_modules("torch"):
    from .backbone import FeatureInfo, FeatureTap
    from .build import mobilenet_v2
    from .build_heads import deeplabv3_mobilenet_v2, ssdlite_mobilenet_v2
    from .classifier import FeatureExtractor, MobileNetV2
    from .heads import DetectionNetwork, SegmentationNetwork

else:

    def __getattr__(name: str) -> Any:
        if name in __all__:
            raise MissingExtraError(f"mobilenetv2.nn.{name} needs PyTorch; {install_hint('train')}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
