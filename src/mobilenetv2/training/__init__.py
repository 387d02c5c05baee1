"""Training and fine-tuning. Needs the extra `train`."""

from importlib.util import find_spec

from ..errors import MissingExtraError, install_hint

if missing := [name for name in ("torch", "lightning", "tensorboard") if find_spec(name) is None]:
    raise MissingExtraError(f"training needs {', '.join(missing)}; {install_hint('train')}")

from .fit import Trained, fit
from .machine import Machine
from .network import Start
from .recipes import RECIPES, Recipe

__all__ = ["RECIPES", "Machine", "Recipe", "Start", "Trained", "fit"]
