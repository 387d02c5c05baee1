"""The errors that a user can cause. Every message names the file or argument, and the fix."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec


class UserError(ValueError):
    """The base of all errors whose cause is the caller's input, not the program."""


class ArchitectureError(UserError):
    """A network that cannot be built: an argument is out of range or contradicts another."""


class ModelFileError(UserError):
    """A model file that is not one, is damaged, or does not fit the network it claims to be."""


class ImageError(UserError):
    """An image that cannot be decoded.

    Args:
        problem: What is wrong with it.
        advice: Which option of this library would help.

    Attributes:
        problem: What is wrong with it.
        advice: Which option of this library would help, or "".
    """

    def __init__(self, problem: str, advice: str = "") -> None:
        super().__init__(f"{problem}; {advice}" if advice else problem)
        self.problem, self.advice = problem, advice


class NotFiniteError(ImageError):
    """An image whose answer is not finite; the message names the layer."""


class MissingExtraError(UserError, ImportError):
    """An optional dependency is not installed; the message says which extra brings it."""


class DownloadError(UserError):
    """Published weights could not be fetched, or the received file is another one."""


def shortened(texts: Sequence[str], most: int = 5, separator: str = ", ") -> str:
    """The first `most` texts in one line, and how many more there are."""
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return separator.join(texts[:most]) + more


def missing_modules(*names: str) -> list[str]:
    """Those of the modules that are not installed."""

    def missing(name: str) -> bool:
        try:
            return find_spec(name) is None
        except ValueError:  # a module that the program has replaced by another object, or by None
            return True

    return [name for name in names if missing(name)]


def install_hint(extra: str) -> str:
    """How to install an extra: the package comes from a checkout, not from an index."""
    return f"in the checkout of mobilenetv2: pip install '.[{extra}]'"
