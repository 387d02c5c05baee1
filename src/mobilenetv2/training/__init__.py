"""Training and fine-tuning. Needs the extra `train`; without it this module can be imported, and
its names raise `MissingExtraError`.
"""

from typing import Any

from ..errors import MissingExtraError, install_hint, missing_modules

__all__ = ["RECIPES", "Machine", "Recipe", "Start", "Trained", "fit"]
_missing = missing_modules("torch", "lightning", "tensorboard")


def check_installed() -> None:
    """Raises MissingExtraError: A library that training needs is not installed."""
    if _missing:
        raise MissingExtraError(f"training needs {', '.join(_missing)}; {install_hint('train')}")


if not _missing:
    from .fit import Trained, fit
    from .machine import Machine
    from .recipes import RECIPES, Recipe
    from .start import Start
else:

    def __getattr__(name: str) -> Any:
        if name in __all__:
            check_installed()
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
