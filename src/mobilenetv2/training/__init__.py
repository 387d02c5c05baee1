"""Training on labelled pictures. Needs the extra `train` (`pip install 'mobilenetv2[train]'`)."""

from importlib.util import find_spec

from ..errors import MissingExtraError

if find_spec("torch") is None:
    raise MissingExtraError("mobilenetv2.training needs PyTorch: pip install 'mobilenetv2[train]'")
